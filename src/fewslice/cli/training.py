"""``train`` and ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewslice.cli.options import (
    STRATEGIES,
    Axes,
    Background,
    Channels,
    Checkpoints,
    Device,
    Devices,
    Images,
    Json,
    Kind,
    Overwrite,
    Planes,
    Quiet,
    Unlabelled,
    Voxel,
    absolute,
    number_or_word,
    read_integers,
    read_voxel_size,
)
from fewslice.cli.text import progress, say_trained
from fewslice.errors import InputError

__all__ = ["run", "train"]


def train(
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder to make.")],
    labels: Annotated[
        list[str] | None, typer.Option(help="Label files or globs; repeatable; none: unlabelled.")
    ] = None,
    strategy: Annotated[str, typer.Option(help=f"{STRATEGIES}; with --help its settings.")] = "pseudo_labels",
    axes: Axes = None,
    channels: Channels = None,
    voxel_size_um: Voxel = None,
    label_kind: Kind = None,
    planes: Planes = None,
    background: Background = None,
    unlabelled: Unlabelled = None,
    validation: Annotated[str, typer.Option(help="auto holds some annotation out; none does not.")] = "auto",
    steps: Annotated[int | None, typer.Option(help="Steps for each stage, instead of minutes.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget of the whole strategy; 30 by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    device: Device = "auto",
    devices: Devices = 1,
    checkpoint_seconds: Checkpoints = 60.0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: key.path=value; repeatable.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model from images and sparse labels.

    Example: fewslice train brain.tif --labels brain_labels.tif --planes 4,8,12 --strategy pseudo_labels -o RUN
    """
    from fewslice import workflow
    from fewslice.experiment import Experiment, checked, settings_from_assignments

    if steps is not None and minutes is not None:
        raise InputError("--steps and --minutes exclude each other; give one of them")
    content = {
        "strategy": strategy,
        "settings": settings_from_assignments(set_ or []),
        "images": tuple(absolute(i) for i in images),
        "labels": tuple(absolute(i) for i in labels or ()),
        "axes": axes,
        "channels": read_integers(channels, "--channels"),
        "voxel_size_um": read_voxel_size(voxel_size_um),
        "label_kind": label_kind,
        "planes": tuple(planes or ()),
        "background": background,
        "unlabelled": number_or_word(unlabelled),
        "validation": validation,
        "seed": seed,
        "steps": steps,
        "minutes": minutes,
    }
    experiment = checked(Experiment, content, where="the experiment")
    with progress(quiet or as_json) as listener:
        folder = workflow.train(
            experiment,
            output,
            device=device,
            devices=devices,
            checkpoint_seconds=checkpoint_seconds,
            overwrite=overwrite,
            listener=listener,
        )
    say_trained(folder, as_json=as_json)


def run(
    experiment: Annotated[Path, typer.Argument(help="An experiment file, such as RUN/experiment.yaml.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder to make.")] = None,
    device: Device = "auto",
    devices: Devices = 1,
    checkpoint_seconds: Checkpoints = 60.0,
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Do everything an experiment file names.

    Example: fewslice run RUN/experiment.yaml -o RUN2
    """
    from fewslice import workflow

    with progress(quiet or as_json) as listener:
        folder = workflow.run(
            experiment,
            output,
            device=device,
            devices=devices,
            checkpoint_seconds=checkpoint_seconds,
            overwrite=overwrite,
            listener=listener,
        )
    say_trained(folder, as_json=as_json)
