"""Suppression of proposals against the plain algorithm, ties, and painting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice.errors import InputError
from fewslice.morphology import proposals as module
from fewslice.morphology.proposals import Proposals, join, paint, ranking, suppress


def rectangles(boxes: Any, scores: Any, planes: Any = None, axis: int = 0) -> Proposals:
    """Contours that are rectangles (low y, low x, high y, high x), anchored at their middle."""
    boxes = np.asarray(boxes, np.float32)
    corners = boxes[:, [[0, 1], [0, 3], [2, 3], [2, 1]]]
    middle = ((boxes[:, :2] + boxes[:, 2:]) // 2).astype(int)
    planes = np.zeros(len(boxes), int) if planes is None else np.asarray(planes)
    anchor = np.insert(middle, axis, planes, axis=1)
    return Proposals(anchor, np.asarray(scores, np.float32), np.ones(len(boxes), np.uint8), corners, axis)


def plain(proposals: Proposals, overlap: float) -> list[int]:
    """Go through all, best first, and compare each with all that are kept."""
    low, high = proposals.contour.min(1).astype(float), proposals.contour.max(1).astype(float)
    kept: list[int] = []
    for i in ranking(proposals):
        clear = True
        for j in kept:
            if proposals.plane[i] != proposals.plane[j]:
                continue
            common = np.clip(np.minimum(high[i], high[j]) - np.maximum(low[i], low[j]), 0, None).prod()
            union = (high[i] - low[i]).prod() + (high[j] - low[j]).prod() - common
            clear &= not (union > 0 and common / union > overlap)
        if clear:
            kept.append(int(i))
    return kept


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(0, 150), st.sampled_from([0.0, 0.2, 0.6]), st.sampled_from([(7, 7), (3, 2**13)])
)
def test_suppression_equals_the_plain_algorithm(seed: int, count: int, overlap: float, sizes: tuple[int, int]) -> None:
    """Boxes of very different sizes, many equal scores, two planes, however many are taken at once."""
    draw = np.random.default_rng(seed)
    low = draw.uniform(0, 80, (count, 2))
    extent = draw.uniform(0, 1, (count, 2)) ** 4 * 60 + draw.choice([0, 4], (count, 1))
    case = rectangles(
        np.concatenate((low, low + extent), 1), draw.integers(0, 4, count) / 4, draw.integers(0, 2, count)
    )
    before = module._AT_FIRST, module._AT_ONCE
    try:
        module._AT_FIRST, module._AT_ONCE = sizes
        kept = suppress(case, overlap=overlap)
    finally:
        module._AT_FIRST, module._AT_ONCE = before
    np.testing.assert_array_equal(kept.contour, case.contour[plain(case, overlap)])


def test_the_best_of_a_chain_is_kept_and_what_it_suppresses_suppresses_nothing() -> None:
    """b overlaps a and c; a is best, so b goes and c stays, though b is better than c."""
    case = rectangles([(0, 0, 4, 4), (0, 2, 4, 6), (0, 4, 4, 8)], [0.9, 0.8, 0.7])
    assert suppress(case).score.tolist() == pytest.approx([0.9, 0.7])
    # IoU of a and b is 8 / 24
    assert len(suppress(case, overlap=0.34)) == 3 and len(suppress(case, overlap=0.33)) == 2
    assert suppress(case, threshold=0.75).score.tolist() == pytest.approx([0.9])


def test_equal_scores_are_decided_by_place_in_whatever_order_they_come() -> None:
    case = rectangles([(4, 4, 8, 8), (4, 5, 8, 9), (3, 4, 7, 8)], [0.5, 0.5, 0.5])
    expected = suppress(case)
    assert expected.anchor.tolist() == [[0, 5, 6]]
    for order in ([2, 1, 0], [1, 2, 0]):
        np.testing.assert_array_equal(suppress(case.taken(np.array(order))).contour, expected.contour)


def test_planes_do_not_touch_each_other() -> None:
    case = rectangles([(0, 0, 4, 4)] * 3, [0.9, 0.8, 0.7], planes=[0, 1, 1], axis=2)
    assert suppress(case).plane.tolist() == [0, 1]


def test_a_pixel_belongs_to_the_best_contour_that_holds_its_centre() -> None:
    """Two squares of 4 × 4 pixels that share 2 × 4, and one beyond the border."""
    square = rectangles([(0.5, 0.5, 4.5, 4.5), (0.5, 2.5, 4.5, 6.5), (-2.5, -2.5, 0.4, 0.4)], [0.9, 0.8, 0.7])
    labels = paint(square.contour, (6, 8))
    expected = np.zeros((6, 8), int)
    expected[1:5, 3:7] = 2
    expected[1:5, 1:5] = 1
    expected[0, 0] = 3
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint32
    # a contour between pixel centres paints nothing, but its number is not given to another
    tiny = rectangles([(1.2, 1.2, 1.4, 1.4), (3.5, 3.5, 4.5, 4.5)], [0.9, 0.8])
    assert np.unique(paint(tiny.contour, (6, 8))).tolist() == [0, 2]


def test_moving_and_joining() -> None:
    case = rectangles([(0, 0, 4, 4), (8, 8, 9, 9)], [0.9, 0.8], planes=[3, 4], axis=1)
    moved = case.shifted((10, 20, 30))
    assert moved.anchor[0].tolist() == [12, 23, 32] and moved.contour[0, 0].tolist() == [10.0, 30.0]
    both = join([case.taken(np.array([1])), case.taken(np.array([0]))])
    assert both.plane.tolist() == [4, 3] and both.plane_axis == 1


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match="proposals need"):
        Proposals(
            np.zeros((2, 3), int), np.zeros(1, np.float32), np.zeros(1, np.uint8), np.zeros((1, 8, 2), np.float32)
        )


def test_nothing_to_suppress() -> None:
    case = rectangles([(0, 0, 4, 4)], [0.9]).taken(np.zeros(0, int))
    assert len(suppress(case)) == 0 and not paint(case.contour, (3, 3)).any()
