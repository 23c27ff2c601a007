"""How well objects are found: one-to-one matching by overlap, and what follows from it.

1. :func:`count_overlaps` counts which truth shares how many voxels with which prediction: a list of pairs, never a
   table of all objects by all objects. Lists of disjoint voxels are put together by :func:`add_overlaps`.
2. :func:`match` pairs objects at one IoU, each with one at most.
3. :func:`scores` turns the lists of one or several images into numbers, pooled over all objects.

IoU = |t ∩ p| / |t ∪ p|. At a threshold: TP, FP, FN; F1 = 2 TP / (2 TP + FP + FN); AP = TP / (TP + FP + FN), as in the
2018 Data Science Bowl; SQ = mean IoU of the pairs, RQ = F1, PQ = SQ · RQ (Kirillov et al. 2019). What has no object on
either side is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from fewslice.errors import InputError
from fewslice.metrics.intervals import Interval

__all__ = [
    "THRESHOLDS",
    "Match",
    "Overlaps",
    "add_overlaps",
    "bootstrap_cells",
    "count_overlaps",
    "match",
    "scores",
    "split_and_merged",
]

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
How = Literal["optimal", "greedy"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlaps:
    """Which objects share voxels.

    Attributes
    ----------
    truth_ids, truth_sizes, predicted_ids, predicted_sizes
        Objects in ascending order of their ids, and their voxels.
    truth, predicted, voxels
        One entry per pair that shares voxels: positions in the lists of objects, and how many.
    """

    truth_ids: Array
    truth_sizes: Ints
    predicted_ids: Array
    predicted_sizes: Ints
    truth: Ints
    predicted: Ints
    voxels: Ints

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """IoU of each pair, in (0, 1]."""
        union = self.truth_sizes[self.truth] + self.predicted_sizes[self.predicted] - self.voxels
        return self.voxels / union


@dataclass(frozen=True)
class Match:
    """What was found at one threshold; matches of several images add up.

    Attributes
    ----------
    tp, fp, fn
        Pairs, predicted objects without one, true objects without one.
    iou_sum
        Sum of the pairs' IoU.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: Match) -> Match:
        return Match(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou_sum + other.iou_sum)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN), also RQ."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else None

    @property
    def ap(self) -> float | None:
        """TP / (TP + FP + FN)."""
        total = self.tp + self.fp + self.fn
        return self.tp / total if total else None

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU of the pairs, also SQ."""
        return self.iou_sum / self.tp if self.tp else None

    @property
    def pq(self) -> float | None:
        """SQ · RQ; 0 where there are objects but no pair."""
        return None if self.f1 is None else self.f1 * (self.mean_iou or 0.0)


def count_overlaps(truth: Array, predicted: Array, valid: Array | None = None) -> Overlaps:
    """Count the voxels that objects have and share.

    Parameters
    ----------
    truth, predicted
        Unsigned or signed integers of one shape, 0 is background. An object is what has one id, in one piece or
        several, with holes or without.
    valid
        Bool of that shape; voxels where it is false count for neither side. Everywhere by default.

    Raises
    ------
    InputError
        If shapes differ or values are no integers.
    """
    if truth.shape != predicted.shape or (valid is not None and valid.shape != truth.shape):
        shapes = [truth.shape, predicted.shape] + ([] if valid is None else [valid.shape])
        raise InputError(f"truth, prediction and mask must have one shape, got {' and '.join(map(str, shapes))}")
    if truth.dtype.kind not in "iub" or predicted.dtype.kind not in "iub":
        raise InputError(f"objects must be integers, got {truth.dtype} and {predicted.dtype}; label them first")
    chosen = (truth != 0) | (predicted != 0)
    if valid is not None:
        chosen &= valid
    t_ids, t = np.unique(truth[chosen], return_inverse=True)
    p_ids, p = np.unique(predicted[chosen], return_inverse=True)
    key, voxels = np.unique(t.astype(np.int64) * max(p_ids.size, 1) + p, return_counts=True)
    return _overlaps(t_ids, p_ids, key // max(p_ids.size, 1), key % max(p_ids.size, 1), voxels)


def add_overlaps(parts: Sequence[Overlaps]) -> Overlaps:
    """Put together what was counted on disjoint voxels of one image."""
    if not parts:
        raise InputError("no overlaps were given; count at least one part")
    rows: list[tuple[Array, Array, Ints]] = []
    for part in parts:
        inside_t = np.bincount(part.truth, part.voxels, part.truth_ids.size).astype(np.int64)
        inside_p = np.bincount(part.predicted, part.voxels, part.predicted_ids.size).astype(np.int64)
        zero_t, zero_p = np.zeros(part.predicted_ids.size), np.zeros(part.truth_ids.size)
        rows += [
            (part.truth_ids[part.truth], part.predicted_ids[part.predicted], part.voxels),
            (part.truth_ids, zero_p.astype(part.predicted_ids.dtype), part.truth_sizes - inside_t),
            (zero_t.astype(part.truth_ids.dtype), part.predicted_ids, part.predicted_sizes - inside_p),
        ]
    t_ids, t = np.unique(np.concatenate([row[0] for row in rows]), return_inverse=True)
    p_ids, p = np.unique(np.concatenate([row[1] for row in rows]), return_inverse=True)
    key, inverse = np.unique(t.astype(np.int64) * max(p_ids.size, 1) + p, return_inverse=True)
    voxels = np.zeros(key.size, dtype=np.int64)
    np.add.at(voxels, inverse, np.concatenate([row[2] for row in rows]))
    kept = voxels > 0
    key, voxels = key[kept], voxels[kept]
    return _overlaps(t_ids, p_ids, key // max(p_ids.size, 1), key % max(p_ids.size, 1), voxels)


def _overlaps(t_ids: Array, p_ids: Array, t: Ints, p: Ints, voxels: Ints) -> Overlaps:
    """Split the background off: from pairs of positions in `t_ids` and `p_ids`, either of which may be 0."""
    t_sizes = np.bincount(t, voxels, t_ids.size).astype(np.int64)
    p_sizes = np.bincount(p, voxels, p_ids.size).astype(np.int64)
    t_real, p_real = (t_ids != 0) & (t_sizes > 0), (p_ids != 0) & (p_sizes > 0)
    both = t_real[t] & p_real[p]
    t_place, p_place = np.cumsum(t_real) - 1, np.cumsum(p_real) - 1
    return Overlaps(
        t_ids[t_real], t_sizes[t_real], p_ids[p_real], p_sizes[p_real],
        t_place[t[both]], p_place[p[both]], voxels[both].astype(np.int64),
    )  # fmt: skip


def match(overlaps: Overlaps, threshold: float, *, min_size: int = 0, how: How = "optimal") -> Match:
    """Pair objects whose IoU reaches the threshold, each with one at most.

    Parameters
    ----------
    overlaps
        Of one image.
    threshold
        IoU, above 0 and at most 1.
    min_size
        Objects of fewer voxels are ignored on both sides: a small one without a partner counts nowhere, and neither
        does a pair of two small ones; a small one whose partner is not small is a pair as any other, so that an object
        at the limit is no error on either side.
    how
        ``optimal``: as many pairs as possible, and of these the greatest sum of IoU. ``greedy``: the pair of greatest
        IoU first. From above 0.5 on both are the same, since no object has two candidates.

    Raises
    ------
    InputError
        If the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise InputError(f"IoU threshold {threshold} must be above 0 and at most 1")
    rows, columns, iou = _pairs(overlaps, threshold, how)
    t_small, p_small = overlaps.truth_sizes < min_size, overlaps.predicted_sizes < min_size
    counted = ~(t_small[rows] & p_small[columns])
    fn = int(np.count_nonzero(~t_small)) - int(np.count_nonzero(~t_small[rows]))
    fp = int(np.count_nonzero(~p_small)) - int(np.count_nonzero(~p_small[columns]))
    return Match(int(counted.sum()), fp, fn, math.fsum(iou[counted]))  # exact, whatever the order of ids


def _pairs(overlaps: Overlaps, threshold: float, how: How) -> tuple[Ints, Ints, npt.NDArray[np.float64]]:
    iou = overlaps.iou
    good = np.flatnonzero(iou >= threshold)
    rows, columns, iou = overlaps.truth[good], overlaps.predicted[good], iou[good]
    alone = (np.bincount(rows, minlength=1)[rows] == 1) & (np.bincount(columns, minlength=1)[columns] == 1)
    contested = np.flatnonzero(~alone)
    if not contested.size:
        return rows, columns, iou
    choose = _greedy if how == "greedy" else _optimal
    chosen = contested[choose(rows[contested], columns[contested], iou[contested])]
    kept = np.sort(np.concatenate([np.flatnonzero(alone), chosen]))
    return rows[kept], columns[kept], iou[kept]


def _greedy(rows: Ints, columns: Ints, iou: npt.NDArray[np.float64]) -> Ints:
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    chosen = []
    for pair in np.argsort(-iou, kind="stable"):
        row, column = int(rows[pair]), int(columns[pair])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            chosen.append(pair)
    return np.asarray(chosen, dtype=np.int64)


def _optimal(rows: Ints, columns: Ints, iou: npt.NDArray[np.float64]) -> Ints:
    """Assign with sparse costs: every row also has a column of its own, at a cost that any real pair beats."""
    _, r = np.unique(rows, return_inverse=True)
    names, c = np.unique(columns, return_inverse=True)
    count = int(r.max()) + 1
    alone = count + 1.0  # more than all IoU together: first the number of pairs, then their IoU
    cost = np.concatenate([1.0 + 1.0 - iou, np.full(count, 1.0 + alone)])
    where = (np.concatenate([r, np.arange(count)]), np.concatenate([c, names.size + np.arange(count)]))
    table = csr_array((cost, where), shape=(count, names.size + count))
    found_rows, found_columns = min_weight_full_bipartite_matching(table)
    real = found_columns < names.size
    wanted = np.sort(found_rows[real] * names.size + found_columns[real])
    return np.flatnonzero(np.isin(r * names.size + c, wanted)).astype(np.int64)


def split_and_merged(overlaps: Overlaps, *, min_size: int = 0) -> tuple[int, int]:
    """Count splits and merges.

    A predicted object belongs to the true object that holds more than half of its voxels. A true object to which k > 1
    predicted objects belong is k − 1 *splits*. The other way round, k > 1 true objects of which one predicted object
    holds more than half each are k − 1 *merges*. Objects of fewer voxels than `min_size` count for neither.

    Returns
    -------
    splits, merges
        Two integers.
    """
    large = (overlaps.truth_sizes[overlaps.truth] >= min_size) & (
        overlaps.predicted_sizes[overlaps.predicted] >= min_size
    )
    t, p, voxels = overlaps.truth[large], overlaps.predicted[large], overlaps.voxels[large]
    parts = np.bincount(t[2 * voxels > overlaps.predicted_sizes[p]], minlength=1)
    wholes = np.bincount(p[2 * voxels > overlaps.truth_sizes[t]], minlength=1)
    return int(np.maximum(parts - 1, 0).sum()), int(np.maximum(wholes - 1, 0).sum())


def scores(
    images: Sequence[Overlaps],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    min_size: int = 0,
    how: How = "optimal",
    generator: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Score the objects of one or several images together.

    Parameters
    ----------
    images
        One list of overlaps each; objects are matched within an image, and all objects count alike.
    thresholds
        IoU thresholds.
    min_size, how
        As in :func:`match`.
    generator
        Source of the bootstrap over cells; without it there is no interval.

    Returns
    -------
    dict
        JSON-safe. ``f1``, ``ap`` and ``pq`` by threshold (as text, such as ``"0.5"``) and, as ``mean_f1`` and
        ``mean_ap``, their mean over thresholds; ``sq`` and ``rq`` at the first threshold, ``mean_matched_iou`` (the
        same as ``sq``); ``tp``, ``fp``, ``fn`` by threshold; ``truth_count`` and ``predicted_count`` of objects that
        are not small, ``count_error`` (predicted − truth) and ``relative_count_error``; ``splits``, ``merges``;
        ``min_size``; ``f1_interval`` and ``ap_interval`` at the first threshold.
    """
    matches = [
        sum((match(image, threshold, min_size=min_size, how=how) for image in images), Match())
        for threshold in thresholds
    ]
    names = [f"{threshold:g}" for threshold in thresholds]
    truth = sum(int(np.count_nonzero(image.truth_sizes >= min_size)) for image in images)
    predicted = sum(int(np.count_nonzero(image.predicted_sizes >= min_size)) for image in images)
    splits, merges = np.sum([split_and_merged(image, min_size=min_size) for image in images] or [(0, 0)], axis=0)
    first = matches[0]
    result: dict[str, Any] = {
        "f1": dict(zip(names, (m.f1 for m in matches), strict=True)),
        "ap": dict(zip(names, (m.ap for m in matches), strict=True)),
        "pq": dict(zip(names, (m.pq for m in matches), strict=True)),
        "mean_f1": _mean([m.f1 for m in matches]),
        "mean_ap": _mean([m.ap for m in matches]),
        "sq": first.mean_iou,
        "rq": first.f1,
        "mean_matched_iou": first.mean_iou,
        "tp": dict(zip(names, (m.tp for m in matches), strict=True)),
        "fp": dict(zip(names, (m.fp for m in matches), strict=True)),
        "fn": dict(zip(names, (m.fn for m in matches), strict=True)),
        "truth_count": truth,
        "predicted_count": predicted,
        "count_error": predicted - truth,
        "relative_count_error": (predicted - truth) / truth if truth else None,
        "splits": int(splits),
        "merges": int(merges),
        "min_size": min_size,
    }
    if generator is not None:
        for name in ("f1", "ap"):
            interval = bootstrap_cells(first, generator, of="f1" if name == "f1" else "ap")
            result[f"{name}_interval"] = None if interval is None else interval.to_json()
    return result


def bootstrap_cells(
    found: Match,
    generator: np.random.Generator,
    *,
    of: Literal["f1", "ap"] = "f1",
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval | None:
    """Percentile-bootstrap interval of F1 or AP over cells.

    Pairs, false and missed objects are drawn with replacement, as many as there are. It says how much the number would
    move with other cells of the same tissue, if cells were found independently of each other; it knows nothing of other
    images or animals.

    Parameters
    ----------
    found
        What was matched.
    generator
        Source of the draws.
    of
        Which number.
    confidence
        Between 0 and 1.
    resamples
        Number of draws.

    Returns
    -------
    Interval or None
        Its ``mean`` is the number itself; None without objects.

    Raises
    ------
    InputError
        If confidence or resamples cannot be used.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(f"confidence {confidence} must lie between 0 and 1, and resamples {resamples} be at least 1")
    total = found.tp + found.fp + found.fn
    value = found.f1 if of == "f1" else found.ap
    if value is None:
        return None
    drawn = generator.multinomial(total, np.array([found.tp, found.fp, found.fn]) / total, size=resamples)
    tp, wrong = drawn[:, 0], drawn[:, 1:].sum(axis=1)
    values = 2 * tp / (2 * tp + wrong) if of == "f1" else tp / (tp + wrong)
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value, float(low), float(high), total, confidence, "bootstrap")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
