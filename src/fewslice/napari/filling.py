"""Smart fill: the planes between two that are done, filled by interpolation, for a person to correct.

Filled planes are not marked as done, so that they do not count as annotated until somebody says they do.

1. :func:`gap_around` finds the done planes on both sides; :class:`Gap` holds the labels as they are then.
2. :meth:`Gap.interpolated` takes seconds to minutes and looks at nothing else, so that it may run in a thread.
3. :func:`stroke_of` keeps of that what is still free in the labels, which may have been painted on meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fewslice.annotation import AXIS_NAMES
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.morphology import interpolate_signed_distance
from fewslice.napari.edits import EditedArray, Stroke
from fewslice.napari.session import Session
from fewslice.volume import Triple

__all__ = ["Filled", "Gap", "gap_around", "gap_of", "stroke_of"]


@dataclass(frozen=True)
class Filled:
    """Labels (z, y, x) of a box, interpolated; 0 where there is nothing to fill in."""

    box: Box
    labels: npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Gap:
    """Planes between two that are done.

    Attributes
    ----------
    labels
        The labels as they were when the gap was found.
    axis
        0 z, 1 y, 2 x.
    box
        From the first to the last of the two planes that are done.
    voxel_size_um
        z, y, x in µm, or None.
    """

    labels: EditedArray
    axis: int
    box: Box
    voxel_size_um: Triple | None

    def interpolated(self) -> Filled:
        """Interpolate by signed distances (:func:`fewslice.morphology.interpolate_signed_distance`)."""
        labels = self.labels.read(self.box)
        known = np.zeros(labels.shape[self.axis], dtype=np.bool_)
        known[[0, -1]] = True
        order = (self.axis, *(a for a in range(3) if a != self.axis))
        along = np.ascontiguousarray(labels.transpose(order))
        turned = None if self.voxel_size_um is None else [self.voxel_size_um[a] for a in order]
        filled = interpolate_signed_distance(along, known, turned).transpose(np.argsort(order))
        return Filled(self.box, filled)


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


def gap_of(session: Session, axis: int, index: int) -> Gap:
    """Return the gap around a plane, with the labels as they are now.

    Parameters
    ----------
    session
        The session; what was painted is committed.
    axis, index
        The plane, 0-based, along axis 0 z, 1 y, 2 x.

    Raises
    ------
    InputError
        As :func:`gap_around`.
    """
    session.commit()
    first, last = gap_around(session, axis, index)
    start, stop = [0, 0, 0], list(session.labels.shape)
    start[axis], stop[axis] = first, last + 1
    return Gap(session.labels.snapshot(), axis, Box(tuple(start), tuple(stop)), session.voxel_size_um)


def stroke_of(session: Session, filled: Filled) -> Stroke:
    """Return the stroke that fills in what was interpolated.

    What is labelled already, and every voxel that a hand has set, erased ones included, stays as it is; so do planes
    that are done, along any axis.

    Parameters
    ----------
    session
        The session as it is now; it is not changed.
    filled
        What was interpolated.

    Raises
    ------
    InputError
        If there is nothing to fill in.
    """
    box = filled.box
    labels = session.labels.read(box)
    free = (labels == 0) & (filled.labels != 0) & ~session.made_by_hand(box)
    for axis, index in session.done:
        if box.start[axis] <= index < box.stop[axis]:
            free[(slice(None),) * axis + (index - box.start[axis],)] = False
    places = np.nonzero(free)
    if places[0].size == 0:
        raise InputError("there is nothing to fill in between these planes; they show no label, or all is painted")
    spots = tuple(p + s for p, s in zip(places, box.start, strict=True))
    indices = np.ravel_multi_index(spots, session.labels.shape).astype(np.int64)
    return Stroke(indices, labels[places], filled.labels[places])
