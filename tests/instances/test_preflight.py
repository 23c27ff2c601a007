"""What segment, measure and mesh will take is measured beforehand, near what happens, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io, workflow
from fewslice.blocks.preflight import free_memory, peak_memory, read_voxels, return_freed_memory, smaller_block
from fewslice.errors import InputError
from fewslice.geometry import BlockGrid, cover

VOXEL = (1.0, 1.0, 1.0)
BLOCK = (32, 64, 64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prediction of balls on a grid, 32 × 128 × 192, with its objects; never written to."""
    folder = tmp_path_factory.mktemp("store")
    place = np.stack(np.meshgrid(*(np.arange(n) for n in (32, 128, 192)), indexing="ij"))
    centre = place // 16 * 16 + 8
    image = np.where(((place - centre) ** 2).sum(0) < 36, 200, 0).astype(np.uint8)
    io.save_volume(folder / "image.ome.zarr", io.Volume.from_array(image, voxel_size_um=VOXEL))
    output = folder / "OUT.ome.zarr"
    options: dict[str, Any] = {"segmenter": "threshold_watershed", "settings": {"smoothing_um": 0}}
    workflow.segment(folder / "image.ome.zarr", output=output, block=BLOCK, **options)
    return output


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_segment(store: Path, tmp_path: Path) -> None:
    before = contents(store.parent)
    (found,) = workflow.estimate_segmentation(store, block=BLOCK)
    assert contents(store.parent) == before
    assert (found.blocks, found.block) == (6, BLOCK)
    assert found.seconds > 0 and found.disk_bytes > 0
    return_freed_memory()
    with peak_memory() as peak:
        workflow.segment(store, segmenter="connected_components", overwrite=True, block=BLOCK)
        memory = peak()
    (same,) = workflow.estimate_segmentation(store, segmenter="connected_components", block=BLOCK)
    assert 0.66 < same.memory_bytes / memory < 1.5


def test_the_mask_of_an_image(store: Path) -> None:
    before = contents(store.parent)
    image = store.with_name("image.ome.zarr")
    output = store.with_name("other.ome.zarr")
    (found,) = workflow.estimate_segmentation(image, segmenter="threshold_watershed", output=output)
    assert contents(store.parent) == before
    assert found.what.endswith("image.ome.zarr") and found.blocks >= 1 and found.seconds > 0


def test_measure_and_mesh(store: Path) -> None:
    pytest.importorskip("trimesh")
    before = contents(store.parent)
    (sums,) = workflow.estimate_measurement(store, block=BLOCK)
    (meshes,) = workflow.estimate_meshes(store)
    assert contents(store.parent) == before
    assert sums.blocks == 6 and sums.seconds > 0
    assert meshes.blocks == 192, "one volume in which every ball is seen"
    folder = workflow.mesh(store, output=store.with_name("meshes"))
    stored = sum(path.stat().st_size for path in folder.glob("*.glb"))
    assert 0.66 < meshes.disk_bytes / stored < 1.5


@pytest.mark.parametrize("verb", ["segment", "measure"])
def test_what_cannot_fit_is_refused_and_a_block_that_fits_is_named(
    store: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate: Any = workflow.estimate_segmentation if verb == "segment" else workflow.estimate_measurement
    estimate(store, block=BLOCK)  # libraries load
    return_freed_memory()
    with peak_memory() as peak:
        room = peak() + 2**20
    monkeypatch.setattr("fewslice.blocks.preflight.free_memory", lambda: room)
    with pytest.raises(InputError, match=r"need about .* of memory .* are free; (use --block \d+,\d+,\d+|use fewer)"):
        estimate(store, block=(32, 128, 192))
    monkeypatch.setattr("fewslice.blocks.preflight.free_memory", free_memory)
    monkeypatch.setattr("fewslice.blocks.preflight.free_disk", lambda place: 10)
    with pytest.raises(InputError, match=r"its disk has 0\.0 MiB free"):
        estimate(store, block=BLOCK)


def test_smaller_blocks_read_less_and_stay_whole() -> None:
    grid = BlockGrid((64, 512, 512), (64, 256, 256), (4, 8, 8), (1, 1, 1))
    block = smaller_block(grid, 2**20)
    assert block == (64, 128, 128) or max(b.read.size for b in cover(grid.shape, block, grid.halo)) <= 2**20
    assert all(b % 32 == 0 for b in block)
    assert smaller_block(grid, 1) == (32, 32, 32)


def test_what_all_blocks_read_is_summed() -> None:
    grid = BlockGrid((10, 33, 50), (4, 16, 20), (1, 3, 0), (2, 1, 1))
    assert read_voxels(grid) == sum(block.read.size for block in grid)
