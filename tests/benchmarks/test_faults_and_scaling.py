"""The short forms: three kills lose nothing, and a small volume is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import faults, scaling
from benchmarks.cells import Context, run_cells


def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    block = (8, 32, 32)
    faults.prepare(tmp_path, (32, 128, 128), block, ["predict"])
    found = faults.run_arm("predict", "process", tmp_path, block, expected=64, kills=3)
    assert found.passed and found.kills == 3, faults.table([found])
    assert len(set(found.marks)) > 1, "every kill came at the same moment"


def test_the_comparison_of_bytes_can_fail(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("1")
    assert faults._same(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "x").write_text("2")
    assert not faults._same(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "x").write_text("1")
    (tmp_path / "b" / "y").write_text("1")
    assert not faults._same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("gib", [0.001, 0.25, 2.0, 16.0, 1024.0])
def test_shapes_have_about_the_size_asked_for(gib: float) -> None:
    z, y, x = scaling.shape_of(gib)
    assert abs(z * y * x / 2**30 / gib - 1) < 0.1 and not (z % 32 or y % 32 or x % 32)


def test_a_small_volume_is_measured(tmp_path: Path) -> None:
    cell = scaling.plan(scaling.argparse.Namespace(sizes=[0.002], workers=[0]))[0]
    context = Context("cpu", 1, tmp_path / "work", tmp_path)
    summary = run_cells([cell], scaling.run_cell, context, results=tmp_path, say=lambda line: None)
    assert summary.done == [cell.name]
    result = scaling.runner.read_results("scaling", results=tmp_path)
    scores = result[0]["scores"]
    assert scores["ns_per_voxel"] > 0 and 0.05 < scores["peak_gib_of_one_process"] <= scores["peak_gib"] < 4
    assert "0.002" in scaling.table(result) and scaling.again(result[0]).key == cell.key
