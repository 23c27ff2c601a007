"""Surface distances against two independent ways of computing them.

The first compares every surface point with every other and finds the surface voxel by voxel; the second uses erosion
and a distance transform.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from fewslice.metrics.surface import surface_scores


def surface_by_loop(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Positions of foreground voxels with a known background face neighbour, one voxel at a time."""
    points = []
    for position in itertools.product(*map(range, mask.shape)):
        if not (mask[position] and valid[position]):
            continue
        for axis, step in itertools.product(range(3), (-1, 1)):
            beside = list(position)
            beside[axis] += step
            inside = 0 <= beside[axis] < mask.shape[axis]
            if inside and valid[tuple(beside)] and not mask[tuple(beside)]:
                points.append(position)
                break
    return np.array(points, dtype=float).reshape(-1, 3)


def blobs(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.3)
    return np.asarray(smooth > np.quantile(smooth, 0.7))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (2.0, 0.88, 0.7)])
@pytest.mark.parametrize("sparse", [False, True])
def test_against_all_pairs(seed: int, size: tuple[float, float, float], sparse: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (7, 10, 11)
    one = blobs(rng, shape)
    two = np.roll(one, (1, -1, 2), (0, 1, 2)) ^ (rng.random(shape) < 0.02)
    valid = rng.random(shape) < 0.9 if sparse else np.ones(shape, bool)
    first, second = (surface_by_loop(mask, valid) * size for mask in (one, two))
    pairs = cdist(first, second)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    result = surface_scores(one, two, size, tolerance_um=1.5, valid=valid)
    assert result["surface_dims"] == 3
    assert result["hd95_um"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert result["assd_um"] == pytest.approx((there.sum() + back.sum()) / (there.size + back.size))
    assert result["nsd"] == pytest.approx(np.mean(np.concatenate([there, back]) <= 1.5))


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (5.0, 1.0, 2.0)])
def test_against_a_distance_transform(size: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(7)
    one, two = blobs(rng, (20, 40, 40)), blobs(rng, (20, 40, 40))

    def surface(mask: np.ndarray) -> np.ndarray:
        return np.asarray(mask & ~ndimage.binary_erosion(mask, border_value=1))

    first, second = surface(one), surface(two)
    there = ndimage.distance_transform_edt(~second, sampling=size)[first]
    back = ndimage.distance_transform_edt(~first, sampling=size)[second]
    result = surface_scores(one, two, size)
    assert result["assd_um"] == pytest.approx(np.concatenate([there, back]).mean())
    assert result["hd95_um"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert result["nsd"] == pytest.approx(np.mean(np.concatenate([there, back]) <= max(size)))


def test_two_balls_of_known_radius() -> None:
    # concentric balls of 6 and 9 µm: the distance is 3 µm everywhere, up to the voxel
    z, y, x = np.ogrid[-12:13, -24:25, -24:25]
    radius = np.sqrt((z * 1.0) ** 2 + (y * 0.5) ** 2 + (x * 0.5) ** 2)
    result = surface_scores(radius <= 6, radius <= 9, (1, 0.5, 0.5), tolerance_um=2.0)
    assert result["assd_um"] == pytest.approx(3.0, abs=0.25)
    assert result["hd95_um"] == pytest.approx(3.0, abs=0.75)
    assert result["nsd"] < 0.02
