"""Tables, targets and the page, on results made up so that the answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import make_docs, sparsity, targets
from benchmarks.cells import MixedRecipesError
from benchmarks.tables import Series, difference, interval_text, markdown

DICE = {"cnn_2d": 0.70, "unet_2d": 0.80, "sparse_3d": 0.60, "student_cnn_2d": 0.75, "student_unet_2d": 0.795}


def result(
    arm: str, draw: int, setting: str = "phantom", planes: int = 1, dice: float | None = None, **more: Any
) -> dict[str, Any]:
    """Make a result whose Dice differs by a common 0.02 between draws, which pairing must cancel."""
    student = arm.startswith("student")
    value = DICE[arm] + 0.02 * draw if dice is None else dice
    config = {"planes": planes, "tier": "full", **({"alpha": sparsity.alpha_of(setting, planes)} if student else {})}
    cell = {
        "benchmark": "sparsity",
        "setting": setting,
        "arm": arm,
        "draw": draw,
        "config": {**config, **more.pop("config", {})},
        "recipe": more.pop("recipe", sparsity.RECIPE),
        "data": "d1",
        "budget": {"segment": 10},
    }
    scores = {
        "dice": value,
        "nsd": value,
        "assd_um": 2 - value,
        "hd95_um": 5.0,
        "confusion": [[90, 2], [3, 5]],
    }
    name = f"{setting}/{arm}/planes={planes}/draw={draw}"
    fixed = {"key": name.replace("/", "_"), "name": name, "cell": cell, "scores": scores, "device": "a processor"}
    return {**fixed, "device_kind": "cpu", "cpu_seconds": 10.0, "wall_seconds": 6.0, **more}


def everything(draws: int = 5) -> list[dict[str, Any]]:
    return [
        result(arm, draw, setting, planes)
        for arm in DICE
        for draw in range(draws)
        for setting in ("phantom", "stack2_field", "stack2_crops")
        for planes in (1, 2, 4, 8)
    ]


def lines(results: list[dict[str, Any]]) -> dict[str, targets.Outcome]:
    empty = Series([])
    return {line.what: line for line in targets.outcomes(Series(results), empty, empty, "full")}


def test_differences_are_paired_by_draw() -> None:
    ours = Series([result("student_cnn_2d", draw) for draw in range(5)])
    theirs = Series([result("cnn_2d", draw) for draw in range(1, 6)])
    found = difference(ours, theirs, "dice")
    assert found is not None
    assert (found.count, found.mean) == (4, pytest.approx(0.05))
    assert found.low == pytest.approx(0.05)
    assert difference(ours, Series([]), "dice") is None


def test_a_series_refuses_to_mix() -> None:
    with pytest.raises(MixedRecipesError):
        Series([result("cnn_2d", 0), result("cnn_2d", 1, recipe="old")])
    with pytest.raises(ValueError, match="several results"):
        Series([result("cnn_2d", 0), result("cnn_2d", 0, planes=2)]).values("dice")


def test_texts() -> None:
    series = Series([result("cnn_2d", draw) for draw in range(3)])
    assert interval_text(series.interval("dice")) == "0.720 ± 0.050 (3)"
    assert interval_text(None) == "–"
    assert interval_text(Series([result("cnn_2d", 0)]).interval("dice")) == "0.700 (1)"
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---:|\n| 1 | 2 |\n"


def test_targets_are_reached_or_not_by_the_numbers() -> None:
    found = lines(everything())
    gain = "student of the published 2D network against"
    assert found[f"phantom, 1 plane: {gain} 2D network (published), Dice"].reached is True
    assert found[f"phantom, 2 planes: {gain} sparse 3D U-Net (α = 0), Dice"].measured == "+0.150 ± 0.000 (5)"
    assert found[f"phantom, 1 plane: {gain} 2D network (published), ASSD (µm), rival − student"].reached is True
    assert found["stack2_field, 4 planes: best student against best rival, Dice"].reached is True
    assert (
        "(student_unet_2d − unet_2d)" in found["stack2_field, 4 planes: best student against best rival, Dice"].measured
    )
    assert found["stack2_field, 4 planes: best student, Dice"].reached is False
    assert (
        found["em_mitochondria, 32 planes, 30 minutes on two cores: sparse_3d, Dice on the test stack"].reached is None
    )


def test_four_draws_are_not_enough_to_say() -> None:
    said = {line.reached for what, line in lines(everything(4)).items() if what.startswith(("phantom, ", "stack2"))}
    assert said == {None}


def test_a_gain_that_could_be_chance_is_not_reached() -> None:
    results = [result("cnn_2d", draw, dice=0.7) for draw in range(5)]
    results += [
        result("student_cnn_2d", draw, dice=0.7 + gain) for draw, gain in enumerate([0.2, -0.1, 0.1, -0.05, 0.0])
    ]
    line = lines(results)["phantom, 1 plane: student of the published 2D network against 2D network (published), Dice"]
    assert line.reached is False


def test_seconds_to_a_dice_by_hand() -> None:
    curve = [{"cpu": 10.0, "dice": 0.2}, {"cpu": 20.0, "dice": 0.6}, {"cpu": 30.0, "dice": 0.5}]
    assert targets.seconds_to(curve, 0.4) == pytest.approx(15.0)
    assert targets.seconds_to(curve, 0.1) == 10.0
    assert targets.seconds_to(curve, 0.6) == pytest.approx(20.0)
    assert math.isinf(targets.seconds_to(curve, 0.7))


def test_cost_counts_the_teacher_and_says_when_a_draw_never_gets_there() -> None:
    sparse = [{"cpu": 50.0, "dice": 0.3}, {"cpu": 100.0, "dice": 0.6}]
    quick = [{"cpu": 30.0, "dice": 0.4}, {"cpu": 40.0, "dice": 0.8}]
    never = [{"cpu": 40.0, "dice": 0.5}]
    rows = [result("sparse_3d", draw, "phantom_cost", curve=sparse) for draw in range(5)]
    good = rows + [result("student_cnn_2d", draw, "phantom_cost", curve=quick) for draw in range(5)]
    assert targets.cost_ratios(Series(good), "student_cnn_2d", 1.0)[0] == pytest.approx(0.35)
    what = (
        "phantom, 1 plane: processor seconds of the student of the published 2D network over the sparse arm's, "
        "to the sparse arm's best Dice"
    )
    assert lines(good)[what].reached is True
    bad = [*good[:-1], result("student_cnn_2d", 4, "phantom_cost", curve=never)]
    assert lines(bad)[what].reached is False
    assert lines(bad)[what].measured.endswith("never in 1 of 5 draws")


@pytest.fixture
def any_key_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up results have made-up keys; what decides here is their recipe version."""

    def current(loaded: list[dict[str, Any]], again: Any) -> list[dict[str, Any]]:
        return [item for item in loaded if item["cell"]["recipe"] == sparsity.RECIPE]

    monkeypatch.setattr(make_docs, "current", current)


def store(results: list[dict[str, Any]], folder: Path, benchmark: str = "sparsity") -> None:
    (folder / benchmark).mkdir(parents=True, exist_ok=True)
    for item in results:
        (folder / benchmark / f"{item['key']}.json").write_text(json.dumps(item), encoding="utf-8")


@pytest.mark.usefixtures("any_key_is_current")
def test_the_page_is_made_of_results_of_the_current_recipe(tmp_path: Path) -> None:
    store(everything(), tmp_path / "results")
    old = result("cnn_2d", 0, dice=0.123, recipe="0")
    store([{**old, "key": "old"}], tmp_path / "results")
    changes = {"trial": "wide", "changes": {"student.network.features": 24}}
    trials = [result("student_cnn_2d", draw, dice=0.8 + 0.02 * draw, config=changes) for draw in range(2)]
    for draw, trial in enumerate(trials):
        store([{**trial, "key": f"trial{draw}"}], tmp_path / "results", "sparsity_trials")
    page = make_docs.page(tmp_path / "results")
    assert "0.123" not in page
    assert "| 1 | 0.740 ± 0.039 (5) |" in page
    (row,) = [line for line in page.splitlines() if "student.network.features=24" in line]
    assert row.endswith("10 steps | 0.810 ± 0.127 (2) | 0.810 ± 0.127 (2) | +0.050 ± 0.000 (2) |")
    assert "TN 90.00, FP 2.00, FN 3.00, TP 5.00" in page
    assert page == make_docs.page(tmp_path / "results")


@pytest.mark.usefixtures("any_key_is_current")
def test_the_page_is_written_once_and_checked(tmp_path: Path) -> None:
    store(everything(2), tmp_path / "results")
    options = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs")]
    assert make_docs.main(["--check", *options]) == 1
    assert make_docs.main(options) == 0
    assert make_docs.main(["--check", *options]) == 0
    figures = sorted((tmp_path / "docs" / "figures").glob("*.png"))
    assert {path.name for path in figures} >= {"sparsity_phantom_full.png"}
    assert all(path.stat().st_size < 150_000 for path in figures)
    text = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert all((tmp_path / "docs" / "figures" / path.name).name in text for path in figures)
    store([result("cnn_2d", 4)], tmp_path / "results")
    assert make_docs.main(["--check", *options]) == 1


def test_the_page_can_be_made_of_nothing(tmp_path: Path) -> None:
    page = make_docs.page(tmp_path)
    assert "not measured yet" in page
    assert "yes |" not in page


def test_the_stored_page_is_what_the_stored_results_give() -> None:
    assert make_docs.main(["--check"]) == 0, "write it again: python -m benchmarks.make_docs"
