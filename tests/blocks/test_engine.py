"""Blocks are done once, marked after they are written, and failures do not stop the others."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice.blocks.engine import BlockFailure, Opened, Retry, Work, run_blocks
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.record import open_record
from fewslice.errors import DiskError, InputError
from fewslice.geometry import Block, BlockGrid, Shape, cover


def _double(folder: Path, source: np.ndarray, target: np.ndarray, bad: tuple[int, ...] = ()):  # type: ignore[no-untyped-def]
    calls: list[tuple[int, ...]] = []

    def compute(block: Block, values: np.ndarray) -> np.ndarray:
        calls.append(block.index)
        if block.index == bad:
            raise BlockFailure("no good")
        return 2 * values[block.crop.slices]

    def write(block: Block, values: np.ndarray) -> None:
        target[block.write.slices] = values

    record = open_record(folder, "key", what="out")
    job = Opened(Work(lambda b: source[b.read.slices], compute, write))
    outcome = run_blocks(cover(source.shape, (3, 3), (1, 1)), record, job)
    return outcome, calls, record


def test_every_block_is_done_once_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    """The result is right, and marked blocks are skipped."""
    source, target = np.arange(42).reshape(7, 6), np.zeros((7, 6), int)
    outcome, calls, _ = _double(tmp_path, source, target)
    np.testing.assert_array_equal(target, 2 * source)
    assert (outcome.done, outcome.skipped, len(calls)) == (6, 0, 6)
    target[:] = 0
    outcome, calls, _ = _double(tmp_path, source, target)
    assert (outcome.done, outcome.skipped, calls) == (0, 6, [])
    assert not target.any()


def test_a_failing_block_is_recorded_and_tried_again(tmp_path: Path) -> None:
    """The other blocks are done; the next run does only the one that failed."""
    source, target = np.arange(42).reshape(7, 6), np.zeros((7, 6), int)
    outcome, _, _ = _double(tmp_path, source, target, bad=(1, 1))
    assert [(b.index, why) for b, why in outcome.failed] == [((1, 1), "no good")]
    assert not target[3:6, 3:6].any() and outcome.done == 5
    outcome, calls, _ = _double(tmp_path, source, target)
    assert calls == [(1, 1)] and not outcome.failed
    np.testing.assert_array_equal(target, 2 * source)


def test_a_write_that_breaks_leaves_the_block_unmarked(tmp_path: Path) -> None:
    """What was not written is not marked, so a resumed run writes it."""
    record = open_record(tmp_path, "key", what="out")
    blocks = cover((4,), (2,), (0,))

    def write(block: Block, values: int) -> None:
        if block.index == (1,):
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        run_blocks(blocks, record, Opened(Work(lambda b: 0, lambda b, v: v, write)))
    assert record.is_done(blocks[0]) and not record.is_done(blocks[1])


def test_another_job_in_the_same_place_is_refused(tmp_path: Path) -> None:
    """A record is bound to its key."""
    open_record(tmp_path, "one", what="out")
    with pytest.raises(InputError, match="another image, model or settings"):
        open_record(tmp_path, "two", what="out")


def test_the_chosen_block_is_whole_chunks_within_the_budget() -> None:
    """Columns over all of z read 100 · 544² voxels, whole planes 148 · 512²: columns waste less."""
    chunk = choose_chunk((100, 512, 512))
    assert chunk == (32, 256, 256)
    block = choose_block((100, 512, 512), (8, 16, 16), chunk, 48 * 512 * 512)
    assert block == (100, 256, 256)
    assert choose_block((100, 512, 512), (8, 16, 16), chunk, 1) == chunk
    assert choose_block((5, 100, 100), (0, 16, 16), (5, 100, 100), 1) == (5, 100, 100)


def test_the_block_of_a_huge_volume_is_found_at_once() -> None:
    """Thirteen terabytes; only blocks within the budget are weighed against each other."""
    began = time.perf_counter()
    block = choose_block((8000, 40000, 40000), (8, 16, 16), (32, 256, 256), 3 * 2**22)
    assert block == (128, 256, 256) and time.perf_counter() - began < 1


def test_the_block_of_thin_chunks_is_found_at_once() -> None:
    began = time.perf_counter()
    assert choose_block((2000, 20000, 20000), (8, 44, 44), (1, 32, 32), 1 << 24)
    assert choose_block((100000, 20000, 20000), (1, 1, 1), (1, 1, 1), 1 << 24)
    assert time.perf_counter() - began < 5


@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.integers(0, 5)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.integers(1, 30000),
)
@settings(max_examples=200, deadline=None)
def test_the_chosen_block_is_the_best_of_all(shape: Shape, halo: Shape, chunk: Shape, limit: int) -> None:
    """Against trying every multiple of the chunk."""
    chunk = tuple(min(c, s) for c, s in zip(chunk, shape, strict=True))

    def read(block: Shape) -> tuple[int, int]:
        at_once = [min(b + 2 * m, s) for b, m, s in zip(block, halo, shape, strict=True)]
        in_all = [s + 2 * m * (-(-s // b) - 1) for b, m, s in zip(block, halo, shape, strict=True)]
        return math.prod(in_all), math.prod(at_once)

    sizes = [range(c, s + c, c) for c, s in zip(chunk, shape, strict=True)]
    fitting = [b for b in itertools.product(*sizes) if b == chunk or read(b)[1] <= limit]
    expected = min(fitting, key=lambda b: read(b)[0])
    assert choose_block(shape, halo, chunk, limit) == tuple(min(b, s) for b, s in zip(expected, shape, strict=True))


class _Flaky:
    """Raise an error the first `times` times that a block is computed."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left, self.reads, self.written = error, times, 0, []

    def open(self) -> Work:
        def read(block: Block) -> int:
            self.reads += 1
            return block.index[0]

        def compute(block: Block, value: int) -> int:
            if block.index == (1,) and self.left:
                self.left -= 1
                raise self.error
            return value

        return Work(read, compute, lambda block, value: self.written.append(value))


@pytest.mark.parametrize(
    ("error", "times", "again", "failed"),
    [
        (OSError("stale file handle"), 2, 2, None),
        (OSError("stale file handle"), 3, 2, "OSError: stale file handle"),
        (RuntimeError("device lost"), 1, 0, "RuntimeError: device lost"),
        (BlockFailure("no answer", may_pass=True), 1, 2, None),
        (BlockFailure("NaN"), 1, 2, "NaN"),
    ],
)
def test_what_may_pass_is_tried_again_and_bad_data_are_not(
    tmp_path: Path, error: Exception, times: int, again: int, failed: str | None
) -> None:
    """A block is read anew for each attempt; the others are read once."""
    job, record = _Flaky(error, times), open_record(tmp_path, "key", what="out")
    outcome = run_blocks(cover((6,), (2,), (0,)), record, job, retry=Retry(again, 0.0))
    assert [reason for _, reason in outcome.failed] == ([failed] if failed else [])
    assert job.written == ([0, 2] if failed else [0, 1, 2])
    attempts = 1 if isinstance(error, BlockFailure) and not error.may_pass else min(times + 1, again + 1)
    assert job.reads == 2 + attempts
    assert (tmp_path / "1.failed").exists() == bool(failed)


@pytest.mark.parametrize("error", [TypeError("a bug"), MemoryError(), DiskError("the disk is full")])
def test_bugs_and_full_disks_end_the_run(tmp_path: Path, error: Exception) -> None:
    """They would meet every other block as well; what was done is marked."""
    job, record = _Flaky(error, 9), open_record(tmp_path, "key", what="out")
    with pytest.raises(type(error)):
        run_blocks(cover((6,), (2,), (0,)), record, job)
    assert record.done() == {(0,)}


def test_a_finished_record_keeps_what_the_marks_said_and_can_be_reopened(tmp_path: Path) -> None:
    """Marks become lines in grid order, 10 after 9; taking one back makes the job go on with that block alone."""
    blocks = cover((24,), (2,), (0,))
    record = open_record(tmp_path, "key", what="out")
    job = Opened(Work(lambda b: b.index[0], lambda b, v: v, lambda b, v: {"value": v}))
    run_blocks(list(reversed(blocks)), record, job)
    record.finish()
    assert record.finished and sorted(p.name for p in tmp_path.iterdir()) == ["job.json", "written.jsonl"]
    assert [(m.index, m.write, m.note) for m in record.marks()] == [
        (b.index, b.write, {"value": b.index[0]}) for b in blocks
    ]
    record.unmark({(4,)})
    assert not record.finished
    outcome = run_blocks(blocks, record, job)
    assert (outcome.done, outcome.skipped) == (1, 11)


def test_a_plan_of_half_a_million_blocks_takes_no_memory() -> None:
    """A terabyte in blocks of 2²¹ voxels; blocks are made when they are looked at."""
    plan = BlockGrid((8192, 11585, 11585), (32, 256, 256), (8, 16, 16), (1, 1, 1))
    tracemalloc.start()
    first = next(iter(plan))
    assert len(plan) == 256 * 46 * 46 and first == cover((64, 512, 512), (32, 256, 256), (8, 16, 16))[0]
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("block", "shard", "message"),
    [
        ((32, 256, 256), (64, 256, 256), "whole shards"),
        (None, (48, 256, 256), "whole chunks"),
    ],
)
def test_blocks_that_would_share_a_shard_are_refused(
    block: tuple[int, ...] | None, shard: tuple[int, ...], message: str
) -> None:
    """Two writers of one shard destroy each other's chunks."""
    with pytest.raises(InputError, match=message):
        choose_chunk((128, 512, 512), block, shard)


def test_the_chosen_block_consists_of_whole_shards() -> None:
    assert choose_chunk((128, 512, 512), None, (64, 512, 512)) == (32, 256, 256)
    assert choose_block((128, 512, 512), (8, 16, 16), (64, 512, 512), 1) == (64, 512, 512)
