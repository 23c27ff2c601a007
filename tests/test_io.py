"""Opening, converting and describing through one door; refusals change nothing on disk; real volumes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fewslice.errors import DiskError, InputError
from fewslice.geometry import Box
from fewslice.io import convert, describe, open_labels, open_output, open_volume, save_labels, save_volume
from fewslice.volume import Volume

VALUES = np.arange(2 * 5 * 8 * 9, dtype=np.uint16).reshape(2, 5, 8, 9)
IMAGE = Volume.from_array(VALUES, (2, 0.88, 0.44), ["soma", "glia"])


def hashes(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(path: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        open_volume(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    return message


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "missing.tif")
    assert "does not exist" in refused(tmp_path / "missing")
    assert "does not exist" in refused(tmp_path / "missing.ome.zarr")
    assert "does not exist" in refused(f"{tmp_path / 'missing.h5'}:raw")
    assert "only OME-Zarr" in refused("https://127.0.0.1:1/a.tif")
    assert "empty path" in refused("")
    for name in ("a.tif", "a.h5", "a.xyz", "noname"):
        (tmp_path / name).write_bytes(b"")
        assert "empty (0 bytes)" in refused(tmp_path / name)
        (tmp_path / name).write_bytes(b"hello, this is no image at all" * 10)
        assert str(tmp_path / name) in refused(tmp_path / name)
    message = refused(tmp_path / "a.xyz")
    assert "unknown format" in message and "TIFF" in message and "OME-Zarr" in message and "HDF5" in message


def test_formats_are_recognised_by_content_too(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.tif", IMAGE)
    save_volume(f"{tmp_path / 'a.h5'}:image", IMAGE)
    (tmp_path / "a.tif").rename(tmp_path / "scan")
    (tmp_path / "a.h5").rename(tmp_path / "scan2.data")
    np.testing.assert_array_equal(open_volume(tmp_path / "scan").read(), VALUES)
    np.testing.assert_array_equal(open_volume(tmp_path / "scan2.data").read(), VALUES)


@pytest.mark.parametrize("size", [(0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1)])
def test_given_voxel_size_must_be_positive(tmp_path: Path, size: tuple[float, ...]) -> None:
    save_volume(tmp_path / "a.tif", IMAGE)
    assert "above 0" in refused(tmp_path / "a.tif", voxel_size_um=size)


def test_channels_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.ome.zarr", IMAGE)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr", channels=["glia"]).read(), VALUES[1:])
    np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr", channels=[1, 0]).read(), VALUES[::-1])
    assert "soma" in refused(tmp_path / "a.ome.zarr", channels=["x"])


def test_labels_take_the_axes_of_their_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "labels.tif", VALUES[0], photometric="minisblack")
    assert open_labels(tmp_path / "labels.tif", axes="zcyx").shape == (5, 8, 9)
    tifffile.imwrite(tmp_path / "plane.tif", VALUES[0, 0], photometric="minisblack")
    assert open_labels(tmp_path / "plane.tif").shape == (1, 8, 9)
    save_volume(tmp_path / "image.ome.zarr", IMAGE)
    with pytest.raises(InputError, match="2 channels"):
        open_labels(tmp_path / "image.ome.zarr")


TARGETS = ["b.ome.zarr", "b.tif", "b.ome.tif", "b.h5:volumes/raw", "planes/"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", ["a.ome.zarr", "a.ome.tif", "a.h5:raw"])
def test_conversion_keeps_values_channels_and_voxel_size(tmp_path: Path, source: str, target: str) -> None:
    save_volume(f"{tmp_path}/{source}", IMAGE)
    again = convert(f"{tmp_path}/{source}", f"{tmp_path}/{target}")
    np.testing.assert_array_equal(again.read(), VALUES)
    assert again.content_hash() == IMAGE.content_hash()
    if target != "planes/":
        assert again.voxel_size_um == pytest.approx(IMAGE.voxel_size_um, rel=1e-6)
    if target not in ("planes/", "b.tif"):
        assert again.channel_names == ("soma", "glia")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("target", TARGETS)
def test_existing_output_is_kept_unless_overwritten(tmp_path: Path, target: str) -> None:
    path = f"{tmp_path}/{target}"
    save_volume(path, IMAGE)
    before = hashes(tmp_path)
    other = Volume.from_array(VALUES + 1)
    with pytest.raises(InputError, match="--overwrite"):
        save_volume(path, other)
    assert hashes(tmp_path) == before
    save_volume(path, other, overwrite=True)
    np.testing.assert_array_equal(open_volume(path).read(), VALUES + 1)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_on_the_way_leaves_everything_as_it_was(tmp_path: Path, target: str, overwrite: bool) -> None:
    path = f"{tmp_path}/{target}"
    if overwrite:
        save_volume(path, IMAGE)
    before = hashes(tmp_path)

    class Failing:
        shape, dtype = VALUES.shape, VALUES.dtype

        def __init__(self, error: Exception) -> None:
            self.error = error

        def __getitem__(self, index: object) -> np.ndarray:
            raise self.error

    with pytest.raises(InputError, match="damaged"):
        save_volume(path, Volume(Failing(InputError("damaged"))), overwrite=overwrite)
    with pytest.raises(DiskError, match="the disk is full"):
        save_volume(path, Volume(Failing(OSError(28, "No space left on device"))), overwrite=overwrite)
    assert hashes(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == (1 if overwrite else 0)


def test_converting_onto_itself_is_refused(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.ome.zarr", IMAGE)
    with pytest.raises(InputError, match="source itself"):
        convert(tmp_path / "a.ome.zarr", tmp_path / "a.ome.zarr", overwrite=True)
    with pytest.raises(InputError, match="unknown format"):
        convert(tmp_path / "a.ome.zarr", tmp_path / "a.xyz")
    with pytest.raises(InputError, match=r"0\.9"):
        convert(tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr", ome_version="0.9")
    np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr").read(), VALUES)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("planes/z0000.tif", "planes/"),
        ("planes/", "planes/z0000.tif"),
        ("planes/", "."),
        ("in.ome.zarr/labels/cells", "in.ome.zarr"),
        ("in.ome.zarr", "in.ome.zarr/labels/cells"),
        ("store.zarr/inside.h5:a", "store.zarr"),
        ("file.h5:a", "file.h5:b"),
    ],
)
def test_what_holds_the_source_is_never_replaced(tmp_path: Path, source: str, target: str) -> None:
    """Nor a part of it; also where the rules of single formats would allow it."""
    save_volume(f"{tmp_path / 'planes'}/", IMAGE)
    save_volume(tmp_path / "in.ome.zarr", IMAGE)
    save_labels(tmp_path / "in.ome.zarr" / "labels" / "cells", VALUES[0])
    save_volume(tmp_path / "store.zarr", IMAGE)
    save_volume(f"{tmp_path / 'store.zarr' / 'inside.h5'}:a", IMAGE)
    save_volume(f"{tmp_path / 'file.h5'}:a", IMAGE)
    before = hashes(tmp_path)
    with pytest.raises(InputError, match=r"choose another"):
        convert(f"{tmp_path}/{source}", f"{tmp_path}/{target}", overwrite=True)
    assert hashes(tmp_path) == before


def test_a_file_is_no_folder_to_write_into(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.tif", IMAGE)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="is a file, not a folder"):
        convert(tmp_path / "a.tif", tmp_path / "notes.txt" / "b" / "x.tif")


def test_labels_keep_their_numbers_in_every_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 3, 70000], np.uint32), (6, 300, 20))
    save_labels(tmp_path / "a.ome.zarr", labels, voxel_size_um=(1, 1, 1))
    convert(tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr", ome_version="0.4")
    for name in ("a.ome.zarr", "b.ome.zarr"):
        description = describe(tmp_path / name)
        assert description["is_labels"] and description["details"]["pyramid"] == "mode"
        assert set(np.unique(open_volume(tmp_path / name / "1", axes="czyx").read())) <= {0, 3, 70000}
        np.testing.assert_array_equal(open_labels(tmp_path / name).read()[0], labels)
    for wrong in (labels.astype(np.float32), np.stack([labels, labels])):
        with pytest.raises(InputError, match="integers in one channel"):
            save_labels(tmp_path / "c.ome.zarr", wrong)


def test_description_says_what_is_there(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.ome.zarr", IMAGE)
    description = describe(tmp_path / "a.ome.zarr")
    assert json.loads(json.dumps(description)) == description
    assert description["shape"] == description["czyx"] == [2, 5, 8, 9]
    assert description["axes"] == "czyx" and description["dtype"] == "uint16" and description["bytes"] == VALUES.nbytes
    assert description["voxel_size_um"] == [2.0, 0.88, 0.44] and description["channel_names"] == ["soma", "glia"]
    assert description["format"] == "ome_zarr" and description["details"]["version"] == "0.5"
    tifffile.imwrite(tmp_path / "b.tif", VALUES, photometric="minisblack")
    unclear = describe(tmp_path / "b.tif")
    assert unclear["axes"] == "??yx" and unclear["czyx"] is None
    assert "--axes zcyx or --axes czyx" in unclear["note"]
    assert describe(tmp_path / "b.tif", axes="czyx")["czyx"] == [2, 5, 8, 9]
    size = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "c.tif", VALUES[0], photometric="minisblack", **size)
    assert "some axes only" in describe(tmp_path / "c.tif")["note"]


def test_open_output_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_output(tmp_path / "a.ome.zarr")
    (tmp_path / "a.ome.zarr").mkdir()
    with pytest.raises(InputError, match="not a store that can be written"):
        open_output(tmp_path / "a.ome.zarr")


def test_import_loads_no_library_of_a_format() -> None:
    heavy = ("zarr", "tensorstore", "h5py", "tifffile", "PIL", "torch")
    code = f"import sys, fewslice.io; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestRealData:
    def test_two_photon_stack(self, data_dir: Path) -> None:
        folder = data_dir / "two_photon_neurons" / "stack2"
        labels = open_labels(folder / "labels.tif")
        assert labels.shape == (21, 512, 512) and labels.axes_note is None
        image = open_volume(folder / "image.tif", expected_shape=labels.shape)
        assert (image.channels, image.shape) == (2, (21, 512, 512))
        assert image.axes_note is not None and "zcyx" in image.axes_note
        assert image.content_hash() == open_volume(folder / "image.tif", expected_channels=2).content_hash()
        raw = tifffile.imread(folder / "image.tif")
        np.testing.assert_array_equal(
            image.read(Box((5, 100, 200), (9, 180, 333))), raw[5:9, :, 100:180, 200:333].swapaxes(0, 1)
        )
        assert set(np.unique(labels.read())) == {1, 255}
        with pytest.raises(InputError, match="--axes zcyx or --axes czyx"):
            open_volume(folder / "image.tif")
        assert open_labels(folder.parent / "stack3" / "labels_second_annotation.tif").shape == (4, 512, 512)

    def test_em_stack_is_read_lazily(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = data_dir / "em_mitochondria" / "train" / "image.tif"
        count = 0
        original = tifffile.FileHandle.read

        def counted(self: tifffile.FileHandle, size: int = -1, /) -> bytes:
            nonlocal count
            data = original(self, size)
            count += len(data)
            return data

        monkeypatch.setattr(tifffile.FileHandle, "read", counted)
        volume = open_volume(path)
        assert volume.array.shape == (1, 165, 768, 1024)
        assert count < 200_000
        box = volume.read(Box((80, 300, 500), (84, 364, 564)))
        assert count < 2_000_000 < path.stat().st_size / 10
        np.testing.assert_array_equal(box[0, 0], tifffile.imread(path, key=80)[300:364, 500:564])

    @pytest.mark.parametrize(
        ("name", "shape", "dtype"),
        [
            ("nuclei_3d/1135/image.tif", (1, 100, 100, 100), "uint8"),
            ("nissl_cells/images/0.tif", (3, 1, 512, 512), "uint8"),
            ("nissl_cells/labels/0.tif", (1, 1, 512, 512), "uint16"),
            ("mouse_brain_raw/image.tif", (1, 30, 256, 256), "uint16"),
        ],
    )
    def test_others_through_ome_zarr(
        self, data_dir: Path, tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str
    ) -> None:
        volume = open_volume(data_dir / name)
        assert volume.array.shape == shape and volume.dtype == np.dtype(dtype) and volume.axes_note is None
        raw = tifffile.imread(data_dir / name)
        expected = raw.transpose(2, 0, 1)[:, None] if shape[0] == 3 else raw.reshape(shape)
        stored = convert(data_dir / name, tmp_path / "a.ome.zarr", voxel_size_um=(5, 2, 2))
        np.testing.assert_array_equal(stored.read(), expected)
        assert stored.voxel_size_um == (5.0, 2.0, 2.0)
        if shape[0] == 3:
            assert stored.channel_names == ("red", "green", "blue")
