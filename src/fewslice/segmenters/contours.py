"""Contours: the proposals of a contour model become instances.

1. `proposals_of` reads what ``fewslice predict`` has stored, block after block.
2. `suppress` keeps one proposal per object.
3. `paint` makes the label image of a plane; `write_geojson` writes whole contours, so that objects which overlap stay
   whole.

Instances are numbered from 1 on by descending score over the whole volume, equal scores by place, as `suppress` orders
them. A pixel belongs to the contour with the highest score that holds its centre. Each plane is segmented by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fewslice import io
from fewslice.blocks.plan import choose_chunk
from fewslice.errors import InputError
from fewslice.files import write_atomic
from fewslice.geometry import Box
from fewslice.morphology.proposals import Proposals, paint, suppress
from fewslice.prediction.proposals import read_proposals
from fewslice.segmenters import Output, claim_instances

__all__ = [
    "Config",
    "Proposals",
    "channels",
    "paint",
    "painted_planes",
    "proposals_of",
    "segment_store",
    "suppress",
    "write_geojson",
]


class Config(BaseModel):
    """How proposals become instances."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap: float = Field(0.2, ge=0, le=1, description="largest IoU of the boxes of two instances of a plane")
    threshold: float = Field(0.0, ge=0, le=1, description="lower scores are left out; predict has its own threshold")


def channels(outputs: Sequence[Output]) -> tuple[int, ...]:
    """Return the positions of the scores.

    Raises
    ------
    InputError
        If the outputs are not those of a model that proposes contours.
    """
    found = tuple(i for i, output in enumerate(outputs) if output.kind == "contour")
    if not found:
        have = ", ".join(f"{o.name} ({o.kind})" for o in outputs) or "none"
        raise InputError(
            f"segmenter contours needs a contour output, but the outputs are {have}; choose another segmenter"
        )
    return found


def segment_store(
    config: Config,
    store: Path,
    *,
    overwrite: bool = False,
    listener: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Write the instances of a prediction: ``labels/instances`` in it, and whole contours in ``OUT.contours.geojson``.

    Parameters
    ----------
    config
        Settings.
    store
        ``OUT.ome.zarr``, with ``OUT.proposals`` beside it.
    overwrite
        Replace instances of other settings.
    listener
        Called with progress events.

    Returns
    -------
    dict
        ``output, contours`` (paths), ``segmenter, settings, objects, dtype, already_finished``.

    Raises
    ------
    InputError
        If the store is not of a contour model or not finished, or holds instances of other settings or origin.
    DiskError
        If the disk refuses the write.
    """
    image = io.open_volume(store)
    prediction = (store / ".fewslice" / "job.json").read_text(encoding="utf-8")
    settings = config.model_dump(mode="json")
    facts = {"segmenter": "contours", "settings": settings, "prediction": json.loads(prediction)["key"]}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    record = claim_instances(store, key, overwrite=overwrite)
    contours = store.with_name(f"{store.name.removesuffix('.ome.zarr')}.contours.geojson")
    said = {"output": str(store), "contours": str(contours), "segmenter": "contours", "settings": settings}
    if record.finished:
        known = io.open_labels(store / "labels" / "instances").attributes
        return said | {"objects": known["objects"], "dtype": known["dtype"], "already_finished": True}
    io.remove_leftovers(store)
    instances = suppress(proposals_of(store), overlap=config.overlap, threshold=config.threshold)
    dtype = np.min_scalar_type(len(instances.score))
    found = {"objects": len(instances.score), "dtype": dtype.name}
    io.create_labels(
        store,
        "instances",
        shape=image.shape,
        dtype=dtype,
        chunks=choose_chunk(image.shape),
        voxel_size_um=image.voxel_size_um,
        origin_um=image.origin_um,
        attributes=facts | found | {"key": key},
        overwrite=True,
    )
    labels = io.open_output(store, labels="instances")
    axis = instances.plane_axis
    for plane, painted in painted_planes(instances, image.shape):
        start = tuple(plane if a == axis else 0 for a in range(3))
        stop = tuple(plane + 1 if a == axis else extent for a, extent in enumerate(image.shape))
        labels.write(Box(start, stop), np.expand_dims(painted, axis).astype(dtype))
        if listener is not None:
            done = {"event": "block", "pass": "paint", "image": str(store), "done": plane + 1}
            listener(done | {"blocks": image.shape[axis]})
    io.write_pyramid(store, group="labels/instances")
    values = image.attributes.get("class_values") or [1]
    write_geojson(contours, instances, class_values=values, voxel_size_um=image.voxel_size_um)
    record.finish()
    return said | found | {"already_finished": False}


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
