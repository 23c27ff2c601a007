"""A volume: a lazy array in c, z, y, x order that knows its voxel size, its origin and where it came from.

Axes are worked out here too (:func:`resolve_axes`): from the file's own metadata, else from what the user says, else
from the only reading that fits what is expected.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.geometry import Box, by, cover

__all__ = [
    "UNKNOWN_AXIS",
    "ArrangedArray",
    "LazyArray",
    "Volume",
    "axis_choices",
    "check_axes",
    "check_voxel_size",
    "normalise_index",
    "resolve_axes",
]

UNKNOWN_AXIS = "?"
"""Name of an axis whose meaning the file does not state."""

HASH_WHOLE_BYTES = 32 * 2**20
"""Volumes up to this size are hashed whole, larger ones by samples."""

_HASHED_AT_ONCE = (32, 512, 512)
"""Voxels z, y, x: the same for every format, so that the hash is."""

_STATED_FILES = 100_000

Triple = tuple[float, float, float]
Shape3 = tuple[int, int, int]


@runtime_checkable
class LazyArray(Protocol):
    """An array that reads only what is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one value, in the machine's byte order."""
        ...

    def __getitem__(self, index: tuple[slice, ...], /) -> npt.NDArray[Any]:
        """Read the part that a tuple of slices with step 1 names."""
        ...


def normalise_index(index: Any, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """Spell out an index as one slice of known start and stop per axis.

    Parameters
    ----------
    index
        A slice, an integer, ``...``, or a tuple of them, with step 1.
    shape
        Shape of the array it indexes.

    Returns
    -------
    tuple
        The slices, and the axes that were indexed by an integer and are to be dropped.

    Raises
    ------
    IndexError
        If the index has too many entries, a step, or lies outside.
    """
    entries = index if isinstance(index, tuple) else (index,)
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        fill = (slice(None),) * (len(shape) - len(entries) + 1)
        entries = entries[:at] + fill + entries[at + 1 :]
    entries = entries + (slice(None),) * (len(shape) - len(entries))
    if len(entries) != len(shape):
        raise IndexError(f"index {index} has more entries than the array of shape {shape} has axes")
    slices: list[slice] = []
    dropped: list[int] = []
    for axis, (entry, extent) in enumerate(zip(entries, shape, strict=True)):
        if isinstance(entry, slice):
            start, stop, step = entry.indices(extent)
            if step != 1:
                raise IndexError(f"index {index} has a step of {step}; only contiguous parts can be read")
            slices.append(slice(start, max(start, stop)))
        else:
            position = int(entry)
            position += extent if position < 0 else 0
            if not 0 <= position < extent:
                raise IndexError(f"index {entry} lies outside axis {axis} of extent {extent}")
            slices.append(slice(position, position + 1))
            dropped.append(axis)
    return tuple(slices), tuple(dropped)


class ArrangedArray:
    """A view of a lazy array with its axes brought to c, z, y, x; missing axes have extent 1.

    Parameters
    ----------
    array
        The array in its file's order.
    axes
        One letter of ``czyx`` or ``t`` per axis of `array`. A ``t`` axis must have extent 1; it is left out.
    channels
        Positions along c to keep, in this order; all when None.
    """

    def __init__(self, array: LazyArray, axes: str, channels: Sequence[int] | None = None) -> None:
        self._array = array
        self._axes = axes
        extents = dict(zip(axes, array.shape, strict=True))
        self._channels = tuple(range(extents.get("c", 1))) if channels is None else tuple(channels)
        self.shape: tuple[int, ...] = (len(self._channels), *(extents.get(axis, 1) for axis in "zyx"))
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part; only what the slices name is read from the file."""
        slices, dropped = normalise_index(index, self.shape)
        wanted = self._channels[slices[0]]
        parts = [self._read(slice(low, high), slices[1:]) for low, high in _runs(wanted)]
        if len(parts) == 1:
            result = parts[0]
        elif parts:
            result = np.concatenate(parts)
        else:
            result = np.empty((0, *(s.stop - s.start for s in slices[1:])), self.dtype)
        return result.reshape([n for axis, n in enumerate(result.shape) if axis not in dropped])

    def _read(self, channels: slice, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        wanted = {"c": channels, "t": slice(0, 1), **dict(zip("zyx", slices, strict=True))}
        part = np.asarray(self._array[tuple(wanted[axis] for axis in self._axes)])
        if "t" in self._axes:
            part = part.take(0, axis=self._axes.index("t"))
        present = [axis for axis in self._axes if axis != "t"]
        part = part.transpose([present.index(axis) for axis in "czyx" if axis in present])
        return part.reshape([wanted[axis].stop - wanted[axis].start for axis in "czyx"])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read everything; for NumPy's own functions."""
        return np.asarray(self[...], dtype=dtype)


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Group numbers into runs that can be read at once: ``(0, 1, 2, 5)`` into ``[(0, 3), (5, 6)]``."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def check_voxel_size(values: Sequence[float], what: str = "the voxel size") -> Triple:
    """Return a voxel size as three floats in micrometres, z, y, x.

    Raises
    ------
    InputError
        Unless there are three positive finite numbers.
    """
    numbers = tuple(float(v) for v in values)
    if len(numbers) != 3 or not all(math.isfinite(v) and v > 0 for v in numbers):
        text = ",".join(f"{v:g}" for v in numbers)
        raise InputError(
            f"{what} {text} cannot be used: expected three numbers above 0, z,y,x in micrometres, "
            "for example 2,0.88,0.88"
        )
    return numbers[0], numbers[1], numbers[2]


def check_axes(axes: str, shape: Sequence[int], source: str) -> str:
    """Return axes that a person named, in lower case, after checking that they fit an array of `shape`.

    Raises
    ------
    InputError
        Unless they are different letters out of t, c, z, y, x, one per axis, with y and x among them.
    """
    letters = axes.strip().lower()
    if set(letters) - set("tczyx") or len(set(letters)) != len(letters) or not {"y", "x"} <= set(letters):
        raise InputError(
            f"axes '{axes}' cannot be used: expected different letters out of c, z, y, x with y and x among them"
        )
    if len(letters) != len(shape):
        raise InputError(
            f"axes '{axes}' name {len(letters)} axes but {source} has {len(shape)}, of extents {by(shape)}; "
            "name one letter per axis"
        )
    if "t" in letters and shape[letters.index("t")] != 1:
        raise InputError(
            f"axes '{axes}' give {source} {shape[letters.index('t')]} time points, but a volume is one moment; "
            "split it into one file per time point"
        )
    return letters


def axis_choices(axes: str, shape: Sequence[int]) -> list[str]:
    """List the readings that are possible for axes of which some are unknown.

    Parameters
    ----------
    axes
        One of ``czyx`` or ``?`` per axis, as far as the file states it.
    shape
        Extents, in the same order.

    Returns
    -------
    list of str
        Readings in which z stands before y before x, likelier ones first. Others can be named with ``--axes``.
    """
    count = len(axes)
    usual = {1: [], 2: ["yx"], 3: ["zyx", "cyx", "yxc"], 4: ["zcyx", "czyx", "zyxc"]}.get(count, [])
    if count == 5:
        usual = ["".join(p) for p in itertools.permutations("tczyx") if "".join(a for a in p if a in "zyx") == "zyx"]
    fitting = [u for u in usual if all(have in (UNKNOWN_AXIS, want) for have, want in zip(axes, u, strict=True))]
    return [u for u in fitting if "t" not in u or shape[u.index("t")] == 1]


def resolve_axes(
    axes: str,
    shape: Sequence[int],
    *,
    source: str,
    given: str | None = None,
    expected_shape: Sequence[int] | None = None,
    expected_channels: int | None = None,
) -> tuple[str, str | None]:
    """Decide what the axes of a file mean: its metadata, else what is given, else the only reading that fits.

    Parameters
    ----------
    axes
        What the file's metadata states: one of ``tczyx`` or ``?`` (not stated) per axis.
    shape
        Extents in the file's order.
    source
        The file's name, for messages.
    given
        What the user says, for example ``zcyx``.
    expected_shape
        The z, y, x extents it must have, for example those of its labels.
    expected_channels
        The number of channels it must have, for example that of a model.

    Returns
    -------
    axes, note
        One letter per axis; and one sentence if it was inferred or `given` was not used, else None.

    Raises
    ------
    InputError
        If several readings fit, listing them, or if none does.
    """
    stated = UNKNOWN_AXIS not in axes
    time_points = shape[axes.index("t")] if "t" in axes else 1
    if stated and time_points == 1:
        if given is None or given.strip().lower() == axes:
            return axes, None
        letters = given.strip().lower()
        if (
            sorted(letters) != sorted(set(letters))
            or len(letters) != len(axes)
            or _fits(axes, shape, expected_shape, expected_channels)
        ):
            return axes, f"{source} states its own axes, {axes}, so --axes {given} was not used for it."
        # What the file states cannot be right, so what the user says is.
        return check_axes(
            given, shape, source
        ), f"{source} states the axes {axes}, which do not fit; --axes {given} was used."
    if given is not None:
        return check_axes(given, shape, source), None
    if time_points > 1:
        planes = "" if "z" in axes else f"if these are planes pass --axes {axes.replace('t', 'z')}, else "
        raise InputError(
            f"{source} has {time_points} time points ({axes}, extents {by(shape)}), but a volume is one moment; "
            f"{planes}split it into one file per time point"
        )
    choices = axis_choices(axes, shape)
    fitting = [c for c in choices if _fits(c, shape, expected_shape, expected_channels)]
    if expected_shape is None and expected_channels is None and "zyx" in choices and len(axes) == 3:
        # Three axes without names are planes, rows, columns unless the first could as well be colours.
        fitting = choices if shape[0] <= 4 and "cyx" in choices else ["zyx"]
    if len(fitting) == 1:
        return fitting[0], _note(fitting[0], len(choices), shape, source, expected_shape, expected_channels)
    wanted = _wanted(expected_shape, expected_channels)
    if not fitting:
        readings = f"none of {', '.join(choices)} gives {wanted}" if choices else "it has too few or too many axes"
        raise InputError(
            f"{source} does not state the axes of its extents {by(shape)} and {readings}; "
            "check that the files belong together, or name the axes, for example --axes zcyx"
        )
    fit = f" and {len(fitting)} readings fit {wanted}" if wanted else f" and {len(fitting)} readings are possible"
    raise InputError(
        f"{source} does not state the axes of its extents {by(shape)}{fit}; "
        f"choose one: {' or '.join(f'--axes {c}' for c in fitting)}"
    )


def _fits(axes: str, shape: Sequence[int], expected: Sequence[int] | None, channels: int | None) -> bool:
    extents = dict(zip(axes, shape, strict=True))
    if expected is not None and tuple(expected) != tuple(extents.get(a, 1) for a in "zyx"):
        return False
    return channels is None or extents.get("c", 1) == channels


def _note(
    axes: str, choices: int, shape: Sequence[int], source: str, expected: Sequence[int] | None, channels: int | None
) -> str | None:
    if axes in ("yx", "zyx") or choices == 1:
        return None
    why = _wanted(expected, channels)
    return (
        f"{source} does not state its axes; its extents {by(shape)} were read as {axes}, "
        f"the only reading that gives {why}."
    )


def _wanted(expected: Sequence[int] | None, channels: int | None) -> str:
    parts = []
    if expected is not None:
        parts.append(f"planes, rows and columns of {by(expected)}")
    if channels is not None:
        parts.append(f"{channels} channel{'s' if channels != 1 else ''}")
    return " with ".join(parts)


@dataclass(frozen=True)
class Volume:
    """An image or label volume, opened but not read.

    Attributes
    ----------
    array
        Lazy array in c, z, y, x order. 2D data has one plane, single-channel data one channel.
    voxel_size_um
        Extent of a voxel along z, y, x in micrometres; None if unknown. For a single plane whose file gives no
        thickness, z repeats y.
    origin_um
        Position of the centre of voxel (0, 0, 0), z, y, x in micrometres.
    channel_names
        One name per channel.
    source
        Path it was opened from; empty for arrays in memory.
    axes_note
        One sentence on how the axes were inferred, to be shown to the user; None if nothing had to be.
    chunks
        Extent along z, y, x of what the file reads at once; None if unknown or contiguous.
    label_names
        Names under ``labels/`` of an OME-Zarr image.
    attributes
        What fewslice itself stored with it (empty for foreign files).
    files
        Files and folders on disk that hold its values; none for arrays in memory and at addresses.
    """

    array: LazyArray
    voxel_size_um: Triple | None = None
    origin_um: Triple = (0.0, 0.0, 0.0)
    channel_names: tuple[str, ...] = ()
    source: str = ""
    axes_note: str | None = None
    chunks: Shape3 | None = None
    label_names: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict, compare=False)
    files: tuple[Path, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Refuse arrays that are not c, z, y, x and fill in channel names."""
        if len(self.array.shape) != 4:
            raise InputError(f"a volume needs the axes c, z, y, x, got an array of shape {tuple(self.array.shape)}")
        if min(self.array.shape) < 1:
            raise InputError(
                f"{self.source or 'the array'} holds no voxels: its extents c, z, y, x are {by(self.array.shape)}; "
                "every axis must be at least 1"
            )
        if self.voxel_size_um is not None:
            object.__setattr__(self, "voxel_size_um", check_voxel_size(self.voxel_size_um))
        if not self.channel_names:
            object.__setattr__(self, "channel_names", tuple(f"channel_{i}" for i in range(self.channels)))
        if len(self.channel_names) != self.channels:
            raise InputError(
                f"{self.source or 'the volume'} has {self.channels} channels "
                f"but {len(self.channel_names)} channel names; give one name per channel"
            )

    @classmethod
    def from_array(
        cls,
        array: npt.NDArray[Any],
        voxel_size_um: Sequence[float] | None = None,
        channel_names: Sequence[str] = (),
        origin_um: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Volume:
        """Wrap an array in memory, without copying.

        Parameters
        ----------
        array
            In c, z, y, x; z, y, x; or y, x order.
        voxel_size_um, origin_um
            Along z, y, x, in micrometres.
        channel_names
            One per channel; ``channel_0`` and so on when empty.

        Raises
        ------
        InputError
            If the array has fewer than 2 or more than 4 axes, or an axis of extent 0.

        Examples
        --------
        >>> Volume.from_array(np.zeros((2, 5, 8, 8), np.uint8), voxel_size_um=(2, 0.88, 0.88)).shape
        (5, 8, 8)
        """
        values = np.asarray(array)
        if not 2 <= values.ndim <= 4:
            raise InputError(
                f"a volume is made from c, z, y, x or z, y, x or y, x; got an array of shape {values.shape}"
            )
        values = values.reshape((1,) * (4 - values.ndim) + values.shape)
        size = None if voxel_size_um is None else check_voxel_size(voxel_size_um)
        z, y, x = (float(v) for v in origin_um)
        return cls(values, size, (z, y, x), tuple(channel_names))

    @property
    def shape(self) -> Shape3:
        """Planes, rows and columns: z, y, x."""
        _, z, y, x = self.array.shape
        return int(z), int(y), int(x)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one value."""
        return np.dtype(self.array.dtype)

    def read(self, box: Box | None = None, channels: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """Read a region into memory.

        Parameters
        ----------
        box
            Region along z, y, x, inside the volume; the whole when None, which needs memory for all of it.
        channels
            Positions of the channels to read, in this order; all when None.

        Returns
        -------
        ndarray
            c, z, y, x, of the volume's type; it may share memory with the file or array and is not to be written to.

        Raises
        ------
        InputError
            If the box leaves the volume, or the file is damaged there.
        """
        region = Box.of(self.shape) if box is None else box
        if len(region.start) != 3 or region != region.clip(self.shape):
            raise InputError(f"box {region.start} to {region.stop} leaves the volume of extents {by(self.shape)}")
        if channels is None:
            return np.asarray(self.array[(slice(0, self.channels), *region.slices)])
        parts = [np.asarray(self.array[(slice(a, b), *region.slices)]) for a, b in _runs([int(c) for c in channels])]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_mirrored(self, box: Box) -> npt.NDArray[Any]:
        """Read a box (c, z, y, x) that may reach beyond the volume, mirrored about its outermost voxels there."""
        places = []
        for low, high, extent in zip(box.start, box.stop, self.shape, strict=True):
            period = max(2 * (extent - 1), 1)
            place = np.arange(low, high) % period
            places.append(np.minimum(place, period - place) if extent > 1 else np.zeros_like(place))
        inside = Box(tuple(int(p.min()) for p in places), tuple(int(p.max()) + 1 for p in places))
        values = self.read(inside)
        if inside == box:
            return values
        for axis, (place, start) in enumerate(zip(places, inside.start, strict=True)):
            values = values.take(place - start, axis=1 + axis)
        return values

    def with_channels(self, channels: Sequence[int | str]) -> Volume:
        """Return the volume with only these channels, by position (from 0) or name, in this order.

        Raises
        ------
        InputError
            If there is no such channel.
        """
        chosen = [self._channel(c) for c in channels]
        if not chosen:
            raise InputError(
                f"no channel of {self.source or 'the volume'} is chosen; choose out of {self._channel_list()}"
            )
        names = tuple(self.channel_names[c] for c in chosen)
        return replace(self, array=ArrangedArray(self.array, "czyx", chosen), channel_names=names)

    def _channel(self, channel: int | str) -> int:
        text = str(channel)
        if text in self.channel_names:
            return self.channel_names.index(text)
        if text.isdecimal() and int(text) < self.channels:
            return int(text)
        raise InputError(
            f"{self.source or 'the volume'} has no channel '{channel}'; choose out of {self._channel_list()}"
        )

    def _channel_list(self) -> str:
        return ", ".join(f"{i} ({name})" for i, name in enumerate(self.channel_names))

    def content_hash(self, *, whole: bool = False) -> str:
        """Return a SHA-256 hash of shape, type and values, the same for the same voxels in any format.

        Volumes up to 32 MiB are hashed whole. Of larger ones, 64 x 64 voxels are sampled at fixed pseudo-random places
        on 16 planes, and the first and last voxels, so that it stays cheap for a terabyte; see :meth:`files_hash`.

        Parameters
        ----------
        whole
            Read all of it, block by block, whatever its size.
        """
        digest = hashlib.sha256(f"{self.array.shape} {self.dtype.newbyteorder('<').str}".encode())
        for box in self._hash_boxes(whole=whole):
            values = np.ascontiguousarray(self.read(box), dtype=self.dtype.newbyteorder("<"))
            digest.update(values.tobytes())
        return digest.hexdigest()

    def files_hash(self) -> str | None:
        """Return a SHA-256 hash of names, sizes and times of the files whose values :meth:`content_hash` only samples.

        It changes where a file is written again, also with the same values, and where it is copied without its times.
        Of a store of more than 100,000 files the folders count instead of the files beyond.

        Returns
        -------
        str or None
            None for volumes that are hashed whole, in memory, or at an address.
        """
        if not self.files or self._is_small:
            return None
        digest = hashlib.sha256()
        for place in self.files:
            for entry in _file_facts(place):
                digest.update(repr(entry).encode())
        return digest.hexdigest()

    @property
    def _is_small(self) -> bool:
        return math.prod(self.array.shape) * self.dtype.itemsize <= HASH_WHOLE_BYTES

    def _hash_boxes(self, *, whole: bool) -> list[Box]:
        z, y, x = self.shape
        if self._is_small:
            return [Box((i, 0, 0), (i + 1, y, x)) for i in range(z)]
        if whole:
            return [block.write for block in cover(self.shape, _HASHED_AT_ONCE, (0, 0, 0))]
        rng = np.random.Generator(np.random.PCG64(0))
        boxes = [Box((0, 0, 0), (1, 1, 1)), Box((z - 1, y - 1, x - 1), (z, y, x))]
        for plane in np.unique(np.linspace(0, z - 1, 16).round().astype(int)):
            row, column = (int(rng.integers(0, max(1, extent - 63))) for extent in (y, x))
            start = (int(plane), row, column)
            boxes.append(Box(start, (start[0] + 1, row + 64, column + 64)).clip(self.shape))
        return boxes


def _file_facts(place: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, bytes and time of change of a file, or of all files in a folder."""
    if not place.is_dir():
        yield _facts_of(place, place.name)
        return
    count = 0
    for folder, folders, names in os.walk(place):
        folders.sort()
        inside, within = Path(folder), os.path.relpath(folder, place)
        stated = sorted(names)[: max(_STATED_FILES - count, 0)]
        yield from (_facts_of(inside / name, f"{within}/{name}") for name in stated)
        if len(stated) < len(names):
            yield _facts_of(inside, within)
        count += len(names)


def _facts_of(path: Path, name: str) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be looked at ({error.strerror}); check the image it belongs to") from error
    return name, found.st_size, found.st_mtime_ns
