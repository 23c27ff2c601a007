"""TIFF of every kind: axes, voxel sizes, lazy and thread-safe reading, damage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from fewslice.errors import InputError
from fewslice.formats import tiff
from fewslice.formats._cache import RecentPieces
from fewslice.geometry import Box
from fewslice.io import open_labels, open_volume, save_labels, save_volume
from fewslice.volume import Volume


def ramp(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    """Values that are all different within the type, so that a wrong place shows."""
    count = int(np.prod(shape))
    return (np.arange(count) % 251 if dtype == "uint8" else np.arange(count)).astype(dtype).reshape(shape)


LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "zlib": {"compression": "zlib"},
    "zlib_strips": {"compression": "zlib", "rowsperstrip": 7},
    "predictor": {"compression": "zlib", "predictor": True},
    "lzw": {"compression": "lzw"},
    "zstd": {"compression": "zstd"},
    "tiles": {"compression": "zlib", "tile": (16, 32)},
    "plain_tiles": {"tile": (16, 16)},
    "big": {"bigtiff": True},
    "big_endian": {"byteorder": ">"},
    "big_endian_zlib": {"byteorder": ">", "compression": "zlib"},
}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_boxes_like_the_whole(tmp_path: Path, layout: str, dtype: str) -> None:
    values = ramp((5, 2, 37, 53), dtype)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values, photometric="minisblack", **LAYOUTS[layout])
    volume = open_volume(path, axes="zcyx")
    expected = values.transpose(1, 0, 2, 3)
    assert volume.dtype == np.dtype(dtype) and volume.dtype.isnative
    np.testing.assert_array_equal(volume.read(), expected)
    box = Box((1, 5, 17), (4, 30, 50))
    np.testing.assert_array_equal(volume.read(box, channels=[1]), expected[(slice(1, 2), *box.slices)])
    np.testing.assert_array_equal(volume.array[:, 2:3, 36:37, 52:53], expected[:, 2:3, 36:37, 52:53])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib", "rowsperstrip": 5}, {"compression": "zlib", "tile": (16, 16)}]
)
def test_colours_are_channels(tmp_path: Path, samples: int, planar: str, options: dict[str, Any]) -> None:
    values = ramp((20, 24, samples), "uint8")
    path = tmp_path / "section.tif"
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    axes = {"axes": "YXS" if planar == "contig" else "SYX"}
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, metadata=axes, **options)
    volume = open_volume(path)
    assert (volume.channels, volume.shape) == (samples, (1, 20, 24))
    np.testing.assert_array_equal(volume.read()[:, 0], values.transpose(2, 0, 1))
    np.testing.assert_array_equal(volume.array[1:3, 0:1, 4:19, 6:20][:, 0], values.transpose(2, 0, 1)[1:3, 4:19, 6:20])


def test_trailing_axis_of_three_is_colour_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    values = ramp((5, 12, 13, 3), "uint8")
    tifffile.imwrite(path, values, photometric="rgb")
    volume = open_volume(path)
    assert (volume.channels, volume.shape, volume.axes_note) == (3, (5, 12, 13), None)
    assert volume.channel_names == ("red", "green", "blue")
    np.testing.assert_array_equal(volume.read(), values.transpose(3, 0, 1, 2))


def test_four_planes_that_tifffile_takes_for_colours_stay_unknown(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    values = ramp((4, 12, 13), "uint8")
    with pytest.warns(DeprecationWarning):
        tifffile.imwrite(path, values)
    assert open_labels(path).shape == (4, 12, 13)
    np.testing.assert_array_equal(open_labels(path).read()[0], values)
    with pytest.raises(InputError, match="--axes zyx or --axes cyx"):
        open_volume(path)


def test_generic_axes_are_unknown_then_inferred(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, ramp((21, 2, 8, 9)), photometric="minisblack")
    volume = open_volume(path, expected_shape=(21, 8, 9))
    assert volume.channels == 2 and volume.axes_note is not None and "zcyx" in volume.axes_note
    assert open_volume(path, expected_channels=2).channels == 2
    with pytest.raises(InputError, match="--axes zcyx or --axes czyx"):
        open_volume(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_written_one_by_one_are_a_stack(tmp_path: Path, compression: str | None) -> None:
    values = ramp((6, 8, 9))
    for name, metadata in (("bare.tif", None), ("shaped.tif", {})):
        with tifffile.TiffWriter(tmp_path / name) as writer:
            for plane in values:
                writer.write(plane, contiguous=False, metadata=metadata, compression=compression)
        volume = open_volume(tmp_path / name)
        assert volume.shape == (6, 8, 9)
        np.testing.assert_array_equal(volume.read()[0], values)


def test_binary_and_tiled_volumes(tmp_path: Path) -> None:
    mask = ramp((5, 20, 21)) % 3 == 0
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack")
    labels = open_labels(tmp_path / "mask.tif")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels.read()[0], mask)
    values = ramp((20, 40, 40))
    tifffile.imwrite(tmp_path / "deep.tif", values, volumetric=True, tile=(16, 16, 16), compression="zlib")
    np.testing.assert_array_equal(
        open_volume(tmp_path / "deep.tif").read(Box((3, 5, 7), (19, 33, 40)))[0], values[3:19, 5:33, 7:]
    )


class TestVoxelSize:
    @pytest.mark.parametrize("unit", ["um", "micron", "microns", "\\u00B5m", "µm", "nm", "mm"])
    def test_imagej(self, tmp_path: Path, unit: str) -> None:
        factor = {"nm": 1e-3, "mm": 1e3}.get(unit, 1.0)
        path = tmp_path / "stack.tif"
        tifffile.imwrite(
            path, ramp((5, 2, 8, 9)), imagej=True, resolution=(factor / 0.44, factor / 0.88),
            metadata={"axes": "ZCYX", "spacing": 2.0 / factor, "unit": unit.replace("µ", "\\u00B5")},
        )  # fmt: skip
        volume = open_volume(path)
        assert (volume.channels, volume.shape) == (2, (5, 8, 9))
        assert volume.voxel_size_um == pytest.approx((2.0, 0.88, 0.44), rel=1e-5)

    def test_imagej_pixels_are_no_unit(self, tmp_path: Path) -> None:
        path = tmp_path / "stack.tif"
        tifffile.imwrite(
            path,
            ramp((5, 8, 9)),
            imagej=True,
            resolution=(2, 2),
            metadata={"axes": "ZYX", "spacing": 2.0, "unit": "pixel"},
        )
        assert open_volume(path).voxel_size_um is None

    @pytest.mark.parametrize(("unit", "factor"), [("µm", 1.0), ("nm", 1e-3), ("mm", 1e3), (None, 1.0)])
    def test_ome(self, tmp_path: Path, unit: str | None, factor: float) -> None:
        metadata: dict[str, Any] = {"axes": "CZYX", "Channel": {"Name": ["soma", "glia"]}}
        for axis, value in zip("ZYX", (2.0, 0.88, 0.44), strict=True):
            metadata[f"PhysicalSize{axis}"] = value / factor
            if unit is not None:
                metadata[f"PhysicalSize{axis}Unit"] = unit
        path = tmp_path / "stack.ome.tif"
        tifffile.imwrite(path, ramp((2, 5, 8, 9)), metadata=metadata, photometric="minisblack")
        volume = open_volume(path)
        assert volume.voxel_size_um == pytest.approx((2.0, 0.88, 0.44))
        assert volume.channel_names == ("soma", "glia")

    @pytest.mark.parametrize("value", [0, -1.0])
    def test_nonsense_in_the_file_counts_as_unknown(self, tmp_path: Path, value: float) -> None:
        path = tmp_path / "stack.ome.tif"
        size = {"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0, "PhysicalSizeZ": value}
        tifffile.imwrite(path, ramp((5, 8, 9)), metadata={"axes": "ZYX", **size}, photometric="minisblack")
        assert open_volume(path).voxel_size_um is None

    def test_one_plane_lacks_no_thickness_but_a_stack_does(self, tmp_path: Path) -> None:
        for name, shape in (("plane.tif", (8, 9)), ("stack.tif", (5, 8, 9))):
            tifffile.imwrite(
                tmp_path / name,
                ramp(shape),
                resolution=(1e4 / 0.346, 1e4 / 0.346),
                resolutionunit="CENTIMETER",
                photometric="minisblack",
            )
        assert open_volume(tmp_path / "plane.tif").voxel_size_um == pytest.approx((0.346, 0.346, 0.346), rel=1e-5)
        assert open_volume(tmp_path / "stack.tif").voxel_size_um is None

    def test_a_printers_resolution_is_no_measurement(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "plane.tif", ramp((8, 9)), resolution=(72, 72), resolutionunit="INCH")
        assert open_volume(tmp_path / "plane.tif").voxel_size_um is None

    def test_given_goes_before_the_files(self, tmp_path: Path) -> None:
        path = tmp_path / "stack.ome.tif"
        save_volume(path, Volume.from_array(ramp((5, 8, 9)), (1, 1, 1)))
        assert open_volume(path, voxel_size_um=(3, 2, 2)).voxel_size_um == (3.0, 2.0, 2.0)


class TestLazy:
    def test_opening_and_a_box_read_little(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "stack.tif"
        rng = np.random.default_rng(0)
        values = rng.integers(0, 65535, (40, 256, 256)).astype(np.uint16)
        tifffile.imwrite(path, values, compression="zlib", rowsperstrip=64, photometric="minisblack")
        count = 0
        original = tifffile.FileHandle.read

        def counted(self: tifffile.FileHandle, size: int = -1, /) -> bytes:
            nonlocal count
            data = original(self, size)
            count += len(data)
            return data

        monkeypatch.setattr(tifffile.FileHandle, "read", counted)
        volume = open_volume(path)
        assert count < 100_000  # of 5 MB
        count = 0
        np.testing.assert_array_equal(volume.read(Box((10, 70, 0), (12, 80, 256)))[0], values[10:12, 70:80])
        one_strip = 64 * 256 * 2
        assert 2 * one_strip * 0.9 < count < 2 * one_strip * 1.2
        count = 0
        volume.read(Box((10, 64, 0), (12, 128, 256)))
        assert count == 0  # the last strips are kept

    def test_uncompressed_is_mapped_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "stack.tif"
        tifffile.imwrite(path, ramp((5, 8, 9)), photometric="minisblack")
        stored = tiff.read(str(path))
        assert isinstance(stored.array, tiff.MappedArray)
        path.write_bytes(path.read_bytes())  # no handle is left open

    def test_many_threads_read_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "stack.tif"
        values = ramp((30, 64, 64), "uint32")
        tifffile.imwrite(path, values, compression="zlib", rowsperstrip=8, photometric="minisblack")
        volume = open_volume(path)

        def check(seed: int) -> bool:
            rng = np.random.default_rng(seed)
            start = tuple(int(rng.integers(0, n)) for n in (24, 48, 48))
            box = Box(start, tuple(s + d for s, d in zip(start, (6, 16, 16), strict=True)))
            return bool((volume.read(box)[0] == values[box.slices]).all())

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(check, range(64)))

    def test_memory_of_the_cache_is_bounded(self) -> None:
        recent = RecentPieces(limit=1000)
        made = 0

        def make() -> np.ndarray:
            nonlocal made
            made += 1
            return np.zeros(300, np.uint8)

        for key in (0, 1, 2, 0, 3, 0, 1):
            recent.get(key, make)
        assert made == 5  # 1 was dropped when 3 came, 0 had been used since
        recent.get("large", lambda: np.zeros(2000, np.uint8))
        assert recent._bytes <= 1000


class TestDamage:
    @pytest.mark.parametrize("kind", ["plain", "zlib", "ome", "imagej", "bare", "tiles"])
    @pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])
    def test_truncated_is_refused_in_one_sentence(
        self, tmp_path: Path, kind: str, share: float, capfd: pytest.CaptureFixture[str]
    ) -> None:
        options: dict[str, dict[str, Any]] = {
            "plain": {},
            "zlib": {"compression": "zlib"},
            "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
            "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
            "bare": {"metadata": None},
            "tiles": {"tile": (16, 16), "compression": "zlib"},
        }
        path = tmp_path / "stack.tif"
        rng = np.random.default_rng(1)
        tifffile.imwrite(
            path, rng.integers(0, 255, (12, 40, 40)).astype(np.uint8), photometric="minisblack", **options[kind]
        )
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        if kind == "imagej" and share > 0.95:  # all planes are there, and ImageJ's readers need no more
            assert open_volume(path, axes="zyx").read().nbytes == 12 * 40 * 40
            return
        with pytest.raises(InputError) as caught:
            open_volume(path, axes="zyx").read()
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        assert capfd.readouterr() == ("", "")

    def test_changed_bytes_never_end_in_a_traceback(self, tmp_path: Path) -> None:
        path = tmp_path / "stack.tif"
        tifffile.imwrite(path, ramp((6, 30, 30), "uint8"), compression="zlib", photometric="minisblack")
        whole = bytearray(path.read_bytes())
        rng = np.random.default_rng(2)
        for _ in range(60):
            damaged = bytearray(whole)
            for position in rng.integers(4, len(whole), 3):
                damaged[position] = int(rng.integers(0, 256))
            path.write_bytes(damaged)
            try:
                open_volume(path).read()
            except InputError as error:
                assert "\n" not in str(error)

    def test_a_box_before_the_damage_is_still_read(self, tmp_path: Path) -> None:
        path = tmp_path / "stack.tif"
        rng = np.random.default_rng(1)
        values = rng.integers(0, 255, (6, 40, 40)).astype(np.uint8)
        tifffile.imwrite(path, values, compression="zlib", photometric="minisblack")
        with tifffile.TiffFile(path) as file:
            offset = file.pages[4].dataoffsets[0]
        data = bytearray(path.read_bytes())
        data[offset : offset + 20] = bytes(20)
        path.write_bytes(data)
        volume = open_volume(path)
        np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (4, 40, 40)))[0], values[:4])
        with pytest.raises(InputError, match="page 4"):
            volume.read()

    def test_float_labels_and_complex_values_are_refused(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 9), np.float32), photometric="minisblack")
        with pytest.raises(InputError, match="must be integers"):
            open_labels(tmp_path / "a.tif")
        tifffile.imwrite(tmp_path / "b.tif", np.zeros((5, 8, 9), np.complex64), photometric="minisblack")
        with pytest.raises(InputError, match="complex64"):
            open_volume(tmp_path / "b.tif")


class TestWriting:
    @pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.tiff"])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint32", "int64", "float16"])
    def test_round_trip(self, tmp_path: Path, name: str, dtype: str) -> None:
        volume = Volume.from_array(ramp((2, 5, 16, 17), dtype), (2, 0.88, 0.44), ["soma", "glia"])
        if ".ome." in name and dtype in ("int64", "float16"):
            with pytest.raises(InputError, match=dtype):
                save_volume(tmp_path / name, volume)
            assert list(tmp_path.iterdir()) == []
            return
        save_volume(tmp_path / name, volume)
        again = open_volume(tmp_path / name)
        np.testing.assert_array_equal(again.read(), volume.read())
        assert again.dtype == volume.dtype
        assert again.voxel_size_um == pytest.approx(volume.voxel_size_um, rel=1e-6)
        if ".ome." in name:
            assert again.channel_names == ("soma", "glia")

    @pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
    def test_other_readers_agree(self, tmp_path: Path, name: str) -> None:
        volume = Volume.from_array(ramp((2, 5, 16, 17)), (2, 0.88, 0.44))
        save_volume(tmp_path / name, volume)
        with tifffile.TiffFile(tmp_path / name) as file:
            assert file.series[0].axes == "ZCYX"
            np.testing.assert_array_equal(file.asarray(), volume.read().transpose(1, 0, 2, 3))
            if name == "a.tif":
                assert file.imagej_metadata is not None
                assert file.imagej_metadata["spacing"] == 2.0 and file.imagej_metadata["unit"] == "um"

    @pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
    def test_equal_volumes_give_equal_bytes(self, tmp_path: Path, name: str) -> None:
        volume = Volume.from_array(ramp((2, 5, 16, 17)), (2, 0.88, 0.44))
        for folder in ("one", "two"):
            save_volume(tmp_path / folder / name, volume)
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_opening_leaves_no_file_open(tmp_path: Path) -> None:
    """A forgotten handle would end in a ResourceWarning, which is an error here."""
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, ramp((5, 8, 9)), compression="zlib", photometric="minisblack")
    for _ in range(3):
        volume = open_volume(path)
        volume.read()
        del volume
    path.unlink()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_for_fiji_have_voxel_size_and_colours(dtype: type, tmp_path: Path) -> None:
    values = (np.arange(3 * 8 * 9) % 200).astype(dtype).reshape(3, 8, 9)
    save_labels(tmp_path / "cells.tif", values, voxel_size_um=(2.0, 0.5, 0.25))
    with tifffile.TiffFile(tmp_path / "cells.tif") as file:
        said = file.imagej_metadata or {}
        assert file.is_imagej and (said["unit"], said["spacing"], said["slices"]) == ("um", 2.0, 3)
        assert (said["min"], said["max"]) == (0.0, 255.0)
        tags = file.pages[0].tags
        assert tags["XResolution"].value == (4, 1) and tags["YResolution"].value == (2, 1)
        table = np.asarray(tags[320].value).reshape(3, 256).T // 257
        np.testing.assert_array_equal(file.asarray(), values)
    assert tuple(table[0]) == (0, 0, 0) and tuple(table[255]) == (255, 255, 255)
    assert len({tuple(colour) for colour in table}) == 256 and table[1:].max(axis=1).min() >= 150
    steps = np.abs(np.diff(table[1:255].astype(int), axis=0)).max(axis=1)
    assert steps.min() > 60  # objects that follow each other are told apart
    again = open_labels(tmp_path / "cells.tif")
    assert again.voxel_size_um == (2.0, 0.5, 0.25)
    np.testing.assert_array_equal(again.read()[0], values)
    save_volume(tmp_path / "image.tif", Volume.from_array(values))
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        assert 320 not in file.pages[0].tags
