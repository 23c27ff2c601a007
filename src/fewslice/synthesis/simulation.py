"""What a simulator returns: an image and the truth it was drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Footprint", "Simulation", "topmost"]


@dataclass(frozen=True)
class Footprint:
    """The whole extent of one object inside the volume, also where another one lies over it.

    Attributes
    ----------
    start
        (z, y, x) of the first voxel of :attr:`mask`.
    mask
        (z, y, x) bool over the object's bounding box: True in the object. Touches all sides of the box.
    """

    start: tuple[int, int, int]
    mask: npt.NDArray[np.bool_]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The bounding box, to index an array of the volume."""
        z, y, x = (slice(at, at + size) for at, size in zip(self.start, self.mask.shape, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Simulation:
    """An image with annotation that is exact to the voxel.

    Attributes
    ----------
    image
        (c, z, y, x) uint8 intensity, 0 to 255.
    semantic
        (z, y, x) uint8: 0 background, class k of :attr:`class_names` is k + 1. Every voxel is annotated.
    instances
        (z, y, x) uint32: 0 no object, objects numbered 1, 2, … without gaps. Each id lies inside one class. Where
        objects overlap, the topmost one.
    voxel_size_um
        (z, y, x) in µm.
    channel_names
        One name per channel.
    class_names
        Names of the classes 1, 2, ….
    footprints
        Where objects may overlap, the whole extent of each: entry i is object i + 1, and they lie over each other in
        this order, the last on top, so that ``instances`` is :func:`topmost` of them. None where nothing overlaps: the
        extent of an object is then its voxels in ``instances``. About a byte per voxel of all bounding boxes.
    """

    image: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint32]
    voxel_size_um: tuple[float, float, float]
    channel_names: tuple[str, ...]
    class_names: tuple[str, ...]
    footprints: tuple[Footprint, ...] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent (z, y, x) in voxels."""
        z, y, x = self.semantic.shape
        return z, y, x

    @property
    def count(self) -> int:
        """Number of objects in :attr:`instances`."""
        return int(self.instances.max(initial=0))


def topmost(footprints: Sequence[Footprint], shape: tuple[int, int, int]) -> npt.NDArray[np.uint32]:
    """Lay footprints over each other, the last on top.

    Returns
    -------
    ndarray
        (z, y, x) uint32: 0, or the position of the topmost footprint + 1.

    Examples
    --------
    >>> below, above = (Footprint((0, 0, x), np.ones((1, 1, 3), bool)) for x in (0, 2))
    >>> topmost([below, above], (1, 1, 6))[0, 0].tolist()
    [1, 1, 2, 2, 2, 0]
    """
    instances = np.zeros(shape, dtype=np.uint32)
    for index, footprint in enumerate(footprints, 1):
        instances[footprint.slices][footprint.mask] = index
    return instances
