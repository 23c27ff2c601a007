"""Two-photon fluorescence of neurons: somata among processes and vessels, two channels, depth, blur and shot noise.

Channel 0 carries the somata; channel 1 is a weaker stain that shows nuclei and the walls of vessels. The passes:

1. :func:`_lay_out` places vessels and bodies and decides the truth. Somata are bodies only, as annotators draw them: a
   process belongs to the background from where it leaves its body, as bright as it may be.
2. :func:`_emit` gives each structure its light: cells of different brightness that fade towards their surface, nuclei,
   processes and debris up to the brightness of somata, dark vessels with bright grainy walls, textured neuropil.
3. :func:`_observe` looks at it: uneven light, loss with depth, blur, haze, line jitter, noise, grey values.

The steps draw from separate streams, so other light or optics leave layout and truth as they are. All happens on a grid
that is wider than the volume by the width of the blur, so that cells beyond the border shine in, as they do in tissue.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from fewslice.synthesis.imaging import (
    add_haze,
    blur,
    draw_nodes,
    draw_noise,
    expose,
    jitter_lines,
    join_nodes,
    smooth_noise,
    to_uint8,
)
from fewslice.synthesis.moves import moved, ratio, scaled
from fewslice.synthesis.settings import Extent, NotNegative, Part, Positive, Share
from fewslice.synthesis.shapes import (
    Body,
    Grid,
    directions,
    draw_body,
    paint_bodies,
    paint_tubes,
    place,
    tube_distance,
    walk,
)
from fewslice.synthesis.simulation import Simulation
from fewslice.synthesis.statistics import Statistics, log_spread

__all__ = [
    "CONTRAST",
    "VERSION",
    "Background",
    "Config",
    "Detector",
    "Optics",
    "Processes",
    "Somata",
    "Vessels",
    "adjusted",
    "channels",
    "ideal",
    "simulate",
]

VERSION = 1
CONTRAST = "bright"

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]
Pair = tuple[NotNegative, NotNegative]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range is given as least and most, got {ends}; swap them")
    return ends


Range = Annotated[Pair, AfterValidator(_ordered)]
Counts = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], AfterValidator(_ordered)]


class Somata(Part):
    """Cell bodies: how many, how large, of what form, how bright."""

    density_per_mm3: NotNegative = Field(62_000.0, description="bodies per mm³, before those without room are left out")
    radius_um: Positive = Field(7.1, description="median radius of the ball of the same volume, µm")
    radius_spread: Annotated[float, Field(ge=0, le=0.6)] = Field(0.2, description="standard deviation of ln radius")
    pyramidal: Share = Field(0.45, description="share of elongated, tapered bodies; the others are round")
    along: tuple[float, float, float] = Field(
        (0.2, -0.9, 0.4), description="mean long axis of pyramidal bodies, z, y, x"
    )
    along_spread: NotNegative = Field(0.45, description="spread of the long axis around it; large: any direction")
    bumps: Annotated[float, Field(ge=0, le=0.15)] = Field(0.07, description="roughness of the surface, of the radius")
    spacing: Annotated[float, Field(ge=0.7, le=3)] = Field(0.98, description="least distance, of the sum of two radii")
    touching: Share = Field(0.2, description="share of bodies that are laid beside another one")
    brightness: Positive = Field(
        66.0, description="median brightness above background in the core, channel 0, grey values"
    )
    brightness_spread: Annotated[float, Field(ge=0, le=1.5)] = Field(
        0.75, description="standard deviation of its ln, cut at 1.7 of it"
    )
    faintest: Positive = Field(12.0, description="no core is fainter than this, grey values")
    edge_um: NotNegative = Field(4.5, description="depth below the surface at which full brightness is reached, µm")
    edge_level: Annotated[float, Field(gt=0, le=1)] = Field(
        0.15, description="brightness at the surface, of that of the core"
    )
    texture: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.12, description="standard deviation of texture inside, relative"
    )
    nucleus: Positive = Field(0.92, description="mean brightness of the nucleus, channel 0, of the core's")
    nucleus_spread: Annotated[float, Field(ge=0, le=0.5)] = Field(0.12, description="how much it differs by cell")
    second: NotNegative = Field(0.035, description="brightness in channel 1, of that in channel 0")
    second_nucleus: NotNegative = Field(
        10.0, description="median additional brightness of nuclei in channel 1, grey values"
    )

    @model_validator(mode="after")
    def _visible(self) -> Somata:
        if self.faintest * self.edge_level < 1.5:
            raise ValueError(
                f"faintest (={self.faintest}) times edge_level (={self.edge_level}) is below 1.5 grey values, so "
                "that the rim of a body could vanish in rounding; raise one of them"
            )
        if not any(self.along) and self.along_spread == 0:
            raise ValueError("along is (0, 0, 0) and along_spread 0, which is no direction; give one of them")
        return self


class Processes(Part):
    """Dendrites, axons and debris: bright, and background."""

    per_soma: Counts = Field((1, 4), description="processes that leave a body, least and most")
    length_um: Range = Field((15, 70), description="their length, least and most, µm")
    radius_um: Range = Field((0.9, 2.0), description="radius where they leave, least and most, µm")
    tip: Share = Field(0.3, description="radius at the tip, of that where they leave")
    level: Range = Field((0.35, 0.9), description="brightness, of their body's")
    bend: NotNegative = Field(0.12, description="how strongly paths wander, radians per √µm")
    passing_per_mm3: NotNegative = Field(25_000.0, description="axons that pass, per mm³")
    passing_length_um: Range = Field((30, 120), description="their length, least and most, µm")
    passing_radius_um: Range = Field((0.4, 0.9), description="their radius, least and most, µm")
    passing_brightness: Range = Field((20, 80), description="their brightness above background, grey values")
    debris_per_mm3: NotNegative = Field(60_000.0, description="small bright blobs, per mm³")
    debris_radius_um: Range = Field((1.0, 4.0), description="their radius, least and most, µm")
    debris_brightness: Range = Field((15, 80), description="their brightness above background, grey values")
    second: Pair = Field((0.1, 0.5), description="brightness in channel 1, of channel 0's: processes, debris")


class Vessels(Part):
    """Blood vessels: dark tubes with grainy walls that are bright in channel 1."""

    density_per_mm3: NotNegative = Field(900.0, description="vessels whose middle lies in a mm³")
    labelled: bool = Field(False, description="whether vessels are class 2; otherwise they are background")
    radius_um: Range = Field((2.5, 6.0), description="radius of the lumen, least and most, µm")
    length_um: Positive = Field(260.0, description="length, µm")
    bend: NotNegative = Field(0.06, description="how strongly paths wander, radians per √µm")
    lumen: NotNegative = Field(0.35, description="brightness of the lumen, of the background's")
    wall_um: NotNegative = Field(1.8, description="thickness of the wall, µm")
    wall: Pair = Field((22, 22), description="brightness of the wall above background in the two channels, grey values")


class Background(Part):
    """Neuropil, in the two channels."""

    level: tuple[Positive, Positive] = Field((46.0, 18.3), description="mean, grey values")
    texture: Pair = Field((0.12, 0.13), description="standard deviation of fine texture after blur, relative")
    shared: Share = Field(0.3, description="share of the fine texture's variance that the channels have in common")
    patches: Pair = Field((0.09, 0.05), description="standard deviation of coarse texture, relative")
    patch_um: Positive = Field(8.0, description="size of coarse texture, µm")


class Optics(Part):
    """From light to the detector."""

    blur_um: tuple[NotNegative, NotNegative, NotNegative] = Field(
        (2.6, 0.9, 0.8), description="standard deviation of the point spread function, z, y, x, µm"
    )
    attenuation_um: Positive = Field(350.0, description="depth at which signal has fallen to 1/e, µm")
    depth_um: NotNegative = Field(0.0, description="depth of the first plane below the surface that is in focus, µm")
    background_attenuation: Share = Field(0.3, description="share of that loss which the background shows too")
    shading: NotNegative = Field(0.22, description="standard deviation of uneven light over the field, ln")
    shading_um: Positive = Field(60.0, description="size of the patches of uneven light, µm")
    haze: Share = Field(0.08, description="share of light that comes from out of focus")
    haze_um: Positive = Field(9.0, description="standard deviation of that blur, µm")
    line_shift_um: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.0, description="shift of every other line along x, µm"
    )


class Detector(Part):
    """From light to grey values."""

    gain: Pair = Field((0.45, 0.6), description="variance of shot noise over its mean, by channel, grey values")
    read_noise: Pair = Field((0.8, 0.8), description="standard deviation of read noise, by channel, grey values")
    offset: float = Field(0.0, description="grey value without light; what falls below 0 is 0")


class Config(Part):
    """All settings; lengths in µm, brightness in grey values of 8 bit, orders z, y, x and channel 0, 1.

    Defaults are close to the published two-photon stacks of human cortex at 2 × 0.88 × 0.88 µm.
    """

    shape: tuple[Extent, Extent, Extent] = Field((40, 160, 160), description="extent z, y, x, voxels")
    voxel_size_um: tuple[Positive, Positive, Positive] = Field((2.0, 0.88, 0.88), description="z, y, x, µm")
    somata: Somata = Somata()
    processes: Processes = Processes()
    vessels: Vessels = Vessels()
    background: Background = Background()
    optics: Optics = Optics()
    detector: Detector = Detector()


def ideal(config: Config) -> Config:
    """Give the same layout an ideal picture: no distractors, texture, uneven light, blur, haze or noise.

    Every soma voxel is then brighter than every other voxel in channel 0, so a threshold gives the annotation back.

    Examples
    --------
    >>> import numpy as np
    >>> config = Config(shape=(12, 40, 40))
    >>> simulation = simulate(ideal(config), np.random.default_rng(1))
    >>> bool(((simulation.image[0] > config.background.level[0] + 1) == (simulation.semantic == 1)).all())
    True
    """
    return config.model_copy(
        update={
            "somata": config.somata.model_copy(update={"texture": 0.0}),
            "processes": config.processes.model_copy(
                update={"per_soma": (0, 0), "passing_per_mm3": 0.0, "debris_per_mm3": 0.0}
            ),
            "vessels": config.vessels.model_copy(update={"lumen": 1.0, "wall": (0.0, 0.0)}),
            "background": config.background.model_copy(update={"texture": (0.0, 0.0), "patches": (0.0, 0.0)}),
            "optics": config.optics.model_copy(
                update={
                    "blur_um": (0.0, 0.0, 0.0),
                    "attenuation_um": 1e9,
                    "shading": 0.0,
                    "haze": 0.0,
                    "line_shift_um": 0.0,
                }
            ),
            "detector": Detector(gain=(0.0, 0.0), read_noise=(0.0, 0.0), offset=0.0),
        }
    )


def channels(config: Config) -> tuple[str, ...]:
    """Names of the two channels."""
    return ("somata", "nuclei and vessels")


def adjusted(config: Config, wanted: Statistics, got: Statistics | None) -> Config:
    """Move settings towards what was measured in real volumes.

    Density, radius and its spread, brightness and its spread come from the peaks; level, patches, fine texture and
    noise from the background. Processes, vessels, blur and depth stay as they are set.

    Parameters
    ----------
    config
        Settings so far.
    wanted
        Measured in the target images.
    got
        Measured in volumes simulated at `config`; None before there are any.
    """
    somata, background, detector = config.somata, config.background, config.detector
    if got is None:
        level = tuple(float(max(value, 1.0)) for value in wanted.colours[0])
        return config.model_copy(update={"background": moved(background, level=level)})
    levels = [
        float(np.clip(level * ratio(a, b), 1.0, 255.0))
        for level, a, b in zip(background.level, wanted.colours[0], got.colours[0], strict=True)
    ]
    factors = {"density_per_mm3": ratio(wanted.density, got.density, 0.6)}
    if min(len(wanted.radii_um), len(got.radii_um)) > 5:
        factors["radius_um"] = ratio(float(np.median(wanted.radii_um)), float(np.median(got.radii_um)))
        factors["radius_spread"] = ratio(log_spread(wanted.radii_um, 0.1), log_spread(got.radii_um, 0.1), 0.5)
        factors["brightness"] = ratio(float(np.median(wanted.levels)), float(np.median(got.levels)))
        factors["brightness_spread"] = ratio(log_spread(wanted.levels), log_spread(got.levels), 0.5)
    texture = ratio(float(np.hypot(wanted.texture, wanted.noise)), float(np.hypot(got.texture, got.noise)))
    return config.model_copy(
        update={
            "somata": scaled(somata, **factors),
            "background": moved(
                scaled(background, texture=texture, patches=ratio(wanted.coarse, got.coarse, 0.5)), level=tuple(levels)
            ),
            "detector": scaled(detector, read_noise=ratio(wanted.noise, got.noise, 0.5)),
        }
    )


def simulate(config: Config, generator: np.random.Generator) -> Simulation:
    """Simulate one volume.

    Parameters
    ----------
    config
        What to simulate.
    generator
        Source of all random numbers; the same state gives the same bytes.

    Returns
    -------
    Simulation
        Image of two channels, classes soma (and vessel, if labelled), instances numbered over somata only. About 60
        bytes per voxel of memory are needed while it runs, and two threads.
    """
    layout_seed, light_seed, optics_seed, noise_seed = (int(seed) for seed in generator.integers(2**63, size=4))
    grid, inside = _grid(config)
    with ThreadPoolExecutor(2) as pool:
        noise = pool.submit(_draw_noise, config, np.random.default_rng(noise_seed))
        layout = _lay_out(config, grid, np.random.default_rng(layout_seed))
        light = _emit(config, grid, layout, np.random.default_rng(light_seed), pool)
        shade = _shade(config, grid, np.random.default_rng(optics_seed))

        def seen(channel: int) -> npt.NDArray[np.uint8]:
            picture = _observe(config, grid, light[channel].result(), shade)[inside]
            gain, read_noise = config.detector.gain[channel], config.detector.read_noise[channel]
            picture = expose(picture, gain, read_noise, *noise.result()[channel])
            return to_uint8(picture + np.float32(config.detector.offset))

        image = np.stack(list(pool.map(seen, (0, 1))))
    owner = layout.owner[inside]
    present = np.zeros(len(layout.bodies) + 1, dtype=np.uint32)
    ids = np.flatnonzero(np.bincount(owner.ravel(), minlength=len(present))[1:]) + 1
    present[ids] = np.arange(1, len(ids) + 1)
    semantic = (owner > 0).astype(np.uint8)
    if config.vessels.labelled:
        semantic[(owner == 0) & (layout.vessel[inside] < config.vessels.wall_um)] = 2
    return Simulation(
        image=image,
        semantic=semantic,
        instances=present[owner],
        voxel_size_um=config.voxel_size_um,
        channel_names=channels(config),
        class_names=("soma", "vessel") if config.vessels.labelled else ("soma",),
    )


# --- where things are ---


@dataclass(frozen=True)
class _Layout:
    """What lies where: bodies, the body that owns each voxel, how central it is in it, and the distance to vessels."""

    bodies: list[Body]
    owner: npt.NDArray[np.uint32]
    radius: Picture
    vessel: Picture


def _grid(config: Config) -> tuple[Grid, tuple[slice, slice, slice]]:
    """Widen the volume by what the point spread function reaches."""
    # The pad is fixed by the voxel and not by the blur, so that the optics do not move the layout.
    pad = [int(np.ceil(reach / size)) for reach, size in zip((6.0, 2.5, 2.5), config.voxel_size_um, strict=True)]
    z, y, x = (size + 2 * margin for size, margin in zip(config.shape, pad, strict=True))
    origin = [-margin * size for margin, size in zip(pad, config.voxel_size_um, strict=True)]
    inside = tuple(slice(margin, margin + size) for margin, size in zip(pad, config.shape, strict=True))
    return Grid((z, y, x), config.voxel_size_um, (origin[0], origin[1], origin[2])), (inside[0], inside[1], inside[2])


def _count(density_per_mm3: float, low: Floats, high: Floats, generator: np.random.Generator) -> int:
    return int(generator.poisson(density_per_mm3 * float(np.prod((high - low) / 1000))))


def _lay_out(config: Config, grid: Grid, generator: np.random.Generator) -> _Layout:
    somata, vessels = config.somata, config.vessels
    tubes, radii = _vessel_paths(config, grid, generator)
    wall = max(vessels.wall_um, 0.1)
    vessel = tube_distance(tubes, radii, grid, wall + 0.5)
    margin = 2.5 * somata.radius_um
    low, high = grid.low_um - margin, grid.high_um + margin
    sizes = somata.radius_um * np.exp(
        somata.radius_spread
        * generator.standard_normal(_count(somata.density_per_mm3, low, high, generator)).clip(-2.5, 2.5)
    )

    def free(centre: Floats, radius: float) -> bool:
        if not len(tubes):
            return True
        return bool((((tubes - centre) ** 2).sum(axis=1) > (radii + wall + 0.9 * radius) ** 2).all())

    centres, kept = place(
        sizes, low, high, spacing=somata.spacing, touching=somata.touching, free=free, generator=generator
    )
    bodies = []
    for centre, size in zip(centres, sizes[kept], strict=True):
        random = directions(1, generator)[0]
        mean = np.array(somata.along) / max(float(np.linalg.norm(somata.along)), 1e-9)
        along = mean + somata.along_spread * generator.standard_normal(3)
        pyramidal = generator.random() < somata.pyramidal
        stretch, taper = generator.uniform(1.3, 2.0), generator.uniform(0.25, 0.5)
        round_ = generator.uniform(1.0, 1.25)
        bodies.append(
            draw_body(
                centre,
                float(size),
                elongation=float(stretch if pyramidal else round_),
                taper=float(taper if pyramidal else 0.0),
                bumps=somata.bumps,
                along=along / np.linalg.norm(along) if pyramidal else random,
                generator=generator,
            )
        )
    owner, radius = paint_bodies(bodies, grid)
    return _Layout(bodies, owner, radius, vessel)


def _vessel_paths(config: Config, grid: Grid, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Points along all vessels (m, 3) in µm and their radii (m,) in µm."""
    vessels = config.vessels
    margin = vessels.length_um / 2
    low, high = grid.low_um - margin, grid.high_um + margin
    count = _count(vessels.density_per_mm3, low, high, generator)
    sizes = generator.uniform(*vessels.radius_um, size=count)
    step = max(min(vessels.radius_um) / 2, 0.5)
    headings = directions(count, generator)
    starts = generator.uniform(low, high, (count, 3)) - margin * headings
    steps = np.full(count, int(np.ceil(vessels.length_um / step)))
    points, path, _ = walk(starts, headings, steps, step, vessels.bend, generator)
    reach = 25.0
    near = ((points > grid.low_um - reach) & (points < grid.high_um + reach)).all(axis=1)
    return points[near], sizes[path[near]]


# --- how bright they are ---


def _emit(
    config: Config, grid: Grid, layout: _Layout, generator: np.random.Generator, pool: Executor
) -> list[Future[tuple[Picture, Picture]]]:
    """Light of background and of signal, for each channel.

    All is drawn here, in one order; what is arithmetic only is done by the threads meanwhile.
    """
    somata, vessels, background = config.somata, config.vessels, config.background
    owner = layout.owner
    count = len(layout.bodies)
    core = somata.brightness * np.exp(somata.brightness_spread * generator.standard_normal(count).clip(-1.7, 1.7))
    core = np.maximum(core, somata.faintest)
    sizes = np.array([float(np.prod(body.axes_um)) ** (1 / 3) for body in layout.bodies])
    nuclei = (somata.nucleus + somata.nucleus_spread * generator.standard_normal(count)).clip(0.3, 1.5)
    second = np.exp(0.6 * generator.standard_normal(count).clip(-2.5, 2.5))

    grain_nodes = draw_nodes(grid.shape, grid.voxel_um, 1.6, generator)
    grain_later = pool.submit(join_nodes, grain_nodes)
    distractors = _processes(config, grid, layout, core, generator)
    patches_later = pool.submit(join_nodes, draw_nodes(grid.shape, grid.voxel_um, background.patch_um, generator))
    shared = generator.standard_normal(grid.shape, dtype=np.float32)
    own = [generator.standard_normal(grid.shape, dtype=np.float32) for _ in range(2)]

    where = np.nonzero(owner)
    cell = owner[where].astype(np.intp) - 1
    central = layout.radius[where]
    depth = (1 - central) * sizes[cell].astype(np.float32)
    rise = np.clip(depth / np.float32(max(somata.edge_um, 1e-3)), 0, 1)
    profile = np.float32(somata.edge_level) + np.float32(1 - somata.edge_level) * rise * (2 - rise)
    nucleus = np.clip((np.float32(0.55) - central) / np.float32(0.1), 0, 1)
    grain = grain_later.result()
    body = core[cell].astype(np.float32) * profile * np.maximum(1 + np.float32(somata.texture) * grain[where], 0.2)
    darker = 1 - (1 - nuclei[cell].astype(np.float32)) * nucleus

    in_wall = np.clip(
        1 - np.abs(layout.vessel - np.float32(vessels.wall_um / 2)) / np.float32(max(vessels.wall_um, 0.1)), 0, 1
    )
    in_wall *= layout.vessel < vessels.wall_um
    lumen = np.clip(np.float32(0.5) - layout.vessel, 0, 1)
    blotches = np.maximum(1 + np.float32(0.7) * grain, 0)

    lumen *= np.float32(1 - vessels.lumen)
    np.subtract(1, lumen, out=lumen)
    shared *= np.float32(np.sqrt(background.shared))

    def light(channel: int) -> tuple[Picture, Picture]:
        # White noise that the blur will turn into texture of the wanted strength.
        boost = background.texture[channel] * _loss_of_white_noise(config)
        neuropil = own[channel]
        neuropil *= np.float32(np.sqrt(1 - background.shared))
        neuropil += shared
        neuropil *= np.float32(boost)
        neuropil += 1
        neuropil += np.float32(background.patches[channel]) * patches_later.result()
        neuropil *= np.float32(background.level[channel])
        neuropil *= lumen
        signal = distractors[channel]
        walls = in_wall * np.float32(vessels.wall[channel])
        walls *= blotches
        signal += walls
        if channel == 0:
            signal[where] = body * darker
        else:
            mark = np.float32(somata.second_nucleus) * second[cell].astype(np.float32) * nucleus
            signal[where] = np.float32(somata.second) * body + mark
        return neuropil, signal

    return [pool.submit(light, channel) for channel in (0, 1)]


def _loss_of_white_noise(config: Config) -> float:
    """By which factor the blur reduces the standard deviation of white noise; 1 without blur."""
    loss = 1.0
    for sigma, size in zip(config.optics.blur_um, config.voxel_size_um, strict=True):
        width = sigma / size
        if width > 0:
            reach = int(3 * width + 0.5)
            kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
            loss *= float(kernel.sum() / np.sqrt((kernel**2).sum()))
    return loss


def _processes(
    config: Config, grid: Grid, layout: _Layout, core: Floats, generator: np.random.Generator
) -> tuple[Picture, Picture]:
    """Brightness of dendrites, passing axons and debris above the background, in the two channels."""
    settings = config.processes
    step = 0.7
    points, radii, values = [], [], []

    count = generator.integers(settings.per_soma[0], settings.per_soma[1] + 1, size=len(layout.bodies))
    parents = np.repeat(np.arange(len(layout.bodies)), count)
    if len(parents):
        first = np.concatenate([[True], parents[1:] != parents[:-1]])
        headings = directions(len(parents), generator)
        starts = np.empty_like(headings)
        for row, parent in enumerate(parents):
            body = layout.bodies[parent]
            if first[row] and body.taper > 0:  # the apical dendrite leaves at the narrow end
                headings[row] = body.frame[0]
            local = body.frame @ headings[row]
            starts[row] = body.centre_um + 0.8 * headings[row] / np.sqrt(((local / body.axes_um) ** 2).sum())
        lengths = generator.uniform(*settings.length_um, size=len(parents))
        thick = generator.uniform(*settings.radius_um, size=len(parents))
        level = generator.uniform(*settings.level, size=len(parents)) * core[parents]
        steps = np.maximum((lengths / step).astype(int), 1)
        where, path, number = walk(starts, headings, steps, step, settings.bend, generator)
        points.append(where)
        radii.append(thick[path] * (1 - (1 - settings.tip) * number / steps[path]))
        values.append(level[path])

    margin = settings.passing_length_um[1] / 2
    low, high = grid.low_um - margin, grid.high_um + margin
    passing = _count(settings.passing_per_mm3, low, high, generator)
    if passing:
        headings = directions(passing, generator)
        lengths = generator.uniform(*settings.passing_length_um, size=passing)
        starts = generator.uniform(low, high, (passing, 3)) - headings * lengths[:, None] / 2
        steps = np.maximum((lengths / step).astype(int), 1)
        where, path, _ = walk(starts, headings, steps, step, settings.bend, generator)
        points.append(where)
        radii.append(generator.uniform(*settings.passing_radius_um, size=passing)[path])
        values.append(generator.uniform(*settings.passing_brightness, size=passing)[path])

    debris = _count(settings.debris_per_mm3, grid.low_um, grid.high_um, generator)
    places = generator.uniform(grid.low_um, grid.high_um, (debris, 3))
    sizes = generator.uniform(*settings.debris_radius_um, size=debris)
    bright = generator.uniform(*settings.debris_brightness, size=debris)
    blobs = paint_tubes(places, sizes, bright, grid)
    if not points:
        return blobs, np.float32(settings.second[1]) * blobs
    threads = paint_tubes(np.concatenate(points), np.concatenate(radii), np.concatenate(values), grid)
    second = np.maximum(np.float32(settings.second[0]) * threads, np.float32(settings.second[1]) * blobs)
    return np.maximum(threads, blobs), second


# --- how they are seen ---


def _draw_noise(config: Config, generator: np.random.Generator) -> list[tuple[Picture | None, Picture | None]]:
    """Noise of each channel, drawn in their order."""
    detector = config.detector
    return [
        draw_noise(config.shape, gain, read_noise, generator)
        for gain, read_noise in zip(detector.gain, detector.read_noise, strict=True)
    ]


def _shade(config: Config, grid: Grid, generator: np.random.Generator) -> Picture:
    """Uneven light over the field, (1, y, x)."""
    optics = config.optics
    flat = (1, *grid.shape[1:])
    shade = np.exp(optics.shading * smooth_noise(flat, grid.voxel_um, (1e6, *(optics.shading_um,) * 2), generator))
    return np.asarray(shade, dtype=np.float32)


def _observe(config: Config, grid: Grid, light: tuple[Picture, Picture], shade: Picture) -> Picture:
    """Attenuate, shade and blur the light of one channel; the light is overwritten."""
    optics = config.optics
    depth = np.maximum(optics.depth_um + grid.origin_um[0] + np.arange(grid.shape[0]) * grid.voxel_um[0], 0)
    loss = np.exp(-depth / optics.attenuation_um)[:, None, None]
    background_loss = np.exp(-optics.background_attenuation * depth / optics.attenuation_um)[:, None, None]
    picture, signal = light
    picture *= background_loss.astype(np.float32)
    signal *= loss.astype(np.float32)
    picture += signal
    picture *= shade
    picture = add_haze(picture, optics.haze, optics.haze_um, grid.voxel_um)
    picture = blur(picture, optics.blur_um, grid.voxel_um)
    return jitter_lines(picture, optics.line_shift_um, grid.voxel_um)
