"""How consistent a segmentation is from plane to plane.

A 2D network sees one plane at a time; stacked, its planes flicker. Both numbers need no truth. The ideal is not 0 (real
objects begin and end) but the value of the truth itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError

__all__ = ["consistency"]

Array = npt.NDArray[Any]


def consistency(planes: Iterable[Array], valid: Iterable[Array] | None = None) -> dict[str, float | None]:
    """Measure flicker and disagreement between neighbouring planes.

    Parameters
    ----------
    planes
        Label planes (y, x) in the order of z, bool or integer: a whole (z, y, x) array, or an iterable that reads one
        plane at a time; three are held in memory.
    valid
        Bool planes in the same order; a comparison counts where all planes in it are valid. All by default.

    Returns
    -------
    dict
        ``flicker``: share of voxels, over all planes that have two neighbours, whose label leaves and comes back,
        p[z-1] == p[z+1] != p[z]; None with fewer than three planes.
        ``plane_disagreement``: share of voxels whose label differs between planes z and z + 1, mean over the pairs of
        planes (every pair weighs the same); None with fewer than two planes.

    Raises
    ------
    InputError
        If planes differ in shape, or `valid` is shorter than `planes`.

    Examples
    --------
    >>> import numpy as np
    >>> consistency(np.array([0, 1, 0, 0]).reshape(4, 1, 1))
    {'flicker': 0.5, 'plane_disagreement': 0.6666666666666666}
    """
    masks: Iterable[Array | None] = repeat(None) if valid is None else valid
    recent: list[tuple[Array, Array | None]] = []
    returns = compared = 0
    disagreements: list[float] = []
    iterator = iter(masks)
    for plane in planes:
        try:
            mask = next(iterator)
        except StopIteration:
            raise InputError("valid has fewer planes than the labels; give one mask per plane") from None
        if recent and plane.shape != recent[-1][0].shape:
            raise InputError(f"planes must have one shape, got {recent[-1][0].shape} and {plane.shape}")
        recent = [*recent[-2:], (plane, mask)]
        if len(recent) >= 2:
            changed, known = _where(recent[-1][0] != recent[-2][0], recent[-1][1], recent[-2][1])
            if known:
                disagreements.append(changed / known)
        if len(recent) == 3:
            before, here, after = (labels for labels, _ in recent)
            flips, known = _where((before == after) & (here != before), *(part for _, part in recent))
            returns += flips
            compared += known
    return {
        "flicker": returns / compared if compared else None,
        "plane_disagreement": float(np.mean(disagreements)) if disagreements else None,
    }


def _where(event: Array, *masks: Array | None) -> tuple[int, int]:
    """Count the voxels with the event, and all voxels, where every mask is true."""
    given = [mask.astype(bool, copy=False) for mask in masks if mask is not None]
    if not given:
        return int(np.count_nonzero(event)), event.size
    known = np.logical_and.reduce(given)
    return int(np.count_nonzero(event & known)), int(np.count_nonzero(known))
