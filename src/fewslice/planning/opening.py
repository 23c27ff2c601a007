"""A finished run with the images and labels that it was trained on, checked to be the same ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from fewslice import io
from fewslice.data.samples import NO_LABELS, Sample, expand, stem
from fewslice.errors import InputError
from fewslice.experiment import Experiment, open_inputs, read_experiment
from fewslice.model import Model

__all__ = ["Opened", "open_run"]


@dataclass(frozen=True)
class Opened:
    """What a plan is made from.

    Attributes
    ----------
    experiment
        The run's, resolved.
    samples
        What it was trained on.
    targets
        Samples that planes are to be chosen from: some of `samples`, or another image without annotation.
    """

    experiment: Experiment
    samples: list[Sample]
    targets: list[Sample]


def open_run(folder: Path, image: str | None = None) -> Opened:
    """Open what a finished run was trained on.

    Parameters
    ----------
    folder
        The run.
    image
        The image to plan for: one that the run was trained on, wherever it lies now, or another one. None for all that
        the run was trained on.

    Raises
    ------
    InputError
        If it is no run, is unfinished or has no annotation, or its images or labels are gone or have changed.
    """
    if not (folder / "experiment.yaml").is_file():
        raise InputError(f"{folder} is not a run folder: it holds no experiment.yaml; give a folder that train made")
    if not (folder / "model" / "model.json").is_file():
        raise InputError(f"{folder} is not finished; give the same train command again, then plan")
    experiment = read_experiment(folder / "experiment.yaml")
    if not experiment.images:
        raise InputError(f"{folder} was not trained on image files, so there is nothing to plan for; train on files")
    if all(label == NO_LABELS for label in experiment.labels):
        raise InputError(f"{folder} was trained without annotation, so there is nothing to plan from; give --labels")
    hashes = _hashes(folder)
    given = None if image is None else _given(image, experiment, Model.load(folder / "model"))
    digest = None if given is None else given.image.content_hash()
    if image is not None and digest in hashes.values():
        there = str(Path(image).absolute())
        moved = tuple(there if hashes.get(path) == digest else path for path in experiment.images)
        experiment = experiment.model_copy(update={"images": moved})
    samples = _samples(experiment, folder)
    for sample in samples:
        found = {sample.image.source: sample.image.content_hash()}
        if sample.annotation is not None:
            found[sample.labels_source] = sample.annotation.content_hash()
        changed = [source for source, content in found.items() if content not in hashes.values()]
        if changed:
            raise InputError(
                f"{changed[0]} is not what {folder} was trained on; restore it, or train a new run, then plan"
            )
    if given is None:
        return Opened(experiment, samples, samples)
    same = [sample for sample in samples if sample.image.content_hash() == digest]
    return Opened(experiment, samples, same or [given])


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of what a run was trained on, images by path."""
    try:
        known = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["inputs"]
        return {str(name): str(content) for name, content in known.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        path = folder / "provenance.json"
        raise InputError(f"{path} does not say what the run was trained on; train again, or restore it") from error


def _given(image: str, experiment: Experiment, model: Model) -> Sample:
    """Open the image that the user names as one without annotation."""
    volume = io.open_volume(
        image, axes=experiment.axes, channels=experiment.channels, expected_channels=model.in_channels
    )
    model.check_channels(volume.channels, volume.source)
    if volume.voxel_size_um is None:
        volume = replace(volume, voxel_size_um=model.voxel_size_um)
    return Sample(stem(image), volume)


def _samples(experiment: Experiment, folder: Path) -> list[Sample]:
    for paths, hint in ((experiment.images, "give its new place with --image"), (experiment.labels, "put it back")):
        for path in paths:
            try:
                expand([path] if path != NO_LABELS else [])
            except InputError:
                raise InputError(f"{path}, on which {folder} was trained, is no longer there; {hint}") from None
    return open_inputs(experiment)
