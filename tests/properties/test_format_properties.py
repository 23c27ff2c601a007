"""Any volume, in any format and back, is the same volume; any box is what NumPy would cut."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewslice.geometry import Box
from fewslice.io import open_volume, save_volume
from fewslice.volume import Volume

TYPES = st.sampled_from([np.uint8, np.uint16, np.int16, np.uint32, np.float32])
VOLUMES = TYPES.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.tuples(*(st.integers(1, n) for n in (3, 5, 40, 40))),
        elements={"allow_nan": True} if dtype is np.float32 else None,
    )
)
SIZES = st.none() | st.tuples(*[st.floats(0.001, 100)] * 3)


@pytest.mark.parametrize("name", ["a.ome.zarr", "a.ome.tif", "a.tif", "a.h5:raw", "planes/"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(values=VOLUMES, size=SIZES, draw=st.data())
def test_round_trip(name: str, values: np.ndarray, size: tuple[float, ...] | None, draw: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        volume = Volume.from_array(values, size)
        save_volume(f"{folder}/{name}", volume)
        expected = None if name == "planes/" and values.shape[1] > 1 else size
        again = open_volume(Path(folder) / name if name != "planes/" else f"{folder}/planes")
        assert again.dtype == values.dtype
        np.testing.assert_array_equal(again.read(), values)
        if name == "planes/":
            assert (again.voxel_size_um is None) == (expected is None)
        else:
            assert again.voxel_size_um == (None if size is None else pytest.approx(size, rel=1e-4))
        corners = [sorted(draw.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in again.shape]
        box = Box(tuple(a for a, _ in corners), tuple(b for _, b in corners))
        np.testing.assert_array_equal(again.read(box), values[(slice(None), *box.slices)])
        assert again.content_hash() == volume.content_hash()
        del again
