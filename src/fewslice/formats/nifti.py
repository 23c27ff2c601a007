"""NIfTI (.nii, .nii.gz), as ITK-SNAP, 3D Slicer and FSL write it. Needs the extra ``nifti``.

Values keep the order in which they are stored: an orientation in the header, which may mirror axes for display, is not
applied, so that labels lie on the image they were painted on. A compressed file is read from its start for each part;
convert large ones first.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.files import disk_error
from fewslice.formats import Stored, WriteOptions
from fewslice.formats._units import micrometres
from fewslice.geometry import Box

if TYPE_CHECKING:
    from fewslice.volume import Volume

__all__ = ["DESCRIPTION", "claims", "location", "read", "write"]

DESCRIPTION = "NIfTI (.nii, .nii.gz)"

_LABELS = "label"
_OFFSET = {1: 352, 2: 544}
_LONGEST = 2**15 - 1
"""The longest axis that version 1 can state."""


def claims(path: str) -> bool:
    """Whether the name ends as NIfTI's does."""
    return path.lower().endswith((".nii", ".nii.gz"))


def location(path: str) -> Path:
    """Return the file."""
    return Path(path)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise InputError("NIfTI needs the extra: pip install 'fewslice[nifti]'") from error
    return nibabel


def read(path: str) -> Stored:
    """Open a file; only its header is read.

    Raises
    ------
    InputError
        If the extra is not installed, or the file is damaged or holds colour or complex values.
    """
    nibabel = _nibabel()
    try:
        image = nibabel.load(path)
        header = image.header
        unit = header.get_xyzt_units()[0]
        zooms = [float(v) for v in header.get_zooms()[:3]]
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise InputError(f"{path} is not readable as NIfTI ({reason}); check that it was copied completely") from error
    array = NiftiArray(image.dataobj, path)
    axes = ("xyz" + "?" * len(array.shape))[: len(array.shape)]
    if len(image.shape) == 5 and image.shape[3] == 1:  # values with several components
        axes = "xyzc"
    sizes = {axis: micrometres(zoom, unit) for axis, zoom in zip("xyz", zooms, strict=False)}
    return Stored(
        array,
        axes,
        {axis: size for axis, size in sizes.items() if size},
        is_labels=header.get_intent()[0] == _LABELS,
        details={"nifti": 2 if isinstance(header, nibabel.Nifti2Header) else 1, "unit": unit},
    )


class NiftiArray:
    """A file that is read as it is indexed; the axis of time is dropped where it has one entry before components."""

    def __init__(self, proxy: Any, source: str) -> None:
        self._proxy, self._source = proxy, source
        shape = tuple(int(n) for n in proxy.shape)
        self._single_time = len(shape) == 5 and shape[3] == 1
        self.shape: tuple[int, ...] = shape[:3] + shape[4:] if self._single_time else shape
        scaled = (float(proxy.slope), float(proxy.inter)) != (1.0, 0.0)
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if scaled else np.dtype(proxy.dtype).newbyteorder("=")
        if self.dtype.kind not in "uif":
            raise InputError(f"{source} holds values of type {proxy.dtype}; expected plain numbers, so save it as such")

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part."""
        where = index if isinstance(index, tuple) else (index,)
        if self._single_time and Ellipsis not in where and len(where) > 3:
            where = (*where[:3], 0, *where[3:])
        elif self._single_time:
            raise IndexError(f"{self._source} is indexed by all of its axes, not by {index}")
        try:
            return np.asarray(self._proxy[where], dtype=self.dtype)
        except (OSError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
            raise InputError(
                f"{self._source} is damaged or truncated ({reason}); copy the file again from its source"
            ) from error


def write(path: str, volume: Volume, options: WriteOptions) -> None:
    """Write a volume plane by plane to a file that does not exist yet.

    Parameters
    ----------
    path
        ``file.nii`` or ``file.nii.gz``.
    volume
        Kept: values, and the voxel size, in µm. Several channels become components of each voxel.
    options
        Labels are marked as such.

    Raises
    ------
    InputError
        If the extra is not installed, or the type of the values is one that NIfTI lacks.
    """
    nibabel = _nibabel()
    z, y, x = volume.shape
    shape = (x, y, z) if volume.channels == 1 else (x, y, z, 1, volume.channels)
    version = 2 if max(shape) > _LONGEST else 1
    header = nibabel.Nifti2Header() if version == 2 else nibabel.Nifti1Header()
    try:
        header.set_data_dtype(volume.dtype)
    except nibabel.spatialimages.HeaderDataError as error:
        raise InputError(f"NIfTI cannot hold {volume.dtype}; convert to TIFF or OME-Zarr instead") from error
    header.set_data_shape(shape)
    if volume.voxel_size_um is not None:
        header.set_zooms((*reversed(volume.voxel_size_um), *(1.0,) * (len(shape) - 3)))
        header.set_xyzt_units("micron")
    if options.is_labels:
        header.set_intent(_LABELS)
    header["magic"] = b"n+1" if version == 1 else header["magic"]
    header["vox_offset"] = _OFFSET[version]
    header.set_slope_inter(1, 0)
    try:
        # no time and no name inside, so that the same volume gives the same bytes
        with Path(path).open("wb") as raw, _compressed(raw, path) as stream:
            stream.write(header.binaryblock)
            stream.write(b"\0" * (_OFFSET[version] - len(header.binaryblock)))
            for channel in range(volume.channels):
                for plane in range(z):
                    values = volume.read(Box((plane, 0, 0), (plane + 1, y, x)))[channel, 0]
                    stream.write(np.ascontiguousarray(values).tobytes())
    except OSError as error:
        raise disk_error(error, Path(path)) from error


def _compressed(raw: BinaryIO, path: str) -> BinaryIO:
    """Compress what is written where the name says so."""
    if not path.lower().endswith(".gz"):
        return raw
    return cast(BinaryIO, gzip.GzipFile("", "wb", 6, raw, mtime=0))
