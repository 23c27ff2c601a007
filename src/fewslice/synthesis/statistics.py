"""What can be measured in an image without labels, the same way in real and simulated ones.

None of it is the truth: thresholds miss pale cells and peaks split large ones. A fit compares measured with measured,
so that the bias of an estimator falls out as far as the simulated image is like the real one.

1. :func:`_local_contrast`: the background is the mode of each channel; contrast is the difference from it along the
   colours that vary, in grey values, minus what is uneven over the field (its 20 % quantile in tiles, joined linearly).
2. :func:`_foreground`: threshold by Otsu on the root of the contrast, where bright and pale cells weigh alike.
3. :func:`_peaks`: maxima of the distance transform, none inside the inscribed ball of a larger one, and none below a
   quarter of the size that makes up most of the foreground, which are mostly specks: one for each cell, about. Their
   height is the inscribed radius.
4. :func:`_grain`: autocorrelation of the background at 1 and 2 pixels, in which blurred texture and white noise differ.
5. :func:`_bands`: shares of the variance by wavelength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["QUANTILES", "WAVELENGTHS_UM", "Statistics", "log_spread", "measure", "pooled", "typical_radius"]

Contrast = Literal["dark", "bright"]
Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Triple = tuple[float, float, float]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SPECK = 0.25
WAVELENGTHS_UM = (100.0, 40.0, 20.0, 10.0, 5.0, 2.5, 1.0)


@dataclass(frozen=True)
class Statistics:
    """Measurements of one image, or pooled over several.

    Attributes
    ----------
    extent
        Area (of one plane, mm²) or volume (mm³) that was looked at.
    radii_um, levels
        (n,) inscribed radius of each peak in µm, and contrast there in grey values.
    share
        Foreground, of all voxels.
    regularity
        Mean distance to the nearest peak over that of independent points of the same density (Clark and Evans): 1 is
        random, less is clumped, more is even. 1 where there are fewer than three peaks.
    colours
        (3, c) mean grey values of the background, of the strongest 1 % of contrast, and half way between (by the
        logarithm of the channel that varies most).
    quantiles
        (c, 7) grey values at :data:`QUANTILES`.
    texture, texture_um, noise
        Of the background, in grey values of contrast: standard deviation and blur (standard deviation of a Gaussian,
        µm) of its fine texture, and standard deviation of white noise.
    coarse
        Standard deviation of the background below that, smoothed by 4 pixels, grey values.
    inside
        Median over the depths of the foreground of the spread of fine structure (finer than 2 pixels), relative to
        contrast.
    edge_um
        Contrast of the foreground over the steepness of its edge, µm.
    bands
        (6,) share of variance between neighbouring :data:`WAVELENGTHS_UM` in the plane.
    """

    extent: float
    radii_um: Floats
    levels: Floats
    share: float
    regularity: float
    colours: Floats
    quantiles: Floats
    texture: float
    texture_um: float
    noise: float
    coarse: float
    inside: float
    edge_um: float
    bands: Floats

    @property
    def density(self) -> float:
        """Peaks per mm² or mm³."""
        return len(self.radii_um) / self.extent

    def select(self, low_um: float, high_um: float) -> tuple[Floats, Floats]:
        """Radii and levels of the peaks with ``low_um`` ≤ radius < ``high_um``."""
        chosen = (self.radii_um >= low_um) & (self.radii_um < high_um)
        return self.radii_um[chosen], self.levels[chosen]


def measure(image: npt.NDArray[Any], voxel_um: Triple, contrast: Contrast) -> Statistics:
    """Measure one image.

    Parameters
    ----------
    image
        (c, z, y, x), finite; grey values of 0 to 255.
    voxel_um
        (z, y, x) in µm; z does not matter for one plane.
    contrast
        Whether cells are darker or brighter than the background.

    Returns
    -------
    Statistics
    """
    picture = np.asarray(image, dtype=np.float32)
    local, background = _local_contrast(picture, contrast)
    smooth = ndimage.gaussian_filter(local, (0.0 if picture.shape[1] == 1 else 0.5, 1.0, 1.0))
    inside = _foreground(smooth)
    depth = _depth(inside, voxel_um)
    places, radii = _peaks(depth, voxel_um)
    flat = picture.shape[1] == 1
    extent = float(np.prod(inside.shape[1:]) * voxel_um[1] * voxel_um[2] * 1e-6)
    if not flat:
        extent *= inside.shape[0] * voxel_um[0] * 1e-3
    wider = ndimage.gaussian_filter(local, (0.0 if flat else 0.5, 1.5, 1.5))
    away = ~ndimage.binary_dilation(inside, np.ones((1, 3, 3), bool), iterations=3)
    if away.mean() < 0.02:
        away = ~inside
    texture, width, noise = _grain(local, away)
    slope = np.hypot(*(np.gradient(smooth, voxel_um[axis], axis=axis) for axis in (1, 2)))
    rim = inside & ~ndimage.binary_erosion(inside, np.ones((1, 3, 3), bool), border_value=1)
    local_mean = ndimage.uniform_filter(local, (1, 5, 5))
    fine = local - ndimage.gaussian_filter(local, (0, 2, 2))
    local_spread = np.sqrt(np.maximum(ndimage.uniform_filter(fine * fine, (1, 5, 5)), 0))
    core = depth > 0.5 * (float(np.median(radii)) if len(radii) else 0.0)
    coarse = ndimage.gaussian_filter(local, (0, 4, 4))[away]
    return Statistics(
        extent=extent,
        radii_um=radii,
        levels=wider[tuple(places.T)].astype(np.float64),
        share=float(inside.mean()),
        regularity=_regularity(places * np.array(voxel_um), extent, flat),
        colours=_colours(picture, smooth, background),
        quantiles=np.stack([np.quantile(channel, QUANTILES) for channel in picture]),
        texture=texture,
        texture_um=width * (voxel_um[1] + voxel_um[2]) / 2,
        noise=noise,
        coarse=float(coarse.std()) if coarse.size else 0.0,
        inside=float(np.median(local_spread[core] / np.maximum(local_mean[core], 1))) if core.any() else 0.0,
        edge_um=float(np.median(smooth[inside]) / max(float(np.median(slope[rim])), 1e-6)) if rim.any() else 0.0,
        bands=_bands(local, voxel_um),
    )


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """Pool measurements: peaks together, other values as means weighted by extent."""
    weight = np.array([part.extent for part in parts])
    weight = weight / weight.sum()

    def mean(name: str) -> Any:
        return np.tensordot(weight, np.stack([np.asarray(getattr(part, name)) for part in parts]), axes=1)

    scalars = ("share", "regularity", "texture", "texture_um", "noise", "coarse", "inside", "edge_um")
    return Statistics(
        extent=float(sum(part.extent for part in parts)),
        radii_um=np.concatenate([part.radii_um for part in parts]),
        levels=np.concatenate([part.levels for part in parts]),
        colours=mean("colours"),
        quantiles=mean("quantiles"),
        bands=mean("bands"),
        **{name: float(mean(name)) for name in scalars},
    )


def typical_radius(radii_um: Floats) -> float:
    """Mean radius weighted by radius²: of the peaks that make up most of the foreground, µm; 0 without peaks."""
    return float((radii_um**3).sum() / (radii_um**2).sum()) if len(radii_um) else 0.0


def log_spread(values: Floats, least: float = 1.0) -> float:
    """Half the distance of the 16 % and 84 % quantiles of ln `values`; what is below `least` counts as that."""
    low, high = np.percentile(np.log(np.maximum(values, least)), (16, 84)) if len(values) else (0.0, 0.0)
    return float(high - low) / 2


def _mode(values: Picture) -> float:
    """Most frequent grey value: the peak of a histogram smoothed by 2 grey values."""
    counts = np.bincount(np.clip(np.rint(values), 0, 255).astype(np.intp).ravel(), minlength=256).astype(np.float64)
    return float(np.argmax(ndimage.gaussian_filter1d(counts, 2.0, mode="constant")))


def _local_contrast(picture: Picture, contrast: Contrast) -> tuple[Picture, Floats]:
    """Contrast (z, y, x) in grey values, positive in cells, and the background of each channel."""
    sign = -1.0 if contrast == "dark" else 1.0
    background = np.array([_mode(channel) for channel in picture])
    strong = np.array([np.quantile(channel, 0.02 if contrast == "dark" else 0.98) for channel in picture])
    weight = np.maximum(sign * (strong - background), 0.0)
    if not weight.any():
        weight = np.ones(len(picture))
    weight /= np.linalg.norm(weight)
    values = np.zeros(picture.shape[1:], dtype=np.float32)
    for channel, level, share in zip(picture, background, weight, strict=True):
        values += np.float32(sign * share) * (channel - np.float32(level))
    values -= _uneven(values)
    return values - np.float32(_mode(values + 100) - 100), background


def _uneven(values: Picture, tile: int = 64) -> Picture:
    """20 % quantile in tiles of the plane, joined linearly; relative to its median."""
    _, height, width = values.shape
    rows, columns = max(1, round(height / tile)), max(1, round(width / tile))
    edges = [np.linspace(0, size, parts + 1).astype(int) for size, parts in ((height, rows), (width, columns))]
    low = np.array(
        [[np.quantile(values[:, a:b, c:d], 0.2) for c, d in pairwise(edges[1])] for a, b in pairwise(edges[0])]
    )
    low -= np.median(low)
    place = [
        np.clip((np.arange(size) + 0.5) * parts / size - 0.5, 0, parts - 1)
        for size, parts in ((height, rows), (width, columns))
    ]
    wide = ndimage.map_coordinates(low, np.meshgrid(*place, indexing="ij"), order=1, mode="nearest")
    return np.asarray(wide, dtype=np.float32)[None]


def _otsu(values: Picture) -> float:
    """Threshold with the greatest variance between the two sides (Otsu 1979), of 512 bins."""
    counts, edges = np.histogram(values, bins=512)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between))])


def _foreground(smooth: Picture) -> Mask:
    """Voxels with the contrast of cells; specks of fewer than 9 pixels are dropped."""
    root = np.sqrt(np.maximum(smooth, 0))
    if not root.any():
        return np.zeros(smooth.shape, dtype=bool)
    spread = 1.4826 * float(np.median(np.abs(smooth[smooth <= 0]))) if (smooth <= 0).any() else 0.0
    threshold = max(_otsu(root) ** 2, 3 * spread)
    labels, count = ndimage.label(smooth > threshold)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= 9
    keep[0] = False
    filled = keep[labels]
    return np.stack([ndimage.binary_fill_holes(plane) for plane in filled])


def _depth(inside: Mask, voxel_um: Triple) -> Picture:
    """Distance to the background in µm; the border of the image is none."""
    if inside.all():
        return np.full(inside.shape, max(voxel_um), dtype=np.float32)
    sampling = voxel_um if inside.shape[0] > 1 else (1e6, *voxel_um[1:])
    return np.asarray(ndimage.distance_transform_edt(inside, sampling=sampling), dtype=np.float32)


def _peaks(depth: Picture, voxel_um: Triple) -> tuple[npt.NDArray[np.intp], Floats]:
    """Maxima of the depth, the deepest first, none inside the inscribed ball of one before: places and depths in µm.

    Peaks below :data:`SPECK` of the typical radius are dropped.
    """
    flat = depth.shape[0] == 1
    smooth = ndimage.gaussian_filter(depth, (0.0 if flat else 0.5, 1.0, 1.0))
    top = ndimage.maximum_filter(smooth, (1 if flat else 3, 3, 3))
    found = np.argwhere((smooth == top) & (depth > 1.5 * max(voxel_um[1:])))
    height = depth[tuple(found.T)].astype(np.float64)
    order = np.argsort(-height, kind="stable")
    found, height = found[order], height[order]
    if not len(found):
        return found, height
    where = found * np.array(voxel_um)
    tree = cKDTree(where)
    free = np.ones(len(found), dtype=bool)
    for index in range(len(found)):
        if free[index]:
            near = tree.query_ball_point(where[index], height[index])
            free[[other for other in near if other > index]] = False
    free &= height >= SPECK * typical_radius(height)
    return found[free], height[free]


def _regularity(where_um: Floats, extent: float, flat: bool) -> float:
    """Mean nearest distance over 1 / (2 √density), or 0.554 / ∛density in space."""
    if len(where_um) < 3:
        return 1.0
    nearest = cKDTree(where_um).query(where_um, k=2)[0][:, 1]
    density = len(where_um) / extent
    expected = 0.5 / np.sqrt(density * 1e-6) if flat else 0.55396 / np.cbrt(density * 1e-9)
    return float(nearest.mean() / expected)


def _colours(picture: Picture, smooth: Picture, background: Floats) -> Floats:
    strongest = smooth >= np.quantile(smooth, 0.99)
    full = np.array([channel[strongest].mean() for channel in picture], dtype=np.float64)
    ratio = np.log(np.maximum(full, 1) / np.maximum(background, 1))
    main = int(np.argmax(np.abs(ratio)))
    seen = ndimage.gaussian_filter(picture[main], (0, 1, 1))
    middle = float(np.sqrt(max(full[main], 1) * max(background[main], 1)))
    near = np.abs(seen - middle) <= max(2.0, 0.05 * abs(full[main] - background[main]))
    half = np.array([channel[near].mean() if near.any() else middle for channel in picture], dtype=np.float64)
    return np.stack([background, half, full])


def _grain(local: Picture, away: Mask) -> tuple[float, float, float]:
    """Spread and blur in pixels of texture, and spread of white noise.

    A texture blurred by a Gaussian of σ pixels has the autocorrelation ρ^(l²) with ρ = exp(−1 / 4σ²), white noise none.
    With the variance V and autocorrelations a₁, a₂ of both together, ρ³ = a₂ / a₁ and V a₁ / ρ is the variance of the
    texture.
    """
    high = local - ndimage.gaussian_filter(local, (0, 5, 5))
    if not away.any():
        return 0.0, 0.0, 0.0
    variance = float((high[away] ** 2).mean())
    found = []
    for lag in (1, 2):
        products = []
        for axis in (1, 2):
            here, there = [slice(None)] * 3, [slice(None)] * 3
            here[axis], there[axis] = slice(None, -lag), slice(lag, None)
            both = away[tuple(here)] & away[tuple(there)]
            products.append(float((high[tuple(here)][both] * high[tuple(there)][both]).mean()) if both.any() else 0.0)
        found.append(float(np.mean(products)))
    if found[0] <= 0.02 * variance or variance <= 0:
        return 0.0, 0.0, float(np.sqrt(max(variance, 0.0)))
    cube = float(np.clip(found[1] / found[0], 0.01, 0.97))
    rho = cube ** (1 / 3)
    texture = min(found[0] / rho, variance)
    return float(np.sqrt(texture)), float(np.sqrt(-0.25 / np.log(rho))), float(np.sqrt(max(variance - texture, 0.0)))


def _bands(local: Picture, voxel_um: Triple) -> Floats:
    height, width = local.shape[1:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    frequency = np.hypot(
        *np.meshgrid(np.fft.fftfreq(height, voxel_um[1]), np.fft.fftfreq(width, voxel_um[2]), indexing="ij")
    )
    planes = local[:: max(1, local.shape[0] // 8)]
    power = np.zeros((height, width))
    for plane in planes:
        power += np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2
    parts = [
        float(power[(frequency > 1 / long) & (frequency <= 1 / short)].sum())
        for long, short in pairwise(WAVELENGTHS_UM)
    ]
    return np.array(parts) / max(sum(parts), 1e-12)
