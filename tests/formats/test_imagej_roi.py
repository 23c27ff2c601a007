"""Outlines against roifile, which writes them as ImageJ does, and against masks computed in other ways."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi, roiwrite
from skimage.measure import find_contours

from fewslice import io
from fewslice.data.samples import open_samples
from fewslice.errors import InputError
from fewslice.evaluation import evaluate
from fewslice.evaluation.instances import evaluate_instances
from fewslice.volume import Volume

SHAPE = (5, 40, 50)


def polygon(points: Any, z: int, name: str = "", group: int = 0) -> ImagejRoi:
    roi = ImagejRoi.frompoints(points, name=name, z=z)
    roi.group = group
    return roi


def box(kind: ROI_TYPE, z: int, y: int, x: int, height: int, width: int, **more: Any) -> ImagejRoi:
    return ImagejRoi(
        roitype=kind, top=y, left=x, bottom=y + height, right=x + width, z_position=z + 1, name=f"{z}-{y}", **more
    )


def save(path: Path, *rois: ImagejRoi) -> Path:
    roiwrite(path, list(rois), name=[f"{n:04d}" for n in range(len(rois))], mode="w")
    return path


def painted(path: Path, shape: tuple[int, int, int] = SHAPE, kind: Any = None) -> np.ndarray:
    values: np.ndarray = io.open_labels(path, shape=shape, kind=kind).read()[0]
    return values


def corners_of(mask: np.ndarray) -> list[np.ndarray]:
    """Trace a mask along the corners of its pixels, as ImageJ's wand does: x, y, one ring per outline or hole."""
    fine = np.kron(np.pad(mask, 1), np.ones((2, 2)))
    rings = find_contours(fine, 0.5)
    return [(ring[:, ::-1] - 1.5) / 2 for ring in rings]


def test_traced_masks_come_back_voxel_by_voxel(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros(SHAPE, bool)
    rois = []
    for z in (1, 3):
        y, x = np.mgrid[:40, :50]
        for _ in range(4):
            cy, cx, r = generator.uniform(8, 32), generator.uniform(8, 42), generator.uniform(2, 7)
            truth[z] |= (y - cy) ** 2 + (x - cx) ** 2 < r**2
        rois += [polygon(ring.astype(np.float32), z) for ring in corners_of(truth[z])]
    found = painted(save(tmp_path / "RoiSet.zip", *rois))
    np.testing.assert_array_equal(found > 0, truth)


def test_integer_polygons_take_the_pixels_whose_centre_is_inside(tmp_path: Path) -> None:
    square = [(3, 2), (7, 2), (7, 5), (3, 5)]  # corners of pixels: columns 3 to 6, rows 2 to 4
    triangle = [(20, 10), (30, 10), (20, 20)]
    found = painted(save(tmp_path / "a.zip", polygon(square, 0), polygon(triangle, 2)))
    expected = np.zeros(SHAPE, np.uint32)
    expected[0, 2:5, 3:7] = 1
    y, x = np.mgrid[:40, :50] + 0.5
    expected[2][(x > 20) & (y > 10) & (x - 20 + y - 10 < 10)] = 1
    np.testing.assert_array_equal(found, expected)


def test_rectangles_ovals_and_round_corners(tmp_path: Path) -> None:
    rois = [
        box(ROI_TYPE.RECT, 0, 4, 6, 3, 5),
        box(ROI_TYPE.OVAL, 1, 4, 6, 20, 30),
        box(ROI_TYPE.RECT, 2, 4, 6, 20, 30, rounded_rect_arc_size=10),
    ]
    found = painted(save(tmp_path / "a.zip", *rois))
    y, x = np.mgrid[:40, :50] + 0.5
    assert found[0].sum() == 15 and found[0, 4:7, 6:11].all()
    np.testing.assert_array_equal(found[1] > 0, ((y - 14) / 10) ** 2 + ((x - 21) / 15) ** 2 <= 1)
    assert found[2].sum() == pytest.approx(20 * 30 - (4 - np.pi) * 25, abs=4) and not found[2, 4, 6]


def test_a_composite_keeps_its_hole(tmp_path: Path) -> None:
    path: list[float] = []
    for ring in ([(5, 5), (25, 5), (25, 25), (5, 25)], [(10, 10), (10, 20), (20, 20), (20, 10)]):
        for n, (x, y) in enumerate(ring):
            path += [1 if n else 0, x, y]
        path.append(4)
    roi = ImagejRoi(roitype=ROI_TYPE.RECT, top=5, left=5, bottom=25, right=25, z_position=2, name="ring")
    roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
    found = painted(save(tmp_path / "a.zip", roi))
    assert found.sum() == 400 - 100 and not found[1, 10:20, 10:20].any()


def test_groups_are_classes_and_names_are_objects(tmp_path: Path) -> None:
    square = np.array([(3, 2), (7, 2), (7, 5), (3, 5)])
    rois = [
        polygon(square, 0, "cell", 2),
        polygon(square + 20, 0, "0001-0023-0022", 3),
        polygon(square + 1, 1, "cell", 2),
        polygon(square + 21, 1, "0002-0023-0022", 3),
    ]
    path = save(tmp_path / "a.zip", *rois)
    classes, objects = painted(path), painted(path, kind="instances")
    assert [int(classes[0, 3, 4]), int(classes[0, 23, 24]), int(classes[1, 4, 5])] == [2, 3, 2]
    assert [int(objects[z, y, y + 1]) for z, y in ((0, 3), (0, 23), (1, 4), (1, 24))] == [1, 2, 1, 3]
    rois[0].group = 0
    with pytest.raises(InputError, match=r"1 outlines without a group.*--label-kind instances"):
        painted(save(tmp_path / "b.zip", *rois))


def test_planes_of_stacks_of_hyperstacks_and_of_old_names(tmp_path: Path) -> None:
    square = np.array([(3, 2), (7, 2), (7, 5), (3, 5)])
    stack = ImagejRoi.frompoints(square, name="s", position=3)
    hyper = ImagejRoi.frompoints(square, name="h", z=2, c=1, position=None)
    named = ImagejRoi.frompoints(square, name="0002-0003-0005")
    found = painted(save(tmp_path / "a.zip", stack, hyper, named))
    assert [z for z in range(5) if found[z].any()] == [1, 2, 3]
    nowhere = save(tmp_path / "b.zip", ImagejRoi.frompoints(square, name="x"))
    with pytest.raises(InputError, match="'x' has no plane, and the image has 5"):
        painted(nowhere)
    assert painted(nowhere, (1, 40, 50)).sum() == 12  # of a single plane there is no doubt


@pytest.mark.parametrize(
    ("kind", "subtype", "word"),
    [
        (ROI_TYPE.POINT, ROI_SUBTYPE.UNDEFINED, "point"),
        (ROI_TYPE.FREELINE, ROI_SUBTYPE.UNDEFINED, "freeline"),
        (ROI_TYPE.RECT, ROI_SUBTYPE.TEXT, "text"),
    ],
)
def test_what_encloses_no_area_is_refused_by_name(
    kind: ROI_TYPE, subtype: ROI_SUBTYPE, word: str, tmp_path: Path
) -> None:
    roi = ImagejRoi.frompoints([(1, 1), (5, 5), (9, 1)], name="mark", z=0)
    roi.roitype, roi.subtype = kind, subtype
    with pytest.raises(InputError, match=f"{word} 'mark', which encloses no area"):
        painted(save(tmp_path / "a.zip", roi))


def test_outside_damaged_and_as_an_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.zip", polygon([(30, 2), (60, 2), (60, 9), (30, 9)], 1, "far"))
    with pytest.raises(InputError, match=r"'far' on plane 1 lies outside the image of shape \(5, 40, 50\)"):
        painted(path)
    with pytest.raises(InputError, match="holds outlines, not an image"):
        io.open_volume(path)
    with pytest.raises(InputError, match="do not say the extents"):
        io.open_labels(path)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("x.roi", b"Iout" + b"\0" * 100)
    with pytest.raises(InputError, match=r"bad\.zip") as caught:
        painted(tmp_path / "bad.zip")
    assert "\n" not in str(caught.value)


def test_info_lists_them(tmp_path: Path) -> None:
    rois = [polygon([(3, 2), (7, 2), (7, 5)], z, f"cell {z}", z) for z in (1, 3)]
    found = io.describe(save(tmp_path / "a.zip", *rois))
    assert found["format"] == "imagej_roi" and found["is_labels"]
    assert found["details"] == {"outlines": 2, "planes": [1, 3], "groups": [1, 3], "names": ["cell 1", "cell 3"]}


def test_convert_and_samples_and_evaluate(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
    io.save_volume(tmp_path / "brain.tif", Volume.from_array(image, (2.0, 0.5, 0.5)))
    path = save(
        tmp_path / "brain.zip", *[polygon([(5, 5), (25, 5), (25, 25), (5, 25)], z, f"cell {z}", 1) for z in (1, 3)]
    )
    written = io.convert(path, tmp_path / "labels.tif", like=tmp_path / "brain.tif")
    assert written.voxel_size_um == (2.0, 0.5, 0.5) and written.shape == SHAPE
    np.testing.assert_array_equal(written.read()[0], painted(path))
    with pytest.raises(InputError, match=r"outlines on planes 1,3 of 5.*--planes 1,3"):
        open_samples([str(tmp_path / "brain.tif")], [str(path)])
    (sample,) = open_samples([str(tmp_path / "brain.tif")], [str(path)], planes=["1,3"])
    assert sample.annotation is not None and sample.annotation.planes() == [1, 3]
    np.testing.assert_array_equal(sample.annotation.labels, painted(path))
    found = evaluate(tmp_path / "labels.tif", path, planes=["1,3"], with_surface=False)
    assert found["dice"] == 1.0
    with pytest.raises(InputError, match="outlines on planes 1,3 of 5"):
        evaluate(tmp_path / "labels.tif", path, with_surface=False)
    io.convert(path, tmp_path / "cells.tif", like=tmp_path / "brain.tif", kind="instances")
    assert evaluate_instances(tmp_path / "cells.tif", path, planes=["1,3"])["annotated_voxels"] == 2 * 40 * 50
    with pytest.raises(InputError, match="means nothing"):
        io.convert(tmp_path / "labels.tif", tmp_path / "b.tif", like=tmp_path / "brain.tif")
