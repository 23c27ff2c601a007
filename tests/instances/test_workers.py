"""Objects found, measured and meshed by workers are those found in one process, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewslice import io, registry
from fewslice.blocks.engine import Engine
from fewslice.blocks.verify import forget_damaged, verify_store
from fewslice.instances import open_outputs, segment_store
from fewslice.instances.from_image import mask_image
from fewslice.measurement import Source, find_prediction, measure_objects
from fewslice.measurement.meshes import mesh_objects

SHAPE = (16, 48, 384)  # long enough for a pyramid
BLOCK = (8, 24, 192)
VOXEL = (2.0, 1.0, 1.0)


def balls() -> NDArray[np.uint8]:
    """Two pairs of touching balls and a single one, across the corners of blocks, as uint8 intensities."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    image = np.zeros(SHAPE, np.uint8)
    for cz, cy, cx in ((8, 12, 183), (8, 12, 198), (8, 24, 216), (8, 38, 191), (8, 38, 206)):
        image[(2 * (z - cz)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 64] = 200
    return image


@pytest.fixture(scope="module")
def workers() -> Iterator[Engine]:
    pytest.importorskip("distributed")
    from fewslice.blocks.cluster import connect

    with connect(workers=2) as engine:
        yield engine


def prepared(folder: Path) -> tuple[Path, io.VolumeSource]:
    folder.mkdir()
    io.save_volume(folder / "image.ome.zarr", io.Volume.from_array(balls(), voxel_size_um=VOXEL))
    return folder / "OUT.ome.zarr", io.VolumeSource(str(folder / "image.ome.zarr"), None, None, VOXEL)


def everything(folder: Path, engine: Engine | None) -> dict[str, bytes]:
    """Mask, segment, measure and mesh an image; return every file but those that name the folder."""
    output, source = prepared(folder)
    image = source.open()
    kind = registry.load("segmenters", "threshold_watershed")
    config = kind.Config(smoothing_um=0)
    assert not mask_image(image, output, "threshold_watershed", config, source=source, engine=engine).failed
    found = segment_store(open_outputs(output), "threshold_watershed", config, block=BLOCK, engine=engine)
    assert found.objects == 5 and not found.failed
    labels = Source(str(output / "labels" / "instances"))
    intensities = folder / "float.ome.zarr"
    io.save_volume(intensities, io.Volume.from_array(balls() / np.float32(7), voxel_size_um=VOXEL))
    table = folder / "OUT.objects.csv"
    measure_objects(
        labels, table, image=Source(str(intensities)), prediction=find_prediction(output), block=BLOCK, engine=engine
    )
    mesh_objects(labels, folder / "OUT.meshes", kind="ply", table=table, engine=engine)
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    names_paths = ("OUT.objects.json", "OUT.ome.zarr/zarr.json")
    return {name: path.read_bytes() for name, path in files.items() if name not in names_paths}


def test_workers_write_the_same_bytes(tmp_path: Path, workers: Engine) -> None:
    alone, together = everything(tmp_path / "alone", None), everything(tmp_path / "together", workers)
    assert alone.keys() == together.keys()
    assert [name for name in alone if alone[name] != together[name]] == []
    assert any(name.startswith("OUT.ome.zarr/labels/instances/1/c") for name in alone), "no pyramid was compared"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    everything(tmp_path / "data", None)
    return tmp_path / "data"


@pytest.mark.parametrize("what", ["OUT.ome.zarr", "OUT.objects.csv", "OUT.meshes"])
def test_what_was_written_verifies(made: Path, what: str) -> None:
    found = verify_store(made / what)
    assert found.exit_code == 0 and found.chunks > 0


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("what", "file", "record"),
    [
        ("OUT.ome.zarr", "labels/instances/0/c/0/0/0", ".fewslice/instances"),
        ("OUT.ome.zarr", "labels/instances/1/c/0/0/0", ".fewslice/levels/labels/instances/1"),
        ("OUT.ome.zarr", "labels/segmentation/0/c/0/0/0", ".fewslice"),
        ("OUT.meshes", "2.ply", ".fewslice"),
        ("OUT.objects.csv", "", ""),
    ],
)
def test_damage_is_found_and_the_same_command_mends_it(made: Path, what: str, file: str, record: str) -> None:
    place = made / what / file if file else made / what
    before = place.read_bytes()
    spoil(place)
    found = verify_store(made / what)
    assert found.exit_code == 1 and {d.record for d in found.damaged} == {record}
    forget_damaged(made / what, found.damaged)
    again(made)
    assert place.read_bytes() == before
    assert verify_store(made / what).exit_code == 0


def again(folder: Path) -> None:
    output, source = folder / "OUT.ome.zarr", io.VolumeSource(str(folder / "image.ome.zarr"), None, None, VOXEL)
    kind = registry.load("segmenters", "threshold_watershed")
    config = kind.Config(smoothing_um=0)
    mask_image(source.open(), output, "threshold_watershed", config, source=source)
    segment_store(open_outputs(output), "threshold_watershed", config, block=BLOCK)
    labels, table = Source(str(output / "labels" / "instances")), folder / "OUT.objects.csv"
    intensities = Source(str(folder / "float.ome.zarr"))
    measure_objects(labels, table, image=intensities, prediction=find_prediction(output), block=BLOCK)
    mesh_objects(labels, folder / "OUT.meshes", kind="ply", table=table)


def test_damage_of_what_an_unfinished_segment_keeps(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = made / "OUT.ome.zarr"
    kind = registry.load("segmenters", "threshold_watershed")
    config, stored = kind.Config(smoothing_um=0, holes_um=0), open_outputs(output)
    from fewslice.instances import segmentation

    def stop(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(segmentation, "_union", stop)
        with pytest.raises(KeyboardInterrupt):
            segment_store(stored, "threshold_watershed", config, block=BLOCK, overwrite=True)
    found = verify_store(output)
    assert found.exit_code == 3 and not found.damaged
    spoil(made / ".OUT.ome.zarr.instances" / "regions" / "0_0_0.bin")
    found = verify_store(output)
    assert [(d.record, d.block, d.chunk) for d in found.damaged] == [
        (".OUT.ome.zarr.instances/label", (0, 0, 0), "regions/0_0_0.bin")
    ]
    forget_damaged(output, found.damaged)
    assert segment_store(stored, "threshold_watershed", config, block=BLOCK).objects == 5
    assert json.loads((output / ".fewslice" / "instances" / "job.json").read_text())["finished"]
