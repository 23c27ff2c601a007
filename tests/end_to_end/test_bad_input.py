"""Every bad input through the installed command: one sentence, the right exit code, and nothing on disk has changed.

1. `workplace` holds good and bad files, a trained run and its prediction, made once.
2. `CASES` are command lines with what the sentence must name; each is run there, and the folder's hash must not change.
3. A full disk is a limit on the size of files, which no file system is needed for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import yaml

from fewslice import measure
from fewslice.io import save_labels
from fewslice.model import FORMAT_VERSION

Fewslice = Callable[..., subprocess.CompletedProcess[str]]

TRAIN = "train image.tif --labels labels.tif --axes zyx --background 0 --steps 2 -o NEW"
SIMULATE = "simulate fluorescence_nuclei"
PREDICT = "predict RUN image.tif -o NEW.ome.zarr"


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory,
    done: Fewslice,
    tiny: dict[str, list[str]],
    write_volume: Callable[..., None],
) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    write_volume(folder)
    image, labels = tifffile.imread(folder / "image.tif"), tifffile.imread(folder / "labels.tif")
    _write_images(folder, image)
    _write_labels(folder, image, labels)
    train = ["train", "image.tif", "--labels", "labels.tif", "--axes", "zyx", "--background", "0", "--steps", "2"]
    done(folder, *train, *tiny["slices_2d"], "--voxel-size-um", "2,1,1", "-o", "RUN")
    done(folder, "predict", "RUN", "image.tif", "-o", "OUT.ome.zarr")
    done(folder, "convert", "image.tif", "image.ome.zarr", "--axes", "zyx")
    _write_models(folder)
    _write_experiments(folder)
    _write_runs(folder)
    _damage_chunk(folder)
    _write_predictions(folder)
    shutil.copytree(folder / "OUT.ome.zarr", folder / "unsegmented.ome.zarr")
    done(folder, "segment", "OUT.ome.zarr", "--quiet")
    _write_objects(folder, labels)
    return folder


def _write_predictions(folder: Path) -> None:
    """A prediction that is not finished, one of contours, and one whose objects another program wrote."""
    for name in ("unfinished", "contours", "foreign"):
        shutil.copytree(folder / "OUT.ome.zarr", folder / f"{name}.ome.zarr")
    job = folder / "unfinished.ome.zarr" / ".fewslice" / "job.json"
    job.write_text(job.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    group = folder / "contours.ome.zarr" / "zarr.json"
    group.write_text(group.read_text(encoding="utf-8").replace('"probability"', '"contour"'), encoding="utf-8")
    shutil.copytree(folder / "foreign.ome.zarr/labels/segmentation", folder / "foreign.ome.zarr/labels/instances")


def _write_images(folder: Path, image: np.ndarray) -> None:
    content = (folder / "image.tif").read_bytes()
    (folder / "empty.tif").touch()
    (folder / "truncated.tif").write_bytes(content[: len(content) // 2])
    (folder / "header.tif").write_bytes(content[:6])
    (folder / "notes.txt").write_text("not an image\n", encoding="utf-8")
    (folder / "notes.txt.onnx").write_text("somebody's\n", encoding="utf-8")
    (folder / "text.tif").write_text("not a TIFF either, whatever its name says\n", encoding="utf-8")
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        broken = image.astype(np.float32)
        broken[7, 3, 3] = value
        tifffile.imwrite(folder / f"{name}.tif", broken, photometric="minisblack")
    tifffile.imwrite(folder / "plane.tif", image[5], photometric="minisblack")
    tifffile.imwrite(folder / "constant.tif", np.full((40, 40), 7, np.uint8), photometric="minisblack")
    tifffile.imwrite(folder / "nan_plane.tif", broken[7], photometric="minisblack")
    tifffile.imwrite(folder / "square.tif", np.stack([image[:4, :16, :16]] * 4), photometric="minisblack")
    tifffile.imwrite(folder / "two_channels.tif", np.stack([image] * 2, axis=1), photometric="minisblack")
    with h5py.File(folder / "store.h5", "w") as file:
        file["raw"] = image
        file["none"] = np.zeros((0, 32, 32), np.uint8)
        file["flat"] = np.zeros((4, 0, 32), np.uint8)
    stored = (folder / "store.h5").read_bytes()
    (folder / "truncated.h5").write_bytes(stored[: len(stored) // 2])
    (folder / "empty_folder").mkdir()
    (folder / "broken.ome.zarr").mkdir()
    (folder / "broken.ome.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_ty', encoding="utf-8")


def _write_labels(folder: Path, image: np.ndarray, labels: np.ndarray) -> None:
    tifffile.imwrite(folder / "labels_other_shape.tif", labels[:, :30], photometric="minisblack")
    tifffile.imwrite(folder / "labels_float.tif", labels.astype(np.float32), photometric="minisblack")
    tifffile.imwrite(folder / "labels_all_background.tif", np.zeros_like(labels), photometric="minisblack")
    tifffile.imwrite(folder / "labels_all_unlabelled.tif", np.full_like(labels, 255), photometric="minisblack")
    tifffile.imwrite(folder / "labels_plane.tif", labels[5], photometric="minisblack")
    tifffile.imwrite(
        folder / "labels_square.tif", (image[:4, :16, :16] > 100).astype(np.uint8), photometric="minisblack"
    )
    own_class = np.zeros_like(labels)
    for value, z in enumerate((1, 4, 7, 10), start=1):
        own_class[z, 8:24, 8:24] = value
    tifffile.imwrite(folder / "labels_own_class.tif", own_class, photometric="minisblack")


def _write_models(folder: Path) -> None:
    for name in ("newer", "corrupted", "cut", "garbage", "keyed", "weightless"):
        shutil.copytree(folder / "RUN" / "model", folder / "models" / name)
    description = json.loads((folder / "RUN" / "model" / "model.json").read_text(encoding="utf-8"))

    def write(name: str, text: str) -> None:
        (folder / "models" / name / "model.json").write_text(text, encoding="utf-8")

    write("newer", json.dumps(description | {"format_version": description["format_version"] + 1}))
    write("keyed", json.dumps(description | {"colour": "blue"}))
    write("garbage", '{"format_version": ')
    weights = (folder / "RUN" / "model" / "model.safetensors").read_bytes()
    middle = len(weights) // 2
    changed = weights[:middle] + bytes([weights[middle] ^ 255]) + weights[middle + 1 :]
    (folder / "models" / "corrupted" / "model.safetensors").write_bytes(changed)
    (folder / "models" / "cut" / "model.safetensors").write_bytes(weights[:middle])
    (folder / "models" / "weightless" / "model.safetensors").unlink()


def _write_experiments(folder: Path) -> None:
    content = yaml.safe_load((folder / "RUN" / "experiment.yaml").read_text(encoding="utf-8"))
    changes = {
        "strategy": {"strategy": "pseudo_label"},
        "key": {"plane": ["1,2"]},
        "setting": {"settings": content["settings"] | {"learning_rat": 0.1}},
        "network": {"settings": content["settings"] | {"network": {"kind": "unett"}}},
        "newer": {"version": 99},
        "voxel": {"voxel_size_um": [0.0, 1.0, 1.0]},
        "voxel_nan": {"voxel_size_um": [float("nan"), 1.0, 1.0]},
    }
    for name, change in changes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | change), encoding="utf-8")
    (folder / "no_yaml.yaml").write_text("a: [1, 2\n", encoding="utf-8")
    (folder / "list.yaml").write_text("[1, 2]\n", encoding="utf-8")


def _write_runs(folder: Path) -> None:
    """Runs for which nothing can be planned."""
    content = yaml.safe_load((folder / "RUN" / "experiment.yaml").read_text(encoding="utf-8"))
    gone = [str(folder / "moved.tif")]
    changes = {
        "unfinished": {},
        "origin": {},
        "unlabelled": {"labels": []},
        "moved": {"images": gone},
        "labels_moved": {"labels": gone},
        "painted": {"planes": ["1,5"]},
    }
    for name, change in changes.items():
        shutil.copytree(folder / "RUN", folder / "RUNS" / name)
        (folder / "RUNS" / name / "experiment.yaml").write_text(yaml.safe_dump(content | change), encoding="utf-8")
    (folder / "RUNS" / "unfinished" / "model" / "model.json").unlink()
    (folder / "RUNS" / "origin" / "provenance.json").unlink()


def _damage_chunk(folder: Path) -> None:
    shutil.copytree(folder / "image.ome.zarr", folder / "damaged.ome.zarr")
    chunk = max(
        (p for p in (folder / "damaged.ome.zarr" / "0").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    chunk.write_bytes(chunk.read_bytes()[:100])


def _write_objects(folder: Path, labels: np.ndarray) -> None:
    """Write labels of objects: with and without a voxel size, negative ones, and some that are measured already."""
    for name, size in (("cells", (2.0, 1.0, 1.0)), ("measured", (2.0, 1.0, 1.0)), ("unscaled", None)):
        save_labels(folder / f"{name}.ome.zarr", labels, voxel_size_um=size)
    measure(folder / "measured.ome.zarr")
    save_labels(folder / "negative.ome.zarr", labels.astype(np.int16) - 1, voxel_size_um=(2.0, 1.0, 1.0))


CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    # A file that does not exist, is empty, truncated, of an unknown format
    "image missing": ("train gone.tif --labels labels.tif -o NEW", ("gone.tif", "does not exist")),
    "pattern without match": ("train gone*.tif --labels labels.tif -o NEW", ("gone*.tif", "matches no file")),
    "labels missing": ("train image.tif --labels gone.tif -o NEW", ("gone.tif", "does not exist")),
    "image empty": ("train empty.tif --labels labels.tif --background 0 -o NEW", ("empty.tif", "empty")),
    "labels empty": ("train image.tif --labels empty.tif -o NEW", ("empty.tif", "empty")),
    "image truncated": ("train truncated.tif --labels labels.tif --background 0 -o NEW", ("truncated.tif",)),
    "header only": ("train header.tif --labels labels.tif --background 0 -o NEW", ("header.tif",)),
    "labels truncated": ("train image.tif --labels truncated.tif -o NEW", ("truncated.tif",)),
    "HDF5 truncated": ("train truncated.h5:raw --labels labels.tif --background 0 -o NEW", ("truncated.h5",)),
    "HDF5 data set missing": ("train store.h5:gone --labels labels.tif --background 0 -o NEW", ("gone", "raw")),
    "Zarr metadata truncated": (
        "train broken.ome.zarr --labels labels.tif --background 0 -o NEW",
        ("broken.ome.zarr",),
    ),
    "Zarr chunk truncated": ("train damaged.ome.zarr --labels labels.tif --background 0 -o NEW", ("damaged.ome.zarr",)),
    "unknown format": ("train notes.txt --labels labels.tif --background 0 -o NEW", ("notes.txt", "unknown format")),
    "no TIFF inside": ("train text.tif --labels labels.tif --background 0 -o NEW", ("text.tif",)),
    "folder without planes": ("train empty_folder --labels labels.tif --background 0 -o NEW", ("empty_folder",)),
    "image as labels": ("train image.tif --labels image.tif -o NEW", ("image.tif", "both")),
    # NaN or infinities where training samples
    "NaN": ("train nan.tif --labels labels.tif --axes zyx --background 0 -o NEW", ("nan.tif", "NaN", "z=7")),
    "infinity": ("train inf.tif --labels labels.tif --axes zyx --background 0 -o NEW", ("inf.tif", "z=7")),
    "NaN in an unlabelled image": (
        "train image.tif nan.tif --labels labels.tif --labels none --axes zyx --background 0 -o NEW",
        ("nan.tif", "NaN"),
    ),
    # Shapes and axes
    "one plane, sparse_3d": (
        "train plane.tif --labels labels_plane.tif --axes yx --background 0 --strategy sparse_3d -o NEW",
        ("3D", "slices_2d"),
    ),
    "one plane, pseudo_labels": (
        "train plane.tif --labels labels_plane.tif --background 0 -o NEW",
        ("3D", "slices_2d"),
    ),
    "no planes": ("train store.h5:none --labels labels.tif --background 0 -o NEW", ("store.h5:none", "0 x 32 x 32")),
    "no rows": ("train store.h5:flat --labels labels.tif --background 0 -o NEW", ("store.h5:flat", "4 x 0 x 32")),
    "several axis orders": (
        "train square.tif --labels labels_square.tif --background 0 -o NEW",
        ("square.tif", "zcyx", "czyx", "--axes"),
    ),
    "axes that do not fit": ("train image.tif --labels labels.tif --axes yx --background 0 -o NEW", ("yx",)),
    "channel that is not there": (f"{TRAIN} --channels 5", ("5", "image.tif")),
    "patch larger than the image": (f"{TRAIN} --set student.patch=[64,64,64]", ("64, 64, 64", "image.tif")),
    # Labels
    "labels of another shape": (
        "train image.tif --labels labels_other_shape.tif --axes zyx --background 0 -o NEW",
        ("labels_other_shape.tif", "12, 30, 32", "12, 32, 32"),
    ),
    "labels of float type": (
        "train image.tif --labels labels_float.tif --axes zyx -o NEW",
        ("labels_float.tif", "float32", "integer"),
    ),
    "no annotated voxel": (
        "train image.tif --labels labels_all_unlabelled.tif --axes zyx --unlabelled 255 -o NEW",
        ("labels_all_unlabelled.tif", "annotated"),
    ),
    "no labels at all": ("train image.tif --axes zyx -o NEW", ("annotated",)),
    "one class only": (
        "train image.tif --labels labels_all_background.tif --axes zyx --background 0 -o NEW",
        ("labels_all_background.tif", "one class only"),
    ),
    "class on held-out planes only": (
        "train image.tif --labels labels_own_class.tif --axes zyx --background 0 --planes 1,4,7,10 -o NEW",
        ("class", "held"),
    ),
    "plane outside": (f"{TRAIN} --planes 3,99", ("99", "12")),
    "row outside": (f"{TRAIN} --planes y=32", ("32",)),
    "planes misspelt": (f"{TRAIN} --planes three", ("three",)),
    "label kind unknown": (f"{TRAIN} --label-kind cells", ("cells", "classes", "instances")),
    # Voxel size
    "voxel size 0": (f"{TRAIN} --voxel-size-um 0,1,1", ("0,1,1", "positive")),
    "voxel size negative": (f"{TRAIN} --voxel-size-um 2,-1,1", ("2,-1,1", "positive")),
    "voxel size NaN": (f"{TRAIN} --voxel-size-um nan,1,1", ("nan,1,1", "positive")),
    "voxel size infinite": (f"{TRAIN} --voxel-size-um inf,1,1", ("inf,1,1", "positive")),
    "voxel size of two numbers": (f"{TRAIN} --voxel-size-um 2,1", ("2,1", "three")),
    "voxel size 0 in a file": ("run voxel.yaml -o NEW", ("voxel", "0")),
    "voxel size NaN in a file": ("run voxel_nan.yaml -o NEW", ("voxel", "nan")),
    "voxel size 0, predict": (f"{PREDICT} --voxel-size-um 1,0,1", ("1,0,1", "positive")),
    "voxel size other than the model's": (f"{PREDICT} --voxel-size-um 9,1,1", ("9.0", "--resample")),
    "voxel size 0, convert": ("convert image.tif NEW.ome.zarr --axes zyx --voxel-size-um 0,1,1", ("0,1,1",)),
    # An output of another run
    "run of another experiment": (TRAIN.replace("NEW", "RUN"), ("RUN", "another", "--overwrite")),
    "folder that is no run": (TRAIN.replace("NEW", "models"), ("models", "not a run")),
    "file in place of the run": (f"{TRAIN} -o image.tif", ("image.tif", "not a run")),
    # Export: unknown kinds and settings, what exists, what is not there
    "export of an unknown kind": ("export RUN --to onxx -o NEW", ("onxx", "did you mean 'onnx'")),
    "export over another file": ("export RUN --to onnx -o notes.txt.onnx", ("notes.txt.onnx", "--overwrite")),
    "export with an unknown setting": ("export RUN --to onnx -o NEW --set colour=blue", ("colour", "onnx")),
    "export without a run": ("export GONE --to onnx -o NEW", ("GONE", "does not exist")),
    "export into a folder that is not there": ("export RUN --to onnx -o gone/NEW", ("gone", "not a folder")),
    "export of a model alone": ("export RUN/model --to onnx -o NEW", ("--image",)),
    "export with an image of other channels": (
        "export RUN --to onnx --image two_channels.tif --axes zcyx -o NEW",
        ("two_channels.tif", "2 channels"),
    ),
    "bioimage.io name too short": ("export RUN --to bioimageio -o NEW --set name=x", ("name",)),
    "prediction with other settings": (
        "predict RUN image.tif -o OUT.ome.zarr --threshold 0.9",
        ("OUT.ome.zarr", "another", "--overwrite"),
    ),
    "prediction of another image": (
        "predict RUN image.ome.zarr -o OUT.ome.zarr --block 4,16,16",
        ("OUT.ome.zarr", "another", "--overwrite"),
    ),
    "image in place of the prediction": ("predict RUN image.tif -o damaged.ome.zarr", ("damaged.ome.zarr", "not made")),
    "prediction over its own image": (
        "predict RUN image.ome.zarr -o image.ome.zarr --overwrite",
        ("image.ome.zarr", "itself"),
    ),
    "prediction into a TIFF": ("predict RUN image.tif -o NEW.tif", ("NEW.tif", "-o OUT.ome.zarr", "convert")),
    "prediction into HDF5": ("predict RUN image.tif -o NEW.h5:data", ("NEW.h5", "-o OUT.ome.zarr", "convert")),
    "several images into one output": ("predict RUN image.tif plane.tif -o NEW.ome.zarr", ("2 images", "folder")),
    # Strategies and keys
    "unknown strategy": (f"{TRAIN} --strategy pseudo_label", ("pseudo_label", "did you mean 'pseudo_labels'")),
    "unknown strategy, help": ("train --strategy pseudo_label --help", ("did you mean 'pseudo_labels'",)),
    "unknown strategy in a file": ("run strategy.yaml -o NEW", ("pseudo_label", "did you mean 'pseudo_labels'")),
    "unknown key in a file": ("run key.yaml -o NEW", ("key.yaml", "plane", "did you mean planes")),
    "unknown setting in a file": ("run setting.yaml -o NEW", ("learning_rat", "did you mean learning_rate")),
    "unknown network in a file": ("run network.yaml -o NEW", ("unett", "did you mean 'unet'")),
    "unknown key": (f"{TRAIN} --set student.learning_rat=1", ("student.learning_rat", "did you mean learning_rate")),
    "unknown key of a network": (
        f"{TRAIN} --set student.network.featurs=4",
        ("student.network", "featurs", "did you mean features"),
    ),
    "value out of range": (f"{TRAIN} --set student.learning_rate=-1", ("student.learning_rate", "-1")),
    "assignment without value": (f"{TRAIN} --set student", ("'student'", "key.path=value")),
    "newer experiment": ("run newer.yaml -o NEW", ("newer.yaml", "99", "update fewslice")),
    "experiment missing": ("run gone.yaml -o NEW", ("gone.yaml",)),
    "experiment not YAML": ("run no_yaml.yaml -o NEW", ("no_yaml.yaml", "YAML")),
    "experiment a list": ("run list.yaml -o NEW", ("list.yaml", "list")),
    # Models
    "model of a newer version": (
        "predict models/newer image.tif -o NEW.ome.zarr",
        (f"version {FORMAT_VERSION + 1}", "update fewslice"),
    ),
    "weights corrupted": ("predict models/corrupted image.tif -o NEW.ome.zarr", ("model.safetensors", "damaged")),
    "weights truncated": ("predict models/cut image.tif -o NEW.ome.zarr", ("model.safetensors", "damaged")),
    "weights missing": ("predict models/weightless image.tif -o NEW.ome.zarr", ("model.safetensors", "missing")),
    "description garbage": ("predict models/garbage image.tif -o NEW.ome.zarr", ("model.json",)),
    "description with unknown key": ("predict models/keyed image.tif -o NEW.ome.zarr", ("model.json", "colour")),
    "no model": ("predict models image.tif -o NEW.ome.zarr", ("models", "no trained model")),
    "no run": ("predict gone image.tif -o NEW.ome.zarr", ("gone", "does not exist")),
    # Prediction
    "predict: image missing": ("predict RUN gone.tif -o sub/NEW.ome.zarr", ("gone.tif",)),
    "predict: other channels": (
        "predict RUN two_channels.tif --axes zcyx -o sub/NEW.ome.zarr",
        ("two_channels.tif", "2 channels", "1"),
    ),
    "predict: block of parts of chunks": (f"{PREDICT} --block 40,40,0", ("40,40,0", "positive")),
    "predict: views": (f"{PREDICT} --views 3", ("3", "1, 4, 8 or 16")),
    "predict: threshold": (f"{PREDICT} --threshold 2", ("threshold", "2.0")),
    "predict: threshold NaN": (f"{PREDICT} --threshold nan", ("threshold", "nan")),
    "predict: device": (f"{PREDICT} --device quantum", ("quantum", "cpu")),
    "train: device": (f"{TRAIN} --device quantum", ("quantum", "cpu")),
    # Evaluation, conversion, description, report
    "evaluate: prediction missing": ("evaluate gone.ome.zarr --truth labels.tif", ("gone.ome.zarr",)),
    "evaluate: truth missing": ("evaluate OUT.ome.zarr --truth gone.tif", ("gone.tif",)),
    "evaluate: truth of another shape": (
        "evaluate OUT.ome.zarr --truth labels_other_shape.tif --background 0",
        ("12, 32, 32", "12, 30, 32"),
    ),
    "evaluate: truth of float type": (
        "evaluate OUT.ome.zarr --truth labels_float.tif",
        ("labels_float.tif", "float32"),
    ),
    "evaluate: no annotated voxel": (
        "evaluate OUT.ome.zarr --truth labels_all_unlabelled.tif --unlabelled 255",
        ("annotated",),
    ),
    "evaluate: tolerance": (
        "evaluate OUT.ome.zarr --truth labels.tif --background 0 --tolerance-um -1",
        ("tolerance", "-1"),
    ),
    "evaluate: tolerance NaN": (
        "evaluate OUT.ome.zarr --truth labels.tif --background 0 --tolerance-um nan",
        ("tolerance", "nan"),
    ),
    "evaluate: tolerance of objects": (
        "evaluate OUT.ome.zarr --truth labels.tif --instances --tolerance-um 1",
        ("--tolerance-um", "--instances"),
    ),
    "evaluate: classes as objects": (
        "evaluate OUT.ome.zarr --truth labels.tif --instances --label-kind classes",
        ("--label-kind classes", "--instances"),
    ),
    "evaluate: small objects without objects": (
        "evaluate OUT.ome.zarr --truth labels.tif --ignore-smaller 5",
        ("--ignore-smaller 5", "--instances"),
    ),
    "evaluate: negative size": (
        "evaluate OUT.ome.zarr --truth labels.tif --instances --ignore-smaller -2",
        ("--ignore-smaller -2", "negative"),
    ),
    "evaluate: objects of another shape": (
        "evaluate OUT.ome.zarr --truth labels_other_shape.tif --instances",
        ("12, 32, 32", "12, 30, 32"),
    ),
    "evaluate: no objects yet": (
        "evaluate contours.ome.zarr --truth labels.tif --instances",
        ("contours.ome.zarr", "no labels/instances", "fewslice segment"),
    ),
    # Objects
    "segment: missing": ("segment gone.ome.zarr", ("gone.ome.zarr", "does not exist")),
    "segment: an image": ("segment image.ome.zarr", ("image.ome.zarr", "no prediction", "threshold_watershed")),
    "segment: a TIFF": ("segment image.tif --segmenter watershed", ("image.tif", "no prediction")),
    "segment: unfinished prediction": ("segment unfinished.ome.zarr", ("unfinished.ome.zarr", "unfinished", "predict")),
    "segment: output missing": (
        "segment contours.ome.zarr --segmenter watershed",
        ("watershed needs a probability output", "foreground (contour)"),
    ),
    "segment: unknown segmenter": ("segment OUT.ome.zarr --segmenter watershedd", ("did you mean 'watershed'",)),
    "segment: unknown segmenter, help": ("segment --segmenter flood --help", ("flood", "watershed")),
    "segment: unknown setting": (
        "segment OUT.ome.zarr --segmenter watershed --set nek=0.5",
        ("settings of watershed", "nek", "did you mean neck"),
    ),
    "segment: setting out of range": (
        "segment OUT.ome.zarr --segmenter watershed --set neck=1.5",
        ("settings of watershed", "neck", "1.5"),
    ),
    "segment: connectivity": ("segment OUT.ome.zarr --set connectivity=8", ("connectivity", "8")),
    "segment: threshold": ("segment OUT.ome.zarr --threshold 1.5", ("threshold", "1.5")),
    "segment: block": ("segment OUT.ome.zarr --block 4,4", ("4,4", "three")),
    "segment: other settings": ("segment OUT.ome.zarr --threshold 0.9", ("instances", "another", "--overwrite")),
    "segment: objects of another program": ("segment foreign.ome.zarr", ("instances", "not made", "--overwrite")),
    "segment: output of a prediction": ("segment OUT.ome.zarr -o NEW.ome.zarr", ("-o NEW.ome.zarr", "leave")),
    "segment: axes of a prediction": ("segment OUT.ome.zarr --axes zyx", ("--axes", "prediction")),
    "segment: image without output": ("segment image.tif --segmenter threshold_watershed", ("-o OUT.ome.zarr",)),
    "segment: image into a TIFF": (
        "segment image.tif --segmenter threshold_watershed --axes zyx -o NEW.tif",
        ("NEW.tif", "OUT.ome.zarr"),
    ),
    "segment: image over itself": (
        "segment image.ome.zarr --segmenter threshold_watershed -o image.ome.zarr --overwrite",
        ("image.ome.zarr", "itself"),
    ),
    "segment: image over a prediction": (
        "segment image.tif --segmenter threshold_watershed --axes zyx -o OUT.ome.zarr",
        ("OUT.ome.zarr", "another", "--overwrite"),
    ),
    "segment: image with NaN": (
        "segment nan.tif --segmenter threshold_watershed --axes zyx -o NEW.ome.zarr",
        ("nan.tif", "NaN"),
    ),
    "segment: image, threshold": (
        "segment image.tif --segmenter threshold_watershed --axes zyx --threshold 0.5 -o NEW.ome.zarr",
        ("--threshold", "threshold_watershed"),
    ),
    # Objects and meshes
    "measure: missing": ("measure gone.ome.zarr", ("gone.ome.zarr", "does not exist")),
    "measure: no instances": ("measure unsegmented.ome.zarr", ("unsegmented.ome.zarr", "fewslice segment", "--labels")),
    "measure: no labels of that name": ("measure OUT.ome.zarr --labels cells", ("cells", "segmentation")),
    "measure: an image": ("measure image.ome.zarr --labels cells", ("image.ome.zarr", "no labels", "cells")),
    "measure: labels of float type": ("measure labels_float.tif --axes zyx", ("labels_float.tif", "float32")),
    "measure: no voxel size": ("measure unscaled.ome.zarr", ("unscaled.ome.zarr", "voxel size", "--voxel-size-um")),
    "measure: voxel size 0": ("measure cells.ome.zarr --voxel-size-um 0,1,1", ("0,1,1", "positive")),
    "measure: image of another shape": (
        "measure cells.ome.zarr --image square.tif --axes zcyx",
        ("square.tif", "(4, 16, 16)", "(12, 32, 32)"),
    ),
    "measure: image missing": ("measure cells.ome.zarr --image gone.tif", ("gone.tif",)),
    "measure: NaN in the image": ("measure cells.ome.zarr --image nan.tif --axes zyx", ("nan.tif", "NaN")),
    "measure: regions of another shape": (
        "measure cells.ome.zarr --regions labels_other_shape.tif --axes zyx",
        ("labels_other_shape.tif", "(12, 30, 32)", "(12, 32, 32)"),
    ),
    "measure: negative labels": ("measure negative.ome.zarr", ("-1", "background")),
    "measure: block": ("measure cells.ome.zarr --block 4,0,4", ("4,0,4", "positive")),
    "measure: table of another name": ("measure cells.ome.zarr -o cells.tsv", ("cells.tsv", "OUT.objects.csv")),
    "measure: table of other settings": (
        "measure measured.ome.zarr --voxel-size-um 1,1,1",
        ("measured.objects", "--overwrite"),
    ),
    "mesh: unknown format": ("mesh cells.ome.zarr --format fbx", ("fbx", "glb", "neuroglancer")),
    "mesh: object not there": ("mesh cells.ome.zarr --objects 1,77", ("77", "--objects")),
    "mesh: objects no numbers": ("mesh cells.ome.zarr --objects some", ("some", "--objects")),
    "mesh: no voxel size": ("mesh unscaled.ome.zarr", ("unscaled.ome.zarr", "--voxel-size-um")),
    "mesh: error negative": ("mesh cells.ome.zarr --error-um -1", ("-1",)),
    "mesh: class not there": ("mesh OUT.ome.zarr --class 9", ("class 9", "1")),
    "mesh: classes of other images": ("mesh cells.ome.zarr --class 1", ("cells.ome.zarr", "segmentation")),
    "mesh: folder of others": ("mesh cells.ome.zarr -o models", ("models", "no meshes")),
    "convert: target exists": (
        "convert image.tif image.ome.zarr --axes zyx",
        ("image.ome.zarr", "exists", "--overwrite"),
    ),
    "convert: onto itself": ("convert image.tif image.tif --axes zyx --overwrite", ("image.tif", "itself")),
    "convert: source missing": ("convert gone.tif NEW.ome.zarr", ("gone.tif",)),
    "convert: source truncated": ("convert truncated.tif NEW.ome.zarr --axes zyx", ("truncated.tif",)),
    "convert: damaged chunk": ("convert damaged.ome.zarr NEW.tif", ("damaged.ome.zarr", "damaged")),
    "convert: unknown target": ("convert image.tif NEW.xyz --axes zyx", ("NEW.xyz", "unknown format")),
    "convert: unknown version": ("convert image.tif NEW.ome.zarr --axes zyx --ome-version 9", ("9", "0.5")),
    "info: missing": ("info gone.tif", ("gone.tif",)),
    "info: empty": ("info empty.tif", ("empty.tif", "empty")),
    "info: unknown format": ("info notes.txt", ("notes.txt",)),
    "plan: missing": ("plan gone", ("gone", "not a run folder")),
    "plan: no run": ("plan models", ("models", "not a run folder")),
    "plan: unfinished run": ("plan RUNS/unfinished", ("RUNS/unfinished", "not finished")),
    "plan: run without annotation": ("plan RUNS/unlabelled", ("RUNS/unlabelled", "without annotation", "--labels")),
    "plan: image moved": ("plan RUNS/moved", ("moved.tif", "no longer there", "--image")),
    "plan: labels moved": ("plan RUNS/labels_moved", ("moved.tif", "no longer there", "put it back")),
    "plan: no provenance": ("plan RUNS/origin", ("provenance.json", "restore")),
    "plan: labels changed": ("plan RUNS/painted", ("labels.tif", "not what RUNS/painted was trained on")),
    "plan: image missing": ("plan RUN --image gone.tif", ("gone.tif",)),
    "plan: image of other channels": (
        "plan RUN --image two_channels.tif --steps 1",
        ("two_channels.tif", "channel"),
    ),
    "plan: no planes": ("plan RUN --planes 0", ("planes", "0")),
    "plan: steps 0": ("plan RUN --steps 0", ("steps", "0")),
    "plan: minutes NaN": ("plan RUN --minutes nan", ("minutes", "nan")),
    "plan: steps and minutes": ("plan RUN --steps 2 --minutes 1", ("steps", "minutes", "exclude")),
    "plan: device": ("plan RUN --device quantum", ("quantum", "cpu")),
    "report: missing": ("report gone", ("gone",)),
    "report: no run": ("report models", ("models",)),
    "report: prediction missing": ("report RUN --prediction gone.ome.zarr", ("gone.ome.zarr",)),
    "report: prediction is none": ("report RUN --prediction image.ome.zarr", ("image.ome.zarr",)),
    "report: over an image": ("report RUN -o image.tif", ("image.tif", ".html")),
    "report: over a folder": ("report RUN -o models", ("models", "folder")),
    # Simulation
    "simulate: unknown kind": (
        f"{SIMULATE.replace('nuclei', 'nuclear')} -o NEW",
        ("did you mean 'fluorescence_nuclei'",),
    ),
    "simulate: unknown kind, help": ("simulate stained_sections --help", ("did you mean 'stained_section'",)),
    "simulate: unknown key": (f"{SIMULATE} -o NEW --set nuclei.radius=3", ("nuclei.radius", "did you mean radius_um")),
    "simulate: value out of range": (f"{SIMULATE} -o NEW --set nuclei.radius_um=-3", ("nuclei.radius_um", "-3")),
    "simulate: value NaN": (f"{SIMULATE} -o NEW --set nuclei.radius_um=.nan", ("nuclei.radius_um", "nan")),
    "simulate: assignment without value": (f"{SIMULATE} -o NEW --set nuclei", ("'nuclei'", "key.path=value")),
    "simulate: shape of zero": (f"{SIMULATE} -o NEW --shape 0,40", ("0,40", "positive")),
    "simulate: shape of one number": (f"{SIMULATE} -o NEW --shape 40", ("'40'", "z,y,x or y,x")),
    "simulate: shape too large": (f"{SIMULATE} -o NEW --shape 99999,99999", ("99999", "too large", "--count")),
    "simulate: volume of a section": ("simulate stained_section --shape 5,40,40 -o NEW", ("5 planes", "one plane")),
    "simulate: voxel size NaN": (f"{SIMULATE} -o NEW --voxel-size-um 1,nan,1", ("1,nan,1", "positive")),
    "simulate: count 0": (f"{SIMULATE} -o NEW --count 0", ("--count", "greater")),
    "simulate: seed negative": (f"{SIMULATE} -o NEW --seed -1", ("--seed", "greater")),
    "simulate: several into one store": (f"{SIMULATE} -o NEW.ome.zarr --count 2", ("2 images", "folder")),
    "simulate: into a TIFF": (f"{SIMULATE} -o NEW.tif", ("NEW.tif", "OUT.ome.zarr")),
    "simulate: into another's folder": (f"{SIMULATE} -o models --overwrite", ("models", "not a simulation")),
    "simulate: over an image": (f"{SIMULATE} -o image.ome.zarr --overwrite", ("image.ome.zarr", "not a simulation")),
    "simulate: into a file": (f"{SIMULATE} -o notes.txt", ("notes.txt", "file")),
    "simulate: target missing": (f"{SIMULATE} --like gone.tif -o NEW", ("gone.tif", "does not exist")),
    "simulate: no target matches": (f"{SIMULATE} --like gone*.tif -o NEW", ("gone*.tif", "matches no file")),
    "simulate: target constant": (f"{SIMULATE} --like constant.tif -o NEW", ("constant.tif", "constant", "7")),
    "simulate: target not finite": (f"{SIMULATE} --like nan_plane.tif -o NEW", ("nan_plane.tif", "not finite")),
    "simulate: target of other channels": (
        "simulate stained_section --like plane.tif -o NEW",
        ("plane.tif", "1 channel", "red, green, blue", "--set stain=silver"),
    ),
    "simulate: target of several planes": (
        "simulate stained_section --set stain=silver --like image.tif --axes zyx -o NEW",
        ("image.tif", "12 planes", "one plane"),
    ),
    "simulate: target holds the output": (
        f"{SIMULATE} --like image.ome.zarr -o image.ome.zarr",
        ("image.ome.zarr", "itself"),
    ),
    "simulate: settings missing": (f"{SIMULATE} --config gone.yaml -o NEW", ("gone.yaml",)),
    "simulate: settings of something else": (f"{SIMULATE} --config key.yaml -o NEW", ("key.yaml", "kind and config")),
    # Usage
    "unknown option": (f"{TRAIN} --step 3", ("--step",)),
    "unknown command": ("trane image.tif", ("trane",)),
    "no output": ("train image.tif --labels labels.tif", ("--output",)),
    "no truth": ("evaluate OUT.ome.zarr", ("--truth",)),
    "steps no number": (f"{TRAIN} --steps many", ("--steps", "integer")),
    "steps 0": (f"{TRAIN} --steps 0", ("steps", "0")),
    "steps and minutes": (f"{TRAIN} --minutes 3", ("--steps", "--minutes")),
    "minutes infinite": ("train image.tif --labels labels.tif --minutes inf -o NEW", ("minutes", "inf")),
    "seed negative": (f"{TRAIN} --seed -1", ("seed", "-1")),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_one_sentence_and_nothing_changed(
    case: str, workplace: Path, fewslice: Fewslice, folder_hash: Callable[[Path], str]
) -> None:
    line, named = CASES[case]
    before = folder_hash(workplace)
    result = fewslice(workplace, *line.split())
    _check_refusal(result, 2)
    missing = [text for text in named if text not in result.stderr]
    assert not missing, f"the message does not name {missing}: {result.stderr}"
    assert folder_hash(workplace) == before, f"files changed: {sorted(p.name for p in workplace.iterdir())}"


def _check_refusal(result: subprocess.CompletedProcess[str], code: int) -> None:
    said = f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stdout + result.stderr, said
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), said
    assert 20 < len(lines[0]) < 600, said
    assert result.returncode == code, said


def _limited(size: int) -> Callable[[], None]:
    """Return what makes every write beyond `size` bytes of a file fail, as on a disk that fills up."""

    def limit() -> None:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


ON_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")


@ON_POSIX
def test_full_disk_while_training(
    workplace: Path, tmp_path: Path, fewslice: Fewslice, done: Fewslice, tiny: dict[str, list[str]],
    folder_hash: Callable[[Path], str],
) -> None:  # fmt: skip
    train = ["train", "image.tif", "--labels", "labels.tif", "--axes", "zyx", "--background", "0", "--steps", "2"]
    train += [*tiny["slices_2d"], "--voxel-size-um", "2,1,1"]
    before = folder_hash(workplace)
    for size in (100, 8000):  # too little for the first file, then too little for the weights
        result = fewslice(workplace, *train, "-o", tmp_path / "RUN", preexec_fn=_limited(size))
        _check_refusal(result, 1)
        assert str(tmp_path / "RUN") in result.stderr
        assert not list(tmp_path.rglob("*.part")), "half a file was left"
    assert folder_hash(workplace) == before
    done(workplace, *train, "-o", tmp_path / "RUN")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "RUN/model" / name).read_bytes() == (workplace / "RUN/model" / name).read_bytes()


@ON_POSIX
def test_full_disk_while_predicting(
    workplace: Path, tmp_path: Path, fewslice: Fewslice, done: Fewslice, folder_hash: Callable[[Path], str]
) -> None:
    predict = ["predict", workplace / "models" / "same", workplace / "image.tif"]
    shutil.copytree(workplace / "RUN" / "model", workplace / "models" / "same")
    before = folder_hash(workplace)
    result = fewslice(tmp_path, *predict, "-o", "broken/OUT.ome.zarr", preexec_fn=_limited(100))  # not even metadata
    _check_refusal(result, 1)
    assert "OUT.ome.zarr" in result.stderr
    assert not list(tmp_path.glob("*/*")), "half an output was left"
    result = fewslice(tmp_path, *predict, "-o", "broken/OUT.ome.zarr", preexec_fn=_limited(2500))  # no whole chunk
    _check_refusal(result, 1)
    assert "OUT.ome.zarr" in result.stderr
    done(tmp_path, *predict, "-o", "broken/OUT.ome.zarr")
    done(tmp_path, *predict, "-o", "whole/OUT.ome.zarr")
    assert folder_hash(tmp_path / "broken") == folder_hash(tmp_path / "whole")
    assert folder_hash(workplace) == before
    result = fewslice(tmp_path, "convert", workplace / "image.ome.zarr", "copy.ome.zarr", preexec_fn=_limited(2500))
    _check_refusal(result, 1)
    assert not list(tmp_path.glob("*copy*")), "half a copy was left"


def test_damaged_values_cost_their_blocks_only(workplace: Path, tmp_path: Path, fewslice: Fewslice) -> None:
    predict = ["predict", workplace / "RUN" / "model", workplace / "nan.tif", "--axes", "zyx", "--block", "4,16,16"]
    result = fewslice(tmp_path, *predict, "-o", "OUT.ome.zarr")
    _check_refusal(result, 3)
    failed = [json.loads(line) for line in result.stdout.splitlines() if '"block_failed"' in line]
    assert failed and all("NaN" in event["reason"] for event in failed)
    assert len(list((tmp_path / "OUT.ome.zarr/.fewslice").glob("*.done"))) == 12 - len(failed)
    assert fewslice(tmp_path, *predict, "-o", "OUT.ome.zarr").returncode == 3


def test_help_loads_no_torch(command: str, environment: dict[str, str]) -> None:
    heavy = ("torch", "dask", "zarr", "numpy", "PyQt5", "qtpy")
    code = (
        "import sys\nfrom fewslice.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        f"finally:\n    print('LOADED', [name for name in {heavy} if name in sys.modules])\n"
    )
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["predict", "--help"],
        ["segment", "--help"],
        ["mesh", "--help"],
    ):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert "LOADED []" in result.stdout
    helped = subprocess.run([command, "--help"], env=environment, capture_output=True, text=True, check=False)
    verbs = [
        "demo",
        "doctor",
        "convert",
        "evaluate",
        "export",
        "info",
        "measure",
        "mesh",
        "plan",
        "predict",
        "report",
        "run",
        "segment",
        "simulate",
        "train",
        "verify",
    ]
    assert helped.returncode == 0 and all(verb in helped.stdout for verb in verbs)
