"""Predicted masks of training samples, cleaned along z with the annotated planes between which they lie.

1. `known_planes` says which planes of a sample count as annotated.
2. `clean_samples` cleans the masks of every sample, class by class, and stores them beside the prediction, as
   ``labels/cleaned…``; a resumed run finds them.
3. `MaskProbabilities` reads them as the probabilities that a network is taught.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice import io, morphology
from fewslice.data.samples import Sample
from fewslice.files import write_json
from fewslice.geometry import Box
from fewslice.model import model_hash
from fewslice.morphology.probabilities import segment_probabilities
from fewslice.training.task import Mask, Task
from fewslice.volume import Volume, normalise_index

__all__ = ["clean_samples", "known_planes"]

_IN_MEMORY_VOXELS = 2**29
_TILE = 512
_KNOWN_SHARE = 0.5


def known_planes(mask: Mask | None, shape: Sequence[int], axis: int) -> Mask:
    """Return which planes along `axis` (0, 1, 2 = z, y, x) count as annotated: those of which half is, at least.

    Parameters
    ----------
    mask
        Annotated voxels that training may use, (z, y, x) bool; None for none.
    shape
        (z, y, x).
    axis
        Axis along which planes are stacked.
    """
    if mask is None:
        return np.zeros(shape[axis], dtype=bool)
    share: NDArray[np.float64] = mask.mean(axis=tuple(a for a in range(3) if a != axis))
    return share >= _KNOWN_SHARE


def clean_samples(
    predicted: Sequence[Volume], task: Task, stage: str, config: morphology.Config, threshold: float
) -> list[Volume]:
    """Clean what an earlier stage predicted on every sample.

    Parameters
    ----------
    predicted
        (classes, z, y, x) uint8, 0–255 for probabilities 0–1, as `predict_samples` gives them.
    task
        The samples, their annotation, and where the run is.
    stage
        The stage that predicted.
    config
        Sizes, in physical units; where the voxel size is unknown, voxels are taken for cubes of 5 nm.
    threshold
        Foreground where the sum of the classes' probabilities reaches this; a class's mask is where it is the most
        probable one.

    Returns
    -------
    list of Volume
        (classes, z, y, x) uint8, 255 where the cleaned mask is and 0 elsewhere. On planes of which only a part is
        annotated the rest is as predicted, and held fixed. Samples without annotated planes are cleaned by the planes'
        neighbours alone.
    """
    axis = task.plane_axis()
    _say(task, axis)
    identity = model_hash(task.run.stage(stage) / "model")
    key = hashlib.sha256(json.dumps([identity, config.model_dump(), threshold]).encode()).hexdigest()
    cleaned = []
    for index, (sample, p) in enumerate(zip(task.samples, predicted, strict=True)):
        store = Path(p.source)
        mark = store / ".fewslice" / "cleaned.json"  # inside, so that it goes with what it vouches for
        names = ["cleaned" if task.classes == 1 else f"cleaned_class_{value}" for value in task.class_values]

        def work(
            index: int = index,
            sample: Sample = sample,
            p: Volume = p,
            store: Path = store,
            mark: Path = mark,
            names: Sequence[str] = names,
        ) -> None:
            if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == {"key": key}:
                return
            mark.unlink(missing_ok=True)
            classes = sample.annotation.classes if sample.annotation is not None else None
            for number, name in enumerate(names):
                labels = io.create_labels(
                    store,
                    name,
                    shape=p.shape,
                    dtype=np.uint8,
                    chunks=p.chunks,
                    voxel_size_um=p.voxel_size_um,
                    overwrite=True,
                )
                masks = _ClassMasks(p, classes, task.train_masks[index], number, threshold)
                _clean(masks, labels, config, sample.image.voxel_size_um, axis)
            mark.parent.mkdir(exist_ok=True)
            write_json(mark, {"key": key})

        task.once(work)
        parts = [io.open_labels(store / "labels" / name) for name in names]
        cleaned.append(replace(p, array=MaskProbabilities(parts), source=str(store)))
    return cleaned


def _say(task: Task, axis: int) -> None:
    """Note what a user might not expect: another axis, or sizes in pixels."""
    notes = [f"Planes are annotated along {'zyx'[axis]}, so masks are cleaned along {'zyx'[axis]}."] if axis else []
    if task.voxel_size_um is None:
        notes.append(
            "The voxel size is unknown, so the sizes of the morphology are taken for cubes of 5 nm: by default "
            "components below 300 pixels are dropped; give --voxel-size-um to have them in µm²."
        )
    for note in notes:
        task.run.record({"event": "note", "note": note})


@dataclass(frozen=True)
class _ClassMasks:
    """One class of one sample, as predicted and as annotated."""

    predicted: Volume
    classes: NDArray[np.uint8] | None
    mask: Mask | None
    number: int
    threshold: float

    def read(self, box: Box) -> Mask:
        """Return where the class is predicted."""
        found: Mask = segment_probabilities(self.predicted.read(box), self.threshold) == self.number + 1
        return found

    def truth(self, box: Box) -> Mask:
        """Return where the class is annotated; as predicted where it is not."""
        found = self.read(box)
        if self.mask is None or self.classes is None:
            return found
        known = self.mask[box.slices]
        found[known] = self.classes[box.slices][known] == self.number + 1
        return found


def _clean(
    masks: _ClassMasks,
    store: Any,
    config: morphology.Config,
    voxel_size_um: tuple[float, float, float] | None,
    axis: int,
) -> None:
    """Clean one class into a label image, whole where it fits into memory, else column by column."""
    shape = masks.predicted.shape
    order = (axis, *(a for a in range(3) if a != axis))
    spacing = None if voxel_size_um is None else [voxel_size_um[a] for a in order]
    known = known_planes(masks.mask, shape, axis)
    turned = _Turned(masks, store, order)
    if int(np.prod(shape)) <= _IN_MEMORY_VOXELS:
        whole = Box.of(turned.shape)
        result = morphology.clean(turned.read_mask(whole), turned.read_truth(whole), known, config, spacing)
        turned.write(whole, result.astype(np.uint8))
        return
    unit = [store.unit[a] for a in order[1:]]
    tile = [-(-_TILE // u) * u for u in unit]
    sizes = morphology.in_pixels(config, spacing)
    morphology.clean_columns(turned.read_mask, turned.read_truth, known, turned, sizes, tile)


class _Turned:
    """Masks and their store with the axis of the planes brought to the front."""

    def __init__(self, masks: _ClassMasks, store: Any, order: tuple[int, ...]) -> None:
        self._masks, self._store, self._order = masks, store, order
        z, y, x = (masks.predicted.shape[a] for a in order)
        self.shape: tuple[int, int, int] = (z, y, x)

    def read_mask(self, box: Box) -> Mask:
        """Return the predicted mask of a region."""
        return np.ascontiguousarray(self._masks.read(self._back(box)).transpose(self._order))

    def read_truth(self, box: Box) -> Mask:
        """Return the true mask of a region."""
        return np.ascontiguousarray(self._masks.truth(self._back(box)).transpose(self._order))

    def read(self, box: Box) -> NDArray[Any]:
        """Return a region of the store."""
        stored: NDArray[Any] = self._store.read(self._back(box))
        return stored.transpose(self._order)

    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Replace a region of the store."""
        self._store.write(self._back(box), np.ascontiguousarray(values.transpose(np.argsort(self._order))))

    def _back(self, box: Box) -> Box:
        back = np.argsort(self._order)
        return Box(tuple(box.start[a] for a in back), tuple(box.stop[a] for a in back))


class MaskProbabilities:
    """A lazy array (classes, z, y, x; uint8) of masks as probabilities: 255 inside, 0 outside."""

    def __init__(self, masks: Sequence[Volume]) -> None:
        self._masks = masks
        self.shape: tuple[int, ...] = (len(masks), *masks[0].shape)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Read a part."""
        slices, dropped = normalise_index(index, self.shape)
        parts = [np.asarray(mask.array[(slice(0, 1), *slices[1:])])[0] for mask in self._masks[slices[0]]]
        out = np.where(np.stack(parts) > 0, np.uint8(255), np.uint8(0))
        return out.reshape([n for axis, n in enumerate(out.shape) if axis not in dropped])
