"""The journal: every change of a session as one line of JSON, on disk before the next one, and readable after a crash.

The first line says what the labels belong to, the others what was done, in order::

    {"crc": 2774, "entry": {"what": "header", "version": 1, "kind": "annotation", "content": "3f9a…", "shape": …}}
    {"crc": 9051, "entry": {"what": "stroke", "id": 1, "by": "hand", "runs": [[4711, 12, 0, 1], …]}}
    {"crc": 1193, "entry": {"what": "mark", "axis": 0, "plane": 14, "done": true}}

A line is handed to the operating system at once, so that it outlives the program, and a thread has the disk store it,
so that it outlives a power failure; the caller does not wait for the disk. Lines are only ever appended. A line that
the disk refused waits, and is written before the next one. A line that is damaged is told by its checksum, kept in a
copy of the journal, and left out.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fewslice.errors import InputError
from fewslice.files import append_line, disk_error, write_atomic
from fewslice.geometry import by

__all__ = ["NAME", "VERSION", "Header", "Journal", "Recorded", "open_journal", "read_journal"]

NAME = "journal.jsonl"
VERSION = 1

Entry = dict[str, Any]


@dataclass(frozen=True)
class Header:
    """What a journal belongs to.

    Attributes
    ----------
    kind
        ``annotation``: painted from nothing for an image. ``edits``: corrections of labels that exist.
    content
        Hash of the image, or of the labels that are corrected.
    source
        Where that was, for messages.
    shape
        z, y, x.
    dtype
        Of the labels.
    base
        File beside the journal whose labels the strokes lie over; None for nothing (`annotation`), or for the labels
        themselves (`edits`).
    """

    kind: str
    content: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    base: str | None = None


@dataclass(frozen=True)
class Recorded:
    """What was read from a journal.

    Attributes
    ----------
    header
        Its first line.
    entries
        The sound ones, in order.
    damaged
        Numbers (from 1) of the lines that could not be read.
    cut
        Whether the only damaged line is the last one, as a crash leaves it.
    """

    header: Header
    entries: tuple[Entry, ...]
    damaged: tuple[int, ...]
    cut: bool


def read_journal(path: Path) -> Recorded:
    """Read a journal.

    Raises
    ------
    InputError
        If it cannot be read, its first line is damaged, or a later fewslice wrote it.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the folder's permissions") from error
    if lines and not lines[-1]:
        lines.pop()
    entries = [_checked(line) for line in lines]
    damaged = tuple(number for number, entry in enumerate(entries, 1) if entry is None)
    first = entries[0] if entries else None
    if first is None or first.get("what") != "header":
        raise InputError(f"{path} is no journal of fewslice, or its first line is damaged; choose another folder")
    if first.get("version") != VERSION:
        raise InputError(f"{path} has version {first.get('version')}, this fewslice reads {VERSION}; update fewslice")
    try:
        header = Header(
            str(first["kind"]), str(first["content"]), str(first["source"]),
            tuple(int(n) for n in first["shape"]), str(first["dtype"]), first.get("base"),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a first line that cannot be used ({error!r}); choose another folder") from error
    return Recorded(header, tuple(e for e in entries[1:] if e is not None), damaged, damaged == (len(lines),))


def _checked(line: bytes) -> Entry | None:
    """Return the entry of a line, or None where it is damaged."""
    try:
        value = json.loads(line)
        entry = value["entry"]
        sound = isinstance(entry, dict) and value["crc"] == _crc(entry)
    except (ValueError, KeyError, TypeError):
        return None
    return entry if sound else None


def _crc(entry: Entry) -> int:
    return zlib.crc32(json.dumps(entry, sort_keys=True).encode())


def _line(entry: Entry) -> dict[str, Any]:
    return {"crc": _crc(entry), "entry": entry}


class Journal:
    """A journal that is open for appending, and locked against other windows.

    Attributes
    ----------
    path
        The file.
    waiting
        Entries that the disk has refused so far, the oldest first.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self.waiting: deque[Entry] = deque()
        self._lock = lock
        self._wake = threading.Event()
        self._closing = False
        self._trouble: OSError | None = None
        self._thread = threading.Thread(target=self._keep_storing, name="fewslice journal", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> None:
        """Append an entry after those that wait; the disk stores it soon after.

        Raises
        ------
        DiskError
            If the disk is full or refuses the write, so that the entry waits, or failed to store one before this one.
        """
        self.waiting.append(entry)
        self.write_waiting()
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise disk_error(trouble, self.path) from trouble

    def write_waiting(self) -> None:
        """Write the entries that wait.

        Raises
        ------
        DiskError
            If the disk still refuses; what is not written goes on waiting.
        """
        while self.waiting:
            append_line(self.path, _line(self.waiting[0]))
            self.waiting.popleft()
            self._wake.set()

    def close(self) -> None:
        """Have everything that is written stored, and release the lock."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._lock.release()

    def _keep_storing(self) -> None:
        while not self._closing:
            self._wake.wait()
            self._wake.clear()
            try:
                with self.path.open("rb+") as stream:
                    os.fsync(stream.fileno())
            except OSError as error:
                self._trouble = error


def open_journal(folder: Path, header: Header) -> tuple[Journal, Recorded | None, list[str]]:
    """Open the journal of a folder, or begin it.

    Parameters
    ----------
    folder
        Made where it does not exist.
    header
        What the labels belong to.

    Returns
    -------
    journal
        Open for appending, and locked.
    recorded
        What an earlier session left; None if there was none.
    notes
        Sentences for the user.

    Raises
    ------
    InputError
        If the folder may not be written to, another window has it open, or it belongs to another volume.
    """
    path = folder / NAME
    lock = _locked(folder)
    try:
        if not path.exists():
            entry = {"what": "header", "version": VERSION, **vars(header), "shape": list(header.shape)}
            write_atomic(path, json.dumps(_line(entry), sort_keys=True) + "\n")
            return Journal(path, lock), None, []
        recorded = read_journal(path)
        _check_same(path, recorded, header)
        return Journal(path, lock), recorded, _mend(path, recorded)
    except BaseException:
        lock.release()
        raise


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / f"{NAME}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder} is open in another window; close its annotation there, or choose another folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror or error}); choose a folder of yours to keep the labels in"
        ) from error
    return lock


def _check_same(path: Path, recorded: Recorded, header: Header) -> None:
    """Refuse a journal of something else; corrected labels have the content that they were last saved with."""
    known = recorded.header
    contents = {known.content}
    for entry in recorded.entries if known.kind == "edits" else ():  # an image is not changed by its annotation
        if entry.get("what") == "saving":
            contents.add(header.content)  # a crash may have left any part of it saved; strokes are laid over it again
        elif entry.get("what") == "saved":
            contents = {str(entry.get("content"))}
    same = (known.kind, known.shape, known.dtype) == (header.kind, header.shape, header.dtype)
    if not same or header.content not in contents:
        extents = by(known.shape)
        raise InputError(
            f"{path} belongs to another volume: {known.kind} of {known.source or 'an image in memory'} of {extents} "
            "voxels with other content; choose another folder, or open that volume"
        )


def _mend(path: Path, recorded: Recorded) -> list[str]:
    """Put a journal with damaged lines aside and go on with the sound ones."""
    if not recorded.damaged:
        return []
    number = 1
    while (aside := path.with_name(f"journal.damaged{number}.jsonl")).exists():
        number += 1
    content = path.read_bytes()
    write_atomic(aside, content)
    sound = [line for line in content.split(b"\n") if line and _checked(line) is not None]
    write_atomic(path, b"\n".join(sound) + b"\n")
    if recorded.cut:
        return [f"The last line of {path} was cut short, as a crash leaves it; the change in it is lost, no other."]
    numbers = ", ".join(str(n) for n in recorded.damaged[:5])
    return [
        f"Line {numbers} of {path} is damaged; what it held is lost, all else is restored. "
        f"The damaged journal is kept as {aside.name}."
    ]
