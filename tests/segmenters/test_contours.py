"""From an output to instances: label image and GeoJSON."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice.errors import InputError
from fewslice.morphology.proposals import Proposals
from fewslice.segmenters.contours import painted_planes, suppress, write_geojson


def _instances(axis: int = 0) -> Proposals:
    """Three squares: the best one on plane 2, two that overlap a little on plane 0."""
    lows = np.array([(1.0, 1.0), (1.0, 4.0), (1.0, 1.0)])
    corners = np.array([(0.0, 0.0), (0.0, 3.4), (3.4, 3.4), (3.4, 0.0)]) - 0.2
    anchor = np.insert(lows.astype(int), axis, [2, 0, 0], axis=1)
    scores = np.array([0.9, 0.7, 0.8], np.float32)
    contours = (lows[:, None] + corners).astype(np.float32)
    return suppress(Proposals(anchor, scores, np.array([1, 2, 1], np.uint8), contours, axis))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_are_painted_with_ids_of_the_whole_volume(axis: int) -> None:
    """Ids follow the score: 1 on plane 2; on plane 0 the better 2 keeps the column that 3 shares with it."""
    found = dict(painted_planes(_instances(axis), np.insert((6, 9), axis, 3).tolist()))
    assert list(found) == [0, 2]
    expected = np.zeros((6, 9), int)
    expected[1:5, 4:8] = 3
    expected[1:5, 1:5] = 2
    np.testing.assert_array_equal(found[0], expected)
    assert found[2].dtype == np.uint32 and np.unique(found[2]).tolist() == [0, 1]


def test_no_instance_paints_nothing() -> None:
    assert list(painted_planes(_instances().taken(np.zeros(0, int)), (3, 6, 9))) == []


def _features(path: Path) -> Any:
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    return content["features"]


def test_geojson_by_hand(tmp_path: Path) -> None:
    """Whole contours, closed and counter-clockwise in (x, y); pixels and µm."""
    path = tmp_path / "x.geojson"
    write_geojson(path, _instances(), class_values=(1, 7), voxel_size_um=(5.0, 0.5, 2.0))
    first, second, third = _features(path)
    assert first["geometry"]["type"] == "Polygon"
    (ring,) = third["geometry"]["coordinates"]
    assert ring == [[3.8, 0.8], [7.2, 0.8], [7.2, 4.2], [3.8, 4.2], [3.8, 0.8]]
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))
    assert area > 0
    assert third["properties"] == {
        "id": 3,
        "score": 0.7,
        "class": 7,
        "plane": 0,
        "plane_axis": "z",
        "polygon_um": [[7.6, 0.4], [14.4, 0.4], [14.4, 2.1], [7.6, 2.1], [7.6, 0.4]],
    }
    assert [f["properties"]["plane"] for f in (first, second)] == [2, 0] and second["id"] == 2
    write_geojson(path, _instances(), class_values=(1, 7))
    assert "polygon_um" not in _features(path)[0]["properties"]


def test_geojson_uses_the_pixel_of_the_plane(tmp_path: Path) -> None:
    """Planes along y: rows are z, columns x."""
    write_geojson(tmp_path / "x.geojson", _instances(1), class_values=(1, 7), voxel_size_um=(5.0, 0.5, 2.0))
    properties = _features(tmp_path / "x.geojson")[2]["properties"]
    assert properties["plane_axis"] == "y" and properties["polygon_um"][0] == [7.6, 4.0]


def test_a_class_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="class 2, but values of 1 classes"):
        write_geojson(tmp_path / "x.geojson", _instances(), class_values=(1,))
    assert not (tmp_path / "x.geojson").exists()
