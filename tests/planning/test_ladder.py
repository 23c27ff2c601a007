"""Folds and subsets: nested, spread, apart from what judges; honest refusal; Dice at a threshold of other folds."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewslice.annotation import Annotation
from fewslice.planning.ladder import (
    GAP,
    Plane,
    annotated_planes,
    build_ladder,
    cross_fitted_dice,
    spread_order,
)


def planes(*indices: int, sample: int = 0) -> list[Plane]:
    return [Plane(sample, i) for i in indices]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_four_planes_are_each_left_out_once() -> None:
    ladder = build_ladder(planes(4, 8, 12, 16), rng())
    assert [fold.held for fold in ladder.folds] == [(p,) for p in planes(4, 8, 12, 16)]
    assert ladder.sizes == (1, 2, 3)
    for fold in ladder.folds:
        assert {*fold.held, *fold.training} == set(planes(4, 8, 12, 16))


@given(st.sets(st.integers(0, 80), min_size=1, max_size=30), st.integers(0, 5))
def test_what_trains_is_apart_from_what_judges_and_every_plane_judges_once(indices: set[int], seed: int) -> None:
    every = planes(*sorted(indices))
    ladder = build_ladder(every, np.random.default_rng(seed))
    if not ladder.folds:
        assert ladder.reason and not ladder.sizes
        return
    held = [plane for fold in ladder.folds for plane in fold.held]
    assert sorted(held, key=lambda p: p.index) == every
    assert len(ladder.folds) <= 4 and len(ladder.folds) * len(ladder.sizes) <= 16
    for fold in ladder.folds:
        assert all(abs(a.index - b.index) >= GAP for a in fold.held for b in fold.training)
        assert max(ladder.sizes) <= len(fold.training) == len(set(fold.training))


@pytest.mark.parametrize(
    ("every", "named"),
    [
        ([], "only 0 planes are annotated"),
        (planes(3), "only 1 plane is annotated"),
        (planes(1, 5, 9), "only 3 planes are annotated and it takes 4"),
        ([*planes(1, 5, 9), Plane(0, 13, has_foreground=False)], "only 3 planes are annotated with foreground"),
        (planes(5, 6, 7, 8, 9), "so close"),
    ],
)
def test_too_little_is_refused_with_the_reason(every: list[Plane], named: str) -> None:
    ladder = build_ladder(every, rng())
    assert ladder.folds == () and named in ladder.reason


def test_dense_planes_are_held_out_in_slabs() -> None:
    """Of 50 neighbouring planes each fold holds a quarter out, in one piece, and trains on all but the gap."""
    ladder = build_ladder(planes(*range(50)), rng())
    assert [len(fold.held) for fold in ladder.folds] == [12, 13, 13, 12]
    for fold in ladder.folds:
        indices = [plane.index for plane in fold.held]
        assert indices == list(range(indices[0], indices[-1] + 1))
        low, high = indices[0] - GAP, indices[-1] + GAP
        assert {p.index for p in fold.training} == {i for i in range(50) if i <= low or i >= high}
    assert len(ladder.sizes) == 4
    spaced = build_ladder(planes(*range(0, 48, 3)), rng())
    assert [p.index for p in spaced.folds[0].held] == [0, 12, 24, 36]


def test_a_thousand_planes_are_ordered_as_few_are_and_at_once() -> None:
    """The order of the definition, by brute force, on few; on many within a second."""
    few = [*planes(3, 4, 9, 17, 30), *planes(2, 8, sample=1)]
    order = spread_order(few, rng())
    for count in range(1, len(few)):
        away = {
            p: min(abs(p.index - q.index) if p.sample == q.sample else np.inf for q in order[:count])
            for p in few
            if p not in order[:count]
        }
        assert order[count] == max(away, key=lambda p: away[p])  # of equals the first one listed
    began = time.process_time()
    assert len(spread_order(planes(*range(1000)), rng())) == 1000
    assert time.process_time() - began < 1


def test_every_beginning_is_spread() -> None:
    for seed in range(8):
        order = [p.index for p in spread_order(planes(*range(0, 33, 4)), np.random.default_rng(seed))]
        assert sorted(order) == list(range(0, 33, 4))
        assert abs(order[0] - order[1]) >= 16
        for n in (3, 5):
            assert min(np.diff(sorted(order[:n]))) >= 4


def test_a_subset_begins_with_a_plane_from_which_something_can_be_learned() -> None:
    empty = [Plane(0, i, has_foreground=False) for i in (0, 10, 20)]
    order = spread_order([*empty, Plane(0, 30), Plane(0, 40, has_background=False)], rng())
    assert order[0] == Plane(0, 30) and len(order) == 5
    assert spread_order(empty, rng()) == []


def test_planes_of_other_samples_are_far_away() -> None:
    ladder = build_ladder([*planes(5, 6), *planes(5, 6, sample=1), *planes(5, 20, sample=2), Plane(3, 5)], rng())
    assert ladder.sizes == (1, 2, 4)
    for fold in ladder.folds:
        assert all(p.sample != h.sample or abs(p.index - h.index) >= GAP for p in fold.training for h in fold.held)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_are_listed_along_any_axis_with_what_is_on_them(axis: int) -> None:
    labels, known = np.zeros((12, 12, 12), np.uint8), np.zeros((12, 12, 12), bool)
    a, b = np.moveaxis(labels, axis, 0), np.moveaxis(known, axis, 0)
    b[[2, 6, 9]] = True
    a[2, 3:6, 3:6] = 1
    a[9] = 1
    b[4, 0, :5] = True  # a stroke
    found = annotated_planes([None, Annotation(labels, known)], axis)
    assert found == (Plane(1, 2), Plane(1, 6, has_foreground=False), Plane(1, 9, has_background=False))


def test_dice_is_taken_at_the_threshold_that_is_best_for_the_other_folds() -> None:
    """Two folds, two thresholds; each is best at another one, so both are judged at their worse one."""
    good, bad = [[80, 0], [0, 20]], [[60, 20], [10, 10]]
    counts = np.array([[good, bad], [bad, good]])
    worse = 2 * 10 / (2 * 10 + 20 + 10)
    np.testing.assert_allclose(cross_fitted_dice(counts), [worse, worse])
    counts = np.array([[good, bad], [good, bad], [bad, good]])
    np.testing.assert_allclose(cross_fitted_dice(counts)[2], worse)


def test_nothing_found_is_a_dice_of_zero() -> None:
    nothing = [[[80, 0], [20, 0]]] * 3
    assert (cross_fitted_dice(np.array([nothing, nothing])) == 0).all()
