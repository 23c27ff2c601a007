"""Work beside the window: a command in a process of its own, or a function in a thread; asked, never waited for.

The window's timer asks :meth:`Command.poll` and :meth:`Call.poll` now and then, and neither ever blocks. Threads only
relay what a process prints.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Any, Generic, TypeVar

from fewslice.errors import FewsliceError, InputError

__all__ = ["Call", "Command", "fewslice_command", "has_verb"]

T = TypeVar("T")

_GRACE_SECONDS = 10.0
_LESS = 5
"""How much lower than the window's the priority of a command is, on the scale of ``nice``."""
_KEPT_LINES = 10_000


def fewslice_command(*arguments: str) -> list[str]:
    """Return the installed command, beside this Python, with arguments.

    Raises
    ------
    InputError
        If it is not installed there.
    """
    found = shutil.which("fewslice", path=sysconfig.get_path("scripts"))
    if found is None:
        raise InputError(
            f"the command fewslice is not installed beside {sys.executable}; pip install 'fewslice[napari]' there"
        )
    return [found, *arguments]


def has_verb(verb: str) -> bool:
    """Whether the command line of this fewslice has a verb, such as ``plan``."""
    from fewslice.cli import app

    names = [c.name or (c.callback.__name__ if c.callback else "") for c in app.registered_commands]
    return verb in names


class Command:
    """A process whose lines are collected by threads, and which leaves the processor to the window first.

    Parameters
    ----------
    arguments
        The program and its arguments.

    Attributes
    ----------
    output
        The last lines of its standard output.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.BELOW_NORMAL_PRIORITY_CLASS}
        self._process = subprocess.Popen(
            list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", errors="replace", **group,
        )  # fmt: skip
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # it may have ended already
                os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _LESS)
        self.output: deque[str] = deque(maxlen=_KEPT_LINES)
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._cancelled_at: float | None = None
        self._threads = [
            threading.Thread(target=self._relay, args=(self._process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._relay, args=(self._process.stderr, self._errors.append), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _relay(stream: IO[str], put: Callable[[str], None]) -> None:
        with stream:
            for line in stream:
                put(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancelled_at is not None

    def poll(self) -> list[str]:
        """Return the lines printed since the last call; kill a cancelled process that does not end by itself."""
        if self._cancelled_at is not None and time.monotonic() - self._cancelled_at > _GRACE_SECONDS:
            self._signal("SIGKILL")
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        self.output.extend(lines)
        return lines

    @property
    def exit_code(self) -> int | None:
        """Exit code once it has ended and all of its lines are there; negative for a signal."""
        code = self._process.poll()
        if code is None or any(thread.is_alive() for thread in self._threads) or not self._lines.empty():
            return None
        return code

    def complaint(self) -> str:
        """Return why it failed, in one sentence."""
        said = next((line for line in reversed(self._errors) if line.strip()), "")
        code = self.exit_code
        if said.startswith("error: "):
            return said.removeprefix("error: ")
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in [s.value for s in signal.Signals] else str(-code)
            return f"the process was ended from outside ({name}), for example because memory ran out; it can be resumed"
        return said or f"the process ended with exit code {code}"

    def cancel(self) -> None:
        """Ask it to stop, as Ctrl+C does; what it has stored stays."""
        if self._cancelled_at is None and self._process.poll() is None:
            self._cancelled_at = time.monotonic()
            self._signal("SIGINT")

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._signal("SIGKILL")
            self._process.wait()

    def _signal(self, name: str) -> None:
        """Signal the process and those it has started; Windows knows termination only."""
        if self._process.poll() is not None:
            return
        if os.name == "nt":
            self._process.terminate()
        else:
            try:
                os.killpg(self._process.pid, getattr(signal, name))
            except ProcessLookupError:
                return


class Call(Generic[T]):
    """A function that runs in a thread.

    Parameters
    ----------
    function
        What is called.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fewslice call", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # raised again by result(), where it is shown
            self._error = error

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return self._thread.is_alive()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for it."""
        self._thread.join(seconds)

    def result(self) -> T:
        """Return what the function returned, or raise what it raised.

        Raises
        ------
        FewsliceError
            If it is still running.
        """
        if self.running:
            raise FewsliceError("the work has not ended yet; ask again later")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]
