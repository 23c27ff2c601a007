"""File formats, one per module; the module's name is the kind's name and adding one edits nothing else.

A module ``formats/<kind>.py`` exposes

``DESCRIPTION: str``
    A few words for messages, for example ``"TIFF (.tif, .tiff)"``.
``claims(path: str) -> bool``
    Whether this format is responsible for the path, judged by its name or its first bytes, without loading a library.
    Also answers for paths that do not exist yet and are to be written.
``location(path: str) -> Path``
    The file or folder on disk that the path lies in (differs from the path for ``file.h5:dataset``).
``read(path: str) -> Stored``
    Opens lazily: kilobytes are read, whatever the size.
``write(path: str, volume: Volume, options: WriteOptions) -> None``
    Writes block by block to a path that does not exist yet; :mod:`fewslice.io` renames it into place. A read-only
    format leaves it out.

``within(path: str) -> str`` (optional)
    What follows the location in the path, ``":dataset"``.
``read_labels(path: str) -> Stored`` (optional)
    As ``read``, where labels are read otherwise than images, such as the numbers of a palette.
``check_overwrite(path: str) -> None`` (optional)
    Raises if what exists there must not be replaced even when the user asks to overwrite.
``on_grid(path: str, shape: tuple[int, int, int], kind: "classes" | "instances" | None) -> NDArray`` (optional)
    For labels that do not say the extents of their image, such as outlines: paints them onto a grid of `shape`
    (z, y, x), integers. Such a file is no image; what ``read`` returns is only described, never used.

Whatever is wrong with a file is raised as :class:`fewslice.errors.InputError` in one sentence. Names that begin with an
underscore are shared code, not kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewslice.volume import LazyArray

__all__ = ["Stored", "WriteOptions"]


@dataclass(frozen=True)
class Stored:
    """What a file says about its image, nothing inferred.

    Attributes
    ----------
    array
        Lazy array in the file's axis order; reads are safe from several threads.
    axes
        One letter per axis: ``t``, ``c``, ``z``, ``y``, ``x``, or ``?`` where the file does not state it.
    voxel_size_um
        Per spatial axis, ``{"z": 2.0, "y": 0.88, "x": 0.88}``; axes that are not stated (or not positive) are left out.
    origin_um
        Likewise, the position of the first voxel's centre.
    channel_names
        Empty if not stated.
    chunks
        Extent of what is read at once, in the file's axis order; None if contiguous.
    shards
        Extent of what is written at once, if the file distinguishes it.
    label_names
        Names of label images that belong to it.
    is_labels
        Whether the file itself declares that the values are labels.
    attributes
        What fewslice stored with it.
    files
        Files and folders that hold the values, where these are not all that lies at the location.
    details
        More facts for ``fewslice info``: format version, pyramid, compression.
    """

    array: LazyArray
    axes: str
    voxel_size_um: dict[str, float] = field(default_factory=dict)
    origin_um: dict[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    label_names: tuple[str, ...] = ()
    is_labels: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WriteOptions:
    """How a volume is written.

    Attributes
    ----------
    ome_version
        OME-Zarr version, "0.5" or "0.4".
    is_labels
        Whether the values are labels: reduced by vote, not by mean, and named so in the metadata.
    name
        Name of the image, for viewers.
    """

    ome_version: str = "0.5"
    is_labels: bool = False
    name: str = "image"
