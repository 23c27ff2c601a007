"""Options that several verbs share, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fewslice import registry
from fewslice.errors import InputError

if TYPE_CHECKING:
    from fewslice.blocks.cluster import SlurmConfig

__all__ = [
    "Axes",
    "Background",
    "Channels",
    "Checkpoints",
    "Device",
    "Devices",
    "DryRun",
    "Images",
    "Json",
    "Kind",
    "Labels",
    "Overwrite",
    "Planes",
    "Quiet",
    "Retries",
    "SEGMENTERS",
    "SIMULATORS",
    "STRATEGIES",
    "Scheduler",
    "Slurm",
    "Unlabelled",
    "Voxel",
    "Workers",
    "absolute",
    "number_or_word",
    "read_extents",
    "read_integers",
    "read_label_kind",
    "read_shape",
    "read_slurm",
    "read_voxel_size",
]

STRATEGIES = ", ".join(registry.names("strategies"))
SEGMENTERS = ", ".join(registry.names("segmenters"))
SIMULATORS = ", ".join(registry.names("synthesis.simulators"))
Images = Annotated[
    list[str], typer.Argument(help="Image files, folders of planes, OME-Zarr, file.h5:dataset, or quoted globs.")
]
Axes = Annotated[str | None, typer.Option(help="Order of the axes in the file, such as zcyx; usually inferred.")]
Channels = Annotated[str | None, typer.Option(help="Channels to use, 0-based, such as 0,2; all by default.")]
Voxel = Annotated[str | None, typer.Option("--voxel-size-um", help="Voxel size z,y,x in µm; by default the file's.")]
Kind = Annotated[str | None, typer.Option("--label-kind", help="classes or instances.")]
Planes = Annotated[
    list[str] | None,
    typer.Option(help="Annotated planes, 0-based: 0,5,10 or 0:160:5 or y=3,9; repeatable; all by default."),
]
Background = Annotated[int | None, typer.Option(help="Value in the labels that means background.")]
Unlabelled = Annotated[str | None, typer.Option(help="Value that means unlabelled, 'highest', or 'none'.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Devices = Annotated[int, typer.Option(min=1, help="How many devices share the training.")]
Checkpoints = Annotated[float, typer.Option(min=0, help="Seconds between checkpoints: what a kill costs at most.")]
Labels = Annotated[str | None, typer.Option("--labels", help="Which labels of the store; by default instances.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that compute, here or as SLURM jobs; by default this one alone.")
]
Scheduler = Annotated[str | None, typer.Option(help="A running Dask scheduler whose workers compute, tcp://host:port.")]
Slurm = Annotated[Path | None, typer.Option(help="Ask SLURM for the workers, as this YAML file says.")]
Retries = Annotated[int, typer.Option(min=0, help="How often a block is tried again after an error that may pass.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Measure two blocks, say what it would take, keep nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]


def absolute(path: str) -> str:
    """Make a path absolute; addresses and ``none`` stay as they are."""
    return path if "://" in path or path == "none" else str(Path(path).absolute())


def read_integers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read ``0,2``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} must be whole numbers separated by commas, such as 0,2") from None


def read_extents(text: str | None, option: str) -> tuple[int, int, int] | None:
    """Read three positive integers ``z,y,x``."""
    values = read_integers(text, option)
    if values is None:
        return None
    if len(values) != 3 or min(values) < 1:
        raise InputError(f"{option} {text} must be three positive numbers, z,y,x")
    return (values[0], values[1], values[2])


def read_slurm(path: Path) -> SlurmConfig:
    """Read the options of SLURM workers from a YAML file."""
    import yaml

    from fewslice.blocks.cluster import SlurmConfig
    from fewslice.experiment import checked

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML; write lines such as queue: gpu") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold settings, one a line, such as queue: gpu")
    return checked(SlurmConfig, content, where=str(path))


def read_shape(text: str | None) -> tuple[int, int, int] | None:
    """Read the shape of an image to simulate, ``y,x`` or ``z,y,x``."""
    if text is None:
        return None
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (2, 3) or min(values) < 1:
        raise InputError(f"--shape {text!r} must be positive whole numbers z,y,x or y,x, such as 40,256,256")
    z, y, x = values if len(values) == 3 else (1, *values)
    return z, y, x


def read_voxel_size(text: str | None) -> tuple[float, float, float] | None:
    """Read a voxel size ``z,y,x`` in µm."""
    import math

    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError(f"--voxel-size-um {text!r} must be three positive numbers z,y,x in µm, such as 2,0.88,0.88")
    return (values[0], values[1], values[2])


def read_label_kind(text: str | None) -> Literal["classes", "instances"] | None:
    """Read ``classes`` or ``instances``."""
    if text is None:
        return None
    if text == "classes":
        return "classes"
    if text == "instances":
        return "instances"
    raise InputError(f"--label-kind {text!r} must be classes or instances")


def number_or_word(text: str | None) -> int | str | None:
    """Read an integer, or keep the word."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return text
