"""A folder of planes: one image file per plane, TIFF, PNG, JPEG or BMP, in natural order of their names."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.formats import Stored, WriteOptions, tiff
from fewslice.formats._cache import CACHE_BYTES, RecentPieces
from fewslice.formats._ngff import is_zarr
from fewslice.formats._planes import iterate_planes
from fewslice.volume import UNKNOWN_AXIS, LazyArray, normalise_index

if TYPE_CHECKING:
    from fewslice.volume import Volume

__all__ = ["DESCRIPTION", "check_overwrite", "claims", "location", "natural_order", "read", "read_labels", "write"]

DESCRIPTION = "a folder of planes (.tif, .png, .jpg, .bmp)"

_TIFF = (".tif", ".tiff")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


def claims(path: str) -> bool:
    """Whether the path is a folder that is no Zarr store, or a new name without suffix."""
    place = Path(path)
    if place.is_dir():
        return not is_zarr(place) and place.suffix.lower() != ".zarr"
    return not place.exists() and path.endswith(("/", "\\"))


def location(path: str) -> Path:
    """Return the path itself."""
    return Path(path)


def check_overwrite(path: str) -> None:
    """Refuse to replace a folder that holds anything but image files."""
    others = [p.name for p in Path(path).iterdir() if p.suffix.lower() not in _TIFF + _PICTURES or not p.is_file()]
    if others:
        raise InputError(
            f"{path} also holds {', '.join(sorted(others)[:3])}, so it is not replaced; choose another folder"
        )


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key in which plane 10 comes after plane 9."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", name.lower()) if t]


def read(path: str) -> Stored:
    """Open a folder; only its listing and the first and last plane's headers are read. Palettes of greys are applied.

    Raises
    ------
    InputError
        If it holds no image files, files of several formats, files that are volumes themselves, or palettes of colours.
    """
    return _read(path, numbers=False)


def read_labels(path: str) -> Stored:
    """Open a folder of labels: as :func:`read`, but what has a palette gives the numbers that it is painted with."""
    return _read(path, numbers=True)


def _read(path: str, *, numbers: bool) -> Stored:
    folder = Path(path)
    files = sorted(
        (
            p
            for p in folder.iterdir()
            if p.suffix.lower() in _TIFF + _PICTURES and not p.name.startswith(".") and p.is_file()
        ),
        key=lambda p: natural_order(p.name),
    )
    if not files:
        raise InputError(
            f"{path} is a folder without image files; expected one {', '.join(_TIFF + _PICTURES)} file per plane"
        )
    suffixes = sorted({p.suffix.lower() for p in files})
    if len({"tiff" if s in _TIFF else "jpeg" if s in (".jpg", ".jpeg") else s for s in suffixes}) > 1:
        raise InputError(f"{path} mixes planes of the formats {' and '.join(suffixes)}; keep one format per folder")
    first = _header(files[0], numbers=numbers)
    if len(files) > 1:
        _same(files[0], first, files[-1], _header(files[-1], numbers=numbers))
    size = dict(first.voxel_size_um)
    size.pop("z", None)  # a plane's own file does not know the distance to the next
    return Stored(
        FolderArray(files, first, numbers=numbers),
        "z" + first.axes,
        size,
        {},
        first.channel_names,
        (1, *(first.chunks or first.array.shape)),
        files=tuple(files),
        details={"files": len(files), "first": files[0].name, "last": files[-1].name},
    )


def _header(file: Path, *, numbers: bool, recent: RecentPieces | None = None) -> Stored:
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty (0 bytes); copy it again from its source")
    if file.suffix.lower() in _TIFF:
        stored = tiff.read(str(file), recent)
        planes = stored.array.shape[stored.axes.index("z")] if "z" in stored.axes else 1
        if UNKNOWN_AXIS in stored.axes or "t" in stored.axes or planes > 1:
            raise InputError(
                f"{file} is a volume of extents {' x '.join(map(str, stored.array.shape))}, but a folder given as an "
                "image holds one plane per file; pass this file, or a quoted pattern for several volumes"
            )
        return _flatten(stored) if "z" in stored.axes else stored
    array = PictureArray(file, numbers=numbers)
    return Stored(array, "yxc" if len(array.shape) == 3 else "yx")


def _flatten(stored: Stored) -> Stored:
    """Drop a z axis of extent 1."""
    axis = stored.axes.index("z")
    if stored.array.shape[axis] != 1:
        raise InputError(
            "a folder given as an image holds one plane per file; pass the files by a quoted pattern instead"
        )
    chunks = None if stored.chunks is None else stored.chunks[:axis] + stored.chunks[axis + 1 :]
    return Stored(
        _Dropped(stored.array, axis),
        stored.axes.replace("z", ""),
        stored.voxel_size_um,
        {},
        stored.channel_names,
        chunks,
    )


class _Dropped:
    """A view without one axis of extent 1."""

    def __init__(self, array: LazyArray, axis: int) -> None:
        self._array, self._axis = array, axis
        self.shape: tuple[int, ...] = array.shape[:axis] + array.shape[axis + 1 :]
        self.dtype: np.dtype[Any] = array.dtype

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        slices, dropped = normalise_index(index, self.shape)
        part = self._array[(*slices[: self._axis], slice(0, 1), *slices[self._axis :])].take(0, axis=self._axis)
        result: npt.NDArray[Any] = part.reshape([n for axis, n in enumerate(part.shape) if axis not in dropped])
        return result


class PictureArray:
    """A PNG, JPEG or BMP; its header is read when made, its pixels when indexed.

    Parameters
    ----------
    file
        The file.
    numbers
        Whether pixels with a palette give their numbers in it, as for labels, instead of its greys.
    """

    def __init__(self, file: Path, *, numbers: bool = False) -> None:
        from PIL import Image, UnidentifiedImageError

        self._file = file
        self._greys: npt.NDArray[np.uint8] | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(file) as picture:
                    mode, (columns, rows) = picture.mode, picture.size
                    palette = picture.getpalette("RGB") if mode == "P" and not numbers else None
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(
                f"{file} is damaged, or too large for its format ({error}); convert the planes to TIFF"
            ) from error
        if mode not in _MODES:
            raise InputError(f"{file} has pixels of the unusual kind '{mode}'; convert the planes to TIFF")
        if palette is not None:
            colours = np.asarray(palette, np.uint8).reshape(-1, 3)
            if (colours != colours[:, :1]).any():
                raise InputError(
                    f"{file} has a palette of colours, whose numbers are no intensities; store the planes as grey or "
                    "RGB images, or give them as labels if they are some"
                )
            self._greys = np.pad(colours[:, 0], (0, 256 - len(colours)))
        name, samples = _MODES[mode]
        self.dtype: np.dtype[Any] = np.dtype(name)
        self.shape: tuple[int, ...] = (rows, columns, samples) if samples > 1 else (rows, columns)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Decode the file and return a part of it."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(self._file) as picture:
                    values = np.asarray(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(
                f"{self._file} is damaged or truncated ({error}); copy it again from its source"
            ) from error
        part = np.asarray(values[index], dtype=self.dtype)
        return part if self._greys is None else self._greys[part]


_MODES = {
    "1": ("uint8", 1),
    "L": ("uint8", 1),
    "P": ("uint8", 1),
    "RGB": ("uint8", 3),
    "RGBA": ("uint8", 4),
    "I;16": ("uint16", 1),
    "I;16B": ("uint16", 1),
    "I": ("int32", 1),
    "F": ("float32", 1),
}


def _same(first_file: Path, first: Stored, file: Path, plane: Stored) -> None:
    have, want = (plane.array.shape, plane.array.dtype), (first.array.shape, first.array.dtype)
    if have != want:
        raise InputError(
            f"{file} has extents {have[0]} of type {have[1]}, but {first_file.name} beside it has {want[0]} of type "
            f"{want[1]}; planes of one volume must agree"
        )


class FolderArray:
    """Planes in separate files as one array; files are opened when read.

    Pictures, and all planes of a folder that fits into memory, are read whole and the last ones kept. Of larger TIFF
    planes only what is asked for is read, strip by strip or tile by tile, and the last of these are kept.

    Parameters
    ----------
    files
        One per plane, in order.
    first
        What the first file's header says; every other must agree with it.
    numbers
        As for :class:`PictureArray`.
    """

    def __init__(self, files: list[Path], first: Stored, *, numbers: bool = False) -> None:
        self._files, self._first, self._numbers = files, first, numbers
        self._recent = RecentPieces()
        self.shape: tuple[int, ...] = (len(files), *first.array.shape)
        self.dtype: np.dtype[Any] = np.dtype(first.array.dtype)
        small = math.prod(self.shape) * self.dtype.itemsize <= CACHE_BYTES
        self._whole = small or files[0].suffix.lower() not in _TIFF

    def _plane(self, number: int, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        file = self._files[number]
        if not file.exists():
            raise InputError(f"{file} has disappeared since its folder was opened; run the command again")
        plane = _header(file, numbers=self._numbers, recent=None if self._whole else self._recent)
        _same(self._files[0], self._first, file, plane)
        return plane.array[slices]

    def _part(self, number: int, slices: tuple[slice, ...]) -> npt.NDArray[Any]:
        if not self._whole:
            return self._plane(number, slices)
        full = tuple(slice(0, n) for n in self.shape[1:])
        return self._recent.get(number, lambda: self._plane(number, full))[slices]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part; only the files of its planes are read."""
        slices, dropped = normalise_index(index, self.shape)
        result = np.empty([s.stop - s.start for s in slices], self.dtype)
        for position, number in enumerate(range(slices[0].start, slices[0].stop)):
            result[position] = self._part(number, slices[1:])
        return result.reshape([n for axis, n in enumerate(result.shape) if axis not in dropped])


def write(path: str, volume: Volume, options: WriteOptions) -> None:
    """Write one TIFF per plane, ``z0000.tif`` and so on; several channels become a trailing c axis.

    Parameters
    ----------
    path
        A folder that does not exist yet.
    volume
        Kept: values, and the extent of a pixel, but not the distance of the planes.
    options
        Not used.
    """
    import tifffile

    folder = Path(path)
    folder.mkdir(parents=True)
    digits = max(4, len(str(volume.shape[0] - 1)))
    size = volume.voxel_size_um
    resolution: dict[str, Any] = (
        {} if size is None else {"resolution": (1e4 / size[2], 1e4 / size[1]), "resolutionunit": "CENTIMETER"}
    )
    planes = iterate_planes(volume)
    for z in range(volume.shape[0]):
        channels = [next(planes) for _ in range(volume.channels)]
        tifffile.imwrite(
            folder / f"z{z:0{digits}d}.tif", np.stack(channels) if len(channels) > 1 else channels[0],
            photometric="minisblack", compression="zlib", metadata={"axes": "CYX" if len(channels) > 1 else "YX"},
            **resolution,
        )  # fmt: skip
