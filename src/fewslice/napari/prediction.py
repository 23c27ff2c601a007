"""Prediction from the window: of what is on the canvas, of the whole volume, of a file; and the next plane to annotate.

What is on the canvas is cut out together with the context that the model reads around it, predicted like any image, and
cut down to what was shown. So it is what the whole volume would show there, but for the borders of the image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fewslice import io
from fewslice.annotation import AXIS_NAMES
from fewslice.errors import FewsliceError, InputError
from fewslice.geometry import Box
from fewslice.napari.layers import ImageSource
from fewslice.volume import Volume

__all__ = [
    "NextPlane",
    "Opened",
    "View",
    "count_arguments",
    "counts_text",
    "cut_out",
    "free_output",
    "model_folder",
    "next_planes",
    "plan_arguments",
    "predicted_view",
    "segment_arguments",
    "stage_model",
    "store_of",
    "view_arguments",
    "volume_arguments",
]

_GRID = 32
"""Cut-outs begin on multiples of this, as blocks begin on multiples of a model's pooling, which is a power of two."""


@dataclass(frozen=True)
class Opened:
    """What is known of a model from its JSON alone: the context (z, y, x) it reads, in voxels."""

    folder: Path
    halo: tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """A cut-out that is to be predicted.

    Attributes
    ----------
    path
        The file with the cut-out.
    output
        Where its prediction goes.
    shown
        What was on the canvas, in the whole volume.
    inside
        The same in the cut-out.
    """

    path: Path
    output: Path
    shown: Box
    inside: Box


@dataclass(frozen=True)
class NextPlane:
    """A plane worth annotating next: its axis (0 z, 1 y, 2 x), its index, and how much it promises."""

    axis: int
    plane: int
    score: float


def model_folder(run: str | Path) -> Opened:
    """Return the model of a run folder, or of a model folder.

    Raises
    ------
    InputError
        If there is none.
    """
    given = Path(run)
    folder = given / "model" if (given / "model" / "model.json").exists() else given
    try:
        content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        z, y, x = (int(n) for n in content["halo"])
    except OSError as error:
        raise InputError(f"{given} holds no trained model; choose a run folder whose training has finished") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'model.json'} cannot be used ({error!r}); train again") from error
    return Opened(folder, (z, y, x))


def stage_model(run: Path, stage: str) -> Path | None:
    """Return a model that a stage of a run has left, or the run's once it is there; None if there is none yet."""
    for folder in (run / "model", run / "stages" / stage / "model"):
        if (folder / "model.json").exists():
            return folder
    return None


def cut_out(source: ImageSource, shown: Box, model: Opened, folder: Path) -> View:
    """Write what is on the canvas, with the context that the model reads, to a file below `folder`.

    Parameters
    ----------
    source
        The image.
    shown
        Box z, y, x, one plane thick.
    model
        The model that is to predict it.
    folder
        Where the file goes; what an earlier cut-out left there is replaced.
    """
    grown = shown.grow(model.halo).clip(source.volume.shape)
    start = tuple(low // _GRID * _GRID if reach else low for low, reach in zip(grown.start, model.halo, strict=True))
    box = Box(start, grown.stop)
    place = folder / "view"
    path = place / "view.ome.zarr"
    values = source.volume.read(box)
    cut = Volume.from_array(values, source.volume.voxel_size_um, source.volume.channel_names)
    io.save_volume(path, cut, overwrite=True)
    return View(path, place / "predicted.ome.zarr", shown, shown.shift(tuple(-n for n in start)))


def predicted_view(view: View) -> npt.NDArray[Any] | None:
    """Return the segmentation (z, y, x) of what was on the canvas.

    Of a model that proposes contours these are the objects in them; None until :func:`segment_arguments` were run.
    """
    for name in ("segmentation", "instances"):
        if name in io.open_volume(view.output).label_names:
            values: npt.NDArray[Any] = io.open_labels(view.output / "labels" / name).read(view.inside)[0]
            return values
    return None


def view_arguments(model: Opened, view: View) -> list[str]:
    """Return the arguments of ``fewslice`` that predict a cut-out."""
    return ["predict", str(model.folder), str(view.path), "-o", str(view.output), "--overwrite"]


def segment_arguments(view: View) -> list[str]:
    """Return the arguments of ``fewslice`` that draw the contours in a predicted cut-out."""
    return ["segment", str(view.output), "--segmenter", "contours"]


def store_of(path: Path | str | None) -> Path | None:
    """Return the prediction on this disk that a file is, or is labels of; None if it is neither."""
    if path is None or io.is_address(path):
        return None
    place = Path(path)
    store = place.parent.parent if place.parent.name == "labels" else place
    try:
        return store if "model_hash" in io.open_volume(store).attributes else None
    except FewsliceError:
        return None


def count_arguments(store: Path, image: Path | str | None) -> list[list[str]]:
    """Return the arguments of ``fewslice`` that find the objects of a prediction, and then those that measure them."""
    measured = ["measure", str(store), "--overwrite"]
    return [["segment", str(store)], measured if image is None else [*measured, "--image", str(image)]]


def counts_text(store: Path) -> str:
    """Say what ``fewslice measure`` has counted in a prediction, and where its table is."""
    stem = store.name.removesuffix(".ome.zarr")
    found = json.loads(store.with_name(f"{stem}.objects.json").read_text(encoding="utf-8"))
    return (
        f"{found['objects']} objects, of which {found['counted']} count; the others touch the last plane, row or "
        f"column. Their table is {stem}.objects.csv; correct them in the tab Proofread"
    )


def volume_arguments(run: Path, image: Path | str, source: ImageSource | None, output: Path, device: str) -> list[str]:
    """Return the arguments of ``fewslice`` that predict a whole volume or a file."""
    out = ["predict", str(run), str(image), "-o", str(output), "--device", device]
    if source is not None and source.path is not None and source.axes is not None:
        out += ["--axes", source.axes]
    if source is not None and source.volume.voxel_size_um is not None:
        out += ["--voxel-size-um", ",".join(f"{v:.9g}" for v in source.volume.voxel_size_um)]
    return out


def free_output(image: Path | str, folder: Path) -> Path:
    """Return a name for the prediction of an image that is not taken yet."""
    stem = Path(image).name.split(".")[0] or "image"
    number = 1
    while (path := folder / f"{stem}_predicted{number:02d}.ome.zarr").exists():
        number += 1
    return path


def plan_arguments(run: Path) -> list[str]:
    """Return the arguments of ``fewslice`` that say which planes to annotate next."""
    return ["plan", str(run), "--json"]


def next_planes(lines: Sequence[str]) -> tuple[list[NextPlane], str]:
    """Read what ``fewslice plan RUN --json`` printed.

    Returns
    -------
    planes, advice
        The planes, most promising first, and a sentence.

    Raises
    ------
    InputError
        If it printed something else.
    """
    text = "\n".join(lines)
    try:
        content = json.loads(text[text.index("{") :])
        found = [NextPlane(_axis(p["axis"]), int(p["plane"]), float(p["score"])) for p in content["next_planes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"fewslice plan printed what cannot be read ({error!r}); run it in a shell") from error
    advice = content.get("advice", "")
    return found, advice if isinstance(advice, str) else " ".join(str(a) for a in advice)


def _axis(value: Any) -> int:
    return AXIS_NAMES.index(value) if isinstance(value, str) else int(value)
