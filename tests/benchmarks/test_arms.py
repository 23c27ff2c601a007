"""Training an arm: a student takes over the 2D arm's stage, and the teacher's seconds are always counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arms
from benchmarks.arms import ARMS, score, train
from benchmarks.cells import Context
from benchmarks.problems import HeldOut

TEACHER = {"network": {"kind": "cnn_2d"}}
STUDENT = {"teacher": TEACHER, "student": {"network": {"kind": "unet"}}, "alpha": 0.5}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Replace training by a stub that writes the stage and remembers (strategy, whether a teacher was there)."""
    calls: list[tuple[str, bool]] = []

    def run(strategy: str, settings: Mapping[str, Any], steps: Any, samples: Any, seed: int, run: Path, *_: Any) -> str:
        calls.append((strategy, (run / "stages" / "teacher" / "result.pt").exists()))
        if strategy == "slices_2d":
            (run / "stages" / "segment").mkdir(parents=True)
            (run / "stages" / "segment" / "result.pt").write_text(str(seed))
            until = arms.Clock()
            while until.cpu < 0.05:
                pass
        return strategy

    monkeypatch.setattr(arms, "_run", run)
    monkeypatch.setattr(arms, "device_of", lambda name: ("cpu", ""))
    return calls


def run_student(tmp_path: Path, seed: int = 0, identity: str = "planes") -> arms.Trained:
    return train(
        ARMS["student_cnn_2d"],
        STUDENT,
        {"teacher": 5, "student": 5},
        [],
        seed=seed,
        context=Context("cpu", 1, tmp_path, tmp_path),
        identity=identity,
    )


def run_teacher(tmp_path: Path) -> arms.Trained:
    context = Context("cpu", 1, tmp_path, tmp_path)
    return train(ARMS["cnn_2d"], TEACHER, {"segment": 5}, [], seed=0, context=context, identity="planes")


def test_a_student_takes_over_the_teacher_of_its_draw(tmp_path: Path, trained: list[tuple[str, bool]]) -> None:
    teacher = run_teacher(tmp_path)
    student = run_student(tmp_path)
    assert trained == [("slices_2d", False), ("pseudo_labels", True)]
    assert student.seconds["teacher"] == teacher.seconds["segment"]
    assert student.seconds["teacher"]["cpu"] >= 0.05 > student.seconds["student"]["cpu"]
    assert not list(tmp_path.glob("run-*"))


def test_a_student_trains_its_teacher_where_there_is_none(tmp_path: Path, trained: list[tuple[str, bool]]) -> None:
    assert run_student(tmp_path).seconds["teacher"]["cpu"] >= 0.05
    run_student(tmp_path)
    assert [strategy for strategy, _ in trained] == ["slices_2d", "pseudo_labels", "pseudo_labels"]
    run_student(tmp_path, seed=1)
    run_student(tmp_path, identity="other planes")
    assert [strategy for strategy, _ in trained[3:]] == ["slices_2d", "pseudo_labels"] * 2


def test_scores_count_only_the_scored_part_at_one_half() -> None:
    truth = np.zeros((4, 8, 12), dtype=bool)
    truth[1:3, 2:6, 6:10] = True
    probability = np.where(truth, 0.5, 0.49).astype(np.float32)
    probability[..., :4] = 1.0  # wrong, but it lies in the context
    test = HeldOut(np.zeros((1, 4, 8, 12), np.uint8), truth, (slice(None), slice(None), slice(4, None)))
    found = score(probability, test, (2.0, 0.88, 0.88))
    assert (found["dice"], found["nsd"], found["assd_um"], found["ceiling"]) == (1.0, 1.0, 0.0, 1.0)
    assert found["confusion"].tolist() == [[4 * 8 * 8 - 32, 0], [0, 32]]
    probability[1, 2, 6] = 0.2
    assert score(probability, test, (2.0, 0.88, 0.88))["dice"] == pytest.approx(2 * 31 / 63)
