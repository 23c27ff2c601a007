"""A refiner changes images and nothing else, whatever the tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.networks import spade_generator
from fewslice.synthesis.refiner import Refiner, build_generator, refine, to_grey
from fewslice.synthesis.simulation import Simulation


def _refiner(channels: int = 2, bound: float = 2.0, **settings: Any) -> Refiner:
    torch.manual_seed(0)
    config = spade_generator.Config(features=4, hidden=4, depth=2, bound=bound, **settings)
    network = build_generator(config, channels).double().float()
    with torch.no_grad():
        network.head.weight.mul_(10)  # type: ignore[operator, union-attr]
    source = Normalisation("robust", (100.0,) * channels, (40.0,) * channels)
    grey = Normalisation("robust", (90.0, 150.0)[:channels], (30.0, 20.0)[:channels])
    return Refiner(network.eval(), config, channels, source, grey, (2.0, 1.0, 1.0), {"seed": 0})


def _simulation(shape: tuple[int, int, int] = (3, 37, 50), channels: int = 2) -> Simulation:
    draw = np.random.default_rng(1)
    instances = np.kron(draw.integers(0, 4, (shape[0], 5, 5)), np.ones((1, 10, 10), int))[:, : shape[1], : shape[2]]
    image = draw.integers(40, 200, (channels, *shape)).astype(np.uint8)
    return Simulation(
        image,
        (instances > 0).astype(np.uint8),
        instances.astype(np.uint32),
        (2.0, 1.0, 1.0),
        tuple(f"channel {c}" for c in range(channels)),
        ("cell",),
    )


def test_only_the_image_changes() -> None:
    simulation = _simulation()
    found = refine(_refiner(), simulation, seed=0)
    assert found.image.shape == simulation.image.shape and found.image.dtype == np.uint8
    assert found.instances is simulation.instances and found.semantic is simulation.semantic
    assert found.voxel_size_um == simulation.voxel_size_um and found.class_names == simulation.class_names


def test_a_generator_that_changes_nothing_only_moves_the_grey_values() -> None:
    """(value − 100) / 40 becomes 90 + 30 times that: what the two normalisations say."""
    refiner = _refiner()
    with torch.no_grad():
        refiner.generator.head.weight.zero_()  # type: ignore[operator, union-attr]
    simulation = _simulation()
    found = refine(refiner, simulation, seed=0)
    expected = np.rint(90 + 30 * (simulation.image[0].astype(np.float64) - 100) / 40)
    assert np.abs(found.image[0] - expected).max() <= 1


def test_grey_values_saturate() -> None:
    grey = Normalisation("robust", (100.0,), (50.0,))
    assert to_grey(np.array([[-3.0, 0.0, 0.51, 4.0]], np.float32), grey).tolist() == [[0, 100, 126, 255]]


@pytest.mark.parametrize(
    "settings", [{}, {"dims": 3, "pooling": ((1, 2, 2),), "kernels": ((1, 3, 3), (3, 3, 3))}], ids=["2D", "3D"]
)
def test_tiles_do_not_show(settings: dict[str, Any]) -> None:
    """Tiles of several sizes, none a divisor of the extent, give the bytes of the whole."""
    refiner, simulation = _refiner(**settings), _simulation((5, 37, 50))
    whole = refine(refiner, simulation, seed=3, bfloat16=False)
    assert np.abs(whole.image.astype(int) - simulation.image).mean() > 1
    for tile in ((1, 16, 16), (2, 24, 50), (5, 8, 34)):
        found = refine(refiner, simulation, seed=3, bfloat16=False, tile=tile)
        difference = np.abs(found.image.astype(int) - whole.image.astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3  # rounding of .5 only


def test_noise_is_of_the_seed() -> None:
    one, same, other = (refine(_refiner(), _simulation(), seed).image for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_borders_are_like_the_inside() -> None:
    """A bright uniform picture is refined alike up to its border: no frame of the network's padding."""
    flat = Simulation(
        np.full((1, 1, 64, 64), 250, np.uint8),
        np.zeros((1, 64, 64), np.uint8),
        np.zeros((1, 64, 64), np.uint32),
        (2.0, 1.0, 1.0),
        ("channel",),
        ("cell",),
    )
    found = np.mean([refine(_refiner(1), flat, seed).image[0, 0] for seed in range(10)], axis=0)
    border = [side.mean() for side in (found[0], found[-1], found[:, 0], found[:, -1])]
    middle = found[20:-20, 20:-20]
    assert np.abs(np.array(border) - middle.mean()).max() < 0.5 * middle.std()


def test_other_channels_or_voxels_are_refused() -> None:
    with pytest.raises(InputError, match="1 channels, but the refiner was trained on 2"):
        refine(_refiner(), _simulation(channels=1), 0)
    other = Simulation(**{**vars(_simulation()), "voxel_size_um": (2.0, 0.5, 0.5)})
    with pytest.raises(InputError, match="voxels of"):
        refine(_refiner(), other, 0)
