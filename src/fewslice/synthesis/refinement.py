"""Training of a refiner: simulated + unsupervised learning (Shrivastava et al. 2017) with a SPADE generator.

1. `RefinementConfig` says how; :func:`resolved` fills in what follows from the images: patch, receptive field, kernels.
2. :func:`update_of` is the schedule: the refiner alone on self-regularisation, the discriminator alone, then in turns.
3. :func:`refinement_stage` makes the stage for the training loop; its validation measures realism and whether the
   annotation survives, by which the weights are chosen and training ends.
4. :func:`fit_refiner` runs it and wraps what came out, or says that the annotation was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache
from typing import Any, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from fewslice.data.normalisation import Method, Normalisation, fit_normalisation, sampled_values
from fewslice.data.patches import in_memory
from fewslice.errors import InputError
from fewslice.files import write_atomic
from fewslice.geometry import Box
from fewslice.networks import patch_discriminator, spade_generator
from fewslice.synthesis import realism, survival
from fewslice.synthesis.patch_pairs import PairBatch, PatchPairs
from fewslice.synthesis.refinement_losses import (
    Adversarial,
    Regularisation,
    adversarial,
    mix_history,
    self_regularisation,
)
from fewslice.synthesis.refiner import Refiner, build_generator, context, to_grey
from fewslice.synthesis.simulation import Simulation
from fewslice.training.fit import Hardware, fit
from fewslice.training.run_folder import RunFolder
from fewslice.training.segmentation import PatchSize
from fewslice.training.stage import Schedule, Stage, Validation
from fewslice.volume import Volume

__all__ = [
    "RefinementConfig",
    "cell_diameter",
    "check_request",
    "fit_refiner",
    "refinement_stage",
    "resolved",
    "update_of",
]

Triple = tuple[int, int, int]
Source = Simulation | Callable[[int], Simulation]
Update = Literal["regularise", "discriminate", "refine"]

_SMALLEST_PATCH = 32
_LEAST_PATCHES = 3
_SAMPLED = 4  # simulations that are looked at before training
_REMEMBERED = 128  # simulations kept in memory
_FAILED = -1e3  # score of weights that lost the annotation: below all others
_ENDS = (0.1, 99.9)  # percentiles that become black and white


class RefinementConfig(BaseModel):
    """How a refiner is trained.

    Attributes
    ----------
    generator, discriminator
        Settings of the networks.
    patch
        (z, y, x) voxels; by default twice the discriminator's receptive field, 64 to 128, less if images are
        smaller.
    batch_size
        Simulated, and real, patches per step.
    diameters
        Receptive field of the discriminator in cell diameters, if it is not set itself.
    adversarial
        ``least_squares`` (Mao 2017) or ``non_saturating`` (Goodfellow 2014).
    regularisation
        What has to stay.
    learning_rate, discriminator_learning_rate
        Of Adam with β = (0.5, 0.99). A refiner that learns as fast as the discriminator draws stripes.
    pretrain_refiner, pretrain_discriminator
        Steps of each alone before they take turns.
    refiner_steps
        Steps of the refiner to one of the discriminator; 2 as published.
    history
        Refined patches that are remembered; half of each batch of the discriminator comes from them. 0: none.
    simulations
        Simulations to train on; patches are drawn from them at random.
    flips
        Mirror patches along y and x at random.
    normalisation
        Of simulated and of real images, each fitted on their own.
    validation_patches
        Patches of each kind on which realism is measured.
    least_kept
        Weights with which a detector's F1 falls below this share of that on unrefined images are not taken; training
        fails where there are no others.
    schedule
        Learning rate, averaging, validations and patience: training ends when realism has not improved so often.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: spade_generator.Config = Field(default_factory=lambda: spade_generator.Config(max_features=32))
    discriminator: patch_discriminator.Config = Field(default_factory=patch_discriminator.Config)
    patch: PatchSize = None
    batch_size: int = Field(4, ge=2)
    diameters: float = Field(1.25, gt=0, le=4)
    adversarial: Adversarial = "least_squares"
    regularisation: Regularisation = Field(default_factory=Regularisation)
    learning_rate: float = Field(2e-4, gt=0)
    discriminator_learning_rate: float = Field(1e-3, gt=0)
    pretrain_refiner: int = Field(50, ge=0)
    pretrain_discriminator: int = Field(50, ge=0)
    refiner_steps: int = Field(1, ge=1)
    history: int = Field(256, ge=0)
    simulations: int = Field(64, ge=1)
    flips: bool = True
    normalisation: Method = "robust"
    validation_patches: int = Field(64, ge=8)
    least_kept: float = Field(0.8, ge=0, le=1)
    schedule: Schedule = Field(
        default_factory=lambda: Schedule(warmup=0.0, decay="cosine", averaging=0.99, validations=20, patience=6)
    )


def update_of(step: int, config: RefinementConfig) -> Update:
    """Return what a step (0, 1, …) trains.

    ``regularise``: the refiner on self-regularisation alone; ``discriminate``: the discriminator; ``refine``: the
    refiner on both its losses.
    """
    if step < config.pretrain_refiner:
        return "regularise"
    step -= config.pretrain_refiner
    if step < config.pretrain_discriminator:
        return "discriminate"
    step -= config.pretrain_discriminator
    return "refine" if step % (config.refiner_steps + 1) < config.refiner_steps else "discriminate"


def cell_diameter(simulations: Sequence[Simulation]) -> float:
    """Return the median diameter of objects in voxels: of the disc as large as an object in its largest plane.

    Raises
    ------
    InputError
        If there is no object.
    """
    diameters = []
    for simulation in simulations:
        areas = np.stack([np.bincount(p.ravel(), minlength=simulation.count + 1)[1:] for p in simulation.instances])
        largest = areas.max(axis=0)
        diameters.append(2 * np.sqrt(largest[largest > 0] / np.pi))
    found = np.concatenate(diameters)
    if not len(found):
        raise InputError(f"the first {len(simulations)} simulations hold no object; raise the density or the shape")
    return float(np.median(found))


def resolved(config: RefinementConfig, source: Source, targets: Sequence[Volume], seed: int = 0) -> RefinementConfig:
    """Check the images and fill in what follows from them.

    Parameters
    ----------
    config
        As asked for.
    source
        A simulation, or seed → simulation.
    targets
        Unlabelled real volumes.
    seed
        Of the simulations.

    Raises
    ------
    InputError
        If there is no target, channels or voxel sizes differ, an image is constant or smaller than the patch, or all
        targets together hold fewer than 3 patches.
    """
    simulated = _numbered(source, seed)
    samples = [simulated(k) for k in range(_SAMPLED)]
    _check_images(samples, targets, config.generator.dims)
    diameter = cell_diameter(samples)
    dims, voxel = config.generator.dims, samples[0].voxel_size_um
    field = config.discriminator.receptive_field
    if field is None:
        side = max(7, round(config.diameters * diameter))
        field = (max(1, round(side * voxel[1] / voxel[0])) if dims == 3 else 1, side, side)
    images = [(t.source or "a target image", t.shape) for t in targets]
    images += [("the simulation", s.shape) for s in samples]
    patch = config.patch or _default_patch(field, [shape for _, shape in images], dims)
    for name, shape in images:
        if any(n < p for n, p in zip(shape, patch, strict=True)):
            raise InputError(
                f"{name} {shape} (z, y, x) is smaller than the patch {patch}; give larger images or set a smaller patch"
            )
    count = sum(int(np.prod([n // p for n, p in zip(t.shape, patch, strict=True)])) for t in targets)
    if count < _LEAST_PATCHES:
        raise InputError(
            f"the target images hold {count} patches of {patch} (z, y, x), but a refiner needs at least "
            f"{_LEAST_PATCHES} to learn an appearance from; give more images or set a smaller patch"
        )
    shown = patch[3 - dims :]
    if config.discriminator.receptive_field is not None and any(
        f > p for f, p in zip(field[3 - dims :], shown, strict=True)
    ):
        raise InputError(
            f"the discriminator's receptive_field {field} (z, y, x) exceeds the patch {patch}; set one of them"
        )
    field = (min(field[0], patch[0]), min(field[1], patch[1]), min(field[2], patch[2]))
    generator = config.generator.adapted(voxel, patch)
    divisor = build_generator(generator, 1).divisor
    if any(p % int(d) for p, d in zip(patch, divisor, strict=True)):  # type: ignore[arg-type]
        raise InputError(f"patch {patch} (z, y, x) is no multiple of the generator's divisor {divisor}; set another")
    discriminator = config.discriminator.model_copy(update={"receptive_field": field, "dims": dims})
    return config.model_copy(update={"generator": generator, "discriminator": discriminator, "patch": patch})


def refinement_stage(
    name: str,
    config: RefinementConfig,
    source: Source,
    targets: Sequence[Volume],
    run: RunFolder,
    *,
    seed: int = 0,
    detect: survival.Detect | None = None,
) -> tuple[Stage, Refiner]:
    """Make the stage that trains a refiner, and the refiner that it trains.

    The stage counts its steps in ``extra["step"]`` and keeps earlier refined images in ``extra["history"]``. At each
    validation it writes ``pairs_<step>.png`` into its folder: a row holds a simulated patch, the same refined, a real
    one, and the real one most like the refined. The score is minus the kernel distance of
    :mod:`fewslice.synthesis.realism`, on patches kept from training where images are large enough, or −1000 where the
    annotation has not survived; with the schedule's patience it ends the training.

    Parameters
    ----------
    name
        The stage's name.
    config
        Resolved settings.
    source
        A simulation, or seed → simulation.
    targets
        Unlabelled real volumes.
    run
        Where the pairs are written.
    seed
        Of simulations, patches and initial weights.
    detect
        Finds objects in an image, see :func:`fewslice.synthesis.survival.annotation_survival`; by default a linear
        pixel classifier that is fitted on the simulations.

    Returns
    -------
    tuple
        The stage, and the refiner around its generator, which is trained once the stage is fitted.
    """
    if config.patch is None or config.discriminator.receptive_field is None:
        raise InputError("the refiner's settings have no patch yet; pass them through resolved first")
    simulated = _numbered(source, seed)
    samples = [simulated(k) for k in range(_SAMPLED)]
    kept = in_memory(targets)
    target = fit_normalisation(kept, config.normalisation)
    own = fit_normalisation([Volume.from_array(s.image) for s in samples], config.normalisation)
    torch.manual_seed(seed)
    generator = build_generator(config.generator, kept[0].channels)
    discriminator = patch_discriminator.build(config.discriminator, kept[0].channels, 1)
    refiner = Refiner(
        generator,
        config.generator,
        kept[0].channels,
        own,
        _grey(kept, target),
        samples[0].voxel_size_um,
        {"targets": [t.source for t in targets], "seed": seed},
    )
    pairs = PatchPairs(
        simulated,
        config.simulations,
        kept,
        own,
        target,
        config.patch,
        config.generator.dims,
        config.batch_size,
        config.flips,
        seed,
    )
    diameter = cell_diameter(samples)
    betas = (0.5, 0.99)
    stage = Stage(
        name=name,
        modules={"generator": generator, "discriminator": discriminator},
        optimisers={
            "generator": torch.optim.Adam(generator.parameters(), config.learning_rate, betas),
            "discriminator": torch.optim.Adam(discriminator.parameters(), config.discriminator_learning_rate, betas),
        },
        batches=pairs.batch,
        step=_alternating_step(config, diameter),
        validate=_validation(config, refiner, pairs, run, name, diameter, detect),
        schedule=config.schedule,
        extra={"step": 0, "history": torch.zeros(0, kept[0].channels, *config.patch[3 - config.generator.dims :])},
    )
    return stage, refiner


def check_request(config: RefinementConfig, steps: int | None, devices: int) -> None:
    """Refuse what no refiner can be trained with, before anything is computed.

    Parameters
    ----------
    config
        Settings.
    steps
        Largest number of steps, pretraining included; None where that is not known yet.
    devices
        Devices that share the training.

    Raises
    ------
    InputError
        If the steps do not reach beyond pretraining, or several devices are asked for.
    """
    alone = config.pretrain_refiner + config.pretrain_discriminator
    if steps is not None and steps <= alone:
        raise InputError(
            f"{steps} steps of refining end with the {alone} steps of its pretraining; give more --steps or --minutes, "
            "pretrain less, or set refine=false"
        )
    if devices != 1:
        raise InputError(
            f"a refiner trains on one device, but {devices} are asked for; use one device or set refine=false"
        )


def fit_refiner(
    name: str,
    config: RefinementConfig,
    source: Source,
    targets: Sequence[Volume],
    run: RunFolder,
    *,
    steps: int,
    seed: int = 0,
    hardware: Hardware | None = None,
    detect: survival.Detect | None = None,
) -> Refiner:
    """Train a refiner, or return the one that this run has trained.

    Parameters
    ----------
    name, config, source, targets, run, seed, detect
        See :func:`refinement_stage`.
    steps
        Largest number of steps, pretraining included.
    hardware
        Device, precision, threads; one device only.

    Raises
    ------
    InputError
        As :func:`check_request`; or if the annotation has survived at no validation.
    """
    hardware = hardware or Hardware()
    check_request(config, steps, hardware.devices)
    stage, refiner = refinement_stage(name, config, source, targets, run, seed=seed, detect=detect)
    fitted = fit(stage, run, steps=steps, seed=seed, hardware=hardware)
    found = dict(fitted.validation or {})
    if not found.get("score", _FAILED) > _FAILED:  # so that NaN is no success
        raise InputError(
            f"refined images keep a share of {found.get('kept', 0.0):.3f} of what is found of the annotation, below "
            f"least_kept={config.least_kept:g}, at every validation; raise refinement.regularisation.weight or set "
            "refine=false"
        )
    provenance = {**refiner.provenance, "steps": fitted.steps, "validation": found}
    return replace(refiner, generator=refiner.generator.eval(), provenance=provenance)


def _alternating_step(
    config: RefinementConfig, diameter: float
) -> Callable[[Stage, PairBatch, torch.Generator, Callable[[torch.Tensor], None]], dict[str, torch.Tensor]]:
    def step(
        stage: Stage, batch: PairBatch, generator: torch.Generator, backward: Callable[[torch.Tensor], None]
    ) -> dict[str, torch.Tensor]:
        update = update_of(stage.extra["step"], config)
        stage.extra["step"] += 1
        if update == "discriminate":
            return _discriminate(stage, batch, config, generator, backward)
        network, judge = stage.modules["generator"], stage.modules["discriminator"]
        refined = network(batch.condition)
        kept = self_regularisation(refined, batch.condition[:, : refined.shape[1]], config.regularisation, diameter)
        losses = {"total": kept, "self_regularisation": kept}
        if update == "refine":
            judge.requires_grad_(False)  # its weights need no gradient here, only the images do
            fooled = adversarial(judge(refined), True, config.adversarial)
            judge.requires_grad_(True)
            losses = {"total": kept + fooled, "self_regularisation": kept, "adversarial": fooled}
        stage.optimisers["generator"].zero_grad()
        backward(losses["total"])
        stage.optimisers["generator"].step()
        return losses

    return step


def _discriminate(
    stage: Stage,
    batch: PairBatch,
    config: RefinementConfig,
    generator: torch.Generator,
    backward: Callable[[torch.Tensor], None],
) -> dict[str, torch.Tensor]:
    judge = stage.modules["discriminator"]
    with torch.no_grad():
        refined = stage.modules["generator"](batch.condition).float()
    history = stage.extra["history"].to(refined.device)
    mixed, stage.extra["history"] = mix_history(history, refined, config.history, generator)
    layout = torch.channels_last if mixed.ndim == 4 else torch.channels_last_3d
    scores = judge(torch.cat((batch.real, mixed)).contiguous(memory_format=layout))
    real, fake = scores.split([len(batch.real), len(mixed)])
    loss = adversarial(real, True, config.adversarial) + adversarial(fake, False, config.adversarial)
    stage.optimisers["discriminator"].zero_grad()
    backward(loss)
    stage.optimisers["discriminator"].step()
    return {"discriminator": loss, "score_real": real.mean(), "score_refined": fake.mean()}


def _validation(
    config: RefinementConfig,
    refiner: Refiner,
    pairs: PatchPairs,
    run: RunFolder,
    name: str,
    diameter: float,
    detect: survival.Detect | None,
) -> Callable[[Stage], Validation | None]:
    alone = config.pretrain_refiner + config.pretrain_discriminator

    @cache
    def material() -> tuple[PairBatch, list[Simulation], survival.Detect]:
        batch, pieces = pairs.held_out(config.validation_patches, _SAMPLED, context(refiner.generator))
        grey = [replace(s, image=to_grey(pairs.source.apply(s.image), refiner.grey)) for s in pieces]
        return batch, grey, detect or survival.fit_pixel_detector(grey, diameter)

    def validate(stage: Stage) -> Validation | None:
        step = int(stage.extra["step"])
        if step <= alone:
            return None
        batch, before, finds = material()
        margin = context(refiner.generator)[3 - config.generator.dims :]
        inside = (slice(None), slice(0, refiner.channels), *(slice(m, -m) if m else slice(None) for m in margin))
        refined = _refined(stage, batch, config.batch_size)[inside].contiguous()
        simulated, real = batch.condition[inside], batch.real
        generator = np.random.default_rng(0)  # the same draws every time: only the weights differ
        planes, true = _planes(refined), _planes(real)
        described = realism.features(true), realism.features(planes)
        distance = realism.kernel_distance(*described, generator, resamples=100)
        after = [
            replace(s, image=to_grey(r.reshape(r.shape[0], *s.shape), refiner.grey))
            for s, r in zip(before, refined.numpy(), strict=True)
        ]
        found = survival.annotation_survival(finds, before, after)
        figures = {
            "kernel_distance": distance.value,
            "kernel_distance_low": distance.low,
            "kernel_distance_high": distance.high,
            "kernel_distance_chance": distance.chance,
            "spectrum_distance": realism.spectrum_distance(true, planes, generator, resamples=1).value,
            "histogram_distance": realism.histogram_distance(true, planes, generator, resamples=1).value,
            "separability": realism.separability(*described, generator).accuracy,
            "self_regularisation": float(self_regularisation(refined, simulated, config.regularisation, diameter)),
            "kept": found.kept,
            **asdict(found),
        }
        intact = found.kept >= config.least_kept
        if run.writable:
            closest = realism.nearest(*described)[0][:, 0]
            picture = _side_by_side([simulated, refined, real, real[closest]], refiner.grey)
            write_atomic(run.stage(name) / f"pairs_{step:06d}.png", bytes(imagecodecs.png_encode(picture)))
        return Validation(-distance.value if intact else _FAILED, {k: _rounded(v) for k, v in figures.items()})

    return validate


@torch.no_grad()
def _refined(stage: Stage, batch: PairBatch, size: int) -> torch.Tensor:
    network = stage.modules["generator"]
    device = next(network.parameters()).device
    parts = [network(part.to(device)).float().cpu() for part in batch.condition.split(size)]
    return torch.cat(parts)


def _planes(patches: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return planes (n, c, y, x); of volumes (n, c, z, y, x) their middle ones."""
    middle = patches if patches.ndim == 4 else patches[:, :, patches.shape[2] // 2]
    return np.ascontiguousarray(middle.float().cpu().numpy(), dtype=np.float32)


def _side_by_side(columns: Sequence[torch.Tensor], grey: Normalisation, rows: int = 6) -> npt.NDArray[np.uint8]:
    """Draw a picture (y, x, 3): one column each, patches below one another, channels as colours if there are three."""
    drawn = []
    for patches in columns:
        planes = [to_grey(p, grey) for p in _planes(patches[:rows])]
        tall = np.concatenate([np.pad(p, ((0, 0), (0, 2), (0, 2)), constant_values=255) for p in planes], axis=1)
        drawn.append(tall if len(tall) == 3 else np.repeat(tall[:1], 3, axis=0))
    return np.ascontiguousarray(np.moveaxis(np.concatenate(drawn, axis=2), 0, 2))


def _rounded(value: float) -> float:
    return round(value, 5)


def _numbered(source: Source, seed: int) -> Callable[[int], Simulation]:
    """Return number → simulation, the latest 128 of which are remembered."""
    if isinstance(source, Simulation):
        only = source
        return lambda number: only
    make = source

    @lru_cache(_REMEMBERED)
    def simulated(number: int) -> Simulation:
        return make(int(np.random.default_rng([seed, 5, number]).integers(2**31)))

    return simulated


def _grey(targets: Sequence[Volume], target: Normalisation) -> Normalisation:
    """Return the normalisation that refined images have as uint8: the targets' own, or stretched to 0 to 255.

    The 0.1st and the 99.9th percentile of the planes that the targets' own was fitted on become 0 and 255, so that a
    hot pixel costs no grey levels.
    """
    if all(t.dtype == np.uint8 for t in targets):
        return target
    values = [sampled_values(t) for t in targets]
    offsets, scales = [], []
    for channel in range(targets[0].channels):
        ends = np.array([np.percentile(v[channel], _ENDS) for v in values])
        low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
        if low == high:  # little stands out: all of it counts
            low, high = min(float(v[channel].min()) for v in values), max(float(v[channel].max()) for v in values)
        stretch = 255.0 / (high - low or 1.0)
        offsets.append((target.offset[channel] - low) * stretch)
        scales.append(target.scale[channel] * stretch)
    return Normalisation(target.method, tuple(offsets), tuple(scales))


def _middle_plane(volume: Volume) -> npt.NDArray[Any]:
    z = volume.shape[0] // 2
    return volume.read(Box((z, 0, 0), (z + 1, *volume.shape[1:])))


def _check_images(samples: Sequence[Simulation], targets: Sequence[Volume], dims: int) -> None:
    if not targets:
        raise InputError("a refiner needs real images to learn from, got none; give at least one unlabelled image")
    channels, voxel = len(samples[0].image), samples[0].voxel_size_um
    for target in targets:
        name = target.source or "a target image"
        if target.channels != channels:
            raise InputError(
                f"{name} has {target.channels} channels, but the simulation has {channels}; choose channels with "
                "--channels or simulate as many"
            )
        own = target.voxel_size_um
        if own is not None and any(abs(a / b - 1) > 0.1 for a, b in list(zip(own, voxel, strict=True))[3 - dims :]):
            raise InputError(
                f"{name} has voxels of {own} µm (z, y, x), but the simulation has {voxel}; simulate at the images' "
                "voxel size"
            )
        if _is_constant(_middle_plane(target)):
            raise InputError(f"{name} has one value in its middle plane, nothing to learn from; leave it out")
    if all(_is_constant(s.image) for s in samples):
        raise InputError("simulated images hold one value only, nothing to refine; check the simulator's settings")


def _is_constant(image: npt.NDArray[Any]) -> bool:
    return bool((image == image[:, :1, :1, :1]).all())


def _default_patch(field: Triple, shapes: Sequence[Triple], dims: int) -> Triple:
    smallest = np.array(shapes).min(axis=0)
    wanted = int(np.clip(-(-2 * field[1] // 16) * 16, 64, 128))
    side = max(_SMALLEST_PATCH, min(wanted, *(int(n) // 8 * 8 for n in smallest[1:])))
    depth = int(min(smallest[0], max(8, -(-2 * field[0] // 8) * 8))) if dims == 3 else 1
    return (depth if depth < 8 else depth // 8 * 8, side, side)
