"""What a contour proposal network learns from labelled objects (Upschulte et al. 2022), at stride 2.

`contour_targets` makes the targets of a batch after augmentation: which positions lie in the core of an object, and of
each object its mean point, Fourier coefficients and sampled contour.

Position (i, j) of the targets stands for the pixels 2i, 2i + 1 and 2j, 2j + 1 and lies between them, at
(2i + ½, 2j + ½). It takes after that one of its four pixels which lies deepest in an object, so that an object of one
pixel is found as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import edt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from fewslice.data.contours import elliptic_fourier, largest_parts, sampled, trace
from fewslice.errors import InputError

__all__ = ["IGNORED", "STRIDE", "ContourTargets", "contour_targets", "normalised_depth"]

STRIDE = 2
IGNORED = -1
"""Score of a position of which nothing is known, or that lies between core and rim."""
CORE, RIM = 0.75, 0.5
"""Positive from this normalised depth on, negative up to that one."""


@dataclass(frozen=True)
class ContourTargets:
    """Targets of a batch.

    Attributes
    ----------
    score
        (b, y/2, x/2) int8: the class 1, 2, … in the core of an object, 0 outside and at the rim, `IGNORED` elsewhere.
    anchors
        (m, 3) int64 (image, row, column): the positive positions at stride 2.
    objects
        (m,) int64: the row of an anchor's object in the tables below.
    centre
        (n, 2) float32 (y, x): mean points of the contours, in pixels.
    coefficients
        (n, order, 4) float32: elliptic Fourier coefficients, in pixels; see :mod:`fewslice.data.contours`.
    contour
        (n, samples, 2) float32 (y, x): the contours themselves, in pixels.
    """

    score: torch.Tensor
    anchors: torch.Tensor
    objects: torch.Tensor
    centre: torch.Tensor
    coefficients: torch.Tensor
    contour: torch.Tensor

    def to(self, device: torch.device) -> ContourTargets:
        """Return the targets on `device`."""
        return ContourTargets(*(value.to(device, non_blocking=True) for value in vars(self).values()))


def normalised_depth(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return how deep in its object every pixel lies: the distance to what is not of it, 1 at the object's deepest.

    Parameters
    ----------
    labels
        (y, x) ids, 0 = background, where the depth is 0. The border of the plane is a border of the objects.
    """
    distance = edt.edt(np.ascontiguousarray(labels.astype(np.uint32)), black_border=True, parallel=1)
    deepest = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), distance.ravel())
    depth: NDArray[np.float32] = distance / np.maximum(deepest, 1e-6)[labels]
    return depth


def contour_targets(
    ids: NDArray[np.int64], weight: NDArray[np.floating], *, classes: int, order: int, samples: int
) -> ContourTargets:
    """Make the targets of a batch of planes.

    Of objects that border on pixels of which nothing is known the contour is not known either: none of their positions
    counts. Of an object in several parts the largest is learned, and nothing at the others. One pixel has one id in a
    label image, so there are no overlaps to be left out.

    Parameters
    ----------
    ids
        (b, y, x) ids as :func:`fewslice.data.patches.coded_ids` gives them, 0 = background; even extents.
    weight
        (b, y, x); 0 where nothing is known.
    classes
        Number of foreground classes.
    order, samples
        Of the Fourier coefficients and the sampled contours.

    Raises
    ------
    InputError
        If an extent is odd.
    """
    if any(extent % STRIDE for extent in ids.shape[1:]):
        raise InputError(f"contours are learned at stride {STRIDE}, but the patch is {ids.shape[1:]}; use even extents")
    scores, anchors, objects = [], [], []
    centres, coefficients, contours = [np.zeros((0, 2))], [np.zeros((0, order, 4))], [np.zeros((0, samples, 2))]
    count = 0
    for image, (plane, known) in enumerate(zip(ids, weight > 0, strict=True)):
        usable, ignored = _usable(plane, known)
        outlines = trace(usable)
        described = elliptic_fourier(outlines, order)
        centres.append(described.centre)
        coefficients.append(described.coefficients)
        contours.append(sampled(outlines, described.start, samples))
        score, owner = _scores(usable, ignored, classes)
        rows, columns = np.nonzero(score > 0)
        scores.append(score)
        anchors.append(np.stack((np.full_like(rows, image), rows, columns), axis=1))
        objects.append(count + np.searchsorted(outlines.ids, owner[rows, columns]))
        count += len(outlines)
    return ContourTargets(
        torch.from_numpy(np.stack(scores)),
        torch.from_numpy(np.concatenate(anchors)),
        torch.from_numpy(np.concatenate(objects)),
        *(torch.from_numpy(np.concatenate(table).astype(np.float32)) for table in (centres, coefficients, contours)),
    )


def _usable(ids: NDArray[np.int64], known: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the objects whose contour is known, and the pixels that count neither way."""
    kept, _ = largest_parts(np.where(known, ids, 0))
    cut = np.unique(kept[ndimage.binary_dilation(~known) & (kept > 0)]) if not known.all() else kept[:0, 0]
    usable = np.where(np.isin(kept, cut), 0, kept) if len(cut) else kept
    return usable, ~known | ((ids > 0) & (usable == 0))


def _scores(
    usable: NDArray[np.int64], ignored: NDArray[np.bool_], classes: int
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return score and object of every position at stride 2."""
    depth = _cells(normalised_depth(usable))
    deepest = depth.argmax(-1)[..., None]
    owner = np.take_along_axis(_cells(usable), deepest, -1)[..., 0]
    value = np.take_along_axis(depth, deepest, -1)[..., 0]
    unknown = _cells(ignored).any(-1) | ((value > RIM) & (value < CORE))
    score = np.where(value >= CORE, (owner - 1) % classes + 1, 0)
    return np.where(unknown, IGNORED, score).astype(np.int8), np.where(unknown, 0, owner)


def _cells(plane: NDArray[Any]) -> NDArray[Any]:
    """Return (y/2, x/2, 4): the pixels of every position."""
    y, x = (extent // STRIDE for extent in plane.shape)
    return plane.reshape(y, STRIDE, x, STRIDE).swapaxes(1, 2).reshape(y, x, STRIDE * STRIDE)
