"""OME-Zarr 0.5 and 0.4: images, their pyramids, and label images inside them.

Reading goes through tensorstore (several times faster on boxes) and, for codecs it lacks, zarr. Writing goes through
zarr, whole chunks at a time, and nothing in it changes from run to run: equal values give equal files.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import DiskError, InputError
from fewslice.files import disk_error
from fewslice.formats import Stored, WriteOptions
from fewslice.formats import _ngff as ngff
from fewslice.formats._planes import block_shape
from fewslice.formats._reduce import halve_mean, halve_mode, level_factors
from fewslice.formats._remote import is_remote, open_remote_array, place_of
from fewslice.formats._units import micrometres
from fewslice.geometry import Box, cover
from fewslice.volume import UNKNOWN_AXIS

if TYPE_CHECKING:
    from fewslice.volume import Volume

__all__ = [
    "DEFAULT_CHUNKS",
    "DESCRIPTION",
    "OutputStore",
    "Reduction",
    "begin_pyramid",
    "check_overwrite",
    "checksums",
    "claims",
    "create_image",
    "create_labels",
    "create_level",
    "describe_pyramid",
    "location",
    "open_image",
    "open_label_store",
    "open_reduction",
    "read",
    "remove_leftovers",
    "write",
    "write_pyramid",
]

DESCRIPTION = "OME-Zarr (.ome.zarr, .zarr)"
DEFAULT_CHUNKS = (32, 128, 128)
"""Voxels z, y, x of one channel per chunk."""

Triple = tuple[float, float, float]


def claims(path: str) -> bool:
    """Whether the name ends in ``.zarr``, or the path is a Zarr group or array or lies inside a ``.zarr`` folder."""
    if path.rstrip("/\\").lower().endswith(".zarr") or (is_remote(path) and ".zarr/" in path.lower()):
        return True
    if is_remote(path):
        return False
    return ngff.is_zarr(Path(path)) or any(part.lower().endswith(".zarr") for part in Path(path).parts[:-1])


def location(path: str) -> Path:
    """Return the path itself, which may be an address."""
    return place_of(path)


def check_overwrite(path: str) -> None:
    """Refuse to replace a folder that is no Zarr store."""
    folder = Path(path)
    if not folder.is_dir() or not (ngff.is_zarr(folder) or not any(folder.iterdir())):
        raise InputError(f"{path} exists and is no Zarr store, so it is not replaced; choose another output")


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: str) -> Stored:
    """Open an OME-Zarr image, a label image inside one, or a plain Zarr array.

    Raises
    ------
    InputError
        If its metadata or its first level is missing or damaged.
    """
    folder = place_of(path)
    if not ngff.is_zarr(folder):
        raise InputError(
            f"{path} is not a Zarr store: it has neither zarr.json nor .zgroup; check that it was copied completely"
        )
    if (folder / ".zarray").is_file() or _node_type(folder) == "array":
        return _read_array(folder)
    attributes = ngff.read_attributes(folder)
    ome = attributes.get("ome", attributes)
    if "multiscales" not in ome and "bioformats2raw.layout" in ome and (folder / "0").is_dir():
        folder = folder / "0"
        attributes = ngff.read_attributes(folder)
        ome = attributes.get("ome", attributes)
    if not ome.get("multiscales"):
        inside = sorted(child.name for child in folder.iterdir() if child.is_dir() and ngff.is_zarr(child))
        listed = f"; it contains {', '.join(inside[:8])}, of which one could be meant" if inside else ""
        raise InputError(f"{path} holds no OME-Zarr image: its metadata has no multiscales{listed}")
    try:
        return _read_image(folder, attributes, ome)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path} has OME-Zarr metadata that cannot be used ({error!r}); write it again") from error


def _node_type(folder: Path) -> str:
    document = folder / "zarr.json"
    return str(ngff.read_document(document).get("node_type", "")) if document.is_file() else ""


def _read_image(folder: Path, attributes: dict[str, Any], ome: dict[str, Any]) -> Stored:
    image = ome["multiscales"][0]
    first = folder / image["datasets"][0]["path"]
    array = ZarrArray(first)
    names, units = _axis_names(image, len(array.shape))
    scale, origin = _transform(image, len(names))
    letters = "".join(n if n in ("t", "c", "z", "y", "x") else UNKNOWN_AXIS for n in names)
    size, start = {}, {}
    for axis, unit, value, shift in zip(letters, units, scale, origin, strict=True):
        length = micrometres(value, unit)
        if axis in "zyx" and length is not None and np.isfinite(length) and length > 0:
            size[axis] = length
            start[axis] = micrometres(shift, unit) or 0.0
    channels = (ome.get("omero") or {}).get("channels") or []
    labels = [c.get("label") for c in channels]
    version = str(attributes["ome"].get("version", "0.5") if "ome" in attributes else image.get("version", "0.1"))
    details = {
        "version": version,
        "levels": [list(ZarrArray(folder / d["path"]).shape) for d in image["datasets"]],
        **array.details,
    }
    if "type" in image:
        details["pyramid"] = image["type"]
    return Stored(
        array,
        letters,
        size,
        start,
        tuple(str(label) for label in labels) if labels and all(labels) else (),
        array.chunks,
        array.shards,
        _label_names(folder),
        "image-label" in ome or bool(attributes.get("fewslice", {}).get("labels")),
        dict(attributes.get("fewslice", {})),
        () if is_remote(str(folder)) else (first,),
        details,
    )


def _axis_names(image: dict[str, Any], count: int) -> tuple[list[str], list[str | None]]:
    axes = image.get("axes")
    if axes is None:  # versions 0.1 and 0.2
        return list("tczyx"[-count:]), [None] * count
    names = [a if isinstance(a, str) else str(a["name"]) for a in axes]
    units = [None if isinstance(a, str) else a.get("unit") for a in axes]
    if len(names) != count:
        raise KeyError(f"{len(names)} axes for an array of {count}")
    return [n.lower() for n in names], units


def _transform(image: dict[str, Any], count: int) -> tuple[list[float], list[float]]:
    """Combine the first level's scale and translation with those of the whole image."""
    scale, origin = [1.0] * count, [0.0] * count
    steps = list(image["datasets"][0].get("coordinateTransformations") or [])
    for step in steps + list(image.get("coordinateTransformations") or []):
        if step.get("type") == "scale" and "scale" in step:
            scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
            origin = [a * float(b) for a, b in zip(origin, step["scale"], strict=True)]
        elif step.get("type") == "translation" and "translation" in step:
            origin = [a + float(b) for a, b in zip(origin, step["translation"], strict=True)]
    return scale, origin


def _label_names(folder: Path) -> tuple[str, ...]:
    labels = folder / "labels"
    if not labels.is_dir() or not ngff.is_zarr(labels):
        return ()
    attributes = ngff.read_attributes(labels)
    return tuple(attributes.get("ome", attributes).get("labels") or ())


def _read_array(folder: Path) -> Stored:
    array = ZarrArray(folder)
    names: Sequence[str | None] = (None,) * len(array.shape)
    if (folder / "zarr.json").is_file():
        names = ngff.read_document(folder / "zarr.json").get("dimension_names") or names
    axes = "".join(n.lower() if n is not None and n.lower() in tuple("tczyx") else UNKNOWN_AXIS for n in names)
    return Stored(array, axes, chunks=array.chunks, shards=array.shards, details=array.details)


class ZarrArray:
    """A Zarr array opened for reading.

    Parameters
    ----------
    folder
        The array's folder.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        name = next((n for n in ("zarr.json", ".zarray") if (folder / n).is_file()), None)
        if name is None:
            raise InputError(
                f"{folder} is missing although the store's metadata names it; copy the store again from its source"
            )
        document = ngff.read_document(folder / name)
        if document.get("node_type", "array") != "array":
            raise InputError(f"{folder} is a group where an array is expected; name one of the arrays in it")
        self._values = _open(folder, 3 if name == "zarr.json" else 2)
        self.shape: tuple[int, ...] = tuple(int(n) for n in self._values.shape)
        stored = self._values.dtype
        dtype = np.dtype(stored if isinstance(stored, np.dtype) else stored.numpy_dtype)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
        self.chunks, self.shards, codec = _layout(document)
        self.details: dict[str, Any] = {"compression": codec}

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part; only the chunks that it touches are read."""
        try:
            values = self._values[index]
            values = values.read().result() if hasattr(values, "read") else values
            return np.asarray(values, dtype=self.dtype)
        except IndexError:
            raise
        except Exception as error:  # codecs raise errors of their own kinds
            reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
            raise InputError(
                f"{self._folder} has a chunk that is damaged or truncated ({reason}); "
                "copy the store again from its source"
            ) from error


def _open(folder: Path, zarr_format: int) -> Any:
    """Open with tensorstore, or with zarr if tensorstore lacks the codec or the store lies at an address."""
    if is_remote(str(folder)):
        return open_remote_array(folder, zarr_format)
    import tensorstore

    driver = "zarr3" if zarr_format == 3 else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder.absolute().as_posix()}/"}}
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except Exception as first:  # tensorstore raises ValueError, NotImplementedError and others
        import zarr

        try:
            return zarr.open_array(folder, mode="r", zarr_format=2 if zarr_format == 2 else 3)
        except Exception:
            reason = str(first).splitlines()[0][:150]
            raise InputError(f"{folder} cannot be opened as a Zarr array ({reason}); write it again") from first


def _layout(document: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...] | None, str]:
    """Return chunk and shard extents and the compressor's name, from the array's metadata."""
    if "chunks" in document:
        return tuple(document["chunks"]), None, str((document.get("compressor") or {}).get("id", "none"))
    chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    codecs, shards = document.get("codecs") or [], None
    if codecs and codecs[0].get("name") == "sharding_indexed":
        shards, chunks = chunks, tuple(codecs[0]["configuration"]["chunk_shape"])
        codecs = codecs[0]["configuration"].get("codecs") or []
    names = [str(c.get("name")) for c in codecs if c.get("name") not in ("bytes", "transpose", "crc32c")]
    return chunks, shards, ", ".join(names) or "none"


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputStore:
    """An image (c, z, y, x) or label image (z, y, x) that is written block by block.

    Attributes
    ----------
    path
        The group's folder.
    array
        Its first level, a zarr array.
    axes
        ``czyx`` or ``zyx``.
    """

    path: Path
    array: Any
    axes: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Planes, rows, columns."""
        z, y, x = self.array.shape[-3:]
        return int(z), int(y), int(x)

    @property
    def unit(self) -> tuple[int, int, int]:
        """Voxels z, y, x of what may be written at once: a chunk, or a shard where there are shards."""
        z, y, x = (self.array.shards or self.array.chunks)[-3:]
        return int(z), int(y), int(x)

    @property
    def attributes(self) -> dict[str, Any]:
        """What fewslice stored with it."""
        return dict(ngff.read_attributes(self.path).get("fewslice", {}))

    def set_attributes(self, values: Mapping[str, Any]) -> None:
        """Replace what fewslice stored with it, atomically.

        Raises
        ------
        DiskError
            If the disk refuses the write.
        """
        ome, others, version = _split(self.path)
        ngff.write_group(self.path, version, ome, {**others, "fewslice": dict(values)})

    @property
    def name(self) -> str:
        """Name of the array in its group: the level of the pyramid."""
        return str(self.array.path or self.array.basename or "0").rpartition("/")[2]

    def write(self, box: Box, values: npt.NDArray[Any]) -> list[int]:
        """Write one block and return a checksum for each of its units; see :func:`checksums`.

        Parameters
        ----------
        box
            Region along z, y, x. It begins on a multiple of `unit` and ends on one or at the end of the volume, so that
            blocks written at the same time never share a chunk.
        values
            c, z, y, x for an image, z, y, x for labels, of the array's type.

        Raises
        ------
        InputError
            If box, extents or type do not fit.
        DiskError
            If the disk refuses the write.
        """
        expected = (*self.array.shape[:-3], *box.shape)
        if tuple(values.shape) != expected or values.dtype != self.array.dtype:
            raise InputError(
                f"a block of extents {tuple(values.shape)} and type {values.dtype} was given for {self.path}; "
                f"expected {expected} and {self.array.dtype}"
            )
        if not _aligned(box, self.shape, self.unit):
            raise InputError(
                f"block {box.start} to {box.stop} of {self.path} does not consist of whole chunks of {self.unit}; "
                "align blocks to them"
            )
        lead = (slice(None),) * (len(self.axes) - 3)
        try:
            self.array[(*lead, *box.slices)] = values
        except OSError as error:
            raise disk_error(error, self.path) from error
        return checksums(values, self.unit)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Read a region back: c, z, y, x for an image, z, y, x for labels."""
        lead = (slice(None),) * (len(self.axes) - 3)
        return np.asarray(self.array[(*lead, *box.slices)])


def checksums(values: npt.NDArray[Any], unit: Sequence[int]) -> list[int]:
    """Return the CRC-32 of every chunk of a block, before compression.

    They tell a chunk that was lost from one that holds only 0 and is therefore not stored.

    Parameters
    ----------
    values
        (c, z, y, x) or (z, y, x), beginning on a multiple of `unit`.
    unit
        (z, y, x) of a chunk or shard.

    Returns
    -------
    list of int
        One per channel and chunk, in C order.
    """
    channels = values.reshape((-1, *values.shape[-3:])).astype(values.dtype.newbyteorder("<"), copy=False)
    cells = cover(values.shape[-3:], unit, (0, 0, 0))
    return [zlib.crc32(np.ascontiguousarray(one[cell.write.slices]).data) for one in channels for cell in cells]


def _aligned(box: Box, shape: Sequence[int], unit: Sequence[int]) -> bool:
    inside = box == box.clip(shape)
    starts = all(low % n == 0 for low, n in zip(box.start, unit, strict=True))
    ends = all(high % n == 0 or high == extent for high, n, extent in zip(box.stop, unit, shape, strict=True))
    return inside and starts and ends


def create_image(
    folder: Path,
    *,
    name: str,
    shape: Sequence[int],
    channel_names: Sequence[str],
    voxel_size_um: Sequence[float] | None,
    origin_um: Sequence[float] = (0.0, 0.0, 0.0),
    dtype: npt.DTypeLike = np.uint8,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    attributes: Mapping[str, Any] | None = None,
    version: str = "0.5",
) -> OutputStore:
    """Create an image with its first level only, filled with 0; the folder must not exist.

    Parameters and exceptions are those of :func:`fewslice.io.create_output`.
    """
    _check_version(version)
    ngff.write_group(folder, version, {}, {"fewslice": dict(attributes or {})})
    array = _create_array(folder / "0", "czyx", (len(channel_names), *shape), np.dtype(dtype), chunks, shards, version)
    ome = {
        "multiscales": ngff.multiscales(version, name, "czyx", voxel_size_um, origin_um, [(1, 1, 1)], None),
        "omero": ngff.omero(channel_names, np.dtype(dtype)),
    }
    ngff.write_group(folder, version, ome, {"fewslice": dict(attributes or {})})
    return OutputStore(folder, array, "czyx")


def create_labels(
    image: Path,
    name: str,
    *,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    voxel_size_um: Sequence[float] | None,
    origin_um: Sequence[float] = (0.0, 0.0, 0.0),
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    attributes: Mapping[str, Any] | None = None,
    colours: Mapping[int, Sequence[int]] | None = None,
    class_names: Mapping[int, str] | None = None,
    overwrite: bool = False,
) -> OutputStore:
    """Create a label image, filled with 0, under an OME-Zarr image and list it there.

    Parameters and exceptions are those of :func:`fewslice.io.create_labels`.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise InputError(f"'{name}' cannot name a label image; use letters, digits, '_', '-' and '.'")
    if not image.is_dir() or not ngff.is_zarr(image):
        raise InputError(f"{image} is not an OME-Zarr image, so no labels can be stored in it; create the image first")
    if np.dtype(dtype).kind not in "ui":
        raise InputError(f"labels of type {np.dtype(dtype)} were asked for in {image}; labels are integers")
    version = ngff.group_version(image)
    folder = image / "labels" / name
    if folder.exists():
        if not overwrite:
            raise InputError(f"{folder} exists; pass --overwrite to replace it, or choose another name")
        shutil.rmtree(folder)
    ome = {
        "multiscales": ngff.multiscales(version, name, "zyx", voxel_size_um, origin_um, [(1, 1, 1)], None),
        "image-label": ngff.image_label(version, colours, class_names, True),
    }
    ngff.write_group(folder, version, ome, {"fewslice": dict(attributes or {})})
    array = _create_array(folder / "0", "zyx", tuple(shape), np.dtype(dtype), chunks, shards, version)
    listed = _label_names(image)
    if name not in listed:
        parent = image / "labels"
        known, others, _ = _split(parent) if ngff.is_zarr(parent) else ({}, {}, version)
        ngff.write_group(parent, version, {**known, "labels": sorted({*listed, name})}, others)
    return OutputStore(folder, array, "zyx")


def open_image(folder: Path, level: int = 0) -> OutputStore:
    """Open an image of ours for further writing, or a level of its pyramid."""
    return _reopen(folder, "czyx", level)


def open_label_store(folder: Path, level: int = 0) -> OutputStore:
    """Open a label image of ours for further writing, or a level of its pyramid."""
    return _reopen(folder, "zyx", level)


def remove_leftovers(folder: Path) -> None:
    """Remove the files that interrupted writes left in a store. Nobody else may be writing to it."""
    for left in (*folder.rglob("*.partial"), *folder.rglob(".*.part")):
        left.unlink(missing_ok=True)


def _reopen(folder: Path, axes: str, level: int) -> OutputStore:
    import zarr

    if not ngff.is_zarr(folder / str(level)):
        raise InputError(f"{folder} is not a store that can be written on; choose another output")
    array = zarr.open_array(folder / str(level), mode="r+")
    if array.ndim != len(axes):
        raise InputError(f"{folder} has {array.ndim} axes where {axes} are expected; choose another output")
    return OutputStore(folder, array, axes)


def _split(folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return a group's OME-Zarr keys, its other attributes, and its version."""
    attributes, version = ngff.read_attributes(folder), ngff.group_version(folder)
    if version == "0.5":
        ome = {k: v for k, v in attributes.pop("ome", {}).items() if k != "version"}
        return ome, attributes, version
    keys = ("multiscales", "omero", "labels", "image-label")
    return (
        {k: v for k, v in attributes.items() if k in keys},
        {k: v for k, v in attributes.items() if k not in keys},
        version,
    )


def _check_version(version: str) -> None:
    if version not in ngff.VERSIONS:
        raise InputError(f"OME-Zarr version '{version}' cannot be written; choose {' or '.join(ngff.VERSIONS)}")


def _create_array(
    folder: Path,
    axes: str,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    chunks: Sequence[int] | None,
    shards: Sequence[int] | None,
    version: str,
) -> Any:
    import zarr
    from zarr.codecs import ZstdCodec

    lead = (1,) * (len(axes) - 3)
    grain = _grain(chunks or DEFAULT_CHUNKS, lead)
    # A chunk never exceeds the array, unless shards, which hold whole chunks, are asked for.
    size = grain if shards else tuple(min(c, n) for c, n in zip(grain, shape, strict=True))
    options: dict[str, Any] = {"dimension_names": list(axes)} if version == "0.5" else {}
    if version == "0.5":
        options |= {"compressors": ZstdCodec(level=3), "shards": _grain(shards, lead) if shards else None}
    else:
        from numcodecs import Zstd  # type: ignore[import-untyped]

        if shards:
            raise InputError("OME-Zarr 0.4 has no shards; write version 0.5 or leave out the shards")
        options |= {"compressors": Zstd(level=3), "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    try:
        return zarr.create_array(
            folder, shape=tuple(shape), dtype=dtype, chunks=size, fill_value=0, filters=None,
            zarr_format=3 if version == "0.5" else 2, **options,
        )  # fmt: skip
    except OSError as error:
        raise disk_error(error, folder) from error


def _grain(extents: Sequence[int], lead: tuple[int, ...]) -> tuple[int, ...]:
    full = tuple(int(n) for n in extents)
    full = full if len(full) == len(lead) + 3 else (*lead, *full[-3:])
    if min(full) < 1:
        raise InputError(f"chunks {full} cannot be used; every extent must be at least 1")
    return full


def write_pyramid(folder: Path) -> None:
    """Write the levels above the first, block by block, and describe them; existing ones are replaced.

    Parameters
    ----------
    folder
        An image or label image of ours. Labels are reduced by :func:`halve_mode`, images by :func:`halve_mean`.

    Raises
    ------
    DiskError
        If the disk refuses the write.
    """
    for level in range(1, begin_pyramid(folder) + 1):
        create_level(folder, level)
        reduction = open_reduction(folder, level)
        for block in cover(reduction.target.shape, reduction.block, (0, 0, 0)):
            reduction.target.write(block.write, reduction.reduce(reduction.read(block.write)))
    describe_pyramid(folder)


@dataclass(frozen=True)
class Reduction:
    """How one level of a pyramid is made of the level below it.

    Attributes
    ----------
    source, target
        The level below, and the level.
    step
        Voxels of the source per voxel of the target, along z, y, x.
    labels
        Whether the commonest value counts instead of the mean.
    """

    source: OutputStore
    target: OutputStore
    step: tuple[int, int, int]
    labels: bool

    @property
    def block(self) -> tuple[int, int, int]:
        """What is made at once: up to 64 whole chunks, within a fixed amount of memory; or a shard."""
        unit, itemsize = self.target.unit, self.target.array.dtype.itemsize
        many = max(1, min(4, int((32e6 / (8 * np.prod(unit) * itemsize)) ** (1 / 3))))
        return (unit[0] * many, unit[1] * many, unit[2] * many)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Read what a box of the target stands for."""
        start = tuple(a * s for a, s in zip(box.start, self.step, strict=True))
        stop = tuple(b * s for b, s in zip(box.stop, self.step, strict=True))
        return self.source.read(Box(start, stop).clip(self.source.shape))

    def reduce(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Reduce (c, z, y, x) or (z, y, x)."""
        halve = halve_mode if self.labels else halve_mean
        made = np.stack([halve(one, self.step) for one in values.reshape((-1, *values.shape[-3:]))])
        return made.reshape(values.shape[:-3] + made.shape[1:])


def open_reduction(folder: Path, level: int) -> Reduction:
    """Open a level that was created, to be filled."""
    labels = read(str(folder)).is_labels
    return Reduction(_open_level(folder, level - 1), _open_level(folder, level), _step(folder, level), labels)


def begin_pyramid(folder: Path) -> int:
    """Describe the first level alone, while those above are made; return how many there will be.

    Raises
    ------
    DiskError
        If the disk refuses the write.
    """
    ome, others, version = _split(folder)
    axes, voxel, origin = _space(folder)
    name = ome["multiscales"][0].get("name", folder.name)
    ome["multiscales"] = ngff.multiscales(version, name, axes, voxel, origin, [(1, 1, 1)], None)
    ngff.write_group(folder, version, ome, others)
    return len(_factors(folder)) - 1


def create_level(folder: Path, level: int) -> None:
    """Make a level of the pyramid, filled with 0; one that is there is replaced.

    Raises
    ------
    DiskError
        If the disk refuses the write.
    """
    source = _open_level(folder, level - 1)
    step, array = _step(folder, level), source.array
    shape = array.shape[:-3] + tuple(-(-n // s) for n, s in zip(source.shape, step, strict=True))
    place = folder / str(level)
    try:
        if place.exists():
            shutil.rmtree(place)
        version = ngff.group_version(folder)
        _create_array(place, source.axes, shape, array.dtype, array.chunks, array.shards, version)
    except OSError as error:
        raise error if isinstance(error, DiskError) else disk_error(error, folder) from error


def describe_pyramid(folder: Path) -> None:
    """List all levels in the metadata, once they are complete; levels beyond are removed.

    Raises
    ------
    DiskError
        If the disk refuses the write.
    """
    ome, others, version = _split(folder)
    axes, voxel, origin = _space(folder)
    factors = _factors(folder)
    for child in folder.iterdir():
        if child.is_dir() and re.fullmatch(r"[1-9]\d*", child.name) and int(child.name) >= len(factors):
            shutil.rmtree(child)
    name = ome["multiscales"][0].get("name", folder.name)
    method = "mode" if read(str(folder)).is_labels else "mean"
    ome["multiscales"] = ngff.multiscales(version, name, axes, voxel, origin, factors, method)
    coarsest = _open_level(folder, len(factors) - 1).array
    if "omero" in ome and coarsest.dtype != np.uint8:
        ome["omero"] = _window(ome["omero"], coarsest)
    ngff.write_group(folder, version, ome, others)


def _space(folder: Path) -> tuple[str, Triple | None, Triple]:
    """Return axes, voxel size and origin of the first level."""
    stored = read(str(folder))
    z, y, x = (stored.voxel_size_um.get(a, 0.0) for a in "zyx")
    origin = (stored.origin_um.get("z", 0.0), stored.origin_um.get("y", 0.0), stored.origin_um.get("x", 0.0))
    return stored.axes, (z, y, x) if z and y and x else None, origin


def _factors(folder: Path) -> list[tuple[int, int, int]]:
    return level_factors(_open_level(folder, 0).shape, _space(folder)[1])


def _step(folder: Path, level: int) -> tuple[int, int, int]:
    """Return how many voxels of the level below one voxel of `level` stands for, along z, y, x."""
    factors = _factors(folder)
    z, y, x = (b // a for a, b in zip(factors[level - 1], factors[level], strict=True))
    return z, y, x


def _open_level(folder: Path, level: int) -> OutputStore:
    import zarr

    array = zarr.open_array(folder / str(level), mode="r+")
    return OutputStore(folder, array, "czyx" if array.ndim == 4 else "zyx")


def _window(omero: dict[str, Any], coarsest: Any) -> dict[str, Any]:
    """Show the range of values that occur (0.5 to 99.8 per cent of the coarsest level) rather than that of the type."""
    names = [c["label"] for c in omero["channels"]]
    limits = []
    for channel in range(coarsest.shape[0]):
        depth = coarsest.shape[1]
        planes = sorted({int(p) for p in np.linspace(0, depth - 1, min(depth, 16))})
        values = np.concatenate([np.asarray(coarsest[channel, p]).ravel() for p in planes])
        values = values[np.isfinite(values)].astype(np.float64)
        low, high = (float(v) for v in np.percentile(values, (0.5, 99.8))) if values.size else (0.0, 1.0)
        limits.append((low, high if high > low else low + 1.0))
    return ngff.omero(names, np.dtype(coarsest.dtype), limits)


def write(path: str, volume: Volume, options: WriteOptions) -> None:
    """Write a volume as an image with its pyramid; the folder must not exist.

    Parameters
    ----------
    path
        The store to make.
    volume
        Kept: values, voxel size, origin, channel names, attributes of ours.
    options
        Version, name, and whether the values are labels.
    """
    attributes = {**volume.attributes, **({"labels": True} if options.is_labels else {})}
    store = create_image(
        Path(path), name=options.name, shape=volume.shape, channel_names=volume.channel_names,
        voxel_size_um=volume.voxel_size_um, origin_um=volume.origin_um, dtype=volume.dtype,
        attributes=json.loads(json.dumps(attributes)), version=options.ome_version,
    )  # fmt: skip
    for block in cover(volume.shape, block_shape(volume, store.unit), (0, 0, 0)):
        store.write(block.write, volume.read(block.write))
    write_pyramid(Path(path))
