"""The modulation against a hand computation; what the generator adds is bounded and starts small."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewslice.errors import InputError
from fewslice.networks.spade_generator import Config, Modulation, SpadeBlock, build, receptive_radius


def test_modulation_by_hand() -> None:
    """Two pixels, 1 × 1 kernels: norm gives ±1 (to ε), ReLU cuts, then norm·(1 + γ) + β."""
    layer = Modulation(2, 1, 1, 1, (1, 1, 1), "batch")
    with torch.no_grad():
        for convolution, weight, bias in ((layer.shared, [2.0], [-1.0]), (layer.gamma_beta, [0.5, 3.0], [0.25, -1.0])):
            convolution.weight.copy_(torch.tensor(weight).reshape(-1, 1, 1, 1))
            convolution.bias.copy_(torch.tensor(bias))
    x = torch.tensor([10.0, 30.0]).reshape(1, 1, 1, 2)  # mean 20, deviation 10: −1 and 1
    m = torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2)  # ReLU(2m − 1) = 0 and 3
    out = layer(x, m).flatten().tolist()
    # gamma 0.25 and 1.75, beta −1 and 8
    assert out == pytest.approx([-1.0 * 1.25 - 1.0, 1.0 * 2.75 + 8.0], abs=1e-5)


def test_the_norm_has_no_parameters_and_gamma_comes_first() -> None:
    layer = Modulation(2, 3, 5, 7, (1, 3, 3), "batch")
    assert {name for name, _ in layer.named_parameters()} == {
        "shared.weight",
        "shared.bias",
        "gamma_beta.weight",
        "gamma_beta.bias",
    }
    assert layer.gamma_beta.weight.shape == (6, 7, 3, 3)
    x, m = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 6, 6)
    gamma, beta = (
        nn.functional.conv2d(torch.relu(layer.shared(m)), w, b, padding=1)
        for w, b in zip(layer.gamma_beta.weight.split(3), layer.gamma_beta.bias.split(3), strict=True)
    )
    normed = nn.functional.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(layer(x, m), normed * (1 + gamma) + beta)


def test_shortcut_is_learned_only_where_channels_change() -> None:
    assert SpadeBlock(2, 4, 4, 2, 3, (1, 3, 3), "batch").shortcut is None
    assert SpadeBlock(2, 4, 8, 2, 3, (1, 3, 3), "batch").shortcut is not None


def test_change_is_bounded_and_of_the_first_channels() -> None:
    """Even with huge weights no intensity moves by more than the bound; masks and noise only condition it."""
    torch.manual_seed(0)
    network = build(Config(features=4, hidden=4, depth=2, bound=1.5), 5, 2)
    m = torch.randn(2, 5, 16, 16)
    assert (network(m) - m[:, :2]).abs().mean() < 0.2
    with torch.no_grad():
        network.head.weight.mul_(1e4)
    change = (network(m) - m[:, :2]).abs()
    assert 1.4 < change.max() <= 1.5


def test_other_noise_gives_another_image() -> None:
    torch.manual_seed(0)
    network = build(Config(features=4, hidden=4, depth=2), 4, 1).eval()
    m = torch.randn(1, 4, 16, 16)
    other = m.clone()
    other[:, -1] = torch.randn(16, 16)
    assert (network(m) - network(other)).abs().mean() > 1e-3


def test_condition_needs_the_intensity() -> None:
    with pytest.raises(InputError, match="first 3 of its channels, but is given 2"):
        build(Config(), 2, 3)


@pytest.mark.parametrize(("kernels", "pooling", "radius"), [([3], [], 5), ([1], [], 0), ([3, 3], [2], 12)])
def test_receptive_radius_by_hand(kernels: list[int], pooling: list[int], radius: int) -> None:
    """One level: 1 of the head, 4 of the block.

    Two: output 0 needs −3 to 3 of the upsampled features, so cells −2 to 1; their condition reaches 4 cells further,
    −6 to 5, which are pixels −12 to 10.
    """
    assert receptive_radius(kernels, pooling) == radius


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="pooling has 1 entries"):
        Config(pooling=((1, 2, 2),))
    with pytest.raises(ValueError, match="must be 1 along z"):
        Config(depth=2, pooling=((2, 2, 2),))
    with pytest.raises(ValueError, match="odd"):
        Config(depth=1, kernels=((1, 2, 2),))
    with pytest.raises(InputError, match="too small for 3 levels"):
        Config(depth=3, kernels=((1, 3, 3),) * 3).adapted(None, (1, 8, 8))
