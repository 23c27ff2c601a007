"""Image planes and masks, small enough to be embedded in a page.

Images become WebP, masks lossless PNG of one byte per pixel; the page draws overlays from these, so that an arm costs a
few kilobytes per plane and not an image.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewslice.volume import Volume

__all__ = [
    "UNKNOWN",
    "DisplayRange",
    "across",
    "choose_planes",
    "display_range",
    "image_uri",
    "mask_uri",
    "reduction",
    "rendered",
]

Scalar = TypeVar("Scalar", bound=np.generic)

UNKNOWN = 255
"""Value of a truth mask where nothing is known."""

_CHANNEL_COLOURS = {
    1: ((1.0, 1.0, 1.0),),
    2: ((0.2, 1.0, 0.2), (1.0, 0.2, 1.0)),
    3: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


@dataclass(frozen=True)
class DisplayRange:
    """Per channel, the intensities shown as black and as white."""

    low: tuple[float, ...]
    high: tuple[float, ...]


def across(values: NDArray[Scalar], axis: int) -> NDArray[Scalar]:
    """Return the plane that an array of extent 1 along an axis holds."""
    plane: NDArray[Scalar] = values[(slice(None),) * axis + (0,)]
    return plane


def choose_planes(candidates: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the planes, evenly spread, first and last included."""
    planes = sorted(set(candidates))
    if len(planes) <= count:
        return planes
    return [planes[round(i)] for i in np.linspace(0, len(planes) - 1, count)]


def reduction(shape: tuple[int, int], max_pixels: int) -> int:
    """Return the smallest whole factor by which a (y, x) plane fits into `max_pixels` along its longer side."""
    return max(1, -(-max(shape) // max_pixels))


def display_range(volume: Volume, planes: Sequence[int], channels: Sequence[int]) -> DisplayRange:
    """Return robust limits of each channel: the 0.5th and 99.7th percentile over the given planes.

    One range for all planes, so that brightness which falls with depth is seen; and one for red, green and blue, so
    that colours stay as they are.
    """
    low, high = [], []
    for channel in channels:
        samples = [_thinned(_finite(volume.array[channel : channel + 1, z : z + 1, :, :])) for z in planes]
        values = np.concatenate(samples) if samples else np.zeros(1)
        bottom, top = np.percentile(values, (0.5, 99.7)) if values.size else (0.0, 1.0)
        if not top > bottom:
            bottom, top = float(values.min(initial=0.0)), float(values.max(initial=1.0))
        low.append(float(bottom))
        high.append(float(top) if top > bottom else float(bottom) + 1.0)
    if [volume.channel_names[c] for c in channels] == ["red", "green", "blue"]:
        low, high = [min(low)] * 3, [max(high)] * 3
    return DisplayRange(tuple(low), tuple(high))


def rendered(plane: NDArray[Any], limits: DisplayRange, factor: int) -> NDArray[np.uint8]:
    """Turn the channels of a plane into grey or colour.

    Parameters
    ----------
    plane
        (c, y, x), 1 to 3 channels: grey; green and magenta; red, green and blue.
    limits
        One range per channel.
    factor
        Reduce by means of `factor` × `factor` pixels.

    Returns
    -------
    ndarray
        (y, x) or (y, x, 3) uint8.
    """
    values = np.nan_to_num(plane.astype(np.float32), posinf=0.0, neginf=0.0)
    values = _block_mean(values, factor)
    low = np.asarray(limits.low, np.float32)[:, None, None]
    high = np.asarray(limits.high, np.float32)[:, None, None]
    scaled = np.clip((values - low) / (high - low), 0, 1)
    if len(scaled) == 1:
        shown = scaled[0]
    else:
        mixed = np.einsum("cyx,ck->yxk", scaled, np.asarray(_CHANNEL_COLOURS[len(scaled)], np.float32))
        shown = np.clip(mixed, 0, 1)
    pixels: NDArray[np.uint8] = np.rint(255 * shown).astype(np.uint8)
    return pixels


def image_uri(pixels: NDArray[np.uint8], quality: int = 82) -> str:
    """Encode (y, x) or (y, x, 3) uint8 as a WebP data URI."""
    return _uri(pixels, "webp", quality=quality, method=4)


def mask_uri(mask: NDArray[np.uint8], factor: int = 1) -> str:
    """Encode a (y, x) uint8 mask, every `factor`-th pixel, as a lossless PNG data URI."""
    return _uri(np.ascontiguousarray(mask[factor // 2 :: factor, factor // 2 :: factor]), "png", optimize=True)


def _uri(pixels: NDArray[np.uint8], kind: str, **options: Any) -> str:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _block_mean(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Mean over blocks centred like the pixels :func:`mask_uri` keeps; an incomplete last block is left out."""
    if factor == 1:
        return values
    channels, height, width = values.shape
    rows, columns = len(range(factor // 2, height, factor)), len(range(factor // 2, width, factor))
    padded = np.pad(
        values, ((0, 0), (0, max(0, rows * factor - height)), (0, max(0, columns * factor - width))), mode="edge"
    )
    cut = padded[:, : rows * factor, : columns * factor]
    blocks = cut.reshape(channels, rows, factor, columns, factor)
    means: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32)
    return means


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def _thinned(values: NDArray[np.float64], limit: int = 100_000) -> NDArray[np.float64]:
    return values[:: max(1, len(values) // limit)]
