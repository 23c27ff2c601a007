"""What shows a training understands the events of every stage."""

from __future__ import annotations

from typing import Any

import pytest

from fewslice import progress
from fewslice.training.events import loss_of, score_of


@pytest.mark.parametrize(
    ("event", "loss", "score"),
    [
        ({"loss": {"total": 0.5}}, 0.5, None),
        ({"loss": {"discriminator": 0.7, "score_real": 0.1}}, 0.7, None),
        ({"dice": 0.8, "score": 0.8}, None, ("Dice", 0.8)),
        ({"f1": 0.6, "precision": None}, None, ("F1", 0.6)),
        ({"kernel_distance": 3.5, "kept": 0.9}, None, ("kernel distance", 3.5)),
        ({"score": 1.0}, None, None),
    ],
)
def test_loss_and_score_of_every_kind_of_stage(event: dict[str, Any], loss: Any, score: Any) -> None:
    assert loss_of(event) == loss and score_of(event) == score


def test_the_bar_shows_every_kind_of_event(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of supervised stages, of contours and of a refinement that trains its discriminator alone."""
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    about = {"stage": "refine", "step": 1, "steps": 4}
    with progress.listening() as listener:
        for event in (
            {"event": "stage", **about},
            {"event": "step", "loss": {"discriminator": 0.7}, **about},
            {"event": "validation", "kernel_distance": 3.5, "kept": 0.9, **about},
            {"event": "step", "loss": {"total": 0.25}, **about, "stage": "contours"},
            {"event": "validation", "f1": 0.5, **about, "stage": "contours"},
            {"event": "note", "note": "done"},
        ):
            listener(event)
    shown = capsys.readouterr().out
    assert "done" in shown and "F1 0.500" in shown and "kernel distance 3.500" in shown
