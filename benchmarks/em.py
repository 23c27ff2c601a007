"""Mitochondria in electron microscopy: 32 annotated planes, 30 minutes of training on two cores for each arm.

Planes 0, 5, …, 155 of the training stack are annotated. Every arm gets the same minutes, which the package turns into
steps by a short measured probe, and the same test-time views. Scores are those of the whole test stack at threshold
0.5, predicted block by block as a user would.

Run it on a quiet machine with two cores: ``python -m benchmarks.em --device cpu --threads 2``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.arms import device_of
from benchmarks.cells import Cell, Clock, Context, data_identity
from benchmarks.problems import DATA, read_pair

if TYPE_CHECKING:
    from fewslice.data.samples import Sample
    from fewslice.experiment import Experiment

__all__ = ["RECIPE", "again", "main", "make_cell", "make_sample", "measure", "plan", "run_cell", "score_plain"]

RECIPE = "2"
"""Version of the recipes. Raise it whenever a setting or code that moves scores changes."""

MINUTES = 30.0
QUICK_MINUTES = 3.0
PLANES = "0:160:5"
VOXEL_SIZE_UM = (0.005, 0.005, 0.005)
VIEWS = 8

_PLANES_2D: dict[str, Any] = {"network": {"kind": "unet", "dims": 2, "features": 16}, "views": VIEWS}
_VOLUME: dict[str, Any] = {"network": {"kind": "unet", "dims": 3, "features": 16}, "views": VIEWS}

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "slices_2d": ("slices_2d", _PLANES_2D),
    "sparse_3d": ("sparse_3d", _VOLUME),
    "pseudo_labels": ("pseudo_labels", {"teacher": _PLANES_2D, "student": _VOLUME, "alpha": 0.5, "targets": "soft"}),
}
"""Strategy and settings by arm."""


def make_cell(arm: str, draw: int, *, minutes: float | None = MINUTES, steps: dict[str, int] | None = None) -> Cell:
    """Make one cell with a budget of minutes, or of steps by stage."""
    strategy, settings = ARMS[arm]
    budget: dict[str, float] = dict(steps) if steps else {"minutes": float(minutes or MINUTES)}
    tier = {"tier": "quick"} if budget == {"minutes": QUICK_MINUTES} else {}
    return Cell(
        benchmark="em",
        setting="em_mitochondria",
        arm=arm,
        draw=draw,
        config={"strategy": strategy, "settings": settings, "planes": PLANES, "tier": tier.get("tier", "full")},
        data=data_identity(DATA["em_train"], DATA["em_test"]),
        budget=budget,
        recipe=RECIPE,
        label=tier,
    )


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    budget = result["cell"]["budget"]
    steps = None if "minutes" in budget else {stage: int(count) for stage, count in budget.items()}
    return make_cell(result["cell"]["arm"], result["cell"]["draw"], minutes=budget.get("minutes"), steps=steps)


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for, draw by draw."""
    minutes = QUICK_MINUTES if arguments.quick else MINUTES
    return [make_cell(arm, draw, minutes=minutes) for draw in range(arguments.draws) for arm in ARMS]


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Train one arm, predict the test stack block by block, score it."""
    from fewslice.experiment import Experiment

    minutes = cell.budget.get("minutes")
    experiment = Experiment(
        strategy=cell.config["strategy"],
        settings=cell.config["settings"],
        minutes=minutes,
        steps=None if minutes else {stage: int(steps) for stage, steps in cell.budget.items()},
        seed=cell.draw,
    )
    image, labels = read_pair("em_train", context.data)
    sample = make_sample(image, labels, PLANES)
    return measure(experiment, sample, lambda: read_pair("em_test", context.data), context, model_id=cell.key)


def make_sample(image: Any, labels: Any, planes: str) -> Sample:
    """Join image and labels (z, y, x) of which only `planes` are annotated, such as ``0:160:5`` or ``0,5,10``."""
    from fewslice.annotation import from_labels
    from fewslice.data.samples import Sample
    from fewslice.volume import Volume

    annotation = from_labels(labels, planes=[planes], background=0)
    return Sample("train", Volume.from_array(image, voxel_size_um=VOXEL_SIZE_UM), annotation)


def measure(
    experiment: Experiment,
    sample: Sample,
    read_test: Callable[[], tuple[Any, Any]],
    context: Context,
    *,
    model_id: str,
    cut: float = 0.5,
    look: Callable[[Path, Any, Any], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train on one sample, predict the test stack block by block, score it.

    Parameters
    ----------
    experiment
        Strategy, settings, budget, seed.
    sample
        What is trained on.
    read_test
        Reads image and labels (z, y, x) of the test stack; called when training is done, and timed with prediction.
    context
        Device, threads, scratch folder.
    model_id
        Identity of the model in the stored prediction.
    cut
        Threshold of the main scores; see :func:`score_plain`.
    look
        Called with the run folder, the test probability (z, y, x; uint8) and the truth (bool) before the run is
        removed; gives further scores.

    Returns
    -------
    dict
        ``scores, steps, cpu_seconds, wall_seconds`` (of training), ``predict_seconds, device_kind`` and, but for a
        CPU, ``device``.
    """
    import numpy as np

    from fewslice import io, workflow
    from fewslice.prediction import predict_volume
    from fewslice.training.fit import Hardware
    from fewslice.volume import Volume

    kind, device = device_of(context.device)
    context.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.work, prefix="run-") as scratch:
        run = Path(scratch) / "run"
        clock = Clock()
        model = workflow.train_samples(experiment, [sample], run, hardware=Hardware(device=context.device))
        trained = {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
        clock = Clock()
        test, truth = read_test()
        output = Path(scratch) / "test.ome.zarr"
        volume = Volume.from_array(test, voxel_size_um=VOXEL_SIZE_UM)
        predict_volume(model, volume, output, model_id=model_id, device=kind, pyramids=False)
        probability = np.asarray(io.open_volume(output).read())[0]
        predicting = {"cpu": clock.cpu, "wall": clock.wall}
        steps = _steps_taken(run)
        scores = score_plain(probability, truth > 0, model.threshold, cut=cut)
        if look is not None:
            scores |= look(run, probability, truth > 0)
    result = {"scores": scores, "steps": steps, "predict_seconds": predicting, "device_kind": kind, **trained}
    return {**result, **({"device": device} if device else {})}


def score_plain(probability: Any, truth: Any, threshold: float, *, cut: float = 0.5) -> dict[str, Any]:
    """Score uint8 probabilities (z, y, x; 0–255) at `cut` and at the threshold that training chose."""
    import numpy as np

    from fewslice.metrics.semantic import confusion_at, scores

    cuts = [cut, threshold, *np.linspace(0.05, 0.95, 19)]
    matrices = confusion_at(probability, truth, cuts)
    swept = [scores(matrix)["dice"] or 0.0 for matrix in matrices]
    chosen = {f"{name}_chosen": value for name, value in scores(matrices[1]).items()}
    return {
        **scores(matrices[0]),
        "confusion": matrices[0],
        **chosen,
        "threshold_chosen": float(threshold),
        "ceiling": max(swept),
    }


def _steps_taken(run: Path) -> dict[str, int]:
    """Read from the log how many steps each stage took."""
    from fewslice.training.run_folder import RunFolder, read_lines

    events = read_lines(RunFolder(run).log)
    return {e["stage"]: int(e["step"]) for e in events if e.get("event") == "stage" and e.get("state") == "finished"}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=1, help="number of draws (seeds of training)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="em",
        description="em_mitochondria, 32 annotated planes, 30 minutes for each arm.",
        plan=plan,
        function=run_cell,
        options=_options,
    )


if __name__ == "__main__":
    sys.exit(main())
