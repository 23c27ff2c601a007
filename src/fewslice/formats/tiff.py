"""TIFF, OME-TIFF and ImageJ TIFF: read lazily, by memory map or strip by strip; written plane by plane."""

from __future__ import annotations

import itertools
import json
import logging
import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.formats import Stored, WriteOptions
from fewslice.formats._cache import RecentPieces
from fewslice.formats._planes import iterate_planes
from fewslice.formats._units import micrometres
from fewslice.volume import UNKNOWN_AXIS, LazyArray, normalise_index

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

    from fewslice.volume import Volume

__all__ = ["DESCRIPTION", "claims", "location", "read", "write"]

DESCRIPTION = "TIFF (.tif, .tiff, .ome.tif)"

_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".svs", ".qptiff")
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIGNS_OF_TRUNCATION = ("invalid page offset", "invalid value offset", "failed to reshape", "truncated")
"""In what tifffile logs."""
_COARSEST_DPI_PIXEL_UM = 10.0
"""Pixels per inch that give a coarser pixel than this are a printer's default (72, 300 dpi), not a measurement."""


def claims(path: str) -> bool:
    """Whether the name or the first four bytes are those of a TIFF."""
    if path.lower().endswith(_SUFFIXES):
        return True
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(4) in _MAGIC


def location(path: str) -> Path:
    """Return the path itself."""
    return Path(path)


def read(path: str, recent: RecentPieces | None = None) -> Stored:
    """Open a TIFF; only headers are read.

    Parameters
    ----------
    path
        The file.
    recent
        Where decoded strips and tiles are kept, if several files are to share that; its own by default.

    Raises
    ------
    InputError
        If it is truncated, damaged or of a type that cannot be used.
    """
    import tifffile

    with _listen() as messages:
        try:
            file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path} is not a readable TIFF ({_short(error)}); check that it was copied completely"
            ) from error
        try:
            stored = _read(path, file, recent or RecentPieces())
        except InputError:
            file.close()
            raise
        except Exception as error:
            file.close()
            raise InputError(
                f"{path} is damaged or truncated ({_short(error)}); copy it again from its source"
            ) from error
    if any(sign in message for message in messages for sign in _SIGNS_OF_TRUNCATION):
        raise InputError(
            f"{path} is truncated: planes that its header announces are missing; copy it again from its source"
        )
    return stored


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


@contextmanager
def _listen() -> Iterator[list[str]]:
    """Collect what tifffile logs in this thread; it reports damage there, and on stderr if nobody listens."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                messages.append(record.getMessage())

    logger, listener = logging.getLogger("tifffile"), Listener()
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    logger.addHandler(listener)
    try:
        yield messages
    finally:
        logger.removeHandler(listener)


def _read(path: str, file: TiffFile, recent: RecentPieces) -> Stored:
    series_list = list(file.series)
    if not series_list:
        raise InputError(f"{path} holds no image; expected a TIFF with at least one page")
    series, parts = _choose(series_list)
    axes, shape = _axes(path, file, series, len(parts))
    if 0 in shape:
        raise InputError(
            f"{path} holds no voxels: its extents are {' x '.join(map(str, shape))}; every axis must be at least 1"
        )
    if np.dtype(series.dtype).kind not in "buif":
        raise InputError(f"{path} holds values of type {series.dtype}; expected integers or floating-point numbers")
    details: dict[str, Any] = {"compression": _compression(series.keyframe.compression)}
    if len(series_list) > len(parts):
        details["images_in_file"] = len(series_list)
    size, channel_names = _metadata(file, series, series_list.index(series))
    attributes = _own_attributes(file)
    keyframe = series.keyframe
    array: LazyArray
    chunks: tuple[int, ...] | None
    own = series.keyframe.parent.filehandle is file.filehandle
    offset = series.dataoffset if len(parts) == 1 and own else None
    if offset is not None and series.dtype.kind != "b":
        dtype = np.dtype(file.byteorder + series.dtype.char)
        array, chunks = _map(path, offset, shape, dtype), None
        file.close()
    else:
        pages = [(part, position) for part in parts for position in range(len(part))]
        array = PagedArray(path, file, pages, shape, recent)
        chunks = (1,) * (len(shape) - len(keyframe.shape)) + tuple(
            min(keyframe.chunks[i], n) if i < len(keyframe.chunks) else n for i, n in enumerate(keyframe.shape)
        )
    place = Path(path)
    files = tuple(sorted(place.parent.glob("*.[tT][iI][fF]*"))) if series.is_multifile else (place,)
    return Stored(array, axes, size, {}, channel_names, chunks, attributes=attributes, files=files, details=details)


def _compression(scheme: int) -> str:
    import tifffile

    try:
        return tifffile.COMPRESSION(scheme).name.lower()
    except ValueError:
        return str(scheme)


def _choose(series_list: list[TiffPageSeries]) -> tuple[TiffPageSeries, list[TiffPageSeries]]:
    """Return the largest image, and the images that are stacked: all if they are planes of one kind, else that one."""
    first = series_list[0]
    if len(series_list) > 1 and all(s.shape == first.shape and s.dtype == first.dtype for s in series_list):
        return first, series_list
    largest = max(series_list, key=lambda s: math.prod(s.shape))
    return largest, [largest]


def _axes(path: str, file: TiffFile, series: TiffPageSeries, stacked: int) -> tuple[str, tuple[int, ...]]:
    """Return our letters and the extents; what tifffile guesses from the shape alone counts as not stated."""
    letters, shape = series.get_axes(False), series.get_shape(False)
    stated = "axes" in (file.shaped_metadata or ({},))[0] if file.is_shaped else True
    if not stated:
        colour = len(shape) >= 3 and shape[-1] in (3, 4)
        known = "yxc" if colour else "yx" if letters.endswith("YX") or len(shape) == 2 else ""
        axes = UNKNOWN_AXIS * (len(shape) - len(known)) + known
    else:
        letters, shape = _drop(path, letters, shape)
        axes = "".join(_letter(a) for a in letters)
    if stacked > 1:
        axes, shape = UNKNOWN_AXIS + axes, (stacked, *shape)
    return axes, tuple(int(n) for n in shape)


def _drop(path: str, letters: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Leave out axes of extent 1 that are none of ours, and an empty c axis beside colour samples."""
    extents = dict(zip(letters, shape, strict=True))
    samples = extents.get("S", 1)
    if samples > 1 and extents.get("C", 1) > 1:
        raise InputError(
            f"{path} has {extents['C']} channels of {samples} colour samples each; "
            "split the colours into channels first"
        )
    kept = [
        (a, n)
        for a, n in zip(letters, shape, strict=True)
        if not (n == 1 and (a not in "CZYX" or (a == "C" and samples > 1)))
    ]
    return "".join(a for a, _ in kept), tuple(n for _, n in kept)


def _letter(letter: str) -> str:
    return "c" if letter == "S" else letter.lower() if letter in "TCZYX" else UNKNOWN_AXIS


def _map(path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> MappedArray:
    have, need = Path(path).stat().st_size, offset + math.prod(shape) * dtype.itemsize
    if have < need:
        raise InputError(
            f"{path} is truncated: it has {have} bytes where {need} are needed; copy it again from its source"
        )
    return MappedArray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape))


class MappedArray:
    """An uncompressed image that the operating system reads as it is touched."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self._values = values
        self.shape: tuple[int, ...] = values.shape
        self.dtype: np.dtype[Any] = values.dtype.newbyteorder("=")

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part into memory, in the machine's byte order."""
        return np.array(self._values[index], dtype=self.dtype)


class PagedArray:
    """A TIFF whose strips or tiles are read and decoded one by one, the last ones kept in memory.

    Parameters
    ----------
    path
        The file, for messages.
    file
        The open file; closed when this array is no longer used.
    pages
        Where to find each page: its series and position there, in C order of the leading axes.
    shape
        Extents of the whole, leading axes first, then those of a page.
    recent
        Where decoded strips and tiles are kept.
    """

    def __init__(
        self,
        path: str,
        file: TiffFile,
        pages: list[tuple[TiffPageSeries, int]],
        shape: tuple[int, ...],
        recent: RecentPieces,
    ) -> None:
        self._path, self._pages = path, pages
        self._key = key = pages[0][0].keyframe
        self._lock = threading.RLock()
        self._recent = recent
        weakref.finalize(self, file.close)
        self.shape: tuple[int, ...] = shape
        stored = np.dtype(key.dtype)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if stored.kind == "b" else stored.newbyteorder("=")
        self._page_axes = _page_axes(shape, len(pages), key.shape)
        if not self._page_axes:
            raise InputError(
                f"{path} is truncated: {len(pages)} pages of {key.shape} do not make {shape}; "
                "copy it again from its source"
            )
        _check_end(path, file, self._page(len(pages) - 1))

    def _page(self, number: int) -> Any:
        series, position = self._pages[number]
        with self._lock:
            page = series[position]
        if page is None:
            raise InputError(f"{self._path} is truncated: its page {number} is missing; copy it again from its source")
        return page

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part; only the strips or tiles that it touches are read and decoded."""
        slices, dropped = normalise_index(index, self.shape)
        lead = len(self.shape) - self._page_axes
        result = np.zeros([s.stop - s.start for s in slices], self.dtype)
        leading = [range(s.start, s.stop) for s in slices[:lead]]
        for position in itertools.product(*leading):
            number = int(np.ravel_multi_index(position, self.shape[:lead])) if lead else 0
            target = tuple(p - s.start for p, s in zip(position, slices[:lead], strict=True))
            self._read_page(number, slices[lead:], result[target])
        return result.reshape([n for axis, n in enumerate(result.shape) if axis not in dropped])

    def _read_page(self, number: int, slices: tuple[slice, ...], target: npt.NDArray[Any]) -> None:
        """Fill `target` with part of a page.

        A page has the axes samples (planar), depth, length, width, samples (interleaved); `shaped` gives their extents,
        of which those that are 1 may be missing in our shape.
        """
        key = self._key
        page_shape = self.shape[len(self.shape) - self._page_axes :]
        full = _match(page_shape, key.shaped, slices)
        page = self._page(number)
        view = target.reshape([s.stop - s.start for s in full])
        for segment in _segments(key, full):
            piece, start = self._segment(number, page, segment)
            inside, outside = [], []
            for s, low, extent in zip(full, start, (1, *piece.shape), strict=True):
                first, last = max(s.start, low), min(s.stop, low + extent)
                inside.append(slice(first - low, max(first, last) - low))
                outside.append(slice(first - s.start, max(first, last) - s.start))
            view[tuple(outside)] = piece[None][tuple(inside)]

    def _segment(self, number: int, page: Any, segment: int) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
        start, shape = _place(self._key, segment)
        key = (self._path, number, segment)
        return self._recent.get(key, lambda: self._decode(number, page, segment, shape)), start

    def _decode(self, number: int, page: Any, segment: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        offset, count = page.dataoffsets[segment], page.databytecounts[segment]
        if not count:
            return np.zeros(shape, self.dtype)
        with self._lock:
            handle = page.parent.filehandle
            elsewhere = handle.closed  # an OME-TIFF whose planes lie in several files
            if elsewhere:
                handle.open()
            handle.seek(offset)
            data = handle.read(count)
            if elsewhere:
                handle.close()
        try:
            if len(data) < count:
                raise ValueError(f"{len(data)} of {count} bytes are there")
            decoded, _, _ = self._key.decode(data, segment, jpegtables=page.jpegtables)
        except Exception as error:  # codecs raise errors of their own kinds
            raise InputError(
                f"{self._path} is damaged or truncated in page {number} ({_short(error)}); "
                "copy it again from its source"
            ) from error
        if decoded is None:
            return np.zeros(shape, self.dtype)
        return np.asarray(decoded[tuple(slice(n) for n in shape)], dtype=self.dtype)


def _page_axes(shape: tuple[int, ...], pages: int, page: tuple[int, ...]) -> int:
    """Return how many of the last axes lie in one page; 0 if the pages do not make the shape.

    Usually as many as a page has axes; axes of extent 1 may stand on either side.
    """
    for count in sorted(range(1, len(shape) + 1), key=lambda n: abs(n - len(page))):
        lead = len(shape) - count
        if math.prod(shape[:lead]) == pages and math.prod(shape[lead:]) == math.prod(page):
            return count
    return 0


def _check_end(path: str, file: TiffFile, page: Any) -> None:
    if page.parent.filehandle is not file.filehandle or not page.databytecounts:
        return
    end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True))
    if end > file.filehandle.size:
        raise InputError(
            f"{path} is truncated: its last plane ends at byte {end} of a file of {file.filehandle.size}; "
            "copy it again from its source"
        )


def _match(shape: tuple[int, ...], full: tuple[int, ...], slices: tuple[slice, ...]) -> tuple[slice, ...]:
    """Put slices of a page's own axes onto its five full axes, the missing ones of extent 1."""
    result: list[slice] = []
    position = 0
    for extent in full:
        if position < len(shape) and shape[position] == extent:
            result.append(slices[position])
            position += 1
        elif extent == 1:
            result.append(slice(0, 1))
        else:
            break
    while position < len(shape) and shape[position] == 1:
        position += 1
    if len(result) != len(full) or position != len(shape):
        raise ValueError(f"page axes {shape} do not match {full}")
    return tuple(result)


def _grid(key: Any) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return extent of a strip or tile along depth, length, width, and how many there are along each."""
    _, depth, length, width, _ = key.shaped
    size = (key.tiledepth, key.tilelength, key.tilewidth) if key.is_tiled else (1, key.rowsperstrip, width)
    counts = tuple(-(-extent // step) for extent, step in zip((depth, length, width), size, strict=True))
    return size, (counts[0], counts[1], counts[2])


def _segments(key: Any, full: tuple[slice, ...]) -> Iterator[int]:
    """List the strips or tiles that a region touches."""
    size, counts = _grid(key)
    ranges = [range(s.start // n, -(-s.stop // n)) for s, n in zip(full[1:4], size, strict=True)]
    for sample in range(full[0].start, full[0].stop):
        for d, row, column in itertools.product(*ranges):
            yield ((sample * counts[0] + d) * counts[1] + row) * counts[2] + column


def _place(key: Any, segment: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where a strip or tile begins on the five full axes, and its extents along the last four."""
    size, counts = _grid(key)
    rest, column = divmod(segment, counts[2])
    rest, row = divmod(rest, counts[1])
    sample, d = divmod(rest, counts[0])
    start = (d * size[0], row * size[1], column * size[2])
    _, *extents, contiguous = key.shaped
    shape = [min(n, extent - low) for n, extent, low in zip(size, extents, start, strict=True)]
    return (sample, *start, 0), (*shape, contiguous)


def _metadata(file: TiffFile, series: TiffPageSeries, position: int) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return voxel size in micrometres per axis, and channel names."""
    if file.is_ome and file.ome_metadata:
        return _ome(file.ome_metadata, position)
    described: dict[str, Any] = {}
    if file.is_imagej:
        described = dict(file.imagej_metadata or {})
    elif file.is_shaped and file.shaped_metadata:
        described = dict(file.shaped_metadata[0])
    unit = described.get("unit")
    size: dict[str, float | None] = {"z": micrometres(described.get("spacing"), unit)}
    tags = series.keyframe.tags
    for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
        size[axis] = _pixel_um(tags.valueof(tag), tags.valueof("ResolutionUnit", 1), unit, described.get(f"{axis}unit"))
    names = described.get("channel_names") or ()
    return _positive(size), tuple(str(n) for n in names)


def _pixel_um(resolution: Any, resolution_unit: Any, unit: str | None, own_unit: str | None) -> float | None:
    """Turn pixels per unit (a rational) into micrometres per pixel."""
    if not resolution or not resolution[0]:
        return None
    length = resolution[1] / resolution[0]
    if unit is not None or own_unit is not None:
        return micrometres(length, own_unit or unit)
    number = int(resolution_unit)
    if number == 3:
        return micrometres(length, "cm")
    if number == 2:
        inch = micrometres(length, "inch")
        return inch if inch is not None and inch <= _COARSEST_DPI_PIXEL_UM else None
    return None


def _positive(size: dict[str, float | None]) -> dict[str, float]:
    return {axis: float(f"{v:.9g}") for axis, v in size.items() if v is not None and math.isfinite(v) and v > 0}


def _ome(text: str, index: int) -> tuple[dict[str, float], tuple[str, ...]]:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}, ()
    images = [e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]
    if not images:
        return {}, ()
    pixels = images[min(index, len(images) - 1)]
    size = {
        axis.lower(): micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "ZYX"
    }
    names = [e.get("Name") for e in pixels if e.tag.rpartition("}")[2] == "Channel"]
    return _positive(size), tuple(n for n in names if n) if all(names) else ()


def _own_attributes(file: TiffFile) -> dict[str, Any]:
    described = (file.shaped_metadata or ({},))[0] if file.is_shaped else file.imagej_metadata if file.is_imagej else {}
    text = (described or {}).get("fewslice")
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def write(path: str, volume: Volume, options: WriteOptions) -> None:
    """Write a volume plane by plane: OME-TIFF, or ImageJ TIFF for a plain ``.tif`` that ImageJ can read.

    Parameters
    ----------
    path
        A file that does not exist yet.
    volume
        Kept: values, voxel size, and in OME-TIFF channel names.
    options
        Labels get a colour table in ImageJ TIFF: 0 black, the next 254 values a colour each, all others white.
    """
    import tifffile

    size = volume.voxel_size_um
    count = math.prod(volume.array.shape) * volume.dtype.itemsize
    described: dict[str, Any] = {"axes": "ZCYX"}
    how: dict[str, Any] = {"bigtiff": count >= 2**31, "compression": "zlib"}
    name = Path(path).name.lower()
    ome = name.endswith((".ome.tif", ".ome.tiff"))
    if not ome and volume.dtype.name in _IMAGEJ_TYPES and count < 2**31:
        how = {"imagej": True}
        described["mode"] = "grayscale"
        if options.is_labels and volume.channels == 1 and volume.dtype.kind == "u":
            described |= {"min": 0.0, "max": 255.0}
            how["extratags"] = [(_COLOUR_MAP, _SHORT, 3 * 256, _label_colours().ravel().tolist(), True)]
    elif volume.dtype.name in _OME_TYPES:
        how["ome"] = True
        described |= {"Channel": {"Name": list(volume.channel_names)}, "UUID": _UUID, "Creator": "fewslice"}
        for axis, value in zip("ZYX", size or (), strict=size is not None):
            described |= {f"PhysicalSize{axis}": value, f"PhysicalSize{axis}Unit": "µm"}
    elif ome:
        raise InputError(
            f"{path} cannot hold values of type {volume.dtype}; name it .tif, or choose OME-Zarr, or convert the values"
        )
    else:
        described["channel_names"] = list(volume.channel_names)
    if "ome" not in how and size is not None:
        described |= {"spacing": size[0], "unit": "um"}
        how["resolution"] = (1 / size[2], 1 / size[1])
    z, y, x = volume.shape
    tifffile.imwrite(
        path,
        iterate_planes(volume),
        shape=(z, volume.channels, y, x),
        dtype=volume.dtype,
        photometric="minisblack",
        metadata=described,
        **how,
    )


_COLOUR_MAP, _SHORT = 320, 3
"""The tag in which ImageJ keeps the colour table of a single channel of 8 or 16 bits, and its type."""


def _label_colours() -> npt.NDArray[np.uint16]:
    """Return 256 colours for labels: red, green and blue along the first axis, 0 to 65535; neighbours differ in hue.

    Hues follow each other by the golden section of the circle, in three degrees of brightness.
    """
    number = np.arange(1, 255)
    hue = number * 0.61803398875 % 1
    value = np.choose(number % 3, [1.0, 0.8, 0.6])
    wheel = np.abs((hue + np.array([[1.0], [2 / 3], [1 / 3]])) % 1 * 6 - 3) - 1
    table = np.zeros((3, 256))
    table[:, 1:255] = value * (0.25 + 0.75 * np.clip(wheel, 0, 1))
    table[:, 255] = 1.0
    return (np.rint(table * 255) * 257).astype(np.uint16)


_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
_OME_TYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")
"""What OME-XML can name."""

_UUID = "00000000-0000-0000-0000-000000000000"
"""The same for every file, so that equal volumes give equal bytes."""
