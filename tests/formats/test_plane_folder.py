"""A folder of planes: order, kinds of files, lazy reading, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from fewslice.errors import InputError
from fewslice.formats import plane_folder
from fewslice.formats.plane_folder import natural_order
from fewslice.formats.tiff import PagedArray
from fewslice.geometry import Box
from fewslice.io import open_labels, open_volume, save_volume
from fewslice.volume import Volume

VALUES = np.arange(12 * 8 * 9).reshape(12, 8, 9)


def store(folder: Path, values: np.ndarray, suffix: str, pattern: str = "slice_{}") -> None:
    folder.mkdir()
    for z, plane in enumerate(values):
        file = folder / (pattern.format(z) + suffix)
        if suffix == ".tif":
            tifffile.imwrite(file, plane)
        else:
            Image.fromarray(plane).save(file)


def test_plane_ten_comes_after_plane_nine() -> None:
    names = ["s10.tif", "s9.tif", "S1.tif", "s2b10.tif", "s2b9.tif", "a.tif"]
    assert sorted(names, key=natural_order) == ["a.tif", "S1.tif", "s2b9.tif", "s2b10.tif", "s9.tif", "s10.tif"]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_planes_in_natural_order(tmp_path: Path, suffix: str, dtype: str) -> None:
    values = VALUES.astype(dtype)
    store(tmp_path / "planes", values, suffix)
    (tmp_path / "planes" / "notes.txt").write_text("not a plane")
    (tmp_path / "planes" / ".hidden.tif").write_bytes(b"x")
    volume = open_volume(tmp_path / "planes")
    assert volume.shape == (12, 8, 9) and volume.dtype == np.dtype(dtype) and volume.axes_note is None
    np.testing.assert_array_equal(volume.read()[0], values)
    np.testing.assert_array_equal(volume.read(Box((3, 1, 2), (11, 8, 5)))[0], values[3:11, 1:8, 2:5])
    np.testing.assert_array_equal(open_labels(tmp_path / "planes").read()[0], values)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_colour_planes(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 8, 9, 3)).astype(np.uint8)
    store(tmp_path / "planes", values, suffix)
    volume = open_volume(tmp_path / "planes")
    assert (volume.channels, volume.shape) == (3, (3, 8, 9))
    np.testing.assert_array_equal(volume.read(), values.transpose(3, 0, 1, 2))


def test_binary_and_palette_pictures_keep_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "bits").mkdir()
    Image.fromarray(VALUES[0] % 2 == 0).save(tmp_path / "bits" / "0.png")
    np.testing.assert_array_equal(open_labels(tmp_path / "bits").read()[0, 0], VALUES[0] % 2 == 0)
    (tmp_path / "palette").mkdir()
    picture = Image.fromarray((VALUES[0] % 5).astype(np.uint8), mode=None)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    picture.save(tmp_path / "palette" / "0.png")
    np.testing.assert_array_equal(open_labels(tmp_path / "palette").read()[0, 0], VALUES[0] % 5)


def test_a_palette_of_an_image_is_applied_or_refused(tmp_path: Path) -> None:
    """Its numbers are intensities only by way of the greys that they stand for."""
    (tmp_path / "planes").mkdir()
    picture = Image.fromarray((VALUES[0] % 3).astype(np.uint8), mode=None)
    picture.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 90])
    picture.save(tmp_path / "planes" / "0.png")
    volume = open_volume(tmp_path / "planes")
    np.testing.assert_array_equal(volume.read()[0, 0], np.array([200, 10, 90])[VALUES[0] % 3])
    part = volume.read(Box((0, 2, 3), (1, 5, 7)))[0, 0]
    np.testing.assert_array_equal(part, volume.read()[0, 0, 2:5, 3:7])
    picture.putpalette([200, 200, 200, 10, 10, 10, 90, 90, 91])
    picture.save(tmp_path / "planes" / "0.png")
    with pytest.raises(InputError, match="palette of colours"):
        open_volume(tmp_path / "planes")


@pytest.mark.parametrize("compression", ["zlib", None])
def test_of_large_planes_only_the_strips_of_a_box_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    """Each once, also when a box beside it is read; uncompressed files are mapped, so nothing is decoded."""
    values = np.random.default_rng(0).integers(0, 999, (4, 64, 50)).astype(np.uint16)
    (tmp_path / "planes").mkdir()
    for z, plane in enumerate(values):
        file = tmp_path / "planes" / f"{z}.tif"
        tifffile.imwrite(file, plane, compression=compression, rowsperstrip=8, metadata=None)
    decoded: list[int] = []
    decode = PagedArray._decode

    def count(self: PagedArray, number: int, page: Any, segment: int, shape: Any) -> Any:
        decoded.append(segment)
        return decode(self, number, page, segment, shape)

    monkeypatch.setattr(PagedArray, "_decode", count)
    monkeypatch.setattr(plane_folder, "CACHE_BYTES", 1000)
    volume = open_volume(tmp_path / "planes")
    for columns in (slice(5, 20), slice(20, 50)):
        box = Box((1, 17, columns.start), (3, 30, columns.stop))
        np.testing.assert_array_equal(volume.read(box)[0], values[1:3, 17:30, columns])
    assert sorted(decoded) == ([2, 2, 3, 3] if compression else [])
    np.testing.assert_array_equal(volume.read()[0], values)


def test_only_the_planes_of_a_box_are_opened(tmp_path: Path) -> None:
    store(tmp_path / "planes", VALUES.astype(np.uint16), ".tif")
    (tmp_path / "planes" / "slice_5.tif").write_bytes(b"")
    volume = open_volume(tmp_path / "planes")
    np.testing.assert_array_equal(volume.read(Box((6, 0, 0), (9, 8, 9)))[0], VALUES[6:9])
    with pytest.raises(InputError, match=r"slice_5\.tif is empty"):
        volume.read()


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="without image files"):
        open_volume(tmp_path / "empty")
    store(tmp_path / "mixed", VALUES[:2].astype(np.uint8), ".tif")
    Image.fromarray(VALUES[0].astype(np.uint8)).save(tmp_path / "mixed" / "x.png")
    with pytest.raises(InputError, match="mixes planes"):
        open_volume(tmp_path / "mixed")
    store(tmp_path / "stacks", np.stack([VALUES.astype(np.uint8)] * 2), ".tif")
    with pytest.raises(InputError, match="one plane per file"):
        open_volume(tmp_path / "stacks")
    store(tmp_path / "uneven", VALUES[:4].astype(np.uint8), ".tif")
    tifffile.imwrite(tmp_path / "uneven" / "slice_1.tif", np.zeros((8, 10), np.uint8))
    with pytest.raises(InputError, match=r"slice_1\.tif.*must agree"):
        open_volume(tmp_path / "uneven").read()
    tifffile.imwrite(tmp_path / "uneven" / "slice_3.tif", np.zeros((8, 9), np.uint16))
    with pytest.raises(InputError, match=r"slice_3\.tif.*must agree"):
        open_volume(tmp_path / "uneven")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_picture_is_refused(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 40, 50)).astype(np.uint8)
    store(tmp_path / "planes", noise, ".png")
    file = tmp_path / "planes" / "slice_0.png"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(InputError, match=r"slice_0\.png is damaged") as caught:
        open_volume(tmp_path / "planes").read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_round_trip(tmp_path: Path, channels: int) -> None:
    values = np.stack([VALUES.astype(np.uint16) + c for c in range(channels)])
    save_volume(f"{tmp_path / 'planes'}/", Volume.from_array(values, (2, 0.5, 0.5)))
    assert sorted(p.name for p in (tmp_path / "planes").iterdir())[:2] == ["z0000.tif", "z0001.tif"]
    np.testing.assert_array_equal(open_volume(tmp_path / "planes").read(), values)


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    store(tmp_path / "planes", VALUES.astype(np.uint8), ".tif")
    (tmp_path / "planes" / "thesis.txt").write_text("…", encoding="utf-8")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        save_volume(f"{tmp_path / 'planes'}/", Volume.from_array(VALUES), overwrite=True)
    assert (tmp_path / "planes" / "thesis.txt").exists()
