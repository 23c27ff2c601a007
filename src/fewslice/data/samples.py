"""From paths to samples: which labels belong to which image, and what their values mean.

A data set is a list of (image, annotation) pairs, made in three steps:

1. :func:`expand` turns what the user typed (paths, quoted globs, folders) into a list of files;
2. :func:`pair` matches labels with images, by file stem or by order, and refuses what does not fit;
3. :func:`open_samples` opens the files and reads the labels, with one meaning of their values for the whole data set.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fewslice.annotation import (
    Annotation,
    Kind,
    apply_convention,
    check_usable,
    distinct_values,
    interpret,
    label_array,
    parse_planes,
)
from fewslice.errors import InputError
from fewslice.io import is_address, needs_grid, open_volume, read_labels
from fewslice.volume import Volume

__all__ = ["NO_LABELS", "Sample", "expand", "open_samples", "pair", "stem"]

NO_LABELS = "none"
"""Given in place of a label file when pairing by order: the image at that position is unlabelled."""

LABEL_FILES = (".tif", ".tiff", ".png", ".zarr", ".zip")
"""What is looked for in a folder of label files."""

_DATASET = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf|he5|zip)):(?P<dataset>[^:\\]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Sample:
    """An image, and its annotation where it has one.

    Parameters
    ----------
    name
        File stem, preceded by its folder where two samples would share it.
    image
        The volume, not read yet.
    annotation
        Of the image's (z, y, x) shape; None for an unlabelled sample.
    labels_source
        Path of the label file; empty for an unlabelled sample.
    """

    name: str
    image: Volume
    annotation: Annotation | None = None
    labels_source: str = ""

    def __post_init__(self) -> None:
        """Check that labels and image have one shape."""
        if self.annotation is not None and self.annotation.shape != self.image.shape:
            raise InputError(
                f"{self.labels_source or 'the annotation'} has shape {self.annotation.shape} and the image {self.name} "
                f"has shape {self.image.shape} (z, y, x); expected the same; check that they belong together, or --axes"
            )


def open_samples(
    images: Sequence[str],
    labels: Sequence[str] = (),
    *,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: Sequence[float] | None = None,
    label_kind: Kind | None = None,
    planes: Sequence[str] = (),
    background: int | None = None,
    unlabelled: int | str | None = None,
    class_values: Sequence[int] | None = None,
    allow_one_class: bool = False,
) -> list[Sample]:
    """Open images and labels as samples.

    The values of all label files are interpreted together, so that a class has one number in all of them, also where a
    file lacks it. Labels are read into memory; images are not.

    Parameters
    ----------
    images, labels
        As in :func:`pair`.
    axes, channels, voxel_size_um
        As in :func:`fewslice.io.open_volume`; the axes hold for the labels too. Axes that are neither stated nor given
        are worked out from the labels' shape, and for unlabelled images from the other samples' channel count.
    label_kind, planes, background, unlabelled, class_values
        For the labels, as ``kind`` and the others in :func:`fewslice.annotation.from_labels`; planes are the same in
        every labelled sample.
    allow_one_class
        Accept labels without background or without foreground.

    Returns
    -------
    list of Sample
        In the order of the images.

    Raises
    ------
    InputError
        When files do not pair, cannot be opened, or differ in shape or channel count; when labels are ambiguous or hold
        no annotated voxel, or all of them together one class only.
    """
    pairs = pair(images, labels)
    names = _names([image for image, _ in pairs])
    arrays = {
        label: label_array(_read_labels(label, image, axes, label_kind, planes), _short(label))
        for image, label in pairs
        if label is not None
    }
    listed: dict[str, list[tuple[int, int]]] = {}
    values: set[int] = set()
    highest: list[int] = []
    for label, array in arrays.items():
        try:
            listed[label] = parse_planes(planes, array.shape)
        except InputError as error:
            raise InputError(f"{_short(label)}: {error}") from None
        values.update(distinct_values(array, listed[label]))
        highest.append(int(array.max()))
    annotations: dict[str, Annotation] = {}
    if arrays:
        several = f"{len(arrays)} label files ({_short(next(iter(arrays)))}, …)"
        called = _short(next(iter(arrays))) if len(arrays) == 1 else several
        convention = interpret(
            sorted(values),
            [array.dtype for array in arrays.values()],
            kind=label_kind,
            background=background,
            unlabelled=unlabelled,
            class_values=class_values,
            highest=max(highest),
            name=called,
        )
        while arrays:  # one at a time, so that file and annotation are not both held for all samples
            label, array = arrays.popitem()
            annotations[label] = apply_convention(array, convention, planes=listed[label], name=_short(label))
        if not allow_one_class:
            check_usable(list(annotations.values()), name=called)
    return _open_images(pairs, names, annotations, axes, channels, voxel_size_um)


def _read_labels(
    label: str, image: str, axes: str | None, kind: Kind | None, planes: Sequence[str]
) -> npt.NDArray[np.integer]:
    """Read a label file; outlines are painted onto the grid of their image."""
    if not needs_grid(label):
        return read_labels(label, axes=axes)
    shape = open_volume(image, axes=axes).shape
    return read_labels(label, shape=shape, kind=kind, planes=planes, name=_short(label))


def _open_images(
    pairs: Sequence[tuple[str, str | None]],
    names: Sequence[str],
    annotations: dict[str, Annotation],
    axes: str | None,
    channels: Sequence[int] | None,
    voxel_size_um: Sequence[float] | None,
) -> list[Sample]:
    """Open labelled images first: the others are read with as many channels."""
    samples: dict[int, Sample] = {}
    expected: int | None = None
    for number in sorted(range(len(pairs)), key=lambda i: pairs[i][1] is None):
        path, label = pairs[number]
        annotation = annotations[label] if label is not None else None
        image = open_volume(
            path,
            axes=axes,
            channels=channels,
            voxel_size_um=voxel_size_um,
            expected_shape=None if annotation is None else annotation.shape,
            expected_channels=expected if annotation is None else None,
        )
        if expected is not None and image.channels != expected:
            raise InputError(
                f"{_short(path)} has {image.channels} channel{'s' * (image.channels != 1)} and other samples have "
                f"{expected}; expected the same number in every image; choose with --channels, or check --axes"
            )
        expected = image.channels
        samples[number] = Sample(names[number], image, annotation, label or "")
    return [samples[number] for number in range(len(pairs))]


# ------------------------------------------------------------------------------------------------------------ pairing


def pair(images: Sequence[str], labels: Sequence[str] = ()) -> list[tuple[str, str | None]]:
    """Match labels with images.

    By file stem; or by order, when no stem matches and the counts are equal. An image without labels is an unlabelled
    sample; by order, ``none`` in place of a label file says so.

    Parameters
    ----------
    images
        Paths and globs. A folder is one volume of planes.
    labels
        Paths, globs and folders. A folder holds one label file per image; it is one volume of planes when the images
        are folders too, or when there is one image and no file in the folder has its stem.

    Returns
    -------
    list of (str, str or None)
        Image and its labels, in the order of the images (globs sorted, numbers by value).

    Raises
    ------
    InputError
        When a path does not exist or a glob matches nothing, a label has no image, a file is given twice or in both
        roles, or stems are not unique.
    """
    image_paths = expand(images)
    if not image_paths:
        raise InputError("no image was given; expected at least one path")
    label_paths = _expand_labels(labels, image_paths)
    _refuse_repeated(image_paths, label_paths)
    image_stems, label_stems = [stem(p) for p in image_paths], [stem(p) for p in label_paths]
    real = [p for p in label_paths if p != NO_LABELS]
    matching = set(image_stems) & {s for s, p in zip(label_stems, label_paths, strict=True) if p != NO_LABELS}
    if len(image_paths) == len(label_paths) and (
        not matching or image_stems == label_stems or NO_LABELS in label_paths
    ):
        return [(i, None if p == NO_LABELS else p) for i, p in zip(image_paths, label_paths, strict=True)]
    if NO_LABELS in label_paths:
        raise InputError(
            f"--labels {NO_LABELS} stands for an unlabelled image by position, but there are {len(image_paths)} images "
            f"and {len(label_paths)} labels; expected one --labels per image"
        )
    if not real:
        return [(i, None) for i in image_paths]
    if not matching:
        raise InputError(
            f"{len(label_paths)} label file{'s' * (len(label_paths) != 1)} and {len(image_paths)} "
            f"image{'s' * (len(image_paths) != 1)} do not pair: no label has the file stem of an image "
            f"({_short(label_paths[0])} against {_short(image_paths[0])}) and the counts differ; expected equal stems "
            f"or equal counts; rename them, or give one --labels per image, --labels {NO_LABELS} for unlabelled images"
        )
    orphans = [p for p, s in zip(label_paths, label_stems, strict=True) if s not in matching]
    if orphans:
        raise InputError(
            f"labels {_short(orphans[0])}{_and_more(orphans)} have no image of the same file stem, while others have; "
            "expected an image for every label file; add the image, or leave the labels out"
        )
    for what, stems in (("image", image_stems), ("label", label_stems)):
        twice = [s for s, n in Counter(stems).items() if n > 1 and s in matching]
        if twice:
            raise InputError(
                f"{what} files share the stem {twice[0]!r}, so labels cannot be paired by it; expected one {what} file "
                "per stem; rename them, or give one --labels per image in the same order as the images"
            )
    by_stem = dict(zip(label_stems, label_paths, strict=True))
    return [(i, by_stem.get(s)) for i, s in zip(image_paths, image_stems, strict=True)]


def expand(specs: Sequence[str]) -> list[str]:
    """Replace every glob by the paths it matches, sorted with numbers by value; other paths stay as they are.

    A glob may carry an HDF5 dataset, ``crops/*.h5:raw``.

    Raises
    ------
    InputError
        When a path does not exist or a glob matches nothing.
    """
    paths: list[str] = []
    for spec in specs:
        file, dataset = _split_dataset(spec)
        if is_address(spec) or Path(file).exists():
            paths.append(spec)
        elif glob.has_magic(file):
            found = sorted(glob.glob(file, recursive=True), key=_natural)  # noqa: PTH207 - patterns may be absolute
            if not found:
                raise InputError(f"{spec} matches no file; expected at least one; check the folder and the pattern")
            paths.extend(f + dataset for f in found)
        else:
            raise InputError(f"{spec} does not exist; expected a file, a folder or a quoted pattern; check the path")
    return paths


def stem(path: str) -> str:
    """Return the name by which labels find their image: without folders, dataset, and suffixes such as ``.ome.tif``.

    Examples
    --------
    >>> stem("a/brain_1.ome.tif"), stem("a/brain_1.h5:raw"), stem("a/brain_1.ome.zarr/labels/cells")
    ('brain_1', 'brain_1', 'brain_1')
    """
    file, _ = _split_dataset(path)
    parts = Path(file).parts
    stores = [part for part in parts if part.lower().endswith(".zarr")]
    name = stores[0] if stores else Path(file).name
    if not stores and Path(file).is_dir():
        return name
    return re.sub(r"(\.ome)?\.[^.]+$", "", name, flags=re.IGNORECASE) or name


def _expand_labels(labels: Sequence[str], images: Sequence[str]) -> list[str]:
    folders_of_planes = all(_is_folder(image) for image in images)
    paths: list[str] = []
    for spec in labels:
        if spec == NO_LABELS:
            paths.append(spec)
            continue
        for path in expand([spec]):
            files = _label_files(path) if _is_folder(path) and not folders_of_planes else [path]
            one_volume = len(images) == 1 and len(files) > 1 and stem(images[0]) not in {stem(f) for f in files}
            paths.extend([path] if one_volume else files)
    return paths


def _label_files(folder: str) -> list[str]:
    files = [
        str(f)
        for f in Path(folder).iterdir()
        if f.suffix.lower() in LABEL_FILES
        and not f.name.startswith(".")
        and f.is_dir() == (f.suffix.lower() == ".zarr")
    ]
    if not files:
        raise InputError(f"the folder {folder} has no label file; expected {', '.join(LABEL_FILES)}; check the path")
    return sorted(files, key=_natural)


def _refuse_repeated(images: Sequence[str], labels: Sequence[str]) -> None:
    as_image = Counter(_identity(p) for p in images)
    as_label = Counter(_identity(p) for p in labels if p != NO_LABELS)
    for path in labels:
        if path != NO_LABELS and _identity(path) in as_image:
            raise InputError(
                f"{path} is given both as image and as labels; expected different files; narrow the pattern or drop one"
            )
    for what, counts, paths in (("image", as_image, images), ("labels", as_label, labels)):
        for path in paths:
            if counts[_identity(path)] > 1:
                raise InputError(f"{path} is given twice as {what}; expected each file once; drop one of them")


def _identity(path: str) -> str:
    file, dataset = _split_dataset(path)
    return str(Path(file).resolve()) + (":" + dataset.strip(":/") if dataset else "")


def _split_dataset(path: str) -> tuple[str, str]:
    match = _DATASET.fullmatch(path)
    return (match["file"], ":" + match["dataset"]) if match else (path, "")


def _is_folder(path: str) -> bool:
    """Whether a path is a plain folder, not a Zarr store or a group inside one."""
    return Path(path).is_dir() and not any(part.lower().endswith(".zarr") for part in Path(path).parts)


def _natural(path: str) -> list[tuple[int, int, str]]:
    """Sort key that puts plane_2 before plane_10."""
    return [(0, int(t), "") if t.isdecimal() else (1, 0, t) for t in re.split(r"(\d+)", path) if t]


def _names(paths: Sequence[str]) -> list[str]:
    names = [stem(p) for p in paths]
    if len(set(names)) < len(names):
        names = [
            f"{Path(_split_dataset(p)[0]).resolve().parent.name}/{name}" for p, name in zip(paths, names, strict=True)
        ]
    counts = Counter(names)
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        if counts[name] > 1:
            seen[name] += 1
            names[i] = f"{name} ({seen[name]})"
    return names


def _short(path: str) -> str:
    """Folder and file: enough to recognise it in a message."""
    return "/".join(Path(path).parts[-2:])


def _and_more(paths: Sequence[str]) -> str:
    return f" and {len(paths) - 1} more" if len(paths) > 1 else ""
