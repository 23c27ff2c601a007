"""The samples of a training, predicted by the model of an earlier stage."""

from __future__ import annotations

import math
import time

from fewslice import io
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.model import Model, model_hash
from fewslice.prediction.blockwise import predict_volume
from fewslice.training.task import Task
from fewslice.volume import Volume

__all__ = ["predict_samples", "seconds_to_predict"]

_MEASURED_VOXELS = 2**18
_OVERHEAD = 1.2


def predict_samples(model: Model, task: Task, stage: str) -> list[Volume]:
    """Predict every sample, unlabelled ones included; a resumed run finds what is there.

    Parameters
    ----------
    model
        Made by `stage`; it is stored in the stage's folder.
    task
        The samples and where to compute.
    stage
        Name of the stage under whose folder the predictions lie.

    Returns
    -------
    list of Volume
        (classes, z, y, x) uint8, 0–255 for probabilities 0–1, in the order of the samples; on disk.

    Raises
    ------
    InputError
        If a block of an image cannot be predicted.
    """
    folder = task.run.stage(stage)
    paths = [folder / "predicted" / f"{index:03d}.ome.zarr" for index in range(len(task.samples))]

    def predict() -> None:
        model.save(folder / "model")
        identity = model_hash(folder / "model")
        paths[0].parent.mkdir(exist_ok=True)
        device = task.hardware.torch_device()
        for sample, path in zip(task.samples, paths, strict=True):

            def tell(done: int, blocks: int, source: str = sample.image.source) -> None:
                if task.run.listener is not None:
                    task.run.listener({"event": "block", "image": source, "done": done, "blocks": blocks})

            made = predict_volume(
                model, sample.image, path, model_id=identity, device=device, pyramids=False, progress=tell
            )
            if made.outcome.failed:
                reason = made.outcome.failed[0][1]
                raise InputError(f"{sample.image.source} cannot be predicted: {reason}; mend the image")

    task.once(predict)
    return [io.open_volume(path) for path in paths]


def seconds_to_predict(model: Model, task: Task) -> float:
    """Estimate how long `predict_samples` will take, from one block in the middle of the first sample.

    Parameters
    ----------
    model
        Of the same networks and views, trained or not; it is moved to the task's device.
    task
        The samples and where to compute.
    """
    image = task.samples[0].image
    share = min(1.0, (_MEASURED_VOXELS / math.prod(image.shape)) ** (1 / 3))
    extent = [max(1, -(-round(e * share) // d) * d) for e, d in zip(image.shape, model.divisor, strict=True)]
    extent = [min(e, full) for e, full in zip(extent, image.shape, strict=True)]
    start = tuple((full - e) // 2 for e, full in zip(extent, image.shape, strict=True))
    block = image.read(Box(start, tuple(s + e for s, e in zip(start, extent, strict=True))))
    model.to(task.hardware.torch_device())
    spent = math.inf
    for _ in range(2):
        began = time.perf_counter()
        model.probabilities(block)
        spent = min(spent, time.perf_counter() - began)
    voxels = sum(math.prod(sample.image.shape) for sample in task.samples)
    return float(spent * voxels / math.prod(extent) * _OVERHEAD)
