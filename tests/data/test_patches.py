"""Patches: where they come from and what they teach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fewslice.data import augmentation
from fewslice.data.normalisation import Normalisation, fit_normalisation
from fewslice.data.patches import PatchSampler, TrainingVolume, cached
from fewslice.errors import InputError
from fewslice.volume import Volume

SAME = Normalisation("robust", (0.0,), (1.0,))


def _volume(**options: Any) -> TrainingVolume:
    """Every voxel's intensity is its index, so that a patch says where it came from."""
    shape = (6, 10, 12)
    index = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    labels = np.zeros(shape, np.uint8)
    labels[2, 4:8, 5:9] = 1
    annotated = np.zeros(shape, bool)
    annotated[2] = True
    return TrainingVolume(Volume.from_array(index), labels, annotated, **options)


def _sampler(volume: TrainingVolume, **options: Any) -> PatchSampler:
    settings: dict[str, Any] = {
        "volumes": [volume],
        "normalisation": SAME,
        "patch": (4, 4, 4),
        "batch_size": 3,
        "classes": 1,
        "foreground": 0.5,
        "augment": augmentation.Config.none(),
        "seed": 0,
    }
    return PatchSampler(**(settings | options))


def test_patches_are_cut_where_the_annotation_is() -> None:
    """Image, target and weight come from one place, and every patch holds annotated voxels."""
    volume = _volume()
    assert volume.labels is not None and volume.annotated is not None
    for step in range(20):
        batch = _sampler(volume).batch(step)
        assert batch.pseudo is None and batch.target.dtype == torch.int64
        for image, target, weight in zip(batch.image, batch.target, batch.weight, strict=True):
            where = image[0].numpy().astype(int)
            np.testing.assert_array_equal(weight.numpy(), volume.annotated.ravel()[where])
            np.testing.assert_array_equal(target.numpy(), (volume.labels * volume.annotated).ravel()[where])
            assert weight.sum() > 0


def test_annotated_planes_come_to_lie_anywhere_in_a_patch() -> None:
    """Also at its rim, where the network pads: at the ends of a volume nothing else would judge what it says there."""
    found = set()
    for step in range(40):
        batch = _sampler(_volume()).batch(step)
        found |= {int(z) for weight in batch.weight for z in np.flatnonzero(weight.sum((1, 2)).numpy())}
    assert found == {0, 1, 2, 3}


def test_beyond_the_volume_a_patch_is_mirrored_and_unknown() -> None:
    """The annotated plane of a mirrored part is no second truth, and rows and columns never leave the volume."""
    volume = _volume()
    lying_out = 0
    for step in range(40):
        batch = _sampler(volume).batch(step)
        for image, weight in zip(batch.image, batch.weight, strict=True):
            where = image[0].numpy().astype(int)
            z = where[:, 0, 0] // 120
            assert set(np.abs(np.diff(z))) <= {1}
            assert (np.diff(where, axis=2) == 1).all() and (np.diff(where, axis=1) == 12).all()
            lying_out += (np.diff(z) < 0).any()
            assert int((weight.sum((1, 2)) > 0).sum()) == 1
    assert lying_out > 5


def test_with_every_plane_annotated_patches_stay_inside() -> None:
    """The same for volumes in which pseudo-labels teach what annotation does not."""
    volume = _volume()
    whole = replace(volume, annotated=np.ones((6, 10, 12), bool))
    pseudo = Volume.from_array(np.full((1, 6, 10, 12), 200, np.uint8))
    for inside in (whole, replace(volume, pseudo_labels=pseudo, pseudo_weight=0.5)):
        for step in range(20):
            assert (_sampler(inside).batch(step).weight > 0).all()


def test_a_step_s_batch_depends_on_seed_and_step_alone() -> None:
    """Asked for again, in another order, from another sampler: the same; another seed or step: another."""
    first, second = _sampler(_volume()), _sampler(_volume())
    third = first.batch(3)
    first.batch(7)
    assert torch.equal(third.image, first.batch(3).image) and torch.equal(third.image, second.batch(3).image)
    assert not torch.equal(third.image, first.batch(4).image)
    assert not torch.equal(third.image, _sampler(_volume(), seed=1).batch(3).image)


def test_foreground_share_is_kept() -> None:
    """With foreground=1 every patch is centred near the object, with 0 patches are drawn from all annotated voxels."""
    every = _sampler(_volume(), foreground=1.0, patch=(1, 2, 2), batch_size=64, plane_axis=0).batch(0)
    some = _sampler(_volume(), foreground=0.0, patch=(1, 2, 2), batch_size=64, plane_axis=0).batch(0)
    assert every.target.flatten(1).any(1).all()
    assert 0.05 < some.target.flatten(1).any(1).float().mean() < 0.6


def test_ground_truth_wins_over_pseudo_labels_and_alpha_weighs_the_rest() -> None:
    """Worked by hand: teacher says 200/255 everywhere; annotated voxels keep their class at weight 1, others get α."""
    pseudo = np.full((1, 6, 10, 12), 200, np.uint8)
    volume = _volume(pseudo_labels=Volume.from_array(pseudo), pseudo_weight=0.25)
    batch = _sampler(volume).batch(0)
    assert batch.pseudo is not None and volume.labels is not None and volume.annotated is not None
    for image, target, weight, flag in zip(batch.image, batch.target, batch.weight, batch.pseudo, strict=True):
        where = image[0].numpy().astype(int)
        known = volume.annotated.ravel()[where]
        truth = volume.labels.ravel()[where]
        np.testing.assert_allclose(weight.numpy(), np.where(known, 1.0, 0.25))
        np.testing.assert_allclose(target[1].numpy(), np.where(known, truth, 200 / 255), atol=1e-6)
        np.testing.assert_allclose(target.sum(0).numpy(), 1.0, atol=1e-6)
        np.testing.assert_array_equal(flag.numpy(), ~known)


def test_uncertain_and_distant_pseudo_labels_weigh_less() -> None:
    """By hand: α (1 − H(p) / ln 2) times the factor of the plane; hard targets keep the certainty of soft ones."""
    p = np.zeros((1, 6, 10, 12), np.uint8)
    p[:, :, :, ::3], p[:, :, :, 1::3], p[:, :, :, 2::3] = 255, 51, 127
    fade = np.linspace(0.5, 1, 6, dtype=np.float32).reshape(6, 1, 1)
    volume = _volume(pseudo_labels=Volume.from_array(p), pseudo_weight=0.5, certain=True, fade=fade)
    assert volume.annotated is not None
    for targets in ("soft", "hard"):
        batch = _sampler(volume, targets=targets).batch(0)
        for image, weight in zip(batch.image, batch.weight, strict=True):
            where = image[0].numpy().astype(int)
            q = p[0].ravel()[where] / 255
            entropy = -sum(np.where(v > 0, v * np.log(np.maximum(v, 1e-9)), 0) for v in (q, 1 - q))
            expected = 0.5 * (1 - entropy / np.log(2)) * fade.ravel()[where // 120]
            known = volume.annotated.ravel()[where]
            np.testing.assert_allclose(weight.numpy(), np.where(known, 1.0, expected), atol=1e-5)


def test_hard_targets_are_the_most_probable_class() -> None:
    """Two classes at 100 and 120 of 255 leave 35 for the background: class 2 wins."""
    pseudo = np.stack([np.full((6, 10, 12), 100, np.uint8), np.full((6, 10, 12), 120, np.uint8)])
    volume = _volume(pseudo_labels=Volume.from_array(pseudo), pseudo_weight=1.0)
    batch = _sampler(volume, classes=2, targets="hard").batch(0)
    assert batch.pseudo is not None
    assert (batch.target.argmax(1)[batch.pseudo] == 2).all()
    assert set(batch.target.unique().tolist()) <= {0.0, 1.0}


def test_held_out_voxels_weigh_nothing() -> None:
    """Not even their pseudo-labels may be learned."""
    hidden = np.zeros((6, 10, 12), bool)
    hidden[3] = True
    pseudo = Volume.from_array(np.full((1, 6, 10, 12), 200, np.uint8))
    volume = _volume(pseudo_labels=pseudo, pseudo_weight=1.0, hidden=hidden)
    for step in range(5):
        batch = _sampler(volume).batch(step)
        where = batch.image[:, 0].numpy().astype(int)
        assert (batch.weight.numpy()[hidden.ravel()[where]] == 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_of_any_axis_come_as_2d_patches(axis: int) -> None:
    """Annotated planes along z, y or x become (b, c, h, w), with targets of the same voxels."""
    shape = (6, 7, 8)
    index = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    annotated = np.zeros(shape, bool)
    np.moveaxis(annotated, axis, 0)[2] = True
    labels = (index.astype(int) % 3 == 0).astype(np.uint8) * annotated
    patch = [4, 4, 4]
    patch[axis] = 1
    volume = TrainingVolume(Volume.from_array(index), labels, annotated)
    batch = _sampler(volume, patch=tuple(patch), plane_axis=axis).batch(0)
    assert batch.image.shape == (3, 1, 4, 4) and batch.target.shape == batch.weight.shape == (3, 4, 4)
    where = batch.image[:, 0].numpy().astype(int)
    np.testing.assert_array_equal(batch.target.numpy(), labels.ravel()[where])
    assert (batch.weight == 1).all()


def test_unlabelled_volumes_are_drawn_for_their_pseudo_labels_only() -> None:
    """A volume without annotation gives patches once it has pseudo-labels, and is refused alone without."""
    image = Volume.from_array(np.zeros((6, 10, 12), np.float32))
    with pytest.raises(InputError, match="no voxel is annotated"):
        _sampler(TrainingVolume(image, None, None))
    pseudo = Volume.from_array(np.full((1, 6, 10, 12), 90, np.uint8))
    batch = _sampler(TrainingVolume(image, None, None, pseudo, 0.5)).batch(0)
    assert batch.pseudo is not None and batch.pseudo.all() and (batch.weight == 0.5).all()


def test_a_patch_larger_than_the_volume_is_refused_by_name() -> None:
    """Both shapes are said."""
    with pytest.raises(InputError, match=r"patch \(8, 4, 4\).*\(6, 10, 12\)"):
        _sampler(_volume(), patch=(8, 4, 4))


def test_not_a_number_where_training_samples_is_refused() -> None:
    """The patch that meets it says where."""
    image = np.zeros((6, 10, 12), np.float32)
    image[2] = np.nan
    annotated = np.zeros((6, 10, 12), bool)
    annotated[2] = True
    volume = TrainingVolume(Volume.from_array(image), annotated.astype(np.uint8), annotated)
    with pytest.raises(InputError, match="NaN or infinite"):
        _sampler(volume).batch(0)


def test_robust_normalisation_brings_typical_values_to_plus_minus_two() -> None:
    """Median to 0, the 0.5th to 99.5th percentile to a spread of 4; an outlier moves nothing."""
    values = np.linspace(100, 500, 10 * 10 * 10).reshape(1, 10, 10, 10).astype(np.float32)
    values[0, 0, 0, 0] = 1e6
    found = fit_normalisation([Volume.from_array(values)])
    out = found.apply(values)
    assert abs(float(np.median(out))) < 0.02 and float(np.percentile(out, 99)) == pytest.approx(1.98, abs=0.05)
    unit = fit_normalisation([Volume.from_array(values)], "unit").apply(values)
    assert unit.min() == 0 and unit.max() == 1


def test_the_range_of_the_type_is_the_unit() -> None:
    """Bytes are divided by 255, whatever they hold; floating-point values and `none` stay."""
    values = np.array([[[[0, 51, 102]]]], np.uint8)
    found = fit_normalisation([Volume.from_array(values)], "range")
    np.testing.assert_allclose(found.apply(values).ravel(), [0, 0.2, 0.4], atol=1e-7)
    assert fit_normalisation([Volume.from_array(values.astype(np.uint16))], "range").scale == (65535.0,)
    assert fit_normalisation([Volume.from_array(values.astype(np.float32))], "range").scale == (1.0,)
    assert (fit_normalisation([Volume.from_array(values)], "none").apply(values) == values).all()
    mixed = [Volume.from_array(values), Volume.from_array(values.astype(np.uint16))]
    with pytest.raises(InputError, match="uint16, uint8"):
        fit_normalisation(mixed, "range")


def test_constant_images_are_normalised_to_zero() -> None:
    """No division by zero."""
    out = fit_normalisation([Volume.from_array(np.full((1, 2, 4, 4), 7, np.uint8))]).apply(np.full((1, 1, 4, 4), 7))
    assert (out == 0).all()


def test_volumes_are_kept_in_memory_while_there_is_room() -> None:
    """The limit is for all of them together; what does not fit stays on disk and gives the same patches."""

    class Lazy:
        def __init__(self, values: np.ndarray) -> None:
            self.values, self.shape, self.dtype = values, values.shape, values.dtype

        def __getitem__(self, index: Any) -> np.ndarray:
            return self.values[index]

    def lazy() -> TrainingVolume:
        known = _volume()
        return replace(known, image=replace(known.image, array=Lazy(known.image.read())))

    size = 6 * 10 * 12 * 4
    kept = cached([lazy(), lazy(), lazy()], limit=2 * size)
    assert [isinstance(v.image.array, np.ndarray) for v in kept] == [True, True, False]
    assert torch.equal(_sampler(kept[0]).batch(1).image, _sampler(kept[2]).batch(1).image)
    in_memory = _volume()
    assert cached([in_memory], limit=0)[0].image.array is in_memory.image.array


@pytest.mark.parametrize("method", ["robust", "unit"])
def test_the_unit_of_intensity_does_not_matter(method: Any) -> None:
    """Faint images, of 1e-10 or so, are normalised as bright ones are."""
    values = np.random.default_rng(0).normal(500, 50, (2, 4, 16, 16))
    found = [fit_normalisation([Volume.from_array(values * unit)], method).apply(values * unit) for unit in (1, 1e-12)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
