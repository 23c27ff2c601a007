"""Geometry of simulated tissue, in µm: bodies, where they lie, processes and vessels.

Nothing here knows a microscope. A shape is a continuous function of position that is evaluated at the centres of
voxels, so a body is one surface in space and not a stack of plane-wise outlines.

1. :func:`place` decides where bodies lie; :func:`draw_body` gives each its surface.
2. :func:`paint_bodies` evaluates all surfaces on the grid: which body owns a voxel, and how deep inside it is.
3. :func:`walk` makes smooth random paths; :func:`paint_tubes` and :func:`tube_distance` put them on the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt

__all__ = ["Body", "Grid", "directions", "draw_body", "paint_bodies", "paint_tubes", "place", "tube_distance", "walk"]

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Voxels whose centres lie at ``origin_um + index * voxel_um``.

    Attributes
    ----------
    shape
        (z, y, x) in voxels.
    voxel_um
        (z, y, x) in µm.
    origin_um
        Centre of voxel (0, 0, 0), (z, y, x) in µm.
    """

    shape: tuple[int, int, int]
    voxel_um: tuple[float, float, float]
    origin_um: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def low_um(self) -> Floats:
        """First voxel centre, (z, y, x) in µm."""
        return np.array(self.origin_um)

    @property
    def high_um(self) -> Floats:
        """Last voxel centre, (z, y, x) in µm."""
        return np.asarray(self.low_um + (np.array(self.shape) - 1) * np.array(self.voxel_um), dtype=np.float64)

    def around(self, centre_um: Floats, reach_um: float | Floats) -> tuple[slice, slice, slice] | None:
        """Voxels with centres within `reach_um` of `centre_um` along each axis; None if there is none."""
        # Plain numbers: this is asked for every body and every piece of vessel.
        reach = [float(part) for part in np.broadcast_to(reach_um, 3)] if np.ndim(reach_um) else [float(reach_um)] * 3
        lines = zip(centre_um.tolist(), reach, self.origin_um, self.voxel_um, self.shape, strict=True)
        found = [
            slice(max(ceil((at - far - low) / size), 0), min(floor((at + far - low) / size) + 1, count))
            for at, far, low, size, count in lines
        ]
        if any(part.start >= part.stop for part in found):
            return None
        return found[0], found[1], found[2]

    def offsets(self, box: tuple[slice, slice, slice], centre_um: Floats) -> tuple[Picture, Picture, Picture]:
        """Position of the voxels of `box` relative to `centre_um`, three float32 arrays in µm that broadcast."""
        parts = []
        for axis, part in enumerate(box):
            line = self.origin_um[axis] + np.arange(part.start, part.stop) * self.voxel_um[axis] - centre_um[axis]
            parts.append(line.astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)]))
        return parts[0], parts[1], parts[2]


@dataclass(frozen=True)
class Body:
    """A star-shaped body: a tapered ellipsoid whose surface is bent by a few smooth waves.

    With p the position relative to the centre in the body's own frame, u = p₀ / a₀ and n = p / |p|, inside is where

        √(u² + (p₁² / a₁² + p₂² / a₂²) / (1 − t·u)²)  <  1 + Σₖ hₖ cos(wₖ · n + φₖ).

    Attributes
    ----------
    centre_um
        (z, y, x) in µm.
    axes_um
        The semi-axes a in µm; the first is the long one.
    frame
        (3, 3): rows are the directions of the axes in (z, y, x).
    taper
        t in [0, 0.6]: 0 is an ellipsoid, more is more of a pyramid or a drop that narrows along the long axis.
    heights, waves, phases
        h (k,), w (k, 3) and φ (k,): the bumps of the surface, relative to its radius.
    """

    centre_um: Floats
    axes_um: Floats
    frame: Floats
    taper: float
    heights: Floats
    waves: Floats
    phases: Floats

    @property
    def reach_um(self) -> float:
        """Radius of a ball around the centre that holds the body."""
        wide = max(self.axes_um[0], max(self.axes_um[1], self.axes_um[2]) * (1 + self.taper))
        return float(wide * (1 + np.abs(self.heights).sum()))

    def radius(self, z: Picture, y: Picture, x: Picture) -> Picture:
        """Distance from the centre relative to the surface in that direction: 0 in the centre, 1 on the surface.

        Parameters
        ----------
        z, y, x
            Position relative to the centre in µm, float32, broadcasting against each other.
        """
        rows = self.frame.astype(np.float32)
        own = [row[0] * z + row[1] * y + row[2] * x for row in rows]
        u, v, w = (part / np.float32(axis) for part, axis in zip(own, self.axes_um, strict=True))
        narrow = np.maximum(1 - np.float32(self.taper) * u, np.float32(0.2))
        reach = np.sqrt(u * u + (v * v + w * w) / (narrow * narrow))
        length = np.sqrt(own[0] ** 2 + own[1] ** 2 + own[2] ** 2) + np.float32(1e-6)
        surface = np.ones_like(reach)
        for height, wave, phase in zip(self.heights, self.waves.astype(np.float32), self.phases, strict=True):
            along = (wave[0] * own[0] + wave[1] * own[1] + wave[2] * own[2]) / length
            surface += np.float32(height) * np.cos(along + np.float32(phase))
        return np.asarray(reach / surface, dtype=np.float32)


def directions(count: int, generator: np.random.Generator) -> Floats:
    """Draw `count` unit vectors, uniform on the sphere, (count, 3)."""
    vectors = generator.standard_normal((count, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float64)


def _cross(a: Floats, b: Floats) -> Floats:
    """Vector product of two vectors (3,); :func:`numpy.cross` takes ten times as long for one."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def draw_body(
    centre_um: Floats,
    radius_um: float,
    *,
    elongation: float,
    taper: float,
    bumps: float,
    along: Floats,
    generator: np.random.Generator,
) -> Body:
    """Draw one body of about the volume of a ball of `radius_um`.

    Parameters
    ----------
    centre_um
        (z, y, x) in µm.
    radius_um
        Radius of the ball of the same volume, before taper and bumps.
    elongation
        Long axis over the mean of the short ones, ≥ 1.
    taper
        See :class:`Body`.
    bumps
        Standard deviation of the surface around the smooth body, relative to the radius.
    along
        Direction of the long axis, unit vector (z, y, x).
    generator
        Source of the random numbers.
    """
    side = _cross(along, directions(1, generator)[0])
    side /= np.linalg.norm(side)
    frame = np.stack([along, side, _cross(along, side)])
    flat = float(generator.uniform(0.88, 1.12))
    short = radius_um * elongation ** (-1 / 3)
    axes = np.array([short * elongation, short * flat, short / flat])
    count = 4
    heights = generator.uniform(0.5, 1.5, count) * bumps * np.sqrt(2 / count)
    waves = directions(count, generator) * generator.uniform(2.0, 5.0, (count, 1))
    return Body(centre_um, axes, frame, taper, heights, waves, generator.uniform(0, 2 * np.pi, count))


def place(
    radii_um: Floats,
    low_um: Floats,
    high_um: Floats,
    *,
    spacing: float,
    touching: float,
    free: Callable[[Floats, float], bool],
    generator: np.random.Generator,
    attempts: int = 40,
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Place balls one after the other, the largest first, so that none comes too close to an earlier one.

    Parameters
    ----------
    radii_um
        (n,) radii in µm.
    low_um, high_um
        Corners of the region that centres are drawn in, (z, y, x) in µm.
    spacing
        Smallest distance of two centres, relative to the sum of their radii. Below 1 bodies may touch.
    touching
        Share of the balls that are put beside one that lies already, at that smallest distance.
    free
        (centre, radius) → whether a body may lie there.
    generator
        Source of the random numbers.
    attempts
        A ball that finds no place in so many draws is left out.

    Returns
    -------
    tuple
        (m, 3) centres in µm and (m,) indices into `radii_um`, m ≤ n.
    """
    order = np.argsort(-radii_um, kind="stable")
    centres = np.empty((len(radii_um), 3))
    taken = np.empty(len(radii_um))
    kept: list[int] = []
    for index in order:
        radius = float(radii_um[index])
        beside = bool(kept) and generator.random() < touching
        for _ in range(attempts):
            if beside:
                other = int(generator.integers(len(kept)))
                step = spacing * (radius + taken[other]) * 1.001
                candidate = centres[other] + step * directions(1, generator)[0]
                if (candidate < low_um).any() or (candidate > high_um).any():
                    continue
            else:
                candidate = generator.uniform(low_um, high_um)
            done = len(kept)
            near = ((centres[:done] - candidate) ** 2).sum(axis=1) < (spacing * (radius + taken[:done])) ** 2
            if not near.any() and free(candidate, radius):
                centres[done], taken[done] = candidate, radius
                kept.append(int(index))
                break
    return centres[: len(kept)], np.array(kept, dtype=np.intp)


def paint_bodies(bodies: Sequence[Body], grid: Grid) -> tuple[npt.NDArray[np.uint32], Picture]:
    """Evaluate all bodies on the grid; where two overlap, a voxel belongs to the one it lies deeper in.

    Returns
    -------
    tuple
        (z, y, x) uint32, 0 or the index of the body + 1; and (z, y, x) float32, the distance from the centre relative
        to the surface (see :meth:`Body.radius`), 1 outside all bodies.
    """
    owner = np.zeros(grid.shape, dtype=np.uint32)
    radius = np.ones(grid.shape, dtype=np.float32)
    for index, body in enumerate(bodies):
        box = grid.around(body.centre_um, body.reach_um)
        if box is None:
            continue
        own = body.radius(*grid.offsets(box, body.centre_um))
        deeper = own < radius[box]
        owner[box][deeper] = index + 1
        radius[box][deeper] = own[deeper]
    return owner, radius


def walk(
    starts_um: Floats,
    headings: Floats,
    steps: npt.NDArray[np.integer],
    step_um: float,
    bend_per_um: float,
    generator: np.random.Generator,
) -> tuple[Floats, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Walk smooth random paths, all at once.

    Parameters
    ----------
    starts_um, headings
        (n, 3) first points in µm and directions as unit vectors, (z, y, x).
    steps
        (n,) number of points of each path.
    step_um
        Distance of consecutive points in µm.
    bend_per_um
        How strongly the direction wanders: radians per √µm.
    generator
        Source of the random numbers.

    Returns
    -------
    tuple
        (m, 3) points in µm, (m,) index of the path of each, (m,) number of the point along it.
    """
    longest = int(steps.max(initial=0))
    points = np.empty((longest, len(starts_um), 3))
    position, heading = starts_um.copy(), headings.copy()
    for number in range(longest):
        points[number] = position
        heading += bend_per_um * np.sqrt(step_um) * generator.standard_normal(heading.shape)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        position += step_um * heading
    order, path = np.nonzero(np.arange(longest)[:, None] < steps[None, :])
    return points[order, path], path, order


def paint_tubes(points_um: Floats, radii_um: Floats, values: Floats, grid: Grid) -> Picture:
    """Paint balls along paths; where several cover a voxel, the brightest counts.

    A voxel's value falls linearly from `values` to 0 over one in-plane voxel around the ball's surface, so that a
    process thinner than a voxel is faint instead of broken.

    Parameters
    ----------
    points_um, radii_um, values
        (m, 3), (m,) in µm and (m,) brightness ≥ 0.
    grid
        Where to paint.

    Returns
    -------
    ndarray
        (z, y, x) float32.
    """
    voxel = np.array(grid.voxel_um)
    soft = float(min(voxel))
    reach = radii_um + soft / 2
    places = (points_um - grid.low_um) / voxel
    far = reach[:, None] / voxel
    seen = ((places > -far) & (places < np.array(grid.shape) - 1 + far)).all(axis=1)
    places, radii, values, reach = places[seen], radii_um[seen], values[seen], reach[seen]
    if not len(places):
        return np.zeros(grid.shape, dtype=np.float32)
    pad = 2 * np.ceil(reach.max() / voxel).astype(int) + 1  # so that no stencil leaves the picture
    padded = np.zeros(np.array(grid.shape) + 2 * pad, dtype=np.float32)
    flat = padded.reshape(-1)
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    sizes = np.ceil(reach * 2) / 2  # balls of about the same size share one stencil
    for size in np.unique(sizes):
        chosen = sizes == size
        half = np.ceil((size + voxel / 2) / voxel).astype(int)
        middle = np.rint(places[chosen]).astype(np.intp)
        rest = [((middle - places[chosen])[:, axis] * voxel[axis]).astype(np.float32) for axis in range(3)]
        target = (middle + pad) @ strides
        radius, value = radii[chosen].astype(np.float32), values[chosen].astype(np.float32)
        limit = (radius + np.float32(soft / 2)) ** 2
        lines = [np.arange(-h, h + 1) for h in half]
        squares = [[(rest[axis] + np.float32(k * voxel[axis])) ** 2 for k in line] for axis, line in enumerate(lines)]
        for dz, z2 in zip(lines[0], squares[0], strict=True):
            for dy, y2 in zip(lines[1], squares[1], strict=True):
                zy2 = z2 + y2
                near = np.flatnonzero(zy2 < limit)
                if not len(near):
                    continue
                zy2, bound = zy2[near], limit[near]
                for dx, x2 in zip(lines[2], squares[2], strict=True):
                    distance2 = zy2 + x2[near]
                    inside = np.flatnonzero(distance2 < bound)
                    hit = near[inside]
                    cover = (radius[hit] - np.sqrt(distance2[inside])) / np.float32(soft) + np.float32(0.5)
                    shift = int(np.array([dz, dy, dx]) @ strides)
                    np.maximum.at(flat, target[hit] + shift, np.minimum(cover, 1) * value[hit])
    inner = tuple(slice(p, p + n) for p, n in zip(pad, grid.shape, strict=True))
    return np.ascontiguousarray(padded[inner])


def tube_distance(points_um: Floats, radii_um: Floats, grid: Grid, reach_um: float) -> Picture:
    """Distance to the surface of a tube made of balls, negative inside.

    Parameters
    ----------
    points_um, radii_um
        (m, 3) and (m,) in µm; consecutive points should be closer than half a radius.
    grid
        Where to evaluate.
    reach_um
        Distances above this are given as this.

    Returns
    -------
    ndarray
        (z, y, x) float32 in µm.
    """
    distance = np.full(grid.shape, reach_um, dtype=np.float32)
    for point, radius in zip(points_um, radii_um, strict=True):
        box = grid.around(point, radius + reach_um)
        if box is None:
            continue
        z, y, x = grid.offsets(box, point)
        np.minimum(distance[box], np.sqrt(z * z + y * y + x * x) - np.float32(radius), out=distance[box])
    return distance
