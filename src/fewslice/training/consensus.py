"""Sources of pseudo-labels beside a teacher, what they agree on, and how far to trust it.

1. `interpolate_sample` fills the planes between annotated ones without any network.
2. `agree` is the mean of several sources: where they differ, it is uncertain.
3. `fading` weighs a voxel by its distance to the nearest annotated plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewslice import morphology
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.morphology.probabilities import segment_probabilities
from fewslice.training.cleaning import MaskProbabilities, known_planes
from fewslice.training.task import Mask
from fewslice.volume import Volume, normalise_index

__all__ = ["Interpolation", "agree", "annotated_whole", "fading", "interpolate_sample"]

Interpolation = Literal["signed_distance", "contours"]


def interpolate_sample(
    sample: Sample,
    mask: Mask,
    axis: int,
    classes: int,
    method: Interpolation,
    predicted: Volume | None = None,
    threshold: float = 0.5,
) -> Volume:
    """Fill the planes between annotated ones from the annotation; what is not annotated on those is as predicted.

    Parameters
    ----------
    sample
        With annotation.
    mask
        Annotated voxels that training may use, (z, y, x) bool; some plane must be annotated by half, at least.
    axis
        Axis (0, 1, 2 = z, y, x) along which planes are stacked.
    classes
        Classes of foreground.
    method
        ``signed_distance`` or ITK's morphological ``contours``.
    predicted, threshold
        (classes, z, y, x) uint8, 0–255 for probabilities 0–1, of the same extent, and where foreground begins. Looked
        at on planes only of which a part is annotated; not needed where all are annotated whole.

    Returns
    -------
    Volume
        (classes, z, y, x) uint8, 255 inside and 0 outside. In memory: one byte per voxel and class.

    Raises
    ------
    InputError
        If no plane is annotated, one is in part but nothing is predicted, or ITK is not installed.
    """
    assert sample.annotation is not None
    order = (axis, *(a for a in range(3) if a != axis))
    known = known_planes(mask, sample.image.shape, axis)
    labels = np.where(mask, sample.annotation.classes, 0).astype(np.uint8)
    for plane in np.flatnonzero(known).tolist():
        box = Box(
            tuple(plane if a == axis else 0 for a in range(3)),
            tuple(plane + 1 if a == axis else n for a, n in enumerate(mask.shape)),
        )
        unknown = ~mask[box.slices]
        if unknown.any():
            if predicted is None:
                raise InputError(f"plane {plane} of {sample.name} is annotated in part; give what is predicted there")
            labels[box.slices][unknown] = segment_probabilities(predicted.read(box), threshold)[unknown]
    labels = labels.transpose(order)
    if method == "signed_distance":
        voxel = sample.image.voxel_size_um
        filled = morphology.interpolate_signed_distance(labels, known, voxel and [voxel[a] for a in order])
    else:
        filled = morphology.interpolate_contours(labels, known)
    back = filled.transpose(np.argsort(order))
    masks = [Volume.from_array(back == number) for number in range(1, classes + 1)]
    return Volume(MaskProbabilities(masks), sample.image.voxel_size_um, source=sample.image.source)


def annotated_whole(mask: Mask | None, axis: int) -> bool:
    """Whether some planes along `axis` (0, 1, 2 = z, y, x) are annotated, and those from border to border."""
    if mask is None or not mask.any():
        return False
    others = tuple(a for a in range(3) if a != axis)
    return bool((mask.any(axis=others) == mask.all(axis=others)).all())


def agree(sources: Sequence[Volume]) -> Volume:
    """Return the mean of several pseudo-labels of one sample, each (classes, z, y, x) uint8, 0–255."""
    return sources[0] if len(sources) == 1 else replace(sources[0], array=_Mean(sources))


def fading(mask: Mask | None, shape: Sequence[int], axis: int, planes: float) -> NDArray[np.float32]:
    """Weigh planes by their distance d to the nearest annotated one: exp(−d / planes).

    Parameters
    ----------
    mask
        Annotated voxels that training may use, (z, y, x) bool. Where there are none, or for None, the weight is 1/e
        everywhere, as if annotated planes were `planes` away.
    shape
        (z, y, x).
    axis
        Axis (0, 1, 2 = z, y, x) along which planes are stacked.
    planes
        Distance, in planes, at which the weight is 1/e.

    Returns
    -------
    ndarray
        float32 in 0–1 that broadcasts to (z, y, x).
    """
    known = np.zeros(shape[axis], bool)
    if mask is not None:
        known |= mask.any(axis=tuple(a for a in range(3) if a != axis))
    weight = np.full(shape[axis], np.exp(-1.0), np.float32)
    if known.any():
        before, after = morphology.brackets(known)
        z = np.arange(shape[axis])
        distance = np.minimum(np.where(before >= 0, z - before, np.inf), np.where(after >= 0, after - z, np.inf))
        weight = np.exp(-distance / planes).astype(np.float32)
    return weight.reshape([-1 if a == axis else 1 for a in range(3)])


class _Mean:
    """The rounded mean of lazy arrays (classes, z, y, x; uint8)."""

    def __init__(self, sources: Sequence[Volume]) -> None:
        self._sources = sources
        self.shape: tuple[int, ...] = tuple(sources[0].array.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Read a part."""
        slices, dropped = normalise_index(index, self.shape)
        total = sum(np.asarray(source.array[slices]).astype(np.uint16) for source in self._sources)
        out = np.rint(total / len(self._sources)).astype(np.uint8)
        return out.reshape([n for axis, n in enumerate(out.shape) if axis not in dropped])
