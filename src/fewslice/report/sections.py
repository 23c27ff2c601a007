"""What each section of the page says, and which sections there are: a section without content does not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fewslice.report import figures
from fewslice.report.cases import DrawnCase
from fewslice.report.commands import commands_of
from fewslice.report.content import Content, Run
from fewslice.report.palette import arm_colour
from fewslice.report.wording import density_unit, duration, interval, number, ranges, significant, thousands

__all__ = ["checks_view", "contents", "data_sets", "notices", "plan_view", "run_view", "tiles"]

_MOST_SAMPLES = 12
_TITLES = (
    ("summary", "Summary"),
    ("data", "Data"),
    ("training", "Training"),
    ("realism", "Simulated images"),
    ("quality", "Quality"),
    ("checks", "Without truth"),
    ("counts", "Counts"),
    ("planes", "Planes"),
    ("surfaces", "Surfaces"),
    ("plan", "Annotate next"),
    ("settings", "Reproduce"),
)


def contents(present: Mapping[str, bool]) -> list[tuple[str, str]]:
    """Return anchor and title of the sections that have something to show, in their order."""
    return [(anchor, title) for anchor, title in _TITLES if present.get(anchor, True)]


def run_view(run: Run) -> dict[str, Any]:
    """Return what the template says about a run."""
    provenance = run.provenance
    annotated = sum(len(s.trained) + len(s.held_out) for s in run.samples)
    planes = sum(s.shape[0] for s in run.samples if s.shape is not None)
    return {
        "run": run,
        "asked": _asked(run, annotated, planes),
        "settings": yaml.safe_dump(run.experiment, sort_keys=False, allow_unicode=True, default_flow_style=None),
        "versions": {k: v for k, v in sorted(provenance.get("versions", {}).items()) if v},
        "hardware": provenance.get("hardware", {}),
        "threshold": run.model.get("threshold"),
        "median": run.model.get("median", 1),
        "commands": commands_of(run),
        "inputs": provenance.get("inputs", {}),
    }


def data_sets(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the data of each run; runs with the same samples and split are named together."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if run.samples:
            groups.setdefault((run.samples, run.split_note, _labels(run)), []).append(run)
    return [
        {
            "names": [run.name for run in own],
            "samples": [
                {"sample": s, "strip": _strip(s.shape, s.trained, s.held_out)} for s in samples[:_MOST_SAMPLES]
            ],
            "more_samples": max(0, len(samples) - _MOST_SAMPLES),
            "split_note": note,
            "labels": labels,
        }
        for (samples, note, labels), own in groups.items()
    ]


def _labels(run: Run) -> str:
    """Say which labels were used and what their values mean."""
    labels = [Path(str(path)).name for path in run.experiment.get("labels") or ()]
    if not labels:
        return "No labels were given."
    names = ", ".join(labels[:6]) + (f" and {len(labels) - 6} more" if len(labels) > 6 else "")
    said = [
        f"{key.replace('_', ' ')} {value if not isinstance(value, list) else ', '.join(map(str, value))}"
        for key in ("planes", "background", "unlabelled", "label_kind")
        if (value := run.experiment.get(key)) not in (None, [], ())
    ]
    return f"Labels: {names}" + (f" ({'; '.join(said)})." if said else ".")


def _asked(run: Run, annotated: int, planes: int) -> str:
    """Say in a sentence what was trained on what."""
    images = len(run.samples)
    unlabelled = sum(1 for s in run.samples if s.annotated_share == 0)
    what = "one volume" if images == 1 else f"{images} volumes"
    if unlabelled == images and images:
        what += " without labels"
    elif unlabelled:
        what += f" ({unlabelled} of them without labels)"
    labels = f", {annotated} of its {planes} planes annotated" if images == 1 and annotated else ""
    if images > 1 and annotated:
        labels = f", {annotated} of {planes} planes annotated in all"
    steps = sum(stage.steps for stage in run.stages)
    names = " → ".join(stage.name for stage in run.stages)
    how = (
        f"; {thousands(steps)} steps in {len(run.stages)} stages ({names})"
        if len(run.stages) > 1
        else (f"; {thousands(steps)} steps" if steps else "; not trained yet")
    )
    return f"Trained on {what}{labels}{how}."


def _strip(
    shape: tuple[int, int, int] | None, trained: Sequence[int], held_out: Sequence[int]
) -> dict[str, Any] | None:
    """Return a chart of the planes: one mark per annotated plane, and the same in words."""
    if shape is None or not (trained or held_out):
        return None
    words = f"{ranges(trained)} trained" if trained else "none trained"
    if held_out:
        words += f", {ranges(held_out)} held out for validation"
    return {"depth": shape[0], "trained": list(trained), "held_out": list(held_out), "words": f"Planes {words}."}


def checks_view(drawn: Sequence[DrawnCase]) -> list[dict[str, Any]]:
    """Return the checks of every arm of every case that had any, those of which most are unusual first."""
    views = [
        {
            "title": arm.name if len(drawn) == 1 else f"{arm.name} on {case.case.name}",
            "colour": arm_colour(index),
            "checks": checked.checks,
            "note": checked.note,
            "unusual": sum(check.unusual for check in checked.checks),
        }
        for case in drawn
        for index, (arm, checked) in enumerate(zip(case.case.arms, case.checked, strict=False))
        if checked.checks
    ]
    return sorted(views, key=lambda view: -int(view["unusual"]))


def plan_view(run: Run, figure: Path) -> dict[str, Any]:
    """Draw what more planes would bring, and return what the template says about it and about the next planes."""
    plan = run.plan
    curve = plan.get("curve", [])
    picture = None
    if curve:
        rows = {name: [r for r in curve if bool(r["measured"]) == (name == "measured")] for name in _CURVES}
        written = figures.curves(
            [
                figures.Curve(name, *([row[key] for row in own] for key in ("planes", "dice", "low", "high")))
                for name, own in rows.items()
                if own
            ],
            figure,
            x_label="annotated planes that train",
            y_label="Dice of a short training",
            x_log2=True,
        )
        said = ", ".join(f"{row['dice']:.2f} at {row['planes']}" for row in curve)
        picture = (figures.embedded(written[0], width=1050), f"Dice against the number of annotated planes: {said}")
    planes = [
        {
            "where": f"{p['axis']} {p['plane']}",
            "image": p["image"],
            "score": p["score"],
            "regions": [
                ", ".join(f"{a} {r[a][0]}–{r[a][1] - 1}" for a in "zyx" if a in r)
                for r in plan.get("regions", ())
                if (r["image"], r["plane"]) == (p["image"], p["plane"])
            ],
        }
        for p in plan.get("next_planes", ())
    ]
    return {"run": run, "plan": plan, "picture": picture, "planes": planes}


_CURVES = ("measured", "expected")


def notices(content: Content, drawn: Sequence[DrawnCase]) -> list[str]:
    """Return what is missing, in sentences: what cannot be shown has no section that could say so."""
    said = list(content.problems)
    said += [problem for case in drawn for problem in case.problems]
    said += [f"The log of {run.name} holds no training steps yet." for run in content.runs if not run.stages]
    if not content.cases:
        said.append(
            "This model has not been applied to an image yet. Run fewslice predict, then fewslice evaluate, and make "
            "the report again to see planes, surfaces and scores."
        )
    open_arms = [arm.name for c in content.cases for arm in c.arms if not arm.scores and not arm.instance_evaluation]
    if open_arms:
        names = ", ".join(open_arms)
        said.append(f"Not evaluated yet: {names}. Run fewslice evaluate OUT.ome.zarr --truth LABELS to see scores.")
    left = len(content.cases) - len(drawn)
    if left > 0:
        said.append(f"{left} more images were predicted; name those to show with --prediction.")
    return said


def tiles(content: Content) -> list[dict[str, str]]:
    """Return the few numbers at the top of the page."""
    arms = [arm for case in content.cases for arm in case.arms]
    out = []
    scored = [(arm, s) for arm in arms if (s := arm.scores) and s.get("dice") is not None]
    found = [(arm, s) for arm in arms if (s := (arm.instance_evaluation or {}).get("scores"))]
    if scored:
        arm, scores = max(scored, key=lambda pair: float(pair[1]["dice"]))
        around = interval((scores.get("intervals") or {}).get("dice"))
        out.append(_tile(number(scores["dice"]), "Dice" if len(scored) == 1 else "best Dice", arm.name, around))
        for key, label in (("nsd", "surface Dice"), ("assd_um", "µm mean surface distance")):
            if scores.get(key) is not None:
                out.append(_tile(number(scores[key]), label, arm.name))
    if found:
        arm, scores = max(found, key=lambda pair: float(pair[1].get("f1", {}).get("0.5") or 0))
        value = scores.get("f1", {}).get("0.5")
        out.insert(
            min(1, len(out)), _tile(number(value), "F1 of objects, IoU 0.5", arm.name, interval(scores["f1_interval"]))
        )
    counted = next((arm for arm in arms if arm.objects and arm.objects.summary), None)
    if counted is not None and counted.objects is not None:
        summary = counted.objects.summary
        dense = summary.get("density_per_mm3")
        unit, factor = density_unit(dense or 0.0)
        density = "" if dense is None else f"{significant(dense * factor)} per {unit}"
        out.insert(min(2, len(out)), _tile(thousands(summary["counted"]), "objects counted", counted.name, density))
    run = content.runs[0]
    annotated = sum(len(s.trained) + len(s.held_out) for s in run.samples)
    planes = sum(s.shape[0] for s in run.samples if s.shape is not None)
    if annotated and planes:
        out.append(_tile(f"{annotated} of {planes}", "planes annotated"))
    validated = [stage for stage in run.stages if stage.best]
    if validated and not scored and not found:
        last = validated[-1]
        out.append(_tile(number(last.best[1] if last.best else None), f"validation {last.measure}", last.name))
    seconds = float(np.sum([stage.seconds for stage in run.stages]))
    if seconds:
        out.append(_tile(duration(seconds), "training", run.provenance.get("hardware", {}).get("device", "")))
    return out[:4]


def _tile(value: str, label: str, *details: str) -> dict[str, str]:
    return {"value": value, "label": label, "detail": " · ".join(d for d in details if d)}
