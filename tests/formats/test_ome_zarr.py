"""OME-Zarr: versions, metadata, blocks, pyramids, labels, damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from fewslice.errors import DiskError, InputError
from fewslice.formats import ome_zarr
from fewslice.formats._reduce import halve_mean, halve_mode, level_factors
from fewslice.geometry import Box, cover
from fewslice.io import (
    OutputStore,
    create_labels,
    create_output,
    open_labels,
    open_output,
    open_volume,
    remove_leftovers,
    save_volume,
    write_pyramid,
)
from fewslice.volume import Volume


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(store: OutputStore, values: np.ndarray) -> None:
    for block in cover(store.shape, store.unit, (0, 0, 0)):
        store.write(block.write, values[(..., *block.write.slices)])


def values_of(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def ome(folder: Path) -> dict[str, Any]:
    attributes = dict(zarr.open_group(folder, mode="r").attrs)
    return attributes.get("ome", attributes)  # type: ignore[no-any-return]


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_output_written_by_blocks_is_read_back(tmp_path: Path, version: str) -> None:
    path = tmp_path / "OUT.ome.zarr"
    values = values_of((2, 20, 70, 90))
    store = create_output(
        path, shape=(20, 70, 90), channel_names=["soma", "vessel"], voxel_size_um=(2, 0.88, 0.44), origin_um=(1, 2, 3),
        chunks=(8, 32, 32), attributes={"run": "abc"}, ome_version=version,
    )  # fmt: skip
    assert store.unit == (8, 32, 32)
    fill(store, values)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(), values)
    np.testing.assert_array_equal(np.asarray(zarr.open_array(path / "0", mode="r")), values)
    np.testing.assert_array_equal(store.read(Box((3, 4, 5), (9, 40, 50))), values[:, 3:9, 4:40, 5:50])
    assert volume.voxel_size_um == (2.0, 0.88, 0.44)
    assert volume.origin_um == (1.0, 2.0, 3.0)
    assert volume.channel_names == ("soma", "vessel")
    assert volume.chunks == (8, 32, 32)
    assert volume.attributes == {"run": "abc"}
    assert volume.axes_note is None
    store.set_attributes({"run": "def"})
    assert open_output(path).attributes == {"run": "def"}
    assert open_volume(path).voxel_size_um == (2.0, 0.88, 0.44)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_what_is_on_disk_is_what_the_version_says(tmp_path: Path, version: str) -> None:
    path = tmp_path / "OUT.ome.zarr"
    create_output(path, shape=(4, 8, 8), channel_names=["a"], voxel_size_um=(2, 1, 1), ome_version=version)
    group, array = zarr.open_group(path, mode="r"), zarr.open_array(path / "0", mode="r")
    assert group.metadata.zarr_format == array.metadata.zarr_format == (3 if version == "0.5" else 2)
    if version == "0.5":
        assert group.attrs["ome"]["version"] == "0.5"  # type: ignore[index, call-overload]
        assert array.metadata.dimension_names == ("c", "z", "y", "x")  # type: ignore[union-attr]
        assert "version" not in ome(path)["multiscales"][0]
    else:
        assert ome(path)["multiscales"][0]["version"] == "0.4"
        assert json.loads((path / "0" / ".zarray").read_text())["dimension_separator"] == "/"
    assert ome(path)["multiscales"][0]["axes"] == [
        {"name": "c", "type": "channel"},
        *({"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"),
    ]


def test_unknown_voxel_size_has_no_unit_and_stays_unknown(tmp_path: Path) -> None:
    path = tmp_path / "OUT.ome.zarr"
    create_output(path, shape=(4, 8, 8), channel_names=["a"])
    assert all("unit" not in axis for axis in ome(path)["multiscales"][0]["axes"])
    assert open_volume(path).voxel_size_um is None


def test_existing_output_is_kept_unless_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "OUT.ome.zarr"
    fill(create_output(path, shape=(4, 8, 8), channel_names=["a"]), values_of((1, 4, 8, 8)))
    before = contents(tmp_path)
    with pytest.raises(InputError, match="--overwrite"):
        create_output(path, shape=(5, 8, 8), channel_names=["a"])
    with pytest.raises(InputError, match=r"0\.7"):
        create_output(path, shape=(5, 8, 8), channel_names=["a"], ome_version="0.7", overwrite=True)
    with pytest.raises(InputError, match="above 0"):
        create_output(path, shape=(5, 8, 8), channel_names=["a"], voxel_size_um=(0, 1, 1), overwrite=True)
    assert contents(tmp_path) == before
    create_output(path, shape=(5, 8, 8), channel_names=["a"], overwrite=True)
    assert open_volume(path).shape == (5, 8, 8)
    assert [p.name for p in tmp_path.iterdir()] == ["OUT.ome.zarr"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.zarr"
    path.mkdir()
    (path / "chapter1.txt").write_text("…", encoding="utf-8")
    with pytest.raises(InputError, match="no Zarr store"):
        create_output(path, shape=(4, 8, 8), channel_names=["a"], overwrite=True)
    assert (path / "chapter1.txt").exists()
    with pytest.raises(InputError, match=r"OUT\.ome\.zarr"):
        create_output(tmp_path / "OUT.tif", shape=(4, 8, 8), channel_names=["a"])


def test_blocks_that_could_share_a_chunk_are_refused(tmp_path: Path) -> None:
    store = create_output(tmp_path / "OUT.ome.zarr", shape=(20, 70, 90), channel_names=["a"], chunks=(8, 32, 32))
    for start, stop in (((0, 0, 0), (4, 32, 32)), ((0, 16, 0), (8, 32, 32)), ((16, 64, 64), (20, 70, 91))):
        box = Box(start, stop)
        with pytest.raises(InputError, match="whole chunks"):
            store.write(box, np.zeros((1, *box.shape), np.uint8))
    store.write(Box((16, 64, 64), (20, 70, 90)), np.zeros((1, 4, 6, 26), np.uint8))
    with pytest.raises(InputError, match="expected"):
        store.write(Box((0, 0, 0), (8, 32, 32)), np.zeros((1, 8, 32, 31), np.uint8))
    with pytest.raises(InputError, match="expected"):
        store.write(Box((0, 0, 0), (8, 32, 32)), np.zeros((1, 8, 32, 32), np.float32))


def test_shards_are_the_unit_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "OUT.ome.zarr"
    values = values_of((1, 20, 70, 90))
    store = create_output(path, shape=(20, 70, 90), channel_names=["a"], chunks=(4, 16, 16), shards=(8, 32, 32))
    assert store.unit == (8, 32, 32)
    with pytest.raises(InputError, match="whole chunks"):
        store.write(Box((0, 0, 0), (4, 16, 16)), values[:, :4, :16, :16])
    fill(store, values)
    write_pyramid(path)
    stored = ome_zarr.read(str(path))
    assert (stored.chunks, stored.shards) == ((1, 4, 16, 16), (1, 8, 32, 32))
    np.testing.assert_array_equal(open_volume(path).read(), values)
    with pytest.raises(InputError, match="no shards"):
        create_output(
            tmp_path / "b.ome.zarr",
            shape=(20, 70, 90),
            channel_names=["a"],
            chunks=(4, 16, 16),
            shards=(8, 32, 32),
            ome_version="0.4",
        )


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_equal_values_give_equal_bytes_in_any_order(tmp_path: Path, version: str) -> None:
    values = values_of((2, 20, 300, 90))
    stores = []
    for name, reverse in (("one", False), ("two", True)):
        path = tmp_path / name / "OUT.ome.zarr"
        store = create_output(
            path, shape=(20, 300, 90), channel_names=["a", "b"], chunks=(8, 64, 64), ome_version=version
        )
        blocks = cover(store.shape, store.unit, (0, 0, 0))
        for block in reversed(blocks) if reverse else blocks:
            store.write(block.write, values[(slice(None), *block.write.slices)])
        write_pyramid(path)
        if reverse:
            write_pyramid(path)  # once more changes nothing
        stores.append(contents(path))
    assert stores[0] == stores[1]


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "OUT.ome.zarr"
    fill(create_output(path, shape=(4, 8, 8), channel_names=["a"]), values_of((1, 4, 8, 8)))
    before = contents(path)
    (path / "0" / "c" / "0" / "0" / "0" / "0.0123abc.partial").write_bytes(b"half")
    remove_leftovers(path)
    fill(open_output(path), values_of((1, 4, 8, 8)))
    assert contents(path) == before


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = create_output(tmp_path / "OUT.ome.zarr", shape=(4, 8, 8), channel_names=["a"])

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(store.array), "__setitem__", full)
    with pytest.raises(DiskError, match="the disk is full"):
        store.write(Box((0, 0, 0), (4, 8, 8)), values_of((1, 4, 8, 8)))
    monkeypatch.setattr("fewslice.formats._ngff.write_atomic", full)
    with pytest.raises(DiskError, match="the disk is full"):
        create_output(tmp_path / "b.ome.zarr", shape=(4, 8, 8), channel_names=["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["OUT.ome.zarr"]


class TestPyramid:
    def test_levels_halve_what_is_large(self) -> None:
        assert level_factors((50, 200, 256), (2, 1, 1)) == [(1, 1, 1)]
        assert level_factors((50, 300, 300), (2, 1, 1)) == [(1, 1, 1), (1, 2, 2)]
        assert level_factors((50, 600, 600), (2, 0.88, 0.88)) == [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
        assert level_factors((165, 768, 1024), (0.005,) * 3) == [(1, 1, 1), (2, 2, 2), (4, 4, 4)]
        assert level_factors((600, 100, 100), None)[-1] == (4, 4, 4)
        assert level_factors((1, 1000, 1000), None) == [(1, 1, 1), (1, 2, 2), (1, 4, 4)]

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64", "float32"])
    def test_mean_against_a_plain_loop(self, dtype: str) -> None:
        high = 2**62 if dtype.endswith("64") else 250
        values = np.random.default_rng(0).integers(0, high, (3, 5, 4)).astype(dtype)
        reduced = halve_mean(values, (2, 2, 1))
        assert reduced.shape == (2, 3, 4) and reduced.dtype == np.dtype(dtype)
        for z, y, x in np.ndindex(2, 3, 4):
            part = values[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, x]
            exact = sum(int(v) for v in part.ravel()) / part.size
            assert abs(float(reduced[z, y, x]) - exact) <= max(0.5, exact * 1e-7)

    def test_mode_against_a_plain_loop(self) -> None:
        values = np.random.default_rng(0).integers(0, 4, (5, 7, 6)).astype(np.uint32)
        reduced = halve_mode(values, (2, 2, 2))
        padded = np.pad(values, ((0, 1), (0, 1), (0, 0)), mode="edge")
        for z, y, x in np.ndindex(3, 4, 3):
            part = padded[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()
            numbers, votes = np.unique(part, return_counts=True)
            assert reduced[z, y, x] == numbers[votes == votes.max()].max()

    def test_mode_makes_no_new_labels(self) -> None:
        values = np.random.default_rng(0).choice([0, 7, 2**63], (9, 9, 9)).astype(np.uint64)
        assert set(np.unique(halve_mode(values, (2, 2, 2)))) <= {0, 7, 2**63}

    def test_levels_of_a_store_are_reductions_of_the_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "OUT.ome.zarr"
        values = values_of((2, 11, 301, 530))
        fill(
            create_output(
                path, shape=(11, 301, 530), channel_names=["a", "b"], voxel_size_um=(2, 0.88, 0.88), chunks=(4, 32, 32)
            ),
            values,
        )
        labels = create_labels(
            path,
            "segmentation",
            shape=(11, 301, 530),
            dtype="uint16",
            voxel_size_um=(2, 0.88, 0.88),
            chunks=(4, 32, 32),
        )
        fill(labels, values[0].astype(np.uint16))
        write_pyramid(path)
        write_pyramid(path, "labels/segmentation")
        first = halve_mean(values, (1, 1, 2, 2))
        np.testing.assert_array_equal(np.asarray(zarr.open_array(path / "1", mode="r")), first)
        np.testing.assert_array_equal(
            np.asarray(zarr.open_array(path / "2", mode="r")), halve_mean(first, (1, 2, 2, 2))
        )
        voted = halve_mode(values[0].astype(np.uint16), (1, 2, 2))
        np.testing.assert_array_equal(np.asarray(zarr.open_array(path / "labels/segmentation/1", mode="r")), voted)
        image, label = (ome(p)["multiscales"][0] for p in (path, path / "labels/segmentation"))
        assert (image["type"], label["type"]) == ("mean", "mode")
        assert "mean" in image["metadata"]["description"] and "commonest" in label["metadata"]["description"]
        second = image["datasets"][2]["coordinateTransformations"]
        assert second[0] == {"type": "scale", "scale": [1, 4.0, 3.52, 3.52]}
        # Voxel (0, 0, 0) stands for z 0..1 and y, x 0..3: its centre lies between theirs.
        assert second[1]["translation"] == pytest.approx([0, 1.0, 0.88 * 1.5, 0.88 * 1.5])
        assert open_volume(path).voxel_size_um == (2.0, 0.88, 0.88)

    def test_window_shows_what_occurs(self, tmp_path: Path) -> None:
        values = values_of((1, 4, 300, 40), "uint16") + np.uint16(1000)
        save_volume(tmp_path / "a.ome.zarr", Volume.from_array(values))
        window = ome(tmp_path / "a.ome.zarr")["omero"]["channels"][0]["window"]
        assert 1000 <= window["start"] < window["end"] <= 1200 and window["max"] == 65535


class TestLabels:
    @pytest.mark.parametrize("version", ["0.5", "0.4"])
    def test_labels_lie_under_their_image(self, tmp_path: Path, version: str) -> None:
        path = tmp_path / "OUT.ome.zarr"
        create_output(path, shape=(4, 8, 9), channel_names=["a"], voxel_size_um=(2, 1, 1), ome_version=version)
        values = values_of((4, 8, 9), "uint32")
        for name in ("segmentation", "instances"):
            store = create_labels(
                path, name, shape=(4, 8, 9), dtype="uint32", voxel_size_um=(2, 1, 1), colours={1: (255, 0, 0, 255)},
                class_names={1: "soma"}, attributes={"threshold": 0.5},
            )  # fmt: skip
            fill(store, values)
            write_pyramid(path, f"labels/{name}")
        assert open_volume(path).label_names == ("instances", "segmentation")
        volume = open_labels(path / "labels" / "segmentation")
        np.testing.assert_array_equal(volume.read()[0], values)
        assert volume.voxel_size_um == (2.0, 1.0, 1.0) and volume.attributes == {"threshold": 0.5}
        label = ome(path / "labels" / "segmentation")["image-label"]
        assert label["colors"] == [{"label-value": 1, "rgba": [255, 0, 0, 255]}]
        assert label["properties"] == [{"label-value": 1, "name": "soma"}]
        assert label["source"] == {"image": "../../"}
        assert (path / "labels" / "segmentation" / ("zarr.json" if version == "0.5" else ".zgroup")).is_file()

    def test_no_colours_are_no_nulls(self, tmp_path: Path) -> None:
        create_output(tmp_path / "a.ome.zarr", shape=(4, 8, 9), channel_names=["a"])
        create_labels(tmp_path / "a.ome.zarr", "s", shape=(4, 8, 9), dtype="uint8")
        assert ome(tmp_path / "a.ome.zarr/labels/s")["image-label"] == {"source": {"image": "../../"}}

    def test_refusals(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ome.zarr"
        with pytest.raises(InputError, match="not an OME-Zarr image"):
            create_labels(path, "s", shape=(4, 8, 9), dtype="uint8")
        create_output(path, shape=(4, 8, 9), channel_names=["a"])
        create_labels(path, "s", shape=(4, 8, 9), dtype="uint8")
        with pytest.raises(InputError, match="--overwrite"):
            create_labels(path, "s", shape=(4, 8, 9), dtype="uint8")
        create_labels(path, "s", shape=(4, 8, 10), dtype="uint8", overwrite=True)
        assert open_labels(path / "labels/s").shape == (4, 8, 10)
        for name in ("../s", "", "a/b", ".s"):
            with pytest.raises(InputError, match="cannot name"):
                create_labels(path, name, shape=(4, 8, 9), dtype="uint8")
        with pytest.raises(InputError, match="integers"):
            create_labels(path, "t", shape=(4, 8, 9), dtype="float32")


class TestForeign:
    def test_units_axes_and_time_of_others(self, tmp_path: Path) -> None:
        values = values_of((1, 3, 4, 8, 9), "uint16")
        group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
        group.create_array("full", data=values, chunks=(1, 1, 2, 8, 8))
        group.attrs["multiscales"] = [
            {
                "version": "0.4",
                "axes": [
                    {"name": "t", "type": "time"},
                    {"name": "c", "type": "channel"},
                    *({"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"),
                ],
                "datasets": [
                    {"path": "full", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1000, 250, 250]}]}
                ],
                "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 2, 2]}],
            }
        ]
        volume = open_volume(tmp_path / "a.zarr")
        assert volume.voxel_size_um == (2.0, 0.5, 0.5)
        np.testing.assert_array_equal(volume.read(), values[0])

    def test_old_versions_without_axes(self, tmp_path: Path) -> None:
        values = values_of((1, 2, 4, 8, 9))
        group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
        group.create_array("0", data=values)
        group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "0"}]}]
        assert open_volume(tmp_path / "a.zarr").array.shape == (2, 4, 8, 9)
        group.attrs["multiscales"] = [{"version": "0.3", "axes": list("tczyx"), "datasets": [{"path": "0"}]}]
        assert open_volume(tmp_path / "a.zarr").array.shape == (2, 4, 8, 9)

    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_plain_array(self, tmp_path: Path, zarr_format: Any) -> None:
        values = values_of((5, 2, 8, 9), ">u2")
        zarr.create_array(tmp_path / "a.zarr", data=values, zarr_format=zarr_format)
        np.testing.assert_array_equal(
            open_volume(tmp_path / "a.zarr", axes="zcyx").read(), values.transpose(1, 0, 2, 3)
        )
        with pytest.raises(InputError, match="--axes zcyx"):
            open_volume(tmp_path / "a.zarr")

    def test_a_codec_that_only_zarr_has(self, tmp_path: Path) -> None:
        import numcodecs

        values = values_of((5, 8, 9))
        zarr.create_array(tmp_path / "a.zarr", data=values, zarr_format=2, compressors=numcodecs.LZMA())
        np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").read()[0], values)

    def test_labels_into_an_image_of_others(self, tmp_path: Path) -> None:
        group = zarr.create_group(tmp_path / "a.zarr", zarr_format=3, attributes={"mine": 1})
        group.create_group("labels", attributes={"ome": {"version": "0.5", "labels": ["theirs"]}, "keep": True})
        create_labels(tmp_path / "a.zarr", "ours", shape=(4, 8, 9), dtype="uint8")
        attributes = dict(zarr.open_group(tmp_path / "a.zarr/labels", mode="r").attrs)
        assert attributes == {"ome": {"version": "0.5", "labels": ["ours", "theirs"]}, "keep": True}


class TestLazyAndDamaged:
    def test_a_hundred_terabytes_open_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.ome.zarr"
        create_output(path, shape=(20000, 70000, 70000), channel_names=["a"])
        volume = open_volume(path)
        assert volume.shape == (20000, 70000, 70000)
        assert not volume.read(Box((19990, 69990, 69990), (20000, 70000, 70000))).any()
        assert volume.content_hash() == open_volume(path).content_hash()

    def test_a_box_reads_only_its_chunks(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ome.zarr"
        values = values_of((1, 8, 64, 64))
        fill(create_output(path, shape=(8, 64, 64), channel_names=["a"], chunks=(8, 32, 32)), values)
        damaged = path / "0" / "c" / "0" / "0" / "1" / "1"
        damaged.write_bytes(damaged.read_bytes()[:50])
        volume = open_volume(path)
        np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (8, 32, 64))), values[:, :, :32])
        with pytest.raises(InputError, match="damaged or truncated") as caught:
            volume.read()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("version", ["0.5", "0.4"])
    def test_truncated_metadata_is_refused(self, tmp_path: Path, version: str) -> None:
        whole = tmp_path / "whole.ome.zarr"
        fill(
            create_output(whole, shape=(4, 8, 8), channel_names=["a"], voxel_size_um=(1, 1, 1), ome_version=version),
            values_of((1, 4, 8, 8)),
        )
        for name in ("zarr.json", "0/zarr.json") if version == "0.5" else (".zattrs", "0/.zarray"):
            for share in (0.0, 0.5, 0.98):
                path = tmp_path / "a.ome.zarr"
                shutil.copytree(whole, path)
                data = (path / name).read_bytes()
                (path / name).write_bytes(data[: int(len(data) * share)])
                with pytest.raises(InputError) as caught:
                    open_volume(path)
                assert "\n" not in str(caught.value)
                shutil.rmtree(path)

    def test_missing_parts_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ome.zarr"
        create_output(path, shape=(4, 8, 8), channel_names=["a"])
        shutil.rmtree(path / "0")
        with pytest.raises(InputError, match="missing"):
            open_volume(path)
        (tmp_path / "empty.ome.zarr").mkdir()
        with pytest.raises(InputError, match="not a Zarr store"):
            open_volume(tmp_path / "empty.ome.zarr")
        zarr.create_group(tmp_path / "group.zarr").create_array("raw", data=values_of((4, 8, 8)))
        with pytest.raises(InputError, match=r"no multiscales.*raw"):
            open_volume(tmp_path / "group.zarr")
        with pytest.raises(InputError, match="does not exist"):
            open_volume(tmp_path / "group.zarr" / "labels" / "s")

    @pytest.mark.parametrize(
        "image",
        [
            {"axes": [{"name": "y"}], "datasets": [{"path": "0"}]},
            {"datasets": []},
            {"datasets": "0"},
            {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1]}]}]},
        ],
    )
    def test_nonsense_metadata_is_refused(self, tmp_path: Path, image: dict[str, Any]) -> None:
        group = zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        group.create_array("0", data=values_of((4, 8, 8)))
        with pytest.raises(InputError) as caught:
            open_volume(tmp_path / "a.zarr")
        assert "\n" not in str(caught.value)
