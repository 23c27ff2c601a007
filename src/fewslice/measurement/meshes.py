"""Surfaces of chosen objects of a label volume of any size, one file each.

1. The box of every object: from the object table if it was made from the same labels, else by a pass over the blocks.
2. Each object's surface from its box, or, if that is large, from blocks with one voxel in common.
3. Smoothed, simplified, written, and marked as done with the checksums of its files, so that a killed run resumes.

Each object is a unit of work of the engine that runs blocks, here or on workers.

Memory holds one box or block of labels, and the surface of one object.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewslice.blocks.engine import Engine, Retry, run_blocks
from fewslice.blocks.job import BlockFailure, Note, Work, how_to_mend
from fewslice.blocks.lock import locked
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.record import existing_record, open_record
from fewslice.errors import FewsliceError, InputError, PartialError
from fewslice.files import checksum, disk_error, remove_folder
from fewslice.geometry import Block, Box, cover
from fewslice.measurement.job import Source, SumBlocks, merged_sums
from fewslice.measurement.mesh import Mesh, Piece, march, placed, simplified, smoothed, weld
from fewslice.measurement.mesh_files import FORMATS, LEVELS, check_installed, file_of, write_info, write_mesh
from fewslice.measurement.objects import Progress, measured_volume, path_beside
from fewslice.measurement.surface import DIRECTIONS
from fewslice.volume import Volume

__all__ = [
    "MeshFolder",
    "MeshObjects",
    "as_block",
    "boxes_of_table",
    "mesh_error",
    "mesh_objects",
    "object_surface",
]

Triple = tuple[float, float, float]

_READ_VOXELS = 1 << 24
_WHOLE_VOXELS = 1 << 25
"""The largest box read at once: about 300 MB while cubes march."""


@dataclass(frozen=True)
class MeshFolder:
    """What was written.

    Attributes
    ----------
    folder
        Where the files are.
    written, found
        Ids of meshes made now, and number of those that were there already.
    failed
        Objects that could not be done, with the reasons.
    """

    folder: Path
    written: tuple[int, ...]
    found: int
    failed: tuple[tuple[Block, str], ...] = ()


def mesh_objects(
    labels: Source,
    folder: Path,
    objects: Sequence[int] | None = None,
    *,
    kind: str = "glb",
    voxel_size_um: Triple | None = None,
    error_um: float | None = None,
    smoothing: int = 10,
    table: Path | None = None,
    prefix: str = "",
    names: Sequence[int] | None = None,
    overwrite: bool = False,
    engine: Engine | None = None,
    retry: Retry | None = None,
    progress: Progress | None = None,
) -> MeshFolder:
    """Write the surfaces of objects, resuming what an earlier run left.

    Parameters
    ----------
    labels
        Ids, 0 being background.
    folder
        Where to; one file per object.
    objects
        Ids; all when None.
    kind
        ``glb``, ``ply``, ``stl``, ``obj`` or ``neuroglancer``.
    voxel_size_um
        z, y, x; by default what the labels state.
    error_um
        How far the simplified surface may lie from the vertices of the smoothed one; by default half the smallest
        extent of a voxel; 0 keeps all triangles.
    smoothing
        Rounds of Taubin smoothing; 0 keeps the staircase of voxels.
    table
        ``OUT.objects.csv``; its boxes are used if it was made from these labels.
    prefix
        Put before each id in the file names.
    names
        What to call each of `objects` instead of its id.
    overwrite
        Replace meshes of other labels or settings.
    engine, retry
        See :func:`fewslice.blocks.engine.run_blocks`.
    progress
        Called with (objects finished, objects in all).

    Raises
    ------
    InputError
        If the labels cannot be used, the voxel size is unknown, the format is unknown or needs what is not installed,
        an object is not there, the folder holds something else, or another run writes to it.
    PartialError
        If the labels cannot be read everywhere.
    DiskError
        If a mesh cannot be stored.
    """
    if kind not in FORMATS:
        raise InputError(f"meshes cannot be written as '{kind}'; choose one of {', '.join(FORMATS)}")
    volume, size = measured_volume(labels, voxel_size_um)
    error = mesh_error(error_um, size)
    if smoothing < 0:
        raise InputError(f"smoothing {smoothing} must not be below 0; give a number of rounds")
    check_installed(kind)
    digest = volume.content_hash(whole=True)
    place = path_beside(volume.source, folder)
    facts = [digest, place, list(size), list(volume.origin_um), error, smoothing, kind, prefix]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    with locked(folder):
        _check_folder(folder)
        record_folder = folder / ".fewslice"
        if record_folder.exists() and not overwrite:
            open_record(record_folder, key, what=str(folder))
        boxes = _boxes(labels, volume, digest, folder, table, engine, retry)
        chosen = sorted(boxes) if objects is None else [int(k) for k in objects]
        missing = [k for k in chosen if k not in boxes]
        if missing:
            shown = ", ".join(str(k) for k in missing[:5])
            raise InputError(f"{labels.path} holds no object {shown}; choose ids of the object table, or --objects all")
        title = dict(zip(chosen, names, strict=True)) if names is not None else {k: k for k in chosen}
        if overwrite and folder.exists():
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            record = open_record(record_folder, key, what=str(folder))
            if kind == "neuroglancer":
                write_info(folder)
        except OSError as failure:
            raise failure if isinstance(failure, FewsliceError) else disk_error(failure, folder) from failure
        plan = [as_block(k, boxes[k]) for k in sorted(chosen, key=lambda k: (boxes[k].start, k))]
        job = MeshObjects(
            labels,
            folder.absolute(),
            kind,
            size,
            error,
            smoothing,
            tuple((k, f"{prefix}{title[k]}") for k in chosen) if prefix or names is not None else (),
        )
        done = {mark.index for mark in record.marks()}
        there = {b.index for b in plan if b.index in done and file_of(folder, job.name(b.index[0]), kind).exists()}
        wanted = {b.index for b in plan}
        if record.finished or wanted & done - there:
            if wanted == there:
                return MeshFolder(folder, (), len(plan))
            record.unmark(wanted - there)
        others = len(done - wanted)  # meshes of earlier calls, which the record counts as well
        tell = None if progress is None else lambda count, total: progress(count - others, total)
        outcome = run_blocks(plan, record, job, engine=engine, retry=retry, progress=tell)
        if not outcome.failed:
            record.finish()
        written = wanted - there - {b.index for b, _ in outcome.failed}
        return MeshFolder(folder, tuple(sorted(k for (k,) in written)), len(there), outcome.failed)


def mesh_error(error_um: float | None, size: Triple) -> float:
    """Return how far a simplified surface may lie off, in µm: as asked for, or half the smallest extent of a voxel.

    Raises
    ------
    InputError
        If it is negative or not finite.
    """
    error = min(size) / 2 if error_um is None else error_um
    if not (math.isfinite(error) and error >= 0):
        raise InputError(f"error {error_um} µm must be finite and not below 0")
    return error


def as_block(k: int, box: Box) -> Block:
    """Return the unit of work of one object: its box, under its id."""
    return Block((k,), box, box, Box.of(box.shape))


@dataclass(frozen=True)
class MeshObjects:
    """The mesh of each object, whose id is the index of its block.

    Attributes
    ----------
    labels
        Ids.
    folder, kind
        Where to and in which format.
    voxel_size_um, error_um, smoothing
        See :func:`mesh_objects`.
    names
        (id, name of the file) of objects that are not called by their ids.
    """

    labels: Source
    folder: Path
    kind: str
    voxel_size_um: Triple
    error_um: float
    smoothing: int
    names: tuple[tuple[int, str], ...] = ()

    def name(self, k: int) -> str:
        """Return the name of an object's file."""
        return dict(self.names).get(k, str(k))

    def open(self) -> Work:
        """Open the labels and return the work."""
        volume = self.labels.open_labels()
        levels = LEVELS if self.kind == "neuroglancer" and self.error_um else (1.0,)
        errors = [self.error_um * factor for factor in levels]

        def compute(block: Block, nothing: None) -> list[Mesh]:
            try:  # what is read here may be far more than fits at once
                surface = object_surface(volume, block.index[0], block.write)
            except (InputError, OSError) as error:
                raise BlockFailure(f"cannot be read: {error}", may_pass=True) from error
            mesh = placed(surface, self.voxel_size_um, volume.origin_um)
            mesh = Mesh(np.asarray(smoothed(mesh.vertices, mesh.faces, self.smoothing)), mesh.faces)
            return [simplified(mesh, error) for error in errors]

        def write(block: Block, meshes: list[Mesh]) -> Note:
            files = write_mesh(self.folder, self.name(block.index[0]), self.kind, meshes, errors)
            return {"files": {file.name: checksum(file.read_bytes()) for file in files}}

        return Work(lambda block: None, compute, write)


def object_surface(volume: Volume, label: int, box: Box, most_voxels: int = _WHOLE_VOXELS) -> Piece:
    """Return the closed surface of one object, in half voxels.

    Parameters
    ----------
    volume
        Labels.
    label
        The object's id.
    box
        Region that holds all of it. Beyond the volume all is background, so that the surface is closed there, too.
    most_voxels
        The most that is read at once; the surface does not depend on it.
    """
    grown = box.grow((1, 1, 1))
    pieces = []
    for cells in _cell_boxes(grown, most_voxels):
        inside = cells.clip(volume.shape)
        mask = np.zeros(cells.shape, dtype=bool)
        place = inside.shift(tuple(-n for n in cells.start))
        mask[place.slices] = volume.read(inside)[0] == label
        pieces.append(march(mask, cells.start))
    return weld(pieces)


def _cell_boxes(box: Box, most_voxels: int) -> Iterator[Box]:
    """Cut a box into boxes that share one voxel, so that each cell between voxels lies in exactly one of them."""
    steps = [n - 1 for n in box.shape]
    while math.prod(s + 1 for s in steps) > most_voxels and max(steps) > 1:
        widest = steps.index(max(steps))
        steps[widest] = -(-steps[widest] // 2)
    ranges = [range(low, high - 1, step) for low, high, step in zip(box.start, box.stop, steps, strict=True)]
    for start in itertools.product(*ranges):
        stop = tuple(min(s + step + 1, high) for s, step, high in zip(start, steps, box.stop, strict=True))
        yield Box(start, stop)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which there is something else, which --overwrite would remove."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / ".fewslice" / "job.json").exists()):
        raise InputError(f"{folder} exists and holds no meshes of fewslice; choose another -o")


def _boxes(
    labels: Source,
    volume: Volume,
    digest: str,
    folder: Path,
    table: Path | None,
    engine: Engine | None,
    retry: Retry | None,
) -> dict[int, Box]:
    """Return the box of every object."""
    known = boxes_of_table(digest, table) if table is not None else None
    if known is not None:
        return known
    parts = folder.with_name(f".{folder.name}.parts")
    used = choose_block(volume.shape, (1, 1, 1), volume.chunks or choose_chunk(volume.shape), _READ_VOXELS)
    blocks = cover(volume.shape, used, (0, 0, 0))
    try:
        begun, key = existing_record(parts), f"{digest} {used}"
        if begun is not None and begun.key != key:  # of other labels; nobody's result
            remove_folder(parts)
        record = open_record(parts, key, what=str(folder))
    except OSError as failure:
        raise disk_error(failure, folder) from failure
    try:
        job = SumBlocks(labels, str(parts.absolute()), (0,) * len(DIRECTIONS))
        outcome = run_blocks(blocks, record, job, engine=engine, retry=retry)
    except InputError:  # such as negative labels: a refusal leaves nothing behind
        shutil.rmtree(parts, ignore_errors=True)
        raise
    if outcome.failed:
        block, reason = outcome.failed[0]
        raise PartialError(f"{labels.path} {reason} at block {block.index}; {how_to_mend('label image')}")
    boxes = {}
    for sums in merged_sums(str(parts), blocks):
        rows = zip(sums["id"].tolist(), sums["low"].tolist(), sums["high"].tolist(), strict=True)
        boxes.update({k: Box(tuple(low), tuple(high)) for k, low, high in rows})
    shutil.rmtree(parts, ignore_errors=True)
    return boxes


def boxes_of_table(digest: str, table: Path) -> dict[int, Box] | None:
    """Read the boxes from an object table that was made from the same labels, or return None."""
    summary = table.with_suffix(".json")
    if not (table.exists() and summary.exists()):
        return None
    try:
        made_from = json.loads(summary.read_text(encoding="utf-8"))["made_from"]["labels"]
    except (ValueError, KeyError, TypeError):
        return None
    if made_from != digest:
        return None
    with table.open(encoding="utf-8", newline="") as stream:
        return {
            int(row["id"]): Box(
                tuple(int(row[f"{axis}_start"]) for axis in "zyx"), tuple(int(row[f"{axis}_stop"]) for axis in "zyx")
            )
            for row in csv.DictReader(stream)
        }
