"""Synthesis on small stand-ins: the plan, scores by hand, every kind of cell, what arms share, page and targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from benchmarks import cells as runner
from benchmarks import make_docs, objects, synthesis, synthesis_speed, targets
from benchmarks.cells import Cell, Context
from benchmarks.objects import SETS, ImageSet, f1_interval
from benchmarks.problems import HeldOut, Problem
from benchmarks.synthesis import BUDGETS, make_cell
from benchmarks.tables import Series
from fewslice.synthesis.simulators import fluorescence_nuclei, stained_section, two_photon_neurons

CELLS = [*synthesis.every_cell("quick"), *synthesis.every_cell("full")]

# -------------------------------------------------------------------------------------------------------- the plan


def test_every_cell_has_its_own_key_and_name_and_can_be_made_again() -> None:
    cells = {cell.key: cell for cell in CELLS}  # arms without training are the same in both tiers
    assert len({cell.name for cell in cells.values()}) == len(cells)
    for cell in cells.values():
        assert synthesis.again({"cell": json.loads(json.dumps(cell.identity))}) == cell
    wrong: list[tuple[Any, ...]] = [("gone", "refined", 0), ("nuclei", "gone", 0), ("nuclei", "labelled", 0, 3)]
    wrong += [("nuclei", "refined", 0, 1), ("nuclei", "labelled", 0), ("new_stain", "refined", 0), ("speed", "gone", 0)]
    for what in wrong:
        with pytest.raises(KeyError):
            make_cell(*what)


def test_keys_do_not_change_unnoticed() -> None:
    """A key names a stored result: who changes a recipe or a budget sees it here, and raises RECIPE where need be."""
    assert make_cell("nissl_123", "refined", 0).key == "762b606b162fbc34"
    assert make_cell("nuclei", "labelled", 1, 4, "full").key == "fdea756d916ed62c"


def test_labels_are_compared_as_planned() -> None:
    found: dict[str, dict[str, list[Any]]] = {}
    for cell in synthesis.every_cell("quick", 1):
        found.setdefault(cell.setting, {}).setdefault(cell.arm, []).append(cell.config.get("labels"))
    assert found["nissl_123"]["refined_labelled"] == [1, 2, 3]
    assert found["nissl_123"]["labelled"] == [1, 2] and found["nissl_123"]["all_labelled"] == [None]
    assert found["nissl_0"]["refined_labelled"] == found["nissl_0"]["labelled"] == [1]
    assert "all_labelled" not in found["nissl_0"]
    assert found["nuclei"]["refined_labelled"] == [1, 4, 16, 80] and found["nuclei"]["labelled"] == [1, 4, 16]
    assert found["neurons"]["labelled"] == [1, 4]
    assert {"cellpose_cyto2", "cellpose_v2", "threshold_watershed", "refiner"} <= found["nissl_0"].keys()


def test_arms_have_the_same_steps() -> None:
    for cell in CELLS:
        if cell.arm in ("labelled", "all_labelled", "refined_labelled"):
            rival = BUDGETS[cell.config["tier"]][cell.setting]
            steps = {stage: count for stage, count in cell.budget.items() if stage != "refine"}
            assert sum(steps.values()) == rival["pretrain"] + rival["fine_tune"]


def test_training_and_test_images_are_apart_and_fewer_labels_are_among_more() -> None:
    for chosen in SETS.values():
        assert not set(range(*chosen.train)) & set(range(*chosen.test))
    assert set(range(*SETS["nissl_123"].train)) == set(range(*SETS["nissl_0"].test))
    stems = [str(index) for index in range(80)]
    drawn = {count: objects.labelled("nuclei", 1, stems, count) for count in (0, 1, 4, 16, 80)}
    assert [len(names) for names in drawn.values()] == [0, 1, 4, 16, 80]
    assert set(drawn[1]) < set(drawn[4]) < set(drawn[16]) < set(drawn[80])
    assert drawn[4] != objects.labelled("nuclei", 2, stems, 4)


# ------------------------------------------------------------------------------------------------------------ scores


def test_objects_are_scored_and_noted_one_by_one() -> None:
    """Image one: an exact object, and one that is missed; image two: IoU 0.6, and a false one."""
    truth, found = (np.zeros((2, 1, 8, 20), np.uint16) for _ in range(2))
    truth[0, 0, 1:3, 1:6] = found[0, 0, 1:3, 1:6] = 3
    truth[0, 0, 5:7, 1:6] = 9
    truth[1, 0, 1:2, 0:10] = 1
    found[1, 0, 1:2, 0:6] = 7
    found[1, 0, 5:7, 10:14] = 8
    scores, noted = objects.score(list(truth), list(found))
    assert noted == {"objects": "101", "false": 1}
    assert scores["f1_0.5"] == pytest.approx(2 * 2 / (4 + 1 + 1))
    assert scores["f1_0.7"] == pytest.approx(2 / (2 + 2 + 2))
    assert scores["pq_0.5"] == pytest.approx((1.0 + 0.6) / 2 * 2 / 3)
    assert scores["count_error"] == 0


def noted(setting: str, arm: str, draw: int, hits: str, false: int, **more: Any) -> dict[str, Any]:
    return {
        "cell": {"setting": setting, "arm": arm, "draw": draw, "budget": {"pretrain": 1}, "config": {}} | more,
        "found": {"objects": hits, "false": false},
    }


def test_sets_are_pooled_and_differences_are_paired_by_cell() -> None:
    ours = [noted("a", "x", 0, "1" * 30 + "0" * 10, 5), noted("b", "x", 0, "1" * 50 + "0" * 10, 5)]
    pooled = f1_interval(ours)
    assert pooled is not None and pooled.count == 100
    assert pooled.mean == pytest.approx(2 * 80 / (100 + 90))
    assert pooled.low < pooled.mean < pooled.high
    same = f1_interval(ours, [noted("a", "y", 0, "1" * 30 + "0" * 10, 5), noted("b", "y", 0, "1" * 50 + "0" * 10, 5)])
    other = f1_interval(ours, [noted("a", "y", 0, "0" * 10 + "1" * 30, 5), noted("b", "y", 0, "0" * 10 + "1" * 50, 5)])
    assert same is not None and other is not None
    assert same.mean == other.mean == pytest.approx(0)
    assert same.high - same.low < 0.8 * (other.high - other.low), "the same cells found must leave less doubt"
    assert f1_interval(ours[:1], [noted("b", "y", 0, "1", 0)]) is None
    fixed = [noted("a", "t", 0, "0" * 40, 4, budget={}), noted("b", "t", 0, "0" * 60, 4, budget={})]
    again = [dict(item, cell={**item["cell"], "draw": 1}) for item in ours]
    gain = f1_interval([*ours, *again], fixed)
    assert gain is not None and gain.mean == pytest.approx(pooled.mean)
    assert objects.draws_of([*ours, *again]) == 2 and objects.draws_of([*ours, again[0]]) == 1
    with pytest.raises(ValueError, match="several results"):
        f1_interval([*ours, ours[0]])


# --------------------------------------------------------------------------------------------------- cells, end to end

TINY: dict[str, Any] = {
    "network": {"kind": "contour_proposals", "features": 4, "depth": 3, "order": 3, "samples": 16},
    "patch": [1, 48, 48],
    "batch_size": 2,
    "learning_rate": 1e-2,
    "schedule": {"validations": 1},
}
REFINEMENT: dict[str, Any] = {
    "generator": {"features": 4, "depth": 1, "hidden": 4},
    "discriminator": {"features": 4},
    "patch": [1, 32, 32],
    "pretrain_refiner": 1,
    "pretrain_discriminator": 1,
    "simulations": 2,
    "history": 8,
    "validation_patches": 8,
    "schedule": {"validations": 1},
}
STEPS = {"refine": 3, "pretrain": 4, "fine_tune": 2}


def _write(folder: Path, count: int, simulator: Any, side: int) -> str:
    """Write simulated images and their ids as a data set; return its identity."""
    arrays = []
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        made = simulator.simulate(simulator.Config(shape=(1, side, side)), np.random.default_rng(index))
        image = np.ascontiguousarray(np.moveaxis(made.image[:, 0], 0, -1)) if len(made.image) > 1 else made.image[0, 0]
        ids = made.instances[0].astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"{index}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{index}.tif", ids)
        arrays += [made.image, ids[None]]
    return runner.data_identity(*arrays)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Context]:
    """Replace data, networks and budgets by small ones."""
    data = tmp_path / "data"
    identity = _write(data / "cells", 4, stained_section, 96)
    shared = {"folder": "cells", "simulator": "stained_section", "voxel_size_um": (0.346,) * 3, "objects": "dark"}
    nissl = ImageSet(**shared, train=(1, 4), test=(0, 1), labelled=(1, 3), identity=identity)
    identity = _write(data / "nuclei", 3, fluorescence_nuclei, 96)
    nuclei = ImageSet("nuclei", (0, 2), (2, 3), "fluorescence_nuclei", None, "bright", (1, 2), identity)
    (data / "cells" / "pred_cellpose_v2").mkdir()
    for index in range(4):
        ids = tifffile.imread(data / "cells" / "labels" / f"{index}.tif")
        tifffile.imwrite(data / "cells" / "pred_cellpose_v2" / f"{index}.tif", ids if index == 0 else 0 * ids)
    monkeypatch.setitem(SETS, "nissl_123", nissl)
    monkeypatch.setitem(SETS, "nuclei", nuclei)
    volume = {"network": {"kind": "unet", "dims": 3, "features": 2, "depth": 2}, "patch": [4, 32, 32], "batch_size": 1}
    monkeypatch.setattr(synthesis, "detector", lambda setting, tier: volume if setting == "neurons" else TINY)
    monkeypatch.setattr(synthesis, "refinement", lambda tier: REFINEMENT)
    steps = {name: STEPS for name in ("nissl_123", "nuclei", "neurons")} | {"new_stain": {"first": 3, "then": 2}}
    monkeypatch.setitem(BUDGETS, "quick", steps)
    monkeypatch.setitem(synthesis.IMAGES, "quick", 2)
    monkeypatch.setitem(synthesis._VOLUMES, "quick", 2)
    monkeypatch.setattr(synthesis, "_FRESH", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Context("cpu", 1, tmp_path / "work", data)
    torch.set_num_threads(threads)


def test_arms_of_a_setting_share_the_refiner_and_the_pretrained_network(
    small: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, list[str]]] = []
    run = synthesis._run

    def watched(experiment: Any, samples: Any, folder: Path, context: Context) -> Any:
        there = sorted(path.parent.name for path in folder.glob("stages/*/result.pt"))
        trained.append((experiment.strategy, there))
        return run(experiment, samples, folder, context)

    monkeypatch.setattr(synthesis, "_run", watched)
    few = synthesis.run_cell(make_cell("nissl_123", "refined_labelled", 1, 1), small)
    assert trained == [("synthetic", []), ("synthetic", ["refine"]), ("synthetic", ["pretrain", "refine"])]
    assert few["seconds"].keys() == {"images", "pretrain", "detector"}
    assert few["cpu_seconds"] == pytest.approx(sum(part["cpu"] for part in few["seconds"].values()))
    assert len(few["found"]["objects"]) > 3 and 0 <= few["scores"]["f1_0.5"] <= 1
    trained.clear()
    synthesis.run_cell(make_cell("nissl_123", "refined_labelled", 1, 3), small)
    assert trained == [("synthetic", ["pretrain", "refine"])]
    trained.clear()
    told = synthesis.run_cell(make_cell("nissl_123", "refiner", 0), small)
    assert trained == [("synthetic", []), ("synthetic", []), ("synthetic", ["refine"])], "simulated, then refined"
    scores = told["scores"]
    assert scores["steps"] == 3 and scores["minutes"] > 0 and scores["chance_kernel_distance"] > 0
    for rate in ("precision", "recall"):
        fall = scores[f"{rate}_simulated"] - scores[f"{rate}_refined"]
        assert scores[f"{rate}_fall"] == pytest.approx(fall)
        assert {f"own_{rate}_refined", f"pixel_{rate}_refined"} < scores.keys()
    fresh = synthesis._fresh(make_cell("nissl_123", "refined", 0), small)
    before = synthesis._fresh(make_cell("nissl_123", "simulated", 0), small)
    assert len(fresh) == len(before) == 1
    np.testing.assert_array_equal(fresh[0][1], before[0][1])
    assert (fresh[0][0] != before[0][0]).any()


def test_nothing_of_the_test_images_is_learned(small: Context) -> None:
    """Every training sample is of the training tiles, and of those that are labelled only so many have labels."""
    train, test = objects.read_set("nissl_123", small.data)
    assert list(train) == ["1", "2", "3"] and list(test) == ["0"]
    for alone, count in ((False, 3), (True, 1)):
        samples = synthesis._samples("nissl_123", small.data, 0, 1, alone=alone)
        assert len(samples) == count
        assert sum(sample.annotation is not None for sample in samples) == 1
        for sample in samples:
            np.testing.assert_array_equal(sample.image.read(), train[sample.name][0])


def test_labels_alone_and_what_needs_no_training(small: Context) -> None:
    alone = synthesis.run_cell(make_cell("nissl_123", "all_labelled", 0), small)
    assert alone["seconds"].keys() == {"detector"}
    perfect = synthesis.run_cell(make_cell("nissl_123", "cellpose_v2", 0), small)
    assert perfect["scores"]["f1_0.9"] == 1 and perfect["found"]["false"] == 0
    plain = synthesis.run_cell(make_cell("nissl_123", "threshold_watershed", 0), small)
    assert plain["found"]["objects"].count("1") >= 1, "dark cells on a bright ground"


def test_a_new_stain_starts_from_another(small: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    learn = synthesis._learn

    def watched(cell: Cell, shown: Any, steps: int, run: Path, context: Context, initial: Any) -> Any:
        started.append(initial is not None)
        assert {image.shape[0] for image, _ in shown} == {3}
        return learn(cell, shown, steps, run, context, initial)

    monkeypatch.setattr(synthesis, "_learn", watched)
    for arm, expected in (("from_nothing", [False]), ("from_fluorescence", [False, True])):
        started.clear()
        result = synthesis.run_cell(make_cell("new_stain", arm, 0), small)
        assert started == expected
        assert result["found"]["objects"]


def test_a_volume_is_segmented(small: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_photon_neurons.simulate(two_photon_neurons.Config(shape=(8, 64, 64)), np.random.default_rng(2))
    truth = made.semantic > 0
    held = HeldOut(made.image, truth, (slice(None), slice(None), slice(16, None)))
    problem = Problem(((made.image, truth),), held, (2.0, 0.88, 0.88), "sha")
    monkeypatch.setattr(synthesis, "load_problem", lambda name, draw, data: problem)
    monkeypatch.setattr(synthesis, "simulation", lambda setting: {"shape": [8, 64, 64]})
    for arm, labels in (("simulated", None), ("labelled", 4), ("threshold_watershed", None)):
        result = synthesis.run_cell(make_cell("neurons", arm, 0, labels), small)
        assert "found" not in result and 0 <= result["scores"]["dice"] <= 1


def test_contours_of_a_plane_in_blocks_are_those_of_the_whole(small: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"side": 192, "compared": 128, "block": 64, "steps": 2, "detector": TINY}
    monkeypatch.setitem(synthesis_speed.ARMS, "contours", synthesis_speed.ARMS["contours"] | changes)
    scores = synthesis.run_cell(make_cell("speed", "contours", 0), small)["scores"]
    assert scores["objects"] > 0 and scores["different"] == 0
    assert scores["ratio"] > 0 and scores["ratio_to_no_overlap"] > scores["ratio"] / 2
    assert 0 <= scores["memory_gib"] < 2


def test_a_simulator_is_timed(small: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthesis_speed.ARMS, "stained_section", {"shape": [1, 128, 128]})
    assert synthesis.run_cell(make_cell("speed", "stained_section", 0), small)["scores"]["mvoxel_per_s"] > 0


def test_contours_are_drawn_over_the_test_image(small: Context, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    cells = [make_cell("nissl_123", arm, 0) for arm in ("cellpose_v2", "simulated")]
    assert synthesis.draw_cells(cells, small, path) == [cells[0].name], "nothing is kept of the other"
    assert path.stat().st_size > 1000
    with pytest.raises(SystemExit, match="several settings"):
        synthesis.draw_cells([cells[0], make_cell("nuclei", "threshold_watershed", 0)], small, path)


# ------------------------------------------------------------------------------------------------- targets and page


def made_up(cell: Cell, hits: int = 0, false: int = 0, **scores: float) -> dict[str, Any]:
    """Make a result of 100 true objects."""
    shared = {"device": "a processor", "device_kind": "cpu", "cpu_seconds": 60.0, "threads": 2}
    found = {"objects": "1" * hits + "0" * (100 - hits), "false": false}
    return {"key": cell.key, "name": cell.name, "cell": cell.identity, "scores": scores, "found": found, **shared}


def everything(draws: int = 3) -> list[dict[str, Any]]:
    results = []
    for setting in ("nissl_123", "nissl_0"):
        results.append(made_up(make_cell(setting, "threshold_watershed", 0), 40, 60))
        for draw in range(draws):
            arms: list[tuple[str, int | None, int]] = [("simulated", None, 58), ("refined", None, 60)]
            arms += [("refined_labelled", 1, 80), ("labelled", 1, 50)]
            arms += [("refined_labelled", 3, 70)] if setting == "nissl_123" else []
            results += [made_up(make_cell(setting, arm, draw, k), n, 100 - n) for arm, k, n in arms]
    for draw in range(draws):
        results.append(made_up(make_cell("nuclei", "refined_labelled", draw, 4), 88, 12))
        results.append(made_up(make_cell("nuclei", "all_labelled", draw), 91, 9))
    falls = {"precision_fall": 0.01, "recall_fall": 0.05, "minutes": 30.0}
    results.append(made_up(make_cell("nissl_123", "refiner", 0), **falls))
    results.append(made_up(make_cell("nuclei", "refiner", 0), **(falls | {"recall_fall": -0.02})))
    results.append(made_up(make_cell("speed", "stained_section", 0), mvoxel_per_s=6.0))
    results.append(made_up(make_cell("speed", "contours", 0), memory_gib=1.0, ratio=1.6, different=0.0))
    return results


def outcomes(results: list[dict[str, Any]]) -> list[tuple[bool | None, str]]:
    empty = Series([])
    lines = targets.outcomes(empty, empty, empty, "full", synthesis=Series(results))
    return [(line.reached, line.measured) for line in lines if "benchmarks.synthesis" in line.command]


def test_targets_are_reached_or_not_by_the_numbers() -> None:
    found = outcomes(everything())
    assert [reached for reached, _ in found] == [
        True, True, False, True, False, True, None, False,  # objects
        False, None, True, True,  # survival, minutes
        True, None, None, True, False, True,  # speed
    ]  # fmt: skip
    assert found[0][1].startswith("0.600 (0.5") and found[0][1].endswith("; 3 draws")
    assert found[7][1].startswith("-0.030") and found[8][1] == "precision +0.010, recall +0.050"
    assert found[11][1] == "30 (1); 2 threads"
    few = outcomes(everything(2))
    assert [reached for reached, _ in few[:8]] == [None] * 8 and few[0][1].endswith("; 2 draws")
    assert set(outcomes([])) == {(None, "–")}


def test_the_page_has_its_section_only_with_results(tmp_path: Path) -> None:
    (tmp_path / "synthesis").mkdir()
    text = make_docs.page(tmp_path)
    assert "## Synthesis" not in text
    for item in everything():
        (tmp_path / "synthesis" / f"{item['key']}.json").write_text(json.dumps(item), encoding="utf-8")
    section = make_docs.page(tmp_path).split("## Synthesis")[1]
    assert "| refined images, then labels, 1 labelled | 0.800 (" in section
    assert "- `nissl_123`, `nissl_0`, `nuclei`: refine 700, pretrain 600, fine_tune 250\n" in section
    assert "| minutes, simulations and their refinement included | 30.0 (1) | 30.0 (1) |" in section
