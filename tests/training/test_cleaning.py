"""Cleaned masks and consensus: what the planes between annotated ones are taken for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io, morphology
from fewslice.annotation import from_labels
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.training import cleaning
from fewslice.training.cleaning import clean_samples, known_planes
from fewslice.training.consensus import agree, annotated_whole, fading, interpolate_sample
from fewslice.training.fit import Hardware
from fewslice.training.run_folder import RunFolder
from fewslice.training.task import Task
from fewslice.volume import Volume

SHAPE = (9, 70, 90)
SIZES = morphology.Config(min_area_um2=20.0, propagated_min_area_um2=30.0, erosion_um_per_um=1.0)


def _truth() -> Any:
    """A tube whose cross-section wanders, and a second one near by."""
    z, y, x = np.indices(SHAPE)
    tube = (y - 30 - 2 * z) ** 2 + (x - 30) ** 2 < 150
    return np.where(tube, 1, np.where((y - 40) ** 2 + (x - 70 + z) ** 2 < 100, 2, 0)).astype(np.uint8)


def _spoiled(truth: Any, seed: int = 0) -> Any:
    """Probabilities of class 1 and 2 with specks everywhere, and one plane without the tube."""
    rng = np.random.default_rng(seed)
    p = np.stack([np.where(truth == k, 220, 30) for k in (1, 2)]).astype(np.uint8)
    p[0, 4] = 30
    specks = rng.random(p.shape) < 0.01
    return np.where(specks, 250 - p, p).astype(np.uint8)


def _task(folder: Path, axis: int = 0, classes: int = 1, planes: tuple[int, ...] = (0, 3, 6, 8)) -> Task:
    truth = np.moveaxis(np.where(_truth() <= classes, _truth(), 0), 0, axis)
    annotated = np.zeros(truth.shape, bool)
    np.moveaxis(annotated, axis, 0)[list(planes)] = True
    labels = np.where(annotated, truth, 7)
    annotation = from_labels(labels, unlabelled=7)
    image = Volume.from_array(np.zeros(truth.shape, np.uint8), (1.0, 1.0, 1.0))
    values = (1, 2)[:classes]
    return Task(
        [Sample("tubes", image, annotation)],
        [annotated],
        [np.zeros(truth.shape, bool)],
        values,
        RunFolder(folder),
        hardware=Hardware(device="cpu"),
    )


def _stored(task: Task, p: Any) -> Volume:
    """Store probabilities where the stage `segment` would, with a model beside them that is only a name."""
    folder = task.run.stage("segment")
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model/model.json").write_text("{}")
    path = folder / "predicted" / "000.ome.zarr"
    path.parent.mkdir(exist_ok=True)
    store = io.create_output(
        path,
        shape=p.shape[1:],
        channel_names=[f"class_{k}" for k in range(len(p))],
        voxel_size_um=(1.0, 1.0, 1.0),
        dtype=np.uint8,
        chunks=(4, 32, 32),
    )
    store.write(Box.of(p.shape[1:]), p)
    return io.open_volume(path)


def _dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_samples_are_cleaned_as_the_operator_does_it(axis: int, tmp_path: Path) -> None:
    """The same bits as `morphology.clean` on the masks, planes along any axis; closer to the truth than before."""
    task = _task(tmp_path, axis)
    p = np.moveaxis(_spoiled(_truth())[:1], 1, 1 + axis)
    (cleaned,) = clean_samples([_stored(task, p)], task, "segment", SIZES, 0.5)
    found = np.moveaxis(cleaned.read()[0], axis, 0)
    truth = _truth() == 1
    known = np.zeros(SHAPE[0], bool)
    known[[0, 3, 6, 8]] = True
    masks = np.moveaxis(p[0], axis, 0) >= 128
    np.testing.assert_array_equal(found == 255, morphology.clean(masks, truth, known, SIZES, (1.0, 1.0, 1.0)))
    assert set(np.unique(found)) == {0, 255}
    assert (found[known] > 0).sum() == truth[known].sum()
    assert _dice(found > 0, truth) > _dice(masks, truth) + 0.05


def test_large_volumes_are_cleaned_column_by_column_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes, tiles of 32 pixels."""
    results = []
    for name, limit in (("whole", 2**29), ("columns", 0)):
        monkeypatch.setattr(cleaning, "_IN_MEMORY_VOXELS", limit)
        monkeypatch.setattr(cleaning, "_TILE", 32)
        task = _task(tmp_path / name, classes=2)
        (cleaned,) = clean_samples([_stored(task, _spoiled(_truth()))], task, "segment", SIZES, 0.5)
        results.append(cleaned.read())
    assert results[0].shape == (2, *SHAPE) and results[0].any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(*results)


def test_what_is_there_is_not_cleaned_again_unless_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run reads what it stored; other sizes, another threshold or another model clean anew."""
    task = _task(tmp_path)
    stored = _stored(task, _spoiled(_truth())[:1])
    calls = []
    real = morphology.clean
    monkeypatch.setattr(morphology, "clean", lambda *a: calls.append(1) or real(*a))
    for sizes, threshold, expected in (
        (SIZES, 0.5, 1),
        (SIZES, 0.5, 1),
        (morphology.Config(), 0.5, 2),
        (SIZES, 0.6, 3),
    ):
        clean_samples([stored], task, "segment", sizes, threshold)
        assert len(calls) == expected
    (task.run.stage("segment") / "model/model.json").write_text('{"other": 1}')
    clean_samples([stored], task, "segment", SIZES, 0.6)
    assert len(calls) == 4


def test_a_plane_counts_as_annotated_from_half_on() -> None:
    """And the rest of it is as predicted."""
    mask = np.zeros((3, 4, 4), bool)
    mask[0, :2], mask[1, :1], mask[2] = True, True, True
    assert known_planes(mask, (3, 4, 4), 0).tolist() == [True, False, True]
    assert known_planes(mask, (3, 4, 4), 1).tolist() == [True, True, False, False]
    assert known_planes(None, (3, 4, 4), 2).tolist() == [False] * 4


@pytest.mark.parametrize("method", [None, "signed_distance", "contours"])
def test_what_is_not_annotated_on_an_annotated_plane_is_as_predicted(method: Any, tmp_path: Path) -> None:
    """Held-out regions are no background: there the prediction stands, held fixed or interpolated."""
    task = _task(tmp_path)
    (mask,) = task.train_masks
    assert mask is not None and task.samples[0].annotation is not None
    away = np.zeros(SHAPE, bool)
    away[:, 20:45, 20:40] = True  # a part of the tube
    part = mask & ~away
    task = replace(task, train_masks=[part])
    p = _stored(task, np.where(_truth() == 1, 220, 30).astype(np.uint8)[None])
    if method is None:
        found = clean_samples([p], task, "segment", SIZES, 0.5)[0].read()[0]
    else:
        found = interpolate_sample(task.samples[0], part, 0, 1, method, p, 0.5).read()[0]
    truth = _truth() == 1
    assert (found[[0, 3, 6, 8]] == np.where(truth[[0, 3, 6, 8]], 255, 0)).all()
    assert _dice((found > 0)[away], truth[away]) > 0.9
    assert not annotated_whole(part, 0)
    if method is not None:
        with pytest.raises(InputError, match="annotated in part; give what is predicted"):
            interpolate_sample(task.samples[0], part, 0, 1, method)


def test_planes_are_annotated_whole_or_not() -> None:
    """Along the axis that is asked for; nothing annotated is not whole."""
    mask = np.zeros((3, 4, 4), bool)
    assert not annotated_whole(mask, 0) and not annotated_whole(None, 0)
    mask[1] = True
    assert annotated_whole(mask, 0) and not annotated_whole(mask, 1)
    mask[2, :, :3] = True
    assert not annotated_whole(mask, 0)


def test_masks_of_classes_follow_the_rule_of_the_segmentation(tmp_path: Path) -> None:
    """Foreground where the sum reaches the threshold, then the most probable class."""
    p = np.zeros((2, *SHAPE), np.uint8)
    p[:, :, 10:40, 10:40] = np.array([140, 110], np.uint8)[:, None, None, None]
    p[:, :, 10:40, 50:80] = np.array([60, 70], np.uint8)[:, None, None, None]
    task = _task(tmp_path, classes=2)
    bare = replace(task, samples=[Sample("bare", task.samples[0].image)], train_masks=[None])
    for threshold, second in ((0.6, False), (0.2, True)):
        (cleaned,) = clean_samples(
            [
                _stored(bare, p)
                if threshold == 0.6
                else io.open_volume(tmp_path / "stages/segment/predicted/000.ome.zarr")
            ],
            bare,
            "segment",
            SIZES,
            threshold,
        )
        found = cleaned.read() > 0
        assert found[0, :, 12:38, 12:38].all() and not found[1, :, 12:38, 12:38].any()
        assert found[1, :, 12:38, 52:78].all() == second and not found[0, :, 12:38, 52:78].any()


def test_a_mark_goes_before_what_it_vouches_for_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while cleaning with other sizes: the first sizes clean anew, and give what they gave."""
    task = _task(tmp_path, classes=2)
    stored = _stored(task, _spoiled(_truth()))
    (first,) = clean_samples([stored], task, "segment", SIZES, 0.5)
    expected = first.read()
    real, calls = morphology.clean, []

    def dying(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(morphology, "clean", dying)
        with pytest.raises(KeyboardInterrupt):
            clean_samples([stored], task, "segment", morphology.Config(), 0.5)
    (again,) = clean_samples([stored], task, "segment", SIZES, 0.5)
    np.testing.assert_array_equal(again.read(), expected)


def test_without_annotated_planes_neighbours_alone_clean(tmp_path: Path) -> None:
    """Specks go; nothing is invented where neither neighbour has it."""
    task = _task(tmp_path)
    bare = Task(
        [Sample("bare", task.samples[0].image)], [None], [None], (1,), task.run, hardware=Hardware(device="cpu")
    )
    p = _spoiled(_truth())[:1]
    (cleaned,) = clean_samples([_stored(bare, p)], bare, "segment", SIZES, 0.5)
    truth = _truth() == 1
    assert _dice(cleaned.read()[0] > 0, truth) > _dice(p[0] >= 128, truth)


# ------------------------------------------------------------------------------------------------------- consensus


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("method", ["signed_distance", "contours"])
def test_interpolation_fills_the_planes_between(axis: int, method: Any, tmp_path: Path) -> None:
    """From the annotation alone, along any axis: the truth on annotated planes and close to it between them."""
    task = _task(tmp_path, axis, classes=2)
    (mask,) = task.train_masks
    assert mask is not None
    found = np.moveaxis(interpolate_sample(task.samples[0], mask, axis, 2, method).read(), 1 + axis, 1)
    truth = _truth()
    for k in (1, 2):
        assert (found[k - 1, [0, 3, 6, 8]] == np.where(truth[[0, 3, 6, 8]] == k, 255, 0)).all()
        assert _dice(found[k - 1] > 0, truth == k) > 0.9


def test_sources_that_differ_are_uncertain() -> None:
    """The mean of bytes, rounded; one source is itself."""
    one, other = (Volume.from_array(np.full((1, 2, 3, 4), v, np.uint8)) for v in (255, 100))
    assert agree([one]) is one
    assert (agree([one, other]).read() == 178).all()
    assert agree([one, other]).array[0, 1, 0:2, 0:1].shape == (2, 1)


def test_trust_fades_with_the_distance_to_annotated_planes() -> None:
    """By e within so many planes, on either side; nowhere where nothing is annotated."""
    mask = np.zeros((6, 2, 2), bool)
    mask[1] = True
    weight = fading(mask, (6, 2, 2), 0, 2.0)
    assert weight.shape == (6, 1, 1)
    np.testing.assert_allclose(weight.ravel(), np.exp(-np.array([1, 0, 1, 2, 3, 4]) / 2), rtol=1e-6)
    assert fading(mask.transpose(1, 0, 2), (2, 6, 2), 1, 2.0).shape == (1, 6, 1)
    for unknown in (None, mask & False):  # no plane is near: as if one were two planes away
        np.testing.assert_allclose(fading(unknown, (6, 2, 2), 0, 2.0), np.full((6, 1, 1), np.exp(-1)), rtol=1e-6)
