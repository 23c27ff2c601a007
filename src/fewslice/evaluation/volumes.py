"""How good a stored segmentation is, judged where truth exists.

1. :func:`open_segmentation` opens what is judged: an output of ``fewslice predict`` or any label image.
2. :func:`evaluate` decides which label means which class of the truth, or refuses.
3. One pass over blocks that are read with one voxel of context counts voxels (at the stored segmentation and at
   threshold 0.5), collects surface elements and counts changes along z. Memory holds one block, the truth and the
   surfaces.
4. Counts and surfaces become numbers. Counts are kept by *cells*, about 64 boxes over what is annotated, which the
   intervals of the voxel scores are drawn from.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io
from fewslice.annotation import Annotation, Kind, from_labels
from fewslice.errors import InputError
from fewslice.geometry import Block, Box, cover
from fewslice.metrics import along_z, semantic, surface
from fewslice.metrics.intervals import bootstrap_pooled
from fewslice.morphology.probabilities import segment_probabilities
from fewslice.prediction.proposals import folder_of
from fewslice.volume import Volume

__all__ = ["Segmentation", "evaluate", "open_segmentation"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Triple = tuple[int, int, int]

_CELLS = 64
_FEWEST_CELLS = 10
_BLOCK_VOXELS = 1 << 25
_MOST_ELEMENTS = 10_000_000
"""Surface elements per mask beyond which surfaces are not measured: about 1 GB of positions and trees."""


@dataclass(frozen=True)
class Segmentation:
    """What is judged.

    Attributes
    ----------
    labels
        One-channel integer volume.
    probabilities
        One channel of uint8 0–255 per foreground class, or None.
    class_values
        The value that class k (label k) had in the files the model was trained on, at index k - 1; None for a label
        image of unknown origin.
    threshold
        The foreground threshold that made the labels, or None.
    complete
        False for an output of which blocks are missing, None where that is not known.
    source
        What to call it in messages.
    """

    labels: Volume
    probabilities: Volume | None = None
    class_values: tuple[int, ...] | None = None
    threshold: float | None = None
    complete: bool | None = None
    source: str = "prediction"

    @property
    def shape(self) -> Triple:
        """Extent (z, y, x) in voxels."""
        return self.labels.shape


@dataclass
class _Counts:
    """What accumulates over blocks."""

    by_cell: npt.NDArray[np.int64]
    """Confusion of the stored segmentation, (cells, classes + 1, classes + 1)."""
    half: npt.NDArray[np.int64]
    changes: npt.NDArray[np.int64]
    elements: dict[tuple[int, str], list[Array]] = field(default_factory=dict)
    """Positions of surface elements by class (0: any foreground) and side, ``predicted`` or ``truth``."""
    element_count: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def stored(self) -> npt.NDArray[np.int64]:
        """Confusion of the stored segmentation, all cells together."""
        total: npt.NDArray[np.int64] = self.by_cell.sum(axis=0)
        return total


def open_segmentation(path: str | Path) -> Segmentation:
    """Open an output of ``fewslice predict``, or any label image.

    Parameters
    ----------
    path
        ``OUT.ome.zarr`` with ``labels/segmentation`` in it, or a file or store of integer labels.

    Raises
    ------
    InputError
        If it cannot be read, or holds no integer labels.
    """
    place = Path(path)
    segmentation = place / "labels" / "segmentation"
    if not segmentation.is_dir():
        if folder_of(place).is_dir():
            raise InputError(
                f"{path} holds the scores of a contour model, which are no segmentation; make instances of its "
                "proposals and evaluate those"
            )
        return Segmentation(io.open_labels(path), source=str(path))
    labels = io.open_labels(segmentation)
    image = io.open_volume(place)
    attributes = image.attributes
    outputs = attributes.get("outputs")
    probabilities: Volume | None = None
    if isinstance(outputs, list) and any(o.get("kind") == "probability" for o in outputs):
        if image.channels != len(outputs) or image.dtype != np.uint8:
            raise InputError(
                f"{path} has {image.channels} channels of {image.dtype}, but its attributes name "
                f"{len(outputs)} outputs of uint8; predict again"
            )
        probabilities = io.open_volume(place, channels=[i for i, o in enumerate(outputs) if o["kind"] == "probability"])
    values = attributes.get("class_values")
    if values is None and probabilities is not None:
        values = range(1, probabilities.channels + 1)
    threshold = attributes.get("threshold")
    return Segmentation(
        labels,
        probabilities,
        class_values=tuple(int(v) for v in values) if values is not None else None,
        threshold=float(threshold) if threshold is not None else None,
        complete=_complete(place),
        source=str(path),
    )


def evaluate(
    prediction: str | Path | Segmentation | Array,
    truth: str | Path | Annotation,
    *,
    axes: str | None = None,
    planes: Sequence[str] = (),
    background: int | None = None,
    unlabelled: int | str | None = None,
    label_kind: Kind | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    tolerance_um: float | None = None,
    with_surface: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare a segmentation with truth, on annotated voxels only.

    Labels of an output of ``fewslice predict`` are matched with the truth's classes by the values that the classes had
    in the label files; one class on either side is matched whatever its value. In a label image of other origin the
    truth's class values mean the same as in the truth, 0 (and `background`) is background; if the truth has one class,
    every other value is foreground. Instances count as foreground.

    Parameters
    ----------
    prediction
        Path of an output or a label image, something opened, or an integer array (z, y, x).
    truth
        Path of a label image, or an annotation; of the same shape (z, y, x).
    axes, planes, unlabelled, label_kind
        What the axes and values of the truth's file mean, as in :func:`fewslice.annotation.from_labels`.
    background
        A value that means background in the truth's file and, besides 0, in a label image of other origin.
    voxel_size_um
        Voxel size (z, y, x) in µm; by default the prediction's own. Without any, lengths are in voxels.
    tolerance_um
        Tolerance of the normalised surface Dice; by default the largest extent of a voxel.
    with_surface
        Measure surface distances.
    seed
        Of the bootstrap over cells.

    Returns
    -------
    dict
        JSON-safe; what is undefined is None.

        - ``dice, iou, precision, recall, confusion`` ([[TN, FP], [FN, TP]]) of foreground against background, at the
          stored segmentation, which was made at ``threshold`` (None for a label image of other origin);
        - ``intervals`` of these scores (:func:`fewslice.metrics.intervals.bootstrap_pooled`) over ``cells`` boxes of
          ``cell_shape`` voxels (z, y, x) that hold truth; empty where there are fewer than ten;
        - surface figures as in :func:`fewslice.metrics.surface.surface_scores`, or ``surface_skipped`` with the reason;
        - ``classes``: the same per class, by the value of the class;
        - ``at_half``: voxel scores and their ``classes`` at threshold 0.5, None without probabilities;
        - ``along_z``: ``flicker`` and ``plane_disagreement`` of the segmentation, on all voxels, and ``along_z_truth``
          where the truth is known on neighbouring planes;
        - ``annotated_voxels``, ``annotated_share`` and ``complete`` (False: blocks of the prediction are missing and
          count as background).

    Raises
    ------
    InputError
        If a file cannot be read or understood, shapes differ, nothing is annotated, or a class cannot be matched.
    """
    judged = _opened(prediction)
    if not isinstance(truth, Annotation):
        truth = from_labels(
            io.read_labels(truth, axes=axes, shape=judged.shape, kind=label_kind, planes=planes),
            kind=label_kind,
            planes=planes,
            background=background,
            unlabelled=unlabelled,
            allow_one_class=True,
            name=str(truth),
        )
    if judged.shape != truth.shape:
        raise InputError(
            f"{judged.source} has shape {judged.shape} (z, y, x), but the truth has shape {truth.shape}; "
            "give the truth of the same image, or its axes with --axes"
        )
    if not truth.annotated.any():
        raise InputError("the truth has no annotated voxel; annotate at least one plane or check --planes")
    if judged.probabilities is not None and judged.probabilities.shape != judged.shape:
        raise InputError(
            f"{judged.source} has labels of shape {judged.shape} but probabilities of shape "
            f"{judged.probabilities.shape}; predict again"
        )
    matching = _match(judged, truth, background)
    size = voxel_size_um if voxel_size_um is not None else judged.labels.voxel_size_um
    axis = surface.isolated_axis(truth.annotated)
    cells = _cells(truth, size or (1.0, 1.0, 1.0))
    counts, truth_changes = _accumulate(judged, truth, matching, axis, cells, with_surface)

    known = counts.by_cell[counts.by_cell.sum(axis=(1, 2)) > 0]
    result: dict[str, Any] = _voxel_scores(semantic.foreground(counts.stored))
    result |= {"threshold": judged.threshold, "intervals": _intervals(known, 0, seed)}
    result |= {"cells": len(known), "cell_shape": list(cells.shape)}
    if with_surface:
        result |= _surface_scores(counts, 0, size, tolerance_um, axis)
    result["classes"] = {}
    for index, value in enumerate(matching.values, start=1):
        entry = _voxel_scores(semantic.one_against_rest(counts.stored, index))
        entry["intervals"] = _intervals(known, index, seed)
        if with_surface:
            entry |= _surface_scores(counts, index, size, tolerance_um, axis)
        result["classes"][str(value)] = entry
    result["at_half"] = None
    if judged.probabilities is not None:
        result["at_half"] = _voxel_scores(semantic.foreground(counts.half)) | {
            "classes": {
                str(value): _voxel_scores(semantic.one_against_rest(counts.half, index))
                for index, value in enumerate(matching.values, start=1)
            }
        }
    result["along_z"] = along_z.summary(counts.changes)
    result["along_z_truth"] = along_z.summary(truth_changes)
    result["annotated_voxels"] = int(counts.stored.sum())
    result["annotated_share"] = result["annotated_voxels"] / truth.labels.size
    result["complete"] = judged.complete
    return result


# ---------------------------------------------------------------------------------------------------------- matching


@dataclass(frozen=True)
class _Matching:
    """Which class of the comparison a stored label and a true class are.

    Attributes
    ----------
    values
        What the classes 1..K of the comparison are called.
    truth
        uint8 lookup from the truth's class (0 = background) to the class of the comparison.
    stored
        From a stored label to the class; labels that are not in it are `other`.
    other
        Class of every other stored label; None refuses them.
    """

    values: tuple[int, ...]
    truth: npt.NDArray[np.uint8]
    stored: Mapping[int, int]
    other: int | None

    def classes(self, labels: Array, source: str) -> npt.NDArray[np.uint8]:
        """Map stored labels to classes of the comparison, uint8 of the same shape."""
        if self.other is not None and set(self.stored) == {0}:
            return np.where(labels != 0, np.uint8(self.other), np.uint8(0))
        result = np.zeros(labels.shape, dtype=np.uint8)
        known = np.zeros(labels.shape, dtype=bool)
        for label, index in self.stored.items():
            here = labels == label
            result[here] = index
            known |= here
        if not known.all():
            if self.other is None:
                stray = int(labels[~known].flat[0])
                raise InputError(
                    f"{source} holds value {stray}, which is neither background nor one of the truth's classes "
                    f"{list(self.values)}; name it with the prediction's background value, or relabel the file"
                )
            result[~known] = self.other
        return result


def _match(judged: Segmentation, truth: Annotation, background: int | None) -> _Matching:
    """Decide which stored label is which class of the truth."""
    single = truth.class_count <= 1
    if judged.class_values is None:
        values: tuple[int, ...] = (
            truth.class_values if truth.kind == "classes" else tuple(range(1, truth.class_count + 1))
        )
        zeros = {0: 0} if background is None or 0 not in values else {}
        zeros |= {background: 0} if background is not None else {}
        identity = np.arange(truth.class_count + 1, dtype=np.uint8)
        if single:
            return _Matching(values[:1] or (1,), identity, zeros, other=1)
        return _Matching(values, identity, {v: k for k, v in enumerate(values, start=1)} | zeros, other=None)

    known = judged.class_values
    if truth.kind == "instances" and single:
        return _Matching((1,), np.array([0, 1], dtype=np.uint8), {0: 0}, other=1)
    if truth.kind == "classes" and len(known) == len(truth.class_values) == 1:
        wanted: tuple[int, ...] = known
    elif truth.kind == "classes":
        wanted = truth.class_values
    else:
        wanted = (
            known[: truth.class_count] if truth.class_count <= len(known) else tuple(range(1, truth.class_count + 1))
        )
    missing = [value for value in wanted if value not in known]
    if missing:
        raise InputError(
            f"the truth has class {', '.join(map(str, missing))}, which {judged.source} does not know; its classes are "
            f"{', '.join(map(str, known))}; give truth with these classes, or name background and unlabelled values"
        )
    lookup = np.array([0, *(known.index(value) + 1 for value in wanted)], dtype=np.uint8)
    return _Matching(known, lookup, {k: k for k in range(len(known) + 1)}, other=None)


# ------------------------------------------------------------------------------------------------------ accumulation


@dataclass(frozen=True)
class _Cells:
    """A grid of boxes over what is annotated, of which the last along an axis may be smaller.

    Attributes
    ----------
    box
        What the grid covers.
    shape
        Extent (z, y, x) of a cell.
    """

    box: Box
    shape: Triple

    @property
    def grid(self) -> Triple:
        """Number of cells along z, y, x."""
        z, y, x = (-(-extent // step) for extent, step in zip(self.box.shape, self.shape, strict=True))
        return z, y, x

    def within(self, region: Box) -> Iterator[tuple[int, Box]]:
        """Yield the number of each cell that a region touches, and their common part."""
        common = region.intersect(self.box)
        if not common.size:
            return
        ranges = [
            range((low - origin) // step, (high - 1 - origin) // step + 1)
            for low, high, origin, step in zip(common.start, common.stop, self.box.start, self.shape, strict=True)
        ]
        for index in itertools.product(*ranges):
            start = tuple(o + k * step for o, k, step in zip(self.box.start, index, self.shape, strict=True))
            cell = Box(start, tuple(a + step for a, step in zip(start, self.shape, strict=True)))
            yield int(np.ravel_multi_index(index, self.grid)), cell.intersect(common)


def _cells(truth: Annotation, size: tuple[float, float, float]) -> _Cells:
    """Divide the box around what is annotated into at least 64 cells, as near to cubes as voxels allow."""
    ends = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        known = np.flatnonzero(truth.annotated.any(axis=others))
        ends.append((int(known[0]), int(known[-1]) + 1))
    box = Box(tuple(low for low, _ in ends), tuple(high for _, high in ends))
    edge = max(extent * s for extent, s in zip(box.shape, size, strict=True))
    while True:
        z, y, x = (min(extent, max(1, round(edge / s))) for extent, s in zip(box.shape, size, strict=True))
        cells = _Cells(box, (z, y, x))
        if np.prod(cells.grid) >= min(_CELLS, box.size):
            return cells
        edge *= 0.95


def _accumulate(
    judged: Segmentation, truth: Annotation, matching: _Matching, axis: int | None, cells: _Cells, with_surface: bool
) -> tuple[_Counts, npt.NDArray[np.int64]]:
    """Read everything once, block by block."""
    side = len(matching.values) + 1
    depth = judged.shape[0]
    counts = _Counts(
        np.zeros((int(np.prod(cells.grid)), side, side), np.int64),
        np.zeros((side, side), np.int64),
        np.zeros((4, depth), np.int64),
    )
    truth_changes = np.zeros((4, depth), np.int64)
    seen: set[int] = set()
    for block in cover(judged.shape, _block_shape(judged.labels), (1, 1, 1)):
        raw = _read_labels(judged, block.read)
        seen |= {value for value, index in matching.stored.items() if index == 0 and bool((raw == value).any())}
        if len(seen) > 1:
            raise InputError(
                f"{judged.source} holds both 0 and {max(seen, key=abs)}, either of which may be its background; "
                "write its background as 0 and its classes as in the truth"
            )
        labels = matching.classes(raw, judged.source)
        write, crop = block.write, block.crop
        columns = (slice(None), *crop.slices[1:])
        planes = slice(write.start[0], write.stop[0])
        counts.changes[:, planes] += along_z.changes(labels[columns])[:, crop.slices[0]]
        valid = truth.annotated[block.read.slices]
        if not valid[crop.slices].any():
            continue
        true = matching.truth[_true_classes(truth, block.read)]
        truth_changes[:, planes] += along_z.changes(true[columns], valid[columns])[:, crop.slices[0]]
        inner = crop.slices
        for cell, box in cells.within(write):
            here = box.shift([-start for start in block.read.start]).slices
            counts.by_cell[cell] += semantic.confusion(labels[here], true[here], valid[here], side - 1)
        if judged.probabilities is not None:
            half = matching.classes(segment_probabilities(judged.probabilities.read(write), 0.5), judged.source)
            counts.half += semantic.confusion(half, true[inner], valid[inner], side - 1)
        if with_surface:
            for name, part in (("predicted", labels), ("truth", true)):
                _collect(counts, name, part, valid, block, axis, side)
    return counts, truth_changes


def _read_labels(judged: Segmentation, box: Box) -> Array:
    labels: Array = judged.labels.read(box)[0]
    return labels


def _true_classes(truth: Annotation, box: Box) -> npt.NDArray[np.uint8]:
    part = Annotation(
        truth.labels[box.slices], truth.annotated[box.slices], truth.kind, truth.class_values, truth.class_by_id
    )
    return part.classes


def _collect(
    counts: _Counts, name: str, labels: Array, valid: Array, block: Block, axis: int | None, side: int
) -> None:
    """Add the positions of one block's surface elements, for any foreground and for every class."""
    for index in range(side):
        if index == 1 and side == 2:
            continue  # the only class is the foreground
        key = (index, name)
        known = counts.element_count.get(key, 0)
        if known > _MOST_ELEMENTS:
            continue
        mask = labels == index if index else labels > 0
        if not mask.any():
            continue
        elements = surface.surface_elements(mask, valid, axis)[block.crop.slices]
        found = (np.argwhere(elements) + np.asarray(block.write.start)).astype(np.int32)
        counts.element_count[key] = known + len(found)
        if known + len(found) > _MOST_ELEMENTS:
            counts.elements.pop(key, None)
        else:
            counts.elements.setdefault(key, []).append(found)


def _block_shape(volume: Volume) -> Triple:
    """Choose a block of whole chunks: as wide as fits into the budget, along x first, then y, then z."""
    shape = volume.shape
    chunk = volume.chunks or (1, *shape[1:])
    block = [min(c, n) for c, n in zip(chunk[-3:], shape, strict=True)]
    for axis in (2, 1, 0):
        others = int(np.prod(block)) // block[axis]
        fits = max(1, _BLOCK_VOXELS // (others * block[axis]))
        block[axis] = min(shape[axis], block[axis] * fits)
    return (block[0], block[1], block[2])


# ------------------------------------------------------------------------------------------------------------ numbers


def _voxel_scores(matrix: npt.NDArray[np.int64]) -> dict[str, Any]:
    return {**semantic.scores(matrix), "confusion": matrix.tolist()}


def _intervals(by_cell: npt.NDArray[np.int64], index: int, seed: int) -> dict[str, Any]:
    """Return the interval of each voxel score of a class (0: any foreground)."""
    if len(by_cell) < _FEWEST_CELLS:
        return {}
    reduced = [semantic.one_against_rest(m, index) if index else semantic.foreground(m) for m in by_cell]
    counts = np.stack(reduced).reshape(len(by_cell), 4)
    found = {
        name: bootstrap_pooled(counts, score, np.random.default_rng(seed)) for name, score in _SCORES_OF_SUMS.items()
    }
    return {name: interval and interval.to_json() for name, interval in found.items()}


def _ratio(numerator: Floats, denominator: Floats, empty: float) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, empty)


# of (n, 4) sums TN, FP, FN, TP; empty quotients as in semantic.scores
_SCORES_OF_SUMS: dict[str, Callable[[Floats], Floats]] = {
    "dice": lambda c: _ratio(2 * c[:, 3], 2 * c[:, 3] + c[:, 1] + c[:, 2], 1.0),
    "iou": lambda c: _ratio(c[:, 3], c[:, 3] + c[:, 1] + c[:, 2], 1.0),
    "precision": lambda c: _ratio(c[:, 3], c[:, 3] + c[:, 1], np.nan),
    "recall": lambda c: _ratio(c[:, 3], c[:, 3] + c[:, 2], np.nan),
}


def _surface_scores(
    counts: _Counts, index: int, size: tuple[float, float, float] | None, tolerance: float | None, axis: int | None
) -> dict[str, Any]:
    only_class = counts.stored.shape[0] == 2
    key = 0 if only_class else index
    most = max(counts.element_count.get((key, name), 0) for name in ("predicted", "truth"))
    if most > _MOST_ELEMENTS:
        return {"surface_skipped": f"a surface has more than {_MOST_ELEMENTS} elements; cut the volume to measure it"}
    points = [
        np.concatenate(counts.elements.get((key, name)) or [np.zeros((0, 3), np.int32)])
        for name in ("predicted", "truth")
    ]
    matrix = semantic.one_against_rest(counts.stored, index) if index else semantic.foreground(counts.stored)
    return surface.scores_between(points[0], points[1], matrix, size, tolerance, axis)


def _opened(prediction: str | Path | Segmentation | Array) -> Segmentation:
    if isinstance(prediction, Segmentation):
        return prediction
    if isinstance(prediction, np.ndarray):
        if prediction.dtype.kind not in "biu" or prediction.ndim != 3:
            raise InputError(
                f"a prediction given as array must be integer labels (z, y, x), got {prediction.dtype} with "
                f"{prediction.ndim} axes; apply a threshold first"
            )
        labels = prediction.astype(np.uint8) if prediction.dtype == bool else prediction
        return Segmentation(Volume.from_array(labels))
    return open_segmentation(prediction)


def _complete(store: Path) -> bool | None:
    try:
        job = json.loads((store / ".fewslice" / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return bool(job.get("finished")) if isinstance(job, dict) else None
