"""Distances are near what chance gives for equal distributions and clearly above it for others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from fewslice.errors import InputError
from fewslice.synthesis.realism import (
    features,
    histogram_distance,
    kernel_distance,
    nearest,
    separability,
    spectrum_distance,
    squared_mmd,
)


def _textures(count: int, seed: int, blur: float = 1.0) -> npt.NDArray[np.float32]:
    """Noise of unit variance, blurred: (n, 2, 32, 32)."""
    noise = np.random.default_rng(seed).standard_normal((count, 2, 32, 32))
    smooth = ndimage.gaussian_filter(noise, (0, 0, blur, blur), mode="wrap")
    return (smooth / smooth.std()).astype(np.float32)


def test_squared_mmd_by_hand() -> None:
    """One feature: k(a, b) = (ab + 1)³. x = 0, 1 and y = 1, 2: within 1 and 27, between 37 / 4."""
    found = squared_mmd(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]))
    assert found == pytest.approx(1.0 + 27.0 - 2 * (1 + 1 + 8 + 27) / 4)


def test_squared_mmd_against_the_sums() -> None:
    """Loops over pairs, as the estimator is written."""
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((5, 3)), generator.standard_normal((4, 3)) + 0.5

    def k(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / len(s) / (len(s) - 1)
        for s in (x, y)
    ]
    between = np.mean([k(a, b) for a in x for b in y])
    assert squared_mmd(x, y) == pytest.approx(sum(within) - 2 * between)


def test_squared_mmd_is_unbiased() -> None:
    """Over many draws from one distribution its mean is 0, which that of the biased estimate is not."""
    generator = np.random.default_rng(1)
    found = [squared_mmd(generator.standard_normal((8, 4)), generator.standard_normal((8, 4))) for _ in range(2000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0 < max(found)


def test_equal_distributions_are_near_zero_and_others_are_not() -> None:
    draw = np.random.default_rng(2)
    real, same = _textures(48, 0), _textures(48, 1)
    others = {"blurred": _textures(48, 2, blur=1.6), "shifted": _textures(48, 3) + 0.5}
    described = features(real)
    equal = kernel_distance(described, features(same), draw, 200)
    assert equal.low < 0 < equal.high
    assert equal.value < 3 * equal.chance
    for name, other in others.items():
        found = kernel_distance(described, features(other), draw, 200)
        assert found.low > max(found.chance, equal.high), name
        assert found.low < found.value < found.high
    assert spectrum_distance(real, same, draw, 200).value < 1.5 * spectrum_distance(real, same, draw, 200).chance
    assert spectrum_distance(real, others["blurred"], draw, 200).low > 0.3
    assert histogram_distance(real, same, draw, 200).value < 0.05
    found = histogram_distance(real, others["shifted"], draw, 200)
    assert found.low < 0.5 < found.high and found.low > 0.45  # the shift itself
    assert found.chance < 0.1


def test_chance_is_exceeded_as_rarely_as_it_says() -> None:
    """Of 40 draws from one distribution, about 2 exceed the 95th percentile of shuffled patches."""
    exceeded = 0
    for seed in range(40):
        real, same = _textures(12, 100 + seed), _textures(12, 300 + seed)
        found = kernel_distance(features(real), features(same), np.random.default_rng(seed), 40)
        exceeded += found.value > found.chance
    assert exceeded <= 7


def test_spectrum_distance_is_the_ratio_of_powers() -> None:
    """Twice the amplitude is four times the power at every frequency: log₁₀ 4."""
    real = _textures(12, 5)
    found = spectrum_distance(real, 2 * real, np.random.default_rng(0), 20)
    assert found.value == pytest.approx(np.log10(4), abs=1e-6)


def test_a_sinusoid_lies_in_its_ring() -> None:
    """Only the ring of 4 periods per patch and its neighbours (the window's width) differ."""
    x = np.arange(32) / 32
    wave = np.cos(2 * np.pi * 4 * x)[None, None, None].repeat(32, axis=2)
    noise = _textures(6, 6, blur=0.1)
    from fewslice.synthesis.realism import _radial_power

    ratio = _radial_power((noise + 30 * wave).astype(np.float32)).mean(0) / _radial_power(noise).mean(0)
    assert ratio.argmax() == 3  # the first ring is that of one period
    assert ratio[3] > 50 * np.median(ratio[6:])


def test_separability() -> None:
    draw = np.random.default_rng(3)
    real = features(_textures(100, 7))
    same = separability(real, features(_textures(100, 8)), draw)
    assert 0.35 < same.accuracy < 0.65 and same.low < 0.5 < same.high
    assert separability(real, features(_textures(100, 9, blur=1.5)), draw).accuracy > 0.95
    with pytest.raises(InputError, match="fewer folds"):
        separability(real[:4], real, draw)


def test_nearest_finds_the_copy() -> None:
    real = _textures(20, 10)
    found, distance = nearest(features(real), features(real[[3, 11]] + np.float32(0.001)), count=2)
    assert found[:, 0].tolist() == [3, 11]
    assert found.shape == distance.shape == (2, 2)
    assert (distance[:, 0] < 0.2 * distance[:, 1]).all()


def test_features_are_a_function_of_the_seed() -> None:
    patches = _textures(3, 11)
    assert np.array_equal(features(patches), features(patches))
    assert not np.array_equal(features(patches), features(patches, seed=1))
    assert features(patches).shape == (3, 384)


def test_bad_patches() -> None:
    with pytest.raises(InputError, match="at least 16"):
        features(np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(InputError, match="at least 3 patches"):
        kernel_distance(np.zeros((2, 4)), np.zeros((5, 4)), np.random.default_rng(0))
