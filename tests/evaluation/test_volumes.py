"""Evaluation of volumes: matching of classes, sparse truth, blocks, stored outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice import io
from fewslice.annotation import Annotation, from_labels
from fewslice.errors import InputError
from fewslice.evaluation import Segmentation, evaluate, volumes
from fewslice.metrics import semantic, surface
from fewslice.metrics.along_z import consistency
from fewslice.morphology.probabilities import segment_probabilities
from fewslice.volume import Volume


def two_class_case(seed: int = 0, shape: tuple[int, int, int] = (9, 14, 11)) -> tuple[np.ndarray, Annotation]:
    rng = np.random.default_rng(seed)
    predicted, true = rng.integers(0, 3, (2, *shape)).astype(np.uint8)
    return predicted, from_labels(true)


def output(
    labels: np.ndarray, values: tuple[int, ...], probabilities: np.ndarray | None = None, **more: Any
) -> Segmentation:
    images = None if probabilities is None else Volume.from_array(probabilities)
    return Segmentation(Volume.from_array(labels), images, values, more.pop("threshold", 0.4), **more)


def test_by_hand() -> None:
    predicted = np.zeros((2, 2, 4), np.uint8)
    predicted[:, 0, :2] = 1
    truth = np.zeros((2, 2, 4), np.uint8)
    truth[:, 0, 1:3] = 1
    result = evaluate(predicted, from_labels(truth), voxel_size_um=(2, 1, 0.5))
    assert result["confusion"] == [[10, 2], [2, 2]]
    assert (result["dice"], result["iou"], result["precision"], result["recall"]) == (0.5, 2 / 6, 0.5, 0.5)
    # per plane the columns 0, 1 against 1, 2, shifted by one voxel of 0.5 µm
    assert result["assd_um"] == pytest.approx(0.25)
    assert (result["nsd"], result["nsd_tolerance_um"], result["surface_dims"]) == (1.0, 2.0, 3)
    assert result["classes"]["1"]["confusion"] == result["confusion"]
    assert result["classes"]["1"]["assd_um"] == result["assd_um"]
    assert result["along_z"] == {"flicker": None, "plane_disagreement": 0.0}
    assert (result["threshold"], result["at_half"], result["complete"]) == (None, None, None)
    assert (result["annotated_voxels"], result["annotated_share"]) == (16, 1.0)
    json.dumps(result, allow_nan=False)


def test_classes_against_foreground() -> None:
    predicted, truth = two_class_case()
    result = evaluate(predicted, truth)
    matrix = semantic.confusion(predicted, truth.classes)
    assert result["confusion"] == semantic.foreground(matrix).tolist()
    for index in (1, 2):
        entry = result["classes"][str(index)]
        assert entry["confusion"] == semantic.one_against_rest(matrix, index).tolist()
        expected = surface.surface_scores(predicted == index, truth.classes == index)
        assert {name: entry[name] for name in expected} == pytest.approx(expected)
    assert result["surface_unit"] == "voxel"


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("chunk", [(1, 14, 11), (4, 5, 3), (9, 14, 11)])
def test_blocks_equal_the_whole(monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, int, int], sparse: bool) -> None:
    predicted, truth = two_class_case(3)
    if sparse:
        truth = truth.restricted([(0, 1), (0, 2), (0, 7)])
    whole = evaluate(predicted, truth, voxel_size_um=(2, 1, 1))
    assert whole["surface_dims"] == (2 if sparse else 3)
    valid = truth.annotated
    expected = surface.surface_scores(predicted > 0, truth.classes > 0, (2, 1, 1), valid=valid)
    assert {name: whole[name] for name in expected} == pytest.approx(expected)
    assert whole["along_z"] == consistency(predicted)
    assert whole["along_z_truth"] == consistency(truth.classes, valid)
    monkeypatch.setattr(volumes, "_BLOCK_VOXELS", 60)
    blockwise = evaluate(Segmentation(Volume(predicted[None], (2, 1, 1), chunks=chunk)), truth)
    assert blockwise == whole


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16))
def test_unlabelled_voxels_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, truth = two_class_case(seed, (5, 6, 7))
    annotated = rng.random(predicted.shape) < 0.5
    annotated[0, 0, 0] = True
    noise = rng.integers(0, 3, (2, *predicted.shape)).astype(np.uint8)
    first = evaluate(predicted, truth.restricted(annotated))
    second = evaluate(
        np.where(annotated, predicted, noise[0]),
        Annotation(np.where(annotated, truth.labels, noise[1]), annotated, class_values=(1, 2)),
    )
    for result in (first, second):
        del result["along_z"]  # needs no truth, and is measured on all voxels
    assert first == second


def test_at_half_and_at_the_stored_threshold() -> None:
    probability = np.array([100, 127, 128, 200], np.uint8).reshape(1, 1, 1, 4)
    labels = (probability[0] >= 0.4 * 255).astype(np.uint8)
    result = evaluate(output(labels, (1,), probability, complete=True), from_labels(np.array([[[0, 1, 1, 0]]])))
    assert result["threshold"] == 0.4 and result["complete"] is True
    assert result["confusion"] == [[1, 1], [0, 2]]
    assert result["at_half"]["confusion"] == [[1, 1], [1, 1]]
    assert result["at_half"]["classes"]["1"]["dice"] == result["at_half"]["dice"] == 0.5


def test_several_classes_at_half() -> None:
    probability = np.array([[60, 100, 0], [70, 20, 130]], np.uint8).reshape(2, 1, 1, 3)  # sums 130, 120, 130
    assert segment_probabilities(probability, 0.5).tolist() == [[[2, 0, 2]]]
    labels = np.zeros((1, 1, 3), np.uint8)
    result = evaluate(output(labels, (5, 9), probability), from_labels(np.array([[[5, 0, 9]]])))
    assert result["at_half"]["confusion"] == [[1, 0], [0, 2]]
    assert result["at_half"]["classes"]["9"]["confusion"] == [[1, 1], [0, 1]]
    assert result["at_half"]["classes"]["5"]["confusion"] == [[2, 0], [1, 0]]


# ---------------------------------------------------------------------------------------------------------- matching


def test_classes_match_by_the_value_in_the_files() -> None:
    labels = np.array([[[0, 1, 2, 2]]], np.uint8)  # the model calls values 1 and 2 its classes 1 and 2
    truth = from_labels(np.array([[[0, 0, 2, 2]]]))  # only value 2 occurs: the truth's class 1
    assert truth.class_values == (2,)
    result = evaluate(output(labels, (1, 2)), truth)
    assert result["classes"]["2"]["dice"] == 1.0
    assert result["classes"]["1"]["confusion"] == [[3, 1], [0, 0]]
    assert result["confusion"] == [[1, 1], [0, 2]]


def test_one_class_on_either_side_matches_whatever_its_value() -> None:
    labels = np.array([[[0, 1, 1]]], np.uint8)
    result = evaluate(output(labels, (1,)), from_labels(np.array([[[0, 255, 255]]], np.uint8)))
    assert result["dice"] == 1.0 and list(result["classes"]) == ["1"]


def test_instances_are_foreground() -> None:
    truth = from_labels(np.array([[[0, 17, 40000]]]), kind="instances")
    labels = np.array([[[0, 1, 2]]], np.uint8)
    assert evaluate(output(labels, (1, 2)), truth)["dice"] == 1.0
    assert evaluate(np.array([[[0, 900, 3]]]), truth)["dice"] == 1.0
    assert evaluate(np.array([[[0, 900, 3]]]), from_labels(np.array([[[0, 7, 7]]])))["classes"]["7"]["dice"] == 1.0


def test_a_label_image_with_its_own_background_value() -> None:
    truth = from_labels(np.array([[[255, 1, 1]]], np.uint8), background=255)
    assert evaluate(np.array([[[255, 1, 255]]], np.uint8), truth, background=255)["confusion"] == [[1, 0], [1, 1]]
    assert evaluate(np.array([[[0, 1, 0]]], np.uint8), truth, background=255)["confusion"] == [[1, 0], [1, 1]]
    with pytest.raises(InputError, match="both 0 and 255"):
        evaluate(np.array([[[0, 255, 1]]], np.uint8), truth, background=255)


def test_truth_without_foreground() -> None:
    truth = from_labels(np.zeros((3, 4, 4), np.uint8), allow_one_class=True)
    labels = np.zeros((3, 4, 4), np.uint8)
    assert evaluate(labels, truth)["dice"] == evaluate(output(labels, (1,)), truth)["dice"] == 1.0
    labels[1, 1, 1] = 1
    result = evaluate(output(labels, (1,)), truth)
    assert (result["dice"], result["recall"], result["nsd"], result["assd"]) == (0.0, None, 0.0, None)
    json.dumps(result, allow_nan=False)


def test_refusals() -> None:
    truth = from_labels(np.array([[[0, 1, 2]]]))
    labels = np.array([[[0, 1, 1]]], np.uint8)
    with pytest.raises(InputError, match=r"the truth has class 2, which prediction does not know; its classes are 1;"):
        evaluate(output(labels, (1,)), truth)
    with pytest.raises(InputError, match="holds value 7"):
        evaluate(np.array([[[0, 1, 7]]]), truth)
    with pytest.raises(InputError, match=r"shape \(1, 1, 2\).*truth has shape \(1, 1, 3\)"):
        evaluate(labels[:, :, :2], truth)
    with pytest.raises(InputError, match="no annotated voxel"):
        evaluate(labels, Annotation(labels, np.zeros(labels.shape, bool)))
    with pytest.raises(InputError, match="float64"):
        evaluate(labels / 2, truth)
    with pytest.raises(InputError, match="predict again"):
        evaluate(output(labels, (1, 2), np.zeros((2, 1, 1, 2), np.uint8)), truth)


def test_intervals_are_over_blocks_of_what_is_annotated() -> None:
    """Errors in one corner make Dice less certain than as many errors spread evenly over the same truth."""
    rng = np.random.default_rng(4)
    true = (rng.random((8, 64, 64)) < 0.5).astype(np.uint8)
    wrong = rng.permutation(true.size) < 2048
    spread, corner = true.copy(), true.copy()
    spread[wrong.reshape(true.shape)] ^= 1
    corner[:, :16, :16] ^= 1
    results = [evaluate(p, from_labels(true, planes=["1:7"]), with_surface=False) for p in (spread, corner)]
    widths = []
    for result in results:
        found = result["intervals"]["dice"]
        assert (found["mean"], found["method"]) == (result["dice"], "bootstrap")
        assert found["count"] == result["cells"] >= 64
        assert found["low"] < result["dice"] < found["high"]
        assert result["classes"]["1"]["intervals"]["dice"] == found
        assert result["cell_shape"] == [6, 9, 9]  # 1 × 8 × 8 of them
        widths.append(found["high"] - found["low"])
    assert widths[1] > 4 * widths[0]


def test_cells_follow_the_voxel_and_too_few_give_no_interval() -> None:
    truth = from_labels(np.ones((8, 64, 64), np.uint8) * (np.arange(64) > 20).astype(np.uint8))
    assert evaluate(truth.labels, truth, voxel_size_um=(4, 1, 1), with_surface=False)["cell_shape"] == [3, 14, 14]
    tiny = from_labels(np.array([[[0, 1, 1], [0, 0, 1]]], np.uint8))
    assert evaluate(tiny.labels, tiny, with_surface=False)["intervals"] == {}


def test_huge_surfaces_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_MOST_ELEMENTS", 3)
    predicted, truth = two_class_case()
    result = evaluate(predicted, truth)
    assert "more than 3 elements" in result["surface_skipped"] and "nsd" not in result
    assert "nsd" not in evaluate(predicted, truth, with_surface=False)


# ------------------------------------------------------------------------------------------------------------- stores


def write_output(path: Path, labels: np.ndarray, probability: np.ndarray, attributes: dict[str, Any]) -> None:
    options: dict[str, Any] = {"shape": labels.shape, "voxel_size_um": (2.0, 0.88, 0.88), "chunks": (2, 4, 4)}
    store = io.create_output(path, channel_names=["foreground"], dtype=np.uint8, attributes=attributes, **options)
    box = volumes.Box.of(labels.shape)
    store.write(box, probability)
    segmentation = io.create_labels(path, "segmentation", dtype=np.uint8, attributes={}, **options)
    segmentation.write(box, labels)


@pytest.mark.parametrize("known", [True, False])
def test_a_stored_output(tmp_path: Path, known: bool) -> None:
    rng = np.random.default_rng(4)
    probability = rng.integers(0, 256, (1, 5, 9, 8)).astype(np.uint8)
    labels = (probability[0] >= 0.3 * 255).astype(np.uint8)
    facts = {
        "outputs": [{"name": "foreground", "kind": "probability", "range": [0, 1], "dtype": "uint8"}],
        "threshold": 0.3,
        "class_values": [1],
    }
    path = tmp_path / "out.ome.zarr"
    write_output(path, labels, probability, facts if known else {})
    true = rng.choice(np.array([1, 255], np.uint8), labels.shape)
    result = evaluate(path, from_labels(true, background=255))
    assert result["confusion"] == semantic.confusion(labels, true == 1).tolist()
    assert result["assd_um"] == surface.surface_scores(labels, true == 1, (2.0, 0.88, 0.88))["assd_um"]
    if known:
        assert result["threshold"] == 0.3
        assert result["at_half"]["confusion"] == semantic.confusion(probability[0] >= 128, true == 1).tolist()
    else:
        assert (result["threshold"], result["at_half"]) == (None, None)


def test_label_files(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    predicted, truth = two_class_case(6)
    tifffile.imwrite(tmp_path / "prediction.tif", predicted)
    tifffile.imwrite(tmp_path / "truth.tif", truth.labels)
    result = evaluate(tmp_path / "prediction.tif", tmp_path / "truth.tif", planes=["2", "5"])
    assert result == evaluate(predicted, truth.restricted([(0, 2), (0, 5)]))


def test_unfinished_output_is_said(tmp_path: Path) -> None:
    labels = np.ones((2, 4, 4), np.uint8)
    path = tmp_path / "out.ome.zarr"
    write_output(path, labels, labels[None] * 255, {})
    assert evaluate(path, from_labels(labels, allow_one_class=True))["complete"] is None
    (path / ".fewslice").mkdir(exist_ok=True)
    for finished in (False, True):
        (path / ".fewslice" / "job.json").write_text(json.dumps({"key": "k", "finished": finished}))
        assert evaluate(path, from_labels(labels, allow_one_class=True))["complete"] is finished


# ---------------------------------------------------------------------------------------------------------- real data


def test_two_annotators_of_one_stack(data_dir: Path) -> None:
    folder = data_dir / "two_photon_neurons" / "stack2"
    first = io.open_labels(folder / "labels.tif").read()[0, [0, 20]]
    second = io.open_labels(folder / "labels_second_annotation.tif").read()[0]
    for plane in (0, 1):
        truth = from_labels(first, background=255, planes=[str(plane)])
        result = evaluate(second, truth, background=255, voxel_size_um=(2, 0.88, 0.88))
        assert 0.70 <= result["iou"] <= 0.73  # stated with the data: 0.71 to 0.72
        assert result["surface_dims"] == 2
