"""``evaluate``, ``report`` and ``plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewslice.cli.options import (
    Axes,
    Background,
    Checkpoints,
    Device,
    Json,
    Kind,
    Planes,
    Quiet,
    Unlabelled,
    number_or_word,
    read_label_kind,
)
from fewslice.cli.text import object_table, plan_text, progress, say_written, score_table

__all__ = ["evaluate", "plan", "report"]


def evaluate(
    prediction: Annotated[Path, typer.Argument(help="OUT.ome.zarr from predict, or any label image.")],
    truth: Annotated[str, typer.Option(help="The labels to compare with.")],
    axes: Axes = None,
    planes: Planes = None,
    background: Background = None,
    unlabelled: Unlabelled = None,
    label_kind: Kind = None,
    tolerance_um: Annotated[float | None, typer.Option(help="Of the normalised surface Dice, in µm.")] = None,
    instances: Annotated[bool, typer.Option("--instances", help="Compare objects with objects.")] = False,
    ignore_smaller: Annotated[int, typer.Option(metavar="VOXELS", help="Objects to ignore on both sides.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure a prediction against truth, on annotated voxels only.

    Example: fewslice evaluate OUT.ome.zarr --truth labels.tif --background 255 --json
    """
    from fewslice import workflow

    notes: list[str] = []
    scores = workflow.evaluate(
        prediction,
        truth,
        axes=axes,
        planes=planes or (),
        background=background,
        unlabelled=number_or_word(unlabelled),
        label_kind=read_label_kind(label_kind),
        tolerance_um=tolerance_um,
        instances=instances,
        ignore_smaller=ignore_smaller,
        listener=lambda event: notes.append(event["note"]),
    )
    for note in notes:
        typer.echo(note, err=True)
    table = object_table if instances else score_table
    typer.echo(json.dumps(scores, indent=2) if as_json else table(scores))


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run folder, or several to compare.")],
    predictions: Annotated[
        list[Path] | None, typer.Option("--prediction", help="Further OUT.ome.zarr to show; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="By default RUN/report.html.")] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page: what was trained, how good it is, planes and surfaces.

    Example: fewslice report RUN
    """
    from fewslice import workflow

    say_written(workflow.report(runs, predictions=predictions or (), output=output), as_json=as_json)


def plan(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    image: Annotated[
        str | None,
        typer.Option(help="The image to choose planes from, or the new place of the run's; its own if none."),
    ] = None,
    planes: Annotated[int, typer.Option(help="How many more planes are thought of.")] = 4,
    steps: Annotated[int | None, typer.Option(help="Steps of each short training, instead of minutes.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Of all short trainings together; 10 by default.")] = None,
    device: Device = "auto",
    checkpoint_seconds: Checkpoints = 60.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what more annotated planes would bring, and which to annotate next; resumable.

    Example: fewslice plan RUN --planes 4
    """
    from fewslice import workflow

    with progress(quiet or as_json) as listener:
        found = workflow.plan(
            run_folder,
            image=image,
            planes=planes,
            steps=steps,
            minutes=minutes,
            device=device,
            checkpoint_seconds=checkpoint_seconds,
            listener=listener,
        )
    typer.echo(json.dumps(found, indent=2) if as_json else plan_text(found))
