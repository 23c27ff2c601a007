"""What the page shows of one case: planes for the slider, surfaces for the scenes, figures for print.

Volumes are read plane by plane for the slider, and one box of limited size for the surfaces, so that a large volume
costs time but no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice import io
from fewslice.errors import FewsliceError
from fewslice.geometry import Box
from fewslice.report import figures
from fewslice.report.checks import Checked, check_arm
from fewslice.report.content import Case, OpenCase, open_case
from fewslice.report.objects import read_contours
from fewslice.report.palette import CLASSES, TRUTH, arm_colour
from fewslice.report.planes import (
    UNKNOWN,
    DisplayRange,
    across,
    choose_planes,
    display_range,
    image_uri,
    mask_uri,
    reduction,
    rendered,
)
from fewslice.report.scene import mesh_trace, scene_figure
from fewslice.report.surfaces import Mesh, isosurface
from fewslice.volume import Volume

__all__ = ["DrawnCase", "Limits", "draw_case"]

_FEWEST_PLANES = 4
_SIDE_PLANES = 9
_CONTRAST_PLANES = 24
_COARSEST_PIXELS = 320
_DENSE = 0.5
"""Share of the planes of the box that need truth for the truth to have a surface."""


@dataclass(frozen=True)
class Limits:
    """How much one case may put into the page.

    Attributes
    ----------
    planes
        Number of planes of the slider.
    pixels
        Longer side of an embedded plane.
    plane_characters
        Size of all embedded planes.
    faces
        Triangles of all surfaces.
    voxels
        Largest box of which surfaces are made.
    checked_voxels
        Largest part of a prediction that is checked without truth.
    """

    planes: int = 24
    pixels: int = 768
    plane_characters: int = 6_500_000
    faces: int = 180_000
    voxels: int = 96_000_000
    checked_voxels: int = 400_000_000

    def shared(self, cases: int) -> Limits:
        """Return what one of `cases` cases may use."""
        return replace(self, plane_characters=self.plane_characters // cases, faces=self.faces // cases)


@dataclass
class DrawnCase:
    """What the page needs of one case.

    Attributes
    ----------
    case
        What it is.
    problems
        Sentences about what is missing.
    browser
        Data of the plane slider, None when there is nothing to show.
    scenes
        One figure of surfaces per panel: ``{"title", "figure"}``.
    scene_note
        How the surfaces were made, and of what part.
    planes_figure, surfaces_figure
        Data URIs for print, with their alternative texts.
    truth_is_training
        What is shown as truth had trained.
    judged_while_trained
        How many of the planes with truth trained an arm, and how many planes have truth.
    checked
        Quality without truth, one per arm.
    """

    case: Case
    problems: list[str]
    browser: dict[str, Any] | None = None
    scenes: list[dict[str, Any]] = field(default_factory=list)
    scene_note: str = ""
    planes_figure: tuple[str, str] | None = None
    surfaces_figure: tuple[str, str] | None = None
    truth_is_training: bool = False
    judged_while_trained: tuple[int, int] = (0, 0)
    checked: list[Checked] = field(default_factory=list)


def draw_case(case: Case, limits: Limits, folder: Path, suffix: str = "") -> DrawnCase:
    """Open a case and draw it; print figures go into `folder` as ``planes<suffix>`` and ``isosurfaces<suffix>``."""
    opened = open_case(case)
    drawn = DrawnCase(case, list(opened.problems), truth_is_training=opened.truth_is_training)
    if opened.shape is None:
        return drawn
    if opened.truth is not None:
        judged = opened.truth.planes()
        drawn.judged_while_trained = sum(plane_role(case, z) == "trained" for z in judged), len(judged)
    drawn.browser = _browser(opened, limits)
    if drawn.browser is not None:
        drawn.planes_figure = _planes_figure(opened, drawn.browser, folder / f"planes{suffix}")
    _draw_surfaces(opened, drawn, limits, folder / f"isosurfaces{suffix}")
    drawn.checked = [check_arm(opened, index, limits.checked_voxels) for index in range(len(case.arms))]
    return drawn


# ------------------------------------------------------------------------------------------------------------- planes


def _browser(opened: OpenCase, limits: Limits) -> dict[str, Any] | None:
    """Encode the planes of the slider along z and, of volumes that are quickly read, along y and x."""
    assert opened.shape is not None
    shown = _shown(opened)
    if opened.image is None and not shown:
        return None
    arms = [opened.case.arms[i] for i in shown]
    drawn = [_outlines(opened, i) for i in shown]
    axes = [0, 1, 2] if opened.shape[0] > 1 and int(np.prod(opened.shape)) <= limits.voxels else [0]
    return {
        "name": opened.case.name,
        "views": [_view(opened, axis, limits, shown, drawn) for axis in axes],
        "classes": [str(value) for value in opened.class_values],
        "arms": [
            {"name": arm.name, "colour": arm_colour(i), "objects": bool(own), "contours": bool(own.contours)}
            for i, arm, own in zip(shown, arms, drawn, strict=True)
        ],
        "truth": opened.truth is not None,
    }


@dataclass(frozen=True)
class _Outlines:
    """How single objects of an arm are shown: as contours by plane, or as labels."""

    contours: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)
    labels: Volume | None = None

    def __bool__(self) -> bool:
        """Whether there is something to show."""
        return bool(self.contours) or self.labels is not None


def _outlines(opened: OpenCase, index: int) -> _Outlines:
    prediction = opened.case.arms[index].prediction
    contours: dict[int, list[NDArray[np.float64]]] = {}
    for contour in read_contours(prediction):
        contours.setdefault(contour.plane, []).append(contour.points)
    if contours:
        return _Outlines(contours)
    try:
        labels = io.open_labels(prediction / "labels" / "instances")
    except FewsliceError:
        return _Outlines()
    return _Outlines(labels=labels) if labels.shape == opened.shape else _Outlines()


def _view(
    opened: OpenCase, axis: int, limits: Limits, shown: Sequence[int], drawn: Sequence[_Outlines]
) -> dict[str, Any]:
    """Encode planes across an axis, coarser and then fewer until they fit."""
    assert opened.shape is not None
    shape = opened.shape
    height, width = (n for a, n in enumerate(shape) if a != axis)
    count, pixels = (limits.planes, limits.pixels) if axis == 0 else (_SIDE_PLANES, limits.pixels)
    most = limits.plane_characters if axis == 0 else limits.plane_characters // 5
    judged = opened.truth.planes(axis) if opened.truth is not None else ()
    while True:
        chosen = choose_planes(judged or range(shape[axis]), count)
        factor = reduction((height, width), pixels)
        contrast = _contrast(opened)
        planes = [_plane(opened, axis, at, factor, shown, drawn, contrast) for at in chosen]
        texts = [t for p in planes for t in (p["image"], p["truth"], *p["arms"], *p["objects"]) if t]
        if sum(len(text) for text in texts) <= most or len(planes) <= _FEWEST_PLANES:
            break
        if max(height, width) > _COARSEST_PIXELS and pixels > _COARSEST_PIXELS:
            pixels = max(_COARSEST_PIXELS, min(pixels, max(height, width)) * 2 // 3)
        else:
            count = max(_FEWEST_PLANES, len(planes) * 3 // 4)
    if axis == 0:
        _add_contours(planes, drawn, factor, most)
    voxel = opened.voxel_size_um
    rows, columns = (a for a in range(3) if a != axis)
    return {
        "axis": "zyx"[axis],
        "depth": shape[axis],
        "aspect": 1.0 if voxel is None else voxel[rows] / voxel[columns],
        "pixel_um": None if voxel is None else voxel[columns] * factor,
        "plane_um": None if voxel is None else voxel[axis],
        "factor": factor,
        "planes": planes,
    }


def _plane(
    opened: OpenCase,
    axis: int,
    at: int,
    factor: int,
    shown: Sequence[int],
    drawn: Sequence[_Outlines],
    contrast: DisplayRange | None,
) -> dict[str, Any]:
    """Encode one plane: image, truth, each arm and its objects, with the arms' Dice on it."""
    box = opened.plane(axis, at)
    image = None
    if opened.image is not None and contrast is not None:
        image = image_uri(rendered(across(_pixels(opened, box), axis + 1), contrast, factor))
    truth = opened.truth_plane(axis, at)
    classes = [across(opened.classes(i, box), axis) for i in shown]
    ids = [None if own.labels is None or axis else across(own.labels.read(box)[0], axis) for own in drawn]
    return {
        "at": at,
        "role": plane_role(opened.case, at) if axis == 0 else "",
        "image": image,
        "truth": None if truth is None else mask_uri(np.where(truth[1], truth[0], UNKNOWN).astype(np.uint8), factor),
        "arms": [mask_uri(mask, factor) for mask in classes],
        "objects": [None if own is None else mask_uri(_by_colour(own), factor) for own in ids],
        "contours": [[] for _ in shown],
        "dice": [None if truth is None else _dice(mask > 0, truth[0] > 0, truth[1]) for mask in classes],
    }


def _by_colour(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """Fold ids into one byte such that neighbouring numbers differ; 0 stays 0."""
    folded: NDArray[np.uint8] = np.where(ids > 0, 1 + ids.astype(np.uint64) * 37 % 251, 0).astype(np.uint8)
    return folded


def _add_contours(
    planes: Sequence[dict[str, Any]], drawn: Sequence[_Outlines], factor: int, most_characters: int
) -> None:
    """Put the contours of the shown planes in: flat lists x, y, x, y, … in tenths of a shown pixel, at most so many."""
    total = sum(len(own.contours.get(plane["at"], ())) for plane in planes for own in drawn)
    if not total:
        return
    points = int(np.clip(most_characters // (2 * 6 * total), 8, 48))
    left = most_characters // (2 * 6 * points)
    for plane in planes:
        for index, own in enumerate(drawn):
            contours = own.contours.get(plane["at"], [])[:left]
            left -= len(contours)
            plane["contours"][index] = [_flat_contour(contour, points, factor) for contour in contours]


def _flat_contour(contour: NDArray[np.float64], points: int, factor: int) -> list[int]:
    taken = contour[np.unique(np.linspace(0, len(contour), min(points, len(contour)), endpoint=False).astype(int))]
    # an integer is the centre of a pixel; the page's canvas begins at the edge of the first
    return [int(v) for v in np.rint((taken[:, ::-1] + 0.5) / factor * 10).ravel()]


def _contrast(opened: OpenCase) -> DisplayRange | None:
    """Choose one range for all planes of a case, from planes spread along z."""
    if opened.image is None:
        return None
    return display_range(opened.image, choose_planes(range(opened.image.shape[0]), _CONTRAST_PLANES), _channels(opened))


def _pixels(opened: OpenCase, box: Box) -> NDArray[Any]:
    """Read the channels that are shown, (c, z, y, x)."""
    assert opened.image is not None
    return opened.image.read(box, _channels(opened))


def plane_role(case: Case, z: int) -> str:
    """Say what plane z was to the training of the arms: ``trained``, ``held_out`` or nothing."""
    for arm in case.arms:
        for sample in arm.run.samples if arm.run is not None else ():
            if Path(sample.image).resolve() == Path(case.image).resolve():
                if z in sample.trained:
                    return "trained"
                if z in sample.held_out:
                    return "held_out"
    return ""


def _dice(found: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_]) -> float | None:
    total = int((found & known).sum()) + int((true & known).sum())
    return None if total == 0 else round(2 * int((found & true & known).sum()) / total, 4)


def _shown(opened: OpenCase) -> list[int]:
    return [i for i, segmentation in enumerate(opened.segmentations) if segmentation is not None]


def _channels(opened: OpenCase) -> range:
    return range(min(3, opened.image.channels if opened.image is not None else 0))


def _planes_figure(opened: OpenCase, browser: dict[str, Any], path: Path) -> tuple[str, str] | None:
    """Draw the plane with most foreground for print, and return it small enough to be embedded."""
    contrast = _contrast(opened)
    if opened.image is None or contrast is None:
        return None
    shown = _shown(opened)
    zs = [int(plane["at"]) for plane in browser["views"][0]["planes"]]
    truths = {z: opened.truth_plane(0, z) for z in zs}

    def foreground(z: int) -> int:
        truth = truths[z]
        if truth is not None:
            return int((truth[0] > 0).sum())
        return int((opened.classes(shown[0], opened.plane(0, z)) > 0).sum()) if shown else 0

    z = max(zs, key=foreground)
    one = opened.plane(0, z)
    truth = truths[z]
    voxel = opened.voxel_size_um
    written = figures.overlay_panel(
        rendered(_pixels(opened, one)[:, 0], contrast, 1),
        None if truth is None else truth[0] > 0,
        {opened.case.arms[i].name: opened.classes(i, one)[0] > 0 for i in shown},
        path,
        annotated=None if truth is None else truth[1],
        pixel_size_um=(1.0, 1.0) if voxel is None else voxel[1:],
        display_range=(0, 255),
        unit="voxels" if voxel is None else "µm",
    )
    names = ", ".join(opened.case.arms[i].name for i in shown)
    has_truth = "" if truth is None else "truth and "
    return figures.embedded(written[0]), f"Plane {z} of {opened.case.name}: image, {has_truth}{names}"


# ----------------------------------------------------------------------------------------------------------- surfaces


def _draw_surfaces(opened: OpenCase, drawn: DrawnCase, limits: Limits, path: Path) -> None:
    """Make one scene per panel (truth, then the arms), all of the same box, and a figure for print."""
    assert opened.shape is not None
    if opened.shape[0] < 3:
        return
    shown = _shown(opened)
    box = _box(opened, limits.voxels)
    notes = []
    if box.shape != opened.shape:
        notes.append(
            "Shown is the box of "
            + " × ".join(str(n) for n in box.shape)
            + f" voxels in the middle of the {' × '.join(str(n) for n in opened.shape)}."
        )
    panels: list[tuple[str, str, NDArray[np.uint8]]] = []
    truth = opened.truth
    if truth is not None:
        known: NDArray[np.bool_] = np.any(truth.annotated[box.slices], axis=(1, 2))
        if known.mean() >= _DENSE and known[known.argmax() : len(known) - known[::-1].argmax()].all():
            part = type(truth)(
                truth.labels[box.slices], truth.annotated[box.slices], truth.kind, truth.class_values, truth.class_by_id
            )
            panels.append(("truth", TRUTH, part.classes * truth.annotated[box.slices]))
        else:
            notes.append("The truth covers single planes, so it has no surface to show.")
    for i in shown:
        panels.append((opened.case.arms[i].name, arm_colour(i), opened.classes(i, box)))
    if not panels:
        return
    voxel = opened.voxel_size_um or (1.0, 1.0, 1.0)
    unit = "voxels" if opened.voxel_size_um is None else "µm"
    several = len(opened.class_values) > 1
    share = max(2_000, limits.faces // (len(panels) * max(1, len(opened.class_values))))
    whole: list[Mesh] = []
    for title, colour, classes in panels:
        traces = []
        for k, value in enumerate(opened.class_values, start=1):
            mesh = isosurface(classes == k if several else classes > 0, voxel, max_faces=min(60_000, share))
            if len(mesh.faces):
                traces.append(
                    mesh_trace(mesh, CLASSES[(k - 1) % len(CLASSES)] if several else colour, f"class {value}")
                )
            if not several:
                whole.append(mesh)
        if several:
            whole.append(isosurface(classes > 0, voxel, max_faces=60_000))
        extent = (box.shape[0] * voxel[0], box.shape[1] * voxel[1], box.shape[2] * voxel[2])
        drawn.scenes.append(
            {"title": title, "empty": not traces, "figure": scene_figure(traces, extent, unit), "colour": colour}
        )
    notes.append("Truth and arms went through the same smoothing, which keeps volume and removes the steps of voxels.")
    if several:
        names = ", ".join(f"class {value}" for value in opened.class_values)
        notes.append(f"Each class has its colour ({names}).")
    drawn.scene_note = " ".join(notes)
    titles = [title for title, _, _ in panels]
    written = figures.isosurface_panel(
        whole, voxel, titles, path, colours=[colour for _, colour, _ in panels], unit=unit
    )
    drawn.surfaces_figure = (
        figures.embedded(written[0]),
        f"Isosurfaces of {', '.join(titles)} in {opened.case.name}, side by side from one viewpoint",
    )


def _box(opened: OpenCase, most_voxels: int) -> Box:
    """Return the whole volume, or a box in its middle that is cut along its longest physical axis first."""
    assert opened.shape is not None
    voxel = opened.voxel_size_um or (1.0, 1.0, 1.0)
    extent = list(opened.shape)
    while int(np.prod(extent, dtype=np.int64)) > most_voxels:
        axis = int(np.argmax([n * size for n, size in zip(extent, voxel, strict=True)]))
        extent[axis] = max(1, extent[axis] * 3 // 4)
    start = tuple((n - e) // 2 for n, e in zip(opened.shape, extent, strict=True))
    return Box(start, tuple(s + e for s, e in zip(start, extent, strict=True)))
