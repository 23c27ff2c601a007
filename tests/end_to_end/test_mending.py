"""An input is damaged, the verb ends partly done, the input is mended: what the message says to do then works."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.volumes import light_model
from fewslice import io, workflow
from fewslice.errors import InputError, PartialError
from fewslice.geometry import Box
from fewslice.volume import Volume

VOXEL = (1.0, 1.0, 1.0)
SHAPE = (8, 160, 160)
CHUNK = (8, 32, 32)
BLOCK = (8, 64, 64)
OVERWRITE = "the same command tries again, but a mended .* counts as another one, so pass --overwrite after mending it"


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images count as large ones do, by a sample and by their files; marks need not survive a power cut."""
    monkeypatch.setattr("fewslice.files.os.fsync", lambda descriptor: None)
    monkeypatch.setattr("fewslice.volume.HASH_WHOLE_BYTES", 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An image with a cell in each of 25 chunks, and the objects found in it."""
    values = np.random.default_rng(0).integers(20, 40, SHAPE).astype(np.uint8)
    grid = np.indices(SHAPE)
    values[((grid[0] - 4) ** 2 + (grid[1] % 32 - 16) ** 2 + (grid[2] % 32 - 16) ** 2) < 30] += 150
    store = io.create_output(
        tmp_path / "image.ome.zarr", shape=SHAPE, channel_names=["cells"], voxel_size_um=VOXEL, dtype=np.uint8,
        chunks=CHUNK,
    )  # fmt: skip
    store.write(Box.of(SHAPE), values[None])
    assert workflow.segment(tmp_path / "image.ome.zarr", output=tmp_path / "OUT.ome.zarr", **WATERSHED)["objects"] == 25
    return tmp_path


WATERSHED: dict[str, Any] = {"segmenter": "threshold_watershed"}


def _chunks(array: Path) -> list[Path]:
    return sorted(path for path in array.rglob("*") if path.is_file() and path.name != "zarr.json")


def _unsampled(image: Path) -> Path:
    """Return a chunk of an image whose values do not count when it is opened."""
    for chunk in _chunks(image / "0"):
        kept = chunk.read_bytes()
        chunk.write_bytes(kept[:40])
        try:
            io.open_volume(image).content_hash()
            return chunk
        except InputError:
            continue
        finally:
            chunk.write_bytes(kept)
    raise AssertionError("every chunk is sampled")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _mended_with_overwrite(run: Callable[..., Any], chunk: Path, contents: bytes, spoil: Callable[[], Any]) -> None:
    """Damage a chunk, run, mend it, run: refused; with --overwrite: done."""
    spoil()
    with pytest.raises(PartialError, match=OVERWRITE):
        run()
    with pytest.raises(PartialError, match=OVERWRITE):  # nothing was mended: the same blocks are tried again
        run()
    chunk.write_bytes(contents)
    with pytest.raises(InputError, match="--overwrite"):
        run()
    run(overwrite=True)


def test_mask(place: Path) -> None:
    image, chunk = place / "image.ome.zarr", _unsampled(place / "image.ome.zarr")
    kept = chunk.read_bytes()
    other = place / "other" / "OUT.ome.zarr"

    def run(**options: Any) -> Any:
        return workflow.segment(image, output=other, **WATERSHED, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fewslice.segmenters.threshold_watershed.survey", lambda *args: {"channel": 0, "threshold": 100.0}
        )
        _mended_with_overwrite(run, chunk, kept, lambda: chunk.write_bytes(kept[:40]))
    assert workflow.verify(other).exit_code == 0
    assert io.open_labels(other / "labels/instances").read().max() == 25


def test_measure(place: Path) -> None:
    image, chunk = place / "image.ome.zarr", _unsampled(place / "image.ome.zarr")
    kept = chunk.read_bytes()

    def run(output: str = "OUT.objects.csv", **options: Any) -> Any:
        return workflow.measure(
            place / "OUT.ome.zarr", image=str(image), block=BLOCK, output=place / output, **options
        )  # fmt: skip

    _mended_with_overwrite(run, chunk, kept, lambda: chunk.write_bytes(kept[:40]))
    run(output="fresh.objects.csv")
    assert (place / "OUT.objects.csv").read_bytes() == (place / "fresh.objects.csv").read_bytes()


@pytest.mark.parametrize("measured", [True, False])
def test_mesh(place: Path, monkeypatch: pytest.MonkeyPatch, measured: bool) -> None:
    """Damage comes after all labels were read once; what they are mended to differs by a voxel.

    Where there is a table of the objects, meshes fail; without one the pass that finds their boxes does.
    """
    if measured:
        workflow.measure(place / "OUT.ome.zarr")
    labels = place / "OUT.ome.zarr" / "labels" / "instances"
    chunk = _chunks(labels / "0")[0]
    values = io.open_labels(labels).read()[0]
    hashed = Volume.content_hash

    def spoiled(volume: Volume, *, whole: bool = False) -> str:
        found = hashed(volume, whole=whole)
        if whole:
            chunk.write_bytes(chunk.read_bytes()[:40])
        return found

    def run(**options: Any) -> Any:
        return workflow.mesh(place / "OUT.ome.zarr", kind="ply", **options)

    with monkeypatch.context() as patch:
        patch.setattr(Volume, "content_hash", spoiled)
        with pytest.raises(PartialError, match=OVERWRITE):
            run()
    with pytest.raises(InputError, match="damaged"):
        run()
    values[np.unravel_index(int(np.flatnonzero(values)[0]), values.shape)] = 0
    io.open_output(place / "OUT.ome.zarr", labels="instances").write(Box.of(SHAPE), values)
    if measured:  # without, nothing was made of the labels as they were
        with pytest.raises(InputError, match="--overwrite"):
            run()
    made = run(overwrite=True)
    monkeypatch.undo()
    fresh = workflow.mesh(place / "OUT.ome.zarr", kind="ply", output=place / "fresh")
    assert len(list(made.glob("*.ply"))) == 25
    for path in made.glob("*.ply"):
        assert path.read_bytes() == (fresh / path.name).read_bytes()


def test_segment(place: Path) -> None:
    """A damaged prediction is mended by what the message names, and the same segment command goes on."""
    light_model(place / "model")
    out = place / "P.ome.zarr"

    def predict() -> Any:
        return workflow.predict(place / "model", [str(place / "image.ome.zarr")], out, block=BLOCK)

    def segment() -> Any:
        return workflow.segment(out, segmenter="connected_components", block=BLOCK)

    predict()
    segment()
    unbroken = _files(out / "labels" / "instances")
    for name in (".fewslice/instances", "labels/instances", ".fewslice/levels/labels/instances"):
        shutil.rmtree(out / name, ignore_errors=True)
    chunk = _chunks(out / "0")[1]
    chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(PartialError, match=rf"fewslice verify {re.escape(str(out))} --repair and the command that"):
        segment()
    assert workflow.verify(out, repair=True).damaged
    with pytest.raises(InputError, match="run its predict command again"):
        segment()
    predict()
    assert segment()["objects"] > 0
    assert _files(out / "labels" / "instances") == unbroken and workflow.verify(out).exit_code == 0
