"""What the verbs share: events, names of outputs, the model of a run, voxels that must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fewslice import io
from fewslice.errors import InputError

__all__ = ["Listener", "available_cores", "check_outputs", "find_model", "ignore_event", "voxel_factor"]

Listener = Callable[[dict[str, Any]], None]


_VOXEL_TOLERANCE = 0.1


def ignore_event(event: dict[str, Any]) -> None:
    """Listen to nothing."""


def check_outputs(paths: Sequence[str], outputs: Sequence[Path]) -> None:
    """Refuse to write over an image that is read, over what holds it or lies in it, or into what is not a folder."""
    for target in outputs:
        above = next(folder for folder in target.absolute().parents if folder.exists())
        if not above.is_dir():
            raise InputError(f"{above} is a file, not a folder; give -o OUT.ome.zarr, or a folder for several images")
        for path in paths:
            io.check_apart(path, target)


def find_model(run_or_model: str | Path) -> tuple[Path, Path]:
    """Return the run folder, or that of a model alone, and the folder of the model."""
    run_folder = Path(run_or_model)
    if not run_folder.exists():
        raise InputError(f"{run_folder} does not exist, so there is no trained model; check the path")
    model_folder = run_folder / "model" if (run_folder / "model").is_dir() else run_folder
    if not model_folder.is_dir() or not (model_folder / "model.json").exists():
        raise InputError(f"{run_folder} holds no trained model; train first, or wait until training has finished")
    return run_folder, model_folder


def voxel_factor(
    source: str,
    voxel: tuple[float, float, float] | None,
    expected: tuple[float, float, float] | None,
    *,
    resample: bool,
    against: str = "the model",
) -> tuple[float, float, float] | None:
    """Return image voxel over model voxel where they differ by more than 10 %, else None."""
    if voxel is None or expected is None:
        return None
    z, y, x = (own / other for own, other in zip(voxel, expected, strict=True))
    if all(abs(f - 1) <= _VOXEL_TOLERANCE for f in (z, y, x)):
        return None
    if not resample:
        raise InputError(
            f"{source} has voxels of {voxel} µm (z, y, x), {against} has {expected}; correct it with --voxel-size-um, "
            "or predict with --resample"
        )
    return (z, y, x)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
