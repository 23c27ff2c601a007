"""Every format keeps the protocol of its room."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fewslice import registry
from fewslice.errors import InputError
from fewslice.formats import Stored, WriteOptions
from fewslice.volume import LazyArray, Volume

EXAMPLES = {"ome_zarr": "a.ome.zarr", "tiff": "a.tif", "hdf5": "a.h5:raw", "plane_folder": "planes/", "nifti": "a.nii"}
READ_ONLY = {"imagej_roi": "a.roi", "webknossos": "a.zip:Volume"}
"""Annotation of other programs, which these write."""
WEBKNOSSOS = Path(__file__).parent.parent / "formats" / "data" / "webknossos_4_3_3.zip"
KINDS = registry.names("formats")


def test_every_kind_has_an_example_here() -> None:
    assert set(KINDS) == set(EXAMPLES) | set(READ_ONLY)
    assert not any(hasattr(registry.load("formats", kind), "write") for kind in READ_ONLY)


@pytest.mark.parametrize("kind", KINDS)
def test_claims_its_own_names_and_no_other(kind: str, tmp_path: Path) -> None:
    module = registry.load("formats", kind)
    assert isinstance(module.DESCRIPTION, str)
    shutil.copy(WEBKNOSSOS, tmp_path / "a.zip")  # such a file is told by what is in it
    for owner, name in (EXAMPLES | READ_ONLY).items():
        assert module.claims(f"{tmp_path}/{name}") == (owner == kind)


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_writes_what_it_reads(kind: str, tmp_path: Path) -> None:
    module = registry.load("formats", kind)
    path = f"{tmp_path}/{EXAMPLES[kind]}"
    values = np.arange(2 * 3 * 8 * 9, dtype=np.uint8).reshape(2, 3, 8, 9)
    module.write(path, Volume.from_array(values, (2, 1, 1)), WriteOptions())
    assert module.location(path).exists() and module.location(path).parent == tmp_path
    stored = module.read(path)
    assert isinstance(stored, Stored) and isinstance(stored.array, LazyArray)
    assert len(stored.axes) == len(stored.array.shape) and set(stored.axes) <= set("tczyx?")
    assert stored.chunks is None or len(stored.chunks) == len(stored.array.shape)
    assert set(stored.voxel_size_um) <= set("zyx")
    whole = stored.array[tuple(slice(0, n) for n in stored.array.shape)]
    np.testing.assert_array_equal(_czyx(whole, stored.axes), values)


def _czyx(values: np.ndarray, axes: str) -> np.ndarray:
    return values.transpose([axes.index(a) for a in "czyx"])


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_garbage(kind: str, tmp_path: Path) -> None:
    module = registry.load("formats", kind)
    example = (EXAMPLES | READ_ONLY)[kind]
    path = tmp_path / example.split(":")[0]
    if kind in ("ome_zarr", "plane_folder"):
        path.mkdir()
    else:
        path.write_bytes(b"garbage" * 100)
    with pytest.raises(InputError) as caught:
        module.read(f"{tmp_path}/{example}")
    assert "\n" not in str(caught.value)
