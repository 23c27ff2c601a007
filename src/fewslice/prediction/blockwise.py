"""The product: a volume of any size, block by block, into an OME-Zarr image with its segmentation.

1. The plan: chunk, block and halo from the model and the volume.
2. Every block, in this process or others: see :mod:`fewslice.prediction.job`. A model that proposes contours writes its
   scores and, beside the output, the proposals of the block, which are segmented afterwards.
3. When all are done: the pyramids, then the mark that everything is finished.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewslice import io
from fewslice.blocks.engine import Engine, InProcess, Outcome, Retry, run_blocks
from fewslice.blocks.job import Job, Opened
from fewslice.blocks.lock import locked
from fewslice.blocks.outputs import Contents, create_outputs, remove_outputs
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.pyramid import write_pyramids
from fewslice.blocks.record import Record, existing_record, open_record
from fewslice.errors import InputError
from fewslice.files import check_writable
from fewslice.geometry import BlockGrid, Shape
from fewslice.model import Model
from fewslice.prediction.job import Elsewhere, PredictBlocks, Settings, predict_work
from fewslice.prediction.proposals import check_proposals, folder_of, remove_proposals
from fewslice.prediction.resampling import Resampling
from fewslice.volume import Volume

__all__ = ["Cut", "Prediction", "contents", "cut_volume", "predict_volume"]

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
    blocks, empty
        Number of blocks in all, and of those found empty and not computed.
    """

    output: Path
    outcome: Outcome
    already_finished: bool
    block: Shape
    halo: Shape
    blocks: int
    empty: int = 0


@dataclass(frozen=True)
class Cut:
    """How a volume is cut.

    Attributes
    ----------
    grid
        The blocks, in voxels of the image.
    chunk
        Storage chunk of the output, (z, y, x).
    shard
        Storage shard, or None.
    halo
        Context in voxels of the model.
    """

    grid: BlockGrid
    chunk: Shape
    shard: Shape | None
    halo: Shape


def cut_volume(
    model: Model,
    shape: Sequence[int],
    *,
    halo: Shape | None = None,
    block: Shape | None = None,
    shard: Shape | None = None,
    factor: tuple[float, float, float] | None = None,
    read_voxels: int | None = None,
) -> Cut:
    """Choose blocks for a model and a volume.

    Parameters
    ----------
    model
        The model.
    shape
        (z, y, x) of the volume.
    halo, block, shard, factor
        See :func:`predict_volume`.
    read_voxels
        The most that one block may read, context included; by default a bounded number.

    Raises
    ------
    InputError
        If a block or shard was asked for that does not fit.
    """
    chunk = choose_chunk(shape, block, shard)
    used_halo = model.halo if halo is None else halo
    context, align, limit = used_halo, model.divisor, read_voxels or _READ_VOXELS[model.dims]
    if model.contours and read_voxels is None:
        limit = min(_READ_VOXELS_CONTOURS, _READ_PIXELS_CONTOURS * chunk[model.plane_axis])
    if factor is not None:
        resampling = Resampling.of(shape, factor)
        context, align = resampling.halo(used_halo, model.divisor), (1, 1, 1)
        limit = int(limit / max(1.0, math.prod(resampling.ratio)))
    used_block = block or choose_block(shape, context, shard or chunk, limit)
    grid = BlockGrid(tuple(shape), tuple(used_block), tuple(context), align)
    return Cut(grid, chunk, shard, used_halo)


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
    shard: Shape | None = None,
    factor: tuple[float, float, float] | None = None,
    skip_empty: bool = False,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    pyramids: bool = True,
    engine: Engine | None = None,
    elsewhere: Elsewhere | None = None,
    retry: Retry | None = None,
    progress: Callable[[int, int], None] | None = None,
    pyramid_progress: Callable[[int, int], None] | None = None,
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
    shard
        Store chunks together in shards of this many voxels (z, y, x); blocks then consist of whole shards.
    factor
        (z, y, x): voxel of the image over voxel of the model, where blocks are to be brought to the model's voxel.
    skip_empty
        Do not compute blocks that are darker than anything annotated in training; see :attr:`Model.signal`.
    attributes
        Further facts stored with the output.
    overwrite
        Replace an output of another model or image.
    pyramids
        Write the coarser levels as well.
    engine
        Where blocks are computed; in this process by default.
    elsewhere
        Where other processes find model and image; needed with an engine that uses some.
    retry
        How often a block that failed is tried again.
    progress, pyramid_progress
        Called with (blocks finished, blocks in all), for the blocks and for each level of the pyramids.

    Raises
    ------
    InputError
        If the output belongs to another run or is being written by one, holds what is no Zarr store, or the image does
        not fit the model.
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
    cut = cut_volume(model, image.shape, halo=halo, block=block, shard=shard, factor=factor)
    empty_below = _signal(model) if skip_empty else None
    used_block, used_halo, grid = cut.grid.block, cut.halo, cut.grid
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
    files = image.files_hash()
    facts |= {"image_files": files} if files is not None else {}
    facts |= {"shard": list(shard)} if shard is not None else {}
    facts |= {"empty_below": list(empty_below)} if empty_below is not None else {}
    facts |= {"plane_axis": model.plane_axis} if model.contours else {}
    bound = {name: value for name, value in facts.items() if name != "image"}  # the content counts, not its place
    key = hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()
    if output.exists() and not overwrite and _own_record(output, key, facts).finished:  # it may be read-only by now
        return Prediction(output, Outcome(0, 0, ()), True, used_block, used_halo, len(grid))
    with locked(output):
        if overwrite and output.exists():
            _remove(output)
        if not output.exists():
            if model.contours:
                _clear(folder_of(output), overwrite=overwrite)
            create_outputs(output, contents(image, model, cut), facts | (attributes or {}), key)
        record = _own_record(output, key, facts)
        if record.finished:  # by a run that ended a moment ago
            return Prediction(output, Outcome(0, 0, ()), True, used_block, used_halo, len(grid))
        check_writable(output)
        io.remove_leftovers(output)
        if model.contours:
            folder_of(output).mkdir(exist_ok=True)
        settings = Settings(output.absolute(), threshold, used_halo, factor, empty_below)
        job = _job(model, image, settings, device, engine, elsewhere)
        outcome = run_blocks(grid, record, job, engine=engine, retry=retry, progress=progress)
        if outcome.failed:
            return Prediction(output, outcome, False, used_block, used_halo, len(grid))
        empty = sum(bool(mark.note.get("empty")) for mark in record.marks()) if skip_empty else 0
        if skip_empty:
            stored = io.open_output(output)
            stored.set_attributes(stored.attributes | {"blocks": len(grid), "blocks_empty": empty})
        if pyramids:
            groups = ("",) if model.contours else ("", "labels/segmentation")
            write_pyramids(output, groups, key, engine=engine, retry=retry, progress=pyramid_progress)
        record.finish()
    return Prediction(output, outcome, False, used_block, used_halo, len(grid), empty)


def _own_record(output: Path, key: str, facts: dict[str, Any]) -> Record:
    """Open the record of an output that exists, or say why it cannot be gone on with."""
    found = existing_record(output / ".fewslice")
    if found is None:
        raise InputError(f"{output} exists and was not made by predict; choose another output or pass --overwrite")
    if found.key != key:
        known = io.open_volume(output).attributes
        changed = {name for name in facts if name != "image" and known.get(name) != facts[name]}
        if changed == {"image_files"}:
            raise InputError(
                f"the files of {facts['image']} have other sizes or times than when {output} was begun; give a copy "
                "the times of the original, else choose another output or pass --overwrite"
            )
    return open_record(output / ".fewslice", key, what=str(output))


def _remove(output: Path) -> None:
    """Remove what is overwritten, and with contours of ours their proposals."""
    made: list[dict[str, Any]] = []
    if existing_record(output / ".fewslice") is not None:
        with suppress(InputError):  # damaged: what is beside it stays
            made = io.open_volume(output).attributes.get("outputs", [])
    proposed = any(entry.get("kind") == "contour" for entry in made)
    if proposed:
        check_proposals(folder_of(output))
    remove_outputs(output)
    if proposed:
        remove_proposals(folder_of(output))


def _job(
    model: Model,
    image: Volume,
    settings: Settings,
    device: torch.device | str,
    engine: Engine | None,
    elsewhere: Elsewhere | None,
) -> Job:
    """Return the work itself for this process, or what other processes need to open it."""
    if engine is None or isinstance(engine, InProcess):
        return Opened(predict_work(model.to(device), image, settings))
    if elsewhere is None:
        raise InputError("other processes cannot see arrays in memory; give paths of the model and of the image")
    return PredictBlocks(elsewhere, settings)


def _clear(folder: Path, *, overwrite: bool) -> None:
    """Remove proposals whose output is gone, if they may be overwritten."""
    check_proposals(folder)
    if folder.exists() and not overwrite:
        raise InputError(f"{folder} exists without its output; choose another output or pass --overwrite")
    remove_proposals(folder)


def _signal(model: Model) -> tuple[float, ...]:
    if model.signal is None:
        raise InputError(
            "the model knows no intensity below which there is nothing (no foreground was annotated, or it was "
            "trained by an earlier version); train again, or predict without --skip-empty"
        )
    return model.signal


def contents(image: Volume, model: Model, cut: Cut) -> Contents:
    """Say what the store of a prediction holds."""
    names = tuple(output.name for output in model.outputs)
    return Contents(
        image.shape, names, image.voxel_size_um, cut.chunk, cut.shard, image.origin_um, segmented=not model.contours
    )
