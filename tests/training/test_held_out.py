"""Held-out annotation: tiles, and the choice of threshold and median on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fewslice.annotation import from_labels
from fewslice.data.normalisation import Normalisation
from fewslice.data.samples import Sample
from fewslice.model import Model, NetworkStep
from fewslice.training.fit import Hardware
from fewslice.training.held_out import calibrate, tiles
from fewslice.training.run_folder import RunFolder, read_lines
from fewslice.training.task import Task
from fewslice.volume import Volume

SHAPE = (12, 40, 40)


class _Brightness(nn.Module):
    """A 2D network that says what the pixel holds: probability = value / 100."""

    dims, divisor, halo = 2, (1, 1, 1), (0, 0, 0)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = (x / 100.0).clamp(1e-4, 1 - 1e-4)
        return torch.cat((torch.log(1 - p), torch.log(p)), 1)


def _model() -> Model:
    step = NetworkStep(network={"kind": "unet", "dims": 2}, in_channels=1, out_channels=2, views=4)
    same = Normalisation("none", (0.0,), (1.0,))
    return Model([step], [_Brightness()], normalisation=same, class_values=(1,), patch=(1, 16, 16))


def _task(image: Any, labels: Any, folder: Path, held: tuple[int, ...]) -> Task:
    folder.mkdir(exist_ok=True)
    away = np.zeros(SHAPE, bool)
    away[list(held)] = True
    return Task(
        [Sample("s", Volume.from_array(image.astype(np.float32)), from_labels(labels.astype(np.uint8)))],
        [~away],
        [away],
        (1,),
        RunFolder(folder),
        hardware=Hardware(device="cpu", bfloat16=False),
    )


def _square() -> Any:
    labels = np.zeros(SHAPE, bool)
    labels[:, 10:30, 12:28] = True
    return labels


def test_the_threshold_is_where_held_out_planes_are_separated(tmp_path: Path) -> None:
    """Foreground is 0.3 on every plane, background 0.1: half finds nothing, the chosen threshold everything."""
    labels = _square()
    model = _model()
    chosen = calibrate(model, _task(np.where(labels, 30, 10), labels, tmp_path, (3, 8)))
    assert 0.1 < model.threshold <= 0.3 and model.threshold == chosen["threshold"]
    assert chosen["dice"] == 1.0 and chosen["dice_at_half"] == 0.0 and model.median == 1
    (event,) = (e for e in read_lines(tmp_path / "log.jsonl") if e["event"] == "calibration")
    assert event["threshold"] == model.threshold


def test_a_median_is_chosen_where_planes_flicker_and_not_where_they_do_not(tmp_path: Path) -> None:
    """Single planes that lose the object are mended by their neighbours; a thin object would be lost to the median."""
    labels = _square()
    image = np.where(labels, 90, 10)
    image[8] = 10
    model = _model()
    chosen = calibrate(model, _task(image, labels, tmp_path / "a", (3, 8)), medians=(1, 3))
    assert model.median == 3 and chosen["dice"] == 1.0 and chosen["tried"]["1"] < 0.7
    assert model.receptive_halo == model.halo == (1, 0, 0)
    thin = np.zeros(SHAPE, bool)
    thin[8, 5:20, 5:20] = True
    calibrate(model, _task(np.where(thin, 90, 10), thin, tmp_path / "b", (7, 8)), medians=(1, 3))
    assert model.median == 1


def test_a_threshold_that_is_given_is_kept(tmp_path: Path) -> None:
    """Then only the median is chosen, at that threshold; with one median nothing is predicted at all."""
    labels = _square()
    image = np.where(labels, 30, 10)
    image[8] = 10
    model = _model()
    chosen = calibrate(model, _task(image, labels, tmp_path / "a", (3, 8)), medians=(1, 3), threshold=0.2)
    assert (model.threshold, model.median, chosen["dice"]) == (0.2, 3, 1.0)
    assert model.provenance["threshold_from"] == "settings"
    model = _model()
    assert calibrate(model, _task(image, labels, tmp_path / "b", (3, 8)), medians=(3,), threshold=0.7) == {}
    assert (model.threshold, model.median, model.halo) == (0.7, 3, (1, 0, 0))
    assert not (tmp_path / "b/log.jsonl").exists()


def test_truth_that_training_may_use_chooses_nothing(tmp_path: Path) -> None:
    """Only held-out planes count: elsewhere the image may be as wrong as it likes."""
    labels = _square()
    image = np.where(labels, 30, 10)
    found = []
    for name in "ab":
        if name == "b":
            image = image.copy()
            image[[0, 1, 5, 10]] = 60
        model = _model()
        found.append(calibrate(model, _task(image, labels, tmp_path / name, (3, 8))))
    assert found[0] == found[1]


def test_without_held_out_annotation_nothing_changes(tmp_path: Path) -> None:
    """Threshold and median stay what they were."""
    labels = _square()
    model = _model()
    model.threshold = 0.2
    assert calibrate(model, _task(labels * 50, labels, tmp_path, ()), medians=(1, 3)) == {}
    assert (model.threshold, model.median) == (0.2, 1) and not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("flat", [0, None])
def test_tiles_hold_all_held_out_voxels_once(flat: int | None, tmp_path: Path) -> None:
    """Their inner parts are disjoint; what is read includes the context, within the volume."""
    task = _task(_square(), _square(), tmp_path, (2, 3, 9))
    extent = (1 if flat == 0 else 6, 16, 16)
    found = tiles(task, extent, (2, 4, 4), (1, 2, 2), voxels=10**9, flat_axis=flat)
    seen = np.zeros(SHAPE, int)
    for tile in found:
        seen[tile.inner.slices] += 1
        wanted = tile.inner.grow((2, 4, 4)).clip(SHAPE)
        assert tile.read.intersect(wanted) == wanted and all(v % 2 == 0 for v in tile.read.start[1:])
        part = np.arange(np.prod(SHAPE)).reshape(SHAPE)
        np.testing.assert_array_equal(part[tile.read.slices][tile.crop.slices], part[tile.inner.slices])
    assert seen.max() == 1 and (seen[[2, 3, 9]] == 1).all()
    assert flat is None or seen[[0, 5]].sum() == 0
    few = tiles(task, extent, (2, 4, 4), (1, 2, 2), voxels=1, flat_axis=flat)
    assert len(few) == 1
