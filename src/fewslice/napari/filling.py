"""Smart fill: the planes between two that are done, filled by interpolation, for a person to correct.

Filled planes are not marked as done, so that they do not count as annotated until somebody says they do.
"""

from __future__ import annotations

import numpy as np

from fewslice.annotation import AXIS_NAMES
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.morphology import interpolate_signed_distance
from fewslice.napari.edits import Stroke
from fewslice.napari.session import Session

__all__ = ["fill_between", "gap_around"]


def gap_around(session: Session, axis: int, index: int) -> tuple[int, int]:
    """Return the planes that are done before and behind a plane that is not.

    Raises
    ------
    InputError
        If the plane is done itself, or there is none on one of the sides.
    """
    done = sorted(i for a, i in session.done if a == axis)
    letter = AXIS_NAMES[axis]
    if index in done:
        raise InputError(f"plane {letter} = {index} is done already; go to a plane between two that are done")
    before, after = [i for i in done if i < index], [i for i in done if i > index]
    if not before or not after:
        side = "before" if not before else "behind"
        raise InputError(
            f"no plane along {letter} {side} {index} is done, so there is nothing to interpolate from; "
            "paint one there and mark it as done"
        )
    return before[-1], after[0]


def fill_between(session: Session, axis: int, index: int) -> Stroke:
    """Return the stroke that fills the planes between the two done ones around a plane.

    Labels are interpolated by signed distances (:func:`fewslice.morphology.interpolate_signed_distance`). What is
    labelled already, and every voxel that a hand has set, erased ones included, stays as it is; so do planes that are
    done along another axis.

    Parameters
    ----------
    session
        The session; it is not changed.
    axis, index
        The plane, 0-based, along axis 0 z, 1 y, 2 x.

    Raises
    ------
    InputError
        As :func:`gap_around`, and if there is nothing to fill in.
    """
    session.commit()
    first, last = gap_around(session, axis, index)
    shape = session.labels.shape
    start, stop = [0, 0, 0], list(shape)
    start[axis], stop[axis] = first, last + 1
    box = Box(tuple(start), tuple(stop))
    labels = session.labels.read(box)
    known = np.zeros(last - first + 1, dtype=np.bool_)
    known[[0, -1]] = True
    order = (axis, *(a for a in range(3) if a != axis))
    along = np.ascontiguousarray(labels.transpose(order))
    voxel = session.voxel_size_um
    turned = None if voxel is None else [voxel[a] for a in order]
    filled = interpolate_signed_distance(along, known, turned).transpose(np.argsort(order))
    free = (labels == 0) & (filled != 0) & ~session.made_by_hand(box)
    for a, i in session.done:
        if box.start[a] <= i < box.stop[a]:
            free[(slice(None),) * a + (i - box.start[a],)] = False
    places = np.nonzero(free)
    if places[0].size == 0:
        raise InputError(
            f"there is nothing to fill in between planes {first} and {last}; they show no label, or all is painted"
        )
    spots = tuple(p + s for p, s in zip(places, box.start, strict=True))
    indices = np.ravel_multi_index(spots, shape).astype(np.int64)
    return Stroke(indices, labels[places], filled[places])
