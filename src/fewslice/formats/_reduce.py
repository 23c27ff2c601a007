"""Halving arrays for pyramids: the mean for images, the commonest value for labels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["halve_mean", "halve_mode", "level_factors"]

Shape3 = tuple[int, int, int]

_TARGET = 256
"""A pyramid ends when no axis that is still halved exceeds this."""

_NEAR_ISOTROPIC = 1.5
"""z is halved together with y and x once a voxel is at most this much taller than wide."""


def level_factors(shape: Sequence[int], voxel_size_um: Sequence[float] | None) -> list[Shape3]:
    """List, per level of a pyramid, how many first-level voxels one voxel spans along z, y, x.

    Parameters
    ----------
    shape
        z, y, x of the first level.
    voxel_size_um
        Of the first level; taken as a cube when None.

    Returns
    -------
    list
        Begins with ``(1, 1, 1)``. y and x are halved at every level, z where the voxel is nearly isotropic or flatter.
    """
    size = [1.0, 1.0, 1.0] if voxel_size_um is None else list(voxel_size_um)
    extents, total = list(shape), [1, 1, 1]
    levels = [(1, 1, 1)]
    while True:
        flat = size[0] <= _NEAR_ISOTROPIC * max(size[1:])
        step = [2 if n > 1 and (axis > 0 or flat) else 1 for axis, n in enumerate(extents)]
        if all(n <= _TARGET or s == 1 for n, s in zip(extents, step, strict=True)):
            return levels
        extents = [-(-n // s) for n, s in zip(extents, step, strict=True)]
        size = [v * s for v, s in zip(size, step, strict=True)]
        total = [t * s for t, s in zip(total, step, strict=True)]
        levels.append((total[0], total[1], total[2]))


def _neighbours(values: npt.NDArray[Any], step: Sequence[int]) -> list[npt.NDArray[Any]]:
    """Split into the voxels that are merged into one; at an odd end the last voxel stands for the missing one."""
    odd = [(0, -n % s) for n, s in zip(values.shape, step, strict=True)]
    if any(pad for _, pad in odd):
        values = np.pad(values, odd, mode="edge")
    offsets = itertools.product(*(range(s) for s in step))
    return [values[tuple(slice(o, None, s) for o, s in zip(offset, step, strict=True))] for offset in offsets]


def halve_mean(values: npt.NDArray[Any], step: Sequence[int]) -> npt.NDArray[Any]:
    """Reduce an image by the mean, rounded half up for integers.

    Parameters
    ----------
    values
        Any number of axes.
    step
        1 or 2 per axis.

    Returns
    -------
    ndarray
        Of the same type, each extent divided by its step and rounded up.
    """
    parts = _neighbours(values, step)
    count = len(parts)
    if values.dtype.kind == "f":
        total = parts[0].astype(np.float64)
        for part in parts[1:]:
            total += part
        return (total / count).astype(values.dtype)
    wide: npt.DTypeLike = np.int64 if values.dtype.itemsize > 2 else np.int32
    if values.dtype.itemsize == 8:  # sums of eight could overflow
        quotient = sum((part // count for part in parts), np.zeros_like(parts[0]))
        remainder = sum((part % count for part in parts), np.zeros_like(parts[0]))
        return np.asarray(quotient + (remainder + count // 2) // count, dtype=values.dtype)
    total = parts[0].astype(wide)
    for part in parts[1:]:
        total += part
    return ((total + count // 2) // count).astype(values.dtype)


def halve_mode(values: npt.NDArray[Any], step: Sequence[int]) -> npt.NDArray[Any]:
    """Reduce labels by the commonest value, the largest among equally common ones.

    Parameters
    ----------
    values
        Integers, any number of axes.
    step
        1 or 2 per axis.

    Returns
    -------
    ndarray
        Of the same type, each extent divided by its step and rounded up.
    """
    parts = _neighbours(values, step)
    best = parts[0].copy()
    best_votes = _votes(parts, parts[0])
    for part in parts[1:]:
        votes = _votes(parts, part)
        better = (votes > best_votes) | ((votes == best_votes) & (part > best))
        np.copyto(best, part, where=better)
        np.copyto(best_votes, votes, where=better)
    return best


def _votes(parts: list[npt.NDArray[Any]], candidate: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    votes = np.zeros(candidate.shape, np.uint8)
    for part in parts:
        votes += part == candidate
    return votes
