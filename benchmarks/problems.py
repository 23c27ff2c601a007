"""The data of the comparison: what is trained on, what is tested on, which planes are annotated.

Every array identity below was frozen before the first comparison. A file or a phantom that differs is refused, so that
results of different data can never meet under one key.

Settings:

``phantom``
    Three simulated training volumes and one test volume in the paper's geometry.
``stack2_field``
    The real stack, whole field: columns x < 288 to train, x ≥ 320 to test. Prediction sees the gap as context.
``stack2_crops``
    The same test; training sees three crops of 114 × 114 pixels from x < 288, drawn per draw.
``stack2_inner``, ``stack2_crops_inner``
    The same two inside x < 288 (x < 176 to train, 208 ≤ x < 288 to test): recipes are chosen here.
``phantom_cost``
    ``phantom`` once more, with scores along the training, for processor seconds; runs on a CPU only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cells import data_identity

__all__ = ["DATA", "SETTINGS", "HeldOut", "Problem", "Setting", "choose_planes", "load", "read_pair"]

Array = npt.NDArray[Any]
Triple = tuple[int, int, int]

DATA = {
    "stack2": "9443cb110886",
    "stack3": "0022944407f2",
    "em_train": "147788aa1b8c",
    "em_test": "149cf1b71d6e",
    "nuclei_3d": "de92e9676aa5",
}
_FOLDERS = {
    "stack2": "two_photon_neurons/stack2",
    "stack3": "two_photon_neurons/stack3",
    "em_train": "em_mitochondria/train",
    "em_test": "em_mitochondria/test",
    "nuclei_3d": "nuclei_3d/1135",
}
_CROP = 114


@dataclass(frozen=True)
class HeldOut:
    """A volume to score on.

    Attributes
    ----------
    image
        (c, z, y, x): what prediction sees, context included.
    truth
        (z, y, x) bool, of the same extent.
    scored
        The part whose voxels count, in z, y, x.
    """

    image: Array
    truth: npt.NDArray[np.bool_]
    scored: tuple[slice, slice, slice]


@dataclass(frozen=True)
class Problem:
    """What one draw is trained and tested on.

    Attributes
    ----------
    train
        (image (c, z, y, x), truth (z, y, x) bool) of each training volume, fully annotated; planes are hidden later.
    test
        The volume to score on.
    voxel_size_um
        (z, y, x) in µm.
    sha
        Hash of all arrays above, recorded with the result.
    """

    train: tuple[tuple[Array, npt.NDArray[np.bool_]], ...]
    test: HeldOut
    voxel_size_um: tuple[float, float, float]
    sha: str


@dataclass(frozen=True)
class Setting:
    """A protocol.

    Attributes
    ----------
    planes
        Numbers of annotated planes per training volume that are compared.
    depth
        Planes of a training volume.
    patch
        Training patch of the 3D networks (z, y, x).
    tuned
        Whether recipes may be chosen on it; False: it is scored once per frozen recipe.
    build
        (draw, data folder) → Problem.
    identity
        () → hash of the data, known without reading it.
    curve
        Scores taken along the training; 0 for none.
    """

    planes: tuple[int, ...]
    depth: int
    patch: Triple
    tuned: bool
    build: Callable[[int, Path], Problem]
    identity: Callable[[], str]
    curve: int = 0


def load(name: str, draw: int, data: Path) -> Problem:
    """Build the problem of setting `name` for `draw`; real data are read from the folder `data`."""
    return SETTINGS[name].build(draw, data)


def choose_planes(setting: str, draw: int, volume: int, depth: int, count: int) -> list[int]:
    """Draw the annotated planes of one volume.

    Parameters
    ----------
    setting, draw, volume
        Seed of the draw: every arm of a draw sees the same planes.
    depth
        Planes of the volume.
    count
        How many are annotated. The planes of a smaller count are among those of a larger one, so that more planes
        always means more information.

    Returns
    -------
    list of int
        Sorted z indices.
    """
    name = setting.removesuffix("_cost")
    order = np.random.default_rng([zlib.crc32(name.encode()), draw, volume]).permutation(depth)
    return sorted(int(z) for z in order[:count])


def read_pair(name: str, data: Path) -> tuple[Array, Array]:
    """Read image and labels of a real data set and check that they are those the results were made on.

    Returns
    -------
    tuple
        The image as stored and the labels (z, y, x) as stored.

    Raises
    ------
    FileNotFoundError
        If the data are not there.
    ValueError
        If they are others.
    """
    import tifffile

    folder = data / _FOLDERS[name]
    if not folder.is_dir():
        raise FileNotFoundError(f"{_FOLDERS[name]} is not in the data folder; give it with --data or FEWSLICE_DATA")
    image, labels = tifffile.imread(folder / "image.tif"), tifffile.imread(folder / "labels.tif")
    found = data_identity(image, labels)
    if found != DATA[name]:
        raise ValueError(f"{_FOLDERS[name]} hashes to {found}, results were made on {DATA[name]}; get the same files")
    return image, labels


@cache
def _stack2(data: Path) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Read stack2 as (c, z, y, x) and its somata as (z, y, x) bool; value 1 is soma, 255 is background."""
    image, labels = read_pair("stack2", data)
    return np.ascontiguousarray(image.swapaxes(0, 1)), labels == 1


def _field(draw: int, data: Path, *, train_to: int, test: slice, context: int) -> Problem:
    image, truth = _stack2(data)
    train = ((image[..., :train_to], truth[..., :train_to]),)
    return _real(train, image, truth, test, context)


def _crops(draw: int, data: Path, *, train_to: int, test: slice, context: int) -> Problem:
    """Cut three crops that do not overlap; each holds at least 0.5 % foreground, or there is nothing to learn."""
    image, truth = _stack2(data)
    rng = np.random.default_rng([zlib.crc32(b"stack2_crops"), draw])
    corners: list[tuple[int, int]] = []
    while len(corners) < 3:
        y, x = int(rng.integers(512 - _CROP + 1)), int(rng.integers(train_to - _CROP + 1))
        apart = all(abs(y - v) >= _CROP or abs(x - u) >= _CROP for v, u in corners)
        if apart and truth[:, y : y + _CROP, x : x + _CROP].mean() >= 0.005:
            corners.append((y, x))
    train = tuple(
        (image[:, :, y : y + _CROP, x : x + _CROP], truth[:, y : y + _CROP, x : x + _CROP]) for y, x in corners
    )
    return _real(train, image, truth, test, context)


def _real(
    train: tuple[tuple[Array, npt.NDArray[np.bool_]], ...],
    image: Array,
    truth: npt.NDArray[np.bool_],
    test: slice,
    context: int,
) -> Problem:
    seen = slice(test.start - context, test.stop)
    scored = (slice(None), slice(None), slice(context, None))
    held = HeldOut(np.ascontiguousarray(image[..., seen]), np.ascontiguousarray(truth[..., seen]), scored)
    train = tuple((np.ascontiguousarray(part), np.ascontiguousarray(mask)) for part, mask in train)
    arrays = [array for pair in train for array in pair]
    return Problem(train, held, (2.0, 0.88, 0.88), data_identity(*arrays, held.image, held.truth))


def _phantom(draw: int, data: Path) -> Problem:
    return _phantom_problem()


@cache
def _phantom_problem() -> Problem:
    from benchmarks import phantom

    volumes = [phantom.volume(index) for index in range(4)]
    pairs = [(volume.image, volume.semantic == 1) for volume in volumes]
    image, truth = pairs[3]
    whole = (slice(None), slice(None), slice(None))
    sha = data_identity(*(array for pair in pairs for array in pair))
    return Problem(tuple(pairs[:3]), HeldOut(image, truth, whole), (2.0, 0.88, 0.88), sha)


def _phantom_identity() -> str:
    from benchmarks import phantom

    return str(phantom.IDENTITY)


def _split(
    build: Callable[..., Problem], *, train_to: int, test: slice, context: int
) -> Callable[[int, Path], Problem]:
    return lambda draw, data: build(draw, data, train_to=train_to, test=test, context=context)


_OUTER: dict[str, Any] = {"train_to": 288, "test": slice(320, 512), "context": 32}
_INNER: dict[str, Any] = {"train_to": 176, "test": slice(208, 288), "context": 32}


def _real_setting(build: Callable[..., Problem], where: dict[str, Any], patch: Triple, *, tuned: bool) -> Setting:
    return Setting((1, 2, 4, 8), 21, patch, tuned, _split(build, **where), lambda: DATA["stack2"])


SETTINGS = {
    "phantom": Setting((1, 2, 4, 8, 16, 22, 50), 50, (32, 64, 64), True, _phantom, _phantom_identity),
    "phantom_cost": Setting((1,), 50, (32, 64, 64), True, _phantom, _phantom_identity, curve=10),
    "stack2_inner": _real_setting(_field, _INNER, (16, 96, 96), tuned=True),
    "stack2_crops_inner": _real_setting(_crops, _INNER, (16, 96, 96), tuned=True),
    "stack2_field": _real_setting(_field, _OUTER, (16, 96, 96), tuned=False),
    "stack2_crops": _real_setting(_crops, _OUTER, (16, 96, 96), tuned=False),
}
