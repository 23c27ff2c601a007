"""Strategies: one file per recipe, found by its name.

A strategy module has

* ``Config`` – a frozen pydantic model of its settings;
* ``resolve(config, task) -> Config`` – what follows from the data filled in;
* ``measured(config, task) -> Config`` – what follows from the annotation filled in, once some of it is held out; left
  out for nothing;
* ``stages(config, task) -> {name: (share, make)}`` – its stages, the share of the budget that each gets, and a function
  that makes a stage of the same cost, with which a step is timed;
* ``between(config, task) -> seconds`` – about how long what it does between its stages takes; left out for nothing;
* ``check(config, task)`` – refuses a budget with which it cannot train, before anything is written; left out for none;
* ``ANNOTATION`` – ``"optional"`` where it can do without any; left out where annotation is needed;
* ``LABEL_KIND`` – ``"instances"`` where labels are taken for instances unless the user says otherwise; or left out;
* ``train(config, task) -> Model`` – the recipe: `task.fit` once per stage, prediction between stages.
"""
