"""Proposed contours: which of them stand for the same object, and how they become a label image.

1. `Proposals` holds contours of any number of planes as arrays; `join` puts several together.
2. `ranking` orders them by score, equal scores by place: the order does not depend on how the image was cut.
3. `suppress` keeps, best first, those whose box overlaps no better one's (non-maximum suppression).
4. `paint` makes a label image of the contours that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon as filled

from fewslice.data.contours import boxes
from fewslice.errors import InputError

__all__ = ["Proposals", "join", "none", "paint", "ranking", "suppress"]

Ints = NDArray[np.int64]

_AT_FIRST = 2**8
_AT_ONCE = 2**13
_PAIRS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Proposals:
    """Contours that a network proposes.

    Attributes
    ----------
    anchor
        (n, 3) int64: the voxel (z, y, x) from which the contour is proposed, in the core of the object. A proposal
        belongs to the block that holds it.
    score
        (n,) float32 in 0–1.
    category
        (n,) uint8: the class 1, 2, …
    contour
        (n, samples, 2) float32: points in the plane of the anchor, along its two axes in the order of z, y, x, in
        pixels of the whole volume; integers are the centres of pixels.
    plane_axis
        The axis (0, 1, 2 = z, y, x) along which planes are stacked.
    """

    anchor: Ints
    score: NDArray[np.float32]
    category: NDArray[np.uint8]
    contour: NDArray[np.float32]
    plane_axis: int = 0

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        count = len(self.score)
        fits = self.anchor.shape == (count, 3) and self.category.shape == (count,)
        if not fits or self.contour.ndim != 3 or self.contour.shape[0] != count or self.contour.shape[2] != 2:
            raise InputError(
                f"proposals need anchors (n, 3), scores (n,), classes (n,) and contours (n, samples, 2), got "
                f"{self.anchor.shape}, {self.score.shape}, {self.category.shape} and {self.contour.shape}"
            )

    def __len__(self) -> int:
        return len(self.score)

    @property
    def plane(self) -> Ints:
        """(n,) index of the plane of each contour."""
        return self.anchor[:, self.plane_axis]

    def taken(self, index: NDArray[Any]) -> Proposals:
        """Return some of the proposals, by a mask or by indices, in that order."""
        return Proposals(
            self.anchor[index], self.score[index], self.category[index], self.contour[index], self.plane_axis
        )

    def shifted(self, offset: Sequence[int]) -> Proposals:
        """Return the proposals moved by (z, y, x) voxels."""
        within = [o for axis, o in enumerate(offset) if axis != self.plane_axis]
        contour = self.contour + np.asarray(within, np.float32)
        return Proposals(self.anchor + np.asarray(offset), self.score, self.category, contour, self.plane_axis)


def none(plane_axis: int, samples: int) -> Proposals:
    """Return no proposal at all, of contours of so many points."""
    contour = np.zeros((0, samples, 2), np.float32)
    return Proposals(np.zeros((0, 3), np.int64), np.zeros(0, np.float32), np.zeros(0, np.uint8), contour, plane_axis)


def join(parts: Sequence[Proposals]) -> Proposals:
    """Put proposals of one volume together; at least one part, which may be empty."""
    return Proposals(
        np.concatenate([part.anchor for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.category for part in parts]),
        np.concatenate([part.contour for part in parts]),
        parts[0].plane_axis,
    )


def ranking(proposals: Proposals) -> Ints:
    """Return the indices of proposals by descending score, equal scores by ascending anchor (z, then y, then x)."""
    z, y, x = proposals.anchor.T
    return np.lexsort((x, y, z, -proposals.score))


def suppress(proposals: Proposals, *, overlap: float = 0.2, threshold: float = 0.0) -> Proposals:
    """Keep proposals, best first, unless their box overlaps that of a better one that is kept.

    Boxes are those of the contours, in one plane; planes do not touch each other, nor do classes protect from each
    other. Equal scores are decided by place, see `ranking`.

    Parameters
    ----------
    proposals
        Of one or many planes.
    overlap
        Largest IoU of two boxes that are both kept.
    threshold
        Proposals of a lower score are left out before.

    Returns
    -------
    Proposals
        Those kept, in the order of `ranking`. Proposals are gone through a few hundred, later a few thousand at a time,
        and each is compared with those nearby only: time grows with the number of proposals, not with its square. Where
        an object is proposed a hundred times, the best few beat nearly all others.
    """
    order = ranking(proposals)
    order = order[proposals.score[order] >= threshold]
    box = boxes(proposals.contour).astype(np.float64)
    plane = proposals.plane
    kept = np.zeros(0, np.int64)
    start, size = 0, min(_AT_FIRST, _AT_ONCE)
    while start < len(order):
        fresh = order[start : start + size]
        start, size = start + size, min(2 * size, _AT_ONCE)
        _, beaten = _overlapping(box, plane, kept, fresh, overlap)
        fresh = np.delete(fresh, np.unique(beaten))
        better, worse = _overlapping(box, plane, fresh, fresh, overlap)
        kept = np.concatenate((kept, fresh[_greedy(len(fresh), better, worse)]))
    return proposals.taken(kept)


def _greedy(count: int, better: Ints, worse: Ints) -> NDArray[np.bool_]:
    """Return what is kept of elements 0, 1, … by rank, given all pairs of which only one may be kept.

    Round by round: whoever has no better rival left is kept, and its rivals are not. What comes out is what going
    through the elements one by one gives.
    """
    pairs = better < worse
    better, worse = better[pairs], worse[pairs]
    undecided = np.ones(count, bool)
    kept = np.zeros(count, bool)
    while undecided.any():
        rivalled = np.zeros(count, bool)
        rivalled[worse] = True
        winners = undecided & ~rivalled
        kept |= winners
        undecided &= rivalled
        undecided[worse[winners[better]]] = False
        alive = undecided[better] & undecided[worse]
        better, worse = better[alive], worse[alive]
    return kept


def _overlapping(box: NDArray[np.float64], plane: Ints, first: Ints, second: Ints, overlap: float) -> tuple[Ints, Ints]:
    """Return the pairs (positions in `first`, positions in `second`) whose boxes overlap by more than `overlap`.

    Planes are cut into bands along y as high as a typical box. A box of `second` meets in each of its bands those of
    `first` that begin along x no further before it than the widest one is wide, and not behind its end. A pair that
    shares several bands counts in the first of them.
    """
    none = np.zeros(0, np.int64)
    if not len(first) or not len(second):
        return none, none
    low = box[:, 0].min()
    height = max(float(np.median(box[second, 2] - box[second, 0])), 1.0)
    a, a_band = _in_bands(box[first], low, height)
    b, b_band = _in_bands(box[second], low, height)
    bands = int(max(a_band.max(), b_band.max())) + 1
    left = box[:, 1].min()
    span = float(box[:, 3].max() - left) + 1.0
    row_a, row_b = plane[first[a]] * bands + a_band, plane[second[b]] * bands + b_band
    place = row_a * span + (box[first[a], 1] - left)
    by_place = np.argsort(place, kind="stable")
    place = place[by_place]
    widest = float((box[first, 3] - box[first, 1]).max())
    begin, end = row_b * span + (box[second[b], 1:4:2] - left).T
    lo = np.searchsorted(place, np.maximum(begin - widest, row_b * span), side="left")
    hi = np.searchsorted(place, end, side="right")
    found_first, found_second = [none], [none]
    ends = np.cumsum(hi - lo)
    for chunk in _chunks(ends):
        many = (hi - lo)[chunk]
        other = np.repeat(np.arange(chunk.start, chunk.stop), many)
        one = by_place[np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many) + np.repeat(lo[chunk], many)]
        i, j = first[a[one]], second[b[other]]
        top = np.maximum(box[i, 0], box[j, 0])
        once = np.floor((top - low) / height).astype(np.int64) == b_band[other]
        more = once & (_iou(box[i], box[j]) > overlap)
        found_first.append(a[one][more])
        found_second.append(b[other][more])
    return np.concatenate(found_first), np.concatenate(found_second)


def _in_bands(box: NDArray[np.float64], low: float, height: float) -> tuple[Ints, Ints]:
    """Return every (box, band) of boxes that begin at `low` or behind it."""
    begin = np.floor((box[:, 0] - low) / height).astype(np.int64)
    count = np.floor((box[:, 2] - low) / height).astype(np.int64) - begin + 1
    which = np.repeat(np.arange(len(box)), count)
    return which, np.repeat(begin, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def _chunks(ends: Ints) -> list[slice]:
    """Cut elements with these cumulated numbers of pairs so that each part has few pairs, or one element."""
    parts, start = [], 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")), start + 1)
        parts.append(slice(start, stop))
        start = stop
    return parts


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of pairs of boxes (n, 4)."""
    extent = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    common = np.clip(extent, 0.0, None).prod(axis=1)
    area_one, area_other = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (one, other))
    union = area_one + area_other - common
    iou: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou


def paint(contours: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.uint32]:
    """Paint the contours of one plane into a label image.

    Contour i has the id i + 1. A pixel belongs to the first contour that holds its centre: given in the order of
    `ranking`, to the one with the highest score, and ids ascend with descending scores. A contour that holds no pixel's
    centre, or that better ones cover, is not in the image.

    Parameters
    ----------
    contours
        (n, samples, 2), along the two axes of the plane, in pixels.
    shape
        Extents of the plane, in pixels.

    Returns
    -------
    ndarray
        uint32 of `shape`; 0 is background.
    """
    labels = np.zeros(shape, np.uint32)
    for index in reversed(range(len(contours))):
        labels[filled(contours[index, :, 0], contours[index, :, 1], shape)] = index + 1
    return labels
