"""Metrics applied to volumes on disk, with sparse truth, block by block."""

from fewslice.evaluation.volumes import Segmentation, evaluate, open_segmentation

__all__ = ["Segmentation", "evaluate", "open_segmentation"]
