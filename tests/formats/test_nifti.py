"""NIfTI against nibabel: what others write is read, and what is written others read."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fewslice import io
from fewslice.errors import InputError
from fewslice.volume import Volume

SHAPE = (3, 8, 9)


def values(channels: int = 1, dtype: type = np.uint8) -> np.ndarray:
    return (np.random.default_rng(0).random((channels, *SHAPE)) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64, np.float32])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nibabel_reads_what_is_written(name: str, dtype: type, tmp_path: Path) -> None:
    volume = Volume.from_array(values(1, dtype), (2.0, 1.0, 0.5))
    io.save_volume(tmp_path / name, volume)
    found = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(found.dataobj), volume.read()[0].transpose(2, 1, 0))
    assert found.header.get_zooms() == (0.5, 1.0, 2.0) and found.header.get_xyzt_units()[0] == "micron"
    again = io.open_volume(tmp_path / name)
    assert again.dtype == dtype and again.voxel_size_um == (2.0, 1.0, 0.5)
    np.testing.assert_array_equal(again.read(), volume.read())


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1000.0), ("micron", 1.0), ("unknown", None)])
def test_units_of_others(unit: str, factor: float | None, tmp_path: Path) -> None:
    labels = values()[0].transpose(2, 1, 0)
    image = nibabel.Nifti1Image(labels, np.diag([-0.5, -1.0, 2.0, 1.0]))  # mirrored, as ITK-SNAP stores it
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = io.open_volume(tmp_path / "a.nii.gz")
    expected = None if factor is None else tuple(v * factor for v in (2.0, 1.0, 0.5))
    assert found.voxel_size_um == expected
    np.testing.assert_array_equal(found.read()[0].transpose(2, 1, 0), labels)


def test_scaled_and_big_endian_values(tmp_path: Path) -> None:
    raw = values(1, np.int16)[0].transpose(2, 1, 0)
    image = nibabel.Nifti1Image(raw.astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "big.nii")
    np.testing.assert_array_equal(io.open_volume(tmp_path / "big.nii").read()[0], raw.transpose(2, 1, 0))
    stored = bytearray((tmp_path / "big.nii").read_bytes())
    stored[112:116] = np.array(0.5, ">f4").tobytes()  # scl_slope
    stored[116:120] = np.array(3.0, ">f4").tobytes()  # scl_inter
    (tmp_path / "scaled.nii").write_bytes(stored)
    found = io.open_volume(tmp_path / "scaled.nii")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.read()[0], raw.transpose(2, 1, 0) * 0.5 + 3.0)


def test_channels_labels_and_a_single_plane(tmp_path: Path) -> None:
    io.save_volume(tmp_path / "two.nii", Volume.from_array(values(2)))
    np.testing.assert_array_equal(io.open_volume(tmp_path / "two.nii").read(), values(2))
    io.save_labels(tmp_path / "labels.nii.gz", values()[0])
    assert io.describe(tmp_path / "labels.nii.gz")["is_labels"]
    nibabel.save(nibabel.Nifti1Image(values()[0, 0].T, np.eye(4)), tmp_path / "plane.nii")
    assert io.open_volume(tmp_path / "plane.nii").shape == (1, 8, 9)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        io.save_volume(tmp_path / name, Volume.from_array(values()))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_damage_is_one_sentence(name: str, tmp_path: Path) -> None:
    io.save_volume(tmp_path / name, Volume.from_array(np.random.default_rng(1).random((1, 20, 64, 64), np.float32)))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.nii.*(damaged|not readable)") as caught:
        io.open_volume(tmp_path / name).read()
    assert "\n" not in str(caught.value)


def test_colour_is_refused_and_a_lacking_extra_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.zeros((4, 4, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(InputError, match="expected plain numbers"):
        io.open_volume(tmp_path / "rgb.nii")
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(InputError, match=r"pip install 'fewslice\[nifti\]'"):
        io.open_volume(tmp_path / "rgb.nii")
