"""Objects are parted where they are narrow: a watershed of the distance from the background.

Heights are the distance, in µm, of a foreground voxel from the nearest voxel that is background or of another class.
If the prediction has a boundary output, it is the distance from what is no interior (background or boundary), negative
outside, so that the boundary's voxels fall to the nearest interior. If it has a distance output, heights are what was
predicted.

1. Heights are smoothed a little, and rounded to whole steps.
2. Every voxel climbs to a summit (:mod:`fewslice.segmenters._ascent`): one region per summit.
3. Regions are merged over shallow passes (:class:`~fewslice.segmenters.Merging`), as h-maxima would have merged their
   seeds (Meyer and Beucher 1990; Soille 2003, section 6.3.4), but at the end, where all of the volume is known.

No object needs to fit into a halo. The one assumption is `reach_um`: distances beyond it count as equal, so necks that
are wider than twice `neck` times the reach do not part what they join.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from fewslice.morphology.probabilities import segment_probabilities
from fewslice.segmenters import Merging, Output, Place, Regions, Triple, probability_channels, voxels_of
from fewslice.segmenters._ascent import label_regions

edt: Any
try:
    edt = import_module("edt")
except ImportError:  # SciPy does the same, several times slower
    edt = None

__all__ = ["Config", "channels", "distance_to_border", "halo", "label", "merging", "smallest"]

_STEPS = 32
"""Steps of height per extent of the smallest voxel, and 1/8 of a stored value of a distance output."""
_PER_VALUE = 8
_MARGIN = 8
_TRUNCATE = 3.0


class Config(BaseModel):
    """How touching objects are parted.

    Attributes
    ----------
    neck
        Two cores are one object if the pass between them reaches this share (0–1) of the lower core's height: the width
        of the neck over the width of the narrower object. At 0.9 two equal discs are two if their centres are more than
        0.87 radii apart, at 0.8 if they are 1.2 radii apart. Smaller values part less.
    depth_um
        They are one object as well if the pass lies less than this below the lower core. None: one extent of the
        smallest voxel. Not used with a distance output.
    reach_um
        Distances are measured up to here; choose at least the radius of the largest object that touches others. None:
        24 extents of the smallest voxel.
    smoothing_um
        Standard deviation of the Gaussian that smooths heights. None: one extent of the smallest voxel; 0: none.
    boundary
        Boundary where that output reaches this (0–1).
    min_size_um3
        Objects below this volume are dropped; 0 keeps all. None: 8 voxels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    neck: float = Field(0.9, gt=0, le=1)
    depth_um: float | None = Field(None, ge=0, allow_inf_nan=False)
    reach_um: float | None = Field(None, gt=0, allow_inf_nan=False)
    smoothing_um: float | None = Field(None, ge=0, allow_inf_nan=False)
    boundary: float = Field(0.5, gt=0, le=1)
    min_size_um3: float | None = Field(None, ge=0, allow_inf_nan=False)


def channels(outputs: Sequence[Output]) -> tuple[int, ...]:
    """Return the positions of the probabilities, then of a distance output, else of a boundary output, if any."""
    wanted = probability_channels(outputs, "watershed")
    for kind in ("distance", "boundary"):
        found = [i for i, output in enumerate(outputs) if output.kind == kind]
        if found:
            return (*wanted, found[0])
    return wanted


def halo(config: Config, voxel_size_um: Triple | None) -> tuple[int, int, int]:
    """Margin, then what smoothing reads, then what the distance reads."""
    spacing = voxel_size_um or (1.0, 1.0, 1.0)
    sigma, reach = _sigma(config, spacing), _reach(config, spacing)
    z, y, x = (
        _MARGIN + math.ceil(_TRUNCATE * s) + math.ceil(reach / extent) + 1
        for s, extent in zip(sigma, spacing, strict=True)
    )
    return (z, y, x)


def merging(config: Config, voxel_size_um: Triple | None) -> Merging:
    """Return `depth_um` and `neck` in steps of height."""
    spacing = voxel_size_um or (1.0, 1.0, 1.0)
    depth = min(spacing) if config.depth_um is None else config.depth_um
    return Merging(max(1, round(depth / min(spacing) * _STEPS)), config.neck)


def smallest(config: Config, shape: tuple[int, int, int], voxel_size_um: Triple | None) -> int:
    """Return `min_size_um3` in voxels."""
    del shape
    return voxels_of(config.min_size_um3, voxel_size_um)


def label(config: Config, values: npt.NDArray[Any], place: Place) -> Regions:
    """Label the regions of one block; see :mod:`fewslice.segmenters`."""
    spacing = place.voxel_size_um or (1.0, 1.0, 1.0)
    kinds = [output.kind for output in place.outputs]
    foreground = [i for i, kind in enumerate(kinds) if kind == "probability"]
    classes = segment_probabilities(values[foreground], place.threshold)
    reach = _reach(config, spacing)
    if kinds[-1] == "distance":
        raised = values[-1].astype(np.float64) * _PER_VALUE
    elif kinds[-1] == "boundary":
        interior = np.where(values[-1] < config.boundary * 255.0, classes, np.uint8(0))
        raised = _steps(distance_to_border(interior, spacing, reach), spacing)
        raised -= _steps(distance_to_border((interior == 0).astype(np.uint8), spacing, reach), spacing)
    else:
        raised = _steps(distance_to_border(classes, spacing, reach), spacing)
    sigma = _sigma(config, spacing)
    if any(sigma):
        raised = ndimage.gaussian_filter(raised, sigma, mode="nearest", truncate=_TRUNCATE)
    seen = place.block.write.grow((_MARGIN,) * 3).clip(place.shape)
    crop = seen.shift(tuple(-a for a in place.block.read.start)).slices
    heights = np.rint(raised[crop]).astype(np.int32)
    return label_regions(heights, classes[crop], seen, place, spacing)


def distance_to_border(classes: npt.NDArray[np.uint8], spacing: Triple, reach: float) -> npt.NDArray[np.float64]:
    """Return the distance from every foreground voxel to the nearest voxel of another value, at most `reach`.

    Parameters
    ----------
    classes
        (z, y, x) uint8, 0 background. The array's own border is no border of objects.
    spacing
        (z, y, x) extent of a voxel.
    reach
        In the unit of `spacing`; background has distance 0.
    """
    if edt is not None:
        found = edt.edt(np.ascontiguousarray(classes), anisotropy=spacing, black_border=False, parallel=1)
        return np.minimum(np.asarray(found, dtype=np.float64), reach)
    distance = np.zeros(classes.shape)
    for value in np.unique(classes[classes > 0]):
        mask = classes == value
        everywhere = np.full(classes.shape, reach) if mask.all() else ndimage.distance_transform_edt(mask, spacing)
        distance[mask] = np.minimum(everywhere[mask], reach)
    return distance


def _steps(distance: npt.NDArray[np.float64], spacing: Triple) -> npt.NDArray[np.float64]:
    """Round to whole steps: the last digit of a distance depends on where the array begins."""
    return np.rint(distance * (_STEPS / min(spacing)))


def _reach(config: Config, spacing: Triple) -> float:
    return 24 * min(spacing) if config.reach_um is None else config.reach_um


def _sigma(config: Config, spacing: Triple) -> Triple:
    """Return the standard deviation in voxels; none along axes whose voxels are longer than it."""
    sigma = min(spacing) if config.smoothing_um is None else config.smoothing_um
    z, y, x = (sigma / extent if extent <= sigma else 0.0 for extent in spacing)
    return (z, y, x)
