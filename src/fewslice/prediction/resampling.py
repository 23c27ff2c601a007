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
            (outputs, z, y, x) float32 probabilities of ``block.write``, interpolated linearly.
        """
        needed = self._needed(block.write)
        grown = needed.grow(halo).clip(self.grid)
        start = tuple(low // d * d for low, d in zip(grown.start, model.divisor, strict=True))
        seen = Box(start, grown.stop)
        backward = tuple(1 / r for r in self.ratio)
        at_model = _interpolated(raw.astype(np.float32), block.read.start, backward, seen)
        crop = needed.shift(tuple(-low for low in start))
        found = model.probabilities(at_model)[(slice(None), *crop.slices)]
        return _interpolated(found, needed.start, self.ratio, block.write)

    def _needed(self, box: Box) -> Box:
        """Return the voxels of the model between whose centres those of `box` lie."""
        start = tuple(math.floor((low + 0.5) * r - 0.5) for low, r in zip(box.start, self.ratio, strict=True))
        stop = tuple(math.floor((high - 0.5) * r - 0.5) + 2 for high, r in zip(box.stop, self.ratio, strict=True))
        return Box(start, stop).clip(self.grid)


def _interpolated(
    array: NDArray[np.float32], start: Sequence[int], ratio: Sequence[float], box: Box
) -> NDArray[np.float32]:
    """Read (c, z, y, x) linearly at the centres of another grid; beyond the array its outermost voxels count.

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
        extent = array.shape[axis + 1]
        centres = (np.arange(box.start[axis], box.stop[axis]) + 0.5) * ratio[axis] - 0.5 - start[axis]
        centres = np.clip(centres, 0, extent - 1)
        below = np.minimum(centres.astype(np.int64), max(extent - 2, 0))
        share = (centres - below).astype(np.float32).reshape([-1 if a == axis + 1 else 1 for a in range(4)])
        above = np.minimum(below + 1, extent - 1)
        array = array.take(below, axis + 1) * (1 - share) + array.take(above, axis + 1) * share
    return array
