"""★ Trained models for other tools: one kind per file, the file's name is the kind's name.

A kind is a module with

``Config``
    A frozen pydantic model, unknown keys forbidden: what a person may say about the exported model.
``SUFFIX``
    How the file's name ends.
``export(config, model, target, image, source) -> None``
    Writes `model` to `target`, beside it first, then renamed. `image` is a volume the model can be shown, for reference
    input and output; `source` names the run, for messages.

What is exported takes raw intensities and gives probabilities: normalisation is part of it, the mean over views is not,
since other tools have their own.
"""
