"""Counting nuclei from five annotated planes: one stack of confocal nuclei, each half judged by what the other learned.

Planes 0, 10, …, 40 train a network that is judged on z ≥ 55, planes 55, 65, …, 95 one that is judged on z ≤ 45. The
whole stack is predicted and segmented as a user would, with the segmenter that ``segment`` picks; then objects are
compared in the part that counts, those of fewer than 1,000 voxels there being ignored on both sides, and both parts are
pooled. Settings were chosen on planes of the training half alone.

Arms: ``boundary`` learns outlines beside the foreground, ``foreground`` does not.

Run it with ``python -m benchmarks.instances --device cpu --threads 1``; ``--figure OUT.png`` draws what was found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.arms import device_of
from benchmarks.cells import Cell, Clock, Context, data_identity
from benchmarks.problems import DATA, read_pair

__all__ = ["ARMS", "HALVES", "RECIPE", "again", "find_objects", "main", "make_cell", "plan", "pooled", "run_cell"]

RECIPE = "1"
"""Version of the recipes. Raise it whenever a setting or code that moves scores changes."""

VOXEL_SIZE_UM = (0.2837, 0.1268, 0.1268)
MIN_SIZE = 1000
STEPS = 240
DRAWS = 3

_NETWORK: dict[str, Any] = {
    "network": {"kind": "unet", "dims": 3, "features": 8},
    "patch": (16, 64, 64),
    "batch_size": 2,
    "views": 4,
}
ARMS: dict[str, dict[str, Any]] = {
    "boundary": _NETWORK | {"outputs": "boundary"},
    "foreground": _NETWORK | {"outputs": "foreground"},
}
"""Settings of sparse_3d by arm."""


@dataclass(frozen=True)
class Half:
    """What is annotated, and where it is judged.

    Attributes
    ----------
    planes
        Annotated, along z.
    judged
        Planes that count, first and last but one.
    """

    planes: str
    judged: tuple[int, int]


HALVES = {"low": Half("0,10,20,30,40", (55, 100)), "high": Half("55,65,75,85,95", (0, 46))}


def make_cell(arm: str, draw: int, *, steps: int = STEPS) -> Cell:
    """Make one cell: both halves of one seed."""
    config = {
        "strategy": "sparse_3d",
        "settings": ARMS[arm],
        "halves": {name: [half.planes, list(half.judged)] for name, half in HALVES.items()},
        "min_size": MIN_SIZE,
    }
    budget = {name: float(steps) for name in HALVES}
    return Cell("instances", "nuclei_3d", arm, draw, config, data_identity(DATA["nuclei_3d"]), budget, RECIPE)


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell = result["cell"]
    return make_cell(cell["arm"], cell["draw"], steps=int(cell["budget"]["low"]))


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for, draw by draw."""
    return [make_cell(arm, draw) for draw in range(arguments.draws) for arm in ARMS]


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Train on each half, find the objects of the stack, score those of the other half."""
    image, labels = read_pair("nuclei_3d", context.data)
    kind, device = device_of(context.device)
    found, seconds = [], {"cpu": 0.0, "wall": 0.0}
    for name, half in HALVES.items():
        objects, clock = find_objects(cell, name, image, labels, context)
        seconds = {"cpu": seconds["cpu"] + clock["cpu"], "wall": seconds["wall"] + clock["wall"]}
        part = slice(*half.judged)
        found.append((labels[part], objects[part]))
    return {
        "scores": pooled(found),
        "cpu_seconds": seconds["cpu"],
        "wall_seconds": seconds["wall"],
        "device_kind": kind,
        **({"device": device} if device else {}),
    }


def find_objects(cell: Cell, name: str, image: Any, labels: Any, context: Context) -> tuple[Any, dict[str, float]]:
    """Train on one half, predict and segment the stack.

    Returns
    -------
    tuple
        Ids (z, y, x) of the whole stack, and processor and wall seconds of training.
    """
    from fewslice import io, workflow
    from fewslice.annotation import from_labels
    from fewslice.data.samples import Sample
    from fewslice.experiment import Experiment
    from fewslice.prediction import predict_volume
    from fewslice.training.fit import Hardware
    from fewslice.volume import Volume

    volume = Volume.from_array(image, voxel_size_um=VOXEL_SIZE_UM)
    annotation = from_labels(labels, kind="instances", planes=[HALVES[name].planes], background=0)
    experiment = Experiment(
        strategy=cell.config["strategy"],
        settings=cell.config["settings"],
        steps={"segment": int(cell.budget[name])},
        seed=cell.draw,
    )
    context.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.work, prefix="run-") as scratch:
        clock = Clock()
        sample = Sample("nuclei", volume, annotation)
        model = workflow.train_samples(
            experiment, [sample], Path(scratch) / "run", hardware=Hardware(device=context.device)
        )
        trained = {"cpu": clock.cpu, "wall": clock.wall}
        output = Path(scratch) / "OUT.ome.zarr"
        device = device_of(context.device)[0]
        predict_volume(model, volume, output, model_id=cell.key, device=device, pyramids=False)
        workflow.segment(output)
        return io.open_labels(output / "labels" / "instances").read()[0], trained


def pooled(parts: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Score the objects of several (truth, found) pairs of labels (z, y, x) together."""
    from fewslice.metrics import instance

    overlaps = [instance.count_overlaps(truth, found) for truth, found in parts]
    scored = instance.scores(overlaps, thresholds=(0.5, 0.75), min_size=MIN_SIZE)
    return {
        "f1": scored["f1"]["0.5"],
        "f1_at_075": scored["f1"]["0.75"],
        "pq": scored["pq"]["0.5"],
        "count_error": scored["relative_count_error"],
        "truth_count": scored["truth_count"],
        "predicted_count": scored["predicted_count"],
        "splits": scored["splits"],
        "merges": scored["merges"],
    }


def draw_figure(path: Path, cell: Cell, context: Context) -> None:
    """Draw planes that were judged: outlines of the truth and of what was found."""
    import matplotlib.pyplot as plt
    from skimage.segmentation import find_boundaries

    image, labels = read_pair("nuclei_3d", context.data)
    figure, axes = plt.subplots(len(HALVES), 4, figsize=(12, 6.4), layout="constrained")
    for row, (name, half) in zip(axes, HALVES.items(), strict=True):
        objects, _ = find_objects(cell, name, image, labels, context)
        first, last = half.judged
        for place, z in zip(row, range(first + 5, last, (last - first) // 4), strict=False):
            shown = (image[z] / max(1, int(image[z].max())))[..., None].repeat(3, -1)
            shown[find_boundaries(labels[z], mode="inner")] = (0.0, 0.62, 0.45)
            shown[find_boundaries(objects[z], mode="inner")] = (0.90, 0.62, 0.0)
            place.imshow(shown)
            place.set_title(f"z = {z}, trained on {half.planes}", fontsize=8)
            place.axis("off")
    figure.suptitle("Green: truth. Orange: found.", fontsize=10)
    figure.savefig(path, dpi=110)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=DRAWS, help="number of draws (seeds of training)")


def _draw(cells: Sequence[Cell], context: Context, arguments: argparse.Namespace) -> list[str]:
    """Train the first of the cells anew and draw what it finds."""
    with tempfile.TemporaryDirectory() as work:
        draw_figure(arguments.figure, cells[0], replace(context, work=Path(work)))
    return [cells[0].name]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="instances",
        description="nuclei_3d: five annotated planes in one half, nuclei counted in the other.",
        plan=plan,
        function=run_cell,
        options=_options,
        draw=_draw,
    )


if __name__ == "__main__":
    sys.exit(main())
