"""Neighbouring planes as channels: what a network sees that judges a plane by the planes around it.

`Neighbours` says which planes; `gather` puts them into the channels of tensors, for prediction; `NeighbourPlanes` does
the same for stored volumes, read patch by patch in training. Both give the same channels in the same order: the
probabilities of plane i − k, …, i, …, i + k, each with all its classes, then the image planes likewise. Beyond the ends
of a volume its end plane is repeated (Xiao et al., ISBI 2022).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.volume import Volume, normalise_index

__all__ = ["NeighbourPlanes", "Neighbours", "gather"]


class Neighbours(BaseModel):
    """Which planes around a plane a network sees."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    planes: int = Field(15, ge=0, description="planes of probabilities, the middle one included; odd, or 0 for none")
    image_planes: int = Field(1, ge=0, description="planes of the image beside them; odd, or 0 for none")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="probabilities become masks at this threshold; None: they stay as they are"
    )

    @model_validator(mode="after")
    def _odd(self) -> Self:
        for name, count in (("planes", self.planes), ("image_planes", self.image_planes)):
            if count and count % 2 == 0:
                raise ValueError(f"{name} is {count}; it must be odd, so that there is a middle plane")
        if not self.planes and not self.image_planes:
            raise ValueError("planes and image_planes are both 0, so there is nothing to see; set one of them")
        return self

    @property
    def reach(self) -> int:
        """Planes seen on either side."""
        return max(self.planes, self.image_planes) // 2

    def channels(self, classes: int, image_channels: int) -> int:
        """Return how many channels the network has for `classes` foreground classes and `image_channels`."""
        return self.planes * classes + self.image_planes * image_channels


def gather(planes: torch.Tensor, count: int, start: int, stop: int) -> torch.Tensor:
    """Put neighbouring planes into channels.

    Parameters
    ----------
    planes
        (depth, c, h, w), all planes of a block.
    count
        Planes around each, odd; 0 gives no channels.
    start, stop
        The planes that are wanted.

    Returns
    -------
    Tensor
        (stop − start, count · c, h, w); beyond the first and the last plane these are repeated.
    """
    around = _around(start, stop, count, len(planes))
    return planes[torch.from_numpy(around.ravel()).to(planes.device)].reshape(stop - start, -1, *planes.shape[2:])


class NeighbourPlanes:
    """A lazy array (c, z, y, x; float32) whose channels are neighbouring planes of stored volumes.

    Parameters
    ----------
    probabilities
        (classes, z, y, x) uint8, 0–255 for 0–1, as prediction stores them.
    image
        (c, z, y, x) of the same extent, any numeric type.
    normalisation
        Applied to the image.
    neighbours
        Which planes.
    axis
        Axis (0, 1, 2 = z, y, x) along which planes are neighbours.

    Raises
    ------
    InputError
        If the extents differ.
    """

    def __init__(
        self, probabilities: Volume, image: Volume, normalisation: Normalisation, neighbours: Neighbours, axis: int = 0
    ) -> None:
        if probabilities.shape != image.shape:
            raise InputError(
                f"probabilities {probabilities.shape} and image {image.shape} (z, y, x) of {image.source} differ; "
                "predict this image again"
            )
        self._probabilities, self._image, self._normalisation = probabilities, image, normalisation
        self._neighbours, self._axis = neighbours, axis
        self.shape: tuple[int, ...] = (neighbours.channels(probabilities.channels, image.channels), *image.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Read a part: the planes that the slices name and those around them."""
        slices, dropped = normalise_index(index, self.shape)
        where = slices[1:]
        p = self._gathered(self._probabilities, self._neighbours.planes, where)
        threshold = self._neighbours.threshold
        values = [np.where(p >= threshold * 255.0, 1.0, 0.0) if threshold is not None else p / np.float32(255.0)]
        if self._neighbours.image_planes:
            values.append(self._gathered(self._image, self._neighbours.image_planes, where, self._normalisation))
        out = np.concatenate(values, dtype=np.float32)[slices[0]]
        return out.reshape([n for axis, n in enumerate(out.shape) if axis not in dropped])

    def _gathered(
        self, volume: Volume, count: int, where: tuple[slice, ...], normalisation: Normalisation | None = None
    ) -> NDArray[Any]:
        """Read `count` planes around each of `where`, as (count · c, z, y, x)."""
        axis, depth = self._axis, volume.shape[self._axis]
        around = _around(where[axis].start, where[axis].stop, count, depth)
        if not around.size:
            return np.empty((0, *(s.stop - s.start for s in where)), np.float32)
        first, last = int(around.min()), int(around.max()) + 1
        wide = list(where)
        wide[axis] = slice(first, last)
        read = np.asarray(volume.array[(slice(0, volume.channels), *wide)])
        if normalisation is not None:
            read = normalisation.apply(read)
        parts = [read.take(column - first, axis=1 + axis) for column in around.T]
        return np.concatenate(parts)


def _around(start: int, stop: int, count: int, depth: int) -> NDArray[np.intp]:
    """Return, for each plane, the `count` planes around it, the ends repeated: (stop − start, count) indices."""
    offsets = np.arange(count) - count // 2
    around: NDArray[np.intp] = np.clip(np.arange(start, stop)[:, None] + offsets, 0, depth - 1)
    return around
