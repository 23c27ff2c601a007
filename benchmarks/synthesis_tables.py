"""The section on synthesis of the page of benchmarks, from stored results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.objects import f1_interval, f1_text
from benchmarks.synthesis import ARMS, BUDGETS, IMAGES
from benchmarks.tables import Series, interval_text, markdown

__all__ = ["section"]

Result = Mapping[str, Any]

_TITLES = {
    "nissl_123": "Nissl cells, tiles 1, 2 and 3 → tile 0 (another slide)",
    "nissl_0": "Nissl cells, tile 0 → tiles 1, 2 and 3",
    "nuclei": "Fluorescence nuclei, 80 images → 40 images",
}
_INTRODUCTION = """\
Cells are simulated like those of the training images, which a refiner makes look like the images themselves; a network
that proposes contours learns them, and goes on with labelled images where there are some. Labels, the images to refine
towards and every setting come from the training images; the test images are shown to the finished network only. Without
labels the threshold is chosen on simulated images. F1 has an interval over cells (a bootstrap, the same cells for all
arms), and is a mean over draws: seeds of the network and of which images are labelled. One refiner serves all arms.
Cellpose's predictions come with the data; what its networks have learned from is not stated there.
`python -m benchmarks.synthesis --quick` measures it; with `--figure OUT.png` objects are drawn locally.

{images} images are simulated. Networks that learn labels only have as many steps as pretraining and fine-tuning have
together. Steps:

{steps}"""
_FIGURES = {
    "steps": ("steps of the refiner that were kept", 0),
    "minutes": ("minutes, simulations and their refinement included", 1),
    "cpu_minutes": ("processor minutes of the same", 1),
    "kernel_distance": ("kernel distance to real patches", 3),
    "chance_kernel_distance": ("the same by chance", 3),
    "spectrum_distance": ("spectrum distance", 3),
    "histogram_distance": ("histogram distance", 3),
    "separability": ("a classifier tells refined from real patches", 2),
    "precision_simulated": ("precision in simulated images of a network that has learned simulated ones", 3),
    "precision_refined": ("the same in refined images", 3),
    "recall_simulated": ("recall in simulated images of a network that has learned simulated ones", 3),
    "recall_refined": ("the same in refined images", 3),
    "own_precision_simulated": ("precision in simulated images of a network that has learned refined ones", 3),
    "own_precision_refined": ("the same in refined images", 3),
    "own_recall_simulated": ("recall in simulated images of a network that has learned refined ones", 3),
    "own_recall_refined": ("the same in refined images", 3),
    "pixel_precision_simulated": ("precision in simulated images of a pixel classifier", 3),
    "pixel_precision_refined": ("the same in refined images", 3),
    "pixel_recall_simulated": ("recall in simulated images of a pixel classifier", 3),
    "pixel_recall_refined": ("the same in refined images", 3),
}


def section(series: Series, tier: str, devices: Callable[[Series], str]) -> str:
    """Write the section; empty without results.

    Parameters
    ----------
    series
        Results of one tier, those of arms without training included.
    tier
        ``quick`` or ``full``.
    devices
        Writes the line of devices.
    """
    if not series.results:
        return ""
    same: dict[str, list[str]] = {}
    for name, budget in BUDGETS[tier].items():
        same.setdefault(", ".join(f"{stage} {count}" for stage, count in budget.items()), []).append(f"`{name}`")
    steps = "".join(f"- {', '.join(names)}: {text}\n" for text, names in same.items())
    parts = ["## Synthesis\n", _INTRODUCTION.format(images=IMAGES[tier], steps=steps), devices(series)]
    parts += [_objects(series.where(setting=setting), title) for setting, title in _TITLES.items()]
    parts += [_volumes(series.where(setting="neurons")), _new_stain(series.where(setting="new_stain"))]
    parts += [_refiners(series.where(arm="refiner")), _speed(series.where(setting="speed"))]
    return "\n".join(part for part in parts if part)


def _grouped(series: Series) -> list[tuple[str, Series]]:
    """Give the results of each arm and number of labels, with a title, in the order of the arms."""
    found = []
    for arm, title in ARMS.items():
        chosen = series.where(arm=arm)
        counts: Sequence[int | None] = chosen.distinct("labels") or [None]
        for count in counts:
            own = chosen.where(labels=count) if count is not None else chosen
            if own.results:
                found.append((title if count is None else f"{title}, {count} labelled", own))
    return found


def _minutes(series: Series) -> str:
    spent = [float(result["cpu_seconds"]) / 60 for result in series.results]
    return f"{sum(spent) / len(spent):.1f}"


def _objects(series: Series, title: str) -> str:
    rows = []
    for name, own in _grouped(series):
        metrics = (("f1_0.6", 3), ("f1_0.7", 3), ("f1_0.8", 3), ("f1_0.9", 3), ("mean_ap", 3), ("pq_0.5", 3))
        texts = [interval_text(own.interval(metric), digits) for metric, digits in (*metrics, ("count_error", 2))]
        rows.append([name, f1_text(f1_interval(own.results)), *texts, _minutes(own)])
    head = ["arm", "F1 at IoU 0.5", "0.6", "0.7", "0.8", "0.9", "AP, mean over IoU", "PQ at 0.5", "count error"]
    return f"### {title}\n\n" + markdown([*head, "processor minutes, all"], rows) if rows else ""


def _volumes(series: Series) -> str:
    rows = []
    for name, own in _grouped(series):
        texts = [interval_text(own.interval(metric)) for metric in ("dice", "precision", "recall", "nsd")]
        rows.append([name.replace("labelled", "annotated planes"), *texts, _minutes(own)])
    head = ["arm", "Dice", "precision", "recall", "NSD at 2 µm", "processor minutes, all"]
    title = "### Two-photon neurons, phantoms → the real stack (train x < 288, test x ≥ 320)\n\n"
    return title + markdown(head, rows) if rows else ""


def _new_stain(series: Series) -> str:
    rows = []
    for arm, title in (("from_nothing", "from nothing"), ("from_fluorescence", "from refined fluorescence nuclei")):
        own = series.where(arm=arm)
        if own.results:
            texts = [interval_text(own.interval(metric)) for metric in ("f1_0.7", "mean_ap", "pq_0.5")]
            rows.append([title, f1_text(f1_interval(own.results)), *texts])
    if len(rows) == 2:
        gain = f1_interval(series.where(arm="from_fluorescence").results, series.where(arm="from_nothing").results)
        rows.append(["difference", f1_text(gain, sign=True), "", "", ""])
    head = ["a few steps on refined Nissl images", "F1 at IoU 0.5", "0.7", "AP, mean over IoU", "PQ at 0.5"]
    return "### A new stain: tiles 1, 2 and 3 → tile 0, no label\n\n" + markdown(head, rows) if rows else ""


def _refiners(series: Series) -> str:
    settings = series.distinct("setting")
    rows = []
    for metric, (title, digits) in _FIGURES.items():
        texts = [interval_text(series.where(setting=setting).interval(metric), digits) for setting in settings]
        if set(texts) - {"–"}:
            rows.append([title, *texts])
    return "### Refiners\n\n" + markdown(["", *map(str, settings)], rows) if rows else ""


def _speed(series: Series) -> str:
    rows = []
    for arm in series.distinct("arm"):
        own = series.where(arm=arm)
        metrics = sorted({metric for result in own.results for metric in result["scores"]})
        rows.append([str(arm), ", ".join(f"{metric} {interval_text(own.interval(metric), 2)}" for metric in metrics)])
    return "### What the parts cost\n\n" + markdown(["part", "measured"], rows) if rows else ""
