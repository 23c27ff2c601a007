"""What the events of a training's log say, for all that show them: a terminal, a window, a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["loss_of", "score_of"]

_SCORES = (("f1", "F1"), ("dice", "Dice"), ("kernel_distance", "kernel distance"))


def loss_of(event: Mapping[str, Any]) -> float | None:
    """Return the loss of a ``step`` event: the total, or the first one where a step has none; None without any."""
    losses = event.get("loss") or {}
    found = losses.get("total", next(iter(losses.values()), None))
    return None if found is None else float(found)


def score_of(event: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return name and value of what a ``validation`` event is judged by; None where it has nothing people know.

    F1 of objects, Dice of voxels, or, of a refinement, the kernel distance from real images (less is better).
    """
    for key, name in _SCORES:
        if event.get(key) is not None:
            return name, float(event[key])
    return None
