"""Print-quality figures, drawn with matplotlib's objects: no window, no global state.

Every function writes ``path`` when it ends in ``.png``, ``.pdf`` or ``.svg``, and both a PNG (300 dpi) and a PDF beside
each other when it has no such suffix; it returns what it wrote. The same input gives the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image

from fewslice.errors import InputError
from fewslice.files import write_atomic
from fewslice.report.palette import AGREEMENT, TRUTH, arm_colour
from fewslice.report.surfaces import Mesh, isosurface

__all__ = [
    "Curve",
    "confusion_panel",
    "curves",
    "distributions",
    "embedded",
    "isosurface_panel",
    "overlay_panel",
    "training_curves",
]

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "fewslice",
    "hatch.linewidth": 0.7,
}
_MARKERS = "osD^vP"
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
_SUFFIXES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Curve:
    """One line of :func:`curves`.

    Attributes
    ----------
    name
        Its legend.
    x, y
        Points, in any order; None in ``y`` is left out.
    low, high
        The interval around each y, or None.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None


def curves(
    series: Sequence[Curve],
    path: Path,
    *,
    x_label: str = "annotated planes per volume",
    y_label: str = "Dice",
    title: str = "",
    x_log2: bool = False,
    reference: Mapping[str, float] | None = None,
    size_inches: tuple[float, float] = (3.5, 2.6),
) -> list[Path]:
    """Draw a number against a setting for each arm, with its interval as a band.

    Parameters
    ----------
    series
        One curve per arm; colours and markers follow the order.
    path
        Where to write; see the module.
    x_label, y_label, title
        Text, with units.
    x_log2
        Logarithmic x axis with ticks at the given x values, for 1, 2, 4, 8 planes.
    reference
        Horizontal dashed lines by name, such as a second annotator's Dice.
    size_inches
        Width and height; 3.5 inches is one column of a journal.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    InputError
        If there is no curve, or the lists of one differ in length.
    """
    if not series:
        raise InputError("there is no curve to draw; pass at least one")
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(size_inches)
        for index, curve in enumerate(series):
            lengths = {len(part) for part in (curve.x, curve.y, curve.low, curve.high) if part is not None}
            if len(lengths) != 1:
                raise InputError(f"curve {curve.name!r} has lists of lengths {sorted(lengths)}; expected equal lengths")
            order = np.argsort(np.asarray(curve.x, dtype=float), kind="stable")
            x, y = _numbers(curve.x)[order], _numbers(curve.y)[order]
            colour = arm_colour(index)
            axes.plot(x, y, color=colour, marker=_MARKERS[index % len(_MARKERS)], markersize=4, label=curve.name)
            if curve.low is not None and curve.high is not None:
                low, high = _numbers(curve.low)[order], _numbers(curve.high)[order]
                axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        for name, value in (reference or {}).items():
            axes.axhline(value, color="#6b7280", linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                name,
                (1, value),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=7,
                color="#6b7280",
            )
        if x_log2:
            ticks = sorted({float(v) for curve in series for v in curve.x})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_title(title, loc="left")
        axes.legend(loc="best")
        return _save(figure, path)


def distributions(
    series: Mapping[str, tuple[NDArray[np.float64], str]],
    path: Path,
    *,
    x_label: str,
    bins: int = 24,
    size_inches: tuple[float, float] = (3.5, 2.6),
) -> list[Path]:
    """Draw how positive values are distributed, one step curve per series, all on the same logarithmic bins.

    Parameters
    ----------
    series
        Name → values, and the colour as ``#rrggbb``.
    path
        Where to write; see the module.
    x_label
        What the values are, with the unit.
    bins
        Number of bins.
    size_inches
        Width and height.
    """
    values = np.concatenate([v for v, _ in series.values()]) if series else np.zeros(0)
    values = values[values > 0]
    if not len(values):
        raise InputError("there is no positive value to draw the distribution of; measure objects first")
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low * 0.97, high * 1.03, bins + 1)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(size_inches)
        for index, (name, (own, colour)) in enumerate(series.items()):
            counts = np.histogram(own, edges)[0]
            style = _DASHES[index % len(_DASHES)]
            axes.stairs(counts, edges, color=colour, linewidth=1.4, label=name, linestyle=style)
            axes.stairs(counts, edges, color=colour, alpha=0.16, fill=True)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel(x_label)
        axes.set_ylabel("objects")
        if len(series) > 1:
            axes.legend(loc="best")
        return _save(figure, path)


def training_curves(stages: Mapping[str, Mapping[str, Any]], path: Path) -> list[Path]:
    """Draw loss and validation score of each stage.

    Parameters
    ----------
    stages
        Stage name → ``{"loss": [(step, value), …], "validation": [(step, score), …]}``, and as ``"measure"`` what the
        score is (Dice).
    path
        Where to write; see the module.
    """
    if not stages:
        raise InputError("there is no stage to draw; train first")
    with mpl.rc_context(_STYLE):
        figure = _canvas((3.5 * len(stages), 2.5))
        for index, (name, lines) in enumerate(stages.items()):
            axes = figure.add_subplot(1, len(stages), index + 1)
            loss = np.asarray(lines.get("loss", ()), dtype=float).reshape(-1, 2)
            score = np.asarray(lines.get("validation", ()), dtype=float).reshape(-1, 2)
            axes.plot(loss[:, 0], loss[:, 1], color=arm_colour(0), linewidth=1.1)
            axes.set_xlabel("step")
            axes.set_ylabel("loss", color=arm_colour(0))
            axes.set_ylim(bottom=0)
            axes.set_title(name, loc="left")
            if len(score):
                twin = axes.twinx()
                twin.grid(visible=False)
                twin.spines["right"].set_visible(True)
                twin.plot(score[:, 0], score[:, 1], color=arm_colour(5), marker="o", markersize=3)
                measure = str(lines.get("measure", "Dice"))
                twin.set_ylabel(f"validation {measure}", color=arm_colour(5))
                twin.set_ylim(0, 1 if measure in ("Dice", "F1") else None)
        return _save(figure, path)


def confusion_panel(
    matrices: Mapping[str, NDArray[Any] | Sequence[Sequence[float]]], names: Sequence[str], path: Path
) -> list[Path]:
    """Draw one confusion matrix per arm: counts, and per cent of the row as shade.

    Parameters
    ----------
    matrices
        Arm → (k, k) counts, rows truth, columns prediction.
    names
        The k classes, background first.
    path
        Where to write; see the module.
    """
    if not matrices:
        raise InputError("there is no confusion matrix to draw; evaluate first")
    k = len(names)
    with mpl.rc_context(_STYLE):
        figure = _canvas(((0.75 * k + 1.1) * len(matrices), 0.62 * k + 0.95))
        for index, (arm, matrix) in enumerate(matrices.items()):
            counts = np.asarray(matrix, dtype=float)
            share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes = figure.add_subplot(1, len(matrices), index + 1)
            axes.grid(visible=False)
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for row in range(k):
                for column in range(k):
                    axes.text(
                        column,
                        row,
                        f"{100 * share[row, column]:.1f} %\n{counts[row, column]:,.0f}".replace(",", "\u202f"),
                        ha="center",
                        va="center",
                        fontsize=6.5,
                        color="white" if share[row, column] > 0.55 else "black",
                    )
            axes.set_xticks(range(k), names)
            axes.set_yticks(range(k), names if index == 0 else [""] * k, rotation=90, va="center")
            axes.set_xlabel("predicted")
            if index == 0:
                axes.set_ylabel("truth")
            axes.set_title(arm, loc="left", fontsize=7.5)
        return _save(figure, path)


def overlay_panel(
    image: NDArray[Any],
    truth: NDArray[np.bool_] | None,
    arms: Mapping[str, NDArray[np.bool_]],
    path: Path,
    *,
    annotated: NDArray[np.bool_] | None = None,
    pixel_size_um: tuple[float, float] = (1.0, 1.0),
    display_range: tuple[float, float] | None = None,
    unit: str = "µm",
) -> list[Path]:
    """Draw one plane: the image, the truth, and where each arm agrees and disagrees.

    Parameters
    ----------
    image
        (y, x) intensities, or (y, x, 3) uint8 colours.
    truth
        (y, x) bool, or None: then the arms are shown without a judgement.
    arms
        Name → (y, x) bool.
    path
        Where to write; see the module.
    annotated
        (y, x) bool, where truth is known; elsewhere an arm is neither right nor wrong.
    pixel_size_um
        (y, x) in µm, for the aspect and the scale bar.
    display_range
        Intensities shown as black and white; by default the 0.5th and 99.5th percentile.
    unit
        Unit of the scale bar; ``voxels`` where the voxel size is unknown.
    """
    shape = image.shape[:2]
    for name, mask in [("truth", truth), *arms.items()]:
        if mask is not None and mask.shape != shape:
            raise InputError(f"{name} has shape {mask.shape}, the image {shape}; expected the same plane of both")
    columns = 1 + (truth is not None) + len(arms)
    height_over_width = shape[0] * pixel_size_um[0] / (shape[1] * pixel_size_um[1])
    width = min(2.2, 9.0 / columns)
    known = np.ones(shape, dtype=bool) if annotated is None else annotated
    with mpl.rc_context(_STYLE):
        figure = _canvas((width * columns, width * height_over_width + 0.5))
        panels: list[tuple[str, NDArray[np.bool_] | None]] = [("image", None)]
        if truth is not None:
            panels.append(("truth", truth & known))
        panels += list(arms.items())
        for index, (name, mask) in enumerate(panels):
            axes = figure.add_subplot(1, columns, index + 1)
            _show_plane(axes, image if mask is None else _grey(image), display_range, pixel_size_um)
            axes.set_title(name, fontsize=7.5, loc="left")
            if name == "truth" or (mask is not None and truth is None):
                _fill(axes, mask, "#f2c14e", "")
            elif mask is not None and truth is not None:
                _fill(axes, mask & truth & known, AGREEMENT["tp"], "")
                _fill(axes, ~mask & truth & known, AGREEMENT["fn"], "//////")
                _fill(axes, mask & ~truth & known, AGREEMENT["fp"], "......")
            if index == 0:
                _scale_bar(axes, shape[1] * pixel_size_um[1], unit)
        if truth is not None and arms:
            handles = [
                Patch(facecolor=AGREEMENT["tp"], label="found"),
                Patch(facecolor=AGREEMENT["fn"], hatch="//////", edgecolor="white", linewidth=0, label="missed"),
                Patch(facecolor=AGREEMENT["fp"], hatch="......", edgecolor="white", linewidth=0, label="false alarm"),
            ]
            figure.legend(handles=handles, loc="outside lower right", ncols=3)
        return _save(figure, path)


def isosurface_panel(
    volumes: Sequence[NDArray[Any] | Mesh],
    voxel_size_um: tuple[float, float, float],
    titles: Sequence[str],
    path: Path,
    *,
    level: float = 0.5,
    colours: Sequence[str] | None = None,
    azimuth_degrees: float = -52.0,
    elevation_degrees: float = 28.0,
    max_faces: int = 40_000,
    unit: str = "µm",
) -> list[Path]:
    """Draw isosurfaces side by side from one viewpoint, as in figure 3 of Castelli et al. 2020.

    Parameters
    ----------
    volumes
        (z, y, x) masks or probabilities, or surfaces made before.
    voxel_size_um
        (z, y, x) in µm.
    titles
        One per volume.
    path
        Where to write; see the module.
    level
        Value of the surface.
    colours
        One per volume; by default grey for the first (truth), then the arms' colours.
    azimuth_degrees, elevation_degrees
        Viewpoint, around the z axis and above the plane.
    max_faces
        Limit of each surface.
    unit
        Unit of the scale bar; ``voxels`` where the voxel size is unknown.
    """
    if not volumes or len(volumes) != len(titles):
        raise InputError(f"{len(volumes)} volumes and {len(titles)} titles were given; expected one title per volume")
    meshes = [
        volume if isinstance(volume, Mesh) else isosurface(volume, voxel_size_um, level=level, max_faces=max_faces)
        for volume in volumes
    ]
    shades = list(colours or [TRUTH, *(arm_colour(i) for i in range(len(meshes) - 1))])
    width = min(2.4, 9.5 / len(meshes))
    with mpl.rc_context(_STYLE):
        rotation = _view(azimuth_degrees, elevation_degrees)
        tallest = max(float(high / wide) for wide, high in (np.ptp(_corners(m, rotation), axis=0) for m in meshes))
        figure = _canvas((width * len(meshes), width * min(tallest, 1.6) + 0.25))
        for index, (mesh, title, shade) in enumerate(zip(meshes, titles, shades, strict=True)):
            axes = figure.add_subplot(1, len(meshes), index + 1)
            _draw_mesh(axes, mesh, rotation, shade)
            axes.set_title(title, fontsize=7.5, loc="left")
            if index == 0:
                span = float(np.ptp(np.asarray(axes.get_xlim())))
                _scale_bar(axes, span, unit, dark=True)
        return _save(figure, path)


def embedded(path: Path, width: int = 1600) -> str:
    """Return a written PNG as a WebP data URI of at most `width` pixels, for a page."""
    with Image.open(path) as stored:
        picture = stored.convert("RGB")
    picture.thumbnail((width, width))
    stream = BytesIO()
    picture.save(stream, format="webp", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _view(azimuth: float, elevation: float) -> NDArray[np.float64]:
    """Rotation from (x, −y, −z), z deeper, to (right, up, towards the viewer)."""
    a, e = np.radians(azimuth), np.radians(elevation)
    towards = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    return np.stack([right, np.cross(towards, right), towards])


def _corners(mesh: Mesh, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the corners of the volume are seen: (8, 2), right and up, corner i having the bits of x, y and z."""
    z, y, x = mesh.extent_um
    corners = np.array([(a, b, c) for c in (0, -z) for b in (0, -y) for a in (0, x)], dtype=float)
    seen: NDArray[np.float64] = (corners @ rotation.T)[:, :2]
    return seen


def _draw_mesh(axes: Axes, mesh: Mesh, rotation: NDArray[np.float64], colour: str) -> None:
    """Paint the faces that look at the viewer, far ones first, and the edges of the volume behind them."""
    corners = _corners(mesh, rotation)
    pairs = [(i, j) for i in range(8) for j in range(i) if (i ^ j) in (1, 2, 4)]
    axes.add_collection(LineCollection([corners[[i, j]] for i, j in pairs], colors="#c3c7cf", linewidths=0.6))
    low, high = corners.min(axis=0), corners.max(axis=0)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    axes.set_axis_off()
    if not len(mesh.faces):
        middle = (low + high) / 2
        axes.text(
            float(middle[0]), float(middle[1]), "nothing found", ha="center", va="center", color="#6b7280", fontsize=7.5
        )
        return
    points = (mesh.vertices[:, ::-1] * (1, -1, -1)) @ rotation.T
    triangles = points[mesh.faces[:, ::-1]]  # z, y, x → x, y, z mirrors, so the winding is turned as well
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    seen = normals[:, 2] > 0
    triangles, normals = triangles[seen], normals[seen]
    order = np.argsort(triangles[:, :, 2].mean(axis=1), kind="stable")
    light = np.array([-0.35, 0.55, 0.76])
    brightness = 0.38 + 0.62 * np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    shaded = np.clip(np.asarray(to_rgb(colour)) * brightness[:, None] * 1.12, 0, 1)[order]
    # one array is drawn much faster than a list of triangles, but matplotlib's types do not name it
    faces = PolyCollection(
        np.ascontiguousarray(triangles[order, :, :2]),  # type: ignore[arg-type]
        facecolors=shaded,
        edgecolors=shaded,
        linewidths=0.15,
        rasterized=True,
    )
    axes.add_collection(faces)


def _grey(image: NDArray[Any]) -> NDArray[Any]:
    """Take the colour out of an image, so that the overlay's colours are the only ones."""
    return image if image.ndim == 2 else (image @ np.array([0.299, 0.587, 0.114])).astype(image.dtype)


def _show_plane(
    axes: Axes, image: NDArray[Any], display_range: tuple[float, float] | None, pixel_size_um: tuple[float, float]
) -> None:
    height, width = image.shape[0] * pixel_size_um[0], image.shape[1] * pixel_size_um[1]
    if image.ndim == 2:
        low, high = display_range if display_range is not None else np.percentile(image, (0.5, 99.5))
        limits = {"cmap": "gray", "vmin": float(low), "vmax": max(float(high), float(low) + 1e-9)}
    else:
        limits = {}
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest", **limits)  # type: ignore[arg-type]
    axes.set_axis_off()


def _fill(axes: Axes, mask: NDArray[np.bool_] | None, colour: str, hatch: str) -> None:
    """Fill a mask with a translucent colour, an outline and a hatch."""
    if mask is None or not mask.any():
        return
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    dy, dx = abs(bottom - top) / mask.shape[0], abs(right - left) / mask.shape[1]
    padded = np.pad(mask, 1).astype(float)
    x = (np.arange(padded.shape[1]) - 0.5) * dx
    y = (np.arange(padded.shape[0]) - 0.5) * dy
    axes.contourf(x, y, padded, levels=[0.5, 1.5], colors=[colour], alpha=0.45, hatches=[hatch or None])
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=0.8)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _scale_bar(axes: Axes, width: float, unit: str, *, dark: bool = False) -> None:
    """Draw a bar of a round length, near a quarter of the width."""
    exponent = 10.0 ** np.floor(np.log10(width / 4))
    length = max(step * exponent for step in (1, 2, 5) if step * exponent <= width / 4)
    colour = "#374151" if dark else "white"
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = left + 0.04 * (right - left), bottom + (0.0 if dark else 0.05) * (top - bottom)
    axes.plot([x, x + length], [y, y], color=colour, linewidth=2, solid_capstyle="butt", clip_on=False)
    axes.annotate(
        f"{length:g} {unit}", (x, y), xytext=(0, 3), textcoords="offset points", color=colour, fontsize=6.5, va="bottom"
    )


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.asarray([np.nan if v is None else v for v in values], dtype=float)


def _canvas(size_inches: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size_inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure(size_inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = _canvas(size_inches)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure in the format of `path`, or as PNG and PDF; the bytes hold no date."""
    paths = [path] if path.suffix in _SUFFIXES else [path.with_name(path.name + suffix) for suffix in (".png", ".pdf")]
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Creator": "fewslice", "Producer": "matplotlib"},
        ".svg": {"Date": None, "Creator": "fewslice"},
    }
    for target in paths:
        stream = BytesIO()
        figure.savefig(stream, format=target.suffix[1:], dpi=300, metadata=metadata[target.suffix])
        figure.set_layout_engine("none")  # the second file takes over the first one's layout
        write_atomic(target, stream.getvalue())
    return paths
