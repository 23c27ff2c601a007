"""Minutes into steps, once, by a short measured probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fewslice.training.fit import Cost, Hardware, measure_cost
from fewslice.training.stage import Stage

__all__ = ["steps_for_minutes"]

_LEAST_STEPS = 10


def steps_for_minutes(
    stages: Mapping[str, tuple[float, Callable[[], Stage]]], minutes: float, hardware: Hardware, between: float = 0.0
) -> dict[str, int]:
    """Time a few steps and a validation of every stage and share the minutes out.

    Validations take at most half of a stage's share; where they would take more, the stage overruns it.

    Parameters
    ----------
    stages
        Name → (share of the budget, function that makes a stage of the same cost; the same function for stages of the
        same cost, which is then measured once). Shares may sum to less than 1: the rest is for what happens after them.
    minutes
        For all stages together, prediction between them included.
    hardware
        Device, precision, threads.
    between
        Seconds that pass between the stages; they leave at least half of the minutes to training.

    Returns
    -------
    dict
        Steps by stage, at least 10 each.
    """
    measured: dict[Callable[[], Stage], tuple[Cost, int]] = {}
    steps = {}
    seconds = max(0.5 * minutes * 60.0, minutes * 60.0 - between)
    for name, (share, make) in stages.items():
        if make not in measured:
            stage = make()
            measured[make] = measure_cost(stage, hardware), stage.schedule.validations
        cost, validations = measured[make]
        for_steps = max(0.5 * seconds * share, seconds * share - validations * cost.validation)
        steps[name] = max(_LEAST_STEPS, int(for_steps / cost.step))
    return steps
