"""Correcting instances: split, merge, delete; and the table of objects, kept up to date stroke by stroke.

Nothing here changes labels: every function returns the :class:`~fewslice.napari.edits.Stroke` to be applied, so that
all of it can be undone and is in the journal. Only the box around an object is read, whatever the size of the volume.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.draw import line
from skimage.segmentation import watershed

from fewslice.errors import InputError
from fewslice.geometry import Box, cover
from fewslice.napari.edits import EditedArray, Stroke

__all__ = [
    "Object",
    "delete",
    "measure",
    "merge",
    "new_label",
    "split_by_line",
    "split_by_seeds",
    "updated",
    "volume_um3",
]

Point = Sequence[float]


@dataclass(frozen=True)
class Object:
    """One label.

    Attributes
    ----------
    voxels
        Number of voxels.
    total
        Sums of their positions z, y, x.
    box
        A box that holds them all; it may be larger than needed once voxels were taken away.
    """

    voxels: int
    total: tuple[float, float, float]
    box: Box

    @property
    def centre(self) -> tuple[float, float, float]:
        """Mean position z, y, x in voxels."""
        z, y, x = (t / self.voxels for t in self.total)
        return z, y, x


Objects = Mapping[int, Object]


def measure(labels: EditedArray) -> dict[int, Object]:
    """Count every label, block by block.

    Returns
    -------
    dict
        Label → :class:`Object`, ascending; 0 left out.
    """
    found: dict[int, Object] = {}
    for block in cover(labels.shape, labels.block, (0, 0, 0)):
        values = labels.read(block.write)
        if not values.any():
            continue
        names, inverse = np.unique(values, return_inverse=True)
        numbers = inverse.reshape(values.shape)
        for place, (name, part) in enumerate(zip(names.tolist(), ndimage.find_objects(numbers + 1), strict=True)):
            if name == 0:
                continue
            spots = np.nonzero(numbers[part] == place)
            low = tuple(s.start + b for s, b in zip(part, block.write.start, strict=True))
            high = tuple(s.stop + b for s, b in zip(part, block.write.start, strict=True))
            sums = [float(axis.sum()) + axis.size * start for axis, start in zip(spots, low, strict=True)]
            piece = Object(int(spots[0].size), (sums[0], sums[1], sums[2]), Box(low, high))
            found[name] = _joined(found.get(name), piece)
    return dict(sorted(found.items()))


def updated(objects: Objects, stroke: Stroke, shape: Sequence[int]) -> dict[int, Object]:
    """Return the table after a stroke, looking at the stroke only.

    Parameters
    ----------
    objects
        Before it.
    stroke
        What changed.
    shape
        z, y, x of the labels.
    """
    out = dict(objects)
    places = np.stack(np.unravel_index(stroke.indices, tuple(shape)))
    for values, sign in ((stroke.old, -1), (stroke.new, 1)):
        for name in np.unique(values).tolist():
            if name == 0:
                continue
            spots = places[:, values == name]
            sums = [float(v) for v in spots.sum(axis=1, dtype=np.float64)]
            box = Box(tuple(int(v) for v in spots.min(axis=1)), tuple(int(v) + 1 for v in spots.max(axis=1)))
            before = out.get(name)
            if sign > 0:
                out[name] = _joined(before, Object(spots.shape[1], (sums[0], sums[1], sums[2]), box))
            elif before is not None:
                left = before.voxels - spots.shape[1]
                z, y, x = (a - b for a, b in zip(before.total, sums, strict=True))
                out[name] = Object(left, (z, y, x), before.box)
    return {name: found for name, found in sorted(out.items()) if found.voxels > 0}


def _joined(one: Object | None, other: Object) -> Object:
    if one is None:
        return other
    z, y, x = (a + b for a, b in zip(one.total, other.total, strict=True))
    low = tuple(min(a, b) for a, b in zip(one.box.start, other.box.start, strict=True))
    high = tuple(max(a, b) for a, b in zip(one.box.stop, other.box.stop, strict=True))
    return Object(one.voxels + other.voxels, (z, y, x), Box(low, high))


def new_label(labels: EditedArray, objects: Objects, count: int = 1) -> int:
    """Return the first of `count` labels that no object has.

    Raises
    ------
    InputError
        If the type of the labels holds no more.
    """
    first = max(objects, default=0) + 1
    most = int(np.iinfo(labels.dtype).max)
    if first + count - 1 > most:
        raise InputError(
            f"the labels are {labels.dtype}, which ends at {most}, so there is no number for another object; "
            "convert them to a larger type first"
        )
    return first


def delete(labels: EditedArray, objects: Objects, names: Sequence[int]) -> Stroke:
    """Return the stroke that makes objects background.

    Raises
    ------
    InputError
        If there is no such object.
    """
    return _renamed(labels, objects, dict.fromkeys(_known(objects, names, 1), 0))


def merge(labels: EditedArray, objects: Objects, names: Sequence[int]) -> Stroke:
    """Return the stroke that makes one object of several; it has the lowest of their labels.

    Raises
    ------
    InputError
        Unless there are two such objects or more.
    """
    known = _known(objects, names, 2)
    return _renamed(labels, objects, dict.fromkeys(known[1:], known[0]))


def split_by_seeds(
    labels: EditedArray,
    objects: Objects,
    seeds: Sequence[Point],
    voxel_size_um: Sequence[float] | None = None,
) -> Stroke:
    """Return the stroke that splits the object under the seeds into as many.

    A watershed grows from the seeds on the distance to the object's border, so that objects part where they are thin.
    The first seed keeps the label. Pieces that no seed reaches keep it as well.

    Parameters
    ----------
    labels, objects
        The labels and their table.
    seeds
        Positions z, y, x in voxels, two or more, all on the same object.
    voxel_size_um
        z, y, x in µm: distances are measured in it; cubes by default.

    Raises
    ------
    InputError
        If there are fewer than two seeds, two on one voxel, or they lie on background or on different objects.
    """
    spots = [tuple(round(float(v)) for v in seed) for seed in seeds]
    if len(set(spots)) < 2 or len(set(spots)) < len(spots):
        raise InputError(f"{len(spots)} seeds were placed; place two or more, each on a voxel of its own")
    outside = [
        s for s in spots if Box(s, tuple(v + 1 for v in s)) != Box(s, tuple(v + 1 for v in s)).clip(labels.shape)
    ]
    names = [0 if s in outside else int(labels[s]) for s in spots]
    if 0 in names:
        raise InputError(f"seed {spots[names.index(0)]} (z, y, x) lies on background; place all seeds on one object")
    if len(set(names)) > 1:
        raise InputError(
            f"the seeds lie on objects {', '.join(map(str, sorted(set(names))))}; place them on one object"
        )
    name, first = names[0], new_label(labels, objects, len(spots) - 1)
    box = objects[name].box
    mask = labels.read(box) == name
    markers = np.zeros(mask.shape, dtype=np.int32)
    for number, spot in enumerate(spots, 1):
        markers[tuple(s - b for s, b in zip(spot, box.start, strict=True))] = number
    padded = np.pad(mask, 1)
    distance = ndimage.distance_transform_edt(padded, sampling=voxel_size_um)[1:-1, 1:-1, 1:-1]
    parts = watershed(-distance, markers, mask=mask)
    return _stroke(labels, box, mask & (parts > 1), parts.astype(np.int64) + first - 2)


def split_by_line(
    labels: EditedArray, objects: Objects, path: Sequence[Point], axis: int, name: int | None = None
) -> Stroke:
    """Return the stroke that cuts an object along a line drawn on a plane, through all planes.

    The line stands as a wall through the object; what it parts becomes objects of their own, of which the largest keeps
    the label; voxels on the wall go to the nearest of them.

    Parameters
    ----------
    labels, objects
        The labels and their table.
    path
        Corners z, y, x of the line in voxels.
    axis
        Axis across the plane that it was drawn on.
    name
        The object; by default the one that most of the line's voxels lie on.

    Raises
    ------
    InputError
        If the line crosses no object, or does not part it.
    """
    if len(path) < 2:
        raise InputError("the line has fewer than two corners; draw it across the object")
    spots = _drawn(path, axis, labels.shape)
    if name is None:
        under = [int(labels[tuple(spot)]) for spot in spots.T.tolist()]
        hit = [value for value in under if value]
        if not hit:
            raise InputError("the line crosses no object; draw it across the one to be cut")
        name = max(set(hit), key=hit.count)
    elif name not in objects:
        raise InputError(f"there is no object {name}; choose one from the table")
    box = objects[name].box
    mask = labels.read(box) == name
    others = [a for a in range(3) if a != axis]
    local = [spots[a] - box.start[a] for a in others]
    inside = np.ones(spots.shape[1], dtype=np.bool_)
    for place, a in zip(local, others, strict=True):
        inside &= (place >= 0) & (place < mask.shape[a])
    wall = np.zeros(mask.shape, dtype=np.bool_)
    index: list[npt.NDArray[np.int64] | slice] = [slice(None)] * 3
    for place, a in zip(local, others, strict=True):
        index[a] = place[inside]
    wall[tuple(index)] = True
    parts, count = ndimage.label(mask & ~wall, np.ones((3, 3, 3)))
    beside = np.unique(parts[ndimage.binary_dilation(wall) & mask & ~wall]) if count else np.zeros(0, dtype=np.int64)
    if beside.size < 2:
        raise InputError(f"the line does not part object {name}; draw it right across, from border to border")
    sizes = np.bincount(parts.ravel())
    order = sorted((int(p) for p in beside), key=lambda p: -int(sizes[p]))
    first = new_label(labels, objects, len(order) - 1)
    nearest = ndimage.distance_transform_edt(
        ~np.isin(parts, beside), return_distances=False, return_indices=True
    )  # voxels on the wall go to the part beside it
    parts = np.where(wall & mask, parts[tuple(nearest)], parts)
    target = np.full(count + 1, name, dtype=np.int64)
    for number, part in enumerate(order[1:]):
        target[part] = first + number
    values = target[parts]
    return _stroke(labels, box, mask & (values != name), values)


def _drawn(path: Sequence[Point], axis: int, shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the voxels (3, n) of a line through corners on a plane, each once, as far as they are in the volume.

    Steps are never diagonal, so that voxels that touch at their corners do not touch through the line.
    """
    corners = np.rint(np.asarray(path, dtype=np.float64)).astype(np.int64)
    one, two = (a for a in range(3) if a != axis)
    drawn: set[tuple[int, int]] = set()
    for start, stop in pairwise(corners):
        rows, columns = line(int(start[one]), int(start[two]), int(stop[one]), int(stop[two]))
        spots_on = list(zip(rows.tolist(), columns.tolist(), strict=True))
        drawn |= set(spots_on) | {(b[0], a[1]) for a, b in pairwise(spots_on)}
    kept = sorted((a, b) for a, b in drawn if 0 <= a < shape[one] and 0 <= b < shape[two])
    spots = np.empty((3, len(kept)), dtype=np.int64)
    spots[axis] = min(max(int(corners[0, axis]), 0), shape[axis] - 1)
    spots[[one, two]] = np.asarray(kept, dtype=np.int64).reshape(-1, 2).T
    return spots


def _known(objects: Objects, names: Sequence[int], least: int) -> list[int]:
    unknown = [n for n in names if n not in objects]
    if unknown:
        raise InputError(f"there is no object {unknown[0]}; choose objects from the table")
    chosen = sorted(set(names))
    if len(chosen) < least:
        raise InputError(f"{len(chosen)} objects are chosen; choose {'one' if least == 1 else 'two'} or more")
    return chosen


def _renamed(labels: EditedArray, objects: Objects, names: Mapping[int, int]) -> Stroke:
    """Give objects other labels, reading only the box of each."""
    strokes = []
    for name, target in names.items():
        box = objects[name].box
        strokes.append(_stroke(labels, box, labels.read(box) == name, np.full(box.shape, target)))
    indices = np.concatenate([s.indices for s in strokes])
    order = np.argsort(indices, kind="stable")
    old, new = (np.concatenate([getattr(s, side) for s in strokes])[order] for side in ("old", "new"))
    return Stroke(indices[order], old, new)


def _stroke(labels: EditedArray, box: Box, where: npt.NDArray[np.bool_], values: npt.NDArray[np.int64]) -> Stroke:
    """Return the stroke that sets `values` of a box where `where` is true."""
    places = np.nonzero(where)
    spots = tuple(p + s for p, s in zip(places, box.start, strict=True))
    indices = np.ravel_multi_index(spots, labels.shape).astype(np.int64)
    return Stroke(indices, labels.read(box)[places], values[places].astype(labels.dtype))


def volume_um3(voxels: int, voxel_size_um: Sequence[float] | None) -> float | None:
    """Return a number of voxels as µm³, or None where the voxel size is unknown."""
    return None if voxel_size_um is None else voxels * math.prod(voxel_size_um)
