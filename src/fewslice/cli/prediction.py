"""``predict`` and ``verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fewslice.cli.options import (
    Axes,
    Channels,
    Device,
    DryRun,
    Images,
    Json,
    Overwrite,
    Quiet,
    Retries,
    Scheduler,
    Slurm,
    Voxel,
    Workers,
    read_extents,
    read_integers,
    read_slurm,
    read_voxel_size,
)
from fewslice.cli.text import progress, say_estimates, say_verified
from fewslice.errors import InputError

__all__ = ["predict", "verify"]


def predict(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or a model folder.")],
    images: Images,
    output: Annotated[Path, typer.Option("-o", "--output", help="OUT.ome.zarr, or a folder for several images.")],
    axes: Axes = None,
    channels: Channels = None,
    voxel_size_um: Voxel = None,
    threshold: Annotated[float | None, typer.Option(help="0 to 1; by default the one training chose.")] = None,
    views: Annotated[int | None, typer.Option(help="Views averaged: 1, 4, 8 or, in 3D, 16.")] = None,
    full_halo: Annotated[bool, typer.Option("--full-halo", help="Read the whole receptive field.")] = False,
    block: Annotated[str | None, typer.Option(help="Voxels written per block, z,y,x.")] = None,
    shard: Annotated[str | None, typer.Option(help="Voxels stored in one file, z,y,x; for very large outputs.")] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Accept another voxel size than the model's.")] = False,
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="Leave out blocks darker than any annotated foreground.")
    ] = False,
    device: Device = "auto",
    workers: Workers = None,
    scheduler: Scheduler = None,
    slurm: Slurm = None,
    retries: Retries = 2,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Apply a trained model to whole volumes, block by block; resumable.

    Example: fewslice predict RUN brain.tif -o OUT.ome.zarr
    """
    from fewslice import workflow

    if views not in (None, 1, 4, 8, 16):
        raise InputError(f"--views {views} must be 1, 4, 8 or 16")
    how: dict[str, Any] = {
        "axes": axes,
        "channels": read_integers(channels, "--channels"),
        "voxel_size_um": read_voxel_size(voxel_size_um),
        "views": views,
        "full_halo": full_halo,
        "block": read_extents(block, "--block"),
        "shard": read_extents(shard, "--shard"),
        "resample": resample,
        "device": device,
        "workers": workers,
    }
    jobs = None if slurm is None else read_slurm(slurm)
    if dry_run:
        say_estimates(workflow.estimate_prediction(run_folder, images, output, **how), jobs, as_json=as_json)
        return
    with progress(quiet or as_json) as listener:
        outputs = workflow.predict(
            run_folder,
            images,
            output,
            threshold=threshold,
            skip_empty=skip_empty,
            scheduler=scheduler,
            slurm=jobs,
            retries=retries,
            overwrite=overwrite,
            listener=listener,
            **how,
        )
    if as_json:
        typer.echo(json.dumps({"outputs": [str(path) for path in outputs]}))
    else:
        for path in outputs:
            typer.echo(f"wrote {path}")


def verify(
    store: Annotated[
        Path, typer.Argument(metavar="OUT", help="OUT.ome.zarr, finished or not, OUT.meshes or OUT.objects.csv.")
    ],
    repair: Annotated[
        bool, typer.Option("--repair", help="Let the command that made it make damaged blocks again.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check that everything that was written is there and as it was written: exit code 0, 1 damaged, 3 unfinished.

    Example: fewslice verify OUT.ome.zarr
    """
    from fewslice import workflow

    with progress(quiet or as_json) as listener:
        found = workflow.verify(store, repair=repair, listener=listener)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        say_verified(found, repair=repair)
    raise typer.Exit(found.exit_code)
