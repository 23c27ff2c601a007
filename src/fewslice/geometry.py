"""Boxes and blocks in voxels: integers only, any number of axes.

A *block* separates what is read (context included) from what is written (exactly one block writes a voxel) and says
how to crop the one to the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fewslice.errors import InputError

__all__ = ["Block", "BlockGrid", "Box", "by", "cover"]

Shape = tuple[int, ...]


def by(shape: Sequence[int]) -> str:
    """Write extents for a message.

    Examples
    --------
    >>> by((2, 3, 4))
    '2 x 3 x 4'
    """
    return " x ".join(str(int(n)) for n in shape)


@dataclass(frozen=True)
class Box:
    """A half-open region ``start <= index < stop`` of an array, one pair of integers per axis."""

    start: Shape
    stop: Shape

    def __post_init__(self) -> None:
        """Refuse boxes whose ends do not fit each other."""
        if len(self.start) != len(self.stop):
            raise InputError(f"box start {self.start} and stop {self.stop} must have the same number of axes")
        if any(high < low for low, high in zip(self.start, self.stop, strict=True)):
            raise InputError(f"box stop {self.stop} must not lie before its start {self.start}")

    @classmethod
    def of(cls, shape: Sequence[int]) -> Box:
        """Return the box that covers a whole array of `shape`."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> Shape:
        """Extent along each axis, in voxels."""
        return tuple(high - low for low, high in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index with which an array of the whole is cut to this box."""
        return tuple(slice(low, high) for low, high in zip(self.start, self.stop, strict=True))

    def grow(self, margin: Sequence[int]) -> Box:
        """Return the box widened by `margin` voxels on both sides of each axis."""
        return Box(
            tuple(low - m for low, m in zip(self.start, margin, strict=True)),
            tuple(high + m for high, m in zip(self.stop, margin, strict=True)),
        )

    def clip(self, shape: Sequence[int]) -> Box:
        """Return the part of the box inside an array of `shape`."""
        return self.intersect(Box.of(shape))

    def intersect(self, other: Box) -> Box:
        """Return the common part; empty (zero extent) where there is none."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(max(s, min(a, b)) for s, a, b in zip(start, self.stop, other.stop, strict=True))
        return Box(start, stop)

    def shift(self, offset: Sequence[int]) -> Box:
        """Return the box moved by `offset` voxels."""
        return Box(
            tuple(low + o for low, o in zip(self.start, offset, strict=True)),
            tuple(high + o for high, o in zip(self.stop, offset, strict=True)),
        )


@dataclass(frozen=True)
class Block:
    """One unit of work on a volume.

    Attributes
    ----------
    index
        Position in the grid of blocks.
    read
        What is read: the written region and its halo, clipped to the volume.
    write
        What is written. The write boxes of a cover partition the volume.
    crop
        The written region in the coordinates of what was read.
    """

    index: Shape
    read: Box
    write: Box
    crop: Box


@dataclass(frozen=True)
class BlockGrid:
    """All blocks of an array, made one at a time: a plan of any length takes no memory.

    Attributes
    ----------
    shape
        Extent of the whole, per axis, in voxels.
    block
        Extent of what one block writes, per axis; the last block along an axis may be smaller.
    halo
        Context read on both sides, per axis, in voxels.
    align
        The start of what is read is moved outward to a multiple of these numbers, so that a network which pools sees
        the same grid as it would on the whole.
    """

    shape: Shape
    block: Shape
    halo: Shape
    align: Shape

    def __post_init__(self) -> None:
        """Refuse arguments that differ in their number of axes, or a block or shape that is not positive."""
        shape, block, halo, align = self.shape, self.block, self.halo, self.align
        if not len(shape) == len(block) == len(halo) == len(align):
            raise InputError(f"shape {shape}, block {block} and halo {halo} must have as many axes")
        if min(shape) < 1 or min(block) < 1 or min(halo) < 0 or min(align) < 1:
            raise InputError(f"shape {shape} and block {block} must be positive and halo {halo} not negative")

    @property
    def counts(self) -> Shape:
        """Number of blocks along each axis."""
        return tuple(-(-extent // size) for extent, size in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        """Return the number of blocks."""
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks in C order of the grid."""
        return map(self.at, itertools.product(*map(range, self.counts)))

    def at(self, index: Shape) -> Block:
        """Return the block at a position in the grid."""
        start = tuple(i * size for i, size in zip(index, self.block, strict=True))
        write = Box(start, tuple(s + size for s, size in zip(start, self.block, strict=True))).clip(self.shape)
        grown = write.grow(self.halo).clip(self.shape)
        read = Box(tuple(low // a * a for low, a in zip(grown.start, self.align, strict=True)), grown.stop)
        return Block(tuple(index), read, write, write.shift(tuple(-low for low in read.start)))


def cover(
    shape: Sequence[int], block: Sequence[int], halo: Sequence[int], align: Sequence[int] | None = None
) -> list[Block]:
    """List the blocks of an array; see :class:`BlockGrid`, by which `align` is 1 if not given.

    Returns
    -------
    list of Block
        In C order of the grid. The write boxes are disjoint and cover the array.

    Raises
    ------
    InputError
        If the arguments differ in their number of axes, or a block or shape is not positive.
    """
    return list(BlockGrid(tuple(shape), tuple(block), tuple(halo), tuple(align or (1,) * len(shape))))
