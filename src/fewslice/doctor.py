"""A look at the machine: device, memory, threads, disk, versions, and what to do about them."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name
        What.
    found
        What there is.
    ok
        Whether it is enough.
    advice
        What to do about it, or empty.
    """

    name: str
    found: str
    ok: bool = True
    advice: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at the machine and at the disk that holds `folder`."""
    return [_python(), *_packages(), *_devices(), _memory(), _threads(), _disk(folder)]


def _python() -> Finding:
    return Finding("python", f"{platform.python_version()} on {platform.platform()}")


def _packages() -> list[Finding]:
    out = []
    for name in ("fewslice", "torch", "numpy", "zarr", "lightning-fabric", "connected-components-3d", "edt"):
        try:
            out.append(Finding(name, version(name)))
        except PackageNotFoundError:
            out.append(Finding(name, "missing", ok=False, advice=f"pip install {name}"))
    return out


def _devices() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        out = []
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            out.append(Finding(f"cuda:{index}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"))
        return out
    if torch.backends.mps.is_available():
        return [Finding("device", "mps")]
    from fewslice.model import prefers_bfloat16

    fast = prefers_bfloat16(torch.device("cpu"))
    advice = "" if fast else "training runs in float32 here; expect it to be several times slower than with bfloat16"
    return [Finding("device", "cpu with bfloat16" if fast else "cpu without bfloat16", ok=fast, advice=advice)]


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    free = memory.available / 2**30
    advice = "" if free >= 4 else "close other programs, or train with a smaller patch: --set patch=[z,y,x]"
    return Finding("memory", f"{free:.1f} of {memory.total / 2**30:.1f} GiB free", ok=free >= 4, advice=advice)


def _threads() -> Finding:
    import torch

    from fewslice.workflow.common import available_cores

    cores = available_cores()
    threads = torch.get_num_threads()
    ok = threads <= cores
    advice = "" if ok else f"more threads than cores slow everything down; set OMP_NUM_THREADS={cores}"
    return Finding("threads", f"{threads} of torch on {cores} cores", ok=ok, advice=advice)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder.resolve()).free / 2**30
    advice = "" if free >= 5 else "free some space: a run and its predictions take a few GiB"
    return Finding("disk", f"{free:.1f} GiB free", ok=free >= 5, advice=advice)
