"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewslice.errors import DiskError, FewsliceError

__all__ = [
    "append_line",
    "beside",
    "check_writable",
    "checksum",
    "disk_error",
    "is_unfinished",
    "making_folder",
    "remove_folder",
    "replacing",
    "write_atomic",
    "write_json",
]


def beside(path: Path, suffix: str = "") -> Path:
    """Name a new file or folder beside `path`, in which to write what is then renamed; see :func:`is_unfinished`.

    Parameters
    ----------
    path
        What is to be made or replaced.
    suffix
        Ends the name, for libraries that go by it.
    """
    mark = uuid.uuid4().hex[:12]  # other threads, and processes of other machines, write here too
    return path.with_name(f".{path.name}.{mark}.part{suffix}")


@contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a file beside `path` to write; it is renamed to `path` when the block ends, and removed if it fails.

    Parameters
    ----------
    path
        The file to create or replace. Its folder must exist.
    suffix
        As in :func:`beside`.

    Raises
    ------
    DiskError
        If the disk is full or refuses the write; an existing file is left as it was.
    """
    place = beside(path, suffix)
    try:
        yield place
        place.replace(path)
    except BaseException as error:
        place.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FewsliceError):
            raise disk_error(error, path) from error
        raise


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """Yield a place to make a folder in; it is renamed to `path` when the block ends, and removed if it fails.

    The place has the name of `path`, which may go into what is written, and lies in a folder beside it.

    Parameters
    ----------
    path
        The folder to make, which must not exist. Those above it are made if need be.

    Raises
    ------
    DiskError
        If the disk is full or refuses the write.
    """
    folder = beside(path)
    place = folder / path.name
    try:
        folder.mkdir(parents=True)
        yield place
        place.replace(path)
        folder.rmdir()
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, FewsliceError):
            raise disk_error(error, path) from error
        raise


def write_atomic(path: Path, content: bytes | str | Iterable[str]) -> None:
    """Write `content` beside `path` and rename it into place.

    Parameters
    ----------
    path
        The file to create or replace. Its folder must exist.
    content
        Bytes, or text that is stored as UTF-8; or parts of a text, of which one is in memory at a time.

    Raises
    ------
    DiskError
        If the disk is full or refuses the write; an existing file is left as it was.
    """
    parts = [content] if isinstance(content, bytes | str) else content
    with replacing(path) as place, place.open("wb") as stream:
        for part in parts:
            stream.write(part.encode() if isinstance(part, str) else part)
        stream.flush()
        os.fsync(stream.fileno())


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is, by its name, what a kill left of something that was being written or replaced."""
    return re.fullmatch(r"\.(part|old).*|\..*\.part(\.\w+)?", path.name) is not None


def checksum(content: bytes) -> int:
    """Return the CRC-32 of what a file holds."""
    return zlib.crc32(content)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, if there is one.

    Raises
    ------
    DiskError
        If the disk refuses.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, folder) from error


def check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written.

    Raises
    ------
    DiskError
        If the folder is read-only or its disk full.
    """
    probe = beside(folder / "probe")
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise disk_error(error, folder) from error


def disk_error(error: OSError, path: Path) -> DiskError:
    """Translate an operating-system error met while writing `path` into one sentence."""
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return DiskError(
        f"cannot write {path}: {reason}; free some space or choose another place and run the command again"
    )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def append_line(path: Path, value: Any) -> None:
    """Append `value` as one line of JSON: all of it, or nothing where the disk refuses.

    A last line that a kill cut short is ended first, so that it spoils no other.

    Raises
    ------
    DiskError
        If the disk is full or refuses the write; the file is left as it was.
    """
    line = (json.dumps(value, sort_keys=True, allow_nan=False) + "\n").encode()
    try:
        with path.open("a+b", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                line = line if stream.read(1) == b"\n" else b"\n" + line
            try:
                while line:
                    line = line[stream.write(line) :]
            except OSError:
                stream.truncate(end)
                raise
    except OSError as error:
        raise disk_error(error, path) from error
