"""Fully convolutional discriminator that judges local patches (Shrivastava 2017; PatchGAN, Isola 2017).

Each output is a score of the patch it sees, and nothing else: convolutions without padding and no normalisation over
the image. How large that patch is, the receptive field, is the one setting that matters. About one to one and a half
cell diameters lets the discriminator judge texture, borders and surroundings of cells, but not demand another layout.
:func:`layout` finds kernels and strides for any receptive field, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)
from torch.nn.utils.parametrizations import spectral_norm

from fewslice.errors import InputError

__all__ = ["PURPOSE", "Config", "PatchDiscriminator", "build", "layout", "receptive_field"]

PURPOSE = "discriminator"

Triple = tuple[int, int, int]

_FIRST, _KERNEL = 3, 4
_SLOPE = 0.2


def receptive_field(layers: Sequence[tuple[int, int]]) -> int:
    """Return how many voxels in a row one output sees through layers (kernel, stride): 1 + Σᵢ (kᵢ − 1)·Πⱼ﹤ᵢ sⱼ."""
    seen, jump = 1, 1
    for kernel, stride in layers:
        seen += (kernel - 1) * jump
        jump *= stride
    return seen


def layout(wanted: int) -> tuple[tuple[int, int], ...]:
    """Find the layers whose receptive field is exactly `wanted` voxels.

    From 6 on there is a first layer of kernel 3 and stride 1, so that no pattern is finer than what is judged, then n
    of kernel 4 and stride 2, then one of kernel 4. Together they see 6·2ⁿ voxels (6, 12, 24, 48, 96); n is the largest
    that does not exceed `wanted`. What is missing is added as further layers of kernel 4 at the coarsest stride, then
    by larger kernels, coarse ones first.

    Parameters
    ----------
    wanted
        Receptive field in voxels, at least 1.

    Returns
    -------
    tuple of (kernel, stride)
        First layer first; a single one below 6.

    Raises
    ------
    InputError
        If `wanted` is below 1.

    Examples
    --------
    >>> layout(24)
    ((3, 1), (4, 2), (4, 2), (4, 1))
    >>> receptive_field(layout(41))
    41
    """
    if wanted < 1:
        raise InputError(f"a receptive field of {wanted} voxels sees nothing; ask for at least 1")
    if wanted < _FIRST + _KERNEL - 1:
        return ((wanted, 1),)
    halvings = 0
    while 6 * 2 ** (halvings + 1) <= wanted:
        halvings += 1
    coarsest = 2**halvings
    layers = [(_FIRST, 1), *[(_KERNEL, 2)] * halvings]
    further, missing = divmod(wanted - receptive_field(layers), (_KERNEL - 1) * coarsest)
    layers += [(_KERNEL, 1)] * further
    jumps = [1, *(2**i for i in range(halvings)), *[coarsest] * further]
    for index in reversed(range(len(layers))):
        more, missing = divmod(missing, jumps[index])
        layers[index] = (layers[index][0] + more, layers[index][1])
    return tuple(layers)


class Config(BaseModel):
    """Settings of the discriminator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dims: Literal[2, 3] = Field(2, description="2: planes, 3: volumes")
    receptive_field: Triple | None = Field(
        None, description="(z, y, x) voxels that one score judges, z ignored in 2D; None: derived from patch or cells"
    )
    features: int = Field(16, ge=1, le=512, description="channels of the first layer, doubled by each later one")
    max_features: int = Field(128, ge=1, le=1024, description="channels of a layer are at most this many")
    spectral: bool = Field(
        False, description="divide each layer's weights by their largest singular value (Miyato 2018)"
    )

    @field_validator("receptive_field")
    @classmethod
    def _sees_something(cls, value: Triple | None) -> Triple | None:
        if value is not None and min(value) < 1:
            raise ValueError(f"receptive_field {value} must be at least 1 along z, y and x")
        return value

    def adapted(self, voxel_size_um: tuple[float, float, float] | None, patch: Triple) -> Self:
        """Return settings with a receptive field of half a patch, of the same length in µm along every axis.

        One that is set is kept; where the diameter of cells is known, set it to 1 to 1.5 of that.
        """
        if self.receptive_field is not None:
            return self
        spacing = voxel_size_um or (1.0, 1.0, 1.0)
        axes = range(3 - self.dims, 3)
        length = min(patch[a] * spacing[a] for a in axes) / 2
        z, y, x = (max(1, round(length / spacing[a])) if a in axes else 1 for a in range(3))
        return self.model_copy(update={"receptive_field": (z, y, x)})


class PatchDiscriminator(nn.Module):
    """Convolutions and leaky ReLUs; attributes and tensors as :mod:`fewslice.networks` says of discriminators.

    Parameters
    ----------
    config
        The settings; a receptive field of None is 24 along every axis.
    in_channels
        Channels of the image.
    out_channels
        Scores per patch.
    """

    def __init__(self, config: Config, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.dims = config.dims
        wanted = config.receptive_field or (24, 24, 24)
        along = [layout(extent) for extent in wanted[3 - self.dims :]]
        layers = []
        channels, features = in_channels, config.features
        for parts in zip_longest(*along, fillvalue=(1, 1)):
            kernel, stride = tuple(k for k, _ in parts), tuple(s for _, s in parts)
            layers.append(_convolution(self.dims, channels, features, kernel, stride, config.spectral))
            channels, features = features, min(2 * features, config.max_features)
        self.layers = nn.ModuleList(layers)
        self.head = _convolution(self.dims, channels, out_channels, (1,) * self.dims, (1,) * self.dims, config.spectral)
        flat = (1,) * (3 - self.dims)
        self.receptive_field = cast(Triple, (*flat, *(receptive_field(a) for a in along)))
        self.stride = cast(Triple, (*flat, *(math.prod(stride for _, stride in a) for a in along)))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (b, out_channels, [z,] y, x) of the patches of (b, c, [z,] y, x); larger is more real.

        Along each axis there are ⌊(n − receptive field) / stride⌋ + 1 of them.

        Raises
        ------
        InputError
            If the image is smaller than the receptive field.
        """
        if any(n < r for n, r in zip(x.shape[2:], self.receptive_field[3 - self.dims :], strict=True)):
            raise InputError(
                f"the discriminator judges patches of {self.receptive_field} (z, y, x), got {tuple(x.shape[2:])}; "
                "use a larger patch or a smaller receptive_field"
            )
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
        return cast(Tensor, self.head(x))


def build(config: Config, in_channels: int, out_channels: int) -> PatchDiscriminator:
    """Build the discriminator."""
    return PatchDiscriminator(config, in_channels, out_channels)


def _convolution(
    dims: int, inside: int, outside: int, kernel: tuple[int, ...], stride: tuple[int, ...], spectral: bool
) -> nn.Module:
    layer: nn.Conv2d | nn.Conv3d
    if dims == 2:
        layer = nn.Conv2d(inside, outside, (kernel[0], kernel[1]), (stride[0], stride[1]))
    else:
        layer = nn.Conv3d(inside, outside, kernel, stride)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return spectral_norm(layer) if spectral else layer
