"""A trained refiner: simulated images in, images that look like the user's own out, the annotation untouched.

Volumes are refined plane by plane unless the generator is a 3D one. Planes are the default: every volume holds many of
them, so a few unlabelled volumes are enough to learn from, and one costs a third of the same number of voxels in 3D. A
3D generator is for volumes whose texture is continuous along z.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.geometry import Box, cover
from fewslice.model import prefers_bfloat16
from fewslice.networks import spade_generator
from fewslice.synthesis.patch_pairs import EXTRA_CHANNELS, condition, draw_noise
from fewslice.synthesis.simulation import Simulation
from fewslice.volume import Volume

__all__ = [
    "Refiner",
    "build_generator",
    "context",
    "refine",
    "to_grey",
]

Triple = tuple[int, int, int]

_TILE_VOXELS = 2**20


@dataclass(frozen=True)
class Refiner:
    """A generator with what its use needs.

    Attributes
    ----------
    generator
        The trained network, in evaluation mode.
    config
        Its settings.
    channels
        Of the images.
    source
        Normalisation of simulated images.
    grey
        Normalisation that refined images, 0 to 255, have: the real images' own where those are uint8 too.
    voxel_size_um
        (z, y, x) of the simulations it was trained on.
    provenance
        How it was trained.
    """

    generator: nn.Module
    config: spade_generator.Config
    channels: int
    source: Normalisation
    grey: Normalisation
    voxel_size_um: tuple[float, float, float]
    provenance: dict[str, Any] = field(default_factory=dict)


def build_generator(config: spade_generator.Config, channels: int) -> nn.Module:
    """Build the network for images of so many channels and their annotation."""
    return spade_generator.build(config, channels + EXTRA_CHANNELS, channels)


def context(generator: nn.Module) -> Triple:
    """Return the voxels (z, y, x) around a block that a generator is given: its halo, rounded up to its divisor.

    Borders are given the mirrored image there, so that no part of a refined image lies where the network sees padding,
    which it learns to tell from tissue.
    """
    return _triple(-(-h // d) * d for h, d in zip(_triple(generator.halo), _triple(generator.divisor), strict=True))


def to_grey(normalised: npt.NDArray[np.float32], grey: Normalisation) -> npt.NDArray[np.uint8]:
    """Turn normalised intensities (c, …) into grey values 0 to 255 by undoing `grey`; what exceeds them saturates."""
    form = (-1,) + (1,) * (normalised.ndim - 1)
    scale, offset = (np.asarray(v, dtype=np.float32).reshape(form) for v in (grey.scale, grey.offset))
    grey_values: npt.NDArray[np.uint8] = np.clip(np.rint(normalised * scale + offset), 0, 255).astype(np.uint8)
    return grey_values


@torch.inference_mode()
def refine(
    refiner: Refiner,
    simulation: Simulation,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    bfloat16: bool | None = None,
    tile: Triple | None = None,
) -> Simulation:
    """Refine a simulation.

    Parameters
    ----------
    refiner
        The trained refiner; its network is moved to `device`.
    simulation
        Of the channels and voxel size it was trained on; any extent.
    seed
        Of the noise: another seed gives another texture.
    device
        Where to compute.
    bfloat16
        Compute in bfloat16; by default where the device is fast at it.
    tile
        (z, y, x) voxels computed at once, their context not counted; by default about 2²⁰ in all. What comes out does
        not depend on it beyond rounding.

    Returns
    -------
    Simulation
        The same annotation with a refined image, uint8.

    Raises
    ------
    InputError
        If channels or voxel size are others than in training.
    """
    _check(refiner, simulation)
    network, where = refiner.generator.eval(), torch.device(device)
    layout = torch.channels_last if refiner.config.dims == 2 else torch.channels_last_3d
    network.to(device=where, memory_format=layout)  # type: ignore[call-overload]
    divisor, margin = _triple(network.divisor), context(network)
    wide = Box.of(tuple(-(-(n + 2 * m) // d) * d for n, m, d in zip(simulation.shape, margin, divisor, strict=True)))
    place = wide.shift(tuple(-m for m in margin))
    image = Volume.from_array(simulation.image).read_mirrored(place)
    instances = Volume.from_array(simulation.instances).read_mirrored(place)[0]
    noise = draw_noise(wide.shape, np.random.default_rng(seed))
    whole = condition(refiner.source.apply(image), instances, noise, refiner.config.dims)
    half = prefers_bfloat16(where) if bfloat16 is None else bfloat16
    refined = np.empty((refiner.channels, *simulation.shape), dtype=np.uint8)
    block = tile or _default_tile(simulation.shape, refiner.config.dims)
    block = _triple(max(d, t // d * d) for t, d in zip(block, divisor, strict=True))
    for part in cover(simulation.shape, block, (0, 0, 0)):
        ends = zip(part.write.stop, margin, divisor, strict=True)
        read = Box(part.write.start, tuple(-(-(stop + 2 * m) // d) * d for stop, m, d in ends))
        x = torch.from_numpy(whole[(slice(None), *read.slices)]).to(where)
        x = x.movedim(1, 0) if refiner.config.dims == 2 else x[None]
        with torch.autocast(where.type, torch.bfloat16, enabled=half):
            out = network(x.contiguous(memory_format=layout)).float()
        out = out.movedim(0, 1) if refiner.config.dims == 2 else out[0]
        inside = tuple(slice(m, m + n) for m, n in zip(margin, part.write.shape, strict=True))
        refined[(slice(None), *part.write.slices)] = to_grey(out[(slice(None), *inside)].cpu().numpy(), refiner.grey)
    return replace(simulation, image=refined)


def _check(refiner: Refiner, simulation: Simulation) -> None:
    if len(simulation.image) != refiner.channels:
        raise InputError(
            f"the simulation has {len(simulation.image)} channels, but the refiner was trained on {refiner.channels}; "
            "simulate the same channels or train another refiner"
        )
    pairs = list(zip(simulation.voxel_size_um, refiner.voxel_size_um, strict=True))[3 - refiner.config.dims :]
    if any(abs(own / trained - 1) > 0.1 for own, trained in pairs):
        raise InputError(
            f"the simulation has voxels of {simulation.voxel_size_um} µm (z, y, x), but the refiner was trained on "
            f"{refiner.voxel_size_um}; simulate at that size or train another refiner"
        )


def _triple(value: Any) -> Triple:
    z, y, x = (int(v) for v in value)
    return (z, y, x)


def _default_tile(extent: Triple, dims: int) -> Triple:
    """Whole planes, as many as make 2²⁰ voxels, where they fit; else squares or cubes of them."""
    plane = extent[1] * extent[2]
    if dims == 2:
        side = int(_TILE_VOXELS**0.5)
        return (max(1, _TILE_VOXELS // plane), *extent[1:]) if plane <= _TILE_VOXELS else (1, side, side)
    if extent[0] * plane <= _TILE_VOXELS:
        return extent
    return (64, 128, 128)
