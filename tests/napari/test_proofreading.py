from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.measure import regionprops

from fewslice.errors import InputError
from fewslice.napari.edits import EditedArray
from fewslice.napari.proofreading import (
    delete,
    measure,
    merge,
    new_label,
    split_by_line,
    split_by_seeds,
    updated,
    volume_um3,
)
from fewslice.volume import Volume

SHAPE = (6, 9, 10)


def edited(values, block=(4, 5, 5)):
    return EditedArray(Volume.from_array(values), block)


def after(labels, stroke):
    out = np.asarray(labels).copy()
    assert np.array_equal(out.ravel()[stroke.indices], stroke.old)
    out.ravel()[stroke.indices] = stroke.new
    return out


def dumbbell():
    """Two balls of radius 5 that touch by a bridge one voxel thick, and a bystander."""
    z, y, x = np.indices((11, 20, 30))
    values = np.zeros(z.shape, np.uint16)
    values[
        ((z - 5) ** 2 + (y - 10) ** 2 + (x - 7) ** 2 <= 25) | ((z - 5) ** 2 + (y - 10) ** 2 + (x - 20) ** 2 <= 25)
    ] = 4
    values[5, 10, 12:16] = 4
    values[:, 0:2, 28:30] = 9
    return values


@given(arrays(np.uint16, SHAPE, elements=st.integers(0, 5)))
def test_the_table_agrees_with_skimage(values):
    table = measure(edited(values))
    expected = {r.label: r for r in regionprops(values)}
    assert list(table) == sorted(expected)
    for name, found in table.items():
        assert found.voxels == expected[name].area
        assert found.centre == pytest.approx(expected[name].centroid)
        assert (*found.box.start, *found.box.stop) == expected[name].bbox


@settings(max_examples=40)
@given(arrays(np.uint16, SHAPE, elements=st.integers(0, 3)), arrays(np.uint16, SHAPE, elements=st.integers(0, 3)))
def test_the_table_follows_strokes(before, new):
    labels = edited(before)
    table = measure(labels)
    labels[...] = new
    stroke = labels.take_stroke()
    if stroke is None:
        return
    follows, anew = updated(table, stroke, SHAPE), measure(labels)
    assert list(follows) == list(anew)
    for name, found in anew.items():
        assert follows[name].voxels == found.voxels and follows[name].centre == pytest.approx(found.centre)
        assert follows[name].box.intersect(found.box) == found.box, "the box no longer holds all of the object"


def test_seeds_split_where_the_object_is_thin():
    values = dumbbell()
    labels = edited(values)
    result = after(labels, split_by_seeds(labels, measure(labels), [(5, 10, 7), (5, 10, 20)]))
    assert set(np.unique(result)) == {0, 4, 9, 10}
    assert (result[:, :, :12][values[:, :, :12] == 4] == 4).all(), "the first seed's part keeps the label"
    assert (result[:, :, 16:][values[:, :, 16:] == 4] == 10).all()
    assert ((result > 0) == (values > 0)).all() and (result[values == 9] == 9).all()


def test_a_voxel_size_decides_where_watersheds_meet():
    values = np.zeros((21, 5, 5), np.uint16)
    values[:, 1:4, 1:4] = 1
    labels = edited(values)
    result = after(labels, split_by_seeds(labels, measure(labels), [(2, 2, 2), (18, 2, 2)], (1.0, 1.0, 1.0)))
    sizes = [int((result == n).sum()) for n in (1, 2)]
    assert sum(sizes) == 189 and abs(sizes[0] - sizes[1]) <= 9


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([(5, 10, 7)], "two or more"),
        ([(5, 10, 7), (5, 10, 7.2)], "two or more"),
        ([(5, 10, 7), (0, 0, 0)], r"seed \(0, 0, 0\).*background"),
        ([(5, 10, 7), (5, 10, 300)], "background"),
        ([(5, 10, 7), (5, 0, 28)], "objects 4, 9"),
    ],
)
def test_seeds_that_cannot_split_are_refused(seeds, message):
    labels = edited(dumbbell())
    with pytest.raises(InputError, match=message):
        split_by_seeds(labels, measure(labels), seeds)


@pytest.mark.parametrize(
    "path", [[(5, 2, 14), (5, 18, 14)], [(5, 18, 12), (5, 2, 15)], [(5, 2, 13), (5, 8, 14), (5, 18, 13)]]
)
def test_a_line_cuts_through_all_planes(path):
    values = dumbbell()
    values[5, 10, 3:6] = 0  # a hole changes nothing
    labels = edited(values)
    result = after(labels, split_by_line(labels, measure(labels), path, 0))
    assert set(np.unique(result)) == {0, 4, 9, 10}
    for name in (4, 10):
        assert ndimage.label(result == name, np.ones((3, 3, 3)))[1] == 1
    assert {int(result[5, 10, 7]), int(result[5, 10, 20])} == {4, 10}
    assert ((result > 0) == (values > 0)).all()
    assert len(set(result[values == 4][:0])) == 0 and (result[values == 9] == 9).all()


def test_a_line_on_a_plane_along_another_axis():
    values = dumbbell().transpose(2, 0, 1).copy()  # the dumbbell now lies along z
    labels = edited(values)
    result = after(labels, split_by_line(labels, measure(labels), [(14, 0, 10), (14, 10, 10)], 2))
    assert result[7, 5, 10] != result[20, 5, 10]


def test_what_a_line_does_not_touch_keeps_its_label():
    values = np.zeros((5, 12, 12), np.uint16)
    values[2, 2:4, :] = 3
    values[2, 8:10, :] = 3  # a second part of the same object, not cut
    labels = edited(values)
    result = after(labels, split_by_line(labels, measure(labels), [(2, 0, 5), (2, 5, 5)], 0))
    assert (result[2, 8:10] == 3).all() and {3, 4} == set(np.unique(result[2, 2:4]))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([(5, 2, 1), (5, 5, 1)], "crosses no object"),
        ([(5, 8, 7), (5, 12, 7)], "does not part"),
        ([(5, 1, 1)], "corners"),
    ],
)
def test_lines_that_part_nothing_are_refused(path, message):
    labels = edited(dumbbell())
    with pytest.raises(InputError, match=message):
        split_by_line(labels, measure(labels), path, 0)


def test_merge_and_delete():
    values = np.random.default_rng(0).integers(0, 6, SHAPE).astype(np.uint16)
    labels = edited(values)
    table = measure(labels)
    merged = after(labels, merge(labels, table, [5, 2, 4]))
    assert np.array_equal(merged, np.where(np.isin(values, (4, 5)), 2, values))
    deleted = after(labels, delete(labels, table, [3, 1]))
    assert np.array_equal(deleted, np.where(np.isin(values, (1, 3)), 0, values))
    with pytest.raises(InputError, match="two or more"):
        merge(labels, table, [5, 5])
    with pytest.raises(InputError, match="no object 77"):
        delete(labels, table, [77])


def test_a_type_that_has_no_number_left_is_said():
    values = np.full((2, 3, 3), 255, np.uint8)
    labels = edited(values)
    with pytest.raises(InputError, match="uint8, which ends at 255"):
        new_label(labels, measure(labels))
    assert new_label(edited(np.zeros((2, 3, 3), np.uint8)), {}) == 1


def test_volumes_in_micrometres():
    assert volume_um3(100, (2.0, 0.5, 0.5)) == 50.0 and volume_um3(100, None) is None
