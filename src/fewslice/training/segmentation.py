"""The stage that trains one segmentation network, 2D or 3D; every strategy is made of it.

1. `SegmentationConfig` says how; `resolved` fills what follows from the data (patch, pooling).
2. `segmentation_stage` makes the stage: network, optimiser, patches, loss.
3. `finished_model` wraps the trained network with what prediction needs, its halo measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from torch import nn

from fewslice import losses, registry
from fewslice.data import augmentation
from fewslice.data.neighbours import Neighbours
from fewslice.data.normalisation import Method
from fewslice.data.patches import Batch, PatchSampler, TrainingVolume
from fewslice.data.targets import Outputs
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.model import Model, NetworkStep, Views, build_network
from fewslice.networks import kinds, purpose
from fewslice.training.fit import Fitted
from fewslice.training.held_out import HeldOut
from fewslice.training.signal import fit_signal
from fewslice.training.stage import Schedule, Stage
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = [
    "PatchSize",
    "SegmentationConfig",
    "dims_of",
    "foreground_alone",
    "finished_model",
    "network_of_a_kind",
    "network_step",
    "resolved",
    "segmentation_stage",
    "untrained_model",
    "with_outputs",
]

Triple = tuple[int, int, int]


def _positive(patch: Triple | None) -> Triple | None:
    if patch is not None and min(patch) < 1:
        raise ValueError(f"patch {patch} must be positive along z, y and x")
    return patch


PatchSize = Annotated[Triple | None, AfterValidator(_positive)]
"""A setting: (z, y, x) voxels of a patch, each at least 1, or None where it follows from the data."""

_PATCH_VOXELS = {2: 2**16, 3: 2**18}
_FLATNESS = 3
"""Extent of a 3D patch along the annotated planes over that across them."""
_BATCH_VOXELS = {2: 2**19, 3: 2**18}
_LEAST_BATCH = {2: 2, 3: 1}


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
        ``robust``, ``unit``, ``range`` or ``none``; see :class:`fewslice.data.normalisation.Normalisation`.
    clip
        Largest norm of the gradient of a step: longer ones are shortened to it; None: they are not.
    views
        Views averaged at prediction: 1, 4, 8 or 16; see :class:`fewslice.model.NetworkStep`.
    outputs
        ``foreground``: the probability of each class. ``boundary`` adds the outline of every object, ``distance`` how
        deep in its object a voxel lies, so that ``segment`` parts what touches; both need labels of kind ``instances``.
        None: ``boundary`` if the labels are such, where the strategy can.
    boundary_voxels
        Thickness of the outline, which lies inside of the object, in voxels.
    schedule
        Learning rate, averaging of weights, validation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: dict[str, Any]
    patch: PatchSize = None
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
    clip: float | None = Field(12.0, gt=0)
    views: Views = 4
    outputs: Outputs | None = None
    boundary_voxels: int = Field(2, ge=1)
    schedule: Schedule = Field(default_factory=Schedule)

    @field_validator("network")
    @classmethod
    def _network_of_a_kind(cls, value: dict[str, Any]) -> dict[str, Any]:
        return network_of_a_kind(value, "segmentation")


def network_of_a_kind(value: dict[str, Any], wanted: str) -> dict[str, Any]:
    """Check the settings of a network against its kind's own configuration and fill in its defaults.

    Parameters
    ----------
    value
        ``{"kind": …}`` and settings of that kind.
    wanted
        The purpose that the kind must have; see :mod:`fewslice.networks`.
    """
    if "kind" not in value:
        raise ValueError(f"name its kind, one of {', '.join(kinds(wanted))}")
    if purpose(str(value["kind"])) != wanted:
        raise ValueError(f"{value['kind']} is not for {wanted}; choose one of {', '.join(kinds(wanted))}")
    module = registry.load("networks", str(value["kind"]))
    config = module.Config(**{k: v for k, v in value.items() if k != "kind"})
    return {"kind": value["kind"], **config.model_dump(mode="json")}


class Trainable(Protocol):
    """Settings of a network and of the patches that it learns from."""

    @property
    def network(self) -> dict[str, Any]:
        """Its ``kind`` and that kind's settings."""

    @property
    def patch(self) -> Triple | None:
        """(z, y, x) voxels."""

    @property
    def batch_size(self) -> int | None:
        """Patches per step."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return changed settings."""


T = TypeVar("T", bound=Trainable)


def dims_of(config: Trainable) -> int:
    """Return 2 or 3: how many spatial dimensions the network sees."""
    module = registry.load("networks", config.network["kind"])
    return int(config.network.get("dims", getattr(module, "DIMS", 2)))


def resolved(config: T, task: Task) -> T:
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
    patch = asked or _default_patch(smallest, voxel, dims, axis if dims == 2 else task.only_plane_axis())
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
    batch = config.batch_size or int(np.clip(_BATCH_VOXELS[dims] // int(np.prod(patch)), _LEAST_BATCH[dims], 16))
    return config.model_copy(update={"network": network, "patch": patch, "batch_size": batch})


def with_outputs(config: SegmentationConfig, task: Task) -> SegmentationConfig:
    """Decide what the network says of objects, from what the labels tell.

    Raises
    ------
    InputError
        If boundary or distance are asked for of labels that do not tell objects apart.
    """
    if config.outputs is None:
        return config.model_copy(update={"outputs": "boundary" if task.has_instances else "foreground"})
    if config.outputs != "foreground":
        task.check_instances()
    return config


def foreground_alone(config: SegmentationConfig, what: str) -> SegmentationConfig:
    """Settle a network on the probabilities of classes.

    Parameters
    ----------
    config
        Settings.
    what
        The network, for the message.

    Raises
    ------
    InputError
        If more is asked for.
    """
    if config.outputs not in (None, "foreground"):
        raise InputError(
            f"outputs={config.outputs} is for slices_2d, sparse_3d and the student of pseudo_labels, but {what} gives "
            "probabilities alone; leave outputs out there"
        )
    return config.model_copy(update={"outputs": "foreground"})


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


def _default_patch(smallest: Triple, voxel: tuple[float, float, float] | None, dims: int, across: int | None) -> Triple:
    """Grow a patch in multiples of 8 up to the voxel budget: as square in µm, in 3D flat, as the samples allow.

    In 3D the extent across the annotated planes is a third of that along them, or as near as can be: of patches of one
    size, flat ones gave by far the best networks on sparsely annotated stacks, for what a network misses at the edge
    of a patch is the surroundings in the plane. Where planes are annotated along several axes the patch is cubic.
    """
    extent = np.asarray(voxel if voxel is not None else (1.0, 1.0, 1.0), dtype=float)
    limits = np.array([max(1, s // 8 * 8) if s >= 8 else s for s in smallest])
    patch = np.minimum(8, limits)
    if across is not None and dims == 2:
        patch[across] = limits[across] = 1
    elif across is not None:
        extent[across] *= _FLATNESS
    while growable := [a for a in range(3) if patch[a] + 8 <= limits[a]]:
        grown = patch.copy()
        grown[min(growable, key=lambda a: patch[a] * extent[a])] += 8
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
    pseudo_share: float = 0.5,
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
    pseudo_share
        Share of patches drawn anywhere where there are pseudo-labels.
    initial
        Weights to start from.
    """
    assert config.patch is not None and config.batch_size is not None
    dims = dims_of(config)
    torch.manual_seed(task.seed)
    network = build_network(config.network, task.channels, _channels_out(task, config))
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
        pseudo_share=pseudo_share,
        voxel_size_um=task.voxel_size_um,
    )
    weights = _class_weights(task) if config.class_weights else None
    step = network_step(task, config).model_copy(update={"views": 1})
    held_out = HeldOut(task, step, config.patch, normalisation=normalisation)
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
        objects = None
        if batch.objects is not None:
            logits, objects = logits[:, :-1], logits[:, -1]
        loss = measure(logits, batch.target, batch.weight, **extra)
        if objects is not None and batch.objects is not None:
            loss = loss + _of_objects(objects, batch, dice=config.outputs == "boundary")
        stage.optimisers["network"].zero_grad()
        backward(loss)
        if config.clip is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        stage.optimisers["network"].step()
        return {"total": loss}

    return step


def _of_objects(logits: torch.Tensor, batch: Batch, *, dice: bool) -> torch.Tensor:
    """Return the loss of boundary or distance, (b, …), where objects are annotated: cross-entropy of two classes.

    Its minimum over p is the target also where that lies between 0 and 1.
    """
    assert batch.objects is not None
    weight = batch.weight if batch.pseudo is None else torch.where(batch.pseudo, 0.0, batch.weight)
    both = torch.stack((torch.zeros_like(logits), logits), dim=1)
    target = torch.stack((1.0 - batch.objects, batch.objects), dim=1)
    return (losses.dice_cross_entropy if dice else losses.cross_entropy)(both, target, weight)


def _layout(x: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _class_weights(task: Task) -> torch.Tensor:
    counts = np.zeros(task.classes + 1, dtype=np.int64)
    for sample, mask in zip(task.samples, task.train_masks, strict=True):
        if sample.annotation is not None and mask is not None:
            counts += np.bincount(sample.annotation.classes[mask].ravel(), minlength=task.classes + 1)
    return losses.balanced_class_weights([int(c) for c in counts])


def network_step(task: Task, config: SegmentationConfig, gather: Neighbours | None = None) -> NetworkStep:
    """Describe the network of a stage as a step of a model; `gather` if it follows another one."""
    channels = task.channels if gather is None else gather.channels(task.classes, task.channels)
    return NetworkStep(
        network=config.network,
        in_channels=channels,
        out_channels=_channels_out(task, config),
        plane_axis=task.plane_axis() if dims_of(config) == 2 else 0,
        views=config.views,
        gather=gather,
        objects=config.outputs if config.outputs in ("boundary", "distance") else None,
    )


def _channels_out(task: Task, config: SegmentationConfig) -> int:
    return task.classes + 1 + (config.outputs in ("boundary", "distance"))


def untrained_model(task: Task, config: SegmentationConfig) -> Model:
    """Wrap a stage's network before it has learned anything, to see what its prediction costs."""
    assert config.patch is not None
    step = network_step(task, config)
    return Model(
        [step],
        [build_network(config.network, step.in_channels, step.out_channels)],
        normalisation=task.normalisation(config.normalisation),
        class_values=task.class_values,
        voxel_size_um=task.voxel_size_um,
        patch=config.patch,
    )


def finished_model(
    task: Task,
    config: SegmentationConfig,
    fitted: Fitted,
    *,
    strategy: str,
    after: Model | None = None,
    gather: Neighbours | None = None,
) -> Model:
    """Wrap trained weights with what prediction needs; the threshold comes from validation, the halo is measured.

    Parameters
    ----------
    task
        The data, with the images that prediction will see.
    config, fitted
        The stage's resolved settings and its result.
    strategy
        Name for the provenance.
    after, gather
        The model whose output the network takes, and how: the result chains both.
    """
    step = network_step(task, config, gather)
    network = build_network(config.network, step.in_channels, step.out_channels)
    network.load_state_dict(fitted.weights["network"])
    assert config.patch is not None
    threshold = float(fitted.validation["threshold"]) if fitted.validation else 0.5
    model = Model(
        [*(after.steps if after is not None else ()), step],
        [*(after.networks if after is not None else ()), network],
        normalisation=after.normalisation if after is not None else task.normalisation(config.normalisation),
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
        signal=fit_signal(task.samples),
    )
    model.halo = measured_halo(model, task)
    return model


def measured_halo(model: Model, task: Task) -> Triple:
    """Find the smallest halo that changes |p| by at most 0.01 on 99.9 % of the voxels of a training block.

    The block is the one with most annotated foreground, where there is most to see; the middle of the first sample if
    nothing is annotated. The reference is the same block with the full receptive field around it, or twice the patch
    where that is less. Where the image ends before, it is continued by its mirror image: a small image must not make
    the halo small.
    """
    full = model.receptive_halo
    divisor = model.divisor
    extent = [max(p, 2 * d) for p, d in zip(model.patch, divisor, strict=True)]
    image, inner = _telling_block(task, extent, divisor)
    limit = tuple(min(f, max(2 * p, 32)) for f, p in zip(full, model.patch, strict=True))

    def predict(halo: Sequence[int]) -> NDArray[np.float32]:
        grown = inner.grow(halo)
        read = Box(tuple(a // d * d for a, d in zip(grown.start, divisor, strict=True)), grown.stop)
        crop = inner.shift(tuple(-a for a in read.start))
        return model.probabilities(image.read_mirrored(read))[(slice(None), *crop.slices)]

    model.to(task.hardware.torch_device())
    reference = predict(limit)
    for share in (0.125, 0.25, 0.375, 0.5, 0.75):
        halo = tuple(min(f, -(-round(f * share) // d) * d) for f, d in zip(full, divisor, strict=True))
        if float((np.abs(predict(halo) - reference) <= 0.01).mean()) >= 0.999:
            return (halo[0], halo[1], halo[2])
    return full


def _telling_block(task: Task, extent: Sequence[int], divisor: Triple) -> tuple[Volume, Box]:
    """Return the block of `extent`, cut where an image ends, with most annotated foreground, and its image."""
    first = task.samples[0].image
    core = [min(n, e) for n, e in zip(first.shape, extent, strict=True)]
    start = [(n - c) // 2 // d * d for n, c, d in zip(first.shape, core, divisor, strict=True)]
    most, image, block = 0, first, Box(tuple(start), tuple(a + c for a, c in zip(start, core, strict=True)))
    for sample in task.samples:
        if sample.annotation is None:
            continue
        counts = (sample.annotation.labels > 0) & sample.annotation.annotated
        shape = counts.shape
        starts = [range(0, n, max(d, e // d * d)) for n, e, d in zip(shape, extent, divisor, strict=True)]
        for axis, of_axis in enumerate(starts):
            counts = np.add.reduceat(counts, list(of_axis), axis=axis, dtype=np.int64)
        if counts.max() > most:
            most, image = int(counts.max()), sample.image
            corner = [s[i] for s, i in zip(starts, np.unravel_index(counts.argmax(), counts.shape), strict=True)]
            # as large as elsewhere at the far borders, too
            corner = [max(0, min(a, n - e)) // d * d for a, n, e, d in zip(corner, shape, extent, divisor, strict=True)]
            block = Box(tuple(corner), tuple(a + e for a, e in zip(corner, extent, strict=True)))
    return image, block.clip(image.shape)
