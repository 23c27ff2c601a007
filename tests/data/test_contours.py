"""Contours of labels and elliptic Fourier descriptors: known shapes, other implementations, odd objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyefd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import measure

from fewslice.data.contours import (
    Outlines,
    areas,
    boxes,
    elliptic_fourier,
    fourier_points,
    largest_parts,
    sampled,
    trace,
)
from fewslice.errors import InputError

TURN = 2 * np.pi * np.arange(4000) / 4000


def ellipse(ry: float, rx: float, angle: float = 0.0, centre: tuple[float, float] = (20.0, 30.0)) -> Any:
    y, x = ry * np.sin(TURN), rx * np.cos(TURN)
    turned = np.stack((y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)), axis=1)
    return turned + centre


def blob(seed: int, size: int = 40) -> Any:
    """A random smooth object without holes."""
    draw = np.random.default_rng(seed)
    y, x = np.indices((size, size)) - size / 2
    angle = np.arctan2(y, x)
    radius = 10 + sum(draw.normal(0, 1.5) * np.cos(k * angle + draw.uniform(0, 6)) for k in range(1, 5))
    return (np.hypot(y, x) < np.maximum(radius, 3)).astype(np.uint8)


def described(polygon: Any, order: int = 5) -> tuple[Any, Any]:
    found = elliptic_fourier(Outlines.of([polygon]), order)
    return found.centre[0], found.coefficients[0]


# --------------------------------------------------------------------------------------------------------- known shapes


def test_a_circle_is_its_first_harmonic_wherever_it_starts() -> None:
    """x = x₀ + r cos 2πt, y = y₀ + r sin 2πt, and nothing else."""
    for shift in (0, 1234):
        centre, coefficients = described(np.roll(ellipse(7, 7), shift, axis=0))
        np.testing.assert_allclose(centre, (20, 30), atol=1e-9)
        np.testing.assert_allclose(coefficients[0], (7, 0, 0, 7), atol=1e-4)
        np.testing.assert_allclose(coefficients[1:], 0, atol=1e-4)


def test_a_square_has_the_coefficients_worked_out_by_hand() -> None:
    """A square of side 2, from the middle of its right side on: x(t) is an even trapezoid wave.

    1 for an eighth of the length, then down to -1 over a quarter: x' is -8 on [1/8, 3/8] and 8 on [5/8, 7/8]. By parts
    a_n = 8 / (n π)² (cos nπ/4 - cos 3nπ/4) = 16 / (n π)² cos nπ/4 for odd n, 0 for even n. y is x a quarter later.
    """
    square = np.array([(-1.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
    centre, coefficients = described(square, 7)
    np.testing.assert_allclose(centre, (0, 0), atol=1e-12)
    n = np.arange(1, 8)
    trapezoid = np.where(n % 2 == 1, 16 / (n**2 * np.pi**2) * np.cos(n * np.pi / 4), 0)
    np.testing.assert_allclose(coefficients[:, 0], trapezoid, atol=1e-12)
    np.testing.assert_allclose(coefficients[:, 3], trapezoid * np.sin(n * np.pi / 2), atol=1e-12)
    np.testing.assert_allclose(coefficients[:, 1:3], 0, atol=1e-12)


def test_an_ellipse_turns_with_its_first_harmonic() -> None:
    """The matrix [a₁ b₁; c₁ d₁] of a turned ellipse is the turned matrix of the ellipse (arc length aside)."""
    _, upright = described(ellipse(6, 9))
    angle = 0.7
    _, turned = described(ellipse(6, 9, angle))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(turned[0].reshape(2, 2), turn @ upright[0].reshape(2, 2) @ turn.T, atol=1e-3)
    assert upright[0, 0] > upright[0, 3] > 0


def test_the_whole_series_gives_back_the_shape() -> None:
    """A star of eight corners, at order 200."""
    corners = np.arange(16) / 16 * 2 * np.pi
    radius = np.where(np.arange(16) % 2, 4.0, 9.0)
    star = np.stack((radius * np.sin(corners), radius * np.cos(corners)), axis=1)
    outlines = Outlines.of([star])
    found = elliptic_fourier(outlines, 200)
    points = fourier_points(found.centre, found.coefficients, 64)
    assert np.abs(points - sampled(outlines, found.start, 64)).max() < 0.05


# ------------------------------------------------------------------------------------------------ other implementations


@pytest.mark.parametrize("seed", range(5))
def test_pyefd_finds_the_same_harmonics(seed: int) -> None:
    """Its start is the first vertex; the power of each harmonic and the reconstructed shape do not depend on it."""
    polygon = trace(blob(seed)).polygon(0)
    closed = np.concatenate((polygon, polygon[:1]))[:, ::-1]
    theirs = pyefd.elliptic_fourier_descriptors(closed, order=6)
    outlines = Outlines.of([polygon])
    ours = elliptic_fourier(outlines, 6)
    moved = 2 * np.pi * ours.start[0] * np.arange(1, 7)
    a, b, c, d = theirs.T
    cos, sin = np.cos(moved), np.sin(moved)
    expected = np.stack((a * cos + b * sin, b * cos - a * sin, c * cos + d * sin, d * cos - c * sin), axis=1)
    np.testing.assert_allclose(ours.coefficients[0], expected, atol=1e-9)
    centre = pyefd.calculate_dc_coefficients(closed)
    np.testing.assert_allclose(ours.centre[0], centre[::-1], atol=1e-9)
    assert abs(ours.coefficients[0, 0, 1] - ours.coefficients[0, 0, 2]) < 1e-9


@pytest.mark.parametrize("name", ["nuclei_2d/labels/0013.tif", "nissl_cells/labels/0.tif"])
def test_marching_squares_on_each_object_alone_gives_the_same_outlines(data_dir: Path, name: str) -> None:
    """On real annotation: the loop with the largest area of every id, wherever it starts."""
    labels = tifffile.imread(data_dir / name)
    kept, _ = largest_parts(labels)
    outlines = trace(labels)
    assert list(outlines.ids) == [i for i in np.unique(labels) if i]
    for index, identity in list(enumerate(outlines.ids))[:25]:
        loops = measure.find_contours(np.pad(kept == identity, 1).astype(float), 0.5, fully_connected="low")
        largest = max(loops, key=lambda loop: abs(float(areas(loop))))
        assert {tuple(p) for p in largest - 1} == {tuple(p) for p in outlines.polygon(index)}
    found = elliptic_fourier(outlines, 5)
    share = (
        np.abs(areas(fourier_points(found.centre, found.coefficients, 64))) / np.bincount(kept.ravel())[outlines.ids]
    )
    assert np.median(share) == pytest.approx(1, abs=0.03)


# ----------------------------------------------------------------------------------------------------------- properties


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0.3, 3), st.floats(0, 6.3))
def test_moving_scaling_and_turning_a_shape_does_so_to_its_contour(
    seed: int, shift: int, scale: float, angle: float
) -> None:
    """Coefficients of x and y are linear in the shape, and the start goes with the shape, not with the image."""
    polygon = trace(blob(seed)).polygon(0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre, coefficients = described(polygon)
    moved_centre, moved = described(np.roll(polygon, shift, axis=0) * scale + 5)
    np.testing.assert_allclose(moved, scale * coefficients, atol=1e-8)
    np.testing.assert_allclose(moved_centre, scale * centre + 5, atol=1e-8)
    _, turned = described(polygon @ turn.T)
    np.testing.assert_allclose((turned**2).sum(1), (coefficients**2).sum(1), atol=1e-8)
    first = turned[0].reshape(2, 2)
    assert first[0, 1] == pytest.approx(first[1, 0], abs=1e-8) and np.trace(first) > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_pixel_more_moves_coefficients_by_little(seed: int) -> None:
    """No jump of the start: what makes coefficients learnable."""
    mask = blob(seed)
    _, before = described(trace(mask).polygon(0))
    border = np.argwhere((mask == 0) & (np.roll(mask, 1, 0) == 1))[0]
    mask[tuple(border)] = 1
    _, after = described(trace(mask).polygon(0))
    assert np.abs(after - before).max() < 1.0


# ---------------------------------------------------------------------------------------------------------- odd objects


def test_touching_objects_keep_their_own_borders() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[1:5, 1:4] = 3
    labels[1:5, 4:7] = 7
    outlines = trace(labels)
    assert outlines.ids.tolist() == [3, 7]
    assert boxes(outlines.polygon(0)).tolist() == [0.5, 0.5, 4.5, 3.5]
    assert boxes(outlines.polygon(1)).tolist() == [0.5, 3.5, 4.5, 6.5]
    # pixels less the four cut corners, an eighth of a pixel each
    assert areas(outlines.polygon(0)) == areas(outlines.polygon(1)) == 12 - 0.5


def test_holes_are_ignored_also_where_another_object_fills_them() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[1:8, 1:8] = 1
    labels[3:6, 3:6] = 0
    labels[4, 4] = 2
    outlines = trace(labels)
    assert areas(outlines.polygon(0)) == 49 - 0.5
    assert areas(outlines.polygon(1)) == 0.5


def test_of_a_split_object_the_largest_part_is_followed_and_the_id_is_named() -> None:
    labels = np.zeros((6, 12), np.uint8)
    labels[1:3, 1:3] = 4
    labels[1:5, 5:9] = 4
    labels[3, 3] = 4  # touches the small part at a corner only
    labels[1, 10] = 9
    kept, split = largest_parts(labels)
    assert split.tolist() == [4] and (kept == 4).sum() == 16 and (kept == 9).sum() == 1
    outlines = trace(labels)
    assert len(outlines) == 2 and boxes(outlines.polygon(0)).tolist() == [0.5, 4.5, 4.5, 8.5]
    equal = np.array([[5, 0, 5]], np.uint8)
    assert largest_parts(equal)[0].tolist() == [[5, 0, 0]]


def test_an_object_of_one_pixel_is_a_diamond_that_any_order_describes() -> None:
    labels = np.zeros((5, 5), np.uint8)
    labels[2, 3] = 1
    outlines = trace(labels)
    assert sorted(map(tuple, outlines.polygon(0))) == [(1.5, 3.0), (2.0, 2.5), (2.0, 3.5), (2.5, 3.0)]
    for order, off in ((1, 0.12), (5, 0.04), (60, 0.004)):
        found = elliptic_fourier(outlines, order)
        np.testing.assert_allclose(found.centre, [[2, 3]], atol=1e-12)
        points = fourier_points(found.centre, found.coefficients, 8)
        assert np.abs(points - sampled(outlines, found.start, 8)).max() < off


def test_objects_at_the_border_are_closed_along_it() -> None:
    outlines = trace(np.ones((3, 4), np.uint8))
    assert boxes(outlines.polygon(0)).tolist() == [-0.5, -0.5, 2.5, 3.5] and areas(outlines.polygon(0)) == 11.5


@pytest.mark.parametrize("identity", [65_536, 2**31 + 5, 2**40])
def test_large_ids_stay_what_they_are(identity: int) -> None:
    labels = np.zeros((6, 6), np.uint64)
    labels[1:4, 1:4] = identity
    labels[4:, 4:] = identity + 1
    outlines = trace(labels)
    assert outlines.ids.tolist() == [identity, identity + 1] and areas(outlines.polygon(0)) == 8.5


def test_no_object_no_outline() -> None:
    outlines = trace(np.zeros((4, 4), np.uint8))
    assert len(outlines) == 0
    found = elliptic_fourier(outlines, 5)
    assert found.coefficients.shape == (0, 5, 4)
    assert sampled(outlines, found.start, 8).shape == (0, 8, 2)


def test_polygons_without_area_and_orders_below_one_are_refused() -> None:
    for polygon in ([(0, 0), (1, 1)], [(0, 0), (1, 1), (2, 2)], [(3, 3)] * 4):
        with pytest.raises(InputError, match="at least three vertices"):
            Outlines.of([np.array(polygon, float)])
    with pytest.raises(InputError, match="order 0"):
        elliptic_fourier(trace(np.ones((3, 3), np.uint8)), 0)


def test_sampling_is_at_equal_steps() -> None:
    """A square of side 4 in 16 steps, from the middle of its right side, clockwise (down)."""
    outlines = Outlines.of([np.array([(0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 0.0)])])
    start = elliptic_fourier(outlines, 3).start
    points = sampled(outlines, start, 16)[0]
    np.testing.assert_allclose(points[:4], [(2, 4), (3, 4), (4, 4), (4, 3)], atol=1e-9)
    np.testing.assert_allclose(np.abs(np.diff(points, axis=0)).sum(1), 1, atol=1e-9)


def test_vertices_given_the_other_way_round_make_no_difference() -> None:
    polygon = trace(blob(3)).polygon(0)
    np.testing.assert_allclose(described(polygon)[1], described(polygon[::-1])[1], atol=1e-9)
