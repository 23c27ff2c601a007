"""From an output to instances: label image and GeoJSON, plane by plane, block by block, resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io, workflow
from fewslice.blocks.job import BlockFailure
from fewslice.blocks.record import open_record
from fewslice.errors import InputError, PartialError
from fewslice.geometry import Box, cover
from fewslice.morphology.proposals import Proposals, paint, suppress
from fewslice.prediction.proposals import folder_of, write_block
from fewslice.segmenters import contours
from fewslice.segmenters.contours import PaintBlocks, SuppressPlanes, instances_of, painted, write_geojson


def _instances(axis: int = 0) -> Proposals:
    """Three squares: the best one on plane 2, two that overlap a little on plane 0."""
    lows = np.array([(1.0, 1.0), (1.0, 4.0), (1.0, 1.0)])
    corners = np.array([(0.0, 0.0), (0.0, 3.4), (3.4, 3.4), (3.4, 0.0)]) - 0.2
    anchor = np.insert(lows.astype(int), axis, [2, 0, 0], axis=1)
    scores = np.array([0.9, 0.7, 0.8], np.float32)
    contours = (lows[:, None] + corners).astype(np.float32)
    return instances_of(Proposals(anchor, scores, np.array([1, 2, 1], np.uint8), contours, axis))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks need not survive a power cut here."""
    monkeypatch.setattr("fewslice.files.os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_are_painted_with_ids_of_the_whole_volume(axis: int) -> None:
    """Ids follow plane and score: on plane 0 the better 1 keeps the column that 2 shares with it; 3 is on plane 2."""
    shape = tuple(int(n) for n in np.insert((6, 9), axis, 3))
    found = np.moveaxis(painted(_instances(axis), Box.of(shape)), axis, 0)
    expected = np.zeros((3, 6, 9), int)
    expected[0, 1:5, 4:8] = 2
    expected[0, 1:5, 1:5] = 1
    expected[2, 1:5, 1:5] = 3
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint32
    part = (
        Box((0, 2, 1), (2, 5, 8))
        if axis == 0
        else Box((2, 0, 1), (5, 2, 7))
        if axis == 1
        else Box((1, 2, 0), (5, 5, 2))
    )
    whole = np.moveaxis(found, 0, axis)
    np.testing.assert_array_equal(painted(_instances(axis), part), whole[part.slices])


def test_no_instance_paints_nothing() -> None:
    assert not painted(_instances().taken(np.zeros(0, int)), Box.of((3, 6, 9))).any()


def _features(path: Path) -> Any:
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    return content["features"]


def test_geojson_by_hand(tmp_path: Path) -> None:
    """Whole contours, closed and counter-clockwise in (x, y); pixels and µm."""
    path = tmp_path / "x.geojson"
    write_geojson(path, [_instances()], class_values=(1, 7), voxel_size_um=(5.0, 0.5, 2.0))
    first, second, third = _features(path)
    assert first["geometry"]["type"] == "Polygon"
    (ring,) = second["geometry"]["coordinates"]
    assert ring == [[3.8, 0.8], [7.2, 0.8], [7.2, 4.2], [3.8, 4.2], [3.8, 0.8]]
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))
    assert area > 0
    assert second["properties"] == {
        "id": 2,
        "score": 0.7,
        "class": 7,
        "plane": 0,
        "plane_axis": "z",
        "polygon_um": [[7.6, 0.4], [14.4, 0.4], [14.4, 2.1], [7.6, 2.1], [7.6, 0.4]],
    }
    assert [f["properties"]["plane"] for f in (first, third)] == [0, 2] and third["id"] == 3
    write_geojson(path, [_instances()], class_values=(1, 7))
    assert "polygon_um" not in _features(path)[0]["properties"]


def test_geojson_uses_the_pixel_of_the_plane(tmp_path: Path) -> None:
    """Planes along y: rows are z, columns x."""
    write_geojson(tmp_path / "x.geojson", [_instances(1)], class_values=(1, 7), voxel_size_um=(5.0, 0.5, 2.0))
    properties = _features(tmp_path / "x.geojson")[1]["properties"]
    assert properties["plane_axis"] == "y" and properties["polygon_um"][0] == [7.6, 4.0]


def test_a_class_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class 2, but values of 1 classes"):
        write_geojson(tmp_path / "x.geojson", [_instances()], class_values=(1,))
    assert not list(tmp_path.iterdir())


def _discs(shape: tuple[int, int, int], axis: int, count: int = 60) -> Proposals:
    """Proposals of overlapping discs, each twice, on every plane but one; scores repeat."""
    rng = np.random.default_rng(axis)
    extent = np.delete(shape, axis)
    centre = rng.uniform(0, extent, (count, 2)).repeat(2, axis=0) + rng.normal(0, 0.3, (2 * count, 2))
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circle = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    radius = rng.uniform(2, 7, (2 * count, 1, 1))
    plane = rng.integers(0, shape[axis] - 1, 2 * count)
    plane[plane == 1] = shape[axis] - 1
    anchor = np.insert(np.clip(np.rint(centre), 0, extent - 1).astype(np.int64), axis, plane, axis=1)
    _, alone = np.unique(anchor, axis=0, return_index=True)
    return Proposals(
        anchor,
        rng.choice(np.linspace(0.3, 0.9, 7), 2 * count).astype(np.float32),
        rng.choice(np.array([1, 2], np.uint8), 2 * count),
        (centre[:, None] + radius * circle).astype(np.float32),
        axis,
    ).taken(alone)


def _store(path: Path, proposals: Proposals, shape: tuple[int, int, int], block: tuple[int, int, int]) -> Path:
    """Write what predict leaves of a contour model."""
    facts = {
        "outputs": [{"name": "score", "kind": "contour"}],
        "class_values": [1, 7],
        "block": list(block),
        "plane_axis": proposals.plane_axis,
        "threshold": 0.1,
    }
    place: dict[str, Any] = {"shape": shape, "voxel_size_um": (2.0, 0.5, 0.5), "chunks": block, "dtype": np.uint8}
    io.create_output(path, channel_names=["score"], attributes=facts, **place)
    folder_of(path).mkdir()
    for item in cover(shape, block, (0, 0, 0)):
        inside = ((proposals.anchor >= item.write.start) & (proposals.anchor < item.write.stop)).all(axis=1)
        write_block(folder_of(path), item, proposals.taken(inside))
    open_record(path / ".fewslice", "key", what="").finish()
    return path


def _case(tmp_path: Path, axis: int, name: str = "OUT") -> tuple[Path, Proposals, tuple[int, int, int]]:
    """Several planes in a block, several blocks along every axis."""
    shape, block = ((9, 40, 50), (4, 16, 24)) if axis == 0 else ((40, 9, 50), (16, 4, 24))
    shape, block = ((40, 50, 9), (16, 24, 4)) if axis == 2 else (shape, block)
    proposals = _discs(shape, axis)
    return _store(tmp_path / f"{name}.ome.zarr", proposals, shape, block), proposals, shape


def _expected(proposals: Proposals, shape: tuple[int, int, int]) -> np.ndarray:
    """Another way: everything is suppressed at once and whole planes are painted."""
    kept, axis = suppress(proposals), proposals.plane_axis
    labels = np.zeros(shape, np.uint32)
    number = 0
    for plane in range(shape[axis]):
        one = kept.taken(kept.plane == plane)
        drawn = paint(one.contour, tuple(np.delete(shape, axis).tolist()))
        np.moveaxis(labels, axis, 0)[plane] = np.where(drawn > 0, drawn + number, 0)
        number += len(one)
    return labels


@pytest.mark.parametrize("at_once", [1 << 29, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_store_of_many_planes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: int, at_once: int) -> None:
    """Blocks of several planes, along any axis, in groups of planes or one by one: painted as the whole is."""
    path, proposals, shape = _case(tmp_path, axis)
    monkeypatch.setattr(contours, "_AT_ONCE_BYTES", at_once)
    monkeypatch.setattr(contours, "_PAINTED_VOXELS", 1)
    found = workflow.segment(path)
    labels = io.open_labels(path / "labels" / "instances")
    expected = _expected(proposals, shape)
    np.testing.assert_array_equal(labels.read()[0], expected)
    kept = suppress(proposals)
    assert found["objects"] == len(kept) == labels.attributes["objects"] > 40 and labels.dtype == np.uint8
    features = _features(tmp_path / "OUT.contours.geojson")
    assert [f["id"] for f in features] == list(range(1, len(kept) + 1))
    planes, scores = ([f["properties"][name] for f in features] for name in ("plane", "score"))
    assert sorted(zip(planes, [-s for s in scores], strict=True)) == list(
        zip(planes, [-s for s in scores], strict=True)
    )
    assert {f["properties"]["class"] for f in features} == {1, 7}
    assert workflow.segment(path)["already_finished"]
    assert workflow.verify(path).exit_code == 0 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("job", [SuppressPlanes, PaintBlocks])
def test_a_segment_that_failed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Any) -> None:
    path, proposals, shape = _case(tmp_path, 0)
    monkeypatch.setattr(contours, "_PAINTED_VOXELS", 1)
    original, seen = job.open, []

    def failing(self: Any, index: Any = (1, 0, 0)) -> Any:
        opened = original(self)

        def read(block: Any) -> Any:
            seen.append(block.index)
            if block.index == index:
                raise BlockFailure("cannot be read")
            return opened.read(block)

        return replace(opened, read=read)

    with monkeypatch.context() as patch:
        patch.setattr(job, "open", failing)
        with pytest.raises(PartialError, match=r"1 blocks of .* the same command tries again"):
            workflow.segment(path)
    if job is PaintBlocks:
        with pytest.raises(InputError, match="unfinished; run the segment command again"):
            workflow.measure(path)
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(job, "open", lambda self: failing(self, None))
        workflow.segment(path)
    assert seen == [(1, 0, 0)], "what was done was done again"
    np.testing.assert_array_equal(io.open_labels(path / "labels" / "instances").read()[0], _expected(proposals, shape))


def test_threshold_and_block_of_the_verb(tmp_path: Path) -> None:
    path, proposals, _ = _case(tmp_path, 0)
    with pytest.raises(InputError, match="--block does not apply to segmenter contours"):
        workflow.segment(path, block=(4, 16, 24))
    found = workflow.segment(path, threshold=0.65)
    assert 0 < found["objects"] == len(suppress(proposals, threshold=0.65)) < len(suppress(proposals))
    assert found["settings"]["threshold"] == 0.65
    with pytest.raises(InputError, match="--overwrite"):
        workflow.segment(path)
    assert workflow.segment(path, overwrite=True)["objects"] == len(suppress(proposals))


def test_a_copy_without_its_record_is_segmented(tmp_path: Path) -> None:
    path, proposals, shape = _case(tmp_path, 0)
    shutil.rmtree(path / ".fewslice")
    workflow.segment(path)
    np.testing.assert_array_equal(io.open_labels(path / "labels" / "instances").read()[0], _expected(proposals, shape))
    with pytest.raises(InputError, match="needs a contour output, but the outputs are p"):
        store = tmp_path / "p.ome.zarr"
        facts = {"outputs": [{"name": "p", "kind": "probability"}]}
        io.create_output(store, shape=(3, 4, 5), channel_names=["p"], attributes=facts, dtype=np.uint8)
        workflow.segment(store, segmenter="contours")
    assert not (store / ".fewslice").exists()
