"""Files of surfaces: every format read back, resumed, and refused where nothing can be made."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from fewslice import io, workflow
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.measurement import mesh_files, meshes

VOXEL = (0.5, 0.25, 0.25)
ORIGIN = (100.0, 200.0, 300.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three balls, of which the third touches the border."""
    path = tmp_path_factory.mktemp("meshes") / "OUT.ome.zarr"
    z, y, x = np.ogrid[:20, :40, :60]
    labels = np.zeros((20, 40, 60), np.uint32)
    for k, centre in {5: (9, 12, 14), 9: (10, 26, 30), 1000: (8, 20, 56)}.items():
        labels[(4 * (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) < 100] = k
    place: dict[str, Any] = {"shape": labels.shape, "voxel_size_um": VOXEL, "origin_um": ORIGIN, "chunks": (8, 16, 16)}
    facts = {"outputs": [{"name": "foreground", "kind": "probability"}], "class_values": [7]}
    io.create_output(path, channel_names=["foreground"], attributes=facts, **place)
    for name, values in (("instances", labels), ("segmentation", (labels > 0).astype(np.uint8))):
        io.create_labels(path, name, dtype=values.dtype, **place).write(Box.of(labels.shape), values)
    return path


@pytest.mark.parametrize("kind", ["glb", "ply", "stl", "obj"])
def test_formats(store: Path, tmp_path: Path, kind: str) -> None:
    folder = workflow.mesh(store, kind=kind, output=tmp_path / "m", error_um=0.05)
    assert sorted(p.name for p in folder.iterdir()) == sorted([".fewslice", f"5.{kind}", f"9.{kind}", f"1000.{kind}"])
    labels = io.open_labels(store / "labels/instances").read()[0]
    for k in (5, 9, 1000):
        mesh = trimesh.load(folder / f"{k}.{kind}", force="mesh", process=kind == "stl")  # STL has no shared vertices
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx((labels == k).sum() * np.prod(VOXEL), rel=0.04)
        centre = np.argwhere(labels == k).mean(axis=0) * VOXEL + ORIGIN
        assert mesh.center_mass == pytest.approx(centre[::-1], abs=0.05)


def test_normals_are_stored(store: Path, tmp_path: Path) -> None:
    folder = workflow.mesh(store, kind="obj", objects=[5], output=tmp_path / "m")
    assert "\nvn " in (folder / "5.obj").read_text(encoding="utf-8")
    workflow.mesh(store, kind="glb", objects=[5], output=tmp_path / "g")
    assert b"NORMAL" in (tmp_path / "g/5.glb").read_bytes()


def test_neuroglancer(store: Path, tmp_path: Path) -> None:
    """Decoded as the format's specification says, every level lies where the object is."""
    draco = pytest.importorskip("DracoPy")
    folder = workflow.mesh(store, kind="neuroglancer", objects=[9], output=tmp_path / "n", error_um=0.02)
    info = json.loads((folder / "info").read_text(encoding="utf-8"))
    assert info["@type"] == "neuroglancer_multilod_draco"
    manifest = (folder / "9.index").read_bytes()
    chunk, origin = np.frombuffer(manifest, "<f4", 3), np.frombuffer(manifest, "<f4", 3, 12)
    (count,) = struct.unpack_from("<I", manifest, 24)
    scales = np.frombuffer(manifest, "<f4", count, 28)
    offsets = np.frombuffer(manifest, "<f4", 3 * count, 28 + 4 * count).reshape(count, 3)
    numbers = np.frombuffer(manifest, "<u4", count, 28 + 16 * count)
    assert count == 3 and numbers.tolist() == [1] * 3 and scales.tolist() == pytest.approx([20, 80, 320])
    at, begin, faces = 28 + 20 * count, 0, []
    content = (folder / "9").read_bytes()
    labels = io.open_labels(store / "labels/instances").read()[0]
    for level in range(count):
        position, size = np.frombuffer(manifest, "<u4", 3, at), struct.unpack_from("<I", manifest, at + 12)[0]
        at += 16
        found = draco.decode(content[begin : begin + size])
        begin += size
        points = np.asarray(found.points)
        assert np.issubdtype(points.dtype, np.integer) and points.max() <= 2 ** info["vertex_quantization_bits"] - 1
        nm = (
            origin
            + offsets[level]
            + chunk * 2.0**level * (position + points / (2 ** info["vertex_quantization_bits"] - 1))
        )
        mesh = trimesh.Trimesh(nm / 1000, np.asarray(found.faces).reshape(-1, 3))
        assert mesh.is_watertight and mesh.volume == pytest.approx((labels == 9).sum() * np.prod(VOXEL), rel=0.12)
        centre = np.argwhere(labels == 9).mean(axis=0) * VOXEL + ORIGIN
        assert mesh.center_mass == pytest.approx(centre[::-1], abs=0.1)
        faces.append(len(mesh.faces))
    assert at == len(manifest) and begin == len(content) and faces[0] > faces[1] > faces[2]


def test_classes_are_one_surface_each(store: Path, tmp_path: Path) -> None:
    folder = workflow.mesh(store, classes=[7], output=tmp_path / "m")
    mesh = trimesh.load(folder / "class_7.glb", force="mesh")
    assert mesh.is_watertight and mesh.body_count >= 2


def test_neuroglancer_asks_for_classes_by_number(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("DracoPy")
    folder = workflow.mesh(store, classes=[7], kind="neuroglancer", output=tmp_path / "n")
    assert sorted(p.name for p in folder.iterdir()) == [".fewslice", "7", "7.index", "info"]


def test_large_objects_are_read_in_blocks(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = workflow.mesh(store, output=tmp_path / "whole")
    monkeypatch.setattr(meshes.object_surface, "__defaults__", (3000,))
    read, largest = io.ome_zarr.ZarrArray.__getitem__, []

    def spy(self: Any, index: Any) -> Any:
        values = read(self, index)
        largest.append(values.size)
        return values

    monkeypatch.setattr(meshes, "_boxes", lambda *args, boxes=meshes._boxes: (boxes(*args), largest.clear())[0])
    monkeypatch.setattr(io.ome_zarr.ZarrArray, "__getitem__", spy)
    cut = workflow.mesh(store, output=tmp_path / "cut")
    assert max(largest) <= 3000
    for k in (5, 9, 1000):
        assert (whole / f"{k}.glb").read_bytes() == (cut / f"{k}.glb").read_bytes()


def test_boxes_come_from_the_table(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = workflow.mesh(store, output=tmp_path / "before")
    workflow.measure(store)

    def refuse(*args: Any, **others: Any) -> None:
        raise AssertionError("the blocks are read again")

    monkeypatch.setattr(meshes, "SumBlocks", refuse)
    after = workflow.mesh(store, output=tmp_path / "after")
    assert (before / "9.glb").read_bytes() == (after / "9.glb").read_bytes()


def test_a_killed_run_goes_on(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    write = mesh_files.write_mesh

    def noted(folder: Path, name: str, *others: Any) -> Any:
        made.append(name)
        return write(folder, name, *others)

    def killed(folder: Path, name: str, *others: Any) -> Any:
        if len(made) == 1:
            raise KeyboardInterrupt
        return noted(folder, name, *others)

    monkeypatch.setattr(meshes, "write_mesh", killed)
    with pytest.raises(KeyboardInterrupt):
        workflow.mesh(store, output=tmp_path / "m")
    monkeypatch.setattr(meshes, "write_mesh", noted)
    workflow.mesh(store, output=tmp_path / "m")
    assert sorted(made) == ["1000", "5", "9"]
    with pytest.raises(InputError, match="--overwrite"):
        workflow.mesh(store, output=tmp_path / "m", smoothing=0)
    workflow.mesh(store, output=tmp_path / "m", smoothing=0, overwrite=True)


@pytest.mark.parametrize("module", ["trimesh", "fast_simplification", "DracoPy"])
def test_a_missing_library_is_named(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    from importlib import import_module

    def missing(name: str) -> Any:
        if name == module:
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr("fewslice.measurement.mesh.import_module", missing)
    with pytest.raises(InputError, match=r"fewslice\[meshes\]"):
        workflow.mesh(store, kind="neuroglancer", output=tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_nothing_of_others_is_removed(store: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds no meshes"):
        workflow.mesh(store, output=tmp_path / "m", overwrite=True)


def test_further_objects_join_a_finished_folder_and_lost_files_are_made_again(store: Path, tmp_path: Path) -> None:
    """What was made before stays as it is, is still verified, and does not count as progress."""
    workflow.mesh(store, objects=[5], output=tmp_path / "m")
    events: list[dict[str, Any]] = []
    workflow.mesh(store, objects=[9, 1000], output=tmp_path / "m", listener=events.append)
    assert [(e["done"], e["blocks"]) for e in events if e["event"] == "block"] == [(1, 2), (2, 2)]
    found = workflow.verify(tmp_path / "m")
    assert (found.exit_code, found.blocks) == (0, 3)
    before = (tmp_path / "m" / "5.glb").read_bytes()
    (tmp_path / "m" / "5.glb").unlink()
    assert [d.problem for d in workflow.verify(tmp_path / "m").damaged] == ["missing"]
    workflow.mesh(store, output=tmp_path / "m")
    assert (tmp_path / "m" / "5.glb").read_bytes() == before
    assert workflow.verify(tmp_path / "m").exit_code == 0
