from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fewslice.synthesis.moves import moved, ratio, scaled
from fewslice.synthesis.simulators.fluorescence_nuclei import Nuclei, Optics
from fewslice.synthesis.statistics import log_spread, measure, pooled, typical_radius

PIXEL = (1.0, 0.5, 0.5)


def discs(radius_um: float = 4.0, level: float = 100.0, noise: float = 2.0, planes: int = 1) -> np.ndarray:
    """25 discs (or balls) 20 µm apart on a background of 30."""
    z, y, x = np.meshgrid(np.arange(planes) * PIXEL[0], *(np.arange(200) * 0.5,) * 2, indexing="ij")
    centre = (planes // 2) * PIXEL[0]
    distance = np.sqrt((z - centre) ** 2 + ((y + 10) % 20 - 10.0) ** 2 + ((x + 10) % 20 - 10.0) ** 2)
    picture = 30 + level * (distance < radius_um)
    picture += np.random.default_rng(0).normal(0, noise, picture.shape)
    return np.clip(np.rint(np.roll(picture, 20, (1, 2))), 0, 255)[None]


@pytest.mark.parametrize(("planes", "unit"), [(1, 1e-4 * 1e2), (15, 1e-6 * 1e-3 * 1e4 * 15)])
def test_discs_of_known_number_size_and_brightness(planes: int, unit: float) -> None:
    part = measure(discs(planes=planes), PIXEL, "bright")
    assert part.extent == pytest.approx(unit, rel=1e-6)
    assert len(part.radii_um) == 25
    assert part.density == pytest.approx(25 / part.extent)
    assert np.median(part.radii_um) == pytest.approx(4.0, abs=0.6)  # the threshold is low, for the sake of pale cells
    assert np.median(part.levels) == pytest.approx(100, rel=0.06)
    assert part.colours[0, 0] == pytest.approx(30, abs=1)
    if planes == 1:
        assert part.share == pytest.approx(25 * np.pi * 16 / 1e4, rel=0.3)
        assert part.regularity > 1.8  # a square grid: 2


def test_dark_is_bright_turned_over() -> None:
    bright, dark = measure(discs(), PIXEL, "bright"), measure(255 - discs(), PIXEL, "dark")
    assert np.allclose(bright.radii_um, dark.radii_um)
    assert np.median(dark.levels) == pytest.approx(np.median(bright.levels), rel=0.01)
    assert dark.share == pytest.approx(bright.share, rel=0.01)


def test_colours_are_projected_on_what_varies() -> None:
    picture = np.concatenate([200 - discs() * 0.5, np.full((1, 1, 200, 200), 90.0), 220 - discs()])
    part = measure(picture, PIXEL, "dark")
    assert len(part.radii_um) == 25
    assert part.colours[0] == pytest.approx([185, 90, 190], abs=1.5)
    assert part.colours[2] == pytest.approx([135, 90, 90], abs=4)
    assert part.quantiles.shape == (3, 7)
    assert np.median(part.levels) == pytest.approx(np.hypot(50, 100), rel=0.06)


def test_uneven_light_is_no_contrast() -> None:
    ramp = np.linspace(0, 60, 200)[None, None, None, :]
    part = measure(np.clip(discs(level=60.0) + ramp, 0, 255), PIXEL, "bright")
    assert len(part.radii_um) == pytest.approx(25, abs=1)


def test_grain_tells_blurred_texture_from_white_noise() -> None:
    generator = np.random.default_rng(1)
    texture = ndimage.gaussian_filter(generator.standard_normal((400, 400)), 1.2)
    texture *= 4.0 / texture.std()
    picture = 100 + texture + generator.normal(0, 2.0, texture.shape)
    picture[:12, :12] = 200  # something that stands out
    part = measure(picture[None, None], (0.5, 0.5, 0.5), "bright")
    assert part.texture == pytest.approx(4.0, rel=0.12)
    assert part.texture_um == pytest.approx(0.6, rel=0.12)
    assert part.noise == pytest.approx(2.0, rel=0.2)


def test_bands_find_a_wave() -> None:
    x = np.arange(256) * 0.5
    picture = 100 + 50 * np.sin(2 * np.pi * x / 7.0)[None, :] * np.ones((256, 1))
    part = measure(picture[None, None], (0.5, 0.5, 0.5), "bright")
    assert part.bands.sum() == pytest.approx(1)
    assert part.bands[3] > 0.9  # 10 to 5 µm


def test_pooling_weights_by_extent() -> None:
    small, large = measure(discs()[..., :100], PIXEL, "bright"), measure(discs(level=50.0), PIXEL, "bright")
    both = pooled([small, large])
    assert both.extent == pytest.approx(small.extent + large.extent)
    assert len(both.radii_um) == len(small.radii_um) + len(large.radii_um)
    assert both.share == pytest.approx((small.share + 2 * large.share) / 3)


def test_nothing_to_see_is_measured_too() -> None:
    part = measure(np.full((1, 1, 40, 40), 9.0), PIXEL, "bright")
    assert part.density == 0 and part.share == 0 and part.noise == 0


def test_small_numbers_by_hand() -> None:
    assert typical_radius(np.array([1.0, 2.0])) == pytest.approx(9 / 5)
    assert typical_radius(np.array([])) == 0
    assert log_spread(np.exp(np.random.default_rng(0).normal(3, 0.5, 20_000))) == pytest.approx(0.5, rel=0.03)
    assert log_spread(np.array([])) == 0


def test_moves_stay_in_range() -> None:
    assert ratio(8, 2, power=0.5) == 2 and ratio(2, 8, power=0.5) == 0.5
    assert ratio(100, 1) == 2 and ratio(0, 3) == 1 and ratio(3, float("nan")) == 1
    nuclei = Nuclei()
    assert moved(nuclei, elongation=9.0).elongation == 4
    assert moved(nuclei, radius_um=-1.0).radius_um == pytest.approx(1e-3)
    assert scaled(nuclei, radius_um=2.0).radius_um == pytest.approx(8.8)
    assert scaled(Optics(), blur_um=2.0).blur_um == pytest.approx((2.8, 1.1, 1.1))
    Nuclei.model_validate(scaled(nuclei, density_per_mm2=1e9, radius_spread=50.0).model_dump())
