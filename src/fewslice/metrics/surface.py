"""Distances between the surfaces of two masks.

1. :func:`surface_elements` marks surface voxels. A surface element is a foreground voxel with at least one background
   voxel among its face neighbours (6 in 3D, 4 in a plane), both inside the volume and both annotated. What lies beyond
   the border of the volume, or is not annotated, is *unknown*, not background: an object that the border cuts has no
   surface there.
2. :func:`scores_between` takes the elements' positions (centres of the voxels, scaled by the voxel size) and looks up,
   for every element of either surface, its distance to the nearest element of the other.
3. Three numbers: **hd95**, the larger of the two directed 95th percentiles; **assd**, the mean over the elements of
   both surfaces together; **nsd**, the share of the elements of both surfaces that lie within a tolerance of the other.

Distances come from a k-d tree on the elements, so memory grows with the surface, not with the volume, and elements can
be collected block by block (one voxel of context).

Truth on single planes says nothing about what lies above or below; then surface and distance are measured in each
plane on its own (``surface_dims`` 2) and the elements of all planes are pooled. An element in a plane where the other
mask has no surface has no distance: it counts as outside the tolerance, is left out of hd95 and assd, and its share is
returned as ``surface_unmatched``.

Definitions follow Nikolov et al., arXiv 1809.04430 (surface Dice), with voxels in place of their surface patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from fewslice.errors import InputError
from fewslice.metrics.semantic import confusion

__all__ = ["default_tolerance", "isolated_axis", "scores_between", "surface_elements", "surface_scores"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


def surface_scores(
    predicted: Array,
    truth: Array,
    voxel_size_um: Sequence[float] | None = None,
    tolerance_um: float | None = None,
    valid: Array | None = None,
) -> dict[str, Any]:
    """Measure the distances between the surfaces of two masks held in memory.

    Parameters
    ----------
    predicted, truth
        Masks (z, y, x), non-zero is foreground.
    voxel_size_um
        Voxel size (z, y, x) in µm. Without it lengths are in voxels, with keys that do not end in ``_um``.
    tolerance_um
        Tolerance of `nsd` in µm (in voxels where the voxel size is unknown); by default the largest extent of a voxel
        along the measured axes.
    valid
        Where truth exists, bool (z, y, x); values elsewhere change nothing. Everywhere by default.

    Returns
    -------
    dict
        ``hd95_um, assd_um`` (``hd95, assd`` without voxel size), ``nsd`` in 0–1, ``nsd_tolerance_um``
        (``nsd_tolerance``), ``surface_dims`` 2 or 3, ``surface_unit`` ``um`` or ``voxel``, ``surface_unmatched``
        in 0–1. Two masks without a surface that agree: distances 0, nsd 1. One surface missing: distances None,
        nsd 0. No surface on either side, the masks differ and neither is empty (truth whose border is not annotated):
        all None.

    Raises
    ------
    InputError
        If shapes differ, the arrays are not three-dimensional, or voxel size or tolerance are not positive.
    """
    if predicted.ndim != 3:
        raise InputError(f"masks must be (z, y, x), got {predicted.ndim} axes; add an axis of one plane")
    mask, true = predicted != 0, truth != 0
    matrix = confusion(mask, true, valid, classes=1)
    axis = isolated_axis(valid if valid is not None else np.ones((mask.shape[0], 1, 1), dtype=bool))
    points = [np.argwhere(surface_elements(part, valid, axis)) for part in (mask, true)]
    return scores_between(points[0], points[1], matrix, voxel_size_um, tolerance_um, axis)


def isolated_axis(valid: Array) -> int | None:
    """Return the axis across which annotated planes stand alone, or None where truth has volume.

    The first axis along which some plane with annotated voxels has no annotated plane next to it, as with planes 4, 8
    and 12 of z, or a volume of one plane. An axis of extent 1 counts for z only.

    Parameters
    ----------
    valid
        Where truth exists, bool (z, y, x).
    """
    for axis in range(3):
        if valid.shape[axis] == 1 and axis > 0:
            continue
        others = tuple(other for other in range(3) if other != axis)
        used = np.pad(np.any(valid, axis=others), 1)
        if bool(np.any(used[1:-1] & ~used[:-2] & ~used[2:])):
            return axis
    return None


def surface_elements(mask: Array, valid: Array | None = None, plane_axis: int | None = None) -> Mask:
    """Mark the surface voxels of a mask.

    Parameters
    ----------
    mask
        Bool array (z, y, x).
    valid
        Where truth exists, bool (z, y, x); everywhere by default.
    plane_axis
        If given, surfaces are those of each plane across this axis on its own: neighbours along it do not count.

    Returns
    -------
    numpy.ndarray
        Bool array of the same shape: foreground, and a face neighbour inside the array that is background, both valid.
    """
    inside = mask.astype(bool, copy=False)
    outside = ~inside
    if valid is not None:
        inside, outside = inside & valid, outside & valid
    result = np.zeros(inside.shape, dtype=bool)
    for axis in range(inside.ndim):
        if axis == plane_axis or inside.shape[axis] < 2:
            continue
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        result[low] |= inside[low] & outside[high]
        result[high] |= inside[high] & outside[low]
    return result


def default_tolerance(voxel_size_um: Sequence[float] | None, plane_axis: int | None = None) -> float:
    """Return the largest extent of a voxel along the measured axes, in µm, or 1 voxel where the size is unknown."""
    if voxel_size_um is None:
        return 1.0
    return max(float(size) for axis, size in enumerate(voxel_size_um) if axis != plane_axis)


def scores_between(
    predicted: Array,
    truth: Array,
    matrix: npt.NDArray[np.int64],
    voxel_size_um: Sequence[float] | None = None,
    tolerance_um: float | None = None,
    plane_axis: int | None = None,
) -> dict[str, Any]:
    """Measure the distances between two surfaces given by their elements.

    Parameters
    ----------
    predicted, truth
        Positions of the surface elements in voxels, integer (n, 3) in z, y, x.
    matrix
        Confusion ``[[TN, FP], [FN, TP]]`` of the two masks; it tells agreement from absence where a surface is missing.
    voxel_size_um, tolerance_um
        As in :func:`surface_scores`.
    plane_axis
        If given, only elements of the same plane across this axis are near each other.

    Returns
    -------
    dict
        As :func:`surface_scores`.

    Raises
    ------
    InputError
        If voxel size or tolerance are not positive.
    """
    scale = np.ones(3) if voxel_size_um is None else np.asarray(voxel_size_um, dtype=np.float64)
    if scale.shape != (3,) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise InputError(f"voxel size must be three positive numbers (z, y, x) in µm, got {voxel_size_um}")
    tolerance = default_tolerance(voxel_size_um, plane_axis) if tolerance_um is None else float(tolerance_um)
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance must be a number of at least 0, got {tolerance_um}")

    forth, back = _distances(predicted, truth, scale, plane_axis), _distances(truth, predicted, scale, plane_axis)
    both = np.concatenate([forth, back])
    matched = both[np.isfinite(both)]
    hd95: float | None
    assd: float | None
    nsd: float | None
    if both.size == 0:
        hd95, assd, nsd = _without_surface(matrix)
    elif matched.size == 0:
        hd95, assd, nsd = None, None, 0.0
    else:
        hd95 = max(float(np.percentile(part[np.isfinite(part)], 95)) for part in (forth, back))
        assd = float(matched.mean())
        # the tolerance is met up to rounding: twice 0.88 must lie within 1.76
        nsd = float(np.count_nonzero(both <= tolerance * (1 + 1e-9)) / both.size)
    suffix = "" if voxel_size_um is None else "_um"
    return {
        f"hd95{suffix}": hd95,
        f"assd{suffix}": assd,
        "nsd": nsd,
        f"nsd_tolerance{suffix}": tolerance,
        "surface_dims": 3 if plane_axis is None else 2,
        "surface_unit": "voxel" if voxel_size_um is None else "um",
        "surface_unmatched": float((both.size - matched.size) / both.size) if both.size else 0.0,
    }


def _without_surface(matrix: npt.NDArray[np.int64]) -> tuple[float | None, float | None, float | None]:
    """Decide for two masks of which neither has a surface: hd95, assd, nsd."""
    if matrix[0, 1] + matrix[1, 0] == 0:
        return 0.0, 0.0, 1.0
    one_empty = matrix[:, 1].sum() == 0 or matrix[1].sum() == 0
    return None, None, 0.0 if one_empty else None


def _distances(
    points: Array, targets: Array, scale: npt.NDArray[np.float64], plane_axis: int | None
) -> npt.NDArray[np.float64]:
    """Distance from every point to the nearest target, infinite where there is none (in its plane)."""
    result = np.full(len(points), np.inf)
    if len(points) == 0 or len(targets) == 0:
        return result
    if plane_axis is None:
        tree = cKDTree(targets * scale, balanced_tree=False, compact_nodes=False)
        result[:] = tree.query(points * scale)[0]
        return result
    ours, theirs = points[:, plane_axis], targets[:, plane_axis]
    for plane in np.intersect1d(ours, theirs):
        chosen = ours == plane
        result[chosen] = cKDTree(targets[theirs == plane] * scale).query(points[chosen] * scale)[0]
    return result
