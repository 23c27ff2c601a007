"""Intervals of means, against tables, SciPy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fewslice.errors import InputError
from fewslice.metrics.intervals import bootstrap, bootstrap_pooled, student


def test_student_by_hand() -> None:
    # mean 3, s = sqrt(2.5), t(0.975, 4) = 2.776 from the table
    interval = student([1, 2, 3, 4, 5])
    half = 2.7764451 * np.sqrt(2.5 / 5)
    assert interval.mean == 3
    assert (interval.low, interval.high) == pytest.approx((3 - half, 3 + half))
    assert interval.count == 5 and interval.above_zero


def test_student_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.8, 0.1, 7), rng.normal(0.7, 0.1, 7)
    ours = student(list(first - second), 0.9)
    theirs = stats.ttest_rel(first, second).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_student_covers_as_promised() -> None:
    rng = np.random.default_rng(11)
    intervals = [student(list(rng.normal(1.0, 1.0, 5))) for _ in range(2000)]
    covered = np.mean([i.low <= 1.0 <= i.high for i in intervals if i.low is not None and i.high is not None])
    assert covered == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_bootstrap_agrees_with_scipy_on_many_values() -> None:
    values = np.random.default_rng(5).exponential(1.0, 60)
    ours = bootstrap(list(values), np.random.default_rng(0))
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_bootstrap_is_a_function_of_its_generator() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 9).tolist()
    runs = [bootstrap(values, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("method", ["student", "bootstrap"])
def test_few_values(method: str) -> None:
    def interval(values: list[float]) -> tuple[float | None, float | None, bool]:
        found = student(values) if method == "student" else bootstrap(values, np.random.default_rng(0))
        assert found.method == method and found.to_json()["low"] == found.low
        return found.low, found.high, found.above_zero

    assert interval([0.5]) == (None, None, False)  # one draw shows nothing
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5, True)


def test_refusals() -> None:
    with pytest.raises(InputError, match="at least one"):
        student([])
    with pytest.raises(InputError, match="NaN"):
        student([1, float("nan")])
    with pytest.raises(InputError, match="confidence"):
        student([1, 2], 95)
    with pytest.raises(InputError, match="resamples"):
        bootstrap([1, 2], np.random.default_rng(0), resamples=0)


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def test_pooled_interval_of_a_ratio_covers_as_often_as_it_says() -> None:
    """Ratio of sums over parts that differ from each other: 95 % intervals hold the ratio of the population."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        rate = rng.beta(8, 2, 60)  # mean 0.8
        size = rng.integers(50, 150, 60)
        counts = np.stack([rng.binomial(size, rate), size], axis=1)
        interval = bootstrap_pooled(counts, ratio, rng, resamples=400)
        assert interval is not None and interval.mean == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
        held += interval.low <= 0.8 <= interval.high
    assert 0.90 <= held / 200 <= 0.99


def test_pooled_interval_widens_when_voxels_of_a_part_are_alike() -> None:
    """Parts, not voxels, are drawn: the same voxels in fewer parts that agree within say less."""
    rng = np.random.default_rng(1)
    alike = np.stack([np.where(rng.random(40) < 0.8, 100, 0), np.full(40, 100)], axis=1)
    mixed = np.stack([rng.binomial(100, 0.8, 40), np.full(40, 100)], axis=1)
    widths = [i.high - i.low for i in (bootstrap_pooled(c, ratio, rng) for c in (alike, mixed)) if i is not None]
    assert widths[0] > 4 * widths[1]


def test_pooled_interval_of_what_is_undefined_or_single() -> None:
    rng = np.random.default_rng(2)
    with np.errstate(invalid="ignore"):
        assert bootstrap_pooled(np.zeros((12, 2), int), ratio, rng) is None
    single = bootstrap_pooled(np.array([[1, 2]]), ratio, rng)
    assert single is not None and (single.mean, single.low, single.high) == (0.5, None, None)
    with pytest.raises(InputError, match="at least one part"):
        bootstrap_pooled(np.zeros((0, 2), int), ratio, rng)
