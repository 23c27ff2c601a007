"""One self-contained HTML page about one or several runs.

1. :func:`fewslice.report.content.collect` reads the runs.
2. :func:`fewslice.report.cases.draw_case` draws each case: one image with all its predictions.
3. `sections`, `scores`, `counting` and `realism` say what the page's sections hold; what is empty has no section.
4. The templates join text, styles, the page's script, plotly.js once, and the data as JSON. Nothing is loaded from
   anywhere, and the page forbids itself to (content security policy).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from fewslice.errors import InputError
from fewslice.files import write_atomic
from fewslice.report import figures, sections, wording
from fewslice.report.cases import DrawnCase, Limits, draw_case
from fewslice.report.content import Content, collect
from fewslice.report.counting import counts_view
from fewslice.report.palette import AGREEMENT, CLASSES
from fewslice.report.realism import refinement_view
from fewslice.report.scene import training_figure
from fewslice.report.scores import quality_view

__all__ = ["write_report"]

_MOST_CASES = 6


def write_report(
    runs: Sequence[Path],
    output: Path | None = None,
    predictions: Sequence[Path] = (),
    overwrite: bool = True,
) -> Path:
    """Write the report of one run, or of several side by side, and its figures for print.

    Parameters
    ----------
    runs
        Run folders; each prediction of theirs becomes an arm.
    output
        The page; by default ``report.html`` in the first run. Its figures go into ``figures`` beside ``report.html``,
        else into a folder named after the page.
    predictions
        ``OUT.ome.zarr`` to show; empty for all that the runs list in their results.
    overwrite
        Replace an existing page.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If a run or prediction is none, or the page exists and `overwrite` is false.
    DiskError
        If the page cannot be written.
    """
    content = collect([Path(run) for run in runs], [Path(p) for p in predictions])
    target = Path(output) if output is not None else content.runs[0].path / "report.html"
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of the page, such as {target / 'report.html'}")
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{target} does not end in .html; give the page such a name")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another name or allow it to be overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / ("figures" if target.name == "report.html" else f"{target.stem}_figures")
    shown = content.cases[:_MOST_CASES]
    limits = Limits().shared(max(1, len(shown)))
    drawn = [draw_case(case, limits, folder, _suffix(number, len(shown))) for number, case in enumerate(shown, start=1)]
    write_atomic(target, _render(content, drawn, folder))
    return target


def _suffix(number: int, count: int) -> str:
    return "" if count == 1 else f"_{number}"


def _write_figures(content: Content, folder: Path) -> list[tuple[str, str]]:
    """Write training curves per run and confusion matrices per case, for print; return the curves for the page."""
    pictures = []
    for number, run in enumerate(content.runs, start=1):
        stages = {
            stage.name: {
                "loss": stage.loss.get("total") or next(iter(stage.loss.values()), []),
                "validation": stage.validation,
                "measure": stage.measure,
            }
            for stage in run.stages
        }
        if stages:
            written = figures.training_curves(stages, folder / f"training{_suffix(number, len(content.runs))}")
            names = ", ".join(stages)
            pictures.append((figures.embedded(written[0]), f"Loss and validation of {run.name}, stages {names}"))
    for number, case in enumerate(content.cases, start=1):
        matrices = {
            arm.name: arm.scores["confusion"] for arm in case.arms if arm.scores and arm.scores.get("confusion")
        }
        if matrices:
            name = f"confusion{_suffix(number, len(content.cases))}"
            figures.confusion_panel(matrices, ["background", "foreground"], folder / name)
    return pictures


def _render(content: Content, drawn: Sequence[DrawnCase], folder: Path) -> str:
    from plotly.offline import get_plotlyjs

    here = files("fewslice.report")
    runs, several = content.runs, len(content.runs)
    data = {
        "training": [[training_figure(stage) for stage in run.stages] for run in runs],
        "cases": [{"browser": case.browser, "scenes": case.scenes} for case in drawn],
        "colours": {**AGREEMENT, "classes": list(CLASSES)},
    }
    quality = [view for case in drawn if (view := quality_view(case))]
    counts = [
        view
        for number, case in enumerate(drawn, start=1)
        if (view := counts_view(case.case, folder / f"sizes{_suffix(number, len(drawn))}"))
    ]
    plans = [
        sections.plan_view(run, folder / f"plan{_suffix(number, several)}")
        for number, run in enumerate(runs, start=1)
        if run.plan
    ]
    views: dict[str, Any] = {
        "data": sections.data_sets(runs),
        "training": any(run.stages for run in runs),
        "realism": [view for run in runs if (view := refinement_view(run))],
        "quality": quality,
        "checks": sections.checks_view(drawn),
        "counts": counts,
        "planes": [(i, case) for i, case in enumerate(drawn) if case.browser],
        "surfaces": [(i, case) for i, case in enumerate(drawn) if case.scenes],
        "plan": plans,
    }
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (here / "templates" / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": wording.number,
        "thousands": wording.thousands,
        "duration": wording.duration,
        "by": wording.by,
        "percent": wording.percent,
    }
    return environment.get_template("page.html.j2").render(
        title=runs[0].name if several == 1 else f"{several} runs compared",
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        version=_version(),
        style=(here / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs() if data["training"] or views["surfaces"] else "",
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        contents=sections.contents({name: bool(view) for name, view in views.items()}),
        runs=[sections.run_view(run) for run in runs],
        cases=len(drawn),
        notices=sections.notices(content, drawn),
        tiles=sections.tiles(content),
        training_pictures=_write_figures(content, folder),
        views=views,
    )


def _version() -> str:
    try:
        return version("fewslice")
    except PackageNotFoundError:
        return "unreleased"
