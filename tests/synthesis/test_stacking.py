from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice.synthesis.simulation import topmost
from fewslice.synthesis.stacking import Drawn, annotate, cut_out, stack

CANVAS, INSIDE = (20, 24), (slice(4, 16), slice(5, 19))


def square(y: int, x: int, size: int) -> Drawn:
    return Drawn((y, x), np.ones((size, size), bool))


def test_cut_out_is_tight() -> None:
    inside = np.zeros((2, 6, 8), bool)
    inside[0, 2:4, 3:7] = True
    cell, nothing = cut_out(inside, np.array([[10, 20], [0, 0]]))
    assert nothing is None
    assert cell is not None and cell.start == (12, 23)
    assert cell.mask.shape == (2, 4) and cell.mask.all()


def test_a_hidden_cell_is_dropped_and_hides_nothing() -> None:
    # From the lowest: seen in part, hidden to three quarters, topmost.
    cells = [square(2, 2, 4), square(3, 3, 4), square(4, 4, 8)]
    stacked = stack(cells, CANVAS, least=0.5)
    assert stacked.kept.tolist() == [0, 2] or stacked.kept.tolist() == [0, 1, 2]
    visible = {index: int((stacked.owner == index + 1).sum()) for index in range(3)}
    assert visible[2] == 64
    assert visible[1] == 16 - 9 if 1 in stacked.kept else visible[1] == 0
    assert stack(cells, CANVAS, least=0.0).kept.tolist() == [0, 1, 2]
    assert stack(cells, CANVAS, least=0.8).kept.tolist() == [2] or 0 in stack(cells, CANVAS, least=0.8).kept
    assert stack([square(5, 5, 3), square(4, 4, 6)], CANVAS, least=0.0).kept.tolist() == [1]
    assert stack([None], CANVAS, least=0.0).kept.tolist() == []


def test_worked_by_hand() -> None:
    """Three of 4 × 4: the middle one shows 7 of 16 under the upper, the lower one 7 of 16 under the middle."""
    cells = [square(6, 6, 4), square(7, 7, 4), square(8, 8, 4)]
    stacked = stack(cells, CANVAS, least=0.5)
    assert stacked.kept.tolist() == [0, 2]  # without the middle one, the lower shows 12 of 16
    truth = annotate(cells, np.array([1, 2, 2], np.uint8), stacked, INSIDE)
    assert np.bincount(truth.instances.ravel()).tolist() == [12 * 14 - 28, 12, 16]
    assert truth.classes[6 - 4, 6 - 5] == 1 and truth.classes[8 - 4, 8 - 5] == 2
    assert [own.start for own in truth.footprints] == [(0, 2, 1), (0, 4, 3)]
    assert [int(own.mask.sum()) for own in truth.footprints] == [16, 16]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), least=st.floats(0, 1), count=st.integers(0, 12))
def test_annotation_is_what_lies_on_top(seed: int, least: float, count: int) -> None:
    generator = np.random.default_rng(seed)
    cells: list[Drawn | None] = []
    for _ in range(count):
        height, width = generator.integers(1, 9, 2)
        y, x = generator.integers(0, CANVAS[0] - height + 1), generator.integers(0, CANVAS[1] - width + 1)
        inside = generator.random((1, height, width)) < 0.8
        cells += cut_out(inside, np.array([[y, x]]))
    kinds = generator.integers(1, 3, count).astype(np.uint8)
    stacked = stack(cells, CANVAS, least)
    truth = annotate(cells, kinds, stacked, INSIDE)
    number = len(truth.footprints)
    assert np.array_equal(np.unique(truth.instances[truth.instances > 0]), np.arange(1, number + 1))
    assert np.array_equal((truth.classes > 0), truth.instances > 0)
    # A plain painter: every kept cell over the ones before it.
    plain = np.zeros(CANVAS, int)
    for index in stacked.kept:
        cell = cells[index]
        assert cell is not None
        plain[cell.slices][cell.mask] = index + 1
        assert (stacked.owner == index + 1).sum() >= least * cell.mask.sum()
    assert np.array_equal(plain, stacked.owner)
    laid = topmost(truth.footprints, (1, 12, 14))[0]
    assert np.array_equal(laid, truth.instances)
