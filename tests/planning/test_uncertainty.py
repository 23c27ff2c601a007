"""Uncertainty: hand-computed entropy and disagreement; planes along every axis; slabs change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from fewslice.planning import uncertainty
from fewslice.planning.uncertainty import plane_uncertainty, uncertainty_of, uncertainty_of_plane
from fewslice.volume import Volume


def test_entropy_is_zero_where_certain_and_one_where_even() -> None:
    found = uncertainty_of(np.array([[0, 255, 51]], np.uint8))
    p = 0.2
    np.testing.assert_allclose(found, [0, 0, -(p * np.log(p) + (1 - p) * np.log(1 - p)) / np.log(2)], atol=1e-6)
    assert uncertainty_of(np.array([[127]], np.uint8))[0] == pytest.approx(1, abs=1e-4)


def test_entropy_of_two_classes_counts_the_background() -> None:
    found = uncertainty_of(np.array([[85, 255, 128], [85, 0, 128]], np.uint8))
    np.testing.assert_allclose(found, [1, 0, np.log(2) / np.log(3)], atol=1e-3)


def test_disagreement_of_certain_predictions() -> None:
    p, q = np.array([[0, 255, 255]], np.uint8), np.array([[0, 255, 0]], np.uint8)
    np.testing.assert_allclose(uncertainty_of(p, q), [0, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planted_plane_is_the_most_uncertain_one(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.zeros((1, 6, 7, 8), np.uint8)
    np.moveaxis(stored[0], axis, 0)[3] = 127
    volume = Volume.from_array(stored)
    whole = plane_uncertainty(volume, None, axis)
    np.testing.assert_allclose(whole[3], 1, atol=1e-4)
    assert np.argmax(whole) == 3
    expected = uncertainty_of(stored).mean(axis=tuple(a for a in range(3) if a != axis))
    monkeypatch.setattr(uncertainty, "_SLAB_VOXELS", 100)
    np.testing.assert_allclose(plane_uncertainty(volume, None, axis), expected, atol=1e-6)
    plane = uncertainty_of_plane(volume, volume, axis, 3)
    assert plane.shape == tuple(n for a, n in enumerate((6, 7, 8)) if a != axis)
    np.testing.assert_allclose(plane, 0.5, atol=1e-4)
