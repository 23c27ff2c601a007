"""From the contacts of regions to objects: which regions are one, which are too small, what each is called.

Heights are a landscape, regions its mountains, a pass the highest saddle between two of them. Regions are merged as if
the landscape were flooded from above: passes from the highest to the lowest, and at each pass the mountains on either
side become one if the pass is shallow for the lower of them (:class:`~fewslice.segmenters.Merging`). In one line::

    peaks     10    4    9        passes  A–B at 3, B–C at 1;   shallow: less than 2 below the lower peak
              A     B    C        A–B: 4 − 3 < 2, so A and B are one, of peak 10;  B–C: 9 − 1 is not less than 2

:func:`merge_shallow` does this without a queue, for all mountains at once. The highest pass of a mountain is decided
if the mountain is the lower one: nothing that happens elsewhere comes before it. If it is shallow the two become one;
if not it will never be, since peaks only grow, and is forgotten. Then there are new highest passes. The globally
highest pass is always decided, so this ends; what it costs is rounds, about ten in images, as many as there are
mountains in a row whose peaks rise while their passes fall. A mountain that is not seen whole (`open_`) waits.

Since passes of equal height are ordered by their place in the volume, merging a block's closed mountains before
anything else changes nothing: it only makes less of everything that comes later.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csgraph

from fewslice.segmenters import JOIN, Merging

__all__ = ["merge_shallow", "name_objects", "unite"]

Ints = npt.NDArray[np.int64]


def unite(peaks: npt.NDArray[np.int32], contacts: npt.NDArray[np.void], merging: Merging | None) -> Ints:
    """Say which object each region belongs to.

    Parameters
    ----------
    peaks
        (n,) int32.
    contacts
        Of type :data:`~fewslice.segmenters.CONTACT`; ``a`` and ``b`` count regions from 0.
    merging
        When regions that touch are one; None: only those that are joined.

    Returns
    -------
    numpy.ndarray
        (n,) int64, groups 0, 1, … in the order of their first regions. Memory: about 100 bytes per contact.
    """
    joined = contacts["saddle"] == JOIN
    group = _components(contacts["a"][joined], contacts["b"][joined], peaks.size)
    if merging is None:
        return group
    tops = _maximum(group, peaks)
    passes = contacts[~joined]
    return merge_shallow(tops, passes, merging, a=group[passes["a"]], b=group[passes["b"]])[group]


def merge_shallow(
    peaks: npt.NDArray[np.int32],
    passes: npt.NDArray[np.void],
    merging: Merging,
    *,
    a: Ints | None = None,
    b: Ints | None = None,
    open_: npt.NDArray[np.bool_] | None = None,
) -> Ints:
    """Merge mountains over shallow passes.

    Parameters
    ----------
    peaks
        (n,) int32.
    passes
        Of type :data:`~fewslice.segmenters.CONTACT`.
    merging
        What is shallow.
    a, b
        What each pass joins, 0 … n − 1; by default as `passes` say.
    open_
        (n,) bool: has neighbours or higher ground that are not known here. None: all is known.

    Returns
    -------
    numpy.ndarray
        (n,) int64, groups 0, 1, … in the order of their first mountains.
    """
    group: Ints = np.arange(peaks.size, dtype=np.int64)
    order = np.lexsort((passes["order"], -passes["saddle"].astype(np.int64)))
    saddle = passes["saddle"][order]
    a = (passes["a"] if a is None else a)[order]
    b = (passes["b"] if b is None else b)[order]
    closed = np.ones(peaks.size, dtype=bool) if open_ is None else ~open_
    while True:
        kept = a != b
        a, b, saddle = a[kept], b[kept], saddle[kept]
        highest = _first(a, b, peaks.size)
        passing = np.arange(a.size)
        lower = np.where(peaks[a] <= peaks[b], a, b)
        decided = closed[lower] & (highest[lower] == passing)
        tie = peaks[a] == peaks[b]  # then either may be the lower one
        decided |= tie & closed[b] & (highest[b] == passing)
        if not decided.any():
            return group
        merged = decided & merging.shallow(np.minimum(peaks[a], peaks[b]), saddle)
        if merged.any():
            step = _components(a[merged], b[merged], peaks.size)
            group, peaks = step[group], _maximum(step, peaks)
            closed = ~_any(step, ~closed)
            a, b = step[a], step[b]
        a, b, saddle = a[~decided], b[~decided], saddle[~decided]


def name_objects(group: Ints, sizes: Ints, min_size: int) -> tuple[npt.NDArray[np.uint64], int]:
    """Give numbers to the objects that are large enough, from 1 on in the order of their first regions.

    Parameters
    ----------
    group
        (n,) what each region belongs to, from 0.
    sizes
        (n,) voxels of each region.
    min_size
        Smallest object that is kept, in voxels.

    Returns
    -------
    names, count
        (n,) uint64, 0 for what is dropped; and the number of objects.
    """
    totals = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    np.add.at(totals, group, sizes)
    kept = totals >= max(1, min_size)
    names = np.cumsum(kept).astype(np.uint64)
    names[~kept] = 0
    return names[group], int(kept.sum())


def _components(a: Ints, b: Ints, count: int) -> Ints:
    graph = coo_array((np.ones(a.size, dtype=bool), (a, b)), shape=(count, count))
    found: Any = csgraph.connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    result: Ints = rank[inverse]
    return result


def _first(a: Ints, b: Ints, count: int) -> Ints:
    """Return for every mountain the first pass that it has; passes come from the highest to the lowest."""
    highest = np.full(count, a.size, dtype=np.int64)
    for side in (a, b):
        found = np.full(count, a.size, dtype=np.int64)
        found[side[::-1]] = np.arange(a.size)[::-1]  # of several values for one place the last one stays
        np.minimum(highest, found, out=highest)
    return highest


def _maximum(group: Ints, values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    result = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.int32).min, dtype=np.int32)
    np.maximum.at(result, group, values)
    return result


def _any(group: Ints, values: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.bincount(group, weights=values, minlength=int(group.max(initial=-1)) + 1) > 0
