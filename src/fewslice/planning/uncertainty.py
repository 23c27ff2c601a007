"""How uncertain a prediction is, plane by plane, read in slabs so that memory does not grow with the volume.

A voxel's uncertainty is the entropy of its probabilities, in units of the largest there can be::

    H(p) = − Σ p_k ln p_k / ln (K + 1),   over K classes and background, 0–1

Where a second prediction is there (that of the 2D teacher beside the 3D student's), it is the mean of H and of how far
both are apart, |p − q| / 2 summed over the K + 1 probabilities, 0–1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fewslice.geometry import Box
from fewslice.volume import Volume

__all__ = ["plane_uncertainty", "uncertainty_of", "uncertainty_of_plane"]

_SLAB_VOXELS = 1 << 23


def uncertainty_of(probabilities: NDArray[np.uint8], other: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """Return the uncertainty of voxels.

    Parameters
    ----------
    probabilities
        (classes, …) uint8, 0–255 for probabilities 0–1 of the foreground classes.
    other
        The same of a second prediction, or None.

    Returns
    -------
    ndarray
        (…) float32, 0–1.
    """
    p = _with_background(probabilities)
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(axis=0) / np.log(len(p))
    if other is not None:
        entropy = (entropy + 0.5 * np.abs(p - _with_background(other)).sum(axis=0)) / 2
    uncertainty: NDArray[np.float32] = np.clip(entropy, 0.0, 1.0).astype(np.float32)
    return uncertainty


def _with_background(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    p = stored.astype(np.float32) / 255.0
    background = np.clip(1.0 - p.sum(axis=0), 0.0, 1.0)
    p = np.concatenate([background[None], p])
    shares: NDArray[np.float32] = p / p.sum(axis=0)  # rounding may leave the sum of several classes a little above 1
    return shares


def plane_uncertainty(probabilities: Volume, other: Volume | None, axis: int) -> NDArray[np.float64]:
    """Return the mean uncertainty of every plane.

    Parameters
    ----------
    probabilities, other
        (classes, z, y, x) uint8; `other` of the same shape, or None.
    axis
        Along which planes are counted: 0, 1, 2 = z, y, x.

    Returns
    -------
    ndarray
        (planes,) 0–1.
    """
    shape = probabilities.shape
    across = tuple(a for a in range(3) if a != axis)
    total: NDArray[np.float64] = np.zeros(shape[axis])
    for box in _slabs(shape, probabilities.channels):
        part = uncertainty_of(probabilities.read(box), None if other is None else other.read(box))
        total[box.slices[axis]] += part.sum(axis=across, dtype=np.float64)
    return total / (np.prod(shape) / shape[axis])


def _slabs(shape: tuple[int, int, int], channels: int) -> Iterator[Box]:
    depth = max(1, _SLAB_VOXELS // (channels * shape[1] * shape[2]))
    for z in range(0, shape[0], depth):
        yield Box((z, 0, 0), (min(z + depth, shape[0]), *shape[1:]))


def uncertainty_of_plane(probabilities: Volume, other: Volume | None, axis: int, index: int) -> NDArray[np.float32]:
    """Return the uncertainty (rows, columns) of one plane along an axis."""
    start, stop = [0, 0, 0], list(probabilities.shape)
    start[axis], stop[axis] = index, index + 1
    box = Box(tuple(start), tuple(stop))
    volume = uncertainty_of(probabilities.read(box), None if other is None else other.read(box))
    plane: NDArray[np.float32] = volume.squeeze(axis)
    return plane
