"""Patches for training, each a pure function of the seed and the step, so that a resumed run sees the same ones.

1. `TrainingVolume` joins an image with what is known of it: annotation, and beside it pseudo-labels.
2. `_Candidates` remembers where patches may be drawn: a bounded sample of the known voxels, by class.
3. `PatchSampler.batch(step)` draws, reads, normalises and augments one batch. Along axes of which only some planes are
   annotated, and nothing else is taught, patches may reach beyond the volume, which is mirrored there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fewslice.data import augmentation
from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.volume import Volume

if TYPE_CHECKING:
    from fewslice.data.contour_targets import ContourTargets

__all__ = ["Batch", "PatchSampler", "TrainingVolume", "cached", "coded_ids", "in_memory"]

_CANDIDATES_PER_CLASS = 2**18
_PLANES_SCANNED = 256
_CACHE_BYTES = 2**31


@dataclass(frozen=True)
class TrainingVolume:
    """An image and what a network is taught about it.

    Attributes
    ----------
    image
        (c, z, y, x), any numeric type.
    labels
        (z, y, x) classes, 0 = background; read only where `annotated`.
    annotated
        (z, y, x) bool: voxels with ground truth that training may use.
    pseudo_labels
        (k, z, y, x) uint8 volume of foreground probabilities 0–255 of a teacher, one channel per class, or None.
    pseudo_weight
        α: the weight of voxels that have a pseudo-label but no ground truth.
    hidden
        (z, y, x) bool or None: held-out voxels, which carry weight 0 whatever is known of them.
    certain
        Weigh pseudo-labels by their certainty as well: 1 − H(p) / ln n, H being the entropy over the n classes.
    fade
        Further factor of the weight of pseudo-labels, 0–1, float32 that broadcasts to (z, y, x), or None.
    instances
        (z, y, x) ids of the objects, 0 = background, which become the target in place of `labels`; or None.
    objects
        (z, y, x) uint8, 0–255 for 0–1: what is taught of the objects beside their mask, where `annotated`
        (:func:`fewslice.data.targets.object_map`); or None.
    """

    image: Volume
    labels: NDArray[np.unsignedinteger] | None
    annotated: NDArray[np.bool_] | None
    pseudo_labels: Volume | None = None
    pseudo_weight: float = 0.0
    hidden: NDArray[np.bool_] | None = None
    certain: bool = False
    fade: NDArray[np.float32] | None = None
    instances: NDArray[np.unsignedinteger] | None = None
    objects: NDArray[np.uint8] | None = None


def cached(volumes: Iterable[TrainingVolume], *, limit: int = _CACHE_BYTES) -> list[TrainingVolume]:
    """Return the same volumes, with images and pseudo-labels in memory as long as there is room.

    Parameters
    ----------
    volumes
        Read from disk or in memory.
    limit
        Bytes that all copies together may take; by default 2 GiB. What does not fit is read patch by patch.
    """
    given = list(volumes)
    kept = iter(in_memory([d for v in given for d in (v.image, v.pseudo_labels) if d is not None], limit=limit))
    return [
        replace(
            volume,
            image=next(kept),
            pseudo_labels=None if volume.pseudo_labels is None else next(kept),
        )
        for volume in given
    ]


def in_memory(volumes: Iterable[Volume], *, limit: int = _CACHE_BYTES) -> list[Volume]:
    """Return the same volumes, read into memory as long as there is room for `limit` bytes of copies together."""
    kept = []
    for volume in volumes:
        size = volume.channels * math.prod(volume.shape) * volume.dtype.itemsize
        if not isinstance(volume.array, np.ndarray) and size <= limit:
            limit -= size
            volume = replace(volume, array=volume.read())
        kept.append(volume)
    return kept


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes
    ----------
    image
        (b, c, z, y, x) float32, normalised; without the plane axis for 2D networks.
    target
        (b, ...) int64 classes or ids as `coded_ids` gives them, or (b, classes, ...) float32 probabilities.
    weight
        (b, ...) float32 ≥ 0; 0 where nothing is known.
    pseudo
        (b, ...) bool: voxels whose target is a pseudo-label; None where there are none.
    contours
        What a contour proposal network learns from the ids; None for others.
    objects
        (b, ...) float32, 0–1: boundary or distance of the objects; it says nothing where `weight` is 0 or the target is
        a pseudo-label. None where it is not taught.
    """

    image: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    pseudo: torch.Tensor | None = None
    contours: ContourTargets | None = None
    objects: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        pseudo = None if self.pseudo is None else self.pseudo.to(device, non_blocking=True)
        objects = None if self.objects is None else self.objects.to(device, non_blocking=True)
        return Batch(
            self.image.to(device, non_blocking=True),
            self.target.to(device, non_blocking=True),
            self.weight.to(device, non_blocking=True),
            pseudo,
            None if self.contours is None else self.contours.to(device),
            objects,
        )


def coded_ids(ids: NDArray[np.unsignedinteger], classes: NDArray[np.integer], class_count: int) -> NDArray[np.int64]:
    """Renumber the objects of a patch so that ``(id − 1) % class_count + 1`` is the object's class.

    Such ids are small: augmentation moves them as 24-bit numbers, whatever they are in the file.

    Parameters
    ----------
    ids
        (…) ids, 0 = background; any size.
    classes
        (…) class 1, 2, … of every pixel of an object.
    class_count
        Number of foreground classes.
    """
    names, first, dense = np.unique(ids, return_index=True, return_inverse=True)
    known = names > 0
    code = np.zeros(len(names), np.int64)
    code[known] = np.arange(known.sum()) * class_count + classes.ravel()[first][known]
    return code[dense].reshape(ids.shape)


@dataclass(frozen=True)
class _Candidates:
    """Voxels around which patches are drawn, of one volume: (n, 3) indices, by class; [0] is background."""

    voxels: tuple[NDArray[np.int32], ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class PatchSampler:
    """Draws batches of patches where something is known.

    Attributes
    ----------
    volumes
        At least one of them with known voxels.
    normalisation
        Applied to every patch.
    patch
        (z, y, x) in voxels; for 2D networks 1 along `plane_axis`.
    batch_size
        Patches per batch.
    classes
        Number of foreground classes.
    foreground
        Share of patches centred near a foreground voxel; the rest near any known voxel.
    augment
        Settings of the augmentation.
    plane_axis
        For 2D networks the axis (0, 1, 2 = z, y, x) along which planes are stacked; None for 3D networks.
    targets
        ``soft``: probabilities of the teacher where there is no ground truth; ``hard``: its most probable class.
    pseudo_share
        Share of patches drawn anywhere in volumes with pseudo-labels; the rest near annotated voxels.
    seed
        Makes the sequence of batches.
    voxel_size_um
        (z, y, x), for augmentation that respects anisotropy; None for cubes.
    """

    volumes: Sequence[TrainingVolume]
    normalisation: Normalisation
    patch: tuple[int, int, int]
    batch_size: int
    classes: int
    foreground: float
    augment: augmentation.Config
    seed: int
    plane_axis: int | None = None
    targets: Literal["soft", "hard"] = "soft"
    pseudo_share: float = 0.5
    voxel_size_um: tuple[float, float, float] | None = None
    _candidates: tuple[_Candidates, ...] = field(init=False, repr=False)
    _anywhere: tuple[_Candidates, ...] = field(init=False, repr=False)
    _beyond: tuple[tuple[bool, bool, bool], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the patch against the volumes and find the voxels to draw around."""
        for volume in self.volumes:
            if any(p > s for p, s in zip(self.patch, volume.image.shape, strict=True)):
                raise InputError(
                    f"patch {self.patch} (z, y, x) is larger than {volume.image.source} {volume.image.shape}; "
                    "ask for a smaller patch with --set patch=[z,y,x]"
                )
        draw = np.random.default_rng([self.seed, 1])
        object.__setattr__(self, "_candidates", tuple(_known_candidates(v, self.classes, draw) for v in self.volumes))
        object.__setattr__(self, "_anywhere", tuple(_pseudo_candidates(v, self.classes, draw) for v in self.volumes))
        taught = any(v.pseudo_labels is not None for v in self.volumes)
        object.__setattr__(self, "_beyond", tuple((False,) * 3 if taught else _gaps(v) for v in self.volumes))
        if not any(sum(c.counts) for c in (*self._candidates, *self._anywhere)):
            raise InputError("no voxel is annotated in any training image; name annotated planes with --planes")

    def batch(self, step: int) -> Batch:
        """Return the batch of `step` (0, 1, …): the same for the same seed, in any order of calls."""
        draw = np.random.default_rng([self.seed, 2, step])
        pieces = [self._piece(draw) for _ in range(self.batch_size)]
        image = torch.from_numpy(np.stack([p[0] for p in pieces]))
        target = torch.from_numpy(np.stack([p[1] for p in pieces]))
        weight = torch.from_numpy(np.stack([p[2] for p in pieces]))
        generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
        soft = target.ndim == image.ndim
        if self.plane_axis:  # 2D planes along y or x: bring that axis to the front of the plane
            image = image.movedim(2 + self.plane_axis, 2)
            target = target.movedim(self.plane_axis - 3, -3)
            weight = weight.movedim(1 + self.plane_axis, 1)
        image, target, weight = augmentation.augment(
            image, target, weight, generator, self.augment, voxel_size_um=self._moved_voxel_size()
        )
        pseudo = objects = None
        if self.plane_axis is not None:
            image, target, weight = image.squeeze(2), target.squeeze(-3), weight.squeeze(1)
        if soft:
            pseudo = target[:, self.classes + 1] > 0.5 if self._taught else None
            objects = target[:, -1].contiguous() if self._outlined else None
            target = target[:, : self.classes + 1]
        return Batch(image.contiguous(), target.contiguous(), weight.contiguous(), pseudo, objects=objects)

    @property
    def _taught(self) -> bool:
        return any(v.pseudo_labels is not None for v in self.volumes)

    @property
    def _outlined(self) -> bool:
        return any(v.objects is not None for v in self.volumes)

    def _moved_voxel_size(self) -> tuple[float, float, float] | None:
        if self.voxel_size_um is None or not self.plane_axis:
            return self.voxel_size_um
        sizes = list(self.voxel_size_um)
        sizes.insert(0, sizes.pop(self.plane_axis))
        return (sizes[0], sizes[1], sizes[2])

    def _piece(
        self, draw: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64] | NDArray[np.float32], NDArray[np.float32]]:
        box, index = self._draw_box(draw)
        volume = self.volumes[index]
        raw = volume.image.read_mirrored(box)
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise InputError(
                f"{volume.image.source} has NaN or infinite values in box {box.start}–{box.stop} (z, y, x), where "
                "training samples; replace them in the image or crop it before training"
            )
        image = self.normalisation.apply(raw)
        annotated = np.zeros(box.shape, dtype=bool)
        labels = np.zeros(box.shape, dtype=np.int64)
        if volume.annotated is not None and volume.labels is not None:
            inside = box.clip(volume.image.shape)
            here = inside.shift(tuple(-v for v in box.start)).slices
            annotated[here] = volume.annotated[inside.slices]
            labels[here] = np.where(annotated[here], volume.labels[inside.slices], 0)
            if volume.instances is not None:
                ids = np.where(annotated[here], volume.instances[inside.slices], 0)
                labels[here] = coded_ids(ids, labels[here], self.classes)
        weight = annotated.astype(np.float32)
        if not self._taught and not self._outlined:
            return image, labels, weight
        # probabilities of the classes, then whether they are pseudo-labels, then what is taught of objects, if anything
        target = np.zeros((self.classes + 2 + self._outlined, *box.shape), dtype=np.float32)
        known = target[: self.classes + 1]
        if volume.pseudo_labels is not None:
            probabilities = volume.pseudo_labels.read(box).astype(np.float32) / 255.0
            known[1:] = probabilities
            known[0] = np.clip(1.0 - probabilities.sum(0), 0.0, 1.0)
            known /= np.maximum(known.sum(0, keepdims=True), 1e-6)
            trust = _trust(volume, box, known)
            if self.targets == "hard":
                best = known.argmax(0)
                known[:] = best[None] == np.arange(self.classes + 1)[:, None, None, None]
            weight = np.where(annotated, 1.0, trust).astype(np.float32)
            target[self.classes + 1] = ~annotated
        if volume.objects is not None:
            inside = box.clip(volume.image.shape)
            here = inside.shift(tuple(-v for v in box.start)).slices
            target[-1][here] = volume.objects[inside.slices] / np.float32(255.0)
        for value in range(self.classes + 1):
            target[value][annotated] = labels[annotated] == value
        if volume.hidden is not None:
            weight[volume.hidden[box.slices]] = 0.0
        return image, target, weight

    def _draw_box(self, draw: np.random.Generator) -> tuple[Box, int]:
        pools = self._candidates
        has_pseudo = any(sum(c.counts) for c in self._anywhere)
        has_known = any(sum(c.counts) for c in self._candidates)
        if has_pseudo and (not has_known or draw.random() < self.pseudo_share):
            pools = self._anywhere
        class_totals = np.array([sum(c.counts[k] for c in pools) for k in range(self.classes + 1)], dtype=np.float64)
        if draw.random() < self.foreground and class_totals[1:].any():
            present = np.flatnonzero(class_totals[1:]) + 1
            value = int(draw.choice(present))
        else:
            value = int(draw.choice(len(class_totals), p=class_totals / class_totals.sum()))
        by_volume = np.array([c.counts[value] for c in pools], dtype=np.float64)
        index = int(draw.choice(len(pools), p=by_volume / by_volume.sum()))
        voxels = pools[index].voxels[value]
        centre = voxels[draw.integers(len(voxels))]
        start = []
        for axis, (size, extent) in enumerate(zip(self.patch, self.volumes[index].image.shape, strict=True)):
            if self._beyond[index][axis]:
                # Few planes are annotated: unless they come to lie at the rim of patches too, whatever the network says
                # at the ends of a volume, where its padding begins, was never judged.
                start.append(int(centre[axis]) - int(draw.integers(size)))
                continue
            # The chosen voxel lies anywhere in the middle half of the patch, so that networks see it at any offset.
            offset = int(draw.integers(size // 4, max(size - size // 4, size // 4 + 1)))
            start.append(int(np.clip(int(centre[axis]) - offset, 0, extent - size)))
        return Box(tuple(start), tuple(s + p for s, p in zip(start, self.patch, strict=True))), index


def _trust(volume: TrainingVolume, box: Box, probabilities: NDArray[np.float32]) -> NDArray[np.float32] | float:
    """Return the weight of pseudo-labels in a box, given their probabilities (classes, z, y, x) that sum to 1."""
    trust: NDArray[np.float32] | float = volume.pseudo_weight
    if volume.certain:
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(0)
        trust = trust * np.clip(1.0 - entropy / math.log(len(probabilities)), 0.0, 1.0)
    if volume.fade is not None:
        where = tuple(slice(None) if n == 1 else part for n, part in zip(volume.fade.shape, box.slices, strict=True))
        trust = trust * volume.fade[where]
    return trust


def _gaps(volume: TrainingVolume) -> tuple[bool, bool, bool]:
    """Along which axes some planes of an annotated volume hold no annotation at all."""
    known = volume.annotated
    if known is None or not known.any():
        return (False, False, False)
    z, y, x = (not known.any(axis=tuple(a for a in range(3) if a != axis)).all() for axis in range(3))
    return (z, y, x)


def _known_candidates(volume: TrainingVolume, classes: int, draw: np.random.Generator) -> _Candidates:
    if volume.annotated is None or volume.labels is None:
        return _none(classes)
    planes = np.flatnonzero(volume.annotated.any(axis=(1, 2)))
    labels, annotated = volume.labels, volume.annotated
    return _gather(planes, classes, draw, lambda z: np.where(annotated[z], labels[z].astype(np.int64), -1))


def _pseudo_candidates(volume: TrainingVolume, classes: int, draw: np.random.Generator) -> _Candidates:
    pseudo = volume.pseudo_labels
    if pseudo is None or volume.pseudo_weight <= 0:
        return _none(classes)
    depth, height, width = pseudo.shape
    planes = np.unique(np.linspace(0, depth - 1, min(depth, _PLANES_SCANNED)).astype(int))

    def classify(z: int) -> NDArray[np.int64]:
        probabilities = pseudo.read(Box((z, 0, 0), (z + 1, height, width)))[:, 0]
        best = probabilities.argmax(0) + 1
        found = np.where(probabilities.max(0) >= 128, best, 0).astype(np.int64)
        if volume.hidden is not None:
            found[volume.hidden[z]] = -1
        return found

    found = _gather(planes, classes, draw, classify)
    return _Candidates(found.voxels, tuple(round(count * depth / len(planes)) for count in found.counts))


def _gather(
    planes: NDArray[np.integer],
    classes: int,
    draw: np.random.Generator,
    classify: Callable[[int], NDArray[np.int64]],
) -> _Candidates:
    quota = max(1, _CANDIDATES_PER_CLASS // max(len(planes), 1))
    found: list[list[NDArray[np.int32]]] = [[] for _ in range(classes + 1)]
    counts = [0] * (classes + 1)
    for z in planes:
        plane = classify(int(z))
        for value in range(classes + 1):
            flat = np.flatnonzero(plane == value)
            counts[value] += len(flat)
            if len(flat) > quota:
                flat = draw.choice(flat, quota, replace=False)
            y, x = np.divmod(flat, plane.shape[1])
            found[value].append(np.stack([np.full_like(y, z), y, x], axis=1).astype(np.int32))
    voxels = tuple(np.concatenate(f) if f else np.zeros((0, 3), np.int32) for f in found)
    return _Candidates(voxels, tuple(counts))


def _none(classes: int) -> _Candidates:
    return _Candidates((np.zeros((0, 3), np.int32),) * (classes + 1), (0,) * (classes + 1))
