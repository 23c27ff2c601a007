"""2D teacher, 3D student (Castelli et al. 2020).

1. *Teacher*: a small 2D network learns the annotated planes.
2. It infers *pseudo-labels* on every voxel of every sample, wholly unlabelled volumes included.
3. *Student*: a 3D network learns both, voxel by voxel weighted with w = 1 on annotated voxels and w = α on the others
   (equation 1 of the paper; both terms cross-entropy there)::

       L = L_s(X_L, Y_L) + α · L_p(X_U, Ŷ_U)

The paper gives neither α nor whether pseudo-labels are hard or soft. Here soft ones are the default; α is fixed, or
chosen among several on held-out annotated voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fewslice import io
from fewslice.data.patches import TrainingVolume, cached
from fewslice.errors import InputError
from fewslice.model import Model, model_hash
from fewslice.prediction.blockwise import predict_volume
from fewslice.training.fit import Fitted
from fewslice.training.segmentation import (
    SegmentationConfig,
    dims_of,
    finished_model,
    resolved,
    segmentation_stage,
)
from fewslice.training.stage import Stage
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["Config", "resolve", "stages", "train"]


class Config(BaseModel):
    """Settings of the strategy.

    Attributes
    ----------
    teacher
        The 2D network and how it is trained; the paper's is ``{"network": {"kind": "cnn_2d"}}``.
    student
        The 3D network and how it is trained.
    alpha
        Weight of voxels that carry a pseudo-label, relative to annotated ones. Several values: each trains a student on
        its part of the budget, and held-out annotation chooses.
    targets
        ``soft``: the teacher's probabilities; ``hard``: its most probable class.
    teacher_share
        Share of the training budget that the teacher gets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: SegmentationConfig = SegmentationConfig(network={"kind": "unet", "dims": 2})
    student: SegmentationConfig = SegmentationConfig(network={"kind": "unet", "dims": 3})
    alpha: float | tuple[float, ...] = 0.5
    targets: Literal["soft", "hard"] = "soft"
    teacher_share: float = Field(0.35, gt=0, lt=1)

    @field_validator("alpha")
    @classmethod
    def _weights(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(not 0 <= a <= 100 for a in values) or len(set(values)) < len(values):
            raise ValueError(f"give one weight, or several different ones, between 0 and 100, not {value}")
        return value

    @property
    def alphas(self) -> tuple[float, ...]:
        """The values of α to try."""
        return self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)


def resolve(config: Config, task: Task) -> Config:
    """Fill in what follows from the data; refuse a 3D teacher or a 2D student."""
    if dims_of(config.teacher) != 2 or dims_of(config.student) != 3:
        raise InputError("pseudo_labels needs a 2D teacher and a 3D student; set teacher.network and student.network")
    return config.model_copy(
        update={"teacher": resolved(config.teacher, task), "student": resolved(config.student, task)}
    )


def stages(config: Config, task: Task) -> dict[str, tuple[float, Callable[[], Stage]]]:
    """Return the teacher and one student per α; refuse to choose α where nothing is held out."""
    if len(config.alphas) > 1 and not task.has_validation:
        raise InputError(
            f"alpha={list(config.alphas)} is to be chosen on held-out annotation, but too little is annotated to hold "
            "any out; give one value or annotate more planes"
        )
    budget = 0.9  # the rest is for the teacher's pseudo-labels
    each = budget * (1 - config.teacher_share) / len(config.alphas)
    known = task.annotated_volumes()
    out: dict[str, tuple[float, Callable[[], Stage]]] = {
        "teacher": (
            budget * config.teacher_share,
            lambda: segmentation_stage(task, "teacher", config.teacher, known),
        )
    }

    def student() -> Stage:
        return segmentation_stage(task, "student", config.student, known)

    return out | {student_name(config, alpha): (each, student) for alpha in config.alphas}


def student_name(config: Config, alpha: float) -> str:
    """Return the name of the stage that trains the student with `alpha`."""
    return "student" if len(config.alphas) == 1 else f"student_alpha_{alpha:g}"


def train(config: Config, task: Task) -> Model:
    """Train the teacher, let it label everything, train the student on both."""
    teacher = train_teacher(config, task)
    pseudo_labels = infer(teacher, task)
    students: list[tuple[float, Fitted]] = []
    for alpha in config.alphas:
        volumes = joined(task, pseudo_labels, alpha)
        stage = segmentation_stage(task, student_name(config, alpha), config.student, volumes, targets=config.targets)
        students.append((alpha, task.fit(stage)))
    alpha, best = max(students, key=lambda s: float(s[1].validation["score"]) if s[1].validation else 0.0)
    task.run.record({"event": "alpha", "chosen": alpha, "tried": list(config.alphas)})
    return finished_model(task, config.student, best, strategy="pseudo_labels")


def train_teacher(config: Config, task: Task) -> Model:
    """Train the 2D network on the annotated planes."""
    stage = segmentation_stage(task, "teacher", config.teacher, task.annotated_volumes())
    model = finished_model(task, config.teacher, task.fit(stage), strategy="pseudo_labels teacher")
    task.once(lambda: model.save(task.run.stage("teacher") / "model"))
    return model


def infer(teacher: Model, task: Task) -> Sequence[Volume]:
    """Let the teacher predict every sample; stored under the teacher's stage, so that a resumed run finds them."""
    folder = task.run.stage("teacher")
    identity = model_hash(folder / "model")
    paths = [folder / "pseudo_labels" / f"{index:03d}.ome.zarr" for index in range(len(task.samples))]

    def predict() -> None:
        paths[0].parent.mkdir(exist_ok=True)
        for sample, path in zip(task.samples, paths, strict=True):
            device = task.hardware.torch_device()
            made = predict_volume(teacher, sample.image, path, model_id=identity, device=device, pyramids=False)
            if made.outcome.failed:
                reason = made.outcome.failed[0][1]
                raise InputError(f"{sample.image.source} cannot be pseudo-labelled: {reason}; mend the image")

    task.once(predict)
    return [io.open_volume(path) for path in paths]


def joined(task: Task, pseudo_labels: Sequence[Volume], alpha: float) -> list[TrainingVolume]:
    """Join ground truth and pseudo-labels of every sample; held-out voxels stay unseen."""
    return cached(
        TrainingVolume(
            image=sample.image,
            labels=sample.annotation.classes if sample.annotation is not None else None,
            annotated=mask,
            pseudo_labels=inferred,
            pseudo_weight=alpha,
            hidden=hidden if hidden is not None and np.any(hidden) else None,
        )
        for sample, mask, hidden, inferred in zip(
            task.samples, task.train_masks, task.validation_masks, pseudo_labels, strict=True
        )
    )
