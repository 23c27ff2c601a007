"""Where cells lie: clusters, layers, contacts and overlaps, for all cells at once.

1. :func:`scatter` draws positions from a density that varies in space, as :func:`clumps` makes it vary.
2. :func:`lay_beside` puts some cells against others, as satellites lie against neurons.
3. :func:`push_apart` moves cells that come too close until each pair has the distance it may have. No cell is lost, so
   the density that was asked for is the density there is.

Positions are (n, d) in µm with d = 2 or 3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

__all__ = ["clumps", "lay_beside", "push_apart", "scatter"]

Floats = npt.NDArray[np.float64]


WAVES = 32
HIGHEST = 2.5


def clumps(
    strength: float, size_um: float, dimensions: int, generator: np.random.Generator
) -> Callable[[Floats], Floats]:
    """Make a relative density: the exponential of a sum of random waves, which is close to a Gaussian field.

    Parameters
    ----------
    strength
        Standard deviation of ln density.
    size_um
        Structures are about this large.
    dimensions
        2 or 3.
    generator
        Source of the random numbers.

    Returns
    -------
    callable
        Positions (n, d) in µm → (n,), 0 to 1.
    """
    frequency = generator.standard_normal((dimensions, WAVES)) / size_um
    phase = generator.uniform(0, 2 * np.pi, WAVES)

    def density(points: Floats) -> Floats:
        field = np.sqrt(2 / WAVES) * np.cos(points @ frequency + phase).sum(axis=1)
        return np.asarray(np.exp(strength * (field.clip(-HIGHEST, HIGHEST) - HIGHEST)), dtype=np.float64)

    return density


def scatter(
    count: int, low_um: Floats, high_um: Floats, weight: Callable[[Floats], Floats], generator: np.random.Generator
) -> Floats:
    """Draw positions with a density proportional to `weight`, by rejection.

    Parameters
    ----------
    count
        How many.
    low_um, high_um
        Corners of the region, (d,) in µm.
    weight
        Positions (m, d) → (m,), 0 to 1.
    generator
        Source of the random numbers.

    Returns
    -------
    ndarray
        (count, d) float64 in µm.
    """
    found = [np.empty((0, len(low_um)))]
    missing = count
    while missing > 0:
        drawn = generator.uniform(low_um, high_um, (3 * missing + 16, len(low_um)))
        accepted = drawn[generator.random(len(drawn)) < weight(drawn)][:missing]
        found.append(accepted)
        missing -= len(accepted)
    return np.concatenate(found)


def lay_beside(
    centres_um: Floats,
    radii_um: Floats,
    guests: npt.NDArray[np.intp],
    hosts: npt.NDArray[np.intp],
    generator: np.random.Generator,
) -> Floats:
    """Move each guest to where it touches a host, in any direction; hosts are drawn with replacement.

    Parameters
    ----------
    centres_um, radii_um
        (n, d) and (n,) in µm.
    guests, hosts
        Indices.
    generator
        Source of the random numbers.

    Returns
    -------
    ndarray
        (n, d): a copy, moved.
    """
    moved = centres_um.copy()
    if not len(hosts):
        return moved
    chosen = hosts[generator.integers(len(hosts), size=len(guests))]
    step = generator.standard_normal((len(guests), centres_um.shape[1]))
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    moved[guests] = centres_um[chosen] + step * (radii_um[chosen] + radii_um[guests])[:, None]
    return moved


def push_apart(centres_um: Floats, radii_um: Floats, spacing: Floats, rounds: int = 24) -> Floats:
    """Push cells apart that are nearer than they may be; the smaller of two moves more.

    Parameters
    ----------
    centres_um, radii_um
        (n, d) and (n,) in µm.
    spacing
        (n,): least distance of two centres relative to the sum of their radii; the smaller value of a pair counts.
        1 lets discs touch, less lets them overlap.
    rounds
        Moves of all cells. In a packing that has no solution some pairs stay nearer.

    Returns
    -------
    ndarray
        (n, d) in µm.
    """
    moved = centres_um.copy()
    if len(moved) < 2:
        return moved
    reach = 2 * float(radii_um.max() * spacing.max())
    sizes = radii_um**2
    for turn in range(rounds):
        if turn % 4 == 0:
            first, second = cKDTree(moved).query_pairs(reach, output_type="ndarray").T
            wanted = np.minimum(spacing[first], spacing[second]) * (radii_um[first] + radii_um[second])
            share = (sizes[second] / (sizes[first] + sizes[second]))[:, None]
        apart = moved[first] - moved[second]
        distance = np.sqrt((apart**2).sum(axis=1))
        short = np.flatnonzero(distance < wanted)
        if not len(short):
            if turn % 4 == 0:
                break
            continue
        step = apart[short] / np.maximum(distance[short], 1e-9)[:, None]
        step *= (wanted[short] - distance[short])[:, None]
        gives, takes = step * share[short], -step * (1 - share[short])
        for axis in range(moved.shape[1]):
            moved[:, axis] += np.bincount(first[short], gives[:, axis], len(moved))
            moved[:, axis] += np.bincount(second[short], takes[:, axis], len(moved))
    return moved
