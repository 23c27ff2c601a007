"""What finding objects will take: all passes on two blocks, with the rest of the volume left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from fewslice import io, registry
from fewslice.blocks.outputs import Contents, create_store
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.preflight import Estimate, Trial, estimate_blocks, probe
from fewslice.geometry import Block, BlockGrid
from fewslice.instances.from_image import READ_VOXELS, MaskBlocks
from fewslice.instances.passes import REGION, Grid, LabelBlocks, LinkBlocks, RelabelBlocks, block_file
from fewslice.instances.segmentation import StoredOutputs, begin, chunk_of, cut
from fewslice.segmenters import CONTACT
from fewslice.volume import Volume

__all__ = ["estimate_mask", "estimate_segmentation"]

_UNION_BYTES = 100
"""Of memory for every contact, see :func:`fewslice.instances.union.unite`."""
_PYRAMID = 0.2


def estimate_segmentation(
    stored: StoredOutputs,
    kind: str,
    config: BaseModel,
    *,
    threshold: float | None = None,
    block: tuple[int, int, int] | None = None,
    workers: int = 1,
) -> Estimate:
    """Measure what :func:`fewslice.instances.segment_store` will take on this machine; nothing is kept.

    Parameters
    ----------
    stored, kind, config, threshold, block
        As there.
    workers
        Processes on this machine that will share the work.

    Raises
    ------
    InputError
        If it cannot fit into memory or onto the disk; a block that would fit is named.
    """
    segmenter = registry.load("segmenters", kind)
    channels = segmenter.channels(stored.outputs)
    threshold = stored.threshold if threshold is None else threshold
    shape, voxel = stored.image.shape, stored.image.voxel_size_um
    planned, halo = cut(segmenter.halo(config, voxel), shape, block)

    def attempt(blocks_of: BlockGrid, blocks: Sequence[Block], folder: Path) -> Trial:
        z, y, x = blocks_of.block
        grid = Grid(shape, (z, y, x))
        work, store = folder / "work", folder / "OUT.ome.zarr"
        begin(work, "probe", grid, chunk_of(grid), voxel)
        create_store(store, Contents(shape, ("none",), voxel, chunk_of(grid), segmented=False), {})
        io.create_labels(store, "instances", shape=shape, dtype=np.uint32, chunks=chunk_of(grid))
        label = LabelBlocks(
            stored.path.absolute(), work, kind, config.model_dump_json(), channels,
            tuple(stored.outputs[i] for i in channels), threshold, voxel, grid,
        )  # fmt: skip
        probes = [probe(label, blocks, work, "label"), probe(LinkBlocks(work, grid), blocks, work, "link")]
        first = np.zeros(len(blocks_of) + 1, dtype=np.int64)
        contacts = 0
        for item in blocks:
            first[grid.rank(item.index) + 1 :] += block_file(work / "regions", item).stat().st_size // REGION.itemsize
            contacts += block_file(work / "links", item).stat().st_size // CONTACT.itemsize
        np.save(work / "names.npy", np.arange(1, first[-1] + 1, dtype=np.uint64))
        np.save(work / "first.npy", first)
        probes.append(probe(RelabelBlocks(store, work, grid), blocks, folder, "relabel"))
        written = sum(item.write.size for item in blocks)
        regions = int(first[-1])
        return Trial(probes, round(_UNION_BYTES * (contacts + regions) * np.prod(shape, dtype=float) / written))

    blocks_of = BlockGrid(shape, planned.block, halo, (1, 1, 1))
    return estimate_blocks(
        str(stored.path), blocks_of, stored.path, attempt, workers=workers, stored_once_more=_PYRAMID
    )


def estimate_mask(
    image: Volume, output: Path, kind: str, config: BaseModel, source: io.VolumeSource, *, workers: int = 1
) -> Estimate:
    """Measure what :func:`fewslice.instances.from_image.mask_image` will take on this machine; nothing is kept.

    Parameters
    ----------
    image, output, kind, config, source
        As there. The image is surveyed as it will be.
    workers
        Processes on this machine that will share the work.

    Raises
    ------
    InputError
        If it cannot fit into memory or onto the disk.
    """
    segmenter = registry.load("segmenters", kind)
    halo = segmenter.foreground_halo(config, image.voxel_size_um)
    chunk = choose_chunk(image.shape)
    facts = json.dumps(segmenter.survey(config, image, None))

    def attempt(blocks_of: BlockGrid, blocks: Sequence[Block], folder: Path) -> Trial:
        store = folder / "OUT.ome.zarr"
        small = tuple(min(c, b) for c, b in zip(chunk, blocks_of.block, strict=True))
        create_store(store, Contents(image.shape, ("foreground",), image.voxel_size_um, small), {})
        return Trial([probe(MaskBlocks(source, store, kind, config.model_dump_json(), facts), blocks, folder)])

    blocks_of = BlockGrid(image.shape, choose_block(image.shape, halo, chunk, READ_VOXELS), halo, (1, 1, 1))
    return estimate_blocks(image.source, blocks_of, output, attempt, workers=workers, stored_once_more=_PYRAMID)
