"""The product: a volume of any size, block by block, into an OME-Zarr image with its segmentation.

1. The plan: chunk, block and halo from the model and the volume.
2. Every block: read with its halo, predict, crop, quantise, threshold, write, mark.
3. When all are done: the pyramids, then the mark that everything is finished.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewslice import io
from fewslice.blocks.engine import BlockFailure, Outcome, run_blocks
from fewslice.blocks.outputs import create_outputs, remove_outputs
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.record import open_record
from fewslice.errors import InputError
from fewslice.geometry import Block, Shape, cover
from fewslice.model import Model
from fewslice.prediction.resampling import Resampling
from fewslice.prediction.whole import quantised, segment_probabilities
from fewslice.volume import Volume

__all__ = ["Prediction", "predict_volume"]

_READ_VOXELS = {2: 2**25, 3: 3 * 2**22}


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
        An ``.ome.zarr`` folder: channels are the model's outputs (uint8, 0–255), ``labels/segmentation`` the classes.
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
    threshold = model.threshold if threshold is None else threshold
    used_halo = model.halo if halo is None else halo
    divisor = model.divisor
    chunk = choose_chunk(image.shape, block)
    context, align, limit = used_halo, divisor, _READ_VOXELS[model.dims]
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
    bound = {name: value for name, value in facts.items() if name != "image"}  # the content counts, not its place
    key = hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()
    record_folder = output / ".fewslice"
    if overwrite and output.is_dir():
        remove_outputs(output)
    if not output.exists():
        create_outputs(
            output,
            shape=image.shape,
            names=[o.name for o in model.outputs],
            voxel_size_um=image.voxel_size_um,
            chunk=chunk,
            facts=facts | (attributes or {}),
            key=key,
        )
    elif not (record_folder / "job.json").exists():
        raise InputError(f"{output} exists and was not made by predict; choose another output or pass --overwrite")
    record = open_record(record_folder, key, what=str(output))
    if record.finished:
        return Prediction(output, Outcome(0, 0, ()), True, used_block, used_halo)
    probabilities = io.open_output(output)
    segmentation = io.open_output(output, labels="segmentation")
    model.to(device)

    def read(item: Block) -> NDArray[np.generic]:
        try:
            return image.read(item.read)
        except (InputError, OSError) as error:
            raise BlockFailure(f"cannot be read: {error}") from error

    def compute(item: Block, raw: NDArray[np.generic]) -> NDArray[np.uint8]:
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise BlockFailure(f"NaN or infinite values between {item.read.start} and {item.read.stop} (z, y, x)")
        if resampling is not None:
            return quantised(resampling.predict(model, raw, item, used_halo))
        return quantised(model.probabilities(raw)[(slice(None), *item.crop.slices)])

    def write(item: Block, stored: NDArray[np.uint8]) -> None:
        probabilities.write(item.write, stored)
        segmentation.write(item.write, segment_probabilities(stored, threshold))

    plan = cover(image.shape, used_block, context, align)
    outcome = run_blocks(plan, record, read=read, compute=compute, write=write, progress=progress)
    if not outcome.failed:
        if pyramids:
            io.write_pyramid(output)
            io.write_pyramid(output, group="labels/segmentation")
        record.finish()
    return Prediction(output, outcome, False, used_block, used_halo)
