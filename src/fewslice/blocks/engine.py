"""Run a job over blocks: what is done is skipped, what fails is recorded, what may pass is tried again.

1. :func:`run_blocks` does the bookkeeping, whatever computes.
2. An :class:`Engine` computes: :class:`InProcess` here, :class:`fewslice.blocks.cluster.Distributed` elsewhere.
3. :func:`attempt` is one block in either: read, compute, and again where that may help.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from fewslice.blocks.job import BlockFailure, Job, Opened, Plan, Work
from fewslice.blocks.record import Record
from fewslice.errors import FewsliceError
from fewslice.geometry import Block

__all__ = ["BlockFailure", "Engine", "InProcess", "Opened", "Outcome", "Retry", "Work", "attempt", "run_blocks"]

_PASSING = (OSError, RuntimeError)
"""What a disk, a network or a device raises when it is in trouble; other exceptions are bugs and end the run."""


@dataclass(frozen=True)
class Retry:
    """How often a block is tried again after an error that may pass.

    Attributes
    ----------
    again
        Further attempts.
    wait_seconds
        Before the first of them; twice as long before every other.
    """

    again: int = 2
    wait_seconds: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of the blocks.

    Attributes
    ----------
    done, skipped, failed
        Number of blocks computed now, found done already, and failed with their reasons.
    """

    done: int
    skipped: int
    failed: tuple[tuple[Block, str], ...]


class Engine(Protocol):
    """Where blocks are computed."""

    def outcomes(
        self, blocks: Iterable[Block], record: Record, job: Job, retry: Retry
    ) -> Generator[tuple[Block, str | None], None, None]:
        """Yield each block once it is written and marked, with None, or with the reason why it cannot be done.

        Whoever computed a block writes and marks it. Errors that concern all blocks, such as a full disk, are raised.
        """
        ...


def run_blocks(
    blocks: Plan,
    record: Record,
    job: Job,
    *,
    engine: Engine | None = None,
    retry: Retry | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Do every block that is not done yet.

    Parameters
    ----------
    blocks
        The plan.
    record
        Says what is done, and is told.
    job
        The work.
    engine
        Where it is done; in this process by default.
    retry
        How often a block is tried again.
    progress
        Called with (blocks finished, blocks in all).

    Raises
    ------
    DiskError
        If a result cannot be stored.
    """
    before = record.done()
    waiting = (block for block in blocks if block.index not in before)
    total, skipped = len(blocks), len(before)
    failed: list[tuple[Block, str]] = []
    done = 0
    with closing((engine or InProcess()).outcomes(waiting, record, job, retry or Retry())) as outcomes:
        for block, reason in outcomes:
            if reason is None:
                done += 1
            else:
                record.fail(block, reason)
                failed.append((block, reason))
            if progress is not None:
                progress(skipped + done + len(failed), total)
    failed.sort(key=lambda item: item[0].index)
    return Outcome(done, skipped, tuple(failed))


@dataclass(frozen=True)
class InProcess:
    """Compute in this thread, while the next block is read and the last one written: three blocks are in memory."""

    def outcomes(
        self, blocks: Iterable[Block], record: Record, job: Job, retry: Retry
    ) -> Generator[tuple[Block, str | None], None, None]:
        """Yield each block once it is written and marked; see :class:`Engine`."""
        work = job.open()

        def store(block: Block, result: Any) -> None:
            record.mark(block, work.write(block, result))

        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            behind: tuple[Block, Future[None]] | None = None
            for block, loading in _ahead(blocks, reader, work.read):
                try:
                    result = attempt(work, block, loading.result, retry)
                except BlockFailure as failure:
                    yield block, str(failure)
                    continue
                if behind is not None:
                    behind[1].result()
                previous, behind = behind, (block, writer.submit(store, block, result))
                if previous is not None:
                    yield previous[0], None
            if behind is not None:
                behind[1].result()
                yield behind[0], None


def attempt(work: Work, block: Block, first: Callable[[], Any], retry: Retry) -> Any:
    """Read and compute one block, again where that may help.

    Parameters
    ----------
    work
        The work.
    block
        The block.
    first
        Gives what was read, the first time.
    retry
        How often to try again.

    Raises
    ------
    BlockFailure
        If the data are bad, or the last attempt failed as well.
    """
    wait = retry.wait_seconds
    for further in range(retry.again, -1, -1):
        try:
            return work.compute(block, first())
        except BlockFailure as failure:
            if not (failure.may_pass and further):
                raise
        except _PASSING as error:
            if isinstance(error, FewsliceError):
                raise
            if not further:
                raise BlockFailure(_reason(error)) from error
        time.sleep(wait)
        wait *= 2

        def first() -> Any:
            return work.read(block)

    raise AssertionError("the last attempt returns or raises")


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _ahead(
    blocks: Iterable[Block], pool: ThreadPoolExecutor, read: Callable[[Block], Any]
) -> Iterator[tuple[Block, Future[Any]]]:
    upcoming: tuple[Block, Future[Any]] | None = None
    for block in blocks:
        current, upcoming = upcoming, (block, pool.submit(read, block))
        if current is not None:
            yield current
    if upcoming is not None:
        yield upcoming
