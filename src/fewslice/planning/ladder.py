"""Which annotated planes train and which judge: folds, and within each fold nested subsets of ever more planes.

1. :func:`annotated_planes` lists the planes, and what they can be used for.
2. :func:`build_ladder` deals those with foreground out to folds, one by one, or in contiguous slabs where planes are
   dense. A fold holds its own planes out; planes nearer to them than a gap are not used in it, since a neighbouring
   plane is nearly a copy. The others train, in an order in which every beginning is spread over the volume, so that
   fewer planes are a subset of more.
3. :func:`cross_fitted_dice` turns counts of voxels into Dice, each fold at the threshold that is best for the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice.annotation import Annotation

__all__ = ["GAP", "Fold", "Ladder", "Plane", "annotated_planes", "build_ladder", "cross_fitted_dice", "spread_order"]

GAP = 3
"""Planes between one that trains and one that judges, as for validation: 3 leaves two unused in between."""
FEWEST_PLANES = 4
_MOST_FOLDS = 4
_RUNGS = 4
_KEEP_AT_LEAST = 0.5
"""Share of the planes that every fold should train on; where single planes held out leave fewer, slabs are."""
_SUBSTANTIAL = 0.1
"""A plane with fewer annotated voxels than this share of the fullest one is not counted."""


@dataclass(frozen=True)
class Plane:
    """One annotated plane.

    Attributes
    ----------
    sample, index
        Which sample it belongs to, and where it lies in it.
    has_foreground, has_background
        What is annotated on it.
    """

    sample: int
    index: int
    has_foreground: bool = True
    has_background: bool = True


@dataclass(frozen=True)
class Fold:
    """What one fold holds out, and the planes it trains on, in order: the first n of them are its subset of n."""

    held: tuple[Plane, ...]
    training: tuple[Plane, ...]


@dataclass(frozen=True)
class Ladder:
    """What is to be trained.

    Attributes
    ----------
    planes
        All annotated planes.
    folds
        At least two of them, or none where `reason` says why.
    sizes
        Numbers of training planes, ascending, the same in every fold.
    reason
        Why nothing can be measured; empty where it can.
    """

    planes: tuple[Plane, ...]
    folds: tuple[Fold, ...] = ()
    sizes: tuple[int, ...] = ()
    reason: str = ""


def annotated_planes(annotations: Sequence[Annotation | None], axis: int) -> tuple[Plane, ...]:
    """List the annotated planes of all samples along an axis (0, 1, 2 = z, y, x), without those with hardly a voxel."""
    found: list[tuple[Plane, int]] = []
    for number, annotation in enumerate(annotations):
        if annotation is None:
            continue
        labels, known = (np.moveaxis(a, axis, 0) for a in (annotation.labels, annotation.annotated))
        for index in annotation.planes(axis):
            values = labels[index][known[index]] > 0
            found.append((Plane(number, index, bool(values.any()), not values.all()), values.size))
    fullest = max((size for _, size in found), default=0)
    return tuple(plane for plane, size in found if size >= _SUBSTANTIAL * fullest)


def build_ladder(planes: Sequence[Plane], generator: np.random.Generator, *, gap: int = GAP) -> Ladder:
    """Deal planes out to folds, or say why that cannot be.

    Parameters
    ----------
    planes
        All annotated planes; those with foreground judge, all of them train.
    generator
        Draws the plane with which each fold begins.
    gap
        Smallest distance, in planes, between a plane that trains and one that judges.
    """
    every = tuple(planes)
    judges = [plane for plane in every if plane.has_foreground]
    if len(every) < FEWEST_PLANES:
        return Ladder(every, reason=f"only {_count(len(every))} annotated and it takes {FEWEST_PLANES}")
    if len(judges) < FEWEST_PLANES:
        return Ladder(
            every, reason=f"only {_count(len(judges))} annotated with foreground and it takes {FEWEST_PLANES}"
        )
    count = min(_MOST_FOLDS, len(judges))
    dealt = [[judges[number::count] for number in range(count)], _slabs(judges, count)]
    kept = [[(held, _apart(every, held, gap)) for held in way] for way in dealt]
    fewest = [min(len(left) for _, left in way) for way in kept]
    chosen = kept[0] if fewest[0] >= min(fewest[1], _KEEP_AT_LEAST * len(every)) else kept[1]
    folds = [Fold(tuple(held), tuple(spread_order(left, generator))) for held, left in chosen]
    most = min(len(fold.training) for fold in folds)
    sizes = tuple(sorted({max(1, round(most / 2**rung)) for rung in range(_RUNGS)}))
    if len(sizes) < 3:
        return Ladder(every, reason=f"the annotated planes lie so close that a gap of {gap} leaves too few to train on")
    return Ladder(every, tuple(folds), sizes)


def _count(planes: int) -> str:
    return "1 plane is" if planes == 1 else f"{planes} planes are"


def _slabs(planes: Sequence[Plane], count: int) -> list[list[Plane]]:
    """Cut planes into `count` runs of neighbours, of as many planes each as can be."""
    order = sorted(planes, key=lambda plane: (plane.sample, plane.index))
    ends = [round(len(order) * number / count) for number in range(count + 1)]
    return [order[low:high] for low, high in itertools.pairwise(ends)]


def _apart(planes: Sequence[Plane], held: Sequence[Plane], gap: int) -> list[Plane]:
    """Choose the planes that are at least `gap` from all that are held out."""
    near = {(h.sample, h.index + offset) for h in held for offset in range(1 - gap, gap)}
    return [plane for plane in planes if (plane.sample, plane.index) not in near]


def spread_order(planes: Sequence[Plane], generator: np.random.Generator) -> list[Plane]:
    """Order planes so that every beginning is spread: always the plane that is farthest from all before it.

    The first is drawn among those with foreground and background, without which nothing can be learned; nothing is
    returned where there is none. Of planes equally far, as in other samples, the first one listed follows.
    """
    starts = [plane for plane in planes if plane.has_foreground and plane.has_background]
    if not starts:
        return []
    sample, index = (np.array([getattr(plane, name) for plane in planes]) for name in ("sample", "index"))
    nearest = np.full(len(planes), np.inf)  # distance to the nearest plane taken so far; -1: taken itself
    taken = planes.index(starts[int(generator.integers(len(starts)))])
    order: list[Plane] = []
    while len(order) < len(planes):
        order.append(planes[taken])
        away = np.where(sample == sample[taken], np.abs(index - index[taken]), np.inf)
        nearest = np.minimum(nearest, away)
        nearest[taken] = -1
        taken = int(np.argmax(nearest))
    return order


def cross_fitted_dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the foreground Dice of every fold at the threshold that is best for the other folds together.

    So it is judged as a finished model is: at a threshold chosen on annotation that was held out, but not on what it is
    judged by.

    Parameters
    ----------
    counts
        (folds, thresholds, 2, 2) voxels, ``[[TN, FP], [FN, TP]]``, at least two folds.

    Returns
    -------
    ndarray
        (folds,) Dice, 0–1.
    """
    others = counts.sum(axis=0) - counts
    return np.array([float(_dice(own)[_best(_dice(rest))]) for own, rest in zip(counts, others, strict=True)])


def _dice(counts: NDArray[Any]) -> NDArray[np.float64]:
    tp, wrong = counts[:, 1, 1], counts[:, 0, 1] + counts[:, 1, 0]
    dice: NDArray[np.float64] = 2.0 * tp / np.maximum(2 * tp + wrong, 1)
    return dice


def _best(dice: NDArray[np.float64]) -> int:
    """Return the index of the largest value; the middle one of equals."""
    equals = np.flatnonzero(dice >= dice.max() - 1e-12)
    return int(equals[len(equals) // 2])
