"""From instance labels to a table of objects, for a volume of any size.

1. Voxel size, weights of surface crossings and, for a floating-point image, its largest magnitude.
2. Every block: sums of its objects on disk (:mod:`fewslice.measurement.job`); a killed run resumes here.
3. Objects merged in the order of their ids, and the regions that hold their centroids.
4. ``OUT.objects.csv``, ``OUT.regions.csv`` and, last, ``OUT.objects.json`` with counts and settings, which marks the
   measurement as finished.

Everything that is added up is a whole number, so the files are the same, byte for byte, whatever the blocks, their
order and the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io
from fewslice.blocks.engine import Engine, Outcome, Retry, run_blocks
from fewslice.blocks.job import how_to_mend
from fewslice.blocks.lock import locked
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.record import Record, open_record
from fewslice.errors import InputError
from fewslice.files import checksum, disk_error, write_atomic, write_json
from fewslice.geometry import Block, Box, Shape, cover
from fewslice.measurement import shapes
from fewslice.measurement.counts import BORDER_RULE, summarise
from fewslice.measurement.job import LargestValues, Source, SumBlocks, merged_regions, merged_sums
from fewslice.measurement.sums import check_bounds, empty_sums, exponent_for
from fewslice.measurement.surface import SurfaceWeights, surface_weights
from fewslice.measurement.table import Columns, Grid, columns_of, csv_lines, load_parquet, written
from fewslice.volume import Volume

__all__ = [
    "Measurement",
    "StoredPrediction",
    "cut",
    "find_prediction",
    "measure_objects",
    "measured_volume",
    "sum_job",
]

Triple = tuple[float, float, float]
Progress = Callable[[int, int], None]

_READ_VOXELS = 1 << 24


@dataclass(frozen=True)
class StoredPrediction:
    """Classes and probabilities that lie beside instance labels.

    Attributes
    ----------
    scores
        Image whose first channels, uint8, are those of the classes.
    segmentation
        Labels 1 to the number of classes.
    class_values
        The user's value of each class.
    """

    scores: Source
    segmentation: Source
    class_values: tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes
    ----------
    table
        The CSV file.
    summary
        What ``OUT.objects.json`` holds; empty while blocks are missing.
    outcome
        Blocks done, skipped and failed.
    already_finished
        Whether nothing had to be done.
    """

    table: Path
    summary: dict[str, Any]
    outcome: Outcome
    already_finished: bool


def find_prediction(store: Path) -> StoredPrediction | None:
    """Return classes and probabilities of an output of ``fewslice predict``, or None for any other image."""
    attributes = io.describe(store)["attributes"]
    outputs = attributes.get("outputs")
    segmentation = store / "labels" / "segmentation"
    if not isinstance(outputs, list) or not segmentation.is_dir():
        return None
    classes = sum(output.get("kind") == "probability" for output in outputs)
    if not classes:
        return None
    values = attributes.get("class_values") or range(1, classes + 1)
    return StoredPrediction(Source(str(store)), Source(str(segmentation)), tuple(int(v) for v in values))


def measured_volume(labels: Source, voxel_size_um: Triple | None = None) -> tuple[Volume, Triple]:
    """Open labels of which lengths are to be reported.

    Raises
    ------
    InputError
        If they cannot be opened, or neither they nor `voxel_size_um` say how large a voxel is.
    """
    volume = labels.open_labels()
    size = voxel_size_um or volume.voxel_size_um
    if size is None:
        raise InputError(
            f"{labels.path} states no voxel size, so nothing can be reported in µm; give --voxel-size-um z,y,x"
        )
    return volume, size


def path_beside(source: str, folder: Path) -> str:
    """Return the path of labels as seen from a folder of results, so that both can be moved together."""
    if io.is_address(source):
        return source
    try:
        return Path(os.path.relpath(source, folder)).as_posix()
    except ValueError:  # on another drive
        return source


def measure_objects(
    labels: Source,
    table: Path,
    *,
    voxel_size_um: Triple | None = None,
    image: Source | None = None,
    regions: Source | None = None,
    prediction: StoredPrediction | None = None,
    block: Shape | None = None,
    parquet: bool = False,
    overwrite: bool = False,
    engine: Engine | None = None,
    retry: Retry | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure every object of a label volume, resuming what an earlier run left.

    Parameters
    ----------
    labels
        Ids of objects, 0 being background.
    table
        ``OUT.objects.csv``; the other files take its name.
    voxel_size_um
        z, y, x; by default what the labels state.
    image
        Intensities to measure, of the same shape.
    regions
        Labels of regions, of the same shape; 0 is outside of all.
    prediction
        Classes and probabilities, see :func:`find_prediction`.
    block
        z, y, x voxels per block; by default chosen for little waste.
    parquet
        Write ``OUT.objects.parquet`` as well.
    overwrite
        Replace a measurement of other labels, images or settings.
    engine, retry
        See :func:`fewslice.blocks.engine.run_blocks`; other processes find all files by their paths.
    progress
        Called with (blocks finished, blocks in all).

    Returns
    -------
    Measurement
        Without a summary, and without the files, if a block could not be measured.

    Raises
    ------
    InputError
        If something cannot be opened or has another shape, the voxel size is unknown, the image has values that cannot
        be summed, the files belong to another measurement, or another run writes them.
    DiskError
        If a result cannot be stored.
    """
    volume, size = measured_volume(labels, voxel_size_um)
    if parquet:
        load_parquet()
    measured = _fitting(image, volume, "image")
    areas = _fitting(regions, volume, "regions", labels=True)
    if prediction is not None:
        _fitting(prediction.scores, volume, "image")
    used = cut(volume, block)
    weights = surface_weights(size, volume.shape)
    facts = _facts(table, volume, size, measured, areas, prediction, weights)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    names = _Names.of(table)
    found = _finished(names, key, parquet=parquet, overwrite=overwrite)
    if found is not None:
        return Measurement(table, found, Outcome(0, 0, ()), True)
    with locked(table):
        found = _finished(names, key, parquet=parquet, overwrite=overwrite)
        if found is not None:  # by a run that ended a moment ago
            return Measurement(table, found, Outcome(0, 0, ()), True)
        if overwrite:
            shutil.rmtree(names.parts, ignore_errors=True)
        blocks = cover(volume.shape, used, (0, 0, 0))
        begun = names.parts.exists()
        try:
            names.parts.parent.mkdir(parents=True, exist_ok=True)
            record = open_record(names.parts, f"{key} {used}", what=str(table))
        except OSError as error:
            raise disk_error(error, table) from error
        run = partial(run_blocks, blocks, engine=engine, retry=retry)
        try:
            exponent = _exponent(image, measured, record, run)
            outcome = run(
                record,
                sum_job(labels, names.parts.absolute(), weights, image, exponent, regions, prediction),
                progress=progress,
            )
        except InputError:
            if not begun:  # a refusal leaves nothing behind
                shutil.rmtree(names.parts, ignore_errors=True)
            raise
        if outcome.failed:
            return Measurement(table, {}, outcome, False)
        grid = Grid(
            volume.shape,
            size,
            volume.origin_um,
            weights.unit_um2,
            _column_names(measured),
            exponent,
            prediction.class_values if prediction else (),
            prediction is not None,
        )
        summary = _write_tables(names, blocks, grid, areas, used, parquet=parquet)
        summary |= {"key": key, "labels": labels.path, "made_from": facts, **_settings(grid, weights)}
        written_now = names.tables(parquet=parquet, regions=areas is not None)
        summary["checksums"] = {name: checksum(path.read_bytes()) for name, path in written_now.items()}
        write_json(names.summary, summary)
        shutil.rmtree(names.parts, ignore_errors=True)
        return Measurement(table, summary, outcome, False)


def cut(volume: Volume, block: Shape | None = None) -> Shape:
    """Return the block in which a label volume is measured: what was asked for, or one of little waste.

    Raises
    ------
    InputError
        If sums over it could exceed 64 bits.
    """
    used = block or choose_block(volume.shape, (1, 1, 1), volume.chunks or choose_chunk(volume.shape), _READ_VOXELS)
    used = tuple(min(b, s) for b, s in zip(used, volume.shape, strict=True))
    check_bounds(volume.shape, used)
    return used


def sum_job(
    labels: Source,
    folder: Path,
    weights: SurfaceWeights,
    image: Source | None = None,
    exponent: int | None = None,
    regions: Source | None = None,
    prediction: StoredPrediction | None = None,
) -> SumBlocks:
    """Return the job that leaves every block's sums in `folder`; see :func:`measure_objects`."""
    classes = len(prediction.class_values) if prediction else 0
    return SumBlocks(
        labels,
        str(folder),
        weights.weights,
        image,
        exponent,
        prediction.segmentation if prediction and classes > 1 else None,
        prediction.scores if prediction else None,
        classes,
        regions,
    )


@dataclass(frozen=True)
class _Names:
    """The files of one measurement."""

    table: Path
    parquet: Path
    regions: Path
    summary: Path
    parts: Path

    def tables(self, *, parquet: bool, regions: bool) -> dict[str, Path]:
        """Return the files that are written, by what they are."""
        found = {"objects": self.table}
        found |= {"parquet": self.parquet} if parquet else {}
        return found | ({"regions": self.regions} if regions else {})

    @classmethod
    def of(cls, table: Path) -> _Names:
        if not table.name.endswith(".csv"):
            raise InputError(f"the table {table} must be named like OUT.objects.csv; choose such a name with -o")
        stem = table.name.removesuffix(".csv")
        short = stem.removesuffix(".objects")
        return cls(
            table,
            table.with_name(f"{stem}.parquet"),
            table.with_name(f"{short}.regions.csv"),
            table.with_name(f"{stem}.json"),
            table.with_name(f".{stem}.parts"),
        )


def _fitting(source: Source | None, volume: Volume, what: str, *, labels: bool = False) -> Volume | None:
    """Open what belongs to the labels and refuse another shape."""
    if source is None:
        return None
    opened = source.open_labels() if labels else source.open_image()
    if opened.shape != volume.shape:
        raise InputError(
            f"{source.path} has shape {opened.shape} (z, y, x), but {volume.source} has {volume.shape}; "
            f"give {what} of the same grid"
        )
    if not labels and opened.dtype.kind in "ui" and opened.dtype.itemsize > 4:
        raise InputError(
            f"{source.path} holds {opened.dtype}, of which exact sums are not possible; convert it to integers of at "
            "most 32 bits or to floating-point numbers"
        )
    return opened


def _facts(
    table: Path,
    volume: Volume,
    size: Triple,
    image: Volume | None,
    regions: Volume | None,
    prediction: StoredPrediction | None,
    weights: SurfaceWeights,
) -> dict[str, Any]:
    """Return all that shapes the tables."""
    scores = prediction and prediction.scores.open_image()
    return {
        "labels": volume.content_hash(whole=True),
        "labels_path": path_beside(volume.source, table.parent),
        "voxel_size_um": list(size),
        "origin_um": list(volume.origin_um),
        "image": image and [image.content_hash(), image.files_hash()],
        "channels": image and list(image.channel_names),
        "regions": regions and regions.content_hash(whole=True),
        "scores": scores and [scores.content_hash(), scores.files_hash()],
        "segmentation": prediction and prediction.segmentation.open_labels().content_hash(whole=True),
        "class_values": prediction and list(prediction.class_values),
        "weights": list(weights.weights),
    }


def _finished(names: _Names, key: str, *, parquet: bool, overwrite: bool) -> dict[str, Any] | None:
    """Return the summary of the same measurement if it is complete; refuse another one."""
    if overwrite:
        return None
    summary: dict[str, Any] = {}
    if names.summary.exists():
        try:
            summary = json.loads(names.summary.read_text(encoding="utf-8"))
        except ValueError:
            summary = {}
    if summary.get("key") == key:
        return summary if names.table.exists() and (names.parquet.exists() or not parquet) else None
    taken = next((p for p in (names.summary, names.table, names.regions) if p.exists()), None)
    if taken is not None and not (names.parts / "job.json").exists():
        raise InputError(
            f"{taken} exists and was made from other labels, images or settings; choose another -o or pass --overwrite"
        )
    return None


def _exponent(source: Source | None, image: Volume | None, record: Record, run: Callable[..., Outcome]) -> int | None:
    """Return k for a floating-point image, whose largest magnitude takes one pass over it; None for integers."""
    if source is None or image is None or image.dtype.kind != "f":
        return None
    marks = open_record(record.folder / "largest", record.key, what=source.path)
    if not marks.finished:
        outcome = run(marks, LargestValues(source))
        if outcome.failed:
            block, reason = outcome.failed[0]
            raise InputError(f"{source.path} {reason} at block {block.index}; {how_to_mend('image')}")
        marks.finish()
    return exponent_for(max(float(mark.note["largest"]) for mark in marks.marks()))


def _column_names(image: Volume | None) -> tuple[str, ...]:
    if image is None:
        return ()
    names = image.channel_names
    return names if len(set(names)) == len(names) else tuple(str(k) for k in range(len(names)))


def _write_tables(
    names: _Names, blocks: Sequence[Block], grid: Grid, regions: Volume | None, block: Shape, *, parquet: bool
) -> dict[str, Any]:
    """Write the tables and return the counts."""
    places = None
    if regions is not None:
        centres = [np.floor(shapes.centroids(s) + 0.5).astype(np.int32) for s in merged_sums(str(names.parts), blocks)]
        places = regions_at(regions, np.concatenate([np.zeros((0, 3), np.int32), *centres]), block)
    empty = empty_sums(len(grid.channel_names), len(grid.class_values))
    no_region = None if places is None else places[:0]
    kept: dict[str, list[npt.NDArray[Any]]] = {}
    done = 0
    with written(names.table, names.parquet if parquet else None, columns_of(empty, grid, no_region)) as write:
        for sums in _tables(names.parts, blocks):
            columns = columns_of(sums, grid, None if places is None else places[done : done + len(sums)])
            write(columns)
            done += len(sums)
            for name in ("class", "confidence", "counted", "region"):
                if name in columns:
                    kept.setdefault(name, []).append(columns[name])
    columns = {name: np.concatenate(parts) for name, parts in kept.items()}
    columns.setdefault("counted", np.zeros(0, dtype=np.int8))
    volume_um3 = math.prod(grid.shape) * math.prod(grid.voxel_size_um)
    summary = summarise(columns["counted"] == 1, columns.get("confidence"), volume_um3)
    summary |= {"volume_mm3": volume_um3 * 1e-9, "by_class": _by_class(columns, grid, volume_um3)}
    if regions is not None:
        rows = _by_region(columns, merged_regions(str(names.parts), blocks), grid)
        write_atomic(names.regions, _region_csv(rows))
        summary["by_region"] = rows
    return summary


def _tables(parts: Path, blocks: Sequence[Block]) -> Iterator[Any]:
    return merged_sums(str(parts), blocks)


def regions_at(regions: Volume, points: npt.NDArray[np.int32], block: Shape) -> npt.NDArray[np.int64]:
    """Return the region at each point (n, 3), z, y, x in voxels; each part of the volume with points is read once."""
    result = np.zeros(len(points), dtype=np.int64)
    if not len(points):
        return result
    cell = points // np.asarray(block)
    _, which = np.unique(cell, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    cuts = np.flatnonzero(np.append(True, np.diff(which.reshape(-1)[order]) != 0))
    for members in np.split(order, cuts[1:]):
        inside = points[members]
        low, high = inside.min(axis=0), inside.max(axis=0) + 1
        values = regions.read(Box(tuple(low.tolist()), tuple(high.tolist())))[0]
        result[members] = values[tuple((inside - low).T)]
    return result


def _chosen(columns: Columns, mask: npt.NDArray[np.bool_], volume_um3: float) -> dict[str, Any]:
    confidences = columns.get("confidence")
    return summarise(columns["counted"][mask] == 1, None if confidences is None else confidences[mask], volume_um3)


def _by_class(columns: Columns, grid: Grid, volume_um3: float) -> list[dict[str, Any]]:
    if "class" not in columns:
        return []
    return [{"class": value, **_chosen(columns, columns["class"] == value, volume_um3)} for value in grid.class_values]


def _by_region(columns: Columns, voxels: dict[int, int], grid: Grid) -> list[dict[str, Any]]:
    """Count per region, and per class where there are several; region 0 is what lies outside of all regions."""
    region = columns.get("region", np.zeros(0, dtype=np.int64))
    several = len(grid.class_values) > 1 and "class" in columns
    rows = []
    for name, count in voxels.items():
        volume_um3 = count * math.prod(grid.voxel_size_um)
        mask = region == name
        rows.append({"region": name, "volume_um3": volume_um3, **_chosen(columns, mask, volume_um3)})
        if several:
            rows[-1]["by_class"] = {
                str(value): _chosen(columns, mask & (columns["class"] == value), volume_um3)
                for value in grid.class_values
            }
    return rows


def _region_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line per region, or per region and class where there are several."""
    flat = []
    for row in rows:
        parts = row.get("by_class") or {None: row}
        for value, counts in parts.items():
            flat.append((row["region"], value, row["volume_um3"], counts))
    columns: Columns = {"region": np.array([r for r, _, _, _ in flat], dtype=np.int64)}
    if flat and flat[0][1] is not None:
        columns["class"] = np.array([int(v) for _, v, _, _ in flat], dtype=np.int64)
    columns["volume_um3"] = np.array([v for _, _, v, _ in flat], dtype=np.float64)
    for name in ("objects", "counted", "density_per_mm3", "expected"):
        if flat and name in flat[0][3]:
            columns[name] = np.array([counts[name] for _, _, _, counts in flat])
    if flat and "interval95" in flat[0][3]:
        for k, name in enumerate(("expected_low", "expected_high")):
            columns[name] = np.array([counts["interval95"][k] for _, _, _, counts in flat])
    return ",".join(columns) + "\n" + "".join(csv_lines(columns))


def _settings(grid: Grid, weights: SurfaceWeights) -> dict[str, Any]:
    return {
        "shape": list(grid.shape),
        "voxel_size_um": list(grid.voxel_size_um),
        "origin_um": list(grid.origin_um),
        "border_rule": BORDER_RULE,
        "interval": "Poisson-binomial over the confidences of the objects that count, as if these were calibrated"
        if grid.has_scores
        else None,
        "surface": {
            "method": "weighted crossings along 13 directions; the end of the volume is no surface",
            "spread": weights.spread,
            "worst_plane": [weights.lowest, weights.highest],
        },
    }
