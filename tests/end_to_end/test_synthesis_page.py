"""The commands of the page on synthesis, as they stand there, on crops of a Nissl tile and images of nuclei."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fewslice.synthesis.store import read_description

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "synthesis.md"


def commands() -> list[str]:
    """Give the commands of the page, continued lines joined, in its order."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if re.match(r" {4}fewslice ", line)]


@pytest.fixture
def small(data_dir: Path, tmp_path: Path) -> Path:
    """Write two crops of a Nissl tile, and two images of nuclei, as data sets of the same layout and names."""
    folder = tmp_path / "data"
    parts = [("nissl_cells", "1", "0", (128, 0)), ("nissl_cells", "1", "1", (128, 128))]
    parts += [("nuclei_2d", "0000", "0000", (256, 0)), ("nuclei_2d", "0005", "0005", (256, 0))]
    for name, source, stem, (side, left) in parts:
        for part in ("images", "labels"):
            (folder / name / part).mkdir(parents=True, exist_ok=True)
            values = tifffile.imread(data_dir / name / part / f"{source}.tif")[:side, left : left + side]
            tifffile.imwrite(folder / name / part / f"{stem}.tif", values)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the page is written for a POSIX shell")
def test_the_commands_of_the_page_run(small: Path, tmp_path: Path, environment: dict[str, str], command: str) -> None:
    path = os.pathsep.join([str(Path(command).parent), environment["PATH"]])
    said = {}
    for line in commands():
        result = subprocess.run(
            line.replace("DATA/", f"{small}/"),
            shell=True,
            cwd=tmp_path,
            env={**environment, "PATH": path},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert result.returncode == 0 and not result.stderr, f"{line}: {result.stderr}\n{result.stdout}"
        said[line] = result.stdout
    verbs = [line.split()[1] for line in said]
    assert verbs == ["simulate", "train", "predict", "segment", "evaluate", "train", "predict", "segment", "segment",
                     "evaluate"]  # fmt: skip
    assert read_description(tmp_path / "SIM" / "simulation.yaml")["kind"] == "stained_section"
    assert len(list((tmp_path / "RUN" / "stages" / "refine").glob("pairs_*.png"))) >= 1
    for name in ("OUT", "FOUND"):
        assert json.loads((tmp_path / f"{name}.contours.geojson").read_text())["type"] == "FeatureCollection"
    scores = [json.loads(text) for line, text in said.items() if line.split()[1] == "evaluate"]
    for found, (name, stem) in zip(scores, (("nissl_cells", "0"), ("nuclei_2d", "0000")), strict=True):
        truth = tifffile.imread(small / name / "labels" / f"{stem}.tif")
        assert found["truth_count"] == len(np.unique(truth[truth > 0]))
    assert scores[1]["f1"]["0.5"] > 0.3, "a threshold finds nuclei"
