"""Random variation of training patches, on tensors, drawn from one generator.

`augment` goes through four steps, each sample of the batch with draws of its own:

1. flips along z, y, x and right-angle turns in the plane: exact, nothing is interpolated;
2. one warp of the plane, affine, elastic and piecewise affine together, the same for every z. Planes are never mixed:
   along z voxels are usually coarser, and annotation comes plane by plane;
3. intensity: gain, contrast, offset, gamma, per channel;
4. blur and noise.

Image, target and weight go through 1 and 2 together. Strengths of contrast, offset, gamma and noise are relative to the
patch itself; gain multiplies the normalised value, so what it does depends on where the normalisation puts 0.

Augmentation as published for mitochondria (Xiao et al., ISBI 2022), beside flips and turns: `affine=0.3` with
`rotation_choices_deg=(22.5, 30, 45)`, `scale=1` and `shear=0`; `piecewise_affine=0.8`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from fewslice.errors import InputError

__all__ = ["Config", "augment"]

_PROBABILITIES = (
    "flip",
    "right_angle",
    "affine",
    "elastic",
    "piecewise_affine",
    "gain",
    "contrast",
    "offset",
    "gamma",
    "blur",
    "noise",
)
_NEARLY_SQUARE = 1.1
# Nodes of a piecewise-affine warp move by at most this share of a cell. From √2 / 4 = 0.354 on, half the smallest
# height of a cell's triangle, its nodes moving against each other could turn it over.
_REACH = 1 / 3


class Config(BaseModel):
    """How often (probability per sample) and how strongly patches are varied."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: float = Field(0.5, ge=0, le=1, description="probability of a flip along each of z, y, x")
    right_angle: float = Field(1.0, ge=0, le=1, description="probability of a turn by 0, 90, 180 or 270 degrees")

    affine: float = Field(0.3, ge=0, le=1, description="probability of rotation, scaling and shear together")
    rotation_deg: float = Field(30.0, ge=0, le=180, description="rotation in the plane up to this, either way")
    rotation_choices_deg: tuple[float, ...] = Field(
        (), description="when given, rotation by exactly one of these, either way, and rotation_deg does not count"
    )
    scale: float = Field(1.25, ge=1, le=4, description="enlarged or shrunk by at most this factor")
    shear: float = Field(0.1, ge=0, le=1, description="shear up to this (1: 45 degrees), either way")

    elastic: float = Field(0.2, ge=0, le=1, description="probability of an elastic warp")
    elastic_spacing: int = Field(24, ge=4, description="distance of independent displacements, pixels")
    elastic_displacement: float = Field(3.0, ge=0, description="largest standard deviation of displacements, pixels")

    piecewise_affine: float = Field(
        0.0, ge=0, le=1, description="probability of a piecewise-affine warp: nodes of a regular grid move at random"
    )
    piecewise_affine_grid: int = Field(4, ge=2, description="nodes of that grid along each axis of the plane")
    piecewise_affine_jitter: tuple[float, float] = Field(
        (0.01, 0.05),
        description="standard deviation of the nodes' displacement along each axis, share of the patch's extent, drawn "
        "uniformly per patch; no node leaves the patch or moves by more than a third of a cell, so that nothing folds",
    )

    gain: float = Field(0.3, ge=0, le=1, description="probability that a channel is multiplied by a factor")
    gain_range: tuple[float, float] = Field((0.75, 1.3), description="that factor")
    contrast: float = Field(0.2, ge=0, le=1, description="probability that a channel is stretched about its mean")
    contrast_range: tuple[float, float] = Field((0.7, 1.4), description="factor of the stretch")
    offset: float = Field(0.2, ge=0, le=1, description="probability that a channel is shifted")
    offset_range: tuple[float, float] = Field((-0.3, 0.3), description="shift, standard deviations of the patch")
    gamma: float = Field(0.2, ge=0, le=1, description="probability of a power law within the channel's own range")
    gamma_range: tuple[float, float] = Field((0.7, 1.5), description="exponent")

    blur: float = Field(0.1, ge=0, le=1, description="probability of a Gaussian blur")
    blur_sigma: tuple[float, float] = Field((0.4, 1.0), description="its sigma, in voxels of the finest axis")
    noise: float = Field(0.2, ge=0, le=1, description="probability of Gaussian noise")
    noise_range: tuple[float, float] = Field((0.0, 0.25), description="its sigma, standard deviations of the patch")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in (
            "piecewise_affine_jitter",
            "gain_range",
            "contrast_range",
            "offset_range",
            "gamma_range",
            "blur_sigma",
            "noise_range",
        ):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} is ({low}, {high}); the first must not exceed the second")
            if low < 0 and name != "offset_range":
                raise ValueError(f"{name} is ({low}, {high}); it must not be negative")
            if low == 0 and name == "gamma_range":
                raise ValueError(f"gamma_range is ({low}, {high}); exponents must be positive")
        if not all(0 <= angle <= 180 for angle in self.rotation_choices_deg):
            raise ValueError(
                f"rotation_choices_deg is {self.rotation_choices_deg}; angles must be 0 to 180, each is used both ways"
            )
        jitter, most = self.piecewise_affine_jitter[1], _REACH / (self.piecewise_affine_grid - 1)
        if jitter > most:
            raise ValueError(
                f"piecewise_affine_jitter goes up to {jitter}; with piecewise_affine_grid={self.piecewise_affine_grid} "
                f"it must not exceed {most:.4f}, a third of a cell, the most that nodes move; lower one of the two"
            )
        return self

    @classmethod
    def none(cls, **settings: float | tuple[float, ...]) -> Self:
        """Return a configuration that changes nothing, except what `settings` switch on (probabilities, ranges)."""
        values: dict[str, float | tuple[float, ...]] = dict.fromkeys(_PROBABILITIES, 0.0)
        return cls.model_validate(values | settings)


def augment(
    image: Tensor,
    target: Tensor,
    weight: Tensor,
    generator: torch.Generator,
    config: Config,
    *,
    voxel_size_um: tuple[float, float, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Vary a batch of patches at random.

    Parameters
    ----------
    image
        (b, c, z, y, x) float32; z = 1 for planes.
    target
        Classes (b, z, y, x), integers below 2²⁴; or probabilities (b, k, z, y, x), float.
    weight
        (b, z, y, x) float32 ≥ 0, 0 = unknown.
    generator
        On the CPU; the source of every draw. The same state and input give the same result.
    config
        How often and how strongly.
    voxel_size_um
        (z, y, x), or None for cubes. Rotations and shears are those of physical space; turns by 90° are made only in
        square patches of square pixels; blur along z is as wide in µm as in the plane.

    Returns
    -------
    image, target, weight
        New tensors of the same shapes and types. Under a warp the image is interpolated linearly, and mirrored where
        the warp reaches outside. The weight is the nearest pixel's, and 0 outside. Classes are the nearest pixel's as
        well; probabilities are interpolated linearly between pixels of positive weight only, so that values where the
        weight is 0 go nowhere.

    Raises
    ------
    InputError
        If shapes do not fit each other.
    """
    _check_shapes(image, target, weight)
    size = voxel_size_um or (1.0, 1.0, 1.0)
    image, target, weight = _turn(image, target, weight, generator, config, size)
    image, target, weight = _warp(image, target, weight, generator, config, size)
    image = _vary_intensity(image, generator, config)
    image = _blur(image, generator, config, size)
    return _add_noise(image, generator, config), target, weight


def _turn(
    image: Tensor,
    target: Tensor,
    weight: Tensor,
    generator: torch.Generator,
    config: Config,
    size: tuple[float, float, float],
) -> tuple[Tensor, Tensor, Tensor]:
    square = image.shape[-1] == image.shape[-2] and max(size[1:]) <= _NEARLY_SQUARE * min(size[1:])
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    for sample in zip(image, target, weight, strict=True):
        flipped = [axis for axis in (-3, -2, -1) if _happens(config.flip, generator)]
        quarters = int(torch.randint(4, (), generator=generator)) if _happens(config.right_angle, generator) else 0
        if not square:
            quarters -= quarters % 2
        a, b, c = (torch.rot90(t.flip(flipped) if flipped else t, quarters, (-2, -1)) for t in sample)
        done.append((a, b, c))
    images, targets, weights = zip(*done, strict=True)
    return torch.stack(images), torch.stack(targets), torch.stack(weights)


def _warp(
    image: Tensor,
    target: Tensor,
    weight: Tensor,
    generator: torch.Generator,
    config: Config,
    size: tuple[float, float, float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Warp the planes of the samples that draw a warp; the inputs are this module's own and are overwritten."""
    shape = (image.shape[-2], image.shape[-1])
    for index in range(len(image)):
        affine = _draw_affine(generator, config, size) if _happens(config.affine, generator) else None
        shift = _draw_displacement(generator, config, shape) if _happens(config.elastic, generator) else None
        jitter = None
        # Nothing is drawn for what is switched off: runs from before this warp existed remain reproducible.
        if config.piecewise_affine > 0 and _happens(config.piecewise_affine, generator):
            jitter = _draw_jitter(generator, config)
        if affine is None and shift is None and jitter is None:
            continue
        grid = _sampling_grid(affine, shift, jitter, shape)
        image[index] = _sample(image[index], grid, "bilinear", "reflection")
        if target.is_floating_point():
            # Unknown voxels may hold anything, NaN included: take them out, then divide by the share that was known.
            known = (weight[index] > 0).to(image.dtype)
            values = torch.where(known > 0, target[index], 0.0)
            both = _sample(torch.cat((values, known[None])), grid, "bilinear", "zeros")
            target[index] = both[:-1] / both[-1].clamp(min=1e-6)
            weight[index] = _sample(weight[index], grid, "nearest", "zeros")
        else:
            both = _sample(torch.stack((target[index].to(weight.dtype), weight[index])), grid, "nearest", "zeros")
            target[index] = both[0].to(target.dtype)
            weight[index] = both[1]
    return image, target, weight


def _draw_affine(generator: torch.Generator, config: Config, size: tuple[float, float, float]) -> Tensor:
    """Draw the (2, 2) matrix that takes output to input offsets from the patch's centre, (y, x) in pixels."""
    angle = math.radians(_draw_angle(generator, config))
    zoom = math.exp(_uniform(-math.log(config.scale), math.log(config.scale), generator))
    shear = _uniform(-config.shear, config.shear, generator)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    physical = turn @ torch.tensor([[1.0, shear], [0.0, 1.0]]) / zoom
    pixel = torch.tensor(size[1:])
    return physical * pixel[None, :] / pixel[:, None]


def _draw_angle(generator: torch.Generator, config: Config) -> float:
    if not config.rotation_choices_deg:
        return _uniform(-config.rotation_deg, config.rotation_deg, generator)
    index, negative = divmod(int(torch.randint(2 * len(config.rotation_choices_deg), (), generator=generator)), 2)
    return -config.rotation_choices_deg[index] if negative else config.rotation_choices_deg[index]


def _draw_displacement(generator: torch.Generator, config: Config, shape: tuple[int, int]) -> Tensor:
    """Draw a smooth (y, x, 2) field of displacements (y, x) in pixels."""
    sigma = _uniform(0.0, config.elastic_displacement, generator)
    nodes = [math.ceil(extent / config.elastic_spacing) + 3 for extent in shape]
    coarse = torch.randn((1, 2, *nodes), generator=generator) * sigma
    # Bicubic between nodes; the outermost ring only supports it.
    fine = F.interpolate(
        coarse, size=[(n - 1) * config.elastic_spacing + 1 for n in nodes], mode="bicubic", align_corners=True
    )
    top, left = (int(torch.randint(config.elastic_spacing, (), generator=generator)) for _ in range(2))
    cut = fine[0, :, config.elastic_spacing + top :, config.elastic_spacing + left :]
    return cut[:, : shape[0], : shape[1]].movedim(0, -1)


def _draw_jitter(generator: torch.Generator, config: Config) -> Tensor:
    """Draw how far each node moves, (node y, node x, 2) along (y, x) in cells.

    As in imgaug's PiecewiseAffine, nodes of the border move as well, and those that would leave the patch stop at its
    edge: this warp alone reaches nothing outside. Unlike there, steps are limited so that no triangle turns over.
    """
    nodes = config.piecewise_affine_grid
    sigma = _uniform(*config.piecewise_affine_jitter, generator) * (nodes - 1)
    step = torch.randn((nodes, nodes, 2), generator=generator) * sigma
    step[0, :, 0].clamp_(min=0)
    step[-1, :, 0].clamp_(max=0)
    step[:, 0, 1].clamp_(min=0)
    step[:, -1, 1].clamp_(max=0)
    length = step.square().sum(-1, keepdim=True).sqrt()
    return step / (length / _REACH).clamp(min=1)


def _piecewise_affine(jitter: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the (y, x, 2) displacements in pixels: `jitter` at the nodes, linear within each triangle between them."""
    nodes = len(jitter)
    cell = torch.tensor([(extent - 1) / (nodes - 1) for extent in shape])
    corners, shares = _triangles(nodes, shape)
    # One pass that gathers, weights and sums; ten times as fast as doing so in three.
    field: Tensor = F.embedding_bag(corners, (jitter * cell).view(-1, 2), per_sample_weights=shares, mode="sum")
    return field.view(*shape, 2)


@lru_cache(maxsize=4)
def _triangles(nodes: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return which three nodes each pixel lies between, (y · x, 3) int64, and its barycentric coordinates, float32.

    The outermost nodes are the outermost pixels' centres. Each cell is cut along the diagonal on which y and x grow
    together. With fractions v, u of the cell along y, x, a pixel holds the share min(u, v) of the diagonal's far end,
    1 − max(u, v) of its near end, and the rest, |u − v|, of the corner on its own side.

    Kept for the latest shapes, 2.3 MB for 256 × 256 pixels; never to be written to.
    """
    place = [torch.linspace(0, nodes - 1, extent, dtype=torch.float64) for extent in shape]
    cell = [p.floor().clamp(max=nodes - 2) for p in place]
    v, u = torch.meshgrid(*(p - c for p, c in zip(place, cell, strict=True)), indexing="ij")
    near = (cell[0][:, None] * nodes + cell[1]).long()
    corners = torch.stack((near, torch.where(u > v, near + 1, near + nodes), near + nodes + 1), -1)
    shares = torch.stack((1 - torch.maximum(u, v), (u - v).abs(), torch.minimum(u, v)), -1)
    return corners.view(-1, 3), shares.float().view(-1, 3)


def _sampling_grid(
    affine: Tensor | None, shift: Tensor | None, jitter: Tensor | None, shape: tuple[int, int]
) -> Tensor:
    """Return the (1, y, x, 2) grid, (x, y) in units of grid_sample without aligned corners.

    Its points are A·(p + piecewise(p)) + elastic(p): what turning first and bending the result afterwards would give.
    """
    y, x = (torch.arange(extent, dtype=torch.float32) - (extent - 1) / 2 for extent in shape)
    offset = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
    if jitter is not None:
        offset = offset + _piecewise_affine(jitter, shape)
    if affine is not None:
        offset = offset @ affine.T
    if shift is not None:
        offset = offset + shift
    half = torch.tensor(shape, dtype=torch.float32) / 2
    return (offset / half).flip(-1)[None]


def _sample(planes: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    """Sample (…, y, x) at `grid`, the same for all leading axes."""
    flat = planes.reshape(1, -1, *planes.shape[-2:])
    return F.grid_sample(flat, grid, mode=mode, padding_mode=padding, align_corners=False).view(planes.shape)


def _vary_intensity(image: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    out = image
    samples, channels = image.shape[:2]
    for index in range(samples):
        for channel in range(channels):
            patch = image[index, channel]
            varied = patch
            if _happens(config.gain, generator):
                varied = varied * _uniform(*config.gain_range, generator)
            if _happens(config.contrast, generator):
                mean = varied.mean()
                varied = torch.lerp(mean, varied, _uniform(*config.contrast_range, generator))
            if _happens(config.offset, generator):
                varied = varied + _uniform(*config.offset_range, generator) * _deviation(patch)
            if _happens(config.gamma, generator):
                low, high = torch.aminmax(varied)
                span = (high - low).clamp(min=1e-6)
                varied = ((varied - low) / span) ** _uniform(*config.gamma_range, generator) * span + low
            if varied is not patch:
                out[index, channel] = varied
    return out


def _blur(image: Tensor, generator: torch.Generator, config: Config, size: tuple[float, float, float]) -> Tensor:
    finest = min(size)
    for index in range(len(image)):
        if not _happens(config.blur, generator):
            continue
        sigma = _uniform(*config.blur_sigma, generator)
        for axis in range(3):
            image[index] = _blur_axis(image[index], 1 + axis, sigma * finest / size[axis])
    return image


def _blur_axis(x: Tensor, axis: int, sigma: float) -> Tensor:
    """Blur (c, z, y, x) along one axis, the border repeated; sigma in voxels."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-(torch.arange(radius + 1) ** 2) / (2 * max(sigma, 1e-3) ** 2))
    kernel = kernel / (2 * kernel.sum() - kernel[0])
    if radius == 0 or kernel[0] > 0.99 or x.shape[axis] == 1:
        return x
    extent = x.shape[axis]
    index = torch.arange(-radius, extent + radius).clamp(0, extent - 1)
    wide = x.index_select(axis, index)
    out = wide.narrow(axis, radius, extent) * float(kernel[0])
    for step in range(1, radius + 1):
        out.add_(wide.narrow(axis, radius - step, extent), alpha=float(kernel[step]))
        out.add_(wide.narrow(axis, radius + step, extent), alpha=float(kernel[step]))
    return out


def _add_noise(image: Tensor, generator: torch.Generator, config: Config) -> Tensor:
    for index in range(len(image)):
        if _happens(config.noise, generator):
            sigma = _uniform(*config.noise_range, generator)
            noise = torch.randn(image.shape[1:], generator=generator)
            image[index] += noise * (sigma * _deviation(image[index], per_channel=True))
    return image


def _deviation(x: Tensor, *, per_channel: bool = False) -> Tensor:
    """Return the standard deviation of all voxels, or of each channel as (c, 1, 1, 1)."""
    return x.std((1, 2, 3), correction=0, keepdim=True) if per_channel else x.std(correction=0)


def _happens(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _check_shapes(image: Tensor, target: Tensor, weight: Tensor) -> None:
    batch, space = image.shape[:1], image.shape[2:]
    expected: Sequence[int] = (*batch, *space)
    fits = image.ndim == 5 and tuple(weight.shape) == tuple(expected)
    if target.is_floating_point():
        fits = fits and target.ndim == 5 and (target.shape[0], *target.shape[2:]) == tuple(expected)
    else:
        fits = fits and tuple(target.shape) == tuple(expected)
    if not fits:
        raise InputError(
            f"image {tuple(image.shape)}, target {tuple(target.shape)} and weight {tuple(weight.shape)} do not fit; "
            "give (b, c, z, y, x), classes (b, z, y, x) or probabilities (b, k, z, y, x), and (b, z, y, x)"
        )
