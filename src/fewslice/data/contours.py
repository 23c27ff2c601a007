"""Closed contours of labelled objects in a plane, and their elliptic Fourier descriptors (Kuhl & Giardina 1982).

1. `largest_parts` reduces every id to its largest connected part and names the ids that had several.
2. `trace` follows the outer border of every object of a label plane at once, into `Outlines`.
3. `elliptic_fourier` describes outlines by Fourier coefficients with a start that depends on the shape alone;
   `sampled` reads the outlines themselves at equal steps from that same start.
4. `fourier_points`, `boxes` and `areas` go from coefficients to points, and from points to boxes and areas.

A contour is x(t) = x₀ + Σ aₙ cos 2πnt + bₙ sin 2πnt and y(t) = y₀ + Σ cₙ cos 2πnt + dₙ sin 2πnt, t being the share of
its length, 0–1. Points are (y, x) in pixels; integers are the centres of pixels. With y downward, contours run
clockwise, so that their area (∮ x dy) is positive.

**Where a contour starts.** Coefficients depend on where t is 0. A start that jumps when the shape changes a little, as
the topmost pixel does, cannot be learned. Here the start is that at which the first harmonic's matrix [a₁ b₁; c₁ d₁] is
symmetric and its trace positive: always possible, unique, and continuous in the shape, circles included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cc3d
import fastremap
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from fewslice.errors import InputError

__all__ = [
    "Descriptors",
    "Outlines",
    "areas",
    "boxes",
    "elliptic_fourier",
    "fourier_basis",
    "fourier_points",
    "largest_parts",
    "sampled",
    "trace",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outlines:
    """Closed polygons, one after the other.

    Attributes
    ----------
    ids
        (n,) ids of the objects, ascending.
    points
        (m, 2) float64, (y, x): the vertices of all polygons, the first one not repeated at the end.
    starts
        (n + 1,) int64: the vertices of polygon i are ``points[starts[i]:starts[i + 1]]``.
    """

    ids: NDArray[np.int64]
    points: Floats
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, polygons: Sequence[NDArray[Any]]) -> Outlines:
        """Join polygons (m, 2) under the ids 1, 2, …; vertices are brought into clockwise order.

        Raises
        ------
        InputError
            If a polygon has fewer than three vertices or encloses nothing.
        """
        turned = []
        for index, polygon in enumerate(polygons):
            vertices = np.asarray(polygon, dtype=np.float64)
            area = float(areas(vertices)) if vertices.ndim == 2 and len(vertices) >= 3 else 0.0
            if not area:
                raise InputError(
                    f"polygon {index} has shape {vertices.shape} and area {area}; expected at least three vertices "
                    "(y, x) around some area"
                )
            turned.append(vertices if area > 0 else vertices[::-1])
        starts = np.cumsum([0, *(len(v) for v in turned)], dtype=np.int64)
        return cls(np.arange(1, len(turned) + 1), np.concatenate([np.zeros((0, 2)), *turned]), starts)

    def __len__(self) -> int:
        return len(self.ids)

    def polygon(self, index: int) -> Floats:
        """Return the vertices (m, 2) of one polygon."""
        return self.points[self.starts[index] : self.starts[index + 1]]


@dataclass(frozen=True)
class Descriptors:
    """Elliptic Fourier descriptors of n contours.

    Attributes
    ----------
    centre
        (n, 2) float64, (y₀, x₀): the mean point along the contour.
    coefficients
        (n, order, 4) float64: aₙ, bₙ (of x), cₙ, dₙ (of y), in pixels.
    start
        (n,) float64: where t = 0 lies, as a share of the length from the outline's first vertex on.
    """

    centre: Floats
    coefficients: Floats
    start: Floats


# ---------------------------------------------------------------------------------------------- from labels to polygons


def largest_parts(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keep the largest 4-connected part of every id of a plane.

    Parameters
    ----------
    labels
        (y, x) integers ≥ 0, 0 = background. Any id, also above 65,535.

    Returns
    -------
    kept
        (y, x) int64; 0 where the smaller parts were. Of equal parts the first one, row by row, is kept.
    split
        Ids that had several parts, ascending.
    """
    small, names = fastremap.renumber(np.ascontiguousarray(labels), preserve_zero=True)
    small = small.astype(np.uint32)
    parts, count = cc3d.connected_components(small, connectivity=4, return_N=True)
    flat = parts.ravel()
    size = np.bincount(flat, minlength=count + 1)
    owner = np.zeros(count + 1, np.int64)
    owner[flat] = small.ravel()
    order = np.lexsort((np.arange(count + 1), -size, owner))
    first = np.ones(count + 1, bool)
    first[1:] = owner[order][1:] != owner[order][:-1]
    best = np.zeros(count + 1, bool)
    best[order[first]] = True
    identity = np.zeros(len(names) + 1, np.int64)
    for before, after in names.items():
        identity[int(after)] = int(before)
    kept = np.where(best, identity[owner], 0)[parts]
    split = identity[np.unique(owner[1:][~best[1:]])]
    return kept, np.sort(split)


def trace(labels: NDArray[Any]) -> Outlines:
    """Follow the outer border of every object of a plane, by marching squares at half height.

    Vertices are the midpoints of the pixel sides between an object and what is not of it. Holes are ignored, of an id
    in several 4-connected parts the largest is followed, objects are closed along the border of the plane, and a single
    pixel is a diamond of area 1/2.

    Parameters
    ----------
    labels
        (y, x) integers ≥ 0, 0 = background.

    Returns
    -------
    Outlines
        One per id. No id, no outline.
    """
    kept, _ = largest_parts(labels)
    small, names = fastremap.renumber(kept, preserve_zero=True)
    identity = {int(after): int(before) for before, after in names.items()}
    found: list[tuple[int, Floats]] = []
    for index, where in enumerate(ndimage.find_objects(small.astype(np.int32)), start=1):
        mask = np.pad(small[where] == index, 1).astype(np.float64)
        loops = measure.find_contours(mask, 0.5, fully_connected="low", positive_orientation="low")
        outer = loops[0] if len(loops) == 1 else max(loops, key=areas)  # clockwise; the borders of holes are not
        found.append((identity[index], outer[:-1] + [part.start - 1 for part in where]))
    found.sort(key=lambda pair: pair[0])
    starts = np.cumsum([0, *(len(polygon) for _, polygon in found)], dtype=np.int64)
    ids = np.array([identity for identity, _ in found], dtype=np.int64)
    return Outlines(ids, np.concatenate([np.zeros((0, 2)), *(polygon for _, polygon in found)]), starts)


# ------------------------------------------------------------------------------------------------------ descriptors


def elliptic_fourier(outlines: Outlines, order: int) -> Descriptors:
    """Describe closed polygons by their Fourier series (Kuhl & Giardina 1982, equations 7 and 8).

    aₙ = T / (2 n² π²) Σ (Δx / Δt) (cos 2πn t⁺/T − cos 2πn t⁻/T) over the sides, t⁻ and t⁺ being the lengths up to their
    ends and T the whole; bₙ with sines, cₙ and dₙ of y. The series of a polygon has harmonics of any order, so that no
    order is too large, however few vertices there are.

    Parameters
    ----------
    outlines
        Polygons with some area.
    order
        Number of harmonics, at least 1.

    Raises
    ------
    InputError
        If the order is below 1.
    """
    if order < 1:
        raise InputError(f"order {order} of elliptic Fourier descriptors must be at least 1; 5 describes most cells")
    if not len(outlines):
        return Descriptors(np.zeros((0, 2)), np.zeros((0, order, 4)), np.zeros(0))
    first = outlines.starts[:-1]
    step, length, before, total = _sides(outlines)
    each = np.repeat(np.arange(len(outlines)), np.diff(outlines.starts))
    n = np.arange(1, order + 1)
    phase = 2 * math.pi * np.stack((before, before + length)) / total[each]
    turn = np.exp(1j * phase[..., None] * n)
    slope = np.divide(step, length[:, None], out=np.zeros_like(step), where=length[:, None] > 0)
    change = turn[1] - turn[0]
    y, x = (np.add.reduceat(slope[:, axis, None] * change, first, axis=0) for axis in (0, 1))
    scale = total[:, None] / (2 * n**2 * math.pi**2)
    coefficients = np.stack((x.real, x.imag, y.real, y.imag), axis=-1) * scale[..., None]
    middle = outlines.points + step / 2
    centre = np.add.reduceat(middle * length[:, None], first, axis=0) / total[:, None]
    a, b, c, d = coefficients[:, 0].T
    angle = np.arctan2(b - c, a + d)
    return Descriptors(centre, _started_at(coefficients, angle), angle / (2 * math.pi) % 1.0)


def _started_at(coefficients: Floats, angle: Floats) -> Floats:
    """Let contours begin where their first harmonic has gone through `angle`."""
    turn = angle[:, None] * np.arange(1, coefficients.shape[1] + 1)
    cos, sin = np.cos(turn)[..., None], np.sin(turn)[..., None]
    even, odd = coefficients[..., 0::2], coefficients[..., 1::2]
    return np.stack((even * cos + odd * sin, odd * cos - even * sin), axis=-1).reshape(coefficients.shape)


def sampled(outlines: Outlines, start: Floats, samples: int) -> Floats:
    """Read polygons at equal steps along their length.

    Parameters
    ----------
    outlines
        The polygons.
    start
        (n,) where to begin, as a share of the length from the first vertex on.
    samples
        Points per polygon.

    Returns
    -------
    ndarray
        (n, samples, 2) float64, (y, x), at t = 0, 1/samples, …
    """
    step, length, before, total = _sides(outlines)
    # One axis for all polygons: polygon i covers i … i + 1.
    each = np.repeat(np.arange(len(outlines)), np.diff(outlines.starts))
    axis = each + before / total[each]
    wanted = np.arange(len(outlines))[:, None] + (start[:, None] + np.arange(samples) / samples) % 1.0
    side = np.searchsorted(axis, wanted, side="right") - 1
    along = (wanted - axis[side]) * total[:, None] / np.maximum(length[side], 1e-300)
    found: Floats = outlines.points[side] + np.clip(along, 0.0, 1.0)[..., None] * step[side]
    return found


@lru_cache(maxsize=8)
def fourier_basis(order: int, samples: int) -> Floats:
    """Return (samples, order, 2): cos and sin of 2πnt at t = 0, 1/samples, …; never to be written to."""
    turn = 2 * math.pi * np.arange(samples)[:, None] / samples * np.arange(1, order + 1)
    return np.stack((np.cos(turn), np.sin(turn)), axis=-1)


def fourier_points(centre: Floats, coefficients: Floats, samples: int) -> Floats:
    """Return the points (n, samples, 2), (y, x), of contours at t = 0, 1/samples and so on.

    Parameters
    ----------
    centre, coefficients
        As in :class:`Descriptors`.
    samples
        Points per contour.
    """
    count, order, _ = coefficients.shape
    basis = fourier_basis(order, samples).reshape(samples, 2 * order)
    y, x = (coefficients[..., part].reshape(count, 2 * order) @ basis.T for part in (slice(2, 4), slice(0, 2)))
    return np.stack((y, x), axis=-1) + centre[:, None]


def boxes(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the boxes (…, 4), (low y, low x, high y, high x), of contours (…, samples, 2)."""
    return np.concatenate((points.min(-2), points.max(-2)), axis=-1)


def areas(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the signed areas (…) of closed polygons (…, samples, 2), positive clockwise (y downward), in pixels²."""
    y, x = points[..., 0], points[..., 1]
    area: NDArray[np.floating] = (x * np.roll(y, -1, -1) - np.roll(x, -1, -1) * y).sum(-1) / 2
    return area


def _sides(outlines: Outlines) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the sides (m, 2), their lengths (m,), the lengths before them, and the lengths of the polygons (n,)."""
    first, last = outlines.starts[:-1], outlines.starts[1:] - 1
    following = np.arange(1, len(outlines.points) + 1)
    following[last] = first
    step = outlines.points[following] - outlines.points
    length = np.hypot(step[:, 0], step[:, 1])
    total = np.add.reduceat(length, first) if len(first) else np.zeros(0)
    before = np.cumsum(length) - length
    before -= np.repeat(before[first], np.diff(outlines.starts))
    return step, length, before, total
