"""Column by column equals the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewslice import io, morphology
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.morphology import Config, PixelSizes

Blobs = Callable[..., np.ndarray]

SMALL = Config(min_area_um2=6 * 0.005**2, propagated_min_area_um2=8 * 0.005**2, erosion_um_per_um=0.8)


HOLEY = Config(min_area_um2=14 * 0.005**2, propagated_min_area_um2=3 * 0.005**2, erosion_um_per_um=1)
"""What is propagated may be too small to stay."""


class Memory:
    """A store that insists on its contract."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.array = np.full(shape, 7, dtype=np.uint8)

    def read(self, box: Box) -> np.ndarray:
        return self.array[box.slices]

    def write(self, box: Box, values: np.ndarray) -> None:
        assert values.dtype == np.uint8
        assert values.shape == box.shape
        assert values.max(initial=0) <= 1
        self.array[box.slices] = values


def in_columns(
    masks: np.ndarray, truth: np.ndarray, known: np.ndarray, sizes: PixelSizes, tile: tuple[int, int]
) -> np.ndarray:
    store = Memory(masks.shape)
    morphology.clean_columns(lambda box: masks[box.slices], lambda box: truth[box.slices], known, store, sizes, tile)
    return store.array.astype(bool)


def snakes(shape: tuple[int, int, int]) -> np.ndarray:
    """One thin line per plane that winds through the whole plane, broken at another place in each."""
    _, height, width = shape
    line = np.zeros((height, width), dtype=bool)
    line[::2] = True
    for row in range(1, height, 2):
        line[row, -1 if row % 4 == 1 else 0] = True
    masks = np.broadcast_to(line, shape).copy()
    for z, plane in enumerate(masks):
        plane[(2 * z) % height, (3 * z + 2) % width] = False
    return masks


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.booleans(), min_size=1, max_size=7),
    st.tuples(st.integers(4, 20), st.integers(4, 20)),
    st.floats(0.2, 0.8),
)
def test_random_masks(blobs: Blobs, seed: int, planes: list[bool], tile: tuple[int, int], share: float) -> None:
    generator, known = np.random.default_rng(seed), np.array(planes)
    masks, truth = (blobs(generator, (known.size, 17, 19), share) for _ in range(2))
    for config, voxel in ((SMALL, (0.005, 0.004, 0.007)), (HOLEY, None)):
        result = in_columns(masks, truth, known, morphology.in_pixels(config, voxel), tile)
        assert (result == morphology.clean(masks, truth, known, config, voxel)).all()


@pytest.mark.parametrize("tile", [(5, 4), (7, 10), (5, 31), (23, 3), (99, 99)])
@pytest.mark.parametrize("least", [20, 200, 400])
def test_lines_that_wind_through_every_column(tile: tuple[int, int], least: int) -> None:
    masks = snakes((4, 23, 31))
    truth = np.zeros_like(masks)
    truth[3, 2:14, 3:19] = True
    known = np.array([False, False, False, True])
    sizes = PixelSizes(least, 100, (1.0, 1.0))
    config = Config(min_area_um2=least * 0.005**2, propagated_min_area_um2=100 * 0.005**2, erosion_um_per_um=1)
    whole = morphology.clean(masks, truth, known, config)
    assert (in_columns(masks, truth, known, sizes, tile) == whole).all()
    assert whole[0].sum() == (380 if least < 400 else 0)  # its line, without a loose end of 2 pixels


def test_propagated_components_are_measured_across_columns() -> None:
    truth = np.zeros((3, 12, 40), dtype=bool)
    truth[0, 3:9, 2:38] = True  # eroded by one: 4 × 34 = 136 pixels, at most 32 in a tile
    known, nothing = np.array([True, False, False]), np.zeros_like(truth)
    for least, reached in ((136, 136), (137, 0)):
        result = in_columns(nothing, truth, known, PixelSizes(0, least, (1.0, 1.0)), (5, 8))
        assert result[1].sum() == reached


def test_into_a_label_image_on_disk(tmp_path: Path, blobs: Blobs) -> None:
    generator, known = np.random.default_rng(5), np.array([True, False, False, True, False])
    masks, truth = (blobs(generator, (5, 20, 24)) for _ in range(2))
    place = tmp_path / "out.ome.zarr"
    io.create_output(place, shape=masks.shape, channel_names=["p"], voxel_size_um=None, dtype=np.uint8)
    io.create_labels(place, "clean", shape=masks.shape, dtype=np.uint8, chunks=(2, 8, 8), voxel_size_um=None)
    store = io.open_output(place, labels="clean")
    sizes, seen = morphology.in_pixels(SMALL, None), []
    morphology.clean_columns(
        lambda box: masks[box.slices],
        lambda box: truth[box.slices],
        known,
        store,
        sizes,
        (8, 16),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (store.read(Box.of(masks.shape)) == morphology.clean(masks, truth, known, SMALL)).all()
    assert seen == [(n, 48) for n in range(1, 49)]  # six columns, eight sweeps


def test_reads_one_column_at_a_time_and_truth_only_where_known() -> None:
    shape, known = (9, 64, 64), np.zeros(9, dtype=bool)
    known[[2, 5]] = True
    masks, read, told = np.ones(shape, dtype=bool), [], []

    def masks_at(box: Box) -> np.ndarray:
        read.append(box)
        return masks[box.slices]

    def truth_at(box: Box) -> np.ndarray:
        told.append(box)
        return masks[box.slices]

    store = Memory(shape)
    morphology.clean_columns(masks_at, truth_at, known, store, PixelSizes(3, 3, (2.0, 1.0)), (16, 16))
    assert len(set(read)) == len(read) == 16
    assert {box.shape for box in read} == {(9, 16, 16)}
    assert {(box.start[0], box.shape[0]) for box in told} == {(2, 1), (5, 1)}
    assert max(box.shape[1:] for box in told) == (16 + 2 * 6, 16 + 2 * 3)  # three planes behind the last


def test_may_read_what_the_store_holds(blobs: Blobs) -> None:
    generator, known = np.random.default_rng(2), np.array([True, False, False, True])
    masks = blobs(generator, (4, 20, 20))
    store = Memory(masks.shape)
    store.array[:] = masks
    held = lambda box: store.read(box) != 0  # noqa: E731
    morphology.clean_columns(held, held, known, store, morphology.in_pixels(SMALL, None), (8, 8))
    assert (store.array == morphology.clean(masks, masks, known, SMALL)).all()


@pytest.mark.parametrize("tile", [(0, 4), (4,), (4, 4, 4), (4, -1)])
def test_tiles_that_cannot_be_are_refused(tile: tuple[int, ...]) -> None:
    masks = np.zeros((2, 8, 8), dtype=bool)
    with pytest.raises(InputError, match="tile must be two positive numbers"):
        in_columns(masks, masks, np.zeros(2, dtype=bool), PixelSizes(), tile)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    masks, known, store = np.zeros((2, 8, 8), dtype=bool), np.array([True, False]), Memory((2, 8, 8))

    def good(box: Box) -> np.ndarray:
        return masks[box.slices]

    def grey(box: Box) -> np.ndarray:
        return masks[box.slices].astype(np.float32)

    def short(box: Box) -> np.ndarray:
        return masks[box.slices][..., 1:]

    with pytest.raises(InputError, match=r"known must be one bool per plane, bool \(2,\)"):
        morphology.clean_columns(good, good, known[:1], store, PixelSizes(), (4, 4))
    with pytest.raises(InputError, match=r"^read gave float32"):
        morphology.clean_columns(grey, good, known, store, PixelSizes(), (4, 4))
    with pytest.raises(InputError, match=r"read_truth gave bool of shape \(1, 4, 3\).*expected bool \(1, 4, 4\)"):
        morphology.clean_columns(good, short, known, store, PixelSizes(), (4, 4))
