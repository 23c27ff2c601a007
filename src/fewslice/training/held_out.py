"""Held-out annotation: how good a network is there, and which threshold and median serve best.

1. `tiles` cuts the held-out voxels into regions to be read with context.
2. `HeldOut.validate` measures a network while it is trained.
3. `calibrate` chooses the finished model's threshold, and the median over planes, with all its views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewslice.geometry import Box, cover
from fewslice.metrics import semantic
from fewslice.model import Model, NetworkStep, build_network, median_of_planes
from fewslice.training.stage import Stage, Validation
from fewslice.training.task import Task

__all__ = ["HeldOut", "calibrate", "tiles"]

Triple = tuple[int, int, int]

_VALIDATION_VOXELS = 2**22
CALIBRATION_VOXELS = 2**24
"""At most so many voxels are predicted to calibrate a model."""
_THRESHOLDS = 100


@dataclass(frozen=True)
class Tile:
    """A region with held-out voxels: where to read and which part of it counts."""

    sample: int
    read: Box
    inner: Box

    @property
    def crop(self) -> Box:
        """The inner part in the coordinates of what is read."""
        return self.inner.shift(tuple(-v for v in self.read.start))


def tiles(
    task: Task, extent: Sequence[int], context: Sequence[int], divisor: Triple, *, voxels: int, flat_axis: int | None
) -> list[Tile]:
    """Cut held-out voxels into tiles, in an order drawn by the task's seed, until `voxels` are to be read.

    Parameters
    ----------
    task
        The data and what is held out.
    extent
        (z, y, x) of a tile's inner part, in voxels.
    context
        (z, y, x) read around it.
    divisor
        Where reading starts, in multiples.
    voxels
        At most so many are read, one tile excepted.
    flat_axis
        Axis along which tiles are one plane thick; None: as deep as the held-out planes within `extent`.
    """
    found = []
    for index, mask in enumerate(task.validation_masks):
        if mask is None or not mask.any():
            continue
        for block in cover(mask.shape, extent, context, divisor):
            known = mask[block.write.slices]
            if not known.any():
                continue
            write = block.write
            if flat_axis is None:  # only as deep as the held-out planes
                planes = np.flatnonzero(known.any(axis=(1, 2))) + write.start[0]
                write = Box((int(planes.min()), *write.start[1:]), (int(planes.max()) + 1, *write.stop[1:]))
            grown = write.grow(context).clip(mask.shape)
            start = tuple(low // d * d for low, d in zip(grown.start, divisor, strict=True))
            found.append(Tile(index, Box(start, grown.stop), write))
    order = np.random.default_rng([task.seed, 3]).permutation(len(found))
    chosen: list[Tile] = []
    total = 0
    for i in order:
        if chosen and total + found[i].read.size > voxels:
            break
        chosen.append(found[i])
        total += found[i].read.size
    return chosen


class HeldOut:
    """Dice on held-out annotated voxels, over tiles with context, and the threshold that is best there.

    Parameters
    ----------
    task
        The data and what is held out.
    step
        The network that is trained, with its views.
    patch
        (z, y, x) of training, in voxels.
    model
        Settings of the model around it: see :class:`fewslice.model.Model`.
    """

    def __init__(self, task: Task, step: NetworkStep, patch: Triple, **model: Any) -> None:
        self.task, self.step, self._settings = task, step, model
        self.tiles: list[Tile] = []
        if task.has_validation:
            network = build_network(step.network, step.in_channels, step.out_channels)
            blank = self._model(network)
            flat = blank.dims == 2
            extent = tuple(1 if flat and a == step.plane_axis else 2 * p for a, p in enumerate(patch))
            context = tuple(min(h, p) for h, p in zip(blank.receptive_halo, patch, strict=True))
            self.tiles = tiles(
                task,
                extent,
                context,
                blank.divisor,
                voxels=_VALIDATION_VOXELS,
                flat_axis=step.plane_axis if flat else None,
            )
        self._classes = _classes(task, self.tiles)

    def _model(self, network: torch.nn.Module) -> Model:
        return Model([self.step], [network], class_values=self.task.class_values, **self._settings)

    def validate(self, stage: Stage) -> Validation | None:
        """Measure the current weights; None where nothing is held out."""
        if not self.tiles:
            return None
        network = stage.modules["network"]
        model = self._model(getattr(network, "module", network))
        classes = self.task.classes
        matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
        histogram = np.zeros((2, _THRESHOLDS + 1), dtype=np.int64)
        for tile in self.tiles:
            image = self.task.samples[tile.sample].image
            p = model.probabilities(image.read(tile.read))[(slice(classes), *tile.crop.slices)]
            known, truth = _truth(self.task, tile, self._classes)
            foreground = p.sum(0)[known]
            found = np.where(foreground >= 0.5, p.argmax(0)[known] + 1, 0)
            matrix += semantic.confusion(found, truth, classes=classes)
            histogram += _histogram(foreground, truth)
        dice = _class_dice(matrix)
        at, best = _best_threshold(histogram)
        figures = {
            "dice": round(float(np.mean(dice)), 5),
            "dice_per_class": [round(d, 5) for d in dice],
            "threshold": at,
            "dice_at_threshold": round(best, 5),
        }
        return Validation(float(np.mean(dice)), figures)


def calibrate(
    model: Model, task: Task, medians: Sequence[int] = (1,), threshold: float | None = None
) -> dict[str, Any]:
    """Choose threshold and median on held-out annotation and set them in the model.

    Without held-out annotation the threshold stays, and the first of the medians is taken. Nothing is predicted where
    there is nothing to choose.

    Parameters
    ----------
    model
        The finished model, with the views that prediction will use. It is moved to the task's device.
    task
        The data and what is held out. Never test data.
    medians
        Numbers of planes to choose from, odd; 1 is no median.
    threshold
        If given, it is taken and only the median is chosen.

    Returns
    -------
    dict
        ``threshold, median, dice`` (of foreground, on held-out voxels), ``dice_at_half`` (threshold 0.5, no median) and
        ``tried`` ({median: best Dice}); empty where there was nothing to choose.
    """
    if threshold is not None:
        model.threshold = threshold
        model.provenance["threshold_from"] = "settings"
    if not task.has_validation or (threshold is not None and len(medians) == 1):
        _set_median(model, medians[0])
        return {}
    model.to(task.hardware.torch_device())
    model.median = 1
    axis, reach = model.plane_axis, max(medians) // 2
    extent = tuple(1 if a == axis else 2 * p for a, p in enumerate(model.patch))
    deeper = [min(h, max(2 * p, 32)) for h, p in zip(model.receptive_halo, model.patch, strict=True)]
    deeper[axis] += reach
    histograms = {m: np.zeros((2, _THRESHOLDS + 1), dtype=np.int64) for m in (1, *medians)}
    found = tiles(task, extent, deeper, model.divisor, voxels=CALIBRATION_VOXELS, flat_axis=axis)
    classes = _classes(task, found)
    for tile in found:
        p = model.probabilities(task.samples[tile.sample].image.read(tile.read))[: task.classes]
        known, truth = _truth(task, tile, classes)
        for median, histogram in histograms.items():
            filtered = median_of_planes(torch.from_numpy(p)[None], median, axis)[0].numpy()
            foreground = filtered.sum(0)[tile.crop.slices][known]
            histogram += _histogram(foreground, truth)
    best: dict[int, tuple[float, float]] = {}
    for m in medians:
        fixed = None if threshold is None else (threshold, _dice_at(histograms[m], round(threshold * _THRESHOLDS)))
        best[m] = fixed or _best_threshold(histograms[m])
    chosen = max(best, key=lambda m: (best[m][1], -m))
    model.threshold = best[chosen][0]
    _set_median(model, chosen)
    figures = {
        "threshold": best[chosen][0],
        "median": chosen,
        "dice": round(best[chosen][1], 5),
        "dice_at_half": round(_dice_at(histograms[1], _THRESHOLDS // 2), 5),
        "tried": {str(m): round(dice, 5) for m, (_, dice) in best.items()},
    }
    task.run.record({"event": "calibration", **figures})
    return figures


def _set_median(model: Model, planes: int) -> None:
    """Set the median, and widen the halo, which was measured without one."""
    model.median = planes
    z, y, x = (h + (planes // 2 if a == model.plane_axis else 0) for a, h in enumerate(model.halo))
    model.halo = (z, y, x)


def _classes(task: Task, chosen: Sequence[Tile]) -> dict[int, NDArray[np.uint8]]:
    """Return the classes of the samples that have tiles; made once, since instances must be turned into classes."""
    used = {tile.sample for tile in chosen}
    annotations = {index: sample.annotation for index, sample in enumerate(task.samples) if index in used}
    return {index: annotation.classes for index, annotation in annotations.items() if annotation is not None}


def _truth(
    task: Task, tile: Tile, classes: dict[int, NDArray[np.uint8]]
) -> tuple[NDArray[np.bool_], NDArray[np.integer]]:
    """Return which voxels of a tile are held out, and the classes there."""
    mask = task.validation_masks[tile.sample]
    assert mask is not None
    known = mask[tile.inner.slices]
    return known, classes[tile.sample][tile.inner.slices][known]


def _histogram(foreground: NDArray[np.floating], truth: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count voxels by truth (background, foreground) and hundredths of probability."""
    bins = np.clip((foreground * _THRESHOLDS).astype(int), 0, _THRESHOLDS)
    return np.stack([np.bincount(bins[(truth > 0) == value], minlength=_THRESHOLDS + 1) for value in (False, True)])


def _class_dice(matrix: NDArray[np.int64]) -> list[float]:
    """Return Dice per foreground class of a (truth, prediction) confusion matrix; a class without truth is left out."""
    out = []
    for k in range(1, len(matrix)):
        total = matrix[k].sum() + matrix[:, k].sum()
        if matrix[k].sum():
            out.append(2.0 * float(matrix[k, k]) / float(total))
    return out or [0.0]


def _dice_by_threshold(histogram: NDArray[np.int64]) -> NDArray[np.float64]:
    positive = histogram[1][::-1].cumsum()[::-1]
    negative = histogram[0][::-1].cumsum()[::-1]
    dice: NDArray[np.float64] = 2.0 * positive / np.maximum(positive + negative + histogram[1].sum(), 1)
    return dice


def _dice_at(histogram: NDArray[np.int64], index: int) -> float:
    return float(_dice_by_threshold(histogram)[index])


def _best_threshold(histogram: NDArray[np.int64]) -> tuple[float, float]:
    """Return the threshold in 0.05–0.95 with the best foreground Dice, and that Dice; the middle of equals."""
    window = _dice_by_threshold(histogram)[5:96]
    equals = np.flatnonzero(window >= window.max() - 1e-12)
    index = int(equals[len(equals) // 2])
    return (index + 5) / _THRESHOLDS, float(window[index])
