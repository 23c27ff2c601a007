"""The pass over a label volume: every block's sums on disk, then objects merged in the order of their ids.

1. :class:`SumBlocks` says, in paths and numbers only, what one block's work is; ``open()`` gives the functions that do
   it.
2. :func:`merged_sums` joins the rows of all blocks, some 500,000 at a time, so that memory does not grow with the
   volume.
3. :func:`merged_regions` adds up the voxels of each region.
"""

from __future__ import annotations

import io as memory
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io
from fewslice.blocks.job import BlockFailure, Note, Work
from fewslice.errors import InputError
from fewslice.files import checksum, write_atomic
from fewslice.geometry import Block, Box
from fewslice.measurement.sums import Sums, block_sums, merge, region_voxels
from fewslice.volume import Volume

__all__ = ["LargestValues", "Loaded", "Source", "SumBlocks", "merged_regions", "merged_sums"]

_ROWS = 1 << 19
_SAMPLE = 256


@dataclass(frozen=True)
class Source:
    """A volume by its path, so that any process can open it.

    Attributes
    ----------
    path
        As for :func:`fewslice.io.open_volume`.
    axes
        What its axes mean, if it does not say so.
    """

    path: str
    axes: str | None = None

    def open_image(self) -> Volume:
        """Open it as an image."""
        return io.open_volume(self.path, axes=self.axes)

    def open_labels(self) -> Volume:
        """Open it as labels."""
        return io.open_labels(self.path, axes=self.axes)


@dataclass(frozen=True)
class Loaded:
    """What one block needs: labels with one voxel of context on the high sides, the rest without."""

    labels: npt.NDArray[Any]
    image: npt.NDArray[Any] | None
    segmentation: npt.NDArray[Any] | None
    scores: npt.NDArray[Any] | None
    regions: npt.NDArray[Any] | None


@dataclass(frozen=True)
class SumBlocks:
    """The work on one block of labels.

    Attributes
    ----------
    labels
        Objects.
    folder
        Where each block's rows are stored, as ``<index>.objects.npy`` and ``<index>.regions.npy``.
    weights
        Of crossings along the 13 directions.
    image, exponent
        Intensities to measure, and k of a floating-point image (:func:`fewslice.measurement.sums.exponent_for`).
    segmentation
        Classes to vote on the class of each object.
    scores, classes
        Image whose first channels are the stored probabilities (uint8) of the classes, and the number of classes.
    regions
        Regions whose voxels are counted.
    """

    labels: Source
    folder: str
    weights: tuple[int, ...]
    image: Source | None = None
    exponent: int | None = None
    segmentation: Source | None = None
    scores: Source | None = None
    classes: int = 0
    regions: Source | None = None

    def open(self) -> Work:
        """Open the volumes and return the work."""
        labels = self.labels.open_labels()
        image = self.image and self.image.open_image()
        segmentation = self.segmentation and self.segmentation.open_labels()
        scores = self.scores and self.scores.open_image()
        regions = self.regions and self.regions.open_labels()

        def read(block: Block) -> Loaded:
            box = block.write
            beyond = Box(box.start, tuple(n + 1 for n in box.stop)).clip(labels.shape)
            try:
                return Loaded(
                    labels.read(beyond)[0],
                    image.read(box) if image else None,
                    segmentation.read(box)[0] if segmentation else None,
                    scores.read(box, range(self.classes)) if scores else None,
                    regions.read(box)[0] if regions else None,
                )
            except (InputError, OSError) as error:
                raise BlockFailure(f"cannot be read: {error}", may_pass=True) from error

        def compute(block: Block, loaded: Loaded) -> tuple[Sums, npt.NDArray[np.void] | None]:
            table = block_sums(
                loaded.labels,
                block.write.shape,
                block.write.start,
                self.weights,
                image=loaded.image,
                exponent=self.exponent,
                segmentation=loaded.segmentation,
                scores=loaded.scores,
                classes=self.classes,
            )
            return table, None if loaded.regions is None else region_voxels(loaded.regions)

        def write(block: Block, result: tuple[Sums, npt.NDArray[np.void] | None]) -> Note:
            table, counts = result
            files = [_save(_part(self.folder, block, "objects"), table)]
            if counts is not None:
                files.append(_save(_part(self.folder, block, "regions"), counts))
            return {"files": dict(files)}

        return Work(read, compute, write)


@dataclass(frozen=True)
class LargestValues:
    """The largest magnitude of an image in each block, noted with its mark as ``largest``."""

    image: Source

    def open(self) -> Work:
        """Open the image and return the work."""
        image = self.image.open_image()

        def read(block: Block) -> npt.NDArray[Any]:
            try:
                return image.read(block.write)
            except (InputError, OSError) as error:
                raise BlockFailure(f"cannot be read: {error}", may_pass=True) from error

        def compute(block: Block, values: npt.NDArray[Any]) -> float:
            if not np.isfinite(values).all():
                raise InputError(
                    f"{image.source} has NaN or infinite values between {block.write.start} and {block.write.stop} "
                    "(z, y, x), of which no mean can be taken; replace them in the image"
                )
            return float(np.abs(values).max())

        return Work(read, compute, lambda block, largest: {"largest": largest})


def _part(folder: str, block: Block, what: str) -> Path:
    return Path(folder) / f"{'_'.join(map(str, block.index))}.{what}.npy"


def _save(path: Path, array: npt.NDArray[Any]) -> tuple[str, int]:
    """Write an array, and return its name and its checksum."""
    stream = memory.BytesIO()
    np.save(stream, array, allow_pickle=False)
    write_atomic(path, stream.getvalue())
    return path.name, checksum(stream.getvalue())


def merged_sums(folder: str, blocks: Sequence[Block], rows: int = _ROWS) -> Iterator[Sums]:
    """Yield tables of whole objects, ids ascending over all of them.

    Parameters
    ----------
    folder
        Where the blocks' rows lie.
    blocks
        All blocks.
    rows
        How many stored rows are read at once, about. It shapes memory, never the result.
    """
    paths = [_part(folder, block, "objects") for block in blocks]
    spans, samples, total = [], [], 0
    for path in paths:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)["id"]
        spans.append((int(ids[0]), int(ids[-1])) if len(ids) else None)
        samples.append(np.array(ids[::_SAMPLE]))
        total += len(ids)
    ends = _ends(np.sort(np.concatenate(samples)), -(-total // rows))
    low = 0
    for high in ends:
        parts = [
            _rows_between(path, low, high)
            for path, span in zip(paths, spans, strict=True)
            if span is not None and span[0] <= high and span[1] >= low
        ]
        if parts:
            yield merge(np.concatenate(parts))
        low = high + 1


def _ends(sample: npt.NDArray[np.uint64], count: int) -> list[int]:
    """Return the last id of each of about `count` groups of ids with about as many rows each."""
    places = (np.arange(1, count) * len(sample)) // max(count, 1)
    return [*(int(v) for v in np.unique(sample[places])), 2**64 - 1]


def _rows_between(path: Path, low: int, high: int) -> Sums:
    table = np.load(path, mmap_mode="r", allow_pickle=False)
    ids = table["id"]
    first, last = np.searchsorted(ids, np.uint64(low), "left"), np.searchsorted(ids, np.uint64(high), "right")
    return np.array(table[first:last])


def merged_regions(folder: str, blocks: Sequence[Block]) -> dict[int, int]:
    """Return the voxels of each region of the whole volume, 0 included, ids ascending."""
    totals: dict[int, int] = {}
    for block in blocks:
        for region, voxels in np.load(_part(folder, block, "regions"), allow_pickle=False).tolist():
            totals[region] = totals.get(region, 0) + voxels
    return dict(sorted(totals.items()))
