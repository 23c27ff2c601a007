"""Surface of every object of a label volume from counts of crossings along 13 directions, which add up over blocks.

Along direction d, from voxel to voxel, the object's border is crossed N_d times. A plane of area A and unit normal n is
crossed A |d · n| / V times, V being the volume of a voxel (Crofton's formula, discretised as by Lehmann and Legland,
"Efficient N-dimensional surface estimation using Crofton formula and run-length encoding", 2012). The estimate
Σ w_d N_d is therefore right by the factor

    h(n) = Σ w_d |d · n| / V

on a plane, and on any smooth surface by the mean of h over its normals. Their weights come from solid angles and suit
cubes. :func:`surface_weights` instead takes the weights w ≥ 0 that make the mean of h over all orientations exactly 1
and its variance smallest, for voxels of any shape: a sphere is measured without bias, and how far h strays from 1 is
known beforehand and reported.

1. :func:`surface_weights` – the weights as whole numbers, so that sums are exact whatever their order.
2. :func:`crossing_sums` – Σ w_d N_d per object. A pair of voxels belongs to the block that holds the lower corner of
   the pair's box, so that one voxel of context on the high sides is enough and each pair counts once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

__all__ = ["DIRECTIONS", "SurfaceWeights", "crossing_sums", "surface_weights"]

Triple = tuple[float, float, float]

DIRECTIONS = tuple(d for d in itertools.product((0, 1), (-1, 0, 1), (-1, 0, 1)) if d > (0, 0, 0))
"""One of each pair of opposite neighbours among the 26 of a voxel, z, y, x."""

_ORIENTATIONS = 4000
_STEPS = 1 << 16
_FIRM = 1e3
"""How much the condition that the mean of h is 1 weighs against the 4,000 that h is 1."""
_CHUNK_VOXELS = 1 << 18


@dataclass(frozen=True)
class SurfaceWeights:
    """What one crossing along each direction counts.

    Attributes
    ----------
    weights
        Whole numbers, one per entry of :data:`DIRECTIONS`, of at most 65,536; 0 for directions a flat volume lacks.
    unit_um2
        Area of 1, in µm².
    spread
        Standard deviation of h over all orientations of a plane: the relative error to expect of a flat object.
    lowest, highest
        Extremes of h: the factor by which a plane is measured in the worst orientation.
    """

    weights: tuple[int, ...]
    unit_um2: float
    spread: float
    lowest: float
    highest: float


def surface_weights(voxel_size_um: Triple, shape: Sequence[int]) -> SurfaceWeights:
    """Return the weights of crossings for voxels of this size.

    Parameters
    ----------
    voxel_size_um
        z, y, x in µm.
    shape
        z, y, x of the volume. Along an axis of extent 1 nothing can be crossed: a single plane yields the lateral
        surface, which is perimeter times thickness.
    """
    size = np.asarray(voxel_size_um, dtype=np.float64)
    flat = np.asarray(shape) == 1
    used = [k for k, d in enumerate(DIRECTIONS) if not np.any(np.asarray(d) * flat)]
    if not used:
        return SurfaceWeights((0,) * len(DIRECTIONS), 1.0, 0.0, 1.0, 1.0)
    steps = np.asarray(DIRECTIONS)[used]
    response = np.abs(_normals(~flat) @ (steps * size).T) / size.prod()
    # mirrored directions weigh the same, so that a mirrored object has the same surface
    _, kind = np.unique(np.abs(steps), axis=0, return_inverse=True)
    shared = response @ np.eye(kind.max() + 1)[kind.reshape(-1)]
    mean = shared.mean(axis=0)
    firm = _FIRM * len(shared)
    found, _ = nnls(np.vstack([shared, firm * mean]), np.append(np.ones(len(shared)), firm))
    found = (found / (mean @ found))[kind.reshape(-1)]
    unit = float(found.max()) / _STEPS
    whole = np.rint(found / unit).astype(np.int64)
    factor = response @ (whole * unit)
    edges = np.abs(_between(steps * size, ~flat) @ (steps * size).T) @ (whole * unit) / size.prod()
    weights = np.zeros(len(DIRECTIONS), dtype=np.int64)
    weights[used] = whole
    return SurfaceWeights(
        tuple(weights.tolist()), unit, float(factor.std()), float(min(factor.min(), edges.min())), float(factor.max())
    )


def _normals(extended: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return unit vectors (z, y, x) spread evenly over the sphere, or over the circle or line of the extended axes."""
    axes = np.flatnonzero(extended)
    normals = np.zeros((_ORIENTATIONS, 3))
    place = (np.arange(_ORIENTATIONS) + 0.5) / _ORIENTATIONS
    if len(axes) == 3:  # a Fibonacci lattice
        turn = np.pi * (1 + 5**0.5) * np.arange(_ORIENTATIONS)
        radius = np.sqrt(1 - (1 - 2 * place) ** 2)
        normals[:] = np.stack([1 - 2 * place, radius * np.sin(turn), radius * np.cos(turn)], axis=1)
    elif len(axes) == 2:
        normals[:, axes] = np.stack([np.sin(np.pi * place), np.cos(np.pi * place)], axis=1)
    else:
        normals[:, axes] = 1.0
    return normals


def _between(steps: npt.NDArray[np.float64], extended: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the unit normals at which h may be lowest: it has kinks where n is normal to a step, corners to two."""
    across = np.cross(steps[:, None], steps[None]).reshape(-1, 3)
    if not extended.all():  # in a plane, the normals across a step
        across = np.cross(steps, np.where(extended, 0.0, 1.0)) if extended.sum() == 2 else steps
    length = np.linalg.norm(across, axis=1)
    normals: npt.NDArray[np.float64] = across[length > 0] / length[length > 0][:, None]
    return normals


def crossing_sums(
    labels: npt.NDArray[Any], written: Sequence[int], weights: Sequence[int], count: int
) -> npt.NDArray[np.int64]:
    """Sum the weights of all crossings of every object's border that one block owns.

    Parameters
    ----------
    labels
        Integers 0 to `count` - 1, z, y, x: the block and, unless the volume ends there, one more voxel on the high side
        of each axis. The end of the volume is no border of an object.
    written
        z, y, x of the block itself.
    weights
        One per direction.
    count
        Number of labels, the background 0 included.

    Returns
    -------
    numpy.ndarray
        int64, one sum per label; that of the background is 0.
    """
    total = np.zeros(count, dtype=np.int64)
    if not any(weights):
        return total
    ends = [own == read for own, read in zip(written, labels.shape, strict=True)]
    for last in itertools.product(*((False, True) if end else (False,) for end in ends)):
        pairs = _pairs(last, weights)
        for corners in _cells(labels, written, last):
            _count_pairs(corners, pairs, total)
    total[0] = 0
    return total


def _pairs(last: Sequence[bool], weights: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the two corners of a cell that each direction joins, with its weight; `last` axes have one corner only."""
    corners = list(itertools.product(*((0,) if end else (0, 1) for end in last)))
    pairs = []
    for direction, weight in zip(DIRECTIONS, weights, strict=True):
        if weight and not any(step and end for step, end in zip(direction, last, strict=True)):
            low = tuple(int(step < 0) for step in direction)
            high = tuple(int(step > 0) for step in direction)
            pairs.append((corners.index(low), corners.index(high), weight))
    return pairs


def _cells(labels: npt.NDArray[Any], written: Sequence[int], last: Sequence[bool]) -> Iterator[list[npt.NDArray[Any]]]:
    """Yield, slab by slab, the labels at the corners of all 2 × 2 × 2 cells; of the `last` axes only the last index."""
    first = [own - 1 if end else 0 for own, end in zip(written, last, strict=True)]
    extent = [1 if end else read - 1 for read, end in zip(labels.shape, last, strict=True)]
    if min(extent) < 1:
        return
    planes = max(1, _CHUNK_VOXELS // (extent[1] * extent[2]))
    for z in range(0, extent[0], planes):
        depth = min(planes, extent[0] - z)
        yield [
            labels[
                first[0] + z + corner[0] : first[0] + z + corner[0] + depth,
                first[1] + corner[1] : first[1] + corner[1] + extent[1],
                first[2] + corner[2] : first[2] + corner[2] + extent[2],
            ]
            for corner in itertools.product(*((0,) if end else (0, 1) for end in last))
        ]


def _count_pairs(
    corners: list[npt.NDArray[Any]], pairs: list[tuple[int, int, int]], total: npt.NDArray[np.int64]
) -> None:
    """Add the crossings of some cells to `total`; cells of one label have none and are left out first."""
    mixed = np.zeros(corners[0].shape, dtype=bool)
    for corner in corners[1:]:
        mixed |= corner != corners[0]
    values = [corner[mixed] for corner in corners]
    if not values[0].size:
        return
    sums = np.zeros((len(values), values[0].size), dtype=np.int32)
    for low, high, weight in pairs:
        crossed = np.multiply(values[low] != values[high], weight, dtype=np.int32)
        sums[low] += crossed
        sums[high] += crossed
    # float64 holds these whole numbers exactly: fewer than 2**26 cells of at most 7 * 2**16 each per corner
    for value, part in zip(values, sums, strict=True):
        total += np.bincount(value, weights=part, minlength=len(total)).astype(np.int64)
