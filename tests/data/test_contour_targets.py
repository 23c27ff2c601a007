"""Targets of the contour proposal network, worked out by hand on small planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fewslice.data import augmentation
from fewslice.data.contour_targets import IGNORED, contour_targets, normalised_depth
from fewslice.data.contours import areas
from fewslice.data.normalisation import Normalisation
from fewslice.data.patches import PatchSampler, TrainingVolume, coded_ids
from fewslice.errors import InputError
from fewslice.volume import Volume


def targets(ids: Any, weight: Any = None, classes: int = 1, **options: Any) -> Any:
    ids = np.asarray(ids, np.int64)
    weight = np.ones(ids.shape, np.float32) if weight is None else np.asarray(weight, np.float32)
    return contour_targets(ids[None], weight[None], classes=classes, **({"order": 3, "samples": 16} | options))


def disc(size: int, centre: tuple[float, float], radius: float, value: int = 1) -> Any:
    y, x = np.indices((size, size))
    return np.where(np.hypot(y - centre[0], x - centre[1]) <= radius, value, 0)


def test_depth_is_the_distance_to_what_is_not_of_the_object() -> None:
    """Two touching columns of five pixels, three and one wide."""
    labels = np.array([[1, 1, 1, 2]] * 5)
    expected = np.array([[0.5, 0.5, 0.5, 1]] + [[0.5, 1, 0.5, 1]] * 3 + [[0.5, 0.5, 0.5, 1]])
    np.testing.assert_allclose(normalised_depth(labels), expected)
    assert not normalised_depth(np.zeros((3, 3), int)).any()


def test_scores_by_hand() -> None:
    """A square of 8 pixels at (4, 4), depths 1 to 4: quarters, so 3/4 and 1 are core, 1/2 and 1/4 rim.

    Its rings of pixels are 4 and 11 (depth 1/4), 5 and 10 (1/2), 6 and 9 (3/4), 7 and 8 (1). Positions 3 and 4 hold the
    pixels 6 to 9: core.
    """
    ids = np.zeros((16, 16), int)
    ids[4:12, 4:12] = 1
    found = targets(ids)
    expected = np.zeros((8, 8), int)
    expected[3:5, 3:5] = 1
    assert found.score.shape == (1, 8, 8) and found.score.dtype == torch.int8
    np.testing.assert_array_equal(found.score[0], expected)
    assert found.anchors.tolist() == [[0, 3, 3], [0, 3, 4], [0, 4, 3], [0, 4, 4]]
    assert found.objects.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(found.centre, [[7.5, 7.5]], atol=1e-5)
    np.testing.assert_allclose(areas(found.contour.numpy()), [63.5], rtol=0.06)


def test_between_core_and_rim_nothing_is_asked() -> None:
    """A square of 10 pixels: depths in fifths, so that 3/5 is between."""
    ids = np.zeros((14, 14), int)
    ids[2:12, 2:12] = 1
    score = targets(ids).score[0].numpy()
    # pixels 2, 3 | 4, 5 | 6, 7 | … have depth 1/5, 2/5 | 3/5, 4/5 | 1, 1 | …, and the deepest of a position counts
    assert score[3].tolist() == [0, 0, 1, 1, 1, 0, 0]
    ids = np.roll(ids, 1, axis=(0, 1))
    # the deepest of the pixels 2, 3 | 4, 5 | 6, 7 | 8, 9 | … of the moved square: 1/5 | 3/5 | 1 | 1 | 3/5 | 1/5
    assert targets(ids).score[0].numpy()[3].tolist() == [0, 0, IGNORED, 1, 1, IGNORED, 0]


@pytest.mark.parametrize("place", [(2, 2), (3, 5), (7, 6)])
def test_an_object_of_one_pixel_is_found_wherever_it_lies(place: tuple[int, int]) -> None:
    ids = np.zeros((8, 8), int)
    ids[place] = 1
    found = targets(ids)
    assert found.anchors.tolist() == [[0, place[0] // 2, place[1] // 2]]
    np.testing.assert_allclose(found.centre, [place], atol=1e-6)


def test_objects_beside_what_is_unknown_count_neither_way() -> None:
    """The contour of a cell at the edge of the annotation is not known; a cell further inside is learned."""
    ids = disc(24, (11, 5), 4, 1) + disc(24, (11, 15), 4, 2)
    weight = np.ones((24, 24))
    weight[:, :4] = 0
    ids[:, :4] = 0
    found = targets(ids, weight)
    score = found.score[0].numpy()
    assert (score[:, :2] == IGNORED).all()
    assert (score[4:7, 2:4] == IGNORED).all() and score[0, 5] == 0
    assert len(found.centre) == 1 and (score > 0).sum() == len(found.anchors) > 0
    np.testing.assert_allclose(found.centre, [[11, 15]], atol=1e-3)


def test_values_where_nothing_is_known_change_nothing() -> None:
    ids = disc(32, (9, 9), 5, 1) + disc(32, (22, 20), 6, 2)
    weight = np.ones((32, 32))
    weight[:, 26:] = 0
    draw = np.random.default_rng(0)
    other = np.where(weight > 0, ids, draw.integers(0, 9, ids.shape))
    one, two = targets(ids, weight), targets(other, weight)
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))
    assert not torch.equal(targets(other).score, one.score)


def test_the_smaller_part_of_a_split_object_counts_neither_way() -> None:
    ids = np.zeros((12, 20), int)
    ids[2:10, 2:10] = 1
    ids[3:7, 14:18] = 1
    found = targets(ids)
    score = found.score[0].numpy()
    assert len(found.centre) == 1 and (score[2:3, 7:9] == IGNORED).all() and score[1, 6] == 0
    assert (score[2:4, 2:4] == 1).any() and found.centre[0, 1] < 10


def test_classes_are_read_from_coded_ids_whatever_the_ids_are() -> None:
    ids = np.zeros((16, 16), np.uint64)
    ids[1:7, 1:7] = 2**40
    ids[9:15, 9:15] = 70_000
    classes = np.where(ids == 70_000, 2, (ids > 0).astype(int))
    coded = coded_ids(ids, classes, 2)
    assert set(np.unique(coded)) == {0, 2, 3}  # the first in order of ids is of class 2
    found = targets(coded, classes=2)
    score = found.score[0].numpy()
    assert score[2, 2] == 1 and score[6, 6] == 2
    order = found.objects.numpy()[[0, -1]]
    np.testing.assert_allclose(found.centre.numpy()[order], [[3.5, 3.5], [11.5, 11.5]], atol=1e-5)
    assert coded_ids(np.zeros((2, 2), np.uint32), np.zeros((2, 2), int), 1).tolist() == [[0, 0], [0, 0]]


def test_several_images_have_their_own_objects() -> None:
    ids = np.stack([disc(16, (8, 8), 5, 1), np.zeros((16, 16), int), disc(16, (6, 9), 4, 1)]).astype(np.int64)
    found = contour_targets(ids, np.ones(ids.shape), classes=1, order=2, samples=8)
    assert found.anchors[:, 0].unique().tolist() == [0, 2]
    assert [found.objects[found.anchors[:, 0] == i].unique().tolist() for i in (0, 2)] == [[0], [1]]
    assert found.coefficients.shape == (2, 2, 4) and found.contour.shape == (2, 8, 2)
    np.testing.assert_allclose(found.centre, [[8, 8], [6, 9]], atol=1e-5)


def test_odd_extents_are_refused() -> None:
    with pytest.raises(InputError, match="even extents"):
        targets(np.zeros((7, 8), int))


def test_the_sampler_hands_out_coded_ids_that_go_with_the_image() -> None:
    """Image values are ids themselves: after augmentation every object still lies on its own value, unknown is 0."""
    draw = np.random.default_rng(3)
    ids = np.zeros((2, 64, 64), np.uint32)
    for index in range(12):
        z, y, x = draw.integers(0, 2), draw.integers(8, 56), draw.integers(8, 56)
        ids[z, y - 4 : y + 4, x - 4 : x + 4] = 10_000_019 * (index + 1)
    rank = np.searchsorted(np.unique(ids), ids).astype(np.float32)
    annotated = np.ones(ids.shape, bool)
    annotated[:, :, 40:] = False
    volume = TrainingVolume(Volume.from_array(rank), (ids > 0).astype(np.uint8), annotated, instances=ids)
    sampler = PatchSampler(
        volumes=[volume],
        normalisation=Normalisation("none", (0.0,), (1.0,)),
        patch=(1, 32, 32),
        batch_size=8,
        classes=1,
        foreground=1.0,
        augment=augmentation.Config.none(flip=0.5, right_angle=1.0),
        seed=0,
        plane_axis=0,
    )
    batch = sampler.batch(0)
    image, target, known = batch.image[:, 0].numpy(), batch.target.numpy(), batch.weight.numpy() > 0
    assert target.max() < 20 and not target[~known].any() and not known.all()
    for plane, named, seen in zip(image, target, known, strict=True):
        for identity in np.unique(named[named > 0]):
            assert len(np.unique(plane[named == identity])) == 1
        assert ((plane > 0) & seen == (named > 0)).all()
