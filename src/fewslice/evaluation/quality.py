"""Quality without truth: signs that a prediction has gone wrong, and where to look first.

Nothing here proves that a prediction is right. Each number has a value that it takes when all is well, and each
function names the places that stray furthest from it.

1. :func:`seams` – is the probability less smooth across the faces of blocks than elsewhere?
2. :func:`flicker` – do labels leave and come back from plane to plane (:mod:`fewslice.metrics.along_z`)?
3. :func:`uncertain` – where are probabilities far from 0 and 1?
4. :func:`size_outliers` – which objects are too large or small to be one of the others?
5. :func:`input_drift` – does the image look like those the model was trained on?
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.data.normalisation import Normalisation, fit_normalisation
from fewslice.errors import InputError
from fewslice.geometry import Box, Shape, cover
from fewslice.metrics import along_z
from fewslice.volume import Volume

__all__ = [
    "Drift",
    "Flicker",
    "Outliers",
    "Seam",
    "Uncertain",
    "flicker",
    "input_drift",
    "read_normalisation",
    "seams",
    "size_outliers",
    "uncertain",
]

Floats = npt.NDArray[np.float64]

_BLOCK = (32, 512, 512)
_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Seam:
    """Smoothness across block faces along one axis.

    Attributes
    ----------
    axis
        0, 1, 2 for z, y, x.
    at_faces, between
        Mean absolute difference of neighbouring voxels (in the volume's units) across block faces, and across planes
        half a block away from them.
    ratio
        The first over the second: about 1 where blocks leave no trace; None where both are 0 or there is no face.
    worst
        (position, ratio) of the faces with the largest ratio to the mean between; a face lies before that index.
    """

    axis: int
    at_faces: float
    between: float
    ratio: float | None
    worst: tuple[tuple[int, float], ...]


def seams(probabilities: Volume, block: Sequence[int], worst: int = 5) -> list[Seam]:
    """Compare the step of a prediction across block faces with that between them.

    Parameters
    ----------
    probabilities
        Any scale; all channels are compared.
    block
        z, y, x written per block, as the prediction's attribute ``block`` states it.
    worst
        How many faces to name per axis.

    Returns
    -------
    list of Seam
        One per axis with at least one inner face.

    Raises
    ------
    InputError
        If the block has not three positive extents.
    """
    if len(block) != 3 or min(block) < 1:
        raise InputError(f"a block has three positive extents z, y, x, got {tuple(block)}; pass that of the prediction")
    found = []
    for axis, (extent, step) in enumerate(zip(probabilities.shape, block, strict=True)):
        faces = range(step, extent, step)
        if not faces or step < 2:
            continue
        at = np.array([_step(probabilities, axis, face) for face in faces])
        others = sorted({p for face in faces for p in (face - step // 2, face + step // 2) if 0 < p < extent})
        between = float(np.mean([_step(probabilities, axis, p) for p in others])) if others else 0.0
        order = np.argsort(-at, kind="stable")[:worst]
        places = tuple((faces[i], float(at[i] / between)) for i in order) if between else ()
        ratio = float(at.mean() / between) if between else None
        found.append(Seam(axis, float(at.mean()), between, ratio, places))
    return found


def _step(volume: Volume, axis: int, position: int) -> float:
    """Return the mean absolute difference between index position - 1 and position along an axis."""
    start, stop = [0, 0, 0], list(volume.shape)
    start[axis], stop[axis] = position - 1, position + 1
    total, count = 0.0, 0
    for piece in cover(tuple(b - a for a, b in zip(start, stop, strict=True)), _piece(axis), (0, 0, 0)):
        values = volume.read(piece.write.shift(start)).astype(np.float64)
        difference = np.diff(values, axis=1 + axis)
        total += float(np.abs(difference).sum())
        count += difference.size
    return total / count


def _piece(axis: int) -> Shape:
    shape = [512, 512, 512]
    shape[axis] = 2
    return tuple(shape)


@dataclass(frozen=True)
class Flicker:
    """Changes of labels along z.

    Attributes
    ----------
    share
        Share of voxels whose label leaves and comes back, over all planes with two neighbours; None below three planes.
    worst
        (plane, share) of the planes that flicker most.
    """

    share: float | None
    worst: tuple[tuple[int, float], ...]


def flicker(labels: Volume, worst: int = 5) -> Flicker:
    """Measure how often labels leave and come back from plane to plane, block by block.

    Parameters
    ----------
    labels
        Classes.
    worst
        How many planes to name.
    """
    counts = np.zeros((4, labels.shape[0]), dtype=np.int64)
    for block in cover(labels.shape, _BLOCK, (1, 0, 0)):
        values = labels.read(block.read)[0]
        planes = slice(block.write.start[0], block.write.stop[0])
        counts[:, planes] += along_z.changes(values)[:, block.crop.slices[0]]
    known = np.flatnonzero(counts[3])
    shares = counts[2, known] / counts[3, known]
    order = np.argsort(-shares, kind="stable")[:worst]
    return Flicker(along_z.summary(counts)["flicker"], tuple((int(known[i]), float(shares[i])) for i in order))


@dataclass(frozen=True)
class Uncertain:
    """Voxels whose probability is far from 0 and 1.

    Attributes
    ----------
    share
        Of all voxels.
    of_foreground
        Number of uncertain voxels over that of voxels at or above 0.5; None where there are none.
    worst
        (box, share) of the blocks with the largest share.
    """

    share: float
    of_foreground: float | None
    worst: tuple[tuple[Box, float], ...]


def uncertain(
    probabilities: Volume, low: float = 0.25, high: float = 0.75, block: Sequence[int] = (32, 64, 64), worst: int = 5
) -> Uncertain:
    """Count voxels of which the largest class probability lies strictly between two limits.

    Parameters
    ----------
    probabilities
        One channel per class: uint8 0–255, or floating-point 0–1.
    low, high
        Limits, 0–1.
    block
        z, y, x of the boxes that are compared.
    worst
        How many boxes to name.
    """
    if not 0 <= low < high <= 1:
        raise InputError(f"limits {low} and {high} must lie between 0 and 1, the first below the second")
    scale = 255.0 if probabilities.dtype.kind in "ui" else 1.0
    found, foreground, total = 0, 0, 0
    shares: list[tuple[Box, float]] = []
    for piece in cover(probabilities.shape, block, (0, 0, 0)):
        p = probabilities.read(piece.write).max(axis=0)
        count = int(np.count_nonzero((p > low * scale) & (p < high * scale)))
        found, foreground, total = found + count, foreground + int(np.count_nonzero(p >= 0.5 * scale)), total + p.size
        shares = sorted([*shares, (piece.write, count / p.size)], key=lambda entry: -entry[1])[:worst]
    return Uncertain(found / total, found / foreground if foreground else None, tuple(s for s in shares if s[1] > 0))


@dataclass(frozen=True)
class Outliers:
    """Objects of unusual size.

    Attributes
    ----------
    median, spread
        Median of ln(volume), and its robust standard deviation (1.4826 times the median absolute deviation).
    objects
        (id, z-score) of the objects beyond the limit, the furthest first: positive for large ones, which may be several
        that were not separated, negative for small ones, which may be debris.
    """

    median: float
    spread: float
    objects: tuple[tuple[int, float], ...]


def size_outliers(ids: npt.NDArray[Any], volumes_um3: npt.NDArray[Any], limit: float = 3.5) -> Outliers:
    """Find objects whose size does not fit the others, by the robust z-score of the logarithm of volume.

    Parameters
    ----------
    ids, volumes_um3
        Columns of the object table, of one class. Objects at the border are cut and better left out.
    limit
        Of the absolute z-score (3.5: Iglewicz and Hoaglin 1993).
    """
    if len(volumes_um3) == 0:
        return Outliers(0.0, 0.0, ())
    size = np.log(np.asarray(volumes_um3, dtype=np.float64))
    median = float(np.median(size))
    spread = _MAD_TO_SD * float(np.median(np.abs(size - median)))
    if spread == 0:  # more than half of the objects are equally large: none of them says how much sizes vary
        return Outliers(median, 0.0, ())
    score = (size - median) / spread
    beyond = np.flatnonzero(np.abs(score) > limit)
    beyond = beyond[np.argsort(-np.abs(score[beyond]), kind="stable")]
    return Outliers(median, spread, tuple((int(ids[i]), float(score[i])) for i in beyond))


@dataclass(frozen=True)
class Drift:
    """How far an image is from those that a model was trained on, per channel.

    Attributes
    ----------
    shift
        Difference of the levels that normalisation maps to 0, in units of the training images' scale. For the method
        ``robust`` that is the median, and 1 is a quarter of the spread between the 0.5th and 99.5th percentile.
    scale
        Ratio of the scales: 2 where the image has twice the contrast.
    worst
        Per channel, (plane, shift) of the sampled plane that strays furthest.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    worst: tuple[tuple[int, float], ...]


def input_drift(image: Volume, trained: Normalisation, planes: int = 16) -> Drift | None:
    """Compare the intensities of an image with what the model's normalisation was fitted on.

    Parameters
    ----------
    image
        What was predicted.
    trained
        The model's normalisation, see :func:`read_normalisation`. It holds one level and one scale per channel, which
        is all that a model keeps of its training images: a change of histogram that leaves both as they are is not
        seen.
    planes
        How many planes are compared one by one.

    Returns
    -------
    Drift or None
        None for the methods ``range`` and ``none``, which are not fitted on images.

    Raises
    ------
    InputError
        If the numbers of channels differ.
    """
    if image.channels != len(trained.offset):
        raise InputError(
            f"{image.source or 'the image'} has {image.channels} channels, but the model was trained on "
            f"{len(trained.offset)}; choose channels with --channels"
        )
    if trained.method not in ("robust", "unit"):
        return None
    own = fit_normalisation([image], trained.method)
    offset, scale = np.asarray(trained.offset), np.asarray(trained.scale)
    percentile = 50.0 if trained.method == "robust" else 0.5
    sampled = np.unique(np.linspace(0, image.shape[0] - 1, min(planes, image.shape[0])).astype(int))
    levels = np.array([_levels(image, int(z), percentile) for z in sampled])
    shifts = (levels - offset) / scale
    most = np.argmax(np.abs(shifts), axis=0)
    return Drift(
        tuple(float(v) for v in (np.asarray(own.offset) - offset) / scale),
        tuple(float(v) for v in np.asarray(own.scale) / scale),
        tuple((int(sampled[i]), float(shifts[i, channel])) for channel, i in enumerate(most)),
    )


def _levels(image: Volume, z: int, percentile: float) -> Floats:
    plane = image.read(Box((z, 0, 0), (z + 1, *image.shape[1:])))
    levels: Floats = np.percentile(plane.reshape(image.channels, -1), percentile, axis=1)
    return levels


def read_normalisation(model_folder: Path) -> Normalisation:
    """Read the normalisation of a stored model without loading its weights.

    Raises
    ------
    InputError
        If the folder holds no model that says it.
    """
    path = model_folder / "model.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["normalisation"]
        return Normalisation(
            stored["method"], tuple(float(v) for v in stored["offset"]), tuple(float(v) for v in stored["scale"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} states no normalisation ({error!r}); pass the folder of a trained model") from error
