"""Components of planes, whole and in tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fewslice.geometry import cover
from fewslice.morphology import components

planes = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@pytest.fixture(params=["cc3d", "scipy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "scipy":
        monkeypatch.setattr(components, "cc3d", None)
    else:
        assert components.cc3d is not None
    return str(request.param)


def same_partition(labels: np.ndarray, plane: np.ndarray) -> bool:
    expected, count = ndimage.label(plane, np.ones((3, 3)))
    pairs = set(zip(labels[plane].tolist(), expected[plane].tolist(), strict=True))
    return ((labels != 0) == plane).all() and len(pairs) == count == labels.max()


def test_labels_are_those_of_scipy(library: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):  # odd extents included, which one of cc3d's own paths gets wrong
        plane = generator.random(generator.integers(1, 14, 2)) < generator.uniform(0.1, 0.9)
        assert same_partition(components.label_plane(plane), plane)


def test_both_libraries_drop_the_same(library: str) -> None:
    plane = np.array([list(row) for row in ("##...#", "..#...", "#....#", "#....#")]) == "#"
    expected = np.array([list(row) for row in ("##....", "..#...", "......", "......")]) == "#"
    assert (components.drop_plane(plane, 3) == expected).all()
    assert components.drop_plane(plane, 2).sum() == 7
    assert (components.drop_plane(plane, 1) == plane).all()
    assert not components.drop_plane(plane, 4).any()


def drop_in_tiles(plane: np.ndarray, least: int, tile: tuple[int, int]) -> np.ndarray:
    blocks = cover(plane.shape, tile, (0, 0))
    count = components.TileCount(len(blocks), 1, plane.shape[1])
    for number, block in enumerate(blocks):
        count.begin(number, block.write)
        count.add(0, plane[block.write.slices])
    totals, result = count.totals(), np.zeros_like(plane)
    for number, block in enumerate(blocks):
        result[block.write.slices] = totals.drop(number, 0, plane[block.write.slices], least)
    return result


def test_the_example_in_the_map() -> None:
    plane = np.array([[1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 0]], dtype=bool)
    count = components.TileCount(3, 1, 12)
    for number, block in enumerate(cover((1, 12), (1, 4), (0, 0))):
        count.begin(number, block.write)
        count.add(0, plane[block.write.slices])
    totals = count.totals()
    assert totals.areas.tolist() == [2, 5, 5, 1]
    assert totals.first[:, 0].tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    "rows",
    [
        ("#...", ".#..", "..#.", "...#"),  # the corner where four tiles meet, one way
        ("...#", "..#.", ".#..", "#..."),  # and the other
        ("....", ".##.", "....", "...."),
        ("....", ".#..", ".#..", "...."),
        ("....", ".#..", "..#.", "...."),
    ],
)
def test_components_connect_across_borders(rows: tuple[str, ...]) -> None:
    plane = np.array([list(row) for row in rows]) == "#"
    size = int(plane.sum())
    for tile in ((2, 2), (2, 4), (4, 2), (1, 1), (3, 1)):
        assert (drop_in_tiles(plane, size, tile) == plane).all()
        assert not drop_in_tiles(plane, size + 1, tile).any()


@settings(deadline=None, max_examples=150)
@given(planes, st.integers(0, 20), st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_tiles_drop_what_the_whole_drops(plane: np.ndarray, least: int, tile: tuple[int, int]) -> None:
    assert (drop_in_tiles(plane, least, tile) == components.drop_plane(plane, least)).all()
