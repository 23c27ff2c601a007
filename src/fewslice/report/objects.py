"""What ``segment`` and ``measure`` left beside a prediction: how many objects, how large, and the contours of each."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice import io
from fewslice.errors import FewsliceError

__all__ = ["Contour", "Objects", "read_contours", "read_objects"]

_COLUMNS = ("id", "class", "z", "y", "x", "volume_um3", "diameter_um", "touches_border", "counted", "confidence")
_MOST_ROWS = 2_000_000


@dataclass(frozen=True)
class Objects:
    """Objects of one prediction.

    Attributes
    ----------
    count
        How many ``labels/instances`` holds.
    summary
        What ``OUT.objects.json`` holds: counts, densities, border rule; empty where nothing was measured.
    columns
        Columns of ``OUT.objects.csv`` that the report uses, one row per object, at most two million.
    problem
        A sentence where a measurement cannot be shown.
    """

    count: int | None
    summary: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    problem: str = ""

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Rows of objects that no side of the volume cuts."""
        cut = self.columns.get("touches_border", np.zeros(0))
        inside: NDArray[np.bool_] = cut == 0
        return inside


def read_objects(prediction: Path) -> Objects | None:
    """Read what is known of the objects of a prediction; None where it has not been segmented into objects.

    A measurement of other labels than those that lie in the store now is not shown.

    Parameters
    ----------
    prediction
        ``OUT.ome.zarr``.
    """
    place = prediction / "labels" / "instances"
    if not place.is_dir():
        return None
    try:
        labels = io.open_labels(place)
        found = labels.attributes.get("objects")
        count = int(found) if found is not None else None
        stem = prediction.name.removesuffix(".zarr").removesuffix(".ome")
        table, summary = (prediction.with_name(f"{stem}.objects.{end}") for end in ("csv", "json"))
        if not summary.is_file() or not table.is_file():
            return Objects(count)
        stored = json.loads(summary.read_text(encoding="utf-8"))
        if stored["made_from"]["labels"] != labels.content_hash():
            problem = f"{table} measures other objects than {prediction} holds now; run fewslice measure again."
            return Objects(count, problem=problem)
        return Objects(count, stored, _columns(table))
    except (FewsliceError, OSError, ValueError, KeyError, TypeError) as error:
        return Objects(None, problem=f"The objects of {prediction} cannot be shown: {error}.")


def _columns(table: Path) -> dict[str, NDArray[np.float64]]:
    with table.open(encoding="utf-8", newline="") as stream:
        header = next(csv.reader([stream.readline()]))
        names = [name for name in _COLUMNS if name in header]
        places = [header.index(name) for name in names]
        first = stream.readline()
        lines = itertools.chain([first] if first else [], stream)
        rows = (
            np.loadtxt(lines, delimiter=",", usecols=places, ndmin=2, max_rows=_MOST_ROWS, quotechar='"')
            if first
            else np.zeros((0, len(names)))
        )
    return {name: rows[:, k] for k, name in enumerate(names)}


@dataclass(frozen=True)
class Contour:
    """One closed contour.

    Attributes
    ----------
    plane
        Index of its plane along z.
    points
        (n, 2) y, x in pixels; integers are the centres of pixels.
    """

    plane: int
    points: NDArray[np.float64]


def read_contours(prediction: Path) -> list[Contour]:
    """Read ``OUT.contours.geojson`` beside a prediction; empty where there is none of planes along z."""
    stem = prediction.name.removesuffix(".zarr").removesuffix(".ome")
    path = prediction.with_name(f"{stem}.contours.geojson")
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        return [
            Contour(
                int(feature["properties"]["plane"]),
                np.asarray(feature["geometry"]["coordinates"][0], dtype=np.float64)[:-1, ::-1],
            )
            for feature in features
            if feature["properties"]["plane_axis"] == "z"
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return []
