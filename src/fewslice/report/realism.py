"""What a refiner of simulated images achieved: its pairs of patches, and how real they look by numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewslice.report.content import Run
from fewslice.report.figures import embedded
from fewslice.report.wording import interval, number, percent, thousands

__all__ = ["refinement_view"]

_COLUMNS = ("simulated", "refined", "real", "real, most like the refined")


def refinement_view(run: Run) -> dict[str, Any] | None:
    """Return what the template says about the refiner of a run; None where there is none that was validated."""
    stage = next((s for s in run.stages if s.best and any("kernel_distance" in f for f in s.figures.values())), None)
    if stage is None or stage.best is None:
        return None
    step = stage.best[0]
    found = stage.figures[step]
    around = {"low": found.get("kernel_distance_low"), "high": found.get("kernel_distance_high")}
    chance = found.get("kernel_distance_chance")
    rows = [
        (
            "Distance of texture",
            number(found["kernel_distance"]),
            interval(around),
            f"at most {number(chance)}, what patches of one kind have by chance" if chance is not None else "near 0",
        ),
        ("Distance of spectra, log₁₀ power", number(found.get("spectrum_distance")), "", "0"),
        ("Distance of grey values, training contrast", number(found.get("histogram_distance")), "", "0"),
        ("Told from real by a classifier", _share(found.get("separability")), "", "50 %, guessing"),
        ("Annotated objects found", _pair(found, "recall"), "", "as many as before"),
        ("Detections that are annotated", _pair(found, "precision"), "", "as many as before"),
    ]
    picture = run.path / "stages" / stage.name / f"pairs_{step:06d}.png"
    return {
        "run": run,
        "step": step,
        "objects": thousands(float(found.get("objects", 0))),
        "rows": rows,
        "columns": _COLUMNS,
        "picture": _picture(picture),
    }


def _picture(path: Path) -> tuple[str, str] | None:
    if not path.is_file():
        return None
    return embedded(path, width=1100), (
        "Patches in four columns: simulated, the same refined, a real one, and the real one most like the refined"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _pair(found: dict[str, Any], what: str) -> str:
    return f"{_share(found.get(f'{what}_before'))} before, {_share(found.get(f'{what}_after'))} after"
