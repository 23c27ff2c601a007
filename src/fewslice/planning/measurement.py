"""Short trainings on ever more planes, each judged on the planes that its fold holds out.

All trainings are alike but for their planes and seed: the 2D network of the run's strategy (of `slices_2d` with its
defaults, where the run has none), smaller patches, one view, the same number of steps from fresh weights. None starts
from the run's weights, which have seen the planes that judge. A Dice is therefore that of a short training; what more
planes add to it is what is looked for.

1. :func:`cheap_settings` derives the network's settings from the run.
2. :func:`measure` trains in a run folder of each subset's own, judges, and stores the counts beside the model. What is
   finished is not repeated, so that a killed measurement goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice.annotation import class_values_of, planes_mask
from fewslice.data.samples import Sample
from fewslice.experiment import Experiment, read_experiment, strategy_config
from fewslice.files import write_json
from fewslice.metrics.semantic import confusion_at
from fewslice.model import Model, build_network
from fewslice.planning.ladder import Ladder, Plane, cross_fitted_dice
from fewslice.strategies import slices_2d
from fewslice.training.held_out import tiles
from fewslice.training.run_folder import RunFolder
from fewslice.training.segmentation import SegmentationConfig, dims_of, resolved
from fewslice.training.task import Task

__all__ = ["Measured", "cheap_settings", "judge", "measure", "restricted", "task_of"]

Listener = Callable[[dict[str, Any]], None]
Train = Callable[[Experiment, Sequence[Sample], Path, Listener], Model]

_STRATEGY = "slices_2d"
_SIDE = 128
_BATCH = 4
_JUDGED_VOXELS = 2**22
_THRESHOLDS = tuple(step / 20 for step in range(1, 20))


@dataclass(frozen=True)
class Measured:
    """What the trainings gave.

    Attributes
    ----------
    sizes
        (S,) numbers of training planes.
    dice
        (folds, S) foreground Dice on what each fold holds out.
    steps
        Of each training.
    """

    sizes: tuple[int, ...]
    dice: NDArray[np.float64]
    steps: int


def task_of(samples: Sequence[Sample], run: RunFolder, seed: int = 0) -> Task:
    """Wrap samples as a task that holds nothing out."""
    annotations = [sample.annotation for sample in samples]
    return Task(
        samples=samples,
        train_masks=[None if a is None else a.annotated for a in annotations],
        validation_masks=[None for _ in samples],
        class_values=class_values_of([a for a in annotations if a is not None]),
        run=run,
        seed=seed,
    )


def cheap_settings(experiment: Experiment, samples: Sequence[Sample], run: RunFolder) -> dict[str, Any]:
    """Return settings of `slices_2d` for the 2D network of a run: patches of at most 128 pixels, four per step.

    Parameters
    ----------
    experiment
        The run's, resolved.
    samples, run
        What it was trained on, and its folder.
    """
    config = strategy_config(experiment)
    parts = [config, *(getattr(config, name) for name in type(config).model_fields)]
    planar = next((p for p in parts if isinstance(p, SegmentationConfig) and dims_of(p) == 2), slices_2d.Config())
    task = task_of(samples, run)
    planar = resolved(planar, task).model_copy(update={"outputs": "foreground"})
    assert planar.patch is not None and planar.batch_size is not None
    divisor = [int(d) for d in build_network(planar.network, 1, 2).divisor]  # type: ignore[union-attr]
    divisor.insert(task.plane_axis(), divisor.pop(0))
    patch = tuple(min(p, max(_SIDE // d, 1) * d) for p, d in zip(planar.patch, divisor, strict=True))
    update = {"patch": patch, "batch_size": min(planar.batch_size, _BATCH), "views": 1}
    return planar.model_copy(update=update).model_dump(mode="json")


def measure(
    ladder: Ladder,
    samples: Sequence[Sample],
    settings: dict[str, Any],
    folder: Path,
    *,
    axis: int,
    train: Train,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    listener: Listener,
) -> Measured:
    """Train and judge every rung of every fold, or read what an earlier call left.

    Parameters
    ----------
    ladder
        Folds and sizes; there must be some.
    samples
        Images and all of their annotation; a training sees its own planes' alone.
    settings
        Of `slices_2d`; see :func:`cheap_settings`.
    folder
        Where the trainings are kept, in a folder named after all that decides what they give.
    axis
        Along which planes are counted: 0, 1, 2 = z, y, x.
    train
        (experiment, samples, run folder, listener) → model; resumes.
    seed
        Of the trainings; each has its own.
    steps, minutes
        Steps of each training; or minutes of all together, of which the first one makes steps.
    listener
        Called with every event.
    """
    asked = [settings, [asdict(fold) for fold in ladder.folds], ladder.sizes, axis, seed, steps, minutes]
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    counts = np.zeros((len(ladder.sizes), len(ladder.folds), len(_THRESHOLDS), 2, 2), dtype=np.int64)
    total = counts.shape[0] * counts.shape[1]
    for rung, size in enumerate(ladder.sizes):
        for number, fold in enumerate(ladder.folds):
            done = rung * len(ladder.folds) + number
            run = RunFolder(folder / key / f"fold_{number}_planes_{size}")
            judged = run.path / "judged.json"
            if not judged.exists():
                experiment = Experiment(
                    strategy=_STRATEGY,
                    settings=settings,
                    seed=seed + done,
                    validation="none",
                    steps=steps,
                    minutes=None if steps else (minutes or 0) / total,
                )
                own = restricted(samples, fold.training[:size], axis)
                model = train(experiment, own, run.path, _named(listener, f"training {done + 1} of {total}"))
                found = judge(model, samples, fold.held, axis, run)
                write_json(judged, {"thresholds": _THRESHOLDS, "counts": found.tolist()})
            counts[rung, number] = json.loads(judged.read_text(encoding="utf-8"))["counts"]
            stored = read_experiment(run.experiment).steps
            assert isinstance(stored, dict)
            steps = stored["segment"]
    assert steps is not None
    return Measured(ladder.sizes, np.stack([cross_fitted_dice(own) for own in counts], axis=1), steps)


def _named(listener: Listener, name: str) -> Listener:
    """Give the stage of a training a name of its own in what the user sees."""

    def tell(event: dict[str, Any]) -> None:
        if "stage" in event:
            listener(event | {"stage": name})

    return tell


def restricted(samples: Sequence[Sample], planes: Sequence[Plane], axis: int) -> list[Sample]:
    """Return the samples with the annotation of some planes only; all other labels are wiped."""
    out = []
    for number, sample in enumerate(samples):
        own = [(axis, plane.index) for plane in planes if plane.sample == number]
        annotation = sample.annotation.restricted(own) if sample.annotation is not None and own else None
        out.append(replace(sample, annotation=annotation))
    return out


def judge(
    model: Model, samples: Sequence[Sample], held: Sequence[Plane], axis: int, run: RunFolder
) -> NDArray[np.int64]:
    """Count voxels of held-out planes by truth and prediction at thresholds 0.05, 0.1, …, 0.95.

    Of very large planes, tiles are judged: about 4 million voxels, the same for every model of the same patch.

    Returns
    -------
    ndarray
        (thresholds, 2, 2), ``[[TN, FP], [FN, TP]]``.
    """
    masks: list[NDArray[np.bool_] | None] = []
    for number, sample in enumerate(samples):
        own = [(axis, plane.index) for plane in held if plane.sample == number]
        annotation = sample.annotation
        masks.append(planes_mask(own, annotation.shape) & annotation.annotated if annotation and own else None)
    task = replace(task_of(samples, run), validation_masks=masks)
    extent = tuple(1 if a == axis else 2 * p for a, p in enumerate(model.patch))
    context = tuple(min(h, max(2 * p, 32)) for h, p in zip(model.receptive_halo, model.patch, strict=True))
    counts = np.zeros((len(_THRESHOLDS), 2, 2), dtype=np.int64)
    classes = {n: a.classes for n, s in enumerate(samples) if masks[n] is not None and (a := s.annotation) is not None}
    for tile in tiles(task, extent, context, model.divisor, voxels=_JUDGED_VOXELS, flat_axis=axis):
        mask = masks[tile.sample]
        assert mask is not None
        foreground = model.probabilities(samples[tile.sample].image.read(tile.read)).sum(axis=0)[tile.crop.slices]
        truth = classes[tile.sample][tile.inner.slices]
        counts += confusion_at(foreground, truth, _THRESHOLDS, valid=mask[tile.inner.slices])
    return counts
