"""Small pictures of places in a volume: a window of one plane, enlarged, with outlines on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewslice.geometry import Box, Shape

__all__ = ["beside", "enlarged", "hot_spot", "marked", "outlined", "tinted", "window"]

_SIDE = 192


def window(shape: Shape, centre: Sequence[int], extent: Sequence[int]) -> Box:
    """Return a box of an extent around a centre, moved inside a volume of `shape` and cut where it is larger."""
    start = [max(0, min(c - e // 2, n - e)) for c, e, n in zip(centre, extent, shape, strict=True)]
    return Box(tuple(start), tuple(min(n, s + e) for s, e, n in zip(start, extent, shape, strict=True)))


def hot_spot(amount: NDArray[Any], size: int = 32) -> tuple[int, int]:
    """Return the centre (row, column) of the neighbourhood of `size` × `size` pixels that holds most of an amount."""
    if not amount.any():
        return amount.shape[0] // 2, amount.shape[1] // 2
    blurred = ndimage.uniform_filter(amount.astype(np.float32), min(size, *amount.shape), mode="constant")
    row, column = np.unravel_index(int(blurred.argmax()), blurred.shape)
    return int(row), int(column)


def enlarged(
    pixels: NDArray[np.uint8], aspect: float = 1.0, side: int = _SIDE
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Repeat pixels until the picture is large enough to be looked at.

    Parameters
    ----------
    pixels
        (y, x) or (y, x, 3) uint8.
    aspect
        Height of a pixel over its width.
    side
        Pixels of the longer side, about.

    Returns
    -------
    tuple
        (y, x, 3) uint8, and how often rows and columns were repeated.
    """
    coloured = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    columns = max(1, round(side / max(coloured.shape[0] * aspect, coloured.shape[1])))
    rows = max(1, round(columns * aspect))
    return coloured.repeat(rows, axis=0).repeat(columns, axis=1), (rows, columns)


def outlined(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], factors: tuple[int, int], colour: str
) -> NDArray[np.uint8]:
    """Draw the inner outline, two pixels wide, of a mask of the pixels before they were enlarged."""
    large = mask.repeat(factors[0], axis=0).repeat(factors[1], axis=1)
    edge = large & ~ndimage.binary_erosion(large, iterations=2, border_value=1)
    drawn = picture.copy()
    drawn[edge] = _rgb(colour)
    return drawn


def tinted(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], factors: tuple[int, int], colour: str
) -> NDArray[np.uint8]:
    """Mix a colour into the pixels of a mask, half and half."""
    large = mask.repeat(factors[0], axis=0).repeat(factors[1], axis=1)
    drawn = picture.copy()
    drawn[large] = drawn[large] // 2 + np.asarray(_rgb(colour), np.uint8) // 2
    return drawn


def marked(picture: NDArray[np.uint8], axis: int, position: int, colour: str) -> NDArray[np.uint8]:
    """Mark a line before a row (axis 0) or column (axis 1) by a notch at either end, so that it hides nothing."""
    drawn = picture.copy()
    span = slice(max(0, position - 1), position + 1)
    length = max(6, drawn.shape[1 - axis] // 8)
    for ends in (slice(0, length), slice(-length, None)):
        drawn[(span, ends) if axis == 0 else (ends, span)] = _rgb(colour)
    return drawn


def beside(pictures: Sequence[NDArray[np.uint8]], gap: int = 4) -> NDArray[np.uint8]:
    """Put pictures of one size next to each other, white between them."""
    height = pictures[0].shape[0]
    parts: list[NDArray[np.uint8]] = []
    for picture in pictures:
        parts += [picture, np.full((height, gap, 3), 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
