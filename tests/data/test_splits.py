"""Held-out planes and regions: no leakage, training keeps enough, every class stays in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice.annotation import Annotation, from_labels
from fewslice.data.splits import Split, annotated_axis, hold_out
from fewslice.errors import InputError

PATCH = (16, 16, 16)


def truth(shape: tuple[int, int, int] = (20, 40, 40)) -> Annotation:
    """Dense: both classes on every plane of every axis."""
    labels = (np.indices(shape).sum(axis=0) % 3 == 0).astype(np.uint8)
    return Annotation(labels, np.ones(shape, bool))


def on_planes(planes: Sequence[int], *, axis: int = 0, shape: tuple[int, int, int] = (20, 40, 40)) -> Annotation:
    return truth(shape).restricted([(axis, i) for i in planes])


def split(annotations: Sequence[Annotation], seed: int = 0, **kwargs: Any) -> Split:
    result = hold_out(annotations, **{"patch": PATCH, "generator": np.random.default_rng(seed), **kwargs})
    for annotation, train, validation in zip(annotations, result.train, result.validation, strict=True):
        assert not (train & validation).any()
        assert not ((train | validation) & ~annotation.annotated).any()
    return result


def indices(mask: np.ndarray[Any, Any], axis: int = 0) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))]


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    return min((abs(i - j) for i in a for j in b), default=10**6)


def kept(result: Split, annotations: Sequence[Annotation]) -> float:
    return sum(int(t.sum()) for t in result.train) / sum(int(a.annotated.sum()) for a in annotations)


# -------------------------------------------------------------------------------------------------------------- planes


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_four_planes_give_one_inner_plane(axis: int) -> None:
    annotations = [on_planes([4, 8, 12, 16], axis=axis)]
    chosen = set()
    for seed in range(8):
        result = split(annotations, seed)
        assert result.how == "planes"
        assert result.axes == (axis,)
        (held,) = result.validation_planes
        assert indices(result.validation[0], axis) == list(held)
        assert indices(result.train[0], axis) == [p for p in (4, 8, 12, 16) if p not in held]
        chosen.add(held)
    assert chosen == {(8,), (12,)}


def test_evenly_spaced_planes_lose_nothing_and_are_spread() -> None:
    planes = list(range(0, 160, 5))
    annotations = [on_planes(planes, shape=(165, 8, 8))]
    result = split(annotations)
    held = result.validation_planes[0]
    assert len(held) == 5
    assert sorted([*held, *indices(result.train[0])]) == planes
    assert 0 not in held
    assert 155 not in held
    assert min(np.diff(held)) >= 20
    assert max(np.diff(held)) <= 45
    assert f"z = {', '.join(map(str, held))}" in result.note
    assert "5 of 32" in result.note


@pytest.mark.parametrize("depth", [21, 50, 165])
def test_a_dense_volume_gives_slabs(depth: int) -> None:
    annotations = [truth((depth, 8, 8))]
    result = split(annotations)
    held, train = indices(result.validation[0]), indices(result.train[0])
    assert distance(held, train) == 3
    assert kept(result, annotations) >= 0.6
    assert len(held) == round(0.15 * depth)
    slabs = 1 + int((np.diff(held) > 1).sum())
    assert slabs < len(held)
    assert slabs == {21: 1, 50: 1, 165: 6}[depth]
    assert not {0, depth - 1} & set(held)
    assert "used by neither" in result.note


def test_planes_inside_the_gap_are_used_by_neither() -> None:
    annotations = [on_planes(range(0, 60, 2), shape=(60, 8, 8))]
    result = split(annotations, gap=5)
    held, train = indices(result.validation[0]), indices(result.train[0])
    assert distance(held, train) >= 5
    assert len(held) + len(train) < 30
    assert kept(result, annotations) >= 0.6


def test_a_short_dense_stack_is_cut_at_its_end_when_that_alone_keeps_enough() -> None:
    annotations = [truth((10, 8, 8))]
    result = split(annotations)
    assert result.how == "planes"
    assert kept(result, annotations) >= 0.6
    assert {0, 9} & set(indices(result.validation[0]))


def test_several_samples_share_the_hold_out() -> None:
    annotations = [on_planes([2, 6, 10, 14, 18]) for _ in range(3)]
    result = split(annotations)
    assert [len(held) for held in result.validation_planes] != [2, 0, 0]
    assert sum(len(held) for held in result.validation_planes) == 2
    assert "of sample" in result.note


def test_samples_with_planes_along_different_axes() -> None:
    annotations = [on_planes([3, 9], axis=1), on_planes([2, 7, 12], axis=2), on_planes([1, 5, 15])]
    result = split(annotations)
    assert result.axes == (1, 2, 0)
    assert result.how == "planes"
    for axis, held, train, validation in zip(
        result.axes, result.validation_planes, result.train, result.validation, strict=True
    ):
        assert indices(validation, axis) == list(held)
        assert distance(indices(validation, axis), indices(train, axis)) >= 3


def test_single_planes_of_many_samples_are_held_out_whole() -> None:
    annotations = [truth((1, 12, 12)) for _ in range(20)]
    result = split(annotations)
    assert result.how == "planes"
    assert sum(v.any() for v in result.validation) == 3
    assert all(t.any() != v.any() for t, v in zip(result.train, result.validation, strict=True))


def test_seed_decides_and_nothing_else() -> None:
    annotations = [on_planes(range(0, 20, 4)), truth((30, 10, 10))]
    one, two = split(annotations, 3), split(annotations, 3)
    assert one.note == two.note
    assert all(np.array_equal(a, b) for a, b in zip(one.validation, two.validation, strict=True))


def test_values_without_truth_do_not_move_the_split() -> None:
    annotation = on_planes([2, 6, 10, 14])
    noise = np.random.default_rng(1).integers(0, 2, annotation.shape).astype(np.uint8)
    changed = Annotation(np.where(annotation.annotated, annotation.labels, noise), annotation.annotated)
    one, two = split([annotation]), split([changed])
    assert one.note == two.note
    assert np.array_equal(one.validation[0], two.validation[0])


def test_the_note_stays_readable() -> None:
    assert len(split([truth((1500, 4, 4))]).note) < 500


# ------------------------------------------------------------------------------------------------------------- classes


def with_foreground(shape: tuple[int, int, int], planes: dict[int, list[int]]) -> Annotation:
    """Annotated on every key; each plane has the listed classes, one row each."""
    labels = np.zeros(shape, np.uint8)
    for z, classes in planes.items():
        for row, klass in enumerate(classes):
            labels[z, row + 1] = klass
    count = max(c for classes in planes.values() for c in classes)
    annotation = Annotation(labels, np.ones(shape, bool), class_values=tuple(range(1, count + 1)))
    return annotation.restricted([(0, z) for z in planes])


def test_validation_has_foreground_where_possible() -> None:
    annotation = with_foreground((50, 8, 8), {0: [], 5: [], 10: [], 15: [], 20: [], 25: [1], 30: [], 35: [1], 40: []})
    for seed in range(5):
        result = split([annotation], seed)
        assert (annotation.labels[result.validation[0]] == 1).any()
        assert (annotation.labels[result.train[0]] == 1).any()


def test_the_only_plane_of_a_class_stays_in_training() -> None:
    annotation = with_foreground((40, 8, 8), {5: [1], 12: [1], 18: [1, 2], 24: [1], 31: [1]})
    for seed in range(5):
        result = split([annotation], seed)
        assert result.how == "planes"
        assert result.train[0][18].any()
        assert set(np.unique(annotation.labels[result.train[0]])) == {0, 1, 2}
        assert "No held-out plane has class 2" in result.note


def test_the_only_plane_of_a_class_is_not_lost_in_the_gap_either() -> None:
    annotation = with_foreground((40, 8, 8), {2: [1], 10: [1], 18: [1], 19: [2], 20: [1], 28: [1], 36: [1]})
    for seed in range(5):
        assert 2 in annotation.labels[split([annotation], seed).train[0]]


def test_every_plane_with_its_own_class_is_refused() -> None:
    annotation = with_foreground((40, 8, 8), {5: [1], 12: [2], 19: [3], 26: [4]})
    with pytest.raises(InputError, match=r"class \d \(label value \d\) is annotated only on plane z=\d+") as caught:
        split([annotation])
    assert "annotate it on one more plane" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("planes", [[10], [3, 17], [2, 9, 15]])
def test_few_planes_give_regions_a_patch_apart(axis: int, planes: list[int]) -> None:
    annotations = [on_planes(planes, axis=axis, shape=(80, 80, 80))]
    result = split(annotations)
    assert result.how == "regions"
    train, validation = result.train[0], result.validation[0]
    assert validation.sum() >= 0.15 * annotations[0].annotated.sum()
    assert kept(result, annotations) >= 0.6
    near = [slice(None)] * 3
    for a in (a for a in range(3) if a != axis):
        held = indices(validation, a)
        near[a] = slice(max(0, held[0] - PATCH[a] + 1), held[-1] + PATCH[a])
    assert not train[tuple(near)].any()
    assert train.sum() == annotations[0].annotated.sum() - annotations[0].annotated[tuple(near)].sum()
    assert indices(validation, axis) == planes
    assert "regions" in result.note
    assert f"only {len(planes)} annotated plane" in result.note


def test_no_patch_reaches_from_training_into_validation() -> None:
    annotation = on_planes([4], shape=(8, 90, 90))
    result = split([annotation], patch=(4, 20, 12))
    train, validation = result.train[0][4], result.validation[0][4]
    for y, x in np.argwhere(train)[::7]:
        assert not validation[max(0, y - 19) : y + 20, max(0, x - 11) : x + 12].any()


def test_a_corner_can_be_the_region() -> None:
    """Foreground in one corner only: strips and corners without it are worse."""
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[0, 60:, 60:] = 1
    result = split([Annotation(labels, np.ones(labels.shape, bool))], patch=(1, 8, 8))
    assert labels[result.validation[0]].any()
    assert labels[result.train[0]].any()


def test_regions_need_room() -> None:
    annotation = on_planes([10], shape=(20, 40, 40))
    result = split([annotation], patch=(16, 32, 32))
    assert result.how == "none"
    assert np.array_equal(result.train[0], annotation.annotated)
    assert not result.validation[0].any()
    assert "default threshold" in result.note


def test_a_small_sample_stays_whole_beside_a_large_one() -> None:
    annotations = [on_planes([1], shape=(3, 20, 20)), on_planes([5], shape=(10, 120, 120))]
    result = split(annotations)
    assert result.how == "regions"
    assert not result.validation[0].any()
    assert np.array_equal(result.train[0], annotations[0].annotated)
    assert result.validation[1].sum() >= 0.15 * sum(a.annotated.sum() for a in annotations)


def test_regions_keep_every_class_in_training() -> None:
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[0, 40:60] = 1
    labels[0, :10, :10] = 2
    annotation = Annotation(labels, np.ones(labels.shape, bool), class_values=(1, 2))
    for seed in range(5):
        result = split([annotation], seed, patch=(1, 8, 8))
        assert result.how == "none" or 2 in labels[result.train[0]]


def test_adjacent_planes_fall_back_to_regions() -> None:
    """A neighbour is no hold-out: of four adjacent planes the gap would leave one."""
    annotations = [on_planes([8, 9, 10, 11], shape=(20, 80, 80))]
    result = split(annotations)
    assert result.how == "regions"
    assert "so close" in result.note


def test_partly_annotated_planes() -> None:
    """Scribbles: a region is measured in annotated voxels, not in area."""
    annotation = truth((6, 100, 100))
    mask = np.zeros(annotation.shape, bool)
    mask[2, 10:90, 20:30] = True
    mask[2, 40:50, :] = True
    sparse = annotation.restricted(mask)
    result = split([sparse], patch=(1, 8, 8))
    assert result.how == "regions"
    assert result.validation[0].sum() >= 0.15 * mask.sum()


# --------------------------------------------------------------------------------------------------------------- other


def test_nothing_is_held_out_when_asked() -> None:
    annotations = [truth()]
    result = split(annotations, fraction=0)
    assert result.how == "none"
    assert result.train[0].all()


@pytest.mark.parametrize("wrong", [{"fraction": 0.5}, {"fraction": -0.1}, {"gap": 0}, {"patch": (0, 4, 4)}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        split([truth()], **wrong)


def test_nothing_annotated_is_refused() -> None:
    empty = Annotation(np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 5), bool))
    for nothing in ([], [empty]):
        with pytest.raises(InputError, match="no annotated voxel"):
            split(nothing)


@pytest.mark.parametrize(
    ("planes", "axis"),
    [
        ([(0, 3)], 0),
        ([(0, 3), (0, 9)], 0),
        ([(1, 3), (1, 9)], 1),
        ([(1, 3), (1, 4)], 1),
        ([(2, 30)], 2),
        ([(0, z) for z in range(20)], 0),
    ],
)
def test_the_axis_of_the_planes_is_found(planes: list[tuple[int, int]], axis: int) -> None:
    annotation = truth().restricted(planes)
    assert annotated_axis(annotation.annotated) == axis


def test_a_box_is_cut_along_z() -> None:
    annotated = np.zeros((50, 100, 100), bool)
    annotated[5:45, 20:60, 10:60] = True
    assert annotated_axis(annotated) == 0


def test_labels_from_a_file_split_the_same_way() -> None:
    array = np.where(truth().labels == 1, 1, 255).astype(np.uint8)
    annotation = from_labels(array, background=255, planes=["4:17:4"])
    assert split([annotation]).validation_planes[0] in ((8,), (12,))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 29), max_size=30), min_size=1, max_size=3),
    st.integers(1, 6),
    st.integers(0, 2),
    st.integers(0, 1000),
)
def test_any_annotation_is_split_without_leakage(chosen: list[set[int]], gap: int, axis: int, seed: int) -> None:
    shape = [12, 12, 12]
    shape[axis] = 30
    annotations = [on_planes(sorted(c), axis=axis, shape=(shape[0], shape[1], shape[2])) for c in chosen if c]
    if not annotations:
        return
    result = split(annotations, seed, gap=gap, patch=(3, 3, 3))
    total = sum(int(a.annotated.sum()) for a in annotations)
    assert sum(int(t.sum()) for t in result.train) >= 0.6 * total
    assert (sum(int(v.sum()) for v in result.validation) > 0) == (result.how != "none")
    if sum(len(c) for c in chosen) < 4:
        assert result.how != "planes"
    if result.how == "planes":
        for used, train, validation in zip(result.axes, result.train, result.validation, strict=True):
            assert distance(indices(validation, used), indices(train, used)) >= gap
