"""Stained cell bodies in a thin section, dark on bright: Nissl in colour, or silver in grey; one plane.

The classes are neurons and glia. The passes:

1. :func:`_lay_out` places cells, gives each an outline and a depth in the section, and decides what lies on top. Cells
   that others hide are left out, of truth and picture alike.
2. :func:`_distractors` adds what is seen and not annotated: processes that leave the bodies, and pale cells far out of
   focus.
3. :func:`_absorb` lays the amount of dye of all of it onto one canvas, the lowest first: cytoplasm with granules, pale
   nuclei with nucleoli, softer the farther a cell is from focus. A cell weakens what lies below it.
4. :func:`_observe` adds neuropil and blur, turns amounts of dye into colours, and adds uneven light and noise.

Light follows Lambert and Beer with a bend: in each channel, ln of it is a quadratic function of the amount of dye that
runs through the colours of amounts 0, ½ and 1, since images from slide scanners have been through colour curves.

Layout, light and noise draw from separate streams. All lengths are in µm, and the same seed lays out the same cells at
any pixel size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, model_validator

from fewslice.synthesis.imaging import blur, smooth_noise
from fewslice.synthesis.layout import clumps, lay_beside, push_apart, scatter
from fewslice.synthesis.moves import moved, ratio, scaled
from fewslice.synthesis.outlines import Window, draw_outlines, extents, positions, radial_depth, windows
from fewslice.synthesis.settings import Extent, NotNegative, Part, Positive, Share
from fewslice.synthesis.simulation import Simulation
from fewslice.synthesis.stacking import Drawn, Stack, annotate, cut_out, stack
from fewslice.synthesis.statistics import Statistics, log_spread, typical_radius

__all__ = [
    "CONTRAST",
    "VERSION",
    "Config",
    "Detector",
    "Glia",
    "Layers",
    "Layout",
    "Neurons",
    "Neuropil",
    "Optics",
    "Staining",
    "adjusted",
    "channels",
    "ideal",
    "simulate",
]

VERSION = 1
CONTRAST = "dark"

NEURON, GLIA = 1, 2

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]
Grey = Annotated[float, Field(ge=1, le=255)]
Spread = Annotated[float, Field(ge=0, le=1)]
Density = Annotated[float, Field(ge=0, le=100_000)]

_COLOURS: dict[str, dict[str, tuple[float, ...]]] = {
    "nissl": {"background": (207.0, 200.0, 215.0), "half": (150.0, 136.0, 215.0), "full": (110.0, 92.0, 200.0)},
    "silver": {"background": (186.0,), "half": (112.0,), "full": (66.0,)},
}


class Neurons(Part):
    """Large cells: pyramidal ones with corners, round ones."""

    density_per_mm2: Density = Field(3300.0, description="cells per mm² of section")
    radius_um: Positive = Field(5.3, description="median radius of the disc of the same area, µm")
    radius_spread: Spread = Field(0.28, description="standard deviation of ln radius")
    pyramidal: Share = Field(0.7, description="share of elongated cells with corners; the others are round")
    elongation: Annotated[float, Field(ge=1, le=4)] = Field(1.6, description="mean long over short axis, pyramidal")
    along_degrees: Annotated[float, Field(ge=-360, le=360)] = Field(
        -90.0, description="direction of apices, from x towards y, degrees"
    )
    along_spread_degrees: NotNegative = Field(22.0, description="standard deviation of it, degrees")
    corners: Spread = Field(0.42, description="mean height of corners where processes leave, relative to the radius")
    bumps: Annotated[float, Field(ge=0, le=0.2)] = Field(0.06, description="roughness of the outline, relative")


class Glia(Part):
    """Small round cells, and flat ones along vessels."""

    density_per_mm2: Density = Field(800.0, description="cells per mm² of section")
    radius_um: Positive = Field(2.2, description="median radius of the disc of the same area, µm")
    radius_spread: Spread = Field(0.2, description="standard deviation of ln radius")
    elongated: Share = Field(0.2, description="share of flat cells, two to five times as long as wide")
    beside: Share = Field(0.25, description="share that lies against a neuron")
    bumps: Annotated[float, Field(ge=0, le=0.2)] = Field(0.06, description="roughness of the outline, relative")


class Layers(Part):
    """A gradient along one axis, as through cortical layers."""

    axis_degrees: Annotated[float, Field(ge=-360, le=360)] = Field(90.0, description="its axis, from x to y, degrees")
    density_per_mm: Annotated[float, Field(ge=-20, le=20)] = Field(0.0, description="change of ln density per mm")
    radius_per_mm: Annotated[float, Field(ge=-5, le=5)] = Field(0.0, description="change of ln radius per mm")


class Layout(Part):
    """How cells lie to each other."""

    clumping: Annotated[float, Field(ge=0, le=2)] = Field(0.2, description="spread of ln density over the tissue")
    clump_um: Positive = Field(60.0, description="size of denser places, µm")
    spacing: Annotated[float, Field(ge=0.3, le=3)] = Field(
        1.12, description="least distance of two centres, of the sum of their radii; at 1 discs touch"
    )
    overlapping: Share = Field(0.3, description="share of cells that may come nearer and overlap others")
    overlap: Annotated[float, Field(ge=0.1, le=1)] = Field(0.72, description="the least distance of those")
    least_visible: Share = Field(0.35, description="cells that show less than this share of themselves are left out")
    layers: Layers = Layers()


class Staining(Part):
    """Dye in cells, as amounts of which 1 has the full colour, and the colours."""

    background: tuple[Grey, ...] = Field(
        _COLOURS["nissl"]["background"], description="grey values without dye; by default the stain's"
    )
    half: tuple[Grey, ...] = Field(_COLOURS["nissl"]["half"], description="grey values at amount ½; likewise")
    full: tuple[Grey, ...] = Field(_COLOURS["nissl"]["full"], description="grey values at amount 1; likewise")
    neurons: Annotated[float, Field(gt=0, le=2)] = Field(0.42, description="median amount in neurons")
    glia: Annotated[float, Field(gt=0, le=2)] = Field(0.58, description="median amount in glia")
    spread: Spread = Field(0.3, description="standard deviation of ln amount between cells")
    faintest: Annotated[float, Field(gt=0, le=1)] = Field(0.05, description="no pixel of a cell in focus has less")
    rim: Annotated[float, Field(ge=0.2, le=2)] = Field(0.85, description="amount at the outline, of that inside")
    rim_um: NotNegative = Field(1.0, description="depth over which that changes, µm")
    granules: Annotated[float, Field(ge=0, le=0.4)] = Field(0.25, description="spread of Nissl substance, relative")
    granule_um: Positive = Field(0.5, description="size of its grains, µm; half the variance is three times as coarse")
    nucleus: Annotated[float, Field(ge=0.2, le=2)] = Field(0.72, description="amount in nuclei of neurons, of the rest")
    nucleus_size: Share = Field(0.55, description="radius of the nucleus, of the cell's")
    nucleoli: Annotated[int, Field(ge=0, le=8)] = Field(3, description="dark dots in each nucleus of a neuron")
    nucleolus: NotNegative = Field(0.3, description="additional amount of dye in them")
    nucleolus_um: Positive = Field(0.7, description="their radius, µm")
    see_through: Share = Field(0.6, description="share of the dye of a covered cell that is seen through the upper one")


class Neuropil(Part):
    """What lies between the cells."""

    texture: NotNegative = Field(0.02, description="standard deviation of fine texture after blur, amount of dye")
    patches: NotNegative = Field(0.025, description="standard deviation of coarse texture, amount of dye")
    patch_um: Positive = Field(5.0, description="size of coarse texture, µm")
    processes: Share = Field(0.7, description="share of pyramidal neurons with a visible process")
    process_um: Positive = Field(22.0, description="mean length of a process, µm")
    process_amount: NotNegative = Field(0.13, description="mean amount of dye in processes")
    ghosts_per_mm2: Density = Field(1200.0, description="pale cells far out of focus, not annotated, per mm²")
    ghost_amount: NotNegative = Field(0.13, description="mean amount of dye in them")


class Optics(Part):
    """From dye to light."""

    blur_um: NotNegative = Field(0.37, description="standard deviation of the point spread function in focus, µm")
    focus: Share = Field(0.35, description="depth in focus, of the section's thickness, 0 at the top")
    defocus_um: NotNegative = Field(1.8, description="width of a cell's edge at the full thickness from focus, µm")
    shading: Annotated[float, Field(ge=0, le=0.5)] = Field(0.015, description="spread of uneven light, ln")
    shading_um: Positive = Field(150.0, description="size of patches of uneven light, µm")


class Detector(Part):
    """From light to grey values."""

    gain: NotNegative = Field(0.01, description="variance of shot noise over its mean, grey values")
    read_noise: NotNegative = Field(1.0, description="standard deviation of read noise, grey values")


class Config(Part):
    """All settings; lengths in µm, brightness in grey values of 8 bit.

    Defaults are close to Nissl-stained rat cortex.
    """

    shape: tuple[Extent, Extent, Extent] = Field((1, 512, 512), description="extent z, y, x, pixels; z is 1")
    voxel_size_um: tuple[Positive, Positive, Positive] = Field(
        (0.346, 0.346, 0.346), description="z, y, x, µm; z has no effect"
    )
    stain: Literal["nissl", "silver"] = Field(
        "nissl", description="nissl is red, green, blue; silver is one grey channel"
    )
    neurons: Neurons = Neurons()
    glia: Glia = Glia()
    layout: Layout = Layout()
    staining: Staining = Staining()
    neuropil: Neuropil = Neuropil()
    optics: Optics = Optics()
    detector: Detector = Detector()

    @model_validator(mode="before")
    @classmethod
    def _fill_colours(cls, data: Any) -> Any:
        """Give the colours that are not named those of the stain."""
        if not isinstance(data, dict) or isinstance(data.get("staining"), Staining):
            return data
        named = data.get("staining", {})
        colours = _COLOURS.get(str(data.get("stain", "nissl")))
        return {**data, "staining": {**colours, **named}} if colours and isinstance(named, dict) else data

    @model_validator(mode="after")
    def _one_plane_dark_cells(self) -> Config:
        if self.shape[0] != 1:
            raise ValueError(
                f"shape (={self.shape}) has {self.shape[0]} planes, but a section is one plane; give 1,y,x or y,x"
            )
        staining, count = self.staining, len(channels(self))
        for name in ("background", "half", "full"):
            if len(getattr(staining, name)) != count:
                raise ValueError(
                    f"staining.{name} has {len(getattr(staining, name))} grey values, but stain {self.stain} has "
                    f"{count} channels; give one per channel"
                )
        if not any(
            b - _colour(b, h, f, staining.faintest) >= 1.5 and b > h > f
            for b, h, f in zip(staining.background, staining.half, staining.full, strict=True)
        ):
            raise ValueError(
                "staining: cells must be darker than the background, by 1.5 grey values or more at the amount "
                f"faintest (={staining.faintest}), and darkest at full amount, in one channel; change the colours"
            )
        return self


def channels(config: Config) -> tuple[str, ...]:
    """Names of the channels that a stain has."""
    return ("red", "green", "blue") if config.stain == "nissl" else ("grey",)


def ideal(config: Config) -> Config:
    """Give the same layout an ideal picture: no distractors, texture, defocus, blur, uneven light or noise.

    The background then has one colour that no cell has, so that a threshold gives the annotation back.

    Examples
    --------
    >>> import numpy as np
    >>> simulation = simulate(ideal(Config(shape=(1, 64, 64))), np.random.default_rng(1))
    >>> bool(((simulation.image[0] < 207) == (simulation.semantic > 0)).all())
    True
    """
    return config.model_copy(
        update={
            "staining": config.staining.model_copy(update={"granules": 0.0}),
            "neuropil": config.neuropil.model_copy(
                update={"texture": 0.0, "patches": 0.0, "processes": 0.0, "ghosts_per_mm2": 0.0}
            ),
            "optics": config.optics.model_copy(update={"blur_um": 0.0, "defocus_um": 0.0, "shading": 0.0}),
            "detector": Detector(gain=0.0, read_noise=0.0),
        }
    )


def adjusted(config: Config, wanted: Statistics, got: Statistics | None) -> Config:
    """Move settings towards what was measured in real sections.

    Colours and the width of blur are taken over at once. Then, from real and simulated peaks above and below one limit:
    density of neurons and of glia, dye, radius of neurons and its spread; from the background: fine and coarse
    texture, noise; from the foreground: granules; from the regularity of peaks: clumping.

    Parameters
    ----------
    config
        Settings so far.
    wanted
        Measured in the target images.
    got
        Measured in images simulated at `config`; None before there are any.
    """
    staining, neuropil, optics = config.staining, config.neuropil, config.optics
    if got is None:
        background, half, full = (tuple(float(np.clip(v, 1, 255)) for v in row) for row in wanted.colours)
        size = float(np.median(wanted.radii_um)) / (0.8 * config.neurons.radius_um)
        return config.model_copy(
            update={
                "neurons": scaled(config.neurons, radius_um=size),
                "glia": scaled(config.glia, radius_um=size),
                "staining": moved(staining, background=background, half=half, full=full),
                # The wanted width is measured in texture that other structure makes seem coarser.
                "optics": moved(optics, blur_um=0.8 * wanted.texture_um or optics.blur_um),
                "detector": moved(config.detector, gain=0.0, read_noise=wanted.noise),
            }
        )
    # Small peaks are glia only if they are dark; the others are specks and parts of pale cells.
    limit = 0.4 * typical_radius(wanted.radii_um)
    (radius, level), (own_radius, own_level) = (part.select(limit, np.inf) for part in (wanted, got))
    small = [
        float((part.select(0.0, limit)[1] > np.median(large)).sum() / part.extent) if len(large) else 0.0
        for part, large in ((wanted, level), (got, own_level))
    ]
    large = {"density_per_mm2": ratio(len(radius) / wanted.extent, len(own_radius) / got.extent)}
    darker = 1.0
    if min(len(radius), len(own_radius)) > 5:
        large["radius_um"] = ratio(float(np.median(radius)), float(np.median(own_radius)))
        large["radius_spread"] = ratio(log_spread(radius, limit), log_spread(own_radius, limit), 0.6)
        darker = ratio(float(np.median(level)), float(np.median(own_level)))
    neurons, glia = scaled(config.neurons, **large), scaled(config.glia, density_per_mm2=ratio(*small))
    noise = np.sqrt(max(config.detector.read_noise**2 + wanted.noise**2 - got.noise**2, 0.0))
    closer = config.layout.clumping + 0.8 * (got.regularity - wanted.regularity)
    return config.model_copy(
        update={
            "neurons": neurons,
            "glia": glia,
            "layout": moved(config.layout, clumping=closer),
            "staining": scaled(
                staining,
                neurons=darker,
                glia=darker,
                spread=ratio(log_spread(wanted.levels), log_spread(got.levels)),
                granules=ratio(wanted.inside, got.inside, 0.5),
            ),
            "neuropil": scaled(
                neuropil, texture=ratio(wanted.texture, got.texture), patches=ratio(wanted.coarse, got.coarse)
            ),
            "detector": moved(config.detector, read_noise=noise),
        }
    )


def simulate(config: Config, generator: np.random.Generator) -> Simulation:
    """Simulate one section.

    Parameters
    ----------
    config
        What to simulate.
    generator
        Source of all random numbers; the same state gives the same bytes.

    Returns
    -------
    Simulation
        Three channels (nissl) or one (silver); classes neuron and glia; footprints, since cells overlap. About 60 bytes
        per pixel of memory are needed while it runs.
    """
    layout_seed, light_seed, noise_seed = (int(seed) for seed in generator.integers(2**63, size=3))
    canvas = _canvas(config)
    cells, drawn, stacked = _lay_out(config, canvas, np.random.default_rng(layout_seed))
    light = np.random.default_rng(light_seed)
    dye = _absorb(config, canvas, cells.take(stacked.kept), light)
    image = _observe(config, canvas, dye, light, np.random.default_rng(noise_seed))
    truth = annotate(drawn, cells.kind, stacked, canvas.inside)
    return Simulation(
        image=image,
        semantic=truth.classes[None],
        instances=truth.instances[None],
        voxel_size_um=config.voxel_size_um,
        channel_names=channels(config),
        class_names=("neuron", "glia"),
        footprints=truth.footprints,
    )


# --- where things are ---


@dataclass(frozen=True)
class _Canvas:
    """Pixels to draw on: the picture with a border for what reaches in from outside."""

    shape: tuple[int, int]
    inside: tuple[slice, slice]
    pixel_um: tuple[float, float]
    low_um: Floats
    high_um: Floats


@dataclass(frozen=True)
class _Cells:
    """Cells from the lowest to the topmost; positions relative to pixel (0, 0) of the canvas, (n,) or (n, 2) in µm.

    ``depth`` is 0 at the top of the section and 1 at its bottom; ``amount`` is the dye of each relative to others of
    its kind.
    """

    centre: Floats
    table: Picture
    reach: Floats
    kind: npt.NDArray[np.uint8]
    radius: Floats
    depth: Floats
    amount: Floats
    apex: Floats

    def take(self, index: npt.NDArray[np.intp] | list[int]) -> _Cells:
        """Choose cells, in this order."""
        return _Cells(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def _canvas(config: Config) -> _Canvas:
    """Widen the picture by the largest cell; the region of the layout depends on µm only, not on the pixel."""
    _, y, x = config.voxel_size_um
    _, height, width = config.shape
    # The largest cell, its corners and its softness; and whole windows of the cells that lie outermost.
    reach = 2.5 * config.neurons.radius_um * np.exp(2 * config.neurons.radius_spread) + 2
    rows, columns = (int(np.ceil((3 * reach + 4 * size) / size)) for size in (y, x))
    field = np.array([height * y, width * x])
    offset = np.array([rows * y, columns * x])
    return _Canvas(
        (height + 2 * rows, width + 2 * columns),
        (slice(rows, rows + height), slice(columns, columns + width)),
        (y, x),
        offset - reach,
        offset + field + reach,
    )


def _lay_out(
    config: Config, canvas: _Canvas, generator: np.random.Generator
) -> tuple[_Cells, list[Drawn | None], Stack]:
    layout, neurons, glia = config.layout, config.neurons, config.glia
    area = float(np.prod((canvas.high_um - canvas.low_um) / 1000))
    large, small = (int(generator.poisson(part.density_per_mm2 * area)) for part in (neurons, glia))
    count = large + small
    kind = np.repeat(np.array([NEURON, GLIA], dtype=np.uint8), (large, small))
    is_neuron = kind == NEURON
    centre = scatter(count, canvas.low_um, canvas.high_um, _weight(config, canvas, generator), generator)
    spread = np.where(is_neuron, neurons.radius_spread, glia.radius_spread)
    radius = np.where(is_neuron, neurons.radius_um, glia.radius_um) * np.exp(
        spread * generator.standard_normal(count).clip(-2, 2)
    )
    radius *= np.exp((layout.layers.radius_per_mm * _along_layers(config, canvas, centre)).clip(-0.7, 0.7))
    guests = large + np.flatnonzero(generator.random(small) < glia.beside)
    centre = lay_beside(centre, radius, guests, np.flatnonzero(is_neuron), generator)
    spacing = np.where(
        generator.random(count) < layout.overlapping, min(layout.overlap, layout.spacing), layout.spacing
    )
    centre = push_apart(centre, radius, spacing).clip(canvas.low_um, canvas.high_um)

    pyramidal = is_neuron & (generator.random(count) < neurons.pyramidal)
    flat = ~is_neuron & (generator.random(count) < glia.elongated)
    stretch = generator.gamma(4.0, 0.25, count).clip(0, 2)
    elongation = 1 + stretch * np.where(pyramidal, neurons.elongation - 1, 0.15)
    elongation[flat] = generator.uniform(2, 5, int(flat.sum()))
    angle = generator.uniform(-np.pi, np.pi, count)
    turned = np.radians(neurons.along_degrees + neurons.along_spread_degrees * generator.standard_normal(count))
    angle = np.where(pyramidal, turned, angle)
    corners = neurons.corners * generator.gamma(2.0, 0.5, (count, 3)) * pyramidal[:, None] * np.array([1.4, 0.8, 0.8])
    corners *= generator.random((count, 3)) < np.array([0.85, 0.6, 0.6])
    table = draw_outlines(
        radius,
        elongation,
        angle,
        np.where(pyramidal, generator.uniform(0.0, 0.14, count), 0.0),
        np.minimum(corners, 0.9),
        np.where(is_neuron, neurons.bumps, glia.bumps),
        generator,
    )
    depth = generator.random(count)
    amount = np.exp(config.staining.spread * generator.standard_normal(count).clip(-2.2, 2.2))
    order = np.argsort(-depth, kind="stable")
    apex = np.where(pyramidal, angle, np.nan)
    cells = _Cells(centre, table, extents(table), kind, radius, depth, amount, apex).take(order)
    drawn = _masks(cells, canvas)
    return cells, drawn, stack(drawn, canvas.shape, layout.least_visible)


def _along_layers(config: Config, canvas: _Canvas, points: Floats) -> Floats:
    """Position along the axis of the layers relative to the middle of the picture, mm."""
    angle = np.radians(config.layout.layers.axis_degrees)
    middle = (canvas.low_um + canvas.high_um) / 2
    return np.asarray((points - middle) @ np.array([np.sin(angle), np.cos(angle)]) / 1000, dtype=np.float64)


def _weight(config: Config, canvas: _Canvas, generator: np.random.Generator) -> Callable[[Floats], Floats]:
    """Relative density of cells, 0 to 1: clumps and layers."""
    density = clumps(config.layout.clumping, config.layout.clump_um, 2, generator)
    gradient = config.layout.layers.density_per_mm
    corners = np.array([[y, x] for y in (0, 1) for x in (0, 1)]) * (canvas.high_um - canvas.low_um) + canvas.low_um
    steepest = min(1.5, float(np.abs(gradient * _along_layers(config, canvas, corners)).max()))

    def weight(points: Floats) -> Floats:
        layers = (gradient * _along_layers(config, canvas, points)).clip(-1.5, 1.5)
        return density(points - canvas.low_um) * np.exp(layers - steepest)

    return weight


def _masks(cells: _Cells, canvas: _Canvas) -> list[Drawn | None]:
    """Which pixels have their centre inside each cell."""
    drawn: list[Drawn | None] = [None] * len(cells.radius)
    for window in windows(cells.centre, cells.reach, canvas.pixel_um):
        y, x = positions(window, cells.centre, canvas.pixel_um)
        inside = radial_depth(y, x, cells.table[window.cells]) > 0
        for index, cell in zip(window.cells, cut_out(inside, window.start), strict=True):
            drawn[index] = cell
    return drawn


# --- how dark they are ---


def _distractors(
    config: Config, canvas: _Canvas, cells: _Cells, generator: np.random.Generator
) -> tuple[_Cells, Floats]:
    """Draw processes and pale cells that are background, and the softness of their edges in µm."""
    neuropil = config.neuropil
    parents = np.flatnonzero(np.isfinite(cells.apex))
    parents = parents[generator.random(len(parents)) < neuropil.processes]
    angle = cells.apex[parents] + generator.normal(0, 0.1, len(parents))
    length = neuropil.process_um * generator.gamma(4.0, 0.25, len(parents)).clip(0.3, 2)
    width = 0.22 * cells.radius[parents] + 0.4
    towards = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    middle = cells.centre[parents] + towards * (0.7 * cells.radius[parents] + length / 2)[:, None]
    area = float(np.prod((canvas.high_um - canvas.low_um) / 1000))
    pale = int(generator.poisson(neuropil.ghosts_per_mm2 * area))
    centre = np.concatenate([middle, generator.uniform(canvas.low_um, canvas.high_um, (pale, 2))])
    size = config.neurons.radius_um * np.exp(0.4 * generator.standard_normal(pale).clip(-2, 1))
    radius = np.concatenate([np.sqrt(length / 2 * width), size])
    count, none = len(radius), np.zeros(len(radius))
    elongation = np.concatenate([length / 2 / width, generator.uniform(1, 2, pale)])
    turned = np.concatenate([angle, generator.uniform(-np.pi, np.pi, pale)])
    table = draw_outlines(radius, elongation, turned, none, np.zeros((count, 3)), none + 0.06, generator)
    amount = np.repeat([neuropil.process_amount, neuropil.ghost_amount], (len(parents), pale))
    amount = amount * generator.gamma(3.0, 1 / 3, count)
    soft = np.concatenate([1.2 * width, 0.8 * size])
    inside = ((centre > canvas.low_um) & (centre < canvas.high_um)).all(axis=1)
    both = _Cells(centre, table, extents(table), np.zeros(count, np.uint8), radius, none, amount, none)
    fits = inside & (both.reach.max(axis=1) + soft < canvas.low_um.min() - 5 * max(canvas.pixel_um))
    return both.take(np.flatnonzero(fits)), soft[fits]


def _absorb(config: Config, canvas: _Canvas, cells: _Cells, generator: np.random.Generator) -> Picture:
    """Amount of dye on the canvas, (y, x) float32."""
    staining, optics = config.staining, config.optics
    dye = np.zeros(canvas.shape, dtype=np.float32)
    others, soft = _distractors(config, canvas, cells, generator)
    for window in windows(others.centre, others.reach + soft[:, None], canvas.pixel_um):
        y, x = positions(window, others.centre, canvas.pixel_um)
        amount = _edge(radial_depth(y, x, others.table[window.cells]), soft[window.cells])
        amount *= _each(others.amount[window.cells])
        for own, (top, left) in zip(amount, window.start, strict=True):
            dye[top : top + window.size[0], left : left + window.size[1]] += own

    count = len(cells.radius)
    soft = np.abs(cells.depth - optics.focus) * optics.defocus_um
    is_neuron = cells.kind == NEURON
    base = cells.amount * np.where(is_neuron, staining.neurons, staining.glia)
    inner = (
        np.where(is_neuron, staining.nucleus_size, 0.0) * cells.table.min(axis=1) * generator.uniform(0.85, 1.1, count)
    )
    shift = generator.uniform(-0.18, 0.18, (count, 2)) * cells.radius[:, None]
    speck = shift[:, None] + generator.uniform(-0.6, 0.6, (count, staining.nucleoli, 2)) * inner[:, None, None]
    grain = _grain(config, canvas, cells, generator)
    corner = generator.random((count, 2))
    painted: list[tuple[Picture, Picture] | None] = [None] * count
    places = [(0, 0)] * count
    for window in windows(cells.centre, cells.reach + soft[:, None] / 2, canvas.pixel_um):
        own = window.cells
        y, x = positions(window, cells.centre, canvas.pixel_um)
        depth = radial_depth(y, x, cells.table[own])
        edge = _edge(depth, soft[own])
        amount = _body(config, depth, y, x, inner[own], shift[own], speck[own])
        amount *= _each(base[own])
        if staining.granules > 0:
            amount *= _granules(config, grain, corner[own], window, soft[own])
        np.maximum(amount, np.float32(staining.faintest), out=amount)
        amount *= edge
        through = 1 - np.float32(1 - staining.see_through) * edge
        for part, (index, start) in enumerate(zip(own, window.start, strict=True)):
            painted[index] = (through[part], amount[part])
            places[index] = (int(start[0]), int(start[1]))
    for layer, (top, left) in zip(painted, places, strict=True):
        if layer is not None:
            here = dye[top : top + layer[1].shape[0], left : left + layer[1].shape[1]]
            here *= layer[0]
            here += layer[1]
    return dye


def _each(values: Floats) -> Picture:
    """One value per cell, to be multiplied with windows (n, h, w)."""
    return values.astype(np.float32)[:, None, None]


def _edge(depth: Picture, soft_um: Floats) -> Picture:
    """Cover of a pixel, 0 to 1, over an edge of the width `soft_um` around the outline; sharp where that is 0."""
    edge = np.asarray(depth / np.maximum(_each(soft_um), np.float32(1e-6)), dtype=np.float32)
    edge += np.float32(0.5) * (_each(soft_um) > 0)
    # A sharp edge is the mask itself: depth > 0.
    edge[~(soft_um > 0)] = depth[~(soft_um > 0)] > 0
    return np.clip(edge, 0, 1, out=edge)


def _body(
    config: Config, depth: Picture, y: Picture, x: Picture, inner: Floats, shift: Floats, speck: Floats
) -> Picture:
    """Relative amount of dye inside: rim, nucleus with blurred outline, nucleolus; (n, h, w)."""
    staining = config.staining
    amount = depth / np.float32(max(staining.rim_um, 1e-3))
    np.clip(amount, 0, 1, out=amount)
    amount *= np.float32(1 - staining.rim)
    amount += np.float32(staining.rim)
    nuclear = np.flatnonzero(inner > 0)
    if len(nuclear):
        up, right = y[nuclear], x[nuclear]
        distance = np.sqrt((up - _each(shift[nuclear, 0])) ** 2 + (right - _each(shift[nuclear, 1])) ** 2)
        distance -= _each(inner[nuclear])
        distance *= np.float32(-1 / 0.8)
        distance += np.float32(0.5)
        np.clip(distance, 0, 1, out=distance)
        distance *= np.float32(staining.nucleus - 1)
        distance += 1
        amount[nuclear] *= distance
        for dot in np.moveaxis(speck[nuclear], 1, 0):
            near = (up - _each(dot[:, 0])) ** 2 + (right - _each(dot[:, 1])) ** 2
            near *= np.float32(-1 / staining.nucleolus_um**2)
            near += 1
            np.maximum(near, 0, out=near)
            near *= np.float32(staining.nucleolus / staining.neurons)
            amount[nuclear] += near
    return amount


def _grain(config: Config, canvas: _Canvas, cells: _Cells, generator: np.random.Generator) -> Picture:
    """One piece of texture from which every cell is given a part of its own."""
    widest = 2 * float(cells.table.max(initial=1.0)) + 2 * config.optics.defocus_um
    y, x = ((int(widest / size) + 12 + 256) for size in canvas.pixel_um)
    shape, voxel, size = (1, y, x), (1.0, *canvas.pixel_um), config.staining.granule_um
    fine, coarse = (smooth_noise(shape, voxel, (1e6, scale, scale), generator)[0] for scale in (size, 3 * size))
    return np.asarray((fine + coarse) * np.float32(np.sqrt(0.5)), dtype=np.float32)


def _granules(config: Config, grain: Picture, corner: Floats, window: Window, soft_um: Floats) -> Picture:
    """Texture of each cell around 1, weaker out of focus; (n, h, w)."""
    pieces = sliding_window_view(grain, window.size)
    at = (corner * np.array(pieces.shape[:2])).astype(np.intp)
    texture = pieces[at[:, 0], at[:, 1]]
    texture *= _each(config.staining.granules / (1 + 0.5 * soft_um / config.staining.granule_um))
    texture += 1
    return np.asarray(np.maximum(texture, 0, out=texture), dtype=np.float32)


# --- how they are seen ---


def _colour(background: float, half: float, full: float, amount: float) -> float:
    """Grey value of one channel at an amount of dye."""
    at_half, at_full = np.log(half / background), np.log(full / background)
    bend = 2 * at_full - 4 * at_half
    return float(background * np.exp((at_full - bend) * amount + bend * amount**2))


def _observe(
    config: Config, canvas: _Canvas, dye: Picture, light: np.random.Generator, noise: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Neuropil, blur, colours, uneven light and noise: (c, 1, y, x)."""
    staining, neuropil, optics = config.staining, config.neuropil, config.optics
    voxel = (1.0, *canvas.pixel_um)
    # Only as much of the border as the blur needs.
    sigma = [optics.blur_um / size for size in canvas.pixel_um]
    extra = [int(np.ceil(3 * s)) for s in sigma]
    part = [slice(p.start - e, p.stop + e) for p, e in zip(canvas.inside, extra, strict=True)]
    dye = np.ascontiguousarray(dye[part[0], part[1]])
    if neuropil.texture > 0:
        # White noise that the blur turns into texture of the strength asked for.
        boost = neuropil.texture * float(np.prod([_loss_of_white_noise(s) for s in sigma]))
        dye += np.float32(boost) * light.standard_normal(dye.shape, dtype=np.float32)
    if neuropil.patches > 0:
        scale = (1e6, neuropil.patch_um, neuropil.patch_um)
        dye += np.float32(neuropil.patches) * smooth_noise((1, *dye.shape), voxel, scale, light)[0]
    if optics.blur_um > 0:
        dye = blur(dye[None], (0.0, optics.blur_um, optics.blur_um), voxel)[0]
    dye = dye[tuple(slice(e, n - e) for e, n in zip(extra, dye.shape, strict=True))]
    shade = None
    if optics.shading > 0:
        scale = (1e6, optics.shading_um, optics.shading_um)
        shade = np.float32(optics.shading) * smooth_noise((1, *dye.shape), voxel, scale, light)[0]

    image = np.empty((len(channels(config)), 1, *dye.shape), dtype=np.uint8)
    rows = max(1, 40_000 // dye.shape[1])  # bands that stay in the cache
    for top in range(0, dye.shape[0], rows):
        band = slice(top, top + rows)
        for channel, levels in enumerate(zip(staining.background, staining.half, staining.full, strict=True)):
            seen_light = _light(dye[band], levels)
            if shade is not None:
                seen_light += shade[band]
            np.exp(seen_light, out=seen_light)
            seen_light *= np.float32(levels[0])
            _expose(seen_light, config.detector, noise)
            image[channel, 0, band] = seen_light
    return image


def _loss_of_white_noise(sigma: float) -> float:
    """By which factor a Gaussian blur of `sigma` pixels reduces the standard deviation of white noise."""
    if sigma <= 0:
        return 1.0
    reach = int(3 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return float(kernel.sum() / np.sqrt((kernel**2).sum()))


def _light(dye: Picture, levels: tuple[float, float, float]) -> Picture:
    """Return ln of the light relative to the background: a quadratic through amounts 0, ½ and 1."""
    background, half, full = levels
    at_half, at_full = np.log(half / background), np.log(full / background)
    bend = 2 * at_full - 4 * at_half
    ln = dye * np.float32(bend)
    ln += np.float32(at_full - bend)
    ln *= dye
    return np.asarray(ln, dtype=np.float32)


def _expose(light: Picture, detector: Detector, generator: np.random.Generator) -> None:
    """Add shot and read noise in place, and round to grey values.

    At the brightness of a stained section counts are large, so the sum of both is normal.
    """
    if detector.gain > 0 or detector.read_noise > 0:
        spread = light * np.float32(detector.gain)
        spread += np.float32(detector.read_noise**2)
        np.maximum(spread, 0, out=spread)
        np.sqrt(spread, out=spread)
        spread *= generator.standard_normal(light.shape, dtype=np.float32)
        light += spread
    light += np.float32(0.5)
    np.clip(light, 0, 255, out=light)
