"""Pairing of labels with images, and one meaning of label values for a whole data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from fewslice.annotation import Annotation
from fewslice.data.samples import NO_LABELS, Sample, expand, open_samples, pair, stem
from fewslice.errors import InputError
from fewslice.volume import Volume

Touch = Callable[..., list[str]]


@pytest.fixture
def touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Touch:
    """Make empty files (a trailing slash makes a folder) below the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> list[str]:
        for name in names:
            path = Path(name)
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch()
        return list(names)

    return make


# ------------------------------------------------------------------------------------------------------------- pairing


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/cell_1.tif", "cell_1"),
        ("cell_1.ome.tiff", "cell_1"),
        ("cell.v2.OME.TIF", "cell.v2"),
        ("a/cell_1.h5:volumes/raw", "cell_1"),
        ("a/cell_1.ome.zarr", "cell_1"),
        ("a/cell_1.ome.zarr/labels/somata", "cell_1"),
        ("a/cell_1.zarr/", "cell_1"),
        ("noextension", "noextension"),
    ],
)
def test_stems(path: str, expected: str) -> None:
    assert stem(path) == expected


def test_a_folder_is_its_own_stem(touch: Touch) -> None:
    touch("brain.v1/")
    assert stem("brain.v1") == "brain.v1"


def test_by_stem_in_any_order_and_missing_labels_mean_unlabelled(touch: Touch) -> None:
    touch("i/a.tif", "i/b.tif", "i/c.tif", "l/c.ome.tif", "l/a.tif")
    assert pair(["i/a.tif", "i/b.tif", "i/c.tif"], ["l/c.ome.tif", "l/a.tif"]) == [
        ("i/a.tif", "l/a.tif"),
        ("i/b.tif", None),
        ("i/c.tif", "l/c.ome.tif"),
    ]


def test_stem_goes_before_order(touch: Touch) -> None:
    touch("i/a.tif", "i/b.tif", "l/a.tif", "l/b.tif")
    assert pair(["i/a.tif", "i/b.tif"], ["l/b.tif", "l/a.tif"]) == [("i/a.tif", "l/a.tif"), ("i/b.tif", "l/b.tif")]


def test_by_order_when_no_stem_matches(touch: Touch) -> None:
    touch("s2/image.tif", "s5/image.tif", "s2/labels.tif", "s5/labels.tif")
    assert pair(["s2/image.tif", "s5/image.tif"], ["s2/labels.tif", "s5/labels.tif"]) == [
        ("s2/image.tif", "s2/labels.tif"),
        ("s5/image.tif", "s5/labels.tif"),
    ]


def test_equal_stems_in_equal_order_are_clear(touch: Touch) -> None:
    touch("a/x.tif", "b/x.tif", "la/x.tif", "lb/x.tif")
    assert pair(["a/x.tif", "b/x.tif"], ["la/x.tif", "lb/x.tif"]) == [("a/x.tif", "la/x.tif"), ("b/x.tif", "lb/x.tif")]


def test_none_marks_an_unlabelled_image_by_position(touch: Touch) -> None:
    touch("s2/image.tif", "s3/image.tif", "s2/labels.tif")
    assert pair(["s2/image.tif", "s3/image.tif"], ["s2/labels.tif", NO_LABELS]) == [
        ("s2/image.tif", "s2/labels.tif"),
        ("s3/image.tif", None),
    ]


def test_no_labels_at_all(touch: Touch) -> None:
    touch("a.tif")
    assert pair(["a.tif"]) == [("a.tif", None)]


def test_globs_are_sorted_as_people_count(touch: Touch) -> None:
    touch("i/p_10.tif", "i/p_2.tif", "i/p_1.tif", "l/q_1.tif", "l/q_2.tif", "l/q_10.tif")
    pairs = pair(["i/*.tif"], ["l/*.tif"])
    assert [(Path(i).name, Path(label or "").name) for i, label in pairs] == [
        ("p_1.tif", "q_1.tif"),
        ("p_2.tif", "q_2.tif"),
        ("p_10.tif", "q_10.tif"),
    ]


def test_globs_carry_datasets_and_go_into_stores(touch: Touch) -> None:
    touch("a.h5", "b.h5", "c.ome.zarr/labels/cells/", "d.ome.zarr/labels/cells/")
    assert expand(["*.h5:raw"]) == ["a.h5:raw", "b.h5:raw"]
    found = pair(["*.ome.zarr"], ["*.ome.zarr/labels/cells"])
    assert [(i, Path(label or "").as_posix()) for i, label in found] == [
        ("c.ome.zarr", "c.ome.zarr/labels/cells"),
        ("d.ome.zarr", "d.ome.zarr/labels/cells"),
    ]
    assert pair(["a.h5:raw"], ["a.h5:labels"]) == [("a.h5:raw", "a.h5:labels")]


def test_a_name_with_brackets_is_a_file_when_it_exists(touch: Touch) -> None:
    touch("a[1].tif", "a1.tif")
    assert expand(["a[1].tif"]) == ["a[1].tif"]


def test_folders_of_labels(touch: Touch) -> None:
    touch("i/a.tif", "i/b.tif", "l/a.tif", "l/b.tif", "l/notes.txt", "l/.hidden.tif")
    assert [Path(p or "").name for _, p in pair(["i/*.tif"], ["l"])] == ["a.tif", "b.tif"]


def test_a_folder_image_is_one_volume_and_so_are_its_labels(touch: Touch) -> None:
    touch("planes/0.tif", "planes/1.tif", "painted/0.tif", "painted/1.tif", "stack.tif")
    assert pair(["planes"], ["painted"]) == [("planes", "painted")]
    assert pair(["stack.tif"], ["painted"]) == [("stack.tif", "painted")]


@pytest.mark.parametrize(
    ("files", "images", "labels", "words"),
    [
        (["a.tif", "b.tif", "x.tif"], ["a.tif", "b.tif"], ["x.tif"], "stem.*counts differ.*--labels none"),
        (["a.tif", "l/a.tif", "l/b.tif"], ["a.tif"], ["l/a.tif", "l/b.tif"], "l/b.tif have no image"),
        (["a.tif", "l/a.tif", "l/b.tif"], ["a.tif"], ["l"], "l/b.tif have no image"),
        (["a.tif", "b.tif", "l/a.tif", "l/c.tif"], ["a.tif", "b.tif"], ["l/a.tif", "l/c.tif"], "l/c.tif have no image"),
        (["a.tif"], ["a.tif"], ["a.tif"], "both as image and as labels"),
        (["a.tif"], ["a.tif"], ["./a.tif"], "both as image and as labels"),
        (["d/a.tif", "d/a_labels.tif"], ["d/*.tif"], ["d/a_labels.tif"], "both as image and as labels"),
        (["a.h5"], ["a.h5:raw"], ["a.h5:/raw"], "both as image and as labels"),
        (["a.tif"], ["a.tif", "a.tif"], [], "twice as image"),
        (["a.tif", "b.tif", "l.tif"], ["a.tif", "b.tif"], ["l.tif", "l.tif"], "twice as labels"),
        (["a/x.tif", "b/x.tif", "l/x.tif"], ["a/x.tif", "b/x.tif"], ["l/x.tif"], "image files share the stem 'x'"),
        (["x.tif", "a/x.tif", "b/x.tif"], ["x.tif"], ["a/x.tif", "b/x.tif"], "label files share the stem 'x'"),
        (["a.tif"], ["nosuch.tif"], [], "nosuch.tif does not exist"),
        (["a.tif"], ["a.tif"], ["nosuch.tif"], "nosuch.tif does not exist"),
        (["a.tif"], ["*.png"], [], "matches no file"),
        (["a.tif", "l/"], ["a.tif"], ["l"], "no label file"),
        (["a.tif", "b.tif"], ["a.tif", "b.tif"], ["none"], "--labels none stands for"),
        (["a.tif"], [], ["a.tif"], "no image"),
    ],
)
def test_what_does_not_pair_is_refused(
    touch: Touch, files: Sequence[str], images: Sequence[str], labels: Sequence[str], words: str
) -> None:
    touch(*files)
    with pytest.raises(InputError, match=words) as caught:
        pair(images, labels)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_the_image_is_the_image(touch: Touch) -> None:
    touch("a.tif")
    Path("l.tif").symlink_to("a.tif")
    with pytest.raises(InputError, match="both"):
        pair(["a.tif"], ["l.tif"])


# ------------------------------------------------------------------------------------------------------------- opening


def write(path: str, array: np.ndarray[Any, Any], **options: Any) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack", **options)
    return path


def image(planes: int = 6, channels: int = 2) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    shape = (planes, channels, 20, 24) if channels > 1 else (planes, 20, 24)
    return rng.integers(0, 255, shape).astype(np.uint8)


def painted(*values: int, planes: int = 6, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    array = np.full((planes, 20, 24), values[0], dtype)
    for row, value in enumerate(values[1:]):
        array[:, 4 * row : 4 * row + 4, 3:9] = value
    return array


def test_axes_follow_from_the_labels(touch: Touch) -> None:
    write("image.tif", image())
    write("labels.tif", painted(255, 1))
    (sample,) = open_samples(["image.tif"], ["labels.tif"], background=255, planes=["1,3"], voxel_size_um=(2, 1, 1))
    assert sample.name == "image"
    assert sample.image.shape == (6, 20, 24)
    assert sample.image.channels == 2
    assert sample.image.voxel_size_um == (2.0, 1.0, 1.0)
    assert sample.annotation is not None
    assert sample.annotation.planes() == [1, 3]
    assert sample.image.axes_note is not None
    assert np.array_equal(sample.annotation.labels[1], painted(255, 1)[1] == 1)
    again = open_samples(["image.tif"], ["labels.tif"], background=255, axes="zcyx")[0]
    assert again.image.shape == (6, 20, 24)


def test_a_class_has_one_number_in_all_files(touch: Touch) -> None:
    """The second file lacks class 3: its 7 must still be class 2, not 1."""
    write("i/a.tif", image())
    write("i/b.tif", image())
    write("l/a.tif", painted(0, 3, 7))
    write("l/b.tif", painted(0, 7))
    one, two = open_samples(["i/*.tif"], ["l/*.tif"], axes="zcyx")
    assert one.annotation is not None
    assert two.annotation is not None
    assert one.annotation.class_values == two.annotation.class_values == (3, 7)
    assert np.unique(two.annotation.labels).tolist() == [0, 2]


def test_ambiguity_is_judged_over_all_files(touch: Touch) -> None:
    """Each file alone is clear, {0, 1} and {0, 255}; together 255 may be a class or unlabelled."""
    write("i/a.tif", image())
    write("i/b.tif", image())
    write("l/a.tif", painted(0, 1))
    write("l/b.tif", painted(0, 255))
    with pytest.raises(InputError, match=r"2 label files .*--unlabelled 255"):
        open_samples(["i/*.tif"], ["l/*.tif"], axes="zcyx")


def test_one_file_may_lack_foreground_but_not_all(touch: Touch) -> None:
    for name in "ab":
        write(f"i/{name}.tif", image())
    write("l/a.tif", painted(0, 1))
    write("l/b.tif", painted(0))
    samples = open_samples(["i/*.tif"], ["l/*.tif"], axes="zcyx")
    assert all(s.annotation is not None and s.annotation.annotated.all() for s in samples)
    write("l/a.tif", painted(0))
    with pytest.raises(InputError, match="one class only"):
        open_samples(["i/*.tif"], ["l/*.tif"], axes="zcyx")


def test_unlabelled_samples_take_the_channels_of_the_others(touch: Touch) -> None:
    write("i/a.tif", image(6))
    write("i/b.tif", image(9))
    write("l/b.tif", painted(0, 1, planes=9))
    first, second = open_samples(["i/a.tif", "i/b.tif"], ["l/b.tif"])
    assert first.annotation is None
    assert first.labels_source == ""
    assert first.image.shape == (6, 20, 24)
    assert first.image.channels == 2
    assert second.labels_source == "l/b.tif"


def test_names_are_unique(touch: Touch) -> None:
    for folder in ("s2", "s3"):
        write(f"{folder}/image.tif", image())
    samples = open_samples(["s2/image.tif", "s3/image.tif"], axes="zcyx")
    assert [s.name for s in samples] == ["s2/image", "s3/image"]


def test_instances_of_several_files(touch: Touch) -> None:
    write("i/a.tif", image())
    write("i/b.tif", image())
    write("l/a.tif", painted(0, 300, 301, dtype=np.uint16))
    write("l/b.tif", painted(0, 5, dtype=np.uint16))
    samples = open_samples(["i/*.tif"], ["l/*.tif"], axes="zcyx", label_kind="instances")
    assert [s.annotation.kind for s in samples if s.annotation] == ["instances", "instances"]
    assert [int(s.annotation.labels.max()) for s in samples if s.annotation] == [301, 5]


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (painted(0, 1, planes=5), {"axes": "zcyx"}, r"\(5, 20, 24\).*\(6, 20, 24\)"),
        (painted(0, 1).astype(np.float32), {}, "float"),
        (painted(0, 1), {"planes": ["2,9"]}, r"labels.tif: --planes 2,9.*0 to 5"),
        (painted(1, 255), {}, "--background 255.*--unlabelled 255"),
        (painted(255), {"unlabelled": 255}, "no annotated voxel"),
        (painted(0), {}, "one class only"),
    ],
)
def test_labels_that_cannot_be_used(touch: Touch, labels: Any, options: dict[str, Any], words: str) -> None:
    write("image.tif", image())
    write("labels.tif", labels)
    with pytest.raises(InputError, match=words) as caught:
        open_samples(["image.tif"], ["labels.tif"], **options)
    assert "\n" not in str(caught.value)


def test_images_with_other_channels_are_refused(touch: Touch) -> None:
    write("i/a.tif", image(channels=2))
    write("i/b.tif", image(channels=1))
    write("l/a.tif", painted(0, 1))
    write("l/b.tif", painted(0, 1))
    with pytest.raises(InputError, match=r"i/b\.tif has 1 channel and other samples have 2"):
        open_samples(["i/*.tif"], ["l/*.tif"])


def test_a_sample_checks_its_shape() -> None:
    annotation = Annotation(np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), bool))
    Sample("a", Volume.from_array(np.zeros((2, 3, 4), np.uint8)), annotation)
    with pytest.raises(InputError, match="expected the same"):
        Sample("a", Volume.from_array(np.zeros((2, 3, 5), np.uint8)), annotation)


# ----------------------------------------------------------------------------------------------------------- real data


def test_published_stacks(data_dir: Path) -> None:
    root = data_dir / "two_photon_neurons"
    images = [str(root / s / "image.tif") for s in ("stack2", "stack3")]
    samples = open_samples(
        images, [str(root / "stack2" / "labels.tif"), NO_LABELS], background=255, planes=["4,8,12,16"]
    )
    assert [s.name for s in samples] == ["stack2/image", "stack3/image"]
    assert [s.image.shape for s in samples] == [(21, 512, 512)] * 2
    assert [s.image.channels for s in samples] == [2, 2]
    assert samples[0].annotation is not None
    assert samples[0].annotation.planes() == [4, 8, 12, 16]


def test_two_dimensional_set(data_dir: Path) -> None:
    root = data_dir / "nuclei_2d"
    samples = open_samples(
        [str(root / "images" / "00*.tif")], [str(root / "labels" / "00*.tif")], label_kind="instances"
    )
    assert len(samples) > 3
    assert {s.image.shape for s in samples} == {(1, 256, 256)}
    assert all(s.annotation is not None for s in samples)
