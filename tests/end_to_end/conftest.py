"""The installed command in a subprocess, a small volume to run it on, and hashes of whole folders."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

Fewslice = Callable[..., subprocess.CompletedProcess[str]]

TINY_2D = ("network.features=4", "network.depth=2", "patch=[1,16,16]", "batch_size=2", "schedule.validations=2")
TINY_3D = ("network.features=4", "network.depth=2", "patch=[8,16,16]", "batch_size=2", "schedule.validations=2")


@pytest.fixture(scope="session")
def command() -> str:
    """Path of the installed command."""
    found = shutil.which("fewslice", path=str(Path(sys.executable).parent))
    assert found is not None, "fewslice is not installed beside this Python; run make install"
    return found


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """One thread, so that test processes do not fight for cores; nothing of it is required."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def fewslice(command: str, environment: dict[str, str]) -> Fewslice:
    """Run the command in a folder and return what it said and its exit code."""

    def run(folder: Path, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=280,
            check=False,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def done(fewslice: Fewslice) -> Fewslice:
    """Run the command, which must end as expected, and say nothing on standard error if that is well."""

    def run(folder: Path, *arguments: str | Path, expect: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        result = fewslice(folder, *arguments, **options)
        said = f"{[str(a) for a in arguments]}: {result.stderr}\n{result.stdout}"
        assert result.returncode == expect and bool(result.stderr) == bool(expect), said
        return result

    return run


def settings(prefix: str, values: Sequence[str]) -> list[str]:
    return [text for value in values for text in ("--set", f"{prefix}{value}")]


@pytest.fixture(scope="session")
def tiny() -> dict[str, list[str]]:
    """Options by strategy that make it train in a second."""
    return {
        "slices_2d": ["--strategy", "slices_2d", *settings("", TINY_2D)],
        "sparse_3d": ["--strategy", "sparse_3d", *settings("", TINY_3D)],
        "pseudo_labels": [
            *("--strategy", "pseudo_labels"),
            *settings("teacher.", TINY_2D),
            *settings("student.", TINY_3D),
        ],
        "continuity": [
            *("--strategy", "continuity"),
            *settings("segment.", TINY_2D),
            *settings("continuity.", TINY_2D),
        ],
    }


@pytest.fixture(scope="session")
def folder_hash() -> Callable[[Path], str]:
    """Hash of the names and bytes of everything below a folder."""

    def measure(folder: Path) -> str:
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            digest.update(f"{path.relative_to(folder).as_posix()}\n{path.is_dir()}\n".encode())
            if path.is_file():
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    return measure


@pytest.fixture(scope="session")
def write_volume() -> Callable[..., None]:
    """Write image.tif and labels.tif (background 0, soma 1): bright blobs in noise, no voxel size stated."""

    def write(folder: Path, *, shape: tuple[int, int, int] = (12, 32, 32), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        grid = np.indices(shape).astype(np.float64)
        labels = np.zeros(shape, np.uint8)
        for _ in range(4 * shape[1] * shape[2] // 1024):
            centre = rng.uniform(0, shape)
            distance = sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, (2, 1, 1), strict=True))
            labels[distance < rng.uniform(20, 50)] = 1
        image = (60 + 90 * labels + rng.normal(0, 20, shape)).clip(0, 255).astype(np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / "image.tif", image, photometric="minisblack")
        tifffile.imwrite(folder / "labels.tif", labels, photometric="minisblack")

    return write
