"""What is done of a block-wise job: one small file per block, bound to a key of everything that shapes the result.

A mark says which box was written and what the job noted about it, such as checksums. When all blocks are done the marks
become the lines of one file, ``written.jsonl``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewslice.errors import FewsliceError, InputError
from fewslice.files import write_atomic, write_json
from fewslice.geometry import Block, Box, Shape

__all__ = ["Mark", "Record", "existing_record", "is_finished", "open_record"]

_DONE = ".done"


@dataclass(frozen=True)
class Mark:
    """A block that was written.

    Attributes
    ----------
    index
        Position in the grid of blocks.
    write
        The box that was written.
    note
        What the job noted.
    """

    index: Shape
    write: Box
    note: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """The marks of one job.

    Attributes
    ----------
    folder
        Where the marks lie.
    key
        Hash of input, model, geometry and settings.
    """

    folder: Path
    key: str

    def done(self) -> set[Shape]:
        """Return the positions of the blocks that were written completely, in one look at the folder."""
        with os.scandir(self.folder) as entries:
            return {_index(e.name) for e in entries if e.name.endswith(_DONE) and not e.name.startswith(".")}

    def is_done(self, block: Block) -> bool:
        """Whether the block was written completely."""
        return self._mark(block.index).exists()

    def check_current(self) -> None:
        """Refuse to write for a run that was replaced: workers may outlive the run that sent them.

        Raises
        ------
        FewsliceError
            If the record now belongs to another job.
        """
        if _job(self.folder).get("key") != self.key:
            raise FewsliceError(f"{self.folder.parent} was replaced by another run meanwhile; nothing more is written")

    def mark(self, block: Block, note: Any = None) -> None:
        """Note that the block's result is on disk."""
        content = {"index": block.index, "write": [block.write.start, block.write.stop], **(note or {})}
        write_atomic(self._mark(block.index), json.dumps(content, sort_keys=True) + "\n")
        self._failure(block.index).unlink(missing_ok=True)

    def fail(self, block: Block, reason: str) -> None:
        """Note why the block could not be done."""
        write_atomic(self._failure(block.index), reason)

    def failures(self) -> dict[Shape, str]:
        """Return the blocks that could not be done, with their reasons."""
        found = sorted((_index(path.name), path) for path in self.folder.glob("*.failed"))
        return {index: path.read_text(encoding="utf-8") for index, path in found}

    def marks(self) -> Iterator[Mark]:
        """Yield what was written, in the order of the grid, one block at a time."""
        if self.finished:
            with self._written.open(encoding="utf-8") as lines:
                yield from map(_read_mark, lines)
        else:
            for index in sorted(self.done()):
                yield _read_mark(self._mark(index).read_text(encoding="utf-8"))

    def finish(self) -> None:
        """Note that everything was done, in place of the marks.

        Raises
        ------
        DiskError
            If the disk refuses.
        """
        write_atomic(self._written, (self._mark(index).read_text(encoding="utf-8") for index in sorted(self.done())))
        write_json(self.folder / "job.json", {"key": self.key, "finished": True})
        self.tidy()

    def unmark(self, blocks: set[Shape]) -> None:
        """Take back marks, also of a finished job, which counts as begun then; the same command does these again.

        Raises
        ------
        DiskError
            If the disk refuses.
        """
        if self.finished:
            for mark in self.marks():
                content = {"index": mark.index, "write": [mark.write.start, mark.write.stop], **mark.note}
                write_atomic(self._mark(mark.index), json.dumps(content, sort_keys=True) + "\n")
            write_json(self.folder / "job.json", {"key": self.key, "finished": False})
        for index in blocks:
            self._mark(index).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what is needed no more once all is done: the marks, and what a kill left while one was written."""
        for pattern in ("*.done", "*.failed", ".*.part"):
            for path in self.folder.glob(pattern):
                with suppress(OSError):  # a finished output may be read-only by now
                    path.unlink()

    @property
    def finished(self) -> bool:
        """Whether the whole job was done."""
        return bool(_job(self.folder).get("finished"))

    @property
    def _written(self) -> Path:
        return self.folder / "written.jsonl"

    def _mark(self, index: Shape) -> Path:
        return self.folder / ("_".join(map(str, index)) + _DONE)

    def _failure(self, index: Shape) -> Path:
        return self.folder / ("_".join(map(str, index)) + ".failed")


def open_record(folder: Path, key: str, *, what: str) -> Record:
    """Open the record of a job, or begin one.

    Parameters
    ----------
    folder
        Where the marks lie.
    key
        Hash of everything that shapes the result.
    what
        The output's name, for the message.

    Raises
    ------
    InputError
        If the folder holds the record of another job.
    """
    found = _job(folder).get("key")
    if found is not None and found != key:
        raise InputError(
            f"{what} was made from another image, model or settings; choose another output or pass --overwrite"
        )
    record = Record(folder, key)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "job.json", {"key": key, "finished": False})
    elif record.finished:
        record.tidy()
    return record


def existing_record(folder: Path) -> Record | None:
    """Return the record that a folder holds, whatever its key, or None."""
    key = _job(folder).get("key")
    return None if key is None else Record(folder, str(key))


def is_finished(folder: Path, key: str) -> bool:
    """Whether a folder holds the record of a job of this key that was done; changes nothing."""
    record = existing_record(folder)
    return record is not None and record.key == key and record.finished


def _index(name: str) -> Shape:
    return tuple(int(part) for part in name.partition(".")[0].split("_"))


def _read_mark(text: str) -> Mark:
    content = json.loads(text)
    start, stop = content.pop("write")
    return Mark(tuple(content.pop("index")), Box(tuple(start), tuple(stop)), content)


def _job(folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
