"""Conditions hold what is known; batches are functions of the step; a part of the real images is never trained on."""

from __future__ import annotations

import numpy as np
import torch

from fewslice.data.normalisation import Normalisation
from fewslice.synthesis.patch_pairs import PatchPairs, boundaries, condition, draw_noise
from fewslice.synthesis.simulation import Simulation
from fewslice.volume import Volume

UNCHANGED = Normalisation("none", (0.0,), (1.0,))


def test_boundaries_by_hand() -> None:
    """On either side of each border, between touching objects too; along z only in 3D."""
    plane = np.array([[0, 1, 1, 1, 2, 2]], np.uint32)
    assert boundaries(plane[None], 2)[0, 0].tolist() == [True, True, False, True, True, False]
    volume = np.zeros((3, 1, 1), np.uint32)
    volume[2] = 1
    assert not boundaries(volume, 2).any()
    assert boundaries(volume, 3).ravel().tolist() == [False, True, True]


def test_condition_is_intensity_objects_boundaries_noise() -> None:
    intensity, noise = np.full((2, 1, 1, 4), 0.5, np.float32), np.full((1, 1, 4), 7.0, np.float32)
    found = condition(intensity, np.array([[[0, 3, 3, 3]]], np.uint32), noise, 2)
    assert found.dtype == np.float32
    assert found[:, 0, 0].tolist() == [[0.5] * 4, [0.5] * 4, [0, 1, 1, 1], [1, 1, 0, 0], [7.0] * 4]


def test_noise_has_unit_variance_and_is_fine_and_coarse() -> None:
    """Means over squares of 8 keep far more than the 1/8 that white noise keeps; planes are independent."""
    noise = draw_noise((6, 256, 256), np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert noise.reshape(6, 32, 8, 32, 8).mean(axis=(2, 4)).std() > 0.3
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
    assert np.diff(noise, axis=2).std() > 0.8


def _simulation(number: int) -> Simulation:
    """Grey values say where a voxel lies, objects where it is bright."""
    image = (np.arange(32 * 32).reshape(1, 1, 32, 32) % 251).astype(np.uint8)
    instances = np.where(image[0] > 200, number + 1, 0).astype(np.uint32)
    return Simulation(image, (instances > 0).astype(np.uint8), instances, (1.0, 1.0, 1.0), ("light",), ("cell",))


def _pairs(seed: int = 0, columns: int = 64, flips: bool = True) -> PatchPairs:
    real = np.broadcast_to(np.arange(columns, dtype=np.uint8), (1, 1, 48, columns)).copy()
    return PatchPairs(_simulation, 5, [Volume.from_array(real)], UNCHANGED, UNCHANGED, (1, 16, 16), 2, 4, flips, seed)


def test_batches_are_functions_of_seed_and_step() -> None:
    one, same, later = _pairs().batch(3), _pairs().batch(3), _pairs().batch(4)
    assert one.condition.shape == (4, 4, 16, 16) and one.real.shape == (4, 1, 16, 16)
    assert torch.equal(one.condition, same.condition) and torch.equal(one.real, same.real)
    assert not torch.equal(one.condition, later.condition) and not torch.equal(one.real, later.real)
    assert not torch.equal(one.real, _pairs(seed=1).batch(3).real)


def test_annotation_stays_with_the_image_through_flips() -> None:
    """Objects are where the image is bright, in training and in held-out patches, whose margin is mirrored."""
    pairs = _pairs()
    held_out, pieces = pairs.held_out(6, 2, (0, 8, 8))
    assert held_out.condition.shape == (6, 4, 32, 32) and held_out.real.shape == (6, 1, 16, 16)
    for batch in (*(pairs.batch(k).condition for k in range(5)), held_out.condition):
        assert torch.equal(batch[:, 1] > 0, batch[:, 0] > 200)
    for piece, whole in zip(pieces, held_out.condition, strict=True):
        assert np.array_equal(piece.image[0, 0], whole[0, 8:-8, 8:-8].numpy())
        assert np.array_equal(piece.instances > 0, piece.image[0] > 200)
        assert np.array_equal(piece.semantic > 0, piece.image[0] > 200)
        assert piece.instances.max() > 5  # other simulations than those of training


def test_a_quarter_of_a_large_image_is_held_out() -> None:
    """Columns from 48 on are seen by no batch and are all that is held out; a small image is used twice."""
    pairs = _pairs()
    assert max(float(pairs.batch(k).real.max()) for k in range(60)) == 47
    held_out = pairs.held_out(40, 2, (0, 0, 0))[0].real
    assert held_out.min() == 48 and held_out.max() == 63
    small = _pairs(columns=40)
    assert max(float(small.batch(k).real.max()) for k in range(60)) == 39


def test_flips_can_be_turned_off() -> None:
    """Columns of the real image rise from left to right."""
    rising = torch.stack([(_pairs(flips=False).batch(k).real.diff(dim=-1) > 0).all() for k in range(10)])
    assert rising.all()
    assert not (_pairs().batch(0).real.diff(dim=-1) > 0).all()
