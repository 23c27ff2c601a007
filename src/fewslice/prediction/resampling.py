"""Predict an image whose voxel is not the model's: each block is brought to the model's voxel and back.

Both grids are those of the whole volume, so that what a voxel gets does not depend on how the volume was cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewslice.geometry import Block, Box
from fewslice.model import Model

__all__ = ["Resampling"]

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Resampling:
    """An image and the grid of the same extent in µm with the model's voxel; voxels are compared by their centres.

    Attributes
    ----------
    image, grid
        (z, y, x) extents in voxels of the image and in voxels of the model.
    """

    image: Triple
    grid: Triple

    @classmethod
    def of(cls, image: Sequence[int], factor: Sequence[float]) -> Resampling:
        """Make the grid for an image.

        Parameters
        ----------
        image
            (z, y, x) in voxels.
        factor
            (z, y, x): voxel of the image over voxel of the model. 2 means the image is twice as coarse.
        """
        z, y, x = (max(1, round(extent * f)) for extent, f in zip(image, factor, strict=True))
        return cls((image[0], image[1], image[2]), (z, y, x))

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Voxels of the model per voxel of the image, (z, y, x)."""
        z, y, x = (g / i for g, i in zip(self.grid, self.image, strict=True))
        return (z, y, x)

    def halo(self, halo: Sequence[int], divisor: Sequence[int]) -> Triple:
        """Return the context in voxels of the image that holds `halo` voxels of the model, aligned to `divisor`."""
        z, y, x = (math.ceil((h + d + 1) / r) + 1 for h, d, r in zip(halo, divisor, self.ratio, strict=True))
        return (z, y, x)

    def predict(self, model: Model, raw: NDArray[np.generic], block: Block, halo: Sequence[int]) -> NDArray[np.float32]:
        """Predict one block.

        Parameters
        ----------
        model
            The model.
        raw
            (c, z, y, x) intensities of ``block.read``.
        block
            What is read and written, in voxels of the image.
        halo
            Context in voxels of the model.

        Returns
        -------
        ndarray
            (outputs, z, y, x) float32 probabilities of ``block.write``: interpolated linearly, or the means over
            voxels of the image that are coarser than the model's.
        """
        needed = self._needed(block.write)
        grown = needed.grow(halo).clip(self.grid)
        start = tuple(low // d * d for low, d in zip(grown.start, model.divisor, strict=True))
        seen = Box(start, grown.stop)
        backward = tuple(1 / r for r in self.ratio)
        at_model = _resampled(raw.astype(np.float32), block.read.start, backward, seen)
        crop = needed.shift(tuple(-low for low in start))
        found = model.probabilities(at_model)[(slice(None), *crop.slices)]
        return _resampled(found, needed.start, self.ratio, block.write)

    def _needed(self, box: Box) -> Box:
        """Return the voxels of the model that those of `box` lie between the centres of, or are means of."""
        start, stop = [], []
        for low, high, r in zip(box.start, box.stop, self.ratio, strict=True):
            start.append(math.floor(low * r if r > 1 else (low + 0.5) * r - 0.5))
            stop.append(math.ceil(high * r) if r > 1 else math.floor((high - 0.5) * r - 0.5) + 2)
        return Box(tuple(start), tuple(stop)).clip(self.grid)


def _resampled(
    array: NDArray[np.float32], start: Sequence[int], ratio: Sequence[float], box: Box
) -> NDArray[np.float32]:
    """Read (c, z, y, x) on another grid, axis by axis: means over coarser voxels, else linearly at the centres.

    A mean weighs each voxel of the source by how much of it the target's voxel covers, so that nothing between samples
    is lost. Beyond the array its outermost voxels count.

    Parameters
    ----------
    array
        A part of the source that begins at `start`.
    start
        (z, y, x) of its first voxel in the source.
    ratio
        Voxels of the source per voxel of the target, (z, y, x).
    box
        The target's voxels.
    """
    for axis in range(3):
        targets = np.arange(box.start[axis], box.stop[axis])
        along = _means if ratio[axis] > 1 else _between
        array = along(array, axis + 1, targets, ratio[axis], start[axis])
    return array


def _between(
    array: NDArray[np.float32], axis: int, targets: NDArray[np.int64], ratio: float, start: int
) -> NDArray[np.float32]:
    """Interpolate linearly along an axis at the centres of finer voxels."""
    extent = array.shape[axis]
    centres = np.clip((targets + 0.5) * ratio - 0.5 - start, 0, extent - 1)
    below = np.minimum(centres.astype(np.int64), max(extent - 2, 0))
    share = _along(centres - below, axis)
    above = np.minimum(below + 1, extent - 1)
    found: NDArray[np.float32] = array.take(below, axis) * (1 - share) + array.take(above, axis) * share
    return found


def _means(
    array: NDArray[np.float32], axis: int, targets: NDArray[np.int64], ratio: float, start: int
) -> NDArray[np.float32]:
    """Average along an axis over the extents of coarser voxels."""
    extent = array.shape[axis]
    low, high = targets * ratio - start, (targets + 1) * ratio - start
    first = np.floor(low).astype(np.int64)
    total = np.zeros([len(targets) if a == axis else n for a, n in enumerate(array.shape)], np.float32)
    for step in range(math.ceil(ratio) + 1):
        covered = np.clip(np.minimum(high, first + step + 1) - np.maximum(low, first + step), 0, None)
        total += array.take(np.clip(first + step, 0, extent - 1), axis) * _along(covered / ratio, axis)
    return total


def _along(values: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    return values.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
