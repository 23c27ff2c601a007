"""The verb segment: what suits the outputs, notes, an image without a model, and what evaluate appends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from fewslice import io, workflow
from fewslice.errors import InputError, PartialError
from fewslice.volume import Volume

Store = Callable[..., Path]


def _cells() -> np.ndarray:
    """Object ids of two touching cells and one alone, (z, y, x)."""
    grid = np.indices((1, 60, 90))
    ids = np.zeros((1, 60, 90), np.uint8)
    for name, (y, x, radius) in enumerate([(30, 20, 12), (30, 41, 12), (25, 72, 9)], start=1):
        ids[(ids == 0) & ((grid[1] - y) ** 2 + (grid[2] - x) ** 2 < radius**2)] = name
    return ids


def _image(ids: np.ndarray) -> Any:
    return (40 + 120 * (ids > 0) + np.random.default_rng(0).normal(0, 10, ids.shape)).clip(0, 255).astype(np.uint8)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_kind_follows_from_the_outputs_and_what_is_done_is_said(store: Store) -> None:
    mask = np.where(_cells() > 0, np.uint8(255), np.uint8(0))
    path = store(mask, voxel=None)
    events: list[dict[str, Any]] = []
    found = workflow.segment(path, listener=events.append)
    assert found["segmenter"] == "connected_components" and found["objects"] == 2 and not found["already_finished"]
    assert json.loads(json.dumps(found)) == found
    assert [e["pass"] for e in events if e["event"] == "block"] == ["label", "link", "relabel"]
    assert any("no voxel size" in e.get("note", "") for e in events)
    before = _files(path)
    events.clear()
    again = workflow.segment(path, listener=events.append)
    assert again == found | {"already_finished": True} and _files(path) == before
    assert any("is finished; nothing to do" in e.get("note", "") for e in events)
    assert workflow.segment(path, segmenter="watershed", overwrite=True)["objects"] == 3


def test_the_threshold_is_the_prediction_s_unless_given(store: Store) -> None:
    values = np.zeros((1, 20, 40), np.uint8)
    values[0, 5:15, 5:15], values[0, 5:15, 25:35] = 255, 150
    path = store(values)
    assert workflow.segment(path)["objects"] == 2
    assert workflow.segment(path, threshold=0.7, overwrite=True)["objects"] == 1


@pytest.mark.parametrize("objects", ["bright", "dark"])
def test_an_image_without_a_model(tmp_path: Path, objects: str) -> None:
    ids = _cells()
    image = _image(ids) if objects == "bright" else 255 - _image(ids)
    tifffile.imwrite(tmp_path / "image.tif", image[0])
    io.save_labels(tmp_path / "truth.tif", ids)
    options: dict[str, Any] = {"segmenter": "threshold_watershed", "settings": {"objects": objects}}
    out = tmp_path / "OUT.ome.zarr"
    found = workflow.segment(tmp_path / "image.tif", output=out, voxel_size_um=(0.5, 0.5, 0.5), **options)
    assert found["objects"] == 3
    s = workflow.evaluate(out, tmp_path / "truth.tif", instances=True)
    assert s["f1"]["0.7"] == 1.0
    assert workflow.evaluate(out, tmp_path / "truth.tif", label_kind="instances")["dice"] > 0.9
    before = _files(tmp_path)
    again = workflow.segment(tmp_path / "image.tif", output=out, voxel_size_um=(0.5, 0.5, 0.5), **options)
    assert again["already_finished"] and _files(tmp_path) == before
    with pytest.raises(InputError, match="another"):
        other = {"segmenter": "threshold_watershed", "settings": {"objects": objects, "smoothing_um": 0}}
        workflow.segment(tmp_path / "image.tif", output=out, voxel_size_um=(0.5, 0.5, 0.5), **other)
    assert _files(tmp_path) == before


def test_an_image_that_is_killed_or_damaged_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewslice.segmenters import threshold_watershed

    rng = np.random.default_rng(0)
    image = np.tile(_image(_cells()), (1, 5, 6)).astype(np.float32) + rng.normal(0, 1, (1, 300, 540))
    io.save_volume(tmp_path / "image.ome.zarr", Volume.from_array(image.astype(np.float32)))
    run = {"segmenter": "threshold_watershed", "settings": {"objects": "bright"}}
    workflow.segment(tmp_path / "image.ome.zarr", output=tmp_path / "whole" / "OUT.ome.zarr", **run)
    original, seen = threshold_watershed.foreground, []

    class Killed(BaseException):
        pass

    def die(*arguments: Any) -> Any:
        seen.append(arguments)
        raise Killed

    out = tmp_path / "killed" / "OUT.ome.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(threshold_watershed, "foreground", die)
        with pytest.raises(Killed):
            workflow.segment(tmp_path / "image.ome.zarr", output=out, **run)
    assert seen and (out / ".fewslice").is_dir() and threshold_watershed.foreground is original
    with monkeypatch.context() as patch:
        patch.setattr(threshold_watershed, "survey", die)  # what is known of the whole image is kept
        workflow.segment(tmp_path / "image.ome.zarr", output=out, **run)
    assert _files(out) == _files(tmp_path / "whole" / "OUT.ome.zarr")


def test_a_block_that_cannot_be_read_is_partly_done(store: Store) -> None:
    path = store(np.where(_cells() > 0, np.uint8(255), np.uint8(0)))
    chunk = next(p for p in (path / "0").rglob("*") if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:20])
    events: list[dict[str, Any]] = []
    with pytest.raises(PartialError, match="1 blocks could not be segmented"):
        workflow.segment(path, listener=events.append)
    assert next(e for e in events if e["event"] == "block_failed")["block"] == [0, 0, 0]


def test_scores_of_objects_are_appended_to_the_run(store: Store, tmp_path: Path) -> None:
    path = store(np.where(_cells() > 0, np.uint8(255), np.uint8(0)))
    run = tmp_path / "RUN"
    run.mkdir()
    (run / "experiment.yaml").write_text("strategy: slices_2d\n", encoding="utf-8")
    group = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    group["attributes"]["fewslice"]["run"] = str(run)
    (path / "zarr.json").write_text(json.dumps(group), encoding="utf-8")
    io.save_labels(tmp_path / "truth.tif", _cells())
    workflow.segment(path, segmenter="watershed")
    s = workflow.evaluate(path, tmp_path / "truth.tif", instances=True, ignore_smaller=3)
    (line,) = [json.loads(text) for text in (run / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert line["kind"] == "instance_evaluation" and line["scores"] == s and s["min_size"] == 3
    assert s["f1"]["0.9"] == 1.0 and line["prediction"] == str(path.resolve())
