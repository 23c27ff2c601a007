"""Pretraining on simulated images that are refined towards the user's own (after Upschulte et al. 2022).

1. *Simulate*: images with exact annotation, their cells as dense and as large as in the unlabelled images.
2. *Refine*: a generator makes them look like those images and keeps the annotation true (see
   :mod:`fewslice.synthesis.refinement`).
3. *Pretrain*: a network learns them; one simulated image is held out, and chooses weights and threshold.
4. *Fine-tune*: where something is annotated, the same network goes on with that.

The network proposes contours of cells, or segments. Without annotation the model is what pretraining made of it, and
says so: how good it is on simulated images tells little about real ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fewslice import registry
from fewslice.annotation import Kind
from fewslice.errors import InputError
from fewslice.model import Model
from fewslice.synthesis.refinement import RefinementConfig, check_request, fit_refiner, refinement_stage
from fewslice.synthesis.refinement import resolved as resolved_refinement
from fewslice.synthesis.refiner import refine
from fewslice.synthesis.samples import as_sample, simulated, simulated_task, simulator_config, stored_samples
from fewslice.synthesis.simulation import Simulation
from fewslice.training.contours import (
    ContourConfig,
    contour_stage,
    finished_contour_model,
    measured_contours,
    resolved_contours,
)
from fewslice.training.fit import Fitted
from fewslice.training.segmentation import (
    SegmentationConfig,
    finished_model,
    foreground_alone,
    resolved,
    segmentation_stage,
)
from fewslice.training.stage import Stage
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["ANNOTATION", "LABEL_KIND", "Config", "between", "check", "resolve", "stages", "train"]

Triple = tuple[int, int, int]

ANNOTATION = "optional"
LABEL_KIND = "instances"

_REFINED_DEPTH, _REFINED_VOXELS = 16, 2**19
"""Planes and voxels of a simulation for the refiner, at most, unless its patch is larger."""
_PROBED = 4
"""Simulations among which the refiner's probe draws: those that are looked at anyway."""

_UNKNOWN_QUALITY = (
    "Nothing was annotated: threshold and weights were chosen on simulated images, and how good the model is on yours "
    "is not known; annotate a plane and evaluate on it."
)


class Config(BaseModel):
    """Settings of the strategy.

    Attributes
    ----------
    simulator
        Kind of the simulated images.
    simulation
        Settings of the simulator, by its own keys; those that are set are not fitted.
    fit
        Fit density, sizes and grey values of the simulation to the images.
    images
        How many are simulated; the last one is held out.
    refine
        Refine them towards the images.
    refinement
        How.
    detector
        ``contours`` of cells in planes, or ``segmentation``; ``auto``: contours where images are single planes.
    contours, segmentation
        The network, and how it learns.
    refine_share, fine_tune_share
        Share of the budget for refining, and, of what is left, for annotated images where there are any.
    fine_tune_learning_rate
        Peak of the learning rate there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    simulator: str = "two_photon_neurons"
    simulation: dict[str, Any] = Field(default_factory=dict)
    fit: bool = True
    images: int = Field(16, ge=2, le=1000)
    refine: bool = True
    refinement: RefinementConfig = Field(default_factory=RefinementConfig)
    detector: Literal["auto", "contours", "segmentation"] = "auto"
    contours: ContourConfig = Field(default_factory=ContourConfig)
    segmentation: SegmentationConfig = SegmentationConfig(network={"kind": "unet", "dims": 3})
    refine_share: float = Field(0.35, gt=0, lt=1)
    fine_tune_share: float = Field(0.4, gt=0, lt=1)
    fine_tune_learning_rate: float = Field(1e-3, gt=0)

    @model_validator(mode="after")
    def _settings_of_the_simulator(self) -> Config:
        registry.load("synthesis.simulators", self.simulator).Config.model_validate(self.simulation)
        return self

    @property
    def own(self) -> ContourConfig | SegmentationConfig:
        """Settings of the network that is trained."""
        return self.contours if self.detector == "contours" else self.segmentation

    @property
    def annotates(self) -> Kind:
        """What a network of this kind learns from."""
        return "instances" if self.detector == "contours" else "classes"


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the images; the simulator is fitted here, once."""
    if config.detector == "auto":
        flat = task.smallest_shape[0] == 1
        config = config.model_copy(update={"detector": "contours" if flat else "segmentation"})
    _check_annotation(config, task)
    if config.refine:
        check_request(config.refinement, None, task.hardware.devices)
    simulator = simulator_config(config.simulator, config.simulation, task, config.own.patch, fitted=config.fit)
    config = config.model_copy(update={"simulation": simulator.model_dump(mode="json"), "fit": False})
    update: dict[str, Any] = {}
    shown = simulated_task(task, [as_sample(_simulate(config, task, k), task, config.annotates) for k in range(2)])
    if config.detector == "contours":
        both = replace(shown, train_masks=[s.annotation.annotated for s in shown.samples if s.annotation is not None])
        update["contours"] = measured_contours(resolved_contours(config.contours, shown), both)
    else:
        update["segmentation"] = foreground_alone(resolved(config.segmentation, shown), "the detector of synthetic")
    if config.refine:
        source = _source(config, task)
        update["refinement"] = resolved_refinement(config.refinement, source, _targets(task), task.seed)
    return config.model_copy(update=update)


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return refining, pretraining and, where something is annotated, fine-tuning."""

    def pretrain() -> Stage:
        samples = [as_sample(_simulate(config, task, k), task, config.annotates) for k in range(2)]
        return _learning(config, simulated_task(task, samples), "pretrain", None)

    def refining() -> Stage:
        """Make one that trains both networks in turns and validates, but writes nothing: the run has not begun."""
        silent = replace(task.run, writable=False)
        drawn = config.refinement.model_copy(update={"simulations": _PROBED})  # simulating counts in `between`
        stage, _ = refinement_stage("refine", drawn, _source(config, task), _targets(task), silent, seed=task.seed)
        stage.extra["step"] = drawn.pretrain_refiner + drawn.pretrain_discriminator + 1
        stage.validate(stage)  # the first one takes longer than the others
        return stage

    left = 1 - config.refine_share if config.refine else 1.0
    tuned = config.fine_tune_share if _annotated(task) else 0.0
    found: dict[str, tuple[float, Callable[[], Stage]]] = {}
    if config.refine:
        found["refine"] = (config.refine_share, refining)
    found["pretrain"] = (left * (1 - tuned), pretrain)
    if tuned:
        found["fine_tune"] = (left * tuned, lambda: _fine_tuning(config, task, None))
    return found


def between(config: Config, task: Task) -> float:
    """Return about how many seconds it takes to simulate, and to refine what the network learns from."""
    began = time.perf_counter()
    _simulate(config, task, 0)
    seconds = config.images * (time.perf_counter() - began)
    if not config.refine:
        return seconds
    began = time.perf_counter()
    small = _source(config, task)(0)
    seconds += (config.refinement.simulations + 2 * _PROBED) * (time.perf_counter() - began)
    silent = replace(task.run, writable=False)
    _, refiner = refinement_stage("refine", config.refinement, small, _targets(task), silent, seed=task.seed)
    began = time.perf_counter()
    refine(refiner, small, 0, device=task.hardware.torch_device())
    share = math.prod(config.simulation["shape"]) / math.prod(small.shape)
    return float(seconds + config.images * share * (time.perf_counter() - began))


def check(config: Config, task: Task) -> None:
    """Refuse a budget, or devices, with which the refiner cannot be trained."""
    if config.refine:
        check_request(config.refinement, task.steps.get("refine", 0), task.hardware.devices)


def train(config: Config, task: Task) -> Model:
    """Simulate, refine, pretrain, fine-tune."""
    make = _refined(config, task) if config.refine else _source_of(config, task)
    folder = task.run.stage("refine" if config.refine else "simulate") / "images"
    samples = stored_samples(make, task, config.annotates, config.images, folder)
    shown = simulated_task(task, samples)
    fitted = task.fit(_learning(config, shown, "pretrain", None))
    if _annotated(task):
        return _finished(config, task, task.fit(_fine_tuning(config, task, fitted.weights["network"])))
    model = _finished(config, task, fitted)
    model.provenance["threshold_from"] = "held-out simulation"
    task.run.record({"event": "note", "note": _UNKNOWN_QUALITY})
    return model


def _refined(config: Config, task: Task) -> Callable[[int], Simulation]:
    """Train the refiner, and return what simulates and refines the image of a number."""
    refiner = fit_refiner(
        "refine",
        config.refinement,
        _source(config, task),
        _targets(task),
        task.run,
        steps=task.steps.get("refine", 0),
        seed=task.seed,
        hardware=task.hardware,
    )
    device = task.hardware.torch_device()
    return lambda index: refine(refiner, _simulate(config, task, index), index, device=device)


def _targets(task: Task) -> list[Volume]:
    return [sample.image for sample in task.samples]


def _learning(config: Config, task: Task, name: str, initial: Mapping[str, torch.Tensor] | None) -> Stage:
    """Make the stage that trains the network on annotated samples."""
    if config.detector == "contours":
        return contour_stage(task, name, config.contours, task.instance_volumes(), initial=initial)
    weights = dict(initial) if initial is not None else None
    return segmentation_stage(task, name, config.segmentation, task.annotated_volumes(), initial=weights)


def _fine_tuning(config: Config, task: Task, initial: Mapping[str, torch.Tensor] | None) -> Stage:
    slower = {"learning_rate": config.fine_tune_learning_rate}
    name = "contours" if config.detector == "contours" else "segmentation"
    tuned = config.model_copy(update={name: config.own.model_copy(update=slower)})
    return _learning(tuned, task, "fine_tune", initial)


def _finished(config: Config, task: Task, fitted: Fitted) -> Model:
    if config.detector == "contours":
        return finished_contour_model(task, config.contours, fitted, strategy="synthetic")
    return finished_model(task, config.segmentation, fitted, strategy="synthetic")


def _check_annotation(config: Config, task: Task) -> None:
    """Refuse annotation that fine-tuning could not learn from: of another kind, or smaller than the patch."""
    if not _annotated(task):
        return
    if config.detector == "contours":
        task.check_instances()
    patch = config.own.patch or (1, 1, 1)
    for sample in task.samples:
        if sample.annotation is not None and any(p > n for p, n in zip(patch, sample.image.shape, strict=True)):
            raise InputError(
                f"patch {patch} (z, y, x) exceeds {sample.image.source} {sample.image.shape}, whose annotation is to "
                f"be learned; set a smaller {config.detector}.patch or leave it out"
            )


def _annotated(task: Task) -> bool:
    return any(mask is not None and mask.any() for mask in task.train_masks)


def _simulate(config: Config, task: Task, index: int, shape: Triple | None = None) -> Simulation:
    settings = config.simulation | ({} if shape is None else {"shape": shape})
    simulator = registry.load("synthesis.simulators", config.simulator).Config.model_validate(settings)
    return simulated(config.simulator, simulator, task, index)


def _source_of(config: Config, task: Task) -> Callable[[int], Simulation]:
    return lambda index: _simulate(config, task, index)


def _source(config: Config, task: Task) -> Callable[[int], Simulation]:
    """Give the refiner images of its own, which the network is not shown, of an extent that suits its patches."""
    shape = refinement_shape(config.simulation["shape"], config.refinement.patch)
    return lambda seed: _simulate(config, task, 2**31 + seed % 2**31, shape)


def refinement_shape(shape: Sequence[int], patch: Triple | None) -> Triple:
    """Return the extent (z, y, x) of simulations for the refiner, which draws small patches from many of them.

    At most 16 planes and 2¹⁹ voxels, so that all of them fit into memory, but never less than twice the patch where the
    simulated images are as large as that.
    """
    depth = min(shape[0], _REFINED_DEPTH)
    side = math.isqrt(_REFINED_VOXELS // depth)
    least = [2 * p for p in patch] if patch is not None else [1, 1, 1]
    z, y, x = (min(n, max(m, p)) for n, m, p in zip(shape, (depth, side, side), least, strict=True))
    return (z, y, x)
