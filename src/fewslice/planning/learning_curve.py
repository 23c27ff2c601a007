"""Dice against the number of annotated planes: an inverse power law, and what is known of its parameters.

A plane more brings less the more there are. The law (Figueroa et al. 2012, Hestness et al. 2017)::

    f(n) = a − b · n^(−c),   0 ≤ b ≤ a ≤ 1,   c > 0

rises towards a. Dice is measured in folds, at the same numbers of planes n_1 … n_S in each. In fold k ::

    d_ks = f(n_s) + u_k + e_ks,   u_k ~ N(0, τ²),   e_ks ~ N(0, σ²)

u_k is how hard the planes are that judge the fold, common to all its trainings; e_ks is what the choice of training
planes and the training itself add.

The posterior over (a, b/a, c, σ, τ) is summed on a grid: 1. coarsely over the whole prior, 2. again and again over the
box that still holds probability, 3. draws are taken from the last grid. With few, noisy folds the prior speaks:
uniform for a, Beta(1, 3) for b/a (the share that is lost at one plane), log-normal for c (median 1), σ (0.03) and
τ (0.04).

What is forecast is f, the Dice that trainings reach in the mean on planes like those that judge; as of the measured
numbers of planes, intervals are those of the mean. One training scatters around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice.errors import InputError

__all__ = ["CONFIDENCE", "Forecast", "Posterior", "fit_curve"]

CONFIDENCE = 0.8
"""Of all intervals."""

Array = NDArray[np.float64]

_POINTS = (25, 17, 11, 9, 9)
_ZOOMS = 4
_NEGLIGIBLE = 1e-4
_DRAWS = 4000
_LEAST_SPREAD = 0.005
"""Of a forecast's density: no Dice is foretold better than this."""
# prior of the logarithm: median, standard deviation, and the range that is searched
_EXPONENT = (1.0, 0.5, 0.1, 4.0)
_NOISE = (0.03, 0.8, 0.002, 0.5)
_OFFSET = (0.04, 0.8, 0.002, 0.5)


@dataclass(frozen=True)
class Forecast:
    """A number and its interval.

    Attributes
    ----------
    mean, low, high
        Dice, or a difference of Dice; `low` to `high` holds it with probability :data:`CONFIDENCE`.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Posterior:
    """Draws of the curve.

    Attributes
    ----------
    asymptote, loss, exponent
        (draws,) a, b and c of the law.
    """

    asymptote: Array
    loss: Array
    exponent: Array

    def curve(self, planes: float) -> Array:
        """Return the draws of f at a number of planes; never falling with it, draw by draw."""
        return self.asymptote - self.loss * planes**-self.exponent

    def forecast(self, planes: float) -> Forecast:
        """Return what trainings on so many planes should reach in the mean, in 0–1."""
        values = self.curve(planes)
        return _interval(float(values.mean()), values)

    def gain(self, now: float, later: float) -> Forecast:
        """Return by how much the curve rises between two numbers of planes."""
        values = self.curve(later) - self.curve(now)
        return _interval(float(values.mean()), values)

    def log_density(self, planes: float, dice: float) -> float:
        """Return the logarithm of the forecast's density, taken as normal, at a Dice that was measured later."""
        values = self.curve(planes)
        spread = max(float(values.std()), _LEAST_SPREAD)
        return float(-0.5 * ((dice - values.mean()) / spread) ** 2 - np.log(spread * np.sqrt(2 * np.pi)))


def _interval(mean: float, values: Array) -> Forecast:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Forecast(mean, float(low), float(high))


def fit_curve(planes: Sequence[int], dice: NDArray[Any], generator: np.random.Generator) -> Posterior:
    """Fit the law to Dice measured in folds.

    Parameters
    ----------
    planes
        (S,) numbers of training planes, ascending, at least two of them.
    dice
        (folds, S) measured Dice, 0–1; at least two folds.
    generator
        Draws from the posterior.

    Raises
    ------
    InputError
        If there are fewer numbers of planes or folds, or a value is out of range.
    """
    counts, measured = np.asarray(planes, dtype=float), np.asarray(dice, dtype=float)
    if measured.ndim != 2 or measured.shape[1:] != counts.shape or min(measured.shape) < 2:
        raise InputError(
            f"a curve needs Dice of at least 2 folds at 2 numbers of planes, got {measured.shape} for {counts.size} "
            "numbers; annotate more planes"
        )
    if not (counts >= 1).all() or not all(a < b for a, b in pairwise(counts)):
        raise InputError(f"numbers of planes {list(planes)} must be ascending and at least 1")
    if not ((measured >= 0) & (measured <= 1)).all():
        raise InputError("Dice must lie between 0 and 1; measure again")
    ranges = [(0.0, 1.0), (0.0, 1.0), *(tuple(np.log(p[2:])) for p in (_EXPONENT, _NOISE, _OFFSET))]
    for zoom in range(_ZOOMS):
        axes = [_centres(low, high, n) for (low, high), n in zip(ranges, _POINTS, strict=True)]
        weights = _weights(axes, counts, measured)
        if zoom < _ZOOMS - 1:
            ranges = [_shrunk(weights, index, *ends) for index, ends in enumerate(ranges)]
    cells = _systematic(weights.ravel(), _DRAWS, generator)
    drawn = zip(axes[:3], np.unravel_index(cells, weights.shape)[:3], ranges[:3], strict=True)
    a, share, c = (
        np.clip(axis[index] + generator.uniform(-0.5, 0.5, _DRAWS) * (high - low) / len(axis), low, high)
        for axis, index, (low, high) in drawn
    )
    return Posterior(a, a * share, np.exp(c))


def _centres(low: float, high: float, count: int) -> Array:
    return low + (np.arange(count) + 0.5) * (high - low) / count


def _weights(axes: Sequence[Array], counts: Array, measured: Array) -> Array:
    """Return the posterior probability of every cell of the grid, (a, b/a, c, log σ, log τ).

    With K folds, bars being means over the S numbers of planes::

        −2 log L = K (S − 1) log σ² + K log(σ² + S τ²) + W / σ² + S B / (σ² + S τ²)
        W = Σ_ks (d_ks − d̄_k − f_s + f̄)²,   B = Σ_k (d̄_k − f̄)²
    """
    folds, total = measured.shape
    a, q, c = np.meshgrid(*axes[:3], indexing="ij")
    curve = a[..., None] * (1 - q[..., None] * counts ** -np.exp(c[..., None]))
    level = curve.mean(axis=-1)
    shape = curve - level[..., None]
    means = measured.mean(axis=1)
    within = measured - means[:, None]
    w = (within**2).sum() - 2 * shape @ within.sum(axis=0) + folds * (shape**2).sum(axis=-1)
    b = (means**2).sum() - 2 * level * means.sum() + folds * level**2
    sigma, tau = (np.exp(2 * axis) for axis in axes[3:])  # variances
    both = sigma[:, None] + total * tau[None, :]
    log = -0.5 * (
        (w[..., None] / sigma)[..., None]
        + total * b[..., None, None] / both
        + folds * ((total - 1) * np.log(sigma)[:, None] + np.log(both))
    )
    for index, (median, deviation, _, _) in ((2, _EXPONENT), (3, _NOISE), (4, _OFFSET)):
        prior = -0.5 * ((axes[index] - np.log(median)) / deviation) ** 2
        log += prior.reshape([-1 if i == index else 1 for i in range(5)])
    log += 2 * np.log1p(-axes[1])[:, None, None, None]
    weights: Array = np.exp(log - log.max())
    weights /= weights.sum()
    return weights


def _shrunk(weights: Array, index: int, low: float, high: float) -> tuple[float, float]:
    """Return the part of a range that still holds probability, with a cell to spare on either side."""
    marginal = weights.sum(axis=tuple(i for i in range(weights.ndim) if i != index))
    held = np.flatnonzero(marginal > _NEGLIGIBLE * marginal.max())
    width = (high - low) / len(marginal)
    return max(low, low + (held[0] - 1) * width), min(high, low + (held[-1] + 2) * width)


def _systematic(weights: Array, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw indices with probability `weights`, evenly: the same cell as often as its weight says, up to one."""
    places = (np.arange(count) + generator.uniform()) / count
    found: NDArray[np.int64] = np.searchsorted(np.cumsum(weights), places * (1 - 1e-12)).clip(max=weights.size - 1)
    return found
