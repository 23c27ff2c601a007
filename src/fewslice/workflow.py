"""The verbs: train, predict, measure, evaluate, report and the rest, for programs; the shell and the screen call these.

Every verb checks its input before anything is written, and raises :class:`fewslice.errors.FewsliceError` with one
sentence when something is wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewslice import io, registry
from fewslice.errors import InputError, PartialError
from fewslice.experiment import Experiment, checked, merged, open_inputs, read_experiment, strategy_config
from fewslice.files import append_line, disk_error, write_json

if TYPE_CHECKING:
    import torch

    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.blocks.engine import Engine
    from fewslice.blocks.preflight import Estimate
    from fewslice.blocks.verify import Verification
    from fewslice.data.samples import Sample
    from fewslice.data.splits import Split
    from fewslice.measurement import Source
    from fewslice.model import Model
    from fewslice.training.fit import Hardware, Monitor
    from fewslice.volume import Volume

__all__ = [
    "convert",
    "estimate_prediction",
    "evaluate",
    "export",
    "info",
    "measure",
    "mesh",
    "plan",
    "predict",
    "report",
    "run",
    "segment",
    "simulate",
    "train",
    "train_samples",
    "verify",
]

Listener = Callable[[dict[str, Any]], None]

_DEFAULT_MINUTES = 30.0
_PLAN_MINUTES = 10.0
_VOXEL_TOLERANCE = 0.1
_LARGEST_SIMULATION = 2**30


def train(
    experiment: Experiment,
    output: str | Path,
    *,
    device: str = "auto",
    devices: int = 1,
    checkpoint_seconds: float = 60.0,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Path:
    """Train what an experiment describes into a run folder, resuming what an earlier call left.

    Parameters
    ----------
    experiment
        What to train on what.
    output
        The run folder.
    device, devices
        ``auto``, ``cpu``, ``cuda`` or ``mps``, and how many of them.
    checkpoint_seconds
        Time between checkpoints: what a kill costs at most.
    overwrite
        Replace a run of another experiment.
    listener
        Called with every event of the log.

    Returns
    -------
    Path
        The run folder; a finished run of the same experiment is returned at once.

    Raises
    ------
    InputError
        If the input cannot be used, or `output` holds something else.
    """
    folder = Path(output)
    registry.check("strategies", experiment.strategy)
    samples = open_inputs(experiment)
    inputs = _hashes(samples)
    request = hashlib.sha256(json.dumps([experiment.identity(), inputs], sort_keys=True).encode()).hexdigest()
    found = _claim(folder, request, experiment, inputs, overwrite=overwrite)
    tell = listener or _ignore
    if found == "finished":
        tell({"event": "finished", "note": f"{folder} is finished; nothing to do"})
        return folder
    _check_samples(samples, experiment.strategy)

    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import RunFolder

    strategy_config(experiment)
    loaders = 2 if available_cores() > 4 else 1
    hardware = Hardware(device=device, devices=devices, loaders=loaders, checkpoint_seconds=checkpoint_seconds)
    hardware.torch_device()
    run_folder = RunFolder(folder, listener if hardware.is_main else None, writable=hardware.is_main)
    if not hardware.is_main:  # a process that helps the first one, which has begun the run
        found, tell = "begun", _ignore
    for sample in samples:
        if sample.image.axes_note:
            tell({"event": "note", "note": sample.image.axes_note})
    prepared = _prepare(experiment, samples, run_folder, hardware, stored=found == "begun")
    if found != "begun":
        if found == "foreign":
            _remove_run(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        write_json(run_folder.provenance, _provenance(request, inputs, samples, prepared.split, hardware))
        prepared.experiment.write(run_folder.experiment)
    model = _train(prepared)
    prepared.task.once(lambda: model.save(run_folder.model))
    run_folder.record({"event": "finished", "note": f"the model is in {run_folder.model}"})
    return folder


def run(experiment_file: str | Path, output: str | Path | None = None, **options: Any) -> Path:
    """Train what an experiment file describes; see :func:`train`. By default beside the file, named after it."""
    path = Path(experiment_file)
    return train(read_experiment(path), output or path.with_suffix(""), **options)


def train_samples(
    experiment: Experiment,
    samples: Sequence[Sample],
    folder: Path,
    *,
    hardware: Hardware | None = None,
    monitor: Monitor | None = None,
    monitor_every: int = 0,
    listener: Listener | None = None,
) -> Model:
    """Train on samples that are in memory already, resuming what an earlier call of the same experiment left.

    Parameters
    ----------
    experiment
        Strategy, settings, steps, seed; its paths are not read.
    samples
        Images with or without annotation.
    folder
        The run folder.
    hardware
        Device, precision, threads.
    monitor, monitor_every
        See :func:`fewslice.training.fit.fit`.
    listener
        Called with every event of the log.

    Raises
    ------
    InputError
        If the samples cannot be used, or the folder holds another experiment.
    """
    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import RunFolder

    folder.mkdir(parents=True, exist_ok=True)
    run_folder = RunFolder(folder, listener)
    _check_samples(samples, experiment.strategy)
    known = read_experiment(run_folder.experiment) if run_folder.experiment.exists() else None
    if known is not None and experiment.steps is None:  # minutes were turned into steps once
        experiment = experiment.model_copy(update={"steps": known.steps, "minutes": None})
    prepared = _prepare(experiment, samples, run_folder, hardware or Hardware(), stored=False)
    if known is not None and known != prepared.experiment:
        raise InputError(f"{folder} holds another experiment; choose another folder, or remove this one")
    task = replace(prepared.task, monitor=monitor, monitor_every=monitor_every)
    prepared.experiment.write(run_folder.experiment)
    model = _train(replace(prepared, task=task))
    model.save(run_folder.model)
    return model


def predict(
    run_or_model: str | Path,
    images: Sequence[str],
    output: str | Path,
    *,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    threshold: float | None = None,
    views: int | None = None,
    full_halo: bool = False,
    block: tuple[int, int, int] | None = None,
    shard: tuple[int, int, int] | None = None,
    resample: bool = False,
    skip_empty: bool = False,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: SlurmConfig | None = None,
    retries: int = 2,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> list[Path]:
    """Apply a trained model to images, block by block.

    Parameters
    ----------
    run_or_model
        A run folder, or the folder of a model.
    images
        Paths, quoted globs or addresses such as ``s3://bucket/brain.ome.zarr``; one volume each.
    output
        ``OUT.ome.zarr`` for one image, a folder for several.
    axes, channels, voxel_size_um
        As for training.
    threshold
        Foreground threshold, 0–1; by default the one chosen in training.
    views
        1, 4, 8 or 16 views (see :class:`fewslice.model.NetworkStep`); by default what training set.
    full_halo
        Read the whole receptive field around every block instead of the measured halo.
    block
        (z, y, x) voxels written per block.
    shard
        (z, y, x) voxels stored in one file; chunks of their own by default.
    resample
        Accept an image whose voxel differs from the model's by more than 10 %, and predict at the model's voxel.
    skip_empty
        Do not compute blocks that are darker everywhere than what was annotated as foreground.
    device
        Where to compute.
    workers
        Processes, of this machine or SLURM jobs; by default this process alone.
    scheduler
        Address of a running Dask scheduler whose workers compute.
    slurm
        Ask SLURM for the workers.
    retries
        How often a block is tried again after an error that may pass.
    overwrite
        Replace outputs of another model or image.
    listener
        Called with progress events.

    Returns
    -------
    list of Path
        The outputs, in the order of the images.

    Raises
    ------
    InputError
        If the model or an image cannot be used, or an output belongs to another run.
    PartialError
        If some blocks could not be computed; the others are kept.
    """
    from fewslice.blocks.engine import Retry
    from fewslice.blocks.watch import Watch
    from fewslice.model import model_hash
    from fewslice.prediction.blockwise import predict_volume
    from fewslice.prediction.job import Elsewhere

    requests = _requests(
        run_or_model, images, output, axes=axes, channels=channels, voxel_size_um=voxel_size_um, views=views,
        resample=resample, threshold=threshold, device=device, listener=listener,
    )  # fmt: skip
    model, run_folder, model_folder = requests.model, requests.run_folder, requests.model_folder
    failed = 0
    with _engine(workers, scheduler, slurm, requests.device) as engine:
        for volume, source, factor, target in requests.items:
            with Watch(volume.source, listener) as watch:
                prediction = predict_volume(
                    model,
                    volume,
                    target,
                    model_id=model_hash(model_folder),
                    device=requests.device,
                    threshold=threshold,
                    halo=model.receptive_halo if full_halo else None,
                    block=block,
                    shard=shard,
                    factor=factor,
                    skip_empty=skip_empty,
                    attributes={
                        "run": str(run_folder.resolve()),
                        "axes": axes,
                        "channels": channels and list(channels),
                    },
                    overwrite=overwrite,
                    engine=engine,
                    elsewhere=Elsewhere(model_folder.absolute(), views, source, requests.device.type),
                    retry=Retry(again=retries),
                    progress=watch.block,
                    pyramid_progress=watch.pyramid,
                )
            watch.finish(prediction.outcome)
            if prediction.already_finished:
                watch.tell("note", note=f"{target} is finished; nothing to do")
            if prediction.empty:
                found = f"{prediction.empty} of {prediction.blocks} blocks"
                watch.tell("note", note=f"{found} are darker than any annotated foreground and stay 0")
            failed += len(prediction.outcome.failed)
            if run_folder != model_folder:
                _note_prediction(run_folder, target, volume.source)
    if failed:
        raise PartialError(
            f"{failed} blocks could not be predicted and stay 0; mend the image and run the same command again"
        )
    return [target for _, _, _, target in requests.items]


def estimate_prediction(
    run_or_model: str | Path,
    images: Sequence[str],
    output: str | Path,
    *,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    views: int | None = None,
    full_halo: bool = False,
    block: tuple[int, int, int] | None = None,
    shard: tuple[int, int, int] | None = None,
    resample: bool = False,
    device: str = "auto",
    workers: int | None = None,
) -> list[Estimate]:
    """Measure on two blocks what :func:`predict` would take on this machine; nothing is kept.

    Parameters are those of :func:`predict`.

    Raises
    ------
    InputError
        As :func:`predict`, and if it cannot fit into memory or onto the disk.
    """
    from fewslice.prediction.preflight import estimate_prediction as estimate

    requests = _requests(
        run_or_model, images, output, axes=axes, channels=channels, voxel_size_um=voxel_size_um, views=views,
        resample=resample, threshold=None, device=device, listener=None,
    )  # fmt: skip
    halo = requests.model.receptive_halo if full_halo else None
    return [
        estimate(
            requests.model, volume, target, device=requests.device, halo=halo, block=block, shard=shard, factor=factor,
            workers=workers or 1,
        )
        for volume, _, factor, target in requests.items
    ]  # fmt: skip


def verify(store: str | Path, *, repair: bool = False, listener: Listener | None = None) -> Verification:
    """Check that everything a store's marks say was written is there and as it was written.

    Parameters
    ----------
    store
        ``OUT.ome.zarr`` of predict, finished or not.
    repair
        Take back the marks of damaged blocks, so that the command that made the store makes these again.
    listener
        Called with progress events.
    """
    from fewslice.blocks.verify import forget_damaged, verify_store

    def tell(blocks: int) -> None:
        if listener is not None and blocks % 100 == 0:
            listener({"event": "verified", "store": str(store), "blocks": blocks})

    found = verify_store(Path(store), tell)
    if repair and found.damaged:
        forget_damaged(Path(store), found.damaged)
    return found


@dataclass(frozen=True)
class _Requests:
    """What a prediction was asked for, opened and checked."""

    model: Model
    device: torch.device
    run_folder: Path
    model_folder: Path
    items: list[tuple[Volume, io.VolumeSource, tuple[float, float, float] | None, Path]]


def _requests(
    run_or_model: str | Path,
    images: Sequence[str],
    output: str | Path,
    *,
    axes: str | None,
    channels: Sequence[int] | None,
    voxel_size_um: tuple[float, float, float] | None,
    views: int | None,
    resample: bool,
    threshold: float | None,
    device: str,
    listener: Listener | None,
) -> _Requests:
    """Open model and images, and refuse what cannot be predicted before anything is written."""
    from fewslice.data.samples import expand

    run_folder, model_folder = _model_folder(run_or_model)
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} must be between 0 and 1")
    paths = [path if io.is_address(path) else str(Path(path).absolute()) for path in expand(images)]
    outputs = _outputs(paths, Path(output))
    _check_outputs(paths, outputs)

    from fewslice.model import Model
    from fewslice.training.fit import Hardware

    model = Model.load(model_folder).with_views(views)
    used_device = Hardware(device=device).torch_device()
    items = []
    for path, target in zip(paths, outputs, strict=True):
        chosen = None if channels is None else tuple(channels)
        source = io.VolumeSource(path, axes, chosen, voxel_size_um, model.in_channels)
        volume = source.open()
        model.check_channels(volume.channels, volume.source)
        if volume.axes_note and listener is not None:
            listener({"event": "note", "note": volume.axes_note})
        if volume.voxel_size_um is None:
            volume = replace(volume, voxel_size_um=model.voxel_size_um)
        factor = _voxel_factor(volume.source, volume.voxel_size_um, model.voxel_size_um, resample=resample)
        items.append((volume, source, factor, target))
    return _Requests(model, used_device, run_folder, model_folder, items)


@contextmanager
def _engine(
    workers: int | None, scheduler: str | None, slurm: SlurmConfig | None, device: torch.device
) -> Iterator[Engine | None]:
    """Yield what computes blocks: this process, or workers of a cluster for the duration."""
    if scheduler is not None and (workers is not None or slurm is not None):
        raise InputError("--scheduler names workers that run already; leave --workers and --slurm out")
    if workers is None and scheduler is None and slurm is None:
        yield None
        return
    import torch

    from fewslice.blocks.cluster import connect

    local_gpus = torch.cuda.device_count() if device.type == "cuda" and slurm is None else 0
    with connect(workers=workers, scheduler=scheduler, slurm=slurm, gpus=local_gpus) as engine:
        yield engine


def segment(
    prediction: str | Path,
    *,
    segmenter: str | None = None,
    settings: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    threshold: float | None = None,
    block: tuple[int, int, int] | None = None,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Find the objects of a prediction, stitched across blocks, and write them as its ``labels/instances``.

    Parameters
    ----------
    prediction
        ``OUT.ome.zarr`` from predict; or, for a segmenter that works without a model, an image.
    segmenter
        Its kind; by default the one that suits the prediction's outputs.
    settings
        Its settings; what is not named has its default.
    output
        ``OUT.ome.zarr``, for an image only.
    threshold
        Foreground threshold, 0–1; by default the prediction's.
    block
        (z, y, x) voxels per block; the objects do not depend on it.
    axes, channels, voxel_size_um
        Of an image.
    overwrite
        Replace objects that were found with other settings.
    listener
        Called with progress events.

    Returns
    -------
    dict
        JSON-safe: ``output``, ``segmenter``, ``settings``, ``threshold``, ``objects``, ``dropped`` (below the smallest
        size), ``dtype``, ``block``, ``halo``, ``already_finished``.

    Raises
    ------
    InputError
        If the prediction cannot be segmented so, or holds objects that were found otherwise.
    PartialError
        If some blocks could not be read; the others are kept.
    """
    from fewslice.experiment import checked
    from fewslice.segmenters import choose_kind

    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} must be between 0 and 1")
    module = None
    if segmenter is not None:
        registry.check("segmenters", segmenter)
        module = registry.load("segmenters", segmenter)
    from_image = module is not None and hasattr(module, "foreground")
    if output is not None and not from_image:
        raise InputError(
            f"-o {output} is for segmenters that work on an image, such as threshold_watershed; the objects of a "
            "prediction are written into it, so leave -o out"
        )
    if not from_image and (axes is not None or channels is not None or voxel_size_um is not None):
        raise InputError("--axes, --channels and --voxel-size-um are for images; a prediction states its own")

    from fewslice.instances import open_outputs, segment_store

    def tell(name: str, done: int, blocks: int) -> None:
        if listener is not None:
            listener({"event": "block", "pass": name, "image": str(prediction), "done": done, "blocks": blocks})

    if from_image:
        assert segmenter is not None and module is not None
        if output is None:
            raise InputError(f"segmenter {segmenter} works on an image; name the store to make with -o OUT.ome.zarr")
        if threshold is not None:
            raise InputError(f"--threshold does not apply to segmenter {segmenter}, which finds its own")
        config = checked(module.Config, dict(settings or {}), where=f"settings of {segmenter}")
        target = Path(output)
        _mask(str(prediction), target, segmenter, config, axes, channels, voxel_size_um, overwrite, listener, tell)
        stored = open_outputs(target)
    else:
        stored = open_outputs(prediction)
        segmenter = segmenter or choose_kind(stored.outputs)
        module = registry.load("segmenters", segmenter)
        config = checked(module.Config, dict(settings or {}), where=f"settings of {segmenter}")
    if stored.image.voxel_size_um is None and listener is not None:
        listener({"event": "note", "note": f"{stored.path} has no voxel size, so lengths count in voxels."})
    if hasattr(module, "segment_store"):
        said: dict[str, Any] = module.segment_store(config, stored.path, overwrite=overwrite, listener=listener)
        return said
    found = segment_store(
        stored, segmenter, config, threshold=threshold, block=block, overwrite=overwrite, progress=tell
    )
    for item, reason in found.failed:
        if listener is not None:
            listener({"event": "block_failed", "image": str(stored.path), "block": list(item.index), "reason": reason})
    if found.failed:
        raise PartialError(
            f"{len(found.failed)} blocks could not be segmented; mend {stored.path} and run the same command again"
        )
    if found.already_finished and listener is not None:
        listener({"event": "note", "note": f"{stored.path / 'labels' / 'instances'} is finished; nothing to do"})
    return {
        "output": str(found.output),
        "segmenter": found.segmenter,
        "settings": found.settings,
        "threshold": found.threshold,
        "objects": found.objects,
        "dropped": found.dropped,
        "dtype": found.dtype,
        "block": list(found.block),
        "halo": list(found.halo),
        "already_finished": found.already_finished,
    }


def _mask(
    source: str,
    target: Path,
    kind: str,
    config: Any,
    axes: str | None,
    channels: Sequence[int] | None,
    voxel_size_um: tuple[float, float, float] | None,
    overwrite: bool,
    listener: Listener | None,
    tell: Callable[[str, int, int], None],
) -> None:
    """Make the store that a segmenter without a model works on."""
    from fewslice.instances.from_image import mask_image

    if target.suffix != ".zarr":
        raise InputError(f"-o {target} must be named like OUT.ome.zarr; choose such a name")
    path = str(Path(source).absolute())
    _check_outputs([path], [target])
    image = io.open_volume(path, axes=axes, channels=channels, voxel_size_um=voxel_size_um)
    if image.axes_note and listener is not None:
        listener({"event": "note", "note": image.axes_note})
    facts = {"axes": axes, "channels": channels and list(channels)}
    outcome = mask_image(image, target, kind, config, attributes=facts, overwrite=overwrite, progress=tell)
    for item, reason in outcome.failed:
        if listener is not None:
            listener({"event": "block_failed", "image": image.source, "block": list(item.index), "reason": reason})
    if outcome.failed:
        raise PartialError(
            f"{len(outcome.failed)} blocks of {image.source} have no mask; mend it and run the same command again"
        )


def measure(
    path: str | Path,
    *,
    labels: str | None = None,
    image: str | None = None,
    regions: str | None = None,
    axes: str | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    block: tuple[int, int, int] | None = None,
    parquet: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Measure and count objects, block by block; see :func:`fewslice.measurement.measure_objects`.

    Parameters
    ----------
    path
        ``OUT.ome.zarr`` with ``labels/instances`` in it, or any label image of objects.
    labels
        Name of other labels in the store.
    image, regions
        Intensities to measure, and labels of regions to count in, on the same grid.
    axes
        What the axes of files that do not state them mean.
    voxel_size_um
        z, y, x; by default what the labels state.
    block
        (z, y, x) voxels per block.
    parquet
        Write ``OUT.objects.parquet`` as well.
    output
        ``OUT.objects.csv``; by default beside `path`, named after it.
    overwrite
        Replace a measurement of other labels or settings.
    listener
        Called with progress events.

    Returns
    -------
    dict
        Counts, densities and settings, as ``OUT.objects.json`` holds them, and ``table``, the CSV file.

    Raises
    ------
    InputError
        If there are no such labels, a shape differs, or the voxel size is unknown.
    PartialError
        If some blocks could not be measured; what is done is kept.
    """
    from fewslice.measurement import Source, find_prediction, measure_objects

    source, store = _label_source(path, labels, axes)
    tell = listener or _ignore
    measurement = measure_objects(
        source,
        Path(output) if output is not None else _sidecar(path, "objects.csv"),
        voxel_size_um=voxel_size_um,
        image=Source(image, axes) if image is not None else None,
        regions=Source(regions, axes) if regions is not None else None,
        prediction=find_prediction(store) if store is not None else None,
        block=block,
        parquet=parquet,
        overwrite=overwrite,
        progress=_block_teller(tell, source.path, "measure"),
    )
    for item, reason in measurement.outcome.failed:
        tell({"event": "block_failed", "image": source.path, "block": list(item.index), "reason": reason})
    if measurement.outcome.failed:
        raise PartialError(
            f"{len(measurement.outcome.failed)} blocks could not be measured, so there is no table yet; mend the input "
            "and run the same command again"
        )
    if measurement.already_finished:
        tell({"event": "note", "note": f"{measurement.table} is finished; nothing to do"})
    return {"table": str(measurement.table), **measurement.summary}


def mesh(
    path: str | Path,
    *,
    labels: str | None = None,
    objects: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
    kind: str = "glb",
    axes: str | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    error_um: float | None = None,
    smoothing: int = 10,
    output: str | Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Path:
    """Write the surfaces of objects or classes; see :func:`fewslice.measurement.meshes.mesh_objects`.

    Parameters
    ----------
    path, labels, axes, voxel_size_um
        As for :func:`measure`.
    objects
        Ids; all when None.
    classes
        Values of classes whose surfaces are written instead of objects', from ``labels/segmentation``.
    kind
        ``glb``, ``ply``, ``stl``, ``obj`` or ``neuroglancer``.
    error_um
        How far a simplified surface may lie from the full one; by default half the smallest extent of a voxel.
    smoothing
        Rounds of smoothing; 0 keeps the staircase of voxels.
    output
        A folder; by default ``OUT.meshes`` beside `path`.
    overwrite
        Replace meshes of other labels or settings.
    listener
        Called with progress events.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If there are no such labels, objects or classes, the voxel size is unknown, or a library is not installed.
    """
    from fewslice.measurement import find_prediction
    from fewslice.measurement.meshes import mesh_objects

    if classes is not None and (objects is not None or labels is not None):
        raise InputError("classes are surfaces of their own; give either --class or --objects and --labels")
    source, store = _label_source(path, "segmentation" if classes is not None else labels, axes)
    if classes is not None:
        prediction = find_prediction(store) if store is not None else None
        if prediction is None:
            raise InputError(f"{path} is no output of fewslice predict, so it has no classes; give --objects")
        absent = [c for c in classes if c not in prediction.class_values]
        if absent:
            known = ", ".join(map(str, prediction.class_values))
            raise InputError(f"{path} has no class {absent[0]}; its classes are {known}")
        objects = [prediction.class_values.index(c) + 1 for c in classes]
    found = mesh_objects(
        source,
        Path(output) if output is not None else _sidecar(path, "meshes"),
        objects,
        kind=kind,
        voxel_size_um=voxel_size_um,
        error_um=error_um,
        smoothing=smoothing,
        table=_sidecar(path, "objects.csv"),
        prefix="class_" if classes is not None else "",
        names=classes,
        overwrite=overwrite,
        progress=_block_teller(listener or _ignore, source.path, "mesh"),
    )
    if listener is not None and not found.written:
        listener({"event": "note", "note": f"{found.folder} is finished; nothing to do"})
    return found.folder


def _label_source(path: str | Path, labels: str | None, axes: str | None) -> tuple[Source, Path | None]:
    """Return the labels that are meant, and the OME-Zarr image they belong to, if any."""
    from fewslice.measurement import Source

    place = Path(path)
    if not place.exists() and ":" not in str(path):
        raise InputError(f"{path} does not exist; check the path")
    known = [entry["name"] for entry in io.describe(place, axes=axes)["labels"]] if place.is_dir() else []
    if labels is None and not known and not (place / "labels").is_dir():
        volume = io.open_labels(path, axes=axes)
        if "outputs" in volume.attributes:
            raise InputError(f"{path} holds no labels of objects; make them with fewslice segment first")
        return Source(str(path), axes), None
    name = labels or "instances"
    if name not in known:
        has = f"its labels are {', '.join(known)}" if known else "it has none"
        raise InputError(f"{path} has no labels '{name}' ({has}); run fewslice segment first, or choose with --labels")
    return Source(str(place / "labels" / name)), place


def _sidecar(path: str | Path, what: str) -> Path:
    """Return the name of a file beside an image, or beside the store that the image lies in."""
    place = Path(str(path).partition(":")[0]).absolute() if not Path(path).exists() else Path(path).absolute()
    stores = [p for p in (place, *place.parents) if p.suffix.lower() == ".zarr"]
    outer = stores[-1] if stores else place
    name = outer.name
    for ending in (".zarr", ".tiff", ".tif", ".h5", ".hdf5", ".ome"):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return outer.with_name(f"{name}.{what}")


def _block_teller(tell: Listener, source: str, verb: str) -> Callable[[int, int], None]:
    return lambda done, blocks: tell({"event": "block", "pass": verb, "image": source, "done": done, "blocks": blocks})


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
) -> dict[str, Any]:
    """Measure a prediction against truth, on annotated voxels only.

    See :func:`fewslice.evaluation.evaluate`, and with `instances`, where objects are compared with objects and those of
    fewer than `ignore_smaller` voxels are ignored, :func:`fewslice.evaluation.evaluate_instances`.
    The scores are also appended to the results of the run that made the prediction, if it is still there.
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
        append_line(Path(made_by) / "results.jsonl", entry)
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
        _voxel_factor(target.image.source, target.image.voxel_size_um, voxel, resample=False)
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
        listener=listener or _ignore,
    )


def info(path: str | Path, *, axes: str | None = None) -> dict[str, Any]:
    """Describe a volume, its voxel, chunks and labels, without reading it; `axes` if the file does not name them."""
    return io.describe(path, axes=axes)


def export(
    run_or_model: str | Path,
    kind: str,
    output: str | Path,
    *,
    image: str | None = None,
    axes: str | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trained model for other tools; see :mod:`fewslice.export`.

    Parameters
    ----------
    run_or_model
        A run folder, or the folder of a model.
    kind
        ``onnx`` or ``bioimageio``.
    output
        The file; the kind's suffix is added where it has none.
    image, axes
        An image to show the model, and the order of its axes; by default the first one it was trained on.
    settings
        Of the kind.
    overwrite
        Replace an existing file.

    Raises
    ------
    InputError
        If the model, the kind, its settings or the image cannot be used, or the file exists.
    """
    component = registry.load("export", kind)
    run_folder, model_folder = _model_folder(run_or_model)
    config = checked(component.Config, dict(settings or {}), where=f"the settings of {kind}")
    target = Path(output)
    if target.suffix != component.SUFFIX:
        target = target.with_name(target.name + component.SUFFIX)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another output or pass --overwrite")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target.absolute().parent} is not a folder; create it first")

    from fewslice.model import Model

    model = Model.load(model_folder)
    volume = _image_to_show(run_folder, image, axes, model.in_channels)
    component.export(config, model, target, volume, str(run_folder))
    return target


def _image_to_show(run_folder: Path, image: str | None, axes: str | None, channels: int) -> Volume:
    """Open an image that the model can be shown, by default the first one it was trained on."""
    if image is None:
        path = run_folder / "experiment.yaml"
        if not path.exists():
            raise InputError(f"{run_folder} is a model without its run, so there is no image to show it; give --image")
        experiment = read_experiment(path)
        image, axes = experiment.images[0], axes or experiment.axes
        try:
            return io.open_volume(image, axes=axes, channels=experiment.channels, expected_channels=channels)
        except InputError as error:
            raise InputError(
                f"the image that {run_folder} was trained on cannot be used: {error}; give --image"
            ) from None
    return io.open_volume(image, axes=axes, expected_channels=channels)


def _model_folder(run_or_model: str | Path) -> tuple[Path, Path]:
    """Return the run folder, or that of a model alone, and the folder of the model."""
    run_folder = Path(run_or_model)
    if not run_folder.exists():
        raise InputError(f"{run_folder} does not exist, so there is no trained model; check the path")
    model_folder = run_folder / "model" if (run_folder / "model").is_dir() else run_folder
    if not model_folder.is_dir() or not (model_folder / "model.json").exists():
        raise InputError(f"{run_folder} holds no trained model; train first, or wait until training has finished")
    return run_folder, model_folder


def convert(source: str | Path, target: str | Path, **options: Any) -> Path:
    """Convert a volume to another format; see :func:`fewslice.io.convert`."""
    io.convert(source, target, **options)
    return Path(target)


def simulate(
    kind: str,
    output: str | Path,
    *,
    like: Sequence[str] = (),
    shape: tuple[int, int, int] | None = None,
    count: int = 1,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    description: str | Path | None = None,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Simulate images with exact annotation; images of the same request that exist are kept.

    Parameters
    ----------
    kind
        Simulator, such as ``stained_section``.
    output
        ``OUT.ome.zarr`` for one image, else a folder. Every image has ``labels/instances`` and ``labels/classes``.
    like
        Unlabelled images, as paths or quoted globs, that the settings are fitted to.
    shape
        (z, y, x); by default that of the first image in `like`, else the simulator's.
    count, seed
        How many images, and of which random numbers; image i of a seed is the same for any count.
    settings
        Nested settings of the simulator, which a fit leaves as they are.
    description
        The ``simulation.yaml`` of an earlier simulation, whose settings are used.
    axes, channels
        For the images in `like`, as in :func:`fewslice.io.open_volume`.
    voxel_size_um
        (z, y, x); by default that of the images in `like`, else the simulator's.
    overwrite
        Replace another simulation.
    listener
        Called with events.

    Returns
    -------
    dict
        JSON values: ``outputs``, ``description`` (where the settings are), ``voxel_size_um``, ``voxel_size_from``, and
        ``fit`` (see :func:`fewslice.synthesis.fitting.fit`) or None.

    Raises
    ------
    InputError
        If a setting or an image in `like` cannot be used, or `output` holds something else.
    """
    import numpy as np

    from fewslice.data.samples import expand
    from fewslice.synthesis import store
    from fewslice.synthesis.fitting import fit

    module = registry.load("synthesis.simulators", kind)
    place, tell = Path(output), listener or _ignore
    paths = store.outputs(place, count)
    content: dict[str, Any] = {}
    if description is not None:
        known = store.read_description(Path(description))
        if known["kind"] != kind:
            raise InputError(f"{description} describes a {known['kind']}, not a {kind}; name that kind")
        content = known["config"]
    wanted = {"shape": shape, "voxel_size_um": voxel_size_um}
    own = dict(settings or {}) | {name: list(value) for name, value in wanted.items() if value is not None}
    content = merged(content, own)
    config = checked(module.Config, content, where=f"settings of {kind}")
    sources = expand(like)
    _check_outputs(sources, [place])
    fitted, origin = None, "set" if "voxel_size_um" in content else f"the default of {kind}"
    if sources:
        images = [io.open_volume(path, axes=axes, channels=channels) for path in sources]
        for image in images:
            if image.axes_note:
                tell({"event": "note", "note": image.axes_note})
        if origin != "set" and images[0].voxel_size_um is not None:
            origin = f"from {images[0].source}"
        config, fitted = fit(kind, images, settings=content, seed=seed)
    values = config.model_dump(mode="json")
    if np.prod(values["shape"], dtype=np.float64) > _LARGEST_SIMULATION:
        raise InputError(
            f"shape {tuple(values['shape'])} is too large to simulate at once; give a smaller --shape and --count"
        )
    tell({"event": "note", "note": f"voxel size z,y,x {_by_comma(values['voxel_size_um'])} µm: {origin}"})
    about = {"kind": kind, "version": module.VERSION, "seed": seed, "count": count}
    about |= {"like": [str(Path(path).absolute()) for path in sources], "voxel_size_from": origin}
    store.claim(place, about | {"config": values, "fit": fitted}, overwrite=overwrite)
    for index, path in enumerate(paths):
        if not path.exists():
            simulation = module.simulate(config, np.random.default_rng([seed, index]))
            store.write_simulation(path, simulation, {"kind": kind, "seed": [seed, index]})
        tell({"event": "simulated", "image": str(path), "done": index + 1, "images": count})
    return {
        "outputs": [str(path) for path in paths],
        "description": str(store.description_path(place)),
        "voxel_size_um": values["voxel_size_um"],
        "voxel_size_from": origin,
        "fit": fitted,
    }


def _by_comma(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _hashes(samples: Sequence[Sample]) -> dict[str, str]:
    """Return a hash of every image, by its path, and of every annotation."""
    inputs = {sample.image.source: sample.image.content_hash() for sample in samples}
    return inputs | {f"labels of {s.name}": s.annotation.content_hash() for s in samples if s.annotation}


@dataclass(frozen=True)
class _Prepared:
    """A checked experiment, ready to train."""

    experiment: Experiment
    strategy: Any
    config: Any
    task: Any
    split: Split


def _prepare(
    experiment: Experiment, samples: Sequence[Sample], run_folder: Any, hardware: Hardware, *, stored: bool
) -> _Prepared:
    """Resolve the settings on the data, hold annotation out, and turn minutes into steps."""
    import numpy as np

    from fewslice.annotation import class_values_of
    from fewslice.data.splits import Split, hold_out
    from fewslice.training.budget import steps_for_minutes
    from fewslice.training.task import Task

    if stored:
        experiment = read_experiment(run_folder.experiment)
    annotations = [s.annotation for s in samples if s.annotation is not None]
    strategy = registry.load("strategies", experiment.strategy)
    everything = [a.annotated for a in annotations]
    nothing = [np.zeros(a.shape, dtype=bool) for a in annotations]
    class_values = class_values_of(annotations)

    def task_for(split: Split) -> Task:
        train_masks, held_masks = iter(split.train), iter(split.validation)
        return Task(
            samples=samples,
            train_masks=[next(train_masks) if s.annotation is not None else None for s in samples],
            validation_masks=[next(held_masks) if s.annotation is not None else None for s in samples],
            class_values=class_values,
            run=run_folder,
            seed=experiment.seed,
            hardware=hardware,
        )

    why = "validation was turned off" if annotations else "nothing is annotated"
    whole = Split(everything, nothing, "none", f"Nothing is held out: {why}.")
    config = strategy.resolve(strategy_config(experiment), task_for(whole))
    split = whole
    if experiment.validation == "auto" and annotations:
        split = hold_out(annotations, patch=_largest_patch(config), generator=np.random.default_rng(experiment.seed))
    if run_folder.listener is not None:
        run_folder.listener({"event": "note", "note": split.note})
    task = task_for(split)
    stages = strategy.stages(config, task)
    if isinstance(experiment.steps, dict):
        if set(experiment.steps) != set(stages):
            raise InputError(
                f"steps names {', '.join(experiment.steps)}, but the stages are {', '.join(stages)}; "
                "give steps for each of them and no other"
            )
        steps = {name: experiment.steps[name] for name in stages}
    elif experiment.steps is not None:
        steps = dict.fromkeys(stages, experiment.steps)
    else:
        # Measured by one process, before those that help it are started: they read the steps from the experiment.
        alone = replace(hardware, devices=1)
        between = strategy.between(config, task) if hasattr(strategy, "between") else 0.0
        steps = steps_for_minutes(stages, experiment.minutes or _DEFAULT_MINUTES, alone, between)
    update = {"settings": config.model_dump(mode="json"), "steps": steps, "minutes": None}
    return _Prepared(experiment.model_copy(update=update), strategy, config, replace(task, steps=steps), split)


def _train(prepared: _Prepared) -> Model:
    model: Model = prepared.strategy.train(prepared.config, prepared.task)
    return model


def _largest_patch(config: Any) -> tuple[int, int, int]:
    """Return the largest extent along each axis over all patches in the settings."""
    found: list[Sequence[int]] = []

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            if value.get("patch") is not None:
                found.append(value["patch"])
            for part in value.values():
                look(part)

    look(config.model_dump())
    z, y, x = (max(p[a] for p in found) for a in range(3))
    return (int(z), int(y), int(x))


def _check_samples(samples: Sequence[Sample], strategy: str) -> None:
    """Refuse samples from which nothing can be learned, before anything is written."""
    from fewslice.annotation import check_usable
    from fewslice.data.normalisation import check_finite

    annotations = [sample.annotation for sample in samples if sample.annotation is not None]
    if annotations or registry.constant("strategies", strategy, "ANNOTATION") != "optional":
        check_usable(annotations)
    _check_voxels(samples)
    for sample in samples:
        check_finite(sample.image)


def _check_voxels(samples: Sequence[Sample]) -> None:
    first = samples[0].image
    for sample in samples[1:]:
        own = sample.image.voxel_size_um
        if (own is None) != (first.voxel_size_um is None):
            without = sample.image.source if own is None else first.source
            raise InputError(f"{without} has no voxel size but the other images do; give --voxel-size-um z,y,x")
        _voxel_factor(sample.image.source, own, first.voxel_size_um, resample=False, against=first.source)


def _voxel_factor(
    source: str,
    voxel: tuple[float, float, float] | None,
    expected: tuple[float, float, float] | None,
    *,
    resample: bool,
    against: str = "the model",
) -> tuple[float, float, float] | None:
    """Return image voxel over model voxel where they differ by more than 10 %, else None."""
    if voxel is None or expected is None:
        return None
    z, y, x = (own / other for own, other in zip(voxel, expected, strict=True))
    if all(abs(f - 1) <= _VOXEL_TOLERANCE for f in (z, y, x)):
        return None
    if not resample:
        raise InputError(
            f"{source} has voxels of {voxel} µm (z, y, x), {against} has {expected}; correct it with --voxel-size-um, "
            "or predict with --resample"
        )
    return (z, y, x)


def _note_prediction(run_folder: Path, output: Path, source: str) -> None:
    """Add a prediction to the results of its run, once, also where a kill came between the two."""
    from fewslice.training.run_folder import read_lines

    entry = {"kind": "prediction", "output": str(output.resolve()), "image": source}
    if entry not in read_lines(run_folder / "results.jsonl"):
        append_line(run_folder / "results.jsonl", entry)


def _outputs(paths: Sequence[str], output: Path) -> list[Path]:
    if re.match(r"[A-Za-z][\w+.-]+:/", output.as_posix()):
        raise InputError(f"{output} is an address; predict writes to a disk that all workers share, so give a path")
    if len(paths) == 1 and output.suffix == ".zarr":
        return [output]
    if output.suffix == ".zarr":
        raise InputError(f"{len(paths)} images cannot go into one {output.name}; give a folder with -o")
    if output.name.lower().partition(":")[0].endswith((".tif", ".tiff", ".h5", ".hdf5")) and not output.is_dir():
        raise InputError(
            f"a prediction is an OME-Zarr, not {output.name}; give -o OUT.ome.zarr, then use fewslice convert"
        )
    from fewslice.data.samples import stem

    names = [stem(path) for path in paths]
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        raise InputError(f"several images are called {double[0]}; predict them one by one with -o OUT.ome.zarr")
    return [output / f"{name}.ome.zarr" for name in names]


def _check_outputs(paths: Sequence[str], outputs: Sequence[Path]) -> None:
    """Refuse to write over an image that is read, over a store that holds it, or into what is not a folder."""
    for target in outputs:
        above = next(folder for folder in target.absolute().parents if folder.exists())
        if not above.is_dir():
            raise InputError(f"{above} is a file, not a folder; give -o OUT.ome.zarr, or a folder for several images")
        place = target.resolve()
        for path in paths:
            if not io.is_address(path) and place in (Path(path).resolve(), *Path(path).resolve().parents):
                raise InputError(f"{target} holds the image {path} itself; choose another -o")


def _ignore(event: dict[str, Any]) -> None:
    pass


def _claim(folder: Path, request: str, experiment: Experiment, inputs: Mapping[str, str], *, overwrite: bool) -> str:
    """Say whether `folder` is new, begun or finished for this request, or foreign and to be replaced; else refuse."""
    provenance = folder / "provenance.json"
    if provenance.exists() and (folder / "experiment.yaml").exists():
        known = json.loads(provenance.read_text(encoding="utf-8"))
        resolved = known.get("inputs") == inputs and read_experiment(folder / "experiment.yaml") == experiment
        if (known.get("request") == request or resolved) and not overwrite:
            return "finished" if (folder / "model" / "model.json").exists() else "begun"
        if not overwrite:
            differs = _difference(read_experiment(folder / "experiment.yaml"), experiment, known.get("inputs"), inputs)
            raise InputError(
                f"{folder} holds a run of another experiment ({differs}); choose another -o or pass --overwrite"
            )
        return "foreign"
    if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
        raise InputError(f"{folder} exists and is not a run of fewslice; choose another -o")
    return "new"


def _difference(
    known: Experiment, asked: Experiment, known_inputs: Mapping[str, str] | None, inputs: Mapping[str, str]
) -> str:
    """Name the first thing in which a request differs from the one that a run was begun with."""
    before, now = known.model_dump(mode="json"), asked.model_dump(mode="json")
    for name in now:
        if name not in ("settings", "steps", "minutes") and before[name] != now[name]:
            return f"{name} was {json.dumps(before[name])}, now {json.dumps(now[name])}"
    changed = [name for name, content in inputs.items() if (known_inputs or {}).get(name) != content]
    if changed:
        return f"the content of {changed[0]} is another"

    def look(old: Any, new: Any, path: str) -> str | None:
        """Compare what was asked for; what was not has been filled in."""
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            return next((found for key in new if (found := look(old.get(key), new[key], f"{path}.{key}"))), None)
        return None if old == new else f"{path} was {json.dumps(old)}, now {json.dumps(new)}"

    return look(before["settings"], now["settings"], "settings") or "its budget or its settings"


def _is_foreign(path: Path) -> bool:
    """Whether a file cannot be what a kill left of a run that had just begun."""
    return path.name != "provenance.json" and not (path.name.startswith(".") and path.name.endswith(".part"))


def _remove_run(folder: Path) -> None:
    import shutil

    for name in ("experiment.yaml", "provenance.json", "log.jsonl", "results.jsonl", "plan.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    for name in ("stages", "model", "figures", "plan"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _provenance(
    request: str, inputs: Mapping[str, str], samples: Sequence[Sample], split: Split, hardware: Hardware
) -> dict[str, Any]:
    import torch

    packages = ("fewslice", "torch", "numpy", "scipy", "zarr", "lightning-fabric", "pydantic")
    return {
        "request": request,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "inputs": dict(inputs),
        "samples": [
            {
                "name": s.name,
                "image": s.image.source,
                "shape": list(s.image.shape),
                "channels": s.image.channels,
                "voxel_size_um": s.image.voxel_size_um and list(s.image.voxel_size_um),
                "axes_note": s.image.axes_note,
                "annotated_planes": s.annotation.planes() if s.annotation is not None else [],
                "annotated_share": float(s.annotation.annotated.mean()) if s.annotation is not None else 0.0,
            }
            for s in samples
        ],
        "validation": {"how": split.how, "note": split.note, "planes": [list(p) for p in split.validation_planes]},
        "versions": {name: _installed(name) for name in packages} | {"python": platform.python_version()},
        "hardware": {
            "machine": platform.platform(),
            "cores": available_cores(),
            "device": str(hardware.torch_device()),
            "devices": hardware.devices,
            "threads": torch.get_num_threads(),
        },
    }


def _installed(name: str) -> str | None:
    try:
        return installed_version(name)
    except ModuleNotFoundError:
        return None


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
