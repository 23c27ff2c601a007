"""Applying a model: the whole volume in memory (the reference) and block by block (the product)."""

from __future__ import annotations

from fewslice.prediction.blockwise import Prediction, predict_volume
from fewslice.prediction.whole import predict_whole

__all__ = ["Prediction", "predict_volume", "predict_whole"]
