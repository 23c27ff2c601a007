"""Label conventions, planes and simulated sparsity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from fewslice.annotation import (
    Annotation,
    check_usable,
    distinct_values,
    from_labels,
    parse_planes,
    planes_mask,
    simulate_sparsity,
)
from fewslice.errors import InputError


def volume(*values: int, dtype: str = "int64") -> np.ndarray[Any, Any]:
    """Two planes that both hold every value."""
    return np.array([[values, values], [values, values]], dtype=dtype)


# ---------------------------------------------------------------------------------------------------- clear conventions


@pytest.mark.parametrize(
    ("values", "flags", "labels", "annotated", "class_values"),
    [
        ((0, 1), {}, (0, 1), (1, 1), (1,)),
        ((0, 1), {"unlabelled": "none"}, (0, 1), (1, 1), (1,)),
        ((0, 255), {}, (0, 1), (1, 1), (255,)),
        ((0, 65535), {}, (0, 1), (1, 1), (65535,)),
        ((0, 2, 7), {}, (0, 1, 2), (1, 1, 1), (2, 7)),
        ((1, 255), {"background": 255}, (1, 0), (1, 1), (1,)),
        ((1, 2, 255), {"background": 255}, (1, 2, 0), (1, 1, 1), (1, 2)),
        ((0, 1, 255), {"unlabelled": 255}, (0, 1, 0), (1, 1, 0), (1,)),
        ((0, 1, 255), {"unlabelled": "255"}, (0, 1, 0), (1, 1, 0), (1,)),
        ((0, 1, 255), {"unlabelled": "none"}, (0, 1, 2), (1, 1, 1), (1, 255)),
        ((0, 1, 255), {"background": 255, "unlabelled": 0}, (0, 1, 0), (0, 1, 1), (1,)),
        ((0, 1, 255), {"background": 255, "unlabelled": "none"}, (1, 2, 0), (1, 1, 1), (0, 1)),
        ((0, 1, 2), {"unlabelled": 0, "background": 1}, (0, 0, 1), (0, 1, 1), (2,)),  # ilastik, Biomedisa
        ((0, 1, 2), {"unlabelled": "0", "background": 2}, (0, 1, 0), (0, 1, 1), (1,)),
        ((-1, 0, 1), {"unlabelled": -1}, (0, 0, 1), (0, 1, 1), (1,)),  # torch-em, PyTorch Connectomics
        ((-1, 0, 3), {"unlabelled": " -1 "}, (0, 0, 1), (0, 1, 1), (3,)),
        ((0, 1, 2, 3), {"unlabelled": "highest"}, (0, 1, 2, 0), (1, 1, 1, 0), (1, 2)),  # nnU-Net
        ((0, 1, 255), {"unlabelled": "Highest"}, (0, 1, 0), (1, 1, 0), (1,)),
        ((1, 2), {"background": 2}, (1, 0), (1, 1), (1,)),
        ((0, 1), {"class_values": (1, 2)}, (0, 1), (1, 1), (1, 2)),
        ((0, 2), {"class_values": (1, 2)}, (0, 2), (1, 1), (1, 2)),
        ((0, 255), {"class_values": (255,)}, (0, 1), (1, 1), (255,)),
        ((1, 255), {"class_values": (1,), "background": 255}, (1, 0), (1, 1), (1,)),
        ((0, 1, 2), {"class_values": (1,), "unlabelled": "highest"}, (0, 1, 0), (1, 1, 0), (1,)),
        ((0, 1), {"class_values": (1,), "unlabelled": "highest"}, (0, 1), (1, 1), (1,)),
    ],
)
def test_every_named_convention(
    values: tuple[int, ...],
    flags: dict[str, Any],
    labels: tuple[int, ...],
    annotated: tuple[int, ...],
    class_values: tuple[int, ...],
) -> None:
    annotation = from_labels(volume(*values), **flags)
    assert annotation.labels[1, 1].tolist() == list(labels)
    assert annotation.annotated[1, 1].tolist() == [bool(a) for a in annotated]
    assert annotation.class_values == class_values
    assert annotation.class_count == len(class_values)
    assert annotation.labels.dtype == np.uint8
    assert annotation.annotated.dtype == np.bool_


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("values", "dtype", "flags", "choices"),
    [
        ((1, 255), "uint8", {}, ["--background 255", "--unlabelled 255"]),
        ((1, 2, 255), "uint8", {}, ["--background 255", "--unlabelled 255"]),
        ((0, 1, 255), "uint8", {}, ["--unlabelled 255", "--background 255 --unlabelled 0", "--unlabelled none"]),
        ((0, 1, 65535), "uint16", {}, ["--unlabelled 65535", "--unlabelled none"]),
        ((0, 1, 255), "uint8", {"background": 255}, ["--background 255 --unlabelled 0", "--unlabelled none"]),
        ((0, 255), "uint8", {"background": 255}, ["--background 255 --unlabelled 0", "--unlabelled none"]),
        ((0, 1), "uint8", {"background": 255}, ["no value 255", "--background 255 --unlabelled 0"]),
        ((1, 2, 255), "uint8", {"background": 1}, ["--unlabelled 255", "--unlabelled none"]),
        ((1, 2, 3), "uint8", {}, ["--background 1", "--background 2", "--background 3"]),
        ((0, 1, 2), "uint8", {"unlabelled": 0}, ["--background 1", "--background 2"]),
        ((-1, 0, 1), "int8", {}, ["--unlabelled -1", "--background -1"]),
        ((-7, 0, 1), "int8", {"unlabelled": -1}, ["-7", "--background -7"]),
        ((1, 255), "uint8", {"class_values": (1,)}, ["--unlabelled 255", "--background 255"]),
        ((0, 1, 2), "uint8", {"class_values": (1,)}, ["value 2", "--unlabelled 2"]),
        ((0, 1, 255), "uint8", {"class_values": (1,), "background": 255}, ["value 0", "--unlabelled 0"]),
        (tuple(range(17)), "uint8", {}, ["17 distinct", "--label-kind classes", "--label-kind instances"]),
        ((0, 1), "uint8", {"unlabelled": -1}, ["--unlabelled -1", "uint8", "0 to 255"]),
        ((0, 1), "uint8", {"background": 300}, ["--background 300", "uint8"]),
        ((0, 1), "uint8", {"background": 1, "unlabelled": 1}, ["--background", "--unlabelled", "two different"]),
        ((0, 1), "uint8", {"unlabelled": "many"}, ["--unlabelled 'many'", "highest", "none"]),
        ((0, 5, 9), "uint8", {"kind": "instances", "background": 9, "unlabelled": "none"}, ["id 0"]),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_choices(
    values: tuple[int, ...], dtype: str, flags: dict[str, Any], choices: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        from_labels(volume(*values, dtype=dtype), name="somata.tif", **flags)
    message = str(caught.value)
    assert [c for c in choices if c not in message] == []
    assert "\n" not in message
    assert "somata.tif" in message or "--" in message


def test_each_offered_choice_is_accepted() -> None:
    for flags in ({"unlabelled": 255}, {"background": 255, "unlabelled": 0}, {"unlabelled": "none"}):
        from_labels(volume(0, 1, 255, dtype="uint8"), **flags)
    from_labels(volume(1, 255, dtype="uint8"), background=255)
    for kind in ("classes", "instances"):
        from_labels(volume(*range(17), dtype="uint8"), kind=kind)


def test_sixteen_values_are_still_classes() -> None:
    assert from_labels(volume(*range(16))).class_count == 15


@pytest.mark.parametrize(
    ("array", "flags", "words"),
    [
        (volume(255, dtype="uint8"), {"unlabelled": 255}, "no annotated voxel"),
        (volume(0, dtype="uint8"), {"unlabelled": 0}, "no annotated voxel"),
        (volume(-1), {"unlabelled": -1}, "no annotated voxel"),
        (volume(0, dtype="uint8"), {}, "one class only"),
        (volume(1, dtype="uint8"), {}, "one class only"),
        (volume(1, 255, dtype="uint8"), {"unlabelled": 255}, "one class only"),
        (volume(1, 255, dtype="uint8"), {"unlabelled": 1, "background": 255}, "one class only"),
        (volume(3, 4), {"kind": "instances"}, "one class only"),
        (np.zeros((2, 3, 4), np.float32), {}, "float32"),
        (np.zeros((0, 3, 4), np.uint8), {}, "size 0"),
        (np.zeros((1, 2, 3, 4), np.uint8), {}, r"\(1, 2, 3, 4\)"),
    ],
)
def test_nothing_to_learn_from_is_refused(array: Any, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_labels(array, **flags)


def test_truth_of_an_evaluation_may_hold_one_class() -> None:
    assert not from_labels(volume(0), allow_one_class=True).labels.any()
    assert from_labels(volume(1), allow_one_class=True).labels.all()


def test_a_class_may_be_missing_from_one_file_of_several() -> None:
    empty = from_labels(volume(0), allow_one_class=True)
    with pytest.raises(InputError, match="one class only"):
        check_usable([empty, empty])
    check_usable([empty, from_labels(volume(1), allow_one_class=True)])


# ------------------------------------------------------------------------------------------------------------- planes


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (["0,5,10"], [(0, 0), (0, 5), (0, 10)]),
        (["0:11:5"], [(0, 0), (0, 5), (0, 10)]),
        (["0:12:5"], [(0, 0), (0, 5), (0, 10)]),
        (["10:"], [(0, 10), (0, 11)]),
        (["::6"], [(0, 0), (0, 6)]),
        (["z=3"], [(0, 3)]),
        (["y=3,9"], [(1, 3), (1, 9)]),
        (["X = 1:3"], [(2, 1), (2, 2)]),
        (["4", "y=3", "4,5"], [(0, 4), (0, 5), (1, 3)]),
        (["1, 2,4:6"], [(0, 1), (0, 2), (0, 4), (0, 5)]),
    ],
)
def test_planes_are_read(specs: list[str], expected: list[tuple[int, int]]) -> None:
    assert parse_planes(specs, (12, 20, 30)) == expected


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("12", "0 to 11"),
        ("0,40,50", "40, 50"),
        ("-1", "0 to 11"),
        ("0:14:2", "12.*0 to 11"),
        ("0:999999999999", "0 to 11"),
        ("y=20", "along y.*0 to 19"),
        ("5:5", "no plane"),
        ("5:2", "no plane"),
        ("-3:", "from 0"),
        ("0:5:0", "step"),
        ("0:5:-1", "step"),
        ("-:3", "cannot be read"),
        ("", "cannot be read"),
        ("1,,2", "cannot be read"),
        ("q=3", "cannot be read"),
        ("1-3", "cannot be read"),
        ("0,y=3", "cannot be read"),
    ],
)
def test_planes_that_cannot_be_are_refused(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_planes([spec], (12, 20, 30))
    assert spec in str(caught.value)


def test_only_listed_planes_are_annotated_and_looked_at() -> None:
    array = np.zeros((4, 5, 6), np.uint8)
    array[:, :2] = 1
    array[3] = 77  # a value nobody has to explain, since plane 3 is not listed
    annotation = from_labels(array, planes=["1", "x=2"], unlabelled=77)
    assert annotation.planes(0) == [0, 1, 2]
    assert annotation.planes(2) == [0, 1, 2, 3, 4, 5]
    expected = np.zeros(array.shape, bool)
    expected[1] = True
    expected[:, :, 2] = True
    expected[3] = False
    assert np.array_equal(annotation.annotated, expected)
    assert np.array_equal(annotation.labels, np.where(expected, array, 0))
    assert from_labels(array, planes=["0,1"]).class_values == (1,)


def test_highest_is_the_highest_of_the_file_even_when_the_planes_lack_it() -> None:
    array = volume(0, 1, 2)
    array[0] = [0, 1, 1]
    annotation = from_labels(array, planes=["0"], unlabelled="highest")
    assert annotation.class_values == (1,)
    assert annotation.annotated[0].all()


def test_mask_refuses_a_plane_outside() -> None:
    with pytest.raises(InputError, match="0 to 3"):
        planes_mask([(0, 4)], (4, 5, 6))


def test_two_dimensional_labels_are_one_plane() -> None:
    assert from_labels(np.array([[0, 1]], np.uint8)).shape == (1, 1, 2)


# ---------------------------------------------------------------------------------------------------------- instances


def test_instances_keep_their_ids_and_are_foreground() -> None:
    big = 2**40
    annotation = from_labels(volume(0, 7, 300, big), kind="instances")
    assert annotation.labels[0, 0].tolist() == [0, 7, 300, big]
    assert annotation.labels.dtype == np.uint64
    assert from_labels(volume(0, 7), kind="instances").labels.dtype == np.uint32
    assert annotation.classes[0, 0].tolist() == [0, 1, 1, 1]
    assert annotation.classes.dtype == np.uint8
    assert annotation.class_count == 1


def test_instances_may_have_classes_background_and_unlabelled() -> None:
    annotation = from_labels(
        volume(0, 7, 8, 255, dtype="uint8"), kind="instances", background=255, unlabelled=0, class_by_id={8: 2}
    )
    assert annotation.labels[0, 0].tolist() == [0, 7, 8, 0]
    assert annotation.annotated[0, 0].tolist() == [False, True, True, True]
    assert annotation.classes[0, 0].tolist() == [0, 1, 2, 0]
    assert annotation.class_count == 2


def test_consecutive_ids_up_to_the_largest_are_no_reserved_value() -> None:
    assert from_labels(volume(*range(256), dtype="uint8"), kind="instances").labels.max() == 255
    with pytest.raises(InputError, match="--unlabelled 255"):
        from_labels(volume(0, 1, 2, 255, dtype="uint8"), kind="instances")


# ------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 255), "uint8"),
        ((-128, 127), "int8"),
        ((-(2**63), 2**63 - 1), "int64"),
        ((0, 2**64 - 1), "uint64"),
        ((2**64 - 3, 2**64 - 1), "uint64"),
        ((5, 5 + 2**30), "int32"),
    ],
)
def test_distinct_values_of_every_range(values: tuple[int, ...], dtype: str) -> None:
    array = np.array([[[values[0]]], [[values[1]]], [[values[0]]]], dtype=dtype)
    assert distinct_values(array) == values
    assert distinct_values(array, [(0, 1)]) == values[1:]
    assert distinct_values(np.moveaxis(array, 0, 2)) == values


# ----------------------------------------------------------------------------------------------------------- sparsity


@pytest.fixture
def dense() -> Annotation:
    array = np.zeros((20, 12, 16), np.uint8)
    array[:, 3:7, 5:9] = 1
    return from_labels(array)


@pytest.mark.parametrize(("count", "expected"), [(1, [10]), (2, [5, 15]), (4, [2, 7, 12, 17]), (20, list(range(20)))])
def test_even_sparsity_is_centred(dense: Annotation, count: int, expected: list[int]) -> None:
    sparse = simulate_sparsity(dense, count)
    assert sparse.planes() == expected
    assert sparse.annotated[expected[0]].all()
    assert not (sparse.labels[~sparse.annotated]).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("how", ["even", "random"])
def test_sparsity_along_any_axis_repeats_with_its_seed(dense: Annotation, axis: int, how: Any) -> None:
    draws = [simulate_sparsity(dense, 3, axis=axis, how=how, generator=np.random.default_rng(s)) for s in range(9)]
    again = simulate_sparsity(dense, 3, axis=axis, how=how, generator=np.random.default_rng(8))
    assert again.planes(axis) == draws[8].planes(axis)
    assert {len(d.planes(axis)) for d in draws} == {3}
    assert len({tuple(d.planes(axis)) for d in draws}) > 1
    others = [a for a in range(3) if a != axis]
    assert all(len(draws[0].planes(a)) == dense.shape[a] for a in others)


def test_even_draws_keep_equal_distances(dense: Annotation) -> None:
    for seed in range(5):
        planes = simulate_sparsity(dense, 4, generator=np.random.default_rng(seed)).planes()
        assert set(np.diff(planes)) == {5}


def test_impossible_sparsity_is_refused(dense: Annotation) -> None:
    for count in (0, 21):
        with pytest.raises(InputError, match="1 to 20"):
            simulate_sparsity(dense, count)
    with pytest.raises(InputError, match="generator"):
        simulate_sparsity(dense, 2, how="random")
    with pytest.raises(InputError, match="'first'"):
        simulate_sparsity(dense, 2, how="first")  # type: ignore[arg-type]


def test_restricted_by_mask_and_by_planes_agree(dense: Annotation) -> None:
    mask = planes_mask([(0, 3), (1, 4)], dense.shape)
    by_mask, by_planes = dense.restricted(mask), dense.restricted([(0, 3), (1, 4)])
    assert np.array_equal(by_mask.annotated, mask)
    assert np.array_equal(by_mask.labels, by_planes.labels)
    with pytest.raises(InputError, match="shape"):
        dense.restricted(mask[:-1])


def test_annotation_refuses_other_types() -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(InputError, match="same"):
        Annotation(labels, np.ones((2, 3, 5), bool))
    with pytest.raises(InputError, match="int64"):
        Annotation(labels.astype(np.int64), np.ones((2, 3, 4), bool))


# ---------------------------------------------------------------------------------------------------------- real files


def test_published_stacks_are_refused_until_their_background_is_named(data_dir: Path) -> None:
    for stack, classes, planes in (("stack2", (1,), 21), ("stack3", (1,), 21), ("stack5", (1, 2), 10)):
        array = tifffile.imread(data_dir / "two_photon_neurons" / stack / "labels.tif")
        with pytest.raises(InputError, match=r"--background 255.*--unlabelled 255"):
            from_labels(array)
        annotation = from_labels(array, background=255)
        assert annotation.class_values == classes
        assert annotation.planes() == list(range(planes))
        assert np.array_equal(annotation.labels > 0, array != 255)
        sparse = from_labels(array, background=255, planes=["1:9:2"])
        assert sparse.planes() == [1, 3, 5, 7]


def test_nuclei_need_their_kind(data_dir: Path) -> None:
    array = tifffile.imread(next((data_dir / "nuclei_3d" / "1135").glob("labels*")))
    with pytest.raises(InputError, match="--label-kind instances"):
        from_labels(array)
    annotation = from_labels(array, kind="instances")
    assert np.array_equal(annotation.labels, array)
    assert annotation.classes.max() == 1
