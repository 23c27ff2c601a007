"""Student-t intervals against SciPy and a case worked by hand."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from benchmarks.intervals import interval, paired, t975


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 29, 30, 31, 60, 500])
def test_quantiles_match_scipy(degrees: int) -> None:
    assert t975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-4)


def test_interval_by_hand() -> None:
    # mean 2, standard deviation 1, t(2) = 4.3027, half width 4.3027 / sqrt(3)
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half == pytest.approx(2.48414, abs=1e-4)
    assert found.text(2) == "2.00 ± 2.48"


def test_one_value_has_no_interval() -> None:
    found = interval([0.25])
    assert math.isnan(found.half)
    assert found.text(2, sign=True) == "+0.25"


def test_no_values_and_no_degrees_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        interval([])
    with pytest.raises(ValueError, match="at least 1"):
        t975(0)


def test_pairs_are_the_common_draws() -> None:
    found = paired({0: 1.0, 1: 2.0, 5: 9.0}, {0: 0.5, 1: 1.5, 2: 0.0})
    assert found is not None
    assert (found.mean, found.half, found.count) == (0.5, 0.0, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None
