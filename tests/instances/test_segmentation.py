"""Objects do not depend on blocks; any pass may be killed; nothing that a user had is lost."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage.metrics import adapted_rand_error
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from fewslice import io, registry
from fewslice.blocks.job import BlockFailure, Opened
from fewslice.blocks.record import Record
from fewslice.errors import InputError
from fewslice.instances import open_outputs, passes, segment_store, segmentation
from fewslice.instances.passes import Grid, LabelBlocks
from fewslice.metrics.instance import count_overlaps, scores
from fewslice.segmenters import Output

Store = Callable[..., Path]


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label images are equal up to names; background is background in both."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1])) and bool(((a == 0) == (b == 0)).all())


def phantom(shape: tuple[int, int, int] = (40, 72, 80), seed: int = 0, count: int = 30) -> np.ndarray:
    """Probabilities uint8 of touching balls of all sizes, a rod through the whole volume, and specks."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    mask = np.zeros(shape, bool)
    for _ in range(count):
        centre, radius = rng.uniform(0, shape), rng.uniform(2, 11)
        mask |= sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2
    y, x = shape[1] // 2, shape[2]
    mask[20:24, y - 2 : y + 2, :x] = True  # longer than any halo
    mask[rng.integers(0, shape[0], 40), rng.integers(0, shape[1], 40), rng.integers(0, shape[2], 40)] = True
    soft = ndimage.gaussian_filter(mask * 255.0, 0.7) + rng.normal(0, 8, shape)
    return np.rint(soft.clip(0, 255)).astype(np.uint8)


def run(path: Path, kind: str = "watershed", block: Any = None, **settings: Any) -> np.ndarray:
    options = {k: settings.pop(k) for k in ("threshold", "overwrite") if k in settings}
    config = registry.load("segmenters", kind).Config(**settings)
    found = segment_store(open_outputs(path), kind, config, block=block, **options)
    labels = io.open_labels(path / "labels" / "instances").read()[0]
    assert found.objects == len(np.unique(labels[labels > 0])) == labels.max(initial=0)
    assert labels.dtype == np.min_scalar_type(found.objects)
    return labels


BLOCKS = [(32, 32, 32), (48, 48, 48), (64, 64, 64), (96, 96, 96)]


@pytest.mark.parametrize(
    ("kind", "settings", "voxel"),
    [
        ("connected_components", {}, None),
        ("connected_components", {"connectivity": 6}, None),
        ("watershed", {"reach_um": 12}, (2.0, 0.7, 0.9)),
        ("watershed", {"reach_um": 3, "neck": 0.6, "smoothing_um": 0}, None),  # less than the radius of many balls
    ],
)
def test_any_blocks_give_the_same_objects(store: Store, kind: str, settings: dict[str, Any], voxel: Any) -> None:
    """Balls, some larger than what the halo sees, a rod through the whole volume, specks, noise at the surfaces."""
    values = phantom()
    whole = run(store(values, "whole", voxel=voxel), kind, values.shape, **settings)
    assert whole.max() > 5
    for i, block in enumerate([(32, 32, 32), (16, 72, 24)]):
        assert same_partition(run(store(values, f"b{i}", voxel=voxel), kind, block, **settings), whole), block


@pytest.mark.parametrize("kind", ["connected_components", "watershed"])
def test_any_blocks_give_the_same_nuclei(store: Store, data_dir: Path, kind: str) -> None:
    """Real shapes: probabilities made of true masks, blocks of 32, 48, 64 and 96."""
    truth = tifffile.imread(data_dir / "nuclei_3d" / "1135" / "labels.tif")
    values = np.rint(ndimage.gaussian_filter((truth > 0) * 255.0, 1)).astype(np.uint8)
    found = [run(store(values, str(b), voxel=(0.2837, 0.1268, 0.1268)), kind, b) for b in (truth.shape, *BLOCKS)]
    assert all(same_partition(other, found[0]) for other in found[1:])
    if kind == "watershed":
        s = scores([count_overlaps(truth, found[0])])
        assert s["f1"]["0.5"] > 0.95 and s["merges"] <= 1 and abs(s["count_error"]) <= 2
    else:
        assert scores([count_overlaps(truth, found[0])])["merges"] >= 8  # they do touch


@pytest.mark.parametrize("extra", ["distance", "boundary"])
def test_any_blocks_give_the_same_objects_from_other_outputs(store: Store, extra: str) -> None:
    inside = phantom() >= 128
    distance = ndimage.distance_transform_edt(inside)
    second = {
        "distance": np.rint(distance / distance.max() * 255),
        "boundary": ((distance < 2) & (ndimage.distance_transform_edt(~inside) < 2)) * 255.0,
    }[extra]
    values = np.stack([inside * np.uint8(255), second.astype(np.uint8)])
    kinds = ("probability", extra)
    whole = run(store(values, "whole", kinds=kinds), block=inside.shape, min_size_um3=0)
    assert ((whole > 0) == inside).all()
    for i, block in enumerate([(32, 32, 32), (16, 72, 24)]):
        assert same_partition(run(store(values, f"b{i}", kinds=kinds), block=block, min_size_um3=0), whole)


def test_boundary_output_parts_what_the_shape_does_not(store: Store) -> None:
    """A bar has no neck; a predicted boundary across it makes it two, and all of the bar belongs to one of them."""
    bar = np.zeros((1, 40, 40), np.uint8)
    bar[:, 14:26, 4:36] = 255
    border = np.zeros_like(bar)
    border[:, 14:26, 19:21] = 255
    assert run(store(bar, "plain")).max() == 1
    two = run(store(np.stack([bar, border]), "boundary", kinds=("probability", "boundary")))
    assert two.max() == 2 and ((two > 0) == (bar > 0)).all()
    assert len(np.unique(two[0, 14:26, 4:18])) == len(np.unique(two[0, 14:26, 22:36])) == 1


def test_touching_balls_are_parted_at_the_neck_and_components_are_not(store: Store) -> None:
    grid = np.indices((30, 40, 64))
    balls = [((grid - np.reshape((15, 20, x), (3, 1, 1, 1))) ** 2).sum(0) < 12**2 for x in (20, 42)]
    values = np.where(balls[0] | balls[1], np.uint8(255), np.uint8(0))
    found = run(store(values, "w"), block=(16, 32, 32))
    assert found.max() == 2 and run(store(values, "c"), "connected_components").max() == 1
    left = found[15, 20, 20]
    x = np.indices(values.shape)[2]
    assert ((found == left) == ((values > 0) & (x <= 31)))[values > 0].mean() > 0.99


def test_watershed_agrees_with_h_maxima_and_flooding(store: Store) -> None:
    """Another implementation: scikit-image's h-maxima as seeds of its watershed, on the same heights."""
    inside = phantom(seed=3, count=20) >= 128
    inside = ndimage.binary_opening(inside, iterations=2)
    steps = np.rint(np.minimum(ndimage.distance_transform_edt(inside), 24) * 32)
    heights = np.rint(ndimage.gaussian_filter(steps, 1, truncate=3))
    seeds, count = ndimage.label(h_maxima(heights, 32 * 1.5) & inside, structure=np.ones((3, 3, 3)))
    flooded = watershed(-heights, seeds, mask=inside, connectivity=3)
    found = run(store(np.where(inside, np.uint8(255), np.uint8(0))), neck=1.0, depth_um=1.5, min_size_um3=0)
    seen = flooded > 0  # pieces that are nowhere higher than h have no seed; here they are objects all the same
    assert len(np.unique(found[seen])) == count > 10
    error, _, _ = adapted_rand_error(flooded[seen], found[seen])
    assert error < 0.03


def test_classes_never_join(store: Store) -> None:
    values = np.zeros((2, 4, 8, 12), np.uint8)
    values[0, :, :, :6] = 200
    values[1, :, :, 6:] = 200
    for kind in ("connected_components", "watershed"):
        found = run(store(values, kind, kinds=("probability", "probability")), kind, (4, 4, 4))
        assert found.max() == 2 and len(np.unique(found[..., :6])) == len(np.unique(found[..., 6:])) == 1


def test_sizes_are_those_of_whole_objects(store: Store) -> None:
    """A bar of 60 voxels in six blocks is one object of 60, not six of 10."""
    values = np.zeros((1, 3, 60), np.uint8)
    values[0, 1] = 255
    values[0, 0, 5] = 0
    for kind in ("connected_components", "watershed"):
        assert run(store(values, f"{kind}60"), kind, (1, 3, 10), min_size_um3=60).max() == 1
        assert run(store(values, f"{kind}61"), kind, (1, 3, 10), min_size_um3=61).max() == 0
    voxel = (2.0, 0.5, 0.5)  # 60 voxels are 30 µm³
    assert run(store(values, "um", voxel=voxel), "connected_components", min_size_um3=30).max() == 1
    assert run(store(values, "um2", voxel=voxel), "connected_components", min_size_um3=30.1).max() == 0


def test_more_than_65535_objects(store: Store) -> None:
    values = np.zeros((2, 520, 520), np.uint8)
    values[:, ::2, ::2] = 255
    found = run(store(values), "connected_components", (2, 260, 260), min_size_um3=0)
    assert found.max() == 67_600 and found.dtype == np.uint32


def test_empty_and_full(store: Store) -> None:
    empty = np.zeros((4, 20, 20), np.uint8)
    for kind in ("connected_components", "watershed"):
        assert run(store(empty, f"{kind}e"), kind, (4, 10, 10)).max() == 0
        assert run(store(empty + 255, f"{kind}f"), kind, (4, 10, 10)).max() == 1


PASSES = ["label", "link", "union", "create", "relabel", "pyramid", "finish"]


class Killed(BaseException):
    """What stands for a kill: nothing catches it to go on."""


@pytest.mark.parametrize("where", PASSES)
def test_killed_in_any_pass(store: Store, monkeypatch: pytest.MonkeyPatch, folder_bytes: Any, where: str) -> None:
    values = phantom((24, 48, 48), count=12)
    block = (16, 24, 24)
    run(store(values, "unbroken/OUT"), block=block)
    path = store(values, "killed/OUT")
    stored = open_outputs(path)
    config = registry.load("segmenters", "watershed").Config()
    with monkeypatch.context() as patch:
        _kill(patch, where)
        with pytest.raises(Killed):
            segment_store(stored, "watershed", config, block=block)
    assert (path.parent / ".OUT.ome.zarr.instances").is_dir()
    labelled = _count_calls(monkeypatch)
    again = segment_store(stored, "watershed", config, block=block)
    assert not again.already_finished and again.objects > 0
    assert len(labelled) == {"label": 6}.get(where, 0), "finished blocks were computed again"
    assert folder_bytes(path) == folder_bytes(path.parent.parent / "unbroken" / "OUT.ome.zarr")
    assert not list(path.parent.glob(".*")), "intermediate files were left"
    before = folder_bytes(path)
    assert segment_store(stored, "watershed", config, block=block).already_finished and folder_bytes(path) == before


@pytest.fixture
def folder_bytes() -> Callable[[Path], dict[str, bytes]]:
    def read(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read


def _kill(patch: pytest.MonkeyPatch, where: str) -> None:
    """Die in the third of eight blocks of a pass, half-way through the union, or while the end is being written."""
    if where in ("label", "link", "relabel"):
        original = segmentation._Passes.__call__

        def dying(passes: Any, name: str, job: Any, record: Any = None) -> Any:
            opened, seen = job.open(), []

            def read(block: Any) -> Any:
                seen.append(block)
                if name == where and len(seen) == 3:
                    raise Killed
                return opened.read(block)

            return original(passes, name, Opened(replace(opened, read=read)), record)

        patch.setattr(segmentation._Passes, "__call__", dying)
        return
    owner, name, last = {
        "union": (segmentation.np, "save", lambda path, *_: path.name == "names.npy"),
        "create": (segmentation.io, "create_labels", lambda *_: True),
        "pyramid": (segmentation, "write_pyramids", lambda *_: True),
        "finish": (Record, "finish", lambda record: record.folder.name == "instances"),
    }[where]
    real = getattr(owner, name)

    def die(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options) if where == "union" or not last(*arguments) else None
        if last(*arguments):
            raise Killed
        return result

    patch.setattr(owner, name, die)


def _count_calls(patch: pytest.MonkeyPatch) -> list[Any]:
    module = registry.load("segmenters", "watershed")
    original, seen = module.label, []

    def counted(config: Any, values: Any, place: Any) -> Any:
        seen.append(place)
        return original(config, values, place)

    patch.setattr(module, "label", counted)
    return seen


def test_other_settings_are_refused_and_overwrite_replaces(store: Store, folder_bytes: Any) -> None:
    path = store(phantom((16, 32, 32), count=6))
    run(path)
    before = folder_bytes(path)
    for change in ({"neck": 0.5}, {"threshold": 0.7}):
        with pytest.raises(InputError, match=r"another .* settings"):
            run(path, **change)
        assert folder_bytes(path) == before
    second = run(path, "connected_components", overwrite=True)
    np.testing.assert_array_equal(second, run(store(phantom((16, 32, 32), count=6), "fresh"), "connected_components"))
    assert io.open_labels(path / "labels" / "instances").attributes["segmenter"] == "connected_components"
    assert run(path, "connected_components").max() == second.max()


def test_objects_of_unknown_origin_are_kept(store: Store) -> None:
    path = store(phantom((16, 32, 32), count=6))
    io.create_labels(path, "instances", shape=(16, 32, 32), dtype=np.uint8)
    with pytest.raises(InputError, match="was not made by segment"):
        run(path)
    assert run(path, overwrite=True).max() > 0


def test_stores_that_cannot_be_segmented(store: Store, tmp_path: Path) -> None:
    contour = store(phantom((8, 16, 16)), "contour", kinds=("contour",))
    for kind in ("connected_components", "watershed"):
        with pytest.raises(InputError, match=f"{kind} needs a probability output, but the outputs are contour_0"):
            run(contour, kind)
    unfinished = store(phantom((8, 16, 16)), "unfinished")
    shutil.rmtree(unfinished / ".fewslice")
    segmentation.open_record(unfinished / ".fewslice", "key", what="")
    with pytest.raises(InputError, match="unfinished prediction"):
        open_outputs(unfinished)
    image = tmp_path / "image.ome.zarr"
    io.create_output(image, shape=(4, 8, 8), channel_names=["raw"])
    with pytest.raises(InputError, match="no prediction of fewslice"):
        open_outputs(image)
    with pytest.raises(InputError, match="multiples of 32"):
        run(store(np.zeros((1, 600, 8), np.uint8), "prime"), block=(1, 257, 8))


def test_a_block_that_cannot_be_read_is_named_and_costs_no_other(store: Store) -> None:
    path = store(phantom((8, 300, 300), count=40))
    chunk = next(p for p in sorted((path / "0").rglob("*")) if p.is_file() and p.parts[-2:] == ("2", "2"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:40])
    config = registry.load("segmenters", "connected_components").Config()
    result = segment_store(open_outputs(path), "connected_components", config, block=(8, 128, 128))
    assert len(result.failed) == 4 and "damaged" in result.failed[0][1] and result.objects == 0
    chunk.write_bytes(whole)
    assert segment_store(open_outputs(path), "connected_components", config, block=(8, 128, 128)).objects > 0


@pytest.mark.parametrize("name", ["LinkBlocks", "RelabelBlocks"])
def test_a_block_that_fails_in_a_later_pass_is_named_and_done_by_the_same_command(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    values = phantom((16, 64, 64), count=12)
    expected = run(store(values, "whole"), "connected_components", (16, 32, 32))
    path = store(values)
    pass_, config = getattr(passes, name), registry.load("segmenters", "connected_components").Config()
    original = pass_.open

    def failing(job: Any) -> Any:
        opened = original(job)

        def read(block: Any) -> Any:
            if block.index == (0, 1, 0):
                raise BlockFailure("cannot be read")
            return opened.read(block)

        return replace(opened, read=read)

    with monkeypatch.context() as patch:
        patch.setattr(pass_, "open", failing)
        result = segment_store(open_outputs(path), "connected_components", config, block=(16, 32, 32))
        assert [block.index for block, _ in result.failed] == [(0, 1, 0)] and not result.already_finished
    again = segment_store(open_outputs(path), "connected_components", config, block=(16, 32, 32))
    assert not again.failed and not again.already_finished
    np.testing.assert_array_equal(io.open_labels(path / "labels" / "instances").read()[0], expected)


def test_the_work_of_a_pass_is_a_value_of_paths_and_numbers(tmp_path: Path) -> None:
    job = LabelBlocks(
        tmp_path,
        tmp_path / "w",
        "watershed",
        "{}",
        (0,),
        (Output("p", "probability"),),
        0.5,
        None,
        Grid((8, 8, 8), (4, 4, 4)),
    )
    assert pickle.loads(pickle.dumps(job)) == job
