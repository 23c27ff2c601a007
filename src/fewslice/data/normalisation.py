"""Per-channel intensity normalisation: fitted once on training images, stored with the model, applied everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.volume import Volume

__all__ = ["Method", "Normalisation", "check_finite", "fit_normalisation", "sampled_values"]

Method = Literal["robust", "unit", "range", "none"]

_PLANES = 16
_VALUES = 2**20
_ROUNDED_FROM = 1e-3
_CHECKED_BYTES = 2**31


@dataclass(frozen=True)
class Normalisation:
    """An affine map per channel: ``(value - offset) / scale``.

    Attributes
    ----------
    method
        ``robust``: the median becomes 0 and the spread between the 0.5th and the 99.5th percentile becomes 4, so that
        typical values lie within ±2. ``unit``: those percentiles become 0 and 1, and values are clipped to [0, 1].
        ``range``: 0 and the largest value of the integer type, such as 255, become 0 and 1; floating-point images stay
        as they are. ``none``: values stay as they are.
    offset, scale
        One number per channel, in the units of the image.
    """

    method: Method
    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def apply(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return `image` (c, z, y, x; any numeric type) normalised, as float32."""
        shape = (-1,) + (1,) * (image.ndim - 1)
        scale = (1.0 / np.asarray(self.scale, dtype=np.float32)).reshape(shape)
        offset = np.asarray(self.offset, dtype=np.float32).reshape(shape)
        out = image.astype(np.float32)
        out -= offset
        out *= scale
        if self.method == "unit":
            np.clip(out, 0.0, 1.0, out=out)
        return out


def fit_normalisation(images: Sequence[Volume], method: Method = "robust") -> Normalisation:
    """Fit the map on up to 16 evenly spaced planes of every image.

    Parameters
    ----------
    images
        Training images; all must have the same number of channels. Only the sampled planes are read, and none with the
        methods ``range`` and ``none``.
    method
        See :class:`Normalisation`.

    Raises
    ------
    InputError
        If the numbers of channels differ, or a sampled value is not finite.
    """
    channels = images[0].channels
    for image in images:
        if image.channels != channels:
            raise InputError(
                f"{image.source} has {image.channels} channels, but {images[0].source} has {channels}; "
                "train on images of the same channels or choose some with --channels"
            )
    if method in ("none", "range"):
        kinds = {image.dtype for image in images}
        if method == "range" and len(kinds) > 1:
            raise InputError(
                f"images are of types {', '.join(sorted(map(str, kinds)))}, whose ranges differ; convert them to one "
                "type, or set another normalisation"
            )
        kind = kinds.pop()
        largest = float(np.iinfo(kind).max) if method == "range" and kind.kind in "ui" else 1.0
        return Normalisation(method, (0.0,) * channels, (largest,) * channels)
    samples = [sampled_values(image) for image in images]
    offsets, scales = [], []
    for channel in range(channels):
        values = np.concatenate([sample[channel] for sample in samples])
        low, median, high = (float(v) for v in np.percentile(values, (0.5, 50.0, 99.5)))
        spread = high - low
        if spread <= 0:
            low, high = float(values.min()), float(values.max())
            spread = high - low or 1.0
        offset, scale = (median, spread / 4.0) if method == "robust" else (low, spread)
        rounded = spread >= _ROUNDED_FROM  # for people who read model.json; nothing of a faint image would be left
        offsets.append(round(offset, 6) if rounded else offset)
        scales.append(round(scale, 9) if rounded else scale)
    return Normalisation(method, tuple(offsets), tuple(scales))


def check_finite(image: Volume) -> None:
    """Refuse an image with values that training cannot use.

    Images up to 2 GiB are read whole, of larger ones the planes that :func:`fit_normalisation` reads; integers are not
    read at all.

    Raises
    ------
    InputError
        If a value is NaN or infinite; the plane is named.
    """
    if image.dtype.kind != "f":
        return
    depth, height, width = image.shape
    size = image.channels * depth * height * width * image.dtype.itemsize
    for z in range(depth) if size <= _CHECKED_BYTES else _planes(depth):
        _finite_plane(image, int(z))


def _planes(depth: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, depth - 1, min(_PLANES, depth)).astype(np.int64))


def _finite_plane(image: Volume, z: int) -> NDArray[np.generic]:
    """Read plane z (c, 1, y, x), or refuse it."""
    plane = image.read(Box((z, 0, 0), (z + 1, *image.shape[1:])))
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise InputError(
            f"{image.source} has NaN or infinite values in plane z={z}, where training samples; "
            "replace them in the image or crop it before training"
        )
    return plane


def sampled_values(image: Volume) -> list[NDArray[np.float64]]:
    """Return by channel the values, at most about 2²⁰, on which :func:`fit_normalisation` fits: up to 16 planes.

    Raises
    ------
    InputError
        If one of them is not finite.
    """
    depth, height, width = image.shape
    planes = _planes(depth)
    values: list[list[NDArray[np.float64]]] = [[] for _ in range(image.channels)]
    stride = max(1, int(np.sqrt(height * width * len(planes) / _VALUES)))
    for z in planes:
        plane = _finite_plane(image, int(z))
        for channel in range(image.channels):
            values[channel].append(plane[channel, 0, ::stride, ::stride].astype(np.float64).ravel())
    return [np.concatenate(v) for v in values]
