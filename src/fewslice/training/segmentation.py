"""The stage that trains one segmentation network, 2D or 3D; every strategy is made of it.

1. `SegmentationConfig` says how; `resolved` fills what follows from the data (patch, pooling).
2. `segmentation_stage` makes the stage: network, optimiser, patches, loss.
3. `HeldOut` measures Dice on held-out annotated voxels and finds the threshold there.
4. `finished_model` wraps the trained network with what prediction needs, its halo measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from fewslice import losses, registry
from fewslice.data import augmentation
from fewslice.data.normalisation import Method, Normalisation
from fewslice.data.patches import Batch, PatchSampler, TrainingVolume
from fewslice.errors import InputError
from fewslice.geometry import Box, cover
from fewslice.metrics import semantic
from fewslice.model import Model, NetworkStep, build_network
from fewslice.training.fit import Fitted
from fewslice.training.stage import Schedule, Stage, Validation
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["SegmentationConfig", "finished_model", "resolved", "segmentation_stage"]

Triple = tuple[int, int, int]

_PATCH_VOXELS = {2: 2**16, 3: 2**17}
_BATCH_VOXELS = {2: 2**19, 3: 2**18}
_VALIDATION_VOXELS = 2**22
_THRESHOLDS = 100


class SegmentationConfig(BaseModel):
    """How one segmentation network is trained.

    Attributes
    ----------
    network
        Its ``kind`` and that kind's settings.
    patch
        (z, y, x) voxels per training patch; by default about 256² for 2D and 2¹⁷ voxels for 3D networks, shaped by the
        voxel and limited by the smallest sample. 2D networks have 1 along the axis of the planes.
    batch_size
        Patches per step; by default as many as make 2¹⁹ (2D) or 2¹⁸ (3D) voxels, at least 2.
    optimiser
        ``adamw``, ``rmsprop`` or ``sgd`` (Nesterov momentum 0.99).
    learning_rate, weight_decay
        Peak of the schedule; decay per step times the learning rate.
    loss
        ``dice_cross_entropy``, ``cross_entropy`` or ``dice``.
    class_weights
        Weigh classes by the inverse square root of how often they are annotated.
    weighting
        ``map``: one weight map, Σwℓ/Σw. ``terms``: the cross-entropy is the mean over annotated voxels plus α times
        the mean over pseudo-labelled ones, whatever their numbers.
    foreground
        Share of patches drawn around foreground, 0–1.
    augment
        Augmentation.
    normalisation
        ``robust`` or ``unit``.
    views
        In-plane views averaged at prediction: 1, 4 or 8.
    schedule
        Learning rate, averaging of weights, validation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: dict[str, Any]
    patch: Triple | None = None
    batch_size: int | None = Field(None, ge=1)
    optimiser: Literal["adamw", "rmsprop", "sgd"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    loss: Literal["dice_cross_entropy", "cross_entropy", "dice"] = "dice_cross_entropy"
    class_weights: bool = False
    weighting: Literal["map", "terms"] = "map"
    foreground: float = Field(0.5, ge=0, le=1)
    augment: augmentation.Config = Field(default_factory=augmentation.Config)
    normalisation: Method = "robust"
    views: Literal[1, 4, 8] = 4
    schedule: Schedule = Field(default_factory=Schedule)

    @field_validator("network")
    @classmethod
    def _network_of_a_kind(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Check the settings against the kind's own configuration and fill in its defaults."""
        if "kind" not in value:
            raise ValueError(f"name its kind, one of {', '.join(registry.names('networks'))}")
        module = registry.load("networks", str(value["kind"]))
        config = module.Config(**{k: v for k, v in value.items() if k != "kind"})
        return {"kind": value["kind"], **config.model_dump(mode="json")}

    @field_validator("patch")
    @classmethod
    def _positive_patch(cls, value: Triple | None) -> Triple | None:
        if value is not None and min(value) < 1:
            raise ValueError(f"patch {value} must be positive along z, y and x")
        return value


def dims_of(config: SegmentationConfig) -> int:
    """Return 2 or 3: how many spatial dimensions the network sees."""
    module = registry.load("networks", config.network["kind"])
    return int(config.network.get("dims", getattr(module, "DIMS", 2)))


def resolved(config: SegmentationConfig, task: Task) -> SegmentationConfig:
    """Fill in what follows from the data: patch, batch size and, for U-Nets, pooling.

    Raises
    ------
    InputError
        If a patch that was asked for exceeds a sample, or a sample is too small for the network.
    """
    dims = dims_of(config)
    smallest, voxel = task.smallest_shape, task.voxel_size_um
    axis = task.plane_axis() if dims == 2 else None
    if dims == 3 and min(smallest) < 2:
        raise InputError(
            f"a 3D network needs several planes, but the smallest image is {smallest} (z, y, x); "
            "use --strategy slices_2d or give a deeper volume"
        )
    asked = config.patch
    patch = asked or _default_patch(smallest, voxel, dims, axis)
    if axis is not None and patch[axis] != 1:
        raise InputError(
            f"patch {patch} (z, y, x) is {patch[axis]} thick along {'zyx'[axis]}, but a 2D network learns planes of "
            "that axis one by one; set 1 there"
        )
    for sample in task.samples:
        if any(p > s for p, s in zip(patch, sample.image.shape, strict=True)):
            raise InputError(
                f"patch {patch} (z, y, x) exceeds {sample.image.source} {sample.image.shape}; "
                "set a smaller patch with --set or leave it out"
            )
    network = _adapted(config.network, voxel, patch, axis)
    divisor = _divisor(network, axis)
    fitting = tuple(p // d * d for p, d in zip(patch, divisor, strict=True))
    if min(fitting) < 1:
        small = min(task.samples, key=lambda s: min(n / d for n, d in zip(s.image.shape, divisor, strict=True)))
        raise InputError(
            f"{small.image.source} {small.image.shape} (z, y, x) is below the {divisor} that the network needs; "
            "set a smaller network.depth or give larger images"
        )
    if asked is not None and fitting != patch:
        raise InputError(
            f"patch {patch} (z, y, x) is not a multiple of the network's divisor {divisor}; set patch to {fitting}"
        )
    patch = (fitting[0], fitting[1], fitting[2])
    batch = config.batch_size or int(np.clip(_BATCH_VOXELS[dims] // int(np.prod(patch)), 2, 16))
    return config.model_copy(update={"network": network, "patch": patch, "batch_size": batch})


def _adapted(
    settings: dict[str, Any], voxel: tuple[float, float, float] | None, patch: Triple, axis: int | None
) -> dict[str, Any]:
    """Let the network's kind fill in what follows from voxel and patch, planes being seen in their own orientation."""
    order = [0, 1, 2]
    if axis is not None:
        order.insert(0, order.pop(axis))
    seen = (patch[order[0]], patch[order[1]], patch[order[2]])
    spacing = None if voxel is None else (voxel[order[0]], voxel[order[1]], voxel[order[2]])
    module = registry.load("networks", settings["kind"])
    config = module.Config(**{k: v for k, v in settings.items() if k != "kind"})
    return {"kind": settings["kind"], **config.adapted(spacing, seen).model_dump(mode="json")}


def _divisor(network: dict[str, Any], axis: int | None) -> Triple:
    divisor = [int(d) for d in build_network(network, 1, 2).divisor]  # type: ignore[union-attr]
    if axis is not None:
        divisor.insert(axis, divisor.pop(0))
    return (divisor[0], divisor[1], divisor[2])


def _default_patch(smallest: Triple, voxel: tuple[float, float, float] | None, dims: int, axis: int | None) -> Triple:
    """Grow a patch that is as cubic in µm as the samples allow, in multiples of 8, up to the voxel budget."""
    spacing = np.asarray(voxel if voxel is not None else (1.0, 1.0, 1.0))
    free = [a for a in range(3) if a != axis]
    patch = np.ones(3, dtype=int)
    limits = np.array([max(1, s // 8 * 8) if s >= 8 else s for s in smallest])
    for a in free:
        patch[a] = min(8, limits[a])
    while True:
        growable = [a for a in free if patch[a] + 8 <= limits[a]]
        if not growable:
            break
        a = min(growable, key=lambda i: patch[i] * spacing[i])
        grown = patch.copy()
        grown[a] += 8
        if grown.prod() > _PATCH_VOXELS[dims]:
            break
        patch = grown
    return (int(patch[0]), int(patch[1]), int(patch[2]))


def segmentation_stage(
    task: Task,
    name: str,
    config: SegmentationConfig,
    volumes: Sequence[TrainingVolume],
    *,
    targets: Literal["soft", "hard"] = "soft",
    initial: dict[str, torch.Tensor] | None = None,
) -> Stage:
    """Make the stage that trains one network.

    Parameters
    ----------
    task
        The data around it.
    name
        The stage's name.
    config
        Resolved settings.
    volumes
        What to learn from.
    targets
        Soft or hard pseudo-labels.
    initial
        Weights to start from.
    """
    assert config.patch is not None and config.batch_size is not None
    dims = dims_of(config)
    torch.manual_seed(task.seed)
    network = build_network(config.network, task.channels, task.classes + 1)
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
        plane_axis=task.plane_axis() if dims == 2 else None,
        targets=targets,
        voxel_size_um=task.voxel_size_um,
    )
    weights = _class_weights(task) if config.class_weights else None
    held_out = HeldOut(task, config, normalisation)
    return Stage(
        name=name,
        modules={"network": network},
        optimisers={"network": _optimiser(config, network)},
        batches=sampler.batch,
        step=_supervised_step(config, weights),
        validate=held_out.validate,
        schedule=config.schedule,
        initial={"network": initial} if initial else {},
    )


def _optimiser(config: SegmentationConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimiser == "adamw":
        return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    if config.optimiser == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        network.parameters(), config.learning_rate, momentum=0.99, nesterov=True, weight_decay=config.weight_decay
    )


def _supervised_step(
    config: SegmentationConfig, class_weights: torch.Tensor | None
) -> Callable[[Stage, Batch, torch.Generator, Callable[[torch.Tensor], None]], dict[str, torch.Tensor]]:
    measures: dict[str, Callable[..., torch.Tensor]] = {
        "dice_cross_entropy": losses.dice_cross_entropy,
        "cross_entropy": losses.cross_entropy,
        "dice": losses.soft_dice,
    }
    measure = measures[config.loss]

    def step(
        stage: Stage, batch: Batch, generator: torch.Generator, backward: Callable[[torch.Tensor], None]
    ) -> dict[str, torch.Tensor]:
        del generator
        network = stage.modules["network"]
        logits = network(batch.image.contiguous(memory_format=_layout(batch.image)))
        extra: dict[str, Any] = {}
        if class_weights is not None and config.loss != "dice":
            extra["class_weights"] = class_weights.to(logits.device)
        if config.weighting == "terms" and config.loss != "dice" and batch.pseudo is not None:
            extra["terms"] = batch.pseudo
        loss = measure(logits, batch.target, batch.weight, **extra)
        stage.optimisers["network"].zero_grad()
        backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        stage.optimisers["network"].step()
        return {"total": loss}

    return step


def _layout(x: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _class_weights(task: Task) -> torch.Tensor:
    counts = np.zeros(task.classes + 1, dtype=np.int64)
    for sample, mask in zip(task.samples, task.train_masks, strict=True):
        if sample.annotation is not None and mask is not None:
            counts += np.bincount(sample.annotation.classes[mask].ravel(), minlength=task.classes + 1)
    return losses.balanced_class_weights([int(c) for c in counts])


@dataclass(frozen=True)
class _Tile:
    """A region with held-out voxels: where to read and which part of it counts."""

    sample: int
    read: Box
    inner: Box
    crop: Box


class HeldOut:
    """Dice on held-out annotated voxels, over tiles with context, and the threshold that is best there."""

    def __init__(self, task: Task, config: SegmentationConfig, normalisation: Normalisation) -> None:
        self.task, self.normalisation = task, normalisation
        self.dims = dims_of(config)
        self.axis = task.plane_axis() if self.dims == 2 else 0
        assert config.patch is not None
        self.patch = config.patch
        self.step = NetworkStep(
            network=config.network,
            in_channels=task.channels,
            out_channels=task.classes + 1,
            plane_axis=self.axis,
            views=1,
        )
        self.tiles = self._tiles(config) if task.has_validation else []
        used = {tile.sample for tile in self.tiles}
        self.truth = {
            index: sample.annotation.classes
            for index, sample in enumerate(task.samples)
            if sample.annotation is not None and index in used
        }

    def _model(self, network: nn.Module) -> Model:
        return Model([self.step], [network], normalisation=self.normalisation, class_values=self.task.class_values)

    def _tiles(self, config: SegmentationConfig) -> list[_Tile]:
        """Cut the held-out planes into tiles that are read with the network's halo, but at most a patch of it."""
        model = self._model(build_network(config.network, self.task.channels, self.task.classes + 1))
        inner = tuple(1 if self.dims == 2 and a == self.axis else 2 * p for a, p in enumerate(self.patch))
        context = tuple(min(halo, p) for halo, p in zip(model.receptive_halo, self.patch, strict=True))
        tiles = []
        for index, mask in enumerate(self.task.validation_masks):
            if mask is None or not mask.any():
                continue
            for block in cover(mask.shape, inner, context, model.divisor):
                known = mask[block.write.slices]
                if not known.any():
                    continue
                write = block.write
                if self.dims == 3:  # only as deep as the held-out planes
                    planes = np.flatnonzero(known.any(axis=(1, 2))) + write.start[0]
                    write = Box(
                        (int(planes.min()), *write.start[1:]),
                        (int(planes.max()) + 1, *write.stop[1:]),
                    )
                grown = write.grow(context).clip(mask.shape)
                start = tuple(low // d * d for low, d in zip(grown.start, model.divisor, strict=True))
                read = Box(start, grown.stop)
                tiles.append(_Tile(index, read, write, write.shift(tuple(-v for v in read.start))))
        order = np.random.default_rng([self.task.seed, 3]).permutation(len(tiles))
        chosen: list[_Tile] = []
        voxels = 0
        for i in order:
            if chosen and voxels + tiles[i].read.size > _VALIDATION_VOXELS:
                break
            chosen.append(tiles[i])
            voxels += tiles[i].read.size
        return chosen

    def validate(self, stage: Stage) -> Validation | None:
        """Measure the current weights; None where nothing is held out."""
        if not self.tiles:
            return None
        network = stage.modules["network"]
        bare = getattr(network, "module", network)
        classes = self.task.classes
        model = self._model(bare)
        matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
        histogram = np.zeros((2, _THRESHOLDS + 1), dtype=np.int64)
        for tile in self.tiles:
            sample = self.task.samples[tile.sample]
            mask = self.task.validation_masks[tile.sample]
            assert mask is not None
            p = model.probabilities(sample.image.read(tile.read))[(slice(None), *tile.crop.slices)]
            known = mask[tile.inner.slices]
            truth = self.truth[tile.sample][tile.inner.slices][known]
            foreground = p.sum(0)[known]
            found = np.where(foreground >= 0.5, p.argmax(0)[known] + 1, 0)
            matrix += semantic.confusion(found, truth, classes=classes)
            bins = np.clip((foreground * _THRESHOLDS).astype(int), 0, _THRESHOLDS)
            for value in (0, 1):
                histogram[value] += np.bincount(bins[(truth > 0) == value], minlength=_THRESHOLDS + 1)
        dice = _class_dice(matrix)
        at, best = _best_threshold(histogram)
        figures = {
            "dice": round(float(np.mean(dice)), 5),
            "dice_per_class": [round(d, 5) for d in dice],
            "threshold": at,
            "dice_at_threshold": round(best, 5),
        }
        return Validation(float(np.mean(dice)), figures)


def _class_dice(matrix: NDArray[np.int64]) -> list[float]:
    """Return Dice per foreground class of a (truth, prediction) confusion matrix; a class without truth is left out."""
    out = []
    for k in range(1, len(matrix)):
        total = matrix[k].sum() + matrix[:, k].sum()
        if matrix[k].sum():
            out.append(2.0 * float(matrix[k, k]) / float(total))
    return out or [0.0]


def _best_threshold(histogram: NDArray[np.int64]) -> tuple[float, float]:
    """Return the threshold in 0.05–0.95 with the best foreground Dice, and that Dice; the middle of equals."""
    positive = histogram[1][::-1].cumsum()[::-1]
    negative = histogram[0][::-1].cumsum()[::-1]
    dice = 2.0 * positive / np.maximum(positive + negative + histogram[1].sum(), 1)
    window = dice[5:96]
    equals = np.flatnonzero(window >= window.max() - 1e-12)
    index = int(equals[len(equals) // 2]) + 5
    return index / _THRESHOLDS, float(dice[index])


def finished_model(task: Task, config: SegmentationConfig, fitted: Fitted, *, strategy: str) -> Model:
    """Wrap trained weights with what prediction needs; the threshold comes from validation, the halo is measured."""
    network = build_network(config.network, task.channels, task.classes + 1)
    network.load_state_dict(fitted.weights["network"])
    dims = dims_of(config)
    step = NetworkStep(
        network=config.network,
        in_channels=task.channels,
        out_channels=task.classes + 1,
        plane_axis=task.plane_axis() if dims == 2 else 0,
        views=config.views,
    )
    assert config.patch is not None
    threshold = float(fitted.validation["threshold"]) if fitted.validation else 0.5
    model = Model(
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
            "threshold_from": "held-out annotation" if fitted.validation else "default",
        },
    )
    model.halo = measured_halo(model, task)
    return model


def measured_halo(model: Model, task: Task) -> Triple:
    """Find the smallest halo that changes |p| by at most 0.01 on 99.9 % of the voxels of a training block.

    The reference is the same block with the full receptive field around it, or twice the patch where that is less.
    Where the image ends before, it is continued by its mirror image: a small image must not make the halo small.
    """
    full = model.receptive_halo
    divisor = model.divisor
    image = task.samples[0].image
    core = tuple(min(s, max(p, 2 * d)) for s, p, d in zip(image.shape, model.patch, divisor, strict=True))
    start = tuple((s - c) // 2 // d * d for s, c, d in zip(image.shape, core, divisor, strict=True))
    inner = Box(start, tuple(a + c for a, c in zip(start, core, strict=True))).clip(image.shape)
    limit = tuple(min(f, max(2 * p, 32)) for f, p in zip(full, model.patch, strict=True))

    def predict(halo: Sequence[int]) -> NDArray[np.float32]:
        grown = inner.grow(halo)
        read = Box(tuple(a // d * d for a, d in zip(grown.start, divisor, strict=True)), grown.stop)
        crop = inner.shift(tuple(-a for a in read.start))
        return model.probabilities(_read_mirrored(image, read))[(slice(None), *crop.slices)]

    model.to(task.hardware.torch_device())
    reference = predict(limit)
    for share in (0.125, 0.25, 0.375, 0.5, 0.75):
        halo = tuple(min(f, -(-round(f * share) // d) * d) for f, d in zip(full, divisor, strict=True))
        if float((np.abs(predict(halo) - reference) <= 0.01).mean()) >= 0.999:
            return (halo[0], halo[1], halo[2])
    return full


def _read_mirrored(image: Volume, box: Box) -> NDArray[np.generic]:
    """Read a box (c, z, y, x) that may reach beyond the image, which is mirrored about its outermost voxels there."""
    places = []
    for low, high, extent in zip(box.start, box.stop, image.shape, strict=True):
        period = max(2 * (extent - 1), 1)
        place = np.arange(low, high) % period
        places.append(np.minimum(place, period - place) if extent > 1 else np.zeros_like(place))
    inside = Box(tuple(int(p.min()) for p in places), tuple(int(p.max()) + 1 for p in places))
    values = image.read(inside)
    for axis, (place, start) in enumerate(zip(places, inside.start, strict=True)):
        values = values.take(place - start, axis=1 + axis)
    return values
