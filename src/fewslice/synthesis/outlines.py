"""Outlines of cells in a plane: closed star-shaped curves r(θ) in µm, tabulated, for all cells at once.

1. :func:`draw_outlines` makes the curves: ellipse, rounded triangle, pointed corners, bumps, with exactly the area
   asked for.
2. :func:`windows` sorts cells by the size of the window that holds them, so that each group is one array.
3. :func:`positions` and :func:`radial_depth` evaluate a group at the centres of its pixels.

The angle is tabulated as the *diamond angle*, x / (|x| + |y|) unrolled to 0 … 4: monotone in θ, and without a
trigonometric function for every pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Window", "draw_outlines", "extents", "positions", "radial_depth", "windows"]

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]

BINS = 512
BUMPS = np.arange(2, 7)
SHARPNESS = np.float32(12)

_EDGES = np.arange(BINS + 1) * 4 / BINS
_MIDDLE = (_EDGES[1:] + _EDGES[:-1]) / 2


def _directions(diamond: Floats) -> Floats:
    """Return unit vectors (n, 2) in (y, x) for diamond angles."""
    upper = diamond <= 2
    x = np.where(upper, 1 - diamond, diamond - 3)
    y = np.where(upper, 1.0, -1.0) * (1 - np.abs(x))
    return np.asarray(np.stack([y, x], axis=1) / np.hypot(y, x)[:, None], dtype=np.float64)


_TOWARDS = _directions(_MIDDLE)
_THETA = np.arctan2(_TOWARDS[:, 0], _TOWARDS[:, 1])
_ARC = np.diff(np.unwrap(np.arctan2(*_directions(_EDGES).T))).astype(np.float32)
_TOWARDS = _TOWARDS.astype(np.float32)
_COSINES, _SINES = (wave(_THETA[None, :] * BUMPS[:, None]).astype(np.float32) for wave in (np.cos, np.sin))


def draw_outlines(
    radius_um: Floats,
    elongation: Floats,
    angle: Floats,
    triangle: Floats,
    corners: Floats,
    bumps: Floats,
    generator: np.random.Generator,
) -> Picture:
    """Draw outlines, each of the area of a disc of its radius.

    With ψ the angle to the long axis and e the elongation,

        r(θ) ∝ (cos²ψ / e + e sin²ψ)^(-½) · (1 + t cos 3ψ) · (1 + Σₘ hₘ exp(12 (cos(ψ − ψₘ) − 1))) · (1 + Σₖ bₖ cos(kθ +
        φₖ))

    Parameters
    ----------
    radius_um
        (n,) radius of the disc of the same area, µm.
    elongation, angle
        (n,) long over short axis, and the direction of the long axis in radians from x towards y.
    triangle
        (n,) t in [0, 0.2]: roundness of an ellipse to that of a triangle with its apex along the long axis.
    corners
        (n, 3) heights h ≥ 0 of the corner at the apex and of two corners about 120° away.
    bumps
        (n,) standard deviation of the smooth waves b, relative.
    generator
        Source of the random numbers.

    Returns
    -------
    ndarray
        (n, 512) float32: radius in µm by diamond angle.
    """
    count = len(radius_um)
    cosine = _cosine(angle)
    square = cosine * cosine
    long = elongation.astype(np.float32)[:, None]
    table = 1 / np.sqrt(long + square * (1 / long - long))
    tapered = np.flatnonzero(triangle > 0)
    table[tapered] *= 1 + triangle[tapered].astype(np.float32)[:, None] * cosine[tapered] * (4 * square[tapered] - 3)
    spread = generator.normal(0, 0.35, (count, 3))
    for number, place in enumerate((0.0, 2.1, -2.1)):
        pointed = np.flatnonzero(corners[:, number] > 0)
        if len(pointed):
            away = _cosine(angle[pointed] + place + spread[pointed, number])
            height = corners[pointed, number : number + 1].astype(np.float32)
            table[pointed] *= 1 + height * np.exp(SHARPNESS * (away - 1))
    wave = bumps[:, None] * generator.standard_normal((count, len(BUMPS))) / BUMPS / np.sqrt((1 / BUMPS**2).sum() / 2)
    phase = generator.uniform(0, 2 * np.pi, (count, len(BUMPS)))
    table *= np.maximum(
        1 + (wave * np.cos(phase)).astype(np.float32) @ _COSINES - (wave * np.sin(phase)).astype(np.float32) @ _SINES,
        np.float32(0.4),
    )
    area = 0.5 * (table * table) @ _ARC
    table *= (radius_um * np.sqrt(np.pi / area)).astype(np.float32)[:, None]
    return np.asarray(table, dtype=np.float32)


def _cosine(angle: Floats) -> Picture:
    """Return the cosine of the angle between each direction `angle` (n,) and those of the table, (n, 512) float32."""
    return np.asarray(
        np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32) @ _TOWARDS.T, dtype=np.float32
    )


@dataclass(frozen=True)
class Window:
    """Cells whose windows have one size.

    Attributes
    ----------
    cells
        (n,) indices.
    start
        (n, 2) first pixel y, x of each window; may be negative.
    size
        Height and width in pixels.
    """

    cells: Ints
    start: Ints
    size: tuple[int, int]


def extents(table: Picture) -> Floats:
    """How far outlines (n, 512) reach from their centres along y and x, (n, 2) in µm."""
    return np.stack([np.abs(table * _TOWARDS[:, axis]).max(axis=1) for axis in (0, 1)], axis=1).astype(np.float64)


def windows(
    centres_um: Floats, reach_um: Floats, pixel_um: tuple[float, float], batch: int = 60_000
) -> Iterator[Window]:
    """Group cells by the size of their windows, rounded up, at most about `batch` pixels to a group.

    Parameters
    ----------
    centres_um
        (n, 2) y, x in µm.
    reach_um
        (n, 2) how far each window reaches from the centre along y and x, µm.
    pixel_um
        y, x in µm.
    """
    if not len(centres_um):
        return
    pixel = np.array(pixel_um)
    half = np.ceil(reach_um / pixel / 4).astype(np.intp) * 4
    start = np.rint(centres_um / pixel).astype(np.intp) - half
    for size in np.unique(half, axis=0):
        cells = np.flatnonzero((half == size).all(axis=1))
        height, width = 2 * int(size[0]) + 1, 2 * int(size[1]) + 1
        step = max(1, batch // (height * width))
        for first in range(0, len(cells), step):
            part = cells[first : first + step]
            yield Window(part, start[part], (height, width))


def positions(window: Window, centres_um: Floats, pixel_um: tuple[float, float]) -> tuple[Picture, Picture]:
    """Position of every pixel relative to the centre of its cell: y (n, h, 1) and x (n, 1, w), float32 in µm."""
    height, width = window.size
    rest = window.start * np.array(pixel_um) - centres_um[window.cells]
    y = rest[:, :1] + np.arange(height) * pixel_um[0]
    x = rest[:, 1:] + np.arange(width) * pixel_um[1]
    return y.astype(np.float32)[:, :, None], x.astype(np.float32)[:, None, :]


def radial_depth(y: Picture, x: Picture, table: Picture) -> Picture:
    """Depth below the outline along the ray from the centre.

    Parameters
    ----------
    y, x
        Positions as :func:`positions` gives them.
    table
        (n, 512) outlines of these cells.

    Returns
    -------
    ndarray
        (n, h, w) float32 in µm: r(θ) − |p|, positive inside.
    """
    share = np.abs(y) + np.abs(x)
    share += np.float32(1e-9)
    np.divide(x, share, out=share)
    # Diamond angle: 1 − t above, 3 + t below.
    share *= np.where(y >= 0, np.float32(-BINS / 4), np.float32(BINS / 4))
    share += np.where(y >= 0, np.float32(BINS / 4), np.float32(3 * BINS / 4))
    index = share.astype(np.int32)
    np.minimum(index, BINS - 1, out=index)
    index += (np.arange(len(table), dtype=np.int32) * BINS)[:, None, None]
    depth = table.ravel().take(index)
    depth -= np.sqrt(y * y + x * x)
    return np.asarray(depth, dtype=np.float32)
