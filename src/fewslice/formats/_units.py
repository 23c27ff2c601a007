"""Units of length in the spellings that microscopes and programs use, as micrometres."""

from __future__ import annotations

import math

__all__ = ["micrometres"]

_MICROMETRES = {
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "micrometers": 1.0,
    "micrometres": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "nanometers": 1e-3,
    "pm": 1e-6,
    "picometer": 1e-6,
    "picometre": 1e-6,
    "angstrom": 1e-4,
    "å": 1e-4,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "decimeter": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
    "inch": 25400.0,
    "in": 25400.0,
}


def micrometres(value: object, unit: str | None) -> float | None:
    r"""Convert a length to micrometres.

    Parameters
    ----------
    value
        A number, or text that holds one.
    unit
        Its unit as the file spells it; ImageJ's escape ``\u00B5m`` and both Unicode letters µ are understood.

    Returns
    -------
    float or None
        None if the unit is unknown (pixels, say) or the value is not a finite number.
    """
    if unit is None:
        return None
    text = unit.strip().replace("\\u00B5", "u").replace("\\u00b5", "u").replace("µ", "u").replace("μ", "u")
    factor = _MICROMETRES.get(text.lower().replace("\u212b", "å"))
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number * factor if factor is not None and math.isfinite(number) else None
