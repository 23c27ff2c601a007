"""How much of the bare speed is left once the package does its work around it. Prints both ratios, and the ideal.

``training``
    Steps per second of ``fit`` (patches drawn and augmented, averaging, log, checkpoints) over those of a bare loop of
    forward, loss, backward and optimiser on preloaded tensors.
``prediction``
    Block prediction into OME-Zarr over the same blocks, halo included, on preloaded tensors; and over the no-overlap
    ideal, the same volume cut without halo.
``help``, ``import``
    Seconds until ``fewslice --help`` ends; whether ``import fewslice`` loads torch.
``make_demo``, ``make_test``
    Minutes of these commands, with ``--make`` only: they take long.

The bare loop is timed before and after, and the faster of the two counts, so that a machine that slows down flatters
nothing. A draw is a repetition.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.arms import device_of, synchronise
from benchmarks.cells import ROOT, Cell, Context

__all__ = ["RECIPE", "again", "main", "plan", "run_cell"]

RECIPE = "1"
"""Version of the measurement. Raise it whenever what is measured changes."""

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet_3d": ("sparse_3d", {"network": {"kind": "unet", "dims": 3, "features": 16}, "views": 1}),
    "unet_2d": ("slices_2d", {"network": {"kind": "unet", "dims": 2, "features": 16}, "views": 1}),
}
_SHAPE = {"full": (64, 512, 512), "quick": (32, 256, 256)}
_SECONDS = {"full": 90.0, "quick": 20.0}
"""Seconds of training that are measured; the longer one holds a checkpoint."""
VOXEL_SIZE_UM = (2.0, 0.88, 0.88)


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    tier = "quick" if arguments.quick else "full"
    cells = []
    for draw in range(arguments.draws):
        cells += [_cell(arm, network, draw, tier) for arm in ("training", "prediction") for network in NETWORKS]
        cells += [_cell(arm, "startup", draw, "full") for arm in ("help", "import")]
        if arguments.make:
            cells += [_cell(arm, "startup", draw, "full") for arm in ("make_demo", "make_test")]
    return cells


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell = result["cell"]
    return _cell(cell["arm"], cell["setting"], cell["draw"], cell["config"]["tier"])


def _cell(arm: str, setting: str, draw: int, tier: str) -> Cell:
    config: dict[str, Any] = {"tier": tier}
    budget: dict[str, float] = {}
    if setting in NETWORKS:
        strategy, settings = NETWORKS[setting]
        config |= {"strategy": strategy, "settings": settings, "shape": list(_SHAPE[tier])}
        budget = {"seconds": _SECONDS[tier]}
    label = {"tier": tier} if tier != "full" else {}
    return Cell("speed", setting, arm, draw, config, "synthetic", budget, RECIPE, label)


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    match cell.arm:
        case "training":
            return _with_device(training(cell, context), context)
        case "prediction":
            return _with_device(prediction(cell, context), context)
        case "help":
            code = "import sys; sys.argv = ['fewslice', '--help']; from fewslice.cli import main; sys.exit(main())"
            return {"scores": {"seconds": _seconds_of([sys.executable, "-c", code])}}
        case "import":
            code = "import sys, fewslice; sys.exit('torch' in sys.modules)"
            return {"scores": {"loads_torch": subprocess.run([sys.executable, "-c", code], check=False).returncode}}
        case _:
            target = cell.arm.removeprefix("make_")
            return {"scores": {"minutes": _seconds_of(["make", target], repeat=1) / 60}}


def _with_device(scores: dict[str, float], context: Context) -> dict[str, Any]:
    kind, device = device_of(context.device)
    return {"scores": scores, "device_kind": kind, **({"device": device} if device else {})}


def _seconds_of(command: Sequence[str], repeat: int = 3) -> float:
    """Give the best of several timings of a command that must succeed."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return min(times)


def training(cell: Cell, context: Context) -> dict[str, float]:
    """Compare steps per second of ``fit`` with the bare loop."""
    from fewslice.training.fit import Hardware, fit
    from fewslice.training.run_folder import RunFolder

    hardware = Hardware(device=context.device)
    device = hardware.torch_device()
    with tempfile.TemporaryDirectory() as scratch:
        events: list[tuple[int, float]] = []

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                events.append((int(event["step"]), time.perf_counter()))

        run = RunFolder(Path(scratch), listen)
        stage = _stage(cell, run, hardware)
        batches = [stage.batches(step).to(device) for step in range(4)]
        before = _bare_training(stage, batches, device, seconds=5.0)
        steps = max(20, round(before * cell.budget["seconds"]))
        fit(_stage(cell, run, hardware), run, steps=steps, seed=0, hardware=hardware)
        after = _bare_training(_stage(cell, run, hardware), batches, device, seconds=5.0)
        preparing = time.perf_counter()
        for step in range(4, 12):
            stage.batches(step)
        preparing = (time.perf_counter() - preparing) / 8
    (first_step, first), (last_step, last) = events[0], events[-1]
    ours = (last_step - first_step) / (last - first)
    bare = max(before, after)
    return {"ratio": ours / bare, "fit_steps_per_s": ours, "bare_steps_per_s": bare, "batch_s": preparing}


def _stage(cell: Cell, run: Any, hardware: Any) -> Any:
    """Make the one stage of a strategy on a synthetic volume with five annotated planes."""
    from fewslice import registry
    from fewslice.experiment import Experiment, strategy_config
    from fewslice.training.task import Task

    samples = [_sample(cell)]
    strategy = registry.load("strategies", cell.config["strategy"])
    task = Task(
        samples=samples,
        train_masks=[samples[0].annotation.annotated],
        validation_masks=[None],
        class_values=(1,),
        run=run,
        hardware=hardware,
    )
    experiment = Experiment(strategy=cell.config["strategy"], settings=cell.config["settings"], validation="none")
    config = strategy.resolve(strategy_config(experiment), task)
    _, make = strategy.stages(config, task)["segment"]
    return make()


def _sample(cell: Cell) -> Any:
    """Make bright blobs in noise, uint8, with truth on every tenth plane."""
    import numpy as np
    from scipy import ndimage

    from fewslice.annotation import Annotation
    from fewslice.data.samples import Sample
    from fewslice.volume import Volume

    rng = np.random.default_rng(0)
    shape = tuple(cell.config["shape"])
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (3, 7, 7))
    truth = field > np.quantile(field[::4, ::4, ::4], 0.95)
    image = np.clip(60 + 60 * truth + 15 * rng.standard_normal(shape, dtype=np.float32), 0, 255).astype(np.uint8)
    known = np.zeros(shape, dtype=bool)
    known[5::10] = True
    annotation = Annotation((truth & known).astype(np.uint8), known)
    return Sample("synthetic", Volume.from_array(image, voxel_size_um=VOXEL_SIZE_UM), annotation)


def _bare_training(stage: Any, batches: Sequence[Any], device: Any, *, seconds: float) -> float:
    """Give steps per second of forward, loss, backward and optimiser, and nothing else."""
    import torch

    from fewslice import losses
    from fewslice.model import prefers_bfloat16
    from fewslice.training.allocator import keep_memory

    keep_memory()
    network, optimiser = stage.modules["network"], stage.optimisers["network"]
    layout = torch.channels_last if network.dims == 2 else torch.channels_last_3d
    network.to(device=device, memory_format=layout).train()
    batches = [(b.image.contiguous(memory_format=layout), b.target, b.weight) for b in batches]

    def step(index: int) -> None:
        image, target, weight = batches[index % len(batches)]
        with torch.autocast(device.type, torch.bfloat16, enabled=prefers_bfloat16(device)):
            logits = network(image)
        loss = losses.dice_cross_entropy(logits.float(), target, weight)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()

    return _rate(step, device, seconds)


def _rate(step: Callable[[int], None], device: Any, seconds: float) -> float:
    """Give calls per second over about `seconds`, after three that are not timed."""
    for index in range(3):
        step(index)
    synchronise(device)
    began, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - began < seconds:
        step(count)
        count += 1
        if count % 10 == 0:
            synchronise(device)
    synchronise(device)
    return count / (time.perf_counter() - began)


def prediction(cell: Cell, context: Context) -> dict[str, float]:
    """Compare block prediction with the same blocks on preloaded tensors, and with blocks that do not overlap."""
    from fewslice import workflow
    from fewslice.experiment import Experiment
    from fewslice.geometry import cover
    from fewslice.prediction import predict_volume
    from fewslice.training.fit import Hardware

    hardware = Hardware(device=context.device)
    device = hardware.torch_device()
    sample = _sample(cell)
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(
            strategy=cell.config["strategy"], settings=cell.config["settings"], validation="none", steps=60
        )
        model = workflow.train_samples(experiment, [sample], Path(scratch) / "run", hardware=hardware).to(device)
        warm = predict_volume(
            model, sample.image, Path(scratch) / "warm.ome.zarr", model_id="0", device=device, pyramids=False
        )
        shape, block, halo = sample.image.shape, warm.block, warm.halo
        plan = cover(shape, block, halo, model.divisor)
        same = [sample.image.read(item.read) for item in plan]
        apart = [sample.image.read(item.write) for item in plan]
        before, ideal = _bare_prediction(model, same, device), _bare_prediction(model, apart, device)
        began = time.perf_counter()
        predict_volume(model, sample.image, Path(scratch) / "out.ome.zarr", model_id="0", device=device, pyramids=False)
        ours = time.perf_counter() - began
        bare = min(before, _bare_prediction(model, same, device))
    voxels = shape[0] * shape[1] * shape[2]
    return {
        "ratio": bare / ours,
        "ratio_to_no_overlap": ideal / ours,
        "mvoxel_per_s": voxels / ours / 1e6,
        "blocks": float(len(plan)),
        "read_over_written": sum(part[0].size for part in same) / voxels,
    }


def _bare_prediction(model: Any, parts: Iterable[Any], device: Any) -> float:
    """Give the seconds that the network and its softmax take on tensors that are ready on the device."""
    import torch
    from torch.nn import functional

    from fewslice.model import prefers_bfloat16

    network = model.networks[0]
    layout = torch.channels_last if network.dims == 2 else torch.channels_last_3d
    ready = []
    for part in parts:
        x = torch.from_numpy(model.normalisation.apply(part))[None].to(device)
        far = [-size % d for size, d in zip(x.shape[2:], model.divisor, strict=True)]
        x = functional.pad(x, (0, far[2], 0, far[1], 0, far[0]), mode="replicate")
        if network.dims == 2:
            group = max(1, 2**20 // (x.shape[-1] * x.shape[-2]))
            ready += [planes.contiguous(memory_format=layout) for planes in torch.split(x[0].movedim(1, 0), group)]
        else:
            ready.append(x.contiguous(memory_format=layout))
    synchronise(device)
    began = time.perf_counter()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=prefers_bfloat16(device)):
        for x in ready:
            network(x).float().softmax(1)[:, 1:]
    synchronise(device)
    return time.perf_counter() - began


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=3, help="repetitions")
    parser.add_argument("--make", action="store_true", help="also time `make demo` and `make test`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="speed",
        description="What is left of the bare speed of training and prediction.",
        plan=plan,
        function=run_cell,
        options=_options,
        every=lambda arguments: runner.of_both_tiers(plan, argparse.Namespace(**{**vars(arguments), "make": True})),
    )


if __name__ == "__main__":
    sys.exit(main())
