"""The object table on disk: its columns in their order, as CSV and Parquet, written as the objects come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.files import replacing
from fewslice.measurement import shapes
from fewslice.measurement.sums import Sums

__all__ = ["Columns", "Grid", "columns_of", "csv_lines", "load_parquet", "written"]

Columns = dict[str, npt.NDArray[Any]]
Triple = tuple[float, float, float]

_LINES = 1 << 14


@dataclass(frozen=True)
class Grid:
    """Where voxels lie and what else was measured on them.

    Attributes
    ----------
    shape
        z, y, x of the volume.
    voxel_size_um, origin_um
        z, y, x: extent of a voxel, and centre of the first.
    unit_um2
        Area of one count of ``surface``.
    channel_names
        Of the measured image, one per channel.
    exponent
        k of a floating-point image, else None.
    class_values
        The user's value of each class; empty if classes are unknown.
    has_scores
        Whether probabilities were summed.
    """

    shape: tuple[int, int, int]
    voxel_size_um: Triple
    origin_um: Triple = (0.0, 0.0, 0.0)
    unit_um2: float = 1.0
    channel_names: tuple[str, ...] = ()
    exponent: int | None = None
    class_values: tuple[int, ...] = ()
    has_scores: bool = False


def columns_of(sums: Sums, grid: Grid, region: npt.NDArray[np.int64] | None = None) -> Columns:
    """Return the columns of the object table.

    Parameters
    ----------
    sums
        Whole objects.
    grid
        Where they lie.
    region
        The region that holds each object's centroid, if there are any.

    Returns
    -------
    dict
        One array per column, in the table's order: ``id``; ``class`` (the user's value) where classes are known;
        centroid ``z, y, x`` in voxels and ``z_um, y_um, x_um`` with the volume's origin; box ``z_start`` to ``x_stop``
        in voxels, half open; ``voxels``, ``volume_um3``, ``surface_um2``, ``diameter_um`` of the ball of equal volume;
        ``elongation``, longest over shortest axis of the ellipsoid with equal second moments; ``mean_``, ``min_`` and
        ``max_`` of each channel; ``confidence`` (0–1) where probabilities are stored; ``touches_border`` and
        ``counted`` (0 or 1); ``region``.
    """
    size = grid.voxel_size_um
    columns: Columns = {"id": sums["id"]}
    classes = shapes.class_indices(sums, len(grid.class_values))
    if classes is not None:
        columns["class"] = np.asarray(grid.class_values, dtype=np.int64)[classes - 1]
    centre = shapes.centroids(sums)
    columns |= {axis: centre[:, k] for k, axis in enumerate("zyx")}
    columns |= {f"{axis}_um": centre[:, k] * size[k] + grid.origin_um[k] for k, axis in enumerate("zyx")}
    for k, axis in enumerate("zyx"):
        columns |= {f"{axis}_start": sums["low"][:, k], f"{axis}_stop": sums["high"][:, k]}
    columns["voxels"] = sums["voxels"]
    columns["volume_um3"] = sums["voxels"] * float(np.prod(size))
    columns["surface_um2"] = sums["surface"] * grid.unit_um2
    columns["diameter_um"] = shapes.equivalent_diameter(sums, size, grid.shape)
    axes = shapes.axis_lengths(sums, size, grid.shape)
    columns["elongation"] = axes[:, 0] / axes[:, -1]
    means = shapes.mean_values(sums, grid.exponent)
    for k, name in enumerate(grid.channel_names):
        columns |= {f"mean_{name}": means[:, k], f"min_{name}": sums["least"][:, k], f"max_{name}": sums["most"][:, k]}
    if grid.has_scores and classes is not None:
        columns["confidence"] = shapes.confidences(sums, classes)
    low, high = shapes.touches(sums, grid.shape)
    columns |= {"touches_border": (low | high).astype(np.int8), "counted": (~high).astype(np.int8)}
    if region is not None:
        columns["region"] = region
    return columns


def csv_lines(columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[str]:
    """Yield the rows of some columns as lines of CSV, in pieces: whole numbers as they are, others with 9 digits.

    What is undefined is empty, which R, pandas and spreadsheets read as missing.
    """
    template = ",".join("%d" if values.dtype.kind in "biu" else "%.9g" for values in columns.values()) + "\n"
    count = len(next(iter(columns.values())))
    for start in range(0, count, _LINES):
        parts = [values[start : start + _LINES].tolist() for values in columns.values()]
        yield "".join(template % row for row in zip(*parts, strict=True)).replace("nan", "")


def load_parquet() -> Any:
    """Return pyarrow's Parquet module.

    Raises
    ------
    InputError
        If pyarrow is not installed.
    """
    try:
        return import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(
            "a Parquet table needs pyarrow, which is not installed; pip install 'fewslice[parquet]', or leave "
            "--parquet out: the CSV table holds the same"
        ) from None


@contextmanager
def written(path: Path, parquet: Path | None, empty: Columns) -> Iterator[Callable[[Columns], None]]:
    """Yield a function that appends columns to a CSV file and, if asked for, a Parquet file; renamed when all is there.

    Parameters
    ----------
    path
        The CSV file.
    parquet
        The Parquet file, or None.
    empty
        Columns without rows, which name and type the table.

    Raises
    ------
    DiskError
        If the disk refuses the write; no half file is left.
    """
    with (
        replacing(path) as place,
        nullcontext() if parquet is None else replacing(parquet) as other,
        place.open("w", encoding="utf-8", newline="") as stream,
        _parquet_writer(other, empty) as append,
    ):
        stream.write(",".join(_quoted(name) for name in empty) + "\n")

        def write(columns: Columns) -> None:
            stream.writelines(csv_lines(columns))
            append(columns)

        yield write


@contextmanager
def _parquet_writer(path: Path | None, empty: Columns) -> Iterator[Callable[[Columns], None]]:
    if path is None:
        yield lambda columns: None
        return
    parquet, arrow = load_parquet(), import_module("pyarrow")
    with parquet.ParquetWriter(path, arrow.table(empty).schema) as writer:
        yield lambda columns: writer.write_table(arrow.table(columns))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\n') else name
