"""Quality on held-out truth as tables: voxels, classes, confusion, objects; intervals where there are some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewslice.report.cases import DrawnCase
from fewslice.report.content import Arm, Case
from fewslice.report.palette import arm_colour
from fewslice.report.wording import by, interval, percent

__all__ = ["quality_view"]

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


def quality_view(drawn: DrawnCase) -> dict[str, Any] | None:
    """Return what the template says about the scores of a case; None where nothing was evaluated."""
    case = drawn.case
    scored = [arm for arm in case.arms if arm.scores]
    objects = [_object_row(arm, i) for i, arm in enumerate(case.arms) if arm.instance_evaluation]
    if not scored and not objects:
        return None
    truths = {str((arm.evaluation or {}).get("truth", "")) for arm in scored}
    return {
        "case": case,
        "truths": sorted(truths),
        "table": _table(case) if scored else None,
        "classes": _class_rows(case),
        "confusions": [
            {"name": arm.name, "rows": _heat(arm.scores["confusion"])}
            for arm in scored
            if arm.scores and arm.scores.get("confusion")
        ],
        "known": _known(scored),
        "overlap": _overlap(drawn),
        "objects": objects,
        "objects_note": _objects_note([a.instance_evaluation for a in case.arms if a.instance_evaluation]),
    }


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
    rows = []
    for i, arm in enumerate(case.arms):
        if not arm.scores:
            continue
        own, around = scores[arm.name], arm.scores.get("intervals") or {}
        cells = [
            {
                "value": own.get(key),
                "best": key in best and own.get(key) == best[key],
                "interval": interval(around.get(key)),
            }
            for key, *_ in columns
        ]
        rows.append(
            {"name": arm.name, "colour": arm_colour(i), "cells": cells, "threshold": arm.scores.get("threshold")}
        )
    tolerances = {(arm.scores or {}).get("nsd_tolerance_um") for arm in case.arms} - {None}
    return {
        "columns": [{"title": title, "unit": unit, "direction": direction} for _, title, direction, unit in columns],
        "rows": rows,
        "tolerances": sorted(tolerances),
        "marked": bool(best),
        "intervals": _interval_note([arm.scores for arm in case.arms if arm.scores]),
    }


def _interval_note(scored: Sequence[Mapping[str, Any]]) -> str:
    found = next((s for s in scored if s.get("intervals")), None)
    if found is None:
        return ""
    around = found["intervals"]["dice"]
    return (
        f"Under a score, its {percent(around['confidence'])} interval: percentile bootstrap over {found['cells']} "
        f"boxes of {by(found['cell_shape'])} voxels with truth. It says how much the score would move with other parts "
        "of this image, and nothing about other images."
    )


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
        {"name": f"class {name}", "arm": arm.name, "colour": arm_colour(i), "scores": found}
        | {"intervals": {key: interval(value) for key, value in (found.get("intervals") or {}).items()}}
        for name in names
        for i, arm in enumerate(case.arms)
        if arm.scores and (found := arm.scores.get("classes", {}).get(name))
    ]


def _heat(matrix: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Return the rows of a confusion matrix: count, and share of the row in per cent."""
    names = ["background", "foreground"] if len(matrix) == 2 else ["background", *map(str, range(1, len(matrix)))]
    rows = []
    for name, counts in zip(names, matrix, strict=True):
        total = sum(counts)
        shares = [100 * count / total if total else 0.0 for count in counts]
        rows.append(
            {"name": name, "cells": [{"count": int(c), "share": s} for c, s in zip(counts, shares, strict=True)]}
        )
    return rows


def _known(scored: Sequence[Arm]) -> str:
    shares = [a.scores["annotated_share"] for a in scored if a.scores and a.scores.get("annotated_share") is not None]
    return f"Judged on the {percent(shares[0])} of the voxels that have truth." if shares else ""


def _overlap(drawn: DrawnCase) -> str:
    """Say when part of the truth had trained the model."""
    trained, judged = drawn.judged_while_trained
    if not trained:
        return ""
    return (
        f"{trained} of the {judged} planes judged here also trained the model, so these scores are better than on a "
        "volume it has not seen."
    )


def _object_row(arm: Arm, index: int) -> dict[str, Any]:
    scores = (arm.instance_evaluation or {}).get("scores", {})
    cells = [
        ("F1 at IoU 0.5", scores.get("f1", {}).get("0.5"), interval(scores.get("f1_interval"))),
        ("AP at IoU 0.5", scores.get("ap", {}).get("0.5"), interval(scores.get("ap_interval"))),
        ("mean F1", scores.get("mean_f1"), ""),
        ("PQ at IoU 0.5", scores.get("pq", {}).get("0.5"), ""),
    ]
    counts = [(name.replace("_", " "), scores.get(name)) for name in ("truth_count", "predicted_count")]
    counts += [(name, scores.get(name)) for name in ("splits", "merges")]
    return {"name": arm.name, "colour": arm_colour(index), "cells": cells, "counts": counts}


def _objects_note(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Say what was matched, and what the interval is of."""
    if not evaluations:
        return ""
    scores = evaluations[0].get("scores", {})
    said = "Objects were matched in the volume"
    if scores.get("matched_in") == "planes":
        said = f"Planes with truth stand alone along {scores.get('plane_axis')}: cross-sections were matched on each"
    around = scores.get("f1_interval")
    if around:
        said += f"; intervals are {percent(around['confidence'])} percentile bootstrap over {around['count']} objects"
    return f"{said}. Mean F1 is over IoU 0.5 to 0.9."
