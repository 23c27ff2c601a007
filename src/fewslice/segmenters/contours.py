"""Contours: the proposals of a contour model become instances.

1. :class:`SuppressPlanes` keeps one proposal per object, a few planes at a time; what it keeps lies beside the output.
2. :class:`PaintBlocks` makes the label image, in blocks of whole chunks.
3. :func:`write_geojson` writes whole contours, so that objects which overlap stay whole.

Instances are numbered from 1 on, plane after plane; in a plane by descending score, equal scores by place, as
:func:`~fewslice.morphology.proposals.suppress` orders them. A pixel belongs to the contour with the highest score that
holds its centre. Each plane is segmented by itself, so that memory holds the proposals of some planes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from fewslice import io
from fewslice.blocks.engine import Engine, Outcome, Retry, run_blocks
from fewslice.blocks.job import Note, Work
from fewslice.blocks.lock import locked
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.pyramid import forget_pyramid, write_pyramids
from fewslice.blocks.record import Record, existing_record, open_record
from fewslice.data.contours import boxes
from fewslice.errors import InputError, PartialError
from fewslice.files import disk_error, remove_folder, write_atomic
from fewslice.geometry import Block, BlockGrid, Box, Shape, cover
from fewslice.morphology.proposals import Proposals, paint, suppress
from fewslice.prediction.proposals import folder_of, read_proposals
from fewslice.segmenters import Output, claim_instances, instances_finished, prediction_key
from fewslice.volume import Volume

__all__ = [
    "Config",
    "PaintBlocks",
    "Proposals",
    "SuppressPlanes",
    "channels",
    "instances_of",
    "painted",
    "proposals_of",
    "segment_store",
    "write_geojson",
]

Listener = Callable[[dict[str, Any]], None]

_AT_ONCE_BYTES = 1 << 29
"""Of proposals on disk, in one group of planes."""
_PAINTED_VOXELS = 1 << 24
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
    listener: Listener | None = None,
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
        See :func:`fewslice.blocks.engine.run_blocks`.
    listener
        Called with progress events.

    Returns
    -------
    dict
        ``output, contours`` (paths), ``segmenter, settings, objects, dtype, already_finished``.

    Raises
    ------
    InputError
        If the store is not of a contour model or not finished, holds instances of other settings or origin, or another
        run writes to it.
    PartialError
        If some planes or blocks could not be done; what is done is kept.
    DiskError
        If the disk refuses the write.
    """
    image = io.open_volume(store)
    channels([Output(str(o.get("name")), str(o.get("kind"))) for o in image.attributes.get("outputs", [])])
    settings = config.model_dump(mode="json")
    facts = {"segmenter": "contours", "settings": settings, "prediction": prediction_key(image, store)}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    contours = store.with_name(f"{store.name.removesuffix('.ome.zarr')}.contours.geojson")
    said = {"output": str(store), "contours": str(contours), "segmenter": "contours", "settings": settings}

    def finished() -> dict[str, Any]:
        known = io.open_labels(store / "labels" / "instances").attributes
        return said | {"objects": known["objects"], "dtype": known["dtype"], "already_finished": True}

    if not overwrite and instances_finished(store, key):  # it may be read-only by now
        return finished()
    place = store.absolute()  # workers may have another folder
    work = place.with_name(f".{store.name}.instances")
    axis, depth = int(image.attributes["plane_axis"]), _depth(store, image)

    def run(name: str, blocks: Sequence[Block], job: SuppressPlanes | PaintBlocks, marks: Record) -> None:
        outcome: Outcome = run_blocks(blocks, marks, job, engine=engine, retry=retry, progress=teller(name))
        if outcome.failed:
            block, reason = outcome.failed[0]
            raise PartialError(
                f"{len(outcome.failed)} blocks of {store} could not be segmented, the first at {block.write.start} "
                f"(z, y, x): {reason}; the same command tries again"
            )

    def teller(name: str) -> Callable[[int, int], None]:
        event = {"event": "block", "pass": name, "image": str(store)}
        return lambda done, blocks: None if listener is None else listener(event | {"done": done, "blocks": blocks})

    with locked(store):
        record = claim_instances(store, key, overwrite=overwrite)
        if record.finished:  # by a run that ended a moment ago
            return finished()
        io.remove_leftovers(store)
        kept = _begin(work, key, overwrite=overwrite)
        groups = BlockGrid(image.shape, _across(image.shape, axis, depth), (0, 0, 0), (1, 1, 1))
        run("suppress", list(groups), SuppressPlanes(place, work, axis, config.overlap, config.threshold), kept)
        counts = [int(mark.note["objects"]) for mark in kept.marks()]
        objects = sum(counts)
        found = {"objects": objects, "dtype": np.min_scalar_type(objects).name}
        chunk = image.chunks or choose_chunk(image.shape)
        _create(store, image, chunk, record, facts | found | {"key": key})
        blocks = cover(image.shape, choose_block(image.shape, (1, 1, 1), chunk, _PAINTED_VOXELS), (0, 0, 0))
        first = tuple(int(n) for n in np.cumsum([1, *counts[:-1]]))
        run("paint", sorted(blocks, key=lambda b: b.index[axis]), PaintBlocks(place, work, axis, depth, first), record)
        write_pyramids(store, ("labels/instances",), key, engine=engine, retry=retry, progress=teller("pyramid"))
        values = image.attributes.get("class_values") or [1]
        parts = (_load(work, axis, group) for group in range(len(groups)))
        write_geojson(contours, parts, class_values=values, voxel_size_um=image.voxel_size_um)
        record.finish()
        remove_folder(work)
    return said | found | {"already_finished": False}


def _depth(store: Path, image: Volume) -> int:
    """Return how many planes are looked at together: those of a block, or fewer where proposals are very many."""
    axis = int(image.attributes["plane_axis"])
    stored = sum(path.stat().st_size for path in folder_of(store).glob("*.npz"))
    fitting = _AT_ONCE_BYTES * image.shape[axis] // max(stored, 1)
    return max(1, min(int(image.attributes["block"][axis]), fitting))


def _across(shape: Sequence[int], axis: int, depth: int) -> tuple[int, ...]:
    return tuple(min(depth, n) if a == axis else n for a, n in enumerate(shape))


def _begin(work: Path, key: str, *, overwrite: bool) -> Record:
    """Make the folder of intermediate files, or keep the one that was begun with the same key."""
    marks = work / "suppress"
    known = existing_record(marks)
    if overwrite or known is None or known.key != key:
        remove_folder(work)
    try:
        return open_record(marks, key, what=str(work))
    except OSError as error:
        raise disk_error(error, work) from error


def _create(store: Path, image: Volume, chunk: Shape, record: Record, facts: dict[str, Any]) -> None:
    """Make the empty label image, unless some of it is painted."""
    if record.done() and (store / "labels" / "instances").exists():
        return
    record.unmark(record.done())
    forget_pyramid(store, "labels/instances")
    io.create_labels(
        store,
        "instances",
        shape=image.shape,
        dtype=np.dtype(facts["dtype"]),
        chunks=chunk,
        voxel_size_um=image.voxel_size_um,
        origin_um=image.origin_um,
        attributes=facts,
        overwrite=True,
    )


@dataclass(frozen=True)
class SuppressPlanes:
    """Pass 1: the instances of a group of planes, numbered by the mark's ``objects``.

    Attributes
    ----------
    store, work
        The prediction, and the folder of intermediate files.
    axis
        Along which planes are stacked.
    overlap, threshold
        As in :class:`Config`.
    """

    store: Path
    work: Path
    axis: int
    overlap: float
    threshold: float

    def open(self) -> Work:
        """Return the work."""

        def read(block: Block) -> Proposals:
            planes = range(block.write.start[self.axis], block.write.stop[self.axis])
            return read_proposals(self.store, planes)

        def compute(block: Block, proposals: Proposals) -> Proposals:
            return instances_of(proposals, overlap=self.overlap, threshold=self.threshold)

        def write(block: Block, instances: Proposals) -> Note:
            stream = BytesIO()
            np.savez(stream, **{name: getattr(instances, name) for name in _FIELDS})
            write_atomic(_file(self.work, block.index[self.axis]), stream.getvalue())
            return {"objects": len(instances)}

        return Work(read, compute, write)


@dataclass(frozen=True)
class PaintBlocks:
    """Pass 2: the label image of a block.

    Attributes
    ----------
    store, work
        The prediction, with ``labels/instances`` made, and the folder of intermediate files.
    axis, depth
        Along which planes are stacked, and how many planes are in a group.
    first
        The first id of each group.
    """

    store: Path
    work: Path
    axis: int
    depth: int
    first: tuple[int, ...]

    def open(self) -> Work:
        """Open the labels and return the work."""
        labels = io.open_output(self.store, labels="instances")
        load = lru_cache(maxsize=1)(lambda group: _load(self.work, self.axis, group))  # next blocks need it as well

        def compute(block: Block, nothing: None) -> NDArray[Any]:
            box = block.write
            result = np.zeros(box.shape, labels.array.dtype)
            low, high = box.start[self.axis], box.stop[self.axis]
            for group in range(low // self.depth, -(-high // self.depth)):
                result += painted(load(group), box, first=self.first[group], dtype=result.dtype)  # 0 in other planes
            return result

        def write(block: Block, values: NDArray[Any]) -> Note:
            return {"checksums": {"labels/instances/0": labels.write(block.write, values)}}

        return Work(lambda block: None, compute, write)


def _file(work: Path, group: int) -> Path:
    return work / f"{group}.npz"


def _load(work: Path, axis: int, group: int) -> Proposals:
    with np.load(_file(work, group), allow_pickle=False) as stored:
        return Proposals(**{name: stored[name] for name in _FIELDS}, plane_axis=axis)


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


def instances_of(proposals: Proposals, *, overlap: float = 0.2, threshold: float = 0.0) -> Proposals:
    """Keep one proposal per object, plane after plane, in each by descending score: in the order of their ids.

    Parameters
    ----------
    proposals
        All of some planes.
    overlap, threshold
        As for :func:`fewslice.morphology.proposals.suppress`.
    """
    kept = suppress(proposals, overlap=overlap, threshold=threshold)
    return kept.taken(np.argsort(kept.plane, kind="stable"))


def painted(instances: Proposals, box: Box, *, first: int = 1, dtype: DTypeLike = np.uint32) -> NDArray[Any]:
    """Paint instances into a part of a volume.

    Parameters
    ----------
    instances
        As :func:`instances_of` returns them.
    box
        The part.
    first
        Id of the first instance; the others follow.
    dtype
        Unsigned integers that hold all ids.

    Returns
    -------
    ndarray
        (z, y, x) of the box's extents; 0 is background. A part is painted as the whole is.
    """
    axis = instances.plane_axis
    low = np.delete(box.start, axis)
    height, width = (int(n) for n in np.delete(box.shape, axis))
    around = boxes(instances.contour)
    plane = instances.plane - box.start[axis]
    near = (plane >= 0) & (plane < box.shape[axis])
    near &= (around[:, :2] < low + np.array([height, width])).all(axis=1) & (around[:, 2:] >= low).all(axis=1)
    labels = np.zeros(box.shape, dtype)
    by_plane = np.moveaxis(labels, axis, 0)
    for index in np.unique(plane[near]):
        members = np.flatnonzero(near & (plane == index))
        names = np.concatenate(([0], members + first)).astype(dtype)
        by_plane[index] = names[paint(instances.contour[members] - low, (height, width))]
    return labels


def write_geojson(
    path: Path,
    parts: Iterable[Proposals],
    *,
    class_values: Sequence[int],
    voxel_size_um: Sequence[float] | None = None,
) -> None:
    """Write instances as a GeoJSON file of polygons, one to a line, as a whole or not at all.

    Coordinates are (x, y), or what lies in their place in planes along y or x, in pixels; integers are the centres of
    pixels. Every feature has the properties ``id``, ``score``, ``class`` (its value in the label files), ``plane``,
    ``plane_axis`` and, where the voxel is known, ``polygon_um``: the same ring in µm.

    Parameters
    ----------
    path
        The file to create or replace.
    parts
        Groups of planes, as :func:`instances_of` returns them; ids are 1, 2, … over all of them. Memory holds one.
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

    def lines() -> Iterator[str]:
        yield '{"type": "FeatureCollection", "features": ['
        before = "\n"
        for feature in _features(parts, class_values, voxel_size_um):
            yield before + json.dumps(feature, allow_nan=False)
            before = ",\n"
        yield "\n]}\n"

    write_atomic(path, lines())


def _features(
    parts: Iterable[Proposals], class_values: Sequence[int], voxel_size_um: Sequence[float] | None
) -> Iterator[dict[str, Any]]:
    number = 0
    for instances in parts:
        largest = int(instances.category.max(initial=0))
        if largest > len(class_values):
            raise InputError(f"an instance is of class {largest}, but values of {len(class_values)} classes are given")
        axis, planes = instances.plane_axis, instances.plane
        pixel = None if voxel_size_um is None else np.delete(np.asarray(voxel_size_um, np.float64), axis)
        for index, contour in enumerate(instances.contour):
            number += 1
            points = contour.astype(np.float64)
            properties: dict[str, Any] = {
                "id": number,
                "score": round(float(instances.score[index]), 4),
                "class": int(class_values[instances.category[index] - 1]),
                "plane": int(planes[index]),
                "plane_axis": "zyx"[axis],
            }
            if pixel is not None:
                properties["polygon_um"] = _ring(points * pixel)
            geometry = {"type": "Polygon", "coordinates": [_ring(points)]}
            yield {"type": "Feature", "id": number, "geometry": geometry, "properties": properties}


def _ring(contour: NDArray[np.float64]) -> list[list[float]]:
    """Return a closed ring of (x, y), rounded to a thousandth."""
    ring: list[list[float]] = np.round(np.concatenate((contour, contour[:1]))[:, ::-1], 3).tolist()
    return ring
