"""Opening volumes of any format, and storing them: the one place that turns a path into a :class:`Volume` and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import registry
from fewslice.errors import FewsliceError, InputError
from fewslice.formats import Stored
from fewslice.volume import ArrangedArray, LazyArray, Shape3, Triple, Volume, check_voxel_size, resolve_axes

__all__ = ["open_labels", "open_volume"]

PathLike = str | os.PathLike[str]


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
    count = None if channels is not None else expected_channels
    letters, note = resolve_axes(
        stored.axes, stored.array.shape, source=source, given=axes, expected_shape=expected_shape, expected_channels=count
    )
    volume = _volume(stored, letters, note, source, size)
    return volume if channels is None else volume.with_channels(channels)


def open_labels(path: PathLike, *, axes: str | None = None) -> Volume:
    """Open labels lazily: one channel of integers.

    Parameters
    ----------
    path
        As for :func:`open_volume`.
    axes
        What the axes mean, if the file does not say so; a ``c`` that the labels do not have is ignored, so that the
        image's axes can be given.

    Raises
    ------
    InputError
        As :func:`open_volume`, and if the values are floating-point numbers or there are several channels.
    """
    source = os.fspath(path)
    stored = _stored(source)
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
        raise InputError(f"{source} has {volume.channels} channels, but labels have one; store the labels as one channel")
    return volume


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


def _stored(path: str) -> Stored:
    """Open a path, with every failure turned into one sentence."""
    if "://" in path:
        raise InputError(f"{path} is an address; copy the data to a local disk and pass the path")
    if not path:
        raise InputError("an empty path was given; pass the path of an image")
    try:
        where = Path(path)
        kind = None if where.is_file() else _format_or_none(path)
        where = kind.location(path) if kind else where
        if not where.exists():
            raise InputError(f"{path} does not exist; check the path, which was looked up in {Path.cwd()}")
        if where.is_file() and where.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy it again from its source")
        stored: Stored = (kind or _format(path)).read(path)
    except FewsliceError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} may not be read; check its permissions") from error
    except Exception as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); check that it is complete and of a known format") from error
    if 0 in stored.array.shape:
        extents = " x ".join(str(n) for n in stored.array.shape)
        raise InputError(f"{path} holds no voxels: its extents are {extents}; every axis must be at least 1")
    if np.dtype(stored.array.dtype).kind not in "uif":
        raise InputError(f"{path} holds values of type {stored.array.dtype}; expected integers or floating-point numbers")
    return stored


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
