"""One self-contained HTML page about one or several runs.

1. :func:`fewslice.report.content.collect` reads the runs.
2. :func:`fewslice.report.cases.draw_case` draws each case: one image with all its predictions.
3. The template joins text, styles, the page's script, plotly.js once, and the data as JSON. Nothing is loaded from
   anywhere, and the page forbids itself to (content security policy).
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml

from fewslice.errors import InputError
from fewslice.files import write_atomic
from fewslice.report import figures
from fewslice.report.cases import DrawnCase, Limits, draw_case
from fewslice.report.content import Arm, Case, Content, Run, collect
from fewslice.report.palette import AGREEMENT, CLASSES, arm_colour
from fewslice.report.scene import training_figure

__all__ = ["write_report"]

_MOST_CASES = 6
_MOST_SAMPLES = 12


def write_report(
    runs: Sequence[Path],
    output: Path | None = None,
    predictions: Sequence[Path] = (),
    overwrite: bool = True,
) -> Path:
    """Write the report of one run, or of several side by side, and its figures for print.

    Parameters
    ----------
    runs
        Run folders; each prediction of theirs becomes an arm.
    output
        The page; by default ``report.html`` in the first run. Its figures go into ``figures`` beside ``report.html``,
        else into a folder named after the page.
    predictions
        ``OUT.ome.zarr`` to show; empty for all that the runs list in their results.
    overwrite
        Replace an existing page.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If a run or prediction is none, or the page exists and `overwrite` is false.
    DiskError
        If the page cannot be written.
    """
    content = collect([Path(run) for run in runs], [Path(p) for p in predictions])
    target = Path(output) if output is not None else content.runs[0].path / "report.html"
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of the page, such as {target / 'report.html'}")
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{target} does not end in .html; give the page such a name")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another name or allow it to be overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / ("figures" if target.name == "report.html" else f"{target.stem}_figures")
    shown = content.cases[:_MOST_CASES]
    limits = Limits().shared(max(1, len(shown)))
    drawn = [
        draw_case(case, limits, folder, "" if len(shown) == 1 else f"_{number}")
        for number, case in enumerate(shown, start=1)
    ]
    _write_figures(content, folder)
    plans = [
        _plan_view(run, folder / ("plan" if len(content.runs) == 1 else f"plan_{number}"))
        for number, run in enumerate(content.runs, start=1)
        if run.plan
    ]
    write_atomic(target, _render(content, drawn, plans))
    return target


def _write_figures(content: Content, folder: Path) -> None:
    """Write training curves per run and confusion matrices per case, for print."""
    for number, run in enumerate(content.runs, start=1):
        stages = {
            stage.name: {
                "loss": stage.loss.get("total") or next(iter(stage.loss.values()), []),
                "validation": stage.validation,
            }
            for stage in run.stages
        }
        if stages:
            figures.training_curves(stages, folder / ("training" if len(content.runs) == 1 else f"training_{number}"))
    for number, case in enumerate(content.cases, start=1):
        matrices = {
            arm.name: arm.scores["confusion"] for arm in case.arms if arm.scores and arm.scores.get("confusion")
        }
        if matrices:
            name = "confusion" if len(content.cases) == 1 else f"confusion_{number}"
            figures.confusion_panel(matrices, ["background", "foreground"], folder / name)


# --------------------------------------------------------------------------------------------------------------- page


def _render(content: Content, drawn: Sequence[DrawnCase], plans: Sequence[dict[str, Any]]) -> str:
    from plotly.offline import get_plotlyjs

    here = files("fewslice.report")
    data = {
        "training": [[training_figure(stage) for stage in run.stages] for run in content.runs],
        "cases": [{"browser": case.browser, "scenes": case.scenes} for case in drawn],
        "colours": {**AGREEMENT, "classes": list(CLASSES)},
    }
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "thousands": _thousands, "duration": _duration, "by": _by}
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=content.runs[0].name if len(content.runs) == 1 else f"{len(content.runs)} runs compared",
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        version=_version(),
        style=(here / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        runs=[_run_view(run) for run in content.runs],
        data_sets=_data_sets(content.runs),
        cases=[_case_view(case, number) for number, case in enumerate(drawn)],
        plans=plans,
        left_out=max(0, len(content.cases) - len(drawn)),
        problems=content.problems,
        tiles=_tiles(content),
    )


def _plan_view(run: Run, figure: Path) -> dict[str, Any]:
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


def _run_view(run: Run) -> dict[str, Any]:
    """Return what the template says about a run."""
    provenance = run.provenance
    annotated = sum(len(s.trained) + len(s.held_out) for s in run.samples)
    planes = sum(s.shape[0] for s in run.samples if s.shape is not None)
    return {
        "run": run,
        "asked": _asked(run, annotated, planes),
        "settings": yaml.safe_dump(run.experiment, sort_keys=False, allow_unicode=True),
        "versions": {k: v for k, v in sorted(provenance.get("versions", {}).items()) if v},
        "hardware": provenance.get("hardware", {}),
        "threshold": run.model.get("threshold"),
        "median": run.model.get("median", 1),
        "commands": _commands(run),
        "inputs": provenance.get("inputs", {}),
    }


def _data_sets(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the data of each run; runs with the same samples and split are named together."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.samples, run.split_note), []).append(run)
    return [
        {
            "names": [run.name for run in own],
            "samples": [
                {"sample": s, "strip": _strip(s.shape, s.trained, s.held_out)} for s in samples[:_MOST_SAMPLES]
            ],
            "more_samples": max(0, len(samples) - _MOST_SAMPLES),
            "split_note": note,
        }
        for (samples, note), own in groups.items()
    ]


def _asked(run: Run, annotated: int, planes: int) -> str:
    """Say in a sentence what was trained on what."""
    images = len(run.samples)
    unlabelled = sum(1 for s in run.samples if s.annotated_share == 0)
    what = "one volume" if images == 1 else f"{images} volumes"
    if unlabelled and unlabelled < images:
        what += f" ({unlabelled} of them without labels)"
    labels = f", {annotated} of its {planes} planes annotated" if images == 1 and annotated else ""
    if images > 1 and annotated:
        labels = f", {annotated} of {planes} planes annotated in all"
    steps = sum(stage.steps for stage in run.stages)
    names = " → ".join(stage.name for stage in run.stages)
    how = (
        f"; {_thousands(steps)} steps in {len(run.stages)} stages ({names})"
        if len(run.stages) > 1
        else (f"; {_thousands(steps)} steps" if steps else "; not trained yet")
    )
    return f"Trained on {what}{labels}{how}."


def _strip(
    shape: tuple[int, int, int] | None, trained: Sequence[int], held_out: Sequence[int]
) -> dict[str, Any] | None:
    """Return a chart of the planes: one mark per annotated plane, and the same in words."""
    if shape is None or not (trained or held_out):
        return None
    words = f"{_ranges(trained)} trained" if trained else "none trained"
    if held_out:
        words += f", {_ranges(held_out)} held out for validation"
    return {"depth": shape[0], "trained": list(trained), "held_out": list(held_out), "words": f"Planes {words}."}


def _ranges(planes: Sequence[int]) -> str:
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
    return ", ".join(parts) if len(parts) <= 16 else f"{', '.join(parts[:8])}, …, {', '.join(parts[-4:])}"


def _case_view(drawn: DrawnCase, number: int) -> dict[str, Any]:
    """Return what the template says about a case: the table of scores, confusion matrices and drawings."""
    arms = [{"arm": arm, "colour": arm_colour(i)} for i, arm in enumerate(drawn.case.arms)]
    scored = [arm for arm in drawn.case.arms if arm.scores]
    truths = list(dict.fromkeys(str((arm.evaluation or {}).get("truth", "")) for arm in scored))
    return {
        "number": number,
        "case": drawn.case,
        "drawn": drawn,
        "arms": arms,
        "truths": truths,
        "table": _table(drawn.case) if scored else None,
        "classes": _class_rows(drawn.case),
        "confusions": [
            {"name": arm.name, "rows": _heat(arm.scores["confusion"])}
            for arm in scored
            if arm.scores and arm.scores.get("confusion")
        ],
        "known": _known(scored),
        "overlap": _overlap(drawn) if scored else "",
        "unevaluated": [arm.name for arm in drawn.case.arms if not arm.scores],
    }


_CURVES = ("measured", "expected")
_COLUMNS = (
    ("dice", "Dice", "higher", ""),
    ("iou", "IoU", "higher", ""),
    ("precision", "Precision", "higher", ""),
    ("recall", "Recall", "higher", ""),
    ("nsd", "Surface Dice", "higher", ""),
    ("hd95_um", "HD95", "lower", "µm"),
    ("assd_um", "ASSD", "lower", "µm"),
    ("hd95", "HD95", "lower", "voxels"),
    ("assd", "ASSD", "lower", "voxels"),
)


def _table(case: Case) -> dict[str, Any]:
    """Return the columns that any arm has, and a row of cells per arm; the best of a column is marked."""
    scores = {arm.name: _flat(arm) for arm in case.arms if arm.scores}
    extra = (("dice_at_half", "Dice at 0.5", "higher", ""), ("flicker", "Flicker along z", "lower", ""))
    columns = [c for c in (*_COLUMNS, *extra) if any(c[0] in own for own in scores.values())]
    best: dict[str, float] = {}
    for key, _, direction, _ in columns:
        values = [value for own in scores.values() if (value := own.get(key)) is not None]
        if len(values) > 1:
            best[key] = max(values) if direction == "higher" else min(values)
    rows = [
        {
            "name": arm.name,
            "colour": arm_colour(i),
            "cells": [
                {"value": scores[arm.name].get(key), "best": key in best and scores[arm.name].get(key) == best[key]}
                for key, *_ in columns
            ],
            "threshold": (arm.scores or {}).get("threshold"),
        }
        for i, arm in enumerate(case.arms)
        if arm.scores
    ]
    tolerances = {(arm.scores or {}).get("nsd_tolerance_um") for arm in case.arms} - {None}
    return {
        "columns": [{"title": title, "unit": unit, "direction": direction} for _, title, direction, unit in columns],
        "rows": rows,
        "tolerances": sorted(tolerances),
        "marked": bool(best),
    }


def _flat(arm: Arm) -> dict[str, float | None]:
    """Bring the numbers of an evaluation into one level."""
    scores = arm.scores or {}
    out: dict[str, float | None] = {key: scores[key] for key, *_ in _COLUMNS if key in scores}
    half = scores.get("at_half")
    if isinstance(half, Mapping) and scores.get("threshold") not in (None, 0.5):
        out["dice_at_half"] = half.get("dice")
    along = scores.get("along_z")
    if isinstance(along, Mapping) and along.get("flicker") is not None:
        out["flicker"] = along["flicker"]
    return out


def _class_rows(case: Case) -> list[dict[str, Any]]:
    """Return one row per class and arm, empty where there is only one class."""
    names = list(dict.fromkeys(k for arm in case.arms for k in (arm.scores or {}).get("classes", {})))
    if len(names) < 2:
        return []
    return [
        {"name": f"class {name}", "arm": arm.name, "colour": arm_colour(i), "scores": arm.scores["classes"][name]}
        for name in names
        for i, arm in enumerate(case.arms)
        if arm.scores and name in arm.scores.get("classes", {})
    ]


def _heat(matrix: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Return the rows of a confusion matrix: count, and share of the row in per cent."""
    names = ["background", "foreground"] if len(matrix) == 2 else ["background", *map(str, range(1, len(matrix)))]
    rows = []
    for name, counts in zip(names, matrix, strict=True):
        total = sum(counts)
        share = [100 * count / total if total else 0.0 for count in counts]
        rows.append(
            {"name": name, "cells": [{"count": int(c), "share": s} for c, s in zip(counts, share, strict=True)]}
        )
    return rows


def _known(scored: Sequence[Arm]) -> str:
    shares = [a.scores["annotated_share"] for a in scored if a.scores and a.scores.get("annotated_share") is not None]
    if not shares:
        return ""
    return f"Judged on the {100 * shares[0]:.3g} % of the voxels that have truth."


def _overlap(drawn: DrawnCase) -> str:
    """Say when part of the truth had trained the model."""
    trained, judged = drawn.judged_while_trained
    if not trained:
        return ""
    return (
        f"{trained} of the {judged} planes judged here also trained the model, so these scores are better than on a "
        "volume it has not seen."
    )


def _tiles(content: Content) -> list[dict[str, str]]:
    """Return the few numbers at the top of the page."""
    scored = [(arm, arm.scores) for case in content.cases for arm in case.arms if arm.scores]
    scored = [(arm, s) for arm, s in scored if s.get("dice") is not None]
    tiles = []
    if scored:
        arm, scores = max(scored, key=lambda pair: float(pair[1]["dice"]))
        tiles.append(
            {"value": _number(scores["dice"]), "label": "Dice" if len(scored) == 1 else "best Dice", "detail": arm.name}
        )
        for key, label in (("nsd", "surface Dice"), ("assd_um", "µm mean surface distance")):
            if scores.get(key) is not None:
                tiles.append({"value": _number(scores[key]), "label": label, "detail": arm.name})
    run = content.runs[0]
    annotated = sum(len(s.trained) + len(s.held_out) for s in run.samples)
    planes = sum(s.shape[0] for s in run.samples if s.shape is not None)
    if annotated and planes:
        tiles.append({"value": f"{annotated} of {planes}", "label": "planes annotated", "detail": ""})
    validated = [stage for stage in run.stages if stage.validation]
    if validated and not scored:
        best = max(score for _, score in validated[-1].validation)
        tiles.append({"value": _number(best), "label": "validation Dice", "detail": validated[-1].name})
    seconds = sum(stage.seconds for stage in run.stages)
    if seconds:
        tiles.append(
            {
                "value": _duration(seconds),
                "label": "training",
                "detail": run.provenance.get("hardware", {}).get("device", ""),
            }
        )
    return tiles[:4]


def _commands(run: Run) -> list[str]:
    """Return the commands that make this run, its predictions, evaluations and this page again."""
    lines = []
    command = run.provenance.get("command")
    if isinstance(command, list) and command:
        lines.append(shlex.join(str(part) for part in command))
    else:
        lines.append(shlex.join(["fewslice", "run", str(run.path / "experiment.yaml")]))
    for line in run.results:
        if line.get("kind") == "prediction":
            lines.append(
                shlex.join(
                    [
                        "fewslice",
                        "predict",
                        str(run.path),
                        str(line.get("image", "")),
                        "-o",
                        str(line.get("output", "")),
                    ]
                )
            )
        elif line.get("kind") == "evaluation":
            parts = ["fewslice", "evaluate", str(line.get("prediction", "")), "--truth", str(line.get("truth", ""))]
            for key in ("axes", "background", "unlabelled", "label_kind"):
                if line.get(key) is not None:
                    parts += [f"--{key.replace('_', '-')}", str(line[key])]
            for planes in line.get("planes") or ():
                parts += ["--planes", str(planes)]
            lines.append(shlex.join(parts))
    lines.append(shlex.join(["fewslice", "report", str(run.path)]))
    return list(dict.fromkeys(lines))


def _number(value: float | None) -> str:
    """Write a score with three decimals, a length with three digits, and nothing as a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def _thousands(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _by(values: Sequence[float] | None) -> str:
    return "unknown" if values is None else " × ".join(f"{v:g}" for v in values)


def _version() -> str:
    try:
        return version("fewslice")
    except PackageNotFoundError:
        return "unreleased"
