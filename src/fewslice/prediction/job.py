"""What prediction does per block: read with context, predict, crop, quantise, threshold, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from fewslice import io
from fewslice.blocks.job import BlockFailure, Note, Work
from fewslice.errors import InputError
from fewslice.geometry import Block, Shape
from fewslice.model import Model
from fewslice.morphology.probabilities import segment_probabilities
from fewslice.morphology.proposals import Proposals, none
from fewslice.prediction.proposals import folder_of, owned, write_block
from fewslice.prediction.resampling import Resampling
from fewslice.prediction.whole import quantised
from fewslice.volume import Volume

__all__ = ["Elsewhere", "PredictBlocks", "Settings", "is_empty", "predict_work"]

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Settings:
    """What shapes the result besides model and image.

    Attributes
    ----------
    output
        The store, which exists.
    threshold
        Foreground threshold, 0–1.
    halo
        Context in voxels of the model, (z, y, x).
    factor
        Voxel of the image over voxel of the model, (z, y, x), where blocks are brought to the model's voxel.
    empty_below
        Per channel, intensity that a block must reach somewhere to be computed; None to compute all.
    """

    output: Path
    threshold: float
    halo: Shape
    factor: Triple | None = None
    empty_below: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Elsewhere:
    """Where another process finds the model and the image.

    Attributes
    ----------
    model
        Folder of the model.
    views
        Views averaged, or None for the model's own.
    image
        How to open the image.
    device
        Where to compute, such as ``cpu`` or ``cuda``.
    """

    model: Path
    views: int | None
    image: io.VolumeSource
    device: str


@dataclass(frozen=True)
class PredictBlocks:
    """The job of a prediction in other processes; each loads the model once and computes with one thread."""

    elsewhere: Elsewhere
    settings: Settings

    def open(self) -> Work:
        """Load the model, open image and output, and return the work."""
        torch.set_num_threads(1)
        model = Model.load(self.elsewhere.model).with_views(self.elsewhere.views).to(self.elsewhere.device)
        return predict_work(model, self.elsewhere.image.open(), self.settings)


def predict_work(model: Model, image: Volume, settings: Settings) -> Work:
    """Return what is done per block.

    Parameters
    ----------
    model
        On the device that computes.
    image
        The volume.
    settings
        Output and parameters.
    """
    probabilities = io.open_output(settings.output)
    segmentation = None if model.contours else io.open_output(settings.output, labels="segmentation")
    resampling = None if settings.factor is None else Resampling.of(image.shape, settings.factor)

    def read(block: Block) -> NDArray[np.generic]:
        try:
            return image.read(block.read)
        except (InputError, OSError) as error:
            raise BlockFailure(f"cannot be read: {error}", may_pass=True) from error

    def compute(block: Block, raw: NDArray[np.generic]) -> tuple[NDArray[np.uint8], Proposals | None] | None:
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise BlockFailure(f"NaN or infinite values between {block.read.start} and {block.read.stop} (z, y, x)")
        if settings.empty_below is not None and is_empty(raw, settings.empty_below):
            return None
        inner = (slice(None), *block.crop.slices)
        if model.contours:
            scores, found = model.proposals(raw, settings.threshold)
            return quantised(scores[inner]), owned(found, block)
        if resampling is not None:
            return quantised(resampling.predict(model, raw, block, settings.halo)), None
        return quantised(model.probabilities(raw)[inner]), None

    def write(block: Block, result: tuple[NDArray[np.uint8], Proposals | None] | None) -> Note:
        nothing = np.zeros((len(model.outputs), *block.write.shape), np.uint8)
        stored, found = (nothing, None) if result is None else result
        sums = {"0": probabilities.write(block.write, stored)}
        if segmentation is not None:
            classes = segment_probabilities(stored[: model.classes], settings.threshold)
            sums["labels/segmentation/0"] = segmentation.write(block.write, classes)
        if model.contours:
            write_block(
                folder_of(settings.output),
                block,
                found if found is not None else none(model.plane_axis, model.steps[-1].network["samples"]),
            )
        note: dict[str, Any] = {"checksums": sums}
        return note | {"empty": True} if result is None else note

    return Work(read, compute, write)


def is_empty(raw: NDArray[np.generic], below: tuple[float, ...]) -> bool:
    """Whether no channel reaches its threshold anywhere, in the mean of 3 × 3 pixels of a plane.

    Parameters
    ----------
    raw
        (c, z, y, x) intensities, context included.
    below
        One threshold per channel, in the image's units.
    """
    return all(
        float(ndimage.uniform_filter(channel.astype(np.float32), (1, 3, 3), mode="nearest").max()) < limit
        for channel, limit in zip(raw, below, strict=True)
    )
