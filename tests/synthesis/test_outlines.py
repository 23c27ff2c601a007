from __future__ import annotations

import numpy as np
import pytest

from fewslice.synthesis.outlines import draw_outlines, extents, positions, radial_depth, windows


def outlines(count: int = 12, **change: np.ndarray) -> np.ndarray:
    arguments = {
        "radius_um": np.linspace(2, 9, count),
        "elongation": np.ones(count),
        "angle": np.zeros(count),
        "triangle": np.zeros(count),
        "corners": np.zeros((count, 3)),
        "bumps": np.zeros(count),
    }
    return draw_outlines(**(arguments | change), generator=np.random.default_rng(0))


def masks(table: np.ndarray, centre: np.ndarray, pixel: tuple[float, float]) -> list[np.ndarray]:
    found = [np.empty(0)] * len(table)
    for window in windows(centre, extents(table), pixel):
        inside = radial_depth(*positions(window, centre, pixel), table[window.cells]) > 0
        for index, mask in zip(window.cells, inside, strict=True):
            found[index] = mask
    return found


def test_a_disc_is_every_pixel_nearer_than_its_radius() -> None:
    pixel, centre = (0.4, 0.3), np.random.default_rng(1).uniform(20, 40, (12, 2))
    table = outlines()
    assert np.allclose(table, np.linspace(2, 9, 12)[:, None], atol=1e-4)
    for window in windows(centre, extents(table), pixel):
        y, x = positions(window, centre, pixel)
        for row, index in enumerate(window.cells):
            place_y = (window.start[row, 0] + np.arange(window.size[0])) * pixel[0] - centre[index, 0]
            assert np.allclose(y[row, :, 0], place_y, atol=1e-4)
            distance = np.hypot(y[row], x[row])
            inside = radial_depth(y, x, table[window.cells])[row] > 0
            clear = np.abs(distance - table[index, 0]) > 1e-3
            assert np.array_equal(inside[clear], (distance < table[index, 0])[clear])


def test_an_ellipse_has_its_axes_and_its_direction() -> None:
    for angle in (0.0, np.pi / 2, 0.6):
        (mask,) = masks(
            outlines(1, radius_um=np.array([6.0]), elongation=np.array([4.0]), angle=np.array([angle])),
            np.array([[30.0, 30.0]]),
            (0.1, 0.1),
        )
        y, x = np.argwhere(mask).T * 0.1
        covariance = np.cov(np.stack([y, x]))
        values, vectors = np.linalg.eigh(covariance)
        assert 2 * np.sqrt(values) == pytest.approx([3.0, 12.0], rel=0.02)
        assert abs(vectors[:, 1] @ [np.sin(angle), np.cos(angle)]) > 0.999


def test_every_form_has_the_area_asked_for() -> None:
    generator = np.random.default_rng(2)
    count = 30
    table = outlines(
        count,
        elongation=generator.uniform(1, 4, count),
        angle=generator.uniform(-3, 3, count),
        triangle=generator.uniform(0, 0.2, count),
        corners=generator.uniform(0, 0.8, (count, 3)),
        bumps=np.full(count, 0.1),
    )
    assert table.min() > 0
    areas = [mask.sum() * 0.1**2 for mask in masks(table, np.full((count, 2), 40.0), (0.1, 0.1))]
    assert areas == pytest.approx(np.pi * np.linspace(2, 9, count) ** 2, rel=0.01)


def test_a_corner_points_along_the_axis() -> None:
    table = outlines(1, corners=np.array([[0.8, 0.0, 0.0]]), angle=np.array([np.pi / 2]))
    (mask,) = masks(table, np.array([[30.0, 30.0]]), (0.1, 0.1))
    rows = np.flatnonzero(mask.any(axis=1))
    middle = mask.shape[0] // 2
    assert rows[-1] - middle > 1.3 * (middle - rows[0])  # towards +y


def test_windows_hold_every_cell_once_and_whole() -> None:
    generator = np.random.default_rng(4)
    radius = generator.uniform(1, 9, 200)
    table = outlines(200, radius_um=radius, elongation=generator.uniform(1, 5, 200))
    centre = generator.uniform(0, 300, (200, 2))
    seen = []
    for window in windows(centre, extents(table), (0.5, 0.5), batch=2000):
        seen += list(window.cells)
        y, x = positions(window, centre, (0.5, 0.5))
        inside = radial_depth(y, x, table[window.cells]) > 0
        areas = inside.sum(axis=(1, 2)) * 0.25
        assert (np.abs(areas - np.pi * radius[window.cells] ** 2) < 0.06 * areas + 1.5).all()
    assert sorted(seen) == list(range(200))
    assert list(windows(np.empty((0, 2)), np.empty((0, 2)), (1.0, 1.0))) == []
