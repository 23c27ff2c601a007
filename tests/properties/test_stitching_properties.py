"""Stitched blocks are the whole, up to names, for volumes and blocks of all kinds; in memory, without files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fewslice.geometry import cover
from fewslice.instances.passes import _contracted
from fewslice.instances.union import unite
from fewslice.segmenters import Output, Place, connected_components, watershed

OUTPUTS = (Output("foreground", "probability"),)


def stitched(kind: Any, config: Any, values: np.ndarray, block: tuple[int, int, int], voxel: Any) -> np.ndarray:
    """Label blocks, contract them, look contacts up, unite: the four passes."""
    shape = values.shape[1:]
    merging = kind.merging(config, voxel)
    regions = np.zeros(shape, np.int64)
    contacts, peaks, first = [], [], 0
    for item in cover(shape, block, kind.halo(config, voxel)):
        found = kind.label(config, values[(slice(None), *item.read.slices)], Place(item, shape, voxel, OUTPUTS, 0.5))
        if merging is not None:
            found = _contracted(found, merging, item.write, shape)
        regions[item.write.slices] = np.where(found.labels > 0, found.labels + np.int64(first), 0)
        rows = found.contacts.copy()
        rows["a"] += first
        rows["b"][rows["b"] > 0] += first
        contacts.append(rows)
        peaks.append(found.peaks)
        first += found.peaks.size
    rows = np.concatenate(contacts)
    outside = rows["b"] < 0
    rows["b"][outside] = regions.ravel()[-1 - rows["b"][outside]]
    assert (rows["b"] > 0).all(), "a region goes on in the background"
    rows["a"] -= 1
    rows["b"] -= 1
    names = unite(np.concatenate(peaks), rows, merging)
    return np.concatenate([[0], names + 1])[regions]


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    """From dust to labyrinths that fill the volume."""
    noise = np.random.default_rng(draw(st.integers(0, 10_000))).normal(0, 1, (10, 22, 24))
    smooth = ndimage.gaussian_filter(noise, draw(st.floats(0.3, 2.5)))
    return np.where(smooth > np.quantile(smooth, draw(st.floats(0.1, 0.8))), np.uint8(255), np.uint8(0))[None]


blocks = st.tuples(st.integers(2, 10), st.integers(3, 22), st.integers(3, 24))
voxels = st.sampled_from([None, (2.0, 0.7, 0.9)])


@pytest.mark.parametrize("margin", [2, 8])
@given(
    volumes(), blocks, voxels, st.floats(1, 6), st.sampled_from([0.0, 1.0, 2.0]), st.floats(0.4, 1.0), st.floats(0, 3)
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_watershed(
    monkeypatch: pytest.MonkeyPatch, margin: int, values: np.ndarray, block: Any, voxel: Any, reach: float,
    smoothing: float, neck: float, depth: float,
) -> None:  # fmt: skip
    """Whatever the reach and the margin: objects need not fit into what a block sees."""
    monkeypatch.setattr(watershed, "_MARGIN", margin)
    config = watershed.Config(reach_um=reach, smoothing_um=smoothing, neck=neck, depth_um=depth)
    whole = stitched(watershed, config, values, values.shape[1:], voxel)
    assert same_partition(stitched(watershed, config, values, block, voxel), whole)
    assert ((whole > 0) == (values[0] > 0)).all()


@given(volumes(), blocks, st.sampled_from([6, 18, 26]))
@settings(max_examples=25, deadline=None)
def test_connected_components(values: np.ndarray, block: Any, connectivity: Any) -> None:
    config = connected_components.Config(connectivity=connectivity)
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    whole, _ = ndimage.label(values[0] > 0, structure=structure)
    assert same_partition(stitched(connected_components, config, values, block, None), whole)
