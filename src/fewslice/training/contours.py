"""The stage that trains a contour proposal network on planes whose objects are annotated one by one.

1. `ContourConfig` says how; `resolved_contours` fills what follows from the data: patch and depth; `measured_contours`
   how large objects are, from the annotation that may be learned from.
2. `contour_stage` makes the stage: patches of ids, targets made of them after augmentation, the six losses.
3. `HeldOutObjects` matches what is proposed on held-out planes with the objects there: F1, and the best threshold.
4. `finished_contour_model` wraps the trained network with what prediction needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import fastremap
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy import ndimage
from skimage.draw import polygon as filled

from fewslice import losses
from fewslice.data import augmentation
from fewslice.data.contour_targets import contour_targets
from fewslice.data.contours import largest_parts
from fewslice.data.normalisation import Method, Normalisation
from fewslice.data.patches import Batch, PatchSampler, TrainingVolume
from fewslice.errors import InputError
from fewslice.model import Model, NetworkStep, build_network
from fewslice.morphology.proposals import Proposals, suppress
from fewslice.networks.contour_proposals import ContourProposals, contours_at, refine
from fewslice.training.fit import Fitted
from fewslice.training.held_out import tiles
from fewslice.training.segmentation import PatchSize, network_of_a_kind, resolved
from fewslice.training.stage import Schedule, Stage, Validation
from fewslice.training.task import Task

__all__ = [
    "ContourConfig",
    "HeldOutObjects",
    "LossWeights",
    "contour_stage",
    "finished_contour_model",
    "measured_contours",
    "resolved_contours",
    "split_objects",
]

Triple = tuple[int, int, int]

_VALIDATION_VOXELS = 2**22
_LOWEST, _HIGHEST = 0.2, 0.99
"""Thresholds tried on held-out objects."""
_DEFAULT_THRESHOLD = 0.9
_MATCHED = 0.5
_REACH_MARGIN = 1.25
_PLANES_MEASURED = 64


class LossWeights(BaseModel):
    """Weights of the losses, which but for the score's are taken at positive positions.

    Those of lengths (location, Fourier coefficients, contour, refinement) are in multiples of the objects' typical
    radius rather than in pixels: so the weights mean the same whatever the pixel, and large objects do not drown the
    score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: float = Field(1.0, ge=0)
    location: float = Field(1.0, ge=0)
    fourier: float = Field(1.0, ge=0)
    contour: float = Field(3.0, ge=0)
    refinement: float = Field(1.0, ge=0)
    box: float = Field(1.0, ge=0)


class ContourConfig(BaseModel):
    """How a contour proposal network is trained.

    Attributes
    ----------
    network
        Its ``kind`` and that kind's settings.
    patch
        (z, y, x) voxels per training patch, 1 along the axis of the planes; by default about 256².
    batch_size
        Patches per step; by default as many as make 2¹⁹ voxels, at least 2.
    learning_rate, weight_decay
        Of AdamW: peak of the schedule; decay per step times the learning rate.
    loss_weights
        How much each loss counts.
    foreground
        Share of patches drawn around objects, 0–1.
    overlap
        Largest IoU of the boxes of two objects that are both found, 0–1.
    threshold
        Score from which on a contour is proposed, 0–1; by default the best on held-out annotation, 0.9 without any.
    augment
        Augmentation.
    normalisation
        ``robust``, ``unit``, ``range`` or ``none``; see :class:`fewslice.data.normalisation.Normalisation`.
    schedule
        Learning rate, averaging of weights, validation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: dict[str, Any] = Field(default={"kind": "contour_proposals"}, validate_default=True)
    patch: PatchSize = None
    batch_size: int | None = Field(None, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    loss_weights: LossWeights = Field(default_factory=LossWeights)
    foreground: float = Field(0.5, ge=0, le=1)
    overlap: float = Field(0.2, ge=0, le=1)
    threshold: float | None = Field(None, ge=0, le=1)
    augment: augmentation.Config = Field(default_factory=augmentation.Config)
    normalisation: Method = "robust"
    schedule: Schedule = Field(default_factory=Schedule)

    @field_validator("network")
    @classmethod
    def _network_of_a_kind(cls, value: dict[str, Any]) -> dict[str, Any]:
        return network_of_a_kind(value, "contours")


def resolved_contours(config: ContourConfig, task: Task) -> ContourConfig:
    """Fill in what follows from the data: patch, batch size and depth.

    Raises
    ------
    InputError
        If labels are not instances, a patch exceeds a sample, or a sample is too small for the network.
    """
    task.check_instances()
    return resolved(config, task)


def measured_contours(config: ContourConfig, task: Task) -> ContourConfig:
    """Fill in the objects' typical radius and reach, as they are where training may learn.

    The radius is that of a circle of the median area. The reach is a quarter more than the extent that 99 % of the
    objects do not exceed: no point of a contour lies further from a position inside.

    Raises
    ------
    InputError
        If there is no object.
    """
    network = dict(config.network)
    if network["radius"] is None or network["reach"] is None:
        area, extent = _sizes(task)
        if network["radius"] is None:
            network["radius"] = round(math.sqrt(float(np.median(area)) / math.pi), 2)
        if network["reach"] is None:
            network["reach"] = math.ceil(_REACH_MARGIN * float(np.percentile(extent, 99)))
    return config.model_copy(update={"network": network})


def split_objects(task: Task) -> int:
    """Return how many objects of the annotated planes lie there in several parts, of which the largest is learned."""
    return sum(len(largest_parts(plane)[1]) for plane in _annotated_planes(task))


def _annotated_planes(task: Task) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield planes of ids, at most 64 of a sample, evenly chosen; without objects that are partly held out."""
    axis = task.plane_axis()
    others = tuple(a for a in range(3) if a != axis)
    for sample, mask in zip(task.samples, task.train_masks, strict=True):
        if sample.annotation is not None and mask is not None and mask.any():
            known = np.flatnonzero(mask.any(axis=others))
            for index in known[:: -(-len(known) // _PLANES_MEASURED)]:
                plane, annotated = (
                    a.take(index, axis) for a in (sample.annotation.labels, sample.annotation.annotated)
                )
                learned = mask.take(index, axis)
                yield np.where(learned & ~np.isin(plane, plane[annotated & ~learned]), plane, 0)


def _sizes(task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return area and larger extent of the objects in the annotated planes, in pixels."""
    area, extent = [], []
    for plane in _annotated_planes(task):
        small, _ = fastremap.renumber(np.ascontiguousarray(plane), preserve_zero=True)
        area.append(np.bincount(small.ravel())[1:])
        found = ndimage.find_objects(small.astype(np.int32))
        extent.append(np.array([max(s.stop - s.start for s in box) for box in found], dtype=np.int64))
    if not sum(map(len, area)):
        raise InputError("no object lies whole in the planes that training learns from; annotate a plane with objects")
    return np.concatenate(area), np.concatenate(extent)


# ------------------------------------------------------------------------------------------------------------ training


def contour_stage(
    task: Task,
    name: str,
    config: ContourConfig,
    volumes: Sequence[TrainingVolume],
    *,
    initial: Mapping[str, torch.Tensor] | None = None,
) -> Stage:
    """Make the stage that trains one contour proposal network.

    Parameters
    ----------
    task
        The data around it.
    name
        The stage's name.
    config
        Resolved settings.
    volumes
        What to learn from, with ``instances``.
    initial
        Weights to start from.
    """
    assert config.patch is not None and config.batch_size is not None
    torch.manual_seed(task.seed)
    network = build_network(config.network, task.channels, task.classes + 1)
    assert isinstance(network, ContourProposals)
    normalisation = task.normalisation(config.normalisation)
    sampler = PatchSampler(
        volumes=volumes,
        normalisation=normalisation,
        patch=config.patch,
        batch_size=config.batch_size,
        classes=task.classes,
        foreground=config.foreground,
        augment=config.augment,
        seed=task.seed,
        plane_axis=task.plane_axis(),
        voxel_size_um=task.voxel_size_um,
    )
    order, samples, classes = network.config.order, network.config.samples, task.classes

    def batch(step: int) -> Batch:
        drawn = sampler.batch(step)
        ids, weight = drawn.target.numpy(), drawn.weight.numpy()
        return replace(drawn, contours=contour_targets(ids, weight, classes=classes, order=order, samples=samples))

    held_out = HeldOutObjects(task, config, normalisation)
    return Stage(
        name=name,
        modules={"network": network},
        optimisers={
            "network": torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        },
        batches=batch,
        step=_contour_step(config, network),
        validate=held_out.validate,
        schedule=config.schedule,
        initial={"network": initial} if initial else {},
    )


def _contour_step(
    config: ContourConfig, network: ContourProposals
) -> Callable[[Stage, Batch, torch.Generator, Callable[[torch.Tensor], None]], dict[str, torch.Tensor]]:
    iterations, reach = network.config.refinement_iterations, network.reach

    def step(
        stage: Stage, batch: Batch, generator: torch.Generator, backward: Callable[[torch.Tensor], None]
    ) -> dict[str, torch.Tensor]:
        del generator
        truth = batch.contours
        assert truth is not None
        maps = stage.modules["network"](batch.image.contiguous(memory_format=torch.channels_last))
        contour = truth.contour[truth.objects]
        points, centre, coefficients = contours_at(maps, truth.anchors, contour.shape[1])
        refined = refine(points, truth.anchors, maps.refinement, iterations, reach)
        lengths = {
            "location": losses.mean_l1(centre, truth.centre[truth.objects]),
            "fourier": losses.fourier_l1(coefficients, truth.coefficients[truth.objects]),
            "contour": losses.mean_l1(points, contour),
        }
        if refined:  # at every iteration
            lengths["refinement"] = torch.stack([losses.mean_l1(moved, contour) for moved in refined]).sum()
        found = {name: loss / network.radius for name, loss in lengths.items()}
        found["score"] = losses.score_cross_entropy(maps.score, truth.score)
        found["box"] = losses.generalised_box_iou(_boxes(points), _boxes(contour))
        weights = config.loss_weights.model_dump()
        total = torch.stack([weights[name] * loss for name, loss in found.items()]).sum()
        stage.optimisers["network"].zero_grad()
        backward(total)
        torch.nn.utils.clip_grad_norm_(stage.modules["network"].parameters(), 12.0)
        stage.optimisers["network"].step()
        return {"total": total, **found}

    return step


def _boxes(points: torch.Tensor) -> torch.Tensor:
    return torch.cat((points.amin(dim=1), points.amax(dim=1)), dim=1)


# ---------------------------------------------------------------------------------------------------------- validation


@dataclass(frozen=True)
class _Matches:
    """Contours that count, and whether each found an object, with the number of objects to be found."""

    scores: NDArray[np.float32]
    hits: NDArray[np.bool_]
    objects: int


class HeldOutObjects:
    """F1 of the objects found on held-out planes at IoU 0.5, class by class, and the threshold that is best there.

    Objects and contours are compared on held-out pixels only, and count where at least half of their area is held out.

    Parameters
    ----------
    task
        The data and what is held out.
    config
        Resolved settings.
    normalisation
        Of the images.
    """

    def __init__(self, task: Task, config: ContourConfig, normalisation: Normalisation) -> None:
        self.task, self.config, self.normalisation = task, config, normalisation
        assert config.patch is not None
        self.tiles = []
        if task.has_validation:
            blank = self._model(build_network(config.network, task.channels, task.classes + 1))
            axis = blank.plane_axis
            self.tiles = tiles(
                task,
                [1 if a == axis else 2 * p for a, p in enumerate(config.patch)],
                [min(h, p) if a != axis else 0 for a, (h, p) in enumerate(zip(blank.halo, config.patch, strict=True))],
                blank.divisor,
                voxels=_VALIDATION_VOXELS,
                flat_axis=axis,
            )

    def _model(self, network: torch.nn.Module) -> Model:
        return Model(
            [contour_network_step(self.task, self.config)],
            [network],
            normalisation=self.normalisation,
            class_values=self.task.class_values,
        )

    def validate(self, stage: Stage) -> Validation | None:
        """Measure the current weights; None where nothing is held out."""
        if not self.tiles:
            return None
        network = stage.modules["network"]
        model = self._model(getattr(network, "module", network))
        axis = model.plane_axis
        lowest = _LOWEST if self.config.threshold is None else self.config.threshold
        parts = []
        for tile in self.tiles:
            sample = self.task.samples[tile.sample]
            mask = self.task.validation_masks[tile.sample]
            assert sample.annotation is not None and mask is not None
            _, proposals = model.proposals(sample.image.read(tile.read), lowest)
            kept = suppress(proposals, overlap=self.config.overlap)
            known = np.zeros(tile.read.shape, bool)
            known[tile.crop.slices] = mask[tile.inner.slices]
            truth = sample.annotation.labels[tile.read.slices].take(0, axis)
            parts.append(_matched(kept, truth, known.take(0, axis), sample.annotation.class_by_id or {}))
        scores = np.concatenate([part.scores for part in parts])
        hits = np.concatenate([part.hits for part in parts])
        objects = sum(part.objects for part in parts)
        threshold, f1 = _best_threshold(scores, hits, objects, self.config.threshold)
        found = scores >= threshold
        figures = {
            "f1": round(f1, 5),
            "threshold": threshold,
            "precision": round(float(hits[found].mean()), 5) if found.any() else None,
            "recall": round(float(hits[found].sum()) / objects, 5) if objects else None,
            "objects": objects,
        }
        return Validation(f1, figures)


def _matched(
    proposals: Proposals,
    truth: NDArray[np.unsignedinteger],
    known: NDArray[np.bool_],
    class_by_id: Mapping[int, int],
) -> _Matches:
    """Match contours, best first, each with the object of its class that it overlaps most, if free and IoU ≥ 0.5.

    Contours overlap, and are hits or not whatever worse ones do, so that one pass gives F1 at every threshold of the
    score; :func:`fewslice.metrics.instance.match` matches labels, at one threshold.

    Parameters
    ----------
    proposals
        Of one plane, by descending score.
    truth
        (y, x) ids, 0 = background.
    known
        (y, x) where truth counts.
    class_by_id
        Class of each object; 1 where it is not named.
    """
    small, renumbered = fastremap.renumber(np.ascontiguousarray(truth), preserve_zero=True)
    whole = np.bincount(small.ravel())
    category = np.ones(len(whole), dtype=np.uint8)
    for identity, number in renumbered.items():
        category[int(number)] = class_by_id.get(int(identity), 1)
    area = np.bincount(small[known], minlength=len(whole))
    free = 2 * area >= np.maximum(whole, 1)
    free[0] = False
    objects = int(free.sum())
    counted, hits = [], []
    for index, contour in enumerate(proposals.contour):
        pixels = filled(contour[:, 0], contour[:, 1], truth.shape)
        inside = known[pixels]
        size = int(inside.sum())
        if not size or 2 * size < len(inside):
            continue
        common = np.bincount(small[pixels][inside], minlength=len(whole))
        common[0] = 0
        common[category != proposals.category[index]] = 0
        best = int(common.argmax())
        hit = bool(free[best]) and common[best] >= _MATCHED * (size + area[best] - common[best])
        free[best] &= not hit
        counted.append(index)
        hits.append(hit)
    return _Matches(proposals.score[counted], np.array(hits, dtype=bool), objects)


def _best_threshold(
    scores: NDArray[np.float32], hits: NDArray[np.bool_], objects: int, given: float | None
) -> tuple[float, float]:
    """Return the threshold in hundredths of the best F1, the middle of equals, and that F1; or F1 at the given one."""
    tried = np.arange(round(100 * _LOWEST), round(100 * _HIGHEST) + 1) / 100 if given is None else np.array([given])
    above = scores[None] >= tried[:, None]
    f1 = 2.0 * (above & hits[None]).sum(1) / np.maximum(above.sum(1) + objects, 1)
    equals = np.flatnonzero(f1 >= f1.max() - 1e-12)
    index = int(equals[len(equals) // 2])
    return float(tried[index]), float(f1[index])


# --------------------------------------------------------------------------------------------------------------- model


def contour_network_step(task: Task, config: ContourConfig) -> NetworkStep:
    """Describe the network as the only step of a model."""
    return NetworkStep(
        network=config.network,
        in_channels=task.channels,
        out_channels=task.classes + 1,
        plane_axis=task.plane_axis(),
    )


def finished_contour_model(task: Task, config: ContourConfig, fitted: Fitted, *, strategy: str) -> Model:
    """Wrap trained weights with what prediction needs; the threshold comes from validation.

    The halo is the whole receptive field and the reach of contours, so that proposals do not depend on how an image is
    cut into blocks.

    Parameters
    ----------
    task
        The data.
    config, fitted
        The stage's resolved settings and its result.
    strategy
        Name for the provenance.
    """
    assert config.patch is not None
    step = contour_network_step(task, config)
    network = build_network(config.network, step.in_channels, step.out_channels)
    network.load_state_dict(fitted.weights["network"])
    threshold, origin = _DEFAULT_THRESHOLD, "default"
    if config.threshold is not None:
        threshold, origin = config.threshold, "settings"
    elif fitted.validation:
        threshold, origin = float(fitted.validation["threshold"]), "held-out annotation"
    return Model(
        [step],
        [network],
        normalisation=task.normalisation(config.normalisation),
        class_values=task.class_values,
        threshold=threshold,
        voxel_size_um=task.voxel_size_um,
        patch=config.patch,
        provenance={
            "strategy": strategy,
            "seed": task.seed,
            "training_data": [sample.name for sample in task.samples],
            "licence": "of the training data's owner; fewslice claims none",
            "threshold_from": origin,
        },
    )
