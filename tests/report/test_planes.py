from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewslice.report.planes import DisplayRange, choose_planes, display_range, mask_uri, reduction, rendered
from fewslice.volume import Volume


@given(st.sets(st.integers(0, 500), min_size=1, max_size=80), st.integers(2, 30))
def test_chosen_planes_are_spread_and_keep_the_ends(candidates: set[int], count: int) -> None:
    chosen = choose_planes(sorted(candidates), count)
    assert set(chosen) <= candidates
    assert len(chosen) == len(set(chosen)) == min(count, len(candidates))
    assert chosen[0] == min(candidates)
    assert chosen[-1] == max(candidates)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 7))
def test_reduced_image_and_mask_have_the_same_pixels(height: int, width: int, factor: int) -> None:
    factor = min(factor, height, width)
    mask = np.arange(height * width, dtype=np.uint32).reshape(height, width).astype(np.uint8)
    stored = base64.b64decode(mask_uri(mask, factor).partition(",")[2])
    kept = np.asarray(Image.open(BytesIO(stored)))
    assert np.array_equal(kept, mask[factor // 2 :: factor, factor // 2 :: factor])
    image = rendered(mask[None], DisplayRange((0.0,), (255.0,)), factor)
    assert image.shape == kept.shape


def test_reduction_fits_the_longer_side() -> None:
    assert reduction((512, 512), 768) == 1
    assert reduction((100, 1537), 768) == 3


def test_display_range_ignores_outliers_and_nan() -> None:
    values = np.tile(np.linspace(10, 20, 1000, dtype=np.float32), (2, 10, 1)).reshape(1, 2, 100, 100)
    values = values.copy()
    values[0, 0, 0, 0], values[0, 0, 0, 1] = 1e6, np.nan
    limits = display_range(Volume.from_array(values), [0, 1], [0])
    assert 9.9 < limits.low[0] < 10.2
    assert 19.8 < limits.high[0] < 20.1


def test_constant_image_is_drawn_without_dividing_by_zero() -> None:
    volume = Volume.from_array(np.full((1, 1, 4, 4), 7, np.uint16))
    limits = display_range(volume, [0], [0])
    assert rendered(volume.read()[:, 0], limits, 1).dtype == np.uint8


def test_colours_of_channels() -> None:
    limits = DisplayRange((0.0, 0.0), (1.0, 1.0))
    green = rendered(np.array([[[1.0]], [[0.0]]]), limits, 1)[0, 0]
    magenta = rendered(np.array([[[0.0]], [[1.0]]]), limits, 1)[0, 0]
    assert green[1] > 200 > green[0]
    assert magenta[0] > 200 > magenta[1]
