"""2D teacher, 3D student (Castelli et al. 2020).

1. *Teacher*: a small 2D network learns the annotated planes.
2. It infers *pseudo-labels* on every voxel of every sample, wholly unlabelled volumes included.
3. *Student*: a 3D network learns both, voxel by voxel weighted with w = 1 on annotated voxels and w = α on the others
   (equation 1 of the paper; both terms cross-entropy there)::

       L = L_s(X_L, Y_L) + α · L_p(X_U, Ŷ_U)

The paper gives neither α nor whether pseudo-labels are hard or soft. Here soft ones are the default; α is fixed, or
chosen among several on held-out annotated voxels.

Where the labels tell objects apart, the student learns their outlines as well, on annotated voxels only.

Beyond the paper, pseudo-labels may be what several sources agree on (the teacher, its masks cleaned along z, the planes
between annotated ones interpolated), weighted by their certainty and by how far the nearest annotated plane is. The
recipe `consensus` is set so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from fewslice import morphology as along_z
from fewslice.data.patches import TrainingVolume, cached
from fewslice.errors import InputError
from fewslice.model import Model
from fewslice.networks import unet
from fewslice.prediction.samples import predict_samples, seconds_to_predict
from fewslice.training.cleaning import clean_samples, known_planes
from fewslice.training.consensus import agree, annotated_whole, fading, interpolate_sample
from fewslice.training.fit import Fitted
from fewslice.training.segmentation import (
    SegmentationConfig,
    dims_of,
    finished_model,
    foreground_alone,
    resolved,
    segmentation_stage,
    untrained_model,
    with_outputs,
)
from fewslice.training.stage import Stage
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["Config", "between", "resolve", "stages", "train"]


_PSEUDO_SHARE = 0.6

Source = Literal["teacher", "morphology", "signed_distance", "contours"]


class Config(BaseModel):
    """Settings of the strategy.

    Attributes
    ----------
    teacher
        The 2D network and how it is trained; the paper's is ``{"network": {"kind": "cnn_2d"}}``.
    student
        The 3D network and how it is trained.
    alpha
        Weight of voxels that carry a pseudo-label, relative to annotated ones; None: so that pseudo-labels make up 60 %
        of the weight of all voxels. There are many more of them, so a small one goes far: 0.03 where one plane of 50 is
        annotated, 0.35 where 4 of 21 are. Several values: each trains a student on its part of the budget, and held-out
        annotation chooses.
    targets
        ``soft``: the teacher's probabilities; ``hard``: its most probable class.
    start
        ``random``: the student's weights are drawn; ``teacher``: it begins as its teacher, whose kernels become the
        middle planes of the student's. Both are U-Nets then, alike but for `dims` and kernels along z; where the
        student's pooling is left out, it has the teacher's, so that it says at first what its teacher says.
    teacher_share
        Share of the training budget that the teacher gets.
    anywhere
        Share of the student's patches that are drawn anywhere; the others hold annotated voxels. In a batch without
        any, α cancels.
    sources
        Whose mean the pseudo-labels are: ``teacher``; ``morphology``, the teacher's masks cleaned along z;
        ``signed_distance`` and ``contours``, interpolated between annotated planes, where a sample has any.
    morphology
        Sizes of the operator that cleans the teacher's masks.
    mask_threshold
        Probability from which a voxel belongs to the mask that is cleaned; None: the one chosen on held-out annotation.
    certainty
        Weigh a pseudo-label by α · (1 − H(p) / ln n), H being the entropy over the n classes.
    fade_planes
        Weigh it by exp(−d / fade_planes) as well, d being the distance to the nearest annotated plane; None: not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: SegmentationConfig = SegmentationConfig(network={"kind": "unet", "dims": 2})
    student: SegmentationConfig = SegmentationConfig(network={"kind": "unet", "dims": 3})
    alpha: float | tuple[float, ...] | None = None
    targets: Literal["soft", "hard"] = "soft"
    start: Literal["random", "teacher"] = "random"
    teacher_share: float = Field(0.35, gt=0, lt=1)
    anywhere: float = Field(0.5, ge=0, le=1)
    sources: tuple[Source, ...] = ("teacher",)
    morphology: along_z.Config = along_z.Config()
    mask_threshold: float | None = Field(None, gt=0, lt=1)
    certainty: bool = False
    fade_planes: float | None = Field(None, gt=0)

    @field_validator("alpha")
    @classmethod
    def _weights(cls, value: float | tuple[float, ...] | None) -> float | tuple[float, ...] | None:
        if value is None:
            return None
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(not 0 <= a <= 100 for a in values) or len(set(values)) < len(values):
            raise ValueError(f"give one weight, or several different ones, between 0 and 100, not {value}")
        return value

    @field_validator("sources")
    @classmethod
    def _some(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError(f"give one source, or several different ones, not {list(value)}")
        return value

    @property
    def alphas(self) -> tuple[float, ...]:
        """The values of α to try; resolved settings have at least one."""
        assert self.alpha is not None
        return self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the data, α included; refuse a 3D teacher or a 2D student."""
    if dims_of(config.teacher) != 2 or dims_of(config.student) != 3:
        raise InputError("pseudo_labels needs a 2D teacher and a 3D student; set teacher.network and student.network")
    alpha = config.alpha
    if alpha is None:
        known = sum(int(mask.sum()) for mask in task.train_masks if mask is not None)
        alpha = balanced_alpha(known, sum(math.prod(sample.image.shape) for sample in task.samples) - known)
    teacher = foreground_alone(resolved(config.teacher, task), "the teacher")
    student = with_outputs(resolved(begun_as(config, teacher, task), task), task)
    if config.start == "teacher":
        if not needs_teacher(config, task):
            raise InputError("start=teacher needs a teacher, but every pseudo-label is interpolated; add it to sources")
        if teacher.normalisation != student.normalisation:
            raise InputError(
                f"start=teacher needs one normalisation, got {teacher.normalisation} and {student.normalisation}; "
                "set teacher.normalisation or student.normalisation"
            )
        first_weights(config.model_copy(update={"student": student}), untrained_model(task, teacher))
    return config.model_copy(update={"teacher": teacher, "student": student, "alpha": alpha})


def begun_as(config: Config, teacher: SegmentationConfig, task: Task) -> SegmentationConfig:
    """Return the student's settings; where it begins as its teacher, with the teacher's levels unless it has its own.

    Without pooling across planes the student says at first exactly what its teacher says; its kernels see across them
    where the voxel allows.
    """
    network = config.student.network
    if config.start == "random" or network.get("pooling") is not None or network.get("kernels") is not None:
        return config.student
    pooling, flat = teacher.network.get("pooling"), teacher.network.get("kernels")
    if pooling is None or flat is None:  # no U-Net; refused later
        return config.student
    axis = task.plane_axis()
    pooling = [_turned(step, axis, 1) for step in pooling]
    deep = unet.default_kernels(task.voxel_size_um, pooling)
    kernels = [_turned(kernel, axis, own[axis]) for kernel, own in zip(flat, deep, strict=True)]
    levels = {"depth": len(kernels), "pooling": pooling, "kernels": kernels}
    return config.student.model_copy(update={"network": network | levels})


def _turned(of_plane: Sequence[int], axis: int, across: int) -> tuple[int, int, int]:
    """Give (1, rows, columns) of a plane as (z, y, x), with `across` along the axis that planes are stacked along."""
    values = list(of_plane[1:])
    values.insert(axis, across)
    return (values[0], values[1], values[2])


def balanced_alpha(known: int, others: int) -> float:
    """Return the α at which pseudo-labels make up 60 % of the weight of all voxels, 0.01 to 1, in three digits.

    Parameters
    ----------
    known, others
        Number of annotated voxels, and of those that carry a pseudo-label.
    """
    alpha = _PSEUDO_SHARE / (1 - _PSEUDO_SHARE) * known / max(others, 1)
    return float(f"{min(max(alpha, 0.01), 1.0):.3g}")


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return the teacher, if any is needed, and one student per α; refuse to choose α where nothing is held out."""
    if len(config.alphas) > 1 and not task.has_validation:
        raise InputError(
            f"alpha={list(config.alphas)} is to be chosen on held-out annotation, but too little is annotated to hold "
            "any out; give one value or annotate more planes"
        )
    known = task.annotated_volumes()
    out: dict[str, tuple[float, Callable[[], Stage]]] = {}
    if needs_teacher(config, task):
        out["teacher"] = (config.teacher_share, lambda: segmentation_stage(task, "teacher", config.teacher, known))
    each = (1 - sum(share for share, _ in out.values())) / len(config.alphas)

    def student() -> Stage:
        learned = task.annotated_volumes(config.student.outputs or "foreground", config.student.boundary_voxels)
        return segmentation_stage(task, "student", config.student, learned)

    return out | {student_name(config, alpha): (each, student) for alpha in config.alphas}


def between(config: Config, task: Task) -> float:
    """Return about how many seconds the teacher takes to label every voxel of every sample."""
    return seconds_to_predict(untrained_model(task, config.teacher), task) if needs_teacher(config, task) else 0.0


def needs_teacher(config: Config, task: Task) -> bool:
    """Whether a network has to say what interpolation alone does not.

    It does not where interpolation is the only source and every sample has planes that are annotated whole.
    """
    if "teacher" in config.sources or "morphology" in config.sources:
        return True
    axis = task.plane_axis()
    return not all(annotated_whole(mask, axis) for mask in task.train_masks)


def student_name(config: Config, alpha: float) -> str:
    """Return the name of the stage that trains the student with `alpha`."""
    return "student" if len(config.alphas) == 1 else f"student_alpha_{alpha:g}"


def train(config: Config, task: Task, *, strategy: str = "pseudo_labels") -> Model:
    """Train the teacher, let it label everything, train the student on both."""
    if needs_teacher(config, task):
        fitted = task.fit(segmentation_stage(task, "teacher", config.teacher, task.annotated_volumes()))
        teacher = finished_model(task, config.teacher, fitted, strategy=f"{strategy} teacher")
        pseudo_labels = agreed(config, task, teacher.threshold, predict_samples(teacher, task, "teacher"))
        initial = first_weights(config, teacher)
    else:
        task.run.record({"event": "note", "note": "Every pseudo-label is interpolated, so no teacher is trained."})
        pseudo_labels = agreed(config, task, 0.5, [None] * len(task.samples))
        initial = None
    students: list[tuple[float, Fitted]] = []
    for alpha in config.alphas:
        volumes = cached(weighted(config, task, pseudo_labels, alpha))
        stage = segmentation_stage(
            task,
            student_name(config, alpha),
            config.student,
            volumes,
            targets=config.targets,
            pseudo_share=config.anywhere,
            initial=initial,
        )
        students.append((alpha, task.fit(stage)))
    alpha, best = max(students, key=lambda s: float(s[1].validation["score"]) if s[1].validation else 0.0)
    task.run.record({"event": "alpha", "chosen": alpha, "tried": list(config.alphas)})
    return finished_model(task, config.student, best, strategy=strategy)


def first_weights(config: Config, teacher: Model) -> dict[str, Tensor] | None:
    """Return the weights that students begin with; None where they are drawn.

    Raises
    ------
    InputError
        If the student cannot begin as its teacher.
    """
    if config.start == "random":
        return None
    student = {name: value for name, value in config.student.network.items() if name != "kind"}
    if not config.student.network["kind"] == teacher.steps[0].network["kind"] == "unet":
        raise InputError("start=teacher is for a teacher and a student that are both unet; set start=random")
    return unet.inflated(teacher.networks[0].state_dict(), unet.Config(**student), teacher.plane_axis)


def agreed(config: Config, task: Task, threshold: float, predicted: Sequence[Volume | None]) -> list[Volume]:
    """Return, for every sample, the mean of the sources; those that need annotated planes where there are some."""
    axis = task.plane_axis()
    threshold = config.mask_threshold or threshold
    teachers = [p for p in predicted if p is not None]
    cleaned: Sequence[Volume] = ()
    if "morphology" in config.sources:
        cleaned = clean_samples(teachers, task, "teacher", config.morphology, threshold)
    agreements = []
    for index, (sample, mask) in enumerate(zip(task.samples, task.train_masks, strict=True)):
        found = [teachers[index]] if "teacher" in config.sources else []
        found += [cleaned[index]] if cleaned else []
        for method in ("signed_distance", "contours"):
            if method in config.sources and mask is not None and known_planes(mask, sample.image.shape, axis).any():
                found.append(interpolate_sample(sample, mask, axis, task.classes, method, predicted[index], threshold))
        # without annotated planes there is nothing to interpolate
        agreements.append(agree(found or [teachers[index]]))
    return agreements


def weighted(config: Config, task: Task, pseudo_labels: Sequence[Volume], alpha: float) -> list[TrainingVolume]:
    """Join truth and pseudo-labels of every sample, the latter weighted by α, certainty and distance."""
    if alpha == 0:  # what weighs nothing may not even decide where patches lie
        return task.annotated_volumes(config.student.outputs or "foreground", config.student.boundary_voxels)
    volumes = []
    outputs, thickness = config.student.outputs or "foreground", config.student.boundary_voxels
    for volume in task.taught_volumes(pseudo_labels, alpha, outputs, thickness):
        fade = None
        if config.fade_planes is not None:
            fade = fading(volume.annotated, volume.image.shape, task.plane_axis(), config.fade_planes)
        volumes.append(replace(volume, certain=config.certainty, fade=fade))
    return volumes
