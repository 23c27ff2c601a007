"""ONNX: one file that ONNX Runtime, OpenCV, Fiji, ilastik and others run without Python or torch.

Its metadata name the model's classes, threshold and voxel size. Needs the extra ``export``.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from fewslice.errors import InputError
from fewslice.export._network import Exported, example, layout_of
from fewslice.files import replacing
from fewslice.model import Model
from fewslice.volume import Volume

__all__ = ["OPSET", "SUFFIX", "Config", "export"]

SUFFIX = ".onnx"
OPSET = 20


class Config(BaseModel):
    """There is nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def export(config: Config, model: Model, target: Path, image: Volume, source: str) -> None:
    """Write the model as ONNX.

    Input ``image``, output ``probabilities``, both float32; batch (of planes) and extents are free, the latter in
    multiples of the divisor that the metadata name.

    Parameters
    ----------
    config
        Settings.
    model
        The model; it is moved to the processor.
    target
        File to write.
    image
        An image that the model can be shown: its layout is traced, its values are not kept.
    source
        The run's name.

    Raises
    ------
    InputError
        If the extra is not installed, or the image does not fit the model.
    DiskError
        If the file cannot be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("ONNX needs the extra: pip install 'fewslice[export]'") from error

    layout = layout_of(model)
    shown = torch.from_numpy(example(model, image, source))
    free: dict[int, Any] = {}
    if not layout.fixed_batch:
        free[0] = torch.export.Dim("batch", min=1)
        shown = torch.cat([shown] * 2)  # an extent of one would be taken for a constant
    for axis, (name, d) in enumerate(zip(layout.axes[2:], layout.divisor, strict=True), start=2):
        dimension = torch.export.Dim(f"{name}_blocks", min=1)
        free[axis] = dimension if d == 1 else d * dimension
    network = Exported(model.to("cpu")).eval()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own use of what it deprecates
            program = torch.onnx.export(
                network,
                (shown,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"image": free},
                input_names=["image"],
                output_names=["probabilities"],
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    for name, value in _facts(model).items():
        program.model.metadata_props[name] = json.dumps(value)
    with replacing(target) as place:
        program.save(place)


def _facts(model: Model) -> dict[str, Any]:
    layout = layout_of(model)
    return {
        "axes": layout.axes,
        "divisor": list(layout.divisor),
        "halo": list(layout.halo),
        "outputs": [output.name for output in model.outputs],
        "class_values": list(model.class_values),
        "threshold": model.threshold,
        "voxel_size_um": model.voxel_size_um and list(model.voxel_size_um),
        "provenance": model.provenance,
    }
