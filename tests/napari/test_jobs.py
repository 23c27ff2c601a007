from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from fewslice.errors import FewsliceError, InputError
from fewslice.napari.jobs import Call, Command, fewslice_command, has_verb


def python(code):
    return Command([sys.executable, "-u", "-c", code])


def ended(command, seconds=20.0):
    lines, limit = [], time.monotonic() + seconds
    while command.exit_code is None:
        assert time.monotonic() < limit
        lines += command.poll()
        time.sleep(0.01)
    return lines + command.poll()


def test_all_lines_arrive_in_order_before_the_end():
    command = python("for i in range(12000): print(i)\nimport sys; print('no', file=sys.stderr); sys.exit(3)")
    assert ended(command) == [str(i) for i in range(12000)]
    assert command.exit_code == 3 and command.complaint() == "no" and len(command.output) == 10_000


def test_asking_never_waits():
    command = python("import time; print('on'); time.sleep(30)")
    try:
        longest = 0.0
        for _ in range(50):
            began = time.perf_counter()
            command.poll()
            assert command.exit_code is None
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.005)
        assert longest < 0.1
    finally:
        command.kill()
    ended(command)


def test_an_error_of_the_command_line_is_its_sentence():
    command = python(
        "import sys; print('error: image.tif does not exist; check the path', file=sys.stderr); sys.exit(2)"
    )
    ended(command)
    assert command.complaint() == "image.tif does not exist; check the path"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
def test_cancel_interrupts_as_ctrl_c_does():
    command = python("import time\nprint('on')\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('off')")
    while not command.poll():
        time.sleep(0.01)
    command.cancel()
    assert ended(command) == ["off"] and command.cancelled and command.exit_code == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
def test_what_does_not_listen_is_killed_with_all_it_started(monkeypatch):
    monkeypatch.setattr("fewslice.napari.jobs._GRACE_SECONDS", 0.3)
    code = (
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)\ntime.sleep(60)"
    )
    command = python(code)
    while not (lines := command.poll()):
        time.sleep(0.01)
    command.cancel()
    ended(command)
    assert command.exit_code == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(int(lines[0]), 0)
            stat = Path(f"/proc/{lines[0]}/stat")
            if stat.exists() and "Z" in stat.read_text().split():  # dead, and nobody has asked for its end yet
                raise ProcessLookupError
            time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
def test_a_process_that_is_killed_says_so():
    command = python("import os; print('on', flush=True); os.kill(os.getpid(), 9)")
    assert ended(command) == ["on"]
    assert "SIGKILL" in command.complaint() and "resumed" in command.complaint()


def test_calls_return_or_raise():
    call = Call(lambda: 3)
    call.wait(5)
    assert not call.running and call.result() == 3

    def fail():
        raise InputError("no")

    failing = Call(fail)
    failing.wait(5)
    with pytest.raises(InputError, match="no"):
        failing.result()
    slow = Call(lambda: time.sleep(0.5))
    with pytest.raises(FewsliceError, match="not ended"):
        slow.result()
    slow.wait()


def test_the_command_is_the_installed_one_and_its_verbs_are_known(monkeypatch):
    assert fewslice_command("info")[1:] == ["info"]
    assert has_verb("train") and has_verb("predict") and not has_verb("fly")
    monkeypatch.setattr("fewslice.napari.jobs.shutil.which", lambda *a, **k: None)
    with pytest.raises(InputError, match="not installed"):
        fewslice_command("info")


@pytest.mark.skipif(os.name == "nt", reason="Windows has classes of priority, not numbers")
def test_a_command_leaves_the_processor_to_the_window_first():
    command = python("import time; time.sleep(60)")
    try:
        own, its = os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PROCESS, command.pid)
        assert its == min(19, own + 5)
    finally:
        command.kill()
