"""Networks that learn where objects end part what touches; those that learn the foreground alone cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewslice import io, workflow
from fewslice.annotation import from_labels
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.experiment import Experiment
from fewslice.metrics import instance
from fewslice.model import Model
from fewslice.prediction import predict_volume
from fewslice.training.fit import Hardware
from fewslice.volume import Volume

SHAPE = (12, 64, 64)
NETWORK = {"kind": "unet", "features": 6, "depth": 2}


def touching_balls(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Columns of balls that touch their neighbours along x, in noise: image and ids, (z, y, x)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    labels = np.zeros(SHAPE, np.uint32)
    for number, (cy, cx) in enumerate(((12, 12), (12, 25), (12, 38), (34, 20), (34, 33), (52, 38), (52, 51)), start=1):
        inside = (z - 6) ** 2 + (y - cy - rng.integers(-1, 2)) ** 2 + (x - cx) ** 2 < 49
        labels[inside & (labels == 0)] = number
    image = np.where(labels > 0, 1.0, 0.0) + rng.normal(0, 0.15, SHAPE)
    return image.astype(np.float32), labels


def trained(folder: Path, strategy: str, settings: dict[str, Any], steps: dict[str, int]) -> Model:
    image, labels = touching_balls(0)
    annotation = from_labels(labels, kind="instances", planes=["0:12:2"], background=0)
    sample = Sample("balls", Volume.from_array(image), annotation)
    experiment = Experiment(strategy=strategy, settings=settings, steps=steps, seed=0)
    return workflow.train_samples(experiment, [sample], folder / "run", hardware=Hardware(device="cpu"))


def f1(model: Model, folder: Path) -> float:
    """Predict other balls, let ``segment`` choose its segmenter, and compare."""
    image, labels = touching_balls(1)
    output = folder / "OUT.ome.zarr"
    predict_volume(model, Volume.from_array(image), output, model_id="m", pyramids=False)
    workflow.segment(output)
    found = io.open_labels(output / "labels" / "instances").read()[0]
    result = instance.match(instance.count_overlaps(labels, found), 0.5).f1
    assert result is not None
    return result


def settings_of(dims: int, outputs: str | None) -> dict[str, Any]:
    patch = (1, 32, 32) if dims == 2 else (8, 32, 32)
    chosen = {} if outputs is None else {"outputs": outputs}
    schedule = {"validations": 2}
    how = {"patch": patch, "batch_size": 4, "views": 1, "learning_rate": 1e-2, "schedule": schedule}
    return {"network": NETWORK | {"dims": dims}, **how, **chosen}


@pytest.mark.parametrize(("strategy", "dims"), [("slices_2d", 2), ("sparse_3d", 3)])
def test_outlines_part_what_touches(tmp_path: Path, strategy: str, dims: int) -> None:
    """Chosen by themselves for labels that tell objects apart; plain foreground leaves one object per row."""
    steps = {"segment": 80}
    outlined = trained(tmp_path / "a", strategy, settings_of(dims, None), steps)
    assert [(o.name, o.kind) for o in outlined.outputs] == [("foreground", "probability"), ("boundary", "boundary")]
    plain = trained(tmp_path / "b", strategy, settings_of(dims, "foreground"), steps)
    assert [o.name for o in plain.outputs] == ["foreground"]
    parted, fused = f1(outlined, tmp_path / "a"), f1(plain, tmp_path / "b")
    assert parted >= 0.8, parted
    assert fused < 0.5, fused
    saved = Model.load(tmp_path / "a" / "run" / "model")
    assert saved.outputs == outlined.outputs


def test_distances_part_what_touches(tmp_path: Path) -> None:
    """Less well than outlines here: in every plane the middle of a ball is as deep as it gets."""
    model = trained(tmp_path, "slices_2d", settings_of(2, "distance"), {"segment": 80})
    assert [o.kind for o in model.outputs] == ["probability", "distance"]
    assert f1(model, tmp_path) >= 0.6


def test_the_student_learns_outlines_where_objects_are_annotated(tmp_path: Path) -> None:
    settings = {"teacher": settings_of(2, None), "student": settings_of(3, None), "alpha": 0.1}
    model = trained(tmp_path, "pseudo_labels", settings, {"teacher": 40, "student": 80})
    teacher = Model.load(tmp_path / "run" / "stages" / "teacher" / "model")
    assert [o.name for o in teacher.outputs] == ["foreground"]
    assert [o.name for o in model.outputs] == ["foreground", "boundary"]
    assert f1(model, tmp_path) >= 0.8


def test_classes_have_no_outlines(tmp_path: Path) -> None:
    image, labels = touching_balls(0)
    sample = Sample("balls", Volume.from_array(image), from_labels((labels > 0).astype(np.uint8), background=0))
    experiment = Experiment(strategy="slices_2d", settings=settings_of(2, "boundary"), steps={"segment": 1}, seed=0)
    with pytest.raises(InputError, match="pass --label-kind instances if every object has an id"):
        workflow.train_samples(experiment, [sample], tmp_path / "run", hardware=Hardware(device="cpu"))


def test_a_network_that_hands_on_probabilities_learns_no_outlines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the teacher gives probabilities alone; leave outputs out there"):
        settings = {"teacher": settings_of(2, "boundary"), "student": settings_of(3, None)}
        trained(tmp_path, "pseudo_labels", settings, {"teacher": 1, "student": 1})
