"""Blocks are done once, marked after they are written, and failures do not stop the others."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fewslice.blocks.engine import BlockFailure, Opened, Work, run_blocks
from fewslice.blocks.plan import choose_block, choose_chunk
from fewslice.blocks.record import open_record
from fewslice.errors import InputError
from fewslice.geometry import Block, cover


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
