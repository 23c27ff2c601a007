"""How a volume is cut: the block that wastes least on context within a memory budget, in whole chunks."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

from fewslice.errors import InputError
from fewslice.geometry import Shape

__all__ = ["choose_block", "choose_chunk"]


def choose_chunk(shape: Sequence[int], block: Sequence[int] | None = None, shard: Sequence[int] | None = None) -> Shape:
    """Return the storage chunk (z, y, x) for an output of `shape`: at most 32 × 256 × 256 voxels.

    Parameters
    ----------
    shape
        (z, y, x) of the volume.
    block
        What one block will write, if that was asked for; it must consist of whole chunks, and of whole shards.
    shard
        (z, y, x) of a shard, if chunks are to be stored together in larger files; it must consist of whole chunks.

    Raises
    ------
    InputError
        If a block larger than the chunk is no multiple of it, or shards fit neither chunks nor blocks: two blocks that
        write into one shard at the same time would destroy each other's chunks.
    """
    chunk = tuple(min(extent, limit) for extent, limit in zip(shape, (32, 256, 256), strict=True))
    chunk = tuple(min(c, b) for c, b in zip(chunk, shard or chunk, strict=True))
    if shard is not None and any(s % c for s, c in zip(shard, chunk, strict=True)):
        raise InputError(f"shard {tuple(shard)} (z, y, x) does not consist of whole chunks of {chunk}; use multiples")
    if block is None:
        return chunk
    if shard is not None and any(b % d and b < s for b, d, s in zip(block, shard, shape, strict=True)):
        raise InputError(
            f"block {tuple(block)} (z, y, x) does not consist of whole shards of {tuple(shard)}; use multiples, or "
            "leave --block out"
        )
    chunk = chunk if shard is not None else tuple(min(c, b) for c, b in zip(chunk, block, strict=True))
    if any(b % c and b < s for b, c, s in zip(block, chunk, shape, strict=True)):
        raise InputError(f"block {tuple(block)} (z, y, x) does not consist of whole chunks of {chunk}; use multiples")
    return chunk


def choose_block(shape: Sequence[int], halo: Sequence[int], chunk: Sequence[int], read_voxels: int) -> Shape:
    """Return the block, a multiple of `chunk`, with which the fewest voxels are read in all.

    Parameters
    ----------
    shape
        (z, y, x) of the volume.
    halo
        Context on either side, in voxels.
    chunk
        Storage chunk of the output, or its shard.
    read_voxels
        The most that one block may read, context included; a single chunk is always allowed.
    """
    smallest = [min(c + 2 * m, extent) for c, m, extent in zip(chunk, halo, shape, strict=True)]
    choices = []
    for one, margin, extent, read in zip(chunk, halo, shape, smallest, strict=True):
        others = math.prod(smallest) // read  # what a single chunk reads along the other axes
        found = [_Choice(size, extent, margin) for size in _sizes(extent, one)]
        choices.append([choice for choice in found if choice.size == one or choice.read * others <= read_voxels])
    best, least = tuple(chunk), math.inf
    for z, y in itertools.product(*choices[:2]):
        # Along x larger blocks read more at once and never more in all: the largest that fits is the best.
        fitting = bisect.bisect_right(choices[2], read_voxels // (z.read * y.read), key=lambda x: x.read)
        x = choices[2][max(fitting, 1) - 1] if halo[2] else choices[2][0]
        if (fitting or (z.size, y.size) == tuple(chunk[:2])) and z.total * y.total * x.total < least:
            best, least = (z.size, y.size, x.size), z.total * y.total * x.total
    return tuple(min(size, extent) for size, extent in zip(best, shape, strict=True))


class _Choice:
    """A size of the block along one axis: what it reads at once, and what all blocks along the axis read."""

    def __init__(self, size: int, extent: int, margin: int) -> None:
        self.size = size
        self.read = min(size + 2 * margin, extent)
        self.total = extent + 2 * margin * (-(-extent // size) - 1)


def _sizes(extent: int, one: int) -> list[int]:
    """Return the smallest multiple of `one` for each number of blocks along an axis: some 2 √(extent / one) of them."""
    units = -(-extent // one)
    found, size = [], 1
    while size <= units:
        found.append(size * one)
        count = -(-units // size)
        size = units + 1 if count == 1 else -(-units // (count - 1))
    return found
