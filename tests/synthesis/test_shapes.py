from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fewslice.synthesis.shapes import Body, Grid, directions, draw_body, paint_bodies, paint_tubes, place, walk
from fewslice.synthesis.shapes import tube_distance as distance_to_tube


def ball(centre, radius: float) -> Body:
    return Body(np.array(centre, float), np.full(3, radius), np.eye(3), 0.0, np.zeros(1), np.ones((1, 3)), np.zeros(1))


def coordinates(grid: Grid) -> list[np.ndarray]:
    lines = [o + np.arange(n) * v for o, n, v in zip(grid.origin_um, grid.shape, grid.voxel_um, strict=True)]
    return np.meshgrid(*lines, indexing="ij")


def test_a_ball_is_every_voxel_whose_centre_is_nearer_than_the_radius() -> None:
    grid = Grid((14, 30, 32), (2.0, 0.9, 0.8), (-3.0, 1.0, 0.5))
    centre = np.array([9.3, 13.1, 12.2])
    owner, radius = paint_bodies([ball(centre, 7.4)], grid)
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(coordinates(grid), centre, strict=True)))
    assert np.array_equal(owner == 1, distance < 7.4)
    assert np.allclose(radius[owner == 1], distance[owner == 1] / 7.4, atol=1e-5)
    assert (radius[owner == 0] == 1).all()


def test_two_bodies_share_their_overlap_by_depth() -> None:
    grid = Grid((21, 21, 41), (1.0, 1.0, 1.0))
    owner, _ = paint_bodies([ball((10, 10, 14), 8), ball((10, 10, 26), 8)], grid)
    assert (owner[..., :20] != 2).all()
    assert (owner[..., 21:] != 1).all()
    assert np.array_equal(owner[..., :20] == 1, (owner[..., 21:] == 2)[..., ::-1])


def test_a_body_lies_inside_its_reach_and_is_star_shaped() -> None:
    generator = np.random.default_rng(4)
    grid = Grid((60, 60, 60), (1.0, 1.0, 1.0))
    centre = np.array([29.5, 29.5, 29.5])
    for _ in range(6):
        along = directions(1, generator)[0]
        body = draw_body(centre, 9.0, elongation=1.7, taper=0.5, bumps=0.1, along=along, generator=generator)
        z, y, x = (part - 29.5 for part in coordinates(grid))
        inside = body.radius(*(part.astype(np.float32) for part in (z, y, x))) < 1
        assert np.sqrt(z**2 + y**2 + x**2)[inside].max() <= body.reach_um
        owner, _ = paint_bodies([body], grid)
        assert np.array_equal(owner == 1, inside)  # the box of a body cuts nothing off
        assert ndimage.label(inside)[1] == 1
        assert inside.sum() == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.35)
        rays = directions(200, generator)
        for ray in rays:
            line = np.outer(np.linspace(0.5, body.reach_um * 1.2, 80), ray).T.astype(np.float32)
            assert np.diff((body.radius(*line) < 1).astype(int)).max(initial=0) <= 0  # once out, always out


def test_placed_balls_keep_their_distance() -> None:
    generator = np.random.default_rng(0)
    radii = generator.uniform(3, 9, 400)
    low, high = np.zeros(3), np.full(3, 90.0)
    centres, kept = place(
        radii, low, high, spacing=0.95, touching=0.3, free=lambda c, r: c[0] > 10, generator=generator
    )
    own = radii[kept]
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    relative = distance / (own[:, None] + own[None])
    np.fill_diagonal(relative, 9)
    assert relative.min() >= 0.95
    assert (relative.min(axis=1) < 0.96).mean() > 0.15  # and some touch
    assert len(set(kept.tolist())) == len(kept) < 400
    assert (centres >= low).all()
    assert (centres <= high).all()
    assert (centres[:, 0] > 10).all()


def test_paths_are_as_long_as_asked_and_smooth() -> None:
    generator = np.random.default_rng(0)
    steps = np.array([1, 5, 40])
    starts = np.arange(9.0).reshape(3, 3)
    points, path, number = walk(starts, directions(3, generator), steps, 0.7, 0.1, generator)
    assert np.bincount(path).tolist() == steps.tolist()
    for index in range(3):
        own = points[path == index]
        assert np.allclose(own[0], starts[index])
        assert number[path == index].tolist() == list(range(steps[index]))
        moves = np.diff(own, axis=0)
        assert np.allclose(np.linalg.norm(moves, axis=1), 0.7)
        assert ((moves[1:] * moves[:-1]).sum(axis=1) > 0.8 * 0.49).all()


def test_a_tube_equals_the_distance_to_its_points() -> None:
    generator = np.random.default_rng(1)
    grid = Grid((12, 30, 28), (2.0, 0.9, 0.8), (-2.0, 0.0, 1.0))
    points = generator.uniform(-4, 30, (40, 3))
    radii, values = generator.uniform(0.3, 3.0, 40), generator.uniform(5, 50, 40)
    places = np.stack(coordinates(grid))
    distance = np.sqrt(((places[None] - points[:, :, None, None, None]) ** 2).sum(axis=1))
    shape = (-1, 1, 1, 1)
    cover = np.clip((radii.reshape(shape) - distance) / 0.8 + 0.5, 0, 1) * values.reshape(shape)
    assert np.allclose(paint_tubes(points, radii, values, grid), cover.max(axis=0), atol=1e-3)
    expected = np.minimum((distance - radii.reshape(shape)).min(axis=0), 2.5)
    assert np.allclose(distance_to_tube(points, radii, grid, 2.5), expected, atol=1e-4)


def test_nothing_painted_is_dark() -> None:
    grid = Grid((3, 4, 5), (1.0, 1.0, 1.0))
    none = np.empty((0, 3))
    assert not paint_tubes(none, np.empty(0), np.empty(0), grid).any()
    assert not paint_tubes(np.full((1, 3), 99.0), np.ones(1), np.ones(1), grid).any()
    assert (distance_to_tube(none, np.empty(0), grid, 2.0) == 2).all()
