"""Filling the space between annotated planes without an image."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewslice.errors import InputError
from fewslice.morphology import (
    interpolate_contours,
    interpolate_signed_distance,
    interpolation,
)

Draw = Callable[[str], np.ndarray]

_ITK = "itkwasm_morphological_contour_interpolation"
with_itk = pytest.mark.skipif(find_spec(_ITK) is None, reason="needs the extra 'interpolation'")
some = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def on(*planes: int, depth: int) -> np.ndarray:
    known = np.zeros(depth, dtype=bool)
    known[list(planes)] = True
    return known


def squares(depth: int, *starts: tuple[int, int, int], size: int = 8, kind: Any = bool) -> np.ndarray:
    """Squares of `size` at (z, y, x) in planes of 24 × 24."""
    masks = np.zeros((depth, 24, 24), dtype=kind)
    for z, y, x in starts:
        masks[z, y : y + size, x : x + size] = 1
    return masks


# --- signed distances -------------------------------------------------------------------------------------------------


def test_a_border_moves_evenly(draw: Draw) -> None:
    labels = draw("""
        ##......  ........  ........  ........  ######..
    """)
    expected = draw("""
        ##......  ###.....  ####....  #####...  ######..
    """)
    assert (interpolate_signed_distance(labels, on(0, 4, depth=5)) == expected).all()


def test_what_stands_on_planes_that_are_not_annotated_does_not_count(draw: Draw) -> None:
    labels = draw("""
        ##......  ########  ........  ....####  ######..
    """)
    known = on(0, 4, depth=5)
    blank = labels & known[:, None, None]
    assert (interpolate_signed_distance(labels, known) == interpolate_signed_distance(blank, known)).all()


def test_on_a_tie_the_lower_label_wins(draw: Draw) -> None:
    labels = draw("#####...  ........  ##......")
    # the border halfway lies on the middle of the fourth pixel
    assert interpolate_signed_distance(labels, on(0, 2, depth=3))[1].sum() == 3


def test_ends_repeat_the_nearest_annotated_plane() -> None:
    masks = squares(6, (2, 3, 3), (3, 9, 9))
    result = interpolate_signed_distance(masks, on(2, 3, depth=6))
    assert (result == masks[[2, 2, 2, 3, 3, 3]]).all()
    alone = interpolate_signed_distance(masks, on(3, depth=6))
    assert (alone == masks[3]).all()


def test_every_plane_annotated_changes_nothing() -> None:
    masks = squares(4, (0, 1, 1), (2, 9, 9))
    assert (interpolate_signed_distance(masks, np.ones(4, dtype=bool)) == masks).all()


def test_an_object_that_one_plane_does_not_show_ends_soon() -> None:
    masks = squares(11, (0, 6, 6))
    areas = interpolate_signed_distance(masks, on(0, 10, depth=11)).sum(axis=(1, 2)).tolist()
    # the core is 4 deep, the other plane 34 pixels away: 4 (10 - k) > 34 k ends before k = 2
    assert areas[0] == 64
    assert 0 < areas[1] < 64
    assert areas[2:] == [0] * 9


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_planes(value: bool) -> None:
    masks = np.full((5, 6, 7), value)
    assert (interpolate_signed_distance(masks, on(1, 4, depth=5)) == value).all()
    masks[1] = not value
    result = interpolate_signed_distance(masks, on(1, 4, depth=5))
    assert (result == np.array([not value, not value, not value, value, value])[:, None, None]).all()


def test_classes_keep_their_type_and_share_a_moving_border() -> None:
    labels = np.zeros((5, 1, 12), dtype=np.int16)
    labels[0] = [0, 0, 3, 3, 9, 9, 9, 9, 9, 9, 0, 0]
    labels[4] = [0, 0, 3, 3, 3, 3, 3, 3, 9, 9, 0, 0]
    result = interpolate_signed_distance(labels, on(0, 4, depth=5))
    assert result.dtype == np.int16
    assert (result[:, 0] == 3).sum(axis=1).tolist() == [2, 3, 4, 5, 6]
    assert (result[:, 0] == 0).sum(axis=1).tolist() == [4, 4, 4, 4, 4]


@pytest.mark.parametrize(("voxel", "ratio"), [(None, 1), ((9, 3, 3), 1), ((1, 4, 1), 4), ((7, 0.002, 0.008), 0.25)])
def test_oblong_pixels_weigh_rows_and_columns(voxel: tuple[float, float, float] | None, ratio: float) -> None:
    masks = np.zeros((3, 20, 20), dtype=bool)
    masks[0, :8] = masks[2, :, :12] = True
    y, x = np.arange(20)[:, None], np.arange(20)
    above = np.where(y < 8, 8 - y, 7 - y) * ratio  # distance to the border between rows 7 and 8
    left = np.where(x < 12, 12 - x, 11 - x)
    assert (interpolate_signed_distance(masks, on(0, 2, depth=3), voxel)[1] == (above + left > 0)).all()


@some
@given(hnp.arrays(np.bool_, (2, 7, 8)), st.sampled_from([(1.0, 1.0), (0.5, 2.0)]))
def test_scipy_gives_the_same(ends: np.ndarray, pixel: tuple[float, float]) -> None:
    assert interpolation.edt is not None
    with_edt = [interpolation._signed_distance(plane, pixel) for plane in ends]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpolation, "edt", None)
        with_scipy = [interpolation._signed_distance(plane, pixel) for plane in ends]
    assert np.allclose(with_edt, with_scipy, rtol=1e-5)


# --- contours ---------------------------------------------------------------------------------------------------------


@with_itk
def test_contours_follow_what_moves() -> None:
    masks = squares(5, (0, 4, 4), (4, 8, 8))
    result = interpolate_contours(masks, on(0, 4, depth=5))
    assert result.dtype == np.bool_
    assert (result[[0, 4]] == masks[[0, 4]]).all()
    centres = np.array([np.argwhere(plane).mean(axis=0) for plane in result])
    assert np.allclose(centres, np.linspace([7.5, 7.5], [11.5, 11.5], 5), atol=0.6)
    assert (abs(result.sum(axis=(1, 2)) - 64) <= 8).all()


@with_itk
def test_contours_only_between_annotated_planes() -> None:
    masks = squares(8, (1, 4, 4), (2, 8, 8), (4, 8, 8))
    result = interpolate_contours(masks, on(1, 2, 4, 6, depth=8))
    expected = masks[[1, 1, 2, 2, 4, 6, 6, 6]]  # adjacent, unmoved, gone
    assert (result == expected).all()


@with_itk
def test_contours_of_several_labels() -> None:
    labels = squares(5, (0, 2, 2), (4, 4, 4), kind=np.int32)
    labels[0, 14:20, 14:20] = labels[4, 14:20, 12:18] = 255
    result = interpolate_contours(labels, on(0, 4, depth=5))
    assert result.dtype == np.int32
    assert set(np.unique(result)) == {0, 1, 255}
    for value, size in ((1, 64), (255, 36)):
        assert (abs((result == value).sum(axis=(1, 2)) - size) <= size // 4).all()


@with_itk
def test_contours_look_at_annotated_planes_only() -> None:
    masks = squares(5, (0, 4, 4), (4, 8, 8))
    noisy = masks.copy()
    noisy[2] = True
    known = on(0, 4, depth=5)
    assert (interpolate_contours(noisy, known) == interpolate_contours(masks, known)).all()


@with_itk
def test_empty_volumes_have_no_contours() -> None:
    empty = np.zeros((5, 6, 7), dtype=bool)
    assert not interpolate_contours(empty, on(0, 4, depth=5)).any()
    assert interpolate_contours(~empty, on(0, 4, depth=5)).all()


def test_without_itk_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(interpolation, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'fewslice\[interpolation\]'"):
        interpolate_contours(squares(3, (0, 1, 1)), on(0, 2, depth=3))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [interpolate_signed_distance, interpolate_contours])
def test_labels_that_do_not_fit_are_refused(fill: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    masks = squares(3, (0, 1, 1))
    with pytest.raises(InputError, match=r"labels must be bool or integer.*float32"):
        fill(masks.astype(np.float32), on(0, depth=3))
    with pytest.raises(InputError, match=r"labels must be bool or integer.*\(24, 24\)"):
        fill(masks[0], on(0, depth=24))
    with pytest.raises(InputError, match=r"known must be one bool per plane, bool \(3,\)"):
        fill(masks, on(0, depth=4))
    with pytest.raises(InputError, match="no plane is annotated"):
        fill(masks, on(depth=3))


def test_settings_that_cannot_be_are_refused() -> None:
    masks = squares(3, (0, 1, 1))
    with pytest.raises(InputError, match="voxel size"):
        interpolate_signed_distance(masks, on(0, depth=3), (1, 1, 0))
    for value in (-1, 256):
        labels = masks.astype(np.int16)
        labels[0, 0, 0] = value
        with pytest.raises(InputError, match="labels of 0–255"):
            interpolate_contours(labels, on(0, depth=3))
