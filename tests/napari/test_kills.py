"""Killed while somebody paints: a little of the last stroke is lost at most, and nothing that is older."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from benchmarks.painting import Restored, restored, run_kills, summary

DABS = [(10.0, 0, 0, 0, 1), (11.0, 0, 0, 1, 2), (12.0, 0, 0, 0, 3)]


@pytest.mark.parametrize(
    ("after", "found"),
    [
        ([3, 2, 7], Restored(3, 0.0)),
        ([1, 2, 7], Restored(2, 0.5)),
        ([1, 0, 7], Restored(1, 1.5)),
        ([0, 0, 7], Restored(0, 2.5)),
        ([3, 0, 7], Restored(None, 2.5)),  # an earlier one is lost, a later one is there
        ([1, 2, 0], Restored(None, 2.5)),  # what an earlier round left is lost
    ],
)
def test_what_was_lost_is_found(after: list[int], found: Restored) -> None:
    assert restored(np.array([[[0, 0, 7]]]), DABS, np.array([[after]]), 12.5) == found


def test_three_kills_lose_two_seconds_at_most_and_nothing_earlier(tmp_path: Path) -> None:
    missing = [name for name in ("napari", "qtpy", "filelock") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} is not installed; pip install 'fewslice[napari]'")
    rounds = run_kills(tmp_path, 3, seed=1, longest_seconds=4.0)
    figures = summary(rounds)
    assert all(r.restored.kept is not None for r in rounds), rounds
    assert figures["kills"] == 3 and figures["dabs"] > 30 and figures["longest_lost_s"] <= 2.0, rounds
