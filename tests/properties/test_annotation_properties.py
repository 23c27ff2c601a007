"""What must hold for any label file: unlabelled voxels change nothing, names of values do not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewslice.annotation import Annotation, from_labels, parse_planes, planes_mask, simulate_sparsity
from fewslice.errors import InputError

few = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
labels = shapes.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 4)))


def same(a: Annotation, b: Annotation) -> bool:
    return (
        np.array_equal(a.labels, b.labels)
        and np.array_equal(a.annotated, b.annotated)
        and a.class_values == b.class_values
    )


@few
@given(labels, st.data())
def test_values_off_the_listed_planes_change_nothing(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, 2))
    index = data.draw(st.integers(0, array.shape[axis] - 1))
    other = data.draw(arrays(np.uint8, array.shape, elements=st.integers(0, 255)))
    listed = planes_mask([(axis, index)], array.shape)
    spec = [f"{'zyx'[axis]}={index}"]
    changed = np.where(listed, array, other)
    try:
        expected = from_labels(array, planes=spec)
    except InputError as error:
        try:
            from_labels(changed, planes=spec)
        except InputError as again:
            assert str(again) == str(error)
        else:
            raise AssertionError("values without truth made the file acceptable") from None
        return
    assert same(from_labels(changed, planes=spec), expected)
    assert np.array_equal(expected.annotated, listed)


@few
@given(labels)
def test_restricting_later_equals_listing_planes_first(array: np.ndarray[Any, Any]) -> None:
    assume(0 in array[-1] and array[-1].any())
    values = tuple(int(v) for v in np.unique(array) if v)
    last = array.shape[0] - 1
    first = from_labels(array, planes=[str(last)], class_values=values)
    later = from_labels(array, class_values=values).restricted([(0, last)])
    assert same(first, later)


@few
@given(labels, st.permutations(range(256)))
def test_the_same_labels_under_other_values_give_the_same_annotation(
    array: np.ndarray[Any, Any], names: list[int]
) -> None:
    assume(len(np.unique(array)) >= 2 and 0 in array)
    plain = from_labels(array, class_values=(1, 2, 3, 4))
    renamed = np.array(names, np.uint8)[array]
    annotation = from_labels(renamed, background=names[0], class_values=names[1:5])
    assert np.array_equal(plain.labels, annotation.labels)
    assert annotation.class_values == tuple(names[1:5])


@few
@given(labels)
def test_what_is_accepted_loses_nothing(array: np.ndarray[Any, Any]) -> None:
    """Mapping the classes back through ``class_values`` gives the file again wherever truth exists."""
    try:
        annotation = from_labels(array, unlabelled=4)
    except InputError:
        known = array[array != 4]
        # refused only when nothing or one class is left, or when there is no 0 to be background
        assert known.size == 0 or len(np.unique(known)) == 1 or 0 not in known
        return
    back = np.array((0, *annotation.class_values), np.uint8)[annotation.labels]
    assert np.array_equal(annotation.annotated, array != 4)
    assert np.array_equal(back[annotation.annotated], array[annotation.annotated])
    assert not annotation.labels[~annotation.annotated].any()


@few
@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 40), st.integers(1, 7))
def test_ranges_mean_what_they_mean_in_python(size: int, start: int, stop: int, step: int) -> None:
    expected = list(range(start, stop, step))
    try:
        planes = parse_planes([f"y={start}:{stop}:{step}"], (1, size, 1))
    except InputError:
        assert not expected or max(expected) >= size
    else:
        assert planes == [(1, i) for i in expected]


@few
@given(st.integers(1, 25), st.integers(1, 25), st.sampled_from(["even", "random"]), st.integers(0, 2**32 - 1))
def test_sparsity_keeps_exactly_that_many_planes(planes: int, count: int, how: Any, seed: int) -> None:
    assume(count <= planes)
    truth = Annotation(np.ones((planes, 2, 2), np.uint8), np.ones((planes, 2, 2), bool))
    sparse = simulate_sparsity(truth, count, how=how, generator=np.random.default_rng(seed))
    assert len(sparse.planes()) == count
    assert np.array_equal(sparse.labels > 0, sparse.annotated)
