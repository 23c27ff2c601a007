"""What every simulator promises; see the room's documentation."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from fewslice import registry
from fewslice.synthesis.simulation import Simulation, topmost
from fewslice.synthesis.statistics import measure

KINDS = registry.names("synthesis.simulators")
PLANE, VOLUME = (1, 170, 190), (16, 72, 64)
# Kinds that make both are tried with both; a volume is refused by those that make planes only.
CASES = [
    (kind, shape) for kind in KINDS for shape in (PLANE, VOLUME) if not (kind == "stained_section" and shape[0] > 1)
]


def config_of(kind: str, shape: tuple[int, int, int], **settings: Any) -> Any:
    return registry.load("synthesis.simulators", kind).Config(shape=shape, **settings)


def simulated(kind: str, config: Any, seed: int = 1) -> Simulation:
    result: Simulation = registry.load("synthesis.simulators", kind).simulate(config, np.random.default_rng(seed))
    return result


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1][0]}")
def case(request: pytest.FixtureRequest) -> tuple[str, ModuleType, Any, Simulation]:
    kind, shape = request.param
    config = config_of(kind, shape)
    return kind, registry.load("synthesis.simulators", kind), config, simulated(kind, config)


def test_all_kinds_are_tried() -> None:
    assert {kind for kind, _ in CASES} == set(KINDS) >= {"two_photon_neurons", "stained_section", "fluorescence_nuclei"}


def test_public_names(case: tuple[str, ModuleType, Any, Simulation]) -> None:
    _, module, config, simulation = case
    assert isinstance(module.VERSION, int)
    assert module.CONTRAST in ("dark", "bright")
    assert simulation.channel_names == module.channels(config)
    assert set(module.__all__) >= {"CONTRAST", "VERSION", "Config", "adjusted", "channels", "ideal", "simulate"}


def test_arrays(case: tuple[str, ModuleType, Any, Simulation]) -> None:
    _, _, config, simulation = case
    assert simulation.image.dtype == np.uint8
    assert simulation.image.shape == (len(simulation.channel_names), *config.shape)
    assert simulation.semantic.dtype == np.uint8
    assert simulation.instances.dtype == np.uint32
    assert simulation.semantic.shape == simulation.instances.shape == simulation.shape == config.shape
    assert simulation.voxel_size_um == config.voxel_size_um
    assert simulation.image.std() > 1


def test_instances_are_numbered_without_gaps_inside_one_class_each(
    case: tuple[str, ModuleType, Any, Simulation],
) -> None:
    simulation = case[3]
    assert simulation.count > 4
    assert np.array_equal(np.unique(simulation.instances), np.arange(simulation.count + 1))
    assert simulation.semantic.max() <= len(simulation.class_names)
    pairs = np.unique(np.stack([simulation.instances.ravel(), simulation.semantic.ravel()]), axis=1)
    assert len(pairs[0]) == simulation.count + 1
    assert (pairs[1, 1:] > 0).all()


def test_footprints_hold_whole_objects_and_the_topmost_is_seen(case: tuple[str, ModuleType, Any, Simulation]) -> None:
    simulation = case[3]
    if simulation.footprints is None:
        return
    assert len(simulation.footprints) == simulation.count
    assert np.array_equal(topmost(simulation.footprints, simulation.shape), simulation.instances)
    for footprint in simulation.footprints:
        assert footprint.mask.dtype == bool
        assert min(footprint.start) >= 0
        assert all(a.stop <= n for a, n in zip(footprint.slices, simulation.shape, strict=True))
        for axis in range(3):  # the box is tight
            line = footprint.mask.any(axis=tuple(other for other in range(3) if other != axis))
            assert line[0] and line[-1]


def test_the_same_seed_gives_the_same_bytes_and_another_another_image(
    case: tuple[str, ModuleType, Any, Simulation],
) -> None:
    kind, module, config, simulation = case
    again = simulated(kind, config)
    for name in ("image", "semantic", "instances"):
        assert np.array_equal(getattr(again, name), getattr(simulation, name))
    if simulation.footprints is not None:
        assert all(
            a.start == b.start and np.array_equal(a.mask, b.mask)
            for a, b in zip(again.footprints, simulation.footprints, strict=True)
        )
    other = simulated(kind, config, seed=2)
    assert not np.array_equal(other.image, simulation.image)
    assert not np.array_equal(other.instances, simulation.instances)
    generator = np.random.default_rng(1)
    module.simulate(config, generator)
    assert not np.array_equal(module.simulate(config, generator).instances, simulation.instances)


def test_the_global_generator_is_left_alone() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    for kind in KINDS:
        simulated(kind, config_of(kind, (1, 40, 40)))
    assert np.array_equal(before, np.random.get_state()[1])


def test_an_ideal_picture_thresholded_is_the_annotation(case: tuple[str, ModuleType, Any, Simulation]) -> None:
    kind, module, config, simulation = case
    clean = simulated(kind, module.ideal(config))
    assert np.array_equal(clean.instances, simulation.instances)
    assert np.array_equal(clean.semantic, simulation.semantic)
    assert not np.array_equal(clean.image, simulation.image)
    background = clean.image[:, clean.semantic == 0]
    assert (background == background[:, :1]).all(), "the background has one colour"
    sign = -1 if module.CONTRAST == "dark" else 1
    away = sign * (clean.image.astype(int) - background[:, 0].astype(int)[:, None, None, None])
    assert any(np.array_equal(channel > 0, clean.semantic > 0) for channel in away)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_voxel_of_half_the_size_samples_the_same_tissue(kind: str, shape: tuple[int, int, int]) -> None:
    """Objects per area or volume, and their size, stay; only the sampling becomes finer."""
    module = registry.load("synthesis.simulators", kind)
    coarse = config_of(kind, shape)
    deep = shape[0] > 1
    voxel = coarse.voxel_size_um
    fine = config_of(
        kind,
        (shape[0] * (2 if deep else 1), 2 * shape[1], 2 * shape[2]),
        voxel_size_um=(voxel[0] / (2 if deep else 1), voxel[1] / 2, voxel[2] / 2),
    )
    counts, sizes, shares = [], [], []
    for config in (coarse, fine):
        parts = [simulated(kind, module.ideal(config), seed) for seed in range(4)]
        counts.append(sum(part.count for part in parts))
        unit = float(np.prod(config.voxel_size_um[0 if deep else 1 :]))
        areas = [np.bincount(part.instances.ravel())[1:] for part in parts]
        sizes.append(float(np.mean(np.concatenate(areas))) * unit)
        shares.append(float(np.mean([(part.instances > 0).mean() for part in parts])))
    # Simulators may draw other tissue at another voxel size; then it is the same in distribution only.
    assert counts[0] == pytest.approx(counts[1], rel=0.3)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)
    assert shares[0] == pytest.approx(shares[1], rel=0.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"shape": (0, 10, 10)},
        {"shape": (1, 10)},
        {"shape": (1, 10, 2.5)},
        {"voxel_size_um": (1.0, 0.0, 1.0)},
        {"voxel_size_um": (1.0, float("nan"), 1.0)},
        {"voxel_size_um": (1.0, float("inf"), 1.0)},
        {"colour": "blue"},
        {"optics": {"blur": 1}},
        {"optics": {"blur_um": -1}},
        {"detector": {"gain": float("nan")}},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        registry.load("synthesis.simulators", kind).Config.model_validate(settings)


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_says_what_it_is_and_survives_a_file(kind: str) -> None:
    config = config_of(kind, PLANE)

    def look(part: Any) -> None:
        for name, field in type(part).model_fields.items():
            if isinstance(getattr(part, name), BaseModel):
                look(getattr(part, name))
            else:
                assert field.description, f"{type(part).__name__}.{name} has no description"

    look(config)
    assert type(config).model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError):
        config.shape = (1, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_adjusting_moves_towards_what_is_wanted_and_stays_valid(kind: str) -> None:
    """Where everything measures as wanted, settings stay about; where more is wanted, they grow."""
    module = registry.load("synthesis.simulators", kind)
    shape = (1, 256, 256) if kind != "two_photon_neurons" else (20, 96, 96)
    config = config_of(kind, shape)
    part = measure(simulated(kind, config).image, config.voxel_size_um, module.CONTRAST)
    first = module.adjusted(config, part, None)
    for moved in (first, module.adjusted(first, part, part)):
        type(config).model_validate(moved.model_dump(mode="json"))
        assert moved.shape == config.shape
    same = module.adjusted(config, part, part).model_dump()
    for name, value in config.model_dump().items():
        if isinstance(value, dict):
            assert same[name].keys() == value.keys()
            for key, own in value.items():
                if isinstance(own, float) and own > 0:
                    assert same[name][key] == pytest.approx(own, rel=1e-3), f"{name}.{key}"
