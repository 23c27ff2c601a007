"""The verbs for the shell.

Exit codes: 0 done, 1 error, 2 usage or bad input, 3 partly done and resumable, 130 interrupted. Results go to standard
output, errors to standard error, one sentence each. Long commands draw a progress bar on a terminal and print one JSON
object per event otherwise.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fewslice import registry
from fewslice.errors import FewsliceError, InputError

if TYPE_CHECKING:
    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.blocks.preflight import Estimate
    from fewslice.blocks.verify import Verification

__all__ = ["app", "main"]

STRATEGIES = ", ".join(registry.names("strategies"))
SEGMENTERS = ", ".join(registry.names("segmenters"))
SIMULATORS = ", ".join(registry.names("synthesis.simulators"))
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)

app = typer.Typer(
    name="fewslice",
    help="Segment whole microscopy volumes from a few labelled slices.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Images = Annotated[
    list[str], typer.Argument(help="Image files, folders of planes, OME-Zarr, file.h5:dataset, or quoted globs.")
]
Axes = Annotated[str | None, typer.Option(help="Order of the axes in the file, such as zcyx; usually inferred.")]
Channels = Annotated[str | None, typer.Option(help="Channels to use, 0-based, such as 0,2; all by default.")]
Voxel = Annotated[str | None, typer.Option("--voxel-size-um", help="Voxel size z,y,x in µm; by default the file's.")]
Kind = Annotated[str | None, typer.Option("--label-kind", help="classes or instances.")]
Planes = Annotated[
    list[str] | None,
    typer.Option(help="Annotated planes, 0-based: 0,5,10 or 0:160:5 or y=3,9; repeatable; all by default."),
]
Background = Annotated[int | None, typer.Option(help="Value in the labels that means background.")]
Unlabelled = Annotated[str | None, typer.Option(help="Value that means unlabelled, 'highest', or 'none'.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Devices = Annotated[int, typer.Option(min=1, help="How many devices share the training.")]
Checkpoints = Annotated[float, typer.Option(min=0, help="Seconds between checkpoints: what a kill costs at most.")]
Labels = Annotated[str | None, typer.Option("--labels", help="Which labels of the store; by default instances.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that compute, here or as SLURM jobs; by default this one alone.")
]
Scheduler = Annotated[str | None, typer.Option(help="A running Dask scheduler whose workers compute, tcp://host:port.")]
Slurm = Annotated[Path | None, typer.Option(help="Ask SLURM for the workers, as this YAML file says.")]
Retries = Annotated[int, typer.Option(min=0, help="How often a block is tried again after an error that may pass.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Measure two blocks, say what it would take, keep nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]


@app.command()
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
        "images": tuple(_absolute(i) for i in images),
        "labels": tuple(_absolute(i) for i in labels or ()),
        "axes": axes,
        "channels": _integers(channels, "--channels"),
        "voxel_size_um": _voxel(voxel_size_um),
        "label_kind": label_kind,
        "planes": tuple(planes or ()),
        "background": background,
        "unlabelled": _number_or_word(unlabelled),
        "validation": validation,
        "seed": seed,
        "steps": steps,
        "minutes": minutes,
    }
    experiment = checked(Experiment, content, where="the experiment")
    with _progress(quiet) as listener:
        folder = workflow.train(
            experiment,
            output,
            device=device,
            devices=devices,
            checkpoint_seconds=checkpoint_seconds,
            overwrite=overwrite,
            listener=listener,
        )
    _say_trained(folder)


@app.command()
def run(
    experiment: Annotated[Path, typer.Argument(help="An experiment file, such as RUN/experiment.yaml.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder to make.")] = None,
    device: Device = "auto",
    devices: Devices = 1,
    checkpoint_seconds: Checkpoints = 60.0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Do everything an experiment file names.

    Example: fewslice run RUN/experiment.yaml -o RUN2
    """
    from fewslice import workflow

    with _progress(quiet) as listener:
        folder = workflow.run(
            experiment,
            output,
            device=device,
            devices=devices,
            checkpoint_seconds=checkpoint_seconds,
            overwrite=overwrite,
            listener=listener,
        )
    _say_trained(folder)


@app.command()
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
        "channels": _integers(channels, "--channels"),
        "voxel_size_um": _voxel(voxel_size_um),
        "views": views,
        "full_halo": full_halo,
        "block": _extents(block, "--block"),
        "shard": _extents(shard, "--shard"),
        "resample": resample,
        "device": device,
        "workers": workers,
    }
    jobs = None if slurm is None else _slurm(slurm)
    if dry_run:
        _say_estimates(workflow.estimate_prediction(run_folder, images, output, **how), jobs, as_json=as_json)
        return
    with _progress(quiet or as_json) as listener:
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


@app.command()
def verify(
    store: Annotated[Path, typer.Argument(help="OUT.ome.zarr of predict, finished or not.")],
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

    with _progress(quiet or as_json) as listener:
        found = workflow.verify(store, repair=repair, listener=listener)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _say_verified(found, repair=repair)
    raise typer.Exit(found.exit_code)


@app.command()
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

    with _progress(quiet or as_json) as listener:
        found = workflow.segment(
            prediction,
            segmenter=segmenter,
            settings=settings_from_assignments(set_ or []),
            output=output,
            threshold=threshold,
            block=_extents(block, "--block"),
            axes=axes,
            channels=_integers(channels, "--channels"),
            voxel_size_um=_voxel(voxel_size_um),
            overwrite=overwrite,
            listener=listener,
        )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(f"{found['objects']} objects in {Path(found['output']) / 'labels' / 'instances'}")


@app.command()
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
    as_json: Json = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure every object in µm and count them by class and region; resumable.

    Example: fewslice measure OUT.ome.zarr --image brain.tif
    """
    from fewslice import workflow

    with _progress(quiet or as_json) as listener:
        summary = workflow.measure(
            path,
            labels=labels,
            image=image,
            regions=regions,
            axes=axes,
            voxel_size_um=_voxel(voxel_size_um),
            block=_extents(block, "--block"),
            parquet=parquet,
            output=output,
            overwrite=overwrite,
            listener=listener,
        )
    typer.echo(json.dumps(summary, indent=2) if as_json else _count_table(summary))


@app.command()
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
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Write surfaces of objects or classes, one file each, in µm; resumable.

    Example: fewslice mesh OUT.ome.zarr --objects 1,5,9 --format glb
    """
    from fewslice import workflow

    chosen = _integers(classes, "--class")
    ids = None if objects == "all" else _integers(objects, "--objects")
    with _progress(quiet) as listener:
        folder = workflow.mesh(
            path,
            labels=labels,
            objects=ids,
            classes=chosen,
            kind=kind,
            axes=axes,
            voxel_size_um=_voxel(voxel_size_um),
            error_um=error_um,
            smoothing=smoothing,
            output=output,
            overwrite=overwrite,
            listener=listener,
        )
    typer.echo(f"wrote {folder}")


@app.command()
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

    scores = workflow.evaluate(
        prediction,
        truth,
        axes=axes,
        planes=planes or (),
        background=background,
        unlabelled=_number_or_word(unlabelled),
        label_kind=_label_kind(label_kind),
        tolerance_um=tolerance_um,
        instances=instances,
        ignore_smaller=ignore_smaller,
    )
    table = _object_table if instances else _score_table
    typer.echo(json.dumps(scores, indent=2) if as_json else table(scores))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run folder, or several to compare.")],
    predictions: Annotated[
        list[Path] | None, typer.Option("--prediction", help="Further OUT.ome.zarr to show; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="By default RUN/report.html.")] = None,
) -> None:
    """Write one self-contained HTML page: what was trained, how good it is, planes and surfaces.

    Example: fewslice report RUN
    """
    from fewslice import workflow

    typer.echo(f"wrote {workflow.report(runs, predictions=predictions or (), output=output)}")


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or a model folder.")],
    to: Annotated[str, typer.Option(help=f"{', '.join(registry.names('export'))}.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    image: Annotated[
        str | None, typer.Option(help="An image to show the model; by default the first of its training images.")
    ] = None,
    axes: Axes = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting: key=value; repeatable.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a trained model for other tools, as ONNX or as a bioimage.io package.

    Example: fewslice export RUN --to bioimageio -o neurons.zip --set name='two-photon neurons'
    """
    from fewslice import workflow
    from fewslice.experiment import settings_from_assignments

    settings = settings_from_assignments(set_ or [])
    path = workflow.export(run_folder, to, output, image=image, axes=axes, settings=settings, overwrite=overwrite)
    typer.echo(f"wrote {path}")


@app.command()
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

    with _progress(quiet or as_json) as listener:
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
    typer.echo(json.dumps(found, indent=2) if as_json else _plan_text(found))


@app.command()
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
            typer.echo(f"{name.replace('_', ' '):<16} {_readable(value)}")


@app.command()
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
    overwrite: Overwrite = False,
) -> None:
    """Convert a volume to another format, keeping its voxel size and channels.

    Example: fewslice convert brain.tif brain.ome.zarr
    """
    from fewslice import workflow

    written = workflow.convert(
        source,
        target,
        like=like,
        kind=_label_kind(label_kind),
        axes=axes,
        channels=_integers(channels, "--channels"),
        voxel_size_um=_voxel(voxel_size_um),
        ome_version=ome_version,
        overwrite=overwrite,
    )
    typer.echo(f"wrote {written}")


@app.command()
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

    with _progress(quiet or as_json) as listener:
        made = workflow.simulate(
            kind,
            output,
            like=like or (),
            shape=_shape(shape),
            count=count,
            seed=seed,
            settings=settings_from_assignments(set_ or []),
            description=config,
            axes=axes,
            channels=_integers(channels, "--channels"),
            voxel_size_um=_voxel(voxel_size_um),
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


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to put everything.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Training time for the three strategies together.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Of the simulated volume and the training.")] = 0,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a volume, train three strategies on 4 planes of it, predict, evaluate, count, report.

    Example: fewslice demo
    """
    from fewslice.demo import demo as run_demo

    with _progress(quiet) as listener:
        result = run_demo(output, minutes=minutes, seed=seed, overwrite=overwrite, listener=listener)
    for line in result.summary:
        typer.echo(line)
    typer.echo(f"open {result.report} in a browser")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check device, memory, threads, disk and versions.

    Example: fewslice doctor
    """
    from fewslice.doctor import examine

    findings = examine(Path())
    if as_json:
        typer.echo(json.dumps([vars(f) for f in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'CARE'} {finding.name:<12} {finding.found}")
            if finding.advice:
                typer.echo(f"{'':<17} {finding.advice}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    argv = sys.argv[1:] if arguments is None else arguments
    try:
        if _show_settings(argv):
            sys.exit(0)
        code = typer.main.get_command(app)(argv, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except FewsliceError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted; the same command resumes")
        sys.exit(130)
    except Exception as error:
        sys.exit(_unexpected(error))


def _unexpected(error: Exception) -> int:
    """Report usage errors, full disks and lacking memory in one sentence; let real bugs through."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        _complain(error.format_message())
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        _complain("interrupted; the same command resumes")
        return 130
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        _complain(f"{error.strerror}: {error.filename or 'the output'}; free some space or choose another place")
        return 1
    if isinstance(error, MemoryError):
        _complain("not enough memory; predict with a smaller --block, or train with --set patch=[z,y,x]")
        return 1
    raise error


def _complain(sentence: str) -> None:
    typer.echo("error: " + " ".join(sentence.split()), err=True)


def _show_settings(argv: list[str]) -> bool:
    """Print the settings of one kind: ``train --strategy KIND``, ``segment --segmenter KIND``, ``simulate KIND``."""
    if argv and argv[0] == "simulate" and "--help" in argv:
        return _show_simulator(argv[1:])
    rooms = {"train": ("--strategy", "strategies"), "segment": ("--segmenter", "segmenters")}
    if not argv or argv[0] not in rooms or "--help" not in argv:
        return False
    option, room = rooms[argv[0]]
    kind = None
    for index, text in enumerate(argv):
        if text == option and index + 1 < len(argv):
            kind = argv[index + 1]
        elif text.startswith(f"{option}="):
            kind = text.partition("=")[2]
    if kind is None:
        return False
    from fewslice.settings_help import settings_text

    typer.echo(settings_text(kind, room))
    return True


def _show_simulator(arguments: list[str]) -> bool:
    if arguments[0].startswith("-"):
        return False
    from fewslice.settings_help import settings_text

    typer.echo(settings_text(arguments[0], "synthesis.simulators"))
    return True


def _progress(quiet: bool) -> Any:
    from fewslice.progress import listening

    return listening(quiet=quiet)


def _say_trained(folder: Path) -> None:
    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import read_lines

    if not Hardware().is_main:
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


def _score_table(scores: dict[str, Any]) -> str:
    def row(name: str, values: dict[str, Any]) -> str:
        cells = [values.get(k) for k in ("dice", "iou", "precision", "recall")]
        return f"{name:<12}" + "".join(f"{'–' if v is None else format(v, '.4f'):>11}" for v in cells)

    lines = [f"{'':<12}{'Dice':>11}{'IoU':>11}{'precision':>11}{'recall':>11}", row("foreground", scores)]
    lines += [row(f"class {name}", values) for name, values in scores.get("classes", {}).items()]
    if scores.get("at_half"):
        lines.append(row("at 0.5", scores["at_half"]))
    (tn, fp), (fn, tp) = scores["confusion"]
    lines.append(f"confusion   TN {tn}  FP {fp}  FN {fn}  TP {tp}")
    return "\n".join(lines)


def _object_table(scores: dict[str, Any]) -> str:
    def row(name: str, key: str) -> str:
        return f"{name:<12}" + "".join(f"{'–' if v is None else format(v, '.4f'):>9}" for v in scores[key].values())

    lines = [f"{'at IoU':<12}" + "".join(f"{name:>9}" for name in scores["f1"]), row("F1", "f1"), row("AP", "ap")]
    lines.append(row("PQ", "pq"))
    what = "objects" if scores["matched_in"] == "volume" else f"cross-sections along {scores['plane_axis']}"
    lines.append(f"{what}: {scores['predicted_count']} found, {scores['truth_count']} true")
    lines.append(f"splits {scores['splits']}, merges {scores['merges']}")
    return "\n".join(lines)


def _count_table(summary: dict[str, Any]) -> str:
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


def _plan_text(found: dict[str, Any]) -> str:
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


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    if isinstance(value, (list, tuple)):
        return ", ".join(_readable(v) for v in value) or "none"
    return str(value)


def _absolute(path: str) -> str:
    return path if "://" in path or path == "none" else str(Path(path).absolute())


def _integers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} must be whole numbers separated by commas, such as 0,2") from None


def _extents(text: str | None, option: str) -> tuple[int, int, int] | None:
    values = _integers(text, option)
    if values is None:
        return None
    if len(values) != 3 or min(values) < 1:
        raise InputError(f"{option} {text} must be three positive numbers, z,y,x")
    return (values[0], values[1], values[2])


def _slurm(path: Path) -> SlurmConfig:
    import yaml

    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.experiment import checked

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML; write lines such as queue: gpu") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold settings, one a line, such as queue: gpu")
    return checked(SlurmConfig, content, where=str(path))


def _say_estimates(estimates: list[Estimate], slurm: SlurmConfig | None, *, as_json: bool) -> None:
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


def _say_verified(found: Verification, *, repair: bool) -> None:
    for item in found.damaged:
        typer.echo(f"{item.problem}: chunk {item.chunk} of {item.array}, block {list(item.block)} of {item.record}")
    for index, reason in found.failed:
        typer.echo(f"failed: block {list(index)}: {reason}")
    typer.echo(f"{found.store}: {found.blocks} blocks, {found.chunks} chunks, {len(found.damaged)} of them damaged")
    if found.damaged:
        again = "run the command that made it again" if repair else "to make these blocks again, run verify --repair"
        typer.echo(again)
    elif not found.finished:
        typer.echo("not finished; the command that made it goes on where it stopped")


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (2, 3) or min(values) < 1:
        raise InputError(f"--shape {text!r} must be positive whole numbers z,y,x or y,x, such as 40,256,256")
    z, y, x = values if len(values) == 3 else (1, *values)
    return z, y, x


def _voxel(text: str | None) -> tuple[float, float, float] | None:
    import math

    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError(f"--voxel-size-um {text!r} must be three positive numbers z,y,x in µm, such as 2,0.88,0.88")
    return (values[0], values[1], values[2])


def _label_kind(text: str | None) -> Literal["classes", "instances"] | None:
    if text is None:
        return None
    if text == "classes":
        return "classes"
    if text == "instances":
        return "instances"
    raise InputError(f"--label-kind {text!r} must be classes or instances")


def _number_or_word(text: str | None) -> int | str | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return text
