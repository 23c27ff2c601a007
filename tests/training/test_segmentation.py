"""The stage of every strategy: what prediction needs of a trained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from fewslice import io, workflow
from fewslice.annotation import Annotation, from_labels
from fewslice.data.samples import Sample
from fewslice.experiment import Experiment
from fewslice.prediction import predict_volume
from fewslice.strategies import continuity_2022
from fewslice.training.fit import Hardware
from fewslice.training.run_folder import RunFolder
from fewslice.training.segmentation import SegmentationConfig, measured_halo, resolved, segmentation_stage
from fewslice.training.task import Task
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


def _task(image: Any, labels: Any, folder: Path) -> Task:
    annotation = from_labels(labels)
    nothing = np.zeros(labels.shape, bool)
    sample = Sample("s", Volume.from_array(image), annotation)
    return Task([sample], [annotation.annotated], [nothing], (1,), RunFolder(folder), hardware=Hardware(device="cpu"))


def test_the_halo_is_measured_where_something_is_annotated(tmp_path: Path) -> None:
    """A network of long range, on an image whose middle is empty: the halo is that of its full corner, not of nothing.

    The network is the mean of 33 × 33 pixels through a sigmoid, so that less than its reach changes p in texture, and
    nothing in the dark.
    """
    draw = np.random.default_rng(0)
    labels = np.zeros((1, 192, 192), np.uint8)
    labels[0, 150:190, 2:42] = 1
    image = np.where(labels > 0, draw.normal(0, 40, labels.shape), 0).astype(np.float32)
    model = _LongRange(patch=(1, 64, 64))
    task = _task(image, labels, tmp_path)
    unlabelled = replace(task, samples=[replace(task.samples[0], annotation=None)])
    assert measured_halo(model, unlabelled)[1] < 8  # type: ignore[arg-type]
    found = measured_halo(model, task)  # type: ignore[arg-type]
    assert found[1] >= 8


class _LongRange:
    """What is asked of a model: its halo is 16, and what it says of a pixel depends on all of it."""

    receptive_halo, divisor = (0, 16, 16), (1, 1, 1)

    def __init__(self, patch: tuple[int, int, int]) -> None:
        self.patch = patch

    def to(self, device: Any) -> None:
        """Stay where it is."""

    def probabilities(self, image: Any) -> Any:
        mean = ndimage.uniform_filter(image[0], (0, 33, 33), mode="constant")
        return 1 / (1 + np.exp(-mean))[None]


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped_where_that_is_asked_for(clip: float | None, tmp_path: Path) -> None:
    """One step of plain gradient descent moves the weights by the learning rate times the gradient, or times `clip`."""
    image, labels = _waves((1, 64, 64), 0)
    task = _task(image, labels, tmp_path)
    config = SegmentationConfig(
        network={"kind": "unet", "dims": 2, "features": 4, "depth": 2},
        patch=(1, 32, 32),
        batch_size=2,
        optimiser="sgd",
        learning_rate=1.0,
        weight_decay=0.0,
        clip=clip,
    )
    stage = segmentation_stage(task, "only", resolved(config, task), task.annotated_volumes())
    network = stage.modules["network"]
    stage.step(stage, stage.batches(0), torch.Generator(), lambda loss: loss.backward())
    norm = float(torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm())
    assert norm == pytest.approx(clip, rel=1e-3) if clip else norm > 1e-2


def test_the_published_recipe_clips_nothing() -> None:
    config = continuity_2022.Config()
    assert config.segment.clip is None and config.continuity.clip is None
    assert SegmentationConfig(network={"kind": "cnn_2d"}).clip == 12


@pytest.mark.parametrize(
    ("shape", "voxel", "planes", "dims", "patch"),
    [
        ((160, 400, 400), (1.0, 1.0, 1.0), (("z", 5),), 3, (32, 88, 88)),
        ((400, 160, 400), (1.0, 1.0, 1.0), (("y", 5),), 3, (88, 32, 88)),
        ((40, 400, 400), (2.0, 0.9, 0.9), (("z", 5),), 3, (16, 112, 112)),
        ((160, 200, 200), (1.0, 1.0, 1.0), (("z", 5), ("x", 5)), 3, (64, 64, 64)),
        ((12, 50, 60), (1.0, 1.0, 1.0), (("z", 5),), 3, (8, 48, 56)),
        ((160, 400, 400), (1.0, 1.0, 1.0), (("z", 5),), 2, (1, 256, 256)),
    ],
    ids=["isotropic", "along y", "anisotropic", "along z and x", "small", "2d"],
)
def test_patches_are_flat_along_annotated_planes(
    shape: tuple[int, int, int],
    voxel: tuple[float, float, float],
    planes: tuple[tuple[str, int], ...],
    dims: int,
    patch: tuple[int, int, int],
    tmp_path: Path,
) -> None:
    """Three times as wide as across the planes, up to 2¹⁸ voxels (2D: 2¹⁶), whichever axis the planes lie on."""
    image = Volume.from_array(np.zeros(shape, np.uint8), voxel)
    samples, annotated = [], []
    for axis, every in planes:
        where = np.zeros(shape, bool)
        where[tuple(slice(None, None, every) if a == axis else slice(None) for a in "zyx")] = True
        annotated.append(where)
        samples.append(Sample(axis, image, Annotation(np.zeros(shape, np.uint8), where)))
    nothing = [np.zeros(shape, bool)] * len(samples)
    task = Task(samples, annotated, nothing, (1,), RunFolder(tmp_path), hardware=Hardware(device="cpu"))
    config = resolved(SegmentationConfig(network={"kind": "unet", "dims": dims, "features": 4}), task)
    assert config.patch == patch
