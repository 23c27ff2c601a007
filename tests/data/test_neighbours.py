"""Which planes a network sees: none of one kind is fine, none at all is not; training and prediction agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fewslice.data.neighbours import NeighbourPlanes, Neighbours, gather
from fewslice.data.normalisation import Normalisation
from fewslice.volume import Volume

UNCHANGED = Normalisation("none", (0.0,), (1.0,))


def planes_of(neighbours: Neighbours) -> NeighbourPlanes:
    probabilities = Volume.from_array(np.full((1, 4, 5, 6), 255, np.uint8))
    image = Volume.from_array(np.arange(4 * 5 * 6, dtype=np.float32).reshape(1, 4, 5, 6))
    return NeighbourPlanes(probabilities, image, UNCHANGED, neighbours)


def test_nothing_to_see_is_refused() -> None:
    with pytest.raises(ValidationError, match="planes and image_planes are both 0"):
        Neighbours(planes=0, image_planes=0)


@pytest.mark.parametrize(("name", "count"), [("planes", 2), ("image_planes", 4)])
def test_an_even_number_has_no_middle_plane(name: str, count: int) -> None:
    with pytest.raises(ValidationError, match=f"{name} is {count}; it must be odd"):
        Neighbours(**{name: count})


@pytest.mark.parametrize("name", ["planes", "image_planes"])
def test_fewer_than_none_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Neighbours(**{name: -1})


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_the_image_alone_is_seen(threshold: float | None) -> None:
    neighbours = Neighbours(planes=0, image_planes=1, threshold=threshold)
    stacked = planes_of(neighbours)
    assert (neighbours.reach, neighbours.channels(1, 1), neighbours.channels(2, 3)) == (0, 1, 3)
    assert stacked.shape == (1, 4, 5, 6)
    read = stacked[:, 1:3, 2:5, :]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.arange(120, dtype=np.float32).reshape(1, 4, 5, 6)[:, 1:3, 2:5])


def test_no_planes_are_gathered_as_no_channels() -> None:
    assert gather(torch.zeros(4, 2, 5, 6), 0, 1, 3).shape == (2, 0, 5, 6)


@pytest.mark.parametrize("neighbours", [Neighbours(planes=0, image_planes=3), Neighbours(planes=3, image_planes=0)])
def test_the_reach_is_that_of_what_is_seen(neighbours: Neighbours) -> None:
    assert neighbours.reach == 1
    stacked = planes_of(neighbours)
    assert stacked.shape == (3, 4, 5, 6)
    first, last = stacked[:, 0, 0, 0], stacked[:, 3, 0, 0]
    expected = ([0.0, 0.0, 30.0], [60.0, 90.0, 90.0]) if neighbours.image_planes else ([1.0] * 3, [1.0] * 3)
    assert (first.tolist(), last.tolist()) == expected
