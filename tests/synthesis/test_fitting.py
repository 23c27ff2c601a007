from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from fewslice.errors import InputError
from fewslice.io import open_volume
from fewslice.synthesis.fitting import fit, laid_over
from fewslice.synthesis.simulators import fluorescence_nuclei, stained_section, two_photon_neurons
from fewslice.volume import Volume


def volume(config: Any, module: Any, seed: int) -> Volume:
    simulation = module.simulate(config, np.random.default_rng([99, seed]))
    return Volume.from_array(simulation.image, simulation.voxel_size_um, simulation.channel_names)


def test_settings_are_found_again() -> None:
    """Images of known settings: what a fit finds in them without labels is near those."""
    nuclei = {"density_per_mm2": 1800.0, "radius_um": 6.0, "brightness": 110.0, "condensed": 0.0}
    true = fluorescence_nuclei.Config(shape=(1, 300, 300), nuclei=nuclei, background={"level": 25.0})
    images = [volume(true, fluorescence_nuclei, seed) for seed in range(2)]
    found, findings = fit("fluorescence_nuclei", images, settings={"nuclei": {"condensed": 0.0}}, rounds=4)
    assert isinstance(found, fluorescence_nuclei.Config)
    assert found.shape == (1, 300, 300) and found.voxel_size_um == (1.0, 0.65, 0.65)
    assert found.nuclei.density_per_mm2 == pytest.approx(1800, rel=0.2)
    assert found.nuclei.radius_um == pytest.approx(6.0, rel=0.1)
    assert found.nuclei.brightness == pytest.approx(110, rel=0.2)
    assert found.background.level == pytest.approx(25, abs=2)
    assert found.nuclei.condensed == 0
    density = findings["statistics"]["density of peaks"]
    assert density["got"] == pytest.approx(density["wanted"], rel=0.2)
    again, same = fit("fluorescence_nuclei", images, settings={"nuclei": {"condensed": 0.0}}, rounds=4)
    assert again == found and same == findings


def test_a_stain_is_found_again() -> None:
    neurons = {"density_per_mm2": 1500.0, "radius_um": 8.0}
    staining = {"background": (220.0, 210.0, 200.0), "half": (180.0, 120.0, 140.0), "full": (150.0, 60.0, 90.0)}
    true = stained_section.Config(
        shape=(1, 400, 400), neurons=neurons, glia={"density_per_mm2": 500.0}, staining=staining
    )
    found, _ = fit("stained_section", [volume(true, stained_section, seed) for seed in range(2)], rounds=5)
    assert isinstance(found, stained_section.Config)
    assert found.staining.background == pytest.approx((220, 210, 200), abs=5)
    # Colours are on one curve; which point of it counts as amount 1 is free.
    hue = np.log(np.array(found.staining.full) / found.staining.background)
    wanted = np.log(np.array(staining["full"]) / staining["background"])
    assert hue / hue[1] == pytest.approx(wanted / wanted[1], abs=0.12)
    assert found.neurons.density_per_mm2 == pytest.approx(1500, rel=0.3)
    assert found.neurons.radius_um == pytest.approx(8.0, rel=0.2)


def test_a_volume_of_two_channels() -> None:
    true = two_photon_neurons.Config(shape=(16, 96, 96), background={"level": (70.0, 30.0)})
    found, _ = fit("two_photon_neurons", [volume(true, two_photon_neurons, 0)], rounds=2)
    assert isinstance(found, two_photon_neurons.Config)
    assert found.background.level == pytest.approx((70, 30), rel=0.25)


def test_other_types_are_scaled() -> None:
    config = fluorescence_nuclei.Config(shape=(1, 120, 120), nuclei={"density_per_mm2": 3000.0})
    image = fluorescence_nuclei.simulate(config, np.random.default_rng(0)).image
    findings = [
        fit("fluorescence_nuclei", [Volume.from_array(image * f)], rounds=1)[1] for f in (np.uint16(100), 0.001)
    ]
    assert findings[0]["scale"] * 100 == pytest.approx(findings[1]["scale"] * 0.001, rel=1e-4)
    assert findings[0]["statistics"]["density of peaks"] == findings[1]["statistics"]["density of peaks"]


def test_settings_are_laid_over() -> None:
    config = laid_over(fluorescence_nuclei.Config(), {"nuclei": {"radius_um": 2.0}})
    assert isinstance(config, fluorescence_nuclei.Config)
    assert config.nuclei.radius_um == 2 and config.nuclei.elongation == fluorescence_nuclei.Nuclei().elongation


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([], "no image"),
        ([np.full((1, 1, 20, 20), 3, np.uint8)], "constant"),
        ([np.where(np.eye(20) > 0, np.nan, 1.0)[None, None]], "not finite"),
        ([np.zeros((2, 1, 20, 20), np.uint8)], "2 channels"),
    ],
)
def test_what_cannot_be_fitted_is_refused(images: list[np.ndarray], named: str) -> None:
    with pytest.raises(InputError, match=named):
        fit("fluorescence_nuclei", [Volume.from_array(image) for image in images])


def test_voxels_must_agree() -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, 1, 30, 30)).astype(np.uint8)
    sizes = ((1.0, 0.5, 0.5), (1.0, 0.9, 0.9), None)
    volumes = [Volume.from_array(image, size) for size in sizes]
    with pytest.raises(InputError, match="one voxel size"):
        fit("fluorescence_nuclei", volumes[:2])
    with pytest.raises(InputError, match="has no voxel size"):
        fit("fluorescence_nuclei", volumes[::2])


def test_real_nuclei(data_dir: Path) -> None:
    """Labels, which a fit never sees, say that density and size of what it simulates are near those of the images."""
    names = [f"{path.name}" for path in sorted((data_dir / "nuclei_2d" / "images").glob("*.tif"))[::6]]
    images = [open_volume(data_dir / "nuclei_2d" / "images" / name) for name in names]
    config, _ = fit("fluorescence_nuclei", images, rounds=4)
    labels = [tifffile.imread(data_dir / "nuclei_2d" / "labels" / name) for name in names]
    made = [fluorescence_nuclei.simulate(config, np.random.default_rng([3, i])).instances[0] for i in range(8)]

    def summary(parts: list[np.ndarray]) -> tuple[float, float]:
        areas = [np.bincount(part.ravel())[1:] for part in parts]
        areas = [area[area > 0] for area in areas]
        return float(np.mean([len(area) for area in areas])), float(np.median(np.concatenate(areas)))

    (count, size), (own_count, own_size) = summary(labels), summary(made)
    assert own_count == pytest.approx(count, rel=0.35)
    assert np.sqrt(own_size) == pytest.approx(np.sqrt(size), rel=0.2)
