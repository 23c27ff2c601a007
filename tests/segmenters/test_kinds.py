"""The segmenters against other implementations and cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from skimage.filters import threshold_otsu

from fewslice.errors import InputError
from fewslice.geometry import cover
from fewslice.segmenters import Output, choose_kind, connected_components, threshold_watershed, watershed
from fewslice.segmenters import _ascent as ascent
from fewslice.volume import Volume

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))


@given(SHAPES.flatmap(lambda s: arrays.arrays(np.uint8, s, elements=st.integers(0, 2))), st.sampled_from([6, 18, 26]))
@settings(max_examples=150, deadline=None)
def test_components_are_those_of_scipy(classes: np.ndarray, connectivity: int) -> None:
    """Of every class for itself, also in one plane with odd extents."""
    found = connected_components.components(classes, connectivity)
    assert found.dtype == np.uint32
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    total = 0
    for value in (1, 2):
        expected, count = ndimage.label(classes == value, structure=structure)
        total += count
        pairs = np.unique(np.stack([expected[classes == value], found[classes == value]]), axis=1)
        assert pairs.shape[1] == count and len(np.unique(pairs[1])) == count
    assert found.max(initial=0) == total and ((found == 0) == (classes == 0)).all()


def test_steepest_ascent_by_hand() -> None:
    """Heights in one row: two hills, a plateau of two between them, of which each voxel climbs its own way.

    index     0  1  2  3  4  5  6
    height    1  5  3  3  4  9  2        class 0 at either end of the padded row
    climbs to 1  1  1  4  5  5  5
    """
    heights = np.zeros((3, 3, 9), np.int32)
    heights[1, 1, 1:8] = [1, 5, 3, 3, 4, 9, 2]
    classes = np.zeros((3, 3, 9), np.uint8)
    classes[1, 1, 1:8] = 1
    inside = np.flatnonzero(classes)
    target = ascent.targets(heights.ravel(), classes.ravel(), inside, heights.shape, (1.0, 1.0, 1.0))
    assert (target - inside[0]).tolist() == [1, 1, 1, 4, 5, 5, 5]
    assert (ascent.summits(inside, target, heights.size) - inside[0]).tolist() == [1, 1, 1, 5, 5, 5, 5]
    classes[1, 1, 4:8] = 2  # the second half is of another class: 2 and 3 part
    target = ascent.targets(heights.ravel(), classes.ravel(), inside, heights.shape, (1.0, 1.0, 1.0))
    assert (target - inside[0]).tolist() == [1, 1, 1, 4, 5, 5, 5]


def test_slopes_are_measured_in_um() -> None:
    """Up by 4 at a distance of 5 is flatter than up by 2 at a distance of 1."""
    heights = np.zeros((5, 5, 5), np.int32)
    heights[2, 2, 2], heights[3, 2, 2], heights[2, 2, 3] = 1, 5, 3
    classes = (heights > 0).astype(np.uint8)
    inside = np.flatnonzero(classes)
    for spacing, expected in (((5.0, 1.0, 1.0), (2, 2, 3)), ((1.0, 1.0, 1.0), (3, 2, 2))):
        target = ascent.targets(heights.ravel(), classes.ravel(), inside, heights.shape, spacing)
        assert np.unravel_index(target[0], heights.shape) == expected


@given(arrays.arrays(np.uint8, (5, 8, 8), elements=st.integers(0, 2)))
@settings(max_examples=40, deadline=None)
def test_distances_are_those_of_scipy(classes: np.ndarray) -> None:
    """In µm, to the nearest voxel of another value, not to the array's border."""
    spacing = (2.0, 0.5, 0.7)
    found = watershed.distance_to_border(classes, spacing, 3.0)
    assert (found[classes == 0] == 0).all()
    for value in (1, 2):
        mask = classes == value
        if not mask.all():
            expected = np.minimum(ndimage.distance_transform_edt(mask, spacing), 3.0)
            assert found[mask] == pytest.approx(expected[mask], abs=1e-5)


def test_the_kind_follows_from_the_outputs() -> None:
    def outputs(*kinds: str) -> list[Output]:
        return [Output(kind, kind) for kind in kinds]

    assert choose_kind(outputs("probability", "probability")) == "connected_components"
    assert (
        choose_kind(outputs("probability", "boundary"))
        == choose_kind(outputs("probability", "distance"))
        == "watershed"
    )
    assert choose_kind(outputs("contour")) == "contours"
    assert watershed.channels(outputs("boundary", "probability", "distance")) == (1, 2)


def test_otsu_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(50, 10, 5000), rng.normal(130, 20, 2000)])
    low, high = values.min(), values.max()
    threshold, share = threshold_watershed.otsu(np.histogram(values, 1024, (low, high))[0], low, high)
    assert threshold == pytest.approx(threshold_otsu(values, nbins=1024), abs=2 * (high - low) / 1024)
    assert 0.8 < share < 1
    counts = np.array([5, 0, 0, 0, 5])
    assert threshold_watershed.otsu(counts, 0.0, 10.0) == (5.0, pytest.approx(1.0))


def _cells(shape: tuple[int, int, int] = (6, 60, 64)) -> np.ndarray:
    rng = np.random.default_rng(1)
    grid = np.indices(shape).astype(float)
    image = np.zeros(shape)
    for _ in range(12):
        distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, rng.uniform(0, shape), strict=True)))
        image = np.maximum(image, 100.0 * ((distance < 6) & (distance > 2)))
    return image + np.linspace(0, 60, shape[2]) + rng.normal(0, 8, shape)


@pytest.mark.parametrize("method", ["otsu", "local"])
@pytest.mark.parametrize("objects", ["bright", "dark"])
def test_the_mask_is_the_same_for_any_blocks(method: str, objects: str) -> None:
    image = _cells() if objects == "bright" else 255 - _cells()
    volume = Volume.from_array(image.astype(np.float32), (1.5, 1.0, 1.0))
    config = threshold_watershed.Config(objects=objects, method=method, window_um=21, holes_um=6)
    facts = threshold_watershed.survey(config, volume)
    masks = []
    for block in (image.shape, (4, 16, 20), (6, 13, 64)):
        mask = np.zeros(image.shape, np.uint8)
        for item in cover(image.shape, block, threshold_watershed.foreground_halo(config, volume.voxel_size_um)):
            part = threshold_watershed.foreground(config, facts, volume.read(item.read), item, volume.voxel_size_um)
            mask[item.write.slices] = part
        masks.append(mask)
    assert 0.02 < (masks[0] > 0).mean() < 0.6
    assert all((mask == masks[0]).all() for mask in masks[1:])


def test_holes_up_to_an_extent_are_filled() -> None:
    mask = np.ones((1, 20, 30), bool)
    mask[0, 5:8, 5:8] = False  # 3 by 3
    mask[0, 5:8, 12:16] = False  # 3 by 4
    mask[0, 10, 0:2] = False  # open to the rim
    filled = threshold_watershed.fill_holes(mask, (1, 4, 4))
    assert filled[0, 5:8, 5:8].all() and not filled[0, 5:8, 12:16].any() and not filled[0, 10, 0:2].any()
    assert threshold_watershed.fill_holes(mask, (1, 4, 5))[0, 5:8, 12:16].all()
    deep = np.ones((5, 9, 9), bool)
    deep[0:2, 4, 4] = False  # open to the first plane
    deep[3, 4, 4] = False
    assert (~threshold_watershed.fill_holes(deep, (4, 4, 4))).sum() == 2


def test_of_several_channels_the_best_parted_one_is_taken() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(100, 20, (4, 40, 40))
    signal = np.where(np.indices((4, 40, 40))[2] < 15, 150.0, 20.0) + rng.normal(0, 5, (4, 40, 40))
    volume = Volume.from_array(np.stack([noise, signal]).astype(np.float32))
    facts = threshold_watershed.survey(threshold_watershed.Config(), volume)
    assert facts["channel"] == 1 and 40 < facts["threshold"] < 130
    with pytest.raises(InputError, match="no channel 2"):
        threshold_watershed.survey(threshold_watershed.Config(channel=2), volume)


def test_an_image_without_contrast_is_refused() -> None:
    with pytest.raises(InputError, match="one value only"):
        threshold_watershed.survey(threshold_watershed.Config(), Volume.from_array(np.full((2, 9, 9), 7, np.uint8)))
    broken = np.zeros((2, 9, 9), np.float32)
    broken[1, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        threshold_watershed.survey(threshold_watershed.Config(), Volume.from_array(broken))


def test_halo_counts_voxels_of_each_axis() -> None:
    config = watershed.Config(reach_um=10)
    z, y, x = watershed.halo(config, (5.0, 1.0, 1.0))
    assert y == x == z + 3 + 8  # smoothing does not reach across long voxels, and 10 µm are 2 of them instead of 10
