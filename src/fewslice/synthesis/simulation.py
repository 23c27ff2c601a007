"""What a simulator returns: an image and the truth it was drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Simulation"]


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
        (z, y, x) uint32: 0 no object, objects numbered 1, 2, … without gaps. Each id lies inside one class.
    voxel_size_um
        (z, y, x) in µm.
    channel_names
        One name per channel.
    class_names
        Names of the classes 1, 2, ….
    """

    image: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint32]
    voxel_size_um: tuple[float, float, float]
    channel_names: tuple[str, ...]
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent (z, y, x) in voxels."""
        z, y, x = self.semantic.shape
        return z, y, x

    @property
    def count(self) -> int:
        """Number of objects in :attr:`instances`."""
        return int(self.instances.max(initial=0))
