"""The table as text: numbers that other programs read back, and gaps where nothing is defined."""

from __future__ import annotations

import csv
import math

import numpy as np

from fewslice.measurement.table import csv_lines


def test_numbers_come_back_and_what_is_undefined_is_empty() -> None:
    columns = {
        "id": np.array([1, 2**40], np.uint64),
        "volume_um3": np.array([1 / 3, math.nan]),
        "elongation": np.array([math.inf, 1.5]),
    }
    first, second = csv.reader("".join(csv_lines(columns)).splitlines())
    assert first == ["1", "0.333333333", "inf"] and second == [str(2**40), "", "1.5"]
