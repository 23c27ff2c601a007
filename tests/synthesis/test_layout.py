from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from fewslice.synthesis.layout import clumps, lay_beside, push_apart, scatter

LOW, HIGH = np.zeros(2), np.full(2, 200.0)


def test_scatter_follows_the_weight() -> None:
    points = scatter(8000, LOW, HIGH, lambda p: 0.2 + 0.8 * (p[:, 1] > 100), np.random.default_rng(0))
    assert points.shape == (8000, 2)
    assert (points >= 0).all() and (points <= 200).all()
    assert (points[:, 1] > 100).mean() == pytest.approx(1 / 1.2, abs=0.02)
    assert scatter(0, LOW, HIGH, lambda p: np.ones(len(p)), np.random.default_rng(0)).shape == (0, 2)


def test_clumps_are_a_relative_density_of_the_spread_asked_for() -> None:
    points = np.random.default_rng(1).uniform(0, 3000, (4000, 3))
    values = np.concatenate([np.log(clumps(0.5, 40.0, 3, np.random.default_rng(s))(points)) for s in range(5)])
    assert values.max() <= 0
    assert values.std() == pytest.approx(0.5, abs=0.05)
    near = clumps(0.5, 40.0, 3, np.random.default_rng(2))
    assert np.abs(near(points) - near(points + 2.0)).mean() < 0.2 * np.abs(near(points) - near(points + 400.0)).mean()
    assert (clumps(0.0, 40.0, 2, np.random.default_rng(0))(points[:, :2]) == 1).all()


def test_guests_touch_a_host() -> None:
    generator = np.random.default_rng(3)
    centres, radii = generator.uniform(0, 500, (40, 3)), generator.uniform(1, 5, 40)
    guests, hosts = np.arange(30, 40), np.arange(5)
    moved = lay_beside(centres, radii, guests, hosts, generator)
    assert np.array_equal(moved[:30], centres[:30])
    gap = np.linalg.norm(moved[guests, None] - centres[None, hosts], axis=2) - radii[guests, None] - radii[None, hosts]
    assert np.allclose(np.abs(gap).min(axis=1), 0, atol=1e-9)
    assert np.array_equal(lay_beside(centres, radii, guests, np.array([], int), generator), centres)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spacing=st.floats(0.5, 1.3), dimensions=st.sampled_from([2, 3]))
def test_pushed_cells_keep_their_distance_and_their_number(seed: int, spacing: float, dimensions: int) -> None:
    generator = np.random.default_rng(seed)
    count = 60
    centres, radii = generator.uniform(0, 150, (count, dimensions)), generator.uniform(2, 5, count)
    moved = push_apart(centres, radii, np.full(count, spacing), rounds=200)
    assert moved.shape == centres.shape
    distance = squareform(pdist(moved))[np.triu_indices(count, 1)]
    wanted = spacing * (radii[:, None] + radii[None])[np.triu_indices(count, 1)]
    assert (distance > 0.98 * wanted).all()


def test_a_pair_is_pushed_to_contact_and_the_smaller_moves_more() -> None:
    moved = push_apart(np.array([[0.0, 0.0], [0.0, 3.0]]), np.array([4.0, 2.0]), np.ones(2))
    assert np.linalg.norm(moved[0] - moved[1]) == pytest.approx(6.0)
    assert abs(moved[0, 1]) == pytest.approx(3.0 * 4 / 20)  # areas 16 and 4: a fifth of the way
    near = push_apart(np.array([[0.0, 0.0], [0.0, 3.0]]), np.array([4.0, 2.0]), np.array([1.0, 0.6]))
    assert np.linalg.norm(near[0] - near[1]) == pytest.approx(3.6)  # the smaller spacing of the two counts
    far = np.array([[0.0, 0.0], [0.0, 30.0]])
    assert np.array_equal(push_apart(far, np.array([4.0, 2.0]), np.ones(2)), far)
