r"""HDF5: one data set of a file, named as ``file.h5:path/of/dataset`` (also ``C:\folder\file.h5:dataset``)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.files import disk_error
from fewslice.formats import Stored, WriteOptions
from fewslice.formats._planes import block_shape
from fewslice.geometry import cover
from fewslice.volume import UNKNOWN_AXIS

if TYPE_CHECKING:
    import h5py

    from fewslice.volume import Volume

__all__ = ["DESCRIPTION", "check_overwrite", "claims", "location", "read", "within", "write"]

DESCRIPTION = "HDF5 (file.h5:dataset)"

_PATH = re.compile(r"^(?P<file>.*?\.(?:h5|hdf5|hdf|he5|ims|nwb))(?::(?P<dataset>.*))?$", re.IGNORECASE | re.DOTALL)
_MAGIC = b"\x89HDF\r\n\x1a\n"
_CHUNKS = (16, 128, 128)


def _parts(path: str) -> tuple[str, str | None]:
    """Split a path into file and data set; a drive's colon stands before the file's suffix and is left alone."""
    match = _PATH.match(path)
    if match is None:
        return path, None
    return match["file"], (match["dataset"] or "").strip("/") or None


def claims(path: str) -> bool:
    """Whether the name has an HDF5 suffix, or the first bytes are HDF5's."""
    if _PATH.match(path):
        return True
    file = Path(path)
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(8) == _MAGIC


def location(path: str) -> Path:
    """Return the file, without the data set's name."""
    return Path(_parts(path)[0])


def within(path: str) -> str:
    """Return what follows the file's name, ``:dataset``, or nothing."""
    dataset = _parts(path)[1]
    return f":{dataset}" if dataset else ""


def check_overwrite(path: str) -> None:
    """Refuse to replace a file that holds other data sets, since they would be lost."""
    file, dataset = _parts(path)
    import h5py

    try:
        with h5py.File(file, "r") as handle:
            others = [name for name in _datasets(handle) if name != (dataset or _DEFAULT)]
    except OSError as error:
        raise InputError(
            f"{file} exists and is no readable HDF5 file, so it is not replaced; choose another output"
        ) from error
    if others:
        raise InputError(f"{file} also holds {', '.join(others[:5])}, which would be lost; choose another file")


_DEFAULT = "image"


def read(path: str) -> Stored:
    """Open a data set; only its header is read.

    Raises
    ------
    InputError
        If the file is damaged, or the data set is missing, or none is named and there are several.
    """
    import h5py

    file, dataset = _parts(path)
    try:
        handle = h5py.File(file, "r")
    except OSError as error:
        why = "truncated" if "truncated" in str(error) else "not readable as HDF5"
        raise InputError(f"{file} is {why}; check that it was copied completely") from error
    try:
        return _read(file, handle, dataset)
    except BaseException:
        handle.close()
        raise


def _read(file: str, handle: h5py.File, dataset: str | None) -> Stored:
    import h5py

    if dataset is None:
        found = _datasets(handle)
        if len(found) != 1:
            listed = f"it holds {', '.join(found[:8])}" if found else "it holds none of two or more axes"
            raise InputError(
                f"{file} needs the name of a data set, as in {file}:{found[0] if found else 'name'}; {listed}"
            )
        dataset = found[0]
    if dataset not in handle:
        found = _datasets(handle)
        listed = f"it holds {', '.join(found[:8])}" if found else "it holds none of two or more axes"
        raise InputError(f"{file} has no data set '{dataset}'; {listed}")
    node = handle[dataset]
    if not isinstance(node, h5py.Dataset):
        inside = [f"{dataset}/{name}" for name in _datasets(node)]
        listed = f"; it holds {', '.join(inside[:8])}" if inside else ""
        raise InputError(f"{file}:{dataset} is a group, not a data set{listed}")
    if node.dtype.kind not in "buif" or node.ndim < 2:
        raise InputError(
            f"{file}:{dataset} holds values of type {node.dtype} with {node.ndim} axes; "
            "expected numbers with 2 to 5 axes"
        )
    axes = _axes(node)
    details = {"compression": str(node.compression or "none"), "datasets": _datasets(handle)}
    return Stored(
        Hdf5Array(handle, node, f"{file}:{dataset}"),
        axes,
        _voxel_size(node),
        {},
        tuple(str(n) for n in _attribute(node, "channel_names", ())),
        tuple(int(n) for n in node.chunks) if node.chunks else None,
        attributes=_json_attribute(node, "fewslice"),
        details=details,
    )


def _datasets(group: h5py.Group) -> list[str]:
    """List the paths of numeric data sets with two or more axes."""
    import h5py

    found: list[str] = []

    def visit(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "buif" and node.ndim >= 2:
            found.append(name)

    group.visititems(visit)
    return found


def _attribute(node: h5py.Dataset, name: str, default: Any) -> Any:
    try:
        return node.attrs.get(name, default)
    except (OSError, TypeError):  # a type that h5py cannot read
        return default


def _json_attribute(node: h5py.Dataset, name: str) -> dict[str, Any]:
    text = _attribute(node, name, None)
    try:
        value = json.loads(text) if isinstance(text, str | bytes) else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _axes(node: h5py.Dataset) -> str:
    """Return axes from ilastik's ``axistags`` or from HDF5's own dimension labels, unknown ones as ``?``."""
    tags = _json_attribute(node, "axistags").get("axes") or []
    names = [str(t.get("key", "")) for t in tags] if len(tags) == node.ndim else [d.label for d in node.dims]
    letters = [n.lower() if n.lower() in tuple("tczyx") else UNKNOWN_AXIS for n in names]
    if len({a for a in letters if a != UNKNOWN_AXIS}) != sum(a != UNKNOWN_AXIS for a in letters):
        letters = [UNKNOWN_AXIS] * node.ndim
    return "".join(letters)


def _voxel_size(node: h5py.Dataset) -> dict[str, float]:
    """Return the size z, y, x from ``element_size_um`` (Fiji's and our convention)."""
    values = np.atleast_1d(np.asarray(_attribute(node, "element_size_um", ())))
    if values.shape != (3,) or values.dtype.kind not in "uif":
        return {}
    return {a: float(v) for a, v in zip("zyx", values, strict=True) if np.isfinite(v) and v > 0}


class Hdf5Array:
    """A data set that is read as it is indexed; h5py lets one thread read at a time."""

    def __init__(self, handle: h5py.File, node: h5py.Dataset, source: str) -> None:
        self._handle, self._node, self._source = handle, node, source
        self.shape: tuple[int, ...] = tuple(int(n) for n in node.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if node.dtype.kind == "b" else node.dtype.newbyteorder("=")

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part; only the chunks that it touches are read."""
        try:
            return np.asarray(self._node[index], dtype=self.dtype)
        except OSError as error:
            reason = str(error).splitlines()[0][:150]
            raise InputError(
                f"{self._source} is damaged or truncated ({reason}); copy the file again from its source"
            ) from error


def write(path: str, volume: Volume, options: WriteOptions) -> None:
    """Write a volume as one data set c, z, y, x of a file that does not exist yet.

    Parameters
    ----------
    path
        ``file.h5:dataset``; the data set is called ``image`` if none is named.
    volume
        Kept: values, voxel size (``element_size_um``), channel names, axes as dimension labels and ``axistags``.
    options
        Not used.
    """
    import h5py

    file, dataset = _parts(path)
    shape = (volume.channels, *volume.shape)
    z, y, x = (min(c, n) for c, n in zip(_CHUNKS, volume.shape, strict=True))
    try:
        with h5py.File(file, "w", libver="v110") as handle:
            node = handle.create_dataset(
                dataset or _DEFAULT, shape, volume.dtype, chunks=(1, z, y, x), compression="gzip", compression_opts=4,
                track_times=False,
            )  # fmt: skip
            for dimension, letter in zip(node.dims, "czyx", strict=True):
                dimension.label = letter
            node.attrs["axistags"] = json.dumps({"axes": [{"key": a} for a in "czyx"]})
            node.attrs["channel_names"] = list(volume.channel_names)
            if volume.voxel_size_um is not None:
                node.attrs["element_size_um"] = volume.voxel_size_um
            if volume.attributes:
                node.attrs["fewslice"] = json.dumps(volume.attributes, sort_keys=True)
            for block in cover(volume.shape, block_shape(volume, (z, y, x)), (0, 0, 0)):
                node[(slice(None), *block.write.slices)] = volume.read(block.write)
    except OSError as error:
        raise disk_error(error, Path(file)) from error
