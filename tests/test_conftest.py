"""What would skip fails in CI: shown on test files of its own, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WOULD_SKIP = {
    "mark": "@pytest.mark.skip(reason='because')\ndef test_it():\n    pass\n",
    "call": "def test_it():\n    pytest.skip('because')\n",
    "module": "pytest.skip('because', allow_module_level=True)\n",
    "needed": "pytest.importorskip('no_such_module_at_all', reason='because')\ndef test_it():\n    pass\n",
    "data": "def test_it(data_dir):\n    pass\n",
}
REASONS = {name: "no real data at" if name == "data" else "because" for name in WOULD_SKIP}


def outcome(folder: Path, bodies: dict[str, str], ci: str | None, data: Path) -> tuple[int, str]:
    """Run pytest with our conftest on test files of the given contents: exit status and what it said."""
    (folder / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    for name, body in bodies.items():
        (folder / f"test_{name}.py").write_text(f"import pytest\n{body}")
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "FEWSLICE_DATA") and "XDIST" not in k}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({} if ci is None else {"CI": ci})
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", f"--rootdir={folder}", "-c", os.devnull]
    command += ["--continue-on-collection-errors", "--data", str(data), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    return done.returncode, done.stdout


def test_outside_ci_tests_skip_and_say_why(tmp_path):
    code, said = outcome(tmp_path, WOULD_SKIP, None, tmp_path / "absent")
    assert code == 0, said
    assert "5 skipped" in said
    assert "no real data at" in said


@pytest.mark.parametrize("ci", ["1", "true"])
def test_a_skip_is_a_failure_in_ci(tmp_path, ci):
    code, said = outcome(tmp_path, WOULD_SKIP, ci, tmp_path / "absent")
    assert code == 1, said
    assert "skipped" not in said.splitlines()[-1]
    for name, reason in REASONS.items():
        lines = [
            line for line in said.splitlines() if line.startswith(("FAILED", "ERROR")) and f"test_{name}.py" in line
        ]
        assert len(lines) == 1, said
        assert reason in said


def test_what_passes_in_ci(tmp_path):
    bodies = {
        "expected_failure": "@pytest.mark.xfail\ndef test_it():\n    raise ValueError\n",
        "data": f"def test_it(data_dir):\n    assert str(data_dir) == {str(tmp_path)!r}\n",
    }
    code, said = outcome(tmp_path, bodies, "1", tmp_path)
    assert code == 0, said
    assert "1 passed, 1 xfailed" in said
