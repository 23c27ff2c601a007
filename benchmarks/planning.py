"""Planning: whether recommended planes need fewer labels, and whether the budget curve foretells what labels bring.

Settings:

``em``
    A crop of em_mitochondria: 165 × 256 × 256 voxels of the training stack (rows 0–255, columns 256–511), tested on
    165 × 176 × 512 voxels of the test stack (rows 0–175, columns 0–511).
``stack2``
    Columns x < 288 of the real two-photon stack, tested on x ≥ 320, which nothing is chosen on.

Parts:

``choice``
    A 2D network is trained on 1, 2, 3, … planes and scored on the test volume, by the largest Dice of any threshold:
    short trainings err in the level of their probabilities, which planes are not to blame for. ``recommended``: the
    middle plane first, then what :mod:`fewslice.planning` proposes for the model trained so far; ``even``: the middle
    of as many equal parts; ``random``: a random order. A cell is an arm at all numbers of planes.
``calibration``
    The budget curve is measured on n planes and asked what 2n and 4n will reach. Then the same short training is done
    on so many, several times, so that every plane of the volume judges a training that has not seen it, at the
    threshold that is best for the other trainings. ``No change`` is the rival: a normal distribution around the Dice
    measured at most planes, as wide as the standard error over folds, at least 0.01.

A draw seeds training, the random order, and which planes are annotated for the curve: a random one first, then always
the plane that is farthest from all others. The budgets are steps, so that results do not depend on the machine; with
``--quick`` a cell takes some minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.arms import device_of
from benchmarks.cells import Cell, Clock, Context, data_identity
from benchmarks.continuity import annotated_planes
from benchmarks.em import VOXEL_SIZE_UM
from benchmarks.problems import DATA, HeldOut, Problem, load, read_pair

if TYPE_CHECKING:
    from fewslice.data.samples import Sample
    from fewslice.model import Model
    from fewslice.planning.ladder import Plane

__all__ = [
    "ARMS",
    "BUDGETS",
    "COUNTS",
    "DRAWS",
    "FACTORS",
    "STARTS",
    "again",
    "every_cell",
    "main",
    "make_cell",
    "run_cell",
    "with_forecasts",
]

RECIPE = "2"
"""Version of the recipes. Raise it whenever a setting, a budget or code that moves scores changes.

2: half the features for three times the steps, larger patches on the mitochondria, Dice at the best threshold: with 200
steps of 16 features one plane did as well as eight.
"""

DRAWS = 3
ARMS = ("recommended", "even", "random")
COUNTS = (1, 2, 3, 4, 6, 8)
"""Numbers of planes at which arms are compared; three quarters of 4 and 8 are among them."""
STARTS = {"em": (4, 8), "stack2": (4,)}
"""Numbers of planes from which the curve is extrapolated."""
FACTORS = (2, 4)

BUDGETS: dict[str, dict[str, dict[str, int]]] = {
    "quick": {"em": {"choice": 500, "calibration": 300}, "stack2": {"choice": 300, "calibration": 300}},
    "full": {"em": {"choice": 2000, "calibration": 600}, "stack2": {"choice": 1000, "calibration": 600}},
}
"""Steps of a training by tier, setting and part."""

_PATCH = {("em", "choice"): 128}
"""Pixels across a patch, 96 where nothing is said; four of them make a step."""

_EM = {"train": ((0, 165), (0, 256), (256, 512)), "test": ((0, 165), (0, 176), (0, 512))}
_LEAST_SPREAD = 0.01
_THRESHOLDS = [round(0.05 * k, 2) for k in range(1, 20)]


def make_cell(setting: str, part: str, arm: str, draw: int, planes: int | None = None, tier: str = "quick") -> Cell:
    """Make one cell.

    Parameters
    ----------
    setting, part, arm, draw
        What is measured; see the head of this module.
    planes
        Number of annotated planes that the curve is extrapolated from; None for ``choice``.
    tier
        ``quick`` or ``full``.

    Raises
    ------
    KeyError
        If there is no such setting, arm or number of planes.
    """
    if arm not in {"choice": ARMS, "calibration": ("curve",)}[part]:
        raise KeyError(arm)
    if setting not in STARTS or (part == "calibration" and planes not in STARTS[setting]):
        raise KeyError(setting)
    label: dict[str, Any] = {"part": part} | ({"planes": planes} if planes is not None else {})
    label |= {"tier": tier} if tier != "full" else {}
    across = _PATCH.get((setting, part), 96)
    settings: dict[str, Any] = {
        "network": {"kind": "unet", "dims": 2, "features": 8},
        "patch": [1, across, across],
        "batch_size": 4,
        "views": 1,
    }
    config = {**label, "tier": tier, "settings": settings, "counts": list(COUNTS), "factors": list(FACTORS)}
    del config["factors" if part == "choice" else "counts"]
    names = ("em_train", "em_test") if setting == "em" else ("stack2",)
    return Cell(
        benchmark="planning",
        setting=setting,
        arm=arm,
        draw=draw,
        config=config,
        data=data_identity(*(DATA[name] for name in names), _EM if setting == "em" else "x < 288, x >= 320"),
        budget={"steps": BUDGETS[tier][setting][part]},
        recipe=RECIPE,
        label=label,
    )


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell, config = result["cell"], result["cell"]["config"]
    return make_cell(cell["setting"], config["part"], cell["arm"], cell["draw"], config.get("planes"), config["tier"])


def every_cell(tier: str, draws: int = DRAWS) -> list[Cell]:
    """List all cells of a tier, draw by draw."""
    cells = []
    for draw in range(draws):
        for setting, starts in STARTS.items():
            cells += [make_cell(setting, "choice", arm, draw, tier=tier) for arm in ARMS]
            cells += [make_cell(setting, "calibration", "curve", draw, planes, tier) for planes in starts]
    return cells


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    kind, device = device_of(context.device)
    problem = _problem(cell.setting, context.data)
    context.work.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=context.work, prefix="planning-") as scratch:
        measured = {"choice": _choose, "calibration": _calibrate}[cell.config["part"]](
            cell, context, problem, Path(scratch), kind
        )
    seconds = {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
    return {**measured, **seconds, "device_kind": kind, **({"device": device} if device else {})}


def _problem(setting: str, data: Path) -> Problem:
    if setting == "stack2":
        return load("stack2_field", 0, data)
    import numpy as np

    parts = []
    for name, region in _EM.items():
        image, labels = read_pair(f"em_{name}", data)
        where = tuple(slice(*ends) for ends in region)
        parts.append((np.ascontiguousarray(image[where])[None], np.ascontiguousarray(labels[where] > 0)))
    whole = (slice(None), slice(None), slice(None))
    sha = data_identity(*(array for pair in parts for array in pair))
    return Problem((parts[0],), HeldOut(*parts[1], whole), VOXEL_SIZE_UM, sha)


def _sample(problem: Problem, planes: Sequence[int]) -> Sample:
    """Make the training sample with some planes annotated; the truth of all others is wiped."""
    import numpy as np

    from fewslice.annotation import Annotation
    from fewslice.data.samples import Sample
    from fewslice.volume import Volume

    image, truth = problem.train[0]
    known = np.zeros(truth.shape, dtype=bool)
    known[list(planes)] = True
    volume = Volume.from_array(image, voxel_size_um=problem.voxel_size_um)
    return Sample("train", volume, Annotation((truth & known).astype(np.uint8), known))


def _trained(cell: Cell, context: Context, problem: Problem, planes: Sequence[int], folder: Path, seed: int) -> Model:
    from fewslice import workflow
    from fewslice.experiment import Experiment
    from fewslice.training.fit import Hardware

    experiment = Experiment(
        strategy="slices_2d",
        settings=cell.config["settings"],
        steps=int(cell.budget["steps"]),
        seed=seed,
        validation="none",
    )
    return workflow.train_samples(experiment, [_sample(problem, planes)], folder, hardware=Hardware(context.device))


# --- which planes ---


def _choose(cell: Cell, context: Context, problem: Problem, scratch: Path, kind: str) -> dict[str, Any]:
    """Train on ever more planes, chosen as the arm does, and score the test volume each time."""
    import numpy as np

    from fewslice.metrics.semantic import confusion_at, scores
    from fewslice.prediction import predict_whole

    depth = len(problem.train[0][1])
    order = [int(z) for z in np.random.default_rng([cell.draw, 11]).permutation(depth)]
    found: dict[str, float] = {}
    used: dict[str, list[int]] = {}
    planes: list[int] = []
    model = None
    for count in cell.config["counts"]:
        match cell.arm:
            case "even":
                planes = annotated_planes(count, depth)
            case "random":
                planes = order[:count]
            case _:
                planes = planes + _recommended(model, problem, planes, count - len(planes), kind)
        model = _trained(cell, context, problem, planes, scratch / str(count), cell.draw)
        probability = predict_whole(model, problem.test.image, device=kind)[0][problem.test.scored]
        matrices = confusion_at(probability, problem.test.truth[problem.test.scored], _THRESHOLDS)
        found[f"dice_{count}"] = max(scores(matrix)["dice"] or 0.0 for matrix in matrices)
        used[str(count)] = sorted(planes)
    return {"scores": found, "planes": used, "data_sha": problem.sha}


def _recommended(model: Model | None, problem: Problem, planes: Sequence[int], count: int, kind: str) -> list[int]:
    """Ask for the next planes; the first one is the middle, when there is no model yet."""
    import numpy as np

    from fewslice.planning.selection import choose_planes
    from fewslice.planning.uncertainty import plane_uncertainty
    from fewslice.prediction import predict_whole
    from fewslice.prediction.whole import quantised
    from fewslice.volume import Volume

    image, truth = problem.train[0]
    if model is None:
        return annotated_planes(1, len(truth))
    known = np.zeros(len(truth), dtype=bool)
    known[list(planes)] = True
    stored = quantised(predict_whole(model, image, device=kind))
    uncertainty = plane_uncertainty(Volume.from_array(stored), None, 0)
    return [choice.plane for choice in choose_planes([uncertainty], [known], count)]


# --- the budget curve ---


def _calibrate(cell: Cell, context: Context, problem: Problem, scratch: Path, kind: str) -> dict[str, Any]:
    """Measure the curve at n planes, then train on 2n and 4n."""
    import numpy as np

    from fewslice import workflow
    from fewslice.planning.ladder import build_ladder
    from fewslice.planning.measurement import measure
    from fewslice.training.fit import Hardware

    start = int(cell.config["planes"])
    planes = _spread(problem, start, [cell.draw, 12])
    ladder = build_ladder(planes, np.random.default_rng([cell.draw, 13]))
    if ladder.reason:
        raise ValueError(ladder.reason)
    hardware = Hardware(context.device)
    measured = measure(
        ladder,
        [_sample(problem, [p.index for p in planes])],
        cell.config["settings"],
        scratch,
        axis=0,
        train=lambda *what: workflow.train_samples(*what[:3], hardware=hardware, listener=what[3]),
        seed=1000 * cell.draw,
        steps=int(cell.budget["steps"]),
        listener=lambda event: None,
    )
    found = {
        f"dice_{factor}n": _reached(cell, context, problem, factor * start, scratch / str(factor), kind)
        for factor in cell.config["factors"]
    }
    details = {"sizes": list(measured.sizes), "folds": measured.dice.tolist()}
    return {
        "scores": {"now": float(measured.dice[:, -1].mean()), **found},
        "measured": details,
        "data_sha": problem.sha,
    }


def with_forecasts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a result of ``calibration`` what today's curve expects from the Dice that was measured in it.

    Returns
    -------
    dict
        The result, with ``expected_2n``, ``half_width_2n``, ``covered_2n`` (0 or 1) and ``log_gain_2n`` among its
        scores, and so for 4n.
    """
    import numpy as np

    from fewslice.planning.learning_curve import fit_curve

    cell = result["cell"]
    if cell["config"]["part"] != "calibration":
        return dict(result)
    folds = np.asarray(result["measured"]["folds"])
    posterior = fit_curve(result["measured"]["sizes"], folds, np.random.default_rng([cell["draw"], 14]))
    now = folds[:, -1]
    spread = max(float(now.std(ddof=1)) / math.sqrt(len(now)), _LEAST_SPREAD)
    scores = {name: result["scores"][name] for name in ("now", *(f"dice_{f}n" for f in cell["config"]["factors"]))}
    for factor in cell["config"]["factors"]:
        dice, planes = scores[f"dice_{factor}n"], factor * int(cell["config"]["planes"])
        forecast = posterior.forecast(planes)
        scores |= {
            f"expected_{factor}n": forecast.mean,
            f"covered_{factor}n": float(forecast.low <= dice <= forecast.high),
            f"half_width_{factor}n": (forecast.high - forecast.low) / 2,
            f"log_gain_{factor}n": posterior.log_density(planes, dice) - _log_normal(dice, now.mean(), spread),
        }
    return {**result, "scores": scores}


def _spread(problem: Problem, count: int, seed: Sequence[int], without: Sequence[int] = ()) -> list[Plane]:
    """Draw planes: one at random, then always the one that is farthest from all before; in the order of z."""
    import numpy as np

    from fewslice.planning.ladder import Plane, spread_order

    truth = problem.train[0][1]
    every = [Plane(0, z, bool(t.any()), not t.all()) for z, t in enumerate(truth) if z not in without]
    return sorted(spread_order(every, np.random.default_rng(list(seed)))[:count], key=lambda plane: plane.index)


def _reached(cell: Cell, context: Context, problem: Problem, count: int, scratch: Path, kind: str) -> float:
    """Give the Dice that trainings on `count` planes reach on the planes of the volume.

    Every plane judges once: in the r-th of R trainings those with z ≡ r (mod R), which it does not see, R being the
    smallest number from 2 that leaves enough planes to train on.
    """
    import numpy as np

    from fewslice.metrics.semantic import confusion_at
    from fewslice.planning.ladder import cross_fitted_dice
    from fewslice.prediction import predict_whole

    image, truth = problem.train[0]
    depth = len(truth)
    rounds = next(r for r in range(2, depth + 1) if depth - -(-depth // r) >= count)
    counts = []
    for r in range(rounds):
        held = list(range(r, depth, rounds))
        planes = _spread(problem, count, [cell.draw, 15, count, r], held)
        seed = 1000 * cell.draw + 100 + 10 * count + r
        model = _trained(cell, context, problem, [p.index for p in planes], scratch / str(r), seed)
        probability = predict_whole(model, image[:, held], device=kind)[0]
        counts.append(confusion_at(probability, truth[held], _THRESHOLDS))
    return float(cross_fitted_dice(np.stack(counts)).mean())


def _log_normal(value: float, mean: float, spread: float) -> float:
    return -0.5 * ((value - mean) / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=DRAWS, help="number of draws")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="planning",
        description="Recommended planes against even and random ones; calibration of the budget curve.",
        plan=lambda arguments: every_cell("quick" if arguments.quick else "full", arguments.draws),
        function=run_cell,
        options=_options,
    )


if __name__ == "__main__":
    sys.exit(main())
