"""Surfaces of one object: closed, seamless, of the right volume, topology and place, and simplified as far as
allowed."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import KDTree

from fewslice.geometry import Box
from fewslice.measurement.mesh import Mesh, is_closed, placed, simplified, smoothed
from fewslice.measurement.meshes import object_surface
from fewslice.volume import Volume

VOXEL = (0.4, 0.2, 0.1)


def ball(radius: float, shape: tuple[int, int, int] = (21, 37, 69)) -> np.ndarray:
    z, y, x = (np.arange(n) - n // 2 for n in shape)
    grid = np.meshgrid(z * VOXEL[0], y * VOXEL[1], x * VOXEL[2], indexing="ij")
    return (sum(g**2 for g in grid) < radius**2).astype(np.uint8)


def torus() -> np.ndarray:
    z, y, x = np.meshgrid(*(np.arange(-16, 17),) * 3, indexing="ij")
    return ((np.hypot(y, x) - 10) ** 2 + z**2 < 16).astype(np.uint8)


def surface(labels: np.ndarray, most_voxels: int = 2**25, voxel: tuple[float, float, float] = VOXEL) -> Mesh:
    volume = Volume.from_array(labels)
    return placed(object_surface(volume, 1, Box.of(volume.shape), most_voxels), voxel, (0.0, 0.0, 0.0))


def solid(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(0, 2)), st.integers(8, 200))
def test_any_object_is_closed_and_cutting_leaves_no_seam(labels: np.ndarray, most_voxels: int) -> None:
    """Also noise, objects at the border and such that touch themselves at edges and corners."""
    if not (labels == 1).any():
        return
    volume = Volume.from_array(labels)
    whole = object_surface(volume, 1, Box.of(labels.shape))
    pieces = object_surface(volume, 1, Box.of(labels.shape), most_voxels)
    assert np.array_equal(whole.vertices, pieces.vertices) and np.array_equal(whole.faces, pieces.faces)
    mesh = solid(placed(whole, (1, 1, 1), (0, 0, 0)))
    assert is_closed(whole.faces) and mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume > 0


def test_volume_place_and_direction_of_a_ball() -> None:
    mesh = surface(ball(3.0))
    count = ball(3.0).sum() * np.prod(VOXEL)
    assert mesh.volume_um3 == pytest.approx(solid(mesh).volume)
    assert mesh.volume_um3 == pytest.approx(count, rel=0.03)  # marching cubes cut half a voxel off convex edges
    smooth = Mesh(smoothed(mesh.vertices, mesh.faces, 10), mesh.faces)
    assert smooth.volume_um3 == pytest.approx(4 / 3 * np.pi * 27, rel=0.03)
    middle = np.array([34 * VOXEL[2], 18 * VOXEL[1], 10 * VOXEL[0]])  # x, y, z
    assert solid(mesh).center_mass == pytest.approx(middle, abs=1e-6)
    normals = solid(smooth).vertex_normals
    outward = smooth.vertices - middle
    along = np.einsum("ij,ij->i", normals, outward / np.linalg.norm(outward, axis=1)[:, None])
    assert along.min() > 0.5 and along.mean() > 0.95  # outward, and smooth but for voxels four times as deep as wide
    moved = placed(object_surface(Volume.from_array(ball(3.0)), 1, Box.of((21, 37, 69))), VOXEL, (5.0, 6.0, 7.0))
    assert moved.vertices - mesh.vertices == pytest.approx(np.broadcast_to([7.0, 6.0, 5.0], mesh.vertices.shape))


@pytest.mark.parametrize(("labels", "euler"), [(ball(2.5), 2), (torus(), 0)])
def test_topology(labels: np.ndarray, euler: int) -> None:
    mesh = surface(labels)
    assert solid(mesh).euler_number == euler
    simple = simplified(mesh, 0.1)
    assert solid(simple).euler_number == euler and solid(simple).is_watertight


def test_a_voxel_is_an_octahedron() -> None:
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[1, 1, 1] = 1
    mesh = surface(labels, voxel=(4.0, 2.0, 1.0))
    assert len(mesh.vertices) == 6 and len(mesh.faces) == 8
    assert mesh.vertices.min(axis=0).tolist() == [0.5, 1.0, 2.0] and mesh.vertices.max(axis=0).tolist() == [
        1.5,
        3.0,
        6.0,
    ]


@pytest.mark.parametrize("error", [0.02, 0.05, 0.1, 0.3])
def test_simplified_within_the_error(error: float) -> None:
    """Judged by sampled points, which only overestimates the distance."""
    mesh = surface(ball(3.0))
    full = Mesh(smoothed(mesh.vertices, mesh.faces, 10), mesh.faces)
    simple = simplified(full, error)
    assert solid(simple).is_watertight and len(simple.faces) < len(full.faces)
    points, _ = trimesh.sample.sample_surface(solid(simple), 300_000, seed=0)
    assert KDTree(points).query(full.vertices)[0].max() < error + 0.02
    assert simple.volume_um3 == pytest.approx(full.volume_um3, rel=3 * error / 3.0)


def test_more_error_fewer_triangles_and_none_keeps_all() -> None:
    mesh = surface(ball(3.0))
    counts = [len(simplified(mesh, error).faces) for error in (0.0, 0.05, 0.2)]
    assert counts[0] == len(mesh.faces) and counts[0] > counts[1] > counts[2]


def test_a_lost_part_strays_too_far() -> None:
    """A far small part next to a large one must survive simplification."""
    labels = np.zeros((21, 37, 90), np.uint8)
    labels[:, :, :69] = ball(3.0)
    labels[10, 18, 85] = 1
    simple = simplified(surface(labels), 0.1)
    assert simple.vertices[:, 0].max() > 84 * VOXEL[2]


def test_open_surfaces_are_not_closed() -> None:
    mesh = surface(ball(2.0))
    assert is_closed(mesh.faces) and not is_closed(mesh.faces[1:])
    turned = mesh.faces.copy()
    turned[0] = turned[0, ::-1]
    assert not is_closed(turned)


def test_two_tetrahedra_on_one_edge_are_not_closed() -> None:
    """Every edge is balanced, but four faces meet in one: no program takes that for a solid."""
    one = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    assert is_closed(one) and not is_closed(np.concatenate([one, np.array([0, 1, 4, 5])[one]]))
