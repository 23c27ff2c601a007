"""Workers give the same bytes as one process, and neither their deaths nor the scheduler's lose anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import pytest

from fewslice.blocks.cluster import ClusterError, Distributed, SlurmConfig, connect, job_script
from fewslice.blocks.engine import Retry, run_blocks
from fewslice.blocks.job import BlockFailure, Work
from fewslice.blocks.record import open_record
from fewslice.errors import DiskError, FewsliceError, InputError
from fewslice.geometry import Block, BlockGrid

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

PLAN = BlockGrid((24,), (2,), (1,), (1,))


@dataclass(frozen=True)
class Squares:
    """Write index² of each block; block 3 is special."""

    folder: Path
    deaths: int = 0
    trouble: str = ""
    slow_seconds: float = 0.0

    def open(self) -> Work:
        with (self.folder / "opened").open("a") as stream:
            stream.write(f"{os.getpid()}\n")

        def compute(block: Block, value: int) -> int:
            time.sleep(self.slow_seconds)
            if block.index == (3,):
                died = len(list(self.folder.glob("death*")))
                if died < self.deaths:
                    (self.folder / f"death{died}").touch()
                    os._exit(1)
                if self.trouble == "bad data":
                    raise BlockFailure("NaN")
                if self.trouble == "disk":
                    raise DiskError("the disk is full")
                if self.trouble == "replaced":
                    (self.folder / "marks" / "job.json").write_text('{"key": "another"}')
            return value**2

        def write(block: Block, value: int) -> dict[str, object]:
            (self.folder / f"{block.index[0]:03d}.txt").write_text(str(value))
            return {"checksums": {}, "value": value}

        return Work(lambda block: block.index[0], compute, write)


@pytest.fixture(scope="module")
def workers() -> Iterator[Distributed]:
    with connect(workers=2) as engine:
        yield engine


def results(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.txt"))}


def begun(folder: Path, **options: object) -> tuple[Squares, object]:
    folder.mkdir(exist_ok=True)
    return Squares(folder, **options), open_record(folder / "marks", "key", what="out")  # type: ignore[arg-type]


def test_two_workers_do_what_one_process_does(tmp_path: Path, workers: Distributed) -> None:
    """The same files and marks; the job is opened once per worker, not per block; progress counts every block once."""
    here, there = begun(tmp_path / "here"), begun(tmp_path / "there")
    told: list[tuple[int, int]] = []
    assert run_blocks(PLAN, here[1], here[0]).done == 12
    outcome = run_blocks(PLAN, there[1], there[0], engine=workers, progress=lambda *seen: told.append(seen))
    assert (outcome.done, outcome.skipped, outcome.failed) == (12, 0, ())
    assert results(tmp_path / "here") == results(tmp_path / "there")
    marks = [{p.name: p.read_text() for p in (tmp_path / n / "marks").iterdir()} for n in ("here", "there")]
    assert marks[0] == marks[1]
    opened = (tmp_path / "there" / "opened").read_text().split()
    assert len(opened) == len(set(opened)) <= 2 and str(os.getpid()) not in opened
    assert told == [(n, 12) for n in range(1, 13)]
    again = run_blocks(PLAN, there[1], there[0], engine=workers)
    assert (again.done, again.skipped) == (0, 12)


def test_no_more_blocks_are_in_flight_than_can_be_computed(tmp_path: Path, workers: Distributed) -> None:
    """A plan without end would otherwise fill the scheduler's memory."""
    job, record = begun(tmp_path / "a")
    taken: list[int] = []

    def watched() -> Iterator[Block]:
        for number, block in enumerate(PLAN):
            taken.append(number)
            yield block

    for finished, _ in enumerate(workers.outcomes(watched(), record, job, Retry()), start=1):  # type: ignore[arg-type]
        assert len(taken) <= finished + 2
    assert len(taken) == 12


def test_the_block_of_a_worker_that_died_is_done_by_another(tmp_path: Path, workers: Distributed) -> None:
    job, record = begun(tmp_path / "a", deaths=1)
    outcome = run_blocks(PLAN, record, job, engine=workers)  # type: ignore[arg-type]
    assert outcome.done == 12 and not outcome.failed
    assert results(tmp_path / "a")["003.txt"] == "9"


def test_a_block_that_kills_three_workers_is_recorded_and_the_others_are_done(
    tmp_path: Path, workers: Distributed
) -> None:
    job, record = begun(tmp_path / "a", deaths=99)
    outcome = run_blocks(PLAN, record, job, engine=workers)  # type: ignore[arg-type]
    assert [(b.index, reason) for b, reason in outcome.failed] == [((3,), "3 workers died while they computed it")]
    assert outcome.done == 11 and len(list((tmp_path / "a").glob("death*"))) == 3
    assert record.failures() == {(3,): "3 workers died while they computed it"}  # type: ignore[attr-defined]


def test_bad_data_fail_alone_and_a_full_disk_ends_the_run(tmp_path: Path, workers: Distributed) -> None:
    job, record = begun(tmp_path / "a", trouble="bad data")
    outcome = run_blocks(PLAN, record, job, engine=workers)  # type: ignore[arg-type]
    assert [(b.index, reason) for b, reason in outcome.failed] == [((3,), "NaN")] and outcome.done == 11
    job, record = begun(tmp_path / "b", trouble="disk")
    with pytest.raises(DiskError, match="disk is full"):
        run_blocks(PLAN, record, job, engine=workers)  # type: ignore[arg-type]
    job, record = begun(tmp_path / "b")
    outcome = run_blocks(PLAN, record, job, engine=workers)  # type: ignore[arg-type]
    assert outcome.skipped >= 1 and outcome.done + outcome.skipped == 12


def test_workers_that_outlive_their_run_write_nothing(tmp_path: Path, workers: Distributed) -> None:
    """The output was replaced while block 3 was computed."""
    job, record = begun(tmp_path / "a", trouble="replaced")
    with pytest.raises(FewsliceError, match="replaced by another run"):
        run_blocks(PLAN, record, job, engine=workers)  # type: ignore[arg-type]
    assert "003.txt" not in results(tmp_path / "a")


def test_a_scheduler_that_dies_is_one_sentence_and_the_run_resumes(tmp_path: Path) -> None:
    """Scheduler and worker are processes of their own, as on a cluster."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    scheduler = subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(file)], **quiet)  # type: ignore[call-overload]
    worker = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1",
         "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path)], **quiet,
    )  # type: ignore[call-overload]  # fmt: skip
    job, record = begun(tmp_path / "a", slow_seconds=0.1)
    try:
        limit = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < limit
            time.sleep(0.05)
        import json

        def kill(done: int, blocks: int) -> None:
            if done == 3:
                scheduler.kill()

        with (
            pytest.raises(ClusterError, match="no longer answers; what is done is kept"),
            connect(scheduler=json.loads(file.read_text())["address"]) as engine,
        ):
            run_blocks(PLAN, record, job, engine=engine, progress=kill)  # type: ignore[arg-type]
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    outcome = run_blocks(PLAN, record, job)  # type: ignore[arg-type]
    assert outcome.skipped >= 3 and outcome.done + outcome.skipped == 12
    assert len(results(tmp_path / "a")) == 12


def test_what_cannot_be_reached_or_started_is_refused() -> None:
    with (
        pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:1 does not answer"),
        connect(scheduler="tcp://127.0.0.1:1", patience_seconds=1.0),
    ):
        pass
    with pytest.raises(InputError, match="exceeds the 1 GPUs"), connect(workers=2, gpus=1):
        pass


def test_the_job_script_asks_slurm_for_one_thread_and_one_gpu() -> None:
    config = SlurmConfig(
        queue="gpu", account="lab", walltime="02:00:00", memory="24GB", cores=4, gpus=1,
        directives=("--constraint=a100",), prologue=("source /shared/venv/bin/activate",),
    )  # fmt: skip
    script = job_script(config).splitlines()
    for line in (
        "#SBATCH -p gpu",
        "#SBATCH -A lab",
        "#SBATCH -t 02:00:00",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --constraint=a100",
        "export OMP_NUM_THREADS=1",
        "source /shared/venv/bin/activate",
    ):
        assert line in script
    assert any("dask_worker" in line and "--nthreads 1" in line for line in script)
