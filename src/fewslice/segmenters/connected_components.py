"""Objects are what hangs together: connected components of the foreground, of each class for itself.

Blocks link where foreground touches across their faces, so objects may have any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from fewslice.morphology.probabilities import segment_probabilities
from fewslice.segmenters import Output, Place, Regions, probability_channels, voxels_of
from fewslice.segmenters._neighbours import border_joins

cc3d: Any
try:
    cc3d = import_module("cc3d")
except ImportError:  # SciPy does the same, about three times slower
    cc3d = None

__all__ = ["Config", "channels", "halo", "label", "merging", "smallest"]

Triple = tuple[float, float, float]


class Config(BaseModel):
    """How components are found.

    Attributes
    ----------
    connectivity
        6, 18 or 26: voxels touch by faces, also by edges, also by corners. In one plane 6 means 4 neighbours and the
        others 8.
    min_size_um3
        Objects below this volume are dropped; 0 keeps all. None: 8 voxels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    connectivity: Literal[6, 18, 26] = 26
    min_size_um3: float | None = Field(None, ge=0, allow_inf_nan=False)


def channels(outputs: Sequence[Output]) -> tuple[int, ...]:
    """Return the positions of the probabilities; see :mod:`fewslice.segmenters`."""
    return probability_channels(outputs, "connected_components")


def halo(config: Config, voxel_size_um: Triple | None) -> tuple[int, int, int]:
    """One voxel, to see what touches."""
    del config, voxel_size_um
    return (1, 1, 1)


def merging(config: Config, voxel_size_um: Triple | None) -> None:
    """Nothing but what touches is one."""
    del config, voxel_size_um


def smallest(config: Config, shape: tuple[int, int, int], voxel_size_um: Triple | None) -> int:
    """Return `min_size_um3` in voxels."""
    del shape
    return voxels_of(config.min_size_um3, voxel_size_um)


def label(config: Config, values: npt.NDArray[Any], place: Place) -> Regions:
    """Label the components of one block; see :mod:`fewslice.segmenters`."""
    classes = segment_probabilities(values, place.threshold)
    labels = components(classes[place.block.crop.slices], config.connectivity)
    contacts = border_joins(labels, classes, place, config.connectivity)
    return Regions(labels, np.zeros(int(labels.max(initial=0)), np.int32), contacts)


def components(classes: npt.NDArray[np.uint8], connectivity: int) -> npt.NDArray[np.uint32]:
    """Label the connected components of every class, (z, y, x) uint8, from 1 on without gaps; 0 is background."""
    if cc3d is not None:
        # uint8, never bool: the path that cc3d 4.1 has for binary input is wrong where an extent is odd
        found = cc3d.connected_components(np.ascontiguousarray(classes), connectivity=connectivity, out_dtype=np.uint32)
        return np.asarray(found)
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    labels = np.zeros(classes.shape, dtype=np.uint32)
    total = 0
    for value in np.unique(classes[classes > 0]):
        part, count = ndimage.label(classes == value, structure=structure)
        labels[part > 0] = part[part > 0] + total
        total += count
    return labels
