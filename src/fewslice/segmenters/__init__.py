"""★ Segmenters: what a model wrote → objects, one block at a time; one kind per file, its name is the kind's name.

A kind is a module with

``Config``
    A frozen pydantic model, unknown keys forbidden: every setting with its unit, range and default. Lengths in µm count
    in voxels where the voxel size is unknown.
``channels(outputs) -> tuple[int, ...]``
    The positions of the outputs it reads, in the order in which it wants them. `outputs` are the store's
    (:class:`Output`); those without what the kind needs are refused by name with :class:`~fewslice.errors.InputError`.
``halo(config, voxel_size_um) -> (z, y, x)``
    Context in voxels that it needs around a block.
``label(config, values, place) -> Regions``
    The regions of one block. `values` (c, z, y, x) are the channels that it asked for over ``place.block.read``.
``merging(config, voxel_size_um) -> Merging or None``
    When two regions that touch are one object; None if only what joins is one.
``smallest(config, shape, voxel_size_um) -> int``
    Voxels of the smallest object that is kept, once it is whole, in a volume of `shape` (z, y, x).

A kind that works on the image itself, with no model before it, has two functions more, which make the output that its
``label`` then reads:

``survey(config, image, listener) -> dict``
    What has to be known of the whole image, such as a threshold; JSON-safe.
``foreground(config, facts, raw, block, voxel_size_um) -> array``
    (z, y, x) uint8, 0–255, over ``block.write``; `raw` is the image over ``block.read``, which has the context
    ``foreground_halo(config, voxel_size_um)``.

A kind whose objects are stored beside the outputs, such as contours, has ``segment_store`` in place of ``halo``,
``label``, ``merging`` and ``smallest``:

``segment_store(config, store, *, overwrite, engine, retry, listener) -> dict``
    Writes ``labels/instances`` of the store by itself, resumable, and returns a JSON-safe summary with ``objects``.
    `engine` and `retry` are those of :func:`fewslice.blocks.engine.run_blocks`.

**How blocks link.** A region that goes on beyond its block says so by naming a voxel of another block that belongs to
the same region: across the face where regions are one because they touch
(:mod:`~fewslice.segmenters.connected_components`), or anywhere in the halo, where both blocks see the same
(:mod:`~fewslice.segmenters.watershed`: cells that touch do not fuse). A kind keeps the promise that regions, joined
and merged, are the same objects for any blocks, up to their ids. All kinds pass
``tests/contracts/test_segmenters.py``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fewslice.blocks.pyramid import forget_pyramid
from fewslice.blocks.record import Record, existing_record, is_finished, open_record
from fewslice.errors import InputError
from fewslice.files import disk_error
from fewslice.geometry import Block
from fewslice.volume import Volume

__all__ = [
    "CONTACT",
    "JOIN",
    "Merging",
    "Output",
    "Place",
    "Regions",
    "check_finished",
    "choose_kind",
    "claim_instances",
    "instances_finished",
    "no_contacts",
    "prediction_key",
    "probability_channels",
    "voxels_of",
]

Triple = tuple[float, float, float]
Shape3 = tuple[int, int, int]

CONTACT = np.dtype([("a", "<i8"), ("b", "<i8"), ("order", "<i8"), ("saddle", "<i4")])
"""A contact of two regions.

``a`` is a region; ``b`` is another one, or ``-1 - i`` for whatever region holds voxel ``i`` (C order in the volume).
``saddle`` is the height of the pass between them, :data:`JOIN` if they are one region. ``order`` is the place of the
pass in the volume: it decides between passes of equal height, so that no block's names do.
"""

JOIN = int(np.iinfo(np.int32).max)


def no_contacts() -> npt.NDArray[np.void]:
    """Return an empty array of contacts."""
    return np.zeros(0, dtype=CONTACT)


@dataclass(frozen=True)
class Output:
    """One channel of a prediction: its name and what it is (probability, boundary, distance or contour)."""

    name: str
    kind: str


@dataclass(frozen=True)
class Place:
    """Where a block lies and how its values are to be read.

    Attributes
    ----------
    block
        What is read and what is labelled.
    shape
        (z, y, x) of the volume.
    voxel_size_um
        (z, y, x) in µm; None if unknown.
    outputs
        What the channels are, in the order that the kind asked for.
    threshold
        Foreground where the probabilities' sum reaches it, 0–1.
    """

    block: Block
    shape: Shape3
    voxel_size_um: Triple | None
    outputs: tuple[Output, ...]
    threshold: float


@dataclass(frozen=True)
class Regions:
    """What one block holds.

    Attributes
    ----------
    labels
        (z, y, x) uint32 over ``block.write``: 0 background, regions 1..n without gaps.
    peaks
        (n,) int32: the greatest height of each region; zeros where heights mean nothing.
    contacts
        Of type :data:`CONTACT`: with voxels of other blocks that belong to the same region (:data:`JOIN`), and, where
        heights mean something, the highest pass to every region that is touched. Each pass is told by one block.
    """

    labels: npt.NDArray[np.uint32]
    peaks: npt.NDArray[np.int32]
    contacts: npt.NDArray[np.void] = field(default_factory=no_contacts)


@dataclass(frozen=True)
class Merging:
    """When two regions that touch are one object.

    They are if the pass between them lies less than `depth` below the lower of the two peaks, or reaches `neck` times
    the lower peak, or if the lower peak is not above 0. All three can only become untrue when the peak grows or the
    pass falls, which is what makes the outcome independent of the order (:mod:`fewslice.instances.union`).
    """

    depth: int
    neck: float

    def shallow(self, peak: npt.NDArray[np.int32], saddle: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Say for each lower peak and pass whether the two are one object."""
        low = peak.astype(np.int64)
        return (low - saddle < self.depth) | (saddle >= self.neck * low) | (low <= 0)


def choose_kind(outputs: Sequence[Output]) -> str:
    """Return the kind that suits what a model wrote.

    Contours are objects already; a boundary or distance output was trained to part what touches, so it is flooded;
    plain probabilities know nothing of where one object ends and the next begins, so what touches is one object.
    """
    kinds = {output.kind for output in outputs}
    if "contour" in kinds:
        return "contours"
    return "watershed" if kinds & {"boundary", "distance"} else "connected_components"


def claim_instances(store: Path, key: str, *, overwrite: bool) -> Record:
    """Open the record of a prediction's objects, or begin one.

    Parameters
    ----------
    store
        ``OUT.ome.zarr``.
    key
        Of the settings and the prediction that make the objects.
    overwrite
        Forget objects of other settings.

    Raises
    ------
    InputError
        If there are objects of other settings or of unknown origin, which may not be overwritten.
    """
    folder, labels = store / ".fewslice" / "instances", store / "labels" / "instances"
    if overwrite and folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise disk_error(error, folder) from error
        forget_pyramid(store, "labels/instances")
    elif labels.exists() and not overwrite and not (folder / "job.json").exists():
        raise InputError(f"{labels} exists and was not made by segment; pass --overwrite to replace it")
    return open_record(folder, key, what=f"{labels}")


def instances_finished(store: Path, key: str) -> bool:
    """Whether a prediction's objects are complete and those of this key; changes nothing."""
    return is_finished(store / ".fewslice" / "instances", key)


def check_finished(labels: Path) -> None:
    """Refuse objects or classes that segment or predict has begun and not finished.

    Parameters
    ----------
    labels
        ``OUT.ome.zarr/labels/instances`` or ``…/segmentation``; any other labels are nobody's job and pass.

    Raises
    ------
    InputError
        If they are unfinished.
    """
    job = {"instances": "instances", "segmentation": ""}.get(labels.name)
    if job is None or labels.parent.name != "labels":
        return
    store = labels.parent.parent
    record = existing_record(store / ".fewslice" / job)
    if record is not None and not record.finished:
        verb = "segment" if job else "predict"
        raise InputError(f"labels/{labels.name} of {store} are unfinished; run the {verb} command again, then this one")


def prediction_key(image: Volume, store: Path) -> str:
    """Return the identity of a prediction's values: its record's, or, of a copy without one, that of the content.

    Raises
    ------
    InputError
        If the prediction is unfinished.
    """
    record = existing_record(store / ".fewslice")
    if record is None:
        return image.content_hash()
    if not record.finished:
        raise InputError(f"{store} is an unfinished prediction; run its predict command again, then segment it")
    return record.key


def probability_channels(outputs: Sequence[Output], kind: str) -> tuple[int, ...]:
    """Return the positions of the probabilities, which `kind` needs.

    Raises
    ------
    InputError
        If there are none.
    """
    found = tuple(i for i, output in enumerate(outputs) if output.kind == "probability")
    if not found:
        have = ", ".join(f"{o.name} ({o.kind})" for o in outputs) or "none"
        raise InputError(
            f"segmenter {kind} needs a probability output, but the outputs are {have}; choose another segmenter"
        )
    return found


def voxels_of(volume_um3: float | None, voxel_size_um: Triple | None, default: int = 8) -> int:
    """Return how many voxels make up a volume in µm³ (in voxels if their size is unknown); `default` for None."""
    if volume_um3 is None:
        return default
    return math.ceil(volume_um3 / math.prod(voxel_size_um or (1.0, 1.0, 1.0)) - 1e-9)
