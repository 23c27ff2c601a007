"""Next planes and windows: planted uncertainty is found, what is annotated never proposed, neighbours avoided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewslice.errors import InputError
from fewslice.planning.selection import Choice, choose_planes, choose_windows


def marked(depth: int, *planes: int) -> np.ndarray:
    found = np.zeros(depth, dtype=bool)
    found[list(planes)] = True
    return found


def test_the_score_is_the_product_that_is_documented() -> None:
    """Twelve planes, two annotated, two wanted: r = 12 / 5 = 2.4."""
    u = np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.4, 0.2, 0.2, 0.2, 0.2, 0.1])
    assert choose_planes([u], [marked(12, 0, 11)], 2) == [
        Choice(0, 6, 1.0),
        Choice(0, 3, 0.5),  # 3 from the annotated and the chosen one; 5, more uncertain, lies beside the chosen one
    ]
    (only,) = choose_planes([np.array([0.0, 0.1, 0.2, 0.2, 0.0, 0.0])], [marked(6, 0, 5)], 1)
    assert only == Choice(0, 2, 1.0)


def test_planted_uncertainty_is_found() -> None:
    u = np.full(40, 0.02)
    u[[7, 8, 9, 27]] = 0.3
    planes = [c.plane for c in choose_planes([u], [marked(40, 18)], 2)]
    assert sorted(planes) in ([7, 27], [8, 27], [9, 27])


def test_where_nothing_is_uncertain_distance_decides() -> None:
    planes = [c.plane for c in choose_planes([np.zeros(21)], [marked(21, 0, 20)], 3)]
    gaps = np.diff(sorted([0, 20, *planes]))
    assert gaps.min() >= 4


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30),
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=12),
    st.integers(0, 8),
)
def test_annotated_planes_are_never_proposed_and_neighbours_only_in_need(
    first: list[tuple[float, bool]], second: list[tuple[float, bool]], count: int
) -> None:
    volumes = [v for v in (first, second) if v]
    u = [np.array([x for x, _ in v]) for v in volumes]
    known = [np.array([k for _, k in v]) for v in volumes]
    choices = choose_planes(u, known, count)
    free = sum(int((~k).sum()) for k in known)
    assert len(choices) == len({(c.sample, c.plane) for c in choices}) == min(count, free)
    taken = [k.copy() for k in known]
    for choice in choices:
        own = taken[choice.sample]
        assert not own[choice.plane]
        assert 0 <= choice.score <= 1
        if _beside(own, choice.plane):
            assert all(_beside(t, p) for t in taken for p in np.flatnonzero(~t)), "a plane apart was still there"
        own[choice.plane] = True


def _beside(taken: np.ndarray, plane: int) -> bool:
    return bool(taken[max(0, plane - 1) : plane + 2].any())


def test_volumes_are_compared_with_each_other_and_far_means_within_one() -> None:
    u = [np.full(9, 0.1), np.full(9, 0.4)]
    choices = choose_planes(u, [marked(9, 4), marked(9)], 3)
    assert [c.sample for c in choices[:2]] == [1, 1]
    assert abs(choices[0].plane - choices[1].plane) >= 2


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        choose_planes([np.zeros(3)], [np.zeros(4, bool)], 1)


def test_the_most_uncertain_windows_are_found_and_do_not_overlap() -> None:
    field = np.full((64, 96), 0.1)
    field[8:24, 64:80] = 0.9
    field[40:56, 16:32] = 0.6
    first, second = choose_windows(field, (16, 16), 2)
    assert first.rows == (8, 24) and first.columns == (64, 80) and first.uncertainty == pytest.approx(0.9)
    assert second.rows == (40, 56) and second.columns == (16, 32) and second.uncertainty == pytest.approx(0.6)


def test_windows_hold_no_annotated_pixel() -> None:
    field = np.full((40, 40), 0.2)
    field[:10, :10] = 1.0
    known = np.zeros((40, 40), bool)
    known[5, 5] = True
    for window in choose_windows(field, (8, 8), 30, known):
        assert not known[slice(*window.rows), slice(*window.columns)].any()
    assert choose_windows(field, (8, 8), 3, np.ones((40, 40), bool)) == []


def test_a_window_is_cut_to_the_plane_and_certain_planes_have_none() -> None:
    (window,) = choose_windows(np.full((5, 7), 0.5), (20, 20), 4)
    assert window.rows == (0, 5) and window.columns == (0, 7)
    assert choose_windows(np.zeros((20, 20)), (5, 5), 2) == []


def test_means_of_windows_are_those_of_the_slices() -> None:
    field = np.random.default_rng(0).random((33, 29))
    for window in choose_windows(field, (9, 6), 20):
        assert window.uncertainty == pytest.approx(field[slice(*window.rows), slice(*window.columns)].mean())
