"""A prediction without a model: the mask that a segmenter makes of an image, as the only output of a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from fewslice import io, registry
from fewslice.blocks.engine import Engine, InProcess, Outcome, Retry, run_blocks
from fewslice.blocks.job import BlockFailure, Job, Note, Opened, Work
from fewslice.blocks.lock import locked
from fewslice.blocks.outputs import Contents, create_outputs, remove_outputs
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.pyramid import write_pyramids
from fewslice.blocks.record import is_finished, open_record
from fewslice.errors import InputError
from fewslice.geometry import Block, cover
from fewslice.volume import Volume

__all__ = ["READ_VOXELS", "MaskBlocks", "mask_image"]

READ_VOXELS = 1 << 24
"""The most that one block reads."""


def mask_image(
    image: Volume,
    output: Path,
    kind: str,
    config: BaseModel,
    *,
    attributes: dict[str, Any] | None = None,
    overwrite: bool = False,
    source: io.VolumeSource | None = None,
    engine: Engine | None = None,
    retry: Retry | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Outcome:
    """Write the mask of an image block by block, resuming what an earlier run left.

    Parameters
    ----------
    image
        The volume.
    output
        An ``.ome.zarr`` folder: one channel ``foreground`` (uint8, 0 or 255), and ``labels/segmentation``.
    kind, config
        A segmenter that has ``survey`` and ``foreground``, and its settings.
    attributes
        Further facts stored with the output.
    overwrite
        Replace an output of another image or other settings.
    source
        Where other processes find the image; needed with an engine that uses some.
    engine, retry
        See :func:`fewslice.blocks.engine.run_blocks`.
    progress
        Called with (``survey``, ``mask`` or ``pyramid``, blocks finished, blocks in all).

    Returns
    -------
    Outcome
        What became of the blocks.

    Raises
    ------
    InputError
        If `output` holds something else, or another run writes to it.
    """
    segmenter = registry.load("segmenters", kind)
    voxel = image.voxel_size_um
    facts: dict[str, Any] = {
        "image": image.source,
        "image_hash": image.content_hash(),
        "image_files": image.files_hash(),
        "mask_by": kind,
        "mask_settings": config.model_dump(mode="json"),
        "outputs": [{"name": "foreground", "kind": "probability", "range": [0.0, 1.0], "dtype": "uint8"}],
        "class_values": [1],
        "threshold": 0.5,
        "voxel_size_um": voxel and list(voxel),
    }
    bound = {name: value for name, value in facts.items() if name != "image"}
    key = hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()
    marks = output / ".fewslice"

    def teller(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(name, done, total)

    if not overwrite and is_finished(marks, key):  # it may be read-only by now
        return Outcome(0, 0, ())
    with locked(output):
        if output.exists() and not (marks / "job.json").exists():
            raise InputError(f"{output} exists and was not made by segment; choose another -o")
        if overwrite and output.is_dir():
            remove_outputs(output)
        halo, chunk = segmenter.foreground_halo(config, voxel), choose_chunk(image.shape)
        if output.exists():
            record = open_record(marks, key, what=str(output))
            if record.finished:  # by a run that ended a moment ago
                return Outcome(0, 0, ())
            found = io.open_volume(output).attributes["mask_facts"]
        else:
            found = segmenter.survey(config, image, teller("survey"))
            contents = Contents(image.shape, ("foreground",), voxel, chunk, origin_um=image.origin_um)
            create_outputs(output, contents, facts | {"mask_facts": found} | (attributes or {}), key)
            record = open_record(marks, key, what=str(output))
        io.remove_leftovers(output)
        work = MaskBlocks(source, output.absolute(), kind, config.model_dump_json(), json.dumps(found))
        blocks = cover(image.shape, choose_block(image.shape, halo, chunk, READ_VOXELS), halo)
        outcome = run_blocks(
            blocks, record, _job(image, work, engine), engine=engine, retry=retry, progress=teller("mask")
        )
        if not outcome.failed:
            groups = ("", "labels/segmentation")
            write_pyramids(output, groups, key, engine=engine, retry=retry, progress=teller("pyramid"))
            record.finish()
    return outcome


def _job(image: Volume, work: MaskBlocks, engine: Engine | None) -> Job:
    """Return the work itself for this process, or what other processes need to open it."""
    if engine is None or isinstance(engine, InProcess):
        return Opened(work.on(image))
    if work.source is None:
        raise InputError("other processes cannot see arrays in memory; give the path of the image")
    return work


@dataclass(frozen=True)
class MaskBlocks:
    """The mask of each block.

    Attributes
    ----------
    source
        Where the image is; None where it is handed over by :meth:`on`.
    output
        The store, which exists.
    kind, settings
        The segmenter and its settings as JSON.
    facts
        What its survey found, as JSON.
    """

    source: io.VolumeSource | None
    output: Path
    kind: str
    settings: str
    facts: str

    def open(self) -> Work:
        """Open the image and return the work."""
        assert self.source is not None
        return self.on(self.source.open())

    def on(self, image: Volume) -> Work:
        """Return the work on an image that is open."""
        segmenter: ModuleType = registry.load("segmenters", self.kind)
        config, facts = segmenter.Config(**json.loads(self.settings)), json.loads(self.facts)
        mask, segmentation = io.open_output(self.output), io.open_output(self.output, labels="segmentation")

        def read(block: Block) -> npt.NDArray[Any]:
            try:
                return image.read(block.read)
            except (InputError, OSError) as error:
                raise BlockFailure(f"cannot be read: {error}", may_pass=True) from error

        def compute(block: Block, raw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
            if raw.dtype.kind == "f" and not np.isfinite(raw).all():
                raise BlockFailure(f"NaN or infinite values between {block.read.start} and {block.read.stop} (z, y, x)")
            made: npt.NDArray[np.uint8] = segmenter.foreground(config, facts, raw, block, image.voxel_size_um)
            return made

        def write(block: Block, values: npt.NDArray[np.uint8]) -> Note:
            sums = {"0": mask.write(block.write, values[None])}
            sums["labels/segmentation/0"] = segmentation.write(block.write, (values > 0).astype(np.uint8))
            return {"checksums": sums}

        return Work(read, compute, write)
