"""Sparse 3D: a 3D network learns volumes in which only some planes are annotated.

Voxels without annotation have weight 0 in the loss (Çiçek 2016). Made as strong as it can be, because the gain of
every other strategy is measured against it: patches are drawn where something is annotated, the Dice term is computed
over the batch, and the weights are averaged.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from fewslice.errors import InputError
from fewslice.model import Model
from fewslice.training.segmentation import (
    SegmentationConfig,
    dims_of,
    finished_model,
    resolved,
    segmentation_stage,
    with_outputs,
)
from fewslice.training.stage import Stage
from fewslice.training.task import Task

__all__ = ["Config", "resolve", "stages", "train"]


class Config(SegmentationConfig):
    """How the 3D network is trained; see :class:`fewslice.training.segmentation.SegmentationConfig`."""

    network: dict[str, object] = Field(default={"kind": "unet", "dims": 3}, validate_default=True)


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the data; refuse a 2D network."""
    if dims_of(config) != 3:
        raise InputError("sparse_3d trains a 3D network; set network.dims=3, or use --strategy slices_2d")
    return Config(**with_outputs(resolved(config, task), task).model_dump())


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return the one stage: all of the budget."""
    return {"segment": (0.95, lambda: _stage(config, task))}


def train(config: Config, task: Task) -> Model:
    """Train on annotated voxels only."""
    return finished_model(task, config, task.fit(_stage(config, task)), strategy="sparse_3d")


def _stage(config: Config, task: Task) -> Stage:
    volumes = task.annotated_volumes(config.outputs or "foreground", config.boundary_voxels)
    return segmentation_stage(task, "segment", config, volumes)
