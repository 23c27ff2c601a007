"""Watershed by steepest ascent, in a form that gives the same regions however the volume is cut.

1. :func:`targets`: every foreground voxel points to the neighbour of its class to which the height rises most steeply;
   on a plateau to a later neighbour (in C order), so that no path is a circle. This depends on the 26 neighbours alone.
2. :func:`summits`: the paths are followed to their end, which is a summit, or a voxel at the rim of what is seen of the
   volume, beyond which nobody here knows where it climbs to. All paths that share an end are one region.
3. :func:`label_regions`: regions of the block's own voxels are numbered. One whose end lies in another block is joined
   with whatever region holds that voxel there. Of all pairs of neighbours in two regions, that with the greatest lower
   height is the pass between them.

Which regions become one object is not decided here (:mod:`fewslice.instances.union`). The ends lie in the halo, at most
`margin` voxels away, because paths that merely cross a face would make as many regions as the face has voxels.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.geometry import Box
from fewslice.segmenters import CONTACT, JOIN, Place, Regions, Triple
from fewslice.segmenters._neighbours import FORWARD, position, unique_contacts

__all__ = ["label_regions", "summits", "targets"]

Ints = npt.NDArray[np.int64]


def label_regions(
    heights: npt.NDArray[np.int32], classes: npt.NDArray[np.uint8], seen: Box, place: Place, spacing: Triple
) -> Regions:
    """Label the regions of one block.

    Parameters
    ----------
    heights
        (z, y, x) int32 over `seen`.
    classes
        (z, y, x) uint8 over `seen`, 0 background; regions never cross classes.
    seen
        The block and a margin of at least two voxels, clipped to the volume; heights must be those of the whole volume
        everywhere in it.
    place
        Where the block is.
    spacing
        (z, y, x) extent of a voxel, by which slopes are measured.
    """
    rim = _rim(seen, place.shape)
    seen = seen.grow((1, 1, 1))  # a layer of background, so that every voxel has 26 neighbours
    flat_classes, flat_heights = np.pad(classes, 1).ravel(), np.pad(heights, 1).ravel()
    inside = np.flatnonzero(flat_classes)
    target = targets(flat_heights, flat_classes, inside, seen.shape, spacing)
    cut = np.pad(rim, 1).ravel()[inside]
    target[cut] = inside[cut]  # not all neighbours of these are seen: where they climb to is known elsewhere
    end = np.zeros(flat_classes.size, dtype=np.int64)
    end[inside] = summits(inside, target, flat_classes.size)

    own = np.zeros(seen.shape, dtype=bool)
    write = place.block.write.shift(tuple(-a for a in seen.start))
    own[write.slices] = True
    own = own.ravel()
    mine = inside[own[inside]]
    ends, numbered = np.unique(end[mine], return_inverse=True)
    labels = np.zeros(flat_classes.size, dtype=np.uint32)
    labels[mine] = numbered + 1
    number = np.zeros(flat_classes.size, dtype=np.int64)  # of the region with this end; 0: none of this block's
    number[ends] = np.arange(1, ends.size + 1)

    away = np.flatnonzero(~own[ends])
    joins = np.zeros(away.size, dtype=CONTACT)
    joins["a"], joins["b"], joins["saddle"] = away + 1, -1 - position(ends[away], seen, place.shape), JOIN
    passes = _passes(flat_heights, flat_classes, mine, end, number, seen, place)
    core = labels.reshape(seen.shape)[write.slices]
    return Regions(np.ascontiguousarray(core), flat_heights[ends], np.concatenate([joins, passes]))


def _rim(seen: Box, shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Mark the outermost voxels of what is seen, where the volume goes on."""
    rim = np.zeros(seen.shape, dtype=bool)
    for axis, extent in enumerate(shape):
        along = np.moveaxis(rim, axis, 0)
        along[0] |= seen.start[axis] > 0
        along[-1] |= seen.stop[axis] < extent
    return rim


def targets(
    heights: npt.NDArray[np.int32],
    classes: npt.NDArray[np.uint8],
    inside: Ints,
    shape: tuple[int, ...],
    spacing: Triple,
) -> Ints:
    """Return where each voxel of `inside` points to; a summit to itself.

    Parameters
    ----------
    heights, classes
        Flat arrays of `shape` with a rim of class 0.
    inside
        Places of the foreground voxels in them, ascending.
    shape
        (z, y, x).
    spacing
        (z, y, x) extent of a voxel.
    """
    strides = (shape[1] * shape[2], shape[2], 1)
    best = np.full(inside.size, -1.0)
    target = inside.copy()
    own_height, own_class = heights[inside].astype(np.int64), classes[inside]
    for offset in itertools.product((-1, 0, 1), repeat=3):
        if offset == (0, 0, 0):
            continue
        there = inside + sum(o * s for o, s in zip(offset, strides, strict=True))
        rise = heights[there] - own_height
        slope = rise / math.hypot(*(o * s for o, s in zip(offset, spacing, strict=True)))
        later = offset > (0, 0, 0)
        steeper = (classes[there] == own_class) & (rise >= 0 if later else rise > 0) & (slope > best)
        best[steeper] = slope[steeper]
        target[steeper] = there[steeper]
    return target


def summits(inside: Ints, target: Ints, size: int) -> Ints:
    """Follow the pointers of the voxels `inside` (flat places, ascending, of an array of `size`) to their ends."""
    place = np.zeros(size, dtype=np.int64)
    place[inside] = np.arange(inside.size)
    parent = place[target]
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return inside[parent]
        parent = further


def _passes(
    heights: npt.NDArray[np.int32],
    classes: npt.NDArray[Any],
    mine: Ints,
    end: Ints,
    number: Ints,
    seen: Box,
    place: Place,
) -> npt.NDArray[np.void]:
    """List the highest pass between any two regions, of the pairs whose earlier voxel is the block's own."""
    strides = (seen.shape[1] * seen.shape[2], seen.shape[2], 1)
    found = []
    for rank, offset in enumerate(FORWARD):
        there = mine + sum(o * s for o, s in zip(offset, strides, strict=True))
        at = np.flatnonzero((classes[there] == classes[mine]) & (end[there] != end[mine]))
        here, there = mine[at], there[at]
        contacts = np.zeros(at.size, dtype=CONTACT)
        beyond = number[end[there]]
        contacts["a"] = number[end[here]]
        contacts["b"] = np.where(beyond > 0, beyond, -1 - position(end[there], seen, place.shape))
        contacts["saddle"] = np.minimum(heights[here], heights[there])
        contacts["order"] = position(here, seen, place.shape) * len(FORWARD) + rank
        swapped = (beyond > 0) & (beyond < contacts["a"])
        contacts["a"][swapped], contacts["b"][swapped] = contacts["b"][swapped], contacts["a"][swapped]
        found.append(contacts)
    return unique_contacts(np.concatenate(found))
