"""Curves for the documentation: small PNG files drawn from stored results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arms import ARMS
from benchmarks.tables import Series
from benchmarks.targets import at

__all__ = ["draw_agreement", "draw_alpha", "draw_cost", "draw_outlines", "draw_sparsity"]

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = {
    "cnn_2d": "#E69F00",
    "unet_2d": "#56B4E9",
    "sparse_3d": "#000000",
    "student_cnn_2d": "#D55E00",
    "student_unet_2d": "#0072B2",
}
# as on the method's poster: what is right, what is missed, what is too much
_AGREEMENT = {"true positive": (0, 200, 0), "false negative": (230, 0, 0), "false positive": (40, 80, 255)}
_METRICS = {"dice": "Dice", "nsd": "NSD at 2 µm"}


def draw_sparsity(series: Series, setting: str, path: Path) -> bool:
    """Draw Dice and surface Dice against the number of annotated planes, one line per arm; False without results."""
    chosen = series.where(setting=setting)
    planes = chosen.distinct("planes")
    if not planes:
        return False
    figure, axes = _figure(2)
    for arm, what in ARMS.items():
        for axis, metric in zip(axes, _METRICS, strict=True):
            points = [(p, at(chosen, setting, arm, p).interval(metric)) for p in planes]
            known = [(p, i.mean, i.low, i.high) for p, i in points if i is not None]
            if not known:
                continue
            x, y = [k[0] for k in known], [k[1] for k in known]
            axis.plot(x, y, "o-", color=COLOURS[arm], label=what.title, markersize=3, linewidth=1.2)
            banded = [k for k in known if k[2] is not None]
            axis.fill_between(
                [k[0] for k in banded], [k[2] for k in banded], [k[3] for k in banded], color=COLOURS[arm], alpha=0.12,
                linewidth=0,
            )  # fmt: skip
    for axis, name in zip(axes, _METRICS.values(), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xticks(planes, [str(p) for p in planes])
        axis.set_xlabel("annotated planes per volume")
        axis.set_ylabel(name)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=7, frameon=False, ncols=3, loc="outside lower center")
    _save(figure, path)
    return True


def draw_alpha(series: Series, setting: str, path: Path) -> bool:
    """Draw the students' Dice against α, the sparse arm standing at α = 0; False without results."""
    chosen = series.where(setting=setting)
    alphas = chosen.distinct("alpha")
    planes = [p for p in chosen.distinct("planes") if len(chosen.where(planes=p).distinct("alpha")) > 1]
    if not planes:
        return False
    figure, axes = _figure(len(planes))
    for axis, count in zip(axes, planes, strict=True):
        start = chosen.where(arm="sparse_3d", planes=count).interval("dice")
        for arm, what in ARMS.items():
            if not what.is_student:
                continue
            points = [(a, at(chosen, setting, arm, count, a).interval("dice")) for a in alphas]
            known = [(a, i) for a, i in [(0.0, start), *points] if i is not None]
            half = [i.high - i.mean if i.high is not None else 0.0 for _, i in known]
            axis.errorbar(
                [a for a, _ in known], [i.mean for _, i in known], half, fmt="o-", color=COLOURS[arm], label=what.title,
                markersize=3, linewidth=1.2, capsize=2,
            )  # fmt: skip
        axis.set_title(f"{count} annotated plane{'s' if count > 1 else ''} per volume", fontsize=8)
        axis.set_xlabel("α")
        axis.set_ylabel("Dice")
    axes[0].legend(fontsize=6.5, frameon=False)
    _save(figure, path)
    return True


def draw_cost(series: Series, path: Path) -> bool:
    """Draw Dice against processor seconds, one thin line per draw; False without results."""
    chosen = [r for r in series.where(setting="phantom_cost").results if r.get("curve")]
    if not chosen:
        return False
    figure, (axis,) = _figure(1)
    seen: set[str] = set()
    for result in chosen:
        arm = str(result["cell"]["arm"])
        curve: Sequence[dict[str, Any]] = result["curve"]
        label = None if arm in seen else ARMS[arm].title
        seen.add(arm)
        x, y = [p["cpu"] for p in curve], [p["dice"] for p in curve]
        axis.plot(x, y, "-", color=COLOURS[arm], label=label, linewidth=0.9, alpha=0.8)
    axis.set_xlabel("processor seconds, the teacher's included")
    axis.set_ylabel("Dice on the test volume")
    axis.legend(fontsize=6.5, frameon=False)
    _save(figure, path)
    return True


def draw_agreement(image: Any, truth: Any, masks: Mapping[str, Any], path: Path) -> None:
    """Draw where predictions of one plane are right, where they miss and where they see too much.

    The picture shows the image: it is for local use where the image may not be passed on.

    Parameters
    ----------
    image
        (y, x), any numeric type.
    truth
        (y, x) bool.
    masks
        Predicted foreground, (y, x) bool, by the title of its panel.
    path
        The PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    height, width = truth.shape
    columns = 1 if width >= 2 * height else min(3, len(masks))
    rows = -(-len(masks) // columns)
    size = (9.0 if columns == 1 else 4.0 * columns, (9.0 if columns == 1 else 4.0) * height / width * rows + 0.3 * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, mask) in zip(axes.flat, masks.items(), strict=False):
        axis.imshow(paint_agreement(image, truth, mask), interpolation="nearest")
        axis.set_title(title, fontsize=8)
    handles = [
        Patch(color=(red / 255, green / 255, blue / 255), label=name) for name, (red, green, blue) in _AGREEMENT.items()
    ]
    figure.legend(handles=handles, fontsize=7, frameon=False, ncols=3, loc="outside lower center")
    _save(figure, path)


def draw_outlines(image: Any, truth: Any, found: Mapping[str, Any], path: Path) -> None:
    """Draw the image, and over it the outlines of true objects (green) and of those that were found (red).

    Parameters
    ----------
    image
        (c, y, x) uint8, one channel or three.
    truth
        (y, x) ids, 0 is background.
    found
        Ids of the same shape, by the title of their panel.
    path
        The PNG file; the picture shows the image, as :func:`draw_agreement`'s does.
    """
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot
    from skimage.segmentation import find_boundaries

    grey = image[0].astype(np.float32)
    plain = np.moveaxis(image[:3], 0, -1) if len(image) >= 3 else np.repeat(grey[..., None], 3, axis=-1)
    if len(image) < 3:  # fluorescence is dim
        plain = np.clip(plain * (255.0 / max(float(np.quantile(grey, 0.995)), 1.0)), 0, 255).astype(np.uint8)
    titles = ["the image", *found]
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(5 * columns, 5.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes.flat, titles, strict=False):
        drawn = plain.copy()
        if title in found:
            drawn[find_boundaries(truth, mode="inner")] = (0, 150, 0)
            drawn[find_boundaries(found[title], mode="inner")] = (230, 0, 0)
        axis.imshow(drawn, interpolation="nearest")
        axis.set_title(title, fontsize=8)
    _save(figure, path)


def paint_agreement(image: Any, truth: Any, mask: Any) -> Any:
    """Return the plane in grey, (y, x, 3) uint8, half covered by green, red and blue as in :func:`draw_agreement`."""
    import numpy as np

    low, high = float(image.min()), float(image.max())
    grey = (image.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6))
    out = np.repeat(grey[..., None], 3, axis=-1)
    for where, colour in zip((truth & mask, truth & ~mask, mask & ~truth), _AGREEMENT.values(), strict=True):
        out[where] = 0.5 * out[where] + 0.5 * np.array(colour, np.float32)
    return out.round().astype(np.uint8)


def _figure(count: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(3.6 * count, 2.8), squeeze=False, layout="constrained")
    for axis in axes[0]:
        axis.tick_params(labelsize=7)
        axis.xaxis.label.set_size(8)
        axis.yaxis.label.set_size(8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.5)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> None:
    """Write the figure without a date in it, so that the same results give the same file."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
