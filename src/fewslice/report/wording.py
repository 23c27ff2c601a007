"""Numbers as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "by",
    "density_unit",
    "duration",
    "interval",
    "number",
    "percent",
    "ranges",
    "share",
    "significant",
    "thousands",
]

_MOST_RANGES = 16
_FINE_PER_MM3 = 1e7


def number(value: float | None) -> str:
    """Write a score with three decimals, a length with three digits, and nothing as a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def significant(value: float | None, digits: int = 3) -> str:
    """Write a quantity with so many digits, large ones grouped by thousands."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 10**digits:
        return f"{value:.{digits}g}"
    step = 10 ** (math.floor(math.log10(abs(value))) + 1 - digits)
    return thousands(round(value / step) * step)


def density_unit(highest_per_mm3: float) -> tuple[str, float]:
    """Choose the unit of densities by the highest: its name, and what a density per mm³ is multiplied by.

    Cells are counted per mm³; of what electron microscopy shows that would be thousands of millions.
    """
    return ("µm³", 1e-9) if highest_per_mm3 >= _FINE_PER_MM3 else ("mm³", 1.0)


def interval(found: Mapping[str, Any] | None) -> str:
    """Write the ends of an interval, or nothing where it has none."""
    if not found or found.get("low") is None or found.get("high") is None:
        return ""
    return f"{number(found['low'])} to {number(found['high'])}"


def thousands(value: float) -> str:
    """Write a whole number in groups of three."""
    return f"{value:,.0f}".replace(",", "\u202f")


def percent(value: float) -> str:
    """Write a share of 1 in per cent, with three digits."""
    return f"{100 * value:.3g} %"


def share(part: float, whole: float) -> str:
    """Write one number as per cent of another."""
    return percent(part / whole) if whole else "–"


def duration(seconds: float) -> str:
    """Write seconds as people do."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def by(values: Sequence[float] | None) -> str:
    """Write extents, such as ``20 × 72 × 80``."""
    return "unknown" if values is None else " × ".join(f"{v:g}" for v in values)


def ranges(planes: Sequence[int]) -> str:
    """Write planes shortly: ``0, 5, 10–20``."""
    parts: list[str] = []
    start = previous = None
    for z in [*sorted(planes), None]:
        if start is not None and previous is not None and z != previous + 1:
            gap = previous - start
            parts += [str(start)] if gap == 0 else [str(start), str(previous)] if gap == 1 else [f"{start}–{previous}"]
            start = z
        elif start is None:
            start = z
        previous = z
    return ", ".join(parts) if len(parts) <= _MOST_RANGES else f"{', '.join(parts[:8])}, …, {', '.join(parts[-4:])}"
