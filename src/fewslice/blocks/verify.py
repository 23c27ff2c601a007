"""Look again at everything that a store's marks say was written: every chunk of every marked block, on every level.

A chunk that holds only 0 is not stored, so that its absence alone says nothing; the checksum in the block's mark does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewslice.blocks.record import Mark, existing_record
from fewslice.errors import InputError
from fewslice.files import disk_error
from fewslice.formats import ome_zarr
from fewslice.formats.ome_zarr import OutputStore
from fewslice.geometry import Box, Shape, cover

__all__ = ["Damage", "Verification", "forget_damaged", "verify_store"]


@dataclass(frozen=True)
class Damage:
    """A chunk that is not as it was written.

    Attributes
    ----------
    array
        Path in the store, such as ``0`` or ``labels/segmentation/0``.
    record
        Folder of the record whose block it is, in the store.
    block
        Position of the block in the grid of that record.
    chunk
        Path of the chunk in the array.
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
        Whether the job that made it says that it is finished.
    blocks, chunks
        Marked blocks that were looked at, and chunks in them.
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


def verify_store(store: Path, progress: Callable[[int], None] | None = None) -> Verification:
    """Read every chunk of every block that is marked as written and compare it with its checksum.

    Parameters
    ----------
    store
        ``OUT.ome.zarr`` of a block-wise verb, finished or not.
    progress
        Called with the number of blocks looked at.

    Raises
    ------
    InputError
        If no such verb made the store, or it kept no checksums.
    """
    main = existing_record(store / ".fewslice")
    if main is None:
        raise InputError(f"{store} holds no record of blocks; give the OUT.ome.zarr that predict wrote")
    blocks = chunks = 0
    damaged: list[Damage] = []
    opened: dict[str, OutputStore] = {}
    for folder in _records(store):
        record = existing_record(folder)
        assert record is not None
        for mark in record.marks():
            found, count = _damage(store, folder, mark, opened)
            damaged += found
            blocks, chunks = blocks + 1, chunks + count
            if progress is not None:
                progress(blocks)
    if blocks and not chunks:
        raise InputError(f"{store} was written without checksums, so it cannot be verified; make it again")
    failed = tuple(main.failures().items())
    return Verification(str(store), main.finished, blocks, chunks, failed, tuple(damaged))


def forget_damaged(store: Path, damaged: tuple[Damage, ...]) -> None:
    """Take back the marks of damaged blocks and remove their damaged chunks.

    The command that made the store then makes these blocks again, and what coarser levels hold of them. A cut shard
    would have to be read to be written to.

    Parameters
    ----------
    store
        The store.
    damaged
        What :func:`verify_store` found.

    Raises
    ------
    DiskError
        If the marks cannot be changed.
    """
    by_record: dict[Path, set[Shape]] = {store / ".fewslice": set()}
    for item in damaged:
        by_record.setdefault(store / item.record, set()).add(item.block)
    for folder, blocks in _built_on(store, damaged).items():
        by_record.setdefault(folder, set()).update(blocks)
    for folder, blocks in by_record.items():
        record = existing_record(folder)
        if record is not None:
            record.unmark(blocks)
    for item in damaged:
        chunk = store / item.array / item.chunk
        try:
            chunk.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, chunk) from error


def _built_on(store: Path, damaged: tuple[Damage, ...]) -> dict[Path, set[Shape]]:
    """Return, by record, the blocks of coarser levels that were made of damaged blocks, perhaps after the damage."""
    found: dict[Path, set[Shape]] = {}
    for name, folder in {(item.array, item.record) for item in damaged}:
        group, _, level = name.rpartition("/")
        record = existing_record(store / folder)
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


def _records(store: Path) -> list[Path]:
    return sorted(path.parent for path in (store / ".fewslice").rglob("job.json"))


def _damage(store: Path, folder: Path, mark: Mark, opened: dict[str, OutputStore]) -> tuple[list[Damage], int]:
    """Compare the chunks of one block; return what is wrong and how many there are."""
    found: list[Damage] = []
    count = 0
    for name, sums in mark.note.get("checksums", {}).items():
        if name not in opened:
            opened[name] = _open(store, name)
        array = opened[name]
        cells = list(_chunks(array, mark.write))
        count += len(cells)
        for (channel, box), expected in zip(cells, sums, strict=True):
            problem = _problem(array, channel, box, expected)
            if problem is not None:
                place = str(folder.relative_to(store))
                found.append(Damage(name, place, mark.index, str(_chunk_file(array, channel, box)), problem))
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
