"""The writer: a Labels layer as OME-Zarr or TIFF, with its voxel size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fewslice import io
from fewslice.napari.layers import voxel_of
from fewslice.volume import Volume

__all__ = ["write_labels"]


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a Labels layer (npe2's contract for one layer).

    Parameters
    ----------
    path
        ``.ome.zarr``, ``.zarr``, ``.tif`` or ``.tiff``; it must not exist.
    data
        Integers (z, y, x) or (y, x).
    attributes
        What napari knows of the layer; its scale and units become the voxel size.

    Returns
    -------
    list of str
        The path.

    Raises
    ------
    InputError
        If it exists, or the format is unknown.
    """
    layer = SimpleNamespace(scale=attributes["scale"], units=attributes.get("units") or ("pixel",) * len(data.shape))
    labels = data.volume() if hasattr(data, "volume") and callable(data.volume) else Volume.from_array(data[...])
    io.save_labels(Path(path), labels, voxel_size_um=voxel_of(layer))
    return [path]
