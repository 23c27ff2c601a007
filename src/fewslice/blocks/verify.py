"""Look again at everything that marks say was written: chunks of stores on every level, tables, meshes.

A mark notes ``checksums``, by array, of the chunks of its block, and ``files``, by name, of other files. A chunk that
holds only 0 is not stored, so that its absence alone says nothing; the checksum does.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewslice.blocks.record import Mark, existing_record
from fewslice.errors import InputError
from fewslice.files import checksum, disk_error
from fewslice.formats import ome_zarr
from fewslice.formats.ome_zarr import OutputStore
from fewslice.geometry import Box, Shape, cover

__all__ = ["Damage", "Verification", "forget_damaged", "output_of", "verify_store"]


@dataclass(frozen=True)
class Damage:
    """A chunk or file that is not as it was written.

    Attributes
    ----------
    array
        Path in the store, such as ``0`` or ``labels/segmentation/0``; empty for a file.
    record
        Folder of the record whose block it is, in the store or, of an unfinished segment, beside it.
    block
        Position of the block in the grid of that record; of a mesh, the object's id.
    chunk
        Path of the chunk in the array, or of the file.
    problem
        ``missing``, ``unreadable`` or ``changed``.
    """

    array: str
    record: str
    block: Shape
    chunk: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes
    ----------
    store
        The store.
    finished
        Whether the jobs that made it say that they are finished.
    blocks, chunks
        Marked blocks that were looked at, and chunks and files in them.
    failed
        Blocks that are recorded as failed, with their reasons.
    damaged
        What is not as it was written.
    """

    store: str
    finished: bool
    blocks: int
    chunks: int
    failed: tuple[tuple[Shape, str], ...]
    damaged: tuple[Damage, ...]

    @property
    def exit_code(self) -> int:
        """0: complete and as written; 1: damaged; 3: as written, but not complete."""
        return 1 if self.damaged else 0 if self.finished else 3

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "exit_code": self.exit_code}


def output_of(store: Path) -> Path:
    """Return the output that its writer locks: the store or folder itself, or the table whatever of it was named."""
    return store if store.is_dir() else store.with_suffix(".csv")


def verify_store(store: Path, progress: Callable[[int], None] | None = None) -> Verification:
    """Read everything that block-wise verbs have marked as written and compare it with its checksums.

    Parameters
    ----------
    store
        ``OUT.ome.zarr`` of predict, finished or not, with its objects and what an unfinished segment keeps beside it;
        the folder of mesh; ``OUT.objects.csv`` of measure, or its summary ``OUT.objects.json``.
    progress
        Called with the number of blocks looked at.

    Raises
    ------
    InputError
        If no such verb made it, or it kept no checksums.
    """
    if not store.is_dir():
        return _verify_table(store)
    records = _records(store)
    if existing_record(store / ".fewslice") is None:
        raise InputError(f"{store} holds no record of blocks; give what predict, segment, measure or mesh wrote")
    blocks = chunks = 0
    finished = True
    failed: list[tuple[Shape, str]] = []
    damaged: list[Damage] = []
    opened: dict[Path, OutputStore] = {}
    for folder in records:
        record = existing_record(folder)
        assert record is not None
        finished &= record.finished
        failed += record.failures().items()
        for mark in record.marks():
            found, count = _damage(store, folder, mark, opened)
            damaged += found
            blocks, chunks = blocks + 1, chunks + count
            if progress is not None:
                progress(blocks)
    if blocks and not chunks:
        raise InputError(f"{store} was written without checksums, so it cannot be verified; make it again")
    return Verification(str(store), finished, blocks, chunks, tuple(failed), tuple(damaged))


def forget_damaged(store: Path, damaged: tuple[Damage, ...]) -> None:
    """Take back the marks of damaged blocks and remove their damaged chunks and files.

    The command that made them then makes these blocks again, and what coarser levels hold of them. A cut shard would
    have to be read to be written to. Of a damaged table all files go, since it is made as a whole.

    Parameters
    ----------
    store
        What :func:`verify_store` looked at.
    damaged
        What it found.

    Raises
    ------
    DiskError
        If the marks cannot be changed.
    """
    if not store.is_dir():
        for path in (*_files_of(store).values(), _summary_of(store)):
            _remove(path)
        return
    by_record: dict[Path, set[Shape]] = {}
    for item in damaged:
        folder = _folder(store, item.record)
        by_record.setdefault(_owner(store, folder), set())
        by_record.setdefault(folder, set()).add(item.block)
    for folder, blocks in _built_on(store, damaged).items():
        by_record.setdefault(folder, set()).update(blocks)
    for folder, blocks in by_record.items():
        record = existing_record(folder)
        if record is not None:
            record.unmark(blocks)
    for item in damaged:
        _remove(_root(store, _folder(store, item.record)) / item.array / item.chunk)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def _built_on(store: Path, damaged: tuple[Damage, ...]) -> dict[Path, set[Shape]]:
    """Return, by record, the blocks of coarser levels that were made of damaged blocks, perhaps after the damage."""
    found: dict[Path, set[Shape]] = {}
    for name, folder in {(item.array, item.record) for item in damaged}:
        group, _, level = name.rpartition("/")
        record = existing_record(_folder(store, folder))
        if not level.isdecimal() or record is None:
            continue
        blocks = {item.block for item in damaged if (item.array, item.record) == (name, folder)}
        boxes = [mark.write for mark in record.marks() if mark.index in blocks]
        for above in itertools.count(int(level) + 1):
            marks = existing_record(store / ".fewslice" / "levels" / group / str(above))
            if marks is None:
                break
            step = ome_zarr.open_reduction(store / group, above).step
            boxes = [_reduced(box, step) for box in boxes]
            touched = {mark.index for mark in marks.marks() if any(_meet(mark.write, box) for box in boxes)}
            found.setdefault(marks.folder, set()).update(touched)
    return found


def _reduced(box: Box, step: Sequence[int]) -> Box:
    start = tuple(low // s for low, s in zip(box.start, step, strict=True))
    return Box(start, tuple(-(-high // s) for high, s in zip(box.stop, step, strict=True)))


def _meet(one: Box, other: Box) -> bool:
    ends = zip(one.start, one.stop, other.start, other.stop, strict=True)
    return all(a < d and c < b for a, b, c, d in ends)


# --- where records lie ----------------------------------------------------------------------------------------------


def _records(store: Path) -> list[Path]:
    """List the folders of records of a store: in it, and in the intermediate files of an unfinished segment."""
    places = (store / ".fewslice", _intermediate(store))
    return sorted(path.parent for place in places if place.is_dir() for path in place.rglob("job.json"))


def _intermediate(store: Path) -> Path:
    return store.with_name(f".{store.name}.instances")


def _name(store: Path, folder: Path) -> str:
    """Return the place of a record for a person: in the store, or beside it."""
    within = folder.is_relative_to(store)
    return folder.relative_to(store if within else store.parent).as_posix()


def _folder(store: Path, name: str) -> Path:
    beside = name.startswith(f"{_intermediate(store).name}/")
    return (store.parent if beside else store) / name


def _root(store: Path, folder: Path) -> Path:
    """Return the folder to which the names in a record's marks are relative."""
    return store if folder.is_relative_to(store) else _intermediate(store)


def _owner(store: Path, folder: Path) -> Path:
    """Return the record of the job that must run again for a damaged block of another record to be made again."""
    objects = store / ".fewslice" / "instances"
    levels = store / ".fewslice" / "levels" / "labels" / "instances"
    if folder == objects or folder.is_relative_to(levels):
        return objects
    return store / ".fewslice" if folder.is_relative_to(store) else folder


# --- what is compared -----------------------------------------------------------------------------------------------


def _summary_of(table: Path) -> Path:
    return table if table.suffix == ".json" else table.with_suffix(".json")


def _files_of(table: Path) -> dict[str, Path]:
    stem = _summary_of(table).name.removesuffix(".json")
    names = {"objects": f"{stem}.csv", "parquet": f"{stem}.parquet"}
    names["regions"] = f"{stem.removesuffix('.objects')}.regions.csv"
    return {what: table.with_name(name) for what, name in names.items()}


def _verify_table(table: Path) -> Verification:
    """Compare the files of a measurement with the checksums that its summary holds."""
    summary = _summary_of(table)
    parts = table.with_name(f".{summary.name.removesuffix('.json')}.parts")
    if not summary.is_file():
        if existing_record(parts) is not None:
            return Verification(str(table), False, 0, 0, (), ())
        raise InputError(f"{summary} does not exist; give a store, the folder of mesh, or OUT.objects.csv of measure")
    try:
        sums = json.loads(summary.read_text(encoding="utf-8"))["checksums"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{summary} holds no checksums, so nothing can be verified; measure with --overwrite"
        ) from error
    places = _files_of(table)
    damaged = []
    for what, expected in sums.items():
        problem = _file_problem(places[what], expected)
        if problem is not None:
            damaged.append(Damage("", "", (), places[what].name, problem))
    return Verification(str(table), True, 1, len(sums), (), tuple(damaged))


def _file_problem(path: Path, expected: int) -> str | None:
    try:
        return None if checksum(path.read_bytes()) == expected else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"


def _damage(store: Path, folder: Path, mark: Mark, opened: dict[Path, OutputStore]) -> tuple[list[Damage], int]:
    """Compare the chunks and files of one block; return what is wrong and how many there are."""
    found: list[Damage] = []
    count = 0
    root, place = _root(store, folder), _name(store, folder)
    for name, sums in mark.note.get("checksums", {}).items():
        if root / name not in opened:
            opened[root / name] = _open(root, name)
        array = opened[root / name]
        cells = list(_chunks(array, mark.write))
        count += len(cells)
        for (channel, box), expected in zip(cells, sums, strict=True):
            problem = _problem(array, channel, box, expected)
            if problem is not None:
                found.append(Damage(name, place, mark.index, str(_chunk_file(array, channel, box)), problem))
    for name, expected in mark.note.get("files", {}).items():
        count += 1
        problem = _file_problem(root / name, expected)
        if problem is not None:
            found.append(Damage("", place, mark.index, name, problem))
    return found, count


def _open(store: Path, name: str) -> OutputStore:
    group, _, level = name.rpartition("/")
    open_ = ome_zarr.open_label_store if group.startswith("labels/") else ome_zarr.open_image
    return open_(store / group, int(level))


def _chunks(array: OutputStore, box: Box) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Yield channel and box of each chunk (or shard) in the order of :func:`fewslice.formats.ome_zarr.checksums`."""
    for channel in np.ndindex(*array.array.shape[:-3]):
        for cell in cover(box.shape, array.unit, (0, 0, 0)):
            yield channel, cell.write.shift(box.start)


def _problem(array: OutputStore, channel: tuple[int, ...], box: Box, expected: int) -> str | None:
    try:
        values = np.asarray(array.array[(*channel, *box.slices)])
    except Exception:  # codecs raise errors of their own kinds
        return "unreadable"
    if ome_zarr.checksums(values, box.shape) == [expected]:
        return None
    return "changed" if (array.path / array.name / _chunk_file(array, channel, box)).exists() else "missing"


def _chunk_file(array: OutputStore, channel: tuple[int, ...], box: Box) -> Path:
    place = tuple(low // n for low, n in zip(box.start, array.unit, strict=True))
    return Path(array.array.metadata.encode_chunk_key((*channel, *place)))
