"""Every segmenter kind keeps what the room promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fewslice import registry
from fewslice.errors import InputError
from fewslice.geometry import cover
from fewslice.segmenters import CONTACT, JOIN, Output, Place

EVERY = registry.names("segmenters")
KINDS = [kind for kind in EVERY if not hasattr(registry.load("segmenters", kind), "segment_store")]
PROBABILITY = (Output("foreground", "probability"),)
SHAPE = (10, 30, 34)


def values(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grid = np.indices(SHAPE).astype(float)
    mask = np.zeros(SHAPE, bool)
    for _ in range(9):
        mask |= sum((g - c) ** 2 for g, c in zip(grid, rng.uniform(0, SHAPE), strict=True)) < 5**2
    return np.where(mask, np.uint8(255), np.uint8(0))[None]


def regions(kind: str, block: tuple[int, int, int], voxel: Any = None, threshold: float = 0.5) -> list[Any]:
    module = registry.load("segmenters", kind)
    config, data = module.Config(), values()
    found = []
    for item in cover(SHAPE, block, module.halo(config, voxel)):
        place = Place(item, SHAPE, voxel, PROBABILITY, threshold)
        before = data.copy()
        found.append((item, module.label(config, data[(slice(None), *item.read.slices)], place)))
        assert (data == before).all(), "the input was changed"
    return found


@pytest.mark.parametrize("kind", EVERY)
def test_settings_are_frozen_closed_and_have_defaults(kind: str) -> None:
    module = registry.load("segmenters", kind)
    config = module.Config()
    with pytest.raises(ValidationError):
        module.Config(colour="blue")
    name = next(iter(type(config).model_fields))
    with pytest.raises(ValidationError):
        setattr(config, name, getattr(config, name))
    assert module.Config(**config.model_dump(mode="json")) == config
    assert registry.load("segmenters", kind).__doc__


@pytest.mark.parametrize("kind", EVERY)
def test_outputs_that_lack_are_refused_by_name(kind: str) -> None:
    module = registry.load("segmenters", kind)
    needed = "probability" if kind in KINDS else "contour"
    found = module.channels((Output("edge", "boundary"), Output("own", needed)))
    assert found[0] == 1 and len(found) == (2 if "watershed" in kind else 1)  # which parts along a boundary
    with pytest.raises(InputError, match=rf"needs a {needed} output.*edge \(boundary\)"):
        module.channels((Output("edge", "boundary"),))


@pytest.mark.parametrize("voxel", [None, (2.0, 1.0, 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_regions_of_blocks(kind: str, voxel: Any) -> None:
    """Labels without gaps over the block alone, foreground all of it, contacts between what there is."""
    module = registry.load("segmenters", kind)
    halo = module.halo(module.Config(), voxel)
    assert all(type(h) is int and h >= 1 for h in halo)
    assert module.smallest(module.Config(), SHAPE, voxel) >= 0
    size = np.prod(SHAPE)
    for block, found in regions(kind, (5, 15, 17), voxel):
        count = found.peaks.size
        assert found.labels.shape == block.write.shape and found.labels.dtype == np.uint32
        assert np.unique(found.labels[found.labels > 0]).tolist() == list(range(1, count + 1))
        assert ((found.labels > 0) == (values()[0][block.write.slices] > 0)).all()
        assert found.peaks.dtype == np.int32 and found.contacts.dtype == CONTACT
        a, b = found.contacts["a"], found.contacts["b"]
        assert ((a >= 1) & (a <= count)).all() and (b <= count).all() and (b != 0).all() and (-1 - b < size).all()
        outside = np.stack(np.unravel_index((-1 - b)[b < 0], SHAPE), axis=1)
        within = (outside >= block.write.start).all(axis=1) & (outside < block.write.stop).all(axis=1)
        assert not within.any(), "a region of the block itself was named by a voxel"


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_the_same_however_much_more_is_read(kind: str) -> None:
    """What the halo does not reach changes nothing."""
    module = registry.load("segmenters", kind)
    config, data = module.Config(), values()
    halo = module.halo(config, None)
    for tight, loose in zip(
        cover(SHAPE, (5, 15, 17), halo), cover(SHAPE, (5, 15, 17), tuple(h + 7 for h in halo)), strict=True
    ):
        first, second = (
            module.label(config, data[(slice(None), *b.read.slices)], Place(b, SHAPE, None, PROBABILITY, 0.5))
            for b in (tight, loose)
        )
        assert (first.labels == second.labels).all() and (first.peaks == second.peaks).all()
        assert (first.contacts == second.contacts).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_block_names_no_other(kind: str) -> None:
    ((_, found),) = regions(kind, SHAPE)
    assert (found.contacts["b"] > 0).all() and (found.contacts["saddle"] != JOIN).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_fallbacks_without_lgpl_libraries_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewslice.segmenters import connected_components, watershed

    assert connected_components.cc3d is not None and watershed.edt is not None
    for voxel in (None, (2.0, 0.7, 0.9)):
        with monkeypatch.context() as patch:
            fast = [found for _, found in regions(kind, (5, 15, 17), voxel)]
            patch.setattr(connected_components, "cc3d", None)
            patch.setattr(watershed, "edt", None)
            slow = [found for _, found in regions(kind, (5, 15, 17), voxel)]
        for a, b in zip(fast, slow, strict=True):
            assert a.peaks.size == b.peaks.size
            pairs = np.unique(np.stack([a.labels.ravel(), b.labels.ravel()]), axis=1)
            assert pairs.shape[1] == len(np.unique(a.labels))
