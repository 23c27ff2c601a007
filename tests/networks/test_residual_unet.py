"""The residual U-Net: its blocks are residual, everything else is the U-Net's."""

from __future__ import annotations

import torch
from torch import nn

from fewslice.networks import residual_unet, unet


def test_a_block_with_a_silent_branch_is_the_identity_on_positive_input() -> None:
    block = residual_unet.ResidualBlock(3, 4, 4, (3, 3, 3), "batch").eval()
    with torch.no_grad():
        for module in block.branch.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.weight.zero_()
    x = torch.rand(1, 4, 5, 6, 7)
    assert torch.equal(block(x), x)


def test_a_block_changes_channels_through_a_projection() -> None:
    block = residual_unet.ResidualBlock(2, 3, 8, (1, 3, 3), "none")
    assert block(torch.rand(1, 3, 6, 7)).shape == (1, 8, 6, 7)
    assert isinstance(block.shortcut, nn.Conv2d)
    assert block.shortcut.kernel_size == (1, 1)


def test_same_halo_and_divisor_as_the_unet() -> None:
    values = {"features": 4, "depth": 3, "pooling": ((1, 2, 2), (2, 2, 2))}
    plain = unet.build(unet.Config.model_validate(values), 1, 2)
    residual = residual_unet.build(residual_unet.Config.model_validate(values), 1, 2)
    assert residual.halo == plain.halo
    assert residual.divisor == plain.divisor
    assert all(isinstance(block, residual_unet.ResidualBlock) for block in residual.down)


def test_dropout_in_training_only() -> None:
    network = residual_unet.build(residual_unet.Config(features=4, depth=2, dropout=0.5, norm="none"), 1, 2)
    x = torch.randn(1, 1, 8, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
