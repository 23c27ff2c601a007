"""Layouts reach exactly the receptive field that is asked for."""

from __future__ import annotations

import math

import pytest
import torch

from fewslice.errors import InputError
from fewslice.networks.patch_discriminator import Config, build, layout, receptive_field


def test_receptive_field_by_hand() -> None:
    """3 at stride 1 sees 3; 4 at stride 2 then sees 3 + 3 = 6; 4 after it 6 + 3 · 2 = 12. PatchGAN has 70."""
    assert receptive_field([(3, 1)]) == 3
    assert receptive_field([(3, 1), (4, 2), (4, 1)]) == 12
    assert receptive_field([(4, 2)] * 3 + [(4, 1)] * 2) == 70


@pytest.mark.parametrize("wanted", range(1, 200))
def test_layout_is_exact(wanted: int) -> None:
    layers = layout(wanted)
    assert receptive_field(layers) == wanted
    assert math.prod(stride for _, stride in layers) <= max(1, wanted / 6)
    if wanted >= 6:
        assert layers[0][1] == 1 and max(kernel for kernel, _ in layers) <= 6


def test_nothing_is_seen_below_one_voxel() -> None:
    with pytest.raises(InputError, match="at least 1"):
        layout(0)
    with pytest.raises(ValueError, match="at least 1"):
        Config(receptive_field=(1, 0, 3))


def test_measured_by_gradients() -> None:
    """What a score of the network depends on is as large as asked, along each axis on its own."""
    network = build(Config(receptive_field=(1, 29, 14), features=2, spectral=False), 1, 1).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    x = torch.rand(1, 1, 60, 60, dtype=torch.float64, requires_grad=True)
    scores = network(x)
    (gradient,) = torch.autograd.grad(scores[0, 0, 2, 3], x)
    rows, columns = (gradient[0, 0].abs().sum(axis).nonzero().flatten() for axis in (1, 0))
    assert (len(rows), len(columns)) == (29, 14)
    assert (rows[0], columns[0]) == (2 * network.stride[1], 3 * network.stride[2])


def test_spectral_norm_bounds_each_layer() -> None:
    torch.manual_seed(0)
    network = build(Config(features=4, receptive_field=(1, 12, 12), spectral=True), 1, 1)
    for _ in range(30):
        network(torch.randn(1, 1, 12, 12))
    for layer in [*network.layers, network.head]:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.02)


def test_adapted_is_half_a_patch_in_um() -> None:
    config = Config(dims=3).adapted((2.0, 1.0, 1.0), (24, 48, 64))
    assert config.receptive_field == (12, 24, 24)
    assert Config(receptive_field=(1, 9, 9)).adapted(None, (1, 64, 64)).receptive_field == (1, 9, 9)
