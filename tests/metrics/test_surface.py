"""Surface distances, by hand and by their properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewslice.errors import InputError
from fewslice.metrics.surface import isolated_axis, scores_between, surface_elements, surface_scores

masks = hnp.arrays(np.bool_, (4, 5, 6))
sizes = st.sampled_from([None, (1.0, 1.0, 1.0), (2.0, 0.88, 0.88), (0.5, 3.0, 1.0)])


def box(shape: tuple[int, int, int], *slices: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def test_single_voxels_two_planes_apart() -> None:
    one, two = np.zeros((7, 5, 5), bool), np.zeros((7, 5, 5), bool)
    one[2, 2, 2] = two[4, 2, 3] = True  # 2 planes and 1 column: sqrt(4² + 0.88²) µm
    distance = np.hypot(4.0, 0.88)
    result = surface_scores(one, two, (2, 0.88, 0.88), tolerance_um=4.0)
    assert result == {
        "hd95_um": pytest.approx(distance),
        "assd_um": pytest.approx(distance),
        "nsd": 0.0,
        "nsd_tolerance_um": 4.0,
        "surface_dims": 3,
        "surface_unit": "um",
        "surface_unmatched": 0.0,
    }
    assert surface_scores(one, two, (2, 0.88, 0.88), tolerance_um=4.1)["nsd"] == 1.0


def test_shifted_bar_by_hand() -> None:
    # bars of 10 voxels along x, 1 voxel thick, shifted by 3: every voxel is surface
    one = box((3, 3, 20), slice(1, 2), slice(1, 2), slice(2, 12))
    two = box((3, 3, 20), slice(1, 2), slice(1, 2), slice(5, 15))
    result = surface_scores(one, two, (1, 1, 0.5), tolerance_um=1.0)
    # each side: 7 voxels at 0, then 0.5, 1.0, 1.5 µm
    assert result["assd_um"] == pytest.approx((0.5 + 1.0 + 1.5) / 10)
    assert result["nsd"] == pytest.approx(9 / 10)
    assert result["hd95_um"] == pytest.approx(np.percentile([0] * 7 + [0.5, 1.0, 1.5], 95))


def test_hd95_is_the_larger_direction() -> None:
    one = box((1, 1, 60), slice(0, 1), slice(0, 1), slice(10, 12))
    two = one.copy()
    two[0, 0, 50] = True  # one far false positive: only seen from `two`
    forward, backward = surface_scores(one, two), surface_scores(two, one)
    assert forward["hd95"] == backward["hd95"] == pytest.approx(np.percentile([0, 0, 39], 95))
    assert forward["assd"] == pytest.approx(39 / 5)
    assert forward["surface_unit"] == "voxel" and "hd95_um" not in forward
    assert forward["surface_dims"] == 2  # a volume of one plane


def test_elements_are_foreground_beside_background() -> None:
    solid = box((5, 5, 5), slice(1, 4), slice(1, 4), slice(1, 4))
    elements = surface_elements(solid)
    assert elements.sum() == 26 and not elements[2, 2, 2]
    in_plane = surface_elements(solid, plane_axis=0)
    assert in_plane.sum() == 3 * 8 and not in_plane[:, 2, 2].any()


def test_the_border_of_the_volume_is_no_surface() -> None:
    half = box((4, 6, 6), slice(0, 4), slice(0, 6), slice(0, 3))
    elements = surface_elements(half)
    assert elements.sum() == 4 * 6 and elements[:, :, 2].all()


def test_a_cut_object_is_judged_where_it_shows() -> None:
    # a rod through all planes: the ends, cut by the volume, must not add perfect agreement
    one = box((3, 9, 9), slice(0, 3), slice(2, 7), slice(2, 7))
    two = box((3, 9, 9), slice(0, 3), slice(3, 6), slice(3, 6))
    assert surface_scores(one, two, tolerance_um=0.5)["nsd"] == 0.0


EMPTY, FULL = np.zeros((3, 4, 4), bool), np.ones((3, 4, 4), bool)
SPOT = box((3, 4, 4), slice(1, 2), slice(1, 3), slice(1, 3))


@pytest.mark.parametrize(
    ("predicted", "truth", "distance", "nsd"),
    [
        (EMPTY, EMPTY, 0.0, 1.0),
        (FULL, FULL, 0.0, 1.0),
        (SPOT, SPOT, 0.0, 1.0),
        (SPOT, EMPTY, None, 0.0),
        (EMPTY, SPOT, None, 0.0),
        (FULL, EMPTY, None, 0.0),
        (FULL, SPOT, None, 0.0),
    ],
)
def test_missing_surfaces(predicted: np.ndarray, truth: np.ndarray, distance: float | None, nsd: float) -> None:
    result = surface_scores(predicted, truth, (1, 1, 1))
    assert (result["hd95_um"], result["assd_um"], result["nsd"]) == (distance, distance, nsd)


def test_truth_without_any_boundary_says_nothing() -> None:
    valid = np.zeros((2, 3, 7), bool)
    valid[:, :, 0] = valid[:, :, 6] = True  # two strokes that do not touch: one of each class
    truth = np.zeros((2, 3, 7), bool)
    truth[:, :, 6] = True
    assert surface_scores(np.ones_like(truth), truth, valid=valid)["nsd"] is None


def test_single_planes_are_measured_in_plane() -> None:
    truth = box((9, 12, 12), slice(0, 9), slice(3, 9), slice(3, 9))
    predicted = np.zeros_like(truth)
    predicted[0, 3:9, 3:9] = True
    predicted[4, 3:9, 3:9] = True  # planes 1 to 3 wrong, but nobody knows
    valid = np.zeros_like(truth)
    valid[[0, 4]] = True
    result = surface_scores(predicted, truth, (5, 1, 1), valid=valid)
    assert result["surface_dims"] == 2
    assert (result["assd_um"], result["nsd"], result["surface_unmatched"]) == (0.0, 1.0, 0.0)
    assert result["nsd_tolerance_um"] == 1.0  # in the plane, not the 5 µm of z


def test_a_plane_is_never_matched_with_another() -> None:
    truth, predicted = np.zeros((5, 8, 8), bool), np.zeros((5, 8, 8), bool)
    truth[0, 2:5, 2:5] = predicted[0, 2:5, 2:5] = True  # 8 elements each, equal
    truth[2, 2:5, 2:5] = True  # 8 elements without any counterpart in their plane
    valid = np.zeros_like(truth)
    valid[[0, 2]] = True
    result = surface_scores(predicted, truth, valid=valid, tolerance_um=10)
    assert (result["assd"], result["nsd"]) == (0.0, pytest.approx(16 / 24))
    assert result["surface_unmatched"] == pytest.approx(8 / 24)


def test_planes_of_y() -> None:
    valid = np.zeros((4, 6, 5), bool)
    valid[:, [1, 3]] = True
    assert isolated_axis(valid) == 1
    truth = np.zeros(valid.shape, bool)
    truth[2:, :, :] = True
    result = surface_scores(truth, truth, (2, 9, 1), valid=valid)
    assert (result["surface_dims"], result["nsd_tolerance_um"]) == (2, 2.0)


@pytest.mark.parametrize(
    ("planes", "axis"), [([0, 1, 2], None), ([3], 0), ([0, 1, 5], 0), ([0, 1, 4, 5], None), ([], None)]
)
def test_isolated_planes(planes: list[int], axis: int | None) -> None:
    valid = np.zeros((7, 3, 3), bool)
    valid[planes] = True
    assert isolated_axis(valid) == axis


@settings(deadline=None)
@given(masks, masks, masks, sizes, st.sampled_from([None, 0.0, 1.0, 2.5]))
def test_symmetric_and_in_range(
    one: np.ndarray, two: np.ndarray, valid: np.ndarray, size: tuple[float, ...] | None, tolerance: float | None
) -> None:
    forward = surface_scores(one, two, size, tolerance, valid)
    backward = surface_scores(two, one, size, tolerance, valid)
    assert forward == pytest.approx(backward)
    hd95, assd, nsd = (forward[name] for name in forward if name.startswith(("hd95", "assd")) or name == "nsd")
    assert nsd is None or 0 <= nsd <= 1
    assert (hd95 is None) == (assd is None)
    if hd95 is not None:
        assert assd >= 0 and 0 <= hd95 <= np.linalg.norm(np.multiply(one.shape, size or (1, 1, 1)))


@settings(deadline=None)
@given(masks, masks, masks, masks)
def test_unlabelled_voxels_change_nothing(
    one: np.ndarray, two: np.ndarray, valid: np.ndarray, noise: np.ndarray
) -> None:
    before = surface_scores(one, two, (2, 1, 1), None, valid)
    after = surface_scores(np.where(valid, one, noise), np.where(valid, two, ~noise), (2, 1, 1), None, valid)
    assert before == after


@settings(deadline=None)
@given(masks, masks, st.floats(0.1, 10))
def test_lengths_scale_with_the_voxel(one: np.ndarray, two: np.ndarray, factor: float) -> None:
    small = surface_scores(one, two, (2, 1, 1))
    large = surface_scores(one, two, (2 * factor, factor, factor))
    assert large["nsd"] == small["nsd"]
    if small["assd_um"] is not None:
        assert large["assd_um"] == pytest.approx(small["assd_um"] * factor)
        assert large["hd95_um"] == pytest.approx(small["hd95_um"] * factor)


def test_refusals() -> None:
    mask = np.zeros((2, 3, 3), bool)
    with pytest.raises(InputError, match="voxel size"):
        surface_scores(mask, mask, (0, 1, 1))
    with pytest.raises(InputError, match="tolerance"):
        surface_scores(mask, mask, (1, 1, 1), tolerance_um=-1)
    with pytest.raises(InputError, match=r"\(z, y, x\)"):
        surface_scores(mask[0], mask[0])
    with pytest.raises(InputError, match="does not match"):
        surface_scores(mask, mask[:1])
    with pytest.raises(InputError, match="voxel size"):
        scores_between(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((2, 2), np.int64), (1.0, 1.0))
