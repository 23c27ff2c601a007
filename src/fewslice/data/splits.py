"""Hold out part of the annotation for validation, without leakage.

A neighbouring plane is nearly a copy, so held-out planes keep a gap to the training planes, and what is annotated
inside the gap is used by neither. :func:`hold_out` tries, in this order:

1. planes: with at least four annotated planes over all samples, about ``fraction`` of them. Each sample is cut along
   the axis its planes lie on. Held-out planes are spread evenly and avoid a sample's first and last plane; where planes
   are so dense that the gaps around single planes would cost too much, they are gathered in contiguous slabs;
2. regions: otherwise a window in the plane with at least 15 % of the annotation, a patch away from what is trained on;
3. none, when training would keep less than 60 % of the annotation in every other way.

Training always keeps every class: a plane whose class no other plane has goes back to training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fewslice.annotation import Annotation
from fewslice.errors import InputError
from fewslice.geometry import by

__all__ = ["Split", "annotated_axis", "hold_out"]

AXIS_NAMES = "zyx"
MINIMUM_PLANES = 4
KEEP_AT_LEAST = 0.6
"""Share of the annotated voxels that training must keep."""
REGION_AT_LEAST = 0.15
"""Share of the annotated voxels that held-out regions must have."""
SUBSTANTIAL = 0.1
"""A plane with fewer annotated voxels than this share of the fullest plane is not counted and not held out."""

Window = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Split:
    """Which annotated voxels train and which validate.

    Parameters
    ----------
    train, validation
        One (z, y, x) bool mask per sample, in the order of the samples; disjoint, inside the annotated voxels.
    how
        'planes', 'regions' or 'none' (then ``train`` is everything annotated and ``validation`` is empty).
    note
        Sentences for the report: what is held out, or why nothing is.
    axes
        Per sample the axis (0 z, 1 y, 2 x) along which its planes were counted.
    validation_planes
        Per sample the indices of the held-out planes along that axis; empty unless ``how`` is 'planes'.
    """

    train: list[NDArray[np.bool_]]
    validation: list[NDArray[np.bool_]]
    how: Literal["planes", "regions", "none"]
    note: str
    axes: tuple[int, ...] = ()
    validation_planes: tuple[tuple[int, ...], ...] = ()


def hold_out(
    annotations: Sequence[Annotation],
    *,
    fraction: float = 0.15,
    gap: int = 3,
    patch: Sequence[int],
    generator: np.random.Generator,
) -> Split:
    """Split the annotated voxels of all samples into training and validation.

    Parameters
    ----------
    annotations
        One per labelled sample.
    fraction
        Share of the annotated planes to hold out, 0 to 0.4; 0 holds out nothing.
    gap
        Smallest distance, in planes, between a held-out and a training plane: with 3, holding out plane 8 leaves 5 and
        11 to training, and what is annotated on 6, 7, 9 and 10 is used by neither. At least 1.
    patch
        (z, y, x) of a training patch in voxels: the smallest distance of a held-out region from the training voxels.
    generator
        Breaks ties between equally good planes or regions.

    Returns
    -------
    Split
        Masks of the samples' shapes.

    Raises
    ------
    InputError
        When ``fraction``, ``gap`` or ``patch`` is out of range, or when four or more planes are annotated but
        whichever is held out, a class is on held-out planes only.
    """
    if not 0 <= fraction <= 1 - KEEP_AT_LEAST:
        raise InputError(f"validation fraction is {fraction}; expected 0 to 0.4, since training keeps at least 60 %")
    if gap < 1 or len(patch) != 3 or min(patch) < 1:
        raise InputError(
            f"gap is {gap} and patch is {tuple(patch)}; expected a gap of at least 1 plane and a patch of "
            "three positive sizes (z, y, x)"
        )
    planes = _Planes.of(annotations)
    if fraction == 0:
        return _nothing_held_out(
            planes, "Nothing was held out, as asked: the last weights and the default threshold are used."
        )
    count = int(planes.substantial.sum())
    if count >= MINIMUM_PLANES:
        held = _choose_planes(planes, count, fraction, gap, generator, keep_classes=True)
        if held is not None:
            return _split_by_planes(planes, held, gap)
        lost = _choose_planes(planes, count, fraction, gap, generator, keep_classes=False)
        if lost is not None:
            raise _class_lost(planes, lost, gap)
    if count < MINIMUM_PLANES:
        reason = f"only {count} annotated plane{'s' * (count != 1)} (whole planes need at least {MINIMUM_PLANES})"
    else:
        reason = f"{count} annotated planes so close that a gap of {gap} planes would leave training less than 60 %"
    regions = _choose_regions(planes, patch, generator)
    if regions is not None:
        return _split_by_regions(planes, regions, patch, reason)
    return _nothing_held_out(
        planes,
        f"Nothing was held out: the samples have {reason}, and no region of at least 15 % of the annotated area, a "
        f"patch of {by(patch)} voxels (z, y, x) away from the rest, leaves training 60 % of it and every class. "
        "The last weights and the default threshold are used.",
    )


def annotated_axis(annotated: NDArray[np.bool_]) -> int:
    """Return the axis (0 z, 1 y, 2 x) along which the annotated planes lie.

    It is the axis on which the annotated indices have the most holes; without holes it is z, unless the annotation is a
    thin slab along another axis.
    """
    indices = [np.flatnonzero(annotated.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    if indices[0].size == 0:
        return 0
    extents = [int(i[-1] - i[0] + 1) for i in indices]
    density = [i.size / extent for i, extent in zip(indices, extents, strict=True)]
    if min(density) < 1:
        return int(np.argmin(density))
    cover = [extent / size for extent, size in zip(extents, annotated.shape, strict=True)]
    thin = [a for a in (1, 2) if extents[a] <= extents[0] / 4 and cover[a] <= cover[0] / 4]
    return min(thin, key=lambda a: extents[a], default=0)


# ---------------------------------------------------------------------------------------------------- planes


@dataclass(frozen=True)
class _Planes:
    """All annotated planes of all samples in one row, sample after sample, each along its own axis.

    ``sample``, ``index`` (n,): where the plane is; ``counts`` (n, K + 1): its annotated voxels per class;
    ``substantial`` (n,): it counts as an annotated plane; ``end`` (n,): it is the first or last of its sample.
    """

    annotations: Sequence[Annotation]
    axes: tuple[int, ...]
    sample: NDArray[np.int64]
    index: NDArray[np.int64]
    counts: NDArray[np.int64]
    substantial: NDArray[np.bool_]
    end: NDArray[np.bool_]

    @staticmethod
    def of(annotations: Sequence[Annotation]) -> _Planes:
        axes = tuple(annotated_axis(a.annotated) for a in annotations)
        classes = max((a.class_count for a in annotations), default=1) + 1
        sample, index, counts = [], [], []
        for number, (annotation, axis) in enumerate(zip(annotations, axes, strict=True)):
            labels = np.moveaxis(annotation.classes, axis, 0)
            annotated = np.moveaxis(annotation.annotated, axis, 0)
            for i in annotation.planes(axis):
                sample.append(number)
                index.append(i)
                counts.append(np.bincount(labels[i][annotated[i]], minlength=classes))
        if not index:
            raise InputError(
                "there is no annotated voxel to split; expected labelled planes; check --labels and --planes"
            )
        table, where = np.array(counts, dtype=np.int64), np.array(sample, dtype=np.int64)
        total = table.sum(axis=1)
        inner = np.zeros(len(index), dtype=np.bool_)
        inner[1:-1] = (where[1:-1] == where[:-2]) & (where[1:-1] == where[2:])
        return _Planes(
            annotations, axes, where, np.array(index, dtype=np.int64), table, total >= SUBSTANTIAL * total.max(), ~inner
        )

    @property
    def voxels(self) -> NDArray[np.int64]:
        voxels: NDArray[np.int64] = self.counts.sum(axis=1)
        return voxels

    def near(self, held: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
        """Planes (n,) of the same sample closer than ``gap`` to a held-out plane, the held-out planes included."""
        span = int(self.index.max()) + gap + 1  # samples lie so far apart on one line that no gap reaches across
        line = self.sample * span + self.index
        taken = line[held]
        if not taken.size:
            return held.copy()
        after = np.searchsorted(taken, line).clip(max=taken.size - 1)
        before = (after - 1).clip(min=0)
        near: NDArray[np.bool_] = np.minimum(np.abs(taken[after] - line), np.abs(taken[before] - line)) < gap
        return near


def _choose_planes(
    planes: _Planes, count: int, fraction: float, gap: int, generator: np.random.Generator, *, keep_classes: bool
) -> NDArray[np.bool_] | None:
    """Return which planes (n,) to hold out, or None when nothing leaves training enough.

    From the wanted number of planes downwards: as many separate runs of planes as the gaps allow (they may cost as much
    as the hold-out itself), otherwise one run; first away from the ends of the samples, then anywhere.
    """
    voxels = planes.voxels
    wanted = max(1, round(fraction * count))
    ties = generator.random(len(voxels))
    for number in _falling(wanted):
        for inside in (True, False):
            for runs in _falling(number):
                held = _place_runs(planes, number, runs, gap, ties, inside=inside, keep_classes=keep_classes)
                if held is None:
                    continue
                near = planes.near(held, gap)
                kept = voxels[~near].sum() / voxels.sum()
                cost = voxels[near & ~held].sum() / voxels.sum()
                if kept >= KEEP_AT_LEAST and (runs == 1 or cost <= fraction):
                    return held
    return None


def _falling(start: int) -> Iterator[int]:
    """Whole numbers from ``start`` to 1, every one of the last dozen and ever fewer of the larger."""
    while start >= 1:
        yield start
        start -= max(1, start // 12)


def _place_runs(
    planes: _Planes,
    number: int,
    runs: int,
    gap: int,
    ties: NDArray[np.float64],
    *,
    inside: bool,
    keep_classes: bool,
) -> NDArray[np.bool_] | None:
    """Hold out ``number`` planes as ``runs`` runs, one in each of ``runs`` equal parts of the row of planes.

    In its part a run goes where it has foreground and background, adds classes that validation lacks, costs training
    the least (``inside`` false only) and is central. With ``keep_classes`` a run that would take the last plane of a
    class from training is not placed, and its planes stay in training.
    """
    n = len(planes.index)
    if number >= n or (inside and planes.end.all()):
        inside = False
    edges = np.linspace(0, n, runs + 1).round().astype(int)
    lengths = np.diff(np.linspace(0, number, runs + 1).round().astype(int))
    present = planes.counts.sum(axis=0) > 0
    usual = planes.counts[:, 1:].sum() / n
    held = np.zeros(n, dtype=np.bool_)
    for first, last, length in zip(edges[:-1], edges[1:], lengths, strict=True):
        best: tuple[tuple[float, ...], slice] | None = None
        for start in range(first, last - length + 1):
            run = slice(start, start + length)
            if not planes.substantial[run].any() or (inside and planes.end[run].any()):
                continue
            trial = held.copy()
            trial[run] = True
            left = planes.counts[~planes.near(trial, gap)]
            if keep_classes and not np.array_equal(left.sum(axis=0) > 0, present):
                continue
            counts = planes.counts[run].sum(axis=0)
            foreground = counts[1:].sum()
            score = (
                -float(bool(foreground)) - float(bool(counts[0])),
                -float(foreground >= SUBSTANTIAL * usual * length),
                -float(((counts > 0) & (planes.counts[held].sum(axis=0) == 0)).sum()),
                0.0 if inside else -float(left.sum()),
                abs(start + length / 2 - (first + last) / 2),
                float(ties[start]),
            )
            if best is None or score < best[0]:
                best = (score, run)
        if best is not None:
            held[best[1]] = True
    return held if held.any() else None


def _class_lost(planes: _Planes, held: NDArray[np.bool_], gap: int) -> InputError:
    present = planes.counts.sum(axis=0) > 0
    lost = np.flatnonzero(present & (planes.counts[~planes.near(held, gap)].sum(axis=0) == 0))
    klass = int(lost[-1])
    values = max((a.class_values for a in planes.annotations), key=len)
    called = f"class {klass} (label value {values[klass - 1]})" if 0 < klass <= len(values) else f"class {klass}"
    if klass == 0:
        called = "background"
    where = np.flatnonzero(planes.counts[:, klass] > 0)
    several = len(planes.annotations) > 1
    named = ", ".join(
        f"{AXIS_NAMES[planes.axes[planes.sample[i]]]}={planes.index[i]}"
        + (f" of sample {planes.sample[i] + 1}" if several else "")
        for i in where[:5]
    )
    return InputError(
        f"{called} is annotated only on {'plane' if len(where) == 1 else 'planes'} {named}, which would be held out "
        "for validation, and every other choice takes another class from training; expected each class on at least two "
        f"planes that lie {gap} or more apart; annotate it on one more plane, or leave it out with --unlabelled"
    )


def _split_by_planes(planes: _Planes, held: NDArray[np.bool_], gap: int) -> Split:
    near = planes.near(held, gap)
    train, validation, listed = [], [], []
    for number, (annotation, axis) in enumerate(zip(planes.annotations, planes.axes, strict=True)):
        mine = planes.sample == number
        train.append(_on_planes(annotation.annotated, axis, planes.index[mine & ~near]))
        validation.append(_on_planes(annotation.annotated, axis, planes.index[mine & held]))
        listed.append(tuple(int(i) for i in planes.index[mine & held]))
    places = [(s, axis, taken) for s, (axis, taken) in enumerate(zip(planes.axes, listed, strict=True)) if taken]
    several = len(planes.annotations) > 1
    where = "; ".join(
        f"{AXIS_NAMES[axis]} = {_ranges(taken)}" + (f" of sample {s + 1}" if several else "")
        for s, axis, taken in places[:8]
    )
    more = f"; and planes of {len(places) - 8} more samples" if len(places) > 8 else ""
    skipped = int((near & ~held).sum())
    note = (
        f"Validation is on {int(held.sum())} of {len(held)} annotated planes ({where}{more}), at least {gap} planes "
        f"away from every training plane of the same volume; {int((~near).sum())} planes train"
        + (f", and {skipped} inside the gap {'is' if skipped == 1 else 'are'} used by neither." if skipped else ".")
    )
    return Split(train, validation, "planes", note + _about_classes(planes, held), planes.axes, tuple(listed))


def _on_planes(annotated: NDArray[np.bool_], axis: int, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    keep = np.zeros(annotated.shape[axis], dtype=np.bool_)
    keep[indices] = True
    shape = [1, 1, 1]
    shape[axis] = -1
    result: NDArray[np.bool_] = annotated & keep.reshape(shape)
    return result


def _about_classes(planes: _Planes, held: NDArray[np.bool_]) -> str:
    missing = np.flatnonzero((planes.counts.sum(axis=0) > 0) & (planes.counts[held].sum(axis=0) == 0))
    names = ", ".join("background" if k == 0 else f"class {k}" for k in missing)
    return f" No held-out plane has {names}." if names else ""


def _ranges(indices: Sequence[int], most: int = 16) -> str:
    """Write ascending indices compactly: 4, 8, 20-25; of many, the first ones and the last."""
    parts: list[list[int]] = []
    for i in indices:
        if parts and i == parts[-1][-1] + 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    shown = [str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts]
    return ", ".join(shown if len(shown) <= most else [*shown[: most - 1], "…", shown[-1]])


# ---------------------------------------------------------------------------------------------------- regions


@dataclass(frozen=True)
class _Region:
    """A window of one sample with the annotated voxels per class that it holds out and that it leaves to training."""

    window: Window
    held: NDArray[np.int64]
    kept: NDArray[np.int64]


def _choose_regions(
    planes: _Planes, patch: Sequence[int], generator: np.random.Generator
) -> list[Window | None] | None:
    """Return a window per sample (None: the sample is too small for one), or None when training would keep too little.

    All samples that have room give the same share of their annotation, together 15 % of everything annotated.
    """
    own = [planes.counts[planes.sample == number].sum(axis=0) for number in range(len(planes.annotations))]
    total = sum(int(counts.sum()) for counts in own)
    roomy = {number for number, counts in enumerate(own) if counts.any()}
    while roomy:
        share = REGION_AT_LEAST * total / sum(int(own[n].sum()) for n in roomy)
        if share > 1 - KEEP_AT_LEAST:
            return None
        regions = {
            n: _best_region(planes.annotations[n], planes.axes[n], patch, share, len(own[n]), generator)
            for n in sorted(roomy)
        }
        small = {n for n, r in regions.items() if r is None or r.kept.sum() < KEEP_AT_LEAST * own[n].sum()}
        taken = {n: own[n] - r.kept for n, r in regions.items() if r is not None}
        if not small:
            everything, loss = sum(own), sum(taken.values())
            lost = np.flatnonzero((everything > 0) & (everything == loss))
            if not lost.size:
                return [r.window if (r := regions.get(n)) else None for n in range(len(own))]
            small = {max(taken, key=lambda n: int(taken[n][lost[0]]))}
        roomy -= small
    return None


def _best_region(
    annotation: Annotation,
    axis: int,
    patch: Sequence[int],
    share: float,
    classes: int,
    generator: np.random.Generator,
) -> _Region | None:
    """Return the best region of one sample.

    Candidates are a strip along each border of the annotated rectangle and a box in each corner, as small as ``share``
    of the annotation allows. First come those that leave training every class, then those with foreground and
    background, then those that cost training least.
    """
    axes = [a for a in range(3) if a != axis]
    labels = np.where(annotation.annotated, annotation.classes, np.uint8(255))
    counts = np.stack([(labels == k).sum(axis=axis) for k in range(classes)])
    own = counts.sum(axis=(1, 2))
    best: tuple[tuple[float, ...], _Region] | None = None
    for window in _windows(counts.sum(axis=0), share):
        held = counts[:, slice(*window[0]), slice(*window[1])].sum(axis=(1, 2))
        (u0, u1), (v0, v1) = (_grown(low, high, patch[a]) for (low, high), a in zip(window, axes, strict=True))
        kept = own - counts[:, u0:u1, v0:v1].sum(axis=(1, 2))
        score = (
            float(((own > 0) & (kept == 0)).sum()),
            -float(held[1:].sum() > 0) - float(held[0] > 0),
            -float(kept.sum()),
            float(generator.random()),
        )
        if best is None or score < best[0]:
            best = (score, _Region(window, held, kept))
    return None if best is None else best[1]


def _grown(low: int, high: int, patch: int) -> tuple[int, int]:
    """Range around [low, high) that no training voxel may lie in: nearer than a patch."""
    return max(0, low - patch + 1), high + patch - 1


def _windows(area: NDArray[np.int64], share: float) -> Iterator[Window]:
    """Candidate windows over a 2D count of annotated voxels, each with at least ``share`` of them."""
    need = share * area.sum()
    rows, columns = (np.flatnonzero(area.any(axis=a)) for a in (1, 0))
    (r0, r1), (c0, c1) = (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
    down, across = np.cumsum(area.sum(axis=1)), np.cumsum(area.sum(axis=0))
    yield (r0, int(np.searchsorted(down, need)) + 1), (c0, c1)
    yield (int(np.searchsorted(down, down[-1] - need, side="right")), r1), (c0, c1)
    yield (r0, r1), (c0, int(np.searchsorted(across, need)) + 1)
    yield (r0, r1), (int(np.searchsorted(across, across[-1] - need, side="right")), c1)
    for top in (True, False):
        for left in (True, False):
            for side in np.linspace(0.3, 1, 57):  # the first corner box that is large enough
                height, width = round(side * (r1 - r0)), round(side * (c1 - c0))
                box = ((r0, r0 + height) if top else (r1 - height, r1), (c0, c0 + width) if left else (c1 - width, c1))
                if area[slice(*box[0]), slice(*box[1])].sum() >= need:
                    yield box
                    break


def _split_by_regions(planes: _Planes, windows: Sequence[Window | None], patch: Sequence[int], reason: str) -> Split:
    train, validation, described = [], [], []
    for number, (annotation, axis, window) in enumerate(zip(planes.annotations, planes.axes, windows, strict=True)):
        inside, close = np.zeros(annotation.shape, dtype=np.bool_), np.zeros(annotation.shape, dtype=np.bool_)
        if window is not None:
            axes = [a for a in range(3) if a != axis]
            held, grown = [slice(None)] * 3, [slice(None)] * 3
            for (low, high), a in zip(window, axes, strict=True):
                held[a] = slice(low, high)
                grown[a] = slice(*_grown(low, high, patch[a]))
            inside[tuple(held)], close[tuple(grown)] = True, True
            of_sample = f" of sample {number + 1}" if len(windows) > 1 else ""
            described.append(
                " and ".join(f"{AXIS_NAMES[a]} {low}-{high - 1}" for (low, high), a in zip(window, axes, strict=True))
                + of_sample
            )
        validation.append(annotation.annotated & inside)
        train.append(annotation.annotated & ~close)
    total = sum(int(a.annotated.sum()) for a in planes.annotations)
    held_share = sum(int(v.sum()) for v in validation) / total
    kept_share = sum(int(t.sum()) for t in train) / total
    note = (
        f"Validation is on regions of the annotated planes ({'; '.join(described)}), {held_share:.0%} of the annotated "
        f"area, a patch away from the training voxels, which keep {kept_share:.0%}; the samples have {reason}."
    )
    return Split(train, validation, "regions", note, planes.axes, tuple(() for _ in planes.annotations))


def _nothing_held_out(planes: _Planes, note: str) -> Split:
    return Split(
        [a.annotated.copy() for a in planes.annotations],
        [np.zeros(a.shape, dtype=np.bool_) for a in planes.annotations],
        "none",
        note,
        planes.axes,
        tuple(() for _ in planes.annotations),
    )
