"""The whole way as commands, on real volumes with networks of toy size: train, predict, evaluate, info, report.

Scores mean nothing here; that every step accepts what the one before it wrote, and says what is in it, does.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

Fewslice = Callable[..., subprocess.CompletedProcess[str]]

STACK2 = ("two_photon_neurons", "stack2")
VOXEL = ("--voxel-size-um", "2,0.88,0.88")


@pytest.fixture
def crop(data_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write image and labels of a data set, cut to a few planes and a window, into a folder of its name."""

    def write(
        *place: str, planes: slice = slice(None), rows: slice = slice(None), columns: slice = slice(None)
    ) -> Path:
        folder = tmp_path.joinpath(*place)
        folder.mkdir(parents=True)
        for name in ("image.tif", "labels.tif"):
            values = tifffile.imread(data_dir.joinpath(*place) / name)
            cut = values[planes][..., rows, columns]
            tifffile.imwrite(folder / name, cut, photometric="minisblack")
        return folder

    return write


def notes(result: subprocess.CompletedProcess[str]) -> list[str]:
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return [event["note"] for event in found if event["event"] == "note"]


def scores(done: Fewslice, folder: Path, *arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(folder, "evaluate", *arguments, "--json").stdout)
    return found


def check_against_numpy(found: dict[str, Any], out: Path, truth: np.ndarray, annotated: np.ndarray) -> None:
    """Compute the foreground scores again from what is on disk."""
    predicted = np.asarray(zarr.open_array(out / "labels/segmentation/0", mode="r")[:]) > 0
    t, p = truth[annotated], predicted[annotated]
    confusion = [[int((~t & ~p).sum()), int((~t & p).sum())], [int((t & ~p).sum()), int((t & p).sum())]]
    assert found["confusion"] == confusion
    (_, fp), (fn, tp) = confusion
    assert found["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["iou"] == pytest.approx(tp / (tp + fp + fn))
    assert found["precision"] == (pytest.approx(tp / (tp + fp)) if tp + fp else None)
    assert found["recall"] == pytest.approx(tp / (tp + fn))


def test_neurons_from_four_planes_with_and_without_axes(
    tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], crop: Callable[..., Path]
) -> None:
    folder = crop(*STACK2, rows=slice(0, 256), columns=slice(0, 256))
    image, labels = folder / "image.tif", folder / "labels.tif"
    train = ["train", image, "--labels", labels, "--background", "255", "--planes", "4,8,12,16", *VOXEL]
    train += [*tiny["pseudo_labels"], "--set", "student.views=1", "--set", "teacher.views=1", "--steps", "20"]

    said = done(tmp_path, *train, "--axes", "zcyx", "-o", "RUN")
    assert "teacher: Dice" in said.stdout and "student: Dice" in said.stdout
    assert not any("axes" in note for note in notes(said))
    inferred = done(tmp_path, *train, "-o", "RUN_INFERRED")
    assert any("image.tif" in note and "zcyx" in note for note in notes(inferred)), "inferred axes were not said"
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "RUN/model" / name).read_bytes() == (tmp_path / "RUN_INFERRED/model" / name).read_bytes()

    out = tmp_path / "OUT.ome.zarr"
    predicted = done(tmp_path, "predict", "RUN", image, "-o", out)
    assert any("zcyx" in note for note in notes(predicted)), "inferred axes were not said"
    found = scores(done, tmp_path, out, "--truth", labels, "--background", "255")
    truth = tifffile.imread(labels) == 1
    check_against_numpy(found, out, truth, np.ones_like(truth))
    assert set(found["classes"]) == {"1"} and found["classes"]["1"]["dice"] == found["dice"]
    assert {"hd95_um", "assd_um", "nsd"} <= set(found)
    for plane in ("4,8", "y=100"):
        part = scores(done, tmp_path, out, "--truth", labels, "--background", "255", "--planes", plane)
        assert np.sum(part["confusion"]) == (2 * 256 * 256 if plane == "4,8" else 21 * 256)
    assert "foreground" in done(tmp_path, "evaluate", out, "--truth", labels, "--background", "255").stdout

    facts = json.loads(done(tmp_path, "info", out, "--json").stdout)
    assert facts["czyx"] == [1, 21, 256, 256] and facts["voxel_size_um"] == [2.0, 0.88, 0.88]
    assert facts["channel_names"] == ["foreground"] and [entry["name"] for entry in facts["labels"]] == ["segmentation"]
    assert facts["attributes"]["image"] == str(image) and facts["attributes"]["class_values"] == [1]
    shown = done(tmp_path, "info", out).stdout
    assert "2.0, 0.88, 0.88" in shown and "segmentation" in shown

    done(tmp_path, "report", "RUN")
    page = (tmp_path / "RUN/report.html").read_text(encoding="utf-8")
    assert f"{found['dice']:.3f}" in page and "stack2" in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?https?:", page), "the page needs a network"
    results = [json.loads(line) for line in (tmp_path / "RUN/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in results] == ["prediction", *["evaluation"] * 4]


def test_an_unlabelled_volume_beside_a_labelled_one(
    tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], crop: Callable[..., Path]
) -> None:
    window = {"rows": slice(0, 96), "columns": slice(0, 96)}
    labelled, unlabelled = crop(*STACK2, **window), crop("two_photon_neurons", "stack3", **window)
    train = ["train", labelled / "image.tif", unlabelled / "image.tif"]
    train += ["--labels", labelled / "labels.tif", "--labels", "none", "--background", "255", "--planes", "4,8,12,16"]
    done(tmp_path, *train, *VOXEL, *tiny["pseudo_labels"], "--steps", "4", "-o", "RUN")
    stores = sorted((tmp_path / "RUN/stages/teacher/predicted").glob("*.ome.zarr"))
    assert len(stores) == 2, "the unlabelled volume got no pseudo-labels"
    described = json.loads(done(tmp_path, "info", stores[1], "--json").stdout)
    assert described["attributes"]["image"] == str(unlabelled / "image.tif")
    done(tmp_path, "predict", "RUN", labelled / "image.tif", "-o", "OUT.ome.zarr", "--threshold", "0.3")
    found = scores(done, tmp_path, "OUT.ome.zarr", "--truth", labelled / "labels.tif", "--background", "255")
    assert found["threshold"] == 0.3 and 0 <= found["dice"] <= 1


def test_two_classes(tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], crop: Callable[..., Path]) -> None:
    folder = crop("two_photon_neurons", "stack5", rows=slice(0, 256), columns=slice(0, 256))
    labels = tifffile.imread(folder / "labels.tif")
    assert set(np.unique(labels)) == {1, 2, 255}
    train = ["train", folder / "image.tif", "--labels", folder / "labels.tif", "--background", "255", "--axes", "zcyx"]
    done(tmp_path, *train, *VOXEL, *tiny["slices_2d"], "--steps", "30", "-o", "RUN")
    done(tmp_path, "predict", "RUN", folder / "image.tif", "-o", "OUT.ome.zarr")
    facts = json.loads(done(tmp_path, "info", "OUT.ome.zarr", "--json").stdout)
    assert facts["channel_names"] == ["class_1", "class_2"] and facts["attributes"]["class_values"] == [1, 2]
    found = scores(done, tmp_path, "OUT.ome.zarr", "--truth", folder / "labels.tif", "--background", "255")
    check_against_numpy(found, tmp_path / "OUT.ome.zarr", labels != 255, np.ones(labels.shape, bool))
    predicted = np.asarray(zarr.open_array(tmp_path / "OUT.ome.zarr/labels/segmentation/0", mode="r")[:])
    for value in (1, 2):
        both = np.count_nonzero((predicted == value) & (labels == value))
        sizes = np.count_nonzero(predicted == value) + np.count_nonzero(labels == value)
        assert found["classes"][str(value)]["dice"] == pytest.approx(2 * both / sizes)


def test_mitochondria_in_another_stack(
    tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], crop: Callable[..., Path]
) -> None:
    window = {"planes": slice(0, 32), "rows": slice(100, 228), "columns": slice(300, 428)}
    known, other = crop("em_mitochondria", "train", **window), crop("em_mitochondria", "test", **window)
    train = ["train", known / "image.tif", "--labels", known / "labels.tif", "--background", "0", "--planes", "0:32:5"]
    done(tmp_path, *train, "--voxel-size-um", "0.005,0.005,0.005", *tiny["sparse_3d"], "--steps", "10", "-o", "RUN")
    provenance = json.loads((tmp_path / "RUN/provenance.json").read_text(encoding="utf-8"))
    assert provenance["samples"][0]["annotated_planes"] == [0, 5, 10, 15, 20, 25, 30]
    assert provenance["validation"]["how"] == "planes"
    done(tmp_path, "predict", "RUN", other / "image.tif", known / "image.tif", "-o", "TWO", "--axes", "zyx", expect=2)
    (tmp_path / "other.tif").write_bytes((other / "image.tif").read_bytes())
    done(tmp_path, "predict", "RUN", "other.tif", known / "image.tif", "-o", "TWO")
    assert sorted(p.name for p in (tmp_path / "TWO").iterdir()) == ["image.ome.zarr", "other.ome.zarr"]
    found = scores(done, tmp_path, "TWO/other.ome.zarr", "--truth", other / "labels.tif", "--background", "0")
    truth = tifffile.imread(other / "labels.tif") > 0
    check_against_numpy(found, tmp_path / "TWO/other.ome.zarr", truth, np.ones_like(truth))
    facts = json.loads(done(tmp_path, "info", "TWO/other.ome.zarr", "--json").stdout)
    assert facts["voxel_size_um"] == [0.005, 0.005, 0.005], "the model's voxel size is an image's that states none"


def test_nuclei_labelled_one_by_one(
    tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], crop: Callable[..., Path]
) -> None:
    folder = crop("nuclei_3d", "1135", planes=slice(20, 60))
    train = ["train", folder / "image.tif", "--labels", folder / "labels.tif", "--planes", "0:40:8", *tiny["sparse_3d"]]
    train += ["--voxel-size-um", "0.2837,0.1268,0.1268", "--steps", "4", "-o", "RUN"]
    asked = done(tmp_path, *train, expect=2)
    assert "classes" in asked.stderr and "instances" in asked.stderr
    done(tmp_path, *train, "--label-kind", "instances")
    done(tmp_path, "predict", "RUN", folder / "image.tif", "-o", "OUT.ome.zarr")
    truth = tifffile.imread(folder / "labels.tif") > 0
    options = ["--truth", folder / "labels.tif", "--label-kind", "instances"]
    check_against_numpy(
        scores(done, tmp_path, "OUT.ome.zarr", *options), tmp_path / "OUT.ome.zarr", truth, np.ones_like(truth)
    )


def test_what_is_not_annotated_changes_no_weight_and_no_score(
    tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], crop: Callable[..., Path]
) -> None:
    folder = crop(*STACK2, rows=slice(0, 96), columns=slice(0, 96))
    labels = tifffile.imread(folder / "labels.tif")
    listed = np.zeros(len(labels), bool)
    listed[[4, 8, 12, 16]] = True
    rng = np.random.default_rng(0)
    changed = np.where(listed[:, None, None], labels, rng.integers(0, 256, labels.shape)).astype(np.uint8)
    marked = np.where(listed[:, None, None], labels, 9).astype(np.uint8)  # unlabelled by value instead of by plane
    versions: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        "as_it_is": (labels, ("--planes", "4,8,12,16")),
        "changed": (changed, ("--planes", "4,8,12,16")),
        "marked": (marked, ("--unlabelled", "9")),
    }
    models, measured = [], []
    for name, (values, how) in versions.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack")
        options = ["--background", "255", *how]
        train = ["train", folder / "image.tif", "--labels", f"{name}.tif", *options, "--axes", "zcyx", *VOXEL]
        done(tmp_path, *train, *tiny["pseudo_labels"], "--steps", "6", "-o", name)
        models.append([(tmp_path / name / "model" / f).read_bytes() for f in ("model.safetensors", "model.json")])
        if name == "as_it_is":
            done(tmp_path, "predict", name, folder / "image.tif", "-o", "OUT.ome.zarr")
        measured.append(scores(done, tmp_path, "OUT.ome.zarr", "--truth", f"{name}.tif", *options))
    assert models[0] == models[1] == models[2]
    assert measured[0] == measured[1] == measured[2]


@pytest.mark.parametrize(
    ("planes", "more", "said"),
    [
        ("6", ["--set", "neighbours.planes=31"], ["voxel size is unknown", "taken for cubes of 5 nm"]),
        ("y=9,10", ["--voxel-size-um", "2,1,1"], ["annotated along y", "cleaned along y"]),
    ],
    ids=["one plane, more neighbours than planes, no voxel size", "adjacent planes along y"],
)
def test_continuity_on_annotation_it_was_not_made_for(
    tmp_path: Path,
    done: Fewslice,
    tiny: dict[str, list[str]],
    write_volume: Callable[..., None],
    planes: str,
    more: list[str],
    said: list[str],
) -> None:
    write_volume(tmp_path)
    patch = "patch=[8,1,16]" if planes.startswith("y") else "patch=[1,16,16]"
    sizes = [s.replace("patch=[1,16,16]", patch) for s in tiny["continuity"]]
    what = ["train", "image.tif", "--labels", "labels.tif", "--axes", "zyx", "--background", "0", "--planes", planes]
    heard = " ".join(notes(done(tmp_path, *what, *sizes, *more, "--steps", "2", "-o", "RUN")))
    for words in said:
        assert words in heard
    done(tmp_path, "predict", "RUN", "image.tif", "--axes", "zyx", "-o", "OUT.ome.zarr")
    found = scores(done, tmp_path, "OUT.ome.zarr", "--truth", "labels.tif", "--background", "0", "--axes", "zyx")
    assert 0 <= found["dice"] <= 1


def test_continuity_without_any_foreground_in_the_masks(
    tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], write_volume: Callable[..., None]
) -> None:
    """Masks that are empty everywhere, or fill every plane, stop neither training nor prediction."""
    write_volume(tmp_path)
    what = ["train", "image.tif", "--labels", "labels.tif", "--axes", "zyx", "--background", "0", "--planes", "0:12:4"]
    for name, threshold in (("EMPTY", "0.999999"), ("FULL", "0.000001")):
        done(tmp_path, *what, *tiny["continuity"], "--set", f"mask_threshold={threshold}", "--steps", "2", "-o", name)
        done(tmp_path, "predict", name, "image.tif", "--axes", "zyx", "-o", f"{name}.ome.zarr")


def test_a_run_is_exported_with_its_training_image(
    tmp_path: Path, done: Fewslice, tiny: dict[str, list[str]], write_volume: Callable[..., None]
) -> None:
    import onnxruntime

    write_volume(tmp_path)
    what = ["train", "image.tif", "--labels", "labels.tif", "--axes", "zyx", "--background", "0", "--planes", "0:12:4"]
    done(tmp_path, *what, *tiny["slices_2d"], "--steps", "2", "-o", "RUN")
    assert "wrote model.onnx" in done(tmp_path, "export", "RUN", "--to", "onnx", "-o", "model").stdout
    done(tmp_path, "export", "RUN", "--to", "bioimageio", "-o", "model.zip", "--set", "name=blobs in noise")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = tifffile.imread(tmp_path / "image.tif").astype(np.float32)
    assert session.run(None, {"image": image[:, None]})[0].shape == (12, 1, 32, 32)
