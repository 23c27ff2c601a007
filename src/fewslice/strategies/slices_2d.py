"""Slices: a 2D network learns the annotated planes, and its planes are stacked into a volume.

The arm to beat: what most people do today.
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
    """How the 2D network is trained; see :class:`fewslice.training.segmentation.SegmentationConfig`."""

    network: dict[str, object] = Field(default={"kind": "unet", "dims": 2}, validate_default=True)


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the data; refuse a 3D network."""
    if dims_of(config) != 2:
        raise InputError("slices_2d trains a 2D network; set network.dims=2, or use --strategy sparse_3d")
    return Config(**with_outputs(resolved(config, task), task).model_dump())


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return the one stage: all of the budget."""
    return {"segment": (0.95, lambda: _stage(config, task))}


def train(config: Config, task: Task) -> Model:
    """Train on annotated planes only."""
    return finished_model(task, config, task.fit(_stage(config, task)), strategy="slices_2d")


def _stage(config: Config, task: Task) -> Stage:
    volumes = task.annotated_volumes(config.outputs or "foreground", config.boundary_voxels)
    return segmentation_stage(task, "segment", config, volumes)
