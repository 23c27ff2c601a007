"""Objects are compared on annotated voxels, in the volume or plane by plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewslice import io
from fewslice.annotation import from_labels
from fewslice.blocks.record import open_record
from fewslice.errors import InputError
from fewslice.evaluation import evaluate_instances
from fewslice.evaluation import instances as module


def _truth() -> np.ndarray:
    labels = np.zeros((6, 12, 12), np.uint32)
    labels[1:5, 1:5, 1:5] = 70_001  # beyond 16 bits
    labels[1:5, 1:5, 5:9] = 70_002  # touches it
    labels[0:6, 8:11, 2:9] = 9
    return labels


def test_a_volume_is_matched_in_the_volume(tmp_path: Path) -> None:
    truth = _truth()
    found = np.where(truth > 0, truth % 1000 + 1, 0).astype(np.uint16)
    found[truth == 70_002] = found[truth == 70_001].max()  # two cells became one
    io.save_labels(tmp_path / "found.tif", found)
    io.save_labels(tmp_path / "truth.tif", truth)
    s = evaluate_instances(tmp_path / "found.tif", tmp_path / "truth.tif")
    assert s["matched_in"] == "volume" and s["plane_axis"] is None
    assert (s["truth_count"], s["predicted_count"], s["count_error"], s["merges"], s["splits"]) == (3, 2, -1, 1, 0)
    assert s["f1"]["0.5"] == pytest.approx(4 / 5)  # the merged one has IoU 1/2 with one of its parts
    assert s["f1"]["0.6"] == pytest.approx(2 / 5)
    assert s["annotated_share"] == 1.0 and s["f1_interval"]["low"] <= s["f1"]["0.5"] <= s["f1_interval"]["high"]
    assert evaluate_instances(found, tmp_path / "truth.tif") == s


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _truth()
    found = np.roll(truth, 1, axis=2)
    whole = evaluate_instances(found, from_labels(truth, kind="instances"))
    monkeypatch.setattr(module, "_PART_VOXELS", 2 * 144)
    assert evaluate_instances(found, from_labels(truth, kind="instances")) == whole


def test_planes_that_stand_alone_are_matched_plane_by_plane() -> None:
    """Three planes of which the found object 5 misses one, and continues wrongly where nobody looked."""
    truth, found = np.zeros((9, 8, 8), np.uint8), np.zeros((9, 8, 8), np.uint8)
    truth[:, 2:6, 2:6] = 3
    found[:8, 2:6, 2:6] = 5
    found[5:7] = 5
    s = evaluate_instances(found, from_labels(truth, kind="instances", planes=["0,4,8"]))
    assert s["matched_in"] == "planes" and s["plane_axis"] == "z"
    assert (s["tp"]["0.9"], s["fp"]["0.9"], s["fn"]["0.9"]) == (2, 0, 1)
    assert s["truth_count"] == 3 and s["predicted_count"] == 2 and s["annotated_voxels"] == 3 * 64
    turned = evaluate_instances(
        found.transpose(1, 0, 2), from_labels(truth.transpose(1, 0, 2), kind="instances", planes=["y=0,4,8"])
    )
    assert turned["plane_axis"] == "y" and turned["f1"] == s["f1"]
    block = evaluate_instances(found, from_labels(truth, kind="instances", planes=["0:5"]))
    assert block["matched_in"] == "volume" and block["f1"]["0.9"] == 1.0  # as far as is annotated, they agree


def test_one_plane_is_the_whole_of_its_objects() -> None:
    truth = _truth()[2:3]
    assert evaluate_instances(truth, from_labels(truth, kind="instances"))["matched_in"] == "volume"


def test_what_is_not_annotated_changes_nothing() -> None:
    truth = _truth().astype(np.int64)
    truth[:, :, 9:] = -1
    annotation = from_labels(truth, kind="instances", unlabelled=-1)
    found = _truth()
    wild = found.copy()
    wild[:, :, 9:] = 1234
    s = evaluate_instances(found, annotation)
    assert s == evaluate_instances(wild, annotation) and s["f1"]["0.9"] == 1.0


def test_small_objects() -> None:
    truth = _truth()
    found = truth.copy()
    found[truth == 70_001] = 0  # 64 voxels are missed
    annotation = from_labels(truth, kind="instances")
    assert evaluate_instances(found, annotation)["fn"]["0.5"] == 1
    assert evaluate_instances(found, annotation, min_size=65)["f1"]["0.5"] == 1.0
    with pytest.raises(InputError, match="ignore-smaller -1"):
        evaluate_instances(found, annotation, min_size=-1)


def test_pieces_holes_and_split_ids_are_as_the_ids_say() -> None:
    """An id in two pieces is one object, a hole is not its own; both on either side."""
    truth = np.zeros((1, 6, 14), np.uint8)
    truth[0, 1:5, 1:5] = 1
    truth[0, 2:4, 2:4] = 0
    truth[0, 1:5, 8:10] = truth[0, 1:5, 12:14] = 2
    s = evaluate_instances(truth, from_labels(truth, kind="instances"))
    assert s["f1"]["0.9"] == 1.0 and s["truth_count"] == 2


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    truth = from_labels(_truth(), kind="instances")
    with pytest.raises(InputError, match=r"shape \(5, 12, 12\)"):
        evaluate_instances(_truth()[:5], truth)
    with pytest.raises(InputError, match="classes"):
        evaluate_instances(_truth(), from_labels((_truth() > 0).astype(np.uint8)))
    store = tmp_path / "OUT.ome.zarr"
    io.create_output(store, shape=(6, 12, 12), channel_names=["p"])
    facts = {"outputs": [{"name": "score", "kind": "contour"}]}
    io.create_output(tmp_path / "contours.ome.zarr", shape=(6, 12, 12), channel_names=["score"], attributes=facts)
    with pytest.raises(InputError, match=r"no objects yet; run fewslice segment"):
        evaluate_instances(tmp_path / "contours.ome.zarr", truth)
    io.create_labels(store, "segmentation", shape=(6, 12, 12), dtype=np.uint8)
    with pytest.raises(InputError, match=r"no labels/instances yet; run fewslice segment"):
        evaluate_instances(store, truth)
    io.create_labels(store, "instances", shape=(6, 12, 12), dtype=np.uint8)
    record = open_record(store / ".fewslice" / "instances", "key", what="")
    with pytest.raises(InputError, match="unfinished"):
        evaluate_instances(store, truth)
    record.finish()
    assert evaluate_instances(store, truth)["tp"]["0.5"] == 0
