"""The curve: known curves are recovered, intervals cover as often as they say, and what cannot be fitted is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from fewslice.errors import InputError
from fewslice.planning import learning_curve
from fewslice.planning.learning_curve import CONFIDENCE, fit_curve


def simulated(
    sizes: list[int], law: tuple[float, float, float], noise: float, offset: float, folds: int, rng: np.random.Generator
) -> Any:
    a, b, c = law
    m = np.array(sizes, float)
    found = a - b * m**-c + offset * rng.standard_normal((folds, 1))
    return np.clip(found + noise * rng.standard_normal((folds, len(m))), 0, 1)


@pytest.mark.parametrize("law", [(0.9, 0.5, 0.7), (0.8, 0.2, 1.0), (0.7, 0.6, 0.5)])
def test_a_known_curve_is_recovered_from_many_exact_folds(law: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    sizes = [1, 2, 4, 8, 16]
    posterior = fit_curve(sizes, simulated(sizes, law, 0.005, 0.005, 8, rng), rng)
    a, b, c = law
    for planes in (1, 4, 16, 32, 64):
        truth = a - b * planes**-c
        found = posterior.forecast(planes)
        assert abs(found.mean - truth) < 0.015
        assert found.high - found.low < 0.05
    gain = posterior.gain(16, 32)
    assert abs(gain.mean - b * (16**-c - 32**-c)) < 0.01


@pytest.mark.parametrize(("sizes", "targets"), [([1, 2, 3], (8, 16)), ([1, 2, 3, 6], (16, 32))])
def test_intervals_cover_what_later_trainings_reach_in_the_mean(sizes: list[int], targets: tuple[int, ...]) -> None:
    """Over curves that are not drawn from the prior; and the forecast beats `no change` in log score."""
    rng = np.random.default_rng(1)
    covered, better, low_tail = [], [], []
    for _ in range(60):
        a = rng.uniform(0.7, 0.95)
        law = (a, a * rng.uniform(0.1, 0.6), rng.uniform(0.4, 1.2))
        measured = simulated(sizes, law, 0.02, 0.04, 4, rng)
        posterior = fit_curve(sizes, measured, rng)
        now = measured[:, -1]
        spread = max(now.std(ddof=1) / 2, 0.01)
        for planes in targets:
            truth = law[0] - law[1] * planes ** -law[2]
            found = posterior.forecast(planes)
            covered.append(found.low <= truth <= found.high)
            low_tail.append(truth < found.low)
            still = -0.5 * ((truth - now.mean()) / spread) ** 2 - np.log(spread * np.sqrt(2 * np.pi))
            better.append(posterior.log_density(planes, float(truth)) - still)
    # 120 forecasts, two of which share a curve: the standard deviation of their share is about 0.05
    assert CONFIDENCE - 0.1 <= np.mean(covered) <= 0.98
    assert np.mean(low_tail) < 0.2
    assert np.mean(better) > 0


def test_the_grid_s_likelihood_is_that_of_the_model() -> None:
    """Against the density of SciPy's multivariate normal, with the covariance written out."""
    counts, measured = np.array([1.0, 2.0, 6.0]), np.array([[0.5, 0.6, 0.72], [0.55, 0.58, 0.7]])
    axes = [
        np.array(v) for v in ([0.7, 0.8], [0.3, 0.4], np.log([0.5, 0.9]), np.log([0.02, 0.05]), np.log([0.03, 0.1]))
    ]
    weights = learning_curve._weights(axes, counts, measured)
    expected = np.zeros(weights.shape)
    for place in np.ndindex(weights.shape):
        a, q, c, sigma, tau = (axis[i] for axis, i in zip(axes, place, strict=True))
        c, sigma, tau = np.exp([c, sigma, tau])
        covariance = np.diag(np.full(3, sigma**2)) + tau**2
        mean = a - a * q * counts**-c
        expected[place] = sum(multivariate_normal(mean, covariance).logpdf(row) for row in measured) + 2 * np.log(1 - q)
        for value, (median, deviation, _, _) in (
            (c, learning_curve._EXPONENT), (sigma, learning_curve._NOISE), (tau, learning_curve._OFFSET)
        ):  # fmt: skip
            expected[place] -= 0.5 * (np.log(value / median) / deviation) ** 2
    expected = np.exp(expected - expected.max())
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=4), st.integers(0, 9))
def test_more_planes_never_lower_the_curve_whatever_was_measured(rows: list[list[float]], seed: int) -> None:
    posterior = fit_curve([1, 2, 3], np.array(rows), np.random.default_rng(seed))
    curves = np.stack([posterior.curve(n) for n in (1, 2, 3, 4, 8, 100)])
    assert (np.diff(curves, axis=0) >= 0).all()
    assert (curves >= -1e-9).all() and (curves <= 1).all()
    assert posterior.gain(4, 8).low >= 0
    for planes in (3, 12):
        found = posterior.forecast(planes)
        assert 0 <= found.low <= found.high <= 1


def test_the_same_generator_gives_the_same_forecast() -> None:
    measured = [[0.5, 0.6, 0.65], [0.6, 0.62, 0.7]]
    found = [fit_curve([1, 2, 3], np.array(measured), np.random.default_rng(3)).forecast(6) for _ in range(2)]
    assert found[0] == found[1]


def test_noisier_folds_give_a_wider_interval() -> None:
    widths = []
    for spread in (0.01, 0.1):
        rows = np.array([[0.5, 0.6, 0.65]] * 4) + spread * np.array([[-1], [-0.5], [0.5], [1]])
        found = fit_curve([1, 2, 3], rows, np.random.default_rng(0)).forecast(6)
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(
    ("planes", "dice", "named"),
    [
        ([1], [[0.5], [0.6]], "2 numbers of planes"),
        ([1, 2], [[0.5, 0.6]], "2 folds"),
        ([1, 2, 3], [[0.5, 0.6], [0.5, 0.6]], "3 numbers"),
        ([2, 1], [[0.5, 0.6], [0.5, 0.6]], "ascending"),
        ([1, 2], [[0.5, 1.6], [0.5, 0.6]], "between 0 and 1"),
        ([1, 2], [[0.5, float("nan")], [0.5, 0.6]], "between 0 and 1"),
    ],
)
def test_what_is_no_curve_is_refused(planes: list[int], dice: list[list[float]], named: str) -> None:
    with pytest.raises(InputError, match=named):
        fit_curve(planes, np.array(dice), np.random.default_rng(0))
