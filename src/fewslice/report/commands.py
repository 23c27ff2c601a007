"""The commands that make a run, its predictions, what was measured of them, and the report again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fewslice import io
from fewslice.errors import FewsliceError
from fewslice.report.content import Run

__all__ = ["commands_of"]


def commands_of(run: Run) -> list[str]:
    """Return one line per command, in the order in which they were run, nothing twice.

    What is not recorded, such as the path of measured regions, stands there as a word in capitals.
    """
    command = run.provenance.get("command")
    lines = [["fewslice", "run", str(run.path / "experiment.yaml")]]
    if isinstance(command, list) and command:
        lines = [[str(part) for part in command]]
    if run.plan:
        lines.append(["fewslice", "plan", str(run.path), *_plan(run.plan)])
    for line in run.results:
        if line.get("kind") == "prediction":
            lines += _prediction(run, line)
        elif line.get("kind") in ("evaluation", "instance_evaluation"):
            lines.append(_evaluation(line))
    lines.append(["fewslice", "report", str(run.path)])
    return list(dict.fromkeys(shlex.join(parts) for parts in lines))


def _plan(plan: Mapping[str, Any]) -> list[str]:
    """Return how many planes were asked for, and the steps that minutes were turned into."""
    parts = ["--planes", str(len(plan["next_planes"]))] if plan.get("next_planes") else []
    return [*parts, "--steps", str(plan["steps"])] if plan.get("steps") else parts


def _prediction(run: Run, line: Mapping[str, Any]) -> list[list[str]]:
    """Return predict, and what was made of its output."""
    output = str(line.get("output", ""))
    predict = ["fewslice", "predict", str(run.path), str(line.get("image", "")), "-o", output]
    try:
        said = dict(io.open_volume(output).attributes)
    except FewsliceError:
        return [predict]
    if said.get("axes"):
        predict += ["--axes", str(said["axes"])]
    if said.get("channels"):
        predict += ["--channels", ",".join(str(c) for c in said["channels"])]
    chosen = run.model.get("threshold")
    if said.get("threshold") is not None and chosen is not None and said["threshold"] != chosen:
        predict += ["--threshold", f"{said['threshold']:g}"]
    if said.get("resampled_by"):
        predict.append("--resample")
    lines = [predict]
    try:
        objects = io.open_labels(Path(output) / "labels" / "instances").attributes
    except FewsliceError:
        return lines
    if "segmenter" in objects:
        lines.append(["fewslice", "segment", output, "--segmenter", str(objects["segmenter"]), *_set(objects)])
    measured = _sidecar(output)
    if measured:
        facts = measured.get("made_from", {})
        measure = ["fewslice", "measure", output]
        if facts.get("image"):
            same = facts["image"] == said.get("image_hash")
            measure += ["--image", str(line.get("image", "")) if same else "IMAGE"]
        if facts.get("regions"):
            measure += ["--regions", "REGIONS"]
        lines.append(measure)
    return lines


def _set(objects: Mapping[str, Any]) -> list[str]:
    """Return ``--set key=value`` for every setting of a segmenter."""
    settings = objects.get("settings")
    parts: list[str] = []
    for key, value in settings.items() if isinstance(settings, dict) else ():
        parts += ["--set", f"{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"]
    return parts


def _sidecar(output: str) -> dict[str, Any]:
    stem = Path(output).name.removesuffix(".zarr").removesuffix(".ome")
    try:
        value = json.loads(Path(output).with_name(f"{stem}.objects.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _evaluation(line: Mapping[str, Any]) -> list[str]:
    parts = ["fewslice", "evaluate", str(line.get("prediction", "")), "--truth", str(line.get("truth", ""))]
    for key in ("axes", "background", "unlabelled", "label_kind"):
        if line.get(key) is not None:
            parts += [f"--{key.replace('_', '-')}", str(line[key])]
    for planes in line.get("planes") or ():
        parts += ["--planes", str(planes)]
    if line.get("kind") == "instance_evaluation":
        parts.append("--instances")
        smallest = line.get("scores", {}).get("min_size")
        parts += ["--ignore-smaller", str(smallest)] if smallest else []
    return parts
