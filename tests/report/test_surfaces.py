from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice.errors import InputError
from fewslice.report.surfaces import Mesh, isosurface


def ball(shape: tuple[int, int, int], voxel: tuple[float, float, float], radius: float) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(n) * v for n, v in zip(shape, voxel, strict=True)), indexing="ij")
    centre = [(n - 1) * v / 2 for n, v in zip(shape, voxel, strict=True)]
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def volume_of(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(float) for k in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


@pytest.mark.parametrize("voxel", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.5), (0.5, 1.0, 2.0)])
@pytest.mark.parametrize(("max_faces", "max_voxels"), [(10**6, 10**8), (4_000, 10**8), (10**6, 60_000)])
def test_ball_keeps_its_place_size_and_closed_surface(
    voxel: tuple[float, float, float], max_faces: int, max_voxels: int
) -> None:
    shape = tuple(round(48 / v) for v in voxel)
    mask = ball(shape, voxel, 18.0)  # type: ignore[arg-type]
    mesh = isosurface(mask, voxel, max_faces=max_faces, max_voxels=max_voxels)
    assert 200 < len(mesh.faces) <= max_faces
    centre = [(n - 1) * v / 2 for n, v in zip(shape, voxel, strict=True)]
    radius = np.linalg.norm(mesh.vertices - centre, axis=1)
    assert np.abs(radius - 18).max() < 1.6 * max(*voxel, 1.0)
    assert np.abs(mesh.vertices.mean(axis=0) - centre).max() < 0.5 * max(voxel)
    # z, y, x is a left-handed reading of x, y, z: outward faces have positive volume in the order of the axes
    assert volume_of(mesh) == pytest.approx(4 / 3 * np.pi * 18**3, rel=0.05)
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 2).mean() > 0.98


def test_object_at_the_border_is_closed() -> None:
    mask = np.ones((6, 6, 6), dtype=bool)
    mesh = isosurface(mask, (1.0, 1.0, 1.0), smoothing=0)
    assert volume_of(mesh) == pytest.approx(6**3, rel=0.1)


def test_smoothing_removes_steps_without_shrinking() -> None:
    mask = ball((40, 40, 40), (1.0, 1.0, 1.0), 14.0)
    rough = isosurface(mask, (1.0, 1.0, 1.0), smoothing=0)
    smooth = isosurface(mask, (1.0, 1.0, 1.0), smoothing=8)
    centre = np.full(3, 19.5)
    spread = [np.linalg.norm(m.vertices - centre, axis=1).std() for m in (rough, smooth)]
    assert spread[1] < 0.6 * spread[0]
    assert volume_of(smooth) == pytest.approx(volume_of(rough), rel=0.02)


def test_nothing_above_the_level_gives_an_empty_mesh() -> None:
    mesh = isosurface(np.zeros((5, 6, 7), dtype=bool), (2.0, 1.0, 1.0))
    assert mesh.vertices.shape == (0, 3)
    assert mesh.faces.shape == (0, 3)
    assert mesh.extent_um == (10.0, 6.0, 7.0)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="4 axes"):
        isosurface(np.zeros((1, 2, 3, 4)), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="not positive"):
        isosurface(np.zeros((2, 3, 4)), (0.0, 1.0, 1.0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(200, 3_000))
def test_faces_stay_valid_and_few(seed: int, limit: int) -> None:
    mask = np.random.default_rng(seed).random((9, 10, 11)) > 0.7
    mesh = isosurface(mask, (2.0, 0.9, 0.9), max_faces=limit)
    assert len(mesh.faces) <= limit
    assert mesh.faces.min() >= 0
    assert mesh.faces.max() < len(mesh.vertices)
    assert np.isfinite(mesh.vertices).all()
    a, b, c = mesh.faces.T
    assert ((a != b) & (b != c) & (a != c)).all()
