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
from fewslice.prediction import predict_volume
from fewslice.training.fit import Hardware
from fewslice.training.segmentation import SegmentationConfig
from fewslice.volume import Volume


def _waves(shape: tuple[int, int, int], seed: int) -> tuple[Any, Any]:
    z, y, x = np.indices(shape)
    labels = (np.sin(x / 9) * np.sin(y / 11) * np.cos(z / 7) > 0.3).astype(np.uint8)
    return (np.random.default_rng(seed).normal(100, 30, shape) + 60 * labels).astype(np.float32), labels


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


def test_networks_for_other_purposes_are_refused() -> None:
    """A generator or a discriminator is no segmentation network; those that are get listed."""
    for kind in ("spade_generator", "patch_discriminator"):
        with pytest.raises(ValueError, match=f"{kind} is not for segmentation; choose one of cnn_2d, .*unet"):
            SegmentationConfig(network={"kind": kind})
