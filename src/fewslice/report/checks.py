"""Quality without truth, of one prediction: the numbers of :mod:`fewslice.evaluation.quality` and their worst places.

1. :func:`check_arm` asks every check that the prediction allows, on the whole of it or, where it is large, on a box of
   whole blocks in its middle.
2. Each answers with a number, what that is when all is well, and pictures of where it strays furthest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewslice import io
from fewslice.errors import FewsliceError
from fewslice.evaluation import quality
from fewslice.geometry import Box
from fewslice.report.content import OpenCase
from fewslice.report.crops import beside, enlarged, hot_spot, marked, outlined, tinted, window
from fewslice.report.palette import ARMS
from fewslice.report.planes import DisplayRange, across, display_range, image_uri, rendered
from fewslice.volume import Volume, normalise_index

__all__ = ["Check", "Checked", "Place", "check_arm"]

_WORST = 3
_HALF = 48
_FOUND, _MARK = ARMS[1], ARMS[4]
_LOW, _HIGH = 0.25, 0.75

# beyond these a number is called unusual
_SEAM = 1.25
_FLICKER = 3.0
_UNCERTAIN = 0.5
_SHIFT, _SCALE = 1.0, 2.0
_OUTLIERS = 0.02


@dataclass(frozen=True)
class Place:
    """Where a number strays furthest.

    Attributes
    ----------
    where
        The place, in words.
    picture
        Data URI.
    shows
        Alternative text.
    """

    where: str
    picture: str
    shows: str


@dataclass(frozen=True)
class Check:
    """The answer of one check.

    Attributes
    ----------
    name, value
        What was asked, and the number with its unit.
    expected
        What it is when all is well.
    unusual
        Whether it is beyond that.
    means
        What to think of if it is.
    places
        The worst first.
    """

    name: str
    value: str
    expected: str
    unusual: bool
    means: str
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What was found, and of which part where that is not the whole."""

    checks: tuple[Check, ...]
    note: str = ""


@dataclass(frozen=True)
class _Looked:
    """One prediction with all that the checks look at."""

    opened: OpenCase
    index: int
    scores: Volume | None
    kinds: tuple[str, ...]
    block: tuple[int, int, int] | None
    part: Box
    contrast: DisplayRange | None

    @property
    def labels(self) -> Volume | None:
        found = self.opened.segmentations[self.index]
        return None if found is None else found.labels

    @property
    def voxel(self) -> tuple[float, float, float]:
        return self.opened.voxel_size_um or (1.0, 1.0, 1.0)

    def pixels(self, box: Box, axis: int = 0) -> NDArray[np.uint8]:
        """Return the image in a box that is one voxel thick along an axis; black where the image is gone."""
        if self.opened.image is None or self.contrast is None:
            return np.zeros([n for a, n in enumerate(box.shape) if a != axis], np.uint8)
        values = self.opened.image.read(box, range(len(self.contrast.low)))
        return rendered(across(values, axis + 1), self.contrast, 1)

    def mask(self, box: Box, axis: int = 0) -> NDArray[np.bool_]:
        """Return what was found there."""
        if self.labels is None:
            return np.zeros([n for a, n in enumerate(box.shape) if a != axis], bool)
        found: NDArray[np.bool_] = across(self.labels.read(box)[0], axis) > 0
        return found


def check_arm(opened: OpenCase, index: int, most_voxels: int) -> Checked:
    """Run all checks that a prediction allows.

    Parameters
    ----------
    opened
        The case.
    index
        Which of its arms.
    most_voxels
        Voxels that are looked at; of larger volumes a box in the middle.
    """
    segmentation = opened.segmentations[index]
    if segmentation is None:
        return Checked(())
    scores, kinds, block = _scores(opened, index)
    part = _middle(segmentation.shape, block or (1, 1, 1), most_voxels)
    planes = sorted({part.start[0], (part.start[0] + part.stop[0]) // 2, part.stop[0] - 1})
    image = opened.image
    contrast = None if image is None else display_range(image, planes, range(min(3, image.channels)))
    looked = _Looked(opened, index, scores, kinds, block, part, contrast)
    asked: tuple[Callable[[_Looked], Check | None], ...] = (_seams, _flicker, _uncertain, _sizes, _drift)
    found = tuple(check for check in (ask(looked) for ask in asked) if check is not None)
    note = ""
    if part.shape != segmentation.shape:
        of = " × ".join(str(n) for n in part.shape), " × ".join(str(n) for n in segmentation.shape)
        note = f"Looked at: {of[0]} voxels in the middle of the {of[1]}."
    return Checked(found, note)


def _scores(opened: OpenCase, index: int) -> tuple[Volume | None, tuple[str, ...], tuple[int, int, int] | None]:
    """Return the outputs of the model, their kinds, and the block they were written in."""
    try:
        volume = io.open_volume(opened.case.arms[index].prediction)
    except FewsliceError:
        return None, (), None
    outputs, block = volume.attributes.get("outputs"), volume.attributes.get("block")
    if not isinstance(outputs, list) or volume.shape != opened.shape:
        return None, (), None
    extent = (int(block[0]), int(block[1]), int(block[2])) if isinstance(block, list) and len(block) == 3 else None
    return volume, tuple(str(o.get("kind")) for o in outputs), extent


def _middle(shape: tuple[int, int, int], block: tuple[int, int, int], most_voxels: int) -> Box:
    """Return the whole volume, or a box of whole blocks in its middle."""
    count = [max(1, -(-n // b)) for n, b in zip(shape, block, strict=True)]
    taken = list(count)
    while int(np.prod([min(t * b, n) for t, b, n in zip(taken, block, shape, strict=True)])) > most_voxels:
        axis = int(np.argmax(taken))
        if taken[axis] == 1:
            break
        taken[axis] = max(1, taken[axis] * 3 // 4)
    start = tuple((c - t) // 2 * b for c, t, b in zip(count, taken, block, strict=True))
    return Box(start, tuple(min(n, s + t * b) for n, s, t, b in zip(shape, start, taken, block, strict=True)))


class _Window:
    """A lazy array (c, z, y, x) that is a box of another."""

    def __init__(self, volume: Volume, box: Box) -> None:
        self._volume, self._box = volume, box
        self.shape: tuple[int, ...] = (volume.channels, *box.shape)
        self.dtype: np.dtype[Any] = volume.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        slices, dropped = normalise_index(index, self.shape)
        box = Box(tuple(s.start for s in slices[1:]), tuple(s.stop for s in slices[1:])).shift(self._box.start)
        values = self._volume.read(box, range(slices[0].start, slices[0].stop))
        return values.reshape([n for axis, n in enumerate(values.shape) if axis not in dropped])


def _part(volume: Volume, box: Box) -> Volume:
    return volume if box.shape == volume.shape else Volume(_Window(volume, box), volume.voxel_size_um)


# ------------------------------------------------------------------------------------------------------------- checks


def _seams(looked: _Looked) -> Check | None:
    if looked.scores is None or looked.block is None:
        return None
    part = _part(looked.scores, looked.part)
    seams = [s for s in quality.seams(part, looked.block, _WORST) if s.ratio is not None]
    if not seams:
        return None
    faces = sorted(
        ((ratio, s.axis, position + looked.part.start[s.axis]) for s in seams for position, ratio in s.worst),
        reverse=True,
    )
    return Check(
        "Seams between blocks",
        ", ".join(f"{s.ratio:.2f} along {'zyx'[s.axis]}" for s in seams),
        f"about 1; look above {_SEAM:g}",
        max(s.ratio or 0.0 for s in seams) > _SEAM,
        "The step of the prediction across faces of blocks over the step between them. A seam means that the halo was "
        "too small: predict again with --full-halo.",
        tuple(_seam_place(looked, *face) for face in faces[:_WORST]),
    )


def _seam_place(looked: _Looked, ratio: float, axis: int, position: int) -> Place:
    """Show the prediction where the step across a face is largest: from the side for faces along z."""
    assert looked.scores is not None
    start, stop = list(looked.part.start), list(looked.part.stop)
    start[axis], stop[axis] = position - 1, position + 1
    values = looked.scores.read(Box(tuple(start), tuple(stop))).astype(np.int32)
    row, column = hot_spot(np.abs(np.diff(values, axis=1 + axis)).sum(axis=(0, 1 + axis)))
    others = [a for a in range(3) if a != axis]
    centre = [0, 0, 0]
    centre[axis] = position
    centre[others[0]], centre[others[1]] = row + start[others[0]], column + start[others[1]]
    side = 1 if axis == 0 else 0
    extent = [1 if a == side else 2 * _HALF for a in range(3)]
    box = window(looked.scores.shape, centre, extent)
    pixels = across(looked.scores.read(box).max(axis=0), side)
    left = [a for a in range(3) if a != side]
    picture, factors = enlarged(_bytes(pixels), looked.voxel[left[0]] / looked.voxel[left[1]])
    line = left.index(axis)
    picture = marked(picture, line, (position - box.start[axis]) * factors[line], _MARK)
    name = "zyx"[axis]
    return Place(
        f"before {name} {position}: {ratio:.2f}",
        image_uri(picture),
        f"Prediction around {_at(centre)}, bright where it is high; notches mark the face between blocks before "
        f"{name} {position}",
    )


def _flicker(looked: _Looked) -> Check | None:
    if looked.labels is None or looked.part.shape[0] < 3 or "contour" in looked.kinds:
        return None
    found = quality.flicker(_part(looked.labels, looked.part), _WORST)
    if found.share is None:
        return None
    truth = (looked.opened.case.arms[looked.index].scores or {}).get("along_z_truth", {}).get("flicker")
    planes = [(z + looked.part.start[0], share) for z, share in found.worst if share > 0]
    return Check(
        "Flicker along z",
        f"{_percent(found.share)} of voxels",
        "small, and higher in thin things"
        if truth is None
        else f"{_percent(truth)} in the truth; look above {_FLICKER:g} times that",
        truth is not None and found.share > _FLICKER * truth,
        "Voxels whose label leaves and comes back from one plane to the next. Much of it means that planes are judged "
        "one by one: use a 3D network, or more planes of context.",
        tuple(_flicker_place(looked, *plane) for plane in planes[:2]),
    )


def _flicker_place(looked: _Looked, z: int, share: float) -> Place:
    """Show three planes in a row where labels flicker most."""
    assert looked.labels is not None
    part = looked.part
    labels = looked.labels.read(Box((z - 1, *part.start[1:]), (z + 2, *part.stop[1:])))[0]
    row, column = hot_spot((labels[0] == labels[2]) & (labels[0] != labels[1]))
    centre = (z, row + part.start[1], column + part.start[2])
    pictures = []
    for plane in (z - 1, z, z + 1):
        box = window(looked.labels.shape, (plane, *centre[1:]), (1, _HALF, _HALF))
        picture, factors = enlarged(looked.pixels(box), looked.voxel[1] / looked.voxel[2], side=144)
        pictures.append(outlined(picture, looked.mask(box), factors, _FOUND))
    return Place(
        f"plane {z}: {_percent(share)}",
        image_uri(beside(pictures)),
        f"Planes {z - 1}, {z} and {z + 1} around {_at(centre)}, what was found outlined",
    )


def _uncertain(looked: _Looked) -> Check | None:
    if looked.scores is None or not looked.kinds or set(looked.kinds) != {"probability"}:
        return None
    found = quality.uncertain(_part(looked.scores, looked.part), _LOW, _HIGH, worst=_WORST)
    of_foreground = found.of_foreground
    value = f"{_percent(found.share)} of voxels"
    if of_foreground is not None:
        value += f", {_percent(of_foreground)} of the foreground"
    return Check(
        "Uncertain voxels",
        value,
        f"a rim around what is found; look above {_percent(_UNCERTAIN)} of the foreground",
        of_foreground is not None and of_foreground > _UNCERTAIN,
        f"Voxels with a probability between {_LOW:g} and {_HIGH:g}. Many of them mean that the model has not seen such "
        "tissue: annotate a plane there.",
        tuple(_uncertain_place(looked, box.shift(looked.part.start), share) for box, share in found.worst),
    )


def _uncertain_place(looked: _Looked, box: Box, share: float) -> Place:
    """Show the plane of a box that holds most uncertain voxels."""
    assert looked.scores is not None
    scale = 255.0 if looked.scores.dtype.kind in "ui" else 1.0

    def uncertain(where: Box) -> NDArray[np.bool_]:
        assert looked.scores is not None
        p = looked.scores.read(where).max(axis=0)
        unsure: NDArray[np.bool_] = (p > _LOW * scale) & (p < _HIGH * scale)
        return unsure

    z = box.start[0] + int(uncertain(box).sum(axis=(1, 2)).argmax())
    centre = (z, *((a + b) // 2 for a, b in zip(box.start[1:], box.stop[1:], strict=True)))
    shown = window(looked.scores.shape, centre, (1, 2 * _HALF, 2 * _HALF))
    picture, factors = enlarged(looked.pixels(shown), looked.voxel[1] / looked.voxel[2])
    picture = tinted(picture, uncertain(shown)[0], factors, _MARK)
    return Place(
        f"around {_at(centre)}: {_percent(share)}",
        image_uri(outlined(picture, looked.mask(shown), factors, _FOUND)),
        f"Plane {z} around {_at(centre)}; uncertain voxels are tinted, what was found is outlined",
    )


def _sizes(looked: _Looked) -> Check | None:
    objects = looked.opened.case.arms[looked.index].objects
    if objects is None or "volume_um3" not in objects.columns or objects.whole.sum() < 10:
        return None
    columns, whole = objects.columns, objects.whole
    found = quality.size_outliers(columns["id"][whole], columns["volume_um3"][whole])
    large = sum(score > 0 for _, score in found.objects)
    return Check(
        "Objects of unusual size",
        f"{large} large, {len(found.objects) - large} small of {int(whole.sum())}",
        f"about 1 in 2000; look above {_percent(_OUTLIERS)}",
        len(found.objects) > max(1.0, _OUTLIERS * float(whole.sum())),
        "Objects more than 3.5 robust standard deviations of ln(volume) from the median, those at the border left out. "
        "Large ones may be several that were not separated, small ones debris.",
        tuple(_size_place(looked, number, score) for number, score in found.objects[:_WORST]),
    )


def _size_place(looked: _Looked, number: int, score: float) -> Place:
    objects = looked.opened.case.arms[looked.index].objects
    assert objects is not None and looked.opened.shape is not None
    columns = objects.columns
    row = int(np.flatnonzero(columns["id"] == number)[0])
    centre = (round(columns["z"][row]), round(columns["y"][row]), round(columns["x"][row]))
    half = max(24, round(0.8 * columns["diameter_um"][row] / min(looked.voxel[1:])))
    box = window(looked.opened.shape, centre, (1, 2 * half, 2 * half))
    ids = io.open_labels(looked.opened.case.arms[looked.index].prediction / "labels" / "instances").read(box)[0][0]
    picture, factors = enlarged(looked.pixels(box), looked.voxel[1] / looked.voxel[2])
    picture = outlined(picture, (ids > 0) & (ids != number), factors, _MARK)
    return Place(
        f"object {number}: {columns['volume_um3'][row]:.3g} µm³, {score:+.1f} SD",
        image_uri(outlined(picture, ids == number, factors, _FOUND)),
        f"Object {number} outlined in plane {centre[0]} around {_at(centre)}, its neighbours in another colour",
    )


def _drift(looked: _Looked) -> Check | None:
    run, image = looked.opened.case.arms[looked.index].run, looked.opened.image
    if run is None or image is None:
        return None
    try:
        found = quality.input_drift(image, quality.read_normalisation(run.path / "model"))
    except FewsliceError:
        return None
    if found is None:
        return None
    planes = max(zip(found.worst, strict=True), key=lambda entry: abs(entry[0][1]))
    z, shift = planes[0]
    plane = Box((z, 0, 0), (z + 1, *image.shape[1:]))
    step = max(1, max(image.shape[1:]) // 256)
    picture, _ = enlarged(looked.pixels(plane)[::step, ::step], looked.voxel[1] / looked.voxel[2])
    off = [abs(s) > _SHIFT or not 1 / _SCALE <= k <= _SCALE for s, k in zip(found.shift, found.scale, strict=True)]
    values = [f"level {s:+.2f}, contrast × {k:.2f}" for s, k in zip(found.shift, found.scale, strict=True)]
    return Check(
        "Image against the training images",
        "; ".join(f"{name}: {v}" for name, v in zip(image.channel_names, values, strict=True))
        if len(values) > 1
        else values[0],
        f"level near 0, contrast near 1; look beyond ±{_SHIFT:g} and × {_SCALE:g}",
        any(off),
        "How far brightness and contrast are from what the model was trained on, in units of its training images' "
        "contrast. It sees level and contrast only, no change of texture.",
        (
            Place(
                f"plane {z}: level {shift:+.2f}",
                image_uri(picture),
                f"Plane {z}, which strays furthest from the training images",
            ),
        ),
    )


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    scaled: NDArray[np.uint8] = np.rint(255 * np.clip(values.astype(np.float32), 0, 1)).astype(np.uint8)
    return scaled


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _at(centre: tuple[int, ...] | list[int]) -> str:
    return "z {}, y {}, x {}".format(*centre)
