"""From a mask to a surface small enough to be shown: reduce, close, march, smooth, simplify.

1. :func:`_reduced` – block means, axis by axis, the finest first, until the volume is small enough.
2. The volume is padded by one background voxel, so that an object that touches the border has a closed surface.
3. Marching cubes at ``level``, in µm.
4. :func:`fewslice.measurement.mesh.smoothed` – Taubin's λ|μ filter, which removes the staircase of voxels without
   shrinking the object.
5. :func:`_clustered` – vertices that share a cell of a grid become their mean; the grid grows until few faces remain.

Every arm and the truth go through exactly the same steps, so what differs on the screen differs in the masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice.errors import InputError
from fewslice.measurement.mesh import smoothed

__all__ = ["Mesh", "isosurface"]


@dataclass(frozen=True)
class Mesh:
    """A triangulated surface.

    Attributes
    ----------
    vertices
        (n, 3) float32, z, y, x in µm from the centre of the volume's first voxel.
    faces
        (m, 3) int32 indices into ``vertices``.
    extent_um
        (z, y, x) size of the volume the surface lies in.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    extent_um: tuple[float, float, float]

    @property
    def area_um2(self) -> float:
        """Total area of the faces, µm²."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def isosurface(
    volume: NDArray[Any],
    voxel_size_um: tuple[float, float, float],
    *,
    level: float = 0.5,
    max_faces: int = 24_000,
    max_voxels: int = 6_000_000,
    smoothing: int = 10,
) -> Mesh:
    """Return the surface where `volume` crosses `level`.

    Parameters
    ----------
    volume
        (z, y, x) bool mask, or numbers such as probabilities.
    voxel_size_um
        (z, y, x) in µm; need not be a cube.
    level
        Value of the surface; 0.5 for a mask.
    max_faces
        The surface is simplified until it has at most this many triangles.
    max_voxels
        Larger volumes are reduced by block means first.
    smoothing
        Rounds of Taubin smoothing; 0 leaves the voxels' staircase.

    Returns
    -------
    Mesh
        Without vertices where nothing lies above `level`.

    Raises
    ------
    InputError
        If `volume` is not three-dimensional or a voxel size is not positive.
    """
    from skimage.measure import marching_cubes

    if volume.ndim != 3:
        raise InputError(f"a surface needs a (z, y, x) volume, got {volume.ndim} axes; pass one channel")
    if any(not size > 0 for size in voxel_size_um):
        raise InputError(f"voxel size {voxel_size_um} µm is not positive; give (z, y, x) in µm")
    extent = tuple(n * size for n, size in zip(volume.shape, voxel_size_um, strict=True))
    reduced, factors = _reduced(volume, voxel_size_um, max_voxels)
    spacing = np.asarray(voxel_size_um) * factors
    background = min(float(reduced.min(initial=0.0)), 0.0)
    padded = np.pad(reduced, 1, constant_values=background)
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), (extent[0], extent[1], extent[2]))
    if not (padded.max() > level > padded.min()):
        return empty
    vertices, faces, _, _ = marching_cubes(
        padded, level, spacing=tuple(float(s) for s in spacing), gradient_direction="ascent"
    )
    # The first padded voxel is one spacing before the first real one, whose centre lies (factor − 1)/2 voxels inside.
    corners: NDArray[np.float64] = vertices - spacing + np.asarray(voxel_size_um) * (factors - 1) / 2
    vertices, faces = _clustered(corners, faces.astype(np.int64), max_faces)
    vertices = smoothed(vertices, faces, smoothing)
    return Mesh(
        np.ascontiguousarray(vertices, dtype=np.float32),
        np.ascontiguousarray(faces, dtype=np.int32),
        empty.extent_um,
    )


def _reduced(
    volume: NDArray[Any], voxel_size_um: tuple[float, float, float], max_voxels: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Halve the axis with the finest spacing until at most `max_voxels` remain; return the factors per axis."""
    out: NDArray[np.float32] = volume.astype(np.float32)
    factors = np.ones(3, dtype=np.int64)
    while out.size > max_voxels and max(out.shape) > 1:
        spacing = np.where(np.asarray(out.shape) > 1, np.asarray(voxel_size_um) * factors, np.inf)
        axis = int(np.argmin(spacing))
        if out.shape[axis] % 2:
            widths = [(0, 0)] * 3
            widths[axis] = (0, 1)
            out = np.pad(out, widths, mode="edge")
        even, odd = (np.take(out, np.arange(start, out.shape[axis], 2), axis=axis) for start in (0, 1))
        out = ((even + odd) / 2).astype(np.float32)
        factors[axis] *= 2
    return out, factors


def _clustered(
    vertices: NDArray[Any], faces: NDArray[np.int64], max_faces: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Merge vertices by grid cell until at most `max_faces` faces remain."""
    if len(faces) <= max_faces:
        return vertices, faces
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int32), (0, 0, 0))
    # A grid of cell h leaves about 2 faces per h² of area.
    cell = float(np.sqrt(2 * mesh.area_um2 / max_faces))
    while True:
        _, group = np.unique(np.floor(vertices / cell).astype(np.int64), axis=0, return_inverse=True)
        group = group.reshape(-1)
        count = np.bincount(group)
        merged = np.stack([np.bincount(group, weights=vertices[:, k]) / count for k in range(3)], axis=1)
        kept = group[faces]
        proper = (kept[:, 0] != kept[:, 1]) & (kept[:, 1] != kept[:, 2]) & (kept[:, 0] != kept[:, 2])
        kept = kept[proper]
        _, first = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)
        kept = kept[np.sort(first)]
        if len(kept) <= max_faces:
            used, compact = np.unique(kept, return_inverse=True)
            return merged[used], compact.reshape(-1, 3).astype(np.int64)
        cell *= 1.15
