"""The morphological operator along z: masks of planes are cleaned with the annotated planes between which they lie.

Masks are bool (z, y, x), planes along axis 0; move another axis there if planes were annotated across it. ``known``
says which planes carry the truth. On them the masks *are* the truth, and no step changes them.

1. :func:`drop_small` drops small components, plane by plane.
2. :func:`propagate` carries each annotated plane along z, eroded a little more with every plane, and adds what is left.
3. :func:`keep_bracketed`, :func:`fill_bracketed`: what neither of the two nearest annotated planes shows goes, what
   both show stays.
4. :func:`keep_supported`, :func:`fill_supported`: the same with the planes one before and one after, then two before
   and two after.

:func:`clean` does it all, dropping small components after each of the six passes of 3 and 4.

**Order.** Published are visits in order of z, in place: a plane sees the plane before it already changed. That makes no
difference. In y_i ∪ (y_{i-1} ∩ y_{i+1}) a voxel gained by y_{i-1} lies in y_i, and one lost from y_{i-1} in the
intersection does not lie in y_i: the plane's own voxels absorb both. So a pass reads the planes as they were before it.

**Ends.** A step that needs two planes leaves a plane as it is where one of them is missing. Beyond the first and last
annotated plane nothing is bracketed: only one plane is known there, and to intersect with it would erase every object
that begins behind it. Propagation does go on there. With no annotated plane, dropping and the neighbours remain; with
every plane annotated, the truth is returned.

**Sizes** are published in pixels of 5 nm; :func:`in_pixels` converts. A component must cover 0.0075 µm² (300 px) of a
plane, or 0.01125 µm² (450 px) to be propagated. Published are three pixels of erosion per plane. Erosion stands for how
fast an object may shrink from plane to plane, and that depends on how far apart the planes are: it is a slope, 3 µm in
the plane per µm along z, so that planes eight times as thick erode eight times as much, and the reach along z is the
same in µm however the volume was sampled.

Source: Xiao, Zhao, Yang, ISBI 2022, "Semi-Supervised Segmentation of Mitochondria from Electron Microscopy Images Using
Spatial Continuity" (there: MPP).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from fewslice.errors import InputError
from fewslice.morphology.components import Mask, drop_plane
from fewslice.volume import check_voxel_size

__all__ = [
    "PASSES",
    "Config",
    "PixelSizes",
    "brackets",
    "clean",
    "drop_small",
    "fill_bracketed",
    "fill_supported",
    "in_pixels",
    "keep_bracketed",
    "keep_supported",
    "propagate",
]

Ints = npt.NDArray[np.int64]

PUBLISHED_VOXEL_UM = (0.005, 0.005, 0.005)
"""Voxel (z, y, x) of the published sizes, and what a volume of unknown voxel size is taken for."""

_ROUNDING = 1e-6
"""Numbers of pixels or planes that differ by less are equal: 0.0001 µm² are 100 px of 1 nm, not 100.00000000000001."""


class Config(BaseModel):
    """Sizes of the operator, in physical units. The defaults are those published, for mitochondria."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    min_area_um2: float = Field(
        0.0075, ge=0, description="Components of a plane that cover less are dropped, in µm² (0.0075 = 300 px of 5 nm)."
    )
    propagated_min_area_um2: float = Field(
        0.01125,
        ge=0,
        description="Components of an eroded annotated plane that cover less go no further, in µm² (450 px of 5 nm).",
    )
    erosion_um_per_um: float = Field(
        3.0,
        ge=0,
        description="How much an annotated object shrinks on each side, in µm per µm along z (3 px per cubic voxel).",
    )


@dataclass(frozen=True)
class PixelSizes:
    """Sizes of the operator for one voxel size.

    Attributes
    ----------
    min_area
        Components of fewer pixels are dropped.
    propagated_min_area
        Components of an eroded annotated plane of fewer pixels go no further.
    erosion
        Pixels along y and x by which an annotated plane shrinks per plane; not necessarily whole numbers.
    """

    min_area: int = 300
    propagated_min_area: int = 450
    erosion: tuple[float, float] = (3.0, 3.0)


def in_pixels(config: Config, voxel_size_um: Sequence[float] | None) -> PixelSizes:
    """Convert sizes to pixels.

    Parameters
    ----------
    config
        Sizes in physical units.
    voxel_size_um
        Distance of planes, of rows and of columns, in µm. If None, the voxel is taken for the published cube of 5 nm:
        the default sizes are then the published pixel counts.

    Raises
    ------
    InputError
        If the voxel size is not three positive numbers.

    Examples
    --------
    >>> in_pixels(Config(), None)
    PixelSizes(min_area=300, propagated_min_area=450, erosion=(3.0, 3.0))
    >>> in_pixels(Config(), (0.04, 0.01, 0.005))
    PixelSizes(min_area=150, propagated_min_area=225, erosion=(12.0, 24.0))
    """
    z, y, x = check_voxel_size(PUBLISHED_VOXEL_UM if voxel_size_um is None else voxel_size_um)
    slope = config.erosion_um_per_um
    return PixelSizes(
        min_area=_whole(config.min_area_um2 / (y * x)),
        propagated_min_area=_whole(config.propagated_min_area_um2 / (y * x)),
        erosion=(slope * z / y, slope * z / x),
    )


def _whole(pixels: float) -> int:
    """Return the smallest number of pixels that is not fewer than `pixels`."""
    return math.ceil(pixels - _ROUNDING)


def clean(
    masks: Mask,
    truth: Mask,
    known: Mask,
    config: Config | None = None,
    voxel_size_um: Sequence[float] | None = None,
) -> Mask:
    """Clean the masks of a volume with its annotated planes.

    Parameters
    ----------
    masks
        Predicted foreground, bool (z, y, x); on annotated planes it is not looked at.
    truth
        True foreground, bool (z, y, x); only annotated planes are looked at.
    known
        Which planes are annotated completely, bool (z,).
    config
        Sizes; the published ones by default.
    voxel_size_um
        Voxel size (z, y, x) in µm, or None for the published pixel counts; see :func:`in_pixels`.

    Returns
    -------
    numpy.ndarray
        Bool (z, y, x), a new array; the truth on annotated planes. Memory: two such arrays beside the arguments.

    Raises
    ------
    InputError
        If shapes or types do not fit, or the voxel size is not positive.

    Examples
    --------
    An object that the prediction misses in the plane between two annotated ones:

    >>> masks, truth = np.zeros((2, 3, 40, 40), dtype=bool)
    >>> truth[[0, 2], 8:32, 8:32] = True
    >>> clean(masks, truth, np.array([True, False, True])).sum(axis=(1, 2)).tolist()
    [576, 576, 576]
    """
    check(masks, known)
    if truth.shape != masks.shape or truth.dtype != np.bool_:
        raise InputError(f"truth must be bool {masks.shape} like the masks, got {truth.dtype} {truth.shape}")
    sizes = in_pixels(config or Config(), voxel_size_um)
    result = masks.copy()
    result[known] = truth[known]
    result = drop_small(result, known, sizes.min_area)
    result = propagate(result, known, sizes.erosion, sizes.propagated_min_area)
    for step in PASSES:
        result = step(result, known)  # on its own line, so that only two volumes are held at a time
        result = drop_small(result, known, sizes.min_area)
    return result


def drop_small(masks: Mask, known: Mask, min_area: int) -> Mask:
    """Drop small components of predicted planes: step 0, and after every pass.

    Parameters
    ----------
    masks, known
        As in :func:`clean`, with the truth on annotated planes, which keep their small components.
    min_area
        Components of fewer pixels are dropped. Pixels are connected to their 8 neighbours within the plane.

    Returns
    -------
    numpy.ndarray
        Bool (z, y, x), a new array.

    Raises
    ------
    InputError
        If shapes or types do not fit.
    """
    check(masks, known)
    result = masks.copy()
    for z in np.flatnonzero(~known):
        result[z] = drop_plane(masks[z], min_area)
    return result


def propagate(masks: Mask, known: Mask, erosion: tuple[float, float] = (3.0, 3.0), min_area: int = 450) -> Mask:
    """Add what is certain to go on behind annotated planes: step 1.

    A set S is carried along z, forward and backward: at an annotated plane S ← truth, at others S ← S eroded, small
    components dropped, mask ← mask ∪ S. Published are three erosions by the 3 × 3 cross per plane.

    S depends on annotated planes only. The published code sweeps twice; the second sweep adds the same sets again and
    changes nothing, so there is one here. Nor does it matter when components are dropped: erosion acts on each
    component on its own and leaves none larger, so what one plane drops could not have come back at the next. So at k
    planes from the annotated plane S is the truth without what lies within a distance k of its complement, small
    components dropped. The distance is |Δy| / erosion_y + |Δx| / erosion_x; n erosions by the cross take away a
    taxicab distance of n pixels.

    What lies outside the plane does not erode: an object that the rim cuts goes on behind it.

    Parameters
    ----------
    masks, known
        As in :func:`clean`, with the truth on annotated planes.
    erosion
        Pixels along y and x by which S shrinks per plane.
    min_area
        Components of S of fewer pixels are dropped.

    Returns
    -------
    numpy.ndarray
        Bool (z, y, x), a new array.

    Raises
    ------
    InputError
        If shapes or types do not fit, or an erosion is negative.
    """
    check(masks, known)
    if not all(math.isfinite(e) and e >= 0 for e in erosion):
        raise InputError(f"erosion must be two numbers of at least 0, pixels per plane along y and x, got {erosion}")
    result = masks.copy()
    for z, _, reached in reach(lambda plane: masks[plane], known, erosion):
        result[z] |= drop_plane(reached, min_area)
    return result


def reach(read: Callable[[int], Mask], known: Mask, erosion: tuple[float, float]) -> Iterator[tuple[int, int, Mask]]:
    """Yield plane, direction (0 backward, 1 forward) and S before small components are dropped; empty S are left out.

    `read` returns an annotated plane by its number.
    """
    for source in np.flatnonzero(known).tolist():
        far = _distance(read(source), erosion)
        for direction, step in enumerate((-1, 1)):
            plane = source + step
            while 0 <= plane < known.size and not known[plane]:
                reached = far > abs(plane - source) + _ROUNDING
                if not reached.any():
                    break
                yield plane, direction, reached
                plane += step


def farthest(known: Mask) -> int:
    """Return over how many planes an annotated plane is carried at most."""
    before, after = brackets(known)
    z = np.arange(known.size)
    return int(max(np.max(z - before, where=before >= 0, initial=0), np.max(after - z, where=after >= 0, initial=0)))


def _distance(plane: Mask, erosion: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Return |Δy| / erosion_y + |Δx| / erosion_x to the nearest background pixel, infinite where there is none.

    Steps are added one by one, so that a part of a plane gives bit for bit the same as the whole.
    """
    far = np.where(plane, np.inf, 0.0)
    for pixels in erosion:
        step = 1 / pixels if pixels else np.inf
        for lines in (far, far[::-1]):
            for before, line in pairwise(lines):
                np.minimum(line, before + step, out=line)
        far = np.ascontiguousarray(far.T)
    return far


def brackets(known: Mask) -> tuple[Ints, Ints]:
    """Find the nearest annotated planes.

    Parameters
    ----------
    known
        Which planes are annotated, bool (z,).

    Returns
    -------
    tuple of numpy.ndarray
        For every plane the nearest annotated one before it (or itself), and after it (or itself); -1 where there is
        none. int64 (z,).

    Examples
    --------
    >>> before, after = brackets(np.array([0, 1, 0, 0, 1, 0], dtype=bool))
    >>> before.tolist(), after.tolist()
    ([-1, 1, 1, 1, 4, 4], [1, 1, 4, 4, 4, -1])
    """
    z = np.arange(known.size)
    before = np.maximum.accumulate(np.where(known, z, -1))
    after = np.minimum.accumulate(np.where(known, z, known.size)[::-1])[::-1]
    return before, np.where(after == known.size, -1, after)


def keep_bracketed(masks: Mask, known: Mask) -> Mask:
    """Intersect each plane with the union of its two bracketing annotated planes: y ← y ∩ (F ∪ B), step 2.

    Planes that lie beyond the first or last annotated one stay as they are.

    Parameters
    ----------
    masks, known
        As in :func:`clean`, with the truth on annotated planes.

    Returns
    -------
    numpy.ndarray
        Bool (z, y, x), a new array.

    Raises
    ------
    InputError
        If shapes or types do not fit.
    """
    check(masks, known)
    result = masks.copy()
    for z, before, after in _bracketed(known):
        result[z] &= masks[before] | masks[after]
    return result


def fill_bracketed(masks: Mask, known: Mask) -> Mask:
    """Unite each plane with what both bracketing annotated planes show: y ← y ∪ (F ∩ B), step 2.

    Planes that lie beyond the first or last annotated one stay as they are.

    Parameters
    ----------
    masks, known
        As in :func:`clean`, with the truth on annotated planes.

    Returns
    -------
    numpy.ndarray
        Bool (z, y, x), a new array.

    Raises
    ------
    InputError
        If shapes or types do not fit.
    """
    check(masks, known)
    result = masks.copy()
    for z, before, after in _bracketed(known):
        result[z] |= masks[before] & masks[after]
    return result


def keep_supported(masks: Mask, known: Mask, distance: int = 1) -> Mask:
    """Intersect each plane with the union of two neighbours: y_i ← y_i ∩ (y_{i-d} ∪ y_{i+d}), step 2.

    Planes without both neighbours stay as they are.

    Parameters
    ----------
    masks, known
        As in :func:`clean`, with the truth on annotated planes.
    distance
        Planes d to either neighbour, at least 1.

    Returns
    -------
    numpy.ndarray
        Bool (z, y, x), a new array.

    Raises
    ------
    InputError
        If shapes or types do not fit, or the distance is below 1.
    """
    check(masks, known)
    result = masks.copy()
    for z in _neighboured(known, distance):
        result[z] &= masks[z - distance] | masks[z + distance]
    return result


def fill_supported(masks: Mask, known: Mask, distance: int = 1) -> Mask:
    """Unite each plane with what both neighbours show: y_i ← y_i ∪ (y_{i-d} ∩ y_{i+d}), step 2.

    Planes without both neighbours stay as they are.

    Parameters
    ----------
    masks, known
        As in :func:`clean`, with the truth on annotated planes.
    distance
        Planes d to either neighbour, at least 1.

    Returns
    -------
    numpy.ndarray
        Bool (z, y, x), a new array.

    Raises
    ------
    InputError
        If shapes or types do not fit, or the distance is below 1.
    """
    check(masks, known)
    result = masks.copy()
    for z in _neighboured(known, distance):
        result[z] |= masks[z - distance] & masks[z + distance]
    return result


PASSES: tuple[Callable[[Mask, Mask], Mask], ...] = (
    keep_bracketed,
    fill_bracketed,
    partial(keep_supported, distance=1),
    partial(fill_supported, distance=1),
    partial(keep_supported, distance=2),
    partial(fill_supported, distance=2),
)
"""The passes of step 2 in order; each takes masks and known planes, and small components are dropped after each."""


def _bracketed(known: Mask) -> Iterator[tuple[int, int, int]]:
    """Yield every predicted plane between two annotated ones, with these."""
    before, after = brackets(known)
    for z in np.flatnonzero(~known & (before >= 0) & (after >= 0)).tolist():
        yield z, int(before[z]), int(after[z])


def _neighboured(known: Mask, distance: int) -> list[int]:
    """List the predicted planes that have a plane `distance` before and after them."""
    if distance < 1:
        raise InputError(f"the distance to a neighbour must be at least 1 plane, got {distance}")
    return [z for z in range(distance, known.size - distance) if not known[z]]


def check(masks: npt.NDArray[Any], known: npt.NDArray[Any]) -> None:
    """Refuse masks or known planes of another shape or type."""
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise InputError(
            f"masks must be bool (z, y, x), got {masks.dtype} of shape {masks.shape}; "
            "threshold probabilities, compare labels, add an axis to a single plane"
        )
    check_known(known, masks.shape[0])


def check_known(known: npt.NDArray[Any], depth: int) -> None:
    """Refuse anything but one bool per plane."""
    if known.shape != (depth,) or known.dtype != np.bool_:
        raise InputError(
            f"known must be one bool per plane, bool ({depth},), got {known.dtype} of shape {known.shape}; "
            "for a list of plane numbers: known = np.zeros(planes, bool); known[numbers] = True"
        )
