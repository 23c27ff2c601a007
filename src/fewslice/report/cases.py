"""What the page shows of one case: planes for the slider, surfaces for the scenes, figures for print.

Volumes are read plane by plane for the slider, and one box of limited size for the surfaces, so that a large volume
costs time but no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice.geometry import Box
from fewslice.report import figures
from fewslice.report.content import Case, OpenCase, open_case
from fewslice.report.palette import CLASSES, TRUTH, arm_colour
from fewslice.report.planes import (
    UNKNOWN,
    DisplayRange,
    choose_planes,
    display_range,
    image_uri,
    mask_uri,
    reduction,
    rendered,
)
from fewslice.report.scene import mesh_trace, scene_figure
from fewslice.report.surfaces import Mesh, isosurface

__all__ = ["DrawnCase", "Limits", "draw_case"]

_FEWEST_PLANES = 4
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
    """

    planes: int = 24
    pixels: int = 768
    plane_characters: int = 6_500_000
    faces: int = 180_000
    voxels: int = 96_000_000

    def shared(self, cases: int) -> Limits:
        """Return what one of `cases` cases may use."""
        return Limits(self.planes, self.pixels, self.plane_characters // cases, self.faces // cases, self.voxels)


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
    return drawn


# ------------------------------------------------------------------------------------------------------------- planes


def _browser(opened: OpenCase, limits: Limits) -> dict[str, Any] | None:
    """Encode the planes of the slider, coarser and then fewer until they fit."""
    assert opened.shape is not None
    depth, height, width = opened.shape
    shown = _shown(opened)
    if opened.image is None and not shown:
        return None
    candidates = opened.truth.planes() if opened.truth is not None else range(depth)
    count, pixels = limits.planes, limits.pixels
    while True:
        chosen = choose_planes(candidates or range(depth), count)
        factor = reduction((height, width), pixels)
        contrast = None if opened.image is None else display_range(opened.image, chosen, _channels(opened))
        planes = [_plane(opened, z, factor, shown, contrast) for z in chosen]
        size = sum(len(text) for plane in planes for text in (plane["image"], plane["truth"], *plane["arms"]) if text)
        if size <= limits.plane_characters or len(planes) <= _FEWEST_PLANES:
            break
        if max(height, width) > _COARSEST_PIXELS and pixels > _COARSEST_PIXELS:
            pixels = max(_COARSEST_PIXELS, min(pixels, max(height, width)) * 2 // 3)
        else:
            count = max(_FEWEST_PLANES, len(planes) * 3 // 4)
    voxel = opened.voxel_size_um
    return {
        "name": opened.case.name,
        "depth": depth,
        "aspect": 1.0 if voxel is None else voxel[1] / voxel[2],
        "pixel_um": None if voxel is None else voxel[2] * factor,
        "plane_um": None if voxel is None else voxel[0],
        "factor": factor,
        "planes": planes,
        "classes": [str(value) for value in opened.class_values],
        "arms": [{"name": opened.case.arms[i].name, "colour": arm_colour(i)} for i in shown],
        "truth": opened.truth is not None,
    }


def _plane(
    opened: OpenCase, z: int, factor: int, shown: Sequence[int], contrast: DisplayRange | None
) -> dict[str, Any]:
    """Encode one plane: image, truth and each arm, with the arms' Dice on it."""
    one = slice(z, z + 1)
    image = None
    if opened.image is not None and contrast is not None:
        pixels = np.concatenate([opened.image.array[(slice(c, c + 1), one)][:, 0] for c in _channels(opened)])
        image = image_uri(rendered(pixels, contrast, factor))
    truth = opened.truth_plane(z)
    classes = [opened.classes(i, one)[0] for i in shown]
    return {
        "z": z,
        "role": plane_role(opened.case, z),
        "image": image,
        "truth": None if truth is None else mask_uri(np.where(truth[1], truth[0], UNKNOWN).astype(np.uint8), factor),
        "arms": [mask_uri(mask, factor) for mask in classes],
        "dice": [None if truth is None else _dice(mask > 0, truth[0] > 0, truth[1]) for mask in classes],
    }


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
    if opened.image is None:
        return None
    shown = _shown(opened)
    zs = [int(plane["z"]) for plane in browser["planes"]]
    truths = {z: opened.truth_plane(z) for z in zs}

    def foreground(z: int) -> int:
        truth = truths[z]
        if truth is not None:
            return int((truth[0] > 0).sum())
        return int((opened.classes(shown[0], slice(z, z + 1)) > 0).sum()) if shown else 0

    z = max(zs, key=foreground)
    contrast = display_range(opened.image, zs, _channels(opened))
    one = slice(z, z + 1)
    pixels = np.concatenate([opened.image.array[(slice(c, c + 1), one)][:, 0] for c in _channels(opened)])
    truth = truths[z]
    voxel = opened.voxel_size_um
    written = figures.overlay_panel(
        rendered(pixels, contrast, 1),
        None if truth is None else truth[0] > 0,
        {opened.case.arms[i].name: opened.classes(i, one)[0] > 0 for i in shown},
        path,
        annotated=None if truth is None else truth[1],
        pixel_size_um=(1.0, 1.0) if voxel is None else voxel[1:],
        display_range=(0, 255),
        unit="voxels" if voxel is None else "µm",
    )
    names = ", ".join(opened.case.arms[i].name for i in shown)
    return figures.embedded(written[0]), f"Plane {z} of {opened.case.name}: image, truth and {names}"


# ----------------------------------------------------------------------------------------------------------- surfaces


def _draw_surfaces(opened: OpenCase, drawn: DrawnCase, limits: Limits, path: Path) -> None:
    """Make one scene per panel (truth, then the arms), all of the same box, and a figure for print."""
    assert opened.shape is not None
    if opened.shape[0] < 3:
        drawn.scene_note = f"{opened.case.name} has {opened.shape[0]} plane(s): too few for a surface."
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
        rows, columns = box.slices[1:]
        panels.append(
            (
                opened.case.arms[i].name,
                arm_colour(i),
                np.ascontiguousarray(opened.classes(i, box.slices[0])[:, rows, columns]),
            )
        )
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
