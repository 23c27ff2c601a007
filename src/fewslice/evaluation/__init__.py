"""Metrics applied to volumes on disk, with sparse truth, block by block."""

from fewslice.evaluation.instances import evaluate_instances, open_instances
from fewslice.evaluation.volumes import Segmentation, evaluate, open_segmentation

__all__ = ["Segmentation", "evaluate", "evaluate_instances", "open_instances", "open_segmentation"]
