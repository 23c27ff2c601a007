"""What was promised to those who paint, on results made up so that the answer is known."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import people, targets
from benchmarks.tables import Series


def made_up(arm: str, **scores: float) -> dict[str, Any]:
    (cell,) = [c for c in people.plan(argparse.Namespace(quick=False, draws=1)) if c.arm == arm]
    return {"cell": cell.identity, "label": dict(cell.label), "scores": scores}


def reached(*results: dict[str, Any]) -> list[bool | None]:
    empty = Series([])
    lines = targets.outcomes(empty, empty, empty, "full", people=Series(list(results)))
    return [line.reached for line in lines if line.what.startswith("napari")]


def test_targets_are_reached_or_not_by_the_numbers() -> None:
    good = made_up("painting", longest_lost_s=1.4, earlier_lost=0, kills=50)
    quick = made_up("first_model", actions=12, answers_99_ms=99.0, busy_99_ms=40.0)
    assert reached(good, quick) == [True] * 5
    bad = made_up("painting", longest_lost_s=2.3, earlier_lost=1, kills=50)
    slow = made_up("first_model", actions=13, answers_99_ms=180.0, busy_99_ms=101.0)
    assert reached(bad, slow) == [False] * 5
    assert reached() == [None] * 5


def test_a_short_form_does_not_count() -> None:
    (cell, _) = people.plan(argparse.Namespace(quick=True, draws=1))
    assert cell.config["kills"] == 3
    short = {"cell": cell.identity, "label": dict(cell.label), "scores": {"longest_lost_s": 0.1, "earlier_lost": 0}}
    assert reached(short) == [None] * 5
