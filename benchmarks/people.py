"""What somebody who paints can rely on: what a kill costs, how far it is to a first model, how fast the window answers.

``painting``
    The panel is killed at random moments while strokes are painted, and the annotation opened again; see
    :mod:`benchmarks.painting`.
``first_model``
    ``docs/scripts/first_model.py`` in a real window under Xvfb, with the events of mouse and keyboard: actions and
    seconds from starting napari to a trained model, and how long the window takes to answer while it trains.

A draw is a repetition, and seeds the moments of kills.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.cells import ROOT, Cell, Context

__all__ = ["ARMS", "RECIPE", "again", "main", "plan", "run_cell"]

RECIPE = "1"
"""Version of the measurement. Raise it whenever what is measured changes."""
ARMS = ("painting", "first_model")
KILLS = {"full": 50, "quick": 3}


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    tier = "quick" if arguments.quick else "full"
    return [_cell(arm, draw, tier) for draw in range(arguments.draws) for arm in ARMS]


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell = result["cell"]
    return _cell(cell["arm"], cell["draw"], cell["config"]["tier"])


def _cell(arm: str, draw: int, tier: str) -> Cell:
    config: dict[str, Any] = {"tier": tier} | ({"kills": KILLS[tier]} if arm == "painting" else {})
    label = {"tier": tier} if tier != "full" else {}
    return Cell("people", "napari", arm, draw, config, "synthetic", {}, RECIPE, label)


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    folder = context.work / f"{cell.arm}{cell.draw}"
    folder.mkdir(parents=True)
    if cell.arm == "painting":
        from benchmarks.painting import run_kills, summary

        return {"scores": summary(run_kills(folder, int(cell.config["kills"]), seed=cell.draw))}
    if shutil.which("xvfb-run") is None:
        raise RuntimeError("a window without a screen needs xvfb-run (Debian package xvfb)")
    script = ROOT / "docs" / "scripts" / "first_model.py"
    done = subprocess.run(
        ["xvfb-run", "-a", "-s", "-screen 0 1600x1100x24", sys.executable, str(script), "-o", str(folder)],
        check=True, capture_output=True, text=True, env={**os.environ, "QT_QPA_PLATFORM": "xcb"},
    )  # fmt: skip
    return {"scores": json.loads(done.stdout.splitlines()[-1])}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=1, help="repetitions")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="people",
        description="What somebody who paints can rely on.",
        plan=plan,
        function=run_cell,
        options=_options,
    )


if __name__ == "__main__":
    sys.exit(main())
