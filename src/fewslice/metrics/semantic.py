"""Voxel-wise scores from confusion matrices.

Every score is computed once over all voxels that count (*global*), never averaged over planes. Confusion matrices of
disjoint parts add up, so a large volume is scored block by block::

    total = sum(confusion(p, t, v, classes=1) for p, t, v in blocks)
    scores(total)["dice"]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError

__all__ = ["confusion", "confusion_at", "foreground", "one_against_rest", "scores"]

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]

_PIECE = 1 << 22
"""Voxels counted at a time, so that the temporary 64-bit index stays at 32 MiB."""


def confusion(predicted: Array, truth: Array, valid: Array | None = None, classes: int | None = None) -> Counts:
    """Count how the voxels of every true class were predicted.

    Parameters
    ----------
    predicted, truth
        Label arrays of one shape (any number of axes), bool or integer; 0 is background, 1..K are classes.
    valid
        Bool array of the same shape; only voxels where it is true are counted. Values elsewhere change nothing.
        All voxels by default.
    classes
        Number K of foreground classes. By default the largest label found where `valid`, at least 1.

    Returns
    -------
    numpy.ndarray
        int64 of shape (K + 1, K + 1); row = true class, column = predicted class. For K = 1 this is
        ``[[TN, FP], [FN, TP]]``.

    Raises
    ------
    InputError
        If shapes differ, a label array is of float type, or a counted label lies outside 0..K.

    Examples
    --------
    >>> import numpy as np
    >>> confusion(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])).tolist()
    [[1, 1], [0, 2]]
    """
    arrays = _checked(predicted, truth, valid)
    if classes is None:
        classes = max(1, *(_largest(labels, arrays[2]) for labels in arrays[:2]))
    side = classes + 1
    total = np.zeros((side, side), dtype=np.int64)
    for guess, true in _pieces(*arrays):
        for name, labels in (("predicted", guess), ("true", true)):
            if labels.size and (labels.max() > classes or labels.min() < 0):
                worst = labels.max() if labels.max() > classes else labels.min()
                raise InputError(f"{name} label {worst} is outside 0..{classes}; map the labels to classes first")
        index = true.astype(np.int64) * side + guess.astype(np.int64)
        total += np.bincount(index, minlength=side * side).reshape(side, side)
    return total


def confusion_at(probability: Array, truth: Array, thresholds: Sequence[float], valid: Array | None = None) -> Counts:
    """Count foreground against background at several thresholds in one pass.

    A voxel is foreground where its probability is at or above the threshold.

    Parameters
    ----------
    probability
        Foreground probability, 0–1 as float or 0–255 as uint8, any number of axes.
    truth
        Bool or integer array of the same shape; non-zero is foreground.
    thresholds
        Probabilities in 0–1, in any order.
    valid
        Bool array; only voxels where it is true are counted.

    Returns
    -------
    numpy.ndarray
        int64 of shape (number of thresholds, 2, 2), each ``[[TN, FP], [FN, TP]]``; adds up over blocks.

    Raises
    ------
    InputError
        If shapes differ, or the probability is neither float nor uint8, or not finite where counted.
    """
    if probability.dtype != np.uint8 and not np.issubdtype(probability.dtype, np.floating):
        raise InputError(f"probability must be float (0–1) or uint8 (0–255), got {probability.dtype}")
    arrays = _checked(probability, truth != 0, valid, labels=False)
    cuts = np.asarray(thresholds, dtype=np.float64)
    order = np.argsort(cuts)
    ranked = cuts[order] * (255.0 if probability.dtype == np.uint8 else 1.0)
    above = np.zeros((2, cuts.size), dtype=np.int64)
    totals = np.zeros(2, dtype=np.int64)
    for values, true in _pieces(*arrays):
        if not np.isfinite(values).all():
            raise InputError("probability holds NaN or infinite values where the truth is known; predict again")
        for side, chosen in enumerate((values[~true], values[true])):
            # how many cuts lie at or below each value: value >= cut for exactly those
            passed = np.searchsorted(ranked, chosen.astype(np.float64), side="right")
            counts = np.bincount(passed, minlength=cuts.size + 1)
            above[side] += counts[::-1].cumsum()[::-1][1:]
            totals[side] += chosen.size
    result = np.empty((cuts.size, 2, 2), dtype=np.int64)
    result[order, :, 1] = above.T
    result[order, :, 0] = (totals[:, None] - above).T
    return result


def foreground(matrix: Counts) -> Counts:
    """Merge all classes 1..K of a (K + 1, K + 1) confusion matrix into ``[[TN, FP], [FN, TP]]``.

    A voxel of one class predicted as another class counts as true positive here: both are foreground.
    """
    return np.array([[matrix[0, 0], matrix[0, 1:].sum()], [matrix[1:, 0].sum(), matrix[1:, 1:].sum()]], dtype=np.int64)


def one_against_rest(matrix: Counts, index: int) -> Counts:
    """Reduce a (K + 1, K + 1) confusion matrix to ``[[TN, FP], [FN, TP]]`` of class `index` against all others."""
    hit = matrix[index, index]
    false_positive = matrix[:, index].sum() - hit
    missed = matrix[index].sum() - hit
    return np.array([[matrix.sum() - hit - false_positive - missed, false_positive], [missed, hit]], dtype=np.int64)


def scores(matrix: Counts) -> dict[str, float | None]:
    """Compute Dice, IoU, precision and recall from ``[[TN, FP], [FN, TP]]``.

    Dice = 2TP / (2TP + FP + FN), IoU = TP / (TP + FP + FN), precision = TP / (TP + FP), recall = TP / (TP + FN).

    Where a quotient is 0/0: nothing true and nothing predicted is full agreement, Dice = IoU = 1; precision without a
    predicted voxel, recall without a true voxel, and every score of a matrix without any voxel are None.

    Parameters
    ----------
    matrix
        int64 of shape (2, 2), row = truth, column = prediction.

    Returns
    -------
    dict
        ``dice, iou, precision, recall``, each in 0–1 or None.

    Raises
    ------
    InputError
        If the matrix is not 2 × 2.

    Examples
    --------
    >>> import numpy as np
    >>> scores(np.array([[90, 2], [4, 4]]))["precision"]
    0.6666666666666666
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (2, 2):
        raise InputError(f"scores need a 2 × 2 confusion matrix, got shape {matrix.shape}; use foreground(…) first")
    if matrix.sum() == 0:
        return {"dice": None, "iou": None, "precision": None, "recall": None}
    false_positive, missed, hit = int(matrix[0, 1]), int(matrix[1, 0]), int(matrix[1, 1])
    union = hit + false_positive + missed
    return {
        "dice": 2 * hit / (union + hit) if union else 1.0,
        "iou": hit / union if union else 1.0,
        "precision": hit / (hit + false_positive) if hit + false_positive else None,
        "recall": hit / (hit + missed) if hit + missed else None,
    }


def _checked(
    predicted: Array, truth: Array, valid: Array | None, labels: bool = True
) -> tuple[Array, Array, Array | None]:
    if predicted.shape != truth.shape:
        raise InputError(f"prediction of shape {predicted.shape} does not match truth of shape {truth.shape}")
    if valid is not None and valid.shape != truth.shape:
        raise InputError(f"valid mask of shape {valid.shape} does not match truth of shape {truth.shape}")
    for name, array in (("prediction", predicted), ("truth", truth)):
        if labels and array.dtype.kind not in "biu":
            raise InputError(f"{name} must hold integer labels, got {array.dtype}; apply a threshold first")
    return (
        predicted.reshape(-1),
        truth.reshape(-1),
        None if valid is None else valid.reshape(-1).astype(bool, copy=False),
    )


def _pieces(predicted: Array, truth: Array, valid: Array | None) -> Iterator[tuple[Array, Array]]:
    for start in range(0, predicted.size, _PIECE):
        part = slice(start, start + _PIECE)
        if valid is None:
            yield predicted[part], truth[part]
        else:
            keep = valid[part]
            yield predicted[part][keep], truth[part][keep]


def _largest(labels: Array, valid: Array | None) -> int:
    return max((int(piece.max()) for piece, _ in _pieces(labels, labels, valid) if piece.size), default=0)
