"""Quality without truth: planted defects are found where they are, and nothing where all is well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fewslice import io
from fewslice.data.normalisation import fit_normalisation
from fewslice.errors import InputError
from fewslice.evaluation.quality import flicker, input_drift, read_normalisation, seams, size_outliers, uncertain
from fewslice.geometry import Box
from fewslice.volume import Volume

SHAPE = (24, 40, 48)


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 2, mode="wrap")
    return (255 / (1 + np.exp(-field / field.std() * 2))).astype(np.uint8)


def stored(folder: Path, values: np.ndarray) -> Volume:
    """A prediction as it lies on disk."""
    path = folder / "OUT.ome.zarr"
    output = io.create_output(path, shape=values.shape, channel_names=["foreground"], chunks=(8, 10, 16))
    output.write(Box.of(values.shape), values[None])
    return io.open_volume(path)


def test_seams_of_a_smooth_prediction(smooth: np.ndarray, tmp_path: Path) -> None:
    found = seams(stored(tmp_path, smooth), (8, 10, 16))
    assert [s.axis for s in found] == [0, 1, 2]
    assert all(s.ratio is not None and 0.8 < s.ratio < 1.25 for s in found)


def test_a_planted_seam_is_found_on_its_axis(smooth: np.ndarray, tmp_path: Path) -> None:
    """One row of blocks is 30 levels brighter, as after a halo too small."""
    spoilt = np.minimum(smooth.astype(int), 200)
    spoilt[:, 20:30] += 30
    z, y, x = seams(stored(tmp_path, spoilt.astype(np.uint8)), (8, 10, 16))
    assert y.ratio is not None and y.ratio > 1.5
    assert {place for place, _ in y.worst[:2]} == {20, 30}
    assert z.ratio is not None and x.ratio is not None and max(z.ratio, x.ratio) < 1.25


def test_seams_by_hand() -> None:
    values = np.zeros((1, 1, 8), np.uint8)
    values[..., 4:] = 10
    values[..., 2] = 1  # steps of 1 at 2 and 3, of 10 at the face
    (seam,) = seams(Volume.from_array(values), (1, 1, 4))
    assert (seam.axis, seam.at_faces, seam.between, seam.ratio) == (2, 10.0, 0.5, 20.0)
    assert seams(Volume.from_array(values), (1, 1, 8)) == []
    with pytest.raises(InputError, match="three"):
        seams(Volume.from_array(values), (4, 4))


def test_flicker_names_the_planes(tmp_path: Path) -> None:
    labels = np.zeros((70, 20, 20), np.uint8)
    labels[:, 5:15, 5:15] = 1
    calm = flicker(Volume.from_array(labels))
    assert calm.share == 0.0
    labels[33] = 0  # beyond the first block of planes
    found = flicker(Volume.from_array(labels))
    assert found.worst[0] == (33, 0.25) and found.share == pytest.approx(100 / (68 * 400))


def test_uncertain_voxels_and_their_box(smooth: np.ndarray) -> None:
    values = np.where(smooth > 127, 255, 0).astype(np.uint8)
    assert uncertain(Volume.from_array(values)).share == 0 and uncertain(Volume.from_array(values)).worst == ()
    values[8:16, 10:20, 16:32] = 120
    found = uncertain(Volume.from_array(values), block=(8, 10, 16))
    assert found.worst == ((Box((8, 10, 16), (16, 20, 32)), 1.0),)
    assert found.share == pytest.approx(8 * 10 * 16 / values.size)
    halves = uncertain(Volume.from_array(values.astype(np.float32) / 255), block=(8, 10, 16))
    assert halves.share == found.share
    with pytest.raises(InputError, match="limits"):
        uncertain(Volume.from_array(values), low=0.8, high=0.2)


def test_size_outliers_are_merged_and_broken_objects() -> None:
    volumes = np.exp(np.random.default_rng(1).normal(5, 0.3, 200))
    volumes[17], volumes[150] = np.exp(5) * 9, np.exp(5) / 30
    found = size_outliers(np.arange(1000, 1200), volumes)
    assert [name for name, _ in found.objects] == [1150, 1017]
    assert found.objects[0][1] < -3.5 and found.objects[1][1] > 3.5
    assert found.median == pytest.approx(5, abs=0.1) and found.spread == pytest.approx(0.3, abs=0.06)
    assert size_outliers(np.arange(3), np.ones(3)).objects == ()
    assert size_outliers(np.zeros(0), np.zeros(0)).objects == ()


def test_drift_of_brightness_and_contrast(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    trained = generator.normal(100, 10, (2, 8, 30, 30))
    model = fit_normalisation([Volume.from_array(trained)])
    same = input_drift(Volume.from_array(trained), model)
    assert same is not None and same.shift == (0.0, 0.0) and same.scale == pytest.approx((1.0, 1.0))
    other = trained.copy()
    other[1] = 100 + 2 * (other[1] - 100) + 26
    other[0, 5] += 40
    found = input_drift(Volume.from_array(other), model)
    assert found is not None
    assert found.shift[1] == pytest.approx(26 / model.scale[1], abs=0.05)
    assert found.scale[1] == pytest.approx(2, rel=0.01)
    assert found.worst[0][0] == 5 and found.worst[0][1] == pytest.approx(40 / model.scale[0], rel=0.1)
    with pytest.raises(InputError, match="channels"):
        input_drift(Volume.from_array(trained[:1]), model)
    assert input_drift(Volume.from_array(trained), fit_normalisation([Volume.from_array(trained)], "none")) is None


def test_normalisation_is_read_without_torch(tmp_path: Path) -> None:
    stated = {"normalisation": {"method": "robust", "offset": [1.5], "scale": [2.0]}}
    (tmp_path / "model.json").write_text(json.dumps(stated), encoding="utf-8")
    assert read_normalisation(tmp_path).scale == (2.0,)
    with pytest.raises(InputError, match="normalisation"):
        read_normalisation(tmp_path / "gone")
