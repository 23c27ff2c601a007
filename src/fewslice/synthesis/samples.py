"""Simulated images as samples to learn from, kept in the run so that a resumed training finds them.

1. `simulator_config` joins what a person set, what is fitted to the images, and what follows from the patch.
2. `simulated` makes one image; `stored_samples` makes and stores them all, simulated or refined.
3. `simulated_task` is the task of a stage that learns from them: the last image is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from fewslice import io, registry
from fewslice.annotation import Annotation, Kind
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.synthesis.fitting import fit
from fewslice.synthesis.simulation import Simulation
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["as_sample", "simulated", "simulated_task", "simulator_config", "stored_samples"]

Triple = tuple[int, int, int]

_STREAM = 0x51
_LARGEST = (64, 512, 512)


def simulator_config(
    kind: str, settings: Mapping[str, Any], task: Task, patch: Triple | None, *, fitted: bool
) -> BaseModel:
    """Make the settings of a simulator.

    Parameters
    ----------
    kind
        Name of the simulator.
    settings
        What a person set, by the simulator's own keys; it is held fixed.
    task
        The images that the model is for.
    patch
        (z, y, x) of training in voxels, if it was asked for: images are no smaller.
    fitted
        Whether density, sizes and grey values are fitted to the images; see :func:`fewslice.synthesis.fitting.fit`.

    Raises
    ------
    InputError
        If the images have other channels than the simulator's, or show nothing to fit to.
    """
    least = patch or (1, 1, 1)
    wanted = [max(p, min(s, m)) for p, s, m in zip(least, task.smallest_shape, _LARGEST, strict=True)]
    asked = {"shape": tuple(wanted)} | dict(settings)
    if task.voxel_size_um is not None:
        asked = {"voxel_size_um": task.voxel_size_um} | asked
    module = registry.load("synthesis.simulators", kind)
    if not fitted:
        config: BaseModel = module.Config.model_validate(asked)
        return config
    held = {name: value for name, value in asked.items() if name != "shape" or "shape" in settings}
    found, _ = fit(kind, [sample.image for sample in task.samples], settings=held, seed=task.seed)
    return found.model_copy(update={"shape": tuple(asked["shape"])})


def simulated(kind: str, config: BaseModel, task: Task, index: int) -> Simulation:
    """Simulate the image of a number; the task's seed draws it.

    Raises
    ------
    InputError
        If it has another number of channels than the task's images.
    """
    module = registry.load("synthesis.simulators", kind)
    simulation: Simulation = module.simulate(config, np.random.default_rng([_STREAM, task.seed, index]))
    if len(simulation.image) != task.channels:
        raise InputError(
            f"{kind} makes images of {len(simulation.image)} channels, but {task.samples[0].image.source} has "
            f"{task.channels}; choose channels with --channels, or another simulator"
        )
    return simulation


def as_sample(simulation: Simulation, task: Task, kind: Kind, name: str = "simulated") -> Sample:
    """Make a sample of a simulation, all of it annotated.

    Parameters
    ----------
    simulation
        The image and its truth.
    task
        Whose classes it has. Where they are one, all classes of the simulation are that.
    kind
        ``classes`` or ``instances``.
    name
        Of the sample.

    Raises
    ------
    InputError
        If the task has several classes, but the simulator another number of them.
    """
    if task.classes not in (1, len(simulation.class_names)):
        raise InputError(
            f"the labels have {task.classes} classes, but the simulator {len(simulation.class_names)} "
            f"({', '.join(simulation.class_names)}); choose another simulator, or give labels of one class"
        )
    image = Volume.from_array(simulation.image, simulation.voxel_size_um)
    known = np.ones(simulation.shape, dtype=bool)
    if kind == "instances":
        return Sample(name, image, Annotation(simulation.instances, known, kind="instances"))
    classes = np.minimum(simulation.semantic, task.classes)
    return Sample(name, image, Annotation(classes, known, class_values=task.class_values))


def stored_samples(make: Callable[[int], Simulation], task: Task, kind: Kind, count: int, folder: Path) -> list[Sample]:
    """Make `count` annotated images, or read those that an earlier call stored.

    Parameters
    ----------
    make
        Number → simulation; the same number gives the same one.
    task
        Whose samples they are like.
    kind
        What is annotated.
    count
        How many.
    folder
        Where they are kept: ``NNN.ome.zarr`` and, written last, ``NNN_labels.tif``.

    Returns
    -------
    list of Sample
        Images are read lazily, labels are in memory.
    """

    def paths(index: int) -> tuple[Path, Path]:
        return folder / f"{index:03d}.ome.zarr", folder / f"{index:03d}_labels.tif"

    def work() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, labels = paths(index)
            if labels.exists():
                continue
            sample = as_sample(make(index), task, kind)
            assert sample.annotation is not None
            io.save_volume(image, sample.image, overwrite=True)
            truth = Volume.from_array(sample.annotation.labels[None], sample.image.voxel_size_um)
            io.save_labels(labels, truth, overwrite=True)
            if task.run.listener is not None:
                task.run.listener({"event": "block", "image": folder.name, "done": index + 1, "blocks": count})

    task.once(work)
    samples = []
    for index in range(count):
        image, labels = paths(index)
        values = io.open_labels(labels).read()[0]
        known = np.ones(values.shape, dtype=bool)
        annotation = Annotation(values, known, kind="instances") if kind == "instances" else None
        if annotation is None:
            annotation = Annotation(values.astype(np.uint8), known, class_values=task.class_values)
        samples.append(Sample(f"{folder.name} {index}", io.open_volume(image), annotation))
    return samples


def simulated_task(task: Task, samples: Sequence[Sample]) -> Task:
    """Return the task of learning from simulated samples: all voxels of all but the last, which validates."""
    known = [sample.annotation.annotated for sample in samples if sample.annotation is not None]
    nothing = [None] * (len(samples) - 1)
    return replace(task, samples=samples, train_masks=[*known[:-1], None], validation_masks=[*nothing, known[-1]])
