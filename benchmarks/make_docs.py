"""Write ``docs/benchmarks.md`` and its figures from the stored results; ``--check`` only says whether it is up to date.

Nothing is measured here and no number is typed by hand: whatever stands in the page comes from
``benchmarks/results``. Attempts at targets that are not reached are trials among those results, and prose about them is
taken from ``benchmarks/attempts.md`` where that exists.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    blocks,
    continuity,
    em,
    faults,
    instances,
    people,
    planning,
    scaling,
    sparsity,
    speed,
    synthesis,
    synthesis_tables,
)
from benchmarks.arms import ARMS
from benchmarks.cells import RESULTS, ROOT, current, read_failures, read_results
from benchmarks.figures import draw_alpha, draw_cost, draw_sparsity
from benchmarks.tables import Series, difference, interval_text, markdown, share_text
from benchmarks.targets import RIVALS, STEPS, STUDENTS, at, outcomes

__all__ = ["main", "page"]

Result = Mapping[str, Any]

_TITLES = {
    "phantom": "Phantom in the paper's geometry",
    "stack2_field": "Real stack, whole field (train x < 288, test x ≥ 320)",
    "stack2_crops": "Real stack, three crops of 114 × 114 pixels (from x < 288, test x ≥ 320)",
    "stack2_inner": "Real stack, inside x < 288 (where recipes are chosen)",
    "stack2_crops_inner": "Real stack, crops inside x < 288 (where recipes are chosen)",
}
_PUBLISHED = {"none": (90.5, 82.6), "affine": (92.5, 86.9), "morphology": (93.6, 88.0), "continuity": (94.2, 89.0)}
"""Dice and IoU in percent of Xiao et al., ISBI 2022, on the original labels of the whole test stack."""
_STEPS = {
    "none": "`none`: 2D network, flips and right-angle turns",
    "affine": "`affine`: + rotations and piecewise-affine warps",
    "morphology": "`morphology`: + a second network that learns the masks cleaned along z",
    "continuity": "`continuity`: + that network sees the masks of neighbouring planes",
}
_METRICS = (("dice", "Dice", 3), ("nsd", "NSD at 2 µm", 3), ("assd_um", "ASSD, µm", 2), ("hd95_um", "HD95, µm", 1))

_INTRODUCTION = """\
# Benchmarks

<!-- Written by `python -m benchmarks.make_docs` from benchmarks/results. Change those, not this page. -->

Every number is a mean over *draws* ± half the width of its Student-t 95 % interval, with the number of draws in
brackets. A draw seeds which planes are annotated and how training starts; all arms of a draw see the same planes, and a
student has the very 2D network it is compared with as its teacher, so differences are paired. Scores are computed once
over all scored voxels, at threshold 0.5. Planes are drawn at random; fewer planes are a subset of more.

How cells are run: `python -m benchmarks.sparsity --list` shows them, without `--list` it measures those that have no
result yet; `--only 'phantom planes=1'` chooses, `--max-minutes` stops in time, `--stale` names results that are out of
date. Real data are read from `--data DATA`. Each result holds its settings, versions, device, processor seconds and
command.
"""

_CAVEATS = """\
Read these with care:

- The labels of the real stack were drawn plane by plane, which favours 2D networks; a second annotator of the same
  image agrees with the first at a Dice of about 0.83.
- Its voxel size is not stated by its authors; surface figures take 2 × 0.88 × 0.88 µm (z, y, x).
- The phantom is simulated. Its parameters were matched to the real stack's statistics and frozen before the first
  comparison; recipes are chosen on it and inside x < 288 of the real stack, and x ≥ 320 is scored once per frozen
  recipe.
- The published 2D network comes with neither α, learning rate nor schedule; those are ours.
- The sparse 3D arm is the student's network, loss and budget with weight 0 on unlabelled voxels (α = 0).
"""


_CONTINUITY = """\
Planes of the training stack are annotated evenly: 0, 5, …, 155 for 32 of them, as published, else in the middle of as
many equal parts. A draw is a seed of training; nothing is held out, and the threshold is 0.5. Networks have 16 features
and 4 views. `python -m benchmarks.continuity --quick` measures the crop, without `--quick` whole stacks; pictures of
what arms get right and wrong are drawn locally with `--figure OUT.png`.
"""


_PLANNING = """\
A 2D network of 8 features, {choice} steps for every number of planes, is trained on planes that are recommended (the
middle one first, then where the model is uncertain and nothing near is annotated), evenly spaced, or drawn at random.
Dice is that of the best threshold. The budget curve is measured by trainings of {calibration} steps on subsets of n
planes; what 2n and 4n planes reach is the Dice of trainings on so many, judged on planes that they have not seen.
Intervals hold the Dice with 80 % probability; the log gain is the log score of the forecast minus that of no change.
`python -m benchmarks.planning --quick` measures it.
"""
_PLANNED = {
    "em": "em_mitochondria, 165 × 256 × 256 voxels",
    "stack2": "Real two-photon stack (train x < 288, test x ≥ 320)",
}


def page(results: Path = RESULTS, figures: Path | None = None) -> str:
    """Write the page, and the figures if a folder is given for them.

    Parameters
    ----------
    results
        Folder of all results.
    figures
        Folder for PNG files; None draws none, and the page is the same.
    """
    loaded = current(read_results("sparsity", results=results), sparsity.again)
    em_series = Series(current(read_results("em", results=results), em.again))
    speed_series = Series(current(read_results("speed", results=results), speed.again))
    along_z = Series(current(read_results("continuity", results=results), continuity.again))
    planned = [planning.with_forecasts(r) for r in current(read_results("planning", results=results), planning.again)]
    planned_tier = "full" if any(r["cell"]["config"]["tier"] == "full" for r in planned) else "quick"
    plans = Series([r for r in planned if r["cell"]["config"]["tier"] == planned_tier])
    counted = Series(current(read_results("instances", results=results), instances.again))
    scaled = Series(current(read_results("scaling", results=results), scaling.again))
    drawn = current(read_results("synthesis", results=results), synthesis.again)
    drawn_tier = "full" if any(r["cell"]["config"].get("tier") == "full" for r in drawn) else "quick"
    simulated = Series([r for r in drawn if r["cell"]["config"].get("tier", drawn_tier) == drawn_tier])
    painted = Series(current(read_results("people", results=results), people.again))
    killed = Series(current(read_results("faults", results=results), faults.again))
    cut = Series(current(read_results("blocks", results=results), blocks.again))
    trials = read_results("sparsity_trials", results=results)
    tiers = [tier for tier in ("full", "quick") if any(r["cell"]["config"]["tier"] == tier for r in loaded)]
    main_tier = tiers[0] if tiers else "full"
    main = Series([r for r in loaded if r["cell"]["config"]["tier"] == main_tier])
    more = {
        "continuity": along_z,
        "planning": plans,
        "instances": counted,
        "scaling": scaled,
        "synthesis": simulated,
        "people": painted,
        "faults": killed,
        "blocks": cut,
    }
    parts = [_INTRODUCTION, _targets(main, em_series, speed_series, main_tier, more), _CAVEATS]
    for tier in tiers:
        series = Series([r for r in loaded if r["cell"]["config"]["tier"] == tier])
        parts.append(_comparison(series, tier, figures))
    parts += [_em(em_series), _continuity(along_z), _planning(plans, planned_tier), _instances(counted)]
    parts += [
        synthesis_tables.section(simulated, drawn_tier, _devices),
        _speed(speed_series),
        _scaling(scaled),
        _faults(killed),
    ]
    parts.append(_trials(trials, read_results("sparsity", results=results)))
    parts.append(_attempts())
    parts.append(_missing(results))
    return "\n".join(part for part in parts if part)


def _targets(main: Series, em_series: Series, speed_series: Series, tier: str, more: Mapping[str, Series]) -> str:
    said = {True: "yes", False: "**no**", None: "not measured yet"}
    rows = [
        [line.what, line.target, line.measured, said[line.reached], f"`{line.command}`"]
        for line in outcomes(main, em_series, speed_series, tier, **more)
    ]
    text = f"Recipe version {sparsity.RECIPE}, {tier} budgets. "
    text += "A line of the comparison counts as measured from five draws on.\n"
    return "## Targets\n\n" + text + "\n" + markdown(["what", "target", "measured", "reached", "command"], rows)


def _comparison(series: Series, tier: str, figures: Path | None) -> str:
    steps = ", ".join(f"{name} {count}" for name, count in sparsity.BUDGETS[tier].items())
    parts = [f"## Annotated planes against arms, {tier} budgets\n", f"Steps: {steps}.\n", _devices(series)]
    for setting, title in _TITLES.items():
        chosen = series.where(setting=setting)
        if chosen.results:
            parts.append(_setting(chosen, setting, title, tier, figures))
    cost = series.where(setting="phantom_cost")
    if cost.results:
        parts.append(_cost(cost, tier, figures))
    return "\n".join(parts)


def _setting(series: Series, setting: str, title: str, tier: str, figures: Path | None) -> str:
    planes = series.distinct("planes")
    parts = [f"### {title}\n"]
    for metric, name, digits in _METRICS:
        rows = [
            [str(p), *(interval_text(at(series, setting, arm, p).interval(metric), digits) for arm in ARMS)]
            for p in planes
        ]
        parts.append(f"{name}:\n\n" + markdown(["planes", *(arm.title for arm in ARMS.values())], rows))
    rows = []
    for count in planes:
        for arm in STUDENTS:
            ours = at(series, setting, arm, count)
            for rival in RIVALS:
                theirs = at(series, setting, rival, count)
                if difference(ours, theirs, "dice") is not None:
                    gains = [
                        interval_text(difference(ours, theirs, metric), digits, sign=True)
                        for metric, _, digits in _METRICS[:3]
                    ]
                    rows.append([f"{count}: {ARMS[arm].title} − {ARMS[rival].title}", *gains])
    if rows:
        head = ["planes: student − rival", "Dice", "NSD", "ASSD, µm (less is better)"]
        parts.append("Paired differences:\n\n" + markdown(head, rows))
    parts.append(_confusions(series, setting, planes))
    parts.append(_alphas(series, setting))
    stem = f"{setting}_{tier}"
    drawn = figures is None or draw_sparsity(series, setting, figures / f"sparsity_{stem}.png")
    if drawn:
        parts.append(f"![Dice and surface Dice against annotated planes](figures/sparsity_{stem}.png)\n")
    if _compares_alphas(series) and (figures is None or draw_alpha(series, setting, figures / f"alpha_{stem}.png")):
        parts.append(f"![Dice against α](figures/alpha_{stem}.png)\n")
    return "\n".join(part for part in parts if part)


def _confusions(series: Series, setting: str, planes: Sequence[int]) -> str:
    shown = [p for p in planes if p in (1, 2, 4, 22)]
    rows = [
        [f"{p}: {what.title}", share_text(matrix)]
        for p in shown
        for arm, what in ARMS.items()
        if (matrix := at(series, setting, arm, p).mean_confusion()) is not None
    ]
    head = ["planes: arm", "percent of voxels, mean over draws"]
    return "Confusion matrices:\n\n" + markdown(head, rows) if rows else ""


def _compares_alphas(series: Series) -> bool:
    """Whether several α were tried at the same number of planes."""
    return any(len(series.where(planes=p).distinct("alpha")) > 1 for p in series.distinct("planes"))


def _alphas(series: Series, setting: str) -> str:
    alphas = series.distinct("alpha")
    if not _compares_alphas(series):
        return ""
    rows = []
    for count in series.distinct("planes"):
        for arm in STUDENTS:
            here = series.where(planes=count, arm=arm)
            if len(here.distinct("alpha")) > 1:
                zero = at(series, setting, "sparse_3d", count, 0).interval("dice")
                cells = [interval_text(here.where(alpha=a).interval("dice")) for a in alphas]
                rows.append([f"{count}: {ARMS[arm].title}", interval_text(zero), *cells])
    return "Dice against α:\n\n" + markdown(["planes: student", "α = 0 (sparse)", *(f"{a:g}" for a in alphas)], rows)


def _cost(series: Series, tier: str, figures: Path | None) -> str:
    rows = []
    for arm, what in ARMS.items():
        found = series.where(arm=arm)
        if found.results:
            cpu = [float(r["cpu_seconds"]) for r in found.results]
            wall = [float(r["wall_seconds"]) for r in found.results]
            row = [what.title, f"{sum(cpu) / len(cpu):.0f}", f"{sum(wall) / len(wall):.0f}"]
            rows.append([*row, interval_text(found.interval("dice"))])
    if figures is not None:
        draw_cost(series, figures / f"cost_{tier}.png")
    return (
        "### Processor seconds to a given Dice (phantom, 1 plane per volume)\n\n"
        + markdown(["arm", "processor seconds, teacher included", "wall seconds", "Dice at the end"], rows)
        + f"\n![Dice against processor seconds](figures/cost_{tier}.png)\n"
    )


def _devices(series: Series) -> str:
    kinds: dict[str, int] = {}
    for result in series.results:
        kinds[result["device"]] = kinds.get(result["device"], 0) + 1
    text = "; ".join(f"{count} on {name}" for name, count in sorted(kinds.items()))
    if any(result["device_kind"] != "cpu" for result in series.results):
        text += ". Processor seconds are compared only between cells that ran on a CPU"
    return f"Cells: {text}.\n"


def _em(series: Series) -> str:
    if not series.results:
        return ""
    rows = []
    for arm in series.distinct("arm"):
        found = series.where(arm=arm)
        metrics = ("dice", "iou", "precision", "recall", "dice_chosen")
        texts = [interval_text(found.interval(metric)) for metric in metrics]
        steps = "; ".join(sorted({json.dumps(r.get("steps", {})).replace('"', "") for r in found.results}))
        cpu = sum(float(r["cpu_seconds"]) for r in found.results) / len(found.results)
        rows.append([str(arm), *texts, f"{cpu / 60:.0f}", steps])
    head = ["arm", "Dice", "IoU", "precision", "recall", "Dice, chosen threshold", "processor minutes", "steps"]
    return (
        "## Mitochondria in electron microscopy\n\n"
        "Planes 0, 5, …, 155 of the training stack are annotated; 30 minutes of training on two cores for each arm; "
        "the same test-time views for all. The labels are the Lucchi++ re-annotation, on which scores run higher than "
        "on the original labels that most papers report.\n\n" + _devices(series) + "\n" + markdown(head, rows)
    )


def _continuity(series: Series) -> str:
    """Write what the steps of spatial continuity add, how strategies do at few planes, and what cleaning brings."""
    if not series.results:
        return ""
    parts = ["## Spatial continuity\n", _CONTINUITY, _devices(series)]
    for setting in ("crop", "whole"):
        chosen = series.where(setting=setting)
        if chosen.results:
            parts.append(f"### {_protocol(setting)}\n")
            parts += [_ablation(chosen, setting), _strategies(chosen, setting), _fillings(chosen)]
    best = series.where(setting="whole60")
    if best.results:
        names = ("dice_chosen", "iou_chosen", "precision_chosen", "recall_chosen", "threshold_chosen", "dice")
        head = ["arm", "Dice", "IoU", "precision", "recall", "threshold", "Dice at 0.5"]
        row = ["continuity, 8 views", *(interval_text(best.interval(name)) for name in names)]
        title = "### 60 minutes of training, whole stacks, 32 planes\n"
        parts += [title, "The threshold was chosen on annotated planes that were held out.\n", markdown(head, [row])]
    parts.append(_continuity_speed(series.where(setting="speed")))
    return "\n".join(part for part in parts if part)


def _protocol(setting: str) -> str:
    """Say in a title what is trained and tested on."""
    protocol = continuity.PROTOCOLS[setting]
    if protocol.train is None or protocol.test is None:
        return "Whole stacks"
    trained = " × ".join(str(stop - start) for start, stop in protocol.train)
    (y0, y1), (x0, x1) = protocol.train[1:]
    tested = f"rows {protocol.test[1][0]}–{protocol.test[1][1] - 1} of the test stack"
    return f"Crop of {trained} voxels (rows {y0}–{y1 - 1}, columns {x0}–{x1 - 1}), tested on {tested}"


def _steps(setting: str, strategy: str) -> str:
    return " + ".join(f"{count:g}" for count in continuity.BUDGETS[setting][strategy].values())


def _ablation(series: Series, setting: str) -> str:
    series = series.where(part="ablation")
    if not series.results:
        return ""
    rows = []
    for index, arm in enumerate(STEPS):
        found = series.where(arm=arm)
        before = series.where(arm=STEPS[index - 1]) if index else Series([])
        metrics = ("dice", "iou", "precision", "recall")
        texts = [interval_text(found.interval(metric)) for metric in metrics]
        gain = interval_text(difference(found, before, "dice"), sign=True)
        published = [f"{value / 100:.3f}" for value in _PUBLISHED[arm]]
        steps = _steps(setting, continuity.ABLATION[arm][0])
        rows.append([_STEPS[arm], *texts, gain, interval_text(found.interval("flicker"), 5), *published, steps])
    head = ["step", "Dice", "IoU", "precision", "recall", "Dice − row above", "flicker"]
    head += ["published Dice", "published IoU", "training steps"]
    part = "whole stacks" if setting == "whole" else "a crop of the stacks"
    return (
        f"What each step adds, {continuity.PLANES} annotated planes. **Published and measured figures are not "
        f"comparable**: ours are on {part}, with the Lucchi++ labels, on which scores run higher than on the original "
        "ones; what may be compared is the order of the rows. Flicker is the share of voxels that differ from both "
        "neighbouring planes.\n\n" + markdown(head, rows)
    )


def _strategies(series: Series, setting: str) -> str:
    series = series.where(part="strategies")
    counts = series.distinct("planes")
    if not counts:
        return ""
    rows = []
    for arm, (strategy, _) in continuity.STRATEGIES["whole"].items():
        found = series.where(arm=arm)
        if found.results:
            texts = [interval_text(found.where(planes=count).interval("dice")) for count in counts]
            cpu = sum(float(r["cpu_seconds"]) for r in found.results) / len(found.results)
            rows.append([f"`{arm}`", *texts, _steps(setting, strategy), f"{cpu / 60:.0f}"])
    head = ["strategy", *_planes(counts), "training steps", "processor minutes of training"]
    return "Dice of strategies with the package's settings:\n\n" + markdown(head, rows)


def _fillings(series: Series) -> str:
    filled, masks = series.where(part="interpolation"), series.where(part="strategies", arm="continuity")
    counts = sorted({*filled.distinct("planes"), *masks.distinct("planes")} - {continuity.DEPTH})
    if not counts:
        return ""
    titles = {"signed_distance": "signed distances, interpolated", "contours": "contours, interpolated by ITK"}
    rows = [
        [title, *(interval_text(filled.where(arm=arm, planes=count).interval("between")) for count in counts)]
        for arm, title in titles.items()
    ]
    kinds = {"raw_between": "the first network's masks", "cleaned_between": "those masks, cleaned along z"}
    rows += [
        [title, *(interval_text(masks.where(planes=count).interval(metric)) for count in counts)]
        for metric, title in kinds.items()
    ]
    return (
        "Dice on the planes of the *training* stack that are not annotated; the cleaned masks are what the second "
        "network is taught there:\n\n" + markdown(["what fills them", *_planes(counts)], rows)
    )


def _planes(counts: Sequence[int]) -> list[str]:
    return ["1 plane" if count == 1 else f"{count} planes" for count in counts]


def _continuity_speed(series: Series) -> str:
    rows = []
    for arm, what in (("operator", "morphology along z"), ("chain", "prediction with both networks")):
        found = series.where(arm=arm)
        if found.results:
            metrics = sorted({metric for result in found.results for metric in result["scores"]})
            text = ", ".join(f"{metric} {interval_text(found.interval(metric), 2)}" for metric in metrics)
            rows.append([what, text])
    return "### What it costs\n\n" + markdown(["what", "measured"], rows) if rows else ""


def _planning(series: Series, tier: str) -> str:
    """Write what recommended planes bring against others, and how well the budget curve foretells."""
    if not series.results:
        return ""
    steps = {
        part: " or ".join(str(n) for n in dict.fromkeys(own[part] for own in planning.BUDGETS[tier].values()))
        for part in ("choice", "calibration")
    }
    parts = ["## Planning\n", _PLANNING.format(**steps), _devices(series)]
    for setting, title in _PLANNED.items():
        chosen = series.where(setting=setting, part="choice")
        rows = [
            [arm, *(interval_text(chosen.where(arm=arm).interval(f"dice_{count}")) for count in planning.COUNTS)]
            for arm in planning.ARMS
            if chosen.where(arm=arm).results
        ]
        if rows:
            parts.append(f"{title}, Dice on the test part:\n\n" + markdown(["planes", *_planes(planning.COUNTS)], rows))
    rows = []
    for setting, starts in planning.STARTS.items():
        for start in starts:
            found = series.where(setting=setting, part="calibration", planes=start)
            for factor in planning.FACTORS if found.results else ():
                names = ("dice", "expected", "half_width", "covered", "log_gain")
                cells = [interval_text(found.interval(f"{name}_{factor}n")) for name in names]
                rows.append([f"{setting}: {start} → {factor * start}", interval_text(found.interval("now")), *cells])
    if rows:
        head = ["planes", "Dice measured at most planes", "reached", "expected", "half-width", "covered", "log gain"]
        parts.append("What the budget curve expects of more planes, and what they reach:\n\n" + markdown(head, rows))
    return "\n".join(parts)


def _instances(series: Series) -> str:
    """Write how well nuclei are counted."""
    rows = []
    for arm in instances.ARMS:
        found = series.where(arm=arm)
        if found.results:
            names = ("f1", "f1_at_075", "pq", "truth_count", "predicted_count", "splits", "merges")
            digits = (3, 3, 3, 1, 1, 1, 1)
            texts = [interval_text(found.interval(name), places) for name, places in zip(names, digits, strict=True)]
            cpu = sum(float(r["cpu_seconds"]) for r in found.results) / len(found.results)
            rows.append([f"`{arm}`", *texts, f"{cpu / 60 / len(instances.HALVES):.1f}"])
    if not rows:
        return ""
    head = ["outputs", "F1 at IoU 0.5", "F1 at 0.75", "PQ", "nuclei", "found", "splits", "merges"]
    head += ["processor minutes of each training"]
    steps = series.results[0]["cell"]["budget"]["low"]
    return (
        "## Nuclei from five planes\n\n"
        "A stack of confocal nuclei, 100 × 100 × 100 voxels. `sparse_3d` learns planes 0, 10, …, 40 and is judged on "
        f"z ≥ 55, and planes 55, 65, …, 95 and z ≤ 45; {steps:g} steps each. Both parts are pooled; objects of fewer "
        f"than {instances.MIN_SIZE:,} voxels in a part are ignored on both sides.\n\n"
        + _devices(series)
        + "\n"
        + markdown([*head], rows)
    )


def _scaling(series: Series) -> str:
    """Write how speed compares with MONAI's, and whether memory grows with the volume."""
    if not series.results:
        return ""
    return (
        "## Speed and memory by size\n\n" + _devices(series) + "\n```text\n" + scaling.table(series.results) + "\n```\n"
    )


def _faults(series: Series) -> str:
    """Write what became of each arm of the kills."""
    series = series.where(tier="full")
    if not series.results:
        return ""
    minutes = sum(float(r["cpu_seconds"]) for r in series.results) / 60
    return (
        "## Kills\n\n"
        + f"{minutes:.0f} processor minutes. How it is done stands in [Reliability](reliability.md).\n\n"
        + _devices(series)
        + "\n```text\n"
        + faults.table(series.results)
        + "\n```\n"
    )


def _speed(series: Series) -> str:
    if not series.results:
        return ""
    rows = []
    for arm in ("training", "prediction"):
        for setting in series.where(arm=arm).distinct("setting"):
            found = series.where(arm=arm, setting=setting)
            metrics = sorted({metric for result in found.results for metric in result["scores"]})
            text = ", ".join(f"{metric} {interval_text(found.interval(metric), 2)}" for metric in metrics)
            rows.append([f"{arm}, {setting}", text])
    return "## Speed\n\n" + _devices(series) + "\n" + markdown(["what", "measured"], rows)


def _trials(trials: Sequence[Result], frozen: Sequence[Result]) -> str:
    """List trials beside the recipe they depart from, on the same draws; one table per recipe version.

    Parameters
    ----------
    trials
        Results of trials, of any recipe version.
    frozen
        Results of recipes, of any version.
    """
    parts = []
    for version in sorted({str(result["cell"]["recipe"]) for result in trials}):
        groups: dict[str, list[Result]] = {}
        for result in trials:
            cell = result["cell"]
            if str(cell["recipe"]) == version:
                same = json.dumps({key: value for key, value in cell.items() if key != "draw"}, sort_keys=True)
                groups.setdefault(same, []).append(result)
        usual = Series([result for result in frozen if str(result["cell"]["recipe"]) == version])
        head = ["trial", "changed", "budget", "Dice", "NSD", "Dice − recipe's"]
        rows = [_trial(Series(group), usual) for group in groups.values()]
        parts.append(f"Beside recipe version {version}:\n\n" + markdown(head, rows))
    if not parts:
        return ""
    return "## Trials\n\nSettings that were tried on the phantom and inside x < 288.\n\n" + "\n".join(parts)


def _trial(series: Series, usual: Series) -> list[str]:
    """Write the row of one trial: all draws of the same changes in the same cell."""
    cell = series.results[0]["cell"]
    config = cell["config"]
    what = f"{config['trial']}: {cell['setting']}, {cell['arm']}, planes {config['planes']}"
    alpha = config.get("alpha")
    what += f", α {alpha:g}" if alpha is not None else ""
    changes = ", ".join(f"{key}={json.dumps(value)}" for key, value in config["changes"].items())
    steps = " + ".join(str(count) for count in cell["budget"].values())
    same = {"setting": cell["setting"], "arm": cell["arm"], "planes": config["planes"], "tier": config["tier"]}
    usual_alpha = None if alpha is None else sparsity.alpha_of(cell["setting"], config["planes"])
    beside = usual.where(**same, alpha=usual_alpha, data=cell["data"])
    gain = interval_text(difference(series, beside, "dice"), sign=True)
    return [
        what,
        changes,
        f"{steps} steps",
        interval_text(series.interval("dice")),
        interval_text(series.interval("nsd")),
        gain,
    ]


def _attempts() -> str:
    path = ROOT / "benchmarks" / "attempts.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _missing(results: Path) -> str:
    failures = [
        f
        for name in (
            "sparsity",
            "em",
            "continuity",
            "planning",
            "instances",
            "synthesis",
            "people",
            "speed",
            "scaling",
            "faults",
            "blocks",
        )
        for f in read_failures(name, results=results)
    ]
    if not failures:
        return ""
    rows = [[f["name"], f["error"].replace("|", "\\|").replace("\n", " ")] for f in failures]
    return "## Cells that failed\n\n" + markdown(["cell", "error"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or with ``--check`` say whether the stored page is what the results give."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is out of date")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args(argv)
    target = arguments.docs / "benchmarks.md"
    if arguments.check:
        same = target.exists() and target.read_text(encoding="utf-8") == page(arguments.results)
        print(
            f"{target.name} is up to date" if same else f"{target.name} is out of date: python -m benchmarks.make_docs"
        )
        return 0 if same else 1
    arguments.docs.mkdir(parents=True, exist_ok=True)
    target.write_text(page(arguments.results, arguments.docs / "figures"), encoding="utf-8")
    print(f"wrote {target.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
