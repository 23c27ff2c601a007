"""The plan of the comparison: every cell its own key, teachers shared, trials kept away from what is scored once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import em, people, sparsity, speed
from benchmarks.arms import ARMS
from benchmarks.problems import SETTINGS, HeldOut, Problem


@pytest.fixture(autouse=True)
def known_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every setting a data identity that needs no data."""
    for name, setting in SETTINGS.items():
        monkeypatch.setitem(SETTINGS, name, replace(setting, identity=lambda name=name: name))


def arguments(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"quick": False, "draws": 2, "trial": "", "set": [], "alphas": None, **changes})


def test_every_cell_has_its_own_key_and_name() -> None:
    cells = [*sparsity.every_cell("full"), *sparsity.every_cell("quick")]
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == len(cells)


def test_all_arms_of_a_draw_are_there() -> None:
    cells = [c for c in sparsity.every_cell("full", 1) if c.setting == "phantom" and c.config["planes"] == 4]
    assert [cell.arm for cell in cells] == list(ARMS)


def test_no_student_where_nothing_is_unlabelled() -> None:
    cells = [c for c in sparsity.every_cell("full", 1) if c.setting == "phantom" and c.config["planes"] == 50]
    assert {cell.arm for cell in cells} == {"cnn_2d", "unet_2d", "sparse_3d"}


@pytest.mark.parametrize("tier", ["full", "quick"])
@pytest.mark.parametrize(("student", "teacher"), [("student_cnn_2d", "cnn_2d"), ("student_unet_2d", "unet_2d")])
def test_a_student_has_the_2d_arm_as_teacher_and_the_sparse_arm_as_network(
    student: str, teacher: str, tier: str
) -> None:
    for setting in SETTINGS:
        settings, steps = sparsity.recipe(setting, student, 0.5, tier)
        own, own_steps = sparsity.recipe(setting, teacher, None, tier)
        sparse, sparse_steps = sparsity.recipe(setting, "sparse_3d", None, tier)
        assert settings["teacher"] == own
        assert settings["student"] == sparse, "the student and the sparse arm are one network, trained alike"
        assert steps == {"teacher": own_steps["segment"], "student": sparse_steps["segment"]}


def test_the_teacher_runs_before_its_students_in_the_same_group() -> None:
    cells = sparsity.every_cell("full", 1)
    for index, cell in enumerate(cells):
        if ARMS[cell.arm].is_student:
            before = [c.arm for c in cells[:index] if c.group == cell.group]
            assert cell.arm.removeprefix("student_") in before


def test_trials_change_what_they_say_and_only_where_recipes_may_be_chosen() -> None:
    cells = sparsity.plan(arguments(trial="wide", set=["student.network.features=24", "student.steps=7"]))
    assert {cell.benchmark for cell in cells} == {"sparsity_trials"}
    assert {cell.setting for cell in cells} == {name for name, setting in SETTINGS.items() if setting.tuned}
    assert {cell.arm for cell in cells} == {"student_cnn_2d", "student_unet_2d"}
    student = cells[0]
    assert student.config["settings"]["student"]["network"]["features"] == 24
    assert student.budget["student"] == 7
    assert student.config["changes"] == {"student.network.features": 24, "student.steps": 7}
    frozen = next(cell for cell in sparsity.plan(arguments()) if cell.arm == "student_cnn_2d")
    assert frozen.config["settings"]["student"]["network"]["features"] == 16
    assert {c.config["alpha"] for c in sparsity.plan(arguments(trial="a", alphas=[0.1, 2.0]))} == {0.1, 2.0}


@pytest.mark.parametrize(
    ("key", "arms"),
    [
        ("2d", {"cnn_2d", "unet_2d", "student_cnn_2d", "student_unet_2d"}),
        ("3d", {"sparse_3d", "student_cnn_2d", "student_unet_2d"}),
        ("unet_2d", {"unet_2d", "student_unet_2d"}),
        ("cnn_2d", {"cnn_2d", "student_cnn_2d"}),
        ("sparse", {"sparse_3d"}),
        ("teacher", {"student_cnn_2d", "student_unet_2d"}),
        ("pseudo", {"student_cnn_2d", "student_unet_2d"}),
    ],
)
def test_a_change_reaches_the_arms_of_its_scope(key: str, arms: set[str]) -> None:
    cells = sparsity.plan(arguments(trial="t", set=[f"{key}.some.setting=1"], draws=1))
    assert {cell.arm for cell in cells} == arms


def test_a_change_of_the_2d_network_keeps_teacher_and_2d_arm_the_same() -> None:
    for key in ("2d.learning_rate", "cnn_2d.network.dropout", "2d.steps"):
        own = sparsity.changed(*sparsity.recipe("phantom", "cnn_2d", None, "full"), "cnn_2d", key, 3)
        student = sparsity.changed(*sparsity.recipe("phantom", "student_cnn_2d", 0.5, "full"), "student_cnn_2d", key, 3)
        assert student[0]["teacher"] == own[0]
        assert student[1]["teacher"] == own[1]["segment"]


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"begin with 2d\."):
        sparsity.plan(arguments(trial="t", set=["network.features=1"]))


@pytest.mark.parametrize("changes", [{"trial": "x"}, {"set": ["2d.a=1"]}, {"trial": "x", "set": ["2d.a"]}])
def test_a_trial_names_its_changes(changes: Mapping[str, Any]) -> None:
    with pytest.raises(SystemExit, match="--set"):
        sparsity.plan(arguments(**changes))


def test_truth_of_planes_that_are_not_annotated_never_reaches_training() -> None:
    truth = np.ones((6, 8, 8), dtype=bool)
    image = np.zeros((1, 6, 8, 8), dtype=np.uint8)
    held = HeldOut(image, truth, (slice(None), slice(None), slice(None)))
    problem = Problem(((image, truth), (image, truth)), held, (2.0, 1.0, 1.0), "sha")
    first, second = sparsity.make_samples(problem, [[1, 4], [0]])
    assert first.annotation.planes() == [1, 4]
    assert second.annotation.planes() == [0]
    assert np.flatnonzero(first.annotation.labels.any(axis=(1, 2))).tolist() == [1, 4]
    assert truth.all()


def test_every_cell_can_be_made_again_from_its_result() -> None:
    trial = sparsity.plan(arguments(trial="wide", set=["3d.network.features=24"], alphas=[0.1]))
    for cell in [*sparsity.every_cell("full", 1), *sparsity.every_cell("quick", 1), *trial]:
        assert sparsity.again({"cell": cell.identity}) == cell


@pytest.mark.parametrize("module", [em, people, speed])
def test_other_benchmarks_can_be_made_again_too(module: Any) -> None:
    for quick in (False, True):
        for cell in module.plan(argparse.Namespace(quick=quick, draws=2, make=True)):
            assert module.again({"cell": cell.identity}) == cell
