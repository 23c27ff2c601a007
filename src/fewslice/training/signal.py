"""Below which intensity there is nothing: fitted on annotated foreground, for blocks that may be skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewslice.data.samples import Sample
from fewslice.geometry import Box

__all__ = ["fit_signal"]

_PLANES = 32
_QUANTILE = 0.01


def fit_signal(samples: Sequence[Sample]) -> tuple[float, ...] | None:
    """Find an intensity that everything annotated as foreground exceeds by far.

    Every connected piece of foreground on up to 32 planes of each sample has a brightest place, in the mean of 3 × 3
    pixels. The threshold lies half-way between the median of these planes and the brightest place of all but the
    faintest hundredth of the pieces; where pieces are darker than the median, it lies at theirs.

    Parameters
    ----------
    samples
        With annotation or without.

    Returns
    -------
    tuple of float or None
        One threshold per channel, in the image's units; None where no foreground is annotated.
    """
    peaks: list[NDArray[np.float32]] = []
    medians: list[NDArray[np.float32]] = []
    for sample in samples:
        for plane, pieces in _planes(sample):
            smooth = np.stack([ndimage.uniform_filter(c.astype(np.float32), 3, mode="nearest") for c in plane])
            numbered, count = ndimage.label(pieces)
            names = np.arange(1, count + 1)
            peaks.append(np.stack([ndimage.maximum(c, numbered, names) for c in smooth], axis=1))
            medians.append(np.median(smooth, axis=(1, 2)))
    if not peaks:
        return None
    faint = np.quantile(np.concatenate(peaks), _QUANTILE, axis=0, method="lower")
    middle = np.median(np.stack(medians), axis=0)
    return tuple(float(f) for f in np.minimum(faint, middle + (faint - middle) / 2))


def _planes(sample: Sample) -> Iterator[tuple[NDArray[np.generic], NDArray[np.bool_]]]:
    """Yield planes (c, y, x) that hold annotated foreground, and where it is, at most 32 evenly spaced ones."""
    if sample.annotation is None:
        return
    annotated, classes = sample.annotation.annotated, sample.annotation.classes
    holding = np.flatnonzero([bool((classes[z] > 0)[annotated[z]].any()) for z in range(len(classes))])
    chosen = holding[np.unique(np.linspace(0, len(holding) - 1, _PLANES).round().astype(int))] if len(holding) else []
    for z in map(int, chosen):
        plane = sample.image.read(Box((z, 0, 0), (z + 1, *sample.image.shape[1:])))[:, 0]
        yield plane, (classes[z] > 0) & annotated[z]
