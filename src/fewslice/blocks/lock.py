"""One writer per output: a small file beside it, for as long as a verb writes.

The file names the process and the machine, and its time is renewed every few seconds. It counts no more once the
process is gone, where that can be seen, or once it has not been renewed for minutes, as of a process on another machine
that was killed.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewslice.errors import InputError
from fewslice.files import beside, disk_error

__all__ = ["lock_of", "locked"]

_RENEWED_S = 10.0
_FORGOTTEN_S = 300.0


def lock_of(output: Path) -> Path:
    """Return the file that locks an output, beside it, by whatever path it is named."""
    place = output.resolve()
    return place.with_name(f".{place.name}.lock")


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs from writing to `output` for the duration; workers of this run need no lock of their own.

    Parameters
    ----------
    output
        File or folder; its parent is made if need be.

    Raises
    ------
    InputError
        If another run is writing to it.
    DiskError
        If the lock cannot be stored.
    """
    path, token = lock_of(output), uuid.uuid4().hex
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _taken(path, token):
            holder = _holder(path)
            if holder is not None and _holds(path, holder):
                raise InputError(
                    f"{output} is being written by process {holder.get('pid', '?')} on {holder.get('host', '?')}; wait "
                    "until that has finished, or stop it, and run the command again"
                )
            if holder is not None:
                _break(path, holder)
    except OSError as error:
        raise disk_error(error, path) from error
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(path, token, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        if (_holder(path) or {}).get("token") == token:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _taken(path: Path, token: str) -> bool:
    """Make the lock, unless there is one."""
    pid = os.getpid()
    content = {"host": socket.gethostname(), "pid": pid, "began": _state(pid)[1], "token": token}
    try:
        stream = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with stream:
            stream.write(json.dumps(content))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _holder(path: Path) -> dict[str, Any] | None:
    """Return what a lock says; nothing of one that is being made; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _holds(path: Path, holder: dict[str, Any]) -> bool:
    """Whether the process that made a lock may still be writing."""
    if holder.get("host") == socket.gethostname():
        alive, began = _state(int(holder.get("pid", 0)))
        if alive is False or (alive and began != holder.get("began")):
            return False
        if alive and began is not None:  # it is that very process, be it stopped for hours
            return True
    return _age_s(path) < _FORGOTTEN_S


def _state(pid: int) -> tuple[bool | None, str | None]:
    """Return whether a process of this machine runs, and when it began; None where that cannot be seen."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False, None
        fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
        return fields[0] not in "ZX", fields[19]
    if os.name == "nt":
        return None, None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False, None
    except PermissionError:
        pass
    return True, None


def _age_s(path: Path) -> float:
    """Return how long ago a lock was renewed, by the clock of the disk that it lies on."""
    probe = beside(path)
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return _FORGOTTEN_S
    finally:
        probe.unlink(missing_ok=True)


def _break(path: Path, holder: dict[str, Any]) -> None:
    """Remove the lock of a process that is gone; one that another run has made meanwhile is put back."""
    aside = beside(path)
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _holder(aside) != holder:
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def _renew(path: Path, token: str, ended: threading.Event) -> None:
    while not ended.wait(_RENEWED_S):
        if (_holder(path) or {}).get("token") == token:
            with suppress(OSError):
                os.utime(path)
