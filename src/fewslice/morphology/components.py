"""Connected components of single planes, also of planes that are only seen tile by tile.

Pixels are connected to their 8 neighbours in the plane; planes are never connected with each other.

A plane that is cut into tiles is counted in three steps, so that its components keep the areas that they have in the
whole plane, whatever the tiles:

1. :meth:`TileCount.add` labels each tile. A component that stays inside its tile is complete: its area need not be
   kept. One that touches the tile's rim gets an id, and its area and the ids it touches across the border are kept.
2. :meth:`TileCount.totals` joins touching ids and sums their areas.
3. :meth:`Totals.drop` labels each tile again and decides: components at the rim by their sum, others by their own area.

For example, one row of pixels cut into tiles of four, with components of areas 2, 5 and 1 in the whole row::

    pixels    1 1 0 1 | 1 1 1 1 | 0 0 1 0
    labels    1 1   2 | 1 1 1 1 |     1
    at rim    1:0 2:1 | 1:2     |     1:3     the row is the tile's upper rim as well, so every label gets an id
    areas     2   1   | 4       |     1       of ids 0, 1, 2, 3
    touching  id 1 and id 2
    totals    2   5   | 5       |     1
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array, csgraph

from fewslice.geometry import Box

cc3d: Any
try:
    cc3d = import_module("cc3d")
except ImportError:  # SciPy does the same, about three times slower
    cc3d = None

__all__ = ["Mask", "TileCount", "Totals", "drop_plane", "label_plane"]

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_NONE = -1


def label_plane(plane: Mask) -> npt.NDArray[Any]:
    """Label the 8-connected components of one plane (y, x) from 1 on; 0 is background. Unsigned or signed integers."""
    if cc3d is not None:
        # not as bool: cc3d 4.1 has a path of its own for binary planes that labels background where an extent is odd
        return np.asarray(cc3d.connected_components(plane.view(np.uint8), connectivity=8))
    return np.asarray(ndimage.label(plane, structure=np.ones((3, 3), dtype=bool))[0])


def drop_plane(plane: Mask, min_area: int) -> Mask:
    """Return one plane (y, x) without its components of fewer than `min_area` pixels."""
    if min_area <= 1 or not plane.any():
        return plane.copy()
    labels, areas = _areas(plane)
    return _kept(plane, labels, areas >= min_area)


def _areas(plane: Mask) -> tuple[npt.NDArray[Any], Ints]:
    """Label a plane and count: labels (y, x), and the area of every label (0 for the background)."""
    labels = label_plane(plane)
    return labels, np.bincount(labels[plane], minlength=1)


def _kept(plane: Mask, labels: npt.NDArray[Any], keep: Mask) -> Mask:
    result = plane.copy()
    if not keep[1:].all():
        result[plane] = keep[labels[plane]]
    return result


def _at_rim(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """List the labels that touch the outermost rows and columns, ascending, without the background."""
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return rim[rim > 0]


@dataclass(frozen=True)
class Totals:
    """Areas, in whole planes, of the components that tiles cut.

    Attributes
    ----------
    areas
        Pixels of the whole component, one number per id.
    first
        First id of every tile (axis 0) in every plane (axis 1); the others follow by ascending label.
    """

    areas: Ints
    first: Ints

    def drop(self, tile: int, plane: int, mask: Mask, min_area: int) -> Mask:
        """Return a tile of a plane without what belongs to components of fewer than `min_area` pixels.

        Parameters
        ----------
        tile, plane, mask
            As they were given to :meth:`TileCount.begin` and :meth:`TileCount.add`.
        min_area
            Pixels in the whole plane.
        """
        if min_area <= 1 or not mask.any():
            return mask.copy()
        labels, areas = _areas(mask)
        rim = _at_rim(labels)
        start = self.first[tile, plane]
        areas[rim] = self.areas[start : start + rim.size]
        return _kept(mask, labels, areas >= min_area)


class TileCount:
    """Counts components of planes that come tile by tile.

    Memory: one row of tiles' lower rims (planes × width), and one number per component that touches a rim.

    Parameters
    ----------
    tiles
        Number of tiles.
    planes
        Number of planes.
    width
        Extent of a whole plane along x, in pixels.
    """

    def __init__(self, tiles: int, planes: int, width: int) -> None:
        self._first = np.zeros((tiles, planes), dtype=np.int64)
        self._count = 0
        self._areas: list[Ints] = []
        self._touching: list[Ints] = []
        # ids along the rims of the tiles above and to the left, and of this row and tile for those to come;
        # one more at either end, so that diagonal neighbours of the first and last pixel can be looked up
        self._rims = (planes, width + 2)
        self._above, self._below = self._blank(), self._blank()
        self._left = self._right = np.empty((planes, 0), dtype=np.int64)
        self._tile, self._at = 0, Box((0, 0), (0, 0))

    def begin(self, tile: int, at: Box) -> None:
        """Go on to the next tile. Tiles come in C order and none is left out.

        Parameters
        ----------
        tile
            Number of the tile.
        at
            Where it lies; its last two axes are y and x.
        """
        planes, height = self._rims[0], at.shape[-2]
        if at.start[-1] == 0:
            self._above, self._below = self._below, self._blank()
            self._right = np.full((planes, height + 2), _NONE, dtype=np.int64)
        self._left, self._right = self._right, np.full((planes, height + 2), _NONE, dtype=np.int64)
        self._tile, self._at = tile, at

    def add(self, plane: int, mask: Mask) -> None:
        """Count one plane of the tile, bool (y, x); planes without foreground may be left out."""
        if not mask.any():
            return
        labels, areas = _areas(mask)
        rim = _at_rim(labels)
        ids = np.full(areas.size, _NONE, dtype=np.int64)
        ids[rim] = np.arange(self._count, self._count + rim.size)
        self._first[self._tile, plane] = self._count
        self._count += rim.size
        self._areas.append(areas[rim])

        low, high = self._at.start[-1], self._at.stop[-1]
        self._touch(self._above[plane, low : high + 2], ids[labels[0]])
        self._touch(self._left[plane], ids[labels[:, 0]])
        self._below[plane, low + 1 : high + 1] = ids[labels[-1]]
        self._right[plane, 1:-1] = ids[labels[:, -1]]

    def totals(self) -> Totals:
        """Sum the areas of the components that touch across borders."""
        if not self._count:
            return Totals(np.zeros(0, dtype=np.int64), self._first)
        areas = np.concatenate(self._areas)
        pairs = np.concatenate(self._touching, axis=1) if self._touching else np.zeros((2, 0), dtype=np.int64)
        graph = coo_array((np.ones(pairs.shape[1], dtype=bool), tuple(pairs)), shape=(self._count, self._count))
        _, group = csgraph.connected_components(graph, directed=False)
        sums = np.zeros(group.max() + 1, dtype=np.int64)
        np.add.at(sums, group, areas)
        return Totals(sums[group], self._first)

    def _touch(self, neighbours: Ints, ids: Ints) -> None:
        """Note which ids lie straight or diagonally across; `neighbours` is longer by one at either end."""
        for shift in range(3):
            pairs = np.stack([neighbours[shift : shift + ids.size], ids])
            pairs = pairs[:, (pairs != _NONE).all(axis=0)]
            if pairs.size:
                self._touching.append(np.unique(pairs, axis=1))

    def _blank(self) -> Ints:
        return np.full(self._rims, _NONE, dtype=np.int64)
