"""Predict an image whose voxel is not the model's: every block is brought to the model's voxel and back."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from fewslice.model import Model

__all__ = ["resampled"]

Triple = tuple[int, int, int]


def resampled(model: Model, factor: tuple[float, float, float]) -> Model:
    """Return a view of `model` that takes images of another voxel size.

    Parameters
    ----------
    model
        The model; its networks are shared.
    factor
        (z, y, x): voxel of the image over voxel of the model. 2 means the image is twice as coarse.

    Returns
    -------
    Model
        Its halo and receptive field are in voxels of the image. Images and probabilities are interpolated linearly.
    """
    view = copy.copy(model)
    view.__class__ = _ResampledModel
    assert isinstance(view, _ResampledModel)
    view.factor = factor
    view.halo = _scaled(model.halo, factor)
    return view


def _scaled(halo: Triple, factor: tuple[float, float, float]) -> Triple:
    z, y, x = (math.ceil(h / f) + 1 for h, f in zip(halo, factor, strict=True))
    return (z, y, x)


class _ResampledModel(Model):
    factor: tuple[float, float, float]

    @property
    def receptive_halo(self) -> Triple:
        return _scaled(super().receptive_halo, self.factor)

    @property
    def divisor(self) -> Triple:
        return (1, 1, 1)

    def probabilities(self, image: NDArray[np.generic], *, bfloat16: bool | None = None) -> NDArray[np.float32]:
        shape = image.shape[1:]
        grid = tuple(max(1, round(s * f)) for s, f in zip(shape, self.factor, strict=True))
        raw = _zoom(image.astype(np.float32), grid)
        inner = copy.copy(self)
        inner.__class__ = Model  # type: ignore[assignment]
        with torch.inference_mode():
            found = inner.probabilities(raw, bfloat16=bfloat16)
        return np.clip(_zoom(found, shape), 0.0, 1.0)


def _zoom(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    factors = (1.0, *(new / old for new, old in zip(shape, array.shape[1:], strict=True)))
    out: NDArray[np.float32] = ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True)
    return out
