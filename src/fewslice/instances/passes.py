"""The block-wise passes: values of paths and numbers that open what a block engine runs.

A region has a 64-bit id: the place of its block in the grid (C order) times 2³², plus its number in the block. So no
pass has to know how many regions any other block has, and a volume may have 2³¹ blocks of up to 2³² voxels each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io, registry
from fewslice.blocks.job import BlockFailure, Note, Work
from fewslice.errors import FewsliceError, InputError
from fewslice.files import checksum, disk_error
from fewslice.geometry import Block, Box, cover
from fewslice.instances.union import merge_shallow
from fewslice.segmenters import CONTACT, Merging, Output, Place, Regions
from fewslice.segmenters._neighbours import unique_contacts

__all__ = ["REGION", "Grid", "LabelBlocks", "LinkBlocks", "RelabelBlocks", "block_file"]

Shape3 = tuple[int, int, int]
Triple = tuple[float, float, float]

REGION = np.dtype([("size", "<i8"), ("peak", "<i4")])
"""A region's voxels in its block, and its greatest height."""

_NUMBER_BITS = 32


@dataclass(frozen=True)
class Grid:
    """How the volume is cut.

    Attributes
    ----------
    shape, block
        (z, y, x) of the volume and of what one block writes, in voxels.
    """

    shape: Shape3
    block: Shape3

    @property
    def counts(self) -> Shape3:
        """Number of blocks along z, y, x."""
        z, y, x = (-(-n // b) for n, b in zip(self.shape, self.block, strict=True))
        return (z, y, x)

    def blocks(self, halo: tuple[int, ...] = (0, 0, 0)) -> list[Block]:
        """List the blocks in C order."""
        return cover(self.shape, self.block, halo)

    def rank(self, index: tuple[int, ...]) -> int:
        """Return the place of a block in C order."""
        return int(np.ravel_multi_index(index, self.counts))


def block_file(folder: Path, block: Block) -> Path:
    """Return the file in which a pass keeps what it knows of a block."""
    return folder / ("_".join(map(str, block.index)) + ".bin")


@dataclass(frozen=True)
class LabelBlocks:
    """Pass 1: find the regions of a block, and merge what is decided inside it.

    Attributes
    ----------
    store, work
        The prediction, and the folder of intermediate files.
    kind, settings
        The segmenter and its settings as JSON.
    channels, outputs
        Positions of the channels that it reads, and what they are.
    threshold
        Foreground threshold, 0–1.
    voxel_size_um
        (z, y, x) in µm, or None.
    grid
        How the volume is cut.
    """

    store: Path
    work: Path
    kind: str
    settings: str
    channels: tuple[int, ...]
    outputs: tuple[Output, ...]
    threshold: float
    voxel_size_um: Triple | None
    grid: Grid

    def open(self) -> Work:
        """Open the files and return what to run."""
        segmenter: ModuleType = registry.load("segmenters", self.kind)
        config = segmenter.Config(**json.loads(self.settings))
        merging = segmenter.merging(config, self.voxel_size_um)
        image = io.open_volume(self.store)
        target = io.open_output(self.work / "regions.ome.zarr")

        def read(block: Block) -> npt.NDArray[Any]:
            try:
                return image.read(block.read, self.channels)
            except (InputError, OSError) as error:
                raise BlockFailure(f"cannot be read: {error}", may_pass=True) from error

        def compute(block: Block, values: npt.NDArray[Any]) -> tuple[Regions, npt.NDArray[np.void]]:
            place = Place(block, self.grid.shape, self.voxel_size_um, self.outputs, self.threshold)
            regions = segmenter.label(config, values, place)
            if merging is not None:
                regions = _contracted(regions, merging, block.write, self.grid.shape)
            table = np.zeros(regions.peaks.size, dtype=REGION)
            table["size"] = np.bincount(regions.labels.ravel(), minlength=regions.peaks.size + 1)[1:]
            table["peak"] = regions.peaks
            return regions, table

        def write(block: Block, result: tuple[Regions, npt.NDArray[np.void]]) -> Note:
            regions, table = result
            sums = {"regions.ome.zarr/0": target.write(block.write, regions.labels[None])}
            files = (
                _store(self.work, block_file(self.work / "contacts", block), regions.contacts),
                _store(self.work, block_file(self.work / "regions", block), table),
            )
            return {"checksums": sums, "files": dict(files)}

        return Work(read, compute, write)


def _contracted(regions: Regions, merging: Merging, write: Box, shape: Shape3) -> Regions:
    """Merge what is decided by the regions that lie wholly inside the block."""
    count = regions.peaks.size
    open_ = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        for outer, side in ((write.start[axis] > 0, 0), (write.stop[axis] < shape[axis], -1)):
            if outer:
                open_[np.take(regions.labels, side, axis=axis)] = True
    contacts = regions.contacts
    inner = contacts[contacts["b"] > 0]
    group = merge_shallow(regions.peaks, inner, merging, a=inner["a"] - 1, b=inner["b"] - 1, open_=open_[1:])
    names = np.concatenate([[0], group + 1])
    peaks = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.int32).min, dtype=np.int32)
    np.maximum.at(peaks, group, regions.peaks)
    merged = contacts.copy()
    merged["a"] = names[contacts["a"]]
    merged["b"] = np.where(contacts["b"] > 0, names[np.maximum(contacts["b"], 0)], contacts["b"])
    swapped = (merged["b"] > 0) & (merged["b"] < merged["a"])
    merged["a"][swapped], merged["b"][swapped] = merged["b"][swapped], merged["a"][swapped]
    kept = unique_contacts(merged[merged["a"] != merged["b"]])
    return Regions(names.astype(np.uint32)[regions.labels], peaks, kept)


@dataclass(frozen=True)
class LinkBlocks:
    """Pass 2: turn the contacts of a block into pairs of ids, looking up the voxels that lie in other blocks."""

    work: Path
    grid: Grid

    def open(self) -> Work:
        """Open the files and return what to run."""
        regions = io.open_volume(self.work / "regions.ome.zarr")
        block, shape = np.asarray(self.grid.block), self.grid.shape

        def read(item: Block) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
            contacts = _load(block_file(self.work / "contacts", item), CONTACT)
            outside = np.flatnonzero(contacts["b"] < 0)
            places, inverse = np.unique(-1 - contacts["b"][outside], return_inverse=True)
            found = np.zeros(places.size, dtype=np.int64)
            voxels = np.stack(np.unravel_index(places, shape), axis=1).reshape(-1, 3)
            owner = np.ravel_multi_index(tuple((voxels // block).T), self.grid.counts)
            for rank in np.unique(owner):
                of_it = np.flatnonzero(owner == rank)
                low, high = voxels[of_it].min(axis=0), voxels[of_it].max(axis=0) + 1
                part = regions.read(Box(tuple(map(int, low)), tuple(map(int, high))))[0]
                number = part[tuple((voxels[of_it] - low).T)].astype(np.int64)
                found[of_it] = (int(rank) << _NUMBER_BITS) + number
            contacts["b"][outside] = found[inverse]
            return contacts, outside

        def compute(item: Block, linked: tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]) -> npt.NDArray[np.void]:
            contacts, outside = linked
            own = self.grid.rank(item.index) << _NUMBER_BITS
            inside = np.ones(contacts.size, dtype=bool)
            inside[outside] = False
            contacts["a"] += own
            contacts["b"][inside] += own
            return unique_contacts(contacts)

        def write(item: Block, contacts: npt.NDArray[np.void]) -> Note:
            return {"files": dict([_store(self.work, block_file(self.work / "links", item), contacts)])}

        return Work(read, compute, write)


@dataclass(frozen=True)
class RelabelBlocks:
    """Pass 4: write a block with the objects' names, which lie in ``names.npy``, block after block."""

    store: Path
    work: Path
    grid: Grid

    def open(self) -> Work:
        """Open the files and return what to run."""
        regions = io.open_volume(self.work / "regions.ome.zarr")
        target = io.open_output(self.store, labels="instances")
        names = np.load(self.work / "names.npy", mmap_mode="r", allow_pickle=False)
        first = np.load(self.work / "first.npy", allow_pickle=False)

        def read(block: Block) -> npt.NDArray[np.uint32]:
            labels: npt.NDArray[np.uint32] = regions.read(block.write)[0]
            return labels

        def compute(block: Block, labels: npt.NDArray[np.uint32]) -> npt.NDArray[Any]:
            rank = self.grid.rank(block.index)
            own = np.concatenate([[0], names[first[rank] : first[rank + 1]]]).astype(target.array.dtype)
            result: npt.NDArray[Any] = own[labels]
            return result

        def write(block: Block, labels: npt.NDArray[Any]) -> Note:
            return {"checksums": {"labels/instances/0": target.write(block.write, labels)}}

        return Work(read, compute, write)


def _store(folder: Path, path: Path, values: npt.NDArray[np.void]) -> tuple[str, int]:
    """Write the bytes of a table, and return its name in the folder and its checksum.

    A file that a kill cut is written again, since its block is not marked.
    """
    content = values.tobytes()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise error if isinstance(error, FewsliceError) else disk_error(error, path) from error
    return path.relative_to(folder).as_posix(), checksum(content)


def _load(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[np.void]:
    return np.frombuffer(path.read_bytes(), dtype=dtype).copy()
