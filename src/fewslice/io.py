"""Opening volumes of any format, and storing them: the one place that turns a path into a :class:`Volume` and back."""

from __future__ import annotations

import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fewslice import registry
from fewslice.errors import FewsliceError, InputError
from fewslice.files import disk_error
from fewslice.formats import Stored, WriteOptions, ome_zarr
from fewslice.formats._ngff import VERSIONS
from fewslice.formats._remote import check_reachable, is_remote, refused
from fewslice.formats.ome_zarr import DEFAULT_CHUNKS, OutputStore
from fewslice.geometry import by
from fewslice.volume import ArrangedArray, Shape3, Triple, Volume, check_voxel_size, resolve_axes

__all__ = [
    "DEFAULT_CHUNKS",
    "OutputStore",
    "VolumeSource",
    "check_apart",
    "convert",
    "create_labels",
    "create_output",
    "describe",
    "is_address",
    "needs_grid",
    "open_labels",
    "open_output",
    "open_volume",
    "read_labels",
    "remove_leftovers",
    "save_labels",
    "save_volume",
    "write_pyramid",
]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class VolumeSource:
    """An image by its path and how to read it, so that another process can open the same volume.

    Attributes are the arguments of :func:`open_volume`.
    """

    path: str
    axes: str | None = None
    channels: tuple[int | str, ...] | None = None
    voxel_size_um: Triple | None = None
    expected_channels: int | None = None

    def open(self) -> Volume:
        """Open it; see :func:`open_volume`."""
        return open_volume(
            self.path,
            axes=self.axes,
            channels=self.channels,
            voxel_size_um=self.voxel_size_um,
            expected_channels=self.expected_channels,
        )


def is_address(path: PathLike) -> bool:
    """Whether a path is an address such as ``s3://bucket/image.ome.zarr`` instead of a place on a disk."""
    return is_remote(os.fspath(path))


def open_volume(
    path: PathLike,
    *,
    axes: str | None = None,
    channels: Sequence[int | str] | None = None,
    voxel_size_um: Sequence[float] | None = None,
    expected_shape: Sequence[int] | None = None,
    expected_channels: int | None = None,
) -> Volume:
    """Open an image lazily: kilobytes are read, whatever its size.

    Parameters
    ----------
    path
        A TIFF, a folder of planes, an OME-Zarr image (or a label image inside one), or ``file.h5:dataset``.
    axes
        What the file's axes mean, for example ``zcyx``; used if the file does not say so itself.
    channels
        Positions (from 0) or names of the channels to use, in this order; all when None.
    voxel_size_um
        Voxel size z, y, x in micrometres; goes before what the file says.
    expected_shape
        Extents z, y, x that it must have (its labels'), from which unstated axes may be inferred.
    expected_channels
        Number of channels, after choosing `channels`, from which unstated axes may be inferred.

    Returns
    -------
    Volume
        Its ``axes_note`` says how axes were inferred, to be shown to the user.

    Raises
    ------
    InputError
        If there is no such file, it is empty, truncated or of an unknown format, has an axis of extent 0, or its axes
        can be read in several ways.

    Examples
    --------
    >>> volume = open_volume("stack.tif", axes="zcyx", voxel_size_um=(2, 0.88, 0.88))  # doctest: +SKIP
    """
    source = os.fspath(path)
    size = None if voxel_size_um is None else check_voxel_size(voxel_size_um)
    stored = _stored(source)
    if needs_grid(source):
        raise InputError(
            f"{source} holds outlines, not an image; give it as labels, or paint it onto its image with "
            "fewslice convert --like IMAGE"
        )
    count = None if channels is not None else expected_channels
    letters, note = resolve_axes(
        stored.axes,
        stored.array.shape,
        source=source,
        given=axes,
        expected_shape=expected_shape,
        expected_channels=count,
    )
    volume = _volume(stored, letters, note, source, size)
    return volume if channels is None else volume.with_channels(channels)


def needs_grid(path: PathLike) -> bool:
    """Whether a file holds labels that do not say the extents of their image, such as outlines drawn in ImageJ.

    Parameters
    ----------
    path
        As for :func:`open_labels`, which then needs a `shape`.
    """
    source = os.fspath(path)
    kind = None if is_address(source) else _format_or_none(source)
    return kind is not None and hasattr(kind, "on_grid")


def open_labels(
    path: PathLike,
    *,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    kind: Literal["classes", "instances"] | None = None,
) -> Volume:
    """Open labels lazily: one channel of integers.

    Parameters
    ----------
    path
        As for :func:`open_volume`.
    axes
        What the axes mean, if the file does not say so; a ``c`` that the labels do not have is ignored, so that the
        image's axes can be given.
    shape, kind
        Extents z, y, x of the image, and whether object ids are wanted or classes: only for files for which
        :func:`needs_grid` is true, others have their own. Those labels are painted in memory, 4 bytes per voxel.

    Raises
    ------
    InputError
        As :func:`open_volume`, and if the values are floating-point numbers or there are several channels, or the file
        needs a shape and none is given.
    """
    source = os.fspath(path)
    if needs_grid(source):
        return _on_grid(source, shape, kind)
    stored = _stored(source, labels=True)
    shape = stored.array.shape
    if stored.array.dtype.kind not in "ui":
        raise InputError(
            f"{source} holds values of type {stored.array.dtype}, but labels must be integers; "
            "convert it to an integer type, or check that it is not the image or a probability map"
        )
    given = axes.lower().replace("c", "") if axes is not None and len(axes.strip()) == len(shape) + 1 else axes
    letters, note = resolve_axes(stored.axes, shape, source=source, given=given, expected_channels=1)
    volume = _volume(stored, letters, note, source, None)
    if volume.channels != 1:
        raise InputError(
            f"{source} has {volume.channels} channels, but labels have one; store the labels as one channel"
        )
    return volume


def read_labels(
    path: PathLike,
    *,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    kind: Literal["classes", "instances"] | None = None,
    planes: Sequence[str] = (),
    name: str = "",
) -> npt.NDArray[Any]:
    """Read labels that are to be annotation; outlines need the planes named that somebody looked at.

    Parameters
    ----------
    path, axes, shape, kind
        As for :func:`open_labels`.
    planes
        ``--planes`` as given; only whether there are any matters here.
    name
        For messages; the path when empty.

    Returns
    -------
    ndarray
        (z, y, x) integers.

    Raises
    ------
    InputError
        As :func:`open_labels`, and if there are outlines on some planes only and no planes are named: the others may be
        background or never looked at.
    """
    values: npt.NDArray[Any] = open_labels(path, axes=axes, shape=shape, kind=kind).read()[0]
    if planes or not needs_grid(path):
        return values
    drawn = ",".join(str(z) for z in np.flatnonzero(values.any(axis=(1, 2))))
    if drawn.count(",") + 1 < len(values):
        raise InputError(
            f"{name or path} has outlines on planes {drawn} of {len(values)}; expected the annotated planes to be "
            f"named, since others may be empty or not looked at; pass --planes {drawn}, or --planes 0: for all"
        )
    return values


def _on_grid(source: str, shape: Sequence[int] | None, kind: Literal["classes", "instances"] | None) -> Volume:
    """Paint labels that have no extents of their own."""
    _stored(source)  # says what is missing or empty
    if shape is None:
        raise InputError(
            f"{source} holds outlines, which do not say the extents of their image; convert them first with "
            "fewslice convert --like IMAGE"
        )
    z, y, x = (int(n) for n in shape)
    return replace(Volume.from_array(_format(source).on_grid(source, (z, y, x), kind)), source=source)


def create_output(
    path: PathLike,
    *,
    shape: Sequence[int],
    channel_names: Sequence[str],
    voxel_size_um: Sequence[float] | None = None,
    origin_um: Sequence[float] = (0.0, 0.0, 0.0),
    dtype: npt.DTypeLike = np.uint8,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    attributes: Mapping[str, Any] | None = None,
    ome_version: str = "0.5",
    overwrite: bool = False,
) -> OutputStore:
    """Create an OME-Zarr image to be written block by block: its first level, filled with 0, no pyramid yet.

    Parameters
    ----------
    path
        ``OUT.ome.zarr``.
    shape
        z, y, x.
    channel_names
        One per channel.
    voxel_size_um, origin_um
        z, y, x in micrometres; without a voxel size lengths stay in voxels.
    dtype
        Of the values.
    chunks, shards
        z, y, x of a chunk of one channel (:data:`DEFAULT_CHUNKS` when None), and of a shard (0.5 only; none when None).
    attributes
        What is stored under ``fewslice`` in the group's attributes; JSON values only.
    ome_version
        "0.5" or "0.4".
    overwrite
        Replace an existing store, which is removed once the new one is in place.

    Returns
    -------
    OutputStore
        Blocks are written with ``.write(box, array)``, then :func:`write_pyramid` completes it.

    Raises
    ------
    InputError
        If it exists and `overwrite` is false, or an argument cannot be used; nothing is changed.
    DiskError
        If the disk refuses the write.
    """
    target = os.fspath(path)
    place = Path(target)
    if place.suffix.lower() != ".zarr":
        raise InputError(f"{target} must be named like OUT.ome.zarr; choose such a name for the output")
    if min(shape) < 1 or len(shape) != 3 or not channel_names:
        raise InputError(
            f"an output of extents {tuple(shape)} with {len(channel_names)} channels was asked for; none may be 0"
        )
    size = None if voxel_size_um is None else check_voxel_size(voxel_size_um)

    def fill(beside: str) -> None:
        ome_zarr.create_image(
            Path(beside), name=_name(place), shape=shape, channel_names=channel_names, voxel_size_um=size,
            origin_um=origin_um, dtype=dtype, chunks=chunks, shards=shards, attributes=attributes, version=ome_version,
        )  # fmt: skip

    _put(target, ome_zarr, fill, overwrite)
    return ome_zarr.open_image(place)


def remove_leftovers(path: PathLike) -> None:
    """Remove the files that an interrupted run left in a store, before any process writes to it again."""
    ome_zarr.remove_leftovers(Path(path))


def open_output(path: PathLike, labels: str | None = None) -> OutputStore:
    """Open a store made by :func:`create_output` (or one of its labels) to go on writing; several processes may.

    Parameters
    ----------
    path
        The store.
    labels
        Name of a label image in it; the image itself when None.

    Raises
    ------
    InputError
        If there is no such store.
    """
    place = Path(path)
    if not place.is_dir():
        raise InputError(f"{place} does not exist; create it first")
    return ome_zarr.open_image(place) if labels is None else ome_zarr.open_label_store(place / "labels" / labels)


def create_labels(
    store_path: PathLike,
    name: str,
    *,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    voxel_size_um: Sequence[float] | None = None,
    origin_um: Sequence[float] = (0.0, 0.0, 0.0),
    attributes: Mapping[str, Any] | None = None,
    colours: Mapping[int, Sequence[int]] | None = None,
    class_names: Mapping[int, str] | None = None,
    overwrite: bool = False,
) -> OutputStore:
    """Create the label image ``labels/<name>`` of an OME-Zarr image, filled with 0, in the image's own version.

    Parameters
    ----------
    store_path
        The image, ours or another program's.
    name
        Name of the labels.
    shape, dtype
        z, y, x, and an integer type.
    chunks, shards, voxel_size_um, origin_um, attributes
        As for :func:`create_output`.
    colours
        Red, green, blue, alpha (0 to 255) per label value.
    class_names
        What each label value stands for.
    overwrite
        Replace labels of that name.

    Returns
    -------
    OutputStore
        Its ``.write(box, array)`` takes z, y, x.

    Raises
    ------
    InputError
        If they exist and `overwrite` is false, or an argument cannot be used.
    DiskError
        If the disk refuses the write.
    """
    size = None if voxel_size_um is None else check_voxel_size(voxel_size_um)
    try:
        return ome_zarr.create_labels(
            Path(store_path), name, shape=shape, dtype=dtype, voxel_size_um=size, origin_um=origin_um, chunks=chunks,
            shards=shards, attributes=attributes, colours=colours, class_names=class_names, overwrite=overwrite,
        )  # fmt: skip
    except FewsliceError:
        raise
    except OSError as error:
        raise disk_error(error, Path(store_path)) from error


def write_pyramid(store_path: PathLike, group: str = "") -> None:
    """Write the coarser levels of an image or label image of ours, block by block; levels that exist are replaced.

    Parameters
    ----------
    store_path
        The store.
    group
        "" for the image, ``labels/<name>`` for labels. Images are reduced by the mean, labels by the commonest value.

    Raises
    ------
    DiskError
        If the disk refuses the write.
    """
    place = Path(store_path)
    ome_zarr.write_pyramid(place / group if group else place)


def save_volume(path: PathLike, volume: Volume, *, ome_version: str = "0.5", overwrite: bool = False) -> None:
    """Write a volume to a new file or store, block by block; the format follows from the name.

    Parameters
    ----------
    path
        ``.ome.zarr``, ``.tif``, ``.ome.tif``, ``file.h5:dataset``, or a folder name ending in ``/``.
    volume
        What is written.
    ome_version
        "0.5" or "0.4", for OME-Zarr.
    overwrite
        Replace what exists; it is removed once the new one is complete.

    Raises
    ------
    InputError
        If it exists and `overwrite` is false, or the format is unknown; nothing is changed.
    DiskError
        If the disk refuses the write.
    """
    _save(os.fspath(path), volume, WriteOptions(ome_version=ome_version), overwrite)


def save_labels(
    path: PathLike,
    labels: npt.NDArray[Any] | Volume,
    *,
    voxel_size_um: Sequence[float] | None = None,
    ome_version: str = "0.5",
    overwrite: bool = False,
) -> None:
    """Write labels to a new file or store, as :func:`save_volume` does, but pyramids take the commonest value.

    Parameters
    ----------
    path
        As for :func:`save_volume`.
    labels
        Integers z, y, x, or a volume of one channel.
    voxel_size_um
        z, y, x in micrometres; the volume's own when None.

    Raises
    ------
    InputError
        If the labels are no integers or have several channels, and as :func:`save_volume`.
    """
    volume = labels if isinstance(labels, Volume) else Volume.from_array(labels)
    if volume.dtype.kind not in "ui" or volume.channels != 1:
        raise InputError(f"labels must be integers in one channel, got {volume.dtype} in {volume.channels}")
    if voxel_size_um is not None:
        volume = replace(volume, voxel_size_um=check_voxel_size(voxel_size_um))
    _save(os.fspath(path), volume, WriteOptions(ome_version=ome_version, is_labels=True), overwrite)


def convert(
    source: PathLike,
    target: PathLike,
    *,
    axes: str | None = None,
    channels: Sequence[int | str] | None = None,
    voxel_size_um: Sequence[float] | None = None,
    is_labels: bool | None = None,
    like: PathLike | None = None,
    kind: Literal["classes", "instances"] | None = None,
    ome_version: str = "0.5",
    overwrite: bool = False,
) -> Volume:
    """Write a volume in another format, block by block, keeping voxel size and channels.

    Parameters
    ----------
    source, target
        Paths as for :func:`open_volume` and :func:`save_volume`.
    axes, channels, voxel_size_um
        As for :func:`open_volume`.
    is_labels
        Whether pyramids take the commonest value instead of the mean; as the source says when None.
    like, kind
        For a source that :func:`needs_grid`: the image it was drawn on, whose extents and voxel size it gets and which
        `axes` is about, and whether object ids are wanted.
    ome_version, overwrite
        As for :func:`save_volume`.

    Returns
    -------
    Volume
        What was written, opened again.

    Raises
    ------
    InputError
        If source and target are the same or one lies in the other, and as :func:`open_volume` and :func:`save_volume`.
    """
    origin, destination = os.fspath(source), os.fspath(target)
    if like is not None and not needs_grid(origin):
        raise InputError(f"{origin} has extents of its own, so --like {like} means nothing for it; leave it out")
    if like is not None:
        image = open_volume(like, axes=axes, voxel_size_um=voxel_size_um)
        painted = open_labels(origin, shape=image.shape, kind=kind)
        volume = replace(painted, voxel_size_um=image.voxel_size_um, origin_um=image.origin_um)
    else:
        volume = open_volume(origin, axes=axes, channels=channels, voxel_size_um=voxel_size_um)
    check_apart(origin, destination)
    labels = _stored(origin).is_labels if is_labels is None else is_labels
    _save(destination, volume, WriteOptions(ome_version=ome_version, is_labels=labels), overwrite)
    return replace(open_volume(destination), axes_note=volume.axes_note)


def check_apart(source: PathLike, target: PathLike) -> None:
    """Refuse to write to `target` if that would replace `source`, something that holds it, or a part of it.

    Parameters
    ----------
    source
        What is read; of ``file.h5:dataset`` the file counts.
    target
        What is to be written.

    Raises
    ------
    InputError
        If target and source are one place, or one lies in the other.
    """
    if is_address(source) or is_address(target):
        return
    read, written = _place(os.fspath(source)).resolve(), _place(os.fspath(target)).resolve()
    if written == read:
        raise InputError(f"{target} is the source itself; choose another output")
    if written in read.parents:
        raise InputError(f"{target} holds the source {source}, which would be lost; choose another output")
    if read in written.parents and read.is_dir():
        raise InputError(f"{target} lies in the source {source}, which would change; choose another output")


def describe(path: PathLike, *, axes: str | None = None) -> dict[str, Any]:
    """Say what is in a file, reading only headers; every value can be stored as JSON.

    Parameters
    ----------
    path
        As for :func:`open_volume`.
    axes
        What the axes mean, if the file does not say so.

    Returns
    -------
    dict
        ``path``, ``format``, ``shape`` and ``axes`` in the file's own order (``?`` where not stated), ``dtype``,
        ``voxel_size_um`` and ``origin_um`` (z, y, x or None), ``channel_names``, ``chunks``, ``shards``, ``bytes`` of
        all values, ``czyx`` (extents as they would be read, or None if the axes can be read in several ways),
        ``note`` (what is unclear or inferred, or None), ``labels`` (name, shape, type of each), ``details`` of
        the format, and ``attributes`` stored by fewslice.

    Raises
    ------
    InputError
        If the file cannot be opened.
    """
    source = os.fspath(path)
    stored = _stored(source)
    try:
        volume: Volume | None = open_volume(source, axes=axes)
        note = volume.axes_note if volume else None
    except InputError as error:
        volume, note = None, str(error)
    shape, dtype = stored.array.shape, np.dtype(stored.array.dtype)
    size = volume.voxel_size_um if volume else None
    if size is None and stored.voxel_size_um and note is None:
        known = ", ".join(f"{a} {v:g}" for a, v in stored.voxel_size_um.items())
        note = f"{source} states the voxel size along some axes only ({known} micrometres), so it counts as unknown."
    return {
        "path": source,
        "format": _kind_name(source),
        "shape": [int(n) for n in shape],
        "axes": stored.axes,
        "dtype": dtype.name,
        "bytes": math.prod(int(n) for n in shape) * dtype.itemsize,
        "czyx": [volume.channels, *volume.shape] if volume else None,
        "voxel_size_um": list(size) if size else None,
        "origin_um": list(volume.origin_um) if volume else None,
        "channel_names": list(volume.channel_names) if volume else list(stored.channel_names),
        "chunks": None if stored.chunks is None else [int(n) for n in stored.chunks],
        "shards": None if stored.shards is None else [int(n) for n in stored.shards],
        "labels": [_describe_labels(source, name) for name in stored.label_names],
        "is_labels": stored.is_labels,
        "note": note,
        "details": stored.details,
        "attributes": stored.attributes,
    }


def _describe_labels(source: str, name: str) -> dict[str, Any]:
    try:
        stored = _stored(f"{source.rstrip('/')}/labels/{name}")
    except InputError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "shape": [int(n) for n in stored.array.shape],
        "dtype": np.dtype(stored.array.dtype).name,
        "attributes": stored.attributes,
    }


def _kind_name(path: str) -> str:
    return next(kind for kind in registry.names("formats") if registry.load("formats", kind).claims(path))


def _name(place: Path) -> str:
    """Name an image after its file, without suffixes."""
    return re.sub(r"(\.ome)?\.[^.]*$", "", place.name) or place.name


def _save(path: str, volume: Volume, options: WriteOptions, overwrite: bool) -> None:
    kind = _format(path)
    if not hasattr(kind, "write"):
        raise InputError(f"{path}: {kind.DESCRIPTION} can be read but not written; choose another format")
    if options.ome_version not in VERSIONS:
        raise InputError(f"OME-Zarr version '{options.ome_version}' cannot be written; choose {' or '.join(VERSIONS)}")
    named = replace(options, name=_name(kind.location(path)))
    _put(path, kind, lambda beside: kind.write(beside, volume, named), overwrite)


def _put(path: str, kind: ModuleType, fill: Callable[[str], None], overwrite: bool) -> None:
    """Let `fill` make a file or folder beside `path`, then rename it into place.

    What exists is moved aside first and removed last, so a failure leaves it as it was.
    """
    if is_address(path):
        raise InputError(f"{path} is an address; results are written to a local or shared disk, so give a path")
    place: Path = kind.location(path)
    above = next(folder for folder in place.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{above} is a file, not a folder, so {path} cannot be written; choose another output")
    if place.exists():
        if not overwrite:
            raise InputError(f"{place} exists; pass --overwrite to replace it, or choose another output")
        if hasattr(kind, "check_overwrite"):
            kind.check_overwrite(path)
    mark = uuid.uuid4().hex[:12]  # other threads, and processes of other machines, write here too
    beside, aside = place.with_name(f".part{mark}.{place.name}"), place.with_name(f".old{mark}.{place.name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fill(str(beside) + (kind.within(path) if hasattr(kind, "within") else ""))
        if place.exists():
            place.rename(aside)
        beside.rename(place)
    except BaseException as error:
        if aside.exists() and not place.exists():
            aside.rename(place)
        _remove(beside)
        if isinstance(error, OSError) and not isinstance(error, FewsliceError):
            raise disk_error(error, place) from error
        raise
    _remove(aside)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _kinds() -> list[ModuleType]:
    return [registry.load("formats", kind) for kind in registry.names("formats")]


def _format(path: str) -> ModuleType:
    """Return the format that is responsible for a path."""
    kinds = _kinds()
    for kind in kinds:
        if kind.claims(path):
            return kind
    known = ", ".join(kind.DESCRIPTION for kind in kinds)
    raise InputError(f"{path} is of an unknown format; expected {known}")


def _stored(path: str, *, labels: bool = False) -> Stored:
    """Open a path, as labels where that makes a difference, with every failure turned into one sentence."""
    if not path:
        raise InputError("an empty path was given; pass the path of an image")
    if is_address(path):
        return _checked(path, _read_address(path))
    try:
        where = Path(path)
        kind = None if where.is_file() else _format_or_none(path)
        where = kind.location(path) if kind else where
        if not where.exists():
            raise InputError(f"{path} does not exist; check the path, which was looked up in {Path.cwd()}")
        if where.is_file() and where.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy it again from its source")
        kind = kind or _format(path)
        stored: Stored = kind.read_labels(path) if labels and hasattr(kind, "read_labels") else kind.read(path)
    except FewsliceError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} may not be read; check its permissions") from error
    except Exception as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason}); check that it is complete and of a known format"
        ) from error
    return _checked(path, stored)


def _read_address(path: str) -> Stored:
    if not ome_zarr.claims(path):
        raise InputError(f"{path} is an address, where only OME-Zarr can be read; copy it to a local disk")
    check_reachable(path)
    try:
        return ome_zarr.read(path)
    except FewsliceError:
        raise
    except Exception as error:  # each kind of address raises its own
        raise refused(path, error) from error


def _checked(path: str, stored: Stored) -> Stored:
    if 0 in stored.array.shape:
        raise InputError(
            f"{path} holds no voxels: its extents are {by(stored.array.shape)}; every axis must be at least 1"
        )
    if np.dtype(stored.array.dtype).kind not in "uif":
        raise InputError(
            f"{path} holds values of type {stored.array.dtype}; expected integers or floating-point numbers"
        )
    return stored


def _place(path: str) -> Path:
    """Return the file or folder on disk that a path lies in."""
    kind = None if Path(path).is_file() else _format_or_none(path)
    place: Path = Path(path) if kind is None else kind.location(path)
    return place


def _format_or_none(path: str) -> ModuleType | None:
    return next((kind for kind in _kinds() if kind.claims(path)), None)


def _volume(stored: Stored, axes: str, note: str | None, source: str, voxel_size_um: Triple | None) -> Volume:
    array = ArrangedArray(stored.array, axes)
    planes = array.shape[1]
    names = stored.channel_names if len(stored.channel_names) == array.shape[0] else ()
    if not names and array.shape[0] == 3 and axes.endswith("yxc"):
        names = ("red", "green", "blue")
    origin = tuple(stored.origin_um.get(axis, 0.0) for axis in "zyx")
    return Volume(
        array,
        voxel_size_um or _voxel_size(stored.voxel_size_um, planes),
        (origin[0], origin[1], origin[2]),
        names,
        source,
        note,
        _spatial(stored.chunks, axes, array.shape),
        stored.label_names,
        stored.attributes,
        () if is_address(source) else stored.files or (_place(source),),
    )


def _voxel_size(stated: dict[str, float], planes: int) -> Triple | None:
    """Return the size z, y, x if the file states it all; a single plane may lack a thickness and gets y's extent."""
    if "y" not in stated or "x" not in stated:
        return None
    if "z" not in stated and planes > 1:
        return None
    return stated.get("z", stated["y"]), stated["y"], stated["x"]


def _spatial(chunks: tuple[int, ...] | None, axes: str, shape: tuple[int, ...]) -> Shape3 | None:
    if chunks is None:
        return None
    extents = dict(zip(axes, chunks, strict=True))
    z, y, x = (min(extents.get(axis, 1), n) for axis, n in zip("zyx", shape[1:], strict=True))
    return z, y, x
