"""What is trained on and tested on: planes drawn per draw, regions that never touch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import problems
from benchmarks.problems import SETTINGS, choose_planes, load


def test_planes_are_nested_and_depend_on_draw_and_volume() -> None:
    drawn = {count: choose_planes("phantom", 0, 0, 50, count) for count in (1, 2, 8, 50)}
    assert [len(planes) for planes in drawn.values()] == [1, 2, 8, 50]
    assert set(drawn[1]) < set(drawn[2]) < set(drawn[8]) < set(drawn[50])
    assert drawn[8] == sorted(drawn[8])
    assert choose_planes("phantom", 0, 0, 50, 8) == drawn[8]
    others = [choose_planes("phantom", 1, 0, 50, 8), choose_planes("phantom", 0, 1, 50, 8)]
    assert drawn[8] not in others


def test_cost_is_measured_on_the_planes_of_the_phantom() -> None:
    assert choose_planes("phantom_cost", 3, 1, 50, 4) == choose_planes("phantom", 3, 1, 50, 4)


def test_only_the_outer_part_of_the_real_stack_is_kept_from_tuning() -> None:
    assert {name for name, setting in SETTINGS.items() if not setting.tuned} == {"stack2_field", "stack2_crops"}


@pytest.mark.parametrize(
    ("name", "train_to", "first_scored", "last"),
    [
        ("stack2_field", 288, 320, 512),
        ("stack2_crops", 288, 320, 512),
        ("stack2_inner", 176, 208, 288),
        ("stack2_crops_inner", 176, 208, 288),
    ],
)
def test_training_and_test_columns_are_apart(
    name: str, train_to: int, first_scored: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image holds its own column number, so that every voxel tells where it comes from."""
    columns = np.broadcast_to(np.arange(512, dtype=np.uint16), (2, 21, 512, 512))
    truth = np.zeros((21, 512, 512), dtype=bool)
    truth[:, ::10] = True
    monkeypatch.setattr(problems, "_stack2", lambda data: (columns, truth))
    for draw in range(3):
        problem = load(name, draw, Path("unused"))
        assert all(image.max() < train_to for image, _ in problem.train)
        scored = problem.test.image[0][problem.test.scored]
        assert (scored.min(), scored.max() + 1) == (first_scored, last)
        assert problem.test.image.min() == first_scored - 32
        assert problem.test.image.shape[1:] == problem.test.truth.shape
        assert problem.test.image.min() >= train_to


def test_crops_differ_between_draws_and_never_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    places = np.arange(512 * 512, dtype=np.uint32).reshape(512, 512)
    image = np.broadcast_to(places, (2, 21, 512, 512))
    truth = np.ones((21, 512, 512), dtype=bool)
    monkeypatch.setattr(problems, "_stack2", lambda data: (image, truth))
    seen = []
    for draw in range(5):
        crops = [part[0, 0] for part, _ in load("stack2_crops", draw, Path("unused")).train]
        assert [crop.shape for crop in crops] == [(114, 114)] * 3
        assert len(np.unique(np.stack(crops))) == 3 * 114 * 114
        seen.append(crops[0][0, 0])
    assert len(set(seen)) > 1
    assert load("stack2_crops", 0, Path("unused")).sha == load("stack2_crops", 0, Path("unused")).sha


def test_data_that_are_not_there_or_not_the_same_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tifffile

    with pytest.raises(FileNotFoundError, match="--data"):
        problems.read_pair("stack2", tmp_path)
    folder = tmp_path / "two_photon_neurons" / "stack2"
    folder.mkdir(parents=True)
    for name in ("image.tif", "labels.tif"):
        tifffile.imwrite(folder / name, np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="results were made on"):
        problems.read_pair("stack2", tmp_path)


def test_the_real_stack_is_the_one_the_results_were_made_on(data_dir: Path) -> None:
    problem = load("stack2_field", 0, data_dir)
    assert problem.train[0][0].shape == (2, 21, 512, 288)
    assert 0 < problem.train[0][1].mean() < 0.2
