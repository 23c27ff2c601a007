"""Uncertainty-aware 2D teacher, 3D student: `pseudo_labels` that trusts what teacher and morphology agree on.

The pseudo-label is the mean of the teacher's probability and of its mask after morphology along z (as in `continuity`),
so that it is uncertain where both differ. A voxel weighs α · (1 − H(p) / ln 2) · exp(−d / 10), d being its distance to
the nearest annotated plane, in planes.
"""

from __future__ import annotations

from pydantic import Field

from fewslice.model import Model
from fewslice.strategies import pseudo_labels
from fewslice.strategies.pseudo_labels import Source, between, resolve, stages
from fewslice.training.task import Task

__all__ = ["Config", "between", "resolve", "stages", "train"]


class Config(pseudo_labels.Config):
    """Settings of the strategy; see :class:`fewslice.strategies.pseudo_labels.Config`."""

    sources: tuple[Source, ...] = ("teacher", "morphology")
    certainty: bool = True
    fade_planes: float | None = Field(10.0, gt=0)


def train(config: Config, task: Task) -> Model:
    """Train as :func:`fewslice.strategies.pseudo_labels.train` does."""
    return pseudo_labels.train(config, task, strategy="consensus")
