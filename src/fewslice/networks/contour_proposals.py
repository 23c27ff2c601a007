"""Contour proposal network (Upschulte et al. 2022): a U-Net that proposes a closed contour at every second pixel.

1. `Config` holds the settings; `Config.adapted` lowers the depth where a patch is too small for it.
2. `ContourProposals` is the network: a U-Net as trunk and four heads, `ProposalMaps`. Its method `propose` reads off
   what they say: the positions whose score reaches a threshold, with their contours.
3. `contours_at` turns the maps at chosen positions into the points of contours; `refine` moves each point by the vector
   that the refinement field holds under it, again and again.

Contours are described in :mod:`fewslice.data.contours`, positions in :mod:`fewslice.data.contour_targets`. The network
speaks in multiples of a typical radius, and what it adds is counted from a circle of that radius around the position:
untrained, it proposes circles.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fewslice.data.contour_targets import STRIDE
from fewslice.data.contours import fourier_basis
from fewslice.networks import unet
from fewslice.networks.unet import UNet, convolution, initialise, normalisation, receptive_radius

__all__ = ["PURPOSE", "Config", "ContourProposals", "Proposed", "ProposalMaps", "build", "contours_at", "refine"]

Triple = tuple[int, int, int]

PURPOSE = "contours"

_KERNEL = 7
_SMALLEST_EXTENT = 4
_AT_ONCE = 2**15
_RADIUS, _REACH = 10.0, 40


class Config(BaseModel):
    """Settings of the contour proposal network. Those left at None follow from the annotation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: int = Field(16, ge=1, le=512, description="channels of the finest level, doubled by each step down")
    max_features: int = Field(320, ge=1, le=4096, description="channels of a level are at most this many")
    depth: int = Field(5, ge=2, le=8, description="levels, at most: small patches allow fewer")
    order: int = Field(5, ge=1, le=64, description="harmonics of a contour")
    samples: int = Field(32, ge=8, le=1024, description="points of a contour")
    refinement_iterations: int = Field(4, ge=0, le=64, description="times that every point is moved")
    refinement_reach_px: float = Field(3.0, gt=0, description="a point moves by less than this each time, pixels")
    refinement_buckets: int = Field(1, ge=1, le=64, description="parts of a contour, each with a refinement field")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="share of channels dropped in the heads")
    radius: float | None = Field(None, gt=0, description="typical radius of objects, pixels; None: 10, or as annotated")
    reach: int | None = Field(
        None,
        ge=1,
        description="contours are refined up to this far from their position, pixels; None: 40 or as annotated",
    )

    def adapted(self, voxel_size_um: tuple[float, float, float] | None, patch: Triple) -> Self:
        """Return settings with as many levels as leave 4 pixels of the patch; every step down halves y and x."""
        del voxel_size_um
        depth = self.depth
        while depth > 2 and min(patch[1:]) // 2 ** (depth - 1) < _SMALLEST_EXTENT:
            depth -= 1
        return self.model_copy(update={"depth": depth})

    def trunk(self) -> unet.Config:
        """Return the settings of the U-Net."""
        pooling = ((1, 2, 2),) * (self.depth - 1)
        kernels = ((1, 3, 3),) * self.depth
        return unet.Config(
            dims=2,
            features=self.features,
            max_features=self.max_features,
            depth=self.depth,
            pooling=pooling,
            kernels=kernels,
        )


class ProposalMaps(NamedTuple):
    """What the network says of a batch.

    Attributes
    ----------
    score
        (b, classes, y/2, x/2) logits: is this the core of an object of the class?
    location
        (b, 2, y/2, x/2) from the position to the contour's mean point, (y, x) in pixels.
    fourier
        (b, 4 · order, y/2, x/2) coefficients a₁, b₁, c₁, d₁, a₂, … in pixels.
    refinement
        (b, 2 · buckets, y, x) steps (y, x) in pixels.
    """

    score: Tensor
    location: Tensor
    fourier: Tensor
    refinement: Tensor


class Proposed(NamedTuple):
    """Contours that the network proposes in a batch of planes.

    Attributes
    ----------
    anchor
        (n, 3) int64: plane, and the pixel (y, x) whose position proposes the contour.
    score
        (n,) float32 in 0–1.
    category
        (n,) int64: the class 1, 2, … of the highest score.
    contour
        (n, samples, 2) float32 (y, x) in pixels.
    """

    anchor: Tensor
    score: Tensor
    category: Tensor
    contour: Tensor


class ContourProposals(nn.Module):
    """The network; attributes and tensors as :mod:`fewslice.networks` says.

    Parameters
    ----------
    config
        The settings.
    in_channels, out_channels
        Image channels; classes, background included.
    """

    dims = 2
    strides: ClassVar[dict[str, int]] = {"score": STRIDE, "location": STRIDE, "fourier": STRIDE, "refinement": 1}

    def __init__(self, config: Config, in_channels: int, out_channels: int) -> None:
        super().__init__()
        trunk = config.trunk()
        fine, coarse = trunk.level_features[:2]
        self.config = config
        self.radius = config.radius or _RADIUS
        self.reach = config.reach or _REACH
        self.trunk = UNet(trunk, in_channels, 1)
        self.trunk.head = nn.Identity()
        self.score = _head(coarse, out_channels - 1, config.dropout)
        self.location = _head(coarse, 2, config.dropout, gain=0.1)
        self.fourier = _head(coarse, 4 * config.order, config.dropout, gain=0.1)
        self.refinement = _head(fine, 2 * config.refinement_buckets, config.dropout, gain=0.1)
        circle = torch.zeros(config.order, 4)
        circle[0, 0] = circle[0, 3] = 1.0
        self.register_buffer("circle", circle.view(1, -1, 1, 1), persistent=False)
        self.divisor = self.trunk.divisor
        kernels, pooling = [k[1] for k in trunk.resolved_kernels], [p[1] for p in trunk.resolved_pooling]
        halo = max(receptive_radius(kernels, pooling, level=level, margin=_KERNEL // 2) for level in (0, 1))
        self.halo: Triple = (0, halo, halo)

    def forward(self, x: Tensor) -> ProposalMaps:
        """Return the maps for images (b, c, y, x).

        Raises
        ------
        InputError
            If an extent is not a multiple of `divisor`.
        """
        fine, coarse = self.trunk.features(x)[:2]
        return ProposalMaps(
            self.score(coarse),
            self.location(coarse) * self.radius,
            (self.fourier(coarse) + cast(Tensor, self.circle)) * self.radius,
            torch.tanh(self.refinement(fine)) * self.config.refinement_reach_px,
        )

    def scores(self, maps: ProposalMaps) -> Tensor:
        """Return (b, classes, y, x) scores 0–1: every pixel has that of its position."""
        score = maps.score.float().sigmoid()
        return score.repeat_interleave(STRIDE, dim=2).repeat_interleave(STRIDE, dim=3)

    def propose(self, maps: ProposalMaps, threshold: float, extent: tuple[int, int] | None = None) -> Proposed:
        """Return the contours of all positions whose best score reaches a threshold, plane by plane, row by row.

        Parameters
        ----------
        maps
            What this network says of a batch of planes.
        threshold
            0–1.
        extent
            (y, x) of the image, where it has been extended to the divisor; None: that of the maps.
        """
        height, width = extent or maps.refinement.shape[2:]
        scores = maps.score.float().sigmoid()[:, :, : -(-height // STRIDE), : -(-width // STRIDE)]
        best, category = scores.max(dim=1)
        anchors = (best >= threshold).nonzero()
        found = [torch.zeros((0, self.config.samples, 2), device=best.device)]
        for part in anchors.split(_AT_ONCE):  # bounds the memory where the network says yes everywhere
            points, _, _ = contours_at(maps, part, self.config.samples)
            iterations = self.config.refinement_iterations
            refined = refine(points, part, maps.refinement, iterations, self.reach, (height, width))
            found.append(refined[-1] if refined else points)
        chosen = tuple(anchors.unbind(1))
        pixel = anchors * torch.tensor([1, STRIDE, STRIDE], device=anchors.device)
        return Proposed(pixel, best[chosen], category[chosen] + 1, torch.cat(found))


def build(config: Config, in_channels: int, out_channels: int) -> ContourProposals:
    """Build the contour proposal network."""
    return ContourProposals(config, in_channels, out_channels)


def contours_at(maps: ProposalMaps, anchors: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Read the contours of chosen positions, not refined.

    Parameters
    ----------
    maps
        Of the network.
    anchors
        (m, 3) int64: image, row and column at stride 2.
    samples
        Points per contour.

    Returns
    -------
    points
        (m, samples, 2) float32 (y, x), in pixels.
    centre
        (m, 2) mean points.
    coefficients
        (m, order, 4).
    """
    image, row, column = anchors.unbind(1)
    position = STRIDE * anchors[:, 1:].float() + (STRIDE - 1) / 2
    centre = position + maps.location[image, :, row, column].float()
    coefficients = maps.fourier[image, :, row, column].float().unflatten(1, (-1, 4))
    order = coefficients.shape[1]
    basis = torch.as_tensor(fourier_basis(order, samples), dtype=torch.float32, device=centre.device)
    basis = basis.view(samples, 2 * order).T
    y, x = (coefficients[..., part].flatten(1) @ basis for part in (slice(2, 4), slice(0, 2)))
    return torch.stack((y, x), dim=-1) + centre[:, None], centre, coefficients


def refine(
    points: Tensor,
    anchors: Tensor,
    field: Tensor,
    iterations: int,
    reach: int,
    extent: tuple[int, int] | None = None,
) -> list[Tensor]:
    """Move points by the vectors under them, and return them after every iteration.

    Points are rounded to pixels, beyond the image to its border. A point further than `reach` from its position, along
    y or x, stays: so a contour depends on nothing further away, and is the same wherever the image is cut. No gradient
    goes through where a vector is read, only to the vector.

    Parameters
    ----------
    points
        (m, samples, 2) (y, x), in pixels.
    anchors
        (m, 3) image, row and column at stride 2.
    field
        (b, 2 · buckets, y, x) steps in pixels; sample s of S reads bucket ⌊s · buckets / S⌋.
    iterations
        How many.
    reach
        In pixels.
    extent
        (y, x) of the image, where the field has been extended beyond; None: that of the field.
    """
    height, width = field.shape[2:]
    last = [e - 1 for e in (extent or (height, width))]
    buckets, samples = field.shape[1] // 2, points.shape[1]
    vectors = field.permute(0, 2, 3, 1).reshape(-1, 2)
    bucket = torch.arange(samples, device=points.device) * buckets // samples
    own = STRIDE * anchors[:, None, 1:]
    first = anchors[:, :1] * height
    found = []
    for _ in range(iterations):
        points = points.detach()
        nearest = points.round().long()
        y, x = nearest[..., 0].clamp(0, last[0]), nearest[..., 1].clamp(0, last[1])
        index = ((first + y) * width + x) * buckets + bucket
        step = vectors.index_select(0, index.view(-1)).view(points.shape).float()
        near = ((nearest - own).abs() <= reach).all(-1, keepdim=True)
        points = points + torch.where(near, step, 0.0)
        found.append(points)
    return found


def _head(features: int, channels: int, dropout: float, gain: float = 1.0) -> nn.Sequential:
    """Make a head: 7 × 7 convolution, normalisation, ReLU, dropout, 1 × 1 convolution."""
    head = nn.Sequential(
        convolution(2, features, features, (1, _KERNEL, _KERNEL), bias=False),
        normalisation(2, features, "batch"),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        convolution(2, features, channels, (1, 1, 1), bias=True),
    )
    initialise(head)
    nn.init.xavier_uniform_(cast(Tensor, head[-1].weight), gain=gain)
    return head
