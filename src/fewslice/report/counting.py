"""How many objects there are, how dense and how large: what ``measure`` found, as tables and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewslice.report import figures
from fewslice.report.content import Arm, Case
from fewslice.report.palette import arm_colour
from fewslice.report.wording import density_unit, significant, thousands

__all__ = ["counts_view"]

_MOST_REGIONS = 40
_FEWEST_SIZES = 5


def counts_view(case: Case, figure: Path) -> dict[str, Any] | None:
    """Return what the template says about the objects of a case; None where nothing was segmented into objects."""
    arms = [(i, arm) for i, arm in enumerate(case.arms) if arm.objects and arm.objects.count is not None]
    if not arms:
        return None
    measured = [(i, arm) for i, arm in arms if arm.objects and arm.objects.summary]
    summaries = [arm.objects.summary for _, arm in measured if arm.objects]
    unit, factor = density_unit(max((float(s.get("density_per_mm3") or 0) for s in summaries), default=0))
    rows = [row for i, arm in arms for row in _rows(arm, i, factor)]
    return {
        "case": case,
        "rows": rows,
        "unit": unit,
        "expected": any(row["expected"] for row in rows),
        "rules": list(dict.fromkeys(str(s["border_rule"]) for s in summaries if s.get("border_rule"))),
        "intervals": list(dict.fromkeys(str(s["interval"]) for s in summaries if s.get("interval"))),
        "volumes": list(dict.fromkeys(significant(s["volume_mm3"] / factor) for s in summaries if s.get("volume_mm3"))),
        "regions": [
            _regions(arm, factor) for _, arm in measured if arm.objects and arm.objects.summary.get("by_region")
        ],
        "sizes": [row for i, arm in measured if (row := _sizes(arm, i))],
        "picture": _figure(measured, figure),
        "unmeasured": [arm.prediction.name for _, arm in arms if arm.objects and not arm.objects.summary],
    }


def _rows(arm: Arm, index: int, factor: float) -> list[dict[str, Any]]:
    """Return a row for all objects and, where there are several classes, one for each."""
    objects = arm.objects
    assert objects is not None
    base = {"name": arm.name, "colour": arm_colour(index)}
    if not objects.summary:
        return [base | {"what": "all", "objects": thousands(objects.count or 0), "counted": "–"} | _NOTHING]
    found = [{"class": None, **objects.summary}]
    by_class = objects.summary.get("by_class") or []
    found += by_class if len(by_class) > 1 else []
    return [base | _row(entry, factor) for entry in found]


_NOTHING = {"expected": "", "density": "–", "density_interval": ""}


def _row(entry: dict[str, Any], factor: float) -> dict[str, Any]:
    density = entry.get("density_per_mm3")
    around, dense = entry.get("interval95"), entry.get("density_interval95")
    return {
        "what": "all" if entry["class"] is None else f"class {entry['class']}",
        "objects": thousands(entry["objects"]),
        "counted": thousands(entry["counted"]),
        "expected": ""
        if around is None
        else f"{significant(entry['expected'])} ({thousands(around[0])} to {thousands(around[1])})",
        "density": significant(None if density is None else density * factor),
        "density_interval": ""
        if dense is None
        else f"{significant(dense[0] * factor)} to {significant(dense[1] * factor)}",
    }


def _regions(arm: Arm, factor: float) -> dict[str, Any]:
    assert arm.objects is not None
    rows = arm.objects.summary["by_region"]
    shown = [
        {
            "region": "outside" if r["region"] == 0 else r["region"],
            "volume": significant(r["volume_um3"] * 1e-9 / factor),
        }
        | _row({"class": None, **r}, factor)
        for r in rows[:_MOST_REGIONS]
    ]
    return {"name": arm.name, "rows": shown, "more": max(0, len(rows) - _MOST_REGIONS)}


def _sizes(arm: Arm, index: int) -> dict[str, Any] | None:
    """Return median and quartiles of the objects that no side of the volume cuts."""
    assert arm.objects is not None
    whole = arm.objects.whole
    if whole.sum() < _FEWEST_SIZES:
        return None
    quartiles: dict[str, Any] = {
        key: [significant(float(v)) for v in np.percentile(arm.objects.columns[key][whole], (25, 50, 75))]
        for key in ("diameter_um", "volume_um3")
        if key in arm.objects.columns
    }
    return {"name": arm.name, "colour": arm_colour(index), "objects": thousands(int(whole.sum())), **quartiles}


def _figure(measured: Sequence[tuple[int, Arm]], path: Path) -> tuple[str, str] | None:
    """Draw the distribution of diameters, one curve per arm in the arm's colour."""
    series = {
        arm.name: (arm.objects.columns["diameter_um"][arm.objects.whole], arm_colour(i))
        for i, arm in measured
        if arm.objects and "diameter_um" in arm.objects.columns and arm.objects.whole.sum() >= _FEWEST_SIZES
    }
    if not series:
        return None
    written = figures.distributions(series, path, x_label="diameter of the ball of equal volume (µm)")
    said = ", ".join(
        f"{name}: {significant(float(np.min(v)))} to {significant(float(np.max(v)))} µm, median "
        f"{significant(float(np.median(v)))} µm"
        for name, (v, _) in series.items()
    )
    return figures.embedded(written[0], width=1050), f"Distribution of diameters; {said}"
