"""How consistent a segmentation is from plane to plane.

A 2D network sees one plane at a time; stacked, its planes flicker. Both numbers need no truth. The ideal is not 0 (real
objects begin and end) but the value of the truth itself.

:func:`changes` counts, and its counts of disjoint columns add up; :func:`summary` turns counts into numbers;
:func:`consistency` does both for a volume in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError

__all__ = ["changes", "consistency", "summary"]

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]


def consistency(labels: Array, valid: Array | None = None) -> dict[str, float | None]:
    """Measure flicker and disagreement between neighbouring planes.

    Parameters
    ----------
    labels
        (z, y, x), bool or integer.
    valid
        Bool (z, y, x); a comparison counts where all planes in it are valid. Everywhere by default.

    Returns
    -------
    dict
        ``flicker``: share of voxels, over all planes that have two neighbours, whose label leaves and comes back,
        p[z-1] == p[z+1] != p[z]; None with fewer than three planes.
        ``plane_disagreement``: share of voxels whose label differs between planes z and z + 1, mean over the pairs of
        planes (every pair weighs the same); None with fewer than two planes.

    Raises
    ------
    InputError
        If the labels are not (z, y, x) or the mask has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> consistency(np.array([0, 1, 0, 0]).reshape(4, 1, 1))
    {'flicker': 0.5, 'plane_disagreement': 0.6666666666666666}
    """
    return summary(changes(labels, valid))


def changes(labels: Array, valid: Array | None = None) -> Counts:
    """Count per plane what changes along z.

    Parameters
    ----------
    labels, valid
        As in :func:`consistency`.

    Returns
    -------
    numpy.ndarray
        int64 of shape (4, z). Row 0: voxels that differ from the next plane; row 1: voxels compared with it; row 2:
        voxels whose label leaves and comes back; row 3: voxels compared with both neighbours. A part of a volume that
        was read with one plane of context gives, for its inner planes, the counts of the whole.

    Raises
    ------
    InputError
        If the labels are not (z, y, x) or the mask has another shape.
    """
    if labels.ndim != 3 or (valid is not None and valid.shape != labels.shape):
        shape = None if valid is None else valid.shape
        raise InputError(f"labels and mask must have one shape (z, y, x), got {labels.shape} and {shape}")
    depth = labels.shape[0]
    counts = np.zeros((4, depth), dtype=np.int64)
    differs_below: Array | None = None
    for z in range(depth - 1):
        differs = labels[z] != labels[z + 1]
        known = True if valid is None else valid[z] & valid[z + 1]
        counts[:2, z] = _count(differs, known)
        if differs_below is not None:
            returns = differs_below & (labels[z - 1] == labels[z + 1])
            counts[2:, z] = _count(returns, known if valid is None else known & valid[z - 1])
        differs_below = differs
    return counts


def summary(counts: Counts) -> dict[str, float | None]:
    """Turn the counts of :func:`changes` into ``flicker`` and ``plane_disagreement``; see :func:`consistency`."""
    differs, pairs, returns, triples = counts
    known = pairs > 0
    total = int(triples.sum())
    return {
        "flicker": int(returns.sum()) / total if total else None,
        "plane_disagreement": float(np.mean(differs[known] / pairs[known])) if known.any() else None,
    }


def _count(event: Array, known: Array | bool) -> tuple[int, int]:
    if isinstance(known, bool):
        return int(np.count_nonzero(event)), event.size
    return int(np.count_nonzero(event & known)), int(np.count_nonzero(known))
