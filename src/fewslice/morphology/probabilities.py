"""Stored probabilities → classes, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["segment_probabilities"]


def segment_probabilities(probabilities: npt.NDArray[Any], threshold: float) -> npt.NDArray[np.uint8]:
    """Turn stored probabilities into classes.

    Parameters
    ----------
    probabilities
        (k, z, y, x) uint8 0–255, one channel per foreground class.
    threshold
        Foreground where the channels' sum reaches ``threshold × 255``; 0–1.

    Returns
    -------
    numpy.ndarray
        (z, y, x) uint8: 0 background, else 1 + the index of the most probable channel.
    """
    classes: npt.NDArray[np.uint8] = probabilities.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    found = probabilities.sum(axis=0, dtype=np.uint16) >= threshold * 255.0
    classes[~found] = 0
    return classes
