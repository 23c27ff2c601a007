"""The documentation site: it builds without warnings, dead links are warnings, and its pages are of today's program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewslice import registry

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert not result.stderr.strip(), result.stderr
    return folder


def test_commands_and_settings_are_those_of_the_program(site: Path) -> None:
    commands = (site / "commands" / "index.html").read_text(encoding="utf-8")
    settings = (site / "settings" / "index.html").read_text(encoding="utf-8")
    for verb in ("train", "predict", "evaluate", "export", "convert"):
        assert f"fewslice {verb}" in commands
    for kind in registry.names("strategies"):
        assert f">{kind}<" in settings
    assert "teacher_share = 0.35" in settings


def test_the_reference_shows_parameters_and_no_markup_of_roles(site: Path) -> None:
    page = (site / "python" / "index.html").read_text(encoding="utf-8")
    for name in ("train_samples", "checkpoint_seconds", "InputError", "divisor"):
        assert name in page
    assert ":func:" not in page and ":class:" not in page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for tag in ('<script src="http', '<link rel="stylesheet" href="http', '<img src="http'):
            assert tag not in page.read_text(encoding="utf-8"), page
