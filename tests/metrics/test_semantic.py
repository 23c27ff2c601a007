"""Confusion matrices and what is computed from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewslice.errors import InputError
from fewslice.metrics import semantic

labels = hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))
masks = hnp.arrays(np.bool_, (3, 4, 5))


def test_two_classes_by_hand() -> None:
    predicted = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    truth = np.array([[1, 0, 0, 1], [1, 1, 0, 0]])
    matrix = semantic.confusion(predicted, truth)
    assert matrix.tolist() == [[3, 1], [2, 2]]  # [[TN, FP], [FN, TP]]
    assert semantic.scores(matrix) == {"dice": 4 / 7, "iou": 2 / 5, "precision": 2 / 3, "recall": 2 / 4}


def test_rows_are_truth() -> None:
    assert semantic.confusion(np.array([2, 2]), np.array([1, 0])).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_foreground_and_each_class() -> None:
    matrix = np.array([[10, 1, 2], [3, 20, 4], [5, 6, 30]])
    assert semantic.foreground(matrix).tolist() == [[10, 3], [8, 60]]
    assert semantic.one_against_rest(matrix, 1).tolist() == [[47, 7], [7, 20]]
    assert semantic.one_against_rest(matrix, 2).tolist() == [[34, 6], [11, 30]]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0, 0], [0, 0]], (None, None, None, None)),
        ([[9, 0], [0, 0]], (1.0, 1.0, None, None)),
        ([[9, 3], [0, 0]], (0.0, 0.0, 0.0, None)),
        ([[9, 0], [3, 0]], (0.0, 0.0, None, 0.0)),
        ([[0, 0], [0, 4]], (1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_undefined_quotients(matrix: list[list[int]], expected: tuple[float | None, ...]) -> None:
    assert tuple(semantic.scores(np.array(matrix)).values()) == expected


def test_bool_signed_and_large_unsigned_labels_agree() -> None:
    predicted, truth = np.array([True, False, True]), np.array([True, True, False])
    for kind in (np.bool_, np.int8, np.uint64):
        assert semantic.confusion(predicted.astype(kind), truth.astype(kind)).tolist() == [[0, 1], [1, 1]]


def test_counting_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.integers(0, 3, (2, 7, 9, 11))
    valid = rng.random((7, 9, 11)) < 0.5
    whole = semantic.confusion(predicted, truth, valid)
    monkeypatch.setattr(semantic, "_PIECE", 13)
    assert (semantic.confusion(predicted, truth, valid) == whole).all()


@settings(deadline=None)
@given(labels, labels, masks)
def test_blocks_add_up(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> None:
    parts = [semantic.confusion(p, t, v, 3) for p, t, v in zip(predicted, truth, valid, strict=True)]
    assert (sum(parts) == semantic.confusion(predicted, truth, valid, 3)).all()


@settings(deadline=None)
@given(labels, labels, masks, labels, labels)
def test_unlabelled_voxels_change_nothing(
    predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray, noise: np.ndarray, more: np.ndarray
) -> None:
    before = semantic.confusion(predicted, truth, valid)
    after = semantic.confusion(np.where(valid, predicted, noise + 100), np.where(valid, truth, more + 100), valid)
    assert before.tolist() == after.tolist()


@settings(deadline=None)
@given(labels, labels)
def test_dice_follows_from_iou_and_swapping_swaps_precision_and_recall(one: np.ndarray, two: np.ndarray) -> None:
    first = semantic.scores(semantic.foreground(semantic.confusion(one, two)))
    second = semantic.scores(semantic.foreground(semantic.confusion(two, one)))
    assert first["iou"] is not None and first["dice"] is not None
    assert first["dice"] == pytest.approx(2 * first["iou"] / (1 + first["iou"]))
    assert first["dice"] == second["dice"]
    assert (first["precision"], first["recall"]) == (second["recall"], second["precision"])
    assert all(value is None or 0 <= value <= 1 for value in first.values())


@settings(deadline=None)
@given(hnp.arrays(np.uint8, (4, 5)), hnp.arrays(np.bool_, (4, 5)), hnp.arrays(np.bool_, (4, 5)), st.booleans())
def test_all_thresholds_in_one_pass(values: np.ndarray, truth: np.ndarray, valid: np.ndarray, as_float: bool) -> None:
    thresholds = [0.5, 0.0, 1.0, 51 / 255, 0.2, 0.999]
    probability = values / 255.0 if as_float else values
    several = semantic.confusion_at(probability, truth, thresholds, valid)
    for threshold, matrix in zip(thresholds, several, strict=True):
        binary = (values / 255.0) >= threshold
        assert matrix.tolist() == semantic.confusion(binary, truth, valid, 1).tolist()


def test_half_in_eight_bits_starts_at_128() -> None:
    matrix = semantic.confusion_at(np.array([127, 128], np.uint8), np.array([1, 1]), [0.5])
    assert matrix.tolist() == [[[0, 0], [1, 1]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 3), int), np.zeros((3, 2), int)), r"shape \(2, 3\) does not match truth of shape \(3, 2\)"),
        ((np.zeros(3), np.zeros(3, int)), "must hold integer labels, got float64"),
        ((np.zeros(3, int), np.zeros(3, int), np.ones(2, bool)), "valid mask of shape"),
        ((np.array([255]), np.array([1]), None, 2), "predicted label 255 is outside 0..2"),
        ((np.array([1]), np.array([-1]), None, 2), "true label -1 is outside 0..2"),
    ],
)
def test_refusals(arguments: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        semantic.confusion(*arguments)


def test_probability_refusals() -> None:
    with pytest.raises(InputError, match="NaN"):
        semantic.confusion_at(np.array([np.nan]), np.array([1]), [0.5])
    semantic.confusion_at(np.array([np.nan, 1.0]), np.array([1, 1]), [0.5], np.array([False, True]))
    with pytest.raises(InputError, match="int64"):
        semantic.confusion_at(np.array([1]), np.array([1]), [0.5])
    with pytest.raises(InputError, match=r"shape \(3, 3\)"):
        semantic.scores(np.zeros((3, 3), np.int64))
