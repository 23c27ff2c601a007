"""Planning on a small stand-in: the plan of cells, both kinds of cell, targets and page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import make_docs, planning, targets
from benchmarks.cells import Cell, Context
from benchmarks.planning import ARMS, COUNTS, make_cell
from benchmarks.problems import HeldOut, Problem
from benchmarks.tables import Series

CELLS = [*planning.every_cell("quick"), *planning.every_cell("full")]


def test_every_cell_has_its_own_key_and_name_and_can_be_made_again() -> None:
    assert len({cell.key for cell in CELLS}) == len({cell.name for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        assert planning.again({"cell": json.loads(json.dumps(cell.identity))}) == cell
    for wrong in (("em", "choice", "gone", 0), ("em", "calibration", "curve", 0, 5), ("gone", "choice", "even", 0)):
        with pytest.raises(KeyError):
            make_cell(*wrong)


def test_keys_do_not_change_unnoticed() -> None:
    """A key names a stored result: who changes a recipe or a budget sees it here, and raises RECIPE where need be."""
    assert make_cell("em", "choice", "even", 0).key == "ed65e2dde9df1045"
    assert make_cell("stack2", "calibration", "curve", 0, 4).key == "3fc5c34e979ecde0"


def test_all_arms_of_a_draw_are_there() -> None:
    found = [(c.setting, c.arm) for c in planning.every_cell("quick", 1) if c.config["part"] == "choice"]
    assert sorted(found) == sorted((setting, arm) for setting in ("em", "stack2") for arm in ARMS)


# ------------------------------------------------------------------------------------------------------- measurements


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Problem:
    """Twenty planes of 32 × 32 with a bright square, and as many to test on."""
    truth = np.zeros((20, 32, 32), bool)
    truth[:, 8:22, 6:20] = True
    truth[:7, 24:30, 24:30] = True
    rng = np.random.default_rng(0)
    image, test = (rng.normal(60 + 90 * truth, 20).clip(0, 255).astype(np.uint8)[None] for _ in range(2))
    held = HeldOut(test, truth, (slice(None), slice(None), slice(16, None)))
    problem = Problem(((image, truth),), held, (2.0, 1.0, 1.0), "sha")
    monkeypatch.setattr(planning, "_problem", lambda setting, data: problem)
    return problem


def tiny(cell: Cell, **changes: Any) -> Cell:
    settings = {**cell.config["settings"], "network": {"kind": "unet", "dims": 2, "features": 2, "depth": 2}}
    settings |= {"patch": [1, 16, 16], "batch_size": 2, "learning_rate": 0.02}
    return replace(cell, config={**cell.config, "settings": settings, **changes}, budget={"steps": 12})


def context(folder: Path) -> Context:
    return Context("cpu", 1, folder / "work", folder)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_scored_at_every_number_of_planes(arm: str, small: Problem, tmp_path: Path) -> None:
    result = planning.run_cell(tiny(make_cell("stack2", "choice", arm, 1), counts=[1, 3, 4]), context(tmp_path))
    assert set(result["scores"]) == {"dice_1", "dice_3", "dice_4"}
    assert all(0 <= v <= 1 for v in result["scores"].values())
    planes = {int(n): p for n, p in result["planes"].items()}
    assert all(len(set(p)) == n for n, p in planes.items())
    if arm == "even":
        assert planes[4] == [2, 7, 12, 17]
    else:
        assert set(planes[1]) < set(planes[3]) < set(planes[4])
    if arm == "recommended":
        assert planes[1] == [10]
        assert np.diff(planes[3]).min() >= 2
    assert result["cpu_seconds"] > 0 and list((tmp_path / "work").iterdir()) == []


def test_the_curve_is_held_against_what_more_planes_reach(small: Problem, tmp_path: Path) -> None:
    result = planning.run_cell(tiny(make_cell("stack2", "calibration", "curve", 0, 4), factors=[2]), context(tmp_path))
    assert set(result["scores"]) == {"now", "dice_2n"}
    cell = make_cell("stack2", "calibration", "curve", 0, 4).identity
    scores = planning.with_forecasts({"cell": cell | {"config": cell["config"] | {"factors": [2]}}, **result})["scores"]
    assert set(scores) == {"now", "dice_2n", "expected_2n", "covered_2n", "half_width_2n", "log_gain_2n"}
    assert scores["covered_2n"] in (0.0, 1.0) and scores["half_width_2n"] > 0
    assert not scores["covered_2n"] or abs(scores["dice_2n"] - scores["expected_2n"]) <= 2 * scores["half_width_2n"]
    assert result["measured"]["sizes"] == [1, 2, 3] and np.shape(result["measured"]["folds"]) == (4, 3)


def test_every_plane_judges_a_training_that_has_not_seen_it(
    small: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen of twenty planes are to train: five rounds, each holding every fifth plane out."""
    seen: list[list[int]] = []

    class Perfect:
        def to(self, device: Any) -> Perfect:
            return self

        def probabilities(self, image: Any, *, bfloat16: Any = None) -> Any:
            return (image > 105).astype(np.float32)

    def train(cell: Any, context: Any, problem: Any, planes: list[int], folder: Any, seed: int) -> Any:
        seen.append(planes)
        return Perfect()

    monkeypatch.setattr(planning, "_trained", train)
    cell = make_cell("stack2", "calibration", "curve", 0, 4)
    dice = planning._reached(cell, context(tmp_path), small, 16, tmp_path, "cpu")
    assert [sorted(set(range(20)) - set(planes)) for planes in seen] == [list(range(r, 20, 5)) for r in range(5)]
    assert 0.8 < dice <= 1


# ------------------------------------------------------------------------------------------------- targets and page


def made_up(setting: str, part: str, arm: str, draw: int, planes: int | None, scores: Mapping[str, float]) -> Any:
    cell = make_cell(setting, part, arm, draw, planes)
    shared = {"device": "a processor", "device_kind": "cpu", "cpu_seconds": 60.0}
    return {"key": cell.key, "name": cell.name, "cell": cell.identity, "scores": dict(scores), **shared}


def everything(draws: int = 3) -> list[dict[str, Any]]:
    """Recommended planes do with half as many; every other forecast is covered."""
    even = {f"dice_{n}": 0.5 + 0.02 * n for n in COUNTS}
    double = {f"dice_{n}": 0.5 + 0.04 * n for n in COUNTS}
    worse = {f"dice_{n}": 0.5 + 0.01 * n for n in COUNTS}
    results = []
    for draw in range(draws):
        for setting in ("em", "stack2"):
            results.append(made_up(setting, "choice", "even", draw, None, even))
            mine = double if setting == "em" else worse
            results.append(made_up(setting, "choice", "recommended", draw, None, mine))
        scores = {"now": 0.7}
        for factor, covered in ((2, 1.0), (4, 0.0)):
            scores |= {f"dice_{factor}n": 0.75, f"expected_{factor}n": 0.76, f"covered_{factor}n": covered}
            scores |= {f"half_width_{factor}n": 0.02, f"log_gain_{factor}n": 0.5}
        measured = {"sizes": [1, 2, 3], "folds": [[0.6, 0.66, 0.7]] * 4}
        results.append(made_up("em", "calibration", "curve", draw, 4, scores) | {"measured": measured})
    return results


def outcomes(results: list[dict[str, Any]]) -> list[tuple[bool | None, str]]:
    empty = Series([])
    lines = targets.outcomes(empty, empty, empty, "full", planning=Series(results))
    return [(line.reached, line.measured) for line in lines if "benchmarks.planning" in line.command]


def test_targets_are_reached_or_not_by_the_numbers() -> None:
    assert outcomes(everything()) == [
        (True, "0.50 of 4, 0.50 of 6, 0.50 of 8 (3)"),
        (False, "2.00 of 4, never 6, never 8 (3)"),
        (False, "0.500 (6)"),
        (True, "0.020 (6)"),
        (True, "+0.500 (6)"),
    ]
    assert {reached for reached, _ in outcomes(everything(2))} == {None}
    assert {reached for reached, _ in outcomes([])} == {None}


def test_planes_needed_are_interpolated() -> None:
    assert targets.planes_needed({2: 0.6, 4: 0.8}, 0.7) == pytest.approx(3)
    assert targets.planes_needed({2: 0.6, 4: 0.8}, 0.5) == 2
    assert targets.planes_needed({2: 0.6, 4: 0.8}, 0.9) == float("inf")


def test_the_page_has_its_section_only_with_results(tmp_path: Path) -> None:
    (tmp_path / "planning").mkdir()
    text = make_docs.page(tmp_path)
    assert "## Planning" not in text
    (line,) = [row for row in text.splitlines() if "em: recommended planes reach the Dice" in row]
    assert "| – | not measured yet |" in line
    for item in everything():
        (tmp_path / "planning" / f"{item['key']}.json").write_text(json.dumps(item), encoding="utf-8")
    section = make_docs.page(tmp_path).split("## Planning")[1]
    assert "| even | 0.520 ± 0.000 (3) |" in section and "500 or 300 steps" in section
    assert "| em: 4 → 8 | 0.700 ± 0.000 (3) | 0.750 ± 0.000 (3) | 0.7" in section, "the curve is fitted anew"
