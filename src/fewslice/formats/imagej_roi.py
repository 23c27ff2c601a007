r"""ImageJ and Fiji outlines: ``RoiSet.zip`` of the ROI Manager, or one ``.roi``. Read only, and only as labels.

Outlines say nothing of the extents of their image, so :func:`on_grid` paints them onto a grid that is given, in three
steps:

1. :func:`_outlines` reads the file and refuses what encloses no area (points, lines, text);
2. :func:`_plane` finds the plane of each: its position in the stack, as the ROI Manager stores it;
3. :func:`_painted` fills it. As in ImageJ, a pixel belongs to an area where its centre does; a pixel (x, y) reaches
   from its corner (x, y) to (x + 1, y + 1). What comes later in the file lies on top.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.formats import Stored

__all__ = ["DESCRIPTION", "claims", "location", "on_grid", "read"]

DESCRIPTION = "ImageJ outlines (RoiSet.zip, .roi)"

_AREAS = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")
_NOT_AREAS = ("TEXT", "ARROW", "IMAGE")
_OWN_NAME = re.compile(r"(?:(?P<plane>\d{4,5})-)?\d{4,5}-\d{4,5}(?:-\d+)?")
"""What ImageJ calls an outline that nobody named: plane-y-x or y-x."""


@dataclass(frozen=True)
class Outline:
    """An area in one plane.

    Attributes
    ----------
    name
        As in the ROI Manager.
    plane
        0-based; None if the outline has no position.
    group
        ImageJ's group, 0 for none.
    rings
        Closed polygons (n, 2) of x, y in pixels; where they overlap an even number of times is a hole.
    ellipse, corner
        For ovals and rounded rectangles, whose only ring is their bounding box: whether it is an oval, and the radius
        of the corners in pixels.
    """

    name: str
    plane: int | None
    group: int
    rings: tuple[npt.NDArray[np.float64], ...]
    ellipse: bool = False
    corner: float = 0.0


def claims(path: str) -> bool:
    """Whether the name ends as an outline's does, or it is a ZIP file of nothing but outlines."""
    if path.lower().endswith(".roi"):
        return True
    file = Path(path)
    if not path.lower().endswith(".zip") or not file.is_file() or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/")]
    return bool(names) and all(n.lower().endswith(".roi") for n in names)


def location(path: str) -> Path:
    """Return the file."""
    return Path(path)


def read(path: str) -> Stored:
    """Describe the outlines, painted onto the smallest grid that holds them; :func:`on_grid` makes labels of them.

    Raises
    ------
    InputError
        If the file is damaged or holds no area.
    """
    outlines = _outlines(path)
    groups = sorted({o.group for o in outlines})
    planes = sorted({o.plane for o in outlines if o.plane is not None})
    corners = np.concatenate([ring for o in outlines for ring in o.rings])
    x, y = (max(1, int(np.ceil(v))) for v in corners.max(axis=0))
    values = _painted(outlines, [1] * len(outlines), (max(planes, default=0) + 1, y, x), path)
    return Stored(
        values,
        "zyx",
        is_labels=True,
        details={
            "outlines": len(outlines),
            "planes": planes,
            "groups": groups,
            "names": sorted({o.name for o in outlines})[:50],
        },
    )


def on_grid(
    path: str, shape: tuple[int, int, int], kind: Literal["classes", "instances"] | None
) -> npt.NDArray[np.uint32]:
    """Paint the outlines onto the grid of their image.

    Parameters
    ----------
    path
        ``RoiSet.zip`` or ``.roi``.
    shape
        Planes, rows, columns of the image.
    kind
        ``instances``: outlines of one name are one object, numbered in the order of the file; an outline that nobody
        named is an object of its own. Otherwise the value is the outline's group, or 1 where no outline has a group.

    Returns
    -------
    ndarray
        (z, y, x) uint32, 0 where no outline is.

    Raises
    ------
    InputError
        If the file is damaged or holds what encloses no area, an outline has no plane or lies outside the image, or
        only some have a group.
    """
    outlines = _outlines(path)
    return _painted(outlines, _values(path, outlines, kind), shape, path)


# --- reading ---------------------------------------------------------------------------------------------------------


def _outlines(path: str) -> list[Outline]:
    import roifile

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = [
                    roifile.ImagejRoi.frombytes(archive.read(n)) for n in archive.namelist() if not n.endswith("/")
                ]
        else:
            found = [roifile.ImagejRoi.frombytes(Path(path).read_bytes())]
        if not found:
            raise InputError(f"{path} holds no outline; save the ROI Manager's list again")
        return [_outline(path, roi) for roi in found]
    except InputError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise InputError(f"{path} is not readable as outlines of ImageJ ({reason}); save them again") from error


def _outline(path: str, roi: Any) -> Outline:
    kind, subtype = roi.roitype.name, roi.subtype.name
    name = roi.name or roi.autoname
    if (kind not in _AREAS or subtype in _NOT_AREAS) and not roi.composite:
        what = subtype.lower() if subtype in _NOT_AREAS else kind.lower()
        raise InputError(
            f"{path} has the {what} '{name}', which encloses no area; expected areas such as polygons, "
            "freehand outlines and ovals; delete it from the ROI Manager's list and save again"
        )
    if roi.t_position > 1:
        raise InputError(f"{path}: '{name}' lies on time point {roi.t_position}; expected one time point per file")
    ellipse = kind == "OVAL" and not roi.composite
    if kind in ("RECT", "OVAL") and not roi.composite:
        rings = [_box(roi)]
    else:
        rings = [np.asarray(ring, np.float64) for ring in roi.coordinates(multi=True)]
    rings = [ring for ring in rings if len(ring) > 2]
    if not rings:
        raise InputError(f"{path}: '{name}' has fewer than three corners; delete it from the list and save again")
    corner = roi.rounded_rect_arc_size / 2 if kind == "RECT" and not roi.composite else 0.0
    return Outline(name, _plane(roi), int(roi.group), tuple(rings), ellipse, corner)


def _box(roi: Any) -> npt.NDArray[np.float64]:
    """Return the corners of a rectangle, from its fractional extents where it has them."""
    left, top, right, bottom = float(roi.left), float(roi.top), float(roi.right), float(roi.bottom)
    if roi.subpixelrect and roi.widthd > 0:
        left, top, right, bottom = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    return np.array([(left, top), (left, bottom), (right, bottom), (right, top)], np.float64)


def _plane(roi: Any) -> int | None:
    """Return the 0-based plane: of a hyperstack, else of a stack, else what an older ImageJ put into the name."""
    for position in (roi.z_position, roi.position):
        if position > 0:
            return int(position) - 1
    named = _OWN_NAME.fullmatch(roi.name)
    return int(named["plane"]) - 1 if named and named["plane"] and int(named["plane"]) > 0 else None


def _values(path: str, outlines: Sequence[Outline], kind: str | None) -> list[int]:
    """Return what each outline is filled with."""
    if kind == "instances":
        ids: dict[object, int] = {}
        keys: list[object] = [n if _OWN_NAME.fullmatch(o.name) else o.name for n, o in enumerate(outlines)]
        return [ids.setdefault(key, len(ids) + 1) for key in keys]
    without = [o.name for o in outlines if not o.group]
    if len(without) == len(outlines):
        return [1] * len(outlines)
    if without:
        raise InputError(
            f"{path} has {len(without)} outlines without a group ('{without[0]}') beside others with one; expected a "
            "group for each class; set it in Fiji with Edit > Selection > Properties, or pass --label-kind instances"
        )
    return [o.group for o in outlines]


# --- painting --------------------------------------------------------------------------------------------------------


def _painted(
    outlines: Sequence[Outline], values: Sequence[int], shape: tuple[int, int, int], path: str
) -> npt.NDArray[np.uint32]:
    result = np.zeros(shape, np.uint32)
    for outline, value in zip(outlines, values, strict=True):
        plane = 0 if outline.plane is None and shape[0] == 1 else outline.plane
        if plane is None:
            raise InputError(
                f"{path}: '{outline.name}' has no plane, and the image has {shape[0]}; in Fiji choose it in the ROI "
                "Manager, set its position with Properties, and save again"
            )
        if plane >= shape[0] or min(r.min() for r in outline.rings) < -1 or _beyond(outline, shape):
            raise InputError(
                f"{path}: '{outline.name}' on plane {plane} lies outside the image of shape {shape} (z, y, x); "
                "check that both belong together"
            )
        _fill(result[plane], outline, value)
    return result


def _beyond(outline: Outline, shape: tuple[int, int, int]) -> bool:
    """Whether it reaches out by more than a pixel, which drawing at the border does not."""
    x, y = np.concatenate(outline.rings).max(axis=0)
    return bool(x > shape[2] + 1 or y > shape[1] + 1)


def _fill(plane: npt.NDArray[np.uint32], outline: Outline, value: int) -> None:
    """Set the pixels (y, x) of a plane whose centres lie in the outline."""
    corners = np.concatenate(outline.rings)
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    rows = np.arange(max(0, int(np.floor(y0))), min(plane.shape[0], int(np.ceil(y1))))
    columns = np.arange(max(0, int(np.floor(x0))), min(plane.shape[1], int(np.ceil(x1))))
    if not rows.size or not columns.size:
        return
    y, x = rows[:, None] + 0.5, columns[None, :] + 0.5
    if outline.ellipse:
        inside = ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1
    elif outline.corner:
        radius = min(outline.corner, (x1 - x0) / 2, (y1 - y0) / 2)
        beside_x = np.maximum(np.abs(x - (x0 + x1) / 2) - ((x1 - x0) / 2 - radius), 0)
        beside_y = np.maximum(np.abs(y - (y0 + y1) / 2) - ((y1 - y0) / 2 - radius), 0)
        inside = (beside_x**2 + beside_y**2 <= radius**2) & (x > x0) & (x < x1) & (y > y0) & (y < y1)
    else:
        inside = _inside(outline.rings, rows, columns)
    plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][inside] = value


def _inside(
    rings: Sequence[npt.NDArray[np.float64]], rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Tell for the centres of pixels whether an odd number of edges lies to their left.

    Each edge toggles, on every row whose centre it crosses, all pixels whose centre lies right of the crossing.
    """
    toggles = np.zeros((rows.size, columns.size + 1), np.int64)
    for ring in rings:
        following = np.roll(ring, -1, axis=0)
        for (xa, ya), (xb, yb) in zip(ring, following, strict=True):
            low, high = sorted((ya, yb))
            crossed = rows[(rows + 0.5 >= low) & (rows + 0.5 < high)]  # half open: a corner counts once
            if not crossed.size:
                continue
            at = xa + (crossed + 0.5 - ya) * (xb - xa) / (yb - ya)
            first = np.clip(np.ceil(at - 0.5).astype(np.int64) - columns[0], 0, columns.size)
            np.add.at(toggles, (crossed - rows[0], first), 1)
    return np.asarray(np.cumsum(toggles, axis=1)[:, :-1] % 2 == 1)
