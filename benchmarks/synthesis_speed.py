"""What the parts of synthesis cost: simulators, and contours on a plane that is too large to be seen in one piece.

``stained_section``, ``fluorescence_nuclei``, ``two_photon_neurons``
    Million voxels per processor second, the faster of three images: they use one thread.
``contours``
    Block prediction of contours on a large simulated plane, against the bare forward passes over the same blocks
    (``ratio``; the passes are timed before and after, and the faster ones count) and over blocks without context
    (``ratio_to_no_overlap``). ``memory_gib`` is what a process of its own needs beyond what it had after a small image.
    ``different`` counts proposals on a smaller plane that are not the same in blocks and in one piece, over all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arms import device_of, synchronise
from benchmarks.cells import ROOT, Cell, Clock, Context

if TYPE_CHECKING:
    from fewslice.model import Model
    from fewslice.volume import Volume

__all__ = ["ARMS", "measure", "peak"]

ARMS: dict[str, dict[str, Any]] = {
    "stained_section": {"shape": [1, 2048, 2048]},
    "fluorescence_nuclei": {"shape": [32, 256, 256]},
    "two_photon_neurons": {"shape": [32, 256, 256]},
    "contours": {"side": 4096, "compared": 1024, "block": 512, "steps": 20, "proposed": 0.02, "detector": {}},
}
"""What is timed, by arm; of ``contours`` a network that has learned for a few steps, with a threshold at which a share
of all positions proposes a contour."""


def measure(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one arm."""
    context.work.mkdir(parents=True, exist_ok=True)
    return _contours(cell, context) if cell.arm == "contours" else _simulator(cell)


def _simulator(cell: Cell) -> dict[str, Any]:
    import numpy as np

    from fewslice import registry

    module = registry.load("synthesis.simulators", cell.arm)
    config = module.Config(shape=tuple(cell.config["shape"]))
    clock, seconds = Clock(), []
    for seed in range(3):
        began = time.process_time()
        module.simulate(config, np.random.default_rng([cell.draw, seed]))
        seconds.append(time.process_time() - began)
    speed = float(np.prod(config.shape)) / min(seconds) / 1e6
    spent = {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
    return {"scores": {"mvoxel_per_s": speed}, "device_kind": "cpu", **spent}


def _contours(cell: Cell, context: Context) -> dict[str, Any]:
    from fewslice import io
    from fewslice.prediction import predict_volume

    kind, name = device_of(context.device)
    side, part = int(cell.config["side"]), int(cell.config["compared"])
    with tempfile.TemporaryDirectory(dir=context.work, prefix="contours-") as scratch:
        folder = Path(scratch)
        large, small = _section(side, cell.draw + 1), _section(part, cell.draw + 2)
        model = _learned(cell, small, folder / "run", context)
        model.save(folder / "model")
        scores = _compared(cell, model, small, folder, kind)
        made = predict_volume(model, small, folder / "warm.ome.zarr", model_id="0", device=kind, pyramids=False)
        bare = {edge: _bare(model, large, made.block, edge, kind) for edge in (made.halo, (0, 0, 0))}
        clock = Clock()
        predict_volume(model, large, folder / "large.ome.zarr", model_id="0", device=kind, pyramids=False)
        ours, timed = clock.wall, {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
        again = _bare(model, large, made.block, made.halo, kind)
        scores |= {
            "ratio": ours / min(bare[made.halo], again),
            "ratio_to_no_overlap": ours / bare[0, 0, 0],
            "mpixel_per_s": side**2 / ours / 1e6,
        }
        io.save_volume(folder / "image.ome.zarr", large)
        command = f"from benchmarks.synthesis_speed import peak; peak({str(folder)!r}, {part})"
        said = subprocess.run(
            [sys.executable, "-c", command], check=True, cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
        )
        scores["memory_gib"] = json.loads(said.stdout.splitlines()[-1])
    return {"scores": scores, "device_kind": kind, **({"device": name} if name else {}), **timed}


def _section(side: int, seed: int) -> Volume:
    """Simulate a stained section (3, 1, side, side)."""
    import numpy as np

    from fewslice.synthesis.simulators import stained_section
    from fewslice.volume import Volume

    config = stained_section.Config(shape=(1, side, side))
    made = stained_section.simulate(config, np.random.default_rng(seed))
    return Volume.from_array(made.image, made.voxel_size_um)


def _learned(cell: Cell, image: Volume, run: Path, context: Context) -> Model:
    """Train a network for a few steps, and set its threshold so that it proposes as often as is asked for."""
    import numpy as np

    from fewslice import workflow
    from fewslice.data.samples import Sample
    from fewslice.experiment import Experiment
    from fewslice.prediction import predict_whole
    from fewslice.training.fit import Hardware
    from fewslice.volume import Volume

    settings = {"patch": [1, 128, 128], "batch_size": 4, "schedule": {"validations": 1}, **cell.config["detector"]}
    experiment = Experiment(
        strategy="synthetic",
        settings={
            "simulator": "stained_section",
            "fit": False,
            "refine": False,
            "images": 2,
            "simulation": {"shape": [1, 512, 512]},
            "contours": settings,
        },
        steps={"pretrain": int(cell.config["steps"])},
        seed=cell.draw,
    )
    seen = Volume.from_array(np.asarray(image.read())[..., :512, :512], image.voxel_size_um)
    model = workflow.train_samples(experiment, [Sample("section", seen)], run, hardware=Hardware(context.device))
    scores = predict_whole(model, np.asarray(seen.read()), device=device_of(context.device)[0])
    model.threshold = float(np.quantile(scores, 1 - float(cell.config["proposed"])))
    return model


def _compared(cell: Cell, model: Model, image: Volume, folder: Path, kind: str) -> dict[str, float]:
    """Compare contours after suppression, in blocks and in one piece."""
    import numpy as np

    from fewslice.morphology.proposals import Proposals, suppress
    from fewslice.prediction import predict_volume
    from fewslice.segmenters.contours import proposals_of

    block = (1, int(cell.config["block"]), int(cell.config["block"]))
    output = folder / "blocks.ome.zarr"
    predict_volume(model, image, output, model_id="0", device=kind, block=block, pyramids=False)
    _, whole = model.proposals(np.asarray(image.read()), model.threshold)

    def named(proposals: Proposals) -> dict[tuple[int, ...], Any]:
        kept = suppress(proposals)
        return {tuple(map(int, a)): c for a, c in zip(kept.anchor, kept.contour, strict=True)}

    one, other = named(proposals_of(output)), named(whole)
    same = sum(np.allclose(one[a], other[a], atol=0.1) for a in one.keys() & other.keys())
    return {"objects": float(len(other)), "different": float(len(one) + len(other) - 2 * same)}


def _bare(model: Model, image: Volume, block: Sequence[int], halo: Sequence[int], kind: str) -> float:
    """Give the seconds of the network's forward passes over blocks with context, as tensors that are ready."""
    import torch

    from fewslice.geometry import cover
    from fewslice.model import prefers_bfloat16

    network, device = model.networks[0].to(kind).eval(), torch.device(kind)
    z, y, x = block
    seconds = 0.0
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=prefers_bfloat16(device)):
        for index, item in enumerate(cover(image.shape, (z, y, x), (halo[0], halo[1], halo[2]), model.divisor)):
            values = torch.from_numpy(model.normalisation.apply(image.read(item.read)))[:, 0][None].to(device)
            height, width = (-size % d for size, d in zip(values.shape[2:], model.divisor[1:], strict=True))
            ready = torch.nn.functional.pad(values, (0, width, 0, height), mode="replicate")
            ready = ready.contiguous(memory_format=torch.channels_last)
            if index == 0:
                network(ready)
            synchronise(device)
            began = time.perf_counter()
            network(ready)
            synchronise(device)
            seconds += time.perf_counter() - began
    return seconds


def peak(folder: str, small: int) -> None:
    """Print, as the last line, GiB that predicting ``image.ome.zarr`` adds to what a small part of it needed.

    Runs in a process of its own, on the CPU.
    """
    import resource

    import numpy as np

    from fewslice import io
    from fewslice.geometry import Box
    from fewslice.model import Model
    from fewslice.prediction import predict_volume
    from fewslice.volume import Volume

    place = Path(folder)
    model, image = Model.load(place / "model"), io.open_volume(place / "image.ome.zarr")
    corner = np.asarray(image.read(Box((0, 0, 0), (1, min(64, small), min(64, small)))))
    predict_volume(model, Volume.from_array(corner), place / "corner.ome.zarr", model_id="0", pyramids=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predict_volume(model, image, place / "again.ome.zarr", model_id="0", device="cpu", pyramids=False)
    unit = 2**20 if sys.platform != "darwin" else 2**30  # KiB on Linux, bytes on macOS
    print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit))
