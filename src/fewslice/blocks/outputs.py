"""The empty store that a block-wise job fills: channels, their segmentation, and the record of what is done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewslice import io
from fewslice.blocks.record import open_record
from fewslice.errors import FewsliceError
from fewslice.files import disk_error

__all__ = ["create_outputs", "remove_outputs"]


def create_outputs(
    output: Path,
    *,
    shape: Sequence[int],
    names: Sequence[str],
    voxel_size_um: Sequence[float] | None,
    chunk: Sequence[int],
    facts: Mapping[str, Any],
    key: str,
) -> None:
    """Make the empty output beside its place and rename it, so that what exists can always be resumed.

    Parameters
    ----------
    output
        ``OUT.ome.zarr``, which must not exist.
    shape, voxel_size_um, chunk
        (z, y, x) in voxels, in µm or None, in voxels.
    names
        One per channel; all are uint8.
    facts
        Stored as attributes.
    key
        Of the record.

    Raises
    ------
    DiskError
        If the disk refuses the write; nothing is left.
    """
    beside = output.with_name(f".{output.name}.part")
    if beside.exists():
        remove_outputs(beside)
    begun = beside / output.name
    try:
        beside.mkdir(parents=True)
        io.create_output(
            begun,
            shape=shape,
            channel_names=names,
            voxel_size_um=voxel_size_um,
            dtype=np.uint8,
            chunks=chunk,
            attributes=facts,
        )
        io.create_labels(
            begun,
            "segmentation",
            shape=shape,
            dtype=np.uint8,
            chunks=chunk,
            voxel_size_um=voxel_size_um,
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


def remove_outputs(store: Path) -> None:
    """Remove a store, its record first, so that what a kill leaves is never taken for a finished output."""
    shutil.rmtree(store / ".fewslice", ignore_errors=True)
    try:
        shutil.rmtree(store)
    except OSError as error:
        raise disk_error(error, store) from error
