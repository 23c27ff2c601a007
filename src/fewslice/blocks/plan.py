"""How a volume is cut: the block that wastes least on context within a memory budget, in whole chunks."""

from __future__ import annotations

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
        sizes = range(one, extent + one, one)
        choices.append([s for s in sizes if s == one or min(s + 2 * margin, extent) * others <= read_voxels])
    best, least = tuple(chunk), float("inf")
    for block in itertools.product(*choices):
        largest, total = 1, 1
        for size, extent, margin in zip(block, shape, halo, strict=True):
            largest *= min(size + 2 * margin, extent)
            count = -(-extent // size)
            total *= extent + 2 * margin * (count - 1)
        if (largest <= read_voxels or block == tuple(chunk)) and total < least:
            best, least = block, total
    return tuple(min(size, extent) for size, extent in zip(best, shape, strict=True))
