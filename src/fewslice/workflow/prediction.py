"""Predict images with a trained model, say beforehand what that takes, and verify what was stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewslice import io
from fewslice.errors import InputError, PartialError
from fewslice.files import append_line
from fewslice.workflow.common import Listener, check_outputs, find_model, open_engine, voxel_factor

if TYPE_CHECKING:
    import torch

    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.blocks.preflight import Estimate
    from fewslice.blocks.verify import Verification
    from fewslice.model import Model
    from fewslice.volume import Volume

__all__ = ["estimate_prediction", "predict", "verify"]


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
    from fewslice.blocks.job import how_to_mend
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
    with open_engine(workers, scheduler, slurm, device=requests.device.type) as engine:
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
                _note_prediction(run_folder, target, volume.source, watch.tell)
    if failed:
        raise PartialError(f"{failed} blocks could not be predicted and stay 0; {how_to_mend('image')}")
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
    """Check that everything that was marked as written is there and as it was written.

    Parameters
    ----------
    store
        ``OUT.ome.zarr`` of predict and segment, finished or not; the folder of mesh; ``OUT.objects.csv`` of measure.
    repair
        Take back the marks of damaged blocks, so that the command that made the store makes these again.
    listener
        Called with progress events.
    """
    from fewslice.blocks.lock import locked
    from fewslice.blocks.verify import forget_damaged, output_of, verify_store

    def tell(blocks: int) -> None:
        if listener is not None and blocks % 100 == 0:
            listener({"event": "verified", "store": str(store), "blocks": blocks})

    if not repair or not Path(store).exists():
        return verify_store(Path(store), tell)
    with locked(output_of(Path(store))):
        found = verify_store(Path(store), tell)
        if found.damaged:
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

    run_folder, model_folder = find_model(run_or_model)
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} must be between 0 and 1")
    paths = [path if io.is_address(path) else str(Path(path).absolute()) for path in expand(images)]
    outputs = _outputs(paths, Path(output))
    check_outputs(paths, outputs)

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
        factor = voxel_factor(volume.source, volume.voxel_size_um, model.voxel_size_um, resample=resample)
        items.append((volume, source, factor, target))
    return _Requests(model, used_device, run_folder, model_folder, items)


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


def _note_prediction(run_folder: Path, output: Path, source: str, tell: Callable[..., None]) -> None:
    """Add a prediction to the results of its run, once, also where a kill came between the two.

    A run that cannot be written to does not undo the prediction: `tell` says so.
    """
    from fewslice.training.run_folder import read_lines

    entry = {"kind": "prediction", "output": str(output.resolve()), "image": source}
    try:
        if entry not in read_lines(run_folder / "results.jsonl"):
            append_line(run_folder / "results.jsonl", entry)
    except OSError as error:
        tell("note", note=f"{output} is done, but is not listed in the results of {run_folder}: {error}")
