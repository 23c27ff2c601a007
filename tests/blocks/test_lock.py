"""One writer per output; what a kill left is taken over, what is alive is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewslice.blocks import lock
from fewslice.blocks.lock import lock_of, locked
from fewslice.errors import InputError

HOLD = """
import sys, time, pathlib
from fewslice.blocks.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(output: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_lock_is_there_for_the_duration_only(tmp_path: Path) -> None:
    out = tmp_path / "new" / "OUT.ome.zarr"
    with pytest.raises(ZeroDivisionError), locked(out):
        assert lock_of(out).exists()
        raise ZeroDivisionError
    with locked(out), pytest.raises(InputError, match=f"by process {os.getpid()} on"), locked(out):
        pass
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="whether a process runs cannot be seen there")
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    """Neither before nor after its parent asked what became of it; while it lives, also stopped, it does."""
    out = tmp_path / "OUT.ome.zarr"
    process = hold(out)
    try:
        process.send_signal(signal.SIGSTOP)
        os.utime(lock_of(out), (0, 0))  # not renewed for decades
        with pytest.raises(InputError, match=f"by process {process.pid} on"), locked(out):
            pass
    finally:
        process.kill()
    limit = time.monotonic() + 20
    while lock._state(process.pid)[0] and time.monotonic() < limit:
        time.sleep(0.01)
    with locked(out):
        assert json.loads(lock_of(out).read_text())["pid"] == os.getpid()
    process.communicate()
    assert not lock_of(out).exists()


@pytest.mark.parametrize(("age", "holds"), [(0, True), (100, True), (400, False)])
def test_of_another_machine_the_time_counts(tmp_path: Path, age: float, holds: bool) -> None:
    """Its lock is renewed every few seconds while it lives; also one that was never finished being written."""
    for content in ('{"host": "elsewhere", "pid": 1, "token": "t"}', ""):
        out = tmp_path / "OUT.ome.zarr"
        lock_of(out).write_text(content)
        os.utime(lock_of(out), (time.time() - age,) * 2)
        if holds:
            with pytest.raises(InputError, match="is being written"), locked(out):
                pass
        else:
            with locked(out):
                pass
        assert lock_of(out).exists() == holds


def test_a_lock_is_renewed_and_another_run_s_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_RENEWED_S", 0.02)
    out = tmp_path / "OUT.ome.zarr"
    with locked(out):
        os.utime(lock_of(out), (0, 0))
        limit = time.monotonic() + 20
        while not lock_of(out).stat().st_mtime and time.monotonic() < limit:
            time.sleep(0.01)
        assert time.time() - lock_of(out).stat().st_mtime < 60
        lock_of(out).write_text('{"token": "of another run"}')
    assert lock_of(out).exists()


def test_a_lock_of_an_earlier_process_of_that_number_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "OUT.ome.zarr"
    with locked(out):
        content = json.loads(lock_of(out).read_text())
    if content["began"] is None:
        pytest.skip("when a process began cannot be seen here")
    lock_of(out).write_text(json.dumps(content | {"began": "1"}))
    with locked(out):
        pass
