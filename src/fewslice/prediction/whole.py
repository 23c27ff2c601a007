"""The reference: the whole volume at once, in memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fewslice.model import Model

__all__ = ["predict_whole", "quantised"]


def predict_whole(
    model: Model, image: NDArray[np.generic], *, device: torch.device | str = "cpu", bfloat16: bool | None = None
) -> NDArray[np.float32]:
    """Predict a volume in one piece.

    Parameters
    ----------
    model
        The model; it is moved to `device`.
    image
        (c, z, y, x) raw intensities.
    device
        Where to compute.
    bfloat16
        Compute in bfloat16; by default where the device is fast at it.

    Returns
    -------
    ndarray
        (outputs, z, y, x) float32 probabilities in 0–1. Memory grows with the volume.
    """
    return model.to(device).probabilities(image, bfloat16=bfloat16)


def quantised(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return probabilities 0–1 as uint8 0–255, rounded to the nearest."""
    rounded: NDArray[np.uint8] = np.rint(np.clip(probabilities, 0.0, 1.0) * 255.0).astype(np.uint8)
    return rounded
