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
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fewslice import io
from fewslice.blocks.engine import Engine, Retry, run_blocks
from fewslice.blocks.job import Note, Work
from fewslice.blocks.pyramid import forget_pyramid, write_pyramids
from fewslice.errors import FewsliceError, InputError
from fewslice.files import write_atomic
from fewslice.geometry import Block, BlockGrid
from fewslice.morphology.proposals import Proposals, paint, suppress
from fewslice.prediction.proposals import read_proposals
from fewslice.segmenters import Output, claim_instances

__all__ = [
    "Config",
    "PaintPlanes",
    "Proposals",
    "channels",
    "paint",
    "painted_planes",
    "proposals_of",
    "segment_store",
    "suppress",
    "write_geojson",
]


_CHUNK_PIXELS = 512
_FIELDS = ("anchor", "score", "category", "contour")


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
    engine: Engine | None = None,
    retry: Retry | None = None,
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
    engine, retry
        Where planes are painted; see :func:`fewslice.blocks.engine.run_blocks`.
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
    axis = instances.plane_axis
    place = store / "labels" / "instances"
    if not place.exists() or io.open_labels(place).attributes.get("key") != key:
        forget_pyramid(store, "labels/instances")
        io.create_labels(
            store,
            "instances",
            shape=image.shape,
            dtype=dtype,
            chunks=_plane(image.shape, axis, _CHUNK_PIXELS),
            voxel_size_um=image.voxel_size_um,
            origin_um=image.origin_um,
            attributes=facts | found | {"key": key},
            overwrite=True,
        )
        record.unmark(record.done())
    kept = store.with_name(f".{store.name}.instances.npz")
    _save(kept, instances)

    def teller(name: str) -> Callable[[int, int], None]:
        event = {"event": "block", "pass": name, "image": str(store)}
        return lambda done, blocks: (listener or _ignore)(event | {"done": done, "blocks": blocks})

    plan = BlockGrid(image.shape, _plane(image.shape, axis), (0, 0, 0), (1, 1, 1))
    job = PaintPlanes(store.absolute(), kept.absolute())
    outcome = run_blocks(plan, record, job, engine=engine, retry=retry, progress=teller("paint"))
    if outcome.failed:
        plane, reason = outcome.failed[0]
        raise FewsliceError(f"plane {plane.index[axis]} of {store} cannot be painted: {reason}; run the command again")
    write_pyramids(store, ("labels/instances",), key, engine=engine, retry=retry, progress=teller("pyramid"))
    values = image.attributes.get("class_values") or [1]
    write_geojson(contours, instances, class_values=values, voxel_size_um=image.voxel_size_um)
    record.finish()
    kept.unlink(missing_ok=True)
    return said | found | {"already_finished": False}


@dataclass(frozen=True)
class PaintPlanes:
    """Paint the instances of each plane.

    Attributes
    ----------
    store
        The prediction, with ``labels/instances`` made.
    instances
        File that :func:`_save` wrote.
    """

    store: Path
    instances: Path

    def open(self) -> Work:
        """Load the instances and return the work."""
        with np.load(self.instances, allow_pickle=False) as stored:
            anchor, score, category, contour = (stored[name] for name in _FIELDS)
            instances = Proposals(anchor, score, category, contour, int(stored["plane_axis"]))
        labels = io.open_output(self.store, labels="instances")
        axis, dtype = instances.plane_axis, labels.array.dtype

        def compute(block: Block, nothing: None) -> NDArray[Any]:
            members = np.flatnonzero(instances.plane == block.index[axis])
            height, width = (n for a, n in enumerate(block.write.shape) if a != axis)
            return np.expand_dims(_painted(instances, members, (height, width)), axis).astype(dtype)

        def write(block: Block, values: NDArray[Any]) -> Note:
            return {"checksums": {"labels/instances/0": labels.write(block.write, values)}}

        return Work(lambda block: None, compute, write)


def _save(path: Path, instances: Proposals) -> None:
    stream = BytesIO()
    arrays = {name: getattr(instances, name) for name in _FIELDS}
    np.savez(stream, plane_axis=instances.plane_axis, **arrays)
    write_atomic(path, stream.getvalue())


def _plane(shape: Sequence[int], axis: int, most: int | None = None) -> tuple[int, ...]:
    """Return the extents of a plane, or of a piece of it of at most so many pixels along an axis."""
    return tuple(1 if a == axis else min(extent, most or extent) for a, extent in enumerate(shape))


def _ignore(event: dict[str, Any]) -> None:
    """Listen to nothing."""


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
        yield int(plane), _painted(instances, members, (extent[0], extent[1]))


def _painted(instances: Proposals, members: NDArray[np.integer], extent: tuple[int, int]) -> NDArray[np.uint32]:
    """Paint some instances of one plane, under their ids."""
    names = np.concatenate(([0], members + 1)).astype(np.uint32)
    return names[paint(instances.contour[members], extent)]


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
