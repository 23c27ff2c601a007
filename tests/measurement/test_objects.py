"""The object table: against scikit-image, for any blocks, after a kill, and what it counts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from skimage.measure import label, marching_cubes, mesh_surface_area, regionprops

from fewslice import io, workflow
from fewslice.blocks.engine import Opened, Outcome
from fewslice.blocks.record import open_record
from fewslice.errors import InputError
from fewslice.geometry import Block, Box
from fewslice.measurement import Source, measure_objects, meshes, objects
from fewslice.volume import Volume

VOXEL = (2.0, 0.5, 0.25)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def column(path: Path, name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in read(path)])


def blobs(shape: tuple[int, int, int] = (12, 30, 33), seed: int = 0) -> np.ndarray:
    """Random touching objects with scattered ids beyond 32 bits."""
    generator = np.random.default_rng(seed)
    seeds = generator.uniform(0, shape, (14, 3))
    grid = np.stack(np.indices(shape), axis=-1)
    distance = np.linalg.norm((grid[..., None, :] - seeds) * (2, 1, 1), axis=-1)
    ids = np.append(0, np.sort(generator.choice(2**40, 14, replace=False)) + 1)
    return ids[np.where(distance.min(axis=-1) < 6, distance.argmin(axis=-1) + 1, 0)].astype(np.uint64)


def store(folder: Path, labels: np.ndarray, classes: int = 1) -> Path:
    """Write what predict and segment leave: probabilities, classes and instances."""
    path, generator = folder / "OUT.ome.zarr", np.random.default_rng(1)
    outputs = [{"name": f"class_{k}", "kind": "probability"} for k in range(classes)]
    facts = {"outputs": outputs, "class_values": [3 + 4 * k for k in range(classes)]}
    place = {"shape": labels.shape, "voxel_size_um": VOXEL, "origin_um": (5.0, 6.0, 7.0), "chunks": (4, 16, 16)}
    image = io.create_output(path, channel_names=[o["name"] for o in outputs], attributes=facts, **place)
    image.write(Box.of(labels.shape), generator.integers(0, 256, (classes, *labels.shape)).astype(np.uint8))
    segmentation = (labels > 0) * (1 + labels % classes).astype(np.uint8)
    for name, values in (("segmentation", segmentation.astype(np.uint8)), ("instances", labels)):
        io.create_labels(path, name, dtype=values.dtype, **place).write(Box.of(labels.shape), values)
    return path


def test_table_against_scikit_image(tmp_path: Path) -> None:
    labels = blobs()
    image = np.random.default_rng(2).integers(0, 60_000, (2, *labels.shape)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "image.tif", image.transpose(1, 0, 2, 3), photometric="minisblack")
    path = store(tmp_path, labels)
    workflow.measure(path, image=str(tmp_path / "image.tif"), axes="zcyx", block=(5, 9, 8))
    _, compact = np.unique(labels, return_inverse=True)
    rows = read(tmp_path / "OUT.objects.csv")
    known = regionprops(compact.reshape(labels.shape), intensity_image=np.moveaxis(image, 0, -1), spacing=VOXEL)
    assert [int(r["id"]) for r in rows] == np.unique(labels[labels > 0]).tolist()
    for row, expected in zip(rows, known, strict=True):
        centre = np.array([float(row[f"{axis}_um"]) for axis in "zyx"]) - (5, 6, 7)
        assert centre == pytest.approx(expected.centroid, rel=1e-7, abs=1e-6)
        voxel = np.array([float(row[axis]) for axis in "zyx"])
        assert voxel * VOXEL == pytest.approx(expected.centroid, rel=1e-7, abs=1e-6)
        box = [int(row[f"{axis}_{end}"]) for end in ("start", "stop") for axis in "zyx"]
        assert tuple(box) == expected.bbox
        assert int(row["voxels"]) == expected.num_pixels
        assert float(row["volume_um3"]) == pytest.approx(expected.area)
        assert float(row["diameter_um"]) == pytest.approx(expected.equivalent_diameter_area)
        covariance = np.cov(expected.coords.T * np.array(VOXEL)[:, None], bias=True) + np.diag(np.square(VOXEL)) / 12
        values = np.linalg.eigvalsh(covariance)
        assert float(row["elongation"]) == pytest.approx(np.sqrt(values[-1] / values[0]), rel=1e-7)
        for k in range(2):
            assert float(row[f"mean_channel_{k}"]) == pytest.approx(expected.intensity_mean[k])
            assert float(row[f"min_channel_{k}"]) == expected.intensity_min[k]
            assert float(row[f"max_channel_{k}"]) == expected.intensity_max[k]


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32"])
def test_bytes_do_not_depend_on_the_blocks(tmp_path: Path, kind: str) -> None:
    labels = blobs()
    path = store(tmp_path, labels, classes=2)
    image = (np.random.default_rng(3).standard_normal(labels.shape) * 50).astype(kind)
    io.save_volume(tmp_path / "image.ome.zarr", Volume.from_array(image, VOXEL))
    regions = (np.indices(labels.shape)[2] // 11 * 10).astype(np.uint16)
    io.save_labels(tmp_path / "regions.ome.zarr", regions, voxel_size_um=VOXEL)
    found = set()
    for k, block in enumerate([(12, 30, 33), (5, 14, 20), (3, 30, 17)]):
        table = tmp_path / f"{k}.objects.csv"
        options = {"image": str(tmp_path / "image.ome.zarr"), "regions": str(tmp_path / "regions.ome.zarr")}
        workflow.measure(path, **options, block=block, output=table)
        summary = table.with_suffix(".json").read_bytes()
        found.add((table.read_bytes(), (tmp_path / f"{k}.regions.csv").read_bytes(), summary))
    assert len(found) == 1
    expected = [image[labels == k].astype(np.float64).mean() for k in np.unique(labels[labels > 0])]
    assert column(table, "mean_channel_0") == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_few_rows_at_a_time_give_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(tmp_path, blobs())
    workflow.measure(path, block=(6, 16, 16), output=tmp_path / "a.csv")
    monkeypatch.setattr("fewslice.measurement.job._SAMPLE", 1)
    merged = objects.merged_sums
    monkeypatch.setattr(objects, "merged_sums", lambda folder, blocks: merged(folder, blocks, 5))
    workflow.measure(path, block=(6, 16, 16), output=tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_classes_and_confidence(tmp_path: Path) -> None:
    labels = blobs()
    path = store(tmp_path, labels, classes=2)
    summary = workflow.measure(path, block=(5, 9, 8))
    probabilities, segmentation = io.open_volume(path).read(), io.open_labels(path / "labels/segmentation").read()[0]
    for row in read(tmp_path / "OUT.objects.csv"):
        inside = labels == int(row["id"])
        votes = np.bincount(segmentation[inside], minlength=3)
        index = int(votes[1:].argmax())
        assert int(row["class"]) == 3 + 4 * index
        assert float(row["confidence"]) == pytest.approx(probabilities[index][inside].mean() / 255, rel=1e-8)
    assert [entry["class"] for entry in summary["by_class"]] == [3, 7]
    assert sum(entry["objects"] for entry in summary["by_class"]) == summary["objects"] == 14
    assert summary["interval95"][0] <= summary["expected"] <= summary["interval95"][1]


def test_border_rule_counts_every_object_of_adjoining_volumes_once(tmp_path: Path) -> None:
    """Objects of a volume cut in two: the low half leaves out what the cut goes through, the high half counts it."""
    labels = blobs((20, 30, 33), seed=4)
    labels[:, :, -1] = labels[:, -1] = labels[-1] = 0  # so that only the cut leaves something out
    counted = []
    for name, part in (("low", labels[:10]), ("high", labels[10:])):
        io.save_labels(tmp_path / f"{name}.ome.zarr", part, voxel_size_um=VOXEL)
        counted.append(workflow.measure(tmp_path / f"{name}.ome.zarr")["counted"])
    assert np.intersect1d(labels[9], labels[10]).size > 1
    assert sum(counted) == len(np.unique(labels)) - 1
    rows = read(tmp_path / "low.objects.csv")
    assert [r["counted"] for r in rows] == [str(int(int(r["z_stop"]) < 10)) for r in rows]
    assert all(r["touches_border"] == "1" for r in rows if r["z_start"] == "0" or r["counted"] == "0")


def test_regions(tmp_path: Path) -> None:
    labels = np.zeros((4, 10, 20), np.uint16)
    labels[1, 2:4, 2:4], labels[2, 5:7, 9:12], labels[1, 7:9, 15:18], labels[0, 0, 19] = 1, 2, 3, 4
    regions = np.zeros(labels.shape, np.uint16)
    regions[:, :, :10], regions[:, :, 10:18] = 7, 900
    io.save_labels(tmp_path / "cells.ome.zarr", labels, voxel_size_um=VOXEL)
    io.save_labels(tmp_path / "atlas.ome.zarr", regions)
    summary = workflow.measure(tmp_path / "cells.ome.zarr", regions=str(tmp_path / "atlas.ome.zarr"), block=(2, 5, 7))
    assert [r["region"] for r in read(tmp_path / "cells.objects.csv")] == ["7", "900", "900", "0"]
    rows = read(tmp_path / "cells.regions.csv")
    assert [r["region"] for r in rows] == ["0", "7", "900"]
    assert [(r["objects"], r["counted"]) for r in rows] == [("1", "0"), ("1", "1"), ("2", "2")]
    assert float(rows[2]["volume_um3"]) == 4 * 10 * 8 * 0.25
    assert float(rows[2]["density_per_mm3"]) == pytest.approx(2 / (80e-9))
    assert summary["volume_mm3"] == pytest.approx(800 * 0.25e-9) and summary["by_region"][1]["region"] == 7


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(tmp_path, blobs())
    workflow.measure(path, block=(6, 16, 33), output=tmp_path / "whole.csv")
    engine, calls = objects.run_blocks, []

    class Killed(BaseException):
        pass

    def stop_after(count: int) -> Callable[..., Outcome]:
        def run(blocks: Any, record: Any, job: Any, **others: Any) -> Outcome:
            work = job.open()

            def counting(block: Block, loaded: Any) -> Any:
                calls.append(block.index)
                if len(calls) == count:
                    raise Killed
                return work.compute(block, loaded)

            return engine(blocks, record, Opened(replace(work, compute=counting)), **others)

        return run

    monkeypatch.setattr(objects, "run_blocks", stop_after(3))
    with pytest.raises(Killed):
        workflow.measure(path, block=(6, 16, 33))
    assert not (tmp_path / "OUT.objects.csv").exists() and (tmp_path / ".OUT.objects.parts").is_dir()
    monkeypatch.setattr(objects, "run_blocks", stop_after(10**6))
    workflow.measure(path, block=(6, 16, 33))
    assert len(calls) - len(set(calls)) == 1  # only the block that was killed is done again
    assert (tmp_path / "OUT.objects.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / ".OUT.objects.parts").exists()


def test_finished_is_not_done_again_and_others_are_not_overwritten(tmp_path: Path) -> None:
    path = store(tmp_path, blobs())
    events: list[dict[str, object]] = []
    first = workflow.measure(path)
    again = workflow.measure(path, listener=events.append)
    assert again == first and "nothing to do" in str(events[-1]["note"])
    with pytest.raises(InputError, match="--overwrite"):
        workflow.measure(path, voxel_size_um=(1, 1, 1))
    other = workflow.measure(path, voxel_size_um=(1, 1, 1), overwrite=True)
    assert other["volume_mm3"] == pytest.approx(first["volume_mm3"] * 4)


def test_labels_that_changed_are_measured_anew(tmp_path: Path) -> None:
    """Also where no sampled voxel of a large volume changed, and where other labels of the same store are meant."""
    labels = np.zeros((40, 1000, 1000), np.uint8)  # more than is hashed whole by default
    labels[10:13, 500:520, 500:520] = 1
    path = tmp_path / "cells.ome.zarr"
    io.save_labels(path, labels, voxel_size_um=VOXEL)
    assert workflow.measure(path)["objects"] == 1
    before = io.open_labels(path).content_hash()
    changed = Box((10, 510, 500), (13, 520, 520))
    edited = labels.copy()
    edited[changed.slices] = 2
    io.open_output(path).write(Box.of(labels.shape), edited[None])
    assert io.open_labels(path).content_hash() == before
    with pytest.raises(InputError, match="--overwrite"):
        workflow.measure(path)
    assert workflow.measure(path, overwrite=True)["objects"] == 2
    io.save_labels(tmp_path / "same.ome.zarr", edited, voxel_size_um=VOXEL)
    with pytest.raises(InputError, match="--overwrite"):
        workflow.measure(tmp_path / "same.ome.zarr", output=tmp_path / "cells.objects.csv")


def test_a_damaged_chunk_leaves_no_table(tmp_path: Path) -> None:
    path = store(tmp_path, blobs())
    chunks = [p for p in (path / "labels/instances").rglob("*") if p.is_file() and "zarr" not in p.name]
    chunk = max(chunks, key=lambda p: p.stat().st_size)
    kept = chunk.read_bytes()
    chunk.write_bytes(kept[:40])
    with pytest.raises(InputError, match="damaged"):
        workflow.measure(path, block=(6, 16, 33))
    assert not (tmp_path / "OUT.objects.csv").exists()
    chunk.write_bytes(kept)
    assert workflow.measure(path, block=(6, 16, 33))["objects"] == 14


def test_a_contiguous_file_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((40, 300, 300), np.uint8)
    labels[4:38, 200:290, 200:290] = 1
    tifffile.imwrite(tmp_path / "cells.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    assert io.open_labels(tmp_path / "cells.tif").chunks is None
    original, voxels = Volume.read, []

    def counted(volume: Volume, *arguments: Any) -> Any:
        values = original(volume, *arguments)
        voxels.append(values.size)
        return values

    monkeypatch.setattr(Volume, "content_hash", lambda self, whole=False: "of no interest here")
    monkeypatch.setattr(Volume, "read", counted)
    monkeypatch.setattr(objects, "_READ_VOXELS", 1)
    monkeypatch.setattr(meshes, "_READ_VOXELS", 1)
    summary = workflow.measure(tmp_path / "cells.tif", voxel_size_um=(1, 1, 1))
    assert summary["objects"] == 1 and max(voxels) <= 33 * 257 * 257
    voxels.clear()
    (tmp_path / "cells.objects.csv").unlink()
    workflow.mesh(tmp_path / "cells.tif", voxel_size_um=(1, 1, 1))
    assert voxels and max(voxels) <= 33 * 257 * 257


def test_unfinished_objects_are_refused(tmp_path: Path) -> None:
    path = store(tmp_path, blobs())
    record = open_record(path / ".fewslice" / "instances", "key", what="")
    for place in (path, path / "labels" / "instances"):
        with pytest.raises(InputError, match="unfinished; run the segment command again"):
            workflow.measure(place)
        with pytest.raises(InputError, match="unfinished; run the segment command again"):
            workflow.mesh(place)
    record.finish()
    assert workflow.measure(path)["objects"] == 14
    open_record(path / ".fewslice", "key", what="")
    with pytest.raises(InputError, match="unfinished; run the predict command again"):
        workflow.mesh(path, classes=[3])


def test_a_file_is_no_folder_to_write_in(tmp_path: Path) -> None:
    path = store(tmp_path, blobs())
    (tmp_path / "notes.txt").touch()
    for verb, name in ((workflow.measure, "x.csv"), (workflow.mesh, "m")):
        with pytest.raises(InputError, match=rf"notes.txt is a file, not a folder, so {name} cannot be made in it"):
            verb(path, output=tmp_path / "notes.txt" / name)  # type: ignore[operator]


def test_no_objects_make_an_empty_table(tmp_path: Path) -> None:
    io.save_labels(tmp_path / "none.ome.zarr", np.zeros((3, 4, 5), np.uint8), voxel_size_um=VOXEL)
    summary = workflow.measure(tmp_path / "none.ome.zarr")
    assert (summary["objects"], summary["counted"], summary["density_per_mm3"]) == (0, 0, 0.0)
    assert read(tmp_path / "none.objects.csv") == []


def test_a_single_plane(tmp_path: Path) -> None:
    plane = np.zeros((1, 20, 20), np.uint8)
    plane[0, 3:7, 5:15] = 1
    io.save_labels(tmp_path / "plane.ome.zarr", plane, voxel_size_um=(1, 0.5, 0.5))
    workflow.measure(tmp_path / "plane.ome.zarr")
    row = read(tmp_path / "plane.objects.csv")[0]
    assert float(row["diameter_um"]) == pytest.approx(np.sqrt(40 * 0.25 * 4 / np.pi))
    assert float(row["elongation"]) == pytest.approx(2.5)
    assert (row["touches_border"], row["counted"]) == ("0", "1")


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = store(tmp_path, blobs())
    workflow.measure(path, parquet=True)
    table = parquet.read_table(tmp_path / "OUT.objects.parquet").to_pydict()
    assert list(table) == list(read(tmp_path / "OUT.objects.csv")[0])
    assert table["id"] == [int(r["id"]) for r in read(tmp_path / "OUT.objects.csv")]
    assert table["surface_um2"] == pytest.approx(column(tmp_path / "OUT.objects.csv", "surface_um2"), rel=1e-8)


def test_parquet_without_pyarrow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    path = store(tmp_path, blobs())
    monkeypatch.setattr("fewslice.measurement.table.import_module", missing)
    with pytest.raises(InputError, match=r"fewslice\[parquet\]"):
        workflow.measure(path, parquet=True)
    assert not list(tmp_path.glob("OUT.objects*"))


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    path = store(tmp_path, blobs())
    image = np.ones((12, 30, 33), np.float32)
    image[7, 3, 3] = np.nan
    io.save_volume(tmp_path / "image.ome.zarr", Volume.from_array(image))
    with pytest.raises(InputError, match="NaN"):
        workflow.measure(path, image=str(tmp_path / "image.ome.zarr"))


def test_nuclei(data_dir: Path, tmp_path: Path) -> None:
    """Real nuclei: volumes and centroids as scikit-image has them."""
    folder = data_dir / "nuclei_3d" / "1135"
    size = (0.2837, 0.1268, 0.1268)
    table = tmp_path / "nuclei.objects.csv"
    measure_objects(Source(str(folder / "labels.tif"), "zyx"), table, voxel_size_um=size, block=(31, 40, 100))
    known = regionprops(tifffile.imread(folder / "labels.tif"), spacing=size)
    assert column(table, "volume_um3") == pytest.approx([p.area for p in known])
    for k, axis in enumerate("zyx"):
        assert column(table, f"{axis}_um") == pytest.approx([p.centroid[k] for p in known], abs=1e-6)


def test_mitochondria(data_dir: Path, tmp_path: Path) -> None:
    """Components of real mitochondria: their surface is within 5 % of that of a mesh of slightly smoothed labels."""
    truth = tifffile.imread(data_dir / "em_mitochondria" / "test" / "labels.tif")[:60, :160, :256]
    labels = label(truth > 0).astype(np.uint16)
    io.save_labels(tmp_path / "m.ome.zarr", labels, voxel_size_um=(0.005,) * 3)
    summary = workflow.measure(tmp_path / "m.ome.zarr", block=(25, 64, 100))
    assert summary["objects"] == labels.max()
    smooth = gaussian_filter((labels > 0).astype(np.float32), 0.5, mode="nearest")
    vertices, faces, _, _ = marching_cubes(smooth, 0.5, spacing=(0.005,) * 3)
    expected = mesh_surface_area(vertices, faces)
    assert column(tmp_path / "m.objects.csv", "surface_um2").sum() == pytest.approx(expected, rel=0.05)
    assert json.loads((tmp_path / "m.objects.json").read_text())["surface"]["spread"] < 0.02
