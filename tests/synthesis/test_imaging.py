from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fewslice.synthesis.imaging import add_haze, add_noise, blur, jitter_lines, smooth_noise, to_uint8

VOXEL = (2.0, 0.88, 0.88)


def test_blur_has_the_width_asked_for_in_um() -> None:
    point = np.zeros((41, 41, 41), dtype=np.float32)
    point[20, 20, 20] = 1000
    seen = blur(point, (4.0, 1.5, 1.2), VOXEL)
    assert seen.dtype == np.float32
    assert seen.sum() == pytest.approx(1000, rel=1e-4)
    for axis, sigma in enumerate((4.0, 1.5, 1.2)):
        line = seen.sum(axis=tuple(other for other in range(3) if other != axis))
        place = (np.arange(41) - 20) * VOXEL[axis]
        assert np.sqrt((line * place**2).sum() / line.sum()) == pytest.approx(sigma, rel=0.03)


def test_shot_noise_has_its_mean_and_variance() -> None:
    generator = np.random.default_rng(0)
    for level in (3.0, 20.0, 120.0):
        seen = add_noise(np.full((40, 60, 60), level, dtype=np.float32), 0.5, 1.5, generator)
        assert seen.mean() == pytest.approx(level, rel=0.01)
        assert seen.var() == pytest.approx(0.5 * level + 1.5**2, rel=0.05)
    silent = np.full((2, 3, 4), 7.0, dtype=np.float32)
    assert np.array_equal(add_noise(silent, 0, 0, generator), silent)


def test_noise_is_independent_between_voxels() -> None:
    seen = add_noise(np.full((20, 60, 60), 50.0, dtype=np.float32), 0.5, 1.0, np.random.default_rng(1)) - 50
    for axis in range(3):
        here, there = np.moveaxis(seen, axis, 0)[:-1], np.moveaxis(seen, axis, 0)[1:]
        assert abs((here * there).mean() / seen.var()) < 0.02


def test_smooth_noise_is_standard_and_as_coarse_as_asked_whatever_the_voxel() -> None:
    fields = [smooth_noise((20, 50, 50), VOXEL, 6.0, np.random.default_rng(seed)) for seed in range(30)]
    assert fields[0].dtype == np.float32
    assert np.mean(fields) == pytest.approx(0, abs=0.1)
    assert np.std(fields) == pytest.approx(1, abs=0.1)
    everywhere = np.stack(fields).std(axis=0)
    assert everywhere.min() > 0.5
    for lag in (4.0, 12.0):
        values = []
        for voxel in ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0)):
            step = int(lag / voxel[2])
            shape = tuple(int(60 / v) for v in voxel)
            pairs = [smooth_noise(shape, voxel, 6.0, np.random.default_rng(seed)) for seed in range(12)]
            values.append(np.mean([(f[..., :-step] * f[..., step:]).mean() for f in pairs]))
        assert values[0] == pytest.approx(values[1], abs=0.1)
        assert values[0] > 0.5 if lag == 4 else values[0] < 0.35


def test_haze_is_the_wide_blur_of_the_same_light() -> None:
    picture = np.zeros((30, 70, 64), dtype=np.float32)
    picture[12:18, 30:44, 25:40] = 100
    seen = add_haze(picture, 0.2, 8.0, VOXEL)
    wide = ndimage.gaussian_filter(picture, [8 / v for v in VOXEL], mode="nearest")
    assert np.abs(seen - (0.8 * picture + 0.2 * wide)).max() < 0.8
    assert seen.sum() == pytest.approx(picture.sum(), rel=0.02)
    assert add_haze(picture, 0.0, 8.0, VOXEL) is picture
    flat = np.full((3, 5, 7), 4.0, dtype=np.float32)
    assert np.allclose(add_haze(flat, 0.5, 30.0, VOXEL), 4)


def test_line_jitter_moves_even_and_odd_lines_apart() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (2, 6, 40)).copy()
    seen = jitter_lines(ramp, 0.44, VOXEL)
    apart = seen[:, 1::2, 5:-5] - seen[:, 0::2, 5:-5]
    assert np.allclose(apart, 0.5)
    assert np.allclose(seen[:, :, 5:-5].mean(axis=1), ramp[:, 0, 5:-5])
    assert jitter_lines(ramp, 0.0, VOXEL) is ramp
    with pytest.raises(ValueError, match="line shift"):
        jitter_lines(ramp, 5.0, VOXEL)


def test_grey_values_are_rounded_and_saturate() -> None:
    seen = to_uint8(np.array([-3.0, 0.4, 0.6, 254.6, 900.0], dtype=np.float32))
    assert seen.tolist() == [0, 0, 1, 255, 255]
