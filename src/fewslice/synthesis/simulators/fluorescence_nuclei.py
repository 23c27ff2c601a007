"""Fluorescent cell nuclei, bright on dark, one channel: one plane of a wide-field microscope, or a confocal volume.

A volume of one plane is a projection: nuclei lie over each other, their light adds up, and footprints keep their whole
extent. In a volume of several planes they are solid: where two are pressed together, a voxel belongs to the one it lies
deeper in. The passes:

1. :func:`_lay_out` places nuclei in clumps, some touching or overlapping, and gives each a form.
2. :func:`_plane` or :func:`_volume` puts light and truth on the canvas: brightness that differs between nuclei,
   chromatin texture, spots (nucleoli if dark, chromocentres if bright), a softer rim.
3. :func:`_observe` looks at it: background, haze, blur (wider along z), uneven light, shot and read noise.

Layout, light and noise draw from separate streams. All lengths are in µm, and the same seed lays out the same nuclei at
any voxel size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, model_validator
from scipy.spatial.transform import Rotation

from fewslice.synthesis.imaging import add_haze, blur, smooth_noise
from fewslice.synthesis.layout import clumps, push_apart, scatter
from fewslice.synthesis.moves import moved, ratio, scaled
from fewslice.synthesis.settings import Extent, NotNegative, Part, Positive, Share
from fewslice.synthesis.simulation import Footprint, Simulation
from fewslice.synthesis.stacking import Drawn, annotate, cut_out, stack
from fewslice.synthesis.statistics import Statistics, log_spread

__all__ = [
    "CONTRAST",
    "VERSION",
    "Background",
    "Config",
    "Detector",
    "Layout",
    "Nuclei",
    "Optics",
    "adjusted",
    "channels",
    "ideal",
    "simulate",
]

VERSION = 1
CONTRAST = "bright"

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
Box = tuple[slice, slice, slice]
Spread = Annotated[float, Field(ge=0, le=1.5)]


class Nuclei(Part):
    """How many, how large, of what form, how bright."""

    density_per_mm2: Annotated[float, Field(ge=0, le=100_000)] = Field(
        1000.0, description="nuclei per mm² in a volume of one plane"
    )
    density_per_mm3: Annotated[float, Field(ge=0, le=10_000_000)] = Field(
        300_000.0, description="nuclei per mm³ in a volume of several planes"
    )
    radius_um: Positive = Field(4.4, description="median radius of the disc (ball) of the same area (volume), µm")
    radius_spread: Annotated[float, Field(ge=0, le=0.6)] = Field(0.18, description="standard deviation of ln radius")
    elongation: Annotated[float, Field(ge=1, le=4)] = Field(1.3, description="mean long over short axis")
    bumps: Annotated[float, Field(ge=0, le=0.15)] = Field(0.035, description="roughness of the surface, of the radius")
    condensed: Share = Field(0.08, description="share of condensed nuclei, smaller and brighter")
    brightness: Positive = Field(60.0, description="median brightness above background, grey values")
    brightness_spread: Spread = Field(0.4, description="standard deviation of its ln between nuclei")
    faintest: Positive = Field(6.0, description="no nucleus is fainter than this, grey values")
    rim: Annotated[float, Field(gt=0, le=1)] = Field(0.55, description="brightness at the surface, of that inside")
    rim_um: NotNegative = Field(1.6, description="depth over which it rises, µm")
    texture: Annotated[float, Field(ge=0, le=1)] = Field(0.16, description="spread of chromatin texture, relative")
    texture_um: Positive = Field(0.9, description="size of its grains, µm")
    spots: Annotated[int, Field(ge=0, le=8)] = Field(2, description="spots in each nucleus")
    spot: Annotated[float, Field(ge=-0.9, le=3)] = Field(-0.25, description="their additional brightness, relative")
    spot_um: Positive = Field(1.1, description="their radius, µm")

    @model_validator(mode="after")
    def _visible(self) -> Nuclei:
        if self.faintest * self.rim * min(1.0, (1 + self.spot) ** self.spots) < 1.5:
            raise ValueError(
                f"faintest (={self.faintest}) times rim (={self.rim}), within spots, is below 1.5 grey values, so that "
                "a nucleus could vanish in rounding; raise one of them"
            )
        return self


class Layout(Part):
    """How nuclei lie to each other."""

    clumping: Annotated[float, Field(ge=0, le=2.5)] = Field(0.7, description="spread of ln density over the field")
    clump_um: Positive = Field(40.0, description="size of denser places, µm")
    spacing: Annotated[float, Field(ge=0.5, le=3)] = Field(
        1.02, description="least distance of two centres, of the sum of their radii"
    )
    overlapping: Share = Field(0.15, description="share of nuclei that may come nearer")
    overlap: Annotated[float, Field(ge=0.3, le=1)] = Field(0.8, description="the least distance of those")
    least_visible: Share = Field(0.3, description="nuclei that show less than this share are left out; one plane only")


class Background(Part):
    """What shines between nuclei."""

    level: Positive = Field(8.0, description="mean, grey values")
    patches: Share = Field(0.08, description="standard deviation of coarse texture, relative")
    patch_um: Positive = Field(14.0, description="size of coarse texture, µm")


class Optics(Part):
    """From light to the detector."""

    blur_um: tuple[NotNegative, NotNegative, NotNegative] = Field(
        (1.4, 0.55, 0.55), description="standard deviation of the point spread function, z, y, x, µm; z in volumes only"
    )
    haze: Share = Field(0.12, description="share of light that comes from out of focus")
    haze_um: Positive = Field(6.0, description="standard deviation of that blur, µm")
    shading: Annotated[float, Field(ge=0, le=0.5)] = Field(0.05, description="spread of uneven light, ln")
    shading_um: Positive = Field(120.0, description="size of patches of uneven light, µm")


class Detector(Part):
    """From light to grey values."""

    gain: NotNegative = Field(0.08, description="variance of shot noise over its mean, grey values")
    read_noise: NotNegative = Field(0.5, description="standard deviation of read noise, grey values")
    offset: Annotated[float, Field(ge=-255, le=255)] = Field(0.0, description="grey value without light; below 0 is 0")


class Config(Part):
    """All settings; lengths in µm, brightness in grey values of 8 bit, orders z, y, x.

    Defaults are close to cultured cells at 20 fold magnification.
    """

    shape: tuple[Extent, Extent, Extent] = Field((1, 256, 256), description="extent z, y, x, voxels")
    voxel_size_um: tuple[Positive, Positive, Positive] = Field(
        (1.0, 0.65, 0.65), description="z, y, x, µm; z has no effect on one plane"
    )
    nuclei: Nuclei = Nuclei()
    layout: Layout = Layout()
    background: Background = Background()
    optics: Optics = Optics()
    detector: Detector = Detector()


def channels(config: Config) -> tuple[str, ...]:
    """Name of the one channel."""
    return ("nuclei",)


def ideal(config: Config) -> Config:
    """Give the same layout an ideal picture: even background, no texture, blur, haze, uneven light or noise.

    Every voxel of a nucleus is then brighter than every other voxel.

    Examples
    --------
    >>> import numpy as np
    >>> simulation = simulate(ideal(Config(shape=(1, 64, 64))), np.random.default_rng(1))
    >>> bool(((simulation.image[0] > 8) == (simulation.semantic > 0)).all())
    True
    """
    return config.model_copy(
        update={
            "nuclei": config.nuclei.model_copy(update={"texture": 0.0}),
            "background": config.background.model_copy(update={"patches": 0.0}),
            "optics": config.optics.model_copy(update={"blur_um": (0.0, 0.0, 0.0), "haze": 0.0, "shading": 0.0}),
            "detector": Detector(gain=0.0, read_noise=0.0, offset=0.0),
        }
    )


def adjusted(config: Config, wanted: Statistics, got: Statistics | None) -> Config:
    """Move settings towards what was measured in real images.

    Density, radius and its spread, brightness and its spread come from the peaks; level, patches and noise from the
    background; texture from the foreground and the rim from its edge; blur from the variance at short wavelengths;
    clumping from the regularity of the peaks.

    Parameters
    ----------
    config
        Settings so far.
    wanted
        Measured in the target images.
    got
        Measured in images simulated at `config`; None before there are any.
    """
    nuclei, background, optics, detector = config.nuclei, config.background, config.optics, config.detector
    flat = config.shape[0] == 1
    density = "density_per_mm2" if flat else "density_per_mm3"
    if got is None:
        level = max(float(wanted.colours[0, 0]), 1.0)
        first = {
            density: wanted.density,
            "radius_um": float(np.median(wanted.radii_um)) * 1.1,
            "brightness": max(float(np.median(wanted.levels)), 2.0),
        }
        return config.model_copy(
            update={
                "nuclei": moved(nuclei, **first),
                "background": moved(background, level=level),
                "detector": moved(detector, read_noise=wanted.noise, gain=0.05),
            }
        )
    factors = {density: ratio(wanted.density, got.density), "texture": ratio(wanted.inside, got.inside, 0.5)}
    factors["rim_um"] = ratio(wanted.edge_um, got.edge_um)
    # More variance at short wavelengths in the target means less blur.
    wider = ratio(float(got.bands[-3:].sum()), float(wanted.bands[-3:].sum()), 0.4)
    if min(len(wanted.radii_um), len(got.radii_um)) > 5:
        factors["radius_um"] = ratio(float(np.median(wanted.radii_um)), float(np.median(got.radii_um)))
        factors["radius_spread"] = ratio(log_spread(wanted.radii_um, 0.1), log_spread(got.radii_um, 0.1))
        factors["brightness"] = ratio(float(np.median(wanted.levels)), float(np.median(got.levels)))
        factors["brightness_spread"] = ratio(log_spread(wanted.levels), log_spread(got.levels))
    noise = np.sqrt(max(detector.read_noise**2 + wanted.noise**2 - got.noise**2, 0.0))
    return config.model_copy(
        update={
            "nuclei": scaled(nuclei, **factors),
            "layout": moved(config.layout, clumping=config.layout.clumping + got.regularity - wanted.regularity),
            "background": moved(
                scaled(background, patches=ratio(wanted.coarse, got.coarse, 0.5)),
                level=background.level + float(wanted.colours[0, 0] - got.colours[0, 0]),
            ),
            "optics": scaled(optics, blur_um=wider),
            "detector": moved(detector, read_noise=noise),
        }
    )


def simulate(config: Config, generator: np.random.Generator) -> Simulation:
    """Simulate one plane or volume.

    Parameters
    ----------
    config
        What to simulate.
    generator
        Source of all random numbers; the same state gives the same bytes.

    Returns
    -------
    Simulation
        One channel, class nucleus; footprints if it has one plane. About 30 bytes per voxel of memory are needed while
        it runs.
    """
    layout_seed, light_seed, noise_seed = (int(seed) for seed in generator.integers(2**63, size=3))
    canvas = _canvas(config)
    nuclei = _lay_out(config, canvas, np.random.default_rng(layout_seed))
    light_stream = np.random.default_rng(light_seed)
    draw = _plane if config.shape[0] == 1 else _volume
    scene = draw(config, canvas, nuclei, light_stream)
    image = _observe(config, canvas, scene.light, light_stream, np.random.default_rng(noise_seed))
    return Simulation(
        image=image,
        semantic=(scene.instances > 0).astype(np.uint8),
        instances=scene.instances,
        voxel_size_um=config.voxel_size_um,
        channel_names=channels(config),
        class_names=("nucleus",),
        footprints=scene.footprints,
    )


# --- where things are ---


@dataclass(frozen=True)
class _Canvas:
    """Voxels to draw on: the volume with a border for what reaches in from outside; µm from voxel (0, 0, 0) of it."""

    shape: tuple[int, int, int]
    inside: Box
    voxel_um: tuple[float, float, float]
    low_um: Floats
    high_um: Floats


@dataclass(frozen=True)
class _Nuclei:
    """Ellipsoids with bumps, from the lowest to the topmost.

    With p the position relative to the centre, rows of ``shape`` being the axes divided by their lengths and n = p /
    |p|, inside is where |shape p| < 1 + Σₖ hₖ cos(wₖ · n + φₖ).
    """

    centre: Floats
    radius: Floats
    reach: Floats
    shape: Floats
    heights: Floats
    waves: Floats
    phases: Floats
    brightness: Floats


@dataclass(frozen=True)
class _Scene:
    """Light on the canvas, and truth inside."""

    light: Picture
    instances: npt.NDArray[np.uint32]
    footprints: tuple[Footprint, ...] | None


def _canvas(config: Config) -> _Canvas:
    """Widen the volume by two nuclei; the region of the layout depends on µm only, not on the voxel."""
    voxel = np.array(config.voxel_size_um)
    reach = (
        1.6 * config.nuclei.radius_um * np.exp(2 * config.nuclei.radius_spread) * np.sqrt(config.nuclei.elongation) + 1
    )
    pad = np.ceil((2.5 * reach + 4 * voxel) / voxel).astype(int)
    deep = np.array([config.shape[0] > 1, True, True])
    pad *= deep
    low, high = pad * voxel - reach, (pad + np.array(config.shape)) * voxel + reach
    low, high = np.where(deep, low, 0.0), np.where(deep, high, 0.0)
    z, y, x = (int(n + 2 * p) for n, p in zip(config.shape, pad, strict=True))
    a, b, c = (slice(int(p), int(p + n)) for n, p in zip(config.shape, pad, strict=True))
    return _Canvas((z, y, x), (a, b, c), config.voxel_size_um, low, high)


def _lay_out(config: Config, canvas: _Canvas, generator: np.random.Generator) -> _Nuclei:
    nuclei, layout = config.nuclei, config.layout
    flat = config.shape[0] == 1
    used = slice(1, 3) if flat else slice(0, 3)
    low, high = canvas.low_um[used], canvas.high_um[used]
    expected = (nuclei.density_per_mm2 if flat else nuclei.density_per_mm3) * float(np.prod((high - low) / 1000))
    count = int(generator.poisson(expected))
    density = clumps(layout.clumping, layout.clump_um, len(low), generator)
    centre = scatter(count, low, high, lambda points: density(points - low), generator)
    radius = nuclei.radius_um * np.exp(nuclei.radius_spread * generator.standard_normal(count).clip(-2, 2))
    brightness = nuclei.brightness * np.exp(nuclei.brightness_spread * generator.standard_normal(count).clip(-2.2, 2.2))
    condensed = generator.random(count) < nuclei.condensed
    radius[condensed] *= 0.65
    brightness[condensed] *= 2.2
    spacing = np.where(
        generator.random(count) < layout.overlapping, min(layout.overlap, layout.spacing), layout.spacing
    )
    centre = push_apart(centre, radius, spacing).clip(low, high)
    if flat:
        centre = np.concatenate([np.zeros((count, 1)), centre], axis=1)
    stretch = 1 + (nuclei.elongation - 1) * generator.gamma(4.0, 0.25, count).clip(0, 2)
    third = np.ones(count) if flat else generator.uniform(0.85, 1.15, count)
    # In a plane long × short is radius²; in space the product of all three is radius³.
    power = 1 / 2 if flat else 2 / 3
    long = radius * stretch**power
    short = radius * stretch ** (-power if flat else -1 / 3)
    axes = np.stack([long, short * third, short / third], axis=1)
    frame = _frames(count, flat, generator)
    waves = generator.standard_normal((count, 3, 3))
    waves *= (generator.uniform(2.0, 5.0, (count, 3)) / np.linalg.norm(waves, axis=2))[:, :, None]
    heights = generator.uniform(0.5, 1.5, (count, 3)) * nuclei.bumps * np.sqrt(2 / 3)
    reach = np.sqrt(((frame * axes[:, :, None]) ** 2).sum(axis=1)) * (1 + heights.sum(axis=1))[:, None]
    return _Nuclei(
        centre=centre,
        radius=radius,
        reach=reach,
        shape=frame / axes[:, :, None],
        heights=heights,
        waves=waves,
        phases=generator.uniform(0, 2 * np.pi, (count, 3)),
        brightness=np.maximum(brightness, nuclei.faintest),
    )


def _frames(count: int, flat: bool, generator: np.random.Generator) -> Floats:
    """Directions of the axes, rows of (n, 3, 3) in z, y, x: any rotation, or in one plane one about z."""
    if not count:
        return np.empty((0, 3, 3))
    if not flat:
        return np.asarray(Rotation.random(count, rng=generator).as_matrix(), dtype=np.float64)
    angle = generator.uniform(0, np.pi, count)
    none, one = np.zeros(count), np.ones(count)
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.stack([none, sine, cosine, none, cosine, -sine, one, none, none], axis=1).reshape(count, 3, 3)


# --- how bright they are ---


@dataclass(frozen=True)
class _Group:
    """Nuclei whose windows have one size: indices, first voxels (n, 3), relative radius and light (n, d, h, w)."""

    own: Ints
    start: Ints
    radius: Picture
    light: Picture


def _groups(
    config: Config, canvas: _Canvas, nuclei: _Nuclei, generator: np.random.Generator, batch: int = 80_000
) -> Iterator[_Group]:
    """Evaluate form and light of all nuclei that reach into the canvas, in groups of one window size."""
    settings, voxel = config.nuclei, np.array(canvas.voxel_um)
    count = len(nuclei.radius)
    grain = _grain(config, canvas, nuclei, generator)
    corner = generator.random((count, 3))
    spots = generator.standard_normal((count, settings.spots, 3))
    spots *= (
        0.6 * generator.random((count, settings.spots, 1)) / np.maximum(np.linalg.norm(spots, axis=2), 1e-9)[:, :, None]
    )
    half = np.ceil(nuclei.reach / voxel / 2).astype(np.intp) * 2
    half[:, 0] *= canvas.shape[0] > 1
    start = np.rint(nuclei.centre / voxel).astype(np.intp) - half
    size = 2 * half + 1
    fits = ((start >= 0) & (start + size <= canvas.shape)).all(axis=1)
    for shape in np.unique(size[fits], axis=0):
        cells = np.flatnonzero(fits & (size == shape).all(axis=1))
        step = max(1, batch // int(np.prod(shape)))
        for first in range(0, len(cells), step):
            own = cells[first : first + step]
            rest = start[own] * voxel - nuclei.centre[own]
            lines = [rest[:, axis, None] + np.arange(shape[axis]) * voxel[axis] for axis in range(3)]
            z, y, x = (
                line.astype(np.float32).reshape([-1, *(line.shape[1] if a == axis else 1 for a in range(3))])
                for axis, line in enumerate(lines)
            )
            radius = _radius(nuclei, own, z, y, x)
            light = _glow(settings, nuclei, own, radius)
            for spot in np.moveaxis(spots[own], 1, 0):
                place = spot * nuclei.radius[own][:, None]
                place[:, 0] *= canvas.shape[0] > 1
                near = (z - _each(place[:, 0])) ** 2 + (y - _each(place[:, 1])) ** 2 + (x - _each(place[:, 2])) ** 2
                near *= np.float32(-1 / settings.spot_um**2)
                near += 1
                np.maximum(near, 0, out=near)
                near *= np.float32(settings.spot)
                near += 1
                light *= near
            if settings.texture > 0:
                pieces = sliding_window_view(grain, tuple(int(n) for n in shape))
                at = (corner[own] * np.array(pieces.shape[:3])).astype(np.intp)
                light *= np.maximum(
                    1 + np.float32(settings.texture) * pieces[at[:, 0], at[:, 1], at[:, 2]], np.float32(0.1)
                )
            light *= radius < 1
            yield _Group(own, start[own], radius, light)


def _each(values: Floats) -> Picture:
    """One value per nucleus, to be multiplied with windows (n, d, h, w)."""
    return values.astype(np.float32)[:, None, None, None]


def _radius(nuclei: _Nuclei, own: Ints, z: Picture, y: Picture, x: Picture) -> Picture:
    """Distance from the centre relative to the surface in that direction, (n, d, h, w)."""
    shape = nuclei.shape[own]
    total: Picture | None = None
    for axis in range(3):
        part = _each(shape[:, axis, 0]) * z + _each(shape[:, axis, 1]) * y + _each(shape[:, axis, 2]) * x
        part *= part
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    np.sqrt(total, out=total)
    length = np.sqrt(z * z + y * y + x * x)
    length += np.float32(1e-6)
    surface = np.ones_like(total)
    for wave in range(nuclei.heights.shape[1]):
        way = nuclei.waves[own, wave]
        along = _each(way[:, 0]) * z + _each(way[:, 1]) * y + _each(way[:, 2]) * x
        along /= length
        along += _each(nuclei.phases[own, wave])
        np.cos(along, out=along)
        along *= _each(nuclei.heights[own, wave])
        surface += along
    total /= surface
    return total


def _glow(settings: Nuclei, nuclei: _Nuclei, own: Ints, radius: Picture) -> Picture:
    """Brightness that rises from the rim inwards."""
    light = 1 - radius
    light *= _each(nuclei.radius[own] / max(settings.rim_um, 1e-3))
    np.clip(light, 0, 1, out=light)
    light *= np.float32(1 - settings.rim)
    light += np.float32(settings.rim)
    light *= _each(nuclei.brightness[own])
    return light


def _grain(config: Config, canvas: _Canvas, nuclei: _Nuclei, generator: np.random.Generator) -> Picture:
    """One block of texture from which every nucleus is given a part of its own."""
    widest = 2 * nuclei.reach.max(axis=0, initial=1.0) / np.array(canvas.voxel_um)
    spare = (16, 48, 48) if canvas.shape[0] > 1 else (0, 192, 192)
    z, y, x = (int(np.ceil(w)) + 8 + s for w, s in zip(widest, spare, strict=True))
    size = config.nuclei.texture_um
    return smooth_noise((z if canvas.shape[0] > 1 else 1, y, x), canvas.voxel_um, size, generator)


def _plane(config: Config, canvas: _Canvas, nuclei: _Nuclei, generator: np.random.Generator) -> _Scene:
    """Add up the light of nuclei that lie over each other."""
    count = len(nuclei.radius)
    drawn: list[Drawn | None] = [None] * count
    pieces: list[tuple[Ints, Picture] | None] = [None] * count
    for group in _groups(config, canvas, nuclei, generator):
        boxes = cut_out(group.radius[:, 0] < 1, group.start[:, 1:])
        for index, start, own, box in zip(group.own, group.start, group.light, boxes, strict=True):
            drawn[index], pieces[index] = box, (start, own[0])
    plane = (canvas.shape[1], canvas.shape[2])
    stacked = stack(drawn, plane, config.layout.least_visible)
    light = np.zeros(plane, dtype=np.float32)
    for index in stacked.kept:
        piece = pieces[index]
        if piece is not None:
            (_, y, x), own = piece
            light[y : y + own.shape[0], x : x + own.shape[1]] += own
    truth = annotate(drawn, np.ones(count, np.uint8), stacked, (canvas.inside[1], canvas.inside[2]))
    return _Scene(light[None], truth.instances[None], truth.footprints)


def _volume(config: Config, canvas: _Canvas, nuclei: _Nuclei, generator: np.random.Generator) -> _Scene:
    """Give each voxel to the nucleus it lies deepest in."""
    light = np.zeros(canvas.shape, dtype=np.float32)
    owner = np.zeros(canvas.shape, dtype=np.uint32)
    nearest = np.ones(canvas.shape, dtype=np.float32)
    for group in _groups(config, canvas, nuclei, generator):
        for index, start, radius, own in zip(group.own, group.start, group.radius, group.light, strict=True):
            z, y, x = (slice(int(a), int(a) + n) for a, n in zip(start, radius.shape, strict=True))
            near = nearest[z, y, x]
            deeper = radius < near
            np.copyto(near, radius, where=deeper)
            np.copyto(light[z, y, x], own, where=deeper)
            np.copyto(owner[z, y, x], np.uint32(index + 1), where=deeper)
    cut = owner[canvas.inside]
    present = np.flatnonzero(np.bincount(cut.ravel(), minlength=1)[1:]) + 1
    numbers = np.zeros(len(nuclei.radius) + 1, dtype=np.uint32)
    numbers[present] = np.arange(1, len(present) + 1)
    return _Scene(light, numbers[cut], None)


# --- how they are seen ---


def _observe(
    config: Config, canvas: _Canvas, light: Picture, stream: np.random.Generator, noise: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Background, haze, blur, uneven light and noise: (1, z, y, x)."""
    background, optics, detector = config.background, config.optics, config.detector
    voxel = canvas.voxel_um
    deep = canvas.shape[0] > 1
    sigma = (optics.blur_um[0] if deep else 0.0, *optics.blur_um[1:])
    # Only as much of the border as the blur needs.
    extra = [min(int(np.ceil(3 * s / v)), part.start) for s, v, part in zip(sigma, voxel, canvas.inside, strict=True)]
    part = tuple(slice(p.start - e, p.stop + e) for p, e in zip(canvas.inside, extra, strict=True))
    picture = np.ascontiguousarray(light[part])
    picture = add_haze(picture, optics.haze, optics.haze_um, voxel)
    if background.patches > 0:
        scale = (background.patch_um if deep else 1e6, background.patch_um, background.patch_um)
        patches = smooth_noise((picture.shape[0], *picture.shape[1:]), voxel, scale, stream)
        patches *= np.float32(background.patches * background.level)
        picture += patches
    picture += np.float32(background.level)
    if any(sigma):
        picture = blur(picture, sigma, voxel)
    inner = tuple(slice(e, n - e) for e, n in zip(extra, picture.shape, strict=True))
    picture = picture[inner]
    if optics.shading > 0:
        scale = (1e6, optics.shading_um, optics.shading_um)
        picture = picture * np.exp(
            np.float32(optics.shading) * smooth_noise((1, *picture.shape[1:]), voxel, scale, stream)
        )
    image = np.empty((1, *picture.shape), dtype=np.uint8)
    rows = max(1, 40_000 // picture.shape[2])  # bands that stay in the cache
    for z, plane in enumerate(picture):
        for top in range(0, plane.shape[0], rows):
            image[0, z, top : top + rows] = _exposed(plane[top : top + rows], detector, noise)
    return image


def _exposed(light: Picture, detector: Detector, generator: np.random.Generator) -> Picture:
    """Add shot noise by the root of counts, as :func:`fewslice.synthesis.imaging.add_noise` does, read noise; round."""
    seen = np.maximum(light, 0)
    if detector.gain > 0:
        seen *= np.float32(1 / detector.gain)
        np.sqrt(seen, out=seen)
        seen += np.float32(0.5) * generator.standard_normal(seen.shape, dtype=np.float32)
        np.maximum(seen, 0, out=seen)
        seen *= seen
        seen -= np.float32(0.25)
        seen *= np.float32(detector.gain)
    if detector.read_noise > 0:
        seen += np.float32(detector.read_noise) * generator.standard_normal(seen.shape, dtype=np.float32)
    seen += np.float32(detector.offset + 0.5)
    return np.clip(seen, 0, 255, out=seen)
