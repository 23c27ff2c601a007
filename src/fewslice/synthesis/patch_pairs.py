"""What a refiner learns from: simulated patches with what is known of them, and real patches, unpaired.

1. :func:`condition` joins a simulated patch with its annotation and noise, as the generator wants it.
2. :class:`PatchPairs` draws both; a batch is a pure function of the step, so that a resumed training sees the same
   ones.
3. A quarter of every real image is kept for measuring realism where the image is large enough for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from fewslice.data.normalisation import Normalisation
from fewslice.geometry import Box
from fewslice.synthesis.simulation import Simulation
from fewslice.volume import Volume

__all__ = ["EXTRA_CHANNELS", "PairBatch", "PatchPairs", "boundaries", "condition", "draw_noise"]

EXTRA_CHANNELS = 3
"""Channels of a condition after the intensity: objects, their boundaries, noise."""

Picture = npt.NDArray[np.float32]
Triple = tuple[int, int, int]

_NOISE_SIGMAS = (0.0, 1.5, 4.0)


def boundaries(instances: npt.NDArray[np.unsignedinteger], dims: int) -> npt.NDArray[np.bool_]:
    """Mark voxels with a face neighbour of another id, background included.

    Parameters
    ----------
    instances
        (z, y, x), 0 background.
    dims
        2: neighbours in the plane only.

    Returns
    -------
    ndarray
        (z, y, x) bool; one voxel on either side of each border.
    """
    marked = np.zeros(instances.shape, dtype=bool)
    for axis in range(3 - dims, 3):
        high: tuple[slice, ...] = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        low: tuple[slice, ...] = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        changes = instances[high] != instances[low]
        marked[high] |= changes
        marked[low] |= changes
    return marked


def draw_noise(shape: Sequence[int], draw: np.random.Generator) -> Picture:
    """Draw noise with mean 0 and variance 1 that holds as much of fine as of coarse.

    The sum of three independent fields, white noise blurred in the plane by 0, 1.5 and 4 voxels: the generator need not
    make coarse texture out of fine noise.

    Parameters
    ----------
    shape
        (z, y, x).
    draw
        Source of the draws.
    """
    total = np.zeros(tuple(shape), dtype=np.float32)
    for sigma in _NOISE_SIGMAS:
        field = draw.standard_normal(total.shape, dtype=np.float32)
        if sigma:
            # the blur leaves 1 / (4 π σ²) of the variance
            field = ndimage.gaussian_filter(field, (0, sigma, sigma), mode="wrap") * (2 * np.sqrt(np.pi) * sigma)
        total += field
    return np.asarray(total / np.sqrt(len(_NOISE_SIGMAS)), dtype=np.float32)


def condition(intensity: Picture, instances: npt.NDArray[np.unsignedinteger], noise: Picture, dims: int) -> Picture:
    """Join what the generator is conditioned on.

    Parameters
    ----------
    intensity
        (c, z, y, x) normalised.
    instances
        (z, y, x) object ids.
    noise
        (z, y, x), see :func:`draw_noise`.
    dims
        As of :func:`boundaries`.

    Returns
    -------
    ndarray
        (c + 3, z, y, x) float32: intensity, objects (0 or 1), boundaries (0 or 1), noise.
    """
    masks = np.stack([instances > 0, boundaries(instances, dims)]).astype(np.float32)
    return np.concatenate([intensity, masks, noise[None]])


@dataclass(frozen=True)
class PairBatch:
    """Patches of one step.

    Attributes
    ----------
    condition
        (b, c + 3, [z,] y, x) float32, see :func:`condition`.
    real
        (b, c, [z,] y, x) float32, normalised; they belong to no condition.
    """

    condition: torch.Tensor
    real: torch.Tensor

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on `device`, in the memory layout that is fastest there."""
        layout = torch.channels_last if self.real.ndim == 4 else torch.channels_last_3d
        moved = (t.to(device, non_blocking=True, memory_format=layout) for t in (self.condition, self.real))
        return PairBatch(*moved)


@dataclass(frozen=True)
class PatchPairs:
    """Draws batches.

    Attributes
    ----------
    simulated
        Number 0, 1, … → simulation, always the same for the same number; it should remember what it made.
    simulations
        Numbers below this are for training, those from it on for measuring realism.
    targets
        Unlabelled real volumes.
    source, target
        Normalisation of simulated and of real images.
    patch
        (z, y, x) in voxels; 1 along z for a 2D generator.
    dims
        2 or 3.
    batch_size
        Patches of each kind per batch.
    flips
        Whether patches are mirrored along y and x at random, simulated and real ones alike.
    seed
        Makes the sequence of batches.
    """

    simulated: Callable[[int], Simulation]
    simulations: int
    targets: Sequence[Volume]
    source: Normalisation
    target: Normalisation
    patch: Triple
    dims: int
    batch_size: int
    flips: bool
    seed: int
    _boxes: tuple[tuple[Box, Box], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Divide every real image into what is learned from and what realism is measured on."""
        object.__setattr__(self, "_boxes", tuple(_divided(t.shape, self.patch) for t in self.targets))

    def batch(self, step: int) -> PairBatch:
        """Return the batch of `step` (0, 1, …): the same for the same seed, in any order of calls."""
        draw = np.random.default_rng([self.seed, 3, step])
        conditions = [self._condition(int(draw.integers(self.simulations)), draw)[0] for _ in range(self.batch_size)]
        real = [self._real(draw, 0) for _ in range(self.batch_size)]
        return PairBatch(self._stacked(conditions), self._stacked(real))

    def held_out(self, count: int, simulations: int, margin: Triple) -> tuple[PairBatch, list[Simulation]]:
        """Return `count` patches of each kind that training does not see, and the simulated ones as simulations.

        Parameters
        ----------
        count
            Patches of each kind.
        simulations
            How many simulations they are taken from.
        margin
            (z, y, x) voxels by which conditions exceed the patch on either side, mirrored at the borders of a
            simulation.
        """
        draw = np.random.default_rng([self.seed, 4])
        drawn = [self._condition(self.simulations + k % simulations, draw, margin) for k in range(count)]
        real = [self._real(draw, 1) for _ in range(count)]
        return PairBatch(self._stacked([d[0] for d in drawn]), self._stacked(real)), [d[1] for d in drawn]

    def _stacked(self, pieces: Sequence[Picture]) -> torch.Tensor:
        joined = torch.from_numpy(np.stack(pieces))
        return joined.squeeze(2) if self.dims == 2 else joined

    def _condition(
        self, number: int, draw: np.random.Generator, margin: Triple = (0, 0, 0)
    ) -> tuple[Picture, Simulation]:
        whole = self.simulated(number)
        place = _draw_place(Box.of(whole.shape), self.patch, draw)
        flip = self._flip(draw)
        wide = place.grow(margin)
        image = Volume.from_array(whole.image).read_mirrored(wide)[(slice(None), *flip)]
        instances = Volume.from_array(whole.instances).read_mirrored(wide)[0][flip]
        noise = draw_noise(wide.shape, draw)
        inside = tuple(slice(m, m + n) for m, n in zip(margin, self.patch, strict=True))
        piece = Simulation(
            image=np.ascontiguousarray(image[(slice(None), *inside)]),
            semantic=np.ascontiguousarray(whole.semantic[place.slices][flip]),
            instances=np.ascontiguousarray(instances[inside]),
            voxel_size_um=whole.voxel_size_um,
            channel_names=whole.channel_names,
            class_names=whole.class_names,
        )
        return condition(self.source.apply(image), instances, noise, self.dims), piece

    def _real(self, draw: np.random.Generator, part: int) -> Picture:
        sizes = np.array([boxes[part].size for boxes in self._boxes], dtype=np.float64)
        index = int(draw.choice(len(sizes), p=sizes / sizes.sum()))
        place = _draw_place(self._boxes[index][part], self.patch, draw)
        flip = self._flip(draw)
        return self.target.apply(self.targets[index].read(place)[(slice(None), *flip)])

    def _flip(self, draw: np.random.Generator) -> tuple[slice, slice, slice]:
        y, x = (slice(None, None, -1 if self.flips and flip else 1) for flip in draw.random(2) < 0.5)
        return slice(None), y, x


def _draw_place(region: Box, patch: Triple, draw: np.random.Generator) -> Box:
    start = tuple(
        int(draw.integers(low, high - size + 1))
        for low, high, size in zip(region.start, region.stop, patch, strict=True)
    )
    return Box(start, tuple(s + p for s, p in zip(start, patch, strict=True)))


def _divided(shape: Triple, patch: Triple) -> tuple[Box, Box]:
    """Keep the last quarter along the axis on which it holds most patches; twice the whole if none holds one."""
    whole = Box.of(shape)
    room = [extent // 4 // size for extent, size in zip(shape, patch, strict=True)]
    axis = max((2, 1, 0), key=lambda a: room[a])
    if room[axis] < 1:
        return whole, whole
    border = shape[axis] - shape[axis] // 4
    learned = Box(whole.start, tuple(border if a == axis else e for a, e in enumerate(shape)))
    kept = Box(tuple(border if a == axis else 0 for a in range(3)), whole.stop)
    return learned, kept
