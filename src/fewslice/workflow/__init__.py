"""The verbs: train, predict, measure, evaluate, report and the rest, for programs; the shell and the screen call these.

Every verb checks its input before anything is written, and raises :class:`fewslice.errors.FewsliceError` with one
sentence when something is wrong.
"""

from __future__ import annotations

from fewslice.workflow.exchange import convert, export, info, simulate
from fewslice.workflow.judgement import evaluate, plan, report
from fewslice.workflow.objects import (
    estimate_measurement,
    estimate_meshes,
    estimate_segmentation,
    measure,
    mesh,
    segment,
)
from fewslice.workflow.prediction import estimate_prediction, predict, verify
from fewslice.workflow.training import run, train, train_samples

__all__ = [
    "convert",
    "estimate_measurement",
    "estimate_meshes",
    "estimate_prediction",
    "estimate_segmentation",
    "evaluate",
    "export",
    "info",
    "measure",
    "mesh",
    "plan",
    "predict",
    "report",
    "run",
    "segment",
    "simulate",
    "train",
    "train_samples",
    "verify",
]
