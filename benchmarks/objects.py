"""Images of cells whose objects are annotated one by one: what is trained and tested on, how objects are scored.

1. :data:`SETS` says which images train, which test and what simulates them; :func:`read_set` reads them and refuses
   others than those that results were made on.
2. :func:`labelled` draws which training images are labelled; fewer are a subset of more.
3. :func:`score` scores the objects of the test images, and notes of every true object whether it was found.
4. :func:`f1_interval` pools what was found in several results, of one arm or of two in the same draws, and says by a
   bootstrap over cells how sure F1, or the difference of both, is.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cells import data_identity
from fewslice.metrics.intervals import Interval

__all__ = [
    "SETS",
    "ImageSet",
    "draws_of",
    "f1_interval",
    "f1_text",
    "labelled",
    "read_predictions",
    "read_set",
    "score",
]

Array = npt.NDArray[Any]
Result = Mapping[str, Any]

_RESAMPLES = 4000


@dataclass(frozen=True)
class ImageSet:
    """Images and how they are divided.

    Attributes
    ----------
    folder
        With ``images`` and ``labels``, TIFF files of the same names.
    train, test
        First and last (excluded) of the files, in the order of their names.
    simulator
        Kind of the simulated images.
    voxel_size_um
        (z, y, x) in µm; None where nothing is known.
    objects
        ``bright`` or ``dark``, for the baseline without a model.
    labelled
        Numbers of labelled training images that are compared.
    identity
        Hash of all images and labels.
    """

    folder: str
    train: tuple[int, int]
    test: tuple[int, int]
    simulator: str
    voxel_size_um: tuple[float, float, float] | None
    objects: str
    labelled: tuple[int, ...]
    identity: str


_NISSL: dict[str, Any] = {
    "folder": "nissl_cells",
    "simulator": "stained_section",
    "voxel_size_um": (0.346, 0.346, 0.346),
    "objects": "dark",
    "identity": "0425197e358b",
}

SETS = {
    # tiles 1, 2 and 3 are one slide, tile 0 is another
    "nissl_123": ImageSet(train=(1, 4), test=(0, 1), labelled=(1, 2, 3), **_NISSL),
    "nissl_0": ImageSet(train=(0, 1), test=(1, 4), labelled=(1,), **_NISSL),
    "nuclei": ImageSet(
        folder="nuclei_2d",
        train=(0, 80),
        test=(80, 120),
        simulator="fluorescence_nuclei",
        voxel_size_um=None,
        objects="bright",
        labelled=(1, 4, 16, 80),
        identity="2e9e7ecf1800",
    ),
}


def read_set(name: str, data: Path) -> tuple[dict[str, tuple[Array, Array]], dict[str, tuple[Array, Array]]]:
    """Read the training and the test images of a set.

    Returns
    -------
    tuple of dict
        Stem → image (c, 1, y, x; uint8) and labels (1, y, x; ids, 0 = background).

    Raises
    ------
    FileNotFoundError
        If the data are not there.
    ValueError
        If they are others than those that results were made on.
    """
    import tifffile

    chosen = SETS[name]
    folder = data / chosen.folder
    if not folder.is_dir():
        raise FileNotFoundError(f"{chosen.folder} is not in the data folder; give it with --data or FEWSLICE_DATA")
    found = {}
    for path in sorted((folder / "images").glob("*.tif")):
        image, labels = tifffile.imread(path), tifffile.imread(folder / "labels" / path.name)
        planes = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[None]
        found[path.stem] = np.ascontiguousarray(planes[:, None]), np.ascontiguousarray(labels[None])
    identity = data_identity(*(array for pair in found.values() for array in pair))
    if identity != chosen.identity:
        raise ValueError(
            f"{chosen.folder} hashes to {identity}, results were made on {chosen.identity}; get the same files"
        )
    pairs = list(found.items())
    return dict(pairs[slice(*chosen.train)]), dict(pairs[slice(*chosen.test)])


def read_predictions(name: str, kind: str, data: Path) -> list[Array]:
    """Read what others have predicted on the test images: (1, y, x) ids, in the order of the names.

    Parameters
    ----------
    name
        Of the set.
    kind
        Folder beside the images, such as ``pred_cellpose_cyto2``.
    data
        Folder of the real data.
    """
    import tifffile

    chosen = SETS[name]
    paths = sorted((data / chosen.folder / kind).glob("*.tif"))
    return [tifffile.imread(path)[None] for path in paths[slice(*chosen.test)]]


def labelled(name: str, draw: int, stems: Sequence[str], count: int) -> list[str]:
    """Draw the labelled images; those of a smaller count are among those of a larger one.

    Parameters
    ----------
    name
        Of the set, a seed together with `draw`.
    draw
        All arms of a draw are shown the same labels.
    stems
        Of the training images.
    count
        How many are labelled.
    """
    order = np.random.default_rng([zlib.crc32(name.encode()), draw]).permutation(len(stems))
    return sorted(stems[index] for index in order[:count])


# --- scores ---


def score(truth: Sequence[Array], predicted: Sequence[Array]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score objects, pooled over images.

    Parameters
    ----------
    truth, predicted
        Ids of one image each, 0 is background.

    Returns
    -------
    scores
        ``f1_T``, ``ap_T``, ``pq_T`` for T of 0.5, 0.6, …, 0.9, ``mean_f1`` and ``mean_ap`` over them, ``sq`` at 0.5,
        ``count_error`` (predicted − true, over true), ``splits``, ``merges``.
    found
        At IoU 0.5, for :func:`f1_interval`: ``objects``, one ``1`` or ``0`` for every true object, image after image
        in the order of ids, and ``false``, the number of predicted objects that are none.
    """
    from fewslice.metrics import instance

    images = [instance.count_overlaps(t, p) for t, p in zip(truth, predicted, strict=True)]
    own = instance.scores(images)
    scores = {f"{name}_{cut}": value for name in ("f1", "ap", "pq") for cut, value in own[name].items()}
    scores |= {name: own[name] for name in ("mean_f1", "mean_ap", "sq", "splits", "merges")}
    scores["count_error"] = own["relative_count_error"]
    flags = [np.isin(np.arange(len(o.truth_ids)), o.truth[o.iou >= 0.5]) for o in images]
    hits = np.concatenate(flags).astype(int)
    return scores, {"objects": "".join(map(str, hits)), "false": int(own["fp"]["0.5"])}


def f1_interval(ours: Sequence[Result], theirs: Sequence[Result] = (), *, seed: int = 0) -> Interval | None:
    """Give F1 at IoU 0.5 over all objects of several sets, mean over draws, with an interval over cells.

    True objects are drawn with replacement, the same ones for both arms and all draws; of false ones there are as many
    as a Poisson variable of the observed mean says. So the interval tells what other cells of the same tissue could
    have given.

    Parameters
    ----------
    ours
        Results with ``found`` as of :func:`score`: one for each set and draw.
    theirs
        Of another arm; what is given is then ours − theirs, over the draws that both have of every set. A single draw
        without a budget, of an arm that does not train, stands beside all of ours.
    seed
        Of the bootstrap.

    Returns
    -------
    Interval or None
        95 %; `count` is the number of true objects. None where no draw has all sets.
    """
    sets = sorted({str(result["cell"]["setting"]) for result in (*ours, *theirs)})
    sides = [_by_draw(side, sets) for side in (ours, theirs) if side]
    if len(sides) == 2 and not any(result["cell"]["budget"] for result in theirs) and 0 in sides[1]:
        sides[1] = dict.fromkeys(sides[0], sides[1][0])
    draws = sorted(set.intersection(*(set(side) for side in sides))) if sides else []
    if not draws:
        return None
    rng = np.random.default_rng(seed)
    total = len(sides[0][draws[0]][0])
    weights = rng.multinomial(total, np.full(total, 1 / total), size=_RESAMPLES).astype(np.float64)
    value, drawn = 0.0, np.zeros(_RESAMPLES)
    for side, sign in zip(sides, (1, -1), strict=False):
        for draw in draws:
            hits, false = side[draw]
            value += sign * 2 * hits.sum() / (total + hits.sum() + false) / len(draws)
            tp = weights @ hits
            drawn += sign * 2 * tp / (total + tp + rng.poisson(false, _RESAMPLES)) / len(draws)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(value), float(low), float(high), total, 0.95, "bootstrap")


def draws_of(results: Sequence[Result]) -> int:
    """Count the draws that have all sets that occur."""
    sets = sorted({str(result["cell"]["setting"]) for result in results})
    return len(_by_draw(results, sets))


def f1_text(interval: Interval | None, *, sign: bool = False) -> str:
    """Write ``0.61 (0.57 to 0.65)``; ``–`` where there is nothing."""
    if interval is None or interval.low is None or interval.high is None:
        return "–"
    mean, low, high = (f"{value:{'+' if sign else ''}.3f}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def _by_draw(results: Sequence[Result], sets: Sequence[str]) -> dict[int, tuple[npt.NDArray[np.float64], int]]:
    """Join the sets of every draw that has all of them: whether each true object was found, and the false ones."""
    grouped: dict[int, dict[str, Result]] = {}
    for result in results:
        own = grouped.setdefault(int(result["cell"]["draw"]), {})
        name = str(result["cell"]["setting"])
        if name in own:
            raise ValueError(f"draw {result['cell']['draw']} has several results of {name}; name arm and labels")
        own[name] = result["found"]
    return {
        draw: (
            np.array([flag == "1" for name in sets for flag in own[name]["objects"]], dtype=np.float64),
            sum(int(own[name]["false"]) for name in sets),
        )
        for draw, own in grouped.items()
        if len(own) == len(sets)
    }
