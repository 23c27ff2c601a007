"""What measuring and meshing will take: two blocks are summed, a few objects meshed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fewslice.blocks.preflight import (
    Estimate,
    Trial,
    check_fits,
    estimate_blocks,
    free_disk,
    free_memory,
    probe,
    probed_blocks,
    scratch_beside,
    shared_by,
)
from fewslice.geometry import Block, BlockGrid, Box, Shape
from fewslice.measurement.job import Source, merged_sums
from fewslice.measurement.meshes import MeshObjects, as_block, boxes_of_table, mesh_error
from fewslice.measurement.objects import StoredPrediction, cut, measured_volume, sum_job
from fewslice.measurement.surface import surface_weights

__all__ = ["estimate_measurement", "estimate_meshes"]

Triple = tuple[float, float, float]

_TABLE_BYTES = 250
"""Of a table's row and of what is held of an object at once."""
_FEW = 4


def estimate_measurement(
    labels: Source,
    table: Path,
    *,
    voxel_size_um: Triple | None = None,
    image: Source | None = None,
    regions: Source | None = None,
    prediction: StoredPrediction | None = None,
    block: Shape | None = None,
    workers: int = 1,
) -> Estimate:
    """Measure what :func:`fewslice.measurement.measure_objects` will take on this machine; nothing is kept.

    Parameters
    ----------
    labels, table, voxel_size_um, image, regions, prediction, block
        As there.
    workers
        Processes on this machine that will share the work.

    Raises
    ------
    InputError
        If it cannot fit into memory or onto the disk; a block that would fit is named.
    """
    volume, size = measured_volume(labels, voxel_size_um)
    weights = surface_weights(size, volume.shape)
    float_image = image is not None and image.open_image().dtype.kind == "f"

    def attempt(grid: BlockGrid, blocks: Sequence[Block], folder: Path) -> Trial:
        exponent = 0 if float_image else None
        job = sum_job(labels, folder, weights, image, exponent, regions, prediction)
        found = probe(job, blocks, folder)
        rows = sum(len(np.load(path, mmap_mode="r")) for path in folder.glob("*.objects.npy"))
        written = sum(item.write.size for item in blocks)
        return Trial([found], round(_TABLE_BYTES * rows / written * math.prod(grid.shape)))

    grid = BlockGrid(volume.shape, cut(volume, block), (0, 0, 0), (1, 1, 1))
    return estimate_blocks(labels.path, grid, table, attempt, workers=workers)


def estimate_meshes(
    labels: Source,
    folder: Path,
    objects: Sequence[int] | None = None,
    *,
    kind: str = "glb",
    voxel_size_um: Triple | None = None,
    error_um: float | None = None,
    smoothing: int = 10,
    table: Path | None = None,
    workers: int = 1,
) -> Estimate:
    """Measure what :func:`fewslice.measurement.meshes.mesh_objects` will take on this machine; nothing is kept.

    Objects whose boxes are known from a table are counted, others are as many as two blocks let expect.

    Parameters
    ----------
    labels, folder, objects, kind, voxel_size_um, error_um, smoothing, table
        As there.
    workers
        Processes on this machine that will share the work.

    Raises
    ------
    InputError
        If it cannot fit into memory or onto the disk.
    """
    volume, size = measured_volume(labels, voxel_size_um)
    error = mesh_error(error_um, size)
    boxes = boxes_of_table(volume.content_hash(whole=True), table) if table is not None else None
    grid = BlockGrid(volume.shape, cut(volume, None), (0, 0, 0), (1, 1, 1))
    seconds, expected = 0.0, 1.0
    if boxes is None:  # a pass over the blocks will find them
        boxes, seconds, expected = _boxes_expected(labels, size, volume.shape, grid, folder)
    wanted = [k for k in (boxes if objects is None else objects) if k in boxes]
    chosen = sorted(wanted, key=lambda k: boxes[k].size)[-_FEW:]  # the largest need most memory
    plan = [as_block(k, boxes[k]) for k in chosen] or [as_block(0, Box((0, 0, 0), (1, 1, 1)))]
    with scratch_beside(folder) as scratch:
        job = MeshObjects(labels, scratch, kind, size, error, smoothing)
        found = probe(job, plan if chosen else [], scratch) if chosen else None
    voxels = sum(boxes[k].size for k in wanted) * (expected if objects is None else 1.0)
    if found is not None:
        seconds += found.seconds_per_voxel * voxels
    estimate = Estimate(
        what=labels.path,
        blocks=round(len(wanted) * (expected if objects is None else 1.0)),
        block=tuple(int(n) for n in np.max([b.write.shape for b in plan], axis=0)),
        halo=(1, 1, 1),
        workers=workers,
        seconds=seconds / shared_by(workers),
        memory_bytes=(found.memory_bytes if found is not None else 0) * workers,
        memory_free_bytes=free_memory(),
        gpu_bytes=None,
        gpu_free_bytes=None,
        disk_bytes=int(found.bytes_per_voxel * voxels) if found is not None else 0,
        disk_free_bytes=free_disk(folder),
    )
    check_fits(estimate, lambda share: None)
    return estimate


def _boxes_expected(
    labels: Source, size: Triple, shape: Shape, grid: BlockGrid, output: Path
) -> tuple[dict[int, Box], float, float]:
    """Return the boxes of objects in two blocks, the seconds to find all, and how many times as many there will be."""
    blocks = probed_blocks(grid)
    weights = replace(surface_weights(size, shape), weights=(0,) * len(surface_weights(size, shape).weights))
    with scratch_beside(output) as scratch:
        found = probe(sum_job(labels, scratch, weights), blocks, scratch)
        boxes = {}
        for sums in merged_sums(str(scratch), blocks):
            rows = zip(sums["id"].tolist(), sums["low"].tolist(), sums["high"].tolist(), strict=True)
            boxes.update({k: Box(tuple(low), tuple(high)) for k, low, high in rows})
    seen = sum(block.write.size for block in blocks)
    return boxes, found.seconds_per_voxel * math.prod(shape), math.prod(shape) / seen
