"""Run a function over blocks in this process: the next block is read and the last one written meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from fewslice.blocks.record import Record
from fewslice.geometry import Block

__all__ = ["BlockFailure", "Outcome", "run_blocks"]

Read = TypeVar("Read")
Result = TypeVar("Result")


class BlockFailure(Exception):
    """A block cannot be computed; the reason is its message and the others go on."""


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


def run_blocks(
    blocks: Sequence[Block],
    record: Record,
    *,
    read: Callable[[Block], Read],
    compute: Callable[[Block, Read], Result],
    write: Callable[[Block, Result], None],
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Read, compute and write every block that is not done yet.

    Parameters
    ----------
    blocks
        The plan.
    record
        Marks blocks as done after their result is on disk.
    read, compute, write
        The work. `compute` runs in this thread; `read` and `write` beside it, one block each, so at most three
        blocks are in memory.
    progress
        Called with (blocks finished, blocks in all).

    Raises
    ------
    DiskError
        If a result cannot be stored.
    """
    waiting = [block for block in blocks if not record.is_done(block)]
    skipped = len(blocks) - len(waiting)
    failed: list[tuple[Block, str]] = []
    done = 0

    def store(block: Block, result: Result) -> None:
        write(block, result)
        record.mark(block)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for block, loading in _ahead(waiting, reader, read):
            try:
                result = compute(block, loading.result())
            except BlockFailure as failure:
                record.fail(block, str(failure))
                failed.append((block, str(failure)))
                continue
            if written is not None:
                written.result()
            written = writer.submit(store, block, result)
            done += 1
            if progress is not None:
                progress(skipped + done + len(failed), len(blocks))
        if written is not None:
            written.result()
    return Outcome(done, skipped, tuple(failed))


def _ahead(
    blocks: Sequence[Block], pool: ThreadPoolExecutor, read: Callable[[Block], Read]
) -> Iterator[tuple[Block, Future[Read]]]:
    upcoming: Future[Read] | None = pool.submit(read, blocks[0]) if blocks else None
    for index, block in enumerate(blocks):
        current = upcoming
        upcoming = pool.submit(read, blocks[index + 1]) if index + 1 < len(blocks) else None
        assert current is not None
        yield block, current
