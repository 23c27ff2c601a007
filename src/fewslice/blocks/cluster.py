"""Run a job in other processes, of this machine or of a cluster, through Dask.

1. :func:`connect` starts workers here, joins a scheduler, or asks SLURM for workers; one thread per process.
2. :class:`Distributed` is the engine: one task per block, never more of them in flight than there are workers.
3. :func:`run_block` is the task: the worker that computed a block writes and marks it, so nothing large travels.

A worker that dies costs its block one attempt. When a worker has died thrice with a block, the last time with nothing
else in flight, the block is to blame and recorded as failed.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from fewslice.blocks.engine import Retry, attempt
from fewslice.blocks.job import BlockFailure, Job, Work
from fewslice.blocks.record import Record
from fewslice.errors import FewsliceError, InputError
from fewslice.geometry import Block

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["ClusterError", "Distributed", "SlurmConfig", "connect", "job_script", "run_block"]

_DEATHS = 3
_SEEN_WITHIN_SECONDS = 60.0
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
_QUIET = {
    "logging.distributed": "critical",
    "distributed.logging.distributed": "critical",
    "distributed.scheduler.allowed-failures": 0,  # deaths are counted here
    "distributed.admin.low-level-log-length": 0,
    "distributed.worker.daemon": True,
}


class ClusterError(FewsliceError):
    """The scheduler or the workers are gone; what is done is kept."""


class SlurmConfig(BaseModel):
    """How workers are asked for from SLURM; each is one job with one process.

    Attributes
    ----------
    queue, account
        Partition and account; the cluster's defaults when None.
    walltime
        Longest time of a job, hours:minutes:seconds. A job that ends is replaced, and its block done again.
    memory
        Of a job, such as ``16GB``; see what ``--dry-run`` says.
    cores
        Of a job. The worker computes with one thread; reading and compression use others.
    gpus
        Of a job: 0, or 1 with ``--device cuda``.
    directives
        Further ``#SBATCH`` options, such as ``--constraint=avx512``.
    prologue
        Lines of shell before the worker starts, such as ``source .venv/bin/activate``.
    interface
        Network interface by which workers reach the scheduler, such as ``ib0``.
    log_folder
        Where SLURM puts what workers say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: str | None = None
    account: str | None = None
    walltime: str = Field("04:00:00", pattern=r"^(\d+-)?\d+:\d\d(:\d\d)?$")
    memory: str = "16GB"
    cores: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0, le=1)
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str | None = None
    log_folder: str | None = None


@dataclass(frozen=True)
class Distributed:
    """Compute on the workers of a Dask client.

    Attributes
    ----------
    client
        Connected.
    """

    client: Client

    def outcomes(
        self, blocks: Iterable[Block], record: Record, job: Job, retry: Retry
    ) -> Generator[tuple[Block, str | None], None, None]:
        """Yield each block once it is written and marked; see :class:`fewslice.blocks.engine.Engine`."""
        from distributed import KilledWorker, as_completed

        waiting: Iterator[Block] = iter(blocks)
        again: deque[Block] = deque()  # a worker died with them
        suspects: deque[Block] = deque()  # twice: they are done last, one at a time
        deaths: Counter[tuple[int, ...]] = Counter()
        running: dict[str, Block] = {}
        completed = as_completed(loop=self.client.loop)
        name, number, seen = f"fewslice-{uuid.uuid4().hex[:8]}", itertools.count(), False

        def submit(block: Block) -> None:
            key = f"{name}-{next(number)}"
            running[key] = block
            completed.add(self.client.submit(run_block, job, record, block, retry, key=key, pure=False))

        def refill() -> None:
            room = self._threads() - len(running)
            for block in itertools.islice(itertools.chain(_emptied(again), waiting), max(0, room)):
                submit(block)
            if suspects and not running:
                submit(suspects.popleft())

        try:
            refill()
            for future in completed:
                block = running.pop(future.key)
                try:
                    reason: str | None = _result(future)
                except KilledWorker:
                    deaths[block.index] += 1
                    reason = f"{_DEATHS} workers died while they computed it"
                    if deaths[block.index] < _DEATHS:
                        (again if deaths[block.index] < _DEATHS - 1 else suspects).append(block)
                        refill()
                        continue
                if reason is None and not seen:
                    _wait_until_seen(record, block)
                    seen = True
                refill()
                yield block, reason
        finally:
            completed.clear()
            for key in running:
                self.client.cancel(key, force=True) if self.client.status == "running" else None

    def _threads(self) -> int:
        """Return how many blocks can be computed at once now; workers come and go."""
        try:
            threads: dict[str, int] = self.client.nthreads()
            return max(1, sum(threads.values()))
        except (OSError, TypeError) as error:
            raise _gone() from error


def run_block(job: Job, record: Record, block: Block, retry: Retry) -> str | None:
    """Do one block in this process; return None, or the reason why it cannot be done."""
    work = _opened(job)
    try:
        result = attempt(work, block, lambda: work.read(block), retry)
    except BlockFailure as failure:
        return str(failure)
    record.check_current()
    record.mark(block, work.write(block, result))
    return None


@lru_cache(maxsize=1)
def _opened(job: Job) -> Work:
    """Open a job once per process."""
    return job.open()


def _emptied(blocks: deque[Block]) -> Iterator[Block]:
    while blocks:
        yield blocks.popleft()


def _result(future: Future[str | None]) -> str | None:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        reason: str | None = future.result()
        return reason
    except (FewsliceError, KilledWorker):
        raise
    except ModuleNotFoundError as error:
        raise ClusterError(f"a worker cannot import {error.name}; install fewslice where the workers run") from error
    except (CancelledError, OSError) as error:
        raise _gone() from error


def _gone() -> ClusterError:
    return ClusterError("the Dask scheduler no longer answers; what is done is kept, and the same command resumes")


def _wait_until_seen(record: Record, block: Block) -> None:
    """Make sure that workers write where this process reads; a network file system may take a while to show it."""
    limit = time.monotonic() + _SEEN_WITHIN_SECONDS
    while block.index not in record.done():
        if time.monotonic() > limit:
            raise ClusterError(
                f"a worker has written block {block.index} but {record.folder} does not show it; "
                "put the output on a file system that all workers share"
            )
        time.sleep(0.2)


# --- where workers come from ---------------------------------------------------------------------------------------


@contextmanager
def connect(
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: SlurmConfig | None = None,
    gpus: int = 0,
    patience_seconds: float = 15.0,
) -> Iterator[Distributed]:
    """Start or join workers for the duration.

    Parameters
    ----------
    workers
        Processes to start: on this machine, or as SLURM jobs.
    scheduler
        Address of a running Dask scheduler, ``tcp://host:port``, whose workers are used instead.
    slurm
        Start them through SLURM.
    gpus
        GPUs of this machine, each of which gets one local worker; 0 to compute on processors.
    patience_seconds
        How long a scheduler may take to answer.

    Raises
    ------
    InputError
        If Dask is not installed, the scheduler does not answer, or the machine has fewer GPUs than workers.
    ClusterError
        If no worker comes.
    """
    try:
        import dask
        from distributed import Client
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'fewslice[cluster]'") from error

    with dask.config.set(_QUIET):
        _silence()
        with _workers(workers, scheduler, slurm, gpus) as address:
            try:
                client = Client(address, timeout=patience_seconds, set_as_default=False)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"the Dask scheduler at {scheduler or 'this machine'} does not answer; check the address"
                ) from error
            try:
                _wait_for_a_worker(client, patient=slurm is not None)
                yield Distributed(client)
            finally:
                client.close(timeout=5)


def job_script(slurm: SlurmConfig) -> str:
    """Return the script by which each worker is asked for from SLURM, without asking.

    Raises
    ------
    InputError
        If dask-jobqueue is not installed.
    """
    from dask_jobqueue.slurm import SLURMJob

    script: str = SLURMJob(scheduler="tcp://SCHEDULER", name="fewslice", **_slurm_options(slurm)).job_script()
    return script


def _slurm_options(slurm: SlurmConfig) -> dict[str, Any]:
    extra = list(slurm.directives) + ([f"--gres=gpu:{slurm.gpus}"] if slurm.gpus else [])
    return {
        "queue": slurm.queue,
        "account": slurm.account,
        "walltime": slurm.walltime,
        "memory": slurm.memory,
        "cores": 1,  # threads of the worker
        "processes": 1,
        "job_cpu": slurm.cores,
        "job_extra_directives": extra,
        "job_script_prologue": [*(f"export {k}={v}" for k, v in _ONE_THREAD.items()), *slurm.prologue],
        "interface": slurm.interface,
        "log_directory": slurm.log_folder,
        "job_name": "fewslice",
        "python": sys.executable,
    }


@contextmanager
def _workers(workers: int | None, scheduler: str | None, slurm: SlurmConfig | None, gpus: int) -> Iterator[Any]:
    """Yield what a client connects to."""
    if scheduler is not None:
        yield scheduler
    elif slurm is not None:
        try:
            from dask_jobqueue.slurm import SLURMCluster
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is not installed; pip install 'fewslice[cluster]'") from error
        with SLURMCluster(**_slurm_options(slurm), silence_logs=50) as cluster:
            cluster.scale(jobs=workers or 1)
            yield cluster
    else:
        with _local(workers or 1, gpus) as cluster:
            yield cluster


def _local(workers: int, gpus: int) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster

    if gpus and workers > gpus:
        raise InputError(f"--workers {workers} exceeds the {gpus} GPUs of this machine; each worker needs its own")
    shown = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    names = shown or [str(i) for i in range(gpus)]
    local = {"host": "127.0.0.1", "dashboard_address": None}
    specs = {}
    for index in range(workers):
        environment = {**_ONE_THREAD, **({"CUDA_VISIBLE_DEVICES": names[index]} if gpus else {})}
        options = {**local, "nthreads": 1, "memory_limit": 0, "env": environment, "silence_logs": 50}
        specs[index] = {"cls": Nanny, "options": options}
    scheduler = {**local, "dashboard_address": "127.0.0.1:0"}  # any port: others may run here as well
    return SpecCluster(workers=specs, scheduler={"cls": Scheduler, "options": scheduler}, silence_logs=50)


def _wait_for_a_worker(client: Client, *, patient: bool) -> None:
    try:
        client.wait_for_workers(1, timeout=None if patient else 60)
    except TimeoutError as error:
        raise ClusterError("the Dask scheduler has no workers; start some, then run the same command again") from error


def _silence() -> None:
    """Keep Dask's own log out of what the user reads; errors come as exceptions."""
    import logging

    for name in ("distributed", "bokeh", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
