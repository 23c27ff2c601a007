"""The tutorial, typed from its page into a shell, from an empty folder to a counted volume."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
VERBS = ("simulate", "info", "train", "predict", "evaluate", "segment", "measure", "convert", "plan", "report")


def commands() -> list[str]:
    """What the page shows as commands, lines that go on joined."""
    blocks = re.findall(r"(?:^    .*\n)+", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = "".join(textwrap.dedent(block).replace("\\\n", " ") for block in blocks).splitlines()
    return [" ".join(line.split()) for line in lines]


def test_the_page_goes_the_whole_way_and_its_pictures_are_there() -> None:
    assert [line.split()[:2] for line in commands()] == [["fewslice", verb] for verb in VERBS]
    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert 0 < (PAGE.parent / name).stat().st_size <= 300_000, name


@pytest.fixture(scope="module")
def typed(command: str, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Type every command; by verb, what it printed, and under ``folder`` where."""
    folder = tmp_path_factory.mktemp("tutorial")
    path = os.pathsep.join([str(Path(command).parent), environment["PATH"]])
    said = {"folder": str(folder)}
    for line in commands():
        done = subprocess.run(
            line, shell=True, cwd=folder, env={**environment, "PATH": path},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}{done.stdout[-2000:]}"
        assert not done.stderr.strip(), f"{line}\n{done.stderr}"
        said[line.split()[1]] = done.stdout
    return said


def test_it_ends_in_a_counted_volume(typed: dict[str, str]) -> None:
    folder = Path(typed["folder"])
    with (folder / "OUT.objects.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = re.search(r"(\d+) objects", typed["segment"])
    assert found is not None and len(rows) == int(found[1]) >= 5
    assert sum(int(row["counted"]) for row in rows) < len(rows), "some touch the last plane, row or column"
    for name in ("RUN/report.html", "RUN/model/model.json", "RUN/plan.json", "cells.tif"):
        assert (folder / name).is_file(), name


def test_what_the_page_says_of_the_result_is_so(typed: dict[str, str]) -> None:
    said = re.search(r"Dice is about (0\.\d+)", PAGE.read_text(encoding="utf-8"))
    found = re.search(r"^foreground\s+(0\.\d+)", typed["evaluate"], flags=re.MULTILINE)
    assert said is not None and found is not None, typed["evaluate"]
    assert float(found[1]) == pytest.approx(float(said[1]), abs=0.06)  # another processor rounds otherwise


def test_plan_suggests_planes_that_training_has_not_seen(typed: dict[str, str]) -> None:
    planes = [int(z) for z in re.findall(r"brain: z (\d+) +score", typed["plan"])]
    assert len(planes) == 4 and not {3, 9, 15, 21} & set(planes)
