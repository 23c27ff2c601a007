"""The whole way on a simulated volume: simulate, train on 4 planes, predict, evaluate, count, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from fewslice import io, workflow
from fewslice.errors import InputError
from fewslice.experiment import Experiment
from fewslice.files import is_unfinished
from fewslice.synthesis.simulators import two_photon_neurons
from fewslice.volume import Volume

__all__ = ["Demo", "demo"]

PLANES = "4,14,24,34"
STRATEGIES: dict[str, float] = {"slices_2d": 0.22, "sparse_3d": 0.33, "pseudo_labels": 0.45}


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes
    ----------
    runs
        One run folder per strategy.
    report
        The HTML page.
    summary
        Lines for the screen: Dice per strategy and counts.
    """

    runs: tuple[Path, ...]
    report: Path
    summary: tuple[str, ...]


def demo(
    output: str | Path,
    *,
    minutes: float = 5.0,
    seed: int = 0,
    overwrite: bool = False,
    listener: Callable[[dict[str, Any]], None] | None = None,
) -> Demo:
    """Run the demo into a folder; finished parts are not repeated.

    Parameters
    ----------
    output
        The folder.
    minutes
        Training time for the three strategies together.
    seed
        Of the simulated volumes and the training.
    overwrite
        Start again.
    listener
        Called with progress events.
    """
    folder = Path(output)
    known = {"runs", "predictions", "report.html", "figures"}
    known |= {f"{name}{kind}" for name in ("train", "test") for kind in (".ome.zarr", "_labels.tif")}
    there = [p for p in folder.iterdir() if not is_unfinished(p)] if folder.is_dir() else []
    strangers = sorted(p.name for p in there if p.name not in known)
    if strangers or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} holds {', '.join(strangers[:3]) or 'a file'}; choose an empty folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    truths = {name: _simulated(folder, name, seed + i, overwrite) for i, name in enumerate(("train", "test"))}
    runs, outputs, lines = [], [], []
    for strategy, share in STRATEGIES.items():
        experiment = Experiment(
            strategy=strategy,
            images=(str((folder / "train.ome.zarr").resolve()),),
            labels=(str((folder / "train_labels.tif").resolve()),),
            label_kind="classes",
            planes=(PLANES,),
            seed=seed,
            minutes=minutes * share,
        )
        run = workflow.train(experiment, folder / "runs" / strategy, overwrite=overwrite, listener=listener)
        target = folder / "predictions" / f"{strategy}.ome.zarr"
        workflow.predict(run, [str(folder / "test.ome.zarr")], target, overwrite=overwrite, listener=listener)
        scores = workflow.evaluate(target, folder / "test_labels.tif")
        found = _count(io.open_labels(target / "labels" / "segmentation").read()[0])
        lines.append(
            f"{strategy:<14} Dice {scores['dice']:.3f}  precision {scores['precision']:.3f}  "
            f"recall {scores['recall']:.3f}  cells {found} (truth {_count(truths['test'])})"
        )
        runs.append(run)
        outputs.append(target)
    page = workflow.report(runs, predictions=outputs, output=folder / "report.html")
    return Demo(tuple(runs), page, tuple(lines))


def _simulated(folder: Path, name: str, seed: int, overwrite: bool) -> np.ndarray[Any, Any]:
    config = two_photon_neurons.Config(shape=(40, 160, 160))
    simulation = two_photon_neurons.simulate(config, np.random.default_rng(seed))
    image, labels = folder / f"{name}.ome.zarr", folder / f"{name}_labels.tif"
    truth: np.ndarray[Any, Any] = (simulation.semantic == 1).astype(np.uint8)
    if overwrite or not labels.exists():
        io.save_volume(image, Volume.from_array(simulation.image, simulation.voxel_size_um), overwrite=True)
        io.save_volume(labels, Volume.from_array(truth, simulation.voxel_size_um), overwrite=True)
    return truth


def _count(mask: np.ndarray[Any, Any]) -> int:
    """Count connected somata of at least 100 voxels."""
    labels, count = ndimage.label(mask > 0)
    if count == 0:
        return 0
    return int((np.bincount(labels.ravel())[1:] >= 100).sum())
