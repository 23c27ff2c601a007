"""Surface areas: spheres and tilted boxes of known area, and the same sum for any cutting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fewslice.geometry import cover
from fewslice.measurement.surface import DIRECTIONS, SurfaceWeights, crossing_sums, surface_weights

VOXELS = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (5.0, 1.0, 1.0), (0.3, 0.5, 0.8)]


def area(mask: np.ndarray, weights: SurfaceWeights) -> float:
    return float(crossing_sums(mask.astype(np.uint16), mask.shape, weights.weights, 2)[1] * weights.unit_um2)


def grid(extent_um: float, voxel: Sequence[float], offset: Sequence[float]) -> list[np.ndarray]:
    """Coordinates in µm of the voxel centres of a cube around the origin."""
    axes = [
        np.arange(-np.ceil(extent_um / v), np.ceil(extent_um / v) + 1) * v + o
        for v, o in zip(voxel, offset, strict=True)
    ]
    return list(np.meshgrid(*axes, indexing="ij"))


def test_weights_are_right_on_average_over_all_orientations() -> None:
    normals = np.random.default_rng(0).standard_normal((200_000, 3))
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    for voxel in VOXELS:
        weights = surface_weights(voxel, (9, 9, 9))
        steps = np.asarray(DIRECTIONS) * voxel
        factor = np.abs(normals @ steps.T) @ (np.asarray(weights.weights) * weights.unit_um2) / np.prod(voxel)
        assert factor.mean() == pytest.approx(1, abs=2e-3)
        assert factor.std() == pytest.approx(weights.spread, rel=0.03)
        assert factor.min() >= weights.lowest - 0.01 and factor.max() <= weights.highest + 0.01


def test_isotropic_weights_err_by_less_than_two_percent() -> None:
    assert surface_weights((1, 1, 1), (9, 9, 9)).spread < 0.017


@pytest.mark.parametrize("voxel", VOXELS)
def test_spheres(voxel: tuple[float, float, float]) -> None:
    """Within 2 % from a radius of 6 of the largest voxel extent on; counting faces would give 50 % too much."""
    generator = np.random.default_rng(1)
    radius = 6 * max(voxel)
    weights = surface_weights(voxel, (9, 9, 9))
    found = []
    for _ in range(3):
        z, y, x = grid(radius + 2 * max(voxel), voxel, generator.uniform(0, 1, 3) * voxel)
        found.append(area(z**2 + y**2 + x**2 < radius**2, weights))
    assert np.mean(found) == pytest.approx(4 * np.pi * radius**2, rel=0.02)


@pytest.mark.parametrize("voxel", VOXELS)
def test_tilted_boxes(voxel: tuple[float, float, float]) -> None:
    """Each within the worst orientation of a plane, and the mean over orientations within 4 %."""
    sides = np.array([16.0, 20.0, 26.0]) * max(voxel)
    true = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    weights = surface_weights(voxel, (9, 9, 9))
    turns = Rotation.random(6, rng=np.random.default_rng(2))
    found = []
    coarse = tuple(max(v, max(voxel) / 2) for v in voxel)  # as fine as the largest extent needs, to be quick
    weights = surface_weights(coarse, (9, 9, 9))
    points = np.stack(grid(float(np.linalg.norm(sides)) / 2 + max(voxel), coarse, (0.1, 0.2, 0.3)), axis=-1)
    for turn in turns:
        mask = (np.abs(points @ turn.as_matrix().T) <= sides / 2).all(axis=-1)
        found.append(area(mask, weights) / true)
    assert weights.lowest - 0.03 < min(found) and max(found) < weights.highest + 0.03
    assert np.mean(found) == pytest.approx(1, abs=0.04)


def test_one_voxel_by_hand() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    weights = tuple(range(1, 14))
    assert crossing_sums(mask.astype(np.uint16), (3, 3, 3), weights, 2)[1] == 2 * sum(weights)  # in and out


def test_the_end_of_the_volume_is_no_surface() -> None:
    assert crossing_sums(np.ones((4, 5, 6), np.uint16), (4, 5, 6), (1,) * 13, 2).tolist() == [0, 0]


def test_two_touching_objects_both_have_their_common_face() -> None:
    labels = np.ones((1, 1, 2), np.uint16)
    labels[0, 0, 1] = 2
    assert crossing_sums(labels, (1, 1, 2), tuple(int(d == (0, 0, 1)) for d in DIRECTIONS), 3).tolist() == [0, 1, 1]


@pytest.mark.parametrize("shape", [(7, 6, 9), (1, 8, 9), (5, 1, 7), (1, 1, 6)])
def test_crossings_against_a_naive_count_and_any_cutting(shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, shape).astype(np.uint16)
    weights = generator.integers(1, 100, 13)
    expected = np.zeros(4, np.int64)
    for place in itertools.product(*map(range, shape)):
        for direction, weight in zip(DIRECTIONS, weights, strict=True):
            other = tuple(np.add(place, direction))
            if all(0 <= o < n for o, n in zip(other, shape, strict=True)) and labels[place] != labels[other]:
                expected[labels[place]] += weight
                expected[labels[other]] += weight
    expected[0] = 0
    for block in [shape, (2, 3, 4), (3, 2, 2), (1, 1, 1)]:
        total = np.zeros(4, np.int64)
        for one in cover(shape, block, (0, 0, 0)):
            stop = np.minimum(np.add(one.write.stop, 1), shape)
            part = labels[tuple(slice(a, b) for a, b in zip(one.write.start, stop, strict=True))]
            total += crossing_sums(part, one.write.shape, weights.tolist(), 4)
        assert total.tolist() == expected.tolist()


def test_a_single_plane_has_a_lateral_surface() -> None:
    y, x = np.mgrid[-30:31, -30:31] * 0.5
    disc = ((y + 0.1) ** 2 + (x - 0.15) ** 2 < 12**2)[None]
    assert area(disc, surface_weights((4.0, 0.5, 0.5), disc.shape)) == pytest.approx(2 * np.pi * 12 * 4, rel=0.02)
