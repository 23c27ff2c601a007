"""What the verbs print for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.blocks.preflight import Estimate
    from fewslice.blocks.verify import Verification

__all__ = [
    "count_table",
    "object_table",
    "plan_text",
    "progress",
    "readable",
    "say_estimates",
    "say_trained",
    "say_written",
    "say_verified",
    "score_table",
]


def progress(quiet: bool) -> Any:
    """Listen to the events of a long verb: a bar on a terminal, else a JSON object a line."""
    from fewslice.progress import listening

    return listening(quiet=quiet)


def say_written(path: Path, *, as_json: bool) -> None:
    """Say where a result is, as a sentence or as one JSON object."""
    typer.echo(json.dumps({"output": str(path)}) if as_json else f"wrote {path}")


def say_trained(folder: Path, *, as_json: bool = False) -> None:
    """Say how good a finished training is on held-out annotation, and what comes next; as JSON where it is."""
    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import read_lines

    if not Hardware().is_main:
        return
    if as_json:
        say_written(folder, as_json=True)
        return
    last: dict[str, Any] = {}
    for event in read_lines(folder / "log.jsonl"):
        if event.get("event") == "validation":
            last[event["stage"]] = event
    chosen = [e for e in read_lines(folder / "log.jsonl") if e.get("event") == "calibration"]
    for stage, event in last.items():
        if "f1" in event:
            counted = f"{event['objects']} held-out objects at threshold {event['threshold']:.2f}"
            typer.echo(f"{stage}: F1 {event['f1']:.3f} (IoU 0.5) on {counted}")
            continue
        if "kernel_distance" in event:
            chance = event["kernel_distance_chance"]
            typer.echo(
                f"{stage}: kernel distance {event['kernel_distance']:.2f} from real images ({chance:.2f} among them), "
                f"F1 of the annotation kept to {event['kept']:.0%}"
            )
            continue
        typer.echo(
            f"{stage}: Dice {event['dice']:.3f} on held-out annotation, "
            f"{event['dice_at_threshold']:.3f} at threshold {event['threshold']:.2f}"
        )
    if chosen:
        median = f", median over {chosen[-1]['median']} planes" if chosen[-1]["median"] > 1 else ""
        typer.echo(
            f"model: Dice {chosen[-1]['dice']:.3f} on held-out annotation at threshold {chosen[-1]['threshold']:.2f}"
            f"{median}, {chosen[-1]['dice_at_half']:.3f} at 0.5 without"
        )
    typer.echo(f"trained {folder}; next: fewslice predict {folder} IMAGE -o OUT.ome.zarr")


def score_table(scores: dict[str, Any]) -> str:
    """Lay out voxel-wise and surface scores."""

    def row(name: str, values: dict[str, Any]) -> str:
        cells = [values.get(k) for k in ("dice", "iou", "precision", "recall")]
        return f"{name:<12}" + "".join(f"{'–' if v is None else format(v, '.4f'):>11}" for v in cells)

    lines = [f"{'':<12}{'Dice':>11}{'IoU':>11}{'precision':>11}{'recall':>11}", row("foreground", scores)]
    lines += [row(f"class {name}", values) for name, values in scores.get("classes", {}).items()]
    if scores.get("at_half"):
        lines.append(row("at 0.5", scores["at_half"]))
    (tn, fp), (fn, tp) = scores["confusion"]
    lines.append(f"confusion   TN {tn}  FP {fp}  FN {fn}  TP {tp}")
    if scores.get("complete") is False:
        lines.append("the prediction is not finished: blocks are missing and count as background; run predict again")
    return "\n".join(lines)


def object_table(scores: dict[str, Any]) -> str:
    """Lay out scores of objects by IoU."""

    def row(name: str, key: str) -> str:
        return f"{name:<12}" + "".join(f"{'–' if v is None else format(v, '.4f'):>9}" for v in scores[key].values())

    lines = [f"{'at IoU':<12}" + "".join(f"{name:>9}" for name in scores["f1"]), row("F1", "f1"), row("AP", "ap")]
    lines.append(row("PQ", "pq"))
    what = "objects" if scores["matched_in"] == "volume" else f"cross-sections along {scores['plane_axis']}"
    lines.append(f"{what}: {scores['predicted_count']} found, {scores['truth_count']} true")
    lines.append(f"splits {scores['splits']}, merges {scores['merges']}")
    return "\n".join(lines)


def count_table(summary: dict[str, Any]) -> str:
    """Lay out counts and densities."""

    def row(name: str, counts: dict[str, Any]) -> str:
        density = counts["density_per_mm3"]
        between = counts.get("interval95")
        sure = f"  expected {counts['expected']:.1f}, 95 % {between[0]} to {between[1]}" if between else ""
        rate = "–" if density is None else f"{density:.6g}"
        return f"{name:<12}{counts['objects']:>10}{counts['counted']:>10}{rate:>14}{sure}"

    lines = [f"{'':<12}{'objects':>10}{'counted':>10}{'per mm³':>14}", row("all", summary)]
    lines += [row(f"class {entry['class']}", entry) for entry in summary["by_class"]]
    lines += [row(f"region {entry['region']}", entry) for entry in summary.get("by_region", [])]
    lines.append(f"counted: {summary['border_rule']}")
    return "\n".join([*lines, f"wrote {summary['table']}"])


def plan_text(found: dict[str, Any]) -> str:
    """Say what more planes would bring and which to annotate next."""
    lines = []
    if found["curve"]:
        lines.append(f"{'planes':>6}{'Dice':>8}   {found['confidence']:.0%} interval")
    for row in found["curve"]:
        how = "measured" if row["measured"] else "expected"
        lines.append(f"{row['planes']:>6}{row['dice']:>8.3f}   {row['low']:.3f} – {row['high']:.3f}   {how}")
    for title, key in (("annotate next", "next_planes"), ("or only these regions", "regions")):
        if found[key]:
            lines.append(f"{title}:")
        for entry in found[key]:
            place = ", ".join(f"{a} {entry[a][0]}–{entry[a][1] - 1}" for a in "zyx" if a in entry)
            place = f"{entry['axis']} {entry['plane']}" + (f", {place}" if place else "")
            lines.append(f"  {entry['image']}: {place}   score {entry['score']:.2f}")
    return "\n".join([*lines, found["advice"]])


def readable(value: Any) -> str:
    """Write a value of ``info`` on one line."""
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(v) for v in value) or "none"
    return str(value)


def say_estimates(estimates: list[Estimate], slurm: SlurmConfig | None, *, as_json: bool) -> None:
    """Say what a verb would take."""
    script = None
    if slurm is not None:
        from fewslice.blocks.cluster import job_script

        script = job_script(slurm)
    if as_json:
        found = {"estimates": [e.as_dict() for e in estimates], **({"job_script": script} if script else {})}
        typer.echo(json.dumps(found, indent=2))
        return
    for estimate in estimates:
        typer.echo("\n".join(estimate.lines()))
    if script:
        typer.echo(script)


def say_verified(found: Verification, *, repair: bool) -> None:
    """Say what is damaged."""
    for item in found.damaged:
        what = f"chunk {item.chunk} of {item.array}" if item.array else f"file {item.chunk}"
        where = f", block {list(item.block)} of {item.record}" if item.record else ""
        typer.echo(f"{item.problem}: {what}{where}")
    for index, reason in found.failed:
        typer.echo(f"failed: block {list(index)}: {reason}")
    typer.echo(
        f"{found.store}: {found.blocks} blocks, {found.chunks} chunks or files, {len(found.damaged)} of them damaged"
    )
    if found.damaged:
        again = "run the command that made it again" if repair else "to make these blocks again, run verify --repair"
        typer.echo(again)
    elif not found.finished:
        typer.echo("not finished; the command that made it goes on where it stopped")
