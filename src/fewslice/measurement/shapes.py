"""From sums to shapes: centroid, size, form and intensity of each object, in voxels and in physical units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.measurement.sums import PRODUCTS, Sums, whole

__all__ = [
    "axis_lengths",
    "central_moments",
    "centroids",
    "class_indices",
    "confidences",
    "equivalent_diameter",
    "mean_values",
    "touches",
]

Floats = npt.NDArray[np.float64]
Triple = tuple[float, float, float]


def centroids(sums: Sums) -> Floats:
    """Return the mean position (n, 3) of each object's voxel centres, z, y, x in voxels."""
    result: Floats = sums["first"] / sums["voxels"][:, None]
    return result


def touches(sums: Sums, shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Say which objects touch the volume's low and its high sides; an axis of extent 1 has no sides."""
    extended = np.asarray(shape) > 1
    low = ((sums["low"] == 0) & extended).any(axis=1)
    high = ((sums["high"] == np.asarray(shape)) & extended).any(axis=1)
    return low, high


def central_moments(sums: Sums) -> Floats:
    """Return the covariance of each object's voxel centres (n, 6), in voxels², in the order of ``PRODUCTS``.

    Moments about the volume's first voxel lose their digits to the distance from it. They are therefore moved, in whole
    numbers, to the lower corner of the object's box first. That fits int64 for an object whose voxels times squared
    extent stay below 2**63, and modular arithmetic then gives it exactly although intermediate numbers do not fit; the
    few larger objects are moved with Python's integers.
    """
    n, low, first = sums["voxels"], sums["low"].astype(np.int64), sums["first"]
    local_first = first - low * n[:, None]
    halves = sums["second"]
    extent = (sums["high"] - sums["low"]).max(axis=1).astype(np.float64) if len(sums) else np.zeros(0)
    large = np.flatnonzero(n.astype(np.float64) * extent**2 >= 2.0**62)
    result = np.empty((len(sums), len(PRODUCTS)))
    mean = local_first / n[:, None]
    for k, (a, b) in enumerate(PRODUCTS):
        moment = (halves[:, k, 0] << 32) + halves[:, k, 1]
        moment = moment - low[:, a] * first[:, b] - low[:, b] * first[:, a] + low[:, a] * low[:, b] * n
        result[:, k] = moment / n - mean[:, a] * mean[:, b]
        for row in large:
            exact = (int(halves[row, k, 0]) << 32) + int(halves[row, k, 1])
            shift = [int(v) for v in low[row]]
            total = [int(v) for v in first[row]]
            count = int(n[row])
            exact += shift[a] * shift[b] * count - shift[a] * total[b] - shift[b] * total[a]
            result[row, k] = exact / count - mean[row, a] * mean[row, b]
    return result


def axis_lengths(sums: Sums, voxel_size_um: Triple, shape: tuple[int, int, int]) -> Floats:
    """Return the axes of the ellipsoid with an object's second moments, longest first, in µm.

    Parameters
    ----------
    sums
        Objects.
    voxel_size_um
        z, y, x in µm.
    shape
        z, y, x of the volume; an axis of extent 1 is left out, which makes ellipses of ellipsoids.

    Returns
    -------
    numpy.ndarray
        (n, axes) full lengths, 2 · √(5λ) in three dimensions and 2 · √(4λ) in two, λ being the eigenvalues of the
        covariance. Each voxel counts as a box, not as a point, so that no length is 0.
    """
    kept = [axis for axis in range(3) if shape[axis] > 1] or [0, 1, 2]
    moments = central_moments(sums)
    matrix = np.empty((len(sums), 3, 3))
    for k, (a, b) in enumerate(PRODUCTS):
        matrix[:, a, b] = matrix[:, b, a] = moments[:, k] * (voxel_size_um[a] * voxel_size_um[b])
    for axis, size in enumerate(voxel_size_um):
        matrix[:, axis, axis] += size**2 / 12
    values = np.linalg.eigvalsh(matrix[:, kept][:, :, kept])[:, ::-1]
    lengths: Floats = 2 * np.sqrt(np.maximum(values, 0.0) * (len(kept) + 2))
    return lengths


def equivalent_diameter(sums: Sums, voxel_size_um: Triple, shape: tuple[int, int, int]) -> Floats:
    """Return the diameter in µm of the ball of an object's volume; in a single plane, of the disc of its area."""
    if shape[0] == 1:
        return np.sqrt(sums["voxels"] * (voxel_size_um[1] * voxel_size_um[2]) * (4 / math.pi))
    return np.cbrt(sums["voxels"] * math.prod(voxel_size_um) * (6 / math.pi))


def mean_values(sums: Sums, exponent: int | None) -> Floats:
    """Return the mean intensity per channel (n, channels)."""
    total = whole(sums["values"])
    if exponent is not None:
        total = np.ldexp(total, -exponent)
    result: Floats = total / sums["voxels"][:, None]
    return result


def class_indices(sums: Sums, classes: int) -> npt.NDArray[np.int64] | None:
    """Return the class index (from 1) of each object: the one most of its voxels have, the lowest of several."""
    if classes == 0:
        return None
    if classes == 1:
        return np.ones(len(sums), dtype=np.int64)
    result: npt.NDArray[np.int64] = np.argmax(sums["votes"], axis=1) + 1
    return result


def confidences(sums: Sums, classes: npt.NDArray[np.int64]) -> Floats:
    """Return the mean stored probability (0–1) of each object's class inside the object."""
    score: Any = np.take_along_axis(sums["scores"], classes[:, None] - 1, axis=1)[:, 0]
    result: Floats = score / (255.0 * sums["voxels"])
    return result
