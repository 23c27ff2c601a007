"""The U-Net's shape: pooling and kernels by anisotropy, its configuration, its reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fewslice.errors import InputError
from fewslice.networks import unet
from fewslice.networks.unet import default_kernels, default_pooling, receptive_radius

CUBES = (3, 3, 3)
IN_PLANE = (1, 3, 3)


def test_cubes_are_halved_along_every_axis() -> None:
    assert default_pooling(None, (32, 64, 64), 4) == ((2, 2, 2),) * 3
    assert default_kernels(None, ((2, 2, 2),) * 3) == (CUBES,) * 4


def test_two_photon_voxels_become_cubes_first() -> None:
    """2 µm against 0.88 µm: in-plane once (0.88 to 1.76), then everything."""
    voxel = (2.0, 0.88, 0.88)
    pooling = default_pooling(voxel, (32, 64, 64), 4)
    assert pooling == ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert default_kernels(voxel, pooling) == (IN_PLANE, CUBES, CUBES, CUBES)


def test_very_coarse_planes() -> None:
    """50 nm sections of 5 nm pixels: three in-plane steps reach 40 nm; only there does z join in."""
    voxel = (0.05, 0.005, 0.005)
    pooling = default_pooling(voxel, (16, 256, 256), 6)
    assert pooling == ((1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert default_kernels(voxel, pooling) == (IN_PLANE,) * 3 + (CUBES,) * 3


def test_an_axis_is_not_pooled_below_four_voxels() -> None:
    assert default_pooling(None, (8, 64, 64), 4) == ((2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert default_pooling(None, (7, 64, 64), 2) == ((1, 2, 2),)
    # Thin stacks of cubes keep kernels of 3 along z: nothing is coarse there.
    assert default_kernels(None, ((1, 2, 2), (1, 2, 2)))[0] == CUBES


def test_small_patches_give_fewer_levels() -> None:
    assert default_pooling(None, (16, 16, 16), 6) == ((2, 2, 2), (2, 2, 2))
    assert default_pooling(None, (4, 4, 4), 3) == ()
    assert unet.Config(depth=6).adapted(None, (16, 16, 16)).depth == 3


def test_adapted_fills_in_and_keeps_what_is_set() -> None:
    adapted = unet.Config(features=8).adapted((2.0, 0.88, 0.88), (32, 64, 64))
    assert adapted.pooling == ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert adapted.kernels == (IN_PLANE, CUBES, CUBES, CUBES)
    assert adapted.features == 8
    own = unet.Config(depth=2, pooling=((2, 2, 2),)).adapted((2.0, 0.88, 0.88), (32, 64, 64))
    assert own.pooling == ((2, 2, 2),)
    with pytest.raises(InputError, match="too small for 3 levels"):
        unet.Config(depth=3, kernels=(CUBES,) * 3).adapted(None, (8, 8, 8))


def test_adapted_in_2d_ignores_z() -> None:
    for patch in ((1, 64, 64), (32, 64, 64)):
        adapted = unet.Config(dims=2, depth=3).adapted((0.001, 0.88, 0.88), patch)
        assert adapted.pooling == ((1, 2, 2),) * 2
        assert adapted.kernels == (IN_PLANE,) * 3
    # Planes along y of anisotropic voxels: (y, z, x) = 0.88, 2, 0.88 µm; x is pooled until it is as coarse as z.
    sideways = unet.Config(dims=2, depth=3).adapted((0.88, 2.0, 0.88), (1, 32, 64))
    assert sideways.pooling == ((1, 1, 2), (1, 2, 2))
    assert sideways.kernels == ((1, 1, 3), IN_PLANE, IN_PLANE)


def test_without_adapting_kernels_follow_pooling() -> None:
    config = unet.Config(depth=3, pooling=((1, 2, 2), (2, 2, 2)))
    assert config.resolved_kernels == (IN_PLANE, CUBES, CUBES)
    assert unet.Config(depth=2).resolved_kernels == (CUBES, CUBES)
    assert unet.Config(depth=2, pooling=((1, 2, 2),)).resolved_kernels == (CUBES, CUBES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 3, "pooling": ((2, 2, 2),)}, "depth of 3 needs 2"),
        ({"depth": 2, "kernels": (CUBES,)}, "depth of 2 needs 2"),
        ({"depth": 2, "pooling": ((0, 2, 2),)}, "below 1"),
        ({"depth": 2, "dims": 2, "pooling": ((2, 2, 2),)}, "must be 1 along z"),
        ({"depth": 1, "pooling": (), "kernels": ((2, 3, 3),)}, "odd"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        unet.Config(**settings)


def test_features_double_up_to_the_maximum() -> None:
    assert unet.Config(features=64, max_features=320, depth=5).level_features == (64, 128, 256, 320, 320)


def test_receptive_radius_by_hand() -> None:
    # One level: two convolutions of 3.
    assert receptive_radius([3], []) == 2
    # No pooling between levels: 2 down, 2 in the middle, 2 up.
    assert receptive_radius([3, 3], [1]) == 6
    # Two levels, halved: output 0 reaches -2 … 2 after the way up, cells -1 … 1, -3 … 3 after the middle, so inputs
    # -6 … 7, and -8 … 9 after the way down.
    assert receptive_radius([3, 3], [2]) == 9
    assert receptive_radius([1, 1], [2]) == 1


def test_concatenated_skips_have_wider_decoders() -> None:
    widths = []
    for skips in ("add", "concatenate"):
        network = unet.build(unet.Config.model_validate({"features": 4, "depth": 2, "skips": skips}), 1, 2)
        first = next(m for m in network.up[0].modules() if isinstance(m, nn.Conv3d))
        widths.append(first.in_channels)
    assert widths == [4, 8]


def test_the_published_network_of_spatial_continuity_has_its_weights() -> None:
    """64-128-256-512, concatenated skips, 2 x 2 transposed convolutions (Xiao 2022): counted by hand."""
    config = unet.Config(dims=2, features=64, max_features=512, depth=4, skips="concatenate", upsampling="transposed")
    network = unet.build(config.adapted(None, (1, 256, 256)), 1, 2)
    widths = [64, 128, 256, 512]
    down = sum(9 * (i * o + o * o) + 4 * o for i, o in zip([1, *widths[:-1]], widths, strict=True))
    up = sum(4 * 2 * o * o + o + 9 * (2 * o * o + o * o) + 4 * o for o in widths[:-1])
    assert sum(p.numel() for p in network.parameters()) == down + up + 64 * 2 + 2


def test_dropout_sits_in_the_coarse_levels_and_acts_in_training_only() -> None:
    network = unet.build(unet.Config(features=4, depth=3, dropout=0.5, norm="none"), 1, 2)
    having = [any(isinstance(m, nn.Dropout3d) for m in block.modules()) for block in network.down]
    assert having == [False, True, True]
    x = torch.randn(1, 1, 8, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_instance_norm_is_independent_of_gain() -> None:
    """With instance normalisation from the first convolution on, a gain of the image changes next to nothing."""
    torch.manual_seed(0)
    network = unet.build(unet.Config(features=4, depth=2, norm="instance"), 1, 2).eval()
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(10 * x), network(x), rtol=1e-3, atol=1e-3)


# --- a 3D network that begins as a 2D one ---


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("skips", ["add", "concatenate"])
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_inflated_it_says_of_each_plane_what_the_2d_network_says(norm: str, skips: str, upsampling: str) -> None:
    """Whatever the layers; running means included. Instance normalisation alone sees the planes together."""
    torch.manual_seed(0)
    common = {"features": 4, "depth": 3, "norm": norm, "skips": skips, "upsampling": upsampling}
    flat = unet.build(unet.Config(dims=2, **common), 2, 3)
    for _ in range(3):
        flat(torch.randn(4, 2, 16, 16) + 1)
    deep = unet.Config(dims=3, pooling=((1, 2, 2), (1, 2, 2)), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)), **common)
    network = unet.build(deep, 2, 3)
    network.load_state_dict(unet.inflated(flat.state_dict(), deep))
    flat.eval()
    network.eval()
    image = torch.randn(1, 2, 1 if norm == "instance" else 5, 16, 16)
    with torch.no_grad():
        planes = torch.stack([flat(image[:, :, z]) for z in range(image.shape[2])], dim=2)
        torch.testing.assert_close(network(image), planes, rtol=1e-4, atol=1e-5)


def test_inflated_it_can_look_along_z_from_then_on() -> None:
    """The outer planes of the kernels are 0 but get gradients."""
    flat, deep = unet.build(unet.Config(dims=2, features=4, depth=2), 1, 2), unet.Config(dims=3, features=4, depth=2)
    network = unet.build(deep, 1, 2)
    network.load_state_dict(unet.inflated(flat.state_dict(), deep))
    network(torch.randn(1, 1, 4, 8, 8)).square().sum().backward()
    kernel = network.down[0][0].weight
    assert kernel.shape[2] == 3 and not kernel[:, :, [0, 2]].any() and kernel.grad[:, :, [0, 2]].abs().min() > 0


@pytest.mark.parametrize("other", [{"features": 8}, {"depth": 4}, {"norm": "none"}, {"skips": "concatenate"}])
def test_networks_that_differ_are_not_inflated(other: dict[str, Any]) -> None:
    flat = unet.build(unet.Config(dims=2, features=4, depth=3), 1, 2)
    with pytest.raises(InputError, match="cannot begin as this 2D one"):
        unet.inflated(flat.state_dict(), unet.Config(**{"dims": 3, "features": 4, "depth": 3} | other))
