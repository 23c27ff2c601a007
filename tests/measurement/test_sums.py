"""Sums per block: whole numbers that no cutting changes, also where they are large."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewslice.errors import InputError
from fewslice.geometry import cover
from fewslice.measurement import shapes, sums
from fewslice.measurement.sums import block_sums, check_bounds, exponent_for, merge

WEIGHTS = tuple(range(1, 14))


def in_blocks(labels: np.ndarray, block: tuple[int, ...], image: np.ndarray | None, exponent: int | None) -> np.ndarray:
    parts = []
    for one in reversed(cover(labels.shape, block, (0, 0, 0))):
        stop = np.minimum(np.add(one.write.stop, 1), labels.shape)
        read = labels[tuple(slice(a, b) for a, b in zip(one.write.start, stop, strict=True))]
        values = None if image is None else image[(slice(None), *one.write.slices)]
        parts.append(block_sums(read, one.write.shape, one.write.start, WEIGHTS, image=values, exponent=exponent))
    return merge(np.concatenate(parts))


@pytest.fixture(params=["fastremap", "numpy"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(sums, "fastremap", None)
    else:
        assert sums.fastremap is not None


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint16, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(0, 5)),
    st.tuples(*[st.integers(1, 7)] * 3),
    st.integers(0, 2**32),
)
def test_any_cutting_gives_the_same_bytes(labels: np.ndarray, block: tuple[int, int, int], seed: int) -> None:
    image = np.random.default_rng(seed).standard_normal((2, *labels.shape)).astype(np.float32)
    exponent = exponent_for(float(np.abs(image).max()))
    whole = in_blocks(labels, labels.shape, image, exponent)
    assert in_blocks(labels, block, image, exponent).tobytes() == whole.tobytes()
    assert whole["voxels"].sum() == np.count_nonzero(labels)
    assert whole["id"].tolist() == np.unique(labels[labels > 0]).tolist()


def test_both_libraries_number_the_same(library: None) -> None:
    labels = np.array([[[2**40 + 3, 0, 7, 7]], [[7, 7, 0, 2**63 + 1]]], np.uint64)
    table = block_sums(labels, labels.shape, (0, 0, 0), WEIGHTS)
    assert table["id"].tolist() == [7, 2**40 + 3, 2**63 + 1]
    assert table["voxels"].tolist() == [4, 1, 1]
    full = np.full((1, 1, 3), 5, np.uint8)  # without background
    assert block_sums(full, full.shape, (0, 0, 0), WEIGHTS)["id"].tolist() == [5]


def test_moments_by_hand() -> None:
    labels = np.zeros((2, 2, 4), np.uint8)
    labels[1, 0, 1:4] = 1
    table = block_sums(labels, labels.shape, (10, 20, 30), WEIGHTS)[0]
    z, y, x = 11, 20, np.array([31, 32, 33])
    assert table["first"].tolist() == [3 * z, 3 * y, x.sum()]
    expected = [3 * z * z, 3 * y * y, (x * x).sum(), 3 * z * y, z * x.sum(), y * x.sum()]
    assert (table["second"][:, 0] * 2**32 + table["second"][:, 1]).tolist() == expected
    assert (table["low"].tolist(), table["high"].tolist()) == ([11, 20, 31], [12, 21, 34])


def test_moments_far_from_the_origin_lose_no_digit() -> None:
    labels = np.random.default_rng(0).random((5, 6, 7)) < 0.5
    near = block_sums(labels.astype(np.uint8), labels.shape, (0, 0, 0), WEIGHTS)
    far = block_sums(labels.astype(np.uint8), labels.shape, (200_000, 250_000, 260_000), WEIGHTS)
    assert shapes.central_moments(far).tolist() == shapes.central_moments(near).tolist()


def test_a_terabyte_of_one_object() -> None:
    """A box of 10**4 voxels along each axis: second moments of 3e19 do not fit 64 bits."""
    n = 10_000
    table = sums.empty_sums(rows=1)
    table["id"], table["voxels"], table["high"] = 1, n**3, n
    table["first"] = n**3 * (n - 1) // 2
    for k, (a, b) in enumerate(sums.PRODUCTS):
        moment = n**3 * (n - 1) * (2 * n - 1) // 6 if a == b else n * (n * (n - 1) // 2) ** 2
        table["second"][0, k] = divmod(moment, 2**32)
    assert n**3 * (n - 1) * (2 * n - 1) // 6 > 2**63
    expected = (n * n - 1) / 12
    assert shapes.central_moments(table)[0] == pytest.approx([expected] * 3 + [0] * 3, rel=1e-6, abs=1e-2)


def test_carry_between_the_halves() -> None:
    rows = sums.empty_sums(channels=1, rows=3)
    rows["id"], rows["voxels"] = 1, 1
    rows["values"][:, 0] = [0, 2**32 - 1]
    table = merge(rows)
    assert table["values"].tolist() == [[[2, 2**32 - 3]]]
    assert sums.whole(table["values"])[0, 0] == 3 * (2**32 - 1)


def test_negative_values_keep_their_sign() -> None:
    labels = np.ones((1, 1, 4), np.uint8)
    image = np.array([-5, -7, 2, 1], np.int16).reshape(1, 1, 1, 4)
    table = block_sums(labels, labels.shape, (0, 0, 0), WEIGHTS, image=image)
    assert (sums.whole(table["values"])[0, 0], table["least"][0, 0], table["most"][0, 0]) == (-9, -7, 2)


def test_negative_labels_are_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        block_sums(np.array([[[-1, 2]]], np.int32), (1, 1, 2), (0, 0, 0), WEIGHTS)


def test_bounds() -> None:
    check_bounds((2**18, 2**18, 2**18), (255, 511, 255))
    with pytest.raises(InputError, match="--block"):
        check_bounds((2**22, 100, 100), (2**20, 50, 50))
    with pytest.raises(InputError, match="--block"):
        check_bounds((1000, 1000, 1000), (500, 500, 500))


def test_exponent_fits_thirty_one_bits() -> None:
    for largest in (1e-30, 0.3, 1.0, 255.0, 3e38):
        assert 2**28 <= np.ldexp(largest, exponent_for(largest)) <= 2**31
    assert exponent_for(0.0) == 0
