"""What ``fewslice plan`` says: the curve, the next planes and windows, and advice in a sentence or two.

:func:`make_plan` goes through

1. :func:`budget` – builds the ladder, measures it, fits the curve; or says why the data cannot tell.
2. :func:`next_planes` – finds or makes the predictions and chooses planes and windows.
3. :func:`advice` – puts both into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice import io
from fewslice.blocks.record import Record
from fewslice.data.samples import Sample
from fewslice.errors import FewsliceError, InputError
from fewslice.experiment import Experiment
from fewslice.files import write_json
from fewslice.metrics.intervals import student
from fewslice.model import Model, model_hash
from fewslice.planning.ladder import Ladder, annotated_planes, build_ladder
from fewslice.planning.learning_curve import CONFIDENCE, Forecast, fit_curve
from fewslice.planning.measurement import Listener, Measured, Train, cheap_settings, measure, task_of
from fewslice.planning.opening import Opened
from fewslice.planning.selection import choose_planes, choose_windows
from fewslice.planning.uncertainty import plane_uncertainty, uncertainty_of_plane
from fewslice.prediction.blockwise import predict_volume
from fewslice.training.run_folder import RunFolder, read_lines
from fewslice.volume import Volume

__all__ = ["WORTH", "Budget", "advice", "budget", "document", "extrapolated", "make_plan", "next_planes"]

WORTH = 0.01
"""More planes are advised when together they should raise Dice by at least this much."""
_WINDOWS_PER_PLANE = 2
_UNSURE = 0.15
"""Where a training's Dice is not known better than this (half an interval), the prior decides what more would bring."""


def make_plan(
    run: RunFolder,
    opened: Opened,
    *,
    more: int,
    train: Train,
    steps: int | None = None,
    minutes: float | None = None,
    device: Any,
    listener: Listener,
) -> dict[str, Any]:
    """Plan for a finished run, and store the plan as ``plan.json`` in it.

    Parameters
    ----------
    run, opened
        The run's folder, and what it was trained on.
    more
        How many more planes are thought of.
    train, steps, minutes, listener
        See :func:`fewslice.planning.measurement.measure`.
    device
        Where to predict.

    Returns
    -------
    dict
        See :func:`document`.

    Raises
    ------
    InputError
        If planes are annotated along several axes, or an image cannot be predicted.
    """
    axis = task_of(opened.samples, run).plane_axis()
    known = {id(sample) for sample in opened.samples}
    found = budget(
        run,
        opened.experiment,
        opened.samples,
        axis=axis,
        more=more,
        elsewhere=sum(t.image.shape[axis] for t in opened.targets if id(t) not in known),
        train=train,
        steps=steps,
        minutes=minutes,
        listener=listener,
    )
    planes, regions = next_planes(run, opened.targets, axis=axis, count=more, device=device, listener=listener)
    plan = document(found, planes, regions, axis)
    write_json(run.path / "plan.json", plan)
    return plan


@dataclass(frozen=True)
class Budget:
    """What more labels would bring.

    Attributes
    ----------
    ladder
        The annotated planes and how they were used.
    curve
        Rows of ``planes, dice, low, high, measured``; empty where nothing could be measured.
    now
        Dice that a training on all annotated planes should reach; None likewise.
    gain
        By how much the planes asked for should raise it; None likewise, or where no plane is left.
    more
        How many planes that is.
    steps
        Of each training.
    """

    ladder: Ladder
    curve: tuple[dict[str, Any], ...] = ()
    now: Forecast | None = None
    gain: Forecast | None = None
    more: int = 0
    steps: int | None = None


def budget(
    run: RunFolder,
    experiment: Experiment,
    samples: Sequence[Sample],
    *,
    axis: int,
    more: int,
    elsewhere: int = 0,
    train: Train,
    steps: int | None = None,
    minutes: float | None = None,
    listener: Listener,
) -> Budget:
    """Measure Dice against the number of planes and extrapolate it.

    Parameters
    ----------
    run, experiment, samples
        A finished run, its resolved experiment, and what it was trained on.
    axis
        Along which planes were annotated.
    more
        How many further planes are thought of.
    elsewhere
        Planes of images that are not among the samples.
    train, steps, minutes, listener
        See :func:`fewslice.planning.measurement.measure`.
    """
    planes = annotated_planes([sample.annotation for sample in samples], axis)
    ladder = build_ladder(planes, np.random.default_rng([experiment.seed, 7]))
    left = sum(sample.image.shape[axis] for sample in samples) + elsewhere - len(planes)
    if not ladder.folds:
        return Budget(ladder, more=min(more, left))
    measured = measure(
        ladder,
        samples,
        cheap_settings(experiment, samples, run),
        run.path / "plan" / "trainings",
        axis=axis,
        train=train,
        seed=experiment.seed,
        steps=steps,
        minutes=minutes,
        listener=listener,
    )
    return extrapolated(ladder, measured, min(more, left), left, np.random.default_rng([experiment.seed, 8]))


def extrapolated(ladder: Ladder, measured: Measured, more: int, left: int, generator: np.random.Generator) -> Budget:
    """Fit the curve to what was measured, and write it as rows: what was measured, then what is expected.

    Parameters
    ----------
    ladder, measured
        What was trained and what it gave.
    more, left
        Planes thought of, and planes without annotation.
    generator
        Draws from the posterior.
    """
    posterior = fit_curve(measured.sizes, measured.dice, generator)
    now = len(ladder.planes)
    rows = []
    for size, dice in zip(measured.sizes, measured.dice.T, strict=True):
        found = student([float(d) for d in dice], CONFIDENCE)
        assert found.low is not None and found.high is not None
        low, high = max(0.0, found.low), min(1.0, found.high)
        rows.append({"planes": size, "dice": found.mean, "low": low, "high": high, "measured": True})
    ahead = {now, now + more, min(2 * now, now + left), min(4 * now, now + left)}
    for count in sorted(ahead):
        forecast = posterior.forecast(count)
        rows.append(
            {"planes": count, "dice": forecast.mean, "low": forecast.low, "high": forecast.high, "measured": False}
        )
    gain = posterior.gain(now, now + more) if more else None
    return Budget(ladder, tuple(rows), posterior.forecast(now), gain, more, measured.steps)


# ------------------------------------------------------------------------------------------------------- next planes


def next_planes(
    run: RunFolder,
    targets: Sequence[Sample],
    *,
    axis: int,
    count: int,
    device: Any,
    listener: Listener,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Choose the planes, and the windows in planes, to annotate next.

    Predictions that are stored are read: those of ``fewslice predict`` with this model and image, and those of an
    earlier stage (the 2D teacher's). What is missing is predicted into ``RUN/plan/predicted``, block by block.

    Parameters
    ----------
    run
        A finished run.
    targets
        Images to choose from, with what is annotated in them.
    axis
        Along which planes are annotated.
    count
        Number of planes; each comes with up to two windows, and so do as many planes that are annotated in part.
    device
        Where to predict.
    listener
        Called with progress events.

    Returns
    -------
    tuple
        Planes ``{image, axis, plane, score}`` in the order in which to annotate them, and regions
        ``{image, axis, plane, <axis>: [start, stop], <axis>: [start, stop], score}``, the most uncertain first.
    """
    known = [_known(target, axis) for target in targets]
    predicted = [_predictions(run, target.image, device, listener) for target in targets]
    uncertainty = [plane_uncertainty(final, earlier, axis) for final, earlier in predicted]
    choices = choose_planes(uncertainty, [share > 0 for share in known], count)
    planes = [
        {"image": targets[c.sample].name, "axis": "zyx"[axis], "plane": c.plane, "score": round(c.score, 4)}
        for c in choices
    ]
    places = [(c.sample, c.plane) for c in choices]
    partly = [(n, int(i)) for n, share in enumerate(known) for i in np.flatnonzero((share > 0) & (share < 1))]
    places += sorted(partly, key=lambda place: -uncertainty[place[0]][place[1]])[:count]
    rows, columns = (a for a in range(3) if a != axis)
    patch = Model.load(run.model).patch
    found = []
    for sample, plane in places:
        final, earlier = predicted[sample]
        annotation = targets[sample].annotation
        annotated = None if annotation is None else annotation.annotated[(slice(None),) * axis + (plane,)]
        size = [min(patch[a], max(1, final.shape[a] // 2)) for a in (rows, columns)]
        field = uncertainty_of_plane(final, earlier, axis, plane)
        for window in choose_windows(field, (size[0], size[1]), _WINDOWS_PER_PLANE, annotated):
            found.append((window, sample, plane))
    found.sort(key=lambda entry: -entry[0].uncertainty)
    regions = [
        {
            "image": targets[sample].name,
            "axis": "zyx"[axis],
            "plane": plane,
            "zyx"[rows]: list(window.rows),
            "zyx"[columns]: list(window.columns),
            "score": round(window.uncertainty / found[0][0].uncertainty, 4),
        }
        for window, sample, plane in found
    ]
    return planes, regions


def _known(target: Sample, axis: int) -> NDArray[np.float64]:
    """Return the annotated share of every plane."""
    if target.annotation is None:
        return np.zeros(target.image.shape[axis])
    across = tuple(a for a in range(3) if a != axis)
    share: NDArray[np.float64] = target.annotation.annotated.mean(axis=across)
    return share


def _predictions(run: RunFolder, image: Volume, device: Any, listener: Listener) -> tuple[Volume, Volume | None]:
    """Return the model's prediction of an image, and that of an earlier stage where the run has one."""
    lines = [line for line in read_lines(run.results) if line.get("kind") == "prediction"]
    final = _prediction(run, run.model, image, [Path(str(line.get("output"))) for line in lines], device, listener)
    for stage in sorted((run.path / "stages").glob("*/model")):
        stores = sorted((stage.parent / "predicted").glob("*.ome.zarr"))
        return final, _prediction(run, stage, image, stores, device, listener)
    return final, None


def _prediction(
    run: RunFolder, model_folder: Path, image: Volume, stores: Sequence[Path], device: Any, listener: Listener
) -> Volume:
    identity, wanted = model_hash(model_folder), image.content_hash()
    for store in stores:
        try:
            found = io.open_volume(store)
        except FewsliceError:  # moved or removed since
            continue
        same = (found.attributes.get("model_hash"), found.attributes.get("image_hash")) == (identity, wanted)
        if same and found.shape == image.shape and Record(store / ".fewslice", "").finished:
            return _of_classes(found)
    target = run.path / "plan" / "predicted" / f"{wanted[:12]}_{identity[:12]}.ome.zarr"
    target.parent.mkdir(parents=True, exist_ok=True)

    def tell(done: int, blocks: int) -> None:
        listener({"event": "block", "image": image.source, "done": done, "blocks": blocks})

    model = Model.load(model_folder)
    made = predict_volume(model, image, target, model_id=identity, device=device, pyramids=False, progress=tell)
    if made.outcome.failed:
        raise InputError(f"{image.source} cannot be predicted: {made.outcome.failed[0][1]}; mend the image")
    return _of_classes(io.open_volume(target))


def _of_classes(predicted: Volume) -> Volume:
    """Leave out what a model says of objects beside the classes' outputs."""
    outputs = predicted.attributes["outputs"]
    return predicted.with_channels([i for i, o in enumerate(outputs) if o["kind"] not in ("boundary", "distance")])


# ------------------------------------------------------------------------------------------------------------ advice


def advice(found: Budget, planes: Sequence[dict[str, Any]]) -> str:
    """Say in one or two sentences whether to go on annotating, and where."""
    several = len({plane["image"] for plane in planes}) > 1
    named = ", ".join(f"{p['image']} {p['plane']}" if several else str(p["plane"]) for p in planes)
    where = f"{planes[0]['axis']} = {named}" if planes else ""
    if not planes:
        return "Every plane is annotated in full or in part, so there is no further plane to propose."
    if found.now is None:
        return f"What more planes would bring cannot be said: {found.ladder.reason}. Annotate {where} next."
    assert found.gain is not None
    gain, label = found.gain, "1 more plane" if found.more == 1 else f"{found.more} more planes"
    half = (gain.high - gain.low) / 2
    said = f"{label} should bring {gain.mean:+.3f} ± {half:.3f} Dice to the {found.now.mean:.2f} of a short training"
    if (found.now.high - found.now.low) / 2 > _UNSURE:
        return (
            f"What more planes would bring cannot be said: trainings of {found.steps} steps differ too much "
            f"(Dice {found.now.low:.2f} to {found.now.high:.2f}). Give it more --minutes. To go on, annotate {where}."
        )
    if gain.high < WORTH:
        return (
            f"{said}, less than {WORTH:g}: more planes of this kind seem hardly worth their time. Before you stop, "
            f"confirm it with more --minutes: these trainings had {found.steps} steps."
        )
    if gain.mean >= WORTH:
        return f"{said}. Go on, and annotate {where} next."
    return f"{said}, which may or may not be worth it. If you go on, annotate {where} next."


def document(found: Budget, planes: list[dict[str, Any]], regions: list[dict[str, Any]], axis: int) -> dict[str, Any]:
    """Return all of it as plain values: what ``plan.json`` holds.

    Returns
    -------
    dict
        ``curve``: rows of ``planes, dice, low, high, measured``, empty where nothing could be measured; ``gain``: of so
        many more ``planes``, or None; ``next_planes``, ``regions``: see :func:`next_planes`; ``advice``; and
        ``annotated`` planes, their ``axis``, ``confidence`` of all intervals, ``steps`` of each training.
    """
    return {
        "version": 1,
        "annotated": len(found.ladder.planes),
        "axis": "zyx"[axis],
        "confidence": CONFIDENCE,
        "steps": found.steps,
        "curve": [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in found.curve],
        "gain": None if found.gain is None else {"planes": found.more, **_rounded(found.gain)},
        "next_planes": planes,
        "regions": regions,
        "advice": advice(found, planes),
    }


def _rounded(forecast: Forecast) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(forecast).items()}
