"""The arms of the comparison: how each is trained, scored and timed.

A student does not train its own teacher when the 2D arm of the same draw has done so: the stage's result is kept in a
scratch folder under a hash of what made it, and put into the student's run, where it counts as finished. So the 2D arm
*is* the teacher of the student it is compared with. The teacher's seconds are always counted to the student.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from benchmarks.cells import Clock, Context, data_identity
from benchmarks.problems import HeldOut

__all__ = [
    "ARMS",
    "Arm",
    "Trained",
    "device_of",
    "keep_stage",
    "model_in_training",
    "score",
    "synchronise",
    "train",
]

Array = npt.NDArray[Any]
TOLERANCE_UM = 2.0
"""Tolerance of the normalised surface Dice: one plane."""


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes
    ----------
    strategy
        Its kind.
    network
        Kind of the 2D network of a 2D arm, or of the teacher; empty for ``sparse_3d``.
    title
        How tables name it.
    """

    strategy: str
    network: str
    title: str

    @property
    def is_student(self) -> bool:
        """Whether it learns from a teacher."""
        return self.strategy == "pseudo_labels"


ARMS = {
    "cnn_2d": Arm("slices_2d", "cnn_2d", "2D network (published)"),
    "unet_2d": Arm("slices_2d", "unet", "2D U-Net"),
    "sparse_3d": Arm("sparse_3d", "", "sparse 3D U-Net (α = 0)"),
    "student_cnn_2d": Arm("pseudo_labels", "cnn_2d", "student of the published 2D network"),
    "student_unet_2d": Arm("pseudo_labels", "unet", "student of the 2D U-Net"),
}


@dataclass(frozen=True)
class Trained:
    """A trained arm.

    Attributes
    ----------
    model
        What predicts.
    seconds
        Processor and wall seconds by stage, ``{"teacher": {"cpu": …, "wall": …}, …}``, scoring left out.
    curve
        Scores along the last stage: ``{"cpu": seconds so far with the teacher's, "step": …, "dice": …}``.
    """

    model: Any
    seconds: dict[str, dict[str, float]]
    curve: list[dict[str, float]]


def device_of(name: str) -> tuple[str, str]:
    """Give (kind, model name) of the device that `name` means; the model name is empty for a CPU."""
    import torch

    from fewslice.training.fit import Hardware

    device = Hardware(device=name).torch_device()
    return device.type, torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def synchronise(device: Any) -> None:
    """Wait until a GPU has done what it was given, so that the clock can be read; a CPU has."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train(
    arm: Arm,
    settings: Mapping[str, Any],
    steps: Mapping[str, int],
    samples: Sequence[Any],
    *,
    seed: int,
    context: Context,
    identity: str,
    evaluate: Callable[[Any], float] | None = None,
    points: int = 0,
) -> Trained:
    """Train one arm on samples in memory.

    Parameters
    ----------
    arm, settings, steps
        The strategy, its settings and the steps of each of its stages.
    samples
        What is trained on.
    seed
        Seed of everything random.
    context
        Device, threads, scratch folder.
    identity
        Hash of the samples with their annotation, for stages that arms share.
    evaluate
        Model → score, called along the last stage; its time is not counted.
    points
        How often.
    """
    context.work.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=context.work, prefix="run-") as scratch:
        run = Path(scratch)
        if arm.is_student:
            stage, seconds["teacher"] = _teacher(arm, settings, steps, samples, seed, context, identity)
            shutil.copytree(stage, run / "stages" / "teacher")
        last = "student" if arm.is_student else "segment"
        before = seconds.get("teacher", {}).get("cpu", 0.0)
        curve: list[dict[str, float]] = []
        clock = Clock()

        def watch(stage: Any, step: int) -> None:
            if evaluate is not None and stage.name == last:
                spent = clock.cpu
                with clock.paused():
                    model = model_in_training(stage, settings.get(last, settings), samples)
                    curve.append({"step": step, "cpu": before + spent, "dice": evaluate(model)})

        every = max(1, steps[last] // points) if points and evaluate is not None else 0
        model = _run(arm.strategy, settings, steps, samples, seed, run, context, watch if every else None, every)
        seconds[last] = {"cpu": clock.cpu, "wall": clock.wall}
        if not arm.is_student:
            kept = _shared(settings, steps, seed, context, identity)
            keep_stage(run / "stages" / "segment", kept, seconds["segment"])
    return Trained(model, seconds, curve)


def _run(
    strategy: str,
    settings: Mapping[str, Any],
    steps: Mapping[str, int],
    samples: Sequence[Any],
    seed: int,
    run: Path,
    context: Context,
    watch: Callable[[Any, int], None] | None,
    every: int,
) -> Any:
    from fewslice import workflow
    from fewslice.experiment import Experiment
    from fewslice.training.fit import Hardware

    experiment = Experiment(strategy=strategy, settings=dict(settings), steps=dict(steps), seed=seed, validation="none")
    hardware = Hardware(device=context.device)
    return workflow.train_samples(experiment, list(samples), run, hardware=hardware, monitor=watch, monitor_every=every)


def model_in_training(stage: Any, settings: Mapping[str, Any], samples: Sequence[Any]) -> Any:
    """Wrap the network of a stage that is being trained, so that it predicts as the finished model will.

    Parameters
    ----------
    stage
        The stage, with the weights in place that are to be judged.
    settings
        Settings of its network.
    samples
        What it is trained on.
    """
    from fewslice.data.normalisation import fit_normalisation
    from fewslice.model import Model, NetworkStep

    images = [sample.image for sample in samples]
    step = NetworkStep(
        network=dict(settings["network"]),
        in_channels=images[0].channels,
        out_channels=2,
        views=settings.get("views", 4),
    )
    normalisation = fit_normalisation(images, settings.get("normalisation", "robust"))
    network = stage.modules["network"]
    return Model([step], [network], normalisation=normalisation, class_values=(1,), halo=(0, 0, 0))


def _teacher(
    arm: Arm,
    settings: Mapping[str, Any],
    steps: Mapping[str, int],
    samples: Sequence[Any],
    seed: int,
    context: Context,
    identity: str,
) -> tuple[Path, dict[str, float]]:
    """Give the folder of the teacher's finished stage and its cost; train it as the 2D arm if it is not there."""
    own = settings["teacher"]
    budget = {"segment": steps["teacher"]}
    kept = _shared(own, budget, seed, context, identity)
    if not (kept / "seconds.json").exists():
        rival = Arm("slices_2d", arm.network, "")
        train(rival, own, budget, samples, seed=seed, context=context, identity=identity)
    return kept / "stage", json.loads((kept / "seconds.json").read_text(encoding="utf-8"))


def _shared(settings: Mapping[str, Any], steps: Mapping[str, int], seed: int, context: Context, identity: str) -> Path:
    """Name the scratch folder of a stage by everything that made it, the device included."""
    kind, name = device_of(context.device)
    made_by = data_identity([dict(settings), dict(steps), seed, identity, kind, name, context.threads])
    return context.work / "stages" / made_by


def keep_stage(stage: Path, kept: Path, seconds: Mapping[str, float]) -> None:
    """Copy a finished stage and what it cost; the cost is written last and marks it as complete."""
    if (kept / "seconds.json").exists():
        return
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(stage, kept / "stage")
    (kept / "seconds.json").write_text(json.dumps(dict(seconds)), encoding="utf-8")


def score(probability: Array, test: HeldOut, voxel_size_um: tuple[float, float, float]) -> dict[str, Any]:
    """Score a foreground probability at threshold 0.5 on the part of the test volume that counts.

    Parameters
    ----------
    probability
        (z, y, x) float of the whole of ``test.image``.
    test
        Truth and the part that is scored.
    voxel_size_um
        (z, y, x).

    Returns
    -------
    dict
        ``dice, iou, precision, recall, confusion, hd95_um, assd_um, nsd, nsd_tolerance_um, flicker`` and ``ceiling``,
        the best Dice over thresholds (it needs the truth: it tells how much a better threshold could give, no more).
    """
    from fewslice.metrics.along_z import consistency
    from fewslice.metrics.semantic import confusion, confusion_at, scores
    from fewslice.metrics.surface import surface_scores

    p, truth = probability[test.scored], test.truth[test.scored]
    predicted = p >= 0.5
    matrix = confusion(predicted, truth, classes=1)
    surface = surface_scores(predicted, truth, voxel_size_um, TOLERANCE_UM)
    swept = [scores(m)["dice"] or 0.0 for m in confusion_at(p, truth, [step / 20 for step in range(1, 20)])]
    return {
        **scores(matrix),
        "confusion": matrix,
        **{key: surface[key] for key in ("hd95_um", "assd_um", "nsd", "nsd_tolerance_um")},
        "flicker": consistency(predicted)["flicker"],
        "ceiling": max(swept),
    }
