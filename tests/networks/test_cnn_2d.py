"""The published 2D network: its size, and dense prediction against one patch per pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewslice.errors import InputError
from fewslice.networks import cnn_2d


def network(in_channels: int = 2, classes: int = 2, **settings: float) -> cnn_2d.Cnn2d:
    torch.manual_seed(0)
    return cnn_2d.build(cnn_2d.Config(**settings), in_channels, classes)


def test_parameters_as_published() -> None:
    assert sum(p.numel() for p in network().parameters()) == 205_026


def test_layers_as_published() -> None:
    """The table of the paper's code, each layer's output for a 32 x 32 patch."""
    net, sizes = network().eval(), []
    for layer in (net.conv1, net.conv2, net.conv3, net.fc4, net.fc5, net.fc6):
        layer.register_forward_hook(lambda _layer, _args, out: sizes.append(tuple(out.shape[1:])))
    assert net.forward_patches(torch.rand(1, 2, 32, 32)).shape == (1, 2)
    assert sizes == [(32, 28, 28), (64, 12, 12), (64, 4, 4), (128, 1, 1), (128, 1, 1), (2, 1, 1)]


@pytest.mark.parametrize("shape", [(23, 30), (17, 18), (9, 40), (3, 2), (1, 5), (16, 16)])
def test_dense_equals_patch_by_patch(shape: tuple[int, int]) -> None:
    """At every pixel, NumPy's reflection being the reference, for planes smaller than the margin as well."""
    net = network().eval()
    image = torch.rand(2, 2, *shape, generator=torch.Generator().manual_seed(1))
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (16, 15), (16, 15)), mode="reflect"))
    patches = padded.unfold(2, 32, 1).unfold(3, 32, 1)  # b, c, y, x, 32, 32
    with torch.no_grad():
        single = net.forward_patches(patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 2, 32, 32))
        dense = net(image)
    expected = single.view(2, *shape, 2).permute(0, 3, 1, 2)
    assert dense.shape == (2, 2, *shape)
    torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-5)
    if min(shape) > 1:  # the comparison means something: pixels differ by far more than the tolerance
        assert dense.std((2, 3)).min() > 1e-3


def test_the_classified_pixel_is_the_centre_of_the_patch() -> None:
    """A patch cut out around a pixel far from the border gives that pixel's logits."""
    net = network(1).eval()
    image = torch.rand(1, 1, 50, 60)
    with torch.no_grad():
        torch.testing.assert_close(
            net(image)[0, :, 20, 33],
            net.forward_patches(image[:, :, 20 - 16 : 20 + 16, 33 - 16 : 33 + 16])[0],
            rtol=1e-4,
            atol=1e-5,
        )


def test_dense_training_gives_the_gradient_of_all_patches() -> None:
    net = network(1, dropout=0.0)
    image = torch.rand(1, 1, 8, 9)
    target = torch.randint(0, 2, (1, 8, 9))
    torch.nn.functional.cross_entropy(net(image), target).backward()
    dense = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (16, 15), (16, 15)), mode="reflect"))
    patches = padded.unfold(2, 32, 1).unfold(3, 32, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 1, 32, 32)
    torch.nn.functional.cross_entropy(net.forward_patches(patches), target.flatten()).backward()
    assert len(dense) == 12
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(dense[name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    x = torch.ones(2, 3, 200, 300).contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    dropped = cnn_2d._drop(x, share, training=True)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)])
    # 360,000 units: a standard deviation is below 0.001.
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.004)
    assert (dropped == 0).float().mean((0, 2, 3)).tolist() == pytest.approx([share] * 3, abs=0.006)
    neighbours = ((dropped[..., 1:] == 0) & (dropped[..., :-1] == 0)).float().mean().item()
    assert neighbours == pytest.approx(share**2, abs=0.004)
    channels = ((dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)).float().mean().item()
    assert channels == pytest.approx(share**2, abs=0.004)
    torch.manual_seed(0)
    assert torch.equal(cnn_2d._drop(x, share, training=True), dropped)
    assert torch.equal(cnn_2d._drop(x, share, training=False), x)


def test_dropout_only_in_training() -> None:
    net, x = network(), torch.rand(1, 2, 20, 20)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_patches_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"32 × 32 pixels, got \(31, 32\)"):
        network().forward_patches(torch.rand(1, 2, 31, 32))
