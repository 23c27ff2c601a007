"""What a microscope adds to an ideal picture: texture, uneven light, blur, haze, line jitter, noise.

All lengths in µm, all pictures (z, y, x) float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = [
    "Nodes",
    "add_haze",
    "add_noise",
    "blur",
    "draw_nodes",
    "draw_noise",
    "expose",
    "jitter_lines",
    "join_nodes",
    "smooth_noise",
    "to_uint8",
]

Picture = npt.NDArray[np.float32]
Triple = tuple[float, float, float]


def smooth_noise(
    shape: tuple[int, int, int], voxel_um: Triple, scale_um: float | Triple, generator: np.random.Generator
) -> Picture:
    """Draw a smooth Gaussian random field: random nodes, `scale_um` apart, joined by cubic B-splines.

    Returns
    -------
    ndarray
        (z, y, x) float32 with mean 0 and standard deviation 1 (over draws). Structures are about twice `scale_um` wide;
        of finer ones there are none, whatever the voxel.
    """
    return join_nodes(draw_nodes(shape, voxel_um, scale_um, generator))


@dataclass(frozen=True)
class Nodes:
    """What is random in a smooth field: its nodes, and where they lie; the rest is arithmetic, in any thread."""

    values: Picture
    offsets: Triple
    shape: tuple[int, int, int]
    voxel_um: Triple
    scales_um: Triple


def draw_nodes(
    shape: tuple[int, int, int], voxel_um: Triple, scale_um: float | Triple, generator: np.random.Generator
) -> Nodes:
    """Draw the nodes of a smooth field; see :func:`smooth_noise`."""
    scales = (scale_um,) * 3 if isinstance(scale_um, int | float) else scale_um
    counts = [int(np.ceil(n * voxel / scale)) + 4 for n, voxel, scale in zip(shape, voxel_um, scales, strict=True)]
    values: Picture = generator.standard_normal(counts, dtype=np.float32)
    z, y, x = (float(generator.random()) for _ in range(3))
    return Nodes(values, (z, y, x), shape, voxel_um, scales)


def join_nodes(nodes: Nodes) -> Picture:
    """Join nodes by cubic B-splines; see :func:`smooth_noise`."""
    field = nodes.values
    lines = zip(nodes.shape, nodes.voxel_um, nodes.scales_um, nodes.offsets, strict=True)
    for axis, (size, voxel, scale, offset) in enumerate(lines):
        place = (np.arange(size) * voxel / scale + offset).astype(np.float64)
        node = np.floor(place).astype(np.intp)
        t = place - node
        spline = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
        weights = (spline / np.sqrt((spline**2).sum(axis=0))).astype(np.float32)
        form = [-1 if other == axis else 1 for other in range(3)]
        joined = np.take(field, node, axis=axis)
        joined *= weights[0].reshape(form)
        for k in range(1, 4):
            part = np.take(field, node + k, axis=axis)
            part *= weights[k].reshape(form)
            joined += part
        field = np.asarray(joined, dtype=np.float32)
    return field


def blur(picture: Picture, sigma_um: Triple, voxel_um: Triple) -> Picture:
    """Blur with a Gaussian point spread function of standard deviation `sigma_um` (z, y, x)."""
    sigma = [s / v for s, v in zip(sigma_um, voxel_um, strict=True)]
    return np.asarray(ndimage.gaussian_filter(picture, sigma, mode="nearest", truncate=3.0), dtype=np.float32)


def add_haze(picture: Picture, share: float, sigma_um: float, voxel_um: Triple) -> Picture:
    """Replace `share` of the light by light from out of focus: the same picture, blurred by `sigma_um`.

    The wide blur is computed on a grid that is coarser by about half its width, which changes nothing visible.
    """
    if share == 0:
        return picture
    factors = [max(1, min(n, int(sigma_um / 2 / voxel))) for n, voxel in zip(picture.shape, voxel_um, strict=True)]
    coarse = picture
    for axis, factor in enumerate(factors):
        size = coarse.shape[axis]
        sums = np.add.reduceat(coarse, np.arange(0, size, factor), axis=axis, dtype=np.float32)
        widths = np.diff(np.append(np.arange(0, size, factor), size)).astype(np.float32)
        form = [-1 if other == axis else 1 for other in range(3)]
        coarse = np.asarray(sums / widths.reshape(form), dtype=np.float32)
    sigma = [sigma_um / (voxel * factor) for voxel, factor in zip(voxel_um, factors, strict=True)]
    wide = ndimage.gaussian_filter(coarse, sigma, mode="nearest", truncate=2.5)
    for axis, (size, factor) in enumerate(zip(picture.shape, factors, strict=True)):
        place = np.clip((np.arange(size) - (factor - 1) / 2) / factor, 0, wide.shape[axis] - 1)
        low = np.minimum(np.floor(place).astype(np.intp), max(wide.shape[axis] - 2, 0))
        high = np.minimum(low + 1, wide.shape[axis] - 1)
        t = (place - low).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        wide = np.take(wide, low, axis=axis) * (1 - t) + np.take(wide, high, axis=axis) * t
    return np.asarray((1 - share) * picture + share * wide, dtype=np.float32)


def jitter_lines(picture: Picture, shift_um: float, voxel_um: Triple) -> Picture:
    """Shift every other line along x by `shift_um`: what a mirror does that scans to and fro out of phase.

    Lines are moved by half of it to either side, so that truth stays in the middle.
    """
    shift = shift_um / voxel_um[2] / 2
    if shift == 0:
        return picture
    if not 0 < abs(shift) < 1:
        raise ValueError(f"line shift of {shift_um} µm is more than two voxels of {voxel_um[2]} µm; use a smaller one")
    left, right = np.roll(picture, 1, axis=2), np.roll(picture, -1, axis=2)
    left[:, :, 0], right[:, :, -1] = picture[:, :, 0], picture[:, :, -1]
    moved = np.empty_like(picture)
    a = np.float32(abs(shift))
    even, odd = (left, right) if shift > 0 else (right, left)
    moved[:, 0::2] = (1 - a) * picture[:, 0::2] + a * even[:, 0::2]
    moved[:, 1::2] = (1 - a) * picture[:, 1::2] + a * odd[:, 1::2]
    return moved


def add_noise(picture: Picture, gain: float, read_noise: float, generator: np.random.Generator) -> Picture:
    """Add shot noise (variance = `gain` × mean) and read noise of standard deviation `read_noise`, in grey values.

    Poisson counts are drawn by their square root, which is close to normal with standard deviation ½:
    n = (√λ + g / 2)² − ¼ with mean λ and variance λ + ⅛. Ten times as fast as exact counts, and skewed like them.
    """
    return expose(picture, gain, read_noise, *draw_noise(picture.shape, gain, read_noise, generator))


def draw_noise(
    shape: tuple[int, ...], gain: float, read_noise: float, generator: np.random.Generator
) -> tuple[Picture | None, Picture | None]:
    """Draw what :func:`add_noise` draws: standard normal numbers for shot and for read noise; None without."""
    return (
        generator.standard_normal(shape, dtype=np.float32) if gain > 0 else None,
        generator.standard_normal(shape, dtype=np.float32) if read_noise > 0 else None,
    )


def expose(picture: Picture, gain: float, read_noise: float, shot: Picture | None, read: Picture | None) -> Picture:
    """Add noise that was drawn (see :func:`add_noise`); the numbers are overwritten, the picture is not."""
    if shot is not None:
        root = np.maximum(picture, 0)
        root /= np.float32(gain)
        np.sqrt(root, out=root)
        shot *= np.float32(0.5)
        root += shot
        np.maximum(root, 0, out=root)
        root *= root
        root -= np.float32(0.25)
        root *= np.float32(gain)
        picture = root
    if read is not None:
        read *= np.float32(read_noise)
        read += picture
        picture = read
    return picture


def to_uint8(picture: Picture) -> npt.NDArray[np.uint8]:
    """Round to grey values 0 to 255; what is brighter saturates."""
    rounded = np.rint(picture)
    return np.clip(rounded, 0, 255, out=rounded).astype(np.uint8)
