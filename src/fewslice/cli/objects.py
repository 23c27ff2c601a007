"""``segment``, ``measure`` and ``mesh``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fewslice.cli.options import (
    SEGMENTERS,
    Axes,
    Channels,
    DryRun,
    Json,
    Labels,
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
from fewslice.cli.text import count_table, progress, say_estimates, say_written

__all__ = ["measure", "mesh", "segment"]


def segment(
    prediction: Annotated[str, typer.Argument(help="OUT.ome.zarr from predict; an image with threshold_watershed.")],
    segmenter: Annotated[
        str | None, typer.Option(help=f"{SEGMENTERS}; with --help its settings; by default what suits the outputs.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="OUT.ome.zarr, where an image is segmented.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="0 to 1; by default the prediction's.")] = None,
    block: Annotated[str | None, typer.Option(help="Voxels per block, z,y,x; changes no object.")] = None,
    axes: Axes = None,
    channels: Channels = None,
    voxel_size_um: Voxel = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    slurm: Slurm = None,
    retries: Retries = 2,
    dry_run: DryRun = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: key.path=value; repeatable.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the objects of a prediction, stitched across blocks; resumable.

    Example: fewslice segment OUT.ome.zarr --segmenter watershed
    """
    from fewslice import workflow
    from fewslice.experiment import settings_from_assignments

    how: dict[str, Any] = {
        "segmenter": segmenter,
        "settings": settings_from_assignments(set_ or []),
        "output": output,
        "threshold": threshold,
        "block": read_extents(block, "--block"),
        "axes": axes,
        "channels": read_integers(channels, "--channels"),
        "voxel_size_um": read_voxel_size(voxel_size_um),
        "workers": workers,
    }
    jobs = None if slurm is None else read_slurm(slurm)
    if dry_run:
        say_estimates(workflow.estimate_segmentation(prediction, **how), jobs, as_json=as_json)
        return
    with progress(quiet or as_json) as listener:
        found = workflow.segment(
            prediction,
            scheduler=scheduler,
            slurm=jobs,
            retries=retries,
            overwrite=overwrite,
            listener=listener,
            **how,
        )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(f"{found['objects']} objects in {Path(found['output']) / 'labels' / 'instances'}")


def measure(
    path: Annotated[Path, typer.Argument(metavar="OUT", help="OUT.ome.zarr with labels of objects, or a label image.")],
    labels: Labels = None,
    image: Annotated[str | None, typer.Option(help="An image on the same grid; its intensities are measured.")] = None,
    regions: Annotated[str | None, typer.Option(help="Labels of regions, such as an atlas, on the same grid.")] = None,
    axes: Axes = None,
    voxel_size_um: Voxel = None,
    block: Annotated[str | None, typer.Option(help="Voxels per block, z,y,x.")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write OUT.objects.parquet as well.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="By default OUT.objects.csv.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    slurm: Slurm = None,
    retries: Retries = 2,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure every object in µm and count them by class and region; resumable.

    Example: fewslice measure OUT.ome.zarr --image brain.tif
    """
    from fewslice import workflow

    how: dict[str, Any] = {
        "labels": labels,
        "image": image,
        "regions": regions,
        "axes": axes,
        "voxel_size_um": read_voxel_size(voxel_size_um),
        "block": read_extents(block, "--block"),
        "output": output,
        "workers": workers,
    }
    jobs = None if slurm is None else read_slurm(slurm)
    if dry_run:
        say_estimates(workflow.estimate_measurement(path, **how), jobs, as_json=as_json)
        return
    with progress(quiet or as_json) as listener:
        summary = workflow.measure(
            path,
            parquet=parquet,
            scheduler=scheduler,
            slurm=jobs,
            retries=retries,
            overwrite=overwrite,
            listener=listener,
            **how,
        )
    typer.echo(json.dumps(summary, indent=2) if as_json else count_table(summary))


def mesh(
    path: Annotated[Path, typer.Argument(metavar="OUT", help="OUT.ome.zarr with labels of objects, or a label image.")],
    objects: Annotated[str, typer.Option(help="Ids such as 1,5,9, or all.")] = "all",
    classes: Annotated[
        str | None, typer.Option("--class", help="Classes such as 1,2: one surface each, instead of objects.")
    ] = None,
    kind: Annotated[str, typer.Option("--format", help="glb, ply, stl, obj or neuroglancer.")] = "glb",
    labels: Labels = None,
    axes: Axes = None,
    voxel_size_um: Voxel = None,
    error_um: Annotated[
        float | None, typer.Option(help="Allowed error of simplification; by default half the smallest voxel extent.")
    ] = None,
    smoothing: Annotated[int, typer.Option(min=0, help="Rounds of smoothing; 0 keeps the voxels' steps.")] = 10,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A folder; by default OUT.meshes.")] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    slurm: Slurm = None,
    retries: Retries = 2,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Write surfaces of objects or classes, one file each, in µm; resumable.

    Example: fewslice mesh OUT.ome.zarr --objects 1,5,9 --format glb
    """
    from fewslice import workflow

    chosen = read_integers(classes, "--class")
    ids = None if objects == "all" else read_integers(objects, "--objects")
    how: dict[str, Any] = {
        "labels": labels,
        "objects": ids,
        "classes": chosen,
        "kind": kind,
        "axes": axes,
        "voxel_size_um": read_voxel_size(voxel_size_um),
        "error_um": error_um,
        "smoothing": smoothing,
        "output": output,
        "workers": workers,
    }
    jobs = None if slurm is None else read_slurm(slurm)
    if dry_run:
        say_estimates(workflow.estimate_meshes(path, **how), jobs, as_json=as_json)
        return
    with progress(quiet or as_json) as listener:
        folder = workflow.mesh(
            path,
            scheduler=scheduler,
            slurm=jobs,
            retries=retries,
            overwrite=overwrite,
            listener=listener,
            **how,
        )
    say_written(folder, as_json=as_json)
