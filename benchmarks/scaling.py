"""Does time grow with the volume and nothing else? Time and memory of the long verbs by size and workers.

The volumes are generated: bright blobs on noise in one of 16 chunks, the others not stored. The network is light, so
that reading, writing and bookkeeping weigh as much as they can. Memory is sampled over the command and its workers.

``predict``
    ``fewslice predict`` alone, in this process or with workers.
``verbs``
    ``predict --skip-empty``, ``segment`` (connected components of at least 500 voxels), ``measure`` and ``mesh`` (20
    objects), one after the other, each in one process, on two channels of 16 bit: memory must not grow with the volume.
``monai``
    The same U-Net over the same volume, all of it blobs on noise, by ``predict`` (writing included) and by MONAI's
    ``sliding_window_inference`` in memory, at overlaps of 0.5 and 0.25, one after the other in one process.
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
from benchmarks.arms import device_of
from benchmarks.cells import Cell, Clock, Context
from benchmarks.volumes import blobs_on_noise, command, light_model, sparse_volume

__all__ = ["RECIPE", "again", "main", "measured", "plan", "run_cell", "shape_of", "table"]

RECIPE = "3"
"""Version of the measurement. Raise it whenever what is measured changes."""

SIZES = (0.25, 2.0, 16.0)
_MESHED = 20
_RIVAL_GIB = 0.03125
_RIVAL_PATCH = (32, 96, 96)
WORKERS = (0, 1, 2)
"""0 is the command alone, in one process."""


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    cells = [_cell(size, workers) for size in arguments.sizes for workers in arguments.workers]
    return [*cells, *(_cell(size, 0, arm="verbs") for size in arguments.sizes), _cell(_RIVAL_GIB, 0, arm="monai")]


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    config = result["cell"]["config"]
    return _cell(config["gib"], config["workers"], arm=result["cell"]["arm"])


def _cell(gib: float, workers: int, *, arm: str = "predict") -> Cell:
    config: dict[str, Any] = {"gib": gib, "workers": workers, "shape": list(shape_of(gib))}
    if arm == "verbs":
        config |= {"shape": list(shape_of(gib / 4)), "channels": 2, "dtype": "uint16"}
    label = {"gib": gib, "workers": workers}
    return Cell("scaling", "sparse_noise", arm, 0, config, "synthetic", {}, RECIPE, label)


def shape_of(gib: float) -> tuple[int, int, int]:
    """Return a shape of about `gib` GiB of uint8, each extent a multiple of 32."""
    side = (gib * 2**30) ** (1 / 3)
    z = max(32, round(side / 2 / 32) * 32)
    across = max(32, round((gib * 2**30 / z) ** 0.5 / 32) * 32)
    return (z, across, across)


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    if cell.arm == "monai":
        return {"scores": compare_with_monai(cell.config["shape"], context)}
    shape = cell.config["shape"]
    voxels = shape[0] * shape[1] * shape[2]
    context.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.work) as scratch:
        work = Path(scratch)
        channels, dtype = cell.config.get("channels", 1), cell.config.get("dtype", "uint8")
        light_model(work / "model", channels=channels)
        sparse_volume(work / "image.ome.zarr", shape, channels=channels, dtype=dtype)
        out = work / "OUT.ome.zarr"
        predict = command("predict", work / "model", work / "image.ome.zarr", "-o", out, "--quiet")
        predict += ["--device", context.device]
        predict += ["--workers", str(cell.config["workers"])] if cell.config["workers"] else []
        if cell.arm == "predict":
            seconds, most, most_of_one = measured(predict)
            stored = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
            return {
                "scores": {
                    "seconds": seconds,
                    "ns_per_voxel": seconds / voxels * 1e9,
                    "peak_gib": most / 2**30,
                    "peak_gib_of_one_process": most_of_one / 2**30,
                    "output_gib": stored / 2**30,
                }
            }
        objects = ",".join(map(str, range(1, _MESHED + 1)))
        verbs = {
            "predict": [*predict, "--skip-empty"],
            "segment": command(
                "segment", out, "--quiet", "--segmenter", "connected_components", "--set", "min_size_um3=500"
            ),
            "measure": command("measure", out, "--quiet"),
            "mesh": command("mesh", out, "--quiet", "--format", "ply", "--objects", objects),
        }
        scores: dict[str, float] = {}
        for verb, full in verbs.items():
            seconds, _, most_of_one = measured(full)
            scores |= {f"{verb}_seconds": seconds, f"{verb}_peak_gib": most_of_one / 2**30}
        return {"scores": scores}


def compare_with_monai(shape: Sequence[int], context: Context) -> dict[str, float]:
    """Predict a volume with the same network by this package and by MONAI, and compare speed and probabilities.

    Parameters
    ----------
    shape
        (z, y, x) of the volume.
    context
        Device and scratch folder.

    Returns
    -------
    dict
        Voxels per processor second of each, MONAI's seconds over ours, the mean absolute difference of each from the
        whole volume predicted in one piece, and the Dice of each.
    """
    import numpy as np
    import torch
    from monai.inferers import sliding_window_inference

    from fewslice import io
    from fewslice.metrics.semantic import confusion
    from fewslice.metrics.semantic import scores as scores_of
    from fewslice.model import Model, prefers_bfloat16
    from fewslice.prediction import predict_volume
    from fewslice.volume import Volume

    device = torch.device(device_of(context.device)[0])
    context.work.mkdir(parents=True, exist_ok=True)
    voxels = int(np.prod(shape))
    drawn, truth = blobs_on_noise(np.random.default_rng(0), (shape[0], shape[1], shape[2]))
    image = drawn[None].astype(np.float32)

    def dice(p: Any) -> float:
        return float(scores_of(confusion(p >= 0.5, truth, classes=1))["dice"] or 0.0)

    with tempfile.TemporaryDirectory(dir=context.work) as scratch:
        light_model(Path(scratch) / "model", features=8, depth=3)
        model = Model.load(Path(scratch) / "model").to(device)
        model.probabilities(image[:, :32, :64, :64])  # libraries load
        clock = Clock()
        predict_volume(
            model, Volume.from_array(image), Path(scratch) / "OUT.ome.zarr", model_id="m", device=device, pyramids=False
        )
        ours = clock.cpu
        stored = np.asarray(io.open_volume(Path(scratch) / "OUT.ome.zarr").read())[0] / 255.0
    whole = model.probabilities(image)[0]
    scores = {
        "ours_mvoxel_per_second": voxels / ours / 1e6,
        "ours_difference": float(np.abs(stored - whole).mean()),
        "ours_dice": dice(stored),
    }
    network, normalised = model.networks[0], torch.from_numpy(model.normalisation.apply(image))[None].to(device)
    for overlap in (0.5, 0.25):
        clock = Clock()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=prefers_bfloat16(device)):
            logits: Any = sliding_window_inference(
                normalised, _RIVAL_PATCH, 4, network, overlap=overlap, mode="gaussian"
            )
        p = logits.float().softmax(1)[0, 1].cpu().numpy()
        seconds = clock.cpu
        name = f"monai_{overlap:g}"
        scores[f"{name}_mvoxel_per_second"] = voxels / seconds / 1e6
        scores[f"{name}_times_ours"] = seconds / ours
        scores[f"{name}_difference"] = float(np.abs(p - whole).mean())
        scores[f"{name}_dice"] = dice(p)
    return scores


def measured(full: Sequence[str]) -> tuple[float, int, int]:
    """Run a command; return its seconds, and the most memory of all its processes and of one, in bytes."""
    began = time.perf_counter()
    running = subprocess.Popen(full, stdout=subprocess.DEVNULL)
    most, most_of_one = _watch(running)
    seconds = time.perf_counter() - began
    if running.returncode != 0:
        raise RuntimeError(f"{full[3]} ended with exit code {running.returncode}")
    return seconds, most, most_of_one


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
    """Return tables for people: a row per size and number of workers, and a row per size and verb."""
    found = sorted(results, key=lambda r: (r["cell"]["config"]["workers"], r["cell"]["config"]["gib"]))
    alone = [r for r in found if r["cell"]["arm"] == "predict"]
    rows = []
    if alone:
        rows.append(f"{'GiB':>8}{'workers':>9}{'seconds':>10}{'ns/voxel':>10}{'peak GiB':>10}{'of one':>8}")
    for result in alone:
        config, s = result["cell"]["config"], result["scores"]
        rows.append(
            f"{config['gib']:>8g}{config['workers'] or '–':>9}{s['seconds']:>10.1f}{s['ns_per_voxel']:>10.1f}"
            f"{s['peak_gib']:>10.2f}{s['peak_gib_of_one_process']:>8.2f}"
        )
    by_verb = [r for r in found if r["cell"]["arm"] == "verbs"]
    if by_verb:
        rows.append(f"{'GiB':>8}  {'verb':<9}{'seconds':>10}{'peak GiB':>10}")
    for result in by_verb:
        gib, s = result["cell"]["config"]["gib"], result["scores"]
        for verb in ("predict", "segment", "measure", "mesh"):
            rows.append(f"{gib:>8g}  {verb:<9}{s[f'{verb}_seconds']:>10.1f}{s[f'{verb}_peak_gib']:>10.2f}")
    for result in (r for r in found if r["cell"]["arm"] == "monai"):
        s = result["scores"]
        rows.append(f"{'':<20}{'Mvoxel/CPU s':>14}{'seconds × ours':>16}{'mean |Δp|':>12}{'Dice':>8}")
        for name, title in (("ours", "fewslice"), ("monai_0.5", "MONAI, 0.5"), ("monai_0.25", "MONAI, 0.25")):
            times = s.get(f"{name}_times_ours", 1.0)
            rows.append(
                f"{title:<20}{s[f'{name}_mvoxel_per_second']:>14.2f}{times:>16.2f}{s[f'{name}_difference']:>12.4f}"
                f"{s[f'{name}_dice']:>8.4f}"
            )
    return "\n".join(rows)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES), help="GiB")
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
