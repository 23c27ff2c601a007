"""Proposals on disk: beside ``OUT.ome.zarr`` the folder ``OUT.proposals``, in it one file per block.

A proposal is in the file of the block that writes its anchor, so every proposal is stored once.
"""

from __future__ import annotations

import math
import re
import shutil
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fewslice import io
from fewslice.errors import InputError
from fewslice.files import disk_error, is_unfinished, write_atomic
from fewslice.geometry import Block
from fewslice.morphology.proposals import Proposals, join

__all__ = ["check_proposals", "folder_of", "owned", "read_proposals", "remove_proposals", "write_block"]

_SUFFIX = ".ome.zarr"
_NAME = re.compile(r"\d+_\d+_\d+\.npz")
_TYPES = {"anchor": "i", "score": "f", "category": "u", "contour": "f"}


def folder_of(output: Path) -> Path:
    """Return the folder of the proposals that belong to an output."""
    return output.with_name(output.name.removesuffix(_SUFFIX) + ".proposals")


def owned(proposals: Proposals, block: Block) -> Proposals:
    """Take from the proposals of what was read, in its coordinates, those of the block, in the volume's.

    The anchor decides, a whole voxel: a rounding error moves no proposal into another block.
    """
    anchor = proposals.anchor
    inside = ((anchor >= block.crop.start) & (anchor < block.crop.stop)).all(axis=1)
    return proposals.taken(np.flatnonzero(inside)).shifted(block.read.start)


def write_block(folder: Path, block: Block, proposals: Proposals) -> None:
    """Write the proposals of a block, replacing what an earlier attempt left."""
    buffer = BytesIO()
    np.savez(buffer, **{name: getattr(proposals, name) for name in _TYPES})
    write_atomic(folder / f"{'_'.join(map(str, block.index))}.npz", buffer.getvalue())


def check_proposals(folder: Path) -> None:
    """Refuse a folder that holds anything but proposals.

    Raises
    ------
    InputError
        If it does.
    """
    if not folder.exists():
        return
    inside = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    others = [p.name for p in inside if not (_NAME.fullmatch(p.name) or is_unfinished(p))]
    if others:
        raise InputError(f"{folder} also holds {', '.join(others[:3])}, so it is not replaced; choose another output")


def remove_proposals(folder: Path) -> None:
    """Remove a folder of proposals, if there is one.

    Raises
    ------
    InputError
        If it holds anything else; nothing is removed.
    DiskError
        If the disk refuses.
    """
    check_proposals(folder)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, folder) from error


def read_proposals(output: Path, planes: range | None = None) -> Proposals:
    """Read proposals that belong to an output of ``fewslice predict``.

    Memory: about 300 bytes per proposal of 32 points, and the proposals of one block.

    Parameters
    ----------
    output
        ``OUT.ome.zarr``, with ``OUT.proposals`` beside it.
    planes
        Those whose proposals are wanted; all by default.

    Raises
    ------
    InputError
        If the output is not of a contour model or not finished, or a file is missing or damaged.
    """
    image = io.open_volume(output)
    facts: dict[str, Any] = image.attributes
    if not any(o.get("kind") == "contour" for o in facts.get("outputs", [])):
        raise InputError(f"{output} was not made by a model that proposes contours; use another segmenter")
    folder, axis = folder_of(output), int(facts["plane_axis"])
    size = facts["block"][axis]
    wanted = range(image.shape[axis]) if planes is None else planes
    counts = [math.ceil(extent / size) for extent, size in zip(image.shape, facts["block"], strict=True)]
    parts = []
    for index in np.ndindex(*counts):
        if not wanted.start // size <= index[axis] <= (wanted.stop - 1) // size:
            continue
        path = folder / f"{'_'.join(map(str, index))}.npz"
        if not path.is_file():
            raise InputError(
                f"{path} is missing: {output} is not finished, or was moved without {folder.name}; run predict again"
            )
        part = _read(path, axis)
        parts.append(part.taken((part.plane >= wanted.start) & (part.plane < wanted.stop)))
    return join(parts)


def _read(path: Path, plane_axis: int) -> Proposals:
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _TYPES}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged; predict again with --overwrite") from error
    wrong = [name for name, kind in _TYPES.items() if arrays[name].dtype.kind != kind]
    if wrong:
        raise InputError(f"{path} holds {wrong[0]} of type {arrays[wrong[0]].dtype}; predict again with --overwrite")
    return Proposals(**arrays, plane_axis=plane_axis)
