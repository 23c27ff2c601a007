"""A model as one network of raw intensities, in operations that exchange formats know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.model import Model, NetworkStep, outputs_of
from fewslice.volume import Volume

__all__ = ["Exported", "Layout", "example", "layout_of"]


@dataclass(frozen=True)
class Layout:
    """Which tensors the exported network takes.

    Attributes
    ----------
    axes
        ``bcyx`` for a model that sees planes one by one, else ``bczyx``.
    divisor, halo
        By spatial axis: extents must be multiples of the one; the other is the context at each border.
    """

    axes: str
    divisor: tuple[int, ...]
    halo: tuple[int, ...]

    @property
    def fixed_batch(self) -> bool:
        """Whether the batch is one volume."""
        return self.axes == "bczyx"


def layout_of(model: Model) -> Layout:
    """Say how the tensors of a model lie; planes of any direction are the y and x of a plane-wise model."""
    alone = len(model.steps) == 1 and model.dims == 2 and model.median == 1
    if not alone:
        return Layout("bczyx", model.divisor, model.receptive_halo)
    keep = [axis for axis in range(3) if axis != model.plane_axis]
    divisor, halo = model.divisor, model.receptive_halo
    return Layout("bcyx", tuple(divisor[a] for a in keep), tuple(halo[a] for a in keep))


class Exported(nn.Module):
    """The whole chain: normalisation, networks, neighbouring planes, median; one view.

    ``forward`` takes float32 intensities as in the image file, (b, c, y, x) or (1, c, z, y, x) as :func:`layout_of`
    says, extents multiples of the divisor, and returns the model's outputs (b, k, …), 0–1: one channel per foreground
    class and, of a model that learned objects, their boundary or distance.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.networks = nn.ModuleList(model.networks)
        self._steps, self._median, self._axis = model.steps, model.median, model.plane_axis
        self._planes = layout_of(model).axes == "bcyx"
        spatial = (1,) * (2 if self._planes else 3)
        self._clipped = model.normalisation.method == "unit"
        self.register_buffer("offset", torch.tensor(model.normalisation.offset, dtype=torch.float32).view(-1, *spatial))
        scale = 1.0 / np.asarray(model.normalisation.scale, dtype=np.float32)
        self.register_buffer("factor", torch.from_numpy(scale).view(-1, *spatial))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Predict."""
        x = (image - self.get_buffer("offset")) * self.get_buffer("factor")
        if self._clipped:
            x = x.clamp(0.0, 1.0)
        if self._planes:
            return outputs_of(self.networks[0](x), self._steps[0].objects)
        first = x
        for step, network in zip(self._steps, self.networks, strict=True):
            volume = int(network.dims) == 3  # type: ignore[arg-type]
            x = outputs_of(network(x), step.objects) if volume else self._plane_by_plane(step, network, x, first)
        if self._median > 1:
            planes = x.movedim(2 + self._axis, 0)
            x = _around(planes, self._median).sort(dim=1).values[:, self._median // 2].movedim(0, 2 + self._axis)
        return x

    def _plane_by_plane(
        self, step: NetworkStep, network: nn.Module, x: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        planes, behind = (t.movedim(2 + step.plane_axis, 1)[0] for t in (x, image))
        if step.gather is not None:
            parts = []
            if step.gather.planes:
                p = _around(planes, step.gather.planes).flatten(1, 2)
                parts.append((p >= step.gather.threshold).to(p.dtype) if step.gather.threshold is not None else p)
            if step.gather.image_planes:
                parts.append(_around(behind, step.gather.image_planes).flatten(1, 2))
            planes = torch.cat(parts, dim=1)
        return outputs_of(network(planes), step.objects)[None].movedim(1, 2 + step.plane_axis)


def _around(planes: torch.Tensor, count: int) -> torch.Tensor:
    """Give (depth, …) its `count` neighbours as a second axis, the ends repeated: (depth, count, …)."""
    depth = planes.shape[0]
    padded = torch.cat([planes[:1]] * (count // 2) + [planes] + [planes[-1:]] * (count // 2))
    return torch.stack([padded[i : i + depth] for i in range(count)], dim=1)


def example(model: Model, image: Volume, source: str) -> NDArray[np.float32]:
    """Cut an input out of the middle of an image: 64 voxels along each axis, or as many as the image and divisor allow.

    Returns
    -------
    ndarray
        float32 of the layout's axes, batch 1.

    Raises
    ------
    InputError
        If the image has other channels than the model, or is too small.
    """
    model.check_channels(image.channels, image.source)
    layout = layout_of(model)
    divisor = list(layout.divisor)
    if layout.axes == "bcyx":
        divisor.insert(model.plane_axis, 1)
    extent = []
    for axis, d in enumerate(divisor):
        flat = layout.axes == "bcyx" and axis == model.plane_axis
        wanted = 1 if flat else max(2 * d, min(64, image.shape[axis]) // d * d)
        if wanted > image.shape[axis]:
            raise InputError(
                f"{image.source} {image.shape} (z, y, x) is too small to show {source} along {'zyx'[axis]}; give an "
                f"--image of at least {wanted} there"
            )
        extent.append(wanted)
    start = [(full - e) // 2 for full, e in zip(image.shape, extent, strict=True)]
    values = image.read(Box(tuple(start), tuple(s + e for s, e in zip(start, extent, strict=True))))
    if layout.axes == "bcyx":
        values = values.squeeze(1 + model.plane_axis)
    return np.ascontiguousarray(values[None], dtype=np.float32)
