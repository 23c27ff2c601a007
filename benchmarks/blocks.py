"""Whether the result depends on how a volume is cut, and whether names and tables keep up with very many objects.

``nuclei_3d`` and ``phantom``: a small 3D U-Net that learns outlines as well, trained on five planes of the volume.

``objects``
    From one stored prediction, objects by blocks of 32, 48, 64 and 96 voxels, of both segmenters: the same partition?
    And by one and by two workers: the same files as in this process?
``predictions``
    The probabilities by such blocks (of 32, 32, 64 and 96 planes, as chunks have 32) and by workers: how far apart, how
    many labels differ, do block faces show?

``many``: what grows with the number of objects alone.

``merge``
    Naming the objects of 200,000 blocks with 25 regions each: 5 million ids, which lie beyond 2^32 while they are
    merged. Every second block shares ten objects with the next, so the number of objects is known.
``table``
    ``fewslice measure`` on 5 million cuboids in 2.25 gigavoxels of labels, checked row by row.
"""

from __future__ import annotations

import argparse
import atexit
import csv
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks import phantom
from benchmarks.cells import Cell, Context
from benchmarks.instances import VOXEL_SIZE_UM
from benchmarks.problems import DATA, read_pair
from benchmarks.scaling import measured
from benchmarks.volumes import command

__all__ = ["BLOCKS", "RECIPE", "VOLUMES", "again", "main", "merge_many", "plan", "run_cell", "same_partition"]

RECIPE = "1"
"""Version of the measurement. Raise it whenever what is measured changes."""
VOLUMES = {"nuclei_3d": DATA["nuclei_3d"], "phantom": phantom.IDENTITY}
BLOCKS = (32, 48, 64, 96)
WORKERS = (1, 2)
_WORKERS_BLOCK = 48
_TIERS: dict[str, dict[str, Any]] = {
    "full": {"steps": 240, "merge": {"blocks": 200_000, "regions": 25}, "table": {"cuboids": [150, 183, 183]}},
    "quick": {"steps": 5, "merge": {"blocks": 200, "regions": 25}, "table": {"cuboids": [6, 10, 10]}},
}
_SHARED = 10
_PITCH = (7, 8, 8)
"""Of the cuboids, of which one voxel along each axis is background."""

Array = npt.NDArray[Any]


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    tier = "quick" if arguments.quick else "full"
    cut = [_cell(setting, arm, tier) for setting in VOLUMES for arm in ("objects", "predictions")]
    return [*cut, *(_cell("many", arm, tier) for arm in ("merge", "table"))]


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell = result["cell"]
    return _cell(cell["setting"], cell["arm"], cell["config"]["tier"])


def _cell(setting: str, arm: str, tier: str) -> Cell:
    many = setting == "many"
    config: dict[str, Any] = {"tier": tier} | (_TIERS[tier][arm] if many else {"blocks": list(BLOCKS)})
    budget = {} if many else {"segment": float(_TIERS[tier]["steps"])}
    label = {"tier": tier} if tier != "full" else {}
    data = "synthetic" if many else VOLUMES[setting]
    return Cell("blocks", setting, arm, 0, config, data, budget, RECIPE, label, group=setting)


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    context.work.mkdir(parents=True, exist_ok=True)
    if cell.arm == "merge":
        return {"scores": merge_many(cell.config["blocks"], cell.config["regions"])}
    with tempfile.TemporaryDirectory(dir=context.work, prefix="blocks-") as scratch:
        if cell.arm == "table":
            return {"scores": _measure_many(Path(scratch), cell.config["cuboids"])}
        trained = _trained(cell.setting, int(cell.budget["segment"]), context)
        compare = _compare_objects if cell.arm == "objects" else _compare_predictions
        return {"scores": compare(trained, Path(scratch))}


# --- how a volume is cut ---


@lru_cache(maxsize=1)
def _trained(setting: str, steps: int, context: Context) -> Path:
    """Make a folder with an image and a run that learned from it, for the cells of this process; it goes with it."""
    from fewslice import io, workflow
    from fewslice.annotation import from_labels
    from fewslice.data.samples import Sample
    from fewslice.experiment import Experiment
    from fewslice.synthesis.simulators import two_photon_neurons
    from fewslice.training.fit import Hardware
    from fewslice.volume import Volume

    folder = Path(tempfile.mkdtemp(dir=context.work, prefix="trained-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if setting == "nuclei_3d":
        image, labels = read_pair("nuclei_3d", context.data)
        voxel = VOXEL_SIZE_UM
    else:
        made = two_photon_neurons.simulate(phantom.CONFIG, np.random.default_rng([phantom.SEED, 0]))
        image, labels, voxel = made.image, made.instances, made.voxel_size_um
    volume = Volume.from_array(image, voxel_size_um=voxel)
    planes = ",".join(map(str, range(5, labels.shape[0], max(1, labels.shape[0] // 5))))
    annotation = from_labels(labels, kind="instances", planes=[planes], background=0)
    settings = {
        "network": {"kind": "unet", "dims": 3, "features": 8},
        "patch": (16, 64, 64),
        "batch_size": 2,
        "views": 1,
        "outputs": "boundary",
    }
    experiment = Experiment(strategy="sparse_3d", settings=settings, steps={"segment": steps}, seed=0)
    sample = Sample(setting, volume, annotation)
    workflow.train_samples(experiment, [sample], folder / "run", hardware=Hardware(device=context.device))
    io.save_volume(folder / "image.ome.zarr", volume)
    return folder


def _predict(trained: Path, output: Path, block: int, workers: int = 0) -> Path:
    from fewslice import workflow

    image, model = str(trained / "image.ome.zarr"), trained / "run" / "model"
    workflow.predict(model, [image], output, block=_whole(block), device="cpu", workers=workers or None)
    return output


def _whole(block: int) -> tuple[int, int, int]:
    """Return the (z, y, x) block of whole chunks, which have 32 planes, that is predicted at once."""
    return (block - block % 32, block, block)


def _compare_objects(trained: Path, scratch: Path) -> dict[str, float]:
    """Segment one prediction in every way and compare."""
    from fewslice import io, workflow

    stored = _predict(trained, scratch / "stored" / "OUT.ome.zarr", 64)
    objects, partitions, workers_differ = 0, 0, 0
    for kind in ("watershed", "connected_components"):
        first: Array | None = None
        alone: dict[str, bytes] = {}
        for block, workers in [*((b, 0) for b in BLOCKS), *((_WORKERS_BLOCK, w) for w in WORKERS)]:
            out = scratch / f"{kind}-{block}-{workers}" / stored.name
            shutil.copytree(stored, out)
            found = workflow.segment(out, segmenter=kind, block=(block,) * 3, workers=workers or None)
            place = out / "labels" / "instances"
            labels, files = io.open_labels(place).read()[0], _files(place)
            first = labels if first is None else first
            partitions += not same_partition(first, labels)
            alone = files if (block, workers) == (_WORKERS_BLOCK, 0) else alone
            workers_differ += bool(workers) and files != alone
            objects = max(objects, int(found["objects"]))
            shutil.rmtree(out.parent)
    return {"objects": objects, "partitions_that_differ": partitions, "workers_that_differ": workers_differ}


def same_partition(one: Array, other: Array) -> bool:
    """Whether two label images hold the same objects and background, whatever the objects are called."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]).astype(np.int64), axis=1)
    unique = len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))
    return bool(unique and (pairs[1][pairs[0] == 0] == 0).all() and (pairs[0][pairs[1] == 0] == 0).all())


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _compare_predictions(trained: Path, scratch: Path) -> dict[str, float]:
    """Predict in every way; compare with the largest blocks, and across faces with between them."""
    from fewslice import io
    from fewslice.evaluation.quality import seams

    reference: tuple[Array, Array] | None = None
    share, differences, ratios = 0.0, np.zeros(256, np.int64), [0.0]
    for block, workers in [*((b, 0) for b in reversed(BLOCKS)), *((_WORKERS_BLOCK, w) for w in WORKERS)]:
        out = _predict(trained, scratch / f"{block}-{workers}" / "OUT.ome.zarr", block, workers)
        volume = io.open_volume(out)
        p, labels = volume.read().astype(np.int16), io.open_labels(out / "labels" / "segmentation").read()
        reference = reference or (p, labels)
        share = max(share, float(np.mean(labels != reference[1])))
        differences += np.bincount(np.abs(p - reference[0]).ravel(), minlength=256)
        ratios += [seam.ratio for seam in seams(volume, _whole(block)) if seam.ratio is not None]
    seen = np.cumsum(differences) / differences.sum()
    return {
        "labels_share": share,
        "largest_difference": float(np.flatnonzero(differences).max()),
        "difference_999": float(np.searchsorted(seen, 0.999)),
        "seam_ratio": max(ratios),
    }


# --- very many objects ---


def merge_many(blocks: int, regions: int) -> dict[str, float]:
    """Name the objects of blocks in a row, each with so many regions, and time it.

    The first regions of blocks 0 and 1, 2 and 3, … are the same objects; all other contacts are passes far below both
    peaks, which part objects.
    """
    from fewslice.instances.passes import REGION
    from fewslice.instances.segmentation import merge_tables
    from fewslice.segmenters import CONTACT, JOIN, Merging

    table = np.zeros(regions, REGION)
    table["size"], table["peak"] = 100, 1000
    numbers = np.arange(1, regions + 1, dtype=np.int64)
    links = []
    for block in range(blocks - 1):
        rows = np.zeros(regions, CONTACT)
        rows["a"], rows["b"] = (block << 32) + numbers, ((block + 1) << 32) + numbers
        rows["order"], rows["saddle"] = block * regions + numbers, 10
        if block % 2 == 0:
            rows["saddle"][:_SHARED] = JOIN
        links.append(rows)
    largest = int(links[-1]["b"].max())
    began, used = time.perf_counter(), time.process_time()
    names, _, objects, dropped = merge_tables((table for _ in range(blocks)), links, Merging(2, 0.9), 1)
    return {
        "minutes": (time.perf_counter() - began) / 60,
        "cpu_seconds": time.process_time() - used,
        "ids": float(names.size),
        "bits_of_largest_id": float(largest.bit_length()),
        "objects_too_many": float(objects + dropped - (blocks * regions - blocks // 2 * _SHARED)),
    }


def _measure_many(work: Path, cuboids: Sequence[int]) -> dict[str, float]:
    """Store labels of cuboids, measure them with the command, and check every row."""
    from fewslice import io
    from fewslice.geometry import BlockGrid

    shape = tuple(n * pitch for n, pitch in zip(cuboids, _PITCH, strict=True))
    place: dict[str, Any] = {"shape": shape, "voxel_size_um": (1.0, 1.0, 1.0), "chunks": (64, 128, 128)}
    out = work / "OUT.ome.zarr"
    io.create_output(out, channel_names=["nothing"], dtype=np.uint8, **place)
    store = io.create_labels(out, "instances", dtype=np.uint32, **place)
    for block in BlockGrid(store.shape, store.unit, (0, 0, 0), (1, 1, 1)):
        store.write(block.write, _cuboids(block.write.start, block.write.stop, cuboids))
    seconds, _, most = measured(command("measure", out, "--quiet"))
    voxels = str(int(np.prod([pitch - 1 for pitch in _PITCH])))
    wrong = count = 0
    with (work / "OUT.objects.csv").open(encoding="utf-8", newline="") as stream:
        for count, row in enumerate(csv.DictReader(stream), start=1):
            z, y, x = np.unravel_index(count - 1, tuple(cuboids))
            start = [int(row[f"{axis}_start"]) for axis in "zyx"]
            expected = [int(n) * pitch for n, pitch in zip((z, y, x), _PITCH, strict=True)]
            wrong += row["id"] != str(count) or row["voxels"] != voxels or start != expected
    return {
        "minutes": seconds / 60,
        "peak_gib": most / 2**30,
        "gigavoxels": float(np.prod(shape)) / 1e9,
        "objects": float(count),
        "rows_wrong": float(wrong + abs(count - int(np.prod(cuboids)))),
    }


def _cuboids(start: Sequence[int], stop: Sequence[int], counts: Sequence[int]) -> Array:
    """Return the labels of a box: ids from 1 in C order, 0 in the last voxel of each pitch."""
    places = [np.arange(low, high) for low, high in zip(start, stop, strict=True)]
    z, y, x = (place // pitch for place, pitch in zip(places, _PITCH, strict=True))
    inside = [place % pitch < pitch - 1 for place, pitch in zip(places, _PITCH, strict=True)]
    ids = (z[:, None, None] * counts[1] + y[None, :, None]) * counts[2] + x + 1
    kept = inside[0][:, None, None] & inside[1][None, :, None] & inside[2]
    return np.where(kept, ids, 0).astype(np.uint32)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="blocks",
        description="Independence of the result from blocks and workers; very many objects.",
        plan=plan,
        function=run_cell,
    )


if __name__ == "__main__":
    sys.exit(main())
