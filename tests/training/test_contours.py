"""The stage of contours: settings from the annotation, matching and threshold by hand, losses of whoever knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fewslice.annotation import Annotation, from_labels
from fewslice.data.contour_targets import contour_targets
from fewslice.data.contours import fourier_points
from fewslice.data.patches import Batch
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.morphology.proposals import Proposals
from fewslice.networks.contour_proposals import ProposalMaps
from fewslice.training import contours as module
from fewslice.training.contours import (
    ContourConfig,
    contour_stage,
    measured_contours,
    resolved_contours,
    split_objects,
)
from fewslice.training.fit import Hardware
from fewslice.training.run_folder import RunFolder
from fewslice.training.task import Task
from fewslice.volume import Volume

TINY: dict[str, Any] = {
    "network": {"kind": "contour_proposals", "features": 4, "depth": 2, "order": 2, "samples": 8},
    "patch": (1, 32, 32),
    "batch_size": 2,
}
RADIUS = 4.51
"""Of a circle as large as a square of 8 pixels."""


def _labels(shape: tuple[int, int, int] = (2, 64, 64)) -> Any:
    """Squares of 8 pixels on a grid of 16."""
    labels = np.zeros(shape, np.uint32)
    for index, (z, y, x) in enumerate(np.ndindex(shape[0], shape[1] // 16, shape[2] // 16)):
        labels[z, 16 * y + 4 : 16 * y + 12, 16 * x + 4 : 16 * x + 12] = index + 1
    return labels


def _task(annotation: Annotation, folder: Path, held: Any = None) -> Task:
    image = Volume.from_array((annotation.labels > 0).astype(np.float32))
    away = np.zeros(annotation.shape, bool) if held is None else held
    return Task(
        [Sample("s", image, annotation)],
        [annotation.annotated & ~away],
        [annotation.annotated & away],
        (1,),
        RunFolder(folder),
        hardware=Hardware(device="cpu", bfloat16=False),
    )


def _settled(settings: dict[str, Any], task: Task) -> ContourConfig:
    return measured_contours(resolved_contours(ContourConfig(**settings), task), task)


def _proposals(squares: list[Any], scores: list[float], categories: list[int] | None = None) -> Proposals:
    count = len(scores)
    return Proposals(
        np.zeros((count, 3), np.int64),
        np.array(scores, np.float32),
        np.array(categories or [1] * count, np.uint8),
        np.stack(squares),
    )


def _square(y: float, x: float, extent: float) -> Any:
    return np.array([(y, x), (y, x + extent), (y + extent, x + extent), (y + extent, x)], np.float32) - 0.4


# ----------------------------------------------------------------------------------------------------------- settings


def test_radius_and_reach_come_from_the_annotation(tmp_path: Path) -> None:
    """Squares of 8 × 8: the radius of a circle of 64 pixels, and a quarter more than 8."""
    annotation = from_labels(_labels(), kind="instances")
    found = _settled(TINY, _task(annotation, tmp_path)).network
    assert found["radius"] == pytest.approx(np.sqrt(64 / np.pi), abs=0.01) and found["reach"] == 10
    given = TINY | {"network": TINY["network"] | {"radius": 3.0, "reach": 5}}
    found = _settled(given, _task(annotation, tmp_path)).network
    assert (found["radius"], found["reach"]) == (3.0, 5)


def test_held_out_and_unknown_objects_decide_no_size(tmp_path: Path) -> None:
    """A huge object on a held-out plane, or where nothing is annotated, changes neither radius nor reach."""
    labels = _labels((3, 64, 64))
    held, annotated = np.zeros(labels.shape, bool), np.ones(labels.shape, bool)
    held[1], annotated[2] = True, False
    held[0, :32], annotated[0, 48:] = True, False
    usual = _settled(TINY, _task(Annotation(labels, annotated, kind="instances"), tmp_path, held)).network
    assert usual["radius"] == pytest.approx(RADIUS, abs=0.01) and usual["reach"] == 10
    labels[1:, 4:60, 4:60] = 99
    labels[0, 4:40, 4:12] = 98  # in part held out
    found = _settled(TINY, _task(Annotation(labels, annotated, kind="instances"), tmp_path, held)).network
    assert found == usual
    with pytest.raises(InputError, match="no object lies whole"):
        _settled(TINY, _task(Annotation(labels, annotated, kind="instances"), tmp_path, np.ones(labels.shape, bool)))


def test_classes_and_other_networks_are_refused(tmp_path: Path) -> None:
    task = _task(from_labels(np.minimum(_labels(), 1)), tmp_path)
    with pytest.raises(InputError, match="--label-kind instances"):
        resolved_contours(ContourConfig(**TINY), task)
    with pytest.raises(ValidationError, match="unet is not for contours"):
        ContourConfig(network={"kind": "unet", "dims": 2})


def test_split_objects_are_counted_plane_by_plane(tmp_path: Path) -> None:
    labels = _labels()
    labels[0, 0, 0] = labels[0, 5, 5]
    labels[1, :2, :2] = labels[0, 5, 5]
    labels[1, 30, 0] = labels[0, 5, 5]
    assert split_objects(_task(from_labels(labels, kind="instances"), tmp_path)) == 2
    assert split_objects(_task(from_labels(_labels(), kind="instances"), tmp_path)) == 0


# ----------------------------------------------------------------------------------------------------------- matching


def test_matching_by_hand() -> None:
    """Three objects and five contours, best first.

    The first covers object 1 exactly, the second 1 again (taken), the third half of object 2's 16 pixels and 8 others
    (IoU 8/24), the fourth 12 of its pixels and 4 others (IoU 12/20 ≥ 1/2), the fifth lies where nothing is known.
    """
    truth = np.zeros((12, 24), np.uint32)
    truth[1:5, 1:5] = 70_000
    truth[1:5, 9:13] = 8
    truth[1:5, 19:23] = 9
    known = np.ones(truth.shape, bool)
    known[:, 17:] = False
    squares = [_square(1, 1, 3.8), _square(1, 1, 3.8), _square(1, 11, 3.8), _square(1, 10, 3.8), _square(7, 18, 3)]
    proposals = _proposals(squares, [0.9, 0.8, 0.7, 0.6, 0.5])
    found = module._matched(proposals, truth, known, {})
    assert found.objects == 2 and found.hits.tolist() == [True, False, False, True]
    assert found.scores.tolist() == proposals.score[:4].tolist()


def test_matching_is_within_classes() -> None:
    """A contour of class 1 on an object of class 2 is wrong and leaves it free; one of class 2 finds it."""
    truth = np.zeros((12, 24), np.uint32)
    truth[1:5, 1:5] = 70_000
    truth[1:5, 9:13] = 8
    squares = [_square(1, 9, 3.8), _square(1, 9, 3.8), _square(1, 1, 3.8)]
    proposals = _proposals(squares, [0.9, 0.8, 0.7], [1, 2, 1])
    found = module._matched(proposals, truth, np.ones(truth.shape, bool), {8: 2})
    assert found.objects == 2 and found.hits.tolist() == [False, True, True]


def test_an_object_counts_where_half_of_it_is_held_out() -> None:
    truth = np.zeros((8, 16), np.uint32)
    truth[2:6, 2:6] = 1
    known = np.ones(truth.shape, bool)
    for first, counts in ((4, True), (5, False)):
        known[:] = False
        known[:, first:] = True
        found = module._matched(_proposals([_square(2, 2, 3.8)], [1.0]), truth, known, {})
        assert (found.objects, found.hits.tolist()) == ((1, [True]) if counts else (0, []))


def test_the_threshold_is_the_middle_of_the_best_by_hand() -> None:
    """Two hits above 0.6 of three objects: F1 4/5 between the false contour's score and the second hit's."""
    scores = np.array([0.9, 0.61, 0.41, 0.3], np.float32)
    hits = np.array([True, True, False, True])
    threshold, f1 = module._best_threshold(scores, hits, 3, None)
    # with all four contours 2·3/(4 + 3) = 0.857 is better still
    assert f1 == pytest.approx(6 / 7) and 0.2 <= threshold <= 0.3
    hits[3] = False
    threshold, f1 = module._best_threshold(scores, hits, 3, None)
    assert f1 == pytest.approx(4 / 5) and 0.41 < threshold <= 0.61 and threshold == pytest.approx(0.51, abs=0.011)
    assert module._best_threshold(scores, hits, 3, 0.7) == (0.7, pytest.approx(2 / 4))
    assert module._best_threshold(scores[:0], hits[:0], 3, None)[1] == 0.0


# ------------------------------------------------------------------------------------------------------------ training


def _batch(ids: Any, weight: Any, order: int = 2, samples: int = 8) -> Batch:
    targets = contour_targets(ids, weight, classes=1, order=order, samples=samples)
    image = torch.from_numpy(ids[:, None].astype(np.float32))
    return Batch(image, torch.from_numpy(ids), torch.from_numpy(weight), contours=targets)


class _Knows(torch.nn.Module):
    """Says exactly what the targets are, but for the refinement, which says `shift`."""

    def __init__(self, batch: Batch, shift: float = 0.0) -> None:
        super().__init__()
        self.batch, self.shift = batch, shift
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> ProposalMaps:
        truth = self.batch.contours
        assert truth is not None
        score = torch.where(truth.score > 0, 40.0, -40.0)[:, None] + 0 * self.unused
        location = torch.zeros(len(x), 2, *score.shape[2:])
        fourier = torch.zeros(len(x), 4 * truth.coefficients.shape[1], *score.shape[2:])
        image, row, column = truth.anchors.unbind(1)
        location[image, :, row, column] = truth.centre[truth.objects] - 2.0 * truth.anchors[:, 1:] - 0.5
        fourier[image, :, row, column] = truth.coefficients[truth.objects].flatten(1)
        return ProposalMaps(score, location, fourier, torch.full((len(x), 2, *x.shape[2:]), self.shift))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_whoever_knows_the_targets_has_no_loss_but_what_two_harmonics_cannot_say(tmp_path: Path, shift: float) -> None:
    """That much is left of contour and box, in radii. A field of ½ px everywhere moves points by ½, 1, 1½ and 2 px."""
    ids = _labels().astype(np.int64)
    batch = _batch(ids, np.ones(ids.shape, np.float32))
    task = _task(from_labels(_labels(), kind="instances"), tmp_path)
    stage = contour_stage(task, "propose", _settled(TINY, task), task.instance_volumes())
    stage.modules["network"] = _Knows(batch, shift)
    found = stage.step(stage, batch, torch.Generator(), lambda loss: loss.backward())
    values = {name: float(loss.detach()) for name, loss in found.items()}
    assert all(values[name] < 1e-5 for name in ("score", "location", "fourier"))
    truth = batch.contours
    assert truth is not None
    said = fourier_points(truth.centre.numpy(), truth.coefficients.numpy(), 8)
    off = (said - truth.contour.numpy()) / RADIUS
    shift /= RADIUS
    assert values["contour"] == pytest.approx(np.abs(off).mean(), abs=1e-5) and 0.02 < values["contour"] < 0.15
    moved = sum(np.abs(off + shift * k).mean() for k in (1, 2, 3, 4))
    assert values["refinement"] == pytest.approx(moved, abs=1e-4)
    weighted = 3 * values["contour"] + values["refinement"] + values["box"]
    assert values["total"] == pytest.approx(weighted, abs=1e-4)


def test_a_batch_without_annotation_moves_nothing_but_by_decay(tmp_path: Path) -> None:
    """All losses are 0 and finite where nothing is known, and so are gradients."""
    task = _task(from_labels(_labels(), kind="instances"), tmp_path)
    config = _settled(TINY | {"weight_decay": 0.0}, task)
    stage = contour_stage(task, "propose", config, task.instance_volumes())
    ids = np.zeros((2, 32, 32), np.int64)
    batch = _batch(ids, np.zeros(ids.shape, np.float32))
    before = {k: v.clone() for k, v in stage.modules["network"].named_parameters()}
    found = stage.step(stage, batch, torch.Generator(), lambda loss: loss.backward())
    assert all(float(loss.detach()) == 0 for loss in found.values())
    assert all(torch.equal(v, before[k]) for k, v in stage.modules["network"].named_parameters())


def test_validation_says_how_many_objects_are_found(tmp_path: Path) -> None:
    """A network that knows where the held-out squares are finds all of them; one that says no finds none."""
    labels = _labels((1, 64, 64))
    held = np.zeros(labels.shape, bool)
    held[:, :, 32:] = True
    task = _task(from_labels(labels, kind="instances"), tmp_path, held)
    given = TINY | {"network": TINY["network"] | {"refinement_iterations": 0}}
    config = _settled(given, task)
    stage = contour_stage(task, "propose", config, task.instance_volumes())
    network: Any = stage.modules["network"]

    def maps(x: torch.Tensor) -> ProposalMaps:
        """Bright where the image is: score from the middle of the squares, contours squares of 8."""
        plane = (x[:, 0].numpy() > x.min().item() + 0.5 * (x.max() - x.min()).item()).astype(np.uint32)
        ids = np.stack([_renumbered(p) for p in plane])
        return _Knows(_batch(ids, np.ones(ids.shape, np.float32)))(x)

    network.forward = maps
    found = stage.validate(stage)
    assert found is not None and found.score == 1.0
    assert found.figures["objects"] == 8 and found.figures["precision"] == found.figures["recall"] == 1.0
    network.forward = lambda x: maps(x)._replace(score=torch.full((len(x), 1, x.shape[2] // 2, x.shape[3] // 2), -9.0))
    found = stage.validate(stage)
    assert found is not None and found.score == 0.0 and found.figures["precision"] is None


def _renumbered(plane: Any) -> Any:
    from skimage.measure import label

    return label(plane, connectivity=1).astype(np.int64)
