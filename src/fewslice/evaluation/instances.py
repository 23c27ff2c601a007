"""How well the objects of a stored segmentation are found, judged where truth exists.

Objects are counted on annotated voxels only: what lies outside is cut off on both sides, and an object without an
annotated voxel does not exist. Where annotated planes stand alone, as planes 4, 8 and 12 of z, nobody knows what a
true object is in 3D: there the cross-sections on each plane are matched, plane by plane, and all counts are of
cross-sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io
from fewslice.annotation import Annotation, from_labels
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.metrics import instance
from fewslice.metrics.surface import isolated_axis
from fewslice.segmenters import check_finished
from fewslice.volume import Volume

__all__ = ["evaluate_instances", "open_instances"]

Array = npt.NDArray[Any]

_PART_VOXELS = 1 << 25


def open_instances(path: str | Path) -> Volume:
    """Open the objects of a prediction, or any label image.

    Parameters
    ----------
    path
        ``OUT.ome.zarr`` with ``labels/instances`` in it, or a file or store of integer labels.

    Raises
    ------
    InputError
        If it is a prediction without objects or with unfinished ones, or no label image.
    """
    place = Path(path)
    if (place / "labels" / "instances").is_dir():
        check_finished(place / "labels" / "instances")
        return io.open_labels(place / "labels" / "instances")
    if (place / "labels" / "segmentation").is_dir():
        raise InputError(f"{path} has no labels/instances yet; run fewslice segment {path}, then evaluate")
    check_finished(place)
    volume = io.open_labels(path)
    if "outputs" in volume.attributes:
        raise InputError(f"{path} holds scores, no objects yet; run fewslice segment {path}, then evaluate")
    return volume


def evaluate_instances(
    prediction: str | Path | Array,
    truth: str | Path | Annotation,
    *,
    axes: str | None = None,
    planes: Sequence[str] = (),
    background: int | None = None,
    unlabelled: int | str | None = None,
    min_size: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare objects with true objects, on annotated voxels only.

    Parameters
    ----------
    prediction
        Path of a prediction or a label image, or an integer array (z, y, x); 0 is background.
    truth
        Path of a label image of object ids, or an annotation of instances; of the same shape.
    axes, planes, background, unlabelled
        What the axes and values of the truth's file mean, as in :func:`fewslice.annotation.from_labels`.
    min_size
        Objects of fewer annotated voxels are ignored on both sides; see :func:`fewslice.metrics.instance.match`.
    seed
        Of the bootstrap over cells.

    Returns
    -------
    dict
        As :func:`fewslice.metrics.instance.scores`, and ``matched_in``: ``volume``, or ``planes`` where cross-sections
        were matched, with ``plane_axis`` (``z``, ``y`` or ``x``); ``annotated_voxels`` and ``annotated_share``.

    Raises
    ------
    InputError
        If a file cannot be read or understood, shapes differ, the truth is of classes, or nothing is annotated.
    """
    if isinstance(prediction, np.ndarray):
        source, objects = "prediction", Volume.from_array(prediction)
    else:
        source, objects = str(prediction), open_instances(prediction)
    if not isinstance(truth, Annotation):
        truth = from_labels(
            io.read_labels(truth, axes=axes, shape=objects.shape, kind="instances", planes=planes),
            kind="instances",
            planes=planes,
            background=background,
            unlabelled=unlabelled,
            allow_one_class=True,
            name=str(truth),
        )
    if truth.kind != "instances":
        raise InputError("the truth is of classes, but objects are compared with objects; give truth of object ids")
    if objects.shape != truth.shape:
        raise InputError(
            f"{source} has shape {objects.shape} (z, y, x), but the truth has shape {truth.shape}; "
            "give the truth of the same image, or its axes with --axes"
        )
    if not truth.annotated.any():
        raise InputError("the truth has no annotated voxel; annotate at least one plane or check --planes")
    if min_size < 0:
        raise InputError(f"--ignore-smaller {min_size} must not be negative")
    axis = isolated_axis(truth.annotated) if truth.shape[0] > 1 else None  # a single plane is the whole of its objects
    if axis is None:
        depth = max(1, _PART_VOXELS // (truth.shape[1] * truth.shape[2]))
        boxes = _slabs(truth.shape, 0, range(0, truth.shape[0], depth), depth)
        images = [instance.add_overlaps([_count(objects, truth, box) for box in boxes])]
    else:
        images = [_count(objects, truth, box) for box in _slabs(truth.shape, axis, truth.planes(axis), 1)]
    result = instance.scores(images, min_size=min_size, generator=np.random.default_rng(seed))
    result["matched_in"] = "volume" if axis is None else "planes"
    result["plane_axis"] = None if axis is None else "zyx"[axis]
    result["annotated_voxels"] = int(np.count_nonzero(truth.annotated))
    result["annotated_share"] = result["annotated_voxels"] / truth.annotated.size
    return result


def _slabs(shape: tuple[int, int, int], axis: int, starts: Sequence[int], depth: int) -> list[Box]:
    boxes = []
    for start in starts:
        low, high = [0, 0, 0], list(shape)
        low[axis], high[axis] = start, min(start + depth, shape[axis])
        boxes.append(Box(tuple(low), tuple(high)))
    return boxes


def _count(objects: Volume, truth: Annotation, box: Box) -> instance.Overlaps:
    return instance.count_overlaps(truth.labels[box.slices], objects.read(box)[0], truth.annotated[box.slices])
