"""What is done of a block-wise job: one small file per block, bound to a key of everything that shapes the result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewslice.errors import InputError
from fewslice.files import write_atomic, write_json
from fewslice.geometry import Block

__all__ = ["Record", "open_record"]


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

    def is_done(self, block: Block) -> bool:
        """Whether the block was written completely."""
        return self._mark(block).exists()

    def mark(self, block: Block) -> None:
        """Note that the block's result is on disk."""
        write_atomic(self._mark(block), "")
        self._failure(block).unlink(missing_ok=True)

    def fail(self, block: Block, reason: str) -> None:
        """Note why the block could not be done."""
        write_atomic(self._failure(block), reason)

    def finish(self) -> None:
        """Note that everything was done, in place of the marks."""
        write_json(self.folder / "job.json", {"key": self.key, "finished": True})
        for pattern in ("*.done", ".*.part"):  # the marks, and what a kill left while one was written
            for path in self.folder.glob(pattern):
                path.unlink()

    @property
    def finished(self) -> bool:
        """Whether the whole job was done."""
        return bool(_job(self.folder).get("finished"))

    def _mark(self, block: Block) -> Path:
        return self.folder / ("_".join(map(str, block.index)) + ".done")

    def _failure(self, block: Block) -> Path:
        return self.folder / ("_".join(map(str, block.index)) + ".failed")


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
    folder.mkdir(parents=True, exist_ok=True)
    if found is None:
        write_json(folder / "job.json", {"key": key, "finished": False})
    return Record(folder, key)


def _job(folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
