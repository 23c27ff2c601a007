"""Contours: the proposals of a contour model become instances.

1. `proposals_of` reads what ``fewslice predict`` has stored, block after block.
2. `suppress` keeps one proposal per object.
3. `paint` makes the label image of a plane; `write_geojson` writes whole contours, so that objects which overlap stay
   whole.

Instances are numbered from 1 on by descending score over the whole volume, equal scores by place, as `suppress` orders
them. A pixel belongs to the contour with the highest score that holds its centre. Each plane is segmented by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fewslice.errors import InputError
from fewslice.files import write_atomic
from fewslice.morphology.proposals import Proposals, paint, suppress
from fewslice.prediction.proposals import read_proposals

__all__ = ["Config", "Proposals", "paint", "painted_planes", "proposals_of", "suppress", "write_geojson"]


class Config(BaseModel):
    """How proposals become instances."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap: float = Field(0.2, ge=0, le=1, description="largest IoU of the boxes of two instances of a plane")
    threshold: float = Field(0.0, ge=0, le=1, description="lower scores are left out; predict has its own threshold")


def proposals_of(output: str | Path) -> Proposals:
    """Read the proposals that belong to an output of ``fewslice predict``.

    Parameters
    ----------
    output
        ``OUT.ome.zarr``, with ``OUT.proposals`` beside it.

    Raises
    ------
    InputError
        If the output is not of a contour model or not finished, or a file is missing or damaged.
    """
    return read_proposals(Path(output))


def painted_planes(instances: Proposals, shape: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """Paint instances plane by plane.

    Parameters
    ----------
    instances
        As `suppress` returns them; instance i has the id i + 1 in every plane.
    shape
        (z, y, x) of the volume, in voxels.

    Yields
    ------
    index, labels
        Index of a plane along ``instances.plane_axis``, ascending, and its uint32 labels; planes without any instance
        are left out.
    """
    extent = tuple(int(n) for axis, n in enumerate(shape) if axis != instances.plane_axis)
    order = np.argsort(instances.plane, kind="stable")
    planes, first = np.unique(instances.plane[order], return_index=True)
    groups = np.split(order, first[1:]) if len(planes) else []
    for plane, members in zip(planes, groups, strict=True):
        names = np.concatenate(([0], members + 1)).astype(np.uint32)
        yield int(plane), names[paint(instances.contour[members], (extent[0], extent[1]))]


def write_geojson(
    path: Path,
    instances: Proposals,
    *,
    class_values: Sequence[int],
    voxel_size_um: Sequence[float] | None = None,
) -> None:
    """Write instances as a GeoJSON file of polygons, as a whole or not at all.

    Coordinates are (x, y), or what lies in their place in planes along y or x, in pixels; integers are the centres of
    pixels. Every feature has the properties ``id``, ``score``, ``class`` (its value in the label files), ``plane``,
    ``plane_axis`` and, where the voxel is known, ``polygon_um``: the same ring in µm.

    Parameters
    ----------
    path
        The file to create or replace.
    instances
        As `suppress` returns them; instance i has the id i + 1.
    class_values
        The value that class k had in the label files, at index k − 1.
    voxel_size_um
        (z, y, x), or None.

    Raises
    ------
    InputError
        If an instance is of a class without a value.
    DiskError
        If the disk refuses the file.
    """
    largest = int(instances.category.max(initial=0))
    if largest > len(class_values):
        raise InputError(f"an instance is of class {largest}, but values of {len(class_values)} classes are given")
    axis = instances.plane_axis
    pixel = None
    if voxel_size_um is not None:
        pixel = np.array([size for a, size in enumerate(voxel_size_um) if a != axis])
    planes = instances.plane
    features = []
    for index, contour in enumerate(instances.contour.astype(np.float64)):
        properties: dict[str, Any] = {
            "id": index + 1,
            "score": round(float(instances.score[index]), 4),
            "class": int(class_values[instances.category[index] - 1]),
            "plane": int(planes[index]),
            "plane_axis": "zyx"[axis],
        }
        if pixel is not None:
            properties["polygon_um"] = _ring(contour * pixel)
        geometry = {"type": "Polygon", "coordinates": [_ring(contour)]}
        features.append({"type": "Feature", "id": index + 1, "geometry": geometry, "properties": properties})
    text = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)
    write_atomic(path, text + "\n")


def _ring(contour: NDArray[np.float64]) -> list[list[float]]:
    """Return a closed ring of (x, y), rounded to a thousandth."""
    ring: list[list[float]] = np.round(np.concatenate((contour, contour[:1]))[:, ::-1], 3).tolist()
    return ring
