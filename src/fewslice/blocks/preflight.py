"""What a block-wise job will take on this machine, from a few real blocks: time, memory, disk; and whether it fits."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from fewslice.blocks.engine import run_blocks
from fewslice.blocks.job import Job
from fewslice.blocks.record import open_record
from fewslice.errors import FewsliceError, InputError
from fewslice.files import disk_error
from fewslice.geometry import Block, BlockGrid, Shape

__all__ = [
    "Estimate",
    "Probe",
    "Trial",
    "check_fits",
    "estimate_blocks",
    "existing_parent",
    "free_disk",
    "free_memory",
    "peak_memory",
    "probe",
    "probed_blocks",
    "read_voxels",
    "return_freed_memory",
    "scratch_beside",
    "shared_by",
    "smaller_block",
]


_SMALL_VOXELS = 1 << 20
_SMALLEST_EXTENT = 32


@dataclass(frozen=True)
class Probe:
    """What a few blocks took.

    Attributes
    ----------
    seconds_per_voxel
        Per voxel read, context included.
    bytes_per_voxel
        Stored per voxel written, compressed.
    memory_bytes
        The most that this process held, whatever it held before included.
    """

    seconds_per_voxel: float
    bytes_per_voxel: float
    memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What the whole will take.

    Attributes
    ----------
    what
        The input.
    blocks, block, halo
        Number of blocks, what one writes and the context it reads, (z, y, x) in voxels.
    workers
        Processes that share the work.
    seconds
        Wall time.
    memory_bytes, memory_free_bytes
        Of all processes of this machine, and what they may take.
    gpu_bytes, gpu_free_bytes
        Of one GPU; None on processors.
    disk_bytes, disk_free_bytes
        Of the output with its pyramid.
    """

    what: str
    blocks: int
    block: Shape
    halo: Shape
    workers: int
    seconds: float
    memory_bytes: int
    memory_free_bytes: int
    gpu_bytes: int | None
    gpu_free_bytes: int | None
    disk_bytes: int
    disk_free_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it for a person."""
        rows = [
            f"{self.what}: {self.blocks} blocks of {_by(self.block)} voxels, halo {_by(self.halo)} (z, y, x)",
            f"  time    about {_duration(self.seconds)} with {self.workers} process{'es' * (self.workers > 1)}",
            f"  memory  about {_size(self.memory_bytes)} of {_size(self.memory_free_bytes)} free",
        ]
        if self.gpu_bytes is not None and self.gpu_free_bytes is not None:
            rows.append(f"  GPU     about {_size(self.gpu_bytes)} of {_size(self.gpu_free_bytes)} free")
        return [*rows, f"  disk    about {_size(self.disk_bytes)} of {_size(self.disk_free_bytes)} free"]


def probed_blocks(grid: BlockGrid, count: int = 2) -> list[Block]:
    """Return up to `count` neighbouring blocks in the middle of the volume, along x."""
    z, y, x = (n // 2 for n in grid.counts)
    first = max(0, min(x, grid.counts[2] - count))
    return [grid.at((z, y, i)) for i in range(first, min(first + count, grid.counts[2]))]


def probe(job: Job, blocks: Sequence[Block], scratch: Path, name: str = "marks") -> Probe:
    """Run a job on a few blocks and measure it.

    Parameters
    ----------
    job
        The job, which writes below `scratch` and nowhere else.
    blocks
        Real ones; see :func:`probed_blocks`.
    scratch
        An existing folder on the disk that the output will be on.
    name
        Of the folder of marks in it, another one for every job that is run there.

    Raises
    ------
    FewsliceError
        If a block fails.
    """
    before = _stored_bytes(scratch)
    began = time.perf_counter()
    with peak_memory() as peak:
        outcome = run_blocks(blocks, open_record(scratch / name, "probe", what=str(scratch)), job)
        memory = peak()
    seconds = time.perf_counter() - began
    if outcome.failed:
        raise FewsliceError(f"block {outcome.failed[0][0].index} of the probe failed: {outcome.failed[0][1]}")
    read, written = (sum(box.size for box in boxes) for boxes in zip(*((b.read, b.write) for b in blocks), strict=True))
    return Probe(seconds / read, (_stored_bytes(scratch) - before) / written, memory)


@dataclass(frozen=True)
class Trial:
    """What a verb took on a few blocks.

    Attributes
    ----------
    probes
        One per pass over the blocks.
    whole_bytes
        Memory that the whole volume will need at once, beside the blocks, such as a list of all objects.
    """

    probes: Sequence[Probe]
    whole_bytes: int = 0


def estimate_blocks(
    what: str,
    grid: BlockGrid,
    output: Path,
    attempt: Callable[[BlockGrid, Sequence[Block], Path], Trial],
    *,
    workers: int = 1,
    stored_once_more: float = 0.0,
) -> Estimate:
    """Measure on two blocks what a verb will take on this machine; nothing is left on disk.

    A small block comes first: its memory per voxel tells whether a block of full size may be tried at all.

    Parameters
    ----------
    what
        The input.
    grid
        The blocks.
    output
        On whose disk the scratch folder is made.
    attempt
        Runs all passes of the verb over some blocks of a grid, writing in a folder and nowhere else.
    workers
        Processes on this machine that will share the work.
    stored_once_more
        Share by which coarser levels add to what is stored.

    Raises
    ------
    InputError
        If it cannot fit into memory or onto the disk; a block that would fit is named.
    DiskError
        If nothing can be written beside the output.
    """
    blocks = probed_blocks(grid)
    largest = max(block.read.size for block in blocks)
    rest = free_memory()

    def smaller(share: float) -> Shape | None:
        block = smaller_block(grid, int(0.8 * share * largest))
        return None if block == grid.block else block

    def estimate(memory: int, seconds: float, disk: int) -> Estimate:
        return Estimate(
            what, len(grid), grid.block, grid.halo, workers, seconds, memory * workers, rest, None, None, disk,
            free_disk(output),
        )  # fmt: skip

    small = replace(grid, block=smaller_block(grid, _SMALL_VOXELS))
    if math.prod(small.block) < math.prod(grid.block):
        some = probed_blocks(small)
        with scratch_beside(output) as folder:
            attempt(small, some[:1], folder)  # libraries load
        return_freed_memory()
        before = psutil.Process().memory_info().rss
        with scratch_beside(output) as folder:
            peak = max(found.memory_bytes for found in attempt(small, some, folder).probes)
        share = max(0, peak - before) / max(block.read.size for block in some)
        check_fits(estimate(int(before + share * largest), 0.0, 0), smaller)
    return_freed_memory()
    with scratch_beside(output) as folder:
        tried = attempt(grid, blocks, folder)
    seconds = sum(found.seconds_per_voxel for found in tried.probes) * read_voxels(grid) / shared_by(workers)
    stored = sum(found.bytes_per_voxel for found in tried.probes) * math.prod(grid.shape) * (1 + stored_once_more)
    memory = max(found.memory_bytes for found in tried.probes)
    measured = estimate(memory, seconds, int(stored))
    check_fits(measured, smaller)
    if tried.whole_bytes > rest:
        raise InputError(
            f"the objects of {what} need about {_size(tried.whole_bytes)} of memory at once but {_size(rest)} are "
            "free; use a machine with more memory, or drop small objects"
        )
    return replace(measured, memory_bytes=max(measured.memory_bytes, tried.whole_bytes))


def smaller_block(grid: BlockGrid, voxels: int) -> Shape:
    """Halve the block of a grid, its longest extent first, until it reads so few voxels; in multiples of 32."""
    block = list(grid.block)

    def reads() -> int:
        extents = zip(block, grid.halo, grid.shape, strict=True)
        return math.prod(min(b + 2 * h, n) for b, h, n in extents)

    while reads() > voxels and max(block) > _SMALLEST_EXTENT:
        axis = block.index(max(block))
        half = -(-block[axis] // 2)
        block[axis] = max(_SMALLEST_EXTENT, -(-half // _SMALLEST_EXTENT) * _SMALLEST_EXTENT)
    return tuple(block)


def read_voxels(grid: BlockGrid) -> int:
    """Sum what all blocks read; the axes are independent, so that a terabyte takes no time."""
    total = 1
    for axis, count in enumerate(grid.counts):
        total *= sum(grid.at(tuple(i * (a == axis) for a in range(3))).read.shape[axis] for i in range(count))
    return total


def shared_by(workers: int) -> int:
    """Return among how many cores of this machine so many processes share their work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(workers, cores))


@contextmanager
def scratch_beside(output: Path) -> Iterator[Path]:
    """Make a folder on the disk of an output and remove it in the end.

    Raises
    ------
    DiskError
        If the disk refuses.
    """
    parent = existing_parent(output)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".fewslice-probe-", dir=parent))
    except OSError as error:
        raise disk_error(error, parent) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_fits(estimate: Estimate, smaller: Callable[[float], Shape | None]) -> None:
    """Refuse what cannot fit.

    Parameters
    ----------
    estimate
        What it will take.
    smaller
        Gives a block that needs at most this share of the memory, or None if there is none.

    Raises
    ------
    InputError
        If memory or disk are too small; a block that would fit is named.
    """
    pairs = [("memory", estimate.memory_bytes, estimate.memory_free_bytes)]
    if estimate.gpu_bytes is not None and estimate.gpu_free_bytes is not None:
        pairs.append(("GPU memory", estimate.gpu_bytes, estimate.gpu_free_bytes))
    for name, needed, free in pairs:
        if needed > free:
            block = smaller(free / needed)
            advice = f"use --block {','.join(map(str, block))}" if block else "use fewer workers or another machine"
            raise InputError(
                f"blocks of {_by(estimate.block)} voxels need about {_size(needed)} of {name} in "
                f"{estimate.workers} process{'es' * (estimate.workers > 1)} but {_size(free)} are free; {advice}"
            )
    if estimate.disk_bytes > estimate.disk_free_bytes:
        raise InputError(
            f"the output needs about {_size(estimate.disk_bytes)} but its disk has "
            f"{_size(estimate.disk_free_bytes)} free; free some space or choose another place"
        )


def return_freed_memory() -> None:
    """Give memory that this process has freed back to the system, where the C library can (glibc).

    Without it, what is measured next seems to cost nothing: it is served from memory that the process still holds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def peak_memory(every_seconds: float = 0.01) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the most memory (resident bytes) that this process has held since."""
    process, stop = psutil.Process(), threading.Event()
    most = [process.memory_info().rss]

    def watch() -> None:
        while not stop.wait(every_seconds):
            most[0] = max(most[0], process.memory_info().rss)

    def peak() -> int:
        most[0] = max(most[0], process.memory_info().rss)
        return most[0]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def free_memory() -> int:
    """Return the bytes that this process may hold, those it holds included; a limit set by the system counts."""
    own = psutil.Process().memory_info().rss
    free = int(psutil.virtual_memory().available) + own
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return free if text == "max" else min(free, int(text))


def free_disk(place: Path) -> int:
    """Return the free bytes of the disk that a path lies on or will lie on."""
    return shutil.disk_usage(existing_parent(place)).free


def existing_parent(place: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(folder for folder in place.absolute().parents if folder.is_dir())


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".done")


def _by(extents: Shape) -> str:
    return " × ".join(map(str, extents))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
