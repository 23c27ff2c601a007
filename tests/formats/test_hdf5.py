"""HDF5: paths with data sets, axes and voxel sizes, damage."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fewslice.data.samples import open_samples
from fewslice.errors import InputError
from fewslice.formats import hdf5
from fewslice.geometry import Box
from fewslice.io import describe, open_labels, open_volume, save_volume
from fewslice.volume import Volume

VALUES = np.arange(5 * 8 * 9, dtype=np.uint16).reshape(5, 8, 9)


@pytest.mark.parametrize(
    ("path", "file", "dataset"),
    [
        ("a.h5:raw", "a.h5", "raw"),
        ("a.h5:/volumes/raw/", "a.h5", "volumes/raw"),
        ("C:\\data\\a.h5:raw", "C:\\data\\a.h5", "raw"),
        ("C:\\data\\a.h5", "C:\\data\\a.h5", None),
        ("C:/x.h5.d/a.HDF5:t0:c1", "C:/x.h5.d/a.HDF5", "t0:c1"),
        ("/data/a.hdf5", "/data/a.hdf5", None),
        ("a.h5:", "a.h5", None),
    ],
)
def test_paths_split_at_the_suffix_not_at_the_drive(path: str, file: str, dataset: str | None) -> None:
    assert hdf5._parts(path) == (file, dataset)
    assert hdf5.claims(path)
    assert hdf5.location(path) == Path(file)
    assert hdf5.within(path) == (f":{dataset}" if dataset else "")


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 4, 4), "compression": "gzip"}])
def test_reads_boxes(tmp_path: Path, options: dict[str, object]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset("volumes/raw", data=VALUES, **options)
        node.attrs["element_size_um"] = (2.0, 0.5, 0.5)
    volume = open_volume(f"{tmp_path / 'a.h5'}:volumes/raw")
    assert volume.voxel_size_um == (2.0, 0.5, 0.5)
    assert volume.chunks == ((2, 4, 4) if options else None)
    np.testing.assert_array_equal(volume.read(Box((1, 2, 3), (4, 8, 7)))[0], VALUES[1:4, 2:8, 3:7])
    assert open_volume(tmp_path / "a.h5").shape == (5, 8, 9)  # the only data set
    assert describe(tmp_path / "a.h5")["details"]["datasets"] == ["volumes/raw"]


def test_several_or_missing_data_sets_are_listed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volumes/raw"] = VALUES
        file["volumes/labels"] = VALUES
        file["name"] = "text"
        file["curve"] = np.zeros(5)
    for suffix, message in (("", "needs the name"), (":missing", "no data set 'missing'"), (":volumes", "is a group")):
        with pytest.raises(InputError, match=message) as caught:
            open_volume(f"{tmp_path / 'a.h5'}{suffix}")
        assert "volumes/raw" in str(caught.value) and "volumes/labels" in str(caught.value)
    for name in ("name", "curve"):
        with pytest.raises(InputError, match="expected numbers"):
            open_volume(f"{tmp_path / 'a.h5'}:{name}")


def test_axes_of_ilastik_and_of_hdf5_itself(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tagged"] = VALUES[..., None]
        file["tagged"].attrs["axistags"] = json.dumps({"axes": [{"key": k} for k in "zyxc"]})
        file["labelled"] = VALUES.transpose(2, 1, 0)
        for dimension, name in zip(file["labelled"].dims, "xyz", strict=True):
            dimension.label = name
    for name in ("tagged", "labelled"):
        np.testing.assert_array_equal(open_volume(f"{tmp_path / 'a.h5'}:{name}").read()[0], VALUES)


def test_labels_exported_by_ilastik(tmp_path: Path) -> None:
    """ilastik stores t, z, y, x, c with the axes as vigra spells them; 0 is what nobody painted, 1 the first class."""
    labels = np.zeros((5, 8, 9), np.uint8)
    labels[1:4:2, 2:4], labels[1:4:2, 5:7] = 1, 2
    tags = [{"key": k, "typeFlags": 2, "resolution": 0, "description": ""} for k in "tzyxc"]
    with h5py.File(tmp_path / "brain_Labels.h5", "w") as file:
        node = file.create_dataset("exported_data", data=labels[None, ..., None], chunks=(1, 5, 8, 9, 1))
        node.attrs["axistags"] = json.dumps({"axes": tags})
        node.attrs["display_mode"], node.attrs["drange"] = "default", (0.0, 255.0)
    path = f"{tmp_path / 'brain_Labels.h5'}:exported_data"
    np.testing.assert_array_equal(open_labels(path).read()[0], labels)
    save_volume(tmp_path / "brain.tif", Volume.from_array(np.zeros((5, 8, 9), np.uint8)))
    (sample,) = open_samples([str(tmp_path / "brain.tif")], [path], background=1, unlabelled=0)
    annotation = sample.annotation
    assert annotation is not None
    np.testing.assert_array_equal(annotation.annotated, labels > 0)
    np.testing.assert_array_equal(annotation.labels, labels == 2)


def test_float_labels_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["labels"] = VALUES.astype(np.float64)
    with pytest.raises(InputError, match="must be integers"):
        open_labels(tmp_path / "a.h5")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_truncated_is_refused(tmp_path: Path, share: float) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=np.random.default_rng(0).integers(0, 255, (20, 40, 40)), compression="gzip")
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError) as caught:
        open_volume(f"{tmp_path / 'a.h5'}:raw").read()
    assert "\n" not in str(caught.value)


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    volume = Volume.from_array(np.stack([VALUES, VALUES + 1]), (2, 0.88, 0.44), ["soma", "glia"])
    for name in ("one", "two"):
        save_volume(f"{tmp_path / name}.h5:volumes/raw", volume)
    again = open_volume(f"{tmp_path / 'one.h5'}:volumes/raw")
    np.testing.assert_array_equal(again.read(), volume.read())
    assert again.voxel_size_um == volume.voxel_size_um and again.channel_names == volume.channel_names
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_other_data_sets_are_never_lost(tmp_path: Path) -> None:
    path = f"{tmp_path / 'a.h5'}:raw"
    save_volume(path, Volume.from_array(VALUES))
    save_volume(path, Volume.from_array(VALUES + 1), overwrite=True)
    np.testing.assert_array_equal(open_volume(path).read()[0], VALUES + 1)
    with pytest.raises(InputError, match="also holds raw"):
        save_volume(f"{tmp_path / 'a.h5'}:other", Volume.from_array(VALUES), overwrite=True)
    np.testing.assert_array_equal(open_volume(path).read()[0], VALUES + 1)
