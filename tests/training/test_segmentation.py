"""The stage of every strategy: what prediction needs of a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io, workflow
from fewslice.annotation import from_labels
from fewslice.data.samples import Sample
from fewslice.experiment import Experiment
from fewslice.geometry import Box
from fewslice.prediction import predict_volume
from fewslice.training.fit import Hardware
from fewslice.training.segmentation import _read_mirrored
from fewslice.volume import Volume


def _waves(shape: tuple[int, int, int], seed: int) -> tuple[Any, Any]:
    z, y, x = np.indices(shape)
    labels = (np.sin(x / 9) * np.sin(y / 11) * np.cos(z / 7) > 0.3).astype(np.uint8)
    return (np.random.default_rng(seed).normal(100, 30, shape) + 60 * labels).astype(np.float32), labels


def test_beyond_its_ends_an_image_is_mirrored() -> None:
    """As NumPy does it, several times over where the box is much larger than the image; inside nothing changes."""
    values = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4).astype(np.int32)
    image = Volume.from_array(values)
    padded = np.pad(values, ((0, 0), (7, 6), (2, 3), (1, 0)), mode="reflect")
    np.testing.assert_array_equal(_read_mirrored(image, Box((-7, -2, -1), (9, 8, 4))), padded)
    np.testing.assert_array_equal(_read_mirrored(image, Box((1, 2, 0), (3, 4, 4))), values[:, 1:3, 2:4])
    flat = Volume.from_array(values[:, :1])
    assert (_read_mirrored(flat, Box((-2, 0, 0), (2, 5, 4))) == values[:, :1]).all()


@pytest.mark.parametrize("strategy", ["slices_2d", "sparse_3d"])
def test_the_halo_holds_on_volumes_larger_than_the_training_image(strategy: str, tmp_path: Path) -> None:
    """Trained on an image no larger than a patch, blocks of a large one agree: |Δp| ≤ 0.01 nearly everywhere."""
    image, labels = _waves((12, 64, 64), 0)
    settings = {
        "network": {"features": 8},
        "patch": [1, 64, 64] if strategy == "slices_2d" else [8, 64, 64],
        "batch_size": 2,
        "views": 1,
    }
    experiment = Experiment(strategy=strategy, settings=settings, steps=25, validation="none")
    sample = Sample("waves", Volume.from_array(image, (2.0, 1.0, 1.0)), from_labels(labels))
    model = workflow.train_samples(experiment, [sample], tmp_path / "run", hardware=Hardware(device="cpu"))
    large = Volume.from_array(_waves((12, 192, 192), 1)[0], (2.0, 1.0, 1.0))
    out = tmp_path / "OUT.ome.zarr"
    predict_volume(model, large, out, model_id="m", block=(12, 64, 64), pyramids=False)
    stored = io.open_volume(out).read() / 255.0
    difference = np.abs(stored - model.probabilities(large.read()))
    assert (difference <= 0.01 + 0.5 / 255 + 1e-6).mean() >= 0.99
    assert all(h <= r for h, r in zip(model.halo, model.receptive_halo, strict=True))
