"""The empty store that a block-wise job fills: channels, their segmentation, and the record of what is done."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewslice import io
from fewslice.blocks.record import existing_record, open_record
from fewslice.files import beside, disk_error, making_folder
from fewslice.formats import ome_zarr
from fewslice.geometry import Shape

__all__ = ["Contents", "create_outputs", "create_store", "remove_outputs"]


@dataclass(frozen=True)
class Contents:
    """What an output holds: channels of uint8 and, as a rule, a segmentation of the same extent.

    Attributes
    ----------
    shape, voxel_size_um
        (z, y, x) in voxels, and in µm or None.
    origin_um
        (z, y, x) of the first voxel's centre in µm.
    names
        One per channel.
    chunk, shard
        (z, y, x) in voxels: what is read, and what is written at once; a shard of None is a chunk.
    segmented
        Whether ``labels/segmentation`` is written with the channels.
    """

    shape: Shape
    names: tuple[str, ...]
    voxel_size_um: tuple[float, float, float] | None
    chunk: Shape
    shard: Shape | None = None
    origin_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    segmented: bool = True


def create_outputs(output: Path, contents: Contents, facts: Mapping[str, Any], key: str) -> None:
    """Make the empty output beside its place and rename it, so that what exists can always be resumed.

    Nobody else may be writing to `output`; see :func:`fewslice.blocks.lock.locked`.

    Parameters
    ----------
    output
        ``OUT.ome.zarr``, which must not exist.
    contents
        What it holds.
    facts
        Stored as attributes.
    key
        Of the record.

    Raises
    ------
    DiskError
        If the disk refuses the write; nothing is left.
    """
    _remove_leftovers(output)
    with making_folder(output) as begun:
        create_store(begun, contents, facts)
        open_record(begun / ".fewslice", key, what=str(output))


def create_store(place: Path, contents: Contents, facts: Mapping[str, Any]) -> None:
    """Make the empty image, and segmentation, in `place`, which must not exist, with `facts` as attributes."""
    options: dict[str, Any] = {
        "shape": contents.shape,
        "voxel_size_um": contents.voxel_size_um,
        "origin_um": contents.origin_um,
        "dtype": np.uint8,
        "chunks": contents.chunk,
        "shards": contents.shard,
    }
    io.create_output(place, channel_names=contents.names, attributes=facts, **options)
    if contents.segmented:
        io.create_labels(place, "segmentation", attributes={}, **options)


def remove_outputs(store: Path) -> None:
    """Remove a store of ours, or another Zarr store: first from its name, so that no kill leaves half of it there.

    Raises
    ------
    InputError
        If it is neither; nothing is removed.
    DiskError
        If the disk refuses.
    """
    if existing_record(store / ".fewslice") is None:
        ome_zarr.check_overwrite(str(store))
    aside = beside(store)
    try:
        store.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise disk_error(error, store) from error


def _remove_leftovers(output: Path) -> None:
    """Remove what kills left of beginnings and removals of an output."""
    name = re.compile(rf"\.{re.escape(output.name)}(\.[0-9a-f]{{12}})?\.part")
    try:
        for path in output.parent.iterdir() if output.parent.is_dir() else ():
            if name.fullmatch(path.name) and path.is_dir():
                shutil.rmtree(path)
    except OSError as error:
        raise disk_error(error, output) from error
