"""Evaluate against truth, report, and plan what to annotate next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewslice import io
from fewslice.errors import InputError
from fewslice.experiment import Experiment
from fewslice.files import append_line
from fewslice.workflow.common import Listener, ignore_event, voxel_factor
from fewslice.workflow.training import train_samples

if TYPE_CHECKING:
    from fewslice.data.samples import Sample
    from fewslice.model import Model

__all__ = ["evaluate", "plan", "report"]

_PLAN_MINUTES = 10.0


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    axes: str | None = None,
    planes: Sequence[str] = (),
    background: int | None = None,
    unlabelled: int | str | None = None,
    label_kind: Literal["classes", "instances"] | None = None,
    tolerance_um: float | None = None,
    instances: bool = False,
    ignore_smaller: int = 0,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Measure a prediction against truth, on annotated voxels only.

    See :func:`fewslice.evaluation.evaluate`, and with `instances`, where objects are compared with objects and those of
    fewer than `ignore_smaller` voxels are ignored, :func:`fewslice.evaluation.evaluate_instances`.
    The scores are also appended to the results of the run that made the prediction, if it is still there; where that
    cannot be written, `listener` gets a note.
    """
    from fewslice import evaluation

    meaning: dict[str, Any] = {"axes": axes, "planes": planes, "background": background, "unlabelled": unlabelled}
    if instances:
        if tolerance_um is not None:
            raise InputError("--tolerance-um is of surfaces, which --instances does not measure; leave one of them out")
        if label_kind == "classes":
            raise InputError("--label-kind classes and --instances exclude each other; give truth of object ids")
        scores = evaluation.evaluate_instances(prediction, truth, min_size=ignore_smaller, **meaning)
    else:
        if ignore_smaller:
            raise InputError(f"--ignore-smaller {ignore_smaller} is for objects; give it together with --instances")
        scores = evaluation.evaluate(prediction, truth, label_kind=label_kind, tolerance_um=tolerance_um, **meaning)
    options = meaning | {"planes": list(planes), "label_kind": label_kind}
    made_by = io.describe(prediction).get("attributes", {}).get("run")
    if made_by and (Path(made_by) / "experiment.yaml").exists():
        entry = {
            "kind": "instance_evaluation" if instances else "evaluation",
            "prediction": str(Path(prediction).resolve()),
            "truth": str(Path(truth).resolve()),
            **options,
            "scores": scores,
        }
        try:
            append_line(Path(made_by) / "results.jsonl", entry)
        except OSError as error:
            note = f"the scores are not listed in the results of {made_by}: {error}"
            (listener or ignore_event)({"event": "note", "note": note})
    return scores


def report(
    runs: Sequence[str | Path], *, predictions: Sequence[str | Path] = (), output: str | Path | None = None
) -> Path:
    """Write one self-contained HTML page about one run, or several side by side."""
    from fewslice.report import write_report

    return write_report(
        [Path(r) for r in runs], Path(output) if output else None, predictions=[Path(p) for p in predictions]
    )


def plan(
    run: str | Path,
    *,
    image: str | Path | None = None,
    planes: int = 4,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    checkpoint_seconds: float = 60.0,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Say what more annotated planes would bring, and which to annotate next.

    Trains a few short models on subsets of the planes of a run, kept under ``RUN/plan`` and resumed, and stores what it
    finds as ``RUN/plan.json``.

    Parameters
    ----------
    run
        A finished run folder.
    image
        The image to choose planes from; by default those that the run was trained on. Also the new place of the run's
        image, if that was moved.
    planes
        How many more planes are thought of.
    steps
        Of each training; or
    minutes
        Of all of them together; 10 by default. What has to be predicted comes on top.
    device
        Where to compute.
    checkpoint_seconds
        Time between checkpoints: what a kill costs at most.
    listener
        Called with every event.

    Returns
    -------
    dict
        ``curve`` (rows of ``planes, dice, low, high, measured``), ``gain``, ``next_planes`` (``image, axis, plane,
        score``), ``regions``, ``advice`` and what they rest on. ``curve`` is empty where the data cannot tell.

    Raises
    ------
    InputError
        If the run is none, is unfinished or has no annotation, or its images or labels are gone or others.
    """
    from fewslice.model import Model
    from fewslice.planning.opening import open_run
    from fewslice.planning.plan import make_plan
    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import RunFolder

    for name, count in (("planes", planes), ("steps", steps)):
        if count is not None and count < 1:
            raise InputError(f"{name} is {count}; give at least 1")
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"minutes is {minutes}; give a positive number")
    if steps is not None and minutes is not None:
        raise InputError("steps and minutes exclude each other; give one of them")
    folder = Path(run)
    opened = open_run(folder, None if image is None else str(image))
    voxel = Model.load(folder / "model").voxel_size_um
    for target in opened.targets:
        voxel_factor(target.image.source, target.image.voxel_size_um, voxel, resample=False)
    hardware = Hardware(device=device, checkpoint_seconds=checkpoint_seconds)

    def train_subset(short: Experiment, subset: Sequence[Sample], place: Path, tell: Listener) -> Model:
        return train_samples(short, subset, place, hardware=hardware, listener=tell)

    return make_plan(
        RunFolder(folder),
        opened,
        more=planes,
        train=train_subset,
        steps=steps,
        minutes=None if steps is not None else minutes or _PLAN_MINUTES,
        device=hardware.torch_device(),
        listener=listener or ignore_event,
    )
