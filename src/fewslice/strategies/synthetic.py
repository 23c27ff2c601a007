"""Pretraining on simulated images (after Upschulte et al. 2022), with or without any annotation.

1. *Simulate*: images with exact annotation, of the extent and voxel size of the user's own.
2. *Pretrain*: a network learns them; one simulated image is held out, and chooses weights and threshold.
3. *Fine-tune*: where something is annotated, the same network goes on with that.

Without annotation the model is what pretraining made of it, and says so: how good it is on simulated images tells
little about real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fewslice import registry
from fewslice.model import Model
from fewslice.synthesis.samples import (
    blank_samples,
    seconds_to_simulate,
    simulate_samples,
    simulated_task,
    simulator_config,
)
from fewslice.training.segmentation import SegmentationConfig, finished_model, resolved, segmentation_stage
from fewslice.training.stage import Stage
from fewslice.training.task import Task

__all__ = ["ANNOTATION", "Config", "between", "resolve", "stages", "train"]

ANNOTATION: Literal["optional"] = "optional"

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
        Settings of the simulator, by its own keys; extent and voxel size follow from the data where they are not set.
    images
        How many are simulated; the last one is held out.
    pretrain
        The network, and how it learns simulated images.
    fine_tune_share
        Share of the budget for annotated images, where there are any.
    fine_tune_learning_rate
        Peak of the learning rate there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    simulator: str = "two_photon_neurons"
    simulation: dict[str, Any] = Field(default_factory=dict)
    images: int = Field(8, ge=2, le=1000)
    pretrain: SegmentationConfig = SegmentationConfig(network={"kind": "unet", "dims": 3})
    fine_tune_share: float = Field(0.4, gt=0, lt=1)
    fine_tune_learning_rate: float = Field(1e-3, gt=0)

    @model_validator(mode="after")
    def _settings_of_the_simulator(self) -> Config:
        registry.load("synthesis.simulators", self.simulator).Config(**self.simulation)
        return self


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the data."""
    pretrain = resolved(config.pretrain, task)
    assert pretrain.patch is not None
    simulation = simulator_config(config.simulator, config.simulation, task, pretrain.patch)
    return config.model_copy(update={"pretrain": pretrain, "simulation": simulation.model_dump(mode="json")})


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return pretraining and, where something is annotated, fine-tuning."""

    def pretrain() -> Stage:
        blank = simulated_task(task, blank_samples(_simulator(config), task, 2))
        return segmentation_stage(blank, "pretrain", config.pretrain, blank.annotated_volumes())

    if not _annotated(task):
        return {"pretrain": (1.0, pretrain)}
    return {
        "pretrain": (1 - config.fine_tune_share, pretrain),
        "fine_tune": (config.fine_tune_share, lambda: _fine_tuning(config, task, None)),
    }


def between(config: Config, task: Task) -> float:
    """Return about how many seconds simulating takes."""
    return seconds_to_simulate(config.simulator, _simulator(config), config.images)


def train(config: Config, task: Task) -> Model:
    """Simulate, pretrain, fine-tune."""
    samples = simulate_samples(config.simulator, _simulator(config), task, config.images, "simulate")
    simulated = simulated_task(task, samples)
    stage = segmentation_stage(simulated, "pretrain", config.pretrain, simulated.annotated_volumes())
    fitted = task.fit(stage)
    if not _annotated(task):
        model = finished_model(task, config.pretrain, fitted, strategy="synthetic")
        model.provenance["threshold_from"] = "held-out simulation"
        task.run.record({"event": "note", "note": _UNKNOWN_QUALITY})
        return model
    tuned = task.fit(_fine_tuning(config, task, fitted.weights["network"]))
    return finished_model(task, config.pretrain, tuned, strategy="synthetic")


def _fine_tuning(config: Config, task: Task, initial: dict[str, Any] | None) -> Stage:
    settings = config.pretrain.model_copy(update={"learning_rate": config.fine_tune_learning_rate})
    return segmentation_stage(task, "fine_tune", settings, task.annotated_volumes(), initial=initial)


def _annotated(task: Task) -> bool:
    return any(mask is not None and mask.any() for mask in task.train_masks)


def _simulator(config: Config) -> BaseModel:
    made: BaseModel = registry.load("synthesis.simulators", config.simulator).Config(**config.simulation)
    return made
