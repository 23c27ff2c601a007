"""Simulated images as samples to learn from, kept in the run so that a resumed training finds them.

1. `simulator_config` joins what a person set with what follows from the images and the patch.
2. `simulate_samples` simulates and stores; `blank_samples` are of the same extents, to time a step.
3. `simulated_task` is the task of the stage that learns from them: the last image is held out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from fewslice import io, registry
from fewslice.annotation import Annotation
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.synthesis.simulation import Simulation
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["blank_samples", "seconds_to_simulate", "simulate_samples", "simulated_task", "simulator_config"]

Triple = tuple[int, int, int]

_STREAM = 0x51
_ENOUGH = 1.5
"""Simulated images are so many patches wide, so that patches lie differently in them."""


def simulator_config(kind: str, settings: Mapping[str, Any], task: Task, patch: Triple) -> BaseModel:
    """Make the settings of a simulator: extent and voxel size follow from the images where nothing is set.

    Parameters
    ----------
    kind
        Name of the simulator.
    settings
        What a person set, by the simulator's own keys.
    task
        The images that the model is for.
    patch
        (z, y, x) of training, in voxels.

    Raises
    ------
    InputError
        If the simulator makes images of another number of channels, or is smaller than the patch.
    """
    derived: dict[str, Any] = {
        "shape": tuple(max(p, math.ceil(_ENOUGH * p)) if p > 1 else 1 for p in patch),
        "voxel_size_um": task.voxel_size_um,
    }
    asked = {name: value for name, value in derived.items() if value is not None} | dict(settings)
    config: BaseModel = registry.load("synthesis.simulators", kind).Config(**asked)
    shape: Sequence[int] = config.shape  # type: ignore[attr-defined]
    if any(p > s for p, s in zip(patch, shape, strict=True)):
        raise InputError(
            f"simulated images of {tuple(shape)} (z, y, x) are smaller than the patch {patch}; set a larger "
            "simulation.shape or a smaller patch"
        )
    return config


def simulate_samples(kind: str, config: BaseModel, task: Task, count: int, stage: str) -> list[Sample]:
    """Simulate `count` annotated images, or read those that an earlier call stored.

    Parameters
    ----------
    kind, config
        The simulator and its settings.
    task
        Whose run keeps them, whose seed draws them, and whose images they must resemble in their channels.
    count
        Number of images.
    stage
        Folder under the run's stages.

    Returns
    -------
    list of Sample
        Fully annotated with classes; the images are read lazily.

    Raises
    ------
    InputError
        If the simulator makes images of another number of channels than the task's.
    """
    folder = task.run.stage(stage)
    simulator = registry.load("synthesis.simulators", kind)

    def work() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, classes = _paths(folder, index)
            if classes.exists():  # written last
                continue
            simulation = simulator.simulate(config, np.random.default_rng([_STREAM, task.seed, index]))
            _check_channels(kind, simulation, task)
            io.save_volume(image, Volume.from_array(simulation.image, simulation.voxel_size_um), overwrite=True)
            labels = Volume.from_array(simulation.semantic[None], simulation.voxel_size_um)
            io.save_labels(classes, labels, overwrite=True)
            if task.run.listener is not None:
                task.run.listener({"event": "block", "image": kind, "done": index + 1, "blocks": count})

    task.once(work)
    samples = []
    for index in range(count):
        image, classes = _paths(folder, index)
        labels = io.open_labels(classes).read()[0].astype(np.uint8)
        samples.append(Sample(f"simulated {index}", io.open_volume(image), _annotation(labels, task)))
    return samples


def _paths(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / f"{index:03d}.ome.zarr", folder / f"{index:03d}_classes.tif"


def _annotation(labels: Any, task: Task) -> Annotation:
    return Annotation(labels, np.ones(labels.shape, dtype=bool), class_values=task.class_values)


def _check_channels(kind: str, simulation: Simulation, task: Task) -> None:
    if len(simulation.image) != task.channels:
        raise InputError(
            f"{kind} makes images of {len(simulation.image)} channels, but {task.samples[0].image.source} has "
            f"{task.channels}; choose channels with --channels, or another simulator"
        )


def blank_samples(config: BaseModel, task: Task, count: int) -> list[Sample]:
    """Return samples as large as simulated ones, with one voxel of each class and nothing else in them."""
    shape: Triple = config.shape  # type: ignore[attr-defined]
    labels = np.zeros(shape, np.uint8)
    labels.flat[: task.classes] = np.arange(1, task.classes + 1)
    image = Volume.from_array(np.zeros((task.channels, *shape), np.uint8), task.voxel_size_um)
    return [Sample(f"blank {index}", image, _annotation(labels, task)) for index in range(count)]


def simulated_task(task: Task, samples: Sequence[Sample]) -> Task:
    """Return the task of learning from simulated samples: all voxels of all but the last, which validates."""
    known = [sample.annotation.annotated for sample in samples if sample.annotation is not None]
    nothing = [None] * (len(samples) - 1)
    return replace(task, samples=samples, train_masks=[*known[:-1], None], validation_masks=[*nothing, known[-1]])


def seconds_to_simulate(kind: str, config: BaseModel, count: int) -> float:
    """Measure one image, and say how long `count` of them take."""
    began = time.perf_counter()
    registry.load("synthesis.simulators", kind).simulate(config, np.random.default_rng(_STREAM))
    return (time.perf_counter() - began) * count
