"""Colours that stay apart for colour-blind readers (Okabe and Ito 2008), the same in figures, planes and scenes."""

from __future__ import annotations

__all__ = ["AGREEMENT", "ARMS", "CLASSES", "TRUTH", "arm_colour"]

TRUTH = "#8a8f98"
ARMS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
CLASSES = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#0072b2")
AGREEMENT = {"tp": "#00a878", "fn": "#e4572e", "fp": "#2f7fd8"}


def arm_colour(index: int) -> str:
    """Return the colour of the arm with this index, as ``#rrggbb``."""
    return ARMS[index % len(ARMS)]
