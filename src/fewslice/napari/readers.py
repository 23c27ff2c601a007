"""The reader: whatever :mod:`fewslice.io` opens, as layers; lazily, in µm where the voxel size is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io, registry
from fewslice.errors import FewsliceError
from fewslice.napari.layers import KEY, layer_options
from fewslice.volume import Volume, normalise_index

__all__ = ["LazyPlanes", "contrast", "get_reader", "read_layers"]

LayerData = tuple[Any, dict[str, Any], str]


class LazyPlanes:
    """One channel of a volume as an array (z, y, x) that reads what is shown.

    Parameters
    ----------
    volume
        The volume.
    channel
        Its position.
    """

    def __init__(self, volume: Volume, channel: int = 0) -> None:
        self.volume = volume
        self.channel = channel
        self.shape = volume.shape
        self.dtype = volume.dtype
        self.ndim = 3

    @property
    def size(self) -> int:
        """Number of voxels."""
        z, y, x = self.shape
        return z * y * x

    @property
    def nbytes(self) -> int:
        """Bytes that it would take in memory."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read what NumPy's basic indices name; steps are taken from what is read."""
        entries = index if isinstance(index, tuple) else (index,)
        steps = tuple(e.step for e in entries if isinstance(e, slice))
        if any(s not in (None, 1) for s in steps):
            plain = tuple(slice(None) if isinstance(e, slice) else e for e in entries)
            inner = tuple(e for e in entries if isinstance(e, slice))
            found: npt.NDArray[Any] = self[plain][inner]
            return found
        slices, dropped = normalise_index(entries, self.shape)
        values = np.asarray(self.volume.array[(slice(self.channel, self.channel + 1), *slices)])
        return values.reshape([n for axis, n in enumerate(values.shape[1:]) if axis not in dropped])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read everything; for NumPy's own functions."""
        return self[...].astype(dtype or self.dtype, copy=False)


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the reader for a path, or None if no format of fewslice is responsible for it (npe2's contract)."""
    paths = [path] if isinstance(path, str) else list(path)
    kinds = [registry.load("formats", kind) for kind in registry.names("formats")]
    if not paths or not all(any(kind.claims(str(p)) for kind in kinds) for p in paths):
        return None
    return _read_paths


def _read_paths(path: str | Sequence[str]) -> list[LayerData]:
    return [layer for p in ([path] if isinstance(path, str) else path) for layer in read_layers(str(p))]


def read_layers(path: str, axes: str | None = None) -> list[LayerData]:
    """Open a file as layers: an image per channel, a Labels layer for labels and for each label image inside.

    Parameters
    ----------
    path
        As for :func:`fewslice.io.open_volume`.
    axes
        What its axes mean, if the file does not say so.

    Returns
    -------
    list
        (data, options, type) of each layer.

    Raises
    ------
    InputError
        If the file cannot be opened.
    """
    about = io.describe(path, axes=axes)
    name = _stem(path)
    volume = io.open_volume(path, axes=axes)
    if about["is_labels"]:
        return [_labels(volume, path, name)]
    levels = _levels(path, volume, about)
    layers: list[LayerData] = []
    for channel, channel_name in enumerate(volume.channel_names):
        pyramid = [LazyPlanes(level, channel) for level in levels]
        options = layer_options(volume) | {
            "name": name if volume.channels == 1 else f"{name} {channel_name}",
            "metadata": {KEY: {"path": _kept(path), "axes": axes, "channel": channel}},
            "multiscale": len(pyramid) > 1,
            "contrast_limits": contrast(pyramid[-1]),
        }
        if volume.channels > 1:
            colours = ("red", "green", "blue", "magenta", "cyan", "yellow", "gray")
            options |= {"blending": "additive", "colormap": colours[channel % len(colours)]}
        layers.append((pyramid if len(pyramid) > 1 else pyramid[0], options, "image"))
    for label_name in volume.label_names:
        place = _inside(path, f"labels/{label_name}")
        layers.append(_labels(io.open_labels(place), place, f"{name} {label_name}"))
    return layers


def contrast(planes: Any) -> tuple[float, float]:
    """Return the range in which nearly all values of the middle plane lie, its 0.5th to 99.8th percentile."""
    values = np.asarray(planes[planes.shape[0] // 2]).astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.8))) if values.size else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def _labels(volume: Volume, path: str, name: str) -> LayerData:
    about = {KEY: {"path": _kept(path)}}
    return LazyPlanes(volume), layer_options(volume) | {"name": name, "metadata": about}, "labels"


def _levels(path: str, volume: Volume, about: dict[str, Any]) -> list[Volume]:
    """Return the image and, for OME-Zarr, the coarser levels of its pyramid, which are named 1, 2 and so on."""
    levels = [volume]
    if about["format"] != "ome_zarr":
        return levels
    while io.is_address(place := _inside(path, str(len(levels)))) or Path(place).is_dir():
        try:
            level = io.open_volume(place, axes=about["axes"] if "?" not in about["axes"] else None)
        except FewsliceError:
            break
        if level.channels != volume.channels or level.dtype != volume.dtype:
            break
        levels.append(level)
    return levels


def _kept(path: str) -> str:
    """Return a path so that it is the same file wherever a process stands; an address as it is."""
    return path if io.is_address(path) else str(Path(path).absolute())


def _inside(path: str, name: str) -> str:
    """Return the path of what is inside a store, which may be at an address."""
    return f"{path.rstrip('/')}/{name}" if io.is_address(path) else str(Path(path) / name)


def _stem(path: str) -> str:
    place = Path(path)
    if place.parent.name == "labels":
        return place.name
    name = place.name.split(":")[0]
    for suffix in (".ome.zarr", ".zarr", ".ome.tiff", ".ome.tif", ".tiff", ".tif", ".hdf5", ".h5"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
