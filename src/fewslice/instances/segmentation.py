"""Segment a stored prediction: plan, the four passes, what is said of it; resumable, and finished only once.

1. :func:`open_outputs` says what a store holds, or why it cannot be segmented.
2. :func:`segment_store` claims ``labels/instances`` for these settings and this prediction, or refuses. It holds the
   store's lock, as predict does, so that neither changes what the other works on.
3. The passes run, in this process or on workers. Each has a record of its own in the folder of intermediate files, the
   last one in the store, where ``fewslice verify`` finds its checksums. What is done is not done again.
4. The pyramid is written, then the mark that everything is finished; then the intermediate files go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from fewslice import io, registry
from fewslice.blocks.engine import Engine, Outcome, Retry, run_blocks
from fewslice.blocks.job import Job
from fewslice.blocks.lock import locked
from fewslice.blocks.plan import choose_block
from fewslice.blocks.pyramid import forget_pyramid, write_pyramids
from fewslice.blocks.record import Record, open_record
from fewslice.errors import FewsliceError, InputError
from fewslice.files import disk_error, remove_folder, write_json
from fewslice.geometry import Block
from fewslice.instances.passes import REGION, Grid, LabelBlocks, LinkBlocks, RelabelBlocks, block_file
from fewslice.instances.union import name_objects, unite
from fewslice.segmenters import CONTACT, Merging, Output, claim_instances, instances_finished, prediction_key
from fewslice.volume import Volume

__all__ = ["Instances", "StoredOutputs", "merge_tables", "open_outputs", "segment_store"]

Shape3 = tuple[int, int, int]
Progress = Callable[[str, int, int], None]

_CHUNK = (32, 256, 256)
_READ_VOXELS = 1 << 24
"""The most that one block reads; the watershed needs about 60 bytes for each."""


@dataclass(frozen=True)
class StoredOutputs:
    """A finished prediction.

    Attributes
    ----------
    path
        The store.
    image
        Its channels.
    outputs
        What they are.
    threshold
        Foreground threshold of the prediction, 0–1.
    key
        Identity of the values.
    """

    path: Path
    image: Volume
    outputs: tuple[Output, ...]
    threshold: float
    key: str


@dataclass(frozen=True)
class Instances:
    """What a segmentation wrote.

    Attributes
    ----------
    output
        The store; the objects are its ``labels/instances``.
    segmenter, settings, threshold
        How they were found.
    objects
        Their number.
    dropped
        Objects below the smallest size.
    dtype
        Type of the label image.
    block, halo
        (z, y, x) in voxels.
    already_finished
        Whether nothing had to be done.
    failed
        Blocks that could not be done in the pass that was reached, with the reasons; what was done is kept.
    """

    output: Path
    segmenter: str
    settings: dict[str, Any]
    threshold: float
    objects: int
    dropped: int
    dtype: str
    block: Shape3
    halo: Shape3
    already_finished: bool = False
    failed: tuple[tuple[Block, str], ...] = ()


def open_outputs(path: str | Path) -> StoredOutputs:
    """Open a finished prediction.

    Raises
    ------
    InputError
        If there is none, it is not finished, or it does not say what its channels are.
    """
    place = Path(path)
    image = io.open_volume(place)
    described = image.attributes.get("outputs")
    if not isinstance(described, list) or len(described) != image.channels or image.dtype != np.uint8:
        raise InputError(
            f"{path} does not say what its channels are, so it is no prediction of fewslice; give an output of "
            "fewslice predict, or segment an image with --segmenter threshold_watershed -o OUT.ome.zarr"
        )
    outputs = tuple(Output(str(o.get("name")), str(o.get("kind", "probability"))) for o in described)
    threshold = image.attributes.get("threshold")
    return StoredOutputs(
        place, image, outputs, 0.5 if threshold is None else float(threshold), prediction_key(image, place)
    )


def segment_store(
    stored: StoredOutputs,
    kind: str,
    config: BaseModel,
    *,
    threshold: float | None = None,
    block: Shape3 | None = None,
    overwrite: bool = False,
    pyramids: bool = True,
    engine: Engine | None = None,
    retry: Retry | None = None,
    progress: Progress | None = None,
) -> Instances:
    """Find the objects of a prediction and write them as its ``labels/instances``.

    Parameters
    ----------
    stored
        The prediction.
    kind, config
        The segmenter and its settings.
    threshold
        Foreground threshold, 0–1; by default the prediction's.
    block
        (z, y, x) voxels per block; by default chosen for little waste in bounded memory. The objects do not depend on
        it.
    overwrite
        Replace objects that were found with other settings.
    pyramids
        Write the coarser levels as well.
    engine, retry
        See :func:`fewslice.blocks.engine.run_blocks`.
    progress
        Called with (name of the pass, blocks finished, blocks in all).

    Raises
    ------
    InputError
        If the segmenter lacks an output, there are objects of other settings or origin, or another run writes to the
        store.
    DiskError
        If the disk refuses the write.
    """
    stored = replace(stored, path=stored.path.absolute())  # workers may have another folder
    segmenter = registry.load("segmenters", kind)
    channels = segmenter.channels(stored.outputs)
    threshold = stored.threshold if threshold is None else threshold
    shape, voxel = stored.image.shape, stored.image.voxel_size_um
    grid, halo = cut(segmenter.halo(config, voxel), shape, block)
    chunk = chunk_of(grid)
    settings = config.model_dump(mode="json")
    facts = {
        "segmenter": kind,
        "settings": settings,
        "threshold": threshold,
        "voxel_size_um": voxel and list(voxel),
        "block": list(grid.block),
        "prediction": stored.key,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    work = stored.path.with_name(f".{stored.path.name}.instances")

    def summary(said: dict[str, Any], **more: Any) -> Instances:
        return Instances(
            stored.path, kind, settings, threshold, int(said.get("objects", 0)), int(said.get("dropped", 0)),
            str(said.get("dtype", "")), grid.block, halo, **more,
        )  # fmt: skip

    def finished() -> Instances:
        said = io.open_labels(stored.path / "labels" / "instances").attributes
        return summary(said, already_finished=True)

    if not overwrite and instances_finished(stored.path, key) and not work.exists():  # it may be read-only by now
        return finished()
    with locked(stored.path):
        if overwrite:
            remove_folder(work)
        record = claim_instances(stored.path, key, overwrite=overwrite)
        if record.finished:
            remove_folder(work)
            return finished()
        io.remove_leftovers(stored.path)
        try:
            begin(work, key, grid, chunk, voxel)
            label = LabelBlocks(
                stored.path, work, kind, json.dumps(settings), channels, tuple(stored.outputs[i] for i in channels),
                threshold, voxel, grid,
            )  # fmt: skip
            run = _Passes(grid.blocks(halo), work, key, engine, retry, progress)
            outcome = run("label", label)
            if outcome.failed:
                return summary({}, failed=outcome.failed)
            outcome = run("link", LinkBlocks(work, grid))
            if outcome.failed:
                return summary({}, failed=outcome.failed)
            said = _union(work, grid, segmenter.merging(config, voxel), segmenter.smallest(config, shape, voxel))
            if _create(stored, facts | said | {"key": key}, chunk):
                record.unmark(record.done())
            outcome = run("relabel", RelabelBlocks(stored.path, work, grid), record)
            if outcome.failed:
                return summary(said, failed=outcome.failed)
            if pyramids:
                write_pyramids(
                    stored.path, ("labels/instances",), key, engine=engine, retry=retry, progress=run.teller("pyramid")
                )
            record.finish()
            remove_folder(work)
        except OSError as error:
            raise error if isinstance(error, FewsliceError) else disk_error(error, work) from error
    return summary(said)


def merge_tables(
    tables: Iterable[npt.NDArray[np.void]],
    links: Iterable[npt.NDArray[np.void]],
    merging: Merging | None,
    min_size: int,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], int, int]:
    """Pass 3: name the objects.

    Parameters
    ----------
    tables
        Per block, in C order, its regions, of type :data:`~fewslice.instances.passes.REGION`.
    links
        Per block its contacts, between 64-bit ids.
    merging, min_size
        As in :mod:`fewslice.instances.union`.

    Returns
    -------
    names, first, objects, dropped
        The object of every region, block after block; the place of each block's first region in it (one more at the
        end); the number of objects, and of those dropped. Memory grows with regions and contacts.
    """
    listed = list(tables)
    first = np.zeros(len(listed) + 1, dtype=np.int64)
    np.cumsum([table.size for table in listed], out=first[1:])
    regions = np.concatenate(listed) if listed else np.zeros(0, dtype=REGION)
    del listed
    parts = [part for part in links if part.size]
    contacts = np.concatenate(parts) if parts else np.zeros(0, dtype=CONTACT)
    del parts
    for side in ("a", "b"):
        ids = contacts[side]
        contacts[side] = first[ids >> 32] + (ids & 0xFFFFFFFF) - 1
    group = unite(regions["peak"], contacts, merging)
    names, objects = name_objects(group, regions["size"], min_size)
    return names, first, objects, int(group.max(initial=-1)) + 1 - objects


def cut(halo: Shape3, shape: Shape3, block: Shape3 | None = None) -> tuple[Grid, Shape3]:
    """Return how a volume is cut for a segmenter that reads `halo`, and the context as far as there is any."""
    within = _within(halo, shape)
    return Grid(shape, _block(shape, within, block)), within


def _within(halo: Shape3, shape: Shape3) -> Shape3:
    z, y, x = (min(h, max(0, n - 1)) for h, n in zip(halo, shape, strict=True))
    return (z, y, x)


def _block(shape: Shape3, halo: Shape3, asked: Shape3 | None) -> Shape3:
    chunk = tuple(min(n, c) for n, c in zip(shape, _CHUNK, strict=True))
    z, y, x = asked or choose_block(shape, halo, chunk, _READ_VOXELS)
    return (min(z, shape[0]), min(y, shape[1]), min(x, shape[2]))


def chunk_of(grid: Grid) -> Shape3:
    """Return the largest storage chunk, up to the usual one, of which a block consists.

    Raises
    ------
    InputError
        If a block consists of crumbs only, as one of a prime extent does.
    """
    chunk = []
    for extent, size, limit in zip(grid.shape, grid.block, _CHUNK, strict=True):
        if size >= extent:
            chunk.append(min(extent, limit))
            continue
        largest = max(d for d in range(1, min(size, limit) + 1) if size % d == 0)
        if largest * 4 < min(size, limit):
            raise InputError(
                f"block {grid.block} (z, y, x) consists of chunks of {largest} only along one axis; use multiples of 32"
            )
        chunk.append(largest)
    return (chunk[0], chunk[1], chunk[2])


def begin(work: Path, key: str, grid: Grid, chunk: Shape3, voxel: tuple[float, float, float] | None) -> None:
    """Make the folder of intermediate files, or keep the one that was begun with the same key."""
    begun = work / "begun.json"
    if begun.exists() and json.loads(begun.read_text(encoding="utf-8")).get("key") == key:
        return
    remove_folder(work)
    for name in ("regions", "contacts", "links"):
        (work / name).mkdir(parents=True, exist_ok=True)
    io.create_output(
        work / "regions.ome.zarr",
        shape=grid.shape,
        channel_names=["regions"],
        voxel_size_um=voxel,
        dtype=np.uint32,
        chunks=chunk,
    )
    write_json(begun, {"key": key})


@dataclass(frozen=True)
class _Passes:
    """What all passes share."""

    blocks: list[Block]
    work: Path
    key: str
    engine: Engine | None
    retry: Retry | None
    progress: Progress | None

    def __call__(self, name: str, job: Job, record: Record | None = None) -> Outcome:
        """Run one pass over the blocks that are not done; its marks are `record`, or lie with intermediate files."""
        marks = record or open_record(self.work / name, self.key, what=str(self.work))
        if marks.finished:
            return Outcome(0, len(self.blocks), ())
        outcome = run_blocks(self.blocks, marks, job, engine=self.engine, retry=self.retry, progress=self.teller(name))
        if not outcome.failed and record is None:
            marks.finish()
        return outcome

    def teller(self, name: str) -> Callable[[int, int], None] | None:
        """Return what is called with (blocks finished, blocks in all) of one pass."""
        tell = self.progress
        return None if tell is None else lambda done, total: tell(name, done, total)


def _union(work: Path, grid: Grid, merging: Merging | None, min_size: int) -> dict[str, Any]:
    """Run pass 3, or return what it found."""
    found = work / "objects.json"
    if found.exists():
        said: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return said
    blocks = grid.blocks()
    tables = (np.fromfile(block_file(work / "regions", block), dtype=REGION) for block in blocks)
    links = (np.fromfile(block_file(work / "links", block), dtype=CONTACT) for block in blocks)
    names, first, objects, dropped = merge_tables(tables, links, merging, min_size)
    np.save(work / "names.npy", names, allow_pickle=False)
    np.save(work / "first.npy", first, allow_pickle=False)
    said = {"objects": objects, "dropped": dropped, "dtype": np.min_scalar_type(objects).name}
    write_json(found, said)
    return said


def _create(stored: StoredOutputs, facts: dict[str, Any], chunk: Shape3) -> bool:
    """Make the empty label image, replacing one of other settings, which the claim has allowed; say if it was made."""
    labels = stored.path / "labels" / "instances"
    if labels.exists():
        try:
            if io.open_labels(labels).attributes.get("key") == facts["key"]:
                return False
        except InputError:  # what a kill left of one that was being made
            pass
    forget_pyramid(stored.path, "labels/instances")
    io.create_labels(
        stored.path,
        "instances",
        shape=stored.image.shape,
        dtype=np.dtype(facts["dtype"]),
        chunks=chunk,
        voxel_size_um=stored.image.voxel_size_um,
        origin_um=stored.image.origin_um,
        attributes=dict(sorted(facts.items())),  # the same bytes, resumed or not
        overwrite=True,
    )
    return True
