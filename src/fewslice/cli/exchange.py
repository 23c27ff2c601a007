"""``info``, ``convert``, ``simulate`` and ``export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewslice import registry
from fewslice.cli.options import (
    SIMULATORS,
    Axes,
    Channels,
    Json,
    Overwrite,
    Quiet,
    Voxel,
    read_integers,
    read_label_kind,
    read_shape,
    read_voxel_size,
)
from fewslice.cli.text import progress, readable, say_written

__all__ = ["convert", "export", "info", "simulate"]


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or a model folder.")],
    to: Annotated[str, typer.Option(help=f"{', '.join(registry.names('export'))}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    image: Annotated[
        str | None, typer.Option(help="An image to show the model; by default the first of its training images.")
    ] = None,
    axes: Axes = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: key=value; repeatable.")] = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a trained model for other tools, as ONNX or as a bioimage.io package.

    Example: fewslice export RUN --to bioimageio -o neurons.zip --set name='two-photon neurons'
    """
    from fewslice import workflow
    from fewslice.experiment import settings_from_assignments

    settings = settings_from_assignments(set_ or [])
    path = workflow.export(run_folder, to, output, image=image, axes=axes, settings=settings, overwrite=overwrite)
    say_written(path, as_json=as_json)


def info(path: Annotated[str, typer.Argument(help="A volume.")], axes: Axes = None, as_json: Json = False) -> None:
    """Show shape, axes, type, voxel size, chunks and labels of a volume, without reading it.

    Example: fewslice info OUT.ome.zarr
    """
    from fewslice import workflow

    facts = workflow.info(path, axes=axes)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    for name, value in facts.items():
        if name == "voxel_size_um" and value is None:
            typer.echo(f"{'voxel size um':<16} unknown; give it with --voxel-size-um")
        elif value is not None:
            typer.echo(f"{name.replace('_', ' '):<16} {readable(value)}")


def convert(
    source: Annotated[str, typer.Argument(help="A volume.")],
    target: Annotated[str, typer.Argument(help="Where to; the name says the format: .ome.zarr, .tif, .h5:dataset.")],
    like: Annotated[str | None, typer.Option(help="For outlines: the image they were drawn on.")] = None,
    label_kind: Annotated[
        str | None, typer.Option("--label-kind", help="For outlines: instances numbers them; else their group.")
    ] = None,
    axes: Axes = None,
    channels: Channels = None,
    voxel_size_um: Voxel = None,
    ome_version: Annotated[str, typer.Option(help="Of OME-Zarr: 0.5 or 0.4.")] = "0.5",
    as_json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert a volume to another format, keeping its voxel size and channels; outlines to labels.

    Example: fewslice convert brain.tif brain.ome.zarr
    """
    from fewslice import workflow

    written = workflow.convert(
        source,
        target,
        like=like,
        kind=read_label_kind(label_kind),
        axes=axes,
        channels=read_integers(channels, "--channels"),
        voxel_size_um=read_voxel_size(voxel_size_um),
        ome_version=ome_version,
        overwrite=overwrite,
    )
    say_written(written, as_json=as_json)


def simulate(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{SIMULATORS}; with --help its settings.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="OUT.ome.zarr, or a folder.")],
    like: Annotated[
        list[str] | None, typer.Option(help="Unlabelled images or quoted globs to fit to; repeatable.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Extent z,y,x or y,x; by default that of the first --like.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images; several go into a folder.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: key.path=value; repeatable.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings of an earlier simulation: its simulation.yaml.")] = None,
    axes: Axes = None,
    channels: Channels = None,
    voxel_size_um: Voxel = None,
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Simulate images with exact annotation, like unlabelled ones if there are some.

    Example: fewslice simulate stained_section --like 'images/*.tif' -o SIM
    """
    from fewslice import workflow
    from fewslice.experiment import settings_from_assignments

    with progress(quiet or as_json) as listener:
        made = workflow.simulate(
            kind,
            output,
            like=like or (),
            shape=read_shape(shape),
            count=count,
            seed=seed,
            settings=settings_from_assignments(set_ or []),
            description=config,
            axes=axes,
            channels=read_integers(channels, "--channels"),
            voxel_size_um=read_voxel_size(voxel_size_um),
            overwrite=overwrite,
            listener=listener,
        )
    if as_json:
        typer.echo(json.dumps(made, indent=2))
        return
    for name, values in (made["fit"] or {}).get("statistics", {}).items():
        if isinstance(values["wanted"], float):
            typer.echo(f"{name:<22} images {values['wanted']:>9.4g}  simulated {values['got']:>9.4g}")
    size = ",".join(f"{v:g}" for v in made["voxel_size_um"])
    typer.echo(f"voxel size z,y,x {size} um, {made['voxel_size_from']}; settings in {made['description']}")
    for path in made["outputs"]:
        typer.echo(f"wrote {path}")
