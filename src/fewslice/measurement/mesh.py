"""From labels to a closed surface of one object: march, weld, smooth, simplify.

1. :func:`march` – marching cubes (Lorensen and Cline 1987) on a mask. Vertices lie half way between a voxel inside and
   one outside, so twice their coordinates are whole numbers.
2. :func:`weld` – the pieces of an object that was cut into blocks with one voxel in common meet in exactly the same
   vertices. They become one mesh whose order does not depend on how it was cut.
3. :func:`smoothed` – Taubin's λ|μ filter, which removes the staircase of voxels without shrinking the object.
4. :func:`simplified` – quadric decimation (Garland and Heckbert 1997) to the fewest triangles from which no vertex of
   the full surface lies further away than a given length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial import KDTree

from fewslice.errors import InputError

__all__ = ["Mesh", "Piece", "is_closed", "load_extra", "march", "placed", "simplified", "smoothed", "weld"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_TAUBIN_SHRINK, _TAUBIN_GROW = 0.5, -0.53  # Taubin 1995: pass band 1/λ + 1/μ = 0.11
_FEWEST_FACES = 8
_ERROR_IN_UNITS = 0.03
"""The allowed error in units of the decimation: 0.03 left fewer triangles of mitochondria than 0.1, 0.3, 1 and 3."""
_REFINEMENTS = 3
_VERTICES_AT_ONCE = 1 << 17
_NEIGHBOURS = (1, 8)
"""Nearest vertices whose faces are tried, in turn, for the points that are still too far."""
_MOST_FAR = 256
"""Points that may be left to be compared with all faces; with more, a simplification counts as straying."""


@dataclass(frozen=True)
class Piece:
    """A surface in whole half voxels.

    Attributes
    ----------
    vertices
        (n, 3) int64, z, y, x: twice the position in voxels.
    faces
        (m, 3) int64 indices, counter-clockwise seen from outside where x, y, z are right-handed.
    """

    vertices: Ints
    faces: Ints


@dataclass(frozen=True)
class Mesh:
    """A triangulated surface in physical units.

    Attributes
    ----------
    vertices
        (n, 3) float64, x, y, z in µm, the origin of the volume included.
    faces
        (m, 3) int64 indices, counter-clockwise seen from outside.
    """

    vertices: Floats
    faces: Ints

    @property
    def volume_um3(self) -> float:
        """Enclosed volume, of a closed surface."""
        a, b, c = (self.vertices[self.faces[:, k]] - self.vertices[:1] for k in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def load_extra(module: str, package: str) -> Any:
    """Import a library of the extra ``meshes``.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            f"meshes need {package}, which is not installed; pip install 'fewslice[meshes]' and run the command again"
        ) from None


def march(mask: npt.NDArray[np.bool_], start: Sequence[int]) -> Piece:
    """Return the surface of a mask within the cells between its voxels.

    Parameters
    ----------
    mask
        (z, y, x). The surface is open where the object reaches the mask's rim.
    start
        Position z, y, x of the first voxel; twice it is added to the vertices.
    """
    from skimage.measure import marching_cubes

    if min(mask.shape) < 2 or mask.all() or not mask.any():
        return Piece(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64))
    # Lorensen's table always gives closed surfaces of binary masks; that of Lewiner leaves gaps at ambiguous faces
    vertices, faces, _, _ = marching_cubes(mask.astype(np.float32), 0.5, method="lorensen", gradient_direction="ascent")
    doubled = np.rint(2 * vertices.astype(np.float64)).astype(np.int64) + 2 * np.asarray(start, dtype=np.int64)
    return Piece(doubled, faces[:, ::-1].astype(np.int64))


def weld(pieces: Sequence[Piece]) -> Piece:
    """Join pieces at their common vertices; the result does not depend on how they were cut or ordered."""
    vertices = np.concatenate([p.vertices for p in pieces])
    offsets = np.cumsum([0, *(len(p.vertices) for p in pieces)])
    faces = np.concatenate([p.faces + offset for p, offset in zip(pieces, offsets, strict=False)])
    if not len(vertices):
        return Piece(vertices, faces)
    low = vertices.min(axis=0)
    extent = vertices.max(axis=0) - low + 1
    key = np.ravel_multi_index(tuple((vertices - low).T), tuple(extent.tolist()))
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    faces = which.reshape(-1)[faces]
    turn = (np.argmin(faces, axis=1)[:, None] + np.arange(3)) % 3
    faces = np.take_along_axis(faces, turn, axis=1)  # the smallest index first, the direction kept
    return Piece(vertices[first], faces[np.lexsort(faces.T[::-1])])


def placed(piece: Piece, voxel_size_um: Sequence[float], origin_um: Sequence[float]) -> Mesh:
    """Return a surface in µm, x, y, z; `voxel_size_um` and `origin_um` (centre of the first voxel) are z, y, x."""
    position = piece.vertices / 2 * np.asarray(voxel_size_um) + np.asarray(origin_um)
    return Mesh(np.ascontiguousarray(position[:, ::-1]), piece.faces)


def is_closed(faces: Ints) -> bool:
    """Whether every edge joins exactly two faces that run along it in opposite directions."""
    if not len(faces):
        return False
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = np.where(ends[:, 0] < ends[:, 1], 1, -1)
    if (ends[:, 0] == ends[:, 1]).any():
        return False
    ends = np.sort(ends, axis=1)
    _, which, count = np.unique(ends[:, 0] * (ends.max() + 1) + ends[:, 1], return_inverse=True, return_counts=True)
    balance = np.bincount(which.reshape(-1), weights=forward)
    return bool((count == 2).all() and (balance == 0).all())


def smoothed(vertices: npt.NDArray[Any], faces: Ints, rounds: int) -> npt.NDArray[Any]:
    """Move every vertex towards, then away from, the mean of its neighbours.

    Parameters
    ----------
    vertices
        (n, 3) positions.
    faces
        (m, 3) indices.
    rounds
        How often; 0 changes nothing.
    """
    n = len(vertices)
    if rounds == 0 or n == 0:
        return vertices
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ones = np.ones(2 * len(ends))
    rows, columns = np.concatenate([ends, ends[:, ::-1]]).T
    adjacency = sparse.csr_array((ones, (rows, columns)), shape=(n, n))
    adjacency.data[:] = 1.0
    degree = np.maximum(np.asarray(adjacency.sum(axis=1)).reshape(-1, 1), 1)
    for _ in range(rounds):
        for factor in (_TAUBIN_SHRINK, _TAUBIN_GROW):
            vertices = vertices + factor * ((adjacency @ vertices) / degree - vertices)
    return vertices


def simplified(mesh: Mesh, error_um: float) -> Mesh:
    """Return a mesh of fewer triangles that no vertex of `mesh` lies further from than `error_um`.

    The number of triangles is halved while the deviation, measured vertex by vertex, allows it and the surface stays
    closed, then refined three times.

    Parameters
    ----------
    mesh
        A closed surface.
    error_um
        Allowed distance in µm; 0 changes nothing.

    Raises
    ------
    InputError
        If fast-simplification is not installed.
    """
    if error_um <= 0 or len(mesh.faces) <= _FEWEST_FACES:
        return mesh
    library = load_extra("fast_simplification", "fast-simplification")
    best, good, bad = mesh, len(mesh.faces), 0
    refinements = _REFINEMENTS
    while True:
        target = good // 2 if not bad else int((good * bad) ** 0.5)
        if target < _FEWEST_FACES or target in (good, bad):
            return best
        found = _decimated(library, mesh, target, error_um)
        if found is None:
            bad = target
        else:
            best, good = found, target
        refinements -= bool(bad)
        if refinements < 0:
            return best


def _decimated(library: Any, mesh: Mesh, target: int, error_um: float) -> Mesh | None:
    """Return the mesh with about `target` triangles, or None if that strays too far or tears the surface."""
    # what the library collapses first depends on the unit of length; tied to the error, µm and nm give the same
    unit = error_um / _ERROR_IN_UNITS
    vertices, faces = library.simplify(mesh.vertices / unit, mesh.faces.astype(np.int32), target_count=target)
    vertices, faces = np.asarray(vertices, np.float64) * unit, np.asarray(faces, np.int64)
    if not is_closed(faces) or not _all_within(mesh.vertices, vertices, faces, error_um):
        return None
    return Mesh(vertices, faces)


def _all_within(points: Floats, vertices: Floats, faces: Ints, distance: float) -> bool:
    """Whether every point lies within a distance of the surface: of faces at the nearest vertices, else of any face."""
    tree = KDTree(vertices)
    corner = np.argsort(faces.reshape(-1), kind="stable")
    degree = np.bincount(faces.reshape(-1), minlength=len(vertices))
    begins = np.cumsum(degree) - degree
    for start in range(0, len(points), _VERTICES_AT_ONCE):
        far = points[start : start + _VERTICES_AT_ONCE]
        for count in _NEIGHBOURS:
            count = min(count, len(vertices))
            near = tree.query(far, k=count)[1].reshape(-1)
            many = degree[near]
            owner = np.repeat(np.arange(len(far)).repeat(count), many)
            place = np.repeat(begins[near] - (np.cumsum(many) - many), many) + np.arange(many.sum())
            reached = np.zeros(len(far), dtype=bool)
            reached[owner[_distances(far[owner], vertices[faces[corner[place] // 3]]) <= distance]] = True
            far = far[~reached]
            if not len(far):
                break
        if len(far) > _MOST_FAR or (len(far) and not _all_near(far, vertices[faces], distance)):
            return False
    return True


def _all_near(points: Floats, triangles: Floats, distance: float) -> bool:
    """Whether every point lies within a distance of any triangle; those whose box is too far are left out first."""
    low, high = triangles.min(axis=1) - distance, triangles.max(axis=1) + distance
    for point in points:
        candidates = triangles[((low <= point) & (high >= point)).all(axis=1)]
        if not (_distances(np.broadcast_to(point, (len(candidates), 3)), candidates) <= distance).any():
            return False
    return True


def _distances(points: Floats, triangles: Floats) -> Floats:
    """Return the distance of each point (n, 3) from its triangle (n, 3 corners, 3)."""
    a, b, c = (triangles[:, k] for k in range(3))
    best = np.full(len(points), np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        along = end - start
        length = np.maximum(_dot(along, along), np.finfo(float).tiny)
        gap = start + np.clip(_dot(points - start, along) / length, 0, 1)[:, None] * along - points
        best = np.minimum(best, _dot(gap, gap))
    normal = np.cross(b - a, c - a)
    inside = np.ones(len(points), dtype=bool)
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= _dot(np.cross(normal, end - start), points - start) >= 0
    area = np.maximum(_dot(normal, normal), np.finfo(float).tiny)
    above = _dot(points - a, normal) ** 2 / area
    result: Floats = np.sqrt(np.where(inside & (_dot(normal, normal) > 0), above, best))
    return result


def _dot(a: Floats, b: Floats) -> Floats:
    result: Floats = np.einsum("ij,ij->i", a, b)
    return result
