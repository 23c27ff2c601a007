"""Cells that lie over each other in a plane: which of them are seen, and their exact annotation.

1. :func:`cut_out` makes masks, tight to each cell's bounding box.
2. :func:`stack` goes from the topmost cell down, drops those that are hidden, and says which cell owns each pixel.
3. :func:`annotate` cuts that to the picture and numbers what is visible in it, from the lowest to the topmost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewslice.synthesis.simulation import Footprint

__all__ = ["Annotation", "Drawn", "Stack", "annotate", "cut_out", "stack"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Drawn:
    """One cell on the canvas: the corner (y, x) of its bounding box, and (h, w) bool, True inside."""

    start: tuple[int, int]
    mask: Mask

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its box, to index the canvas."""
        (y, x), (height, width) = self.start, self.mask.shape
        return slice(y, y + height), slice(x, x + width)


@dataclass(frozen=True)
class Stack:
    """Cells that are seen.

    Attributes
    ----------
    kept
        Indices of the cells that are seen, from the lowest to the topmost.
    owner
        (y, x) int32 on the canvas: 0, or the index of the topmost cell + 1.
    """

    kept: npt.NDArray[np.intp]
    owner: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Annotation:
    """Instances (y, x) uint32, classes (y, x) uint8, and footprints from the lowest to the topmost."""

    instances: npt.NDArray[np.uint32]
    classes: npt.NDArray[np.uint8]
    footprints: tuple[Footprint, ...]


def cut_out(inside: Mask, start: npt.NDArray[np.intp]) -> list[Drawn | None]:
    """Cut masks to their bounding boxes.

    Parameters
    ----------
    inside
        (n, h, w) bool.
    start
        (n, 2) corner y, x of each on the canvas.

    Returns
    -------
    list
        None for a mask that is empty.
    """
    ends = []
    for axis in (2, 1):
        line = np.asarray(inside.any(axis=axis))
        last = line.shape[1] - line[:, ::-1].argmax(axis=1)
        ends.append((line.argmax(axis=1), last, np.asarray(line.any(axis=1))))
    (top, bottom, any_), (left, right, _) = ends
    return [
        Drawn((int(y + t), int(x + e)), mask[t:b, e:r].copy()) if some else None
        for mask, (y, x), t, b, e, r, some in zip(inside, start, top, bottom, left, right, any_, strict=True)
    ]


def stack(cells: Sequence[Drawn | None], canvas: tuple[int, int], least: float) -> Stack:
    """Find the cells that show at least the share `least` of themselves.

    Parameters
    ----------
    cells
        From the lowest to the topmost; None is a cell without a pixel, which is not seen.
    canvas
        Height and width; every box lies inside.
    least
        Share of a cell's pixels that nothing above it covers, 0 to 1. A cell of which nothing is visible is never seen.
    """
    owner = np.zeros(canvas, dtype=np.int32)
    kept = []
    for index in range(len(cells) - 1, -1, -1):
        cell = cells[index]
        if cell is None:
            continue
        here = owner[cell.slices]
        free = here == 0
        free &= cell.mask
        visible = np.count_nonzero(free)
        if visible and visible >= least * np.count_nonzero(cell.mask):
            kept.append(index)
            here[free] = index + 1
    return Stack(np.array(kept[::-1], dtype=np.intp), owner)


def annotate(
    cells: Sequence[Drawn | None], kinds: npt.NDArray[np.uint8], stacked: Stack, inside: tuple[slice, slice]
) -> Annotation:
    """Give numbers to the cells that are visible inside a part of the canvas.

    Parameters
    ----------
    cells, stacked
        As for and from :func:`stack`.
    kinds
        (n,) class of each cell.
    inside
        The part that becomes the picture.

    Returns
    -------
    Annotation
        A cell of which no pixel is visible inside has no number and no footprint.
    """
    cut = stacked.owner[inside]
    visible = np.flatnonzero(np.bincount(cut.ravel(), minlength=len(cells) + 1)[1:])
    numbers = np.zeros(len(cells) + 1, dtype=np.uint32)
    numbers[visible + 1] = np.arange(1, len(visible) + 1)
    classes = np.concatenate([[0], kinds]).astype(np.uint8)
    found = (cells[int(index)] for index in visible)
    footprints = tuple(_footprint(cell, inside) for cell in found if cell is not None)
    return Annotation(numbers[cut], classes[cut], footprints)


def _footprint(cell: Drawn, inside: tuple[slice, slice]) -> Footprint:
    """Cut a cell to the picture."""
    (y, x), (height, width) = cell.start, cell.mask.shape
    rows, columns = inside
    start = (0, y - rows.start, x - columns.start)
    if y >= rows.start and x >= columns.start and y + height <= rows.stop and x + width <= columns.stop:
        return Footprint(start, cell.mask[None])
    top, left = max(-start[1], 0), max(-start[2], 0)
    mask = cell.mask[top : max(rows.stop - y, 0), left : max(columns.stop - x, 0)]
    (part,) = cut_out(mask[None], np.array([[start[1] + top, start[2] + left]]))
    assert part is not None  # it is visible inside
    return Footprint((0, *part.start), part.mask[None])
