"""Image-to-image network with spatially-adaptive modulation (SPADE, Park et al. 2019), made to refine simulated images.

The channels that come in are the condition m: the intensity to be changed, then whatever says where things are (masks,
boundaries) and noise. A residual is drawn from m alone, coarse to fine, and added to the intensity:

1. The coarsest level starts from a convolution of m, resized to it by nearest neighbour.
2. Each level is a residual block whose normalisations are modulated by m at that level (`Modulation`);
   nearest-neighbour upsampling leads to the next.
3. The last convolution's output r is bounded, b·r / (b + |r|) < b, and added to the first channels of m.

Most of the work is done on coarse levels, which is what makes it fast on a CPU; only the finest block sees every pixel.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from fewslice.errors import InputError
from fewslice.networks.unet import Levels, convolution

__all__ = ["PURPOSE", "Config", "Modulation", "SpadeBlock", "SpadeGenerator", "build", "receptive_radius"]

PURPOSE = "image_to_image"

Triple = tuple[int, int, int]
Norm = Literal["batch", "instance"]

_SLOPE = 0.2  # of the leaky ReLU, as published


class Config(Levels):
    """Settings of the generator. Those left at None follow from the data: see `adapted`."""

    dims: Literal[2, 3] = Field(2, description="2: planes, 3: volumes")
    features: int = Field(32, ge=1, le=512, description="channels of the finest level, doubled by each step down")
    max_features: int = Field(64, ge=1, le=1024, description="channels of a level are at most this many")
    depth: int = Field(3, ge=1, le=6, description="levels, at most: small patches allow fewer")
    hidden: int = Field(32, ge=1, le=512, description="channels between m and its modulation; 128 as published")
    bound: float = Field(2.0, gt=0, description="largest change of an intensity, in units of the normalised image")
    norm: Norm = Field("batch", description="what is modulated; instance: over the whole block, so blocks differ")

    @property
    def resolved_kernels(self) -> tuple[Triple, ...]:
        """`kernels`, or 3 along every axis if it is None."""
        kernel: Triple = (3, 3, 3) if self.dims == 3 else (1, 3, 3)
        return (kernel,) * self.depth if self.kernels is None else self.kernels


class Modulation(nn.Module):
    """norm(x)·(1 + γ(m)) + β(m), with a norm that has no parameters of its own (Park 2019, equation 1).

    γ and β share one convolution of m with ReLU and have one convolution each after it; these two are kept as one
    convolution with twice the channels, γ first, which is the same and faster.

    Parameters
    ----------
    dims
        2 or 3.
    features
        Channels of x.
    condition
        Channels of m.
    hidden
        Channels of the shared convolution.
    kernel
        (z, y, x) of all convolutions.
    norm
        Kind of normalisation.
    """

    def __init__(self, dims: int, features: int, condition: int, hidden: int, kernel: Triple, norm: Norm) -> None:
        super().__init__()
        self.norm = _parameter_free(dims, features, norm)
        self.shared = convolution(dims, condition, hidden, kernel, bias=True)
        self.gamma_beta = convolution(dims, hidden, 2 * features, kernel, bias=True)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """Return x (b, features, [z,] y, x) modulated by m (b, condition, [z,] y, x) of the same extent."""
        gamma, beta = self.gamma_beta(F.relu(self.shared(m))).chunk(2, dim=1)
        normed = self.norm(x)
        return torch.addcmul(normed + beta, normed, gamma)


class SpadeBlock(nn.Module):
    """shortcut(x) + conv(act(mod(conv(act(mod(x, m))), m))) with leaky ReLUs.

    Where the channels change, the shortcut is a modulation and a 1 × 1 convolution, else x itself.
    """

    def __init__(
        self, dims: int, in_features: int, out_features: int, condition: int, hidden: int, kernel: Triple, norm: Norm
    ) -> None:
        super().__init__()
        middle = min(in_features, out_features)
        self.first = Modulation(dims, in_features, condition, hidden, kernel, norm)
        self.first_convolution = convolution(dims, in_features, middle, kernel, bias=True)
        self.second = Modulation(dims, middle, condition, hidden, kernel, norm)
        self.second_convolution = convolution(dims, middle, out_features, kernel, bias=True)
        self.shortcut: Modulation | None = None
        if in_features != out_features:
            self.shortcut = Modulation(dims, in_features, condition, hidden, kernel, norm)
            self.shortcut_convolution = convolution(dims, in_features, out_features, (1, 1, 1), bias=False)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """Return (b, out_features, [z,] y, x) for (b, in_features, [z,] y, x) and the condition of the same extent."""
        own = x if self.shortcut is None else self.shortcut_convolution(self.shortcut(x, m))
        x = self.first_convolution(F.leaky_relu(self.first(x, m), _SLOPE))
        x = self.second_convolution(F.leaky_relu(self.second(x, m), _SLOPE))
        return cast(Tensor, own + x)


class SpadeGenerator(nn.Module):
    """The generator; attributes and tensors as :mod:`fewslice.networks` says of image-to-image networks.

    With ``norm="instance"`` outputs also depend on mean and variance over the whole input, so `halo`, which covers the
    convolutions, does not make blocks equal to the whole.

    Parameters
    ----------
    config
        The settings.
    in_channels
        Channels of the condition, the intensity first.
    out_channels
        Channels of the intensity.

    Raises
    ------
    InputError
        If the condition has fewer channels than the intensity.
    """

    def __init__(self, config: Config, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if in_channels < out_channels:
            raise InputError(
                f"spade_generator changes the first {out_channels} of its channels, but is given {in_channels}; "
                "give it the intensity first and then what it is conditioned on"
            )
        dims, kernels, features = config.dims, config.resolved_kernels, config.level_features
        self.dims = dims
        self.out_channels = out_channels
        self.bound = config.bound
        self.pooling = config.resolved_pooling
        self.start = convolution(dims, in_channels, features[-1], kernels[-1], bias=True)
        self.blocks = nn.ModuleList()  # coarsest first
        for level in reversed(range(config.depth)):
            inside = features[min(level + 1, config.depth - 1)]
            self.blocks.append(
                SpadeBlock(dims, inside, features[level], in_channels, config.hidden, kernels[level], config.norm)
            )
        self.head = convolution(dims, features[0], out_channels, kernels[0], bias=True)
        _initialise(self)
        total: list[Triple] = [(1, 1, 1)]
        for step in self.pooling:
            z, y, x = (t * s for t, s in zip(total[-1], step, strict=True))
            total.append((z, y, x))
        self.level_strides = tuple(total)
        self.divisor: Triple = total[-1]
        radius = [receptive_radius([k[axis] for k in kernels], [s[axis] for s in self.pooling]) for axis in range(3)]
        self.halo: Triple = (radius[0], radius[1], radius[2])

    def forward(self, m: Tensor) -> Tensor:
        """Return the changed intensity (b, out_channels, [z,] y, x) for the condition (b, in_channels, [z,] y, x).

        Raises
        ------
        InputError
            If an extent is not a multiple of `divisor`.
        """
        extent = tuple(m.shape[2:])
        if any(e % d for e, d in zip(extent, self.divisor[3 - self.dims :], strict=True)):
            raise InputError(
                f"this generator needs extents that are multiples of {self.divisor} (z, y, x), got {extent}; "
                "pad the block or choose another patch"
            )
        layout = torch.channels_last if self.dims == 2 else torch.channels_last_3d
        levels = [self._resized(m, stride).contiguous(memory_format=layout) for stride in self.level_strides]
        x = self.start(levels[-1])
        for level, block in zip(reversed(range(len(levels))), self.blocks, strict=True):
            if level < len(levels) - 1:
                factors = [float(s) for s in self.pooling[level][3 - self.dims :]]
                x = F.interpolate(x, scale_factor=factors, mode="nearest")
            x = block(x, levels[level])
        r: Tensor = self.head(F.leaky_relu(x, _SLOPE))
        return m[:, : self.out_channels] + self.bound * r / (self.bound + r.abs())

    def _resized(self, m: Tensor, stride: Triple) -> Tensor:
        """Resize by nearest neighbour: of each cell its first voxel."""
        return m[(slice(None), slice(None), *(slice(None, None, s) for s in stride[3 - self.dims :]))]


def build(config: Config, in_channels: int, out_channels: int) -> SpadeGenerator:
    """Build the generator."""
    return SpadeGenerator(config, in_channels, out_channels)


def receptive_radius(kernels: list[int], pooling: list[int]) -> int:
    """How far an output can see along one axis, in voxels.

    Walks backwards from every output position of one pooling cell. In a block of kernel radius r, what enters it is
    seen 2r away, and the condition 4r away, through two convolutions of the modulation before two of the block.

    Parameters
    ----------
    kernels
        Of each level, finest first.
    pooling
        Factors of each step down, finest first.
    """
    strides = [1]
    for step in pooling:
        strides.append(strides[-1] * step)
    furthest = 0
    for position in range(strides[-1]):
        low = high = position
        for level, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            radius = kernel // 2
            if level == 0:
                low, high = low - radius, high + radius  # the last convolution
            else:
                low, high = low // pooling[level - 1], high // pooling[level - 1]
            seen = (low - 4 * radius) * stride, (high + 4 * radius) * stride
            furthest = max(furthest, position - seen[0], seen[1] - position)
            low, high = low - 2 * radius, high + 2 * radius
    return furthest


def _parameter_free(dims: int, features: int, norm: Norm) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(features, affine=False) if dims == 2 else nn.BatchNorm3d(features, affine=False)
    return nn.InstanceNorm2d(features) if dims == 2 else nn.InstanceNorm3d(features)


def _initialise(network: SpadeGenerator) -> None:
    """Xavier-uniform weights; the head's a tenth of that, so that the image is hardly changed at first."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.xavier_uniform_(cast(Tensor, network.head.weight), gain=0.1)
