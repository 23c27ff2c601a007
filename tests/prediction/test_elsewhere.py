"""Prediction on workers, sharded, verified, skipped where empty, and estimated beforehand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewslice import io, workflow
from fewslice.blocks.preflight import check_fits, free_memory, peak_memory, probed_blocks, return_freed_memory
from fewslice.blocks.verify import forget_damaged, verify_store
from fewslice.data.normalisation import Normalisation
from fewslice.errors import DiskError, InputError
from fewslice.geometry import BlockGrid, Box
from fewslice.model import Model, NetworkStep, build_network
from fewslice.prediction import predict_volume
from fewslice.prediction.job import is_empty
from fewslice.prediction.preflight import estimate_prediction
from fewslice.volume import Volume

VOXEL = (2.0, 1.0, 1.0)


def _model(signal: tuple[float, ...] | None = None) -> Model:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"kind": "unet", "dims": 3, "features": 4, "depth": 2}
    step = NetworkStep(network=settings, in_channels=1, out_channels=2)
    return Model(
        [step], [build_network(settings, 1, 2)], normalisation=Normalisation("robust", (100.0,), (50.0,)),
        class_values=(1,), voxel_size_um=VOXEL, halo=(2, 4, 4), signal=signal,
    )  # fmt: skip


def _image(shape: tuple[int, int, int] = (8, 40, 44)) -> Volume:
    values = np.random.default_rng(0).integers(0, 255, (1, *shape), dtype=np.uint8)
    return Volume.from_array(values, VOXEL)


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    _model().save(tmp_path / "model")
    io.save_volume(tmp_path / "image.ome.zarr", _image((8, 40, 560)))  # wide enough for a pyramid
    return tmp_path


def test_two_workers_write_the_bytes_of_one_process(place: Path) -> None:
    """Also the pyramids, and half of it begun by one and finished by the other."""
    options: dict[str, Any] = {"block": (8, 20, 140)}
    image = str(place / "image.ome.zarr")
    workflow.predict(place / "model", [image], place / "a" / "x.ome.zarr", **options)
    workflow.predict(place / "model", [image], place / "b" / "x.ome.zarr", workers=2, **options)
    assert _files(place / "a") == _files(place / "b")
    assert "x.ome.zarr/1/zarr.json" in _files(place / "a") and verify_store(place / "b" / "x.ome.zarr").exit_code == 0


def test_arrays_in_memory_cannot_go_elsewhere(tmp_path: Path) -> None:
    class Other:
        pass

    with pytest.raises(InputError, match="cannot see arrays in memory"):
        predict_volume(_model(), _image(), tmp_path / "x.ome.zarr", model_id="m", engine=Other())  # type: ignore[arg-type]


def test_shards_hold_the_same_values_and_no_two_blocks_share_one(tmp_path: Path) -> None:
    model, image = _model(), _image((8, 40, 64))
    predict_volume(model, image, tmp_path / "a.ome.zarr", model_id="m", block=(8, 20, 32))
    made = predict_volume(model, image, tmp_path / "b.ome.zarr", model_id="m", block=(8, 20, 32), shard=(4, 20, 16))
    assert made.outcome.done == 4 and io.describe(tmp_path / "b.ome.zarr")["shards"] == [1, 4, 20, 16]
    one, other = (io.open_volume(tmp_path / f"{name}.ome.zarr").read() for name in "ab")
    np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="whole shards"):
        predict_volume(model, image, tmp_path / "c.ome.zarr", model_id="m", block=(8, 20, 24), shard=(4, 20, 16))
    assert not (tmp_path / "c.ome.zarr").exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("shard", [None, (8, 20, 140)])
def test_lost_cut_and_changed_chunks_are_found_and_only_their_blocks_made_again(
    tmp_path: Path, finished: bool, shard: tuple[int, int, int] | None
) -> None:
    """A chunk of nothing but 0 is not stored, and that is no damage."""
    model, out = _model((50.0,)), tmp_path / "x.ome.zarr"
    values = _image((8, 40, 560)).read().astype(np.float32)
    values[..., :160] = 0
    if not finished:
        values[0, 0, 39, 559] = np.nan
    image = Volume.from_array(values, VOXEL)
    options: dict[str, Any] = {
        "model_id": "m",
        "block": (8, 20, 140),
        "shard": shard,
        "skip_empty": True,
        "halo": (2, 4, 4),
    }
    predict_volume(model, image, out, **options)
    assert not (out / "0/c/0/0/0/0").exists(), "the test needs a chunk that is not stored"
    whole = verify_store(out)
    assert whole.exit_code == (0 if finished else 3) and whole.blocks >= 7 and whole.chunks >= 14
    assert len(whole.failed) == (not finished)
    before = _files(out)
    (out / "0/c/0/0/0/1").unlink()
    chunk = out / "0/c/0/0/1/2"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    shutil.copy(out / "0/c/0/0/0/2", out / "0/c/0/0/0/3")
    expected = [("missing", (0, 0, 1)), ("changed", (0, 0, 3)), ("unreadable", (0, 1, 2))]
    if finished:
        (out / "1/c/0/0/0/1").unlink()
        expected.append(("missing", (0, 0, 0)))  # a block of the level is all of it
    found = verify_store(out)
    assert found.exit_code == 1 and [(d.problem, d.block) for d in found.damaged] == expected
    assert found.damaged[0].chunk == "c/0/0/0/1" and found.damaged[0].array == "0"
    forget_damaged(out, found.damaged)
    again = predict_volume(model, image, out, **options)
    assert again.outcome.done == 3 and _files(out) == before and verify_store(out).damaged == ()


def test_repair_makes_again_what_coarser_levels_hold_of_damaged_blocks(tmp_path: Path) -> None:
    """A chunk that is lost before the pyramid is made is lost on all levels, each as its checksums say."""
    model, image, out = _model(), _image((8, 40, 1200)), tmp_path / "OUT.ome.zarr"
    options: dict[str, Any] = {"model_id": "m", "block": (8, 40, 200), "halo": (2, 4, 4)}
    predict_volume(model, image, tmp_path / "good.ome.zarr", **options)

    def lose(done: int, blocks: int) -> None:
        if done == blocks:
            (out / "0/c/0/0/0/4").unlink()
            (out / "labels/segmentation/0/c/0/0/0").unlink(missing_ok=True)

    predict_volume(model, image, out, progress=lose, **options)
    assert _files(out / "1") != _files(tmp_path / "good.ome.zarr" / "1")
    found = verify_store(out)
    assert found.damaged and all(item.array.endswith("0") for item in found.damaged)
    forget_damaged(out, found.damaged)
    assert verify_store(out).exit_code == 3
    predict_volume(model, image, out, **options)
    assert verify_store(out).exit_code == 0
    for level in ("0", "1", "labels/segmentation/0", "labels/segmentation/1"):
        assert _files(out / level) == _files(tmp_path / "good.ome.zarr" / level)


def test_a_store_without_record_cannot_be_verified(tmp_path: Path) -> None:
    io.save_volume(tmp_path / "x.ome.zarr", _image())
    with pytest.raises(InputError, match="holds no record"):
        verify_store(tmp_path / "x.ome.zarr")


def test_empty_blocks_are_left_out_and_counted_and_no_bright_spot_is_lost(tmp_path: Path) -> None:
    """A spot in the halo of a block counts for that block as well; a single hot pixel does not."""
    values = np.full((1, 8, 40, 80), 20, np.uint8)
    values[0, 4, 5, 5] = 255  # a hot pixel: 46 in the mean of nine
    values[0, 4, 28:32, 22:24] = 200  # in block (1, 1), and in the halo of (1, 0)
    out = tmp_path / "x.ome.zarr"
    made = predict_volume(
        _model((100.0,)), Volume.from_array(values, VOXEL), out, model_id="m", block=(8, 20, 20), skip_empty=True
    )
    assert (made.blocks, made.empty) == (8, 6)
    plain = tmp_path / "plain.ome.zarr"
    predict_volume(_model(), Volume.from_array(values, VOXEL), plain, model_id="m", block=(8, 20, 20))
    skipped, full = io.open_volume(out), io.open_volume(plain).read()
    np.testing.assert_array_equal(skipped.read()[..., 20:, :40], full[..., 20:, :40])
    assert not skipped.read()[..., :20, :].any() and full[..., :20, :].any()
    assert skipped.attributes["blocks_empty"] == 6 and skipped.attributes["empty_below"] == [100.0]
    assert verify_store(out).exit_code == 0


def test_every_channel_must_be_dark_for_a_block_to_be_empty() -> None:
    raw = np.zeros((2, 3, 9, 9), np.uint16)
    raw[1] = 50
    assert is_empty(raw, (10.0, 60.0)) and not is_empty(raw, (10.0, 50.0))


def test_skipping_needs_a_model_that_knows_its_signal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="predict without --skip-empty"):
        predict_volume(_model(), _image(), tmp_path / "x.ome.zarr", model_id="m", skip_empty=True)


def test_a_read_only_output_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.ome.zarr"
    broken = _image().read().astype(np.float32)
    broken[0, 0, 0, 0] = np.nan
    predict_volume(_model(), Volume.from_array(broken), out, model_id="m", block=(8, 20, 20))

    def refuse(self: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(DiskError, match=r"x\.ome\.zarr: Read-only file system"):
        predict_volume(_model(), Volume.from_array(broken), out, model_id="m", block=(8, 20, 20))


def test_the_estimate_is_near_what_happens_and_leaves_nothing(tmp_path: Path) -> None:
    """Memory within a half, disk within a fifth; the folder is as empty as before."""
    model, image, out = _model(), _image((16, 96, 192)), tmp_path / "x.ome.zarr"
    found = estimate_prediction(model, image, out, block=(16, 48, 48))
    assert not list(tmp_path.iterdir())
    with peak_memory() as peak:
        predict_volume(model, image, out, model_id="m", block=(16, 48, 48))
        memory = peak()
    assert found.blocks == 8 and found.block == (16, 48, 48)
    assert 0.66 < found.memory_bytes / memory < 1.5
    stored = sum(len(v) for k, v in _files(out).items() if k.startswith(("0/c", "labels/segmentation/0/c")))
    assert 0.8 < found.disk_bytes / stored < 1.25
    assert found.seconds > 0 and "8 blocks of 16 × 48 × 48 voxels" in "\n".join(found.lines())


def test_what_cannot_fit_is_refused_and_a_block_that_fits_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for a fraction of the block only; the named block passes."""
    model, image, out = _model(), _image((64, 256, 512)), tmp_path / "x.ome.zarr"
    return_freed_memory()
    with peak_memory() as peak:
        room = peak() + 2**28
    monkeypatch.setattr("fewslice.prediction.preflight.free_memory", lambda: room)
    with pytest.raises(InputError, match=r"need about .* of memory .* are free; use --block \d+,\d+,\d+") as refusal:
        estimate_prediction(model, image, out, block=(64, 256, 512))
    z, y, x = map(int, str(refusal.value).rpartition(" ")[2].split(","))
    assert estimate_prediction(model, image, out, block=(z, y, x)).memory_bytes <= room
    monkeypatch.setattr("fewslice.prediction.preflight.free_disk", lambda place: 10)
    monkeypatch.setattr("fewslice.prediction.preflight.free_memory", free_memory)
    with pytest.raises(InputError, match=r"its disk has 0\.0 MiB free"):
        estimate_prediction(model, _image(), out)
    assert not list(tmp_path.iterdir())


def test_gpu_memory_counts_as_well(tmp_path: Path) -> None:
    found = estimate_prediction(_model(), _image(), tmp_path / "x.ome.zarr")
    with pytest.raises(InputError, match=r"of GPU memory in 1 process but 1\.0 MiB are free; use fewer workers"):
        check_fits(replace(found, gpu_bytes=2**30, gpu_free_bytes=2**20), lambda share: None)


def test_the_blocks_of_the_probe_are_neighbours_in_the_middle() -> None:
    grid = BlockGrid((30, 50, 70), (10, 10, 10), (1, 1, 1), (1, 1, 1))
    assert [b.index for b in probed_blocks(grid)] == [(1, 2, 3), (1, 2, 4)]
    assert [b.index for b in probed_blocks(BlockGrid((5, 5, 5), (5, 5, 5), (0, 0, 0), (1, 1, 1)))] == [(0, 0, 0)]
    assert probed_blocks(grid)[0].write == Box((10, 20, 30), (20, 30, 40))
