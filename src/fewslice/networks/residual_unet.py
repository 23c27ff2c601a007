"""U-Net whose way down is made of residual blocks (He 2016; the encoder of nnU-Net's ResEnc, Isensee 2024).

Everything else, settings included, is :mod:`fewslice.networks.unet`'s.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from fewslice.networks import unet
from fewslice.networks.unet import Norm, Triple, UNet, convolution, normalisation

__all__ = ["Config", "ResidualBlock", "build"]


class Config(unet.Config):
    """Settings of the residual U-Net: those of the U-Net."""


class ResidualBlock(nn.Module):
    """ReLU(x + norm(conv(ReLU(norm(conv x))))), where x goes through a 1 × 1 convolution if its channels change.

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
        super().__init__()
        bias = norm == "none"
        self.branch = nn.Sequential(
            convolution(dims, in_features, out_features, kernel, bias=bias),
            normalisation(dims, out_features, norm),
            nn.ReLU(inplace=True),
            convolution(dims, out_features, out_features, kernel, bias=bias),
            normalisation(dims, out_features, norm),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_features != out_features:
            self.shortcut = convolution(dims, in_features, out_features, (1, 1, 1), bias=True)
        self.drop: nn.Module = nn.Identity()
        if dropout:
            self.drop = nn.Dropout2d(dropout) if dims == 2 else nn.Dropout3d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (b, out_features, [z,] y, x) for (b, in_features, [z,] y, x)."""
        out: Tensor = self.drop(F.relu(self.shortcut(x) + self.branch(x)))
        return out


def build(config: Config, in_channels: int, out_channels: int) -> UNet:
    """Build the residual U-Net."""
    return UNet(config, in_channels, out_channels, ResidualBlock)
