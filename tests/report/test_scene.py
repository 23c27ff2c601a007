from __future__ import annotations

import base64

import numpy as np
import pytest

from fewslice.report.content import StageSummary
from fewslice.report.scene import mesh_trace, scene_figure, training_figure
from fewslice.report.surfaces import isosurface


def unpacked(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])


def test_trace_lies_where_the_object_lies_and_faces_outward() -> None:
    mask = np.zeros((10, 20, 30), dtype=bool)
    mask[2:6, 4:9, 20:28] = True
    trace = mesh_trace(isosurface(mask, (2.0, 1.0, 0.5)), "#123456", "arm")
    points = np.stack([unpacked(trace[axis]) for axis in "xyz"], axis=1)
    assert points.mean(axis=0) == pytest.approx([23.5 * 0.5, -6.0, -3.5 * 2.0], abs=0.3)
    faces = np.stack([unpacked(trace[key]) for key in "ijk"], axis=1).astype(int)
    a, b, c = (points[faces[:, k]].astype(float) for k in range(3))
    assert (np.cross(a, b) * c).sum() > 0, "outward faces enclose a positive volume"


@pytest.mark.parametrize("extent", [(42.0, 450.0, 450.0), (100.0, 100.0, 100.0), (3.0, 0.7, 12.0)])
def test_axes_span_the_volume_in_proportion_with_few_ticks(extent: tuple[float, float, float]) -> None:
    scene = scene_figure([], extent)["layout"]["scene"]
    for axis, size in zip("zyx", extent, strict=True):
        low, high = scene[f"{axis}axis"]["range"]
        assert high - low == pytest.approx(size)
        ticks = np.abs(scene[f"{axis}axis"]["tickvals"])
        assert 1 <= len(ticks) <= (5 if size > 0.3 * max(extent) else 2)
        assert ticks.max() <= size
        assert scene["aspectratio"][axis] / scene["aspectratio"]["x"] == pytest.approx(size / extent[2])


def test_long_training_is_thinned_but_keeps_its_ends() -> None:
    loss = {"total": [(step, 1.0 / step) for step in range(1, 20_001)], "ce": [(1, 1.0)]}
    figure = training_figure(StageSummary("student", 20_000, 9.0, loss, [(10_000, 0.5), (20_000, 0.7)]))
    first, second = figure["data"]
    assert len(first["x"]) <= 500
    assert first["x"][-1] == 20_000
    assert second["y"] == [0.5, 0.7]
    assert "yaxis2" not in training_figure(StageSummary("student", 1, 1.0, loss, []))["layout"]
