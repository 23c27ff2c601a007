"""What fills the space between annotated planes without any image: the rivals of a network.

- :func:`interpolate_signed_distance`: shape-based interpolation. Each annotated plane becomes a map of signed distances
  to the border, maps of two planes are mixed linearly, and what lies inside the mixed border is foreground (Raya and
  Udupa, IEEE Trans. Med. Imaging 1990; Herman et al., IEEE Comput. Graph. Appl. 1992). Several classes: the deepest
  wins.
- :func:`interpolate_contours`: morphological contour interpolation (Albu et al., IEEE Trans. Biomed. Eng. 2008), as ITK
  implements it (Zukić et al., Insight Journal 2016). Regions that overlap are matched and morphed one into the other,
  branches taper. Needs the extra ``fewslice[interpolation]``.

All leave annotated planes as they are and give planes before the first and behind the last annotated one what that
shows. Planes lie along axis 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from fewslice.errors import InputError
from fewslice.morphology.components import Mask
from fewslice.morphology.continuity import brackets, check_known
from fewslice.volume import check_voxel_size

edt: Any
try:
    edt = import_module("edt")
except ImportError:  # SciPy does the same, about five times slower
    edt = None

__all__ = ["interpolate_contours", "interpolate_signed_distance"]

Labels = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def interpolate_signed_distance(labels: Labels, known: Mask, voxel_size_um: Sequence[float] | None = None) -> Labels:
    """Fill the planes between annotated ones from signed distances, linear in z.

    Parameters
    ----------
    labels
        Bool or integer (z, y, x); 0 is background. Only annotated planes are looked at.
    known
        Which planes are annotated completely, bool (z,).
    voxel_size_um
        Voxel size (z, y, x) in µm; only the ratio of y to x matters. Square pixels by default.

    Returns
    -------
    numpy.ndarray
        (z, y, x) of the labels' type. A class that one of two planes does not show lies as far away there as the
        plane's diagonal, so that it ends soon behind the plane that shows it; on a tie the lower label wins. Memory: a
        float32 plane per label and annotated plane of two.

    Raises
    ------
    InputError
        If shapes or types do not fit, no plane is annotated, or the voxel size is not positive.

    Examples
    --------
    An edge that moves by four pixels over four planes:

    >>> labels = np.zeros((5, 1, 8), dtype=np.uint8)
    >>> labels[0, :, :2] = labels[4, :, :6] = 1
    >>> known = np.array([True, False, False, False, True])
    >>> interpolate_signed_distance(labels, known)[:, 0].sum(axis=1).tolist()
    [2, 3, 4, 5, 6]
    """
    _check(labels, known)
    y, x = _pixel(voxel_size_um)
    classes = np.unique(labels[known])
    result = np.empty_like(labels)
    result[known] = labels[known]
    for z, depths in _between(labels, known, classes, (y / x, 1.0)):
        result[z] = classes[np.argmax(depths, axis=0)]
    return result


def interpolate_contours(labels: Labels, known: Mask) -> Labels:
    """Fill the planes between annotated ones by ITK's morphological contour interpolation.

    Parameters
    ----------
    labels
        Bool or integer (z, y, x), values 0–255; 0 is background. Only annotated planes are looked at.
    known
        Which planes are annotated completely, bool (z,).

    Returns
    -------
    numpy.ndarray
        (z, y, x) of the labels' type. A label that only one of two planes shows ends right behind it; a region that
        overlaps none of its label tapers. ITK overlooks regions of a single pixel. Memory: the planes between two
        annotated ones, some 20 bytes per voxel.

    Raises
    ------
    InputError
        If ITK is missing, shapes or types do not fit, no plane is annotated, or a label lies outside 0–255.
    """
    _check(labels, known)
    shown = labels[known]
    if shown.min() < 0 or shown.max() > 255:
        raise InputError(
            f"contour interpolation takes labels of 0–255, got {shown.min()} to {shown.max()}; renumber them"
        )
    itkwasm, interpolate = _load_itk()
    result = _fill_ends(labels, known)
    numbers = np.flatnonzero(known)
    for first, last in zip(numbers[:-1].tolist(), numbers[1:].tolist(), strict=True):
        if last - first < 2 or not (labels[first].any() and labels[last].any()):
            continue
        gap = np.zeros((last - first + 1, *labels.shape[1:]), dtype=np.uint8)
        gap[0], gap[-1] = labels[first], labels[last]
        filled = interpolate(itkwasm.image_from_array(gap), axis=2)  # ITK counts axes from x
        result[first + 1 : last] = np.asarray(filled.data)[1:-1]
    return result


def _load_itk() -> tuple[Any, Any]:
    """Return ITK's image functions and its filter, as compiled to WebAssembly.

    The same filter as in the package ``itk``, which takes 1.5 GB and, in tests, now and then left the process with a
    broken heap; WebAssembly cannot reach beyond its own memory.
    """
    try:
        itkwasm = import_module("itkwasm")
        module = import_module("itkwasm_morphological_contour_interpolation")
    except ImportError as error:
        raise InputError(
            "contour interpolation needs ITK, which is not installed here; "
            "pip install 'fewslice[interpolation]' or use interpolate_signed_distance"
        ) from error
    return itkwasm, module.morphological_contour_interpolation


def _between(
    labels: Labels, known: Mask, classes: Labels, pixel: tuple[float, float]
) -> Iterator[tuple[int, list[Floats]]]:
    """Yield every plane that is not annotated with the interpolated signed distances of each class."""
    before, after = brackets(known)
    before, after = np.where(before < 0, after, before), np.where(after < 0, before, after)
    maps: dict[int, list[Floats]] = {}
    for z in np.flatnonzero(~known).tolist():
        first, last = int(before[z]), int(after[z])
        maps = {source: maps.get(source) or _depths(labels[source], classes, pixel) for source in (first, last)}
        yield z, [_mix(a, b, z - first, last - z) for a, b in zip(maps[first], maps[last], strict=True)]


def _depths(plane: Labels, classes: Labels, pixel: tuple[float, float]) -> list[Floats]:
    return [_signed_distance(plane == value, pixel) for value in classes]


def _mix(first: Floats, last: Floats, planes_from_first: int, planes_to_last: int) -> Floats:
    """Interpolate linearly. Multiplied before divided: whole numbers that cancel do so exactly, and a tie is a tie."""
    if first is last:
        return first
    mixed = first * np.float32(planes_to_last) + last * np.float32(planes_from_first)
    mixed /= np.float32(planes_from_first + planes_to_last)
    return mixed


def _signed_distance(mask: Mask, pixel: tuple[float, float]) -> Floats:
    """Distance to the border between pixels, positive inside; at most the plane's diagonal, there being no border."""
    diagonal = math.hypot(*(extent * size for extent, size in zip(mask.shape, pixel, strict=True)))
    if mask.all() or not mask.any():
        return np.full(mask.shape, diagonal if mask.any() else -diagonal, dtype=np.float32)
    return _distance(mask, pixel) - _distance(~mask, pixel)


def _distance(mask: Mask, pixel: tuple[float, float]) -> Floats:
    """Distance of every foreground pixel to the nearest background pixel, float32, in the unit of `pixel`."""
    if edt is not None:
        return np.asarray(edt.edt(mask, anisotropy=pixel, black_border=False), dtype=np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=pixel), dtype=np.float32)


def _pixel(voxel_size_um: Sequence[float] | None) -> tuple[float, float]:
    return (1.0, 1.0) if voxel_size_um is None else check_voxel_size(voxel_size_um)[1:]


def _fill_ends(labels: Labels, known: Mask) -> Labels:
    """Return annotated planes, the first and last of them repeated to the ends, and zeros between."""
    result = np.zeros_like(labels)
    result[known] = labels[known]
    numbers = np.flatnonzero(known)
    result[: numbers[0]] = labels[numbers[0]]
    result[numbers[-1] + 1 :] = labels[numbers[-1]]
    return result


def _check(labels: Labels, known: Mask) -> None:
    if labels.ndim != 3 or not (labels.dtype == np.bool_ or np.issubdtype(labels.dtype, np.integer)):
        raise InputError(
            f"labels must be bool or integer (z, y, x), got {labels.dtype} of shape {labels.shape}; "
            "add an axis to a single plane"
        )
    check_known(known, labels.shape[0])
    if not known.any():
        raise InputError("no plane is annotated, so there is nothing to interpolate between; mark at least one")
