"""What people use without a model: a threshold on the image, and a watershed of the distance in the mask.

The baseline that a trained model must beat. It reads an image, makes a store whose only output is the mask, and parts
what touches as :mod:`fewslice.segmenters.watershed` does.

1. The image is smoothed; dark objects are made bright.
2. ``local`` takes the mean over a window away, so that an uneven background does not count.
3. The threshold is Otsu's (1979), of the histogram of the whole volume, or of 32 evenly spread parts of a large one. Of
   several channels the one is used that it parts best: the greatest share of the variance lies between both sides.
4. Small holes of the mask are filled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from fewslice.errors import InputError
from fewslice.geometry import Block, cover
from fewslice.segmenters import Merging, Output, Place, Regions, Triple, voxels_of
from fewslice.segmenters import watershed as parting
from fewslice.volume import Volume

__all__ = [
    "Config",
    "channels",
    "foreground",
    "foreground_halo",
    "halo",
    "label",
    "merging",
    "otsu",
    "smallest",
    "survey",
]

_TRUNCATE = 3.0
_PART = (32, 512, 512)
_MOST_PARTS = 32
_BINS = 1024


class Config(BaseModel):
    """How the mask is made, and how it is parted.

    Attributes
    ----------
    objects
        ``bright`` on a dark background, or ``dark`` on a bright one.
    method
        ``otsu``: one threshold for all; ``local``: after the (Gaussian-weighted) mean over a window was taken away.
    channel
        Which channel, 0-based. None: the one that the threshold parts best.
    smoothing_um
        Standard deviation of the Gaussian that smooths the image. None: two extents of the smallest voxel; 0: none.
    window_um
        Extent of the window of ``local``; choose several times the size of an object. None: 64 extents of the smallest
        voxel.
    holes_um
        Holes of at most this extent along every axis are filled. None: 24 extents of the smallest voxel; 0: none.
    watershed
        How what touches is parted. Its ``min_size_um3`` is by default a ball (in one plane a disc) of twice the
        smoothing's standard deviation as radius: what is smaller may be noise that was smoothed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    objects: Literal["bright", "dark"] = "bright"
    method: Literal["otsu", "local"] = "otsu"
    channel: int | None = Field(None, ge=0)
    smoothing_um: float | None = Field(None, ge=0, allow_inf_nan=False)
    window_um: float | None = Field(None, gt=0, allow_inf_nan=False)
    holes_um: float | None = Field(None, ge=0, allow_inf_nan=False)
    watershed: parting.Config = Field(default_factory=parting.Config)


def channels(outputs: Sequence[Output]) -> tuple[int, ...]:
    """Return the position of the mask; see :mod:`fewslice.segmenters`."""
    return parting.channels(outputs)


def halo(config: Config, voxel_size_um: Triple | None) -> tuple[int, int, int]:
    """Return the watershed's."""
    return parting.halo(config.watershed, voxel_size_um)


def merging(config: Config, voxel_size_um: Triple | None) -> Merging:
    """Return the watershed's."""
    return parting.merging(config.watershed, voxel_size_um)


def smallest(config: Config, shape: tuple[int, int, int], voxel_size_um: Triple | None) -> int:
    """Return the smallest object in voxels."""
    spacing = voxel_size_um or (1.0, 1.0, 1.0)
    radius = 2 * _smoothing(config, spacing)
    if shape[0] == 1:
        blob = math.pi * radius**2 / (spacing[1] * spacing[2])
    else:
        blob = 4 / 3 * math.pi * radius**3 / math.prod(spacing)
    return voxels_of(config.watershed.min_size_um3, voxel_size_um, default=math.ceil(blob))


def label(config: Config, values: npt.NDArray[Any], place: Place) -> Regions:
    """Label the regions of one block of the mask; see :mod:`fewslice.segmenters`."""
    return parting.label(config.watershed, values, place)


def foreground_halo(config: Config, voxel_size_um: Triple | None) -> tuple[int, int, int]:
    """Return what smoothing, the window and holes read, (z, y, x) in voxels."""
    spacing = voxel_size_um or (1.0, 1.0, 1.0)
    z, y, x = (a + b for a, b in zip(_context(config, spacing), _holes(config, spacing), strict=True))
    return (z, y, x)


def survey(config: Config, image: Volume, listener: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Find the channel and the threshold.

    Returns
    -------
    dict
        ``channel``, 0-based, and ``threshold``, in the unit of the image; dark objects' values are negative.

    Raises
    ------
    InputError
        If there is no such channel, the image has one value only, or values that are not finite.
    """
    if config.channel is not None and config.channel >= image.channels:
        raise InputError(
            f"{image.source} has {image.channels} channels, so there is no channel {config.channel}; count from 0"
        )
    size = image.voxel_size_um
    spacing = size or (1.0, 1.0, 1.0)
    chosen = range(image.channels) if config.channel is None else [config.channel]
    blocks = cover(image.shape, _PART, _context(config, spacing))
    step = len(blocks) / min(len(blocks), _MOST_PARTS)
    parts = [blocks[int(i * step)] for i in range(min(len(blocks), _MOST_PARTS))]

    def values_of(block: Block, channel: int) -> npt.NDArray[np.float32]:
        return _raised(config, image.read(block.read, [channel])[0], spacing)[block.crop.slices]

    best: tuple[float, dict[str, Any]] | None = None
    for place, channel in enumerate(chosen):
        low, high = math.inf, -math.inf
        for done, block in enumerate(parts):
            values = values_of(block, channel)
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            if listener is not None:
                listener(2 * len(parts) * place + done + 1, 2 * len(parts) * len(chosen))
        if not math.isfinite(low) or not math.isfinite(high):
            raise InputError(f"{image.source} holds NaN or infinite values, so it has no threshold; mend the image")
        if low == high:
            continue
        counts = np.zeros(_BINS, dtype=np.int64)
        for done, block in enumerate(parts):
            counts += np.histogram(values_of(block, channel), bins=_BINS, range=(low, high))[0]
            if listener is not None:
                listener(2 * len(parts) * place + len(parts) + done + 1, 2 * len(parts) * len(chosen))
        threshold, share = otsu(counts, low, high)
        if best is None or share > best[0]:
            best = (share, {"channel": channel, "threshold": threshold})
    if best is None:
        raise InputError(f"{image.source} has one value only, so nothing can be told apart in it; check the file")
    return best[1]


def otsu(counts: npt.NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the value between two bins of a histogram that makes the variance between both sides greatest.

    Parameters
    ----------
    counts
        Values per bin, of equal bins from `low` to `high`, at least two of them not empty.
    low, high
        Range of the values.

    Returns
    -------
    threshold, share
        The middle of an empty valley; and the share of the variance that lies between both sides, 0–1.
    """
    edges = np.linspace(low, high, counts.size + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    weight = counts / counts.sum()
    below, mean = np.cumsum(weight)[:-1], float((weight * centres).sum())
    above, sum_below = 1.0 - below, np.cumsum(weight * centres)[:-1]
    valid = (np.cumsum(counts)[:-1] > 0) & (np.cumsum(counts)[:-1] < counts.sum())
    between = np.full(below.size, -1.0)
    between[valid] = (mean * below[valid] - sum_below[valid]) ** 2 / (below[valid] * above[valid])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    variance = float((weight * (centres - mean) ** 2).sum())
    return float(edges[1 + best].mean()), float(between.max()) / variance


def foreground(
    config: Config, facts: dict[str, Any], raw: npt.NDArray[Any], block: Block, voxel_size_um: Triple | None
) -> npt.NDArray[np.uint8]:
    """Return the mask of one block, (z, y, x) uint8, 0 or 255; see :mod:`fewslice.segmenters`."""
    spacing = voxel_size_um or (1.0, 1.0, 1.0)
    mask = _raised(config, raw[facts["channel"]], spacing) > facts["threshold"]
    holes = _holes(config, spacing)
    if max(holes) > 0:
        # the values are those of the whole volume as far as the context reaches; beyond, the mask is not looked at
        inner = block.write.grow(holes).intersect(block.read)
        near = mask[inner.shift(tuple(-a for a in block.read.start)).slices]
        filled = fill_holes(near, holes)
        mask = filled[block.write.shift(tuple(-a for a in inner.start)).slices]
    else:
        mask = mask[block.crop.slices]
    return np.where(mask, np.uint8(255), np.uint8(0))


def fill_holes(mask: npt.NDArray[np.bool_], extents: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Fill holes that are no longer than `extents` less one along every axis and touch no border.

    Parameters
    ----------
    mask
        (z, y, x) bool. Of a single plane, only the rows and columns at its rim are border.
    extents
        (z, y, x) in voxels. A hole that touches a voxel lies within `extents` of it, so a part of a volume that reaches
        that much further is filled as the whole is.
    """
    result = mask.copy()
    labels, _ = ndimage.label(~mask)
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        closed = True
        for axis, (part, extent) in enumerate(zip(place, extents, strict=True)):
            size = mask.shape[axis]
            if axis == 0 and size == 1:
                continue
            closed &= part.start > 0 and part.stop < size and part.stop - part.start < extent
        if closed:
            result[place][labels[place] == number] = True
    return result


def _raised(config: Config, channel: npt.NDArray[Any], spacing: Triple) -> npt.NDArray[np.float32]:
    """Return what is compared with the threshold, (z, y, x); objects are high in it. The context's rim is not exact."""
    values = channel.astype(np.float32)
    if config.objects == "dark":
        values = -values
    sigma = _sigma(config, spacing)
    if any(sigma):
        values = ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=_TRUNCATE)
    window = _window(config, spacing)
    return values - _window_mean(values, window) if config.method == "local" else values


def _window_mean(values: npt.NDArray[np.float32], window: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Mean over a window, weighted by a Gaussian of a quarter of its extent; at borders over the part that there is.

    No running sums: their last digits would depend on where a block begins.
    """
    total, share = values.astype(np.float64), np.ones(values.shape)
    for axis, extent in enumerate(window):
        if extent > 1:
            total = ndimage.gaussian_filter1d(total, extent / 4, axis, mode="constant", radius=extent // 2)
            share = ndimage.gaussian_filter1d(share, extent / 4, axis, mode="constant", radius=extent // 2)
    return (total / share).astype(np.float32)


def _context(config: Config, spacing: Triple) -> tuple[int, int, int]:
    """Return what smoothing and the window read, in voxels."""
    window = _window(config, spacing)
    z, y, x = (math.ceil(_TRUNCATE * s) + w // 2 for s, w in zip(_sigma(config, spacing), window, strict=True))
    return (z, y, x)


def _holes(config: Config, spacing: Triple) -> tuple[int, int, int]:
    extent = 24 * min(spacing) if config.holes_um is None else config.holes_um
    if extent == 0:
        return (0, 0, 0)
    z, y, x = (math.floor(extent / step) + 1 for step in spacing)
    return (z, y, x)


def _sigma(config: Config, spacing: Triple) -> Triple:
    """Return the standard deviation in voxels; none along axes whose voxels are longer than it."""
    sigma = _smoothing(config, spacing)
    z, y, x = (sigma / extent if extent <= sigma else 0.0 for extent in spacing)
    return (z, y, x)


def _smoothing(config: Config, spacing: Triple) -> float:
    return 2 * min(spacing) if config.smoothing_um is None else config.smoothing_um


def _window(config: Config, spacing: Triple) -> tuple[int, int, int]:
    """Odd extents in voxels; 1 for ``otsu``."""
    if config.method == "otsu":
        return (1, 1, 1)
    extent = 64 * min(spacing) if config.window_um is None else config.window_um
    z, y, x = (2 * round(extent / step / 2) + 1 for step in spacing)
    return (z, y, x)
