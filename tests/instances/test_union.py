"""Merging over passes is what a queue would do one pass at a time, also when part of it was done before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fewslice.instances.passes import REGION
from fewslice.instances.segmentation import merge_tables
from fewslice.instances.union import merge_shallow, name_objects, unite
from fewslice.segmenters import CONTACT, JOIN, Merging


def contacts(*rows: tuple[int, int, int]) -> np.ndarray:
    """Contacts (a, b, saddle), each at a place of its own."""
    return np.array([(a, b, i, s) for i, (a, b, s) in enumerate(rows)], dtype=CONTACT)


def test_the_example_of_the_module() -> None:
    peaks = np.array([10, 4, 9], np.int32)
    assert unite(peaks, contacts((0, 1, 3), (1, 2, 1)), Merging(2, 1.0)).tolist() == [0, 0, 1]


def test_joins_come_first_and_need_no_height() -> None:
    """0 and 2 are one mountain of peak 9 seen in two blocks; a pass at 8 is shallow for 1."""
    peaks = np.array([3, 9, 9], np.int32)
    assert unite(peaks, contacts((0, 2, JOIN), (0, 1, 3)), Merging(2, 1.0)).tolist() == [0, 1, 0]
    assert unite(peaks, contacts((0, 2, JOIN), (0, 1, 8)), Merging(2, 1.0)).tolist() == [0, 0, 0]
    assert unite(peaks, contacts((0, 2, JOIN), (0, 1, 8)), None).tolist() == [0, 1, 0]


def _one_by_one(peaks: np.ndarray, rows: np.ndarray, merging: Merging) -> list[int]:
    """Process passes from the highest to the lowest, as the definition says."""
    group, top = list(range(peaks.size)), [int(p) for p in peaks]
    for row in sorted(rows, key=lambda r: (-int(r["saddle"]), int(r["order"]))):
        a, b = group[row["a"]], group[row["b"]]
        low = np.array([min(top[a], top[b])], np.int32)
        if a != b and merging.shallow(low, np.array([row["saddle"]], np.int32))[0]:
            top[a] = max(top[a], top[b])
            group = [a if g == b else g for g in group]
    names: dict[int, int] = {}
    return [names.setdefault(g, len(names)) for g in group]


@st.composite
def landscapes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Merging]:
    count = draw(st.integers(2, 9))
    peaks = np.array(draw(st.lists(st.integers(-2, 12), min_size=count, max_size=count)), np.int32)
    pairs = [(a, b) for a in range(count) for b in range(a)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=len(pairs)))
    rows = [(a, b, draw(st.integers(-4, int(min(peaks[a], peaks[b]))))) for a, b in chosen]
    merging = Merging(draw(st.integers(0, 4)), draw(st.sampled_from([0.5, 0.8, 1.0])))
    return peaks, contacts(*rows), merging


@given(landscapes())
@settings(max_examples=300, deadline=None)
def test_all_at_once_is_one_by_one(landscape: tuple[np.ndarray, np.ndarray, Merging]) -> None:
    peaks, rows, merging = landscape
    assert merge_shallow(peaks, rows, merging).tolist() == _one_by_one(peaks, rows, merging)


@given(landscapes(), st.lists(st.booleans(), min_size=9, max_size=9))
@settings(max_examples=300, deadline=None)
def test_merging_closed_mountains_before_changes_nothing(
    landscape: tuple[np.ndarray, np.ndarray, Merging], seen: list[bool]
) -> None:
    """A block knows the passes whose both sides it sees; open mountains have others, and may be higher elsewhere."""
    peaks, rows, merging = landscape
    inside = np.array(seen[: peaks.size])
    known = inside[rows["a"]] & inside[rows["b"]]
    open_ = np.zeros(peaks.size, bool)
    open_[rows["a"][~known]] = open_[rows["b"][~known]] = True
    local = peaks.copy()
    local[open_] -= 1  # the summit lies in another block
    first = merge_shallow(local, rows[known], merging, open_=open_)
    top = np.full(first.max() + 1, -99, np.int32)
    np.maximum.at(top, first, peaks)
    then = merge_shallow(top, rows, merging, a=first[rows["a"]], b=first[rows["b"]])[first]
    assert then.tolist() == merge_shallow(peaks, rows, merging).tolist()


def test_small_objects_lose_their_names_and_the_others_have_no_gaps() -> None:
    names, count = name_objects(np.array([0, 1, 0, 2, 3]), np.array([3, 4, 2, 9, 5]), 5)
    assert names.tolist() == [1, 0, 1, 2, 3] and count == 3
    assert name_objects(np.zeros(0, np.int64), np.zeros(0, np.int64), 5)[1] == 0


def test_ids_beyond_32_bits() -> None:
    """Two regions in each of 70,000 blocks, the second of each joined with the first of the next."""
    blocks = 70_000
    tables = [np.array([(5, 0), (6, 0)], dtype=REGION)] * blocks
    ids = np.arange(blocks, dtype=np.int64) << 32
    links = [np.array([(a + 2, b + 1, 0, JOIN)], dtype=CONTACT) for a, b in pairwise(ids)]
    names, first, objects, dropped = merge_tables(tables, links, None, 6)
    assert objects == blocks and dropped == 1 and first[-1] == 2 * blocks  # the very first region is alone and small
    assert names[0] == 0 and (names[1:-1:2] == names[2::2]).all() and names[-1] == blocks
