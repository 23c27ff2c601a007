"""The report: one self-contained page per comparison, and figures for print.

* `write_report` – RUN/report.html and RUN/figures/ from what run folders and predictions hold.
* `content` – reads run folders, predictions and evaluations; knows nothing of HTML.
* `planes` – image planes and masks, small enough to be embedded.
* `surfaces`, `scene` – isosurfaces, and the rotating scenes made of them.
* `figures` – print-quality figures, also used by the benchmarks.
* `page` – puts all of it into one HTML file that needs no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewslice.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    if name == "write_report":
        from fewslice.report.page import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
