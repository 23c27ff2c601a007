"""What a strategy is handed: the data, what may be learned from it, and the way to train a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewslice.annotation import Annotation
from fewslice.data.normalisation import Method, Normalisation, fit_normalisation
from fewslice.data.patches import TrainingVolume, cached
from fewslice.data.samples import Sample
from fewslice.data.splits import annotated_axis
from fewslice.data.targets import Outputs, object_map
from fewslice.errors import InputError
from fewslice.training.fit import Fitted, Hardware, Monitor, fit
from fewslice.training.run_folder import RunFolder
from fewslice.training.stage import Stage
from fewslice.volume import Volume

__all__ = ["Task"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Task:
    """Everything around a strategy's recipe.

    Attributes
    ----------
    samples
        Images with or without annotation.
    train_masks, validation_masks
        Per sample, the annotated voxels (z, y, x; bool) that training may use, and those held out; None for
        unlabelled samples.
    class_values
        Value of class k in the user's label files, at index k − 1.
    run
        The run folder.
    seed
        Seeds the patches, the initial weights and the dropout.
    steps
        Steps by stage.
    hardware
        Device, precision, threads.
    monitor, monitor_every
        See :func:`fewslice.training.fit.fit`.
    """

    samples: Sequence[Sample]
    train_masks: Sequence[Mask | None]
    validation_masks: Sequence[Mask | None]
    class_values: tuple[int, ...]
    run: RunFolder
    seed: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    hardware: Hardware = field(default_factory=Hardware)
    monitor: Monitor | None = None
    monitor_every: int = 0

    @property
    def classes(self) -> int:
        """Number of foreground classes."""
        return len(self.class_values)

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return self.samples[0].image.channels

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """(z, y, x) of the training images; the first sample speaks for all."""
        return self.samples[0].image.voxel_size_um

    @property
    def smallest_shape(self) -> tuple[int, int, int]:
        """The smallest extent along each axis over all samples, in voxels."""
        shapes = np.array([sample.image.shape for sample in self.samples])
        z, y, x = (int(v) for v in shapes.min(axis=0))
        return (z, y, x)

    @property
    def has_validation(self) -> bool:
        """Whether anything was held out."""
        return any(mask is not None and mask.any() for mask in self.validation_masks)

    def normalisation(self, method: Method) -> Normalisation:
        """Fit the intensity normalisation on all samples, unlabelled ones included."""
        return fit_normalisation([sample.image for sample in self.samples], method)

    def annotated_volumes(self, outputs: Outputs = "foreground", thickness: int = 2) -> list[TrainingVolume]:
        """Return the annotated samples with what training may use of them, nothing else known.

        Parameters
        ----------
        outputs, thickness
            What is taught of objects; see :func:`fewslice.data.targets.object_map`.
        """
        return cached(
            TrainingVolume(
                sample.image,
                sample.annotation.classes,
                mask,
                objects=self._objects(sample.annotation, mask, outputs, thickness),
            )
            for sample, mask in zip(self.samples, self.train_masks, strict=True)
            if sample.annotation is not None and mask is not None
        )

    @property
    def has_instances(self) -> bool:
        """Whether all annotation tells objects apart."""
        known = [sample.annotation for sample in self.samples if sample.annotation is not None]
        return bool(known) and all(annotation.kind == "instances" for annotation in known)

    def _objects(
        self, annotation: Annotation, mask: Mask, outputs: Outputs, thickness: int
    ) -> NDArray[np.uint8] | None:
        return object_map(annotation.labels, mask, outputs, thickness=thickness, voxel_size_um=self.voxel_size_um)

    def check_instances(self) -> None:
        """Refuse annotation that does not tell objects apart.

        Raises
        ------
        InputError
            If a sample has classes in place of instances.
        """
        for sample in self.samples:
            if sample.annotation is not None and sample.annotation.kind != "instances":
                raise InputError(
                    f"the labels of {sample.name} are classes, but this strategy learns objects one by one; pass "
                    "--label-kind instances if every object has an id of its own"
                )

    def instance_volumes(self) -> list[TrainingVolume]:
        """Return the samples whose objects are annotated one by one, with what training may use of them.

        Raises
        ------
        InputError
            If a sample has classes in place of instances.
        """
        self.check_instances()
        return cached(
            TrainingVolume(sample.image, sample.annotation.classes, mask, instances=sample.annotation.labels)
            for sample, mask in zip(self.samples, self.train_masks, strict=True)
            if sample.annotation is not None and mask is not None
        )

    def taught_volumes(
        self, pseudo_labels: Sequence[Volume], weight: float, outputs: Outputs = "foreground", thickness: int = 2
    ) -> list[TrainingVolume]:
        """Return every sample with its truth and, beside it, pseudo-labels; held-out voxels stay unseen.

        Parameters
        ----------
        pseudo_labels
            Per sample (classes, z, y, x) uint8, 0–255 for probabilities 0–1.
        weight
            Of voxels that carry a pseudo-label, relative to annotated ones.
        outputs, thickness
            What is taught of objects where they are annotated; pseudo-labels say nothing of them.
        """
        return [
            TrainingVolume(
                image=sample.image,
                labels=sample.annotation.classes if sample.annotation is not None else None,
                annotated=mask,
                pseudo_labels=inferred,
                pseudo_weight=weight,
                hidden=hidden if hidden is not None and np.any(hidden) else None,
                objects=self._objects(sample.annotation, mask, outputs, thickness)
                if sample.annotation is not None and mask is not None
                else None,
            )
            for sample, mask, hidden, inferred in zip(
                self.samples, self.train_masks, self.validation_masks, pseudo_labels, strict=True
            )
        ]

    def plane_axis(self) -> int:
        """Return the axis (0, 1, 2 = z, y, x) along which planes were annotated.

        Raises
        ------
        InputError
            If it differs between samples.
        """
        found = self._plane_axes()
        if len(found) > 1:
            listed = ", ".join(f"{'zyx'[axis]} in {name}" for axis, name in found.items())
            raise InputError(f"planes are annotated along {listed}; train a 2D network on planes of one direction")
        return next(iter(found), 0)

    def only_plane_axis(self) -> int | None:
        """Return the axis along which planes were annotated; None if it differs between samples."""
        found = self._plane_axes()
        return next(iter(found), 0) if len(found) <= 1 else None

    def _plane_axes(self) -> dict[int, str]:
        """Name a sample for each axis along which planes were annotated."""
        return {
            annotated_axis(sample.annotation.annotated): sample.name
            for sample in self.samples
            if sample.annotation is not None
        }

    def once(self, work: Callable[[], None]) -> None:
        """Do something in the first process only, while the others that share the training wait for it."""
        from torch import distributed

        if self.hardware.is_main:
            work()
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()

    def fit(self, stage: Stage) -> Fitted:
        """Train a stage for the steps that the budget gives it, or return its stored result."""
        if stage.name not in self.steps:
            raise InputError(
                f"no number of steps is given for stage {stage.name}; "
                f"the budget names {sorted(self.steps)}, so set --steps or --minutes"
            )
        return fit(
            stage,
            self.run,
            steps=self.steps[stage.name],
            seed=self.seed,
            hardware=self.hardware,
            monitor=self.monitor,
            monitor_every=self.monitor_every,
        )
