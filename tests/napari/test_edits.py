from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.napari.edits import EditedArray, merged, no_labels, runs_of, stroke_of_runs
from fewslice.volume import Volume

SHAPE = (5, 9, 11)


def edited(block=(2, 4, 4), seed=0):
    base = np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint16)
    return EditedArray(Volume.from_array(base), block), base.copy()


slices = st.tuples(
    *(
        st.one_of(
            st.integers(-n, n - 1),
            st.tuples(st.integers(0, n), st.integers(0, n)).map(lambda p: slice(min(p), max(p))),
            st.just(slice(None)),
        )
        for n in SHAPE
    )
)


@given(st.lists(st.tuples(slices, st.integers(0, 9)), max_size=6), slices)
def test_reads_and_writes_as_numpy_does(writes, read):
    array, expected = edited()
    for index, value in writes:
        array[index] = value
        expected[index] = value
    assert np.array_equal(array[read], expected[read]) and array[read].shape == expected[read].shape
    assert np.array_equal(np.asarray(array), expected)


@given(st.data())
def test_positions_per_axis_read_and_write_as_numpy_does(data):
    array, expected = edited()
    count = data.draw(st.integers(0, 8))
    index = tuple(data.draw(arrays(np.int64, count, elements=st.integers(0, n - 1))) for n in SHAPE)
    array[index] = 7
    expected[index] = 7
    assert np.array_equal(np.asarray(array), expected) and np.array_equal(array[index], expected[index])


@given(st.lists(st.tuples(slices, st.integers(0, 4)), max_size=5))
def test_the_stroke_of_any_writes_undoes_and_repeats_them(writes):
    array, before = edited()
    for index, value in writes:
        array[index] = value
    after = np.asarray(array).copy()
    stroke = array.take_stroke()
    assert (stroke is None) == np.array_equal(before, after)
    assert array.take_stroke() is None
    if stroke is not None:
        assert np.array_equal(np.flatnonzero(before != after), stroke.indices)
        array.put(stroke.indices, stroke.old)
        assert np.array_equal(np.asarray(array), before)
        array.put(stroke.indices, stroke.new)
        assert np.array_equal(np.asarray(array), after)


@given(arrays(np.uint16, SHAPE, elements=st.integers(0, 2)), arrays(np.uint16, SHAPE, elements=st.integers(0, 2)))
def test_runs_keep_a_stroke(before, after):
    array = EditedArray(Volume.from_array(before), (2, 4, 4))
    array[...] = after
    stroke = array.take_stroke()
    if stroke is None:
        return
    again = stroke_of_runs(runs_of(stroke), array.size, array.dtype)
    for one, other in ((stroke.indices, again.indices), (stroke.old, again.old), (stroke.new, again.new)):
        assert np.array_equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize(
    "runs",
    [
        [(0, 0, 0, 1)], [(-1, 2, 0, 1)], [(98, 3, 0, 1)], [(5, 3, 0, 1), (7, 1, 0, 1)], [(0, 1, 0, 70000)],
        [(0, 1, -1, 1)], [(1, 2, 3)], [("a", 1, 0, 1)],
    ],
)  # fmt: skip
def test_runs_that_fit_no_array_are_refused(runs):
    with pytest.raises(ValueError):
        stroke_of_runs(runs, 100, np.dtype(np.uint16))


def test_memory_follows_what_is_painted_not_what_there_is():
    array = EditedArray(no_labels((4096, 100_000, 100_000)), (8, 64, 64))
    array[4000, 99_000:99_010, 5] = 3
    assert array[4000, 98_999:99_011, 5].tolist() == [0, *([3] * 10), 0]
    assert array.unsaved == {(500, 1546, 0), (500, 1547, 0)}
    assert array.take_stroke().size == 10


def test_a_snapshot_stays_as_it_was_whichever_is_written_to():
    array, base = edited()
    array[1] = 5
    expected = np.asarray(array).copy()
    snapshot = array.snapshot()
    array[1, 2] = 6
    assert np.array_equal(np.asarray(snapshot), expected)
    snapshot[1, 3] = 8
    assert (array[1, 3] == 5).all() and (array[1, 2] == 6).all()
    assert np.array_equal(array[0], base[0])


def test_boxes_of_blocks_cover_what_changed_and_lie_on_the_grid():
    array, _ = edited()
    array[4, 8, 10] = 9
    assert array.boxes(array.unsaved) == [Box((4, 8, 8), (5, 9, 11))]


def test_signed_labels_are_refused():
    with pytest.raises(InputError, match="unsigned"):
        EditedArray(Volume.from_array(np.zeros((2, 2, 2), np.int16)))


def test_a_voxel_painted_there_and_back_is_no_change():
    array, _ = edited()
    old = int(array[0, 0, 0])
    array[0, 0, 0] = old + 1
    array[0, 0, 0] = old
    assert array.take_stroke() is None and merged([]) is None


def test_masks_and_mixed_indices_are_refused():
    array, _ = edited()
    with pytest.raises(IndexError):
        array[np.zeros(SHAPE, bool)]
    with pytest.raises(IndexError):
        array[np.array([9]), np.array([0]), np.array([0])]
