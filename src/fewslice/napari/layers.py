"""What a napari layer is to fewslice: a volume with its axes, voxel size and file, or a reason why it cannot be used.

Layers are looked at through their public attributes only, so all of this works without a window.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewslice import io
from fewslice.annotation import AXIS_NAMES
from fewslice.errors import InputError
from fewslice.formats._units import micrometres
from fewslice.geometry import Box, by
from fewslice.volume import ArrangedArray, Triple, Volume

__all__ = [
    "KEY",
    "PAINTED",
    "PREDICTED",
    "ImageSource",
    "check_labels",
    "displayed_plane",
    "image_of",
    "label_colours",
    "labels_of",
    "shown_box",
    "voxel_of",
]

KEY = "fewslice"
"""Under this name, layers carry what fewslice knows of them in their metadata."""

PAINTED, PREDICTED = 0.47, 0.9
"""Seeds of :func:`label_colours`: label 1 is yellow where it was painted, and blue where it was predicted."""


@dataclass(frozen=True)
class ImageSource:
    """The image behind a layer.

    Attributes
    ----------
    volume
        It, all channels that are used.
    path
        Where it is: on disk, or at an address, which is text; None for an image in memory.
    axes
        What ``--axes`` says when it is opened by its path; None where the file tells.
    scale, translate
        World coordinates of a voxel's extent and of the first voxel, z, y, x.
    units
        Of these.
    """

    volume: Volume
    path: Path | str | None
    axes: str | None
    scale: tuple[float, ...]
    translate: tuple[float, ...]
    units: tuple[str, ...]


def image_of(layer: Any) -> ImageSource:
    """Return the image of an Image layer.

    Raises
    ------
    InputError
        If it is no image, is RGB, has a time axis or more than three axes, or is turned or sheared.
    """
    name = layer.name
    if type(layer).__name__ != "Image":
        raise InputError(f"{name} is a {type(layer).__name__} layer; choose an Image layer")
    if layer.rgb:
        raise InputError(
            f"{name} is an RGB layer; choose Split RGB in its right-click menu, or open the file with the fewslice "
            "reader, which makes one layer per colour"
        )
    _check_axes(layer)
    about = layer.metadata.get(KEY, {})
    shape = _shape3(layer)
    if "path" in about:
        path = about["path"] if io.is_address(about["path"]) else Path(about["path"])
        volume = io.open_volume(path, axes=about.get("axes"), voxel_size_um=voxel_of(layer))
        if volume.shape != shape:
            raise InputError(
                f"{path} has changed since it was opened: it has {by(volume.shape)} voxels, the layer {by(shape)}; "
                "open it again"
            )
        return ImageSource(volume, path, about.get("axes"), *_placed(layer))
    data = layer.data[0] if layer.multiscale else layer.data
    volume = Volume(ArrangedArray(_Plain(data), "zyx"[-layer.ndim :]), voxel_of(layer), source=f"layer {name}")
    return ImageSource(volume, None, None, *_placed(layer))


def labels_of(layer: Any) -> Volume:
    """Return the labels of a Labels layer, as a volume of one channel.

    Raises
    ------
    InputError
        If it is no Labels layer, or has more than three axes.
    """
    if type(layer).__name__ != "Labels":
        raise InputError(f"{layer.name} is a {type(layer).__name__} layer; choose a Labels layer")
    _check_axes(layer)
    data = layer.data[0] if layer.multiscale else layer.data
    return Volume(ArrangedArray(_Plain(data), "zyx"[-layer.ndim :]), voxel_of(layer), source=f"layer {layer.name}")


def check_labels(labels: Any, image: Any) -> None:
    """Refuse a Labels layer that was not made on an image.

    Raises
    ------
    InputError
        If the two differ in their number of voxels, their scale or their place.
    """
    if _shape3(labels) != _shape3(image):
        raise InputError(
            f"{labels.name} has {by(_shape3(labels))} voxels and {image.name} {by(_shape3(image))} (z, y, x); "
            "choose labels that were made on this image"
        )
    for what, one, other in zip(("scale", "position"), _placed(labels)[:2], _placed(image)[:2], strict=True):
        if not np.allclose(one, other, rtol=1e-3, atol=1e-6):
            numbers = [", ".join(f"{v:g}" for v in values) for values in (one, other)]
            raise InputError(
                f"{labels.name} has {what} {numbers[0]} and {image.name} {numbers[1]} (z, y, x); "
                "give both layers the same, or choose labels that were made on this image"
            )


def voxel_of(layer: Any) -> Triple | None:
    """Return the voxel size z, y, x in µm that the layer's scale and units say; None where the units are no lengths."""
    size = []
    for scale, unit in zip(layer.scale, layer.units, strict=True):
        length = micrometres(abs(float(scale)), str(unit))
        if length is None:
            return None
        size.append(length)
    if len(size) == 2:
        size.insert(0, size[0])
    z, y, x = size
    return z, y, x


def displayed_plane(layer: Any, dims: Any) -> tuple[int, int]:
    """Return (axis, index) of the plane of a layer of three axes that the canvas shows.

    Parameters
    ----------
    layer
        The layer.
    dims
        ``viewer.dims``.

    Raises
    ------
    InputError
        In 3D view, and where the slider stands outside the layer.
    """
    if dims.ndisplay != 2:
        raise InputError("the canvas shows 3D; go back to 2D (Ctrl+Y), where there is a plane")
    if dims.ndim > 3:
        raise InputError(f"the viewer shows {dims.ndim} axes because of another layer; a plane needs z, y and x only")
    hidden = dims.order[0] if dims.ndim == 3 else 0
    place = layer.world_to_data(dims.point)[hidden - (dims.ndim - layer.ndim)] if layer.ndim == 3 else 0
    index = int(np.floor(place + 0.5))
    extent = _shape3(layer)[hidden]
    if not 0 <= index < extent:
        raise InputError(
            f"the slider stands at plane {index} along {AXIS_NAMES[hidden]}, outside {layer.name}, which has {extent}; "
            "move it back"
        )
    return hidden, index


def shown_box(layer: Any, dims: Any) -> Box:
    """Return what of a layer is on the canvas, as a box z, y, x one plane thick.

    Raises
    ------
    InputError
        As :func:`displayed_plane`, and where nothing of the layer is on the canvas.
    """
    axis, index = displayed_plane(layer, dims)
    shape = _shape3(layer)
    start, stop = [0, 0, 0], list(shape)
    corners = np.asarray(layer.corner_pixels)
    for a, (low, high) in zip(range(3 - layer.ndim, 3), corners.T, strict=True):
        if a != axis and high > low:
            start[a], stop[a] = max(int(low), 0), min(int(high) + 1, shape[a])
    start[axis], stop[axis] = index, index + 1
    if any(b <= a for a, b in zip(start, stop, strict=True)):
        raise InputError(f"nothing of {layer.name} is on the canvas; move it into view (Ctrl+R)")
    return Box(tuple(start), tuple(stop))


def layer_options(volume: Volume) -> dict[str, Any]:
    """Return names of axes, scale, translation and units of a volume's layer: µm where the voxel size is known."""
    known = volume.voxel_size_um is not None
    return {
        "axis_labels": AXIS_NAMES,
        "scale": volume.voxel_size_um or (1.0, 1.0, 1.0),
        "translate": volume.origin_um if known else (0.0, 0.0, 0.0),
        "units": ("micrometer",) * 3 if known else ("pixel",) * 3,
    }


def label_colours(seed: float) -> Any:
    """Return a napari colour map for labels, whose first colours are bright enough for a dark image.

    Parameters
    ----------
    seed
        `PAINTED` or `PREDICTED`, so that the two are told apart where they overlap, also by the colour-blind.
    """
    from napari.utils.colormaps import label_colormap

    return label_colormap(49, seed=seed)


def unique_name(name: str, layers: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return the name, with a number where it is taken."""
    taken = {getattr(layer, "name", layer) for layer in layers}
    if name not in taken:
        return name
    return next(new for n in itertools.count(2) if (new := f"{name} {n}") not in taken)


class _Plain:
    """Whatever a layer holds as its data, as a lazy array that gives NumPy's."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.shape: tuple[int, ...] = tuple(int(n) for n in data.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if data.dtype == bool else np.dtype(data.dtype)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        """Read a part."""
        return np.asarray(self._data[index]).astype(self.dtype, copy=False)


def _check_axes(layer: Any) -> None:
    if layer.ndim not in (2, 3):
        shape = layer.data[0].shape if layer.multiscale else layer.data.shape
        raise InputError(
            f"{layer.name} has {layer.ndim} axes ({by(shape)}); fewslice needs z, y, x: choose Split Stack in its "
            "right-click menu for channels, and one layer per time point"
        )
    if not np.allclose(layer.rotate, np.eye(layer.ndim)) or not np.allclose(layer.shear, 0):
        raise InputError(f"{layer.name} is turned or sheared; fewslice works along its axes, so reset its transform")


def _shape3(layer: Any) -> tuple[int, int, int]:
    data = layer.data[0] if layer.multiscale else layer.data
    z, y, x = (1,) * (3 - layer.ndim) + tuple(int(n) for n in data.shape)
    return z, y, x


def _placed(layer: Any) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    missing = 3 - layer.ndim
    scale = (float(layer.scale[0]),) * missing + tuple(float(v) for v in layer.scale)
    translate = (0.0,) * missing + tuple(float(v) for v in layer.translate)
    units = (str(layer.units[0]),) * missing + tuple(str(u) for u in layer.units)
    return scale, translate, units
