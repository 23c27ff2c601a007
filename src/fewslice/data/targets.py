"""What a network can learn of objects besides their mask, so that those that touch can be parted again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fewslice.errors import InputError

__all__ = ["Outputs", "boundary_target", "distance_target", "object_map"]

Outputs = Literal["foreground", "boundary", "distance"]
"""What a network says of every voxel: its class alone, or besides whether an object ends there, or how deep it lies."""


def boundary_target(
    labels: npt.NDArray[Any],
    *,
    thickness: int = 1,
    axes: Sequence[int] = (0, 1, 2),
    outer: bool = False,
    known: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Mark the voxels at which one object ends and the next one begins.

    A voxel of an object is on the boundary if a voxel of another object (with `outer`, also the background) can be
    reached from it in at most `thickness` steps through its own object, a step going to one of the face neighbours
    along `axes`. So between two objects the boundary is 2 `thickness` voxels thick, half of it in each.

    Parameters
    ----------
    labels
        (z, y, x) integers, 0 background.
    thickness
        Voxels on either side, at least 1.
    axes
        Axes along which is looked; (1, 2) where objects are known on planes of z only.
    outer
        Whether the border with the background counts too.
    known
        (z, y, x) bool: where the labels are known; where the known ends, no object does. None: everywhere.

    Returns
    -------
    numpy.ndarray
        (z, y, x) bool; false in the background.

    Raises
    ------
    InputError
        If the labels are no integers (z, y, x), or the thickness is below 1.

    Examples
    --------
    >>> boundary_target(np.array([[[0, 1, 1, 1, 2, 2]]])).astype(int).tolist()
    [[[0, 0, 0, 1, 1, 0]]]
    """
    _check(labels)
    if thickness < 1:
        raise InputError(f"boundary thickness {thickness} must be at least 1 voxel")
    differs = np.zeros(labels.shape, dtype=bool)
    for axis in axes:
        low, high = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        edge = low != high
        if not outer:
            edge &= (low != 0) & (high != 0)
        if known is not None:
            near, far = np.moveaxis(known, axis, 0)[:-1], np.moveaxis(known, axis, 0)[1:]
            edge &= near & far
        view = np.moveaxis(differs, axis, 0)
        view[:-1] |= edge
        view[1:] |= edge
    if thickness > 1:
        cross = np.zeros((3, 3, 3), dtype=bool)
        cross[1, 1, 1] = True
        for axis in axes:
            place: list[int | slice] = [1, 1, 1]
            place[axis] = slice(None)
            cross[tuple(place)] = True
        grown = np.zeros_like(differs)
        for identity, where in _objects(labels):
            inside = labels[where] == identity
            start = differs[where] & inside
            if start.any():
                # within the object only: what lies behind another object is not near
                grown[where] |= ndimage.binary_dilation(start, cross, iterations=thickness - 1, mask=inside)
        differs = grown
    result: npt.NDArray[np.bool_] = differs & (labels != 0)
    return result


def distance_target(
    labels: npt.NDArray[Any],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    planes: int | None = None,
    known: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float32]:
    """Return how deep in its object a voxel lies, relative to the object's deepest voxel.

    d(v) / max d over the object, with d the distance to the nearest voxel that is not of the object. The border of the
    array is no border of objects: one that is cut there is as deep as what is seen of it.

    Parameters
    ----------
    labels
        (z, y, x) integers, 0 background.
    spacing
        (z, y, x) extent of a voxel, in any unit.
    planes
        An axis (0, 1, 2) along which planes are taken one by one, each cross-section as an object of its own; None for
        objects in the volume.
    known
        (z, y, x) bool: where the labels are known; where the known ends, no object does. None: everywhere.

    Returns
    -------
    numpy.ndarray
        (z, y, x) float32: 0 in the background, in (0, 1] in objects. Memory: one object's bounding box at a time.

    Raises
    ------
    InputError
        If the labels are no integers (z, y, x), or the spacing is not positive.
    """
    _check(labels)
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"spacing {tuple(spacing)} must be three positive numbers, z, y, x")
    result = np.zeros(labels.shape, dtype=np.float32)
    if planes is not None:
        for index in range(labels.shape[planes]):
            place = tuple(slice(index, index + 1) if axis == planes else slice(None) for axis in range(3))
            result[place] = distance_target(labels[place], spacing, known=None if known is None else known[place])
        return result
    for identity, where in _objects(labels):
        # one voxel of context, as far as there is any: beyond the array nothing is known
        around = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in where)
        inside = labels[around] == identity
        border = ~inside if known is None else ~inside & known[around]
        if not border.any():
            result[around][inside] = 1.0
            continue
        depth = ndimage.distance_transform_edt(~border, sampling=spacing)
        result[around][inside] = depth[inside] / depth[inside].max()
    return result


def object_map(
    labels: npt.NDArray[Any],
    known: npt.NDArray[np.bool_],
    outputs: Outputs,
    *,
    thickness: int = 2,
    voxel_size_um: Sequence[float] | None = None,
) -> npt.NDArray[np.uint8] | None:
    """Return what a network learns of annotated objects beside their mask.

    Along an axis in which no two known voxels adjoin, as between planes annotated one by one, objects have no borders,
    and their cross-sections are objects of their own.

    Parameters
    ----------
    labels
        (z, y, x) ids, 0 background.
    known
        (z, y, x) bool: where they are known.
    outputs
        ``boundary``: the outline, inside of each object (:func:`boundary_target`, the border with the background
        included); ``distance``: :func:`distance_target`; ``foreground``: nothing.
    thickness
        Of the outline, in voxels.
    voxel_size_um
        (z, y, x), for distances; None for cubes.

    Returns
    -------
    numpy.ndarray or None
        (z, y, x) uint8, 0–255 for 0–1; where nothing is known it means nothing. None for ``foreground``.
    """
    if outputs == "foreground":
        return None
    ids = np.where(known, labels, 0)
    axes = [a for a in range(3) if (np.moveaxis(known, a, 0)[:-1] & np.moveaxis(known, a, 0)[1:]).any()]
    if outputs == "boundary":
        outline = boundary_target(ids, thickness=thickness, axes=axes, outer=True, known=known)
        return np.where(outline, np.uint8(255), np.uint8(0))
    apart = next((a for a in range(3) if a not in axes), None)
    depth = distance_target(ids, voxel_size_um or (1.0, 1.0, 1.0), planes=apart, known=known)
    stored: npt.NDArray[np.uint8] = np.rint(depth * 255.0).astype(np.uint8)
    return stored


def _objects(labels: npt.NDArray[Any]) -> list[tuple[int, tuple[slice, ...]]]:
    """List every id and its bounding box; ids may be of any size."""
    ids, dense = np.unique(labels, return_inverse=True)
    dense = dense.reshape(labels.shape) + int(ids[0] != 0)  # 0 stays the background
    names = ids if ids[0] == 0 else np.concatenate([[0], ids])
    boxes = ndimage.find_objects(dense)
    return [(int(names[number]), box) for number, box in enumerate(boxes, start=1) if box is not None]


def _check(labels: npt.NDArray[Any]) -> None:
    if labels.ndim != 3 or labels.dtype.kind not in "iu" or 0 in labels.shape:
        raise InputError(f"objects must be integers (z, y, x), got {labels.dtype} of shape {labels.shape}")
