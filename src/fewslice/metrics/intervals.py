"""How sure a mean is over few repetitions, such as the differences of two methods scored on the same draws.

A number that is pooled over parts of one image, such as Dice, gets its interval from the parts
(:func:`bootstrap_pooled`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from fewslice.errors import InputError

__all__ = ["Interval", "bootstrap", "bootstrap_pooled", "student"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it with the stated confidence.

    Attributes
    ----------
    mean
        Arithmetic mean of the values.
    low, high
        Ends of the two-sided interval; None where a single value gives none.
    count
        Number of values.
    confidence
        For example 0.95.
    method
        ``student`` or ``bootstrap``.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    confidence: float
    method: str

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low is not None and self.low > 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-safe dictionary."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "count": self.count,
            "confidence": self.confidence,
            "method": self.method,
        }


def student(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and Student-t interval of independent values.

    mean ± t(1 - (1 - c)/2, n - 1) · s / √n, with s the sample standard deviation (n - 1). Assumes values that are
    roughly normal; five draws are enough to use it, too few to check it.

    Parameters
    ----------
    values
        Finite numbers, at least one. With one, the ends are None.
    confidence
        Between 0 and 1.

    Raises
    ------
    InputError
        If there is no value, one is not finite, or the confidence is not between 0 and 1.
    """
    data = _finite(values, confidence)
    mean = float(data.mean())
    if data.size < 2:
        return Interval(mean, None, None, 1, confidence, "student")
    quantile = float(stdtrit(data.size - 1, 0.5 + confidence / 2))
    half = quantile * float(data.std(ddof=1)) / float(np.sqrt(data.size))
    return Interval(mean, mean - half, mean + half, data.size, confidence, "student")


def bootstrap(
    values: Sequence[float], generator: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Mean and percentile-bootstrap interval of independent values.

    The values are drawn with replacement `resamples` times; the ends are percentiles of the means. With few values
    this interval is narrower than it should be; prefer :func:`student` below about ten.

    Parameters
    ----------
    values
        Finite numbers, at least one. With one, the ends are None.
    generator
        Source of the draws.
    confidence
        Between 0 and 1.
    resamples
        Number of draws.

    Raises
    ------
    InputError
        As :func:`student`, and if `resamples` is below 1.
    """
    data = _finite(values, confidence)
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, got {resamples}")
    mean = float(data.mean())
    if data.size < 2:
        return Interval(mean, None, None, 1, confidence, "bootstrap")
    means = data[generator.integers(0, data.size, (resamples, data.size))].mean(axis=1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(mean, float(low), float(high), data.size, confidence, "bootstrap")


def bootstrap_pooled(
    counts: npt.NDArray[np.integer[Any]],
    score: Callable[[Floats], Floats],
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Interval | None:
    """Percentile-bootstrap interval of a score of counts that are summed over parts.

    Whole parts are drawn with replacement, as many as there are, and their counts are summed before they are scored
    (Efron and Tibshirani 1993, chapter 8): what is alike within a part stays together. The interval says how much the
    score would move with other parts of the same image, and nothing about other images.

    Parameters
    ----------
    counts
        (parts, k) integers.
    score
        (n, k) sums → (n,) scores; NaN where a score is undefined.
    generator
        Source of the draws.
    confidence
        Between 0 and 1.
    resamples
        Number of draws.

    Returns
    -------
    Interval or None
        Its ``mean`` is the score of all parts together; None where that is undefined, ends None with a single part.

    Raises
    ------
    InputError
        If there is no part, or confidence or resamples cannot be used.
    """
    if counts.ndim != 2 or not len(counts):
        raise InputError(f"pooled counts must be (parts, k) with at least one part, got shape {counts.shape}")
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(f"confidence {confidence} must lie between 0 and 1, and resamples {resamples} be at least 1")
    parts = len(counts)
    value = float(score(counts.sum(axis=0, keepdims=True).astype(np.float64))[0])
    if np.isnan(value):
        return None
    if parts < 2:
        return Interval(value, None, None, parts, confidence, "bootstrap")
    drawn = generator.multinomial(parts, np.full(parts, 1 / parts), size=resamples)
    low, high = np.nanquantile(score((drawn @ counts).astype(np.float64)), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value, float(low), float(high), parts, confidence, "bootstrap")


def _finite(values: Sequence[float], confidence: float) -> npt.NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise InputError(f"an interval needs a list of at least one value, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise InputError("an interval needs finite values, got NaN or infinity; leave that draw out of both arms")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, got {confidence}")
    return data
