"""Means over few draws with Student-t 95 % intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Interval", "interval", "paired"]

# 0.975 quantiles of Student's t for 1 to 30 degrees of freedom
_T975 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A mean, the half width of its 95 % interval (NaN for a single value), and how many values it is of."""

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half

    def text(self, digits: int = 3, *, sign: bool = False) -> str:
        """Write ``0.812 ± 0.013``; with `sign`, a plus before what is positive; no ± for a single value."""
        mean = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        return mean if math.isnan(self.half) else f"{mean} ± {self.half:.{digits}f}"


def t975(degrees: int) -> float:
    """Give the 0.975 quantile of Student's t distribution with `degrees` degrees of freedom."""
    if degrees < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {degrees}")
    if degrees <= len(_T975):
        return _T975[degrees - 1]
    z = 1.959963985  # Cornish-Fisher, exact to 1e-4 from here on
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def interval(values: Sequence[float]) -> Interval:
    """Give mean and Student-t 95 % interval of independent values.

    Raises
    ------
    ValueError
        If there are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value, got none")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, t975(count - 1) * math.sqrt(variance / count), count)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Interval | None:
    """Give the interval of ours - theirs over the draws both have; None when they share none."""
    draws = sorted(set(ours) & set(theirs))
    return interval([ours[draw] - theirs[draw] for draw in draws]) if draws else None
