"""What is added up per object: whole numbers only, so that no order of adding and no cutting changes a bit of it.

1. :func:`block_sums` – one block of labels becomes a table with one row per object in it. Labels are coherent along x,
   so everything is computed on runs of equal labels, of which there are far fewer than voxels.
2. :func:`merge` – rows of the same object, of any blocks in any order, become one.

Every column is a sum, a minimum or a maximum:

=============  ====  ==================================================================================================
``id``               the object
``voxels``     sum   number of voxels
``low, high``  ext.  bounding box along z, y, x, half open
``first``      sum   coordinates z, y, x of its voxels, from the volume's first voxel
``second``     sum   products zz, yy, xx, zy, zx, yx of those coordinates
``surface``    sum   weighted crossings (:mod:`fewslice.measurement.surface`)
``values``     sum   intensities per channel
``least,       ext.  smallest and largest intensity per channel
most``
``votes``      sum   voxels of each class of the segmentation
``scores``     sum   stored probability (0–255) of each class
=============  ====  ==================================================================================================

**Overflow.** ``second`` and ``values`` are kept as two int64 numbers, high · 2³² + low with 0 ≤ low < 2³² in every row,
so that a sum over 2³¹ blocks fits. A block's own share must fit one int64: :func:`check_bounds` demands voxels of a
block × extent² < 2⁶³, which holds up to an extent of 2¹⁸ voxels for blocks of 2²⁶. ``first`` fits up to 2⁶³ voxels ×
coordinate (a terabyte of one object along 9 million voxels), ``surface`` up to 2⁴¹ border voxels.

**Floating-point intensities** become whole multiples of 2**-k, with k chosen from the largest magnitude in the whole
image so that it fits 31 bits (:func:`exponent_for`): each voxel is rounded by at most 2⁻³¹ of the largest magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.measurement.surface import crossing_sums

__all__ = [
    "PRODUCTS",
    "Sums",
    "block_sums",
    "check_bounds",
    "empty_sums",
    "exponent_for",
    "merge",
    "region_voxels",
    "whole",
]

fastremap: Any
try:
    fastremap = import_module("fastremap")
except ImportError:  # NumPy does the same, about fifteen times slower
    fastremap = None

Sums = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]

PRODUCTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""The axes multiplied in each entry of ``second``."""

_HALF = 32


def _dtype(channels: int, classes: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("id", np.uint64),
            ("voxels", np.int64),
            ("low", np.int32, (3,)),
            ("high", np.int32, (3,)),
            ("first", np.int64, (3,)),
            ("second", np.int64, (6, 2)),
            ("surface", np.int64),
            ("values", np.int64, (channels, 2)),
            ("least", np.float64, (channels,)),
            ("most", np.float64, (channels,)),
            ("votes", np.int64, (classes,)),
            ("scores", np.int64, (classes,)),
        ]
    )


def empty_sums(channels: int = 0, classes: int = 0, rows: int = 0) -> Sums:
    """Return a table of zeros for images of so many channels and predictions of so many classes."""
    return np.zeros(rows, dtype=_dtype(channels, classes))


def _neutral(channels: int, classes: int, rows: int) -> Sums:
    """Return rows that change nothing when merged with others."""
    table = empty_sums(channels, classes, rows)
    table["low"], table["least"], table["most"] = np.iinfo(np.int32).max, np.inf, -np.inf
    return table


def check_bounds(shape: Sequence[int], block: Sequence[int]) -> None:
    """Refuse a block whose sums might not fit 64 bits.

    Raises
    ------
    InputError
        If voxels of the block times the square of the volume's largest extent reach 2**63, or the block 2**26 voxels
        of context included.
    """
    voxels = math.prod(min(b, s) + 1 for b, s in zip(block, shape, strict=True))
    if voxels * max(shape) ** 2 >= 2**63 or voxels > 2**26:
        raise InputError(
            f"a block of {tuple(block)} voxels (z, y, x) in a volume of {tuple(shape)} is too large for exact sums; "
            "give a smaller --block"
        )


def exponent_for(largest: float) -> int:
    """Return k such that `largest`, the largest magnitude of an image, times 2**k fits 31 bits."""
    return 30 - math.frexp(largest)[1] if largest > 0 else 0


def block_sums(
    labels: npt.NDArray[Any],
    written: Sequence[int],
    start: Sequence[int],
    weights: Sequence[int],
    *,
    image: npt.NDArray[Any] | None = None,
    exponent: int | None = None,
    segmentation: npt.NDArray[Any] | None = None,
    scores: npt.NDArray[np.uint8] | None = None,
    classes: int = 0,
) -> Sums:
    """Sum everything over the objects of one block.

    Parameters
    ----------
    labels
        Non-negative integers z, y, x, 0 being background: the block and one voxel more on the high sides that are not
        the volume's.
    written
        z, y, x of the block.
    start
        z, y, x of its first voxel in the volume.
    weights
        Of crossings, see :func:`fewslice.measurement.surface.surface_weights`.
    image
        c, z, y, x of the block, if intensities are wanted: integers of up to 32 bits, or finite floating-point numbers.
    exponent
        k of a floating-point image, see :func:`exponent_for`.
    segmentation
        z, y, x of the block: classes 0 to `classes`, if votes are wanted.
    scores
        c, z, y, x of the block: stored probability of each class, if wanted.
    classes
        Number of classes, background not counted.

    Returns
    -------
    numpy.ndarray
        One row per object, ids ascending. An object that only lies in the context may have a row without voxels.

    Raises
    ------
    InputError
        If a label is negative.
    """
    compact, ids = _compact(labels)
    channels = 0 if image is None else len(image)
    own = np.ascontiguousarray(compact[tuple(slice(0, n) for n in written)])
    begins = _run_starts(own)
    which = own.reshape(-1)[begins]
    inside = np.flatnonzero(which)
    order = inside[np.argsort(which[inside], kind="stable")]
    cuts = _group_starts(which[order])
    objects = which[order[cuts]].astype(np.int64) - 1
    surface = crossing_sums(compact, written, weights, len(ids))[1:]
    table = _neutral(channels, classes, len(ids) - 1)
    table["id"], table["surface"] = ids[1:], surface
    if len(cuts):
        found = table[objects]
        _geometry(found, begins, own.size, order, cuts, written, start)
        for channel in range(channels):
            assert image is not None
            _intensity(found, channel, image[channel].reshape(-1), exponent, begins, order, cuts)
        for k in range(classes):
            if segmentation is not None:
                found["votes"][:, k] = _per_object(segmentation.reshape(-1) == k + 1, begins, order, cuts)
            if scores is not None:
                found["scores"][:, k] = _per_object(scores[k].reshape(-1), begins, order, cuts)
        table[objects] = found
    # an object that lies in the context only may still cross a border that this block owns
    table = table[(table["voxels"] > 0) | (table["surface"] > 0)]
    return table[np.argsort(table["id"], kind="stable")]


def _compact(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
    """Return the labels of a block numbered from 0 on, the background first, and the id behind each number."""
    flat = labels.reshape(-1)
    begins = _run_starts(labels)
    runs = flat[begins]
    if runs.dtype.kind == "i" and runs.size and runs.min() < 0:
        raise InputError(f"labels hold {int(runs.min())}, but ids of objects are not negative; mark background with 0")
    if fastremap is not None:
        numbers, names = fastremap.renumber(runs, preserve_zero=True)
        ids = np.zeros(len(names) + (0 not in names), dtype=np.uint64)
        ids[np.fromiter(names.values(), np.int64, len(names))] = np.fromiter(names.keys(), np.uint64, len(names))
    else:
        ids, numbers = np.unique(np.append(runs.astype(np.uint64), np.uint64(0)), return_inverse=True)
        numbers = numbers[:-1]
    kind = np.uint16 if len(ids) <= 1 << 16 else np.uint32
    return np.repeat(numbers.astype(kind), np.diff(begins, append=flat.size)).reshape(labels.shape), ids


def _run_starts(labels: npt.NDArray[Any]) -> Ints:
    """Return the flat positions at which a run of equal labels along x begins; every row begins one."""
    flat = labels.reshape(-1)
    changed = np.empty(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=changed[1:])
    changed[:: labels.shape[-1]] = True
    return np.flatnonzero(changed)


def _group_starts(values: npt.NDArray[Any]) -> Ints:
    """Return where each group of equal values begins in sorted values."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))


def _geometry(
    table: Sums, begins: Ints, size: int, order: Ints, cuts: Ints, written: Sequence[int], start: Sequence[int]
) -> None:
    """Fill in voxels, box and moments. Sums over a run of n voxels from x: Σx and Σx² in closed form."""
    at = begins[order]
    n = np.append(begins[1:], size)[order] - at
    z, rest = np.divmod(at, written[1] * written[2])
    y, x = np.divmod(rest, written[2])
    z, y, x = z + start[0], y + start[1], x + start[2]
    sum_x = n * x + n * (n - 1) // 2
    sum_xx = n * x * x + x * n * (n - 1) + (n - 1) * n * (2 * n - 1) // 6

    def total(values: Ints) -> Ints:
        return np.add.reduceat(values, cuts)

    table["voxels"] = total(n)
    for axis, (values, upper) in enumerate(((z, z), (y, y), (x, x + n - 1))):
        table["low"][:, axis] = np.minimum.reduceat(values, cuts)
        table["high"][:, axis] = np.maximum.reduceat(upper, cuts) + 1
    for axis, values in enumerate((n * z, n * y, sum_x)):
        table["first"][:, axis] = total(values)
    for k, values in enumerate((n * z * z, n * y * y, sum_xx, n * z * y, z * sum_x, y * sum_x)):
        table["second"][:, k] = _halves(total(values))


def _intensity(
    table: Sums,
    channel: int,
    values: npt.NDArray[Any],
    exponent: int | None,
    begins: Ints,
    order: Ints,
    cuts: Ints,
) -> None:
    table["least"][:, channel] = np.minimum.reduceat(np.minimum.reduceat(values, begins)[order], cuts)
    table["most"][:, channel] = np.maximum.reduceat(np.maximum.reduceat(values, begins)[order], cuts)
    if exponent is not None:
        values = np.rint(np.ldexp(values.astype(np.float64), exponent)).astype(np.int64)
    table["values"][:, channel] = _halves(_per_object(values, begins, order, cuts))


def _per_object(values: npt.NDArray[Any], begins: Ints, order: Ints, cuts: Ints) -> Ints:
    """Sum over runs, then over the runs of each object."""
    per_run = np.add.reduceat(values, begins, dtype=np.int64)
    return np.add.reduceat(per_run[order], cuts)


def _halves(values: Ints) -> Ints:
    return np.stack([values >> _HALF, values & (2**_HALF - 1)], axis=-1)


def merge(rows: Sums) -> Sums:
    """Join the rows of each object.

    Parameters
    ----------
    rows
        Rows of any blocks, in any order.

    Returns
    -------
    numpy.ndarray
        One row per object, ids ascending.
    """
    rows = rows[np.argsort(rows["id"], kind="stable")]
    cuts = _group_starts(rows["id"])
    table = rows[cuts].copy()
    if not len(cuts):
        return table
    for name in ("voxels", "first", "second", "surface", "values", "votes", "scores"):
        table[name] = np.add.reduceat(rows[name], cuts, axis=0)
    for name in ("low", "least"):
        table[name] = np.minimum.reduceat(rows[name], cuts, axis=0)
    for name in ("high", "most"):
        table[name] = np.maximum.reduceat(rows[name], cuts, axis=0)
    for name in ("second", "values"):
        table[name][..., 0] += table[name][..., 1] >> _HALF
        table[name][..., 1] &= 2**_HALF - 1
    return table


def whole(halves: Ints) -> npt.NDArray[np.float64]:
    """Return sums that are kept in two halves as float64, rounded once."""
    return np.ldexp(halves[..., 0].astype(np.float64), _HALF) + halves[..., 1]


def region_voxels(regions: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Count the voxels of each region of a block: rows (``id``, ``voxels``), 0 included."""
    begins = _run_starts(regions)
    values = regions.reshape(-1)[begins]
    lengths = np.diff(begins, append=regions.size)
    ids, which = np.unique(values, return_inverse=True)
    counts = np.zeros(len(ids), dtype=[("id", np.int64), ("voxels", np.int64)])
    counts["id"] = ids
    np.add.at(counts["voxels"], which.reshape(-1), lengths)
    return counts
