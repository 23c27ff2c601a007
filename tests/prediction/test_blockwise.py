"""Block by block equals the whole, resumes, and never mixes."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewslice import io
from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.model import Model, NetworkStep, build_network
from fewslice.morphology.probabilities import segment_probabilities
from fewslice.prediction import predict_volume, predict_whole
from fewslice.prediction.resampling import _resampled
from fewslice.prediction.whole import quantised
from fewslice.volume import Volume


def _model(dims: int = 3, classes: int = 1) -> Model:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"kind": "unet", "dims": dims, "features": 4, "depth": 2}
    network = build_network(settings, 1, classes + 1)
    step = NetworkStep(network=settings, in_channels=1, out_channels=classes + 1)
    return Model(
        [step], [network], normalisation=Normalisation("robust", (100.0,), (50.0,)), class_values=range(1, classes + 1)
    )


def _image(shape: tuple[int, int, int] = (10, 40, 44)) -> Volume:
    values = np.random.default_rng(0).integers(0, 255, (1, *shape), dtype=np.uint8)
    return Volume.from_array(values, (2.0, 1.0, 1.0))


def _files(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("dims", [2, 3])
def test_blocks_with_the_full_halo_equal_the_whole(tmp_path: Path, dims: int) -> None:
    """At most one step of the 8 bits differs, and the stored segmentation is the threshold of what is stored."""
    model, image = _model(dims, classes=2), _image()
    out = tmp_path / "OUT.ome.zarr"
    done = predict_volume(model, image, out, model_id="m", halo=model.receptive_halo, block=(10, 20, 44), threshold=0.6)
    assert done.outcome.done == 2
    stored = io.open_volume(out).read()
    whole = quantised(predict_whole(model, image.read()))
    assert np.abs(stored.astype(int) - whole.astype(int)).max() <= 1
    np.testing.assert_array_equal(
        io.open_labels(out / "labels" / "segmentation").read()[0], segment_probabilities(stored, 0.6)
    )


def test_without_halo_blocks_differ_from_the_whole(tmp_path: Path) -> None:
    """The test above would notice a missing halo."""
    model, image = _model(), _image()
    predict_volume(model, image, tmp_path / "a.ome.zarr", model_id="m", halo=(0, 0, 0), block=(10, 20, 20))
    stored = io.open_volume(tmp_path / "a.ome.zarr").read()
    assert np.abs(stored.astype(int) - quantised(predict_whole(model, image.read())).astype(int)).max() > 1


def test_an_interrupted_prediction_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """Blocks that were done are not computed again."""
    model, image = _model(), _image()
    options: dict[str, Any] = {"model_id": "m", "block": (10, 20, 20)}
    predict_volume(model, image, tmp_path / "a" / "x.ome.zarr", **options)

    def stop(done: int, blocks: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_volume(model, image, tmp_path / "b" / "x.ome.zarr", progress=stop, **options)
    resumed = predict_volume(model, image, tmp_path / "b" / "x.ome.zarr", **options)
    assert resumed.outcome.skipped >= 2 and resumed.outcome.done + resumed.outcome.skipped == 6
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    again = predict_volume(model, image, tmp_path / "b" / "x.ome.zarr", **options)
    assert again.already_finished and again.outcome.done == 0


@pytest.mark.parametrize("change", [{"model_id": "other"}, {"threshold": 0.7}, {"block": (10, 40, 40)}])
def test_another_model_or_setting_is_refused_and_overwrite_replaces(tmp_path: Path, change: dict[str, Any]) -> None:
    """The refused output keeps its bytes."""
    model, image, out = _model(), _image(), tmp_path / "OUT.ome.zarr"
    options: dict[str, Any] = {"model_id": "m", "block": (10, 20, 20)}
    predict_volume(model, image, out, **options)
    before = _files(out)
    with pytest.raises(InputError, match="another image, model or settings"):
        predict_volume(model, image, out, **(options | change))
    assert _files(out) == before
    predict_volume(model, image, out, **(options | change), overwrite=True)
    assert _files(out) != before


def test_a_strange_folder_is_never_written_into(tmp_path: Path) -> None:
    """Not even an OME-Zarr image of somebody else's."""
    out = tmp_path / "x.ome.zarr"
    io.save_volume(out, _image())
    before = _files(out)
    with pytest.raises(InputError, match="was not made by predict"):
        predict_volume(_model(), _image(), out, model_id="m")
    assert _files(out) == before


def test_overwrite_removes_only_what_predict_or_zarr_made(tmp_path: Path) -> None:
    """A folder of other files is refused, and a folder that only is called like proposals is left alone."""
    (tmp_path / "plain.zarr").mkdir()
    (tmp_path / "plain.zarr" / "thesis.txt").write_text("years of work")
    io.save_volume(tmp_path / "raw.ome.zarr", _image())
    (tmp_path / "raw.proposals").mkdir()
    (tmp_path / "raw.proposals" / "grant.docx").write_text("years of work")
    before = _files(tmp_path)
    with pytest.raises(InputError, match="no Zarr store"):
        predict_volume(_model(), _image(), tmp_path / "plain.zarr", model_id="m", overwrite=True)
    assert _files(tmp_path) == before
    predict_volume(_model(), _image(), tmp_path / "raw.ome.zarr", model_id="m", overwrite=True)
    assert io.open_volume(tmp_path / "raw.ome.zarr").attributes["outputs"]
    assert (tmp_path / "raw.proposals" / "grant.docx").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.zarr", "raw.ome.zarr", "raw.proposals"]


def test_an_image_written_again_is_another_image(tmp_path: Path) -> None:
    """Also where no sampled voxel changed; a copy that keeps the times of its files is the same."""
    values = np.full((36, 1000, 1000), 50, np.uint8)  # more than is hashed whole
    path, out = tmp_path / "big.ome.zarr", tmp_path / "OUT.ome.zarr"
    io.save_volume(path, Volume.from_array(values))
    options: dict[str, Any] = {"model_id": "m", "halo": (0, 0, 0), "block": (4, 64, 64)}

    def stop(done: int, blocks: int) -> None:
        raise KeyboardInterrupt

    def begin(source: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            predict_volume(_model(dims=2), io.open_volume(source), out, progress=stop, **options)

    begin(path)
    shutil.copytree(path, tmp_path / "copy" / path.name)  # keeps times
    begin(tmp_path / "copy" / path.name)
    sampled = io.open_volume(path).content_hash()
    values[5:9, 300:700, 300:700] = 200
    io.save_volume(path, Volume.from_array(values), overwrite=True)
    assert io.open_volume(path).content_hash() == sampled
    with pytest.raises(InputError, match="other sizes or times"):
        predict_volume(_model(dims=2), io.open_volume(path), out, **options)


def test_two_runs_never_write_into_one_output(tmp_path: Path) -> None:
    """The second is refused while the first goes on, which ends as if alone."""
    model, image, out = _model(), _image(), tmp_path / "OUT.ome.zarr"
    options: dict[str, Any] = {"model_id": "m", "block": (10, 20, 20)}
    refusals: list[str] = []

    def again(done: int, blocks: int) -> None:
        for overwrite in (False, True):
            with pytest.raises(InputError, match="is being written by process") as caught:
                predict_volume(model, image, out, overwrite=overwrite, **options)
            refusals.append(str(caught.value))

    assert predict_volume(model, image, out, progress=again, **options).outcome.done == 6
    assert len(refusals) == 12 and str(os.getpid()) in refusals[0]
    assert predict_volume(model, image, out, **options).already_finished
    assert [p.name for p in tmp_path.iterdir()] == ["OUT.ome.zarr"]


def test_a_block_with_nan_is_recorded_and_the_others_are_done(tmp_path: Path) -> None:
    """The block stays 0; the same command tries it, and only it, again."""
    values = _image().read().astype(np.float32)
    values[0, 0, 0, 0] = np.nan
    out = tmp_path / "OUT.ome.zarr"
    options: dict[str, Any] = {"model_id": "m", "halo": (0, 4, 4), "block": (10, 20, 20)}
    found = predict_volume(_model(), Volume.from_array(values), out, **options)
    assert [b.index for b, _ in found.outcome.failed] == [(0, 0, 0)] and found.outcome.done == 5
    assert "NaN" in found.outcome.failed[0][1]
    stored = io.open_volume(out).read()
    assert stored[:, :, 20:].any() and not stored[:, :, :20, :20].any()
    again = predict_volume(_model(), Volume.from_array(values), out, **options)
    assert len(again.outcome.failed) == 1 and again.outcome.skipped == 5
    values[0, 0, 0, 0] = 100
    with pytest.raises(InputError, match="--overwrite"):
        predict_volume(_model(), Volume.from_array(values), out, **options)
    mended = predict_volume(_model(), Volume.from_array(values), out, **options, overwrite=True)
    assert mended.outcome.done == 6 and not mended.outcome.failed


def test_a_prediction_lies_where_its_image_lies(tmp_path: Path) -> None:
    image = replace(_image(), origin_um=(100.0, 50.0, 20.0))
    predict_volume(_model(), image, tmp_path / "x.ome.zarr", model_id="m")
    assert io.open_volume(tmp_path / "x.ome.zarr").origin_um == (100.0, 50.0, 20.0)
    assert io.open_labels(tmp_path / "x.ome.zarr" / "labels" / "segmentation").origin_um == (100.0, 50.0, 20.0)


def test_resampling_predicts_at_the_model_s_voxel(tmp_path: Path) -> None:
    """An image of pixels twice as fine gives about what its coarse version gives, and the same however it is cut."""
    model = _model()
    coarse = np.random.default_rng(0).normal(100, 50, (1, 8, 24, 24)).astype(np.float32)
    fine = Volume.from_array(coarse.repeat(2, axis=2).repeat(2, axis=3), (2.0, 0.5, 0.5))
    options: dict[str, Any] = {"model_id": "m", "factor": (1.0, 0.5, 0.5), "halo": model.receptive_halo}
    predict_volume(model, fine, tmp_path / "whole.ome.zarr", **options)
    predict_volume(model, fine, tmp_path / "cut.ome.zarr", block=(8, 16, 16), **options)
    whole, cut = (io.open_volume(tmp_path / f"{name}.ome.zarr").read().astype(int) for name in ("whole", "cut"))
    assert whole.shape == (1, 8, 48, 48) and np.abs(whole - cut).max() <= 1
    expected = 255 * model.probabilities(coarse)
    middle = whole.reshape(1, 8, 24, 2, 24, 2).mean((3, 5))
    assert np.corrcoef(middle.ravel(), expected.ravel())[0, 1] > 0.9


def test_interpolation_worked_by_hand() -> None:
    """Two voxels to four: centres at -1/4, 1/4, 3/4, 5/4 of the source; to one: halfway; a part equals the whole."""
    array = np.array([0.0, 8.0], np.float32).reshape(1, 1, 1, 2)
    four = _resampled(array, (0, 0, 0), (1, 1, 0.5), Box((0, 0, 0), (1, 1, 4)))
    assert four.ravel().tolist() == [0.0, 2.0, 6.0, 8.0]
    assert _resampled(array, (0, 0, 0), (1, 1, 2), Box((0, 0, 0), (1, 1, 1))).ravel().tolist() == [4.0]
    line = np.arange(20, dtype=np.float32).reshape(1, 1, 1, 20) ** 2
    whole = _resampled(line, (0, 0, 0), (1, 1, 0.7), Box((0, 0, 0), (1, 1, 28)))
    part = _resampled(line[..., 5:], (0, 0, 5), (1, 1, 0.7), Box((0, 0, 10), (1, 1, 20)))
    np.testing.assert_allclose(part, whole[..., 10:20], rtol=1e-6)


def test_coarser_voxels_are_means() -> None:
    """Nothing between samples is lost, partly covered voxels count by their share, and a part equals the whole."""
    line = np.zeros(64, np.float32)
    line[::8] = 8
    spikes = line.reshape(1, 1, 1, 64)
    assert _resampled(spikes, (0, 0, 0), (1, 1, 8.0), Box((0, 0, 0), (1, 1, 8))).ravel().tolist() == [1.0] * 8
    steps = np.array([0.0, 6.0, 12.0], np.float32).reshape(1, 1, 3, 1)  # 1.5 voxels: 0 + 6/2, 6/2 + 12
    assert _resampled(steps, (0, 0, 0), (1, 1.5, 1), Box((0, 0, 0), (1, 2, 1))).ravel().tolist() == pytest.approx(
        [2, 10]
    )
    values = np.random.default_rng(0).random((1, 1, 1, 70), dtype=np.float32)
    whole = _resampled(values, (0, 0, 0), (1, 1, 3.5), Box((0, 0, 0), (1, 1, 20)))
    np.testing.assert_allclose(whole.mean(), values.mean(), rtol=1e-6)
    part = _resampled(values[..., 17:42], (0, 0, 17), (1, 1, 3.5), Box((0, 0, 5), (1, 1, 12)))
    np.testing.assert_allclose(part, whole[..., 5:12], rtol=1e-6)


@pytest.mark.parametrize("factor", [(1.0, 0.31, 0.31), (1.0, 2.5, 2.5), (0.5, 1.7, 0.4)])
def test_resampled_blocks_equal_the_whole(tmp_path: Path, factor: tuple[float, float, float]) -> None:
    """However coarse or fine the image is against the model, the halo holds what a block needs."""
    model, image = _model(), _image((8, 48, 48))
    options: dict[str, Any] = {"model_id": "m", "factor": factor, "halo": model.receptive_halo}
    predict_volume(model, image, tmp_path / "whole.ome.zarr", block=(8, 48, 48), **options)
    predict_volume(model, image, tmp_path / "cut.ome.zarr", block=(4, 16, 16), **options)
    whole, cut = (io.open_volume(tmp_path / f"{name}.ome.zarr").read().astype(int) for name in ("whole", "cut"))
    assert np.abs(whole - cut).max() <= 1 and whole.std() > 1
