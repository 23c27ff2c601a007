"""Contours: a contour proposal network learns objects that are annotated one by one (Upschulte et al. 2022).

Planes of a volume are learned and predicted as images of their own. What it proposes are closed contours, which may
overlap; they become instances when the prediction is segmented.
"""

from __future__ import annotations

from collections.abc import Callable

from fewslice.model import Model
from fewslice.training.contours import (
    ContourConfig,
    contour_stage,
    finished_contour_model,
    measured_contours,
    resolved_contours,
    split_objects,
)
from fewslice.training.stage import Stage
from fewslice.training.task import Task

__all__ = ["LABEL_KIND", "Config", "measured", "resolve", "stages", "train"]

LABEL_KIND = "instances"


class Config(ContourConfig):
    """How the network is trained; see :class:`fewslice.training.contours.ContourConfig`."""


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the data; refuse labels that are not instances."""
    return Config(**resolved_contours(config, task).model_dump())


def measured(config: Config, task: Task) -> Config:
    """Fill in how large objects are where something may be learned."""
    return Config(**measured_contours(config, task).model_dump())


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return the one stage: all of the budget."""
    return {"propose": (0.95, lambda: contour_stage(task, "propose", config, task.instance_volumes()))}


def train(config: Config, task: Task) -> Model:
    """Train on annotated objects only; what is not annotated is neither object nor background."""
    split = split_objects(task)
    if split:
        note = f"{split} annotated objects lie in several parts; the largest part of each is learned."
        task.run.record({"event": "note", "note": note})
    stage = contour_stage(task, "propose", config, task.instance_volumes())
    return finished_contour_model(task, config, task.fit(stage), strategy="contours")
