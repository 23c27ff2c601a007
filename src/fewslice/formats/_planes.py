"""Going through a volume of any size in a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewslice.geometry import Box

if TYPE_CHECKING:
    from fewslice.volume import Volume

__all__ = ["BUFFER_BYTES", "block_shape", "iterate_planes"]

BUFFER_BYTES = 128 * 2**20
"""About what is held in memory while a volume is copied."""


def block_shape(volume: Volume, unit: tuple[int, int, int], limit: int = BUFFER_BYTES) -> tuple[int, int, int]:
    """Choose blocks for copying: whole rows, then whole planes, then more planes, as far as memory allows.

    Parameters
    ----------
    volume
        What is read.
    unit
        Extent z, y, x of what is written at once; blocks are multiples of it or reach the end.
    limit
        Bytes that a block of all channels may take; one unit is taken even if it is larger.
    """
    voxel = volume.channels * volume.dtype.itemsize
    block = [min(n, extent) for n, extent in zip(unit, volume.shape, strict=True)]
    for axis in (2, 1, 0):
        others = voxel * int(np.prod([n for i, n in enumerate(block) if i != axis]))
        units = max(1, limit // (others * unit[axis]))
        block[axis] = min(volume.shape[axis], max(block[axis], units * unit[axis]))
    return block[0], block[1], block[2]


def iterate_planes(volume: Volume) -> Iterator[npt.NDArray[Any]]:
    """Yield the planes y, x of a volume in the order z, c, reading as many at once as memory allows."""
    depth = volume.chunks[0] if volume.chunks else 1
    z, y, x = volume.shape
    plane = volume.channels * y * x * volume.dtype.itemsize
    step = max(1, min(depth, BUFFER_BYTES // plane))
    for start in range(0, z, step):
        stop = min(z, start + step)
        values = volume.read(Box((start, 0, 0), (stop, y, x)))
        for position in range(stop - start):
            for channel in range(volume.channels):
                yield np.ascontiguousarray(values[channel, position])
