"""Fit a simulator to unlabelled images: the method of moments, by simulation.

1. :func:`_targets` reads the images, at most a central part of large ones, and brings them to 8 bit.
2. :func:`fewslice.synthesis.statistics.measure` measures them, and, in every round, what the
   simulator makes at the settings so far.
3. The simulator's own ``adjusted`` moves its settings by the difference. The round that came closest is kept.

No labels are used. The closeness that is reported is measured on images of other seeds than
those that were fitted with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from fewslice import registry
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.synthesis.statistics import QUANTILES, Statistics, measure, pooled
from fewslice.volume import Volume

__all__ = ["fit", "laid_over"]

LARGEST = (48, 1024, 1024)
"""Voxels of an image that are looked at, z, y, x."""

ENOUGH = 600_000
"""Voxels that are simulated in a round, about."""

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Target:
    """Images as they are measured: grey values 0 to 255, one voxel size, and by what they were scaled."""

    pictures: list[Picture]
    voxel_um: tuple[float, float, float]
    scale: float


def fit(
    kind: str,
    images: Sequence[Volume],
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    rounds: int = 10,
) -> tuple[BaseModel, dict[str, Any]]:
    """Find settings of a simulator at which its images measure like those given.

    Parameters
    ----------
    kind
        Simulator, such as ``"stained_section"``.
    images
        Unlabelled images. Types other than uint8 are scaled so that their 99.9 % quantile is 255.
    settings
        Nested settings that are held fixed.
    seed
        Of everything drawn; the same images and seed give the same settings.
    rounds
        How often settings are moved.

    Returns
    -------
    tuple
        Config of the shape of the first image, and findings as JSON values: ``images``, ``scale``, ``rounds`` used, and
        ``statistics``, for each ``wanted`` and ``got``.

    Raises
    ------
    InputError
        If an image is constant, not finite, has other channels or more planes than the simulator makes, or the images
        differ in voxel size; if nothing stands out from the background.
    """
    module = registry.load("synthesis.simulators", kind)
    given = dict(settings or {})
    if not images:
        raise InputError("no image was given to fit to; expected at least one")
    start: Any = module.Config.model_validate(_with_voxel(module, given, images))
    _check_channels(module, start, images)
    target = _targets(images, start.voxel_size_um)
    wanted = pooled([measure(picture, target.voxel_um, module.CONTRAST) for picture in target.pictures])
    if not len(wanted.radii_um):
        raise InputError(
            f"{images[0].source or 'the image'} shows nothing that is {module.CONTRAST} on its background, so there is "
            f"nothing to fit {kind} to; check the images and the kind"
        )
    shape = (start if "shape" in given else start.model_copy(update={"shape": images[0].shape})).shape
    config: Any = start.model_copy(
        update={"shape": tuple(min(n, m) for n, m in zip(images[0].shape, LARGEST, strict=True))}
    )
    config = laid_over(module.adjusted(config, wanted, None), given | {"shape": config.shape})
    best, closest, used = config, np.inf, 0
    for turn in range(rounds):
        got = _simulated(module, config, target.voxel_um, [seed, 0])
        away = _distance(wanted, got)
        if away < closest:
            best, closest, used = config, away, turn
        config = laid_over(module.adjusted(config, wanted, got), given | {"shape": config.shape})
    got = _simulated(module, best, target.voxel_um, [seed, 1])
    findings = {
        "images": len(images),
        "scale": target.scale,
        "rounds": used,
        "statistics": _compared(wanted, got),
    }
    return best.model_copy(update={"shape": shape}), findings


def laid_over(config: BaseModel, settings: Mapping[str, Any]) -> BaseModel:
    """Lay nested settings over a Config; what they do not name stays.

    Raises
    ------
    pydantic.ValidationError
        For an unknown key or a value out of range.
    """

    def merged(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        out = dict(old)
        for key, value in new.items():
            known = out.get(key)
            out[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
        return out

    return type(config).model_validate(merged(config.model_dump(), settings))


def _with_voxel(module: ModuleType, settings: dict[str, Any], images: Sequence[Volume]) -> dict[str, Any]:
    """Add the images' voxel size where they have one and none is set."""
    if "voxel_size_um" in settings:
        return settings
    sizes = {image.voxel_size_um for image in images}
    first = next(iter(sizes))
    if None in sizes and len(sizes) > 1:
        without = next(image.source for image in images if image.voxel_size_um is None)
        raise InputError(f"{without} has no voxel size but other images do; give --voxel-size-um z,y,x for all")
    for size in sizes:
        if (
            size is not None
            and first is not None
            and any(abs(a / b - 1) > 0.1 for a, b in zip(size, first, strict=True))
        ):
            raise InputError(f"the images have voxels of {first} and of {size} µm; fit to images of one voxel size")
    return settings if images[0].voxel_size_um is None else settings | {"voxel_size_um": images[0].voxel_size_um}


def _check_channels(module: ModuleType, config: BaseModel, images: Sequence[Volume]) -> None:
    names = module.channels(config)
    for image in images:
        if image.channels != len(names):
            raise InputError(
                f"{image.source or 'the image'} has {image.channels} channel{'s' * (image.channels != 1)}, but "
                f"{module.__name__.rpartition('.')[2]} makes {len(names)} ({', '.join(names)}); "
                f"{_other_choice(module, config, image.channels)}give images with {len(names)}"
            )
    for image in images:
        shape = image.shape
        if shape[0] > 1 and not _has_planes(module):
            raise InputError(
                f"{image.source or 'the image'} has {shape[0]} planes, but {module.__name__.rpartition('.')[2]} "
                "simulates single planes; give images of one plane"
            )


def _other_choice(module: ModuleType, config: BaseModel, count: int) -> str:
    """Name the setting with which a simulator makes so many channels, if there is one."""
    for name, field in module.Config.model_fields.items():
        if get_origin(field.annotation) is not Literal:
            continue
        for value in get_args(field.annotation):
            if len(module.channels(config.model_copy(update={name: value}))) == count:
                return f"pass --set {name}={value}, or "
    return ""


def _has_planes(module: ModuleType) -> bool:
    """Whether a simulator makes volumes of several planes."""
    try:
        module.Config(shape=(2, 8, 8))
    except ValueError:
        return False
    return True


def _targets(images: Sequence[Volume], voxel_um: tuple[float, float, float]) -> _Target:
    pictures = []
    for image in images:
        start = tuple((n - min(n, m)) // 2 for n, m in zip(image.shape, LARGEST, strict=True))
        stop = tuple(a + min(n, m) for a, n, m in zip(start, image.shape, LARGEST, strict=True))
        values = np.asarray(image.read(Box(start, stop)))
        name = image.source or "the image"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(f"{name} holds values that are not finite (NaN or infinite); mend the image")
        if values.min() == values.max():
            raise InputError(f"{name} is constant, all its values are {values.flat[0]:g}; nothing can be fitted to it")
        pictures.append(values)
    scale = 1.0
    if any(picture.dtype != np.uint8 for picture in pictures):
        top = max(float(np.quantile(picture, 0.999)) for picture in pictures)
        scale = 255 / top if top > 0 else 1.0
    scaled = [np.clip(picture.astype(np.float32) * np.float32(scale), 0, 255) for picture in pictures]
    return _Target(scaled, voxel_um, scale)


def _simulated(module: ModuleType, config: Any, voxel_um: tuple[float, float, float], seed: list[int]) -> Statistics:
    """Measure images that a simulator makes."""
    count = int(np.clip(np.ceil(ENOUGH / float(np.prod(config.shape))), 2, 12))
    parts = []
    for index in range(count):
        simulation = module.simulate(config, np.random.default_rng([*seed, index]))
        parts.append(measure(simulation.image, voxel_um, module.CONTRAST))
    return pooled(parts)


def _scalars(part: Statistics) -> dict[str, float]:
    """Measurements by which closeness is judged, all ≥ 0."""
    some = len(part.radii_um) > 0
    radius = {f"radius {q} %, µm": float(np.percentile(part.radii_um, q)) if some else 0.0 for q in (25, 50, 75, 95)}
    level = {f"contrast {q} %": float(np.percentile(part.levels, q)) if some else 0.0 for q in (25, 50, 95)}
    return {
        "density of peaks": part.density,
        **radius,
        **level,
        "foreground share": part.share,
        "regularity": part.regularity,
        "texture": part.texture,
        "texture width, µm": part.texture_um,
        "white noise": part.noise,
        "coarse background": part.coarse,
        "spread inside cells": part.inside,
        "edge width, µm": part.edge_um,
    }


def _distance(wanted: Statistics, got: Statistics) -> float:
    """Mean |ln| of ratios, at most ln 4 each, and mean difference of quantiles over their range."""
    one, other = _scalars(wanted), _scalars(got)
    logs = [min(abs(float(np.log((a + 1e-3) / (other[name] + 1e-3)))), np.log(4)) for name, a in one.items()]
    span = float(np.ptp(wanted.quantiles)) or 1.0
    return float(np.mean(logs) + np.abs(wanted.quantiles - got.quantiles).mean() / span)


def _compared(wanted: Statistics, got: Statistics) -> dict[str, Any]:
    one, other = _scalars(wanted), _scalars(got)
    out: dict[str, Any] = {name: {"wanted": _short(one[name]), "got": _short(other[name])} for name in one}
    for channel, (a, b) in enumerate(zip(wanted.quantiles, got.quantiles, strict=True)):
        names = [f"{100 * q:g} %" for q in QUANTILES]
        out[f"grey values, channel {channel}"] = {
            "wanted": dict(zip(names, map(_short, a), strict=True)),
            "got": dict(zip(names, map(_short, b), strict=True)),
        }
    out["variance by wavelength"] = {
        "wanted": [_short(v) for v in wanted.bands],
        "got": [_short(v) for v in got.bands],
    }
    return out


def _short(value: float) -> float:
    return float(f"{float(value):.4g}")
