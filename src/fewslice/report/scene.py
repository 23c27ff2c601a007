"""Rotating isosurfaces and training curves, as plain plotly figures: dictionaries that the page hands to plotly.js."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice.report.content import StageSummary
from fewslice.report.surfaces import Mesh

__all__ = ["mesh_trace", "scene_figure", "training_figure"]

_MOST_POINTS = 500


def mesh_trace(mesh: Mesh, colour: str, name: str) -> dict[str, Any]:
    """Return a ``mesh3d`` trace in µm: x to the right, y down and z deeper, as in the image.

    y and z are stored with their sign turned, which is a rotation, so nothing is mirrored; plotly's own way, axes with
    a reversed range, lights the surfaces from the wrong side.
    """
    faces = mesh.faces[:, ::-1]  # the order z, y, x → x, y, z mirrors, so the winding is turned as well
    index_type = np.dtype("<u2") if len(mesh.vertices) <= 0xFFFF else np.dtype("<u4")
    z, y, x = mesh.vertices.T if len(mesh.vertices) else np.zeros((3, 0), np.float32)
    return {
        "type": "mesh3d",
        "name": name,
        **{axis: _packed(values, np.dtype("<f4")) for axis, values in (("x", x), ("y", -y), ("z", -z))},
        **{key: _packed(faces[:, k], index_type) for k, key in enumerate("ijk")},
        "color": colour,
        "flatshading": False,
        "hoverinfo": "skip",
        "lighting": {"ambient": 0.45, "diffuse": 0.8, "specular": 0.18, "roughness": 0.55, "fresnel": 0.08},
        "lightposition": {"x": -200, "y": 300, "z": -1},  # in the picture's own frame: left, above, in front
    }


def scene_figure(
    traces: Sequence[dict[str, Any]], extent_um: tuple[float, float, float], unit: str = "µm"
) -> dict[str, Any]:
    """Return a figure of one scene whose axes span the whole volume, so that every arm has the same frame.

    Parameters
    ----------
    traces
        From :func:`mesh_trace`.
    extent_um
        (z, y, x) size of the volume.
    unit
        Unit of the axes; ``voxels`` where the voxel size is unknown.
    """
    z, y, x = extent_um

    def axis(name: str, size: float, sign: int) -> dict[str, Any]:
        ticks = _ticks(size, 5 if size > 0.3 * max(extent_um) else 2)
        return {
            "title": {"text": f"{name} ({unit})"},
            "range": sorted((0.0, sign * size)),
            "autorange": False,
            "tickvals": [sign * tick for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
            "showbackground": False,
            "showspikes": False,
            "zeroline": False,
            "mirror": True,
            "showline": True,
        }

    diagonal = sum(size**2 for size in extent_um) ** 0.5 / 1.65  # flat volumes fill the view as cubes do
    scene = {
        "xaxis": axis("x", x, 1),
        "yaxis": axis("y", y, -1),
        "zaxis": axis("z", z, -1),
        "aspectmode": "manual",
        "aspectratio": {"x": x / diagonal, "y": y / diagonal, "z": z / diagonal},
        "dragmode": "turntable",
        "camera": {"projection": {"type": "perspective"}},
    }
    return {
        "data": list(traces),
        "layout": {"scene": scene, "margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "showlegend": False, "autosize": True},
    }


def _ticks(size: float, most: int) -> list[float]:
    """Return at most `most` round positions between 0 and `size`."""
    power = 10.0 ** np.floor(np.log10(size))
    step = next(s * power for s in (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10) if int(size / (s * power)) < most)
    return [float(k * step) for k in range(int(size / step) + 1)]


def training_figure(stage: StageSummary) -> dict[str, Any]:
    """Return loss (left axis) and validation score (right axis) of a stage against its steps."""
    terms = {"total": stage.loss["total"]} if "total" in stage.loss else stage.loss
    data: list[dict[str, Any]] = []
    for term, points in terms.items():
        thinned = _thinned(points)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "loss" if len(terms) == 1 else f"loss: {term}",
                "x": [p[0] for p in thinned],
                "y": [round(p[1], 5) for p in thinned],
                "line": {"width": 1.6},
                "hovertemplate": "step %{x}: %{y:.4f}<extra></extra>",
            }
        )
    if stage.validation:
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"validation {stage.measure}",
                "x": [p[0] for p in stage.validation],
                "y": [round(p[1], 5) for p in stage.validation],
                "yaxis": "y2",
                "line": {"width": 2},
                "marker": {"size": 6},
                "hovertemplate": f"step %{{x}}: {stage.measure} %{{y:.3f}}<extra></extra>",
            }
        )
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "loss"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 54, "r": 54 if stage.validation else 12, "t": 28, "b": 44},
        "autosize": True,
    }
    if stage.validation:
        layout["yaxis2"] = {
            "title": {"text": f"validation {stage.measure}"},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "rangemode": "tozero",
        }
        if stage.measure in ("Dice", "F1"):
            layout["yaxis2"] |= {"range": [0, 1.02], "tickmode": "linear", "tick0": 0, "dtick": 0.2}
    return {"data": data, "layout": layout}


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Average neighbouring points until at most a few hundred remain."""
    group = -(-len(points) // _MOST_POINTS)
    if group <= 1:
        return list(points)
    parts = [points[i : i + group] for i in range(0, len(points), group)]
    return [(part[-1][0], sum(p[1] for p in part) / len(part)) for part in parts]


def _packed(values: NDArray[Any], dtype: np.dtype[Any]) -> dict[str, str]:
    """Encode numbers as plotly's typed array."""
    raw = np.ascontiguousarray(values, dtype=dtype).tobytes()
    return {"dtype": f"{dtype.kind}{dtype.itemsize}", "bdata": base64.b64encode(raw).decode()}
