"""The paper's experiment: annotated planes × arms × α × draws, on the phantom and on a real stack.

Run ``python -m benchmarks.sparsity --help``. Every cell trains one arm on volumes of which a few planes are annotated
and scores it at threshold 0.5 on a test volume. A draw seeds which planes are annotated and how training starts; the
arms of a draw share both, and a student shares its teacher with the 2D arm, so that differences are paired.

Recipes are in :func:`recipe`, frozen under :data:`RECIPE`. Other settings are tried with ``--trial NAME
--set KEY=VALUE``; trials are kept apart, and the settings that are scored once per frozen recipe have none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.arms import ARMS, device_of, score, train
from benchmarks.cells import Cell, Clock, Context
from benchmarks.problems import SETTINGS, HeldOut, Problem, choose_planes, load
from fewslice.strategies.pseudo_labels import balanced_alpha

__all__ = [
    "ALPHAS",
    "BUDGETS",
    "DRAWS",
    "FEATURES",
    "QUICK_REAL_STEPS",
    "RECIPE",
    "again",
    "alpha_of",
    "changed",
    "every_cell",
    "make_cell",
    "plan",
    "recipe",
    "run_cell",
]

RECIPE = "2"
"""Version of the recipes. Raise it whenever a setting, a budget or code that moves scores changes.

2: patches reach beyond the volume along sparsely annotated axes, without which the sparse 3D network was never judged
at the ends of a volume; α is 0.05, not 0.5; 3D networks of the quick tier have 8 features, not 16; both 3D arms learn
by cross-entropy.
"""

DRAWS = 5
ALPHAS = {"phantom": (0.02, 0.05, 0.1, 0.5)}
"""α compared where it matters, at one and two planes of the full tier; elsewhere :func:`alpha_of` alone."""
_ALPHA_PLANES = (1, 2)

BUDGETS: dict[str, dict[str, int]] = {
    "full": {"cnn_2d": 800, "unet": 1500, "3d": 3000},
    "quick": {"cnn_2d": 200, "unet": 300, "3d": 900},
}
"""Steps of the published 2D network, of the 2D U-Net, and of the 3D networks (sparse and student alike)."""

QUICK_REAL_STEPS = 600
"""Steps of the 3D networks on the real stack in the quick tier, where they learn at twice the rate."""

FEATURES = {"full": 16, "quick": 8}
"""Features of the 3D networks' finest level."""


def alpha_of(setting: str, planes: int) -> float:
    """Give the α of the main tables.

    On the phantom 0.05. One weight map covers the whole patch, of which one plane in 32 is annotated: at α = 0.5 the
    pseudo-labels would make up 94 % of the loss, at 0.05 they make up 60 %. On the real stack, of whose 21 planes up to
    8 are annotated, it follows the number of planes by the package's own rule, which gives the same 60 %.
    """
    if setting in ("phantom", "phantom_cost"):
        return 0.05
    return balanced_alpha(planes, SETTINGS[setting].depth - planes)


def recipe(setting: str, arm: str, alpha: float | None, tier: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Give the frozen settings of an arm and the steps of its stages.

    Parameters
    ----------
    setting
        Name in :data:`benchmarks.problems.SETTINGS`.
    arm
        Name in :data:`benchmarks.arms.ARMS`.
    alpha
        Weight of the pseudo-labels; None for arms without.
    tier
        ``full`` or ``quick``.
    """
    patch = list(SETTINGS[setting].patch)
    steps = dict(BUDGETS[tier])
    wide = patch[1]
    volume = {
        "network": {"kind": "unet", "dims": 3, "features": FEATURES[tier]},
        "patch": patch,
        "batch_size": 2,
        "loss": "cross_entropy",  # as the paper's, in both 3D arms; soft targets stay calibrated under it
    }
    if setting.startswith("stack2"):  # chosen inside x < 288: few of the voxels are foreground
        volume |= {"loss": "dice_cross_entropy", "learning_rate": 0.004}
        steps["3d"] = QUICK_REAL_STEPS if tier == "quick" else steps["3d"]
    networks: dict[str, dict[str, Any]] = {
        "cnn_2d": {"network": {"kind": "cnn_2d"}, "patch": [1, 64, 64], "batch_size": 16},
        "unet": {
            "network": {"kind": "unet", "dims": 2, "features": 16},
            "patch": [1, wide, wide],
            "batch_size": 16 if wide <= 64 else 8,
        },
        "": {},
    }
    planes = networks[ARMS[arm].network]
    match ARMS[arm].strategy:
        case "slices_2d":
            return planes, {"segment": steps[ARMS[arm].network]}
        case "sparse_3d":
            return volume, {"segment": steps["3d"]}
        case _:
            settings = {"teacher": planes, "student": volume, "alpha": alpha, "targets": "soft"}
            return settings, {"teacher": steps[ARMS[arm].network], "student": steps["3d"]}


def make_cell(
    setting: str,
    arm: str,
    planes: int,
    draw: int,
    *,
    alpha: float | None = None,
    tier: str = "full",
    trial: str = "",
    changes: Mapping[str, Any] | None = None,
) -> Cell:
    """Make one cell.

    Parameters
    ----------
    setting, arm, planes, draw, alpha, tier
        What is measured.
    trial
        Name of a trial; empty for the frozen recipe.
    changes
        Settings of the trial; see :func:`changed`.
    """
    settings, steps = recipe(setting, arm, alpha, tier)
    for key, value in (changes or {}).items():
        settings, steps = changed(settings, steps, arm, key, value)
    label: dict[str, Any] = {"planes": planes}
    if alpha is not None:
        label["alpha"] = alpha
    if tier != "full":
        label["tier"] = tier
    if trial:
        label["trial"] = trial
    config = {**label, "tier": tier, "strategy": ARMS[arm].strategy, "settings": settings}
    if trial:
        config["changes"] = dict(changes or {})
    return Cell(
        benchmark="sparsity_trials" if trial else "sparsity",
        setting=setting,
        arm=arm,
        draw=draw,
        config=config,
        data=SETTINGS[setting].identity(),
        budget=steps,
        recipe=RECIPE,
        label=label,
        # the 2D arm runs before the students that take it as their teacher, and in the same process
        group=f"{setting} {planes} {draw} {ARMS[arm].network}",
    )


def changed(
    settings: Mapping[str, Any], steps: Mapping[str, int], arm: str, key: str, value: Any
) -> tuple[dict[str, Any], dict[str, int]]:
    """Change one setting of an arm, where the arm has what the key speaks of.

    Parameters
    ----------
    settings, steps
        Of the arm.
    arm
        Its name.
    key
        ``SCOPE.path.to.setting`` or ``SCOPE.steps``. Scopes: ``2d`` and ``3d``, the networks of that kind in every arm,
        teachers and students included; ``cnn_2d``, ``unet_2d``, one of the 2D networks; ``teacher``, ``student``,
        ``sparse``, one role alone; ``pseudo``, the strategy of the students itself.
    value
        The new value.

    Returns
    -------
    tuple
        New settings and steps; equal to the old ones where the key does not concern the arm.

    Raises
    ------
    SystemExit
        For an unknown scope.
    """
    from copy import deepcopy

    strategy, own = ARMS[arm].strategy, {"cnn_2d": "cnn_2d", "unet": "unet_2d", "": ""}[ARMS[arm].network]
    roles = {
        "slices_2d": [("", "segment", {"2d", own})],
        "sparse_3d": [("", "segment", {"3d", "sparse"})],
        "pseudo_labels": [
            ("teacher", "teacher", {"2d", own, "teacher"}),
            ("student", "student", {"3d", "student"}),
            ("", "", {"pseudo"}),
        ],
    }[strategy]
    new, budget = deepcopy(dict(settings)), dict(steps)
    scope, _, path = key.partition(".")
    if scope not in {"2d", "3d", "cnn_2d", "unet_2d", "teacher", "student", "sparse", "pseudo"} or not path:
        raise SystemExit(f"--set {key}: begin with 2d., 3d., cnn_2d., unet_2d., teacher., student., sparse. or pseudo.")
    for place, stage, scopes in roles:
        if scope not in scopes:
            continue
        if path == "steps":
            budget[stage] = int(value)
            continue
        inner = new[place] if place else new
        *parents, last = path.split(".")
        for part in parents:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return new, budget


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell, config = result["cell"], result["cell"]["config"]
    return make_cell(
        cell["setting"],
        cell["arm"],
        config["planes"],
        cell["draw"],
        alpha=config.get("alpha"),
        tier=config["tier"],
        trial=config.get("trial", ""),
        changes=config.get("changes"),
    )


def every_cell(
    tier: str, draws: int = DRAWS, *, alphas: Sequence[float] | None = None, trial: str = "", **changes: Any
) -> list[Cell]:
    """List all cells of a tier, draw by draw, so that whatever is done when time is up is paired.

    Parameters
    ----------
    tier, draws
        Budget and number of draws.
    alphas
        α of the students; by default :data:`ALPHAS` at few planes and :func:`alpha_of` elsewhere.
    trial, changes
        See :func:`make_cell`.
    """
    cells = []
    for setting, protocol in SETTINGS.items():
        for draw in range(draws):
            for planes in protocol.planes:
                for arm, what in ARMS.items():
                    if what.is_student and planes == protocol.depth:
                        continue  # nothing is unlabelled: the student would be the sparse arm
                    used: Sequence[float | None] = (None,)
                    if what.is_student:
                        used = (alpha_of(setting, planes),)
                    if what.is_student and tier == "full" and not trial and planes in _ALPHA_PLANES:
                        used = ALPHAS.get(setting, used)
                    if what.is_student and alphas:
                        used = alphas
                    cells += [
                        make_cell(setting, arm, planes, draw, alpha=alpha, tier=tier, trial=trial, **changes)
                        for alpha in used
                    ]
    return cells


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for; of a trial, only those that it changes."""
    tier = "quick" if arguments.quick else "full"
    if bool(arguments.trial) != bool(arguments.set or arguments.alphas):
        raise SystemExit("--trial names what --set and --alphas change; give both or neither")
    if not arguments.trial:
        return every_cell(tier, arguments.draws)
    changes = dict(_setting(text) for text in arguments.set)
    cells = every_cell(tier, arguments.draws, alphas=arguments.alphas, trial=arguments.trial, changes=changes)
    return [cell for cell in cells if SETTINGS[cell.setting].tuned and _differs(cell)]


def _differs(cell: Cell) -> bool:
    """Whether a trial's cell is anything but the frozen recipe at its α."""
    alpha = cell.config.get("alpha")
    usual = None if alpha is None else alpha_of(cell.setting, cell.config["planes"])
    settings, steps = recipe(cell.setting, cell.arm, usual, cell.config["tier"])
    return settings != cell.config["settings"] or steps != cell.budget


def _setting(text: str) -> tuple[str, Any]:
    import json

    key, found, value = text.partition("=")
    if not found:
        raise SystemExit(f"--set takes KEY=VALUE, got {text}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Train and score one cell."""
    from fewslice.prediction import predict_whole

    arm, protocol = ARMS[cell.arm], SETTINGS[cell.setting]
    kind, device = device_of(context.device)
    if protocol.curve and kind != "cpu":
        raise ValueError(f"{cell.setting} measures processor seconds; run it with --device cpu, not {kind}")
    problem = load(cell.setting, cell.draw, context.data)
    chosen = annotated_planes(cell, problem)

    def predict(model: Any) -> Any:
        return predict_whole(model, problem.test.image, device=kind)[0]

    trained = train(
        arm,
        cell.config["settings"],
        {stage: int(steps) for stage, steps in cell.budget.items()},
        make_samples(problem, chosen),
        seed=cell.draw,
        context=context,
        identity=runner.data_identity(problem.sha, chosen),
        evaluate=lambda model: float(_dice(predict(model), problem.test)),
        points=protocol.curve,
    )
    clock = Clock()
    probability = predict(trained.model)
    result = {
        "scores": score(probability, problem.test, problem.voxel_size_um),
        "planes": chosen,
        "data_sha": problem.sha,
        "seconds": trained.seconds,
        "predict_seconds": {"cpu": clock.cpu, "wall": clock.wall},
        "cpu_seconds": sum(stage["cpu"] for stage in trained.seconds.values()),
        "wall_seconds": sum(stage["wall"] for stage in trained.seconds.values()),
        "device_kind": kind,
    }
    return {**result, **({"device": device} if device else {}), **({"curve": trained.curve} if trained.curve else {})}


def _dice(probability: Any, test: HeldOut) -> float:
    from fewslice.metrics.semantic import confusion, scores

    matrix = confusion(probability[test.scored] >= 0.5, test.truth[test.scored], classes=1)
    return float(scores(matrix)["dice"] or 0.0)


def annotated_planes(cell: Cell, problem: Problem) -> list[list[int]]:
    """Draw the annotated planes of each training volume."""
    return [
        choose_planes(cell.setting, cell.draw, index, truth.shape[0], int(cell.config["planes"]))
        for index, (_, truth) in enumerate(problem.train)
    ]


def make_samples(problem: Problem, chosen: Sequence[Sequence[int]]) -> list[Any]:
    """Make samples of which only the chosen planes are annotated; other planes' truth is wiped, not only hidden."""
    import numpy as np

    from fewslice.annotation import Annotation
    from fewslice.data.samples import Sample
    from fewslice.volume import Volume

    samples = []
    for index, ((image, truth), planes) in enumerate(zip(problem.train, chosen, strict=True)):
        known = np.zeros(truth.shape, dtype=bool)
        known[list(planes)] = True
        annotation = Annotation((truth & known).astype(np.uint8), known)
        volume = Volume.from_array(image, voxel_size_um=problem.voxel_size_um)
        samples.append(Sample(f"volume{index}", volume, annotation))
    return samples


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=DRAWS, help="number of draws")
    parser.add_argument("--trial", default="", help="name of a trial of other settings (phantom and inside x < 288)")
    parser.add_argument("--alphas", type=float, nargs="+", default=None, help="α of the trial's students")
    example = "3d.network.features=24 or student.steps=3000"
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"a setting of the trial, e.g. {example}"
    )


def _flags(arguments: argparse.Namespace) -> str:
    """Give the options of a trial again, so that its results carry the command that repeats them."""
    words = [f"--trial {arguments.trial}"] if arguments.trial else []
    words += [f"--set {text}" for text in arguments.set]
    words += [f"--alphas {' '.join(f'{alpha:g}' for alpha in arguments.alphas)}"] if arguments.alphas else []
    return "".join(f" {word}" for word in words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="sparsity",
        description="Annotated planes × arms × α × draws: the paper's experiment.",
        plan=plan,
        function=run_cell,
        options=_options,
        flags=_flags,
        every=lambda arguments: [
            *every_cell("full", arguments.draws),
            *every_cell("quick", arguments.draws),
            *map(again, runner.read_results("sparsity_trials", results=arguments.results)),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
