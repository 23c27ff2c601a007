"""How many objects there are: which of them count at the volume's border, and how sure the number is.

**Border rule.** A volume cuts objects. Counting all of them counts too many, for the neighbouring volume would count
the cut ones again; counting only whole ones counts too few. Objects that touch one of the three high sides (the last
plane, row or column) are left out and all others count. Volumes laid side by side then count every object once: the
unbiased brick of Gundersen (1986), "Stereology of arbitrary particles".

**Interval.** Each object is real with its confidence, independently of the others. Their number then follows the
Poisson-binomial distribution; :func:`count_interval` returns its mean and central 95 %. It answers for objects that
were found, not for those that were missed, and is as good as the confidences are calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

__all__ = ["BORDER_RULE", "CountInterval", "count_interval", "summarise"]

BORDER_RULE = "objects that touch the last plane, row or column of the volume do not count; all others do"

_EXACT = 2000
_MM3 = 1e-9


@dataclass(frozen=True)
class CountInterval:
    """Mean and central interval of the number of real objects."""

    mean: float
    low: int
    high: int


def count_interval(confidences: npt.NDArray[np.float64], level: float = 0.95) -> CountInterval:
    """Return mean and central interval of the number of real objects.

    Parameters
    ----------
    confidences
        Probability, 0–1, that each object is real.
    level
        Of the interval.

    Returns
    -------
    CountInterval
        Exact for up to 2,000 objects; beyond, by the normal distribution of the same mean and variance, rounded
        outward.
    """
    p = np.clip(np.asarray(confidences, dtype=np.float64), 0.0, 1.0)
    mean, tail = float(np.sum(p)), (1 - level) / 2
    if len(p) > _EXACT:
        reach = float(ndtri(1 - tail)) * float(np.sqrt(np.sum(p * (1 - p))))
        return CountInterval(mean, max(0, int(np.floor(mean - reach))), min(len(p), int(np.ceil(mean + reach))))
    mass = np.zeros(len(p) + 1)
    mass[0] = 1.0
    for k, one in enumerate(p):
        mass[1 : k + 2] = mass[1 : k + 2] * (1 - one) + mass[: k + 1] * one
        mass[0] *= 1 - one
    below = np.cumsum(mass)
    low, high = (int(np.searchsorted(below, q)) for q in (tail, 1 - tail))
    return CountInterval(mean, low, min(high, len(p)))


def summarise(
    counted: npt.NDArray[np.bool_], confidences: npt.NDArray[np.float64] | None, volume_um3: float
) -> dict[str, Any]:
    """Return number, number by the border rule, density per mm³ and its interval for some objects.

    Parameters
    ----------
    counted
        Whether each object counts by the border rule.
    confidences
        0–1, or None if unknown.
    volume_um3
        Volume in which they lie.

    Returns
    -------
    dict
        ``objects, counted, density_per_mm3``; with confidences also ``expected``, ``interval95`` and
        ``density_interval95``, of those that count. Densities are None where the volume is 0.
    """
    number = int(np.count_nonzero(counted))
    per = 1 / (volume_um3 * _MM3) if volume_um3 else None
    result: dict[str, Any] = {
        "objects": len(counted),
        "counted": number,
        "density_per_mm3": None if per is None else number * per,
    }
    if confidences is not None:
        found = count_interval(confidences[counted])
        result |= {
            "expected": found.mean,
            "interval95": [found.low, found.high],
            "density_interval95": None if per is None else [found.low * per, found.high * per],
        }
    return result
