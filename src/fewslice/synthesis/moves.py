"""How a fit moves settings: by damped ratios of what was wanted to what was got, within the range of each field."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

__all__ = ["moved", "ratio", "scaled"]

M = TypeVar("M", bound=BaseModel)


def ratio(wanted: float, got: float, power: float = 0.8) -> float:
    """Factor by which a setting grows so that what it causes goes from `got` to `wanted`.

    Parameters
    ----------
    wanted, got
        Measurements ≥ 0.
    power
        1 if the measurement is proportional to the setting; less to approach more slowly.

    Returns
    -------
    float
        (wanted / got)^power between ½ and 2; 1 where either is 0 or not finite, since such a ratio says nothing.

    Examples
    --------
    >>> ratio(30, 20, power=1), ratio(9, 1), ratio(5, 0)
    (1.5, 2.0, 1.0)
    """
    if not (np.isfinite(wanted) and np.isfinite(got)) or wanted <= 0 or got <= 0:
        return 1.0
    return float(np.clip((wanted / got) ** power, 0.5, 2.0))


def moved(part: M, **values: Any) -> M:
    """Give settings other values; a number beyond the range of its field becomes the nearest that is in it."""
    bounded: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            bounded[name] = value
            continue
        limits = type(part).model_fields[name].metadata
        low = max((lowest for limit in limits if (lowest := _low(limit)) is not None), default=-np.inf)
        high = min((limit.le for limit in limits if getattr(limit, "le", None) is not None), default=np.inf)
        bounded[name] = round(float(np.clip(value, low, high)), 6)
    return part.model_copy(update=bounded)


def scaled(part: M, **factors: float) -> M:
    """Multiply settings by factors, within their ranges; pairs and triples are multiplied as a whole."""
    values: dict[str, Any] = {}
    for name, factor in factors.items():
        old = getattr(part, name)
        values[name] = tuple(round(v * factor, 6) for v in old) if isinstance(old, tuple) else old * factor
    return moved(part, **values)


def _low(limit: Any) -> float | None:
    """Smallest value that a limit allows; just above an open one."""
    if getattr(limit, "ge", None) is not None:
        return float(limit.ge)
    if getattr(limit, "gt", None) is not None:
        return float(limit.gt) + 1e-3
    return None
