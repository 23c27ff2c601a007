"""The cached-cell runner: keys, resuming, failures, time, processes, stale results, recipe versions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cells as runner
from benchmarks.cells import Cell, Clock, Context


def make_cell(arm: str = "arm", draw: int = 0, **changes: Any) -> Cell:
    values: dict[str, Any] = {
        "benchmark": "fake",
        "setting": "phantom",
        "arm": arm,
        "draw": draw,
        "config": {"planes": 2},
        "data": "d1",
        "budget": {"segment": 10},
        "recipe": "1",
        "label": {"planes": 2},
    }
    return Cell(**{**values, **changes})


def context(tmp_path: Path) -> Context:
    return Context("cpu", 1, tmp_path / "work", tmp_path)


def measure(cell: Cell, context: Context) -> Mapping[str, Any]:
    """Fake measurement, importable by name: one arm fails, one kills its process, one is slow."""
    if cell.arm == "fails":
        raise ValueError("no such plane")
    if cell.arm == "dies":
        os._exit(7)
    if cell.arm == "slow":
        time.sleep(0.2)
    context.work.mkdir(parents=True, exist_ok=True)
    with (context.work / "calls").open("a", encoding="utf-8") as stream:
        stream.write(f"{cell.name} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    return {"scores": {"dice": 0.5 + 0.1 * cell.draw, "undefined": float("nan"), "count": np.int64(3)}}


def calls(tmp_path: Path) -> list[list[str]]:
    path = tmp_path / "work" / "calls"
    return [line.split(" ") for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run(cells: list[Cell], tmp_path: Path, **options: Any) -> runner.Summary:
    options.setdefault("say", lambda line: None)
    return runner.run_cells(cells, measure, context(tmp_path), results=tmp_path / "results", **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"planes": 4}},
        {"data": "d2"},
        {"budget": {"segment": 20}},
        {"recipe": "2"},
        {"draw": 1},
        {"arm": "other"},
        {"setting": "stack2"},
        {"benchmark": "else"},
    ],
)
def test_key_changes_with_everything_the_result_depends_on(changes: dict[str, Any]) -> None:
    assert replace(make_cell(), **changes).key != make_cell().key


def test_key_ignores_order_group_and_label() -> None:
    first = make_cell(config={"a": 1, "b": {"c": 2, "d": 3}})
    second = make_cell(config={"b": {"d": 3, "c": 2}, "a": 1}, group="g", label={})
    assert first.key == second.key


def test_data_identity_sees_values_shape_and_type() -> None:
    array = np.arange(6, dtype=np.uint8)
    base = runner.data_identity(array)
    assert runner.data_identity(array.copy()) == base
    assert runner.data_identity(array[::-1]) != base
    assert runner.data_identity(array.reshape(2, 3)) != base
    assert runner.data_identity(array.view(np.int8)) != base


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("arm", True),
        ("planes=2", True),
        ("planes=*", True),
        ("planes=20", False),
        ("planes=2 draw=0", True),
        ("planes=2 draw=1", False),
        ("phantom/arm/*", True),
        ("ar", False),
    ],
)
def test_filter_matches_whole_parts(pattern: str, expected: bool) -> None:
    assert make_cell().matches(pattern) is expected


def test_runs_once_and_resumes(tmp_path: Path) -> None:
    cells = [make_cell(draw=draw) for draw in range(3)]
    first = run(cells[:2], tmp_path, command="python -m benchmarks.fake")
    second = run(cells, tmp_path)
    assert (len(first.done), len(second.done), len(second.present)) == (2, 1, 2)
    assert [call[0] for call in calls(tmp_path)] == [cell.name for cell in cells]
    stored = json.loads((tmp_path / "results" / "fake" / f"{cells[1].key}.json").read_text(encoding="utf-8"))
    assert stored["cell"] == cells[1].identity
    assert stored["scores"] == {"dice": 0.6, "undefined": None, "count": 3}
    assert stored["command"] == f'python -m benchmarks.fake --only "{cells[1].name}"'
    assert {"cpu_seconds", "wall_seconds", "device", "threads", "versions"} <= set(stored)
    assert not list((tmp_path / "results").rglob("*.part"))


def test_a_failure_is_recorded_and_tried_again_and_stops_nothing(tmp_path: Path) -> None:
    cells = [make_cell("fails"), make_cell("arm")]
    summary = run(cells, tmp_path)
    assert (summary.failed, summary.done, summary.exit_code) == ([cells[0].name], [cells[1].name], 3)
    (failure,) = runner.read_failures("fake", results=tmp_path / "results")
    assert failure["error"] == "ValueError: no such plane"
    assert str(tmp_path.anchor + "work") not in json.dumps(failure["where"])
    assert [result["name"] for result in runner.read_results("fake", results=tmp_path / "results")] == [cells[1].name]
    assert run(cells, tmp_path).failed == [cells[0].name]
    runner.run_cells(
        cells, lambda cell, context: {}, context(tmp_path), results=tmp_path / "results", say=lambda _: None
    )
    assert runner.read_failures("fake", results=tmp_path / "results") == []


def test_no_cell_starts_when_its_like_took_longer_than_what_is_left(tmp_path: Path) -> None:
    cells = [make_cell("slow", draw=draw) for draw in range(4)]
    summary = run(cells, tmp_path, max_minutes=0.3 / 60)
    assert summary.done == [cells[0].name]
    assert summary.postponed == [cell.name for cell in cells[1:]]
    assert summary.exit_code == 3
    assert run(cells, tmp_path, max_minutes=0.0).done == []


def test_processes_run_groups_in_order_and_survive_a_death(tmp_path: Path) -> None:
    together = [make_cell("arm", draw=draw, group="together") for draw in range(3)]
    cells = [make_cell("dies"), *together, make_cell("other"), make_cell("fails")]
    before = os.environ.get("OMP_NUM_THREADS")
    summary = run(cells, tmp_path, jobs=2)
    assert sorted(summary.done) == sorted([*(cell.name for cell in together), cells[4].name])
    assert sorted(summary.failed) == sorted([cells[0].name, cells[5].name])
    made = [call for call in calls(tmp_path) if "/arm/" in call[0]]
    assert [call[0] for call in made] == [cell.name for cell in together]
    assert len({call[1] for call in made}) == 1
    assert {call[2] for call in calls(tmp_path)} == {"1"}
    assert str(os.getpid()) not in {call[1] for call in calls(tmp_path)}
    errors = [failure["error"] for failure in runner.read_failures("fake", results=tmp_path / "results")]
    assert "the process ended with exit code 7" in errors
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_stale_results_are_listed_with_the_reason(tmp_path: Path) -> None:
    old, gone = make_cell(), make_cell("gone")
    run([old, gone], tmp_path)
    new = replace(old, recipe="2", data="d2")
    listed = dict(runner.stale([new], results=tmp_path / "results"))
    why = {path.stem: reason for path, reason in listed.items()}
    assert why[old.key].endswith("changed recipe, data (recipe 1, now 2)")
    assert why[gone.key].endswith("no such cell is planned")
    assert runner.stale([old, gone], results=tmp_path / "results") == []


def test_recipe_versions_never_share_a_table(tmp_path: Path) -> None:
    run([make_cell(), make_cell(draw=1, recipe="2")], tmp_path)
    loaded = runner.read_results("fake", results=tmp_path / "results")
    with pytest.raises(runner.MixedRecipesError, match="versions 1, 2"):
        runner.of_one_recipe(loaded)
    assert len(runner.of_one_recipe([result for result in loaded if result["cell"]["recipe"] == "2"])) == 1


def test_clock_leaves_pauses_out() -> None:
    clock = Clock()
    with clock.paused():
        until = time.perf_counter() + 0.1
        while time.perf_counter() < until:
            pass
    assert clock.wall < 0.05
    assert clock.cpu < 0.05


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main(*argv: str) -> int:
        folders = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work"), "--threads", "1"]
        return runner.main(
            [*argv, *folders],
            benchmark="fake",
            description="Fake.",
            plan=lambda arguments: [make_cell(), make_cell("fails")],
            function=measure,
        )

    assert main("--only", "arm") == 0
    assert main("--only", "fails") == 3
    capsys.readouterr()
    assert main("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:6].strip() for line in lines] == ["done", "failed"]
    with pytest.raises(SystemExit) as stop:
        main("--only", "nothing")
    assert stop.value.code == 2


def test_results_are_current_while_their_cell_would_get_the_same_key() -> None:
    def again(loaded: Mapping[str, Any]) -> Cell:
        return {"arm": make_cell(), "changed": make_cell("changed", budget={"segment": 11})}[loaded["cell"]["arm"]]

    loaded = [
        {"cell": cell.identity, "key": cell.key} for cell in (make_cell(), make_cell("changed"), make_cell("gone"))
    ]
    assert runner.current(loaded, again) == loaded[:1]
