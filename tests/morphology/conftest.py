"""Masks drawn as text, and random ones that look like objects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage


@pytest.fixture
def draw() -> Callable[[str], np.ndarray]:
    """Turn a drawing into bool (z, y, x): planes stand side by side, ``#`` is foreground."""

    def volume(text: str) -> np.ndarray:
        rows = [line.split() for line in text.split("\n") if line.strip()]
        return np.array([[list(row[z]) for row in rows] for z in range(len(rows[0]))]) == "#"

    return volume


@pytest.fixture
def blobs() -> Callable[..., np.ndarray]:
    """Make smooth random foreground, bool (z, y, x), that covers about `share` of the volume."""

    def volume(generator: np.random.Generator, shape: tuple[int, int, int], share: float = 0.4) -> np.ndarray:
        noise = ndimage.gaussian_filter(generator.standard_normal(shape), (0.7, 1.0, 1.0))
        return noise > np.quantile(noise, 1 - share)

    return volume
