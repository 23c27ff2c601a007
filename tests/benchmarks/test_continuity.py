"""Spatial continuity on small stand-ins: the plan, what the arms are, every kind of cell, the page and the targets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import cells as runner
from benchmarks import continuity, em, figures, make_docs, targets
from benchmarks.cells import Cell, Context
from benchmarks.continuity import ABLATION, BUDGETS, PROTOCOLS, STRATEGIES, Protocol, annotated_planes, make_cell
from benchmarks.tables import Series
from fewslice.data import augmentation
from fewslice.experiment import Experiment, strategy_config
from fewslice.morphology import interpolate_signed_distance
from fewslice.strategies import continuity_2022

CELLS = [
    *continuity.every_cell("crop"),
    *continuity.every_cell("whole"),
    make_cell("whole60", "best", "best", 0, 32),
    *(make_cell("speed", "speed", arm, 0) for arm in ("operator", "chain")),
]
TRAINED = [cell for cell in CELLS if "strategy" in cell.config and cell.config["part"] != "speed" and cell.draw == 0]


def arguments(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"quick": False, "draws": 3, **changes})


# -------------------------------------------------------------------------------------------------------- the plan


def test_planes_are_those_published_or_evenly_centred() -> None:
    assert annotated_planes(32) == list(range(0, 160, 5))
    assert annotated_planes(165) == list(range(165))
    assert annotated_planes(1) == [82]
    assert annotated_planes(2) == [41, 123]
    assert annotated_planes(8) == [10, 30, 51, 72, 92, 113, 134, 154]
    for count in (4, 16):
        planes = annotated_planes(count)
        assert len(set(planes)) == count
        assert abs(planes[0] - (164 - planes[-1])) <= 1, "as far from either end"


def test_every_cell_has_its_own_key_and_name() -> None:
    assert len({cell.key for cell in CELLS}) == len({cell.name for cell in CELLS}) == len(CELLS)


def test_keys_do_not_change_unnoticed() -> None:
    """A key names a stored result: who changes a recipe or a budget sees it here, and raises RECIPE where need be."""
    assert make_cell("crop", "ablation", "none", 0, 32).key == "d0157106280eff94"
    assert make_cell("crop", "strategies", "continuity", 0, 8).key == "94a001221f15bf48"


def test_every_cell_can_be_made_again_from_its_result() -> None:
    for cell in CELLS:
        assert continuity.again({"cell": json.loads(json.dumps(cell.identity))}) == cell
    with pytest.raises(KeyError):
        make_cell("crop", "ablation", "gone", 0, 32)
    with pytest.raises(KeyError):
        make_cell("crop", "interpolation", "gone", 0, 32)


def test_the_quick_plan_is_the_crop_and_the_full_one_the_rest() -> None:
    quick, full = continuity.plan(arguments(quick=True)), continuity.plan(arguments())
    assert {cell.setting for cell in quick} == {"crop"}
    assert {cell.setting for cell in full} == {"whole", "whole60", "speed"}
    assert {cell.key for cell in [*quick, *full]} == {cell.key for cell in CELLS}
    best = [cell for cell in full if cell.setting == "whole60"]
    assert [(cell.budget, cell.config["validation"], cell.draw) for cell in best] == [({"minutes": 60}, "auto", 0)]


def test_strategies_are_compared_at_every_number_of_planes_but_students_need_something_unlabelled() -> None:
    found: dict[int, set[str]] = {}
    for cell in continuity.every_cell("crop", 1):
        if cell.config["part"] == "strategies":
            found.setdefault(cell.config["planes"], set()).add(cell.arm)
    several = {"slices_2d", "sparse_3d", "pseudo_labels", "continuity"}
    assert found == {2: several, 8: several, 32: several, 165: {"slices_2d", "continuity"}}


def test_draws_are_seeds_of_training_and_what_is_not_random_has_one() -> None:
    cells = continuity.every_cell("crop", 3)
    draws = {part: {c.draw for c in cells if c.config["part"] == part} for part in ("ablation", "strategies")}
    assert draws == {"ablation": {0, 1, 2}, "strategies": {0, 1, 2}}
    assert {cell.draw for cell in cells if cell.config["part"] == "interpolation"} == {0}


def test_train_and_test_lie_inside_the_stacks() -> None:
    train, test = PROTOCOLS["crop"].train, PROTOCOLS["crop"].test
    assert train is not None and test is not None
    assert [stop - start for start, stop in train] == [165, 384, 512]
    assert all(0 <= start < stop <= extent for (start, stop), extent in zip(train, (165, 768, 1024), strict=True))
    assert [list(ends) for ends in test] == [[0, 165], [0, 352 // 2], [0, 1024]]


# -------------------------------------------------------------------------------------------------------- the arms


def config_of(cell: Cell) -> Any:
    return strategy_config(Experiment(strategy=cell.config["strategy"], settings=cell.config["settings"]))


@pytest.mark.parametrize("cell", TRAINED, ids=lambda cell: cell.name)
def test_settings_are_accepted_and_budgets_name_the_stages(cell: Cell) -> None:
    config = config_of(cell)
    stages = {
        "slices_2d": {"segment"},
        "sparse_3d": {"segment"},
        "pseudo_labels": {"teacher", "student"},
        "consensus": {"teacher", "student"},
    }.get(cell.config["strategy"], {"segment", "continuity"})
    if cell.setting != "whole60":
        assert set(cell.budget) == stages
    networks = [getattr(config, name, config) for name in stages]
    if cell.arm not in ("continuity_2022", "best"):
        for network in networks:
            features = 8 if cell.setting == "crop" and network.network["dims"] == 3 else 16
            assert (network.network["features"], network.views) == (features, 4)


def test_single_stages_and_two_stages_get_the_same_steps_of_2d_networks() -> None:
    for setting in ("crop", "whole"):
        steps = BUDGETS[setting]
        assert sum(steps["continuity"].values()) == steps["slices_2d"]["segment"]
    assert BUDGETS["whole"]["pseudo_labels"] == BUDGETS["whole"]["consensus"]


def test_the_ablation_adds_one_step_at_a_time() -> None:
    none, affine, morphology, whole = (config_of(make_cell("crop", "ablation", arm, 0, 32)) for arm in targets.STEPS)
    published = continuity_2022.Config().segment.augment
    assert none.augment == augmentation.Config.none(flip=0.5, right_angle=1.0)
    assert affine.augment == morphology.segment.augment == morphology.continuity.augment == published
    assert whole.segment == morphology.segment
    assert whole.continuity.augment == none.augment
    assert (morphology.neighbours.planes, morphology.neighbours.image_planes) == (0, 1)
    assert (whole.neighbours.planes, whole.neighbours.image_planes) == (15, 1)
    assert tuple(ABLATION) == targets.STEPS


def test_strategies_have_the_defaults_of_the_package() -> None:
    slices = config_of(make_cell("crop", "strategies", "slices_2d", 0, 32))
    assert slices.augment == augmentation.Config()
    whole = config_of(make_cell("whole", "strategies", "continuity_2022", 0, 32))
    assert whole == continuity_2022.Config()
    assert make_cell("whole", "strategies", "continuity_2022", 0, 32).config["cut"] == whole.threshold == 0.2
    best = config_of(make_cell("whole60", "best", "best", 0, 32))
    assert (best.segment.views, best.continuity.views) == (8, 8)


# ------------------------------------------------------------------------------------------------- cells, end to end

SHAPE = (16, 64, 64)
TINY: dict[str, Any] = {
    "network": {"kind": "unet", "dims": 2, "features": 4, "depth": 2},
    "patch": [1, 32, 32],
    "batch_size": 4,
    "views": 1,
    "learning_rate": 1e-2,
}


def stack(name: str, data: Path) -> tuple[Any, Any]:
    """Two tubes along z in noise; the test stack has another noise."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 8:28, 10:32] = labels[3:14, 36:56, 34:60] = 1
    rng = np.random.default_rng(["em_train", "em_test"].index(name))
    image = np.clip(90 + 60 * labels + rng.normal(0, 15, SHAPE), 0, 255).astype(np.uint8)
    return image, labels


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Context]:
    """Replace the stacks, the crop, networks and budgets by small ones."""
    monkeypatch.setattr(continuity, "read_pair", stack)
    monkeypatch.setattr(em, "read_pair", stack)
    regions = ((0, 16), (0, 64), (0, 48)), ((0, 16), (0, 32), (0, 64))
    monkeypatch.setitem(PROTOCOLS, "crop", Protocol((2, 4, 16), *regions))
    pair = {"segment": TINY, "continuity": TINY, "morphology": {"min_area_um2": 5e-4}}
    monkeypatch.setitem(ABLATION, "affine", ("slices_2d", TINY))
    monkeypatch.setitem(ABLATION, "morphology", ("continuity", pair | {"neighbours": {"planes": 0, "image_planes": 1}}))
    monkeypatch.setitem(STRATEGIES["crop"], "continuity", ("continuity", pair | {"neighbours": {"planes": 5}}))
    budgets = {"slices_2d": {"segment": 30}, "continuity": {"segment": 30, "continuity": 20}}
    monkeypatch.setitem(BUDGETS, "crop", BUDGETS["crop"] | budgets)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Context("cpu", 1, tmp_path / "work", tmp_path)
    torch.set_num_threads(threads)


def measure(context: Context, part: str, arm: str, planes: int | None = None, setting: str = "crop") -> dict[str, Any]:
    cell = make_cell(setting, part, arm, 0, planes)
    found = dict(continuity.run_cell(cell, context))
    json.dumps(runner._plain(found), allow_nan=False)
    return found


def test_an_arm_is_trained_on_the_crop_and_scored_on_its_part_of_the_test_stack(small: Context) -> None:
    found = measure(small, "ablation", "affine", 4)
    assert found["steps"] == {"segment": 30}
    assert sum(sum(row) for row in found["scores"]["confusion"]) == 16 * 32 * 64
    assert {"dice", "iou", "precision", "recall", "flicker", "ceiling"} <= set(found["scores"])
    assert "raw_between" not in found["scores"]
    assert found["device_kind"] == "cpu" and found["predict_seconds"]["cpu"] > 0
    assert not list(small.work.glob("run-*"))


@pytest.mark.parametrize(("part", "arm"), [("ablation", "morphology"), ("strategies", "continuity")])
def test_two_networks_tell_what_cleaning_brings_and_their_prediction_is_kept(
    part: str, arm: str, small: Context
) -> None:
    found = measure(small, part, arm, 4)
    assert found["steps"] == {"segment": 30, "continuity": 20}
    scores = found["scores"]
    assert 0 < scores["raw_between"] <= 1 and 0 < scores["cleaned_between"] <= 1
    assert scores["raw_between"] != scores["cleaned_between"]

    cell = make_cell("crop", part, arm, 0, 4)
    with np.load(small.work / "continuity" / f"{cell.key}.npz") as stored:
        mask = stored["probability"] >= 127.5
    truth = stack("em_test", small.data)[1][:, :32] > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) == pytest.approx(scores["dice"])


def test_what_was_predicted_can_be_drawn(small: Context, capsys: pytest.CaptureFixture[str]) -> None:
    cell = make_cell("crop", "strategies", "continuity", 1, 4)
    continuity._keep(np.zeros((16, 32, 64), np.uint8), cell, small)
    picture = small.work / "picture.png"
    options = ["--figure", str(picture), "--work", str(small.work), "--data", str(small.data), "--quick"]
    assert continuity.main([*options, "--plane", "3"]) == 0
    assert capsys.readouterr().out == f"{cell.name}\n", "the one cell that has a prediction"
    assert picture.stat().st_size > 1000
    picture.unlink()
    assert continuity.main([*options, "--only", "sparse_3d"]) == 3
    assert not picture.exists()
    with pytest.raises(SystemExit, match="--plane 16 is not in the test stack"):
        continuity.main([*options, "--plane", "16"])


def test_planes_between_annotated_ones_are_filled_and_scored_there_alone(small: Context) -> None:
    found = measure(small, "interpolation", "signed_distance", 4)
    truth = stack("em_train", small.data)[1][:, :, :48] > 0
    others = np.setdiff1d(np.arange(16), annotated_planes(4, 16))
    known = np.isin(np.arange(16), others, invert=True)
    hidden = np.where(known[:, None, None], truth, ~truth)  # wrong where nothing may be looked at
    filled = interpolate_signed_distance(hidden, known)[others]
    expected = 2 * (filled & truth[others]).sum() / (filled.sum() + truth[others].sum())
    assert found["scores"]["between"] == pytest.approx(expected)
    assert 0.8 < expected < 1, "a tube ends between two planes"
    assert set(found["scores"]) == {"between", "between_iou", "between_precision", "between_recall"}


def test_the_operator_is_timed_and_its_memory_seen(small: Context) -> None:
    found = measure(small, "speed", "operator", setting="speed")["scores"]
    assert found["seconds"] > 0
    assert 1 < found["memory_over_mask"] < 40, "a small mask; what is allocated beside it counts for more"
    assert found["raw_between"] < 1


def test_noise_is_blobs_of_the_share_asked_for_and_differs_between_planes() -> None:
    truth = np.zeros((3, 128, 128), bool)
    truth[:, 32:96, 32:96] = True
    masks = continuity._flip_blobs(truth, 0, sigma=4.0, share=0.03)
    flipped = masks ^ truth
    assert flipped.mean(axis=(1, 2)) == pytest.approx(0.03, abs=0.001)
    assert (flipped[0] & flipped[1]).sum() < 0.5 * flipped[0].sum()
    np.testing.assert_array_equal(masks, continuity._flip_blobs(truth, 0, sigma=4.0, share=0.03))
    assert (masks != continuity._flip_blobs(truth, 1, sigma=4.0, share=0.03)).any()
    assert truth[0].sum() == 64 * 64, "the truth is as it was"


def test_the_chain_is_compared_with_its_bare_networks(small: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"segment": TINY, "continuity": TINY}
    changed = {**continuity._SPEED["chain"], "settings": settings, "block_planes": 8}
    monkeypatch.setitem(continuity._SPEED, "chain", changed)
    found = measure(small, "speed", "chain", setting="speed")["scores"]
    assert found["ratio"] == pytest.approx(
        found["seconds"] / (found["bare_first_seconds"] + found["bare_second_seconds"])
    )
    assert found["read_over_written"] == pytest.approx((15 + 15) / 16), "two blocks of 8 planes, 7 around each"


# -------------------------------------------------------------------------------------------- page, targets, figure


def made_up(setting: str, part: str, arm: str, draw: int, planes: int | None, **scores: Any) -> dict[str, Any]:
    cell = make_cell(setting, part, arm, draw, planes)
    fixed = {"device": "a processor", "device_kind": "cpu", "threads": 2, "cpu_seconds": 600.0, "wall_seconds": 300.0}
    return {"key": cell.key, "name": cell.name, "cell": cell.identity, "scores": scores, **fixed}


def everything(draws: int = 3, step: float = 0.01) -> list[dict[str, Any]]:
    results = []
    for draw in range(draws):
        for index, arm in enumerate(ABLATION):
            dice = 0.9 + step * index + 0.002 * draw
            more = {"iou": dice - 0.1, "precision": 0.9, "recall": 0.9, "flicker": 0.001}
            results.append(made_up("crop", "ablation", arm, draw, 32, dice=dice, **more))
        for planes, dice in ((8, 0.915), (32, 0.93), (165, 0.935)):
            more = {} if planes == 165 else {"raw_between": 0.8, "cleaned_between": 0.85}
            results.append(made_up("crop", "strategies", "continuity", draw, planes, dice=dice, **more))
    results.append(made_up("crop", "interpolation", "signed_distance", 0, 8, between=0.777))
    best = {"dice": 0.94, "dice_chosen": 0.946, "iou_chosen": 0.89, "threshold_chosen": 0.4}
    results.append(made_up("whole60", "best", "best", 0, 32, **best))
    results.append(made_up("speed", "speed", "operator", 0, None, seconds=12.0, memory_over_mask=2.1))
    results.append(made_up("speed", "speed", "chain", 0, None, ratio=1.4))
    return results


def outcomes(results: list[dict[str, Any]]) -> dict[str, targets.Outcome]:
    empty = Series([])
    lines = targets.outcomes(empty, empty, empty, "full", continuity=Series(results))
    return {line.what.removeprefix("em_mitochondria, "): line for line in lines if "continuity" in line.command}


def test_targets_are_reached_or_not_by_the_numbers() -> None:
    found = {what: (line.reached, line.measured) for what, line in outcomes(everything()).items()}
    gain = (True, "+0.010 ± 0.000 (3)")
    assert found == {
        "crop, 32 planes: `affine` against `none`, Dice": gain,
        "crop, 32 planes: `morphology` against `affine`, Dice": gain,
        "crop, 32 planes: `continuity` against `morphology`, Dice": gain,
        "crop, continuity: 8 planes against 32, Dice": (True, "-0.015 ± 0.000 (3)"),
        "crop, continuity: 32 planes against 165, Dice": (True, "-0.005 ± 0.000 (3)"),
        "32 planes, best recipe, 60 minutes on two cores: Dice on the test stack": (True, "0.946 (1)"),
        "32 planes, best recipe, 60 minutes on two cores: IoU on the test stack": (False, "0.890 (1)"),
        "morphology along z on 165 × 768 × 1024, seconds": (True, "12.0 (1)"),
        "morphology along z, its memory over that of the mask": (True, "2.10 (1)"),
        "prediction with both networks over their bare forward passes, seconds": (False, "1.40 (1)"),
    }


def test_a_step_that_does_not_help_is_said() -> None:
    found = outcomes(everything(step=-0.01))
    assert found["crop, 32 planes: `affine` against `none`, Dice"].reached is False


def test_two_seeds_or_another_machine_say_nothing() -> None:
    few = [result | {"device_kind": "cuda"} for result in everything(2)]
    assert {line.reached for line in outcomes(few).values()} == {None}
    assert {line.reached for line in outcomes([]).values()} == {None}


def test_the_page_has_its_section_only_with_results(tmp_path: Path) -> None:
    folder = tmp_path / "continuity"
    folder.mkdir()
    assert "## Spatial continuity" not in make_docs.page(tmp_path)
    for item in everything():
        (folder / f"{item['key']}.json").write_text(json.dumps(item), encoding="utf-8")
    text = make_docs.page(tmp_path)
    section = text.split("## Spatial continuity")[1]
    (row,) = [line for line in section.splitlines() if line.startswith("| `morphology`")]
    assert "| 0.922 ± 0.005 (3) |" in row and "| +0.010 ± 0.000 (3) |" in row
    assert row.endswith("| 0.936 | 0.880 | 600 + 400 |")
    assert "Lucchi++" in section and "not comparable" in section
    assert "| strategy | 8 planes | 32 planes | 165 planes |" in section
    assert "| `continuity` | 0.915 ± 0.000 (3) | 0.930 ± 0.000 (3) | 0.935 ± 0.000 (3) | 600 + 400 | 10 |" in section
    assert "| signed distances, interpolated | 0.777 (1) | – |" in section
    assert "| those masks, cleaned along z | 0.850 ± 0.000 (3) | 0.850 ± 0.000 (3) |" in section
    assert "| continuity, 8 views | 0.946 (1) | 0.890 (1) |" in section
    assert "memory_over_mask 2.10 (1), seconds 12.00 (1)" in section


def test_results_of_another_recipe_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "continuity").mkdir()
    item = made_up("crop", "ablation", "none", 0, 32, dice=0.5)
    (tmp_path / "continuity" / f"{item['key']}.json").write_text(json.dumps(item), encoding="utf-8")
    assert "## Spatial continuity" in make_docs.page(tmp_path)
    monkeypatch.setattr(continuity, "RECIPE", "next")
    assert "## Spatial continuity" not in make_docs.page(tmp_path)


def test_right_is_green_missed_is_red_too_much_is_blue() -> None:
    image = np.zeros((1, 4), np.uint8)
    truth, mask = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    painted = figures.paint_agreement(image, truth, mask)
    assert painted.shape == (1, 4, 3) and painted.dtype == np.uint8
    assert [int(pixel.argmax()) for pixel in painted[0, :3]] == [1, 0, 2]
    assert painted[0, 3].tolist() == [0, 0, 0]
