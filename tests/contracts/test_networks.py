"""Every network kind keeps what the room promises, in each of its shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fewslice import registry
from fewslice.errors import InputError
from fewslice.networks import kinds, purpose

# Settings to try beside the defaults; a kind that is not listed is tried with its defaults alone.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "unet": [
        {"features": 4, "depth": 2},
        {"features": 4, "depth": 3, "pooling": ((1, 2, 2), (2, 2, 2))},
        {"features": 4, "depth": 2, "dims": 2},
        {"features": 8, "depth": 2, "pooling": ((1, 3, 2),), "skips": "concatenate", "norm": "none"},
        {"features": 4, "depth": 3, "dims": 2, "skips": "concatenate", "upsampling": "transposed"},
        {"features": 4, "depth": 3, "pooling": ((1, 2, 2), (2, 2, 2)), "upsampling": "transposed"},
    ],
    "residual_unet": [{"features": 4, "depth": 2}, {"features": 4, "depth": 2, "dims": 2}],
    "spade_generator": [
        {"features": 4, "depth": 2, "hidden": 4},
        {"features": 4, "depth": 3, "hidden": 4, "pooling": ((1, 2, 2), (1, 3, 2))},
        {"features": 4, "depth": 1, "hidden": 4, "dims": 3},
        {"features": 4, "depth": 2, "hidden": 4, "dims": 3, "pooling": ((1, 2, 2),), "kernels": ((1, 3, 3), (3, 3, 3))},
    ],
    "patch_discriminator": [
        {},
        {"features": 4, "receptive_field": (1, 24, 17), "spectral": False},
        {"features": 4, "receptive_field": (5, 12, 13), "dims": 3},
    ],
    "contour_proposals": [
        {"features": 4, "depth": 2},
        {"features": 4, "depth": 3, "order": 2, "refinement_buckets": 2},
    ],
}
SEGMENTING = [(kind, settings) for kind in kinds("segmentation") for settings in VARIANTS.get(kind, [{}])]
CHANGING = [(kind, settings) for kind in kinds("image_to_image") for settings in VARIANTS.get(kind, [{}])]
JUDGING = [(kind, settings) for kind in kinds("discriminator") for settings in VARIANTS.get(kind, [{}])]
PROPOSING = [(kind, settings) for kind in kinds("contours") for settings in VARIANTS.get(kind, [{}])]
CASES = SEGMENTING + CHANGING + PROPOSING


def build(kind: str, settings: dict[str, Any], in_channels: int = 2, out_channels: int = 3, seed: int = 0) -> Any:
    """Build a network; one that changes images takes as many channels and gives at most as many."""
    module = registry.load("networks", kind)
    torch.manual_seed(seed)
    if purpose(kind) == "image_to_image":
        out_channels = min(in_channels, out_channels)
    return module.build(module.Config(**settings), in_channels, out_channels)


def maps(network: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """All maps of a network by name; a network with one head has one, of logits."""
    out = network(x)
    return {"logits": out} if isinstance(out, torch.Tensor) else out._asdict()


def strides(network: Any) -> dict[str, int]:
    return getattr(network, "strides", {"logits": 1})


def extent(network: Any, cells: int = 3) -> tuple[int, ...]:
    """Spatial extent of about 16 voxels or `cells` pooling cells, different along every axis."""
    found = [max(cells, 16 // d) * d + d * k for k, d in enumerate(network.divisor)]
    return tuple(found[3 - network.dims :])


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_attributes_and_output_shape(kind: str, settings: dict[str, Any]) -> None:
    network = build(kind, settings)
    assert network.dims in (2, 3)
    assert len(network.divisor) == len(network.halo) == 3
    assert all(type(v) is int for v in (*network.divisor, *network.halo))
    assert all(d >= 1 for d in network.divisor)
    if network.dims == 2:
        assert network.divisor[0] == 1
        assert network.halo[0] == 0
    x = torch.randn(2, 2, *extent(network))
    found = maps(network, x)
    assert set(found) == set(strides(network))
    for name, out in found.items():
        assert tuple(e * strides(network)[name] for e in out.shape[2:]) == x.shape[2:]
        assert out.shape[0] == 2 and out.dtype == torch.float32
    channels = 2 if purpose(kind) == "image_to_image" else 3
    assert "logits" not in found or found["logits"].shape[1] == channels


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_extents_that_do_not_divide_are_refused_by_name(kind: str, settings: dict[str, Any]) -> None:
    network = build(kind, settings)
    for axis in range(network.dims):
        divisor = network.divisor[axis + 3 - network.dims]
        wrong = list(extent(network))
        wrong[axis] += 1
        if divisor == 1:
            assert all(out.shape[2:] == tuple(wrong) for out in maps(network, torch.randn(2, 2, *wrong)).values())
        else:
            with pytest.raises(InputError, match="multiples of"):
                network(torch.randn(2, 2, *wrong))


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_halo_is_the_reach_of_the_gradient(kind: str, settings: dict[str, Any]) -> None:
    """No input further than the halo has a gradient, and some input exactly that far has one, along every axis."""
    network = build(kind, settings, 1, 2).eval().double()
    with torch.no_grad():  # positive weights: nothing cancels, no unit is dead
        for parameter in network.parameters():
            parameter.abs_().mul_(0.2)  # small: nothing that is squashed is saturated
    dims = network.dims
    halo, divisor = network.halo[3 - dims :], network.divisor[3 - dims :]
    shape = [d * (2 * -(-h // d) + 3) for h, d in zip(halo, divisor, strict=True)]
    middle = [s // d // 2 * d for s, d in zip(shape, divisor, strict=True)]
    furthest = [0] * dims
    generator = torch.Generator().manual_seed(0)
    # Max pooling passes the gradient to one voxel of each cell; several inputs show the others.
    for _ in range(3):
        x = torch.rand(1, 1, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for name, out in maps(network, x).items():
            stride = strides(network)[name]
            for phase in range(0, max(divisor), stride):
                position = [m + min(phase, d - stride) for m, d in zip(middle, divisor, strict=True)]
                seen_at = out[(0, -1, *(p // stride for p in position))]
                (gradient,) = torch.autograd.grad(seen_at, x, retain_graph=True)
                seen = gradient[0, 0].nonzero() - torch.tensor(position)
                assert len(seen)
                reach = seen.abs().amax(0).tolist()
                assert all(r <= h for r, h in zip(reach, halo, strict=True)), (name, position, reach)
                furthest = [max(f, r) for f, r in zip(furthest, reach, strict=True)]
    assert furthest == list(halo)


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_a_block_with_its_halo_equals_the_whole(kind: str, settings: dict[str, Any]) -> None:
    network = build(kind, settings, 1, 2).eval().double()
    dims = network.dims
    halo, divisor = network.halo[3 - dims :], network.divisor[3 - dims :]
    margin = [-(-h // d) * d for h, d in zip(halo, divisor, strict=True)]
    shape = [2 * m + 2 * d for m, d in zip(margin, divisor, strict=True)]
    whole = torch.randn(1, 1, *[s + d for s, d in zip(shape, divisor, strict=True)], dtype=torch.float64)
    block = whole[(..., *[slice(d, None) for d in divisor])]
    inner = tuple(slice(m, m + 2 * d) for m, d in zip(margin, divisor, strict=True))
    outer = tuple(slice(s.start + d, s.stop + d) for s, d in zip(inner, divisor, strict=True))
    with torch.no_grad():
        part, full = maps(network, block), maps(network, whole)
    for name, stride in strides(network).items():
        here, there = (tuple(slice(s.start // stride, s.stop // stride) for s in box) for box in (inner, outer))
        torch.testing.assert_close(part[name][(..., *here)], full[name][(..., *there)])


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_the_seed_makes_the_network(kind: str, settings: dict[str, Any]) -> None:
    one, same, other = (build(kind, settings, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_state_dict_round_trip(kind: str, settings: dict[str, Any]) -> None:
    network, other = build(kind, settings, seed=1), build(kind, settings, seed=2)
    x = torch.randn(2, 2, *extent(network))
    network(x)  # moves the running statistics of normalisations
    network.eval()
    other.eval()
    with torch.no_grad():
        expected, before = maps(network, x), maps(other, x)
        assert not any(torch.equal(before[name], expected[name]) for name in expected)
        other.load_state_dict(network.state_dict())
        after = maps(other, x)
        assert all(torch.equal(after[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_channels_last_and_bfloat16(kind: str, settings: dict[str, Any]) -> None:
    network = build(kind, settings)
    layout = torch.channels_last if network.dims == 2 else torch.channels_last_3d
    x = torch.randn(2, 2, *extent(network))
    network(x)
    network.eval()
    with torch.no_grad():
        expected = maps(network, x)
    network.to(memory_format=layout)
    x = x.contiguous(memory_format=layout)
    with torch.no_grad():
        for name, out in maps(network, x).items():
            torch.testing.assert_close(out, expected[name], rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        found = maps(network, x)
    # What changes an image keeps the precision of the image it is added to.
    kept = torch.float32 if purpose(kind) == "image_to_image" else torch.bfloat16
    assert next(iter(found.values())).dtype == kept
    for name, out in found.items():
        assert (out.float() - expected[name]).abs().mean() < 0.03 * expected[name].std()
    sum(out.float().square().mean() for out in found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize(("kind", "settings"), SEGMENTING)
def test_it_learns(kind: str, settings: dict[str, Any]) -> None:
    """In a few steps on one image the loss falls well below indifference (0.69): gradients reach what matters."""
    network = build(kind, settings | {"dropout": 0.0}, 1, 2)
    x = torch.randn(2, 1, *extent(network), generator=torch.Generator().manual_seed(3))
    name, stride = next(iter(strides(network).items()))
    target = (x[(slice(None), 0, *(slice(None, None, stride),) * network.dims)] > 0).long()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        logits = maps(network, x)[name]
        if logits.shape[1] == 1:  # of the only class
            logits = torch.cat((torch.zeros_like(logits), logits), 1)
        loss = torch.nn.functional.cross_entropy(logits, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5


@pytest.mark.parametrize(("kind", "settings"), SEGMENTING)
def test_starts_near_indifference(kind: str, settings: dict[str, Any]) -> None:
    """The last bias is 0 and logits are of order 1, so that training starts without a preferred class."""
    network = build(kind, settings)
    last = [module for module in network.modules() if getattr(module, "bias", None) is not None][-1]
    name = "fc6" if kind == "cnn_2d" else "head"
    head = getattr(network, name, last)
    assert not head.bias.any()
    logits = next(iter(maps(network, torch.randn(2, 2, *extent(network))).values()))
    assert 0.05 < logits.std() < 5


@pytest.mark.parametrize(("kind", "settings"), CHANGING)
def test_it_learns_to_change_images(kind: str, settings: dict[str, Any]) -> None:
    """It starts near the image, and in a few steps learns to invert it where the condition says so."""
    network = build(kind, settings, 2, 1)
    image = torch.randn(2, 1, *extent(network), generator=torch.Generator().manual_seed(3))
    there = (torch.arange(image.shape[-1]) % 8 < 4).expand(image.shape).float()
    x = torch.cat((image, there), dim=1)
    target = torch.where(there > 0, -0.5 * image, image)
    assert (network(x) - image).abs().mean() < 0.3 * (target - image).abs().mean()
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(80):
        loss = (network(x) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("kind", "settings"), JUDGING)
def test_a_score_sees_its_receptive_field_and_no_more(kind: str, settings: dict[str, Any]) -> None:
    """Measured by gradients, for the first and another score; extents and the seed are as the room promises."""
    network = build(kind, settings, 1, 1).eval().double()
    dims = network.dims
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    field, stride = network.receptive_field[3 - dims :], network.stride[3 - dims :]
    shape = [f + 2 * s + 1 for f, s in zip(field, stride, strict=True)]
    x = torch.rand(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    scores = network(x)
    assert scores.shape[2:] == tuple((n - f) // s + 1 for n, f, s in zip(shape, field, stride, strict=True))
    for index in (0, 1):
        (gradient,) = torch.autograd.grad(scores[(0, 0, *[index] * dims)], x, retain_graph=True)
        seen = gradient[0, 0].nonzero()
        assert seen.amin(0).tolist() == [index * s for s in stride]
        assert seen.amax(0).tolist() == [index * s + f - 1 for f, s in zip(field, stride, strict=True)]
    with pytest.raises(InputError, match="receptive_field"):
        network(torch.zeros(1, 1, *[f - 1 if f > 1 else f for f in field], dtype=torch.float64))


@pytest.mark.parametrize(("kind", "settings"), JUDGING)
def test_a_discriminator_learns_and_can_be_stored(kind: str, settings: dict[str, Any]) -> None:
    """In bfloat16 and channels_last it comes to tell smooth from rough; equal weights give equal scores."""
    network = build(kind, settings, 2, 1)
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), build(kind, settings, 2, 1).parameters(), strict=True)
    )
    layout = torch.channels_last if network.dims == 2 else torch.channels_last_3d
    network.to(memory_format=layout)
    shape = [f + 8 for f in network.receptive_field[3 - network.dims :]]
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(4, 2, *shape, generator=generator)
    x = torch.cat((rough, rough.mean(dim=-1, keepdim=True).expand_as(rough) * 3)).contiguous(memory_format=layout)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(x)
        assert scores.dtype == torch.bfloat16
        one, other = scores.float().flatten(1).mean(1).split(4)
        optimiser.zero_grad()
        (other - one).mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimiser.step()
    assert (one > other.max()).all()
    network.eval()
    copy = build(kind, settings, 2, 1, seed=1).eval()
    copy.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(copy(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", registry.names("networks"))
def test_config(kind: str) -> None:
    module = registry.load("networks", kind)
    config = module.Config()
    with pytest.raises(ValidationError, match="no_such_setting"):
        module.Config(no_such_setting=1)
    with pytest.raises(ValidationError, match="frozen"):
        config.dropout = 0.1
    adapted = config.adapted((2.0, 0.88, 0.88), (32, 64, 64))
    assert isinstance(adapted, module.Config)
    assert adapted.adapted((2.0, 0.88, 0.88), (32, 64, 64)) == adapted
    assert module.Config(**adapted.model_dump(mode="json")) == adapted
    patch = (32, 64, 64)
    network = module.build(adapted, 2, 2)
    if purpose(kind) == "discriminator":
        assert network(torch.zeros(1, 2, *patch[3 - network.dims :])).shape[1] == 2
        return
    assert all(p % d == 0 for p, d in zip(patch, network.divisor, strict=True))
