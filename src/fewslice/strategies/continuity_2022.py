"""Spatial continuity with the published settings (Xiao, Zhao, Yang, ISBI 2022): the strategy `continuity`, set so.

Both networks: 64-128-256-512 features, concatenated skips, transposed convolutions, batch normalisation; soft Dice over
the batch; RMSprop at 5e-4 without a schedule, gradients as they are. The first one sees flips, right-angle turns,
rotations by 22.5, 30 or 45° either way (probability 0.3) and piecewise-affine warps (0.8); the second one masks of 15
planes, flipped and turned. The mean over 8 views is cut at 0.2, after either network. Published are 100 epochs of 32
planes; patches are not stated, and the budget is the user's.
"""

from __future__ import annotations

from fewslice.data import augmentation
from fewslice.data.neighbours import Neighbours
from fewslice.model import Model
from fewslice.strategies import continuity
from fewslice.strategies.continuity import between, resolve, stages
from fewslice.training.segmentation import SegmentationConfig
from fewslice.training.stage import Schedule
from fewslice.training.task import Task

__all__ = ["Config", "between", "resolve", "stages", "train"]

_NETWORK = {
    "kind": "unet",
    "dims": 2,
    "features": 64,
    "max_features": 512,
    "depth": 4,
    "skips": "concatenate",
    "upsampling": "transposed",
}
_TURNED = augmentation.Config.none(flip=0.5, right_angle=1.0)
_SEGMENT = SegmentationConfig(
    network=_NETWORK,
    optimiser="rmsprop",
    learning_rate=5e-4,
    weight_decay=0.0,
    loss="dice",
    clip=None,
    augment=_TURNED.model_copy(
        update={
            "affine": 0.3,
            "rotation_choices_deg": (22.5, 30.0, 45.0),
            "scale": 1.0,
            "shear": 0.0,
            "piecewise_affine": 0.8,
        }
    ),
    normalisation="range",
    views=8,
    schedule=Schedule(warmup=0.0, decay="none", averaging=0.0, keep="last"),
)


class Config(continuity.Config):
    """Settings of the strategy; see :class:`fewslice.strategies.continuity.Config`."""

    segment: SegmentationConfig = _SEGMENT
    continuity: SegmentationConfig = _SEGMENT.model_copy(update={"augment": _TURNED, "normalisation": "none"})
    neighbours: Neighbours = Neighbours(planes=15, image_planes=0, threshold=0.2)
    mask_threshold: float | None = 0.2
    threshold: float | None = 0.2
    medians: tuple[int, ...] = (1,)


def train(config: Config, task: Task) -> Model:
    """Train as :func:`fewslice.strategies.continuity.train` does."""
    return continuity.train(config, task, strategy="continuity_2022")
