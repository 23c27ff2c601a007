"""Instance metrics: cases counted by hand, and what must never change a number."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice.errors import InputError
from fewslice.metrics import instance
from fewslice.metrics.instance import Match, add_overlaps, bootstrap_cells, count_overlaps, match, scores


def _line(*runs: tuple[int, int]) -> np.ndarray:
    """A row of voxels from (id, length) pairs."""
    return np.concatenate([np.full(length, identity, np.int64) for identity, length in runs]).reshape(1, 1, -1)


# 20 voxels: truth 1 of 6, 2 and 3 of 4; predicted 7 is 1 shifted by one, 8 half of 2 and of 3, 9 lies in nothing
TRUTH = _line((1, 6), (0, 2), (2, 4), (3, 4), (0, 4))
FOUND = _line((0, 1), (7, 6), (0, 3), (8, 4), (0, 4), (9, 2))


def test_hand_counted_overlaps() -> None:
    o = count_overlaps(TRUTH, FOUND)
    assert o.truth_ids.tolist() == [1, 2, 3] and o.truth_sizes.tolist() == [6, 4, 4]
    assert o.predicted_ids.tolist() == [7, 8, 9] and o.predicted_sizes.tolist() == [6, 4, 2]
    assert sorted(zip(o.truth, o.predicted, o.voxels, strict=True)) == [(0, 0, 5), (1, 1, 2), (2, 1, 2)]
    assert dict(zip(o.voxels, o.iou, strict=True)) == pytest.approx({5: 5 / 7, 2: 2 / 6})


def test_hand_counted_scores() -> None:
    s = scores([count_overlaps(TRUTH, FOUND)])
    assert s["tp"] == {"0.5": 1, "0.6": 1, "0.7": 1, "0.8": 0, "0.9": 0}
    assert s["fp"]["0.5"] == 2 and s["fn"]["0.5"] == 2
    assert s["f1"]["0.5"] == pytest.approx(2 / 6) and s["ap"]["0.5"] == pytest.approx(1 / 5)
    assert s["sq"] == pytest.approx(5 / 7) and s["pq"]["0.5"] == pytest.approx(5 / 7 * 2 / 6)
    assert s["mean_f1"] == pytest.approx(3 * (2 / 6) / 5) and s["mean_matched_iou"] == s["sq"]
    assert (s["truth_count"], s["predicted_count"], s["count_error"], s["relative_count_error"]) == (3, 3, 0, 0.0)
    assert s["f1"]["0.8"] == 0.0 and s["pq"]["0.8"] == 0.0


def test_low_thresholds_need_a_one_to_one_matching() -> None:
    """Object 8 reaches IoU 1/3 with both 2 and 3, but may be paired with one of them only."""
    m = match(count_overlaps(TRUTH, FOUND), 0.3)
    assert (m.tp, m.fp, m.fn) == (2, 1, 1) and m.iou_sum == pytest.approx(5 / 7 + 1 / 3)


def test_greedy_takes_the_best_pair_and_optimal_the_most_pairs() -> None:
    """Truth 1 overlaps 7 and 8, truth 2 overlaps 7 alone, less than 1 does: greedy pairs 1–7 and leaves 2."""
    truth = _line((1, 8), (1, 2), (2, 6), (0, 4))
    found = _line((8, 3), (7, 7), (7, 3), (0, 7))
    o = count_overlaps(truth, found)
    assert sorted(np.round(o.iou, 3)) == pytest.approx([3 / 13, 3 / 10, 7 / 13], abs=1e-3)
    greedy, optimal = match(o, 0.2, how="greedy"), match(o, 0.2, how="optimal")
    assert (greedy.tp, greedy.iou_sum) == (1, pytest.approx(7 / 13))
    assert (optimal.tp, optimal.iou_sum) == (2, pytest.approx(3 / 10 + 3 / 13))


def _best(o: instance.Overlaps, threshold: float) -> tuple[int, float]:
    """The most pairs, then the greatest sum, by trying all assignments."""
    table = {(int(t), int(p)): float(i) for t, p, i in zip(o.truth, o.predicted, o.iou, strict=True) if i >= threshold}
    best = (0, 0.0)
    for count in range(len(o.truth_ids) + 1):
        for rows in itertools.combinations(range(len(o.truth_ids)), count):
            for columns in itertools.permutations(range(len(o.predicted_ids)), count):
                chosen = list(zip(rows, columns, strict=True))
                if all(pair in table for pair in chosen):
                    best = max(best, (count, sum(table[pair] for pair in chosen)))
    return best


labels = st.lists(st.integers(0, 4), min_size=12, max_size=12).map(lambda v: np.array(v).reshape(1, 3, 4))


@given(labels, labels, st.sampled_from([0.05, 0.2, 0.34, 0.5, 0.75]))
@settings(max_examples=60, deadline=None)
def test_optimal_matching_is_optimal(truth: np.ndarray, found: np.ndarray, threshold: float) -> None:
    o = count_overlaps(truth, found)
    m = match(o, threshold)
    assert (m.tp, pytest.approx(m.iou_sum)) == _best(o, threshold)
    if threshold > 0.5:
        assert match(o, threshold, how="greedy") == m


@given(labels, labels, st.permutations(range(1, 5)), st.integers(0, 2**62))
@settings(max_examples=40, deadline=None)
def test_names_change_nothing(truth: np.ndarray, found: np.ndarray, names: list[int], offset: int) -> None:
    """Ids may be permuted and beyond 32 bits; both sides together may be swapped."""
    lookup = np.array([0, *(offset + n for n in names)], dtype=np.int64)
    plain, renamed = scores([count_overlaps(truth, found)]), scores([count_overlaps(lookup[truth], found)])
    assert plain == renamed
    turned = scores([count_overlaps(found, truth)])
    assert turned["f1"] == plain["f1"] and turned["splits"] == plain["merges"]


@given(labels)
@settings(max_examples=20, deadline=None)
def test_perfect_is_one(truth: np.ndarray) -> None:
    s = scores([count_overlaps(truth, truth + 0)], thresholds=(0.5, 1.0))
    wanted = 1.0 if truth.any() else None
    assert {s["f1"]["0.5"], s["f1"]["1"], s["ap"]["1"], s["pq"]["1"]} == {wanted}
    assert s["splits"] == s["merges"] == s["count_error"] == 0


@given(labels, labels, st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_parts_add_up_to_the_whole(truth: np.ndarray, found: np.ndarray, cut: int) -> None:
    whole = count_overlaps(truth, found)
    parts = add_overlaps(
        [count_overlaps(truth[:, :cut], found[:, :cut]), count_overlaps(truth[:, cut:], found[:, cut:])]
    )
    for name in ("truth_ids", "truth_sizes", "predicted_ids", "predicted_sizes"):
        assert (getattr(whole, name) == getattr(parts, name)).all()
    key = lambda o: sorted(zip(o.truth, o.predicted, o.voxels, strict=True))  # noqa: E731
    assert key(whole) == key(parts)


def test_unannotated_voxels_change_nothing() -> None:
    valid = np.ones(TRUTH.shape, bool)
    valid[..., 14:] = False
    wild, other = TRUTH.copy(), FOUND.copy()
    wild[~valid], other[~valid] = 77, 88
    assert scores([count_overlaps(wild, other, valid)]) == scores([count_overlaps(TRUTH[..., :14], FOUND[..., :14])])


def test_small_objects_are_ignored_on_both_sides() -> None:
    o = count_overlaps(TRUTH, FOUND)
    m = match(o, 0.5, min_size=5)  # 2, 3 (4 voxels) and 8, 9 (4 and 2) count nowhere
    assert (m.tp, m.fp, m.fn) == (1, 0, 0)
    assert scores([o], min_size=5)["truth_count"] == 1
    edge = count_overlaps(_line((1, 5), (0, 5)), _line((7, 4), (0, 6)))
    m = match(edge, 0.5, min_size=5)  # the found object is small, its partner is not: a pair, no error
    assert (m.tp, m.fp, m.fn) == (1, 0, 0)
    m = match(edge, 0.9, min_size=5)  # no pair: the true one is missed, the small one is no false one
    assert (m.tp, m.fp, m.fn) == (0, 0, 1)
    assert match(edge, 0.5, min_size=6) == Match()


def test_splits_and_merges() -> None:
    """Truth 1 is found in three parts (2 splits); 2, 3 and 4 as one object (2 merges)."""
    truth = _line((1, 9), (0, 1), (2, 3), (3, 3), (4, 3))
    found = _line((5, 3), (6, 3), (7, 3), (0, 1), (8, 9))
    assert instance.split_and_merged(count_overlaps(truth, found)) == (2, 2)
    assert instance.split_and_merged(count_overlaps(truth, found), min_size=4) == (0, 0)
    half = _line((5, 5), (5, 5))  # of 1 and 2 half each: it belongs to neither
    assert instance.split_and_merged(count_overlaps(_line((1, 5), (2, 5)), half)) == (0, 1)


def test_nothing_on_either_side_is_undefined_and_on_one_side_zero() -> None:
    empty, one = np.zeros((1, 2, 2), int), np.ones((1, 2, 2), int)
    s = scores([count_overlaps(empty, empty)], generator=np.random.default_rng(0))
    assert s["f1"]["0.5"] is s["ap"]["0.5"] is s["pq"]["0.5"] is s["mean_f1"] is s["f1_interval"] is None
    assert s["relative_count_error"] is None
    for pair in ((empty, one), (one, empty)):
        s = scores([count_overlaps(*pair)])
        assert s["f1"]["0.5"] == s["pq"]["0.5"] == 0.0


def test_pooled_over_images_counts_objects_not_images() -> None:
    good, bad = count_overlaps(TRUTH, TRUTH), count_overlaps(_line((1, 3), (0, 3)), _line((0, 3), (1, 3)))
    s = scores([good, bad])
    assert (s["tp"]["0.5"], s["fp"]["0.5"], s["fn"]["0.5"]) == (3, 1, 1) and s["f1"]["0.5"] == 0.75


def test_bootstrap_over_cells() -> None:
    found = Match(60, 20, 20, 50.0)
    interval = bootstrap_cells(found, np.random.default_rng(0), of="ap")
    assert interval is not None and interval.mean == 0.6 and interval.count == 100
    spread = 1.96 * np.sqrt(0.6 * 0.4 / 100)  # AP is a share: its interval is nearly the binomial one
    assert interval.low == pytest.approx(0.6 - spread, abs=0.015) and interval.high == pytest.approx(
        0.6 + spread, abs=0.015
    )
    assert bootstrap_cells(found, np.random.default_rng(0), of="ap") == interval
    perfect = bootstrap_cells(Match(5), np.random.default_rng(0))
    assert perfect is not None and (perfect.low, perfect.high) == (1.0, 1.0)


def test_many_objects_stay_a_list() -> None:
    """A table of 40,000 by 40,000 objects would need 12 GB; the list is made in a moment."""
    truth = np.repeat(np.arange(40_000), 3).reshape(1, 1, -1) + 2**40
    s = scores([count_overlaps(truth, np.roll(truth, 1) + 5)])
    assert s["tp"]["0.5"] == 40_000 and s["f1"]["0.6"] == 0.0


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="IoU threshold"):
        match(count_overlaps(TRUTH, FOUND), threshold)


def test_unfit_arrays_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        count_overlaps(TRUTH, FOUND[..., :3])
    with pytest.raises(InputError, match="integers"):
        count_overlaps(TRUTH, FOUND.astype(float))


@pytest.mark.parametrize(("name", "tile_0", "pooled", "mean"), [("cyto2", 0.38, 0.39, 0.18), ("v2", 0.77, 0.72, 0.47)])
def test_stored_predictions_have_their_published_scores(
    data_dir: Path, name: str, tile_0: float, pooled: float, mean: float
) -> None:
    """Reference numbers: F1@0.5 of tile 0 alone, and over all six tiles of the set, four of which are here."""
    folder = data_dir / "nissl_cells"
    files = [(folder / "labels" / f"{i}.tif", folder / f"pred_cellpose_{name}" / f"{i}.tif") for i in range(4)]
    images = [count_overlaps(tifffile.imread(truth), tifffile.imread(found)) for truth, found in files]
    assert scores(images[:1])["f1"]["0.5"] == pytest.approx(tile_0, abs=0.006)
    assert scores(images)["f1"]["0.5"] == pytest.approx(pooled, abs=0.035)
    assert scores(images)["mean_f1"] == pytest.approx(mean, abs=0.035)
