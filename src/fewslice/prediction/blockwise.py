"""The product: a volume of any size, block by block, into an OME-Zarr image with its segmentation.

1. The plan: chunk, block and halo from the model and the volume.
2. Every block: read with its halo, predict, crop, quantise, threshold, write, mark. A model that proposes contours
   writes its scores and, beside the output, the proposals of the block, which are segmented afterwards.
3. When all are done: the pyramids, then the mark that everything is finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewslice import io
from fewslice.blocks.engine import BlockFailure, Outcome, run_blocks
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.record import open_record
from fewslice.errors import FewsliceError, InputError
from fewslice.files import disk_error
from fewslice.geometry import Block, Shape, cover
from fewslice.model import Model
from fewslice.morphology.proposals import Proposals
from fewslice.prediction.proposals import folder_of, owned, write_block
from fewslice.prediction.resampling import Resampling
from fewslice.prediction.whole import quantised, segment_probabilities
from fewslice.volume import Volume

__all__ = ["Prediction", "predict_volume"]

_READ_VOXELS = {2: 2**25, 3: 3 * 2**22}
_READ_VOXELS_CONTOURS = 2**26
_READ_PIXELS_CONTOURS = 2**22
"""Of one plane: the halo of contours is wide, and a plane goes through the network as a whole."""


@dataclass(frozen=True)
class Prediction:
    """What a prediction wrote.

    Attributes
    ----------
    output
        The OME-Zarr image.
    outcome
        Blocks done, skipped and failed.
    already_finished
        Whether nothing had to be done.
    block, halo
        (z, y, x) in voxels.
    """

    output: Path
    outcome: Outcome
    already_finished: bool
    block: Shape
    halo: Shape


def predict_volume(
    model: Model,
    image: Volume,
    output: Path,
    *,
    model_id: str,
    device: torch.device | str = "cpu",
    threshold: float | None = None,
    halo: Shape | None = None,
    block: Shape | None = None,
    factor: tuple[float, float, float] | None = None,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    pyramids: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Predict a volume into `output`, resuming what an earlier run left.

    Parameters
    ----------
    model
        The model; it is moved to `device`.
    image
        The volume, read block by block.
    output
        An ``.ome.zarr`` folder: channels are the model's outputs (uint8, 0–255), ``labels/segmentation`` the classes;
        of a model that proposes contours the scores, with the proposals in the folder ``.proposals`` beside it.
    model_id
        Identity of the model, part of the key that binds what is done.
    device
        Where to compute.
    threshold
        Foreground threshold, 0–1; by default the model's.
    halo
        Context in voxels of the model (z, y, x); by default the model's.
    block
        What one block writes, in voxels (z, y, x); by default chosen for little waste in bounded memory.
    factor
        (z, y, x): voxel of the image over voxel of the model, where blocks are to be brought to the model's voxel.
    attributes
        Further facts stored with the output.
    overwrite
        Replace an output of another model or image.
    pyramids
        Write the coarser levels as well.
    progress
        Called with (blocks finished, blocks in all).

    Raises
    ------
    InputError
        If the output belongs to another run, or the image does not fit the model.
    DiskError
        If the output cannot be stored.
    """
    model.check_channels(image.channels, image.source)
    if model.contours and factor is not None:
        raise InputError(
            f"{image.source} has another voxel than the model, which proposes contours and does not resample; "
            "bring the image to the model's voxel before"
        )
    threshold = model.threshold if threshold is None else threshold
    used_halo = model.halo if halo is None else halo
    divisor = model.divisor
    chunk = choose_chunk(image.shape, block)
    context, align = used_halo, divisor
    limit = _READ_VOXELS[model.dims]
    if model.contours:
        limit = min(_READ_VOXELS_CONTOURS, _READ_PIXELS_CONTOURS * chunk[model.plane_axis])
    resampling = None if factor is None else Resampling.of(image.shape, factor)
    if resampling is not None:
        context, align = resampling.halo(used_halo, divisor), (1, 1, 1)
        limit = int(limit / max(1.0, math.prod(resampling.ratio)))
    used_block = block or choose_block(image.shape, context, chunk, limit)
    facts = {
        "image": image.source,
        "image_hash": image.content_hash(),
        "model_hash": model_id,
        "outputs": [o.model_dump(mode="json") for o in model.outputs],
        "class_values": list(model.class_values),
        "threshold": threshold,
        "block": list(used_block),
        "halo": list(used_halo),
        "views": [step.views for step in model.steps],
        "voxel_size_um": image.voxel_size_um and list(image.voxel_size_um),
        "resampled_by": factor and list(factor),
    }
    if model.contours:
        facts["plane_axis"] = model.plane_axis
    bound = {name: value for name, value in facts.items() if name != "image"}  # the content counts, not its place
    key = hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()
    record_folder = output / ".fewslice"
    proposed = folder_of(output) if model.contours else None
    if overwrite and output.is_dir():
        _remove(output)
        _clear(folder_of(output), overwrite=True)
    if not output.exists():
        if proposed is not None:
            _clear(proposed, overwrite=overwrite)
        _create(output, image, model, chunk, facts | (attributes or {}), key)
    elif not (record_folder / "job.json").exists():
        raise InputError(f"{output} exists and was not made by predict; choose another output or pass --overwrite")
    record = open_record(record_folder, key, what=str(output))
    if record.finished:
        return Prediction(output, Outcome(0, 0, ()), True, used_block, used_halo)
    probabilities = io.open_output(output)
    segmentation = None if proposed is not None else io.open_output(output, labels="segmentation")
    if proposed is not None:
        proposed.mkdir(exist_ok=True)
    model.to(device)

    def read(item: Block) -> NDArray[np.generic]:
        try:
            return image.read(item.read)
        except (InputError, OSError) as error:
            raise BlockFailure(f"cannot be read: {error}") from error

    def compute(item: Block, raw: NDArray[np.generic]) -> tuple[NDArray[np.uint8], Proposals | None]:
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise BlockFailure(f"NaN or infinite values between {item.read.start} and {item.read.stop} (z, y, x)")
        inner = (slice(None), *item.crop.slices)
        if proposed is not None:
            scores, found = model.proposals(raw, threshold)
            return quantised(scores[inner]), owned(found, item)
        if resampling is not None:
            return quantised(resampling.predict(model, raw, item, used_halo)), None
        return quantised(model.probabilities(raw)[inner]), None

    def write(item: Block, result: tuple[NDArray[np.uint8], Proposals | None]) -> None:
        stored, found = result
        probabilities.write(item.write, stored)
        if segmentation is not None:
            segmentation.write(item.write, segment_probabilities(stored, threshold))
        if proposed is not None and found is not None:
            write_block(proposed, item, found)

    plan = cover(image.shape, used_block, context, align)
    outcome = run_blocks(plan, record, read=read, compute=compute, write=write, progress=progress)
    if not outcome.failed:
        if pyramids:
            io.write_pyramid(output)
            if segmentation is not None:
                io.write_pyramid(output, group="labels/segmentation")
        record.finish()
    return Prediction(output, outcome, False, used_block, used_halo)


def _remove(store: Path) -> None:
    """Remove a store, its record first, so that what a kill leaves is never taken for a finished output."""
    shutil.rmtree(store / ".fewslice", ignore_errors=True)
    try:
        shutil.rmtree(store)
    except OSError as error:
        raise disk_error(error, store) from error


def _clear(folder: Path, *, overwrite: bool) -> None:
    """Remove proposals whose output is gone, if they may be overwritten."""
    if not folder.exists():
        return
    if not overwrite:
        raise InputError(f"{folder} exists without its output; choose another output or pass --overwrite")
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, folder) from error


def _create(output: Path, image: Volume, model: Model, chunk: Shape, facts: dict[str, Any], key: str) -> None:
    """Make the empty output beside its place and rename it, so that what exists can always be resumed."""
    beside = output.with_name(f".{output.name}.part")
    if beside.exists():
        _remove(beside)
    begun = beside / output.name
    try:
        beside.mkdir(parents=True)
        io.create_output(
            begun,
            shape=image.shape,
            channel_names=[o.name for o in model.outputs],
            voxel_size_um=image.voxel_size_um,
            dtype=np.uint8,
            chunks=chunk,
            attributes=facts,
        )
        if not model.contours:
            io.create_labels(
                begun,
                "segmentation",
                shape=image.shape,
                dtype=np.uint8,
                chunks=chunk,
                voxel_size_um=image.voxel_size_um,
                attributes={},
            )
        open_record(begun / ".fewslice", key, what=str(output))
        begun.replace(output)
        beside.rmdir()
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, FewsliceError):
            raise disk_error(error, output) from error
        raise
