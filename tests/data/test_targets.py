"""Boundary and distance targets: cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from fewslice.data.targets import boundary_target, distance_target, object_map
from fewslice.errors import InputError

LABELS = arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 3))


def _row(*values: int) -> np.ndarray:
    return np.array(values, np.uint32).reshape(1, 1, -1)


def test_boundary_by_hand() -> None:
    row = _row(0, 1, 1, 1, 2, 2, 2, 0, 3)
    assert boundary_target(row)[0, 0].astype(int).tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert boundary_target(row, thickness=2)[0, 0].astype(int).tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert boundary_target(row, outer=True)[0, 0].astype(int).tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 1]
    assert not boundary_target(row, axes=(0, 1)).any()


def test_boundary_along_planes_only() -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[0], labels[1] = 1, 2  # they touch along z
    labels[0, :, 3] = 4
    assert boundary_target(labels).all()
    flat = boundary_target(labels, axes=(1, 2))
    assert flat[0, :, 2:].all() and not flat[0, :, :2].any() and not flat[1].any()


@given(LABELS, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_boundary_is_within_reach_of_another_object(labels: np.ndarray, thickness: int) -> None:
    """Never in the background, symmetric under names, and thicker ones hold thinner ones."""
    found = boundary_target(labels, thickness=thickness)
    assert not found[labels == 0].any()
    assert (
        boundary_target(np.where(labels > 0, 70_000 - labels.astype(np.int64), 0), thickness=thickness) == found
    ).all()
    assert (
        found | boundary_target(labels, thickness=thickness + 1) == boundary_target(labels, thickness=thickness + 1)
    ).all()
    for identity in np.unique(labels[found]):
        others = (labels != 0) & (labels != identity)
        steps = ndimage.distance_transform_cdt(~others, metric="taxicab")
        assert (steps[found & (labels == identity)] <= thickness).all()


def test_distance_by_hand() -> None:
    """The object of five voxels is 1, 2, 3, 2, 1 deep; that of two is 1, 1; at the array's end nothing ends."""
    row = _row(0, 1, 1, 1, 1, 1, 2, 2, 0, 3, 3)
    expected = [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 1, 1, 0, 1 / 2, 1]
    assert distance_target(row)[0, 0] == pytest.approx(expected)
    assert distance_target(row).dtype == np.float32


def test_distance_is_anisotropic() -> None:
    """A box of 3 by 3: with rows of 5 µm, columns of 1 µm, the depth of the middle is 2 columns."""
    labels = np.zeros((1, 5, 5), np.uint8)
    labels[0, 1:4, 1:4] = 9
    assert distance_target(labels, (1, 1, 1))[0, 2, 2] == 1.0
    found = distance_target(labels, (1, 5, 1))
    assert found[0, 1, 1:4] == pytest.approx([1 / 2, 1, 1 / 2]) and found[0, 2, 1:4] == pytest.approx([1 / 2, 1, 1 / 2])


def test_distance_of_planes() -> None:
    """Each cross-section has its own middle, whatever lies above and below."""
    labels = np.zeros((3, 7, 7), np.uint8)
    labels[0, 2:5, 2:5] = labels[1, 1:6, 1:6] = 4
    found = distance_target(labels, planes=0)
    assert found[0, 3, 3] == found[1, 3, 3] == 1.0 and found[1, 2, 2] == pytest.approx(2 / 3)
    assert not found[2].any()
    assert (distance_target(labels.transpose(1, 0, 2), planes=1) == found.transpose(1, 0, 2)).all()
    assert distance_target(labels)[:2, 3, 3].tolist() == [1.0, 0.5]  # in the volume the plane below is near


@given(LABELS)
@settings(max_examples=60, deadline=None)
def test_distance_is_that_of_scipy_for_each_object(labels: np.ndarray) -> None:
    spacing = (2.0, 0.5, 0.7)
    found = distance_target(labels, spacing)
    assert ((found > 0) == (labels > 0)).all()
    for identity in np.unique(labels[labels > 0]):
        inside = labels == identity
        assert found[inside].max() == 1.0
        if not inside.all():
            depth = ndimage.distance_transform_edt(inside, sampling=spacing)
            assert found[inside] == pytest.approx((depth / depth.max())[inside], abs=1e-5)


def test_what_cannot_be_a_target() -> None:
    row = _row(0, 1)
    for call in (
        lambda: boundary_target(row, thickness=0),
        lambda: boundary_target(row[0]),
        lambda: distance_target(row.astype(float)),
        lambda: distance_target(row, (1, 0, 1)),
    ):
        with pytest.raises(InputError):
            call()


def test_nothing_ends_where_the_known_does() -> None:
    """Two planes known apart: no border along z; at the edge of a known region none along x."""
    labels = np.zeros((3, 4, 6), np.uint32)
    labels[:, 1:3, 1:6] = 1
    labels[:, 1:3, 4:6] = 2
    known = np.zeros(labels.shape, bool)
    known[0, :, :3] = known[2] = True
    found = object_map(labels, known, "boundary", thickness=1)
    assert found is not None
    assert (found[0] > 0).astype(int).tolist()[1][:3] == [0, 1, 1]  # outline of the part that is seen, above and below
    assert not found[1].any()
    deep = boundary_target(np.ones((1, 1, 4), np.int64), outer=True, known=np.array([[[True, True, False, False]]]))
    assert not deep.any()


def test_cross_sections_of_planes_annotated_apart_are_objects_of_their_own() -> None:
    labels = np.zeros((3, 5, 5), np.uint32)
    labels[0, 1:4, 1:4] = labels[2, 2, 2] = 7
    known = np.zeros(labels.shape, bool)
    known[[0, 2]] = True
    found = object_map(labels, known, "distance")
    assert found is not None and found[0, 2, 2] == 255 and found[2, 2, 2] == 255 and 0 < found[0, 1, 1] < 255


def test_a_border_that_is_not_known_makes_nothing_shallow() -> None:
    labels = np.ones((1, 1, 6), np.uint32)
    labels[..., 0] = 0
    known = np.array([[[True, True, True, True, False, False]]])
    found = distance_target(np.where(known, labels, 0), known=known)
    assert found[0, 0, :4].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_foreground_alone_has_no_map() -> None:
    assert object_map(np.ones((1, 2, 2), np.uint8), np.ones((1, 2, 2), bool), "foreground") is None
