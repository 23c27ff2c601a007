"""The short forms: three kills lose nothing, and a small volume is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import faults, scaling, targets
from benchmarks.cells import Context, run_cells
from benchmarks.tables import Series
from benchmarks.volumes import sparse_volume


def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    block = (8, 32, 32)
    faults.prepare(tmp_path, (32, 128, 128), block, ["predict"])
    found = faults.run_arm("predict", "process", tmp_path, block, expected=64, kills=3)
    assert found.passed and found.kills == 3, found
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


def test_only_marks_are_counted(tmp_path: Path) -> None:
    for folder in ("OUT.ome.zarr/.fewslice/instances", "OUT.ome.zarr/0/c", ".OUT.ome.zarr.instances/label"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "0_0_0.done").touch()
    (tmp_path / "OUT.ome.zarr" / ".fewslice" / "written.jsonl").write_text("{}\n{}\n")
    assert faults._marks(tmp_path) == 4, "none lies among chunks"


def test_a_store_that_does_not_open_is_seen(tmp_path: Path) -> None:
    out = tmp_path / "OUT.ome.zarr"
    assert faults._opens(out), "nothing was begun"
    sparse_volume(out, (8, 16, 16), every=1)
    assert faults._opens(out)
    (out / "zarr.json").write_text("{")
    assert not faults._opens(out)


def kills(lost: int = 0, unopened: int = 0, **tier: bool) -> list[bool | None]:
    """Make up a round of all arms, the first with what is given, and judge it."""
    results = [
        {"cell": cell.identity, "scores": {"kills": cell.config["kills"], "lost": 0, "unopened": 0}}
        for cell in faults.plan(faults.argparse.Namespace(quick=tier.get("quick", False), draws=1))
    ]
    results[0]["scores"] |= {"lost": lost, "unopened": unopened}
    empty = Series([])
    lines = targets.outcomes(empty, empty, empty, "full", faults=Series(results))
    return [line.reached for line in lines if line.what.startswith("200 kills")]


def test_kills_reach_the_target_or_not_by_the_numbers() -> None:
    assert kills() == [True] and kills(lost=1) == [False] and kills(unopened=1) == [False]
    assert kills(quick=True) == [None]


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
