"""Does time grow with the volume and nothing else? Time and memory of ``fewslice predict`` by size and workers.

The volumes are generated: noise in one of 16 chunks, the others not stored. The network is light and untrained, so that
reading, writing and bookkeeping weigh as much as they can. Memory is sampled over the command and its workers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.cells import Cell, Context
from benchmarks.volumes import command, light_model, sparse_volume

__all__ = ["RECIPE", "again", "main", "plan", "run_cell", "shape_of", "table"]

RECIPE = "1"
"""Version of the measurement. Raise it whenever what is measured changes."""

SIZES = (0.25, 2.0, 16.0)
WORKERS = (0, 1, 2)
"""0 is the command alone, in one process."""


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    return [_cell(size, workers) for size in arguments.sizes for workers in arguments.workers]


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    config = result["cell"]["config"]
    return _cell(config["gib"], config["workers"])


def _cell(gib: float, workers: int) -> Cell:
    config = {"gib": gib, "workers": workers, "shape": list(shape_of(gib))}
    label = {"gib": gib, "workers": workers}
    return Cell("scaling", "sparse_noise", "predict", 0, config, "synthetic", {}, RECIPE, label)


def shape_of(gib: float) -> tuple[int, int, int]:
    """Return a shape of about `gib` GiB of uint8, each extent a multiple of 32."""
    side = (gib * 2**30) ** (1 / 3)
    z = max(32, round(side / 2 / 32) * 32)
    across = max(32, round((gib * 2**30 / z) ** 0.5 / 32) * 32)
    return (z, across, across)


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    shape = cell.config["shape"]
    voxels = shape[0] * shape[1] * shape[2]
    context.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.work) as scratch:
        work = Path(scratch)
        light_model(work / "model")
        sparse_volume(work / "image.ome.zarr", shape)
        full = command("predict", work / "model", work / "image.ome.zarr", "-o", work / "OUT.ome.zarr", "--quiet")
        full += ["--device", context.device] + (
            ["--workers", str(cell.config["workers"])] if cell.config["workers"] else []
        )
        began = time.perf_counter()
        running = subprocess.Popen(full, stdout=subprocess.DEVNULL)
        most, most_of_one = _watch(running)
        seconds = time.perf_counter() - began
        if running.returncode != 0:
            raise RuntimeError(f"predict ended with exit code {running.returncode}")
        stored = sum(p.stat().st_size for p in (work / "OUT.ome.zarr").rglob("*") if p.is_file())
    return {
        "scores": {
            "seconds": seconds,
            "ns_per_voxel": seconds / voxels * 1e9,
            "peak_gib": most / 2**30,
            "peak_gib_of_one_process": most_of_one / 2**30,
            "output_gib": stored / 2**30,
        }
    }


def _watch(running: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for a command; return the most that it and its children held in memory, together and one alone, in bytes."""
    top = psutil.Process(running.pid)
    most = most_of_one = 0
    while running.poll() is None:
        try:
            held = [p.memory_info().rss for p in (top, *top.children(recursive=True))]
        except psutil.Error:  # one has just ended
            held = []
        most, most_of_one = max(most, sum(held)), max(most_of_one, *held, 0)
        time.sleep(0.05)
    return most, most_of_one


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for people: a row per size and number of workers."""
    rows = [f"{'GiB':>8}{'workers':>9}{'seconds':>10}{'ns/voxel':>10}{'peak GiB':>10}{'of one':>8}"]
    found = sorted(results, key=lambda r: (r["cell"]["config"]["workers"], r["cell"]["config"]["gib"]))
    for result in found:
        config, s = result["cell"]["config"], result["scores"]
        rows.append(
            f"{config['gib']:>8g}{config['workers'] or '–':>9}{s['seconds']:>10.1f}{s['ns_per_voxel']:>10.1f}"
            f"{s['peak_gib']:>10.2f}{s['peak_gib_of_one_process']:>8.2f}"
        )
    return "\n".join(rows)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES), help="GiB of uint8")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=list(WORKERS), help="processes; 0 is the command alone"
    )


def _flags(arguments: argparse.Namespace) -> str:
    sizes, workers = (" ".join(f"{v:g}" for v in values) for values in (arguments.sizes, arguments.workers))
    return f" --sizes {sizes} --workers {workers}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and print the table."""
    code = runner.main(
        argv,
        benchmark="scaling",
        description="Seconds per voxel and memory of predict by the size of the volume and the number of workers.",
        plan=plan,
        function=run_cell,
        options=_options,
        flags=_flags,
    )
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--results", type=Path, default=runner.RESULTS)
    found = runner.read_results("scaling", results=parser.parse_known_args(argv)[0].results)
    if found:
        print(table(runner.current(runner.of_one_recipe(found), again)))
    return code


if __name__ == "__main__":
    sys.exit(main())
