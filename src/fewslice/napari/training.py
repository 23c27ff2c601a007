"""Training from the window: what is asked for becomes a command, what the command prints becomes a state to show.

Each training has a folder of its own, ``runs/001`` and so on below the annotation's, with the labels as they were::

    runs/001/labels.ome.zarr   the annotation that it learns from
    runs/001/request.json      the command's arguments, for resuming after a restart
    runs/001/RUN/              what `fewslice train` makes
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fewslice import io
from fewslice.errors import InputError
from fewslice.files import write_json
from fewslice.napari.layers import ImageSource
from fewslice.napari.session import plane_specs
from fewslice.training.events import loss_of, score_of
from fewslice.volume import Volume

__all__ = [
    "Request",
    "State",
    "advanced",
    "arguments",
    "event_of",
    "prepare",
    "progress",
    "resumable",
    "store_image",
    "stored_request",
]

_CHECKPOINT_SECONDS = 15


@dataclass(frozen=True)
class Request:
    """A training that is asked for.

    Attributes
    ----------
    strategy
        Its kind.
    settings
        Dotted key → value as YAML; those that differ from the default.
    planes
        (axis, index) of the annotated ones.
    label_kind
        ``classes`` or ``instances``; None when the values tell.
    minutes, steps
        The budget: of the whole strategy in minutes, or in steps for each stage.
    seed
        Of everything drawn.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    strategy: str
    planes: frozenset[tuple[int, int]]
    settings: Mapping[str, str] = field(default_factory=dict)
    label_kind: str | None = None
    minutes: float | None = 30.0
    steps: int | None = None
    seed: int = 0
    device: str = "auto"


def prepare(folder: Path, source: ImageSource, labels: Volume, request: Request) -> Path:
    """Store everything that a training needs in the next free ``runs/NNN`` and return it; may run in a thread.

    Raises
    ------
    InputError
        If no plane is marked as done, or there is no budget.
    DiskError
        If the disk refuses the write.
    """
    if not request.planes:
        raise InputError("no plane is marked as done; paint one and mark it (Alt+D), so that it counts as annotated")
    if (request.minutes is None) == (request.steps is None):
        raise InputError("the budget is given in minutes or in steps; give one of them")
    image = store_image(folder, source)
    runs = folder / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name) for p in runs.iterdir() if p.name.isdecimal()]
        place = runs / f"{max(taken, default=0) + 1:03d}"
        place.mkdir()
    except OSError as error:
        raise InputError(f"{runs} cannot be written to ({error.strerror}); choose another folder") from error
    io.save_labels(place / "labels.ome.zarr", labels, voxel_size_um=source.volume.voxel_size_um)
    write_json(place / "request.json", arguments(place, image, source, request))
    return place


def store_image(folder: Path, source: ImageSource) -> Path:
    """Return where the image is on disk; one that is in memory is written to ``image.ome.zarr`` in `folder` first."""
    if source.path is not None:
        return source.path
    path = folder / "image.ome.zarr"
    if not path.exists() or io.open_volume(path).content_hash() != source.volume.content_hash():
        io.save_volume(path, source.volume, overwrite=True)
    return path


def arguments(place: Path, image: Path, source: ImageSource, request: Request) -> list[str]:
    """Return the arguments of ``fewslice`` for a request, the verb first."""
    out = ["train", str(image), "--labels", str(place / "labels.ome.zarr"), "--strategy", request.strategy]
    for spec in plane_specs(set(request.planes)):
        out += ["--planes", spec]
    for key, value in request.settings.items():
        out += ["--set", f"{key}={value}"]
    if source.path is not None and source.axes is not None:
        out += ["--axes", source.axes]
    if source.volume.voxel_size_um is not None:
        out += ["--voxel-size-um", ",".join(f"{v:.9g}" for v in source.volume.voxel_size_um)]
    if request.label_kind is not None:
        out += ["--label-kind", request.label_kind]
    out += ["--minutes", f"{request.minutes:g}"] if request.minutes is not None else ["--steps", str(request.steps)]
    out += ["--seed", str(request.seed), "--device", request.device]
    return [*out, "--checkpoint-seconds", str(_CHECKPOINT_SECONDS), "-o", str(place / "RUN")]


def stored_request(place: Path) -> list[str]:
    """Return the arguments that a training was begun with.

    Raises
    ------
    InputError
        If they are not there.
    """
    try:
        content = json.loads((place / "request.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{place} holds no training that can be resumed ({error}); start a new one") from error
    if not isinstance(content, list) or content[:1] != ["train"] or not all(isinstance(a, str) for a in content):
        raise InputError(f"{place / 'request.json'} does not hold the arguments of a training; start a new one")
    return content


def resumable(folder: Path) -> Path | None:
    """Return the last training below an annotation's folder, if it was begun and has no model yet."""
    places = sorted(p.parent for p in (folder / "runs").glob("*/request.json"))
    return places[-1] if places and not (places[-1] / "RUN" / "model" / "model.json").exists() else None


@dataclass(frozen=True)
class State:
    """How far a training is.

    Attributes
    ----------
    planned
        Steps of each stage in order, once known.
    finished
        Stages that are finished.
    stage, step
        The current one, and the steps done in it.
    losses
        (steps done over all stages, loss), oldest first.
    score
        Name and value of the last one that the model was judged by.
    seconds_left
        Of the current stage.
    notes
        Sentences of the command.
    """

    planned: Mapping[str, int] = field(default_factory=dict)
    finished: tuple[str, ...] = ()
    stage: str = ""
    step: int = 0
    losses: tuple[tuple[int, float], ...] = ()
    score: tuple[str, float] | None = None
    seconds_left: float | None = None
    notes: tuple[str, ...] = ()


def event_of(line: str) -> dict[str, Any] | None:
    """Return the event that a line of the command's output is, or None for other lines."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None


def advanced(state: State, event: Mapping[str, Any]) -> State:
    """Return the state after an event of the log."""
    kind = event["event"]
    if kind in ("note", "finished"):
        return replace(state, notes=(*state.notes, str(event.get("note", ""))))
    if kind not in ("stage", "step", "validation"):
        return state
    stage, step, steps = str(event["stage"]), int(event["step"]), int(event["steps"])
    planned = state.planned if stage in state.planned else {**state.planned, stage: steps}
    state = replace(state, planned=planned, stage=stage, step=step)
    if kind == "stage" and event.get("state") == "finished":
        return replace(state, finished=(*(s for s in state.finished if s != stage), stage), seconds_left=0.0)
    if kind == "step":
        loss = loss_of(event)
        found = () if loss is None or not math.isfinite(loss) else ((_before(state) + step, loss),)
        return replace(state, losses=(*state.losses, *found), seconds_left=float(event["seconds_left"]))
    if kind == "validation":
        return replace(state, score=score_of(event) or state.score)
    return state


def progress(state: State) -> float:
    """Return the share of all steps that is done, 0 to 1."""
    total = sum(state.planned.values())
    return min((_before(state) + state.step) / total, 1.0) if total else 0.0


def _before(state: State) -> int:
    """Return the steps of the stages before the current one."""
    names = list(state.planned)
    return sum(state.planned[n] for n in names[: names.index(state.stage)]) if state.stage in names else 0
