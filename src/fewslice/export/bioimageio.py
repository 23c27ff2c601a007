"""bioimage.io: a zip with the ONNX network, its description, and a reference input with the output that belongs to it.

Written to the model specification 0.5, for deepImageJ, ilastik, BiaPy and the model zoo. Needs the extra ``export``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fewslice.errors import InputError
from fewslice.export import onnx
from fewslice.export._network import Exported, Layout, example, layout_of
from fewslice.files import replacing
from fewslice.model import Model
from fewslice.volume import Volume

__all__ = ["SUFFIX", "Config", "export"]

SUFFIX = ".zip"


class Config(BaseModel):
    """What a person may say about the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("segmentation from few slices", min_length=5, max_length=128, description="of the model")
    description: str = Field("Segments microscopy volumes; trained with fewslice.", description="one sentence")
    authors: tuple[str, ...] = Field((), description="who trained it")
    licence: str | None = Field(None, description="SPDX name of the licence, such as CC-BY-4.0; None: not stated")


def export(config: Config, model: Model, target: Path, image: Volume, source: str) -> None:
    """Write the model as a bioimage.io package.

    Parameters
    ----------
    config
        Settings.
    model
        The model; it is moved to the processor.
    target
        Zip file to write.
    image
        Its middle becomes the reference input, so choose one that may be given away.
    source
        The run's name.

    Raises
    ------
    InputError
        If the extra is not installed, the image does not fit the model, or the description is refused.
    DiskError
        If the file cannot be written.
    """
    try:
        from bioimageio.spec import save_bioimageio_package
        from bioimageio.spec.model import v0_5
    except ImportError as error:
        raise InputError("bioimage.io packages need the extra: pip install 'fewslice[export]'") from error

    shown = example(model, image, source)
    with torch.inference_mode():
        expected = Exported(model.to("cpu")).eval()(torch.from_numpy(shown)).numpy()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        onnx.export(onnx.Config(), model, folder / "weights.onnx", image, source)
        np.save(folder / "input.npy", shown)
        np.save(folder / "output.npy", expected)
        (folder / "README.md").write_text(_readme(config, model), encoding="utf-8")
        try:
            described = v0_5.ModelDescr(**_description(config, model, folder, shown, v0_5))
        except ValueError as error:
            raise InputError(
                f"bioimage.io refuses the description: {_first_line(error)}; change it with --set"
            ) from error
        with replacing(target, suffix=".zip") as place:
            save_bioimageio_package(described, output_path=place)


def _description(config: Config, model: Model, folder: Path, shown: NDArray[np.float32], v0_5: Any) -> dict[str, Any]:
    layout = layout_of(model)

    def stored(name: str) -> Any:
        return v0_5.FileDescr(source=folder / name)

    channels = [f"channel{index}" for index in range(model.in_channels)]
    spacing = _spacing(model, layout)
    unit = "micrometer" if model.voxel_size_um else None
    batch = v0_5.BatchAxis(size=1) if layout.fixed_batch else v0_5.BatchAxis()
    in_axes: list[Any] = [batch, v0_5.ChannelAxis(channel_names=channels)]
    out_axes: list[Any] = [batch, v0_5.ChannelAxis(channel_names=[output.name for output in model.outputs])]
    for name, d, halo, scale in zip(layout.axes[2:], layout.divisor, layout.halo, spacing, strict=True):
        least = shown.shape[layout.axes.index(name)]
        size = v0_5.ParameterizedSize(min=least, step=d)
        in_axes.append(v0_5.SpaceInputAxis(id=name, size=size, unit=unit, scale=scale))
        same = v0_5.SizeReference(tensor_id="image", axis_id=name)
        if halo and 2 * halo < least:  # a halo that leaves nothing of the smallest input is not allowed
            out_axes.append(v0_5.SpaceOutputAxisWithHalo(id=name, size=same, halo=halo, unit=unit, scale=scale))
        else:
            out_axes.append(v0_5.SpaceOutputAxis(id=name, size=same, unit=unit, scale=scale))
    image = v0_5.InputTensorDescr(
        id="image",
        description="intensities as in the image file",
        axes=in_axes,
        test_tensor=stored("input.npy"),
        data=v0_5.IntervalOrRatioDataDescr(type="float32"),
    )
    probabilities = v0_5.OutputTensorDescr(
        id="probabilities",
        description=f"of each foreground class; foreground where their sum reaches {model.threshold:g}",
        axes=out_axes,
        test_tensor=stored("output.npy"),
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
    )
    return {
        "name": config.name,
        "description": config.description,
        "authors": [v0_5.Author(name=name) for name in config.authors],
        "license": config.licence,
        "documentation": stored("README.md"),
        "tags": ["segmentation", "sparse-annotation", "2d" if layout.axes == "bcyx" else "3d"],
        "inputs": [image],
        "outputs": [probabilities],
        "weights": v0_5.WeightsDescr(
            onnx=v0_5.OnnxWeightsDescr(source=folder / "weights.onnx", opset_version=onnx.OPSET)
        ),
    }


def _spacing(model: Model, layout: Layout) -> tuple[float, ...]:
    """Return the voxel size along the spatial axes, in single precision.

    The specification compares an extent with extent * scale / scale, which is exact only where the scale has bits to
    spare: 56 * 0.005 / 0.005 is not 56.
    """
    if model.voxel_size_um is None:
        return (1.0,) * len(layout.divisor)
    axes = [a for a in range(3) if layout.axes == "bczyx" or a != model.plane_axis]
    return tuple(float(np.float32(model.voxel_size_um[a])) for a in axes)


def _readme(config: Config, model: Model) -> str:
    layout = layout_of(model)
    trained = ", ".join(model.provenance.get("training_data", [])) or "not recorded"
    voxel = " × ".join(f"{v:g}" for v in model.voxel_size_um) + " µm (z, y, x)" if model.voxel_size_um else "not stated"
    planes = "Planes are segmented one by one." if layout.axes == "bcyx" else "Volumes are segmented whole."
    lines = [
        f"# {config.name}",
        "",
        config.description,
        "",
        f"Strategy: {model.provenance.get('strategy', 'not recorded')}. Trained on: {trained}. Voxel size: {voxel}.",
        f"Licence of the training data: {model.provenance.get('licence', 'not recorded')}.",
        "",
        f"{planes} Intensities go in as they are in the file; normalisation is inside. Extents must be multiples of "
        f"{', '.join(map(str, layout.divisor))} ({', '.join(layout.axes[2:])}).",
        f"Probabilities come out; foreground is where their sum reaches {model.threshold:g}.",
    ]
    return "\n".join(lines) + "\n"


def _first_line(error: ValueError) -> str:
    return next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
