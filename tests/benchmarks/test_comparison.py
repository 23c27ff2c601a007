"""A cell of each kind, trained for a few steps on a tiny problem through the real package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import arms, sparsity
from benchmarks.cells import Context, data_identity
from benchmarks.problems import SETTINGS, HeldOut, Problem, Setting


def tiny(draw: int, data: Path) -> Problem:
    rng = np.random.default_rng(0)
    truth = np.zeros((8, 64, 64), dtype=bool)
    truth[2:6, 12:30, 10:36] = True
    image = (60 + 80 * truth + 20 * rng.standard_normal(truth.shape)).clip(0, 255).astype(np.uint8)[None]
    whole = (slice(None), slice(None), slice(None))
    return Problem(((image, truth),), HeldOut(image, truth, whole), (2.0, 1.0, 1.0), data_identity(image, truth))


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[dict[str, Any]]]]:
    """Make the tiny setting known, cut the budgets, and keep each run's log."""
    monkeypatch.setitem(SETTINGS, "tiny", Setting((2,), 8, (8, 32, 32), True, tiny, lambda: "tiny", curve=2))
    monkeypatch.setitem(sparsity.BUDGETS, "quick", {"cnn_2d": 3, "unet": 3, "3d": 4})
    kept: list[list[dict[str, Any]]] = []
    run = arms._run

    def spy(*arguments: Any) -> Any:
        model = run(*arguments)
        lines = (Path(arguments[5]) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        kept.append([json.loads(line) for line in lines])
        return model

    monkeypatch.setattr(arms, "_run", spy)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield kept
    torch.set_num_threads(threads)


def measure(arm: str, tmp_path: Path) -> dict[str, Any]:
    alpha = sparsity.alpha_of("tiny", 2) if arm.startswith("student") else None
    cell = sparsity.make_cell("tiny", arm, 2, 0, alpha=alpha, tier="quick")
    return sparsity.run_cell(cell, Context("cpu", 1, tmp_path, tmp_path))


def stages(log: list[dict[str, Any]]) -> list[str]:
    return [event["stage"] for event in log if event["event"] == "stage" and event["state"] == "started"]


def test_a_student_is_taught_by_the_2d_arm_itself(tmp_path: Path, logs: list[list[dict[str, Any]]]) -> None:
    teacher = measure("cnn_2d", tmp_path)
    student = measure("student_cnn_2d", tmp_path)
    assert [stages(log) for log in logs] == [["segment"], ["student"]]
    assert student["planes"] == teacher["planes"]
    assert student["seconds"]["teacher"] == teacher["seconds"]["segment"]
    assert student["cpu_seconds"] == pytest.approx(sum(stage["cpu"] for stage in student["seconds"].values()))
    assert [point["step"] for point in student["curve"]] == [2, 4]
    assert student["curve"][0]["cpu"] > teacher["seconds"]["segment"]["cpu"]
    assert set(student["scores"]) >= {"dice", "iou", "precision", "recall", "confusion", "hd95_um", "assd_um", "nsd"}
    assert sum(sum(row) for row in student["scores"]["confusion"]) == 8 * 64 * 64


def test_the_curve_ends_at_the_score_of_the_finished_model(tmp_path: Path, logs: list[list[dict[str, Any]]]) -> None:
    """What the hook sees along the training is what the model at the end is: averaged weights, same normalisation."""
    found = measure("sparse_3d", tmp_path)
    assert stages(logs[0]) == ["segment"]
    assert found["curve"][-1]["dice"] == pytest.approx(found["scores"]["dice"], abs=1e-6)
    assert found["curve"][-1]["cpu"] <= found["cpu_seconds"]
    assert found["data_sha"] == tiny(0, tmp_path).sha
