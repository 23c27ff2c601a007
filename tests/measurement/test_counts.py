"""Numbers of objects and how sure they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from fewslice.measurement.counts import count_interval, summarise


def test_equal_confidences_are_binomial() -> None:
    found = count_interval(np.full(100, 0.7))
    assert found.mean == pytest.approx(70)
    assert (found.low, found.high) == (binom.ppf(0.025, 100, 0.7), binom.ppf(0.975, 100, 0.7))


def test_unequal_confidences_against_all_outcomes() -> None:
    p = np.array([0.1, 0.5, 0.8, 0.95])
    mass = np.zeros(5)
    for outcome in itertools.product((0, 1), repeat=4):
        mass[sum(outcome)] += np.prod(np.where(outcome, p, 1 - p))
    found = count_interval(p, 0.8)
    below = np.cumsum(mass)
    assert (found.low, found.high) == (np.argmax(below >= 0.1), np.argmax(below >= 0.9))


def test_many_objects_agree_with_the_exact_distribution() -> None:
    found = count_interval(np.full(5000, 0.9))
    assert abs(found.low - binom.ppf(0.025, 5000, 0.9)) <= 1 and abs(found.high - binom.ppf(0.975, 5000, 0.9)) <= 1


def test_certain_objects_have_no_interval() -> None:
    for number in (0, 3, 3000):
        found = count_interval(np.ones(number))
        assert (found.mean, found.low, found.high) == (number, number, number)


def test_density_and_empty_volume() -> None:
    counts = summarise(np.array([True, False, True]), None, 1e9)
    assert counts == {"objects": 3, "counted": 2, "density_per_mm3": 2.0}
    assert summarise(np.zeros(0, bool), np.zeros(0), 0.0)["density_per_mm3"] is None
