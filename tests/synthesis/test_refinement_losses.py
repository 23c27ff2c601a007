"""The losses and the buffer of refined images, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewslice.synthesis.refinement_losses import (
    Regularisation,
    adversarial,
    mix_history,
    self_regularisation,
)


def test_nothing_is_regularised_where_nothing_changed() -> None:
    x = torch.randn(2, 3, 16, 16)
    assert self_regularisation(x, x.clone(), Regularisation(), 8.0).item() == 0.0
    volume = torch.randn(2, 1, 4, 16, 16)
    assert self_regularisation(volume, volume.clone(), Regularisation(), 8.0).item() == 0.0


def test_self_regularisation_by_hand() -> None:
    """A checkerboard of ±1: identity 1, low-pass over 2 × 2 nothing, gradient 2. An offset: 1, 1, 0. λ scales all."""
    x = torch.zeros(1, 1, 8, 8)
    board = torch.where((torch.arange(8)[:, None] + torch.arange(8)) % 2 == 0, 1.0, -1.0).expand(1, 1, 8, 8)
    expected = {"identity": (1.0, 1.0), "low_pass": (0.0, 1.0), "gradient": (2.0, 0.0)}
    for name, values in expected.items():
        weights = {"identity": 0.0, "low_pass": 0.0, "gradient": 0.0, name: 3.0}
        config = Regularisation(weight=2.0, low_pass_diameters=0.5, **weights)
        for refined, value in zip((board, x + 1), values, strict=True):
            assert self_regularisation(refined, x, config, 4.0).item() == pytest.approx(6 * value)


def test_low_pass_is_in_cell_diameters() -> None:
    """Stripes of 4 voxels are seen through squares of 2 and average out over squares of 8."""
    x = torch.zeros(1, 1, 32, 32)
    stripes = torch.where(torch.arange(32) // 4 % 2 == 0, 1.0, -1.0).expand(1, 1, 32, 32)
    config = Regularisation(weight=1.0, identity=0, gradient=0, low_pass=1.0, low_pass_diameters=0.25)
    assert self_regularisation(stripes, x, config, 8.0).item() > 0.6
    assert self_regularisation(stripes, x, config, 32.0).item() < 0.01


def test_adversarial_by_hand() -> None:
    scores = torch.tensor([0.0, 2.0])
    assert adversarial(scores, True, "least_squares").item() == pytest.approx(0.5 * (1 + 1) / 2)
    assert adversarial(scores, False, "least_squares").item() == pytest.approx(0.5 * 4 / 2)
    expected = np.mean(np.log1p(np.exp([0.0, -2.0])))
    assert adversarial(scores, True, "non_saturating").item() == pytest.approx(expected, rel=1e-5)


def _images(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def _numbers(images: torch.Tensor) -> list[int]:
    return [int(v) for v in images[:, 0, 0, 0]]


def test_history_fills_then_replaces() -> None:
    """Half of a batch is remembered and, once there are earlier ones, half comes from them."""
    history = torch.zeros(0, 1, 2, 2)
    batch, history = mix_history(history, _images(1, 2, 3, 4), 3, torch.Generator().manual_seed(0))
    assert _numbers(batch) == [1, 2, 3, 4] and _numbers(history) == [1, 2]
    batch, history = mix_history(history, _images(5, 6, 7, 8), 3, torch.Generator().manual_seed(0))
    assert _numbers(batch)[:2] == [5, 6] and sorted(_numbers(batch)[2:]) == [1, 2]
    # room for one: 5 is added, 6 takes the place of 1 or 2
    assert len(history) == 3 and {5, 6} <= set(_numbers(history)) and len({1, 2} & set(_numbers(history))) == 1
    before = set(_numbers(history))
    batch, history = mix_history(history, _images(9, 10, 11, 12), 3, torch.Generator().manual_seed(1))
    assert _numbers(batch)[:2] == [9, 10] and set(_numbers(batch)[2:]) < before
    assert len(history) == 3 and {9, 10} <= set(_numbers(history)) and len(set(_numbers(history)) & before) == 1


def test_history_is_of_the_generator_and_can_be_off() -> None:
    full = _images(*range(20))
    one, same, other = (
        mix_history(full, _images(30, 31, 32, 33), 20, torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert torch.equal(one[0], same[0]) and torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])
    assert _numbers(full) == list(range(20))  # it is not changed in place
    batch, history = mix_history(torch.zeros(0, 1, 2, 2), _images(1, 2), 0, torch.Generator())
    assert _numbers(batch) == [1, 2] and len(history) == 0
