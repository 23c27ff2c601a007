"""Consistency between planes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fewslice.errors import InputError
from fewslice.metrics.along_z import changes, consistency, summary


def column(*labels: int) -> np.ndarray:
    """A volume of one voxel per plane."""
    return np.array(labels).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("volume", "flicker", "disagreement"),
    [
        (column(0, 0, 0, 0), 0.0, 0.0),
        (column(0, 1, 1, 0), 0.0, 2 / 3),  # a thin object is no flicker
        (column(0, 1, 0, 0), 1 / 2, 2 / 3),
        (column(1, 0, 1, 0, 1), 1.0, 1.0),
        (column(0, 1, 2, 3), 0.0, 1.0),  # changes, but never back
        (column(2, 1, 2), 1.0, 1.0),  # between classes
        (column(0, 1), None, 1.0),
        (column(1), None, None),
    ],
)
def test_by_hand(volume: np.ndarray, flicker: float | None, disagreement: float | None) -> None:
    result = consistency(volume)
    assert result == {"flicker": flicker, "plane_disagreement": disagreement}


def test_share_of_voxels() -> None:
    volume = np.zeros((3, 2, 2), np.uint8)
    volume[1, 0, 0] = 1  # one of four voxels flickers
    assert consistency(volume) == {"flicker": 0.25, "plane_disagreement": 0.25}


def test_turning_the_volume_over_changes_nothing() -> None:
    volume = np.random.default_rng(1).integers(0, 3, (6, 5, 4))
    assert consistency(volume[::-1]) == pytest.approx(consistency(volume))


def test_only_where_all_planes_are_known() -> None:
    volume = column(0, 1, 0, 1, 1)
    valid = column(1, 1, 1, 0, 1).astype(bool)
    assert consistency(volume, valid) == {"flicker": 1.0, "plane_disagreement": 1.0}
    volume[3] = 77
    assert consistency(volume, valid) == {"flicker": 1.0, "plane_disagreement": 1.0}


def test_flicker_needs_all_three_planes() -> None:
    valid = column(0, 1, 1, 1).astype(bool)
    assert consistency(column(0, 1, 0, 0), valid)["flicker"] == 0.0  # only the second triple is known


def test_pairs_weigh_the_same() -> None:
    volume = np.array([[[0, 0]], [[1, 0]], [[0, 1]]])
    valid = np.array([[[1, 1]], [[1, 1]], [[1, 0]]], bool)
    # first pair: 1 of 2 differ; second pair: 1 of 1 known
    assert consistency(volume, valid)["plane_disagreement"] == 0.75


def test_parts_with_one_plane_of_context_add_up() -> None:
    rng = np.random.default_rng(2)
    volume, valid = rng.integers(0, 2, (9, 6, 7)), rng.random((9, 6, 7)) < 0.7
    total = np.zeros((4, 9), np.int64)
    for low, high in ((0, 4), (4, 5), (5, 9)):
        first = max(0, low - 1)
        for columns in (slice(0, 3), slice(3, 7)):
            part = np.s_[first : high + 1, :, columns]
            total[:, low:high] += changes(volume[part], valid[part])[:, low - first : high - first]
    assert (total == changes(volume, valid)).all()
    assert summary(total) == consistency(volume, valid)


def test_refusals() -> None:
    with pytest.raises(InputError, match="one shape"):
        consistency(np.zeros((2, 2), int))
    with pytest.raises(InputError, match="one shape"):
        consistency(np.zeros((3, 2, 2), int), np.ones((2, 2, 2), bool))
