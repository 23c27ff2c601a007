"""Small forms of what is measured of blocks and of very many objects, and targets on results that are made up."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import blocks, targets
from benchmarks.cells import Context
from benchmarks.tables import Series

PLAN = {f"{cell.setting} {cell.arm}": cell for cell in blocks.plan(argparse.Namespace(quick=False))}
GOOD: dict[str, dict[str, float]] = {
    "objects": {"objects": 90, "partitions_that_differ": 0, "workers_that_differ": 0},
    "predictions": {"labels_share": 0.001, "largest_difference": 2, "difference_999": 1, "seam_ratio": 1.05},
    "merge": {"minutes": 3.0, "objects_too_many": 0, "bits_of_largest_id": 50},
    "table": {"minutes": 20.0, "rows_wrong": 0, "gigavoxels": 2.25, "objects": 5_023_350},
}


def test_naming_gives_the_known_number_of_objects_beyond_32_bits() -> None:
    found = blocks.merge_many(21, 12)
    assert found["objects_too_many"] == 0 and found["ids"] == 21 * 12 and found["bits_of_largest_id"] > 32


def test_cuboids_are_measured_and_checked_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = [c for c in blocks.plan(argparse.Namespace(quick=True)) if c.arm == "table"]
    context = Context("cpu", 1, tmp_path, tmp_path)
    right = blocks.run_cell(cell, context)["scores"]
    assert right["objects"] == 600 and right["rows_wrong"] == 0 and right["minutes"] > 0
    original = blocks._cuboids
    monkeypatch.setattr(blocks, "_cuboids", lambda *box: np.where(original(*box) == 7, 8, original(*box)))
    assert blocks.run_cell(cell, context)["scores"]["rows_wrong"] > 1


def test_partitions_are_the_same_up_to_names_and_only_then() -> None:
    one = np.array([0, 1, 1, 2, 3])
    assert blocks.same_partition(one, np.array([0, 9, 9, 4, 1]))
    for other in ([0, 9, 9, 9, 1], [0, 9, 8, 4, 1], [5, 9, 9, 4, 1], [9, 0, 0, 4, 1]):
        assert not blocks.same_partition(one, np.array(other))


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        ("nuclei_3d objects", {"partitions_that_differ": 1}),
        ("phantom objects", {"workers_that_differ": 1}),
        ("phantom objects", {"objects": 0}),
        ("nuclei_3d predictions", {"labels_share": 0.0011}),
        ("nuclei_3d predictions", {"largest_difference": 3}),
        ("phantom predictions", {"seam_ratio": 1.06}),
        ("many merge", {"minutes": 3.1}),
        ("many merge", {"objects_too_many": -1}),
        ("many table", {"rows_wrong": 1}),
        ("many table", {"gigavoxels": 1.9}),
    ],
)
def test_targets_are_reached_or_not_by_the_numbers(name: str, worse: dict[str, float]) -> None:
    assert reached(name, {}) == {True}
    assert False in reached(name, worse)


def reached(name: str, change: dict[str, float]) -> set[bool | None]:
    cell, empty = PLAN[name], Series([])
    made: dict[str, Any] = {"cell": cell.identity, "scores": GOOD[cell.arm] | change}
    assert blocks.again(made).key == cell.key
    lines = targets.outcomes(empty, empty, empty, "full", blocks=Series([made]))
    return {line.reached for line in lines if f"--only '{name}'" in line.command}
