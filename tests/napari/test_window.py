"""A real napari window on a screen of its own (Xvfb), driven in a process of its own by ``in_window.py``."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHECKS = next(
    [element.id for element in node.value.elts]
    for node in ast.parse((HERE / "in_window.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "CHECKS"
)


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A screen without hardware; skips with a reason where there can be none."""
    missing = [name for name in ("napari", "qtpy") if importlib.util.find_spec(name) is None]
    if missing or shutil.which("Xvfb") is None:
        pytest.skip(f"{' and '.join(missing) or 'Xvfb'} is not installed; see docs/napari.md and .ci/run")
    reader, writer = os.pipe()
    command = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1600x1100x24", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    with os.fdopen(reader) as stream:
        number = stream.readline().strip()
    try:
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def checked(display: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the checks in the window found."""
    folder = tmp_path_factory.mktemp("window")
    environment = {**os.environ, "DISPLAY": display, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"),
                   "OMP_NUM_THREADS": "1", "QT_QPA_PLATFORM": "xcb"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(HERE / "in_window.py"), str(folder)],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    found = folder / "checks.json"
    assert found.exists(), f"the window ended ({done.returncode}): {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    results: dict[str, Any] = json.loads(found.read_text())
    return results | {"exit code": done.returncode, "said": done.stderr[-2000:]}


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_window(checked: dict[str, Any], check: str) -> None:
    assert checked[check] == "ok", checked[check]


def test_the_window_closes_without_a_crash(checked: dict[str, Any]) -> None:
    assert checked["exit code"] == 0, checked["said"]


def test_the_manifest_is_valid_and_names_what_exists() -> None:
    npe2 = pytest.importorskip("npe2", reason="napari is not installed")
    import fewslice.napari

    place = Path(fewslice.napari.__file__).with_name("napari.yaml")
    manifest = npe2.PluginManifest.from_file(place)
    assert manifest.name == "fewslice" and manifest.contributions.widgets and manifest.contributions.sample_data
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, command.python_name


def test_the_manifest_is_an_entry_point_and_shortcuts_are_documented() -> None:
    root = HERE.parents[1]
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {"fewslice": "fewslice.napari:napari.yaml"}
    panel = (root / "src/fewslice/napari/panel.py").read_text(encoding="utf-8")
    shortcuts = next(
        ast.literal_eval(node.value)
        for node in ast.parse(panel).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SHORTCUTS"
    )
    page = (root / "docs/napari.md").read_text(encoding="utf-8")
    assert len(shortcuts) == panel.count('            "Alt-')
    for key, what in shortcuts.items():
        assert f"| `{key.replace('-', '+')}` | {what} |" in page
