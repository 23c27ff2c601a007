"""The published 2D network of "A 2D+3D CNN Training Strategy with Sparsely Annotated Data" (Castelli et al. 2020).

Three convolutions and two hidden dense layers classify the centre pixel of a 32 × 32 patch. As released:

========  =========================================  ============================
layer     specification                              output for a 32 × 32 patch
========  =========================================  ============================
conv1     32 filters 5 × 5, valid, ReLU              28²
pool1     max 2 × 2, stride 2                        14²
conv2     64 filters 3 × 3, valid, ReLU              12²
pool2     max 2 × 2, stride 2                        6²
conv3     64 filters 3 × 3, valid, ReLU              4²
fc4       128, ReLU, dropout (a 4 × 4 convolution)   1
fc5       128, ReLU, dropout (a 1 × 1 convolution)   1
fc6       classes (a 1 × 1 convolution)              1
========  =========================================  ============================

`Cnn2d.forward_patches` is this table. `Cnn2d.forward` gives every pixel of a plane at once: a pooling of stride 2
followed by a convolution is, for all shifts together, a pooling of stride 1 followed by the same convolution with its
taps 2 apart. So conv2 and pool2 have dilation 2, conv3 and fc4 dilation 4, and the result equals the evaluation of one
reflection-padded patch per pixel.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from fewslice.errors import InputError

__all__ = ["PATCH", "Cnn2d", "Config", "build"]

PATCH = 32
"""Height and width in pixels of the patch whose pixel (16, 16) is classified."""

_BEFORE, _AFTER = PATCH // 2, PATCH - PATCH // 2 - 1


class Config(BaseModel):
    """Settings of the published 2D network; its layers are fixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dropout: float = Field(0.5, ge=0.0, lt=1.0, description="share of hidden units dropped in training, 0-1")

    def adapted(
        self,
        voxel_size_um: tuple[float, float, float] | None,
        patch: tuple[int, int, int],
    ) -> Config:
        """Return the same settings: nothing here depends on the data."""
        del voxel_size_um, patch
        return self


class Cnn2d(nn.Module):
    """Classifies each pixel of a plane from the 32 × 32 pixels around it.

    Attributes
    ----------
    dims, divisor, halo
        As :mod:`fewslice.networks` says: 2, (1, 1, 1), (0, 16, 16).

    Parameters
    ----------
    config
        The settings.
    in_channels
        Image channels; two in the paper.
    out_channels
        Classes, background included.
    """

    dims = 2
    divisor = (1, 1, 1)
    halo = (0, _BEFORE, _BEFORE)

    def __init__(self, config: Config, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.fc4 = nn.Conv2d(64, 128, 4)
        self.fc5 = nn.Conv2d(128, 128, 1)
        self.fc6 = nn.Conv2d(128, out_channels, 1)
        self.dropout = config.dropout
        for layer in (self.conv1, self.conv2, self.conv3, self.fc4, self.fc5):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
        nn.init.xavier_uniform_(self.fc6.weight)
        nn.init.zeros_(cast(Tensor, self.fc6.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Classify every pixel of whole planes.

        The plane is extended by reflection (its edge pixel not repeated), 16 pixels before and 15 after each axis, so
        within 16 pixels of an edge part of what the network sees is mirrored. A block cut out of a larger plane has to
        bring these 16 pixels as its halo.

        Parameters
        ----------
        x
            (b, c, y, x) float, any extent.

        Returns
        -------
        Tensor
            (b, classes, y, x) logits. Memory: about 1 KiB per pixel in float32.
        """
        x = _extend(x)
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(x, 2, stride=1)
        x = F.relu(F.conv2d(x, self.conv2.weight, self.conv2.bias, dilation=2))
        x = F.max_pool2d(x, 2, stride=1, dilation=2)
        x = F.relu(F.conv2d(x, self.conv3.weight, self.conv3.bias, dilation=4))
        x = F.conv2d(x, self.fc4.weight, self.fc4.bias, dilation=4)
        return self._classify(x)

    def forward_patches(self, x: Tensor) -> Tensor:
        """Classify the centre pixel (16, 16) of each patch, as published.

        Parameters
        ----------
        x
            (b, c, 32, 32) float.

        Returns
        -------
        Tensor
            (b, classes) logits.

        Raises
        ------
        InputError
            If the patches are not 32 × 32.
        """
        if tuple(x.shape[-2:]) != (PATCH, PATCH):
            raise InputError(
                f"cnn_2d classifies patches of 32 × 32 pixels, got {tuple(x.shape[-2:])}; call forward for whole planes"
            )
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = self.fc4(F.relu(self.conv3(x)))
        return self._classify(x)[:, :, 0, 0]

    def _classify(self, x: Tensor) -> Tensor:
        x = _drop(F.relu(x), self.dropout, self.training)
        x = _drop(F.relu(self.fc5(x)), self.dropout, self.training)
        return cast(Tensor, self.fc6(x))


def build(config: Config, in_channels: int, out_channels: int) -> Cnn2d:
    """Build the network; 205,026 parameters for 2 channels and 2 classes."""
    return Cnn2d(config, in_channels, out_channels)


def _drop(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout from torch's global generator, `share` rounded to 1/65536.

    On a CPU torch draws one number per unit, serially, which took half of a training step; here one draw of 64 bits
    serves four units, six times faster.
    """
    if not training or share == 0.0 or x.device.type != "cpu":
        return F.dropout(x, share, training)
    batch, channels, height, width = x.shape
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    drawn = bits.view(torch.int16)[: x.numel()].view(batch, height, width, channels).permute(0, 3, 1, 2)
    kept = (drawn >= round(share * 2**16) - 2**15).to(x.dtype)
    return x * kept / (1.0 - share)


def _extend(x: Tensor) -> Tensor:
    """Extend (b, c, y, x) by reflection so that every pixel has a whole patch around it."""
    if min(x.shape[-2:]) > _BEFORE:
        return F.pad(x, (_BEFORE, _AFTER, _BEFORE, _AFTER), mode="reflect")
    for axis in (-2, -1):  # planes smaller than the margin are reflected back and forth
        extent = x.shape[axis]
        period = max(2 * (extent - 1), 1)
        index = torch.arange(-_BEFORE, extent + _AFTER, device=x.device).remainder(period)
        x = x.index_select(axis, torch.minimum(index, period - index) if extent > 1 else torch.zeros_like(index))
    return x
