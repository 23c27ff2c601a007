"""What a prediction will take: a small crop tells the memory per voxel, then two real blocks tell the rest.

1. The crop: memory per voxel, so that no block is tried that could not fit.
2. Two blocks from the middle of the volume, predicted and written to a scratch folder beside the output.
3. Both scaled to the whole volume.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from fewslice.blocks.job import Opened
from fewslice.blocks.outputs import create_store
from fewslice.blocks.preflight import (
    Estimate,
    check_fits,
    free_disk,
    free_memory,
    peak_memory,
    probe,
    probed_blocks,
    read_voxels,
    return_freed_memory,
    scratch_beside,
    shared_by,
)
from fewslice.formats._reduce import level_factors
from fewslice.geometry import Box, Shape
from fewslice.model import Model
from fewslice.prediction.blockwise import contents, cut_volume
from fewslice.prediction.job import Settings, predict_work
from fewslice.volume import Volume

__all__ = ["estimate_prediction"]

_CROP_VOXELS = 2**19


def estimate_prediction(
    model: Model,
    image: Volume,
    output: Path,
    *,
    device: torch.device | str = "cpu",
    halo: Shape | None = None,
    block: Shape | None = None,
    shard: Shape | None = None,
    factor: tuple[float, float, float] | None = None,
    workers: int = 1,
) -> Estimate:
    """Measure what a prediction will take on this machine; nothing is left on disk.

    Parameters
    ----------
    model, image, output, device, halo, block, shard, factor
        As for :func:`fewslice.prediction.predict_volume`.
    workers
        Processes on this machine that will share the work.

    Raises
    ------
    InputError
        If it cannot fit into memory or onto the disk; a block that would fit is named.
    DiskError
        If nothing can be written beside the output.
    """
    cut = cut_volume(model, image.shape, halo=halo, block=block, shard=shard, factor=factor)
    blocks = probed_blocks(cut.grid)
    largest = max(b.read.size for b in blocks)
    scale = 1.0 if factor is None else math.prod(factor)
    here, on_gpu = _memory_per_voxel(model.to(device), image, device)
    rest = free_memory()

    def smaller(share: float) -> Shape | None:
        for halvings in range(1, 12):
            other = cut_volume(
                model, image.shape, halo=halo, shard=shard, factor=factor, read_voxels=largest // 2**halvings
            )
            if max(b.read.size for b in probed_blocks(other.grid)) <= 0.8 * share * largest:
                return other.grid.block
        return None

    def estimate(memory: int, gpu: int | None, seconds: float, disk: int) -> Estimate:
        free_gpu = None if gpu is None else int(torch.cuda.mem_get_info(torch.device(device))[0])
        return Estimate(
            what=image.source,
            blocks=len(cut.grid),
            block=cut.grid.block,
            halo=cut.halo,
            workers=workers,
            seconds=seconds,
            memory_bytes=memory * workers,
            memory_free_bytes=rest,
            gpu_bytes=gpu,
            gpu_free_bytes=free_gpu,
            disk_bytes=disk,
            disk_free_bytes=free_disk(output),
        )

    buffers = 2 * largest * image.channels * image.dtype.itemsize  # one block read ahead, one written behind
    memory = int(here[0] + here[1] * largest * scale) + buffers
    gpu = None if on_gpu is None else int(on_gpu * largest * scale)
    check_fits(estimate(memory, gpu, 0.0, 0), smaller)
    with scratch_beside(output) as scratch:
        settings = Settings(scratch / "OUT.ome.zarr", model.threshold, cut.halo, factor)
        create_store(settings.output, contents(image, model, cut), {})
        found = probe(Opened(predict_work(model, image, settings)), blocks, scratch)
    seconds = found.seconds_per_voxel * read_voxels(cut.grid) / shared_by(workers)
    disk = int(found.bytes_per_voxel * math.prod(image.shape) * _with_pyramid(image))
    measured = estimate(max(memory, found.memory_bytes), gpu, seconds, disk)
    check_fits(measured, smaller)
    return measured


def _memory_per_voxel(
    model: Model, image: Volume, device: torch.device | str
) -> tuple[tuple[int, float], float | None]:
    """Return what this process holds anyway and per voxel of a block, in bytes; and per voxel on a GPU."""
    model.probabilities(image.read(_middle(image.shape, _CROP_VOXELS // 64, model.divisor)))  # libraries load
    crop = image.read(_middle(image.shape, _CROP_VOXELS, model.divisor))
    voxels, cuda = math.prod(crop.shape[1:]), torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(torch.device(device))
    return_freed_memory()
    with peak_memory(0.002) as peak:
        before = peak()
        model.probabilities(crop)
        per_voxel = (peak() - before) / voxels
    return (before, per_voxel), torch.cuda.max_memory_reserved(torch.device(device)) / voxels if cuda else None


def _middle(shape: Shape, voxels: int, divisor: Shape) -> Box:
    """Return a box of about so many voxels in the middle, shaped like the volume, in multiples of `divisor`."""
    share = min(1.0, (voxels / math.prod(shape)) ** (1 / 3))
    extent = [min(n, max(1, -(-round(n * share) // d) * d)) for n, d in zip(shape, divisor, strict=True)]
    start = tuple((n - e) // 2 for n, e in zip(shape, extent, strict=True))
    return Box(start, tuple(s + e for s, e in zip(start, extent, strict=True)))


def _with_pyramid(image: Volume) -> float:
    return sum(1 / math.prod(f) for f in level_factors(image.shape, image.voxel_size_um))
