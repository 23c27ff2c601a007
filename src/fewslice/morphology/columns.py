"""The operator along z on volumes that do not fit in memory: the same result, column by column.

A column is a tile of the plane over all of z. Every step but one is pointwise in the plane, or looks a known distance
further at annotated planes (erosion), so a column is enough for it. Dropping small components is the exception: one may
wind through many columns, and its area is known only when all were seen. So the columns are swept once per drop:

1. First sweep: masks and truth are read and stored as they are; components are counted, those of the propagated sets
   as well.
2. Seven more sweeps. Each drops what the last one counted, does the next pass, stores the column and counts again:
   the second propagates and does the first pass, the others do one pass each, the last only drops.

Between two sweeps stands the store and, of the counts, what borders cut (:mod:`fewslice.morphology.components`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.geometry import Block, Box, cover
from fewslice.morphology import continuity
from fewslice.morphology.components import Mask, TileCount, Totals
from fewslice.morphology.continuity import PixelSizes

__all__ = ["MaskStore", "clean_columns"]


class MaskStore(Protocol):
    """Where masks are kept between sweeps, for example a label image opened by :func:`fewslice.io.open_output`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows, columns."""
        ...

    def read(self, box: Box, /) -> npt.NDArray[Any]:
        """Return a region (z, y, x); non-zero is foreground."""
        ...

    def write(self, box: Box, values: npt.NDArray[Any], /) -> None:
        """Replace a region (z, y, x) by uint8 zeros and ones."""
        ...


def clean_columns(
    read: Callable[[Box], Mask],
    read_truth: Callable[[Box], Mask],
    known: Mask,
    store: MaskStore,
    sizes: PixelSizes,
    tile: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Clean the masks of a volume of any size; the result is that of :func:`fewslice.morphology.clean`.

    Parameters
    ----------
    read
        Returns the predicted foreground of a region, bool (z, y, x). Called once per column, before anything is
        written there.
    read_truth
        Returns the true foreground of a region, bool (z, y, x). Called for one annotated plane at a time, three times
        per column: for the column, and twice for as far around it as erosion looks.
    known
        Which planes are annotated completely, bool (z,).
    store
        Receives the result; its shape is the volume's. It is written eight times, so one that was left half-way holds
        nothing of use: clean again.
    sizes
        In pixels; see :func:`fewslice.morphology.in_pixels`.
    tile
        Rows and columns of a column of voxels, whole chunks of the store. Memory: about four times such a column (one
        byte per voxel), an annotated plane around it, and for every plane one row of pixels (up to 48 bytes each).
    progress
        Called with (columns done, columns in all), over all sweeps.

    Raises
    ------
    InputError
        If the tile is not two positive numbers, known planes or what is read do not fit the store, or a tile does not
        consist of whole chunks.
    """
    if len(tile) != 2 or min(tile) < 1:
        raise InputError(f"tile must be two positive numbers of pixels, rows and columns, got {tuple(tile)}")
    continuity.check_known(known, store.shape[0])
    columns = _Columns(read, read_truth, known, store, sizes, tile, progress)
    small, reached = columns.survey()
    for number in range(len(continuity.PASSES) + 1):
        small = columns.sweep(number, small, reached)


class _Columns:
    """The columns of one volume, and one method per kind of sweep."""

    def __init__(
        self,
        read: Callable[[Box], Mask],
        read_truth: Callable[[Box], Mask],
        known: Mask,
        store: MaskStore,
        sizes: PixelSizes,
        tile: Sequence[int],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.read, self.read_truth, self.known, self.store, self.sizes = read, read_truth, known, store, sizes
        halo = (math.ceil(pixels * continuity.farthest(known)) for pixels in sizes.erosion)
        self.blocks = cover(store.shape, (store.shape[0], *tile), (0, *halo))
        self.progress = progress or (lambda done, total: None)
        self.done = 0

    def survey(self) -> tuple[Totals, Totals]:
        """Store masks and truth; count components of both the masks and the propagated sets."""
        small, reached = self._count(), self._count(stacks=2)
        for number, block in enumerate(self.blocks):
            column = _checked(self.read(block.write), block.write, "read").copy()
            for z in np.flatnonzero(self.known).tolist():
                column[z] = self._truth(_plane(block.write, z))
            reached.begin(number, block.write)
            for row, mask in self._reach(block):
                reached.add(row, mask)
            self._add(small, number, block, column)
            self._write(block, column)
        return small.totals(), reached.totals()

    def sweep(self, number: int, small: Totals, reached: Totals) -> Totals:
        """Drop what was counted, do pass `number` where there is one, store, and count for the next sweep."""
        following = self._count()
        for tile, block in enumerate(self.blocks):
            column = _checked(self.store.read(block.write) != 0, block.write, "the store")
            for z in np.flatnonzero(~self.known).tolist():
                column[z] = small.drop(tile, z, column[z], self.sizes.min_area)
            if number == 0:
                for row, mask in self._reach(block):
                    column[row // 2] |= reached.drop(tile, row, mask, self.sizes.propagated_min_area)
            if number < len(continuity.PASSES):
                column = continuity.PASSES[number](column, self.known)
                self._add(following, tile, block, column)
            self._write(block, column)
        return following.totals()

    def _add(self, count: TileCount, tile: int, block: Block, column: Mask) -> None:
        count.begin(tile, block.write)
        for z in np.flatnonzero(~self.known).tolist():
            count.add(z, column[z])

    def _write(self, block: Block, column: Mask) -> None:
        self.store.write(block.write, column.astype(np.uint8))
        self.done += 1
        self.progress(self.done, len(self.blocks) * (len(continuity.PASSES) + 2))

    def _reach(self, block: Block) -> Iterator[tuple[int, Mask]]:
        """Yield what is propagated into a column, of every plane (z, direction) under the number 2 z + direction."""

        def read(z: int) -> Mask:
            return self._truth(_plane(block.read, z))

        for z, direction, mask in continuity.reach(read, self.known, self.sizes.erosion):
            yield 2 * z + direction, mask[block.crop.slices[1:]]

    def _truth(self, box: Box) -> Mask:
        plane: Mask = _checked(self.read_truth(box), box, "read_truth")[0]
        return plane

    def _count(self, stacks: int = 1) -> TileCount:
        depth, _, width = self.store.shape
        return TileCount(len(self.blocks), stacks * depth, width)


def _plane(box: Box, z: int) -> Box:
    return Box((z, *box.start[1:]), (z + 1, *box.stop[1:]))


def _checked(values: Mask, box: Box, what: str) -> Mask:
    if values.shape != box.shape or values.dtype != np.bool_:
        raise InputError(
            f"{what} gave {values.dtype} of shape {values.shape} for {box.start} to {box.stop} (z, y, x); "
            f"expected bool {box.shape}"
        )
    return values
