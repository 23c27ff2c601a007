from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from fewslice.synthesis.simulators.fluorescence_nuclei import Config, Detector, ideal, simulate

LOOSE: dict[str, Any] = {"clumping": 0.0, "overlapping": 0.0}
ALIKE: dict[str, Any] = {"radius_spread": 0.0, "condensed": 0.0, "brightness_spread": 0.0}


def simulated(seed: int = 0, **settings: Any):
    return simulate(ideal(Config(**settings)), np.random.default_rng(seed))


def test_density_and_size_in_a_plane() -> None:
    nuclei = ALIKE | {"density_per_mm2": 1500.0, "radius_um": 4.0, "bumps": 0.0}
    total, areas = 0, []
    for seed in range(4):
        part = simulated(seed, shape=(1, 500, 500), nuclei=nuclei, layout=LOOSE)
        for own in part.footprints:
            middle = [own.start[axis] + own.mask.shape[axis] / 2 for axis in (1, 2)]
            edge = [own.start[axis] == 0 or own.start[axis] + own.mask.shape[axis] == 500 for axis in (1, 2)]
            total += 1 if not any(edge) else 0.5
            if not any(edge):
                areas.append(own.mask.sum() * 0.65**2)
            assert all(0 <= m <= 500 for m in middle)
    expected = 4 * 1500 * (500 * 0.65) ** 2 * 1e-6
    assert total == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert np.mean(areas) == pytest.approx(np.pi * 4**2, rel=0.02)
    assert np.std(areas) / np.mean(areas) < 0.05


def test_density_and_size_in_a_volume() -> None:
    nuclei = ALIKE | {"density_per_mm3": 250_000.0, "radius_um": 4.0, "bumps": 0.0}
    share, sizes = [], []
    for seed in range(3):
        part = simulated(seed, shape=(40, 96, 96), nuclei=nuclei, layout=LOOSE)
        assert part.footprints is None
        share.append((part.instances > 0).mean())
        for index, box in enumerate(ndimage.find_objects(part.instances), 1):
            if all(own.start > 0 and own.stop < n for own, n in zip(box, part.shape, strict=True)):
                sizes.append((part.instances[box] == index).sum() * 0.65**2)
    assert np.mean(share) == pytest.approx(250_000e-9 * 4 / 3 * np.pi * 4**3, rel=0.25)
    assert np.mean(sizes) == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.06)


def test_nuclei_in_a_volume_are_solid_bodies() -> None:
    nuclei = {"density_per_mm3": 1_200_000.0}
    layout = {"overlapping": 1.0, "overlap": 0.8, "clumping": 0.5}
    part = simulated(1, shape=(24, 80, 80), voxel_size_um=(0.65, 0.65, 0.65), nuclei=nuclei, layout=layout)
    touching = 0
    for index, box in enumerate(ndimage.find_objects(part.instances), 1):
        body = part.instances[box] == index
        sizes = np.bincount(ndimage.label(body)[0].ravel())[1:]
        assert sizes.max() > 0.97 * sizes.sum()
        grown = part.instances[box][ndimage.binary_dilation(body)]
        touching += len(np.unique(grown[(grown > 0) & (grown != index)])) > 0
    assert touching > 0.3 * part.count


def test_light_of_overlapping_nuclei_adds_up_in_a_plane() -> None:
    nuclei = ALIKE | {"density_per_mm2": 5000.0, "brightness": 40.0, "rim_um": 0.0, "spots": 0}
    layout = {"overlapping": 1.0, "overlap": 0.5}
    part = simulated(2, shape=(1, 200, 200), nuclei=nuclei, layout=layout)
    covers = np.zeros(part.shape, int)
    for own in part.footprints:
        covers[own.slices] += own.mask
    assert (covers == 2).sum() > 50
    for layers in (0, 1, 2):
        seen = part.image[0][covers == layers].astype(int)
        assert np.median(seen) == 8 + 40 * layers
        assert (seen == 8 + 40 * layers).mean() > 0.98  # others may be covered by one that lies outside the picture


def test_blur_is_wider_along_z() -> None:
    nuclei = {"density_per_mm3": 80_000.0}
    config = ideal(Config(shape=(40, 80, 80), voxel_size_um=(0.65, 0.65, 0.65), nuclei=nuclei))
    sharp = simulate(config, np.random.default_rng(5))
    inside = ndimage.binary_dilation(sharp.semantic > 0, iterations=1)
    light = []
    for sigma_z in (0.6, 2.0):
        optics = config.optics.model_copy(update={"blur_um": (sigma_z, 0.6, 0.6)})
        seen = simulate(config.model_copy(update={"optics": optics}), np.random.default_rng(5))
        assert np.array_equal(seen.instances, sharp.instances)
        # 2 µm from a nucleus along z, and along x
        above, beside = (np.roll(sharp.semantic > 0, 3, axis) & ~inside for axis in (0, 2))
        light.append([seen.image[0][where].mean() - 8 for where in (above, beside)])
    assert light[0][0] == pytest.approx(light[0][1], abs=1)
    assert light[1][0] > 3 * light[0][0]
    assert light[1][0] > 1.5 * light[1][1]


def test_brightness_differs_between_nuclei_as_asked() -> None:
    nuclei = {"density_per_mm2": 1500.0, "condensed": 0.0, "brightness": 30.0, "brightness_spread": 0.4, "spots": 0}
    part = simulated(shape=(1, 700, 700), nuclei=nuclei, layout=LOOSE)
    top = ndimage.maximum(part.image[0], part.instances, np.arange(1, part.count + 1)) - 8.0
    assert np.median(top) == pytest.approx(30.0, rel=0.15)
    assert np.log(top).std() == pytest.approx(0.38, abs=0.08)


def test_noise_has_its_variance() -> None:
    settings = {"shape": (1, 200, 200), "nuclei": {"density_per_mm2": 0.0}, "background": {"level": 40.0}}
    config = ideal(Config(**settings))
    noisy = config.model_copy(update={"detector": Detector(gain=0.5, read_noise=2.0)})
    seen = simulate(noisy, np.random.default_rng(0)).image
    assert seen.mean() == pytest.approx(40.0, abs=0.2)
    assert seen.var() == pytest.approx(0.5 * 40 + 4 + 1 / 12, rel=0.05)


def test_a_plane_and_a_volume_of_half_the_voxel_are_the_same() -> None:
    for shape, finer in (((1, 100, 120), (1, 2, 2)), ((10, 50, 60), (2, 2, 2))):
        voxel = (1.0, 0.65, 0.65)
        half = tuple(v / f for v, f in zip(voxel, finer, strict=True))
        more = tuple(n * f for n, f in zip(shape, finer, strict=True))
        nuclei = {"density_per_mm3": 600_000.0, "density_per_mm2": 2500.0}
        coarse = simulated(7, shape=shape, voxel_size_um=voxel, nuclei=nuclei)
        fine = simulated(7, shape=more, voxel_size_um=half, nuclei=nuclei)
        sampled = fine.semantic[:: finer[0], ::2, ::2]
        assert coarse.semantic.any()
        assert (sampled == coarse.semantic).mean() > 0.995


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"nuclei": {"faintest": 1.0}}, "faintest"),
        ({"nuclei": {"elongation": 0.5}}, "elongation"),
        ({"optics": {"haze": 2}}, "haze"),
        ({"background": {"level": 0}}, "level"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Config.model_validate(settings)


def test_no_nuclei_is_an_image_too() -> None:
    for shape in ((1, 9, 7), (4, 9, 7)):
        part = simulated(shape=shape, nuclei={"density_per_mm2": 0.0, "density_per_mm3": 0.0})
        assert part.count == 0
        assert (part.image == 8).all()
