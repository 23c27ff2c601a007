"""Spatial continuity (Xiao, Zhao, Yang, ISBI 2022).

1. *Segment*: a 2D network learns the annotated planes and predicts every plane.
2. *Morphology along z* cleans the masks of the other planes with the annotated planes around them (there: MPP).
3. *Continuity*: a second 2D network sees what the first one says of a plane and its neighbours, as channels, and learns
   the cleaned mask of the middle plane (there: SCM). Annotated planes take part with their truth.

Prediction chains both networks; morphology only makes targets. The published form, `continuity_2022`, shows the second
network masks alone. Here it sees probabilities and the image as well, and threshold and median over planes are chosen
on annotated planes that were held out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fewslice import morphology as along_z
from fewslice.data import augmentation
from fewslice.data.neighbours import NeighbourPlanes, Neighbours
from fewslice.data.patches import in_memory
from fewslice.errors import InputError
from fewslice.model import Model
from fewslice.prediction.samples import predict_samples, seconds_to_predict
from fewslice.training.cleaning import clean_samples
from fewslice.training.held_out import CALIBRATION_VOXELS, calibrate
from fewslice.training.segmentation import (
    SegmentationConfig,
    dims_of,
    finished_model,
    foreground_alone,
    resolved,
    segmentation_stage,
    untrained_model,
)
from fewslice.training.stage import Stage
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["Config", "between", "resolve", "stages", "train"]


class Config(BaseModel):
    """Settings of the strategy.

    Attributes
    ----------
    segment
        The network that sees one plane of the image, and how it is trained.
    continuity
        The network that sees what the first one says of neighbouring planes, and how it is trained.
    neighbours
        Which planes it sees, and whether the image beside them.
    morphology
        Sizes of the operator that makes its targets.
    mask_threshold
        Probability from which a voxel belongs to the mask that is cleaned; None: the one chosen on held-out annotation.
    cleaned_weight
        Weight of voxels whose target is a cleaned mask, relative to annotated ones.
    threshold
        Foreground threshold of the finished model; None: chosen on held-out annotation.
    medians
        Planes over which a median may be taken at the end, odd, 1 for none; held-out annotation chooses.
    segment_share
        Share of the training budget that the first network gets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    segment: SegmentationConfig = SegmentationConfig(
        network={"kind": "unet", "dims": 2}, augment=augmentation.Config(piecewise_affine=0.3)
    )
    continuity: SegmentationConfig = SegmentationConfig(
        network={"kind": "unet", "dims": 2},
        augment=augmentation.Config.none(flip=0.5, right_angle=1.0),
        normalisation="none",
    )
    neighbours: Neighbours = Neighbours()
    morphology: along_z.Config = along_z.Config()
    mask_threshold: float | None = Field(None, gt=0, lt=1)
    cleaned_weight: float = Field(1.0, ge=0)
    threshold: float | None = Field(None, gt=0, lt=1)
    medians: tuple[int, ...] = (1, 3)
    segment_share: float = Field(0.6, gt=0, lt=1)

    @field_validator("medians")
    @classmethod
    def _odd(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(m < 1 or m % 2 == 0 for m in value):
            raise ValueError(f"medians are odd numbers of planes, 1 for none, not {value}")
        return value


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the data; refuse 3D networks and a second normalisation."""
    for name, stage in (("segment", config.segment), ("continuity", config.continuity)):
        if dims_of(stage) != 2:
            raise InputError(f"continuity trains two 2D networks; set {name}.network.dims=2")
    if config.continuity.normalisation != "none":
        raise InputError(
            f"continuity.normalisation={config.continuity.normalisation}, but the second network sees what the first "
            "one made of a normalised image; leave it at none and set segment.normalisation"
        )
    both = {
        name: foreground_alone(resolved(stage, task), f"the network {name}")
        for name, stage in (("segment", config.segment), ("continuity", config.continuity))
    }
    return config.model_copy(update=both)


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return both stages, with their shares of what prediction between them leaves of the budget."""

    def continuity() -> Stage:
        nothing = np.zeros((), np.uint8)  # of any extent, in no memory
        blank = [Volume.from_array(np.broadcast_to(nothing, (task.classes, *s.image.shape))) for s in task.samples]
        stacked = stack(config, task, [sample.image for sample in task.samples], blank)
        return segmentation_stage(
            stacked, "continuity", config.continuity, stacked.taught_volumes(blank, config.cleaned_weight)
        )

    return {
        "segment": (
            config.segment_share,
            lambda: segmentation_stage(task, "segment", config.segment, task.annotated_volumes()),
        ),
        "continuity": (1 - config.segment_share, continuity),
    }


def between(config: Config, task: Task) -> float:
    """Return about how many seconds it takes to predict every plane of every sample, and to calibrate at the end."""
    seconds = seconds_to_predict(untrained_model(task, config.segment), task)
    voxels = sum(math.prod(sample.image.shape) for sample in task.samples)
    calibrated = CALIBRATION_VOXELS if task.has_validation and config.threshold is None else 0
    return seconds * (1 + 2 * calibrated / voxels)  # the finished model has two networks


def train(config: Config, task: Task, *, strategy: str = "continuity") -> Model:
    """Train both networks, the second on what morphology makes of the first one's masks."""
    fitted = task.fit(segmentation_stage(task, "segment", config.segment, task.annotated_volumes()))
    first = finished_model(task, config.segment, fitted, strategy=f"{strategy} segment")
    predicted = predict_samples(first, task, "segment")
    threshold = config.mask_threshold or first.threshold
    cleaned = clean_samples(predicted, task, "segment", config.morphology, threshold)

    kept = in_memory([*(sample.image for sample in task.samples), *predicted, *cleaned])
    count = len(task.samples)
    images, predicted, cleaned = kept[:count], kept[count : 2 * count], kept[2 * count :]
    stacked = stack(config, task, images, predicted)
    learned = stacked.taught_volumes(cleaned, config.cleaned_weight)
    continuity = segmentation_stage(stacked, "continuity", config.continuity, learned)
    model = finished_model(
        task,
        config.continuity,
        task.fit(continuity),
        strategy=strategy,
        after=first,
        gather=config.neighbours,
    )
    calibrate(model, task, config.medians, config.threshold)
    return model


def stack(config: Config, task: Task, images: Sequence[Volume], predicted: Sequence[Volume]) -> Task:
    """Return the task of the second network: its images are neighbouring planes of predictions and image."""
    axis, normalisation = task.plane_axis(), task.normalisation(config.segment.normalisation)
    samples = [
        replace(
            sample,
            image=Volume(
                NeighbourPlanes(p, image, normalisation, config.neighbours, axis),
                image.voxel_size_um,
                source=image.source,
            ),
        )
        for sample, image, p in zip(task.samples, images, predicted, strict=True)
    ]
    return replace(task, samples=samples)
