"""Whether annotation has survived refinement: what a detector finds of it before and after.

1. :func:`annotation_survival` counts, with any detector, what :func:`fewslice.metrics.instance.match` pairs.
2. :func:`fit_pixel_detector` is a detector that needs no training run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fewslice.errors import InputError
from fewslice.metrics.instance import Overlaps, count_overlaps, match
from fewslice.synthesis.simulation import Simulation

__all__ = ["Detect", "Survival", "annotation_survival", "fit_pixel_detector"]

Floats = npt.NDArray[np.float64]
Detect = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]

_PIXELS_PER_IMAGE = 20_000


@dataclass(frozen=True)
class Survival:
    """What a detector finds of the annotation before and after refinement, over all images together.

    Attributes
    ----------
    recall_before, recall_after
        Share of annotated objects that are found.
    precision_before, precision_after
        Share of detections that are annotated objects; 0 without detections.
    objects
        Annotated objects.
    """

    recall_before: float
    recall_after: float
    precision_before: float
    precision_after: float
    objects: int

    @property
    def kept(self) -> float:
        """F1 after refinement relative to before; 1 where nothing was found before either."""
        before, after = (
            2 * p * r / (p + r) if p + r else 0.0
            for p, r in (
                (self.precision_before, self.recall_before),
                (self.precision_after, self.recall_after),
            )
        )
        return after / before if before else 1.0


def annotation_survival(
    detect: Detect,
    before: Sequence[Simulation],
    after: Sequence[Simulation],
    *,
    threshold: float = 0.5,
) -> Survival:
    """Count what a detector finds of the annotation before and after refinement.

    Parameters
    ----------
    detect
        Image (c, z, y, x) uint8 → what it finds: labels (z, y, x), 0 being background, or masks (n, z, y, x) bool,
        which may overlap. One that was trained on simulated images is to be asked whether annotation still holds.
    before, after
        The same simulations before and after refinement.
    threshold
        Intersection over union from which a detection is the object.

    Raises
    ------
    InputError
        If the two lists do not hold the same annotation.
    """
    if len(before) != len(after) or any(
        not np.array_equal(a.instances, b.instances) for a, b in zip(before, after, strict=True)
    ):
        raise InputError("before and after hold different annotation; give the same simulations, refined, in one order")
    objects = sum(len(np.unique(s.instances[s.instances > 0])) for s in before)
    rates = []
    for simulations in (before, after):
        found = right = 0
        for simulation in simulations:
            overlaps = _overlaps(detect(simulation.image), simulation.instances)
            found += overlaps.predicted_ids.size
            right += match(overlaps, threshold).tp
        rates.append((right / max(objects, 1), right / max(found, 1)))
    (recall_before, precision_before), (recall_after, precision_after) = rates
    return Survival(recall_before, recall_after, precision_before, precision_after, objects)


def fit_pixel_detector(simulations: Sequence[Simulation], diameter: float, smallest: int = 8) -> Detect:
    """Fit the simplest detector that is trained on simulated images: a linear filter, a threshold, components.

    Each channel, blurred by 0, 1/16, 1/8 and 1/4 of the cell diameter and once by the whole of it, is weighed by ridge
    regression towards +1 in objects and −1 outside, both counting the same. Touching cells fuse, so read its figures
    before and after, not by themselves.

    Parameters
    ----------
    simulations
        At least one with objects; up to 20,000 voxels of each are used.
    diameter
        Of cells in the plane, in voxels.
    smallest
        Components of fewer voxels are dropped.

    Returns
    -------
    callable
        Image (c, z, y, x) uint8 → labels (z, y, x) int32.

    Raises
    ------
    InputError
        If the simulations hold no object or nothing else.
    """
    sigmas = [0.0, diameter / 16, diameter / 8, diameter / 4, diameter]

    def describe(image: npt.NDArray[np.uint8]) -> Floats:
        own = image.astype(np.float32) / 255
        blurred = [ndimage.gaussian_filter(own, (0, 0, s, s)) if s else own for s in sigmas]
        return np.concatenate([*blurred, np.ones_like(own[:1])]).reshape(-1, own[0].size).T.astype(np.float64)

    rows, truth = [], []
    for simulation in simulations:
        step = -(-simulation.instances.size // _PIXELS_PER_IMAGE) | 1  # odd, so that no column is favoured
        rows.append(describe(simulation.image)[::step])
        truth.append(simulation.instances.ravel()[::step] > 0)
    x, inside = np.concatenate(rows), np.concatenate(truth)
    if inside.all() or not inside.any():
        raise InputError("the simulations hold objects nowhere or everywhere; simulate larger images")
    weight = np.where(inside, 1 / inside.sum(), 1 / (~inside).sum())
    gram = (x * weight[:, None]).T @ x
    ridge = 1e-4 * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram + ridge, (x * weight[:, None]).T @ np.where(inside, 1.0, -1.0))

    def detect(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        labels, _ = ndimage.label((describe(image) @ weights > 0).reshape(image.shape[1:]))
        sizes = np.bincount(labels.ravel())
        labels[(sizes < smallest)[labels]] = 0
        return np.asarray(labels)

    return detect


def _overlaps(detected: npt.NDArray[Any], truth: npt.NDArray[np.uint32]) -> Overlaps:
    """Count what detections share with objects; masks, unlike labels, may share voxels with each other."""
    if detected.ndim == truth.ndim:
        return count_overlaps(truth, detected)
    ids, objects = np.unique(truth[truth > 0], return_inverse=True)
    inside = truth.ravel() > 0
    masks = detected.reshape(len(detected), truth.size).astype(bool)
    shared = np.zeros((len(masks), ids.size), dtype=np.int64)
    for row, mask in zip(shared, masks, strict=True):
        row += np.bincount(objects[mask[inside]], minlength=ids.size)
    found, true = np.nonzero(shared)
    names = np.arange(1, len(masks) + 1)
    areas, sizes = np.bincount(objects, minlength=ids.size), masks.sum(axis=1)
    return Overlaps(ids, areas, names, sizes, true, found, shared[found, true])
