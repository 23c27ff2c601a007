"""Which planes and windows to annotate next.

A plane is worth annotating where the model is uncertain, and far from what is annotated. Planes are chosen one after
the other, each time the one with the highest score::

    score = U / max U × min(1, d / r)

U is the plane's mean uncertainty and d its distance, in planes, to the nearest one that is annotated or chosen already.
r is the distance at which all of them would lie were they spread evenly, at least 2. A plane beside an annotated or
chosen one is taken only when there is no other. Windows are boxes in a plane with the highest mean uncertainty that do
not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice.errors import InputError

__all__ = ["Choice", "Window", "choose_planes", "choose_windows"]

Array = NDArray[np.float64]

_NOT_BESIDE = 2


@dataclass(frozen=True)
class Choice:
    """A plane to annotate.

    Attributes
    ----------
    sample, plane
        Which sample, and its index along the axis of the planes.
    score
        0–1, comparable within one plan.
    """

    sample: int
    plane: int
    score: float


@dataclass(frozen=True)
class Window:
    """A window in a plane.

    Attributes
    ----------
    rows, columns
        Start and stop (excluded) along the plane's two axes, in voxels.
    uncertainty
        Mean over the window, 0–1.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    uncertainty: float


def choose_planes(
    uncertainty: Sequence[NDArray[Any]], annotated: Sequence[NDArray[np.bool_]], count: int
) -> list[Choice]:
    """Choose the next planes of one or several volumes greedily; see the module for the rule.

    Parameters
    ----------
    uncertainty
        Per volume (planes,) mean uncertainty, at least 0.
    annotated
        Per volume (planes,) bool: something is annotated on the plane. Such planes are never chosen.
    count
        How many; fewer are returned where fewer are left.

    Returns
    -------
    list of Choice
        In the order in which to annotate them. Where nothing is uncertain, distance alone decides.

    Raises
    ------
    InputError
        If the volumes' lists do not fit each other.
    """
    shapes = [u.shape for u in uncertainty], [a.shape for a in annotated]
    if shapes[0] != shapes[1] or count < 0:
        raise InputError(f"uncertainty of shapes {shapes[0]} does not fit annotated of shapes {shapes[1]}")
    sample = np.repeat(np.arange(len(uncertainty)), [u.size for u in uncertainty])
    index = np.concatenate([np.arange(u.size) for u in uncertainty] or [np.zeros(0, int)])
    taken = np.concatenate([*annotated, np.zeros(0, bool)])
    values = np.concatenate([*uncertainty, np.zeros(0)]).astype(float)
    highest = values[~taken].max(initial=0.0)
    share = np.ones_like(values)
    if highest > 0:  # of what is not annotated; what is may be anything, and is never chosen
        np.divide(values, highest, out=share, where=~taken)
    reach = max(2.0, taken.size / (taken.sum() + count + 1))
    distance = np.full(taken.size, np.inf)
    for place in map(int, np.flatnonzero(taken)):
        _approach(distance, sample, index, place)
    chosen: list[Choice] = []
    while len(chosen) < count and not taken.all():
        apart = ~taken & (distance >= _NOT_BESIDE)
        score = np.where(apart if apart.any() else ~taken, share * np.minimum(1.0, distance / reach), -1.0)
        place = int(score.argmax())
        chosen.append(Choice(int(sample[place]), int(index[place]), float(score[place])))
        taken[place] = True
        _approach(distance, sample, index, place)
    return chosen


def _approach(distance: Array, sample: NDArray[np.int64], index: NDArray[np.int64], place: int) -> None:
    """Lower the distances of the planes of one volume for a plane that is annotated or chosen."""
    near = np.where(sample == sample[place], np.abs(index - index[place]), np.inf)
    np.minimum(distance, near, out=distance)


def choose_windows(
    uncertainty: NDArray[Any], window: tuple[int, int], count: int, annotated: NDArray[np.bool_] | None = None
) -> list[Window]:
    """Choose the most uncertain windows of a plane that do not overlap and hold no annotated pixel.

    Parameters
    ----------
    uncertainty
        (rows, columns), 0–1.
    window
        Rows and columns of a window; cut to the plane where that is smaller.
    count
        At most so many.
    annotated
        (rows, columns) bool, or None for a plane without annotation.

    Returns
    -------
    list of Window
        The most uncertain first; windows without any uncertainty are left out. Positions are tried in steps of an
        eighth of the window.
    """
    height, width = (min(w, extent) for w, extent in zip(window, uncertainty.shape, strict=True))
    rows, columns = (
        np.unique([*range(0, extent - side + 1, max(1, side // 8)), extent - side])
        for extent, side in zip(uncertainty.shape, (height, width), strict=True)
    )
    mean = _sums(uncertainty.astype(float), rows, columns, height, width) / (height * width)
    free = np.ones(mean.shape, dtype=bool)
    if annotated is not None:
        free = _sums(annotated.astype(float), rows, columns, height, width) < 0.5
    found: list[Window] = []
    while len(found) < count and (mean * free).max(initial=0.0) > 1e-12:
        i, j = np.unravel_index(int(np.where(free, mean, -1.0).argmax()), mean.shape)
        row, column = int(rows[i]), int(columns[j])
        found.append(Window((row, row + height), (column, column + width), min(1.0, float(mean[i, j]))))
        overlapping = (np.abs(rows - row) < height)[:, None] & (np.abs(columns - column) < width)[None, :]
        free &= ~overlapping
    return found


def _sums(
    values: Array, rows: NDArray[np.int64], columns: NDArray[np.int64], height: int, width: int
) -> NDArray[np.float64]:
    """Return the sum over the window at every position, from a table of sums over all rectangles at the origin."""
    table = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    low, high = table[rows], table[rows + height]
    sums: Array = high[:, columns + width] - high[:, columns] - low[:, columns + width] + low[:, columns]
    return sums
