"""Neighbours of voxels, each pair of voxels once, and what touches across the border of a block."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.geometry import Box
from fewslice.segmenters import CONTACT, JOIN, Place

__all__ = ["FORWARD", "border_joins", "forward", "position", "unique_contacts"]

Offset = tuple[int, int, int]

FORWARD: tuple[Offset, ...] = tuple(o for o in itertools.product((-1, 0, 1), repeat=3) if o > (0, 0, 0))  # type: ignore[misc]
"""The 13 of the 26 neighbours that come later in C order."""


def forward(connectivity: int) -> tuple[Offset, ...]:
    """Return the later neighbours at a `connectivity` of 6, 18 or 26."""
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    return tuple(o for o in FORWARD if sum(map(abs, o)) <= reach)


def position(index: npt.NDArray[np.int64], box: Box, shape: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """Turn places (C order) in a box into places in the volume of `shape`; the box may start before the volume."""
    z, y, x = np.unravel_index(index, box.shape)
    dz, dy, dx = box.start
    result: npt.NDArray[np.int64] = ((z + dz) * shape[1] + (y + dy)) * shape[2] + (x + dx)
    return result


def border_joins(
    labels: npt.NDArray[np.uint32], classes: npt.NDArray[Any], place: Place, connectivity: int
) -> npt.NDArray[np.void]:
    """List what touches across the later borders of a block.

    Parameters
    ----------
    labels
        (z, y, x) regions over ``place.block.write``.
    classes
        (z, y, x) over ``place.block.read``, which reaches at least one voxel further; only equal classes touch.
    place
        Where.
    connectivity
        6, 18 or 26.

    Returns
    -------
    numpy.ndarray
        Contacts (:data:`~fewslice.segmenters.JOIN`) of regions with voxels outside.
    """
    write, read = place.block.write, place.block.read
    found = []
    for offset in forward(connectivity):
        for axis in range(3):  # the voxels of one side of the block whose neighbour at this offset lies outside
            if offset[axis] == 0:
                continue
            start, stop = list(write.start), list(write.stop)
            start[axis], stop[axis] = (
                (write.stop[axis] - 1, write.stop[axis])
                if offset[axis] > 0
                else (write.start[axis], write.start[axis] + 1)
            )
            there = Box(tuple(start), tuple(stop)).shift(offset).intersect(Box.of(place.shape))
            if not there.size:
                continue
            here = there.shift(tuple(-o for o in offset))
            ours = classes[here.shift(tuple(-a for a in read.start)).slices]
            theirs = classes[there.shift(tuple(-a for a in read.start)).slices]
            hit = np.flatnonzero((ours == theirs) & (ours > 0))
            contacts = np.zeros(hit.size, dtype=CONTACT)
            contacts["a"] = labels[here.shift(tuple(-a for a in write.start)).slices].ravel()[hit]
            contacts["b"] = -1 - position(hit, there, place.shape)
            contacts["saddle"] = JOIN
            found.append(contacts)
    return unique_contacts(np.concatenate(found)) if found else np.zeros(0, dtype=CONTACT)


def unique_contacts(contacts: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Keep of every pair (a, b) the highest pass, the first in the volume among equal ones; in ascending order."""
    order = np.lexsort((contacts["order"], -contacts["saddle"].astype(np.int64), contacts["b"], contacts["a"]))
    kept = contacts[order]
    new = np.ones(kept.size, dtype=bool)
    new[1:] = (kept["a"][1:] != kept["a"][:-1]) | (kept["b"][1:] != kept["b"][:-1])
    return kept[new]
