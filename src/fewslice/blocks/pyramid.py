"""The coarser levels of a store, made block by block by the engine that made the first: resumable like it.

Level by level: its array is created, its record is begun, its blocks are made from the level below. The levels are
listed in the metadata once all are complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fewslice.blocks.engine import Engine, Retry, run_blocks
from fewslice.blocks.job import BlockFailure, Note, Work
from fewslice.blocks.record import existing_record, open_record
from fewslice.errors import FewsliceError
from fewslice.files import disk_error
from fewslice.formats import ome_zarr
from fewslice.geometry import Block, BlockGrid

__all__ = ["LevelBlocks", "forget_pyramid", "write_pyramids"]


@dataclass(frozen=True)
class LevelBlocks:
    """Fill one level.

    Attributes
    ----------
    store
        The image.
    group
        "" for the image, ``labels/<name>`` for labels in it.
    level
        From 1.
    """

    store: Path
    group: str
    level: int

    def open(self) -> Work:
        """Open both levels and return the work."""
        reduction = ome_zarr.open_reduction(self.store / self.group, self.level)
        name = "/".join(part for part in (self.group, str(self.level)) if part)

        def read(block: Block) -> npt.NDArray[Any]:
            try:
                return reduction.read(block.write)
            except (ValueError, RuntimeError) as error:  # what codecs raise
                raise BlockFailure(f"level {self.level - 1} cannot be read: {error}") from error

        def write(block: Block, values: npt.NDArray[Any]) -> Note:
            return {"checksums": {name: reduction.target.write(block.write, values)}}

        return Work(read, lambda block, values: reduction.reduce(values), write)


def forget_pyramid(store: Path, group: str) -> None:
    """Forget which levels of an image or of labels were made, before their first level is made anew.

    Raises
    ------
    DiskError
        If the disk refuses.
    """
    folder = store / ".fewslice" / "levels" / group
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, folder) from error


def write_pyramids(
    store: Path,
    groups: tuple[str, ...],
    key: str,
    *,
    engine: Engine | None = None,
    retry: Retry | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the pyramids of an image and of labels in it; what a killed call has done is kept.

    Parameters
    ----------
    store
        The image, whose first levels are complete.
    groups
        "" for the image, ``labels/<name>`` for labels.
    key
        Of the job that made the first levels.
    engine, retry, progress
        See :func:`fewslice.blocks.engine.run_blocks`.

    Raises
    ------
    FewsliceError
        If a block of a level cannot be read back.
    DiskError
        If the disk refuses the write.
    """
    for group in groups:
        folder = store / group
        for level in range(1, ome_zarr.begin_pyramid(folder) + 1):
            marks = store / ".fewslice" / "levels" / group / str(level)
            known = existing_record(marks)
            if known is None or known.key != key:  # the array may be half made
                ome_zarr.create_level(folder, level)
            record = open_record(marks, key, what=str(store))
            if record.finished:
                continue
            target = ome_zarr.open_reduction(folder, level)
            shape = target.target.shape
            plan = BlockGrid(shape, target.block, (0, 0, 0), (1, 1, 1))
            job = LevelBlocks(store, group, level)
            outcome = run_blocks(plan, record, job, engine=engine, retry=retry, progress=progress)
            if outcome.failed:
                block, reason = outcome.failed[0]
                raise FewsliceError(
                    f"level {level} of {folder} cannot be made at {block.write.start} (z, y, x): {reason}; "
                    "run fewslice verify, then the same command again"
                )
            record.finish()
        ome_zarr.describe_pyramid(folder)
