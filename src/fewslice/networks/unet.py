"""U-Net in two or three dimensions, shaped by the voxel's anisotropy (Ronneberger 2015, Çiçek 2016, Isensee 2021).

1. `default_pooling` and `default_kernels` derive the shape of the network from voxel size and patch.
2. `Config` holds the settings; `Config.adapted` fills in what follows from the data.
3. `UNet` is the network; `receptive_radius` walks its layers backwards to find its halo.

What is not a setting was chosen by its speed on a CPU (Mvoxel/s of training with 16 features, 4 levels, patch
32 × 64 × 64, bfloat16): coarse features come up through a 1 × 1 convolution and nearest-neighbour upsampling and are
added to the skip connection (2.1); concatenated they reach 1.6, concatenated after transposed convolutions 1.6, added
after transposed convolutions 1.9. Strided convolutions are no faster than max pooling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from fewslice.errors import InputError

__all__ = [
    "Config",
    "ConvolutionBlock",
    "Levels",
    "UNet",
    "build",
    "default_kernels",
    "default_pooling",
    "inflated",
    "receptive_radius",
]

Triple = tuple[int, int, int]
Norm = Literal["batch", "instance", "none"]

_SMALLEST_EXTENT = 4
_COARSE = 2.0


def default_pooling(
    voxel_size_um: tuple[float, float, float] | None,
    patch: Triple,
    depth: int,
) -> tuple[Triple, ...]:
    """Choose by how much each step down shrinks each axis, as nnU-Net does.

    An axis is halved while its spacing is less than twice the finest one's and halving leaves at least 4 voxels of the
    patch. So anisotropic voxels become cubes first, and are halved along all axes from then on.

    Parameters
    ----------
    voxel_size_um
        (z, y, x), or None for cubes.
    patch
        (z, y, x) in voxels; 1 along z gives the pooling of a 2D network.
    depth
        Levels wanted, at least 1.

    Returns
    -------
    tuple of (z, y, x)
        Factors of each step down, finest first: ``depth - 1`` of them, or fewer if the patch is too small for more.
    """
    spacing = list(voxel_size_um or (1.0, 1.0, 1.0))
    extent = list(patch)
    steps: list[Triple] = []
    while len(steps) < depth - 1:
        able = [a for a in range(3) if extent[a] // 2 >= _SMALLEST_EXTENT]
        if not able:
            break
        finest = min(spacing[a] for a in able)
        factors = [2 if a in able and spacing[a] < _COARSE * finest else 1 for a in range(3)]
        steps.append((factors[0], factors[1], factors[2]))
        extent = [e // f for e, f in zip(extent, factors, strict=True)]
        spacing = [s * f for s, f in zip(spacing, factors, strict=True)]
    return tuple(steps)


def default_kernels(
    voxel_size_um: tuple[float, float, float] | None,
    pooling: Sequence[Triple],
    dims: int = 3,
) -> tuple[Triple, ...]:
    """Choose the kernel of each level: 3 along an axis, but 1 while its spacing is twice the finest one's or more.

    Parameters
    ----------
    voxel_size_um
        (z, y, x), or None for cubes.
    pooling
        (z, y, x) factors of each step down.
    dims
        2 sets the kernel along z to 1.

    Returns
    -------
    tuple of (z, y, x)
        One more than `pooling`, finest level first.
    """
    spacing = list(voxel_size_um or (1.0, 1.0, 1.0))
    kernels: list[Triple] = []
    for step in (*pooling, (1, 1, 1)):
        finest = min(spacing[3 - dims :])
        sizes = [3 if s < _COARSE * finest else 1 for s in spacing]
        kernels.append((sizes[0] if dims == 3 else 1, sizes[1], sizes[2]))
        spacing = [s * f for s, f in zip(spacing, step, strict=True)]
    return tuple(kernels)


class Levels(BaseModel):
    """Settings of a network that goes down some levels and up again, and how they follow from the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dims: Literal[2, 3] = Field(3, description="2: planes, 3: volumes")
    features: int = Field(16, ge=1, le=512, description="channels of the finest level, doubled by each step down")
    max_features: int = Field(320, ge=1, le=4096, description="channels of a level are at most this many")
    depth: int = Field(4, ge=1, le=8, description="levels, at most: small patches allow fewer")
    pooling: tuple[Triple, ...] | None = Field(None, description="(z, y, x) factors of each step down; None: derived")
    kernels: tuple[Triple, ...] | None = Field(None, description="(z, y, x) kernel of each level; None: derived")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, values, count in (("pooling", self.pooling, self.depth - 1), ("kernels", self.kernels, self.depth)):
            if values is None:
                continue
            if len(values) != count:
                raise ValueError(f"{name} has {len(values)} entries; a depth of {self.depth} needs {count}")
            if any(v < 1 for value in values for v in value):
                raise ValueError(f"{name} has an entry below 1: {values}")
            if self.dims == 2 and any(value[0] != 1 for value in values):
                raise ValueError(f"{name} of a 2D network must be 1 along z, got {values}")
        if self.kernels is not None and any(v % 2 == 0 for value in self.kernels for v in value):
            raise ValueError(f"kernels must be odd along every axis, got {self.kernels}")
        return self

    def adapted(self, voxel_size_um: tuple[float, float, float] | None, patch: Triple) -> Self:
        """Return settings with `pooling`, `kernels` and `depth` as data of this kind needs; keep those that are set.

        Parameters
        ----------
        voxel_size_um
            (z, y, x), or None for cubes. z is ignored by 2D networks: pass planes in their own orientation.
        patch
            (z, y, x) in voxels.

        Raises
        ------
        InputError
            If kernels are set for more levels than the patch has room for.
        """
        if self.dims == 2:
            patch = (1, patch[1], patch[2])
            if voxel_size_um is not None:
                voxel_size_um = (min(voxel_size_um[1:]), voxel_size_um[1], voxel_size_um[2])
        pooling = self.pooling
        if pooling is None:
            # Kernels that are set fix the depth.
            pooling = default_pooling(voxel_size_um, patch, self.depth)
            if self.kernels is not None and len(pooling) < self.depth - 1:
                raise InputError(
                    f"patch {patch} (z, y, x) is too small for {self.depth} levels; "
                    f"use a larger patch or at most {len(pooling) + 1} kernels"
                )
        kernels = self.kernels or default_kernels(voxel_size_um, pooling, self.dims)
        return type(self)(**self.model_dump() | {"pooling": pooling, "kernels": kernels, "depth": len(pooling) + 1})

    @property
    def resolved_pooling(self) -> tuple[Triple, ...]:
        """`pooling`, or halving along every axis if it is None."""
        step: Triple = (2, 2, 2) if self.dims == 3 else (1, 2, 2)
        return (step,) * (self.depth - 1) if self.pooling is None else self.pooling

    @property
    def level_features(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(min(self.features * 2**level, self.max_features) for level in range(self.depth))


class Config(Levels):
    """Settings of the U-Net. Those left at None follow from the data: see `adapted`."""

    norm: Norm = Field("batch", description="after each convolution; instance: over the whole block, so blocks differ")
    skips: Literal["add", "concatenate"] = Field("add", description="how features of the way down join the way up")
    upsampling: Literal["nearest", "transposed"] = Field(
        "nearest", description="1 x 1 convolution and repeated values, or a convolution transposed (Ronneberger 2015)"
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="share of channels dropped, in the two coarsest levels")

    @property
    def resolved_kernels(self) -> tuple[Triple, ...]:
        """`kernels`, or 3 along every axis, but 1 along z until z is first pooled where in-plane steps come before."""
        if self.kernels is not None:
            return self.kernels
        pooling = self.resolved_pooling
        first = next((level for level, step in enumerate(pooling) if step[0] > 1), 0)
        return tuple((1 if level < first or self.dims == 2 else 3, 3, 3) for level in range(self.depth))


class ConvolutionBlock(nn.Sequential):
    """Two times convolution, normalisation, ReLU.

    Parameters
    ----------
    dims
        2 or 3.
    in_features, out_features
        Channels.
    kernel
        (z, y, x).
    norm
        Kind of normalisation.
    dropout
        Share of channels dropped after the block.
    """

    convolutions = 2

    def __init__(
        self, dims: int, in_features: int, out_features: int, kernel: Triple, norm: Norm, dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = []
        for channels in (in_features, out_features):
            layers += [
                convolution(dims, channels, out_features, kernel, bias=norm == "none"),
                normalisation(dims, out_features, norm),
                nn.ReLU(inplace=True),
            ]
        if dropout:
            layers.append(nn.Dropout2d(dropout) if dims == 2 else nn.Dropout3d(dropout))
        super().__init__(*layers)


class UNet(nn.Module):
    """The U-Net; attributes and tensors as :mod:`fewslice.networks` says.

    With ``norm="instance"`` outputs also depend on mean and variance over the whole input, so `halo`, which covers the
    convolutions, does not make blocks equal to the whole volume.

    Parameters
    ----------
    config
        The settings.
    in_channels, out_channels
        Image channels; classes, background included.
    encoder_block
        Makes the blocks of the way down, with the arguments of :class:`ConvolutionBlock`; its attribute `convolutions`
        counts the kernels in a row.
    """

    def __init__(
        self,
        config: Config,
        in_channels: int,
        out_channels: int,
        encoder_block: type[ConvolutionBlock] | Callable[..., nn.Module] = ConvolutionBlock,
    ) -> None:
        super().__init__()
        dims, norm = config.dims, config.norm
        features, kernels, pooling = config.level_features, config.resolved_kernels, config.resolved_pooling
        last = config.depth - 1
        self.dims = dims
        self.skips = config.skips
        self.upsampling = config.upsampling
        self.pooling = pooling
        self.down = nn.ModuleList()
        for level in range(config.depth):
            inside = in_channels if level == 0 else features[level - 1]
            dropout = config.dropout if level >= max(1, last - 1) else 0.0
            self.down.append(encoder_block(dims, inside, features[level], kernels[level], norm, dropout))
        self.rise = nn.ModuleList()
        self.up = nn.ModuleList()
        for level in range(last):
            wide = features[level] * (2 if config.skips == "concatenate" else 1)
            if config.upsampling == "nearest":
                self.rise.append(convolution(dims, features[level + 1], features[level], (1, 1, 1), bias=True))
            else:
                self.rise.append(transposed_convolution(dims, features[level + 1], features[level], pooling[level]))
            self.up.append(ConvolutionBlock(dims, wide, features[level], kernels[level], norm))
        self.head = convolution(dims, features[0], out_channels, (1, 1, 1), bias=True)
        initialise(self)
        nn.init.xavier_uniform_(cast(Tensor, self.head.weight))
        divisor = [1, 1, 1]
        for step in pooling:
            divisor = [d * s for d, s in zip(divisor, step, strict=True)]
        self.divisor: Triple = (divisor[0], divisor[1], divisor[2])
        convolutions = int(getattr(encoder_block, "convolutions", 2))
        radius = [
            receptive_radius([k[axis] for k in kernels], [s[axis] for s in pooling], convolutions) for axis in range(3)
        ]
        self.halo: Triple = (radius[0], radius[1], radius[2])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (b, classes, [z,] y, x) for images (b, c, [z,] y, x).

        Raises
        ------
        InputError
            If an extent is not a multiple of `divisor`.
        """
        return cast(Tensor, self.head(self.features(x)[0]))

    def features(self, x: Tensor) -> list[Tensor]:
        """Return what comes out of every level on the way up, finest first, before the head.

        Raises
        ------
        InputError
            If an extent is not a multiple of `divisor`.
        """
        extent = tuple(x.shape[2:])
        if any(e % d for e, d in zip(extent, self.divisor[3 - self.dims :], strict=True)):
            raise InputError(
                f"this U-Net needs extents that are multiples of {self.divisor} (z, y, x), got {extent}; "
                "pad the block or choose another patch"
            )
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                skips.append(x)
                x = self._pool(x, self.pooling[level - 1])
            x = block(x)
        found = [x]
        for level in reversed(range(len(self.up))):
            x = self.rise[level](x)
            x = self._unpool(x, self.pooling[level]) if self.upsampling == "nearest" else x
            skip = skips.pop()
            x = self.up[level](skip + x if self.skips == "add" else torch.cat((skip, x), dim=1))
            found.append(x)
        return found[::-1]

    def _pool(self, x: Tensor, step: Triple) -> Tensor:
        return F.max_pool3d(x, step) if self.dims == 3 else F.max_pool2d(x, step[1:])

    def _unpool(self, x: Tensor, step: Triple) -> Tensor:
        return F.interpolate(x, scale_factor=[float(s) for s in step[3 - self.dims :]], mode="nearest")


def build(config: Config, in_channels: int, out_channels: int) -> UNet:
    """Build the U-Net."""
    return UNet(config, in_channels, out_channels)


def inflated(weights: Mapping[str, Tensor], config: Config, axis: int = 0) -> dict[str, Tensor]:
    """Turn the weights of a 2D U-Net into those of a 3D one that sees planes one by one, as the 2D one does.

    Each 2D kernel becomes the middle plane of a 3D kernel that is 0 elsewhere. (For video, where neighbours are nearly
    the same image, Carreira and Zisserman, CVPR 2017, repeat it along the new axis instead.) Where the 3D network does
    not pool across planes its output is that of the 2D network; where it does, neighbouring planes share coarse
    features.

    Parameters
    ----------
    weights
        State of the 2D network.
    config
        Of the 3D network, which has the levels and features of the 2D one.
    axis
        0, 1, 2 = z, y, x: across which of them the planes lie that the 2D network sees.

    Raises
    ------
    InputError
        If a weight has no place in a network of `config`.
    """
    first, last = weights["down.0.0.weight"], weights["head.weight"]
    wanted = UNet(config, first.shape[1], last.shape[0]).state_dict()
    found: dict[str, Tensor] = {}
    for name, own in wanted.items():
        weight = weights.get(name)
        if weight is not None and weight.ndim == own.ndim - 1 and weight.ndim > 1:
            flat, weight = weight.unsqueeze(2 + axis), torch.zeros_like(own)
            middle = weight.narrow(2 + axis, own.shape[2 + axis] // 2, 1)
            if middle.shape == flat.shape:
                middle.copy_(flat)
            else:
                weight = flat
        if weight is None or weight.shape != own.shape:
            raise InputError(
                f"a 3D U-Net with {config.features} features and {config.depth} levels cannot begin as this 2D one: "
                f"{name} does not fit; give both the same network settings but for dims"
            )
        found[name] = weight
    return found


def receptive_radius(
    kernels: Sequence[int],
    pooling: Sequence[int],
    encoder_convolutions: int = 2,
    *,
    level: int = 0,
    margin: int = 0,
) -> int:
    """How far an output can see along one axis, in voxels.

    Walks the network backwards from every output position of one pooling cell and returns the furthest input that
    any of them reaches, before or after. Position i of a level stands for its first voxel, i times the level's stride.

    Parameters
    ----------
    kernels
        Kernel of each level along the axis, finest first.
    pooling
        Factor of each step down along the axis.
    encoder_convolutions
        Convolutions in a row per level on the way down; on the way up there are two.
    level
        The level whose output is looked at.
    margin
        How far what follows that level sees of its output, in positions of the level.
    """

    def reach(level: int, low: int, high: int) -> tuple[int, int]:
        """Return the inputs of `level` that its outputs low … high depend on."""
        encoder = encoder_convolutions * (kernels[level] // 2)
        if level < len(pooling):
            step, decoder = pooling[level], 2 * (kernels[level] // 2)
            low, high = low - decoder, high + decoder
            below = reach(level + 1, low // step, high // step)
            low, high = min(low, below[0] * step), max(high, below[1] * step + step - 1)
        return low - encoder, high + encoder

    stride = math.prod(pooling[:level])
    furthest = 0
    for position in range(math.prod(pooling[level:])):
        low, high = reach(level, position - margin, position + margin)
        for step, kernel in zip(reversed(pooling[:level]), reversed(kernels[:level]), strict=True):
            encoder = encoder_convolutions * (kernel // 2)
            low, high = low * step - encoder, high * step + step - 1 + encoder
        furthest = max(furthest, position * stride - low, high - position * stride)
    return furthest


def convolution(dims: int, in_features: int, out_features: int, kernel: Triple, *, bias: bool) -> nn.Module:
    """Make a convolution that keeps the extent, padded by zeros."""
    z, y, x = (k // 2 for k in kernel)
    if dims == 2:
        return nn.Conv2d(in_features, out_features, kernel[1:], padding=(y, x), bias=bias)
    return nn.Conv3d(in_features, out_features, kernel, padding=(z, y, x), bias=bias)


def transposed_convolution(dims: int, in_features: int, out_features: int, step: Triple) -> nn.Module:
    """Make a transposed convolution that enlarges by `step` (z, y, x), each coarse voxel its own piece."""
    if dims == 2:
        return nn.ConvTranspose2d(in_features, out_features, step[1:], stride=step[1:])
    return nn.ConvTranspose3d(in_features, out_features, step, stride=step)


def normalisation(dims: int, features: int, norm: Norm) -> nn.Module:
    """Make a normalisation with a learned scale and offset per channel, or none."""
    if norm == "batch":
        return nn.BatchNorm2d(features) if dims == 2 else nn.BatchNorm3d(features)
    if norm == "instance":
        return nn.InstanceNorm2d(features, affine=True) if dims == 2 else nn.InstanceNorm3d(features, affine=True)
    return nn.Identity()


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions as suits ReLU (He 2015); biases are 0."""
    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):  # each output sees one input voxel
            nn.init.normal_(layer.weight, std=(2.0 / layer.in_channels) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
