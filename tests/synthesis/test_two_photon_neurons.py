from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from fewslice.synthesis.simulators import two_photon_neurons as simulator
from fewslice.synthesis.simulators.two_photon_neurons import Config, ideal, simulate

CONFIG = Config(shape=(20, 72, 64))


@pytest.fixture(scope="module")
def simulation():
    return simulate(CONFIG, np.random.default_rng(3))


def test_arrays_and_names(simulation) -> None:
    assert simulation.image.shape == (2, 20, 72, 64)
    assert simulation.image.dtype == np.uint8
    assert simulation.semantic.shape == simulation.instances.shape == simulation.shape == (20, 72, 64)
    assert simulation.semantic.dtype == np.uint8
    assert simulation.instances.dtype == np.uint32
    assert simulation.voxel_size_um == (2.0, 0.88, 0.88)
    assert len(simulation.channel_names) == 2
    assert simulation.class_names == ("soma",)


def test_instances_are_numbered_without_gaps_and_agree_with_the_classes(simulation) -> None:
    assert simulation.count > 10
    assert np.array_equal(np.unique(simulation.instances), np.arange(simulation.count + 1))
    assert np.array_equal(simulation.instances > 0, simulation.semantic == 1)


def test_the_same_generator_state_gives_the_same_bytes(simulation) -> None:
    again = simulate(CONFIG, np.random.default_rng(3))
    assert np.array_equal(again.image, simulation.image)
    assert np.array_equal(again.instances, simulation.instances)
    generator = np.random.default_rng(3)
    simulate(CONFIG, generator)
    second = simulate(CONFIG, generator)  # the next volume of a series is another one
    assert not np.array_equal(second.instances, simulation.instances)


@pytest.mark.parametrize("seed", range(4))
def test_an_ideal_picture_thresholded_is_the_annotation(seed: int) -> None:
    real = simulate(CONFIG, np.random.default_rng(seed))
    clean = simulate(ideal(CONFIG), np.random.default_rng(seed))
    assert np.array_equal(clean.instances, real.instances)
    level = CONFIG.background.level[0]
    assert np.array_equal(clean.image[0] > level + 1, real.semantic == 1)
    assert not np.array_equal(clean.image[0], real.image[0])


def test_what_is_seen_does_not_move_the_truth(simulation) -> None:
    other = CONFIG.model_copy(
        update={
            "optics": CONFIG.optics.model_copy(update={"blur_um": (4.0, 1.5, 1.5), "haze": 0.5}),
            "processes": CONFIG.processes.model_copy(update={"per_soma": (5, 9), "level": (1.0, 1.0)}),
            "background": CONFIG.background.model_copy(update={"texture": (0.0, 0.0)}),
        }
    )
    seen = simulate(other, np.random.default_rng(3))
    assert np.array_equal(seen.instances, simulation.instances)
    assert not np.array_equal(seen.image, simulation.image)


def test_processes_are_bright_and_background() -> None:
    clean = ideal(CONFIG)
    processes = CONFIG.processes.model_copy(update={"passing_per_mm3": 0.0, "debris_per_mm3": 0.0, "per_soma": (4, 4)})
    clean = clean.model_copy(update={"processes": processes})
    simulation = simulate(clean, np.random.default_rng(3))
    bright = simulation.image[0] > CONFIG.background.level[0] + 10
    outside = bright & (simulation.semantic == 0)
    assert outside.sum() > 0.02 * (simulation.semantic == 1).sum()
    # and they are joined to bodies
    parts, _ = ndimage.label(bright | (simulation.semantic == 1), structure=np.ones((3, 3, 3)))
    with_body = np.unique(parts[simulation.semantic == 1])
    assert np.isin(parts[outside], with_body).mean() > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_bodies_are_surfaces_in_space(seed: int) -> None:
    """Consecutive outlines of a body are sections of one smooth surface, not drawn plane by plane."""
    config = Config(shape=(64, 80, 80), voxel_size_um=(1.0, 1.0, 1.0), vessels=simulator.Vessels(density_per_mm3=0))
    somata = config.somata.model_copy(update={"density_per_mm3": 30_000.0, "touching": 0.0, "spacing": 1.3})
    simulation = simulate(config.model_copy(update={"somata": somata}), np.random.default_rng(seed))
    whole = 0
    for index, box in enumerate(ndimage.find_objects(simulation.instances), 1):
        body = simulation.instances[box] == index
        assert ndimage.label(body)[1] == 1
        assert np.array_equal(ndimage.binary_fill_holes(body), body)
        at_border = any(part.start == 0 or part.stop == n for part, n in zip(box, simulation.shape, strict=True))
        if at_border or body.sum() < 300:
            continue
        whole += 1
        # Steps of the surface between planes are as small as steps between rows: no axis is special.
        steps = [float(np.abs(np.diff(body.astype(np.int8), axis=axis)).sum()) for axis in range(3)]
        faces = np.array(steps) / (body.sum() ** (2 / 3))
        assert faces.max() / faces.min() < 2.2
        for axis in range(3):
            areas = np.moveaxis(body, axis, 0).sum(axis=(1, 2)).astype(float)
            jumps = np.abs(np.diff(areas)) / areas.max()
            assert jumps.max() < 0.65  # the flat base of a pyramid
            assert np.median(jumps) < 0.25
            # every section overlaps the next one
            lines = np.moveaxis(body, axis, 0)
            assert all((a & b).any() for a, b in itertools.pairwise(lines))
    assert whole >= 3


def test_density_and_size_are_physical() -> None:
    """Other voxels sample the same tissue: count per mm³ and mean volume stay."""
    somata = simulator.Somata(density_per_mm3=15_000.0, radius_spread=0.0, touching=0.0, pyramidal=0.0, bumps=0.0)
    sizes = []
    for voxel, shape in (((2.0, 1.0, 1.0), (50, 100, 100)), ((1.5, 1.5, 1.5), (66, 66, 66))):
        config = ideal(Config(shape=shape, voxel_size_um=voxel, somata=somata, vessels={"density_per_mm3": 0}))
        parts = [simulate(config, np.random.default_rng(seed)) for seed in range(3)]
        for part in parts:
            for index, box in enumerate(ndimage.find_objects(part.instances), 1):
                if all(own.start > 0 and own.stop < n for own, n in zip(box, part.shape, strict=True)):
                    sizes.append((part.instances[box] == index).sum() * np.prod(voxel))
        share = np.mean([(part.semantic == 1).mean() for part in parts])
        assert share == pytest.approx(15_000e-9 * 4 / 3 * np.pi * 7.1**3, rel=0.35)
    assert np.median(sizes) == pytest.approx(4 / 3 * np.pi * 7.1**3, rel=0.05)


def test_brightness_falls_with_depth() -> None:
    quiet = ideal(Config(shape=(50, 80, 80)))
    optics = quiet.optics.model_copy(update={"attenuation_um": 60.0})
    faded = simulate(quiet.model_copy(update={"optics": optics}), np.random.default_rng(1))
    full = simulate(quiet, np.random.default_rng(1))
    body = (full.semantic == 1) & (full.image[0] > 90)
    top = faded.image[0].astype(float) - 46 * np.exp(-0.3 * np.arange(50) * 2 / 60)[:, None, None]
    for z in (5, 40):
        ratio = top[z][body[z]] / (full.image[0][z][body[z]].astype(float) - 46)
        assert np.median(ratio) == pytest.approx(np.exp(-2 * z / 60), rel=0.05)


def test_blur_reaches_further_along_z() -> None:
    quiet = ideal(CONFIG)
    sharp = simulate(quiet, np.random.default_rng(5))
    caps, flanks = (np.diff(sharp.semantic.astype(np.int8), axis=axis) != 0 for axis in (0, 2))
    lost = []
    for sigma_z in (0.8, 3.0):
        optics = quiet.optics.model_copy(update={"blur_um": (sigma_z, 0.8, 0.8)})
        seen = simulate(quiet.model_copy(update={"optics": optics}), np.random.default_rng(5))
        change = np.abs(seen.image[0].astype(float) - sharp.image[0])
        lost.append(change[:-1][caps].mean() / change[:, :, :-1][flanks].mean())
    assert lost[1] > 1.5 * lost[0]


def test_vessels_are_a_class_only_when_asked_for() -> None:
    vessels = simulator.Vessels(density_per_mm3=20_000.0, labelled=True)
    config = CONFIG.model_copy(update={"vessels": vessels})
    labelled = simulate(config, np.random.default_rng(2))
    plain = simulate(
        config.model_copy(update={"vessels": vessels.model_copy(update={"labelled": False})}), np.random.default_rng(2)
    )
    assert labelled.class_names == ("soma", "vessel")
    assert set(np.unique(labelled.semantic)) == {0, 1, 2}
    assert set(np.unique(plain.semantic)) == {0, 1}
    assert np.array_equal(labelled.image, plain.image)
    assert np.array_equal(labelled.instances, plain.instances)
    assert not (labelled.instances[labelled.semantic == 2]).any()
    dark = labelled.image[0] < 25
    assert (labelled.semantic[dark] == 2).mean() > 0.6


def test_nothing_in_it_is_a_volume_too() -> None:
    empty = Config(
        shape=(1, 9, 7),
        somata=simulator.Somata(density_per_mm3=0),
        processes=simulator.Processes(per_soma=(0, 0), passing_per_mm3=0, debris_per_mm3=0),
        vessels=simulator.Vessels(density_per_mm3=0),
    )
    simulation = simulate(empty, np.random.default_rng(0))
    assert simulation.count == 0
    assert not simulation.semantic.any()
    assert 15 < simulation.image[0].mean() < 110  # uneven light is drawn once for so small a field


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"shape": (0, 10, 10)}, "shape"),
        ({"voxel_size_um": (0.0, 1.0, 1.0)}, "voxel_size_um"),
        ({"voxel_size_um": (float("nan"), 1.0, 1.0)}, "voxel_size_um"),
        ({"colour": 1}, "colour"),
        ({"somata": {"density": 1}}, "somata.density"),
        ({"somata": {"edge_level": 0.01}}, "somata"),
        ({"somata": {"along": (0, 0, 0), "along_spread": 0}}, "along"),
        ({"processes": {"length_um": (9.0, 3.0)}}, "length_um"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Config.model_validate(settings)


def test_every_setting_says_what_it_is() -> None:
    for part in (simulator.Somata, simulator.Processes, simulator.Vessels, simulator.Background, simulator.Optics):
        for name, field in part.model_fields.items():
            assert field.description, f"{part.__name__}.{name} has no description"


def test_torch_is_not_needed() -> None:
    code = "import sys, fewslice.synthesis.simulators.two_photon_neurons; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
