"""How far refined images still are from real ones. Nothing is downloaded.

1. :func:`features` describes patches by the responses of a fixed random convolutional network.
2. :func:`kernel_distance`, :func:`spectrum_distance` and :func:`histogram_distance` compare two sets of patches; each
   comes with a bootstrap interval and with what chance alone would give.
3. :func:`separability` is the held-out accuracy of a classifier that tries to tell the two sets apart.
4. :func:`nearest` finds the real patches that a refined one resembles most: what was copied shows.

Patches are arrays (n, c, y, x) float32, normalised; volumes contribute planes. Patches of one image are not
independent, so intervals hold for other patches of the same images, not for other images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from fewslice.errors import InputError

__all__ = [
    "Distance",
    "Separability",
    "features",
    "histogram_distance",
    "kernel_distance",
    "nearest",
    "separability",
    "spectrum_distance",
    "squared_mmd",
]

Floats = npt.NDArray[np.float64]
Patches = npt.NDArray[np.float32]
Weighted = Callable[[Floats, Floats], float]

_WIDTHS = (32, 32, 64, 64)
_BINS = 256


@dataclass(frozen=True)
class Distance:
    """A distance of two sets of patches.

    Attributes
    ----------
    value
        The estimate.
    low, high
        95 % percentile-bootstrap interval over patches.
    chance
        95th percentile of the same estimate when the patches are shuffled between the sets: what exceeds it is a
        difference.
    """

    value: float
    low: float
    high: float
    chance: float


@torch.no_grad()
def features(patches: Patches, seed: int = 0) -> Floats:
    """Describe patches by a fixed random network: mean and spread of 192 responses at four scales.

    Four levels of a 3 × 3 convolution with normal weights of unit gain (drawn from `seed`), ReLU and halving; at each,
    mean and standard deviation over the patch. What is averaged says much of texture and little of layout.

    Parameters
    ----------
    patches
        (n, c, y, x) float32, y and x at least 16.
    seed
        Of the weights. Distances are comparable only with the same seed and number of channels.

    Returns
    -------
    ndarray
        (n, 384) float64.

    Raises
    ------
    InputError
        If there is no patch or patches are smaller than 16 × 16.
    """
    _check(patches)
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(np.ascontiguousarray(patches))
    found = []
    for width in _WIDTHS:
        inside = x.shape[1]
        weights = torch.randn(width, inside, 3, 3, generator=generator) * (2.0 / (9 * inside)) ** 0.5
        bias = 0.5 * torch.randn(width, generator=generator)
        x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weights, bias))
        flat = x.flatten(2).double()
        found += [flat.mean(2), flat.std(2, unbiased=False)]
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    return np.asarray(torch.cat(found, dim=1).numpy(), dtype=np.float64)


def squared_mmd(first: Floats, second: Floats) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel (x·y / d + 1)³ (Gretton 2012, KID).

    Σ_{i≠j} k(xᵢ, xⱼ) / m(m − 1) + Σ_{i≠j} k(yᵢ, yⱼ) / n(n − 1) − 2 Σᵢⱼ k(xᵢ, yⱼ) / mn. It may be negative.

    Parameters
    ----------
    first, second
        (m, d) and (n, d), m and n at least 2.
    """
    kernel = _kernel(first, second)
    return _mmd(kernel, *_members(len(first), len(second)))


def kernel_distance(real: Floats, refined: Floats, generator: np.random.Generator, resamples: int = 500) -> Distance:
    """Return the squared maximum mean discrepancy of two sets of features, see :func:`squared_mmd`.

    Features are first scaled to mean 0 and variance 1 over the real set and then compressed by arsinh, so that no
    single one outweighs the others where the sets are far apart. In the bootstrap a pair of copies of one patch
    counts as that patch with itself and is left out, so that the estimate stays unbiased.

    Parameters
    ----------
    real, refined
        (m, d) and (n, d) as of :func:`features`, m and n at least 3.
    generator
        Source of the draws.
    resamples
        Number of draws for the interval, and for chance.
    """
    _enough(real, refined)
    kernel = _kernel(*_standardised(real, refined))
    return _distance(lambda a, b: _mmd(kernel, a, b), len(real), len(refined), generator, resamples)


def spectrum_distance(
    real: Patches, refined: Patches, generator: np.random.Generator, resamples: int = 500
) -> Distance:
    """Return how far mean radial power spectra are apart: the root mean square over frequencies of Δ log₁₀ power.

    0.3 is a factor of two at every frequency. Each patch is freed of its mean and tapered by a Hann window; power is
    averaged over rings one frequency wide and over channels.

    Parameters
    ----------
    real, refined
        (m, c, y, x) and (n, c, y, x), m and n at least 3.
    generator, resamples
        As of :func:`kernel_distance`.
    """
    _enough(real, refined)
    spectra = np.concatenate([_radial_power(real), _radial_power(refined)])

    def apart(a: Floats, b: Floats) -> float:
        one, other = (np.log10(w @ spectra / w.sum() + 1e-12) for w in (a, b))
        return float(np.sqrt(np.mean((one - other) ** 2)))

    return _distance(apart, len(real), len(refined), generator, resamples)


def histogram_distance(
    real: Patches, refined: Patches, generator: np.random.Generator, resamples: int = 500
) -> Distance:
    """Return how far intensities are apart: the 1-Wasserstein distance ∫ |F(v) − G(v)| dv, mean over channels.

    In the unit of the patches: the share of intensity that has to be moved times how far. Histograms have 256 bins over
    the joint range of each channel.

    Parameters
    ----------
    real, refined, generator, resamples
        As of :func:`spectrum_distance`.
    """
    _enough(real, refined)
    count = len(real) + len(refined)
    cumulated = np.zeros((count, real.shape[1], _BINS))
    widths = np.zeros(real.shape[1])
    for channel in range(real.shape[1]):
        values = np.concatenate([p[:, channel].reshape(len(p), -1) for p in (real, refined)]).astype(np.float64)
        low, high = float(values.min()), float(values.max())
        widths[channel] = (high - low) / _BINS
        places = ((values - low) / max(high - low, 1e-12) * _BINS).astype(np.int64).clip(0, _BINS - 1)
        places += _BINS * np.arange(count)[:, None]
        histogram = np.bincount(places.ravel(), minlength=count * _BINS).reshape(count, _BINS)
        cumulated[:, channel] = histogram.cumsum(axis=1) / values.shape[1]
    flat = cumulated.reshape(count, -1)

    def apart(a: Floats, b: Floats) -> float:
        difference = np.abs((a @ flat / a.sum() - b @ flat / b.sum()).reshape(-1, _BINS)).sum(axis=1)
        return float((difference * widths).mean())

    return _distance(apart, len(real), len(refined), generator, resamples)


@dataclass(frozen=True)
class Separability:
    """How well a classifier tells real from refined patches it has not seen.

    Attributes
    ----------
    accuracy
        Mean of its held-out accuracies on the two sets: 0.5 is guessing.
    low, high
        95 % interval: normal approximation, the sets being drawn independently.
    """

    accuracy: float
    low: float
    high: float


def separability(
    real: Floats, refined: Floats, generator: np.random.Generator, folds: int = 5, penalty: float = 1.0
) -> Separability:
    """Return the held-out accuracy of a logistic regression between two sets of features (Lopez-Paz 2017).

    Parameters
    ----------
    real, refined
        (m, d) and (n, d) as of :func:`features`, m and n at least `folds`.
    generator
        Shuffles the patches before they are divided.
    folds
        Parts; each is classified by the regression that was fitted on the others.
    penalty
        Strength of the quadratic penalty on the weights of standardised features.

    Raises
    ------
    InputError
        If a set has fewer patches than `folds`.
    """
    if min(len(real), len(refined)) < folds:
        raise InputError(
            f"{folds} folds need as many patches of each kind, got {len(real)} real and {len(refined)} refined; "
            "use fewer folds or more patches"
        )
    x = np.concatenate(_standardised(real, refined))
    y = np.concatenate([np.ones(len(real)), -np.ones(len(refined))])
    fold = np.concatenate([generator.permutation(np.arange(len(s)) % folds) for s in (real, refined)])
    right = np.zeros(len(y))
    for part in range(folds):
        train = fold != part
        weights, offset = _logistic(x[train], y[train], penalty)
        right[~train] = (x[~train] @ weights + offset) * y[~train] > 0
    rates = [float(right[y == side].mean()) for side in (1, -1)]
    variance = sum(r * (1 - r) / n for r, n in zip(rates, (len(real), len(refined)), strict=True)) / 4
    accuracy, half = sum(rates) / 2, 1.96 * float(np.sqrt(variance))
    return Separability(accuracy, max(0.0, accuracy - half), min(1.0, accuracy + half))


def nearest(real: Floats, refined: Floats, count: int = 1) -> tuple[npt.NDArray[np.intp], Floats]:
    """Find the real patches whose features are closest to each refined one's.

    Parameters
    ----------
    real, refined
        (m, d) and (n, d) as of :func:`features`.
    count
        Neighbours of each, at most m.

    Returns
    -------
    tuple
        (n, count) indices into `real`, closest first, and (n, count) distances: root mean square over features, in
        standard deviations of the real set, compressed by arsinh.
    """
    a, b = _standardised(real, refined)
    squared = (b**2).sum(1)[:, None] + (a**2).sum(1)[None] - 2 * b @ a.T
    found = np.argsort(squared, axis=1, kind="stable")[:, :count]
    chosen = np.take_along_axis(squared, found, axis=1)
    return found, np.sqrt(np.maximum(chosen, 0.0) / a.shape[1])


def _check(patches: Patches) -> None:
    if patches.ndim != 4 or len(patches) < 1 or min(patches.shape[2:]) < 16:
        raise InputError(f"realism is measured on patches (n, c, y, x) of at least 16 × 16, got {patches.shape}")


def _enough(real: npt.NDArray[Any], refined: npt.NDArray[Any]) -> None:
    if min(len(real), len(refined)) < 3:
        raise InputError(
            f"a distance needs at least 3 patches of each kind, got {len(real)} real and {len(refined)} refined; "
            "give more or larger images"
        )


def _standardised(real: Floats, refined: Floats) -> tuple[Floats, Floats]:
    mean, spread = real.mean(axis=0), real.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    return np.arcsinh((real - mean) / spread), np.arcsinh((refined - mean) / spread)


def _kernel(first: Floats, second: Floats) -> Floats:
    joined = np.concatenate([first, second])
    return np.asarray((joined @ joined.T / joined.shape[1] + 1.0) ** 3, dtype=np.float64)


def _mmd(kernel: Floats, a: Floats, b: Floats) -> float:
    """Return the estimate for patches that count `a` times in the first set and `b` times in the second."""
    diagonal = np.diagonal(kernel)
    within = sum((w @ kernel @ w - (w**2) @ diagonal) / (w.sum() ** 2 - (w**2).sum()) for w in (a, b))
    return float(within - 2 * (a @ kernel @ b) / (a.sum() * b.sum()))


def _members(m: int, n: int) -> tuple[Floats, Floats]:
    a = np.zeros(m + n)
    a[:m] = 1.0
    return a, 1.0 - a


def _distance(apart: Weighted, m: int, n: int, generator: np.random.Generator, resamples: int) -> Distance:
    """Evaluate a distance that is a function of how often each patch counts in either set."""
    drawn, shuffled = np.zeros(resamples), np.zeros(resamples)
    for index in range(resamples):
        a, b = np.zeros(m + n), np.zeros(m + n)
        a[:m] = np.bincount(generator.integers(m, size=m), minlength=m)
        b[m:] = np.bincount(generator.integers(n, size=n), minlength=n)
        drawn[index] = apart(a, b)
        order = generator.permutation(m + n)
        a, b = _members(m, n)
        shuffled[index] = apart(a[order], b[order])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Distance(apart(*_members(m, n)), float(low), float(high), float(np.quantile(shuffled, 0.95)))


def _radial_power(patches: Patches) -> Floats:
    """Mean power over channels by ring, (n, rings), the mean and corners beyond the Nyquist frequency left out."""
    _check(patches)
    height, width = patches.shape[2:]
    centred = patches - patches.mean(axis=(2, 3), keepdims=True)
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    power = (np.abs(np.fft.rfft2(centred * window)) ** 2).mean(axis=1) / (window**2).sum()
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    ring = np.rint(frequency * min(height, width)).astype(np.intp).ravel()
    last = min(height, width) // 2
    counts = np.bincount(ring, minlength=last + 1)[1 : last + 1]
    sums = np.stack([np.bincount(ring, p.ravel(), minlength=last + 1)[1 : last + 1] for p in power])
    return np.asarray(sums / counts, dtype=np.float64)


def _logistic(x: Floats, y: Floats, penalty: float) -> tuple[Floats, float]:
    """Fit a logistic regression to labels ±1; returns weights and offset."""

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, offset = parameters[:-1], parameters[-1]
        margin = y * (x @ weights + offset)
        slope = -y / (1 + np.exp(np.clip(margin, -50, 50)))
        value = np.logaddexp(0, -margin).sum() + 0.5 * penalty * weights @ weights
        return float(value), np.append(x.T @ slope + penalty * weights, slope.sum())

    found = optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return np.asarray(found[:-1]), float(found[-1])
