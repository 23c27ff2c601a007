"""Surfaces of chosen objects of a label volume of any size, one file each.

1. The box of every object: from the object table if it was made from the same labels, else by a pass over the blocks.
2. Each object's surface from its box, or, if that is large, from blocks with one voxel in common.
3. Smoothed, simplified, written. A file that exists is complete, so a killed run resumes.

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

from fewslice.blocks.engine import run_blocks
from fewslice.blocks.plan import choose_block
from fewslice.blocks.record import open_record
from fewslice.errors import FewsliceError, InputError, PartialError
from fewslice.files import disk_error
from fewslice.geometry import Box, cover
from fewslice.measurement.job import Source, SumBlocks, merged_sums
from fewslice.measurement.mesh import Mesh, Piece, march, placed, simplified, smoothed, weld
from fewslice.measurement.mesh_files import FORMATS, LEVELS, check_installed, file_of, write_info, write_mesh
from fewslice.measurement.objects import Progress, measured_volume, path_beside
from fewslice.measurement.surface import DIRECTIONS
from fewslice.volume import Volume

__all__ = ["MeshFolder", "mesh_objects", "object_surface"]

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
    """

    folder: Path
    written: tuple[int, ...]
    found: int


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
    progress
        Called with (objects finished, objects in all).

    Raises
    ------
    InputError
        If the labels cannot be used, the voxel size is unknown, the format is unknown or needs what is not installed,
        an object is not there, or the folder holds something else.
    PartialError
        If the labels cannot be read everywhere.
    DiskError
        If a mesh cannot be stored.
    """
    if kind not in FORMATS:
        raise InputError(f"meshes cannot be written as '{kind}'; choose one of {', '.join(FORMATS)}")
    volume, size = measured_volume(labels, voxel_size_um)
    error = min(size) / 2 if error_um is None else error_um
    if not (math.isfinite(error) and error >= 0 and smoothing >= 0):
        raise InputError(f"error {error_um} µm and smoothing {smoothing} must be finite and not below 0")
    check_installed(kind)
    digest = volume.content_hash(whole=True)
    place = path_beside(volume.source, folder)
    facts = [digest, place, list(size), list(volume.origin_um), error, smoothing, kind, prefix]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    _check_folder(folder, overwrite=overwrite)
    record_folder = folder / ".fewslice"
    if record_folder.exists() and not overwrite:
        open_record(record_folder, key, what=str(folder))
    boxes = _boxes(labels, volume, digest, folder, table)
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
        open_record(record_folder, key, what=str(folder))
        if kind == "neuroglancer":
            write_info(folder)
    except OSError as failure:
        raise failure if isinstance(failure, FewsliceError) else disk_error(failure, folder) from failure
    written = []
    for done, k in enumerate(sorted(chosen, key=lambda k: boxes[k].start)):
        name = f"{prefix}{title[k]}"
        if not file_of(folder, name, kind).exists():
            surface = placed(object_surface(volume, k, boxes[k]), size, volume.origin_um)
            surface = Mesh(np.asarray(smoothed(surface.vertices, surface.faces, smoothing)), surface.faces)
            errors = [error * factor for factor in (LEVELS if kind == "neuroglancer" and error else (1.0,))]
            write_mesh(folder, name, kind, [simplified(surface, e) for e in errors], errors)
            written.append(k)
        if progress is not None:
            progress(done + 1, len(chosen))
    return MeshFolder(folder, tuple(sorted(written)), len(chosen) - len(written))


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


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / ".fewslice" / "job.json").exists()):
        raise InputError(f"{folder} exists and holds no meshes of fewslice; choose another -o")


def _boxes(labels: Source, volume: Volume, digest: str, folder: Path, table: Path | None) -> dict[int, Box]:
    """Return the box of every object."""
    known = _boxes_of_table(digest, table) if table is not None else None
    if known is not None:
        return known
    parts = folder.with_name(f".{folder.name}.parts")
    used = choose_block(volume.shape, (1, 1, 1), volume.chunks or volume.shape, _READ_VOXELS)
    blocks = cover(volume.shape, used, (0, 0, 0))
    try:
        parts.parent.mkdir(parents=True, exist_ok=True)
        record = open_record(parts, f"{digest} {used}", what=str(folder))
    except OSError as failure:
        raise disk_error(failure, folder) from failure
    try:
        outcome = run_blocks(blocks, record, SumBlocks(labels, str(parts), (0,) * len(DIRECTIONS)))
    except InputError:  # such as negative labels: a refusal leaves nothing behind
        shutil.rmtree(parts, ignore_errors=True)
        raise
    if outcome.failed:
        block, reason = outcome.failed[0]
        raise PartialError(f"{labels.path} {reason} at block {block.index}; mend it and run the same command again")
    boxes = {}
    for sums in merged_sums(str(parts), blocks):
        rows = zip(sums["id"].tolist(), sums["low"].tolist(), sums["high"].tolist(), strict=True)
        boxes.update({k: Box(tuple(low), tuple(high)) for k, low, high in rows})
    shutil.rmtree(parts, ignore_errors=True)
    return boxes


def _boxes_of_table(digest: str, table: Path) -> dict[int, Box] | None:
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
