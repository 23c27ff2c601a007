"""Sparse annotation: what is labelled, where, and what the values in a file mean.

An :class:`Annotation` is a pair of arrays: ``labels`` and ``annotated``, which says where truth exists. Where it does
not, ``labels`` is 0 and means nothing. A label file becomes one in three steps:

1. :func:`parse_planes` turns ``--planes`` into (axis, index) pairs; without it every plane counts as annotated.
2. :func:`interpret` looks at the distinct values on those planes and at what the user named, and returns a
   :class:`Convention`: which value is background, which means unlabelled, which are classes. A file that can be read in
   several ways is refused with the list of choices.
3. :func:`apply_convention` maps the values.

:func:`from_labels` does all three for one array. A data set of several files is interpreted once, over the values of
all files, so that a class has the same number in each of them (see :mod:`fewslice.data.samples`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewslice.errors import InputError

__all__ = [
    "Annotation",
    "Convention",
    "Kind",
    "apply_convention",
    "check_usable",
    "class_values_of",
    "distinct_values",
    "from_labels",
    "interpret",
    "parse_planes",
    "planes_mask",
    "simulate_sparsity",
]

Kind = Literal["classes", "instances"]

AXIS_NAMES = "zyx"
MAX_VALUES_WITHOUT_KIND = 16
"""More distinct values than this need ``--label-kind``: they may be classes or instance ids."""


@dataclass(frozen=True)
class Annotation:
    """Labels and where they are known.

    Parameters
    ----------
    labels
        (z, y, x) unsigned integers. ``kind`` 'classes': 0 background, 1..K classes (uint8). ``kind`` 'instances': 0
        background, otherwise an object's id (uint32 or uint64). 0 where ``annotated`` is false.
    annotated
        (z, y, x) bool: truth exists here.
    kind
        What the numbers in ``labels`` are.
    class_values
        The value that class k had in the file, at index k - 1.
    class_by_id
        Only for instances: the class (1..K) of an id; ids that are not in it are class 1.
    """

    labels: NDArray[Any]
    annotated: NDArray[np.bool_]
    kind: Kind = "classes"
    class_values: tuple[int, ...] = (1,)
    class_by_id: Mapping[int, int] | None = None

    def __post_init__(self) -> None:
        """Check shapes and types."""
        if self.labels.ndim != 3 or self.labels.shape != self.annotated.shape:
            raise InputError(
                f"labels have shape {self.labels.shape} and annotated has shape {self.annotated.shape}; "
                "expected the same (z, y, x) shape for both"
            )
        if self.labels.dtype.kind != "u" or self.annotated.dtype != np.bool_:
            raise InputError(
                f"labels are {self.labels.dtype} and annotated is {self.annotated.dtype}; expected unsigned integers "
                "and bool; use fewslice.annotation.from_labels"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (z, y, x)."""
        z, y, x = self.labels.shape
        return z, y, x

    @property
    def class_count(self) -> int:
        """Number of foreground classes K."""
        if self.kind == "instances":
            return max(self.class_by_id.values(), default=1) if self.class_by_id else 1
        return len(self.class_values)

    @property
    def classes(self) -> NDArray[np.uint8]:
        """Semantic labels, (z, y, x) uint8: 0 background, 1..K. Instances become their class; no copy for classes."""
        if self.kind == "classes":
            return self.labels.astype(np.uint8, copy=False)
        classes = (self.labels > 0).astype(np.uint8)
        for identity, klass in (self.class_by_id or {}).items():
            if klass != 1 and identity != 0:
                classes[self.labels == identity] = klass
        return classes

    def content_hash(self) -> str:
        """Return a SHA-256 hash of the labels and of where they are known."""
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update(self.annotated.tobytes())
        return digest.hexdigest()

    def planes(self, axis: int = 0) -> list[int]:
        """Return the indices along ``axis`` (0 z, 1 y, 2 x) of the planes annotated in full or in part, ascending."""
        others = tuple(a for a in range(3) if a != axis)
        return [int(i) for i in np.flatnonzero(self.annotated.any(axis=others))]

    def restricted(self, where: NDArray[np.bool_] | Sequence[tuple[int, int]]) -> Annotation:
        """Keep the annotation only where ``where`` is true; labels elsewhere become 0.

        Parameters
        ----------
        where
            (z, y, x) bool mask, or planes as (axis, index) pairs.

        Raises
        ------
        InputError
            When a mask has another shape, or a plane lies outside the volume.
        """
        mask = where if isinstance(where, np.ndarray) else planes_mask(where, self.shape)
        if mask.shape != self.shape or mask.dtype != np.bool_:
            raise InputError(
                f"mask is {mask.dtype} of shape {mask.shape}; expected bool of the annotation's shape {self.shape}"
            )
        annotated = self.annotated & mask
        labels = np.where(annotated, self.labels, self.labels.dtype.type(0))
        return Annotation(labels, annotated, self.kind, self.class_values, self.class_by_id)


@dataclass(frozen=True)
class Convention:
    """What the values of a label file mean.

    ``background`` is the value that becomes 0 (None: no value is background), ``unlabelled`` the value without truth
    (None: every voxel of an annotated plane has truth), ``class_values`` the values that become 1..K (for instances:
    (1,)).
    """

    kind: Kind
    background: int | None
    unlabelled: int | None
    class_values: tuple[int, ...]


# ---------------------------------------------------------------------------------------------------- planes


def parse_planes(specs: Sequence[str], shape: Sequence[int]) -> list[tuple[int, int]]:
    """Read ``--planes`` into (axis, index) pairs.

    A spec is a list of 0-based indices and ranges (start:stop:step, stop excluded), along z unless it starts with
    ``y=`` or ``x=``. Several specs add up.

    Parameters
    ----------
    specs
        Such as ``["0,5,10"]``, ``["0:160:5"]`` or ``["4", "y=3,9"]``.
    shape
        (z, y, x) of the volume.

    Returns
    -------
    list of (int, int)
        Axis (0 z, 1 y, 2 x) and index, sorted, without repetitions.

    Raises
    ------
    InputError
        When a spec cannot be read, selects nothing, or names a plane outside the volume.

    Examples
    --------
    >>> parse_planes(["0:11:5", "y=3"], (20, 64, 64))
    [(0, 0), (0, 5), (0, 10), (1, 3)]
    """
    planes: set[tuple[int, int]] = set()
    for spec in specs:
        match = re.fullmatch(r"\s*(?:([zyxZYX])\s*=)?\s*([-\d,:\s]+)", spec)
        if match is None:
            raise _unreadable_planes(spec)
        axis = AXIS_NAMES.index((match[1] or "z").lower())
        size = int(shape[axis])
        indices: list[int] = []
        for part in match[2].split(","):
            indices.extend(_plane_indices(part.strip(), spec, size))
        if not indices:
            raise InputError(f"--planes {spec} selects no plane; expected a range whose start lies below its stop")
        outside = sorted({i for i in indices if not 0 <= i < size})
        if outside:
            raise InputError(
                f"--planes {spec} asks for plane {_few(outside)} along {AXIS_NAMES[axis]}, outside the volume of shape "
                f"{tuple(int(n) for n in shape)}; expected indices in the range 0 to {size - 1}"
            )
        planes.update((axis, i) for i in indices)
    return sorted(planes)


def _plane_indices(part: str, spec: str, size: int) -> range | list[int]:
    if re.fullmatch(r"-?\d+", part):
        return [int(part)]
    match = re.fullmatch(r"(-?\d*)\s*:\s*(-?\d*)(?:\s*:\s*(-?\d*))?", part)
    if match is None or "-" in match.groups():
        raise _unreadable_planes(spec)
    start, stop, step = int(match[1] or 0), int(match[2] or size), int(match[3] or 1)
    if step < 1 or start < 0 or stop < 0:
        raise InputError(
            f"--planes {spec} has a range {part!r} that counts from the end or backwards; "
            "expected start:stop:step with start and stop from 0 and a step of at least 1"
        )
    if stop > size + step:  # a stop just behind the last plane is usual; one far behind it must not build a huge list
        last = start + (stop - 1 - start) // step * step
        return [start, last] if stop > start else []
    return range(start, stop, step)


def _unreadable_planes(spec: str) -> InputError:
    return InputError(
        f"--planes {spec!r} cannot be read; expected 0-based indices or ranges such as 0,5,10 or 0:160:5, along "
        "another axis y=3,9, and one --planes per axis"
    )


def planes_mask(planes: Iterable[tuple[int, int]], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Bool mask (z, y, x) that is true on the given (axis, index) planes.

    Raises
    ------
    InputError
        When an index lies outside the volume.
    """
    mask = np.zeros(tuple(shape), dtype=np.bool_)
    for axis, index in planes:
        if not 0 <= index < mask.shape[axis]:
            raise InputError(
                f"plane {index} along {AXIS_NAMES[axis]} is outside the volume of shape {mask.shape}; "
                f"expected an index in the range 0 to {mask.shape[axis] - 1}"
            )
        mask[(slice(None),) * axis + (index,)] = True
    return mask


# ------------------------------------------------------------------------------------------------ conventions


def distinct_values(array: NDArray[Any], planes: Sequence[tuple[int, int]] = ()) -> tuple[int, ...]:
    """Return the distinct values of an integer label array, ascending.

    Looks at ``planes`` (axis, index), or everywhere when none is given.

    Counts plane by plane, so that a large volume is neither sorted nor copied.
    """
    found: set[int] = set()
    for axis, index in planes or [(0, z) for z in range(array.shape[0])]:
        found.update(_values_of(np.take(array, index, axis=axis)))
    return tuple(sorted(found))


def _values_of(plane: NDArray[Any]) -> list[int]:
    if plane.size == 0:
        return []
    low, high = int(plane.min()), int(plane.max())
    if high - low <= 1 << 20:  # counting beats sorting
        flat = plane.ravel()
        # uint64 does not fit int64 before the smallest is taken away; small signed types overflow when it is
        shifted = flat - flat.dtype.type(low) if flat.dtype == np.uint64 else flat.astype(np.int64) - low
        return [int(v) + low for v in np.flatnonzero(np.bincount(shifted.astype(np.int64)))]
    return [int(v) for v in np.unique(plane)]


def interpret(
    values: Sequence[int],
    dtypes: Sequence[np.dtype[Any]],
    *,
    kind: Kind | None = None,
    background: int | None = None,
    unlabelled: int | str | None = None,
    class_values: Sequence[int] | None = None,
    highest: int | None = None,
    name: str = "labels",
) -> Convention:
    """Say what the values of a label file mean, or refuse with the choices.

    Clear without flags: 0 is background and the others are classes, as long as none of them is a value that other
    tools use for 'unlabelled' (255 or the type's largest, negative) beside further classes. {0, 255} is a binary mask.

    Parameters
    ----------
    values
        Distinct values on the annotated planes, of all files of a data set together.
    dtypes
        The files' types.
    kind
        ``--label-kind``; None is accepted up to 16 distinct values and means classes.
    background
        ``--background``: the value that means background; None: 0.
    unlabelled
        ``--unlabelled``: the value without truth, as number or text; 'highest' for the largest value in the file
        (nnU-Net); 'none' to say that every value on the annotated planes is truth; None when the user said nothing.
    class_values
        Values of the classes 1..K when they are known, as from a model; other values are then refused.
    highest
        Largest value of the whole file, for ``unlabelled='highest'``; None: the largest of ``values``.
    name
        What to call the labels in messages.

    Raises
    ------
    InputError
        When nothing is annotated, or the values can be read in several ways; the message lists the flags to choose
        from.
    """
    named = _parse_unlabelled(unlabelled)
    _check_representable(background, named, dtypes, name)
    known = tuple(int(v) for v in class_values) if class_values is not None and kind != "instances" else None
    if kind is None and len(values) > MAX_VALUES_WITHOUT_KIND:
        raise InputError(
            f"{name} has {len(values)} distinct values, which may be classes or instance ids; expected at most "
            f"{MAX_VALUES_WITHOUT_KIND} without being told; pass --label-kind classes or --label-kind instances"
        )
    if named == "highest":
        top = max(values, default=None) if highest is None else highest
        missing = top if top != background and (known is None or top not in known) else None
    else:
        missing = named if isinstance(named, int) else None
    if missing is not None and missing == background:
        raise InputError(
            f"{name}: value {missing} is named by both --background and --unlabelled; expected two "
            "different values; drop one of the two flags"
        )
    present = [v for v in values if v != missing]
    if not present:
        raise _nothing_annotated(name, missing)
    if known is not None:
        zero = 0 if background is None and 0 not in known else background
        stray = [v for v in present if v not in known and v != zero]
        if stray:
            raise InputError(
                f"{name} has value {_few(stray)}, which is neither background ({'none' if zero is None else zero}) nor "
                f"one of the classes ({_few(known)}); pass " + " or ".join(_both(stray[-1], background, named))
            )
        return Convention(kind or "classes", zero, missing, known)
    _refuse_negative([v for v in present if v != background], background, named, name)
    chosen = _choose_background(present, dtypes, kind or "classes", background, named, name)
    if kind == "instances":
        if 0 in present and chosen != 0:
            raise InputError(
                f"{name} has instances with id 0, which means no object; expected ids from 1; "
                "pass --unlabelled 0 if 0 means unlabelled"
            )
        return Convention("instances", chosen, missing, (1,))
    classes = tuple(v for v in present if v != chosen)
    if len(classes) > 255:
        raise InputError(
            f"{name} has {len(classes)} classes; expected at most 255; "
            "pass --label-kind instances if the values are object ids"
        )
    return Convention("classes", chosen, missing, classes)


def _choose_background(
    present: list[int],
    dtypes: Sequence[np.dtype[Any]],
    kind: Kind,
    background: int | None,
    named: int | str | None,
    name: str,
) -> int | None:
    """Return the background value, refusing every file that has more than one reading."""
    special = _reserved_value(present, dtypes, kind) if named is None else None
    foreground = [v for v in present if v != (0 if background is None else background)]
    if background is not None:
        if 0 in foreground and named is None:
            what = "" if background in present else f" and no value {background}"
            raise _ambiguous(
                name,
                present,
                f"value 0 beside --background {background}{what}",
                [
                    f"--background {background} --unlabelled 0 (0 is unlabelled)",
                    f"--background {background} --unlabelled none (0 is a class)",
                ],
            )
        if special is not None and special in foreground and len(foreground) > 1:
            raise _ambiguous(
                name,
                present,
                f"value {special}",
                [
                    f"--background {background} --unlabelled {special} ({special} is unlabelled)",
                    f"--background {background} --unlabelled none ({special} is a class)",
                ],
            )
        return background
    if 0 in present:
        if special is not None and len(foreground) > 1:
            raise _ambiguous(
                name,
                present,
                f"value {special}",
                [
                    f"--unlabelled {special} ({special} is unlabelled, 0 background)",
                    f"--background {special} --unlabelled 0 ({special} is background, 0 unlabelled)",
                    f"--unlabelled none ({special} is a class, 0 background)",
                ],
            )
        return 0
    if len(present) == 1 or (kind == "instances" and special is None):
        return None  # one class only, which check_usable refuses where it matters
    if special is not None:
        raise _ambiguous(
            name,
            present,
            f"value {special} and no 0",
            [
                f"--background {special} ({special} is background)",
                f"--unlabelled {special} ({special} is unlabelled)",
            ],
        )
    raise _ambiguous(name, present, "no 0 that could be background", [f"--background {v}" for v in present])


def _parse_unlabelled(unlabelled: int | str | None) -> int | str | None:
    if unlabelled is None or isinstance(unlabelled, (int, np.integer)):
        return None if unlabelled is None else int(unlabelled)
    text = unlabelled.strip().lower()
    if text in ("highest", "none"):
        return text
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    raise InputError(
        f"--unlabelled {unlabelled!r} cannot be read; expected an integer such as 255, 0 or -1, "
        "'highest' (nnU-Net) or 'none' (every value on the annotated planes is truth)"
    )


def _check_representable(
    background: int | None, unlabelled: int | str | None, dtypes: Sequence[np.dtype[Any]], name: str
) -> None:
    for flag, value in (("--background", background), ("--unlabelled", unlabelled)):
        if not isinstance(value, int) or not dtypes:
            continue
        ranges = [(0, 1) if d.kind == "b" else (int(np.iinfo(d).min), int(np.iinfo(d).max)) for d in dtypes]
        if not any(low <= value <= high for low, high in ranges):
            low, high = ranges[0]
            raise InputError(
                f"{flag} {value} cannot occur in {name}, which is {dtypes[0]}; "
                f"expected a value in the range {low} to {high}"
            )


def _reserved_value(present: Sequence[int], dtypes: Sequence[np.dtype[Any]], kind: Kind) -> int | None:
    """Return the value that other tools use for 'unlabelled': 255 or the largest of the type.

    An instance id is only taken for it when it is the type's largest and no neighbour of the other ids.
    """
    largest = {int(np.iinfo(d).max) for d in dtypes if d.kind in "iu"}
    if kind == "instances":
        return next((v for v in present if v in largest and v - 1 not in present), None)
    return next((v for v in reversed(present) if v in largest | {255}), None)


def _refuse_negative(values: Sequence[int], background: int | None, named: int | str | None, name: str) -> None:
    negative = [v for v in values if v < 0]
    if negative:
        raise InputError(
            f"{name} has the negative value {_few(negative)}, which cannot be a class; expected its meaning to be "
            "named; pass " + " or ".join(_both(negative[-1], background, named))
        )


def _both(value: int, background: int | None, named: int | str | None) -> list[str]:
    """Return the flags that give ``value`` a meaning and that the user has not used yet."""
    choices = [f"--unlabelled {value}"] if named in (None, "none") else []
    choices += [f"--background {value}"] if background is None else []
    return choices or ["labels without it"]


def _ambiguous(name: str, values: Sequence[int], because: str, choices: Sequence[str]) -> InputError:
    return InputError(
        f"{name} is ambiguous: values {_few(values)}, with {because}; expected one meaning for each value; "
        f"choose {' or '.join(choices)}"
    )


def _nothing_annotated(name: str, missing: int | None) -> InputError:
    which = "" if missing is None else f": every value on the chosen planes is {missing}, which means unlabelled"
    return InputError(
        f"{name} has no annotated voxel{which}; expected labelled voxels; check --planes and --unlabelled"
    )


def _few(values: Sequence[int], most: int = 17) -> str:
    shown = ", ".join(str(v) for v in values[:most])
    return shown if len(values) <= most else f"{shown}, … ({len(values)} in all)"


# ----------------------------------------------------------------------------------------------------------- arrays


def from_labels(
    array: NDArray[Any],
    *,
    kind: Kind | None = None,
    planes: Sequence[str] = (),
    background: int | None = None,
    unlabelled: int | str | None = None,
    class_values: Sequence[int] | None = None,
    class_by_id: Mapping[int, int] | None = None,
    allow_one_class: bool = False,
    name: str = "labels",
) -> Annotation:
    """Turn a label array into an annotation, whatever its convention.

    Parameters
    ----------
    array
        (z, y, x) or (y, x) integers or bool.
    kind, background, unlabelled, class_values, name
        As in :func:`interpret`.
    planes
        ``--planes`` specs; only these planes are annotated, and only their values are looked at. Empty: all planes.
    class_by_id
        Class (1..K) of an instance id; ids that are not in it are class 1.
    allow_one_class
        Accept annotation without background or without foreground, as truth for an evaluation may be.

    Raises
    ------
    InputError
        For float labels, an empty array, an ambiguous convention, planes outside the volume, no annotated voxel, or
        (unless ``allow_one_class``) only one class.

    Examples
    --------
    >>> annotation = from_labels(np.array([[[1, 255, 255]], [[255, 1, 1]]], np.uint8), background=255, planes=["1"])
    >>> annotation.labels.tolist(), annotation.annotated.tolist()
    ([[[0, 0, 0]], [[0, 1, 1]]], [[[False, False, False]], [[True, True, True]]])
    """
    array = label_array(array, name)
    chosen = parse_planes(planes, array.shape)
    convention = interpret(
        distinct_values(array, chosen),
        [array.dtype],
        kind=kind,
        background=background,
        unlabelled=unlabelled,
        class_values=class_values,
        highest=int(array.max()) if unlabelled is not None and _parse_unlabelled(unlabelled) == "highest" else None,
        name=name,
    )
    annotation = apply_convention(array, convention, planes=chosen, class_by_id=class_by_id, name=name)
    if not allow_one_class:
        check_usable([annotation], name=name)
    return annotation


def label_array(array: NDArray[Any], name: str = "labels") -> NDArray[Any]:
    """Check that an array can hold labels; return it as (z, y, x) integers (a 2D array becomes one plane).

    Raises
    ------
    InputError
        When it is not integer, not 2D or 3D, or has a zero-sized axis.
    """
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} has type {array.dtype}; expected integers; save the labels as an integer type")
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"{name} has shape {array.shape}; expected (z, y, x) or (y, x) without an axis of size 0")
    return array


def apply_convention(
    array: NDArray[Any],
    convention: Convention,
    *,
    planes: Sequence[tuple[int, int]] = (),
    class_by_id: Mapping[int, int] | None = None,
    name: str = "labels",
) -> Annotation:
    """Map the values of a (z, y, x) integer array; annotated only on ``planes`` (axis, index) when any is given.

    Raises
    ------
    InputError
        When no voxel is annotated, or an annotated value has no meaning in the convention.
    """
    annotated = planes_mask(planes, array.shape) if planes else np.ones(array.shape, dtype=np.bool_)
    if convention.unlabelled is not None:
        annotated &= array != convention.unlabelled
    if not annotated.any():
        raise _nothing_annotated(name, convention.unlabelled)
    if convention.kind == "instances":
        ids = np.where(annotated, array, array.dtype.type(0))
        if convention.background is not None and convention.background != 0:
            ids[array == convention.background] = 0
        dtype = np.uint32 if int(ids.max()) <= np.iinfo(np.uint32).max else np.uint64
        return Annotation(ids.astype(dtype), annotated, "instances", convention.class_values, class_by_id)
    labels = np.zeros(array.shape, dtype=np.uint8)
    for z, (plane, known) in enumerate(zip(array, annotated, strict=True)):
        if not known.any():
            continue
        meant = ~known
        if convention.background is not None:
            meant |= plane == convention.background
        for index, value in enumerate(convention.class_values):
            here = (plane == value) & known
            labels[z][here] = index + 1
            meant |= here
        if not meant.all():
            raise InputError(
                f"{name} has value {int(plane[~meant][0])} on plane {z}, which is neither background nor one "
                f"of the classes ({_few(convention.class_values)}); pass --unlabelled for it"
            )
    return Annotation(labels, annotated, "classes", convention.class_values)


def check_usable(annotations: Sequence[Annotation], *, name: str = "labels") -> None:
    """Refuse annotations from which nothing can be learned.

    Parameters
    ----------
    annotations
        All annotations of a data set; together they need background and foreground.

    Raises
    ------
    InputError
        When no voxel is annotated, or the annotated voxels hold only background or only foreground.
    """
    known = sum(int(np.count_nonzero(a.annotated)) for a in annotations)
    if known == 0:
        raise _nothing_annotated(name, None)
    foreground = sum(int(np.count_nonzero((a.labels > 0) & a.annotated)) for a in annotations)
    if foreground in (0, known):
        found = "background" if foreground == 0 else "foreground"
        raise InputError(
            f"{name} has one class only: all {known} annotated voxels are {found}; expected background and at least "
            "one class; annotate both, or check --planes, --background and --unlabelled"
        )


def class_values_of(annotations: Sequence[Annotation]) -> tuple[int, ...]:
    """Return the values of the classes 1..K that all annotations of a data set share; for instances 1, …, K.

    Raises
    ------
    InputError
        When they differ, so that one number would mean several classes.
    """
    found = {a.class_values if a.kind == "classes" else tuple(range(1, a.class_count + 1)) for a in annotations}
    longest = max(found, key=len, default=(1,))
    for values in found:
        if values != longest[: len(values)]:
            raise InputError(
                f"the samples have classes {_few(values)} and {_few(longest)}; expected the same label value for each "
                "class; read them together with fewslice.data.samples.open_samples"
            )
    return longest


def simulate_sparsity(
    annotation: Annotation,
    count: int,
    *,
    axis: int = 0,
    how: Literal["even", "random"] = "even",
    generator: np.random.Generator | None = None,
) -> Annotation:
    """Keep only ``count`` of the annotated planes, as if no more had been annotated.

    Parameters
    ----------
    annotation
        Dense truth, or any annotation.
    count
        Number of planes to keep, from 1 to the number of annotated planes along ``axis``.
    axis
        0 z, 1 y, 2 x.
    how
        'even': one plane from each of ``count`` equal parts of the annotated planes; with a generator at the same
        random place in each part, without at its middle. 'random': a draw without replacement.
    generator
        Source of the draw; needed for 'random'.

    Raises
    ------
    InputError
        When ``count`` is out of range, ``how`` is unknown, or 'random' has no generator.
    """
    available = annotation.planes(axis)
    if not 1 <= count <= len(available):
        raise InputError(
            f"{count} planes were asked for along {AXIS_NAMES[axis]}; expected 1 to {len(available)}, "
            "the number of annotated planes"
        )
    if how not in ("even", "random"):
        raise InputError(f"sparsity is simulated by {how!r}; expected 'even' or 'random'")
    if how == "even":
        phase = 0.5 if generator is None else float(generator.random())
        chosen = [available[int((i + phase) * len(available) / count)] for i in range(count)]
    elif generator is None:
        raise InputError("random planes were asked for without a generator; expected one; pass generator=")
    else:
        chosen = sorted(int(i) for i in generator.choice(available, size=count, replace=False))
    return annotation.restricted([(axis, index) for index in chosen])
