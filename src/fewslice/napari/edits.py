"""Labels that are edited by hand: what is on disk, with changed blocks laid over it, and strokes that can be undone.

1. :class:`EditedArray` reads through to the volume below and copies a block when it is first written to, so that memory
   follows what was painted, not what there is. napari paints on it as on an array.
2. Every write is compared with what was there; :meth:`EditedArray.take_stroke` returns what has changed since the last
   call as one :class:`Stroke`.
3. A stroke as text is :func:`runs_of`: consecutive voxels that changed from one value to one other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.volume import Volume, normalise_index

__all__ = ["EditedArray", "Stroke", "merged", "no_labels", "runs_of", "stroke_of_runs"]

Index = tuple[int, ...]
Run = tuple[int, int, int, int]


@dataclass(frozen=True)
class Stroke:
    """Voxels that changed together.

    Attributes
    ----------
    indices
        int64, ascending, each once: positions in the flattened (z, y, x) array.
    old, new
        Their values before and after, of the labels' type.
    """

    indices: npt.NDArray[np.int64]
    old: npt.NDArray[Any]
    new: npt.NDArray[Any]

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(self.indices.size)


def merged(strokes: Sequence[Stroke]) -> Stroke | None:
    """Join strokes made one after the other: a voxel goes from its first old to its last new value; None if none does.

    Examples
    --------
    >>> one = Stroke(np.array([3, 4]), np.array([0, 0]), np.array([1, 1]))
    >>> two = Stroke(np.array([4, 5]), np.array([1, 0]), np.array([0, 2]))
    >>> joined = merged([one, two])
    >>> joined.indices.tolist(), joined.old.tolist(), joined.new.tolist()
    ([3, 5], [0, 0], [1, 2])
    """
    if not strokes:
        return None
    indices = np.concatenate([s.indices for s in strokes])
    old = np.concatenate([s.old for s in strokes])
    new = np.concatenate([s.new for s in strokes])
    places, first = np.unique(indices, return_index=True)
    _, last = np.unique(indices[::-1], return_index=True)
    before, after = old[first], new[::-1][last]
    changed = before != after
    return Stroke(places[changed], before[changed], after[changed]) if changed.any() else None


def runs_of(stroke: Stroke) -> list[Run]:
    """Return (first index, length, old value, new value) of consecutive voxels that changed alike.

    Examples
    --------
    >>> runs_of(Stroke(np.array([7, 8, 9, 20]), np.array([0, 0, 1, 0]), np.array([2, 2, 2, 2])))
    [(7, 2, 0, 2), (9, 1, 1, 2), (20, 1, 0, 2)]
    """
    if stroke.size == 0:
        return []
    ends = np.diff(stroke.indices) != 1
    ends |= (stroke.old[1:] != stroke.old[:-1]) | (stroke.new[1:] != stroke.new[:-1])
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
    lengths = np.diff(np.concatenate([starts, [stroke.size]]))
    columns = (stroke.indices[starts], lengths, stroke.old[starts], stroke.new[starts])
    return [(int(i), int(n), int(a), int(b)) for i, n, a, b in zip(*columns, strict=True)]


def stroke_of_runs(runs: Iterable[Sequence[int]], size: int, dtype: np.dtype[Any]) -> Stroke:
    """Return the stroke that :func:`runs_of` wrote.

    Parameters
    ----------
    runs
        (first index, length, old value, new value), ascending.
    size
        Number of voxels of the array, which no index may exceed.
    dtype
        Of the labels.

    Raises
    ------
    ValueError
        If the runs are not such numbers, overlap, or do not fit the array or its type.
    """
    table = np.asarray([tuple(run) for run in runs], dtype=np.int64).reshape(-1, 4)
    starts, lengths, values = table[:, 0], table[:, 1], table[:, 2:]
    ends = starts + lengths
    if table.size and (
        lengths.min() < 1 or starts[0] < 0 or ends[-1] > size or (starts[1:] < ends[:-1]).any()
        or values.min() < 0 or values.max() > np.iinfo(dtype).max
    ):  # fmt: skip
        raise ValueError("runs do not fit the labels")
    total = int(lengths.sum())
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    indices = np.repeat(starts, lengths) + np.arange(total) - before
    old, new = (np.repeat(values[:, i], lengths).astype(dtype) for i in range(2))
    return Stroke(indices, old, new)


def no_labels(shape: Sequence[int], dtype: npt.DTypeLike = np.uint16) -> Volume:
    """Return a volume of zeros (z, y, x) that takes no memory."""
    return Volume(np.broadcast_to(np.zeros(1, dtype=dtype), (1, *(int(n) for n in shape))))


class EditedArray:
    """Labels (z, y, x) of which changed blocks are in memory and the rest is where it was.

    Parameters
    ----------
    base
        One channel of unsigned integers; only ever read.
    block
        Voxels (z, y, x) that are kept together: those that are written together on saving.

    Attributes
    ----------
    base, block, shape, dtype
        As given, and of the base.
    unsaved
        Positions in the grid of the blocks that were changed since they were last saved.
    """

    def __init__(self, base: Volume, block: Sequence[int] = (32, 128, 128)) -> None:
        if base.channels != 1 or base.dtype.kind != "u":
            raise InputError(
                f"labels to be edited must be unsigned integers in one channel, got {base.dtype} in {base.channels}; "
                "convert them, for example with the layer's right-click menu"
            )
        self.base = base
        self.block: Index = tuple(int(n) for n in block)
        self.shape = base.shape
        self.dtype = base.dtype
        self.unsaved: set[Index] = set()
        self._blocks: dict[Index, npt.NDArray[Any]] = {}
        self._shared: set[Index] = set()
        self._pending: list[Stroke] = []
        self._written_at = self._began_at = 0.0

    @property
    def ndim(self) -> int:
        """Three."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it would take as an array in memory."""
        return self.size * self.dtype.itemsize

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read everything; for NumPy's own functions."""
        return self.read(Box.of(self.shape)).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Return a copy of what NumPy's basic indices with step 1, or one array of positions per axis, name."""
        if self._is_fancy(index):
            box, inside = self._around(index)
            return np.asarray(self.read(box)[inside])
        slices, dropped = normalise_index(index, self.shape)
        values = self.read(Box(tuple(s.start for s in slices), tuple(s.stop for s in slices)))
        return values.reshape([n for axis, n in enumerate(values.shape) if axis not in dropped])

    def __setitem__(self, index: Any, values: Any) -> None:
        """Write values, by the same indices, and remember what changed."""
        if self._is_fancy(index):
            box, inside = self._around(index)
            whole = self.read(box)
            whole[inside] = values
            self.write(box, whole)
            return
        slices, dropped = normalise_index(index, self.shape)
        box = Box(tuple(s.start for s in slices), tuple(s.stop for s in slices))
        kept = [n for axis, n in enumerate(box.shape) if axis not in dropped]
        self.write(box, np.broadcast_to(np.asarray(values, dtype=self.dtype), kept).reshape(box.shape))

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Return a region (z, y, x), as it is now; a copy."""
        out = np.empty(box.shape, dtype=self.dtype)
        for key in self._keys(box):
            place = self._place(key)
            common = place.intersect(box)
            block = self._blocks.get(key)
            source = self.base.read(common)[0] if block is None else block[common.shift(_minus(place.start)).slices]
            out[common.shift(_minus(box.start)).slices] = source
        return out

    def write(self, box: Box, values: npt.NDArray[Any]) -> None:
        """Replace a region (z, y, x), and remember what changed."""
        before = self.read(box)
        changed = np.flatnonzero(before != values)
        if changed.size == 0:
            return
        local = np.unravel_index(changed, box.shape)
        places = tuple(axis + start for axis, start in zip(local, box.start, strict=True))
        indices = np.ravel_multi_index(places, self.shape).astype(np.int64)
        new = np.asarray(values).ravel()[changed].astype(self.dtype)
        self._written_at = time.monotonic()
        if not self._pending:
            self._began_at = self._written_at
        self._pending.append(Stroke(indices, before.ravel()[changed], new))
        self.put(indices, new)

    def put(self, indices: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Set single voxels, by their positions in the flattened array, without remembering it."""
        places = np.unravel_index(indices, self.shape)
        grid = tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))
        keys = np.ravel_multi_index(tuple(p // b for p, b in zip(places, self.block, strict=True)), grid)
        order = np.argsort(keys, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
            if part.size == 0:
                continue
            key: Index = tuple(int(i) for i in np.unravel_index(keys[part[0]], grid))
            block, start = self._own(key), self._place(key).start
            block[tuple(p[part] - s for p, s in zip(places, start, strict=True))] = values[part]
            self.unsaved.add(key)

    def idle_seconds(self) -> float:
        """Return how long ago the last write was that is in no stroke yet; 0 if there is none."""
        return time.monotonic() - self._written_at if self._pending else 0.0

    def waiting_seconds(self) -> float:
        """Return how long ago the first write was that is in no stroke yet; 0 if there is none."""
        return time.monotonic() - self._began_at if self._pending else 0.0

    def take_stroke(self) -> Stroke | None:
        """Return what was written since the last call, as one stroke; None if nothing has changed."""
        pending, self._pending = self._pending, []
        return merged(pending)

    def snapshot(self) -> EditedArray:
        """Return what is there now, cheaply: a block is copied only when one of the two is written to."""
        other = EditedArray(self.base, self.block)
        other._blocks = dict(self._blocks)
        other._shared = set(self._blocks)
        self._shared = set(self._blocks)
        return other

    def boxes(self, keys: Iterable[Index]) -> list[Box]:
        """Return where blocks of the grid lie, in the grid's order."""
        return [self._place(key) for key in sorted(keys)]

    def volume(self, voxel_size_um: tuple[float, float, float] | None = None) -> Volume:
        """Return the labels as they are now as a volume of one channel, read block by block."""
        return Volume(_OneChannel(self.snapshot()), voxel_size_um, chunks=(self.block[0], self.block[1], self.block[2]))

    def _place(self, key: Index) -> Box:
        start = tuple(k * b for k, b in zip(key, self.block, strict=True))
        return Box(start, tuple(s + b for s, b in zip(start, self.block, strict=True))).clip(self.shape)

    def _keys(self, box: Box) -> Iterable[Index]:
        ranges = [range(low // b, -(-high // b)) for low, high, b in zip(box.start, box.stop, self.block, strict=True)]
        return product(*ranges) if box.size else ()

    def _own(self, key: Index) -> npt.NDArray[Any]:
        """Return a block that may be written to."""
        block = self._blocks.get(key)
        if block is None or key in self._shared:
            block = self.base.read(self._place(key))[0].copy() if block is None else block.copy()
            self._blocks[key] = block
            self._shared.discard(key)
        return block

    def _is_fancy(self, index: Any) -> bool:
        entries = index if isinstance(index, tuple) else (index,)
        arrays = [isinstance(e, np.ndarray | list) for e in entries]
        if any(arrays) and not (all(arrays) and len(arrays) == self.ndim):
            raise IndexError("labels are indexed by slices and numbers, or by one array of positions per axis")
        return any(arrays)

    def _around(self, index: tuple[Any, ...]) -> tuple[Box, tuple[npt.NDArray[Any], ...]]:
        """Return the box around positions, and the positions within it."""
        places = [np.asarray(axis, dtype=np.int64) for axis in index]
        if places[0].size == 0:
            return Box((0, 0, 0), (0, 0, 0)), tuple(places)
        start = tuple(int(p.min()) for p in places)
        stop = tuple(int(p.max()) + 1 for p in places)
        if min(start) < 0 or Box(start, stop) != Box(start, stop).clip(self.shape):
            raise IndexError(f"positions {start} to {stop} lie outside labels of shape {self.shape}")
        return Box(start, stop), tuple(p - s for p, s in zip(places, start, strict=True))


class _OneChannel:
    """Edited labels as a lazy array (c, z, y, x)."""

    def __init__(self, labels: EditedArray) -> None:
        self._labels = labels
        self.shape: tuple[int, ...] = (1, *labels.shape)
        self.dtype: np.dtype[Any] = labels.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read what a slice per axis names."""
        slices, _ = normalise_index(index, self.shape)
        return self._labels[slices[1:]][None][slices[0]]


def _minus(start: Sequence[int]) -> Index:
    return tuple(-s for s in start)
