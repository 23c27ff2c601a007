"""Boxes and covers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewslice.errors import InputError
from fewslice.geometry import Block, Box, cover

sizes = st.tuples(*[st.integers(1, 20)] * 3)


def test_a_cover_worked_by_hand() -> None:
    """Ten voxels in blocks of four with halo two, aligned to two."""
    blocks = cover((10,), (4,), (3,), (2,))
    assert blocks == [
        Block((0,), Box((0,), (7,)), Box((0,), (4,)), Box((0,), (4,))),
        Block((1,), Box((0,), (10,)), Box((4,), (8,)), Box((4,), (8,))),
        Block((2,), Box((4,), (10,)), Box((8,), (10,)), Box((4,), (6,))),
    ]


@given(sizes, sizes, st.tuples(*[st.integers(0, 6)] * 3), st.tuples(*[st.sampled_from([1, 2, 4])] * 3))
def test_write_boxes_partition_and_reads_hold_the_halo(shape, block, halo, align) -> None:  # type: ignore[no-untyped-def]
    """Every voxel is written once, from a read that has its halo, starts aligned and stays inside."""
    written = np.zeros(shape, dtype=int)
    for b in cover(shape, block, halo, align):
        written[b.write.slices] += 1
        assert b.read.intersect(b.write.grow(halo).clip(shape)) == b.write.grow(halo).clip(shape)
        assert all(s % a == 0 for s, a in zip(b.read.start, align, strict=True))
        assert b.read.clip(shape) == b.read
        assert b.crop.shift(b.read.start) == b.write
    assert (written == 1).all()


@given(sizes, sizes, st.tuples(*[st.integers(0, 6)] * 3))
def test_cropped_reads_reassemble_the_array(shape, block, halo) -> None:  # type: ignore[no-untyped-def]
    """Reading, cropping and writing gives the array back."""
    array = np.arange(np.prod(shape)).reshape(shape)
    out = np.full(shape, -1)
    for b in cover(shape, block, halo):
        out[b.write.slices] = array[b.read.slices][b.crop.slices]
    np.testing.assert_array_equal(out, array)


@pytest.mark.parametrize(
    ("shape", "block", "halo"),
    [((4, 4), (2,), (0,)), ((0, 4), (2, 2), (0, 0)), ((4,), (0,), (0,)), ((4,), (2,), (-1,))],
)
def test_impossible_covers_are_refused(shape, block, halo) -> None:  # type: ignore[no-untyped-def]
    """One sentence names what does not fit."""
    with pytest.raises(InputError):
        cover(shape, block, halo)


def test_boxes_that_end_before_they_start_are_refused() -> None:
    """A negative extent is no box."""
    with pytest.raises(InputError, match="must not lie before"):
        Box((3,), (2,))
