"""What the verbs share: events, names of outputs, the model of a run, voxels that must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewslice import io
from fewslice.errors import InputError, PartialError

if TYPE_CHECKING:
    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.blocks.engine import Engine
    from fewslice.geometry import Block

__all__ = [
    "Listener",
    "available_cores",
    "check_complete",
    "check_outputs",
    "find_model",
    "ignore_event",
    "open_engine",
    "voxel_factor",
]

Listener = Callable[[dict[str, Any]], None]


_VOXEL_TOLERANCE = 0.1


def ignore_event(event: dict[str, Any]) -> None:
    """Listen to nothing."""


def check_complete(failed: Sequence[tuple[Block, str]], source: str, what: str, tell: Listener) -> None:
    """Tell which blocks could not be done, and end the verb as partly done if there are any.

    Parameters
    ----------
    failed
        Blocks, or objects in their place, with the reasons.
    source
        The input, as events name it.
    what
        What is said after their number, such as ``blocks could not be measured; …``.
    tell
        Called with an event for each.

    Raises
    ------
    PartialError
        If there are any.
    """
    for item, reason in failed:
        tell({"event": "block_failed", "image": source, "block": list(item.index), "reason": reason})
    if failed:
        raise PartialError(f"{len(failed)} {what}")


def check_outputs(paths: Sequence[str], outputs: Sequence[Path]) -> None:
    """Refuse to write over an image that is read, over what holds it or lies in it, or into what is not a folder."""
    for target in outputs:
        above = next(folder for folder in target.absolute().parents if folder.exists())
        if not above.is_dir():
            raise InputError(
                f"{above} is a file, not a folder, so {target.name} cannot be made in it; choose another -o"
            )
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


@contextmanager
def open_engine(
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: SlurmConfig | None = None,
    *,
    device: str = "cpu",
) -> Iterator[Engine | None]:
    """Yield what computes blocks: this process (None), or workers of a cluster for the duration.

    Parameters
    ----------
    workers
        Processes, of this machine or SLURM jobs; None for this process alone.
    scheduler
        Address of a running Dask scheduler whose workers compute.
    slurm
        Ask SLURM for the workers.
    device
        ``cuda``: workers of this machine get a GPU each.

    Raises
    ------
    InputError
        If a scheduler is given together with workers to be started.
    """
    if scheduler is not None and (workers is not None or slurm is not None):
        raise InputError("--scheduler names workers that run already; leave --workers and --slurm out")
    if workers is None and scheduler is None and slurm is None:
        yield None
        return
    from fewslice.blocks.cluster import connect

    gpus = 0
    if device == "cuda" and slurm is None:
        import torch

        gpus = torch.cuda.device_count()
    with connect(workers=workers, scheduler=scheduler, slurm=slurm, gpus=gpus) as engine:
        yield engine


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
