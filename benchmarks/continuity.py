"""Spatial continuity on em_mitochondria: what each of its steps adds, how few planes do, and what it costs.

Settings:

``crop`` (``--quick``)
    Trained on 165 × 384 × 512 voxels of the training stack (rows 0–383, columns 256–767: of the corners looked at, the
    one whose share of mitochondria, 7.0 %, is that of the whole stack), tested on the upper half of the test stack.
    Budgets are steps, so that results do not depend on the machine; a cell takes about 8 minutes on two cores.
``whole``
    The same on whole stacks, at more numbers of planes and three times the steps: for a GPU, or single cells.
``whole60``
    The best recipe that there is, 60 minutes of training on two cores, whole stacks, one seed.
``speed``
    How long the operator along z takes and what memory; block prediction with both networks against their bare forward
    passes. Run it on a quiet machine: ``python -m benchmarks.continuity --only speed --device cpu --threads 2``.

Parts of ``crop`` and ``whole``:

``ablation``
    At 32 planes, flips and right-angle turns alone (``none``), then with rotations and piecewise-affine warps as
    published (``affine``), then a second network that learns masks cleaned along z from the image alone
    (``morphology``), then one that sees the masks of neighbouring planes as well (``continuity``).
``strategies``
    Strategies with the package's defaults, at several numbers of planes; at 165 there is nothing unlabelled.
``interpolation``
    What fills the planes between annotated ones without a network, scored on those planes of the training stack, beside
    which the cells with a second network tell how good their masks are there before and after cleaning.

A draw is a seed of training. Nothing is held out but for ``whole60``; scores are those at threshold 0.5, of the
published recipe at its own 0.2. With ``--figure OUT.png`` the chosen cells' predictions, kept in the work folder, are
drawn on one plane of the test stack; nothing is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks import em
from benchmarks.arms import device_of
from benchmarks.cells import Cell, Clock, Context, data_identity
from benchmarks.problems import DATA, read_pair

if TYPE_CHECKING:
    from fewslice.model import Model

__all__ = [
    "ABLATION",
    "BUDGETS",
    "DRAWS",
    "INTERPOLATIONS",
    "PROTOCOLS",
    "RECIPE",
    "STRATEGIES",
    "Protocol",
    "again",
    "annotated_planes",
    "draw_cells",
    "every_cell",
    "main",
    "make_cell",
    "plan",
    "run_cell",
]

RECIPE = "1"
"""Version of the recipes. Raise it whenever a setting, a budget or code that moves scores changes."""

DRAWS = 3
DEPTH = 165
PLANES = 32
"""The published number of annotated planes, at which the steps of the method are compared."""

Steps = Mapping[str, float]

BUDGETS: dict[str, dict[str, Steps]] = {
    "crop": {
        "slices_2d": {"segment": 1000},
        "sparse_3d": {"segment": 1500},
        "pseudo_labels": {"teacher": 400, "student": 900},
        "continuity": {"segment": 600, "continuity": 400},
    },
    "whole": {
        "slices_2d": {"segment": 3000},
        "sparse_3d": {"segment": 4500},
        "pseudo_labels": {"teacher": 1200, "student": 2700},
        "consensus": {"teacher": 1200, "student": 2700},
        "continuity": {"segment": 1800, "continuity": 1200},
        "continuity_2022": {"segment": 1800, "continuity": 1200},
    },
    "whole60": {"continuity": {"minutes": 60}},
}
"""Steps of each stage, or minutes, by setting and strategy. A step is about 8 patches of 256² or 2 of 2¹⁷ voxels."""

Region = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Protocol:
    """What is trained and tested on.

    Attributes
    ----------
    planes
        Numbers of annotated planes that strategies are compared at.
    train, test
        Region of the stacks: start and stop (excluded) along z, y, x, in voxels; None for the whole.
    """

    planes: tuple[int, ...]
    train: Region | None = None
    test: Region | None = None


PROTOCOLS = {
    "crop": Protocol((2, 8, 32, DEPTH), ((0, DEPTH), (0, 384), (256, 768)), ((0, DEPTH), (0, 176), (0, 1024))),
    "whole": Protocol((1, 2, 4, 8, 16, 32, DEPTH)),
    "whole60": Protocol((PLANES,)),
}

_VIEWS = 4
_PLANES_2D: dict[str, Any] = {"network": {"kind": "unet", "dims": 2, "features": 16}, "views": _VIEWS}

_TURNED: dict[str, Any] = {
    "flip": 0.5,
    "right_angle": 1.0,
    **dict.fromkeys(("affine", "elastic", "piecewise_affine", "gain", "contrast", "offset", "gamma"), 0.0),
    **dict.fromkeys(("blur", "noise"), 0.0),
}
"""Flips and right-angle turns, nothing else."""
_WARPED: dict[str, Any] = {
    **_TURNED,
    "affine": 0.3,
    "rotation_choices_deg": [22.5, 30.0, 45.0],
    "scale": 1.0,
    "shear": 0.0,
    "piecewise_affine": 0.8,
}
"""The published augmentation: that of ``continuity_2022``."""

_NONE, _AFFINE = {**_PLANES_2D, "augment": _TURNED}, {**_PLANES_2D, "augment": _WARPED}

ABLATION: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("slices_2d", _NONE),
    "affine": ("slices_2d", _AFFINE),
    # the network that sees the image keeps the augmentation of the row above; only its targets are new
    "morphology": (
        "continuity",
        {"segment": _AFFINE, "continuity": _AFFINE, "neighbours": {"planes": 0, "image_planes": 1}},
    ),
    "continuity": ("continuity", {"segment": _AFFINE, "continuity": _NONE}),
}
"""Strategy and settings by arm, in the order in which the method is built up."""


def _strategies(features: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Give the four strategies, 3D networks having `features`."""
    volume = {"network": {"kind": "unet", "dims": 3, "features": features}, "views": _VIEWS}
    return {
        "slices_2d": ("slices_2d", _PLANES_2D),
        "sparse_3d": ("sparse_3d", volume),
        "pseudo_labels": ("pseudo_labels", {"teacher": _PLANES_2D, "student": volume}),
        "continuity": ("continuity", {"segment": _PLANES_2D, "continuity": _PLANES_2D}),
    }


_WHOLE = _strategies(16)
STRATEGIES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "crop": _strategies(8),
    "whole": {
        **_WHOLE,
        "consensus": ("consensus", _WHOLE["pseudo_labels"][1]),
        "continuity_2022": ("continuity_2022", {}),
    },
}
"""Strategy and settings by setting and arm; 3D networks of the crop have half the features, so that a cell ends in
minutes; the published recipe as it is, with 64 features and 8 views, on whole stacks only."""

INTERPOLATIONS = ("signed_distance", "contours")
_BEST = ("continuity", {"segment": {"views": 8}, "continuity": {"views": 8}})
_BLOCK_PLANES = 64
_TEACHING = ("pseudo_labels", "consensus")


def annotated_planes(count: int, depth: int = DEPTH) -> list[int]:
    """Give the z indices of `count` annotated planes: 0, 5, …, 155 as published for 32, else evenly centred."""
    if count == PLANES and depth == DEPTH:
        return list(range(0, 160, 5))
    return [round((i + 0.5) * depth / count - 0.5) for i in range(count)]


# --- cells ---


def make_cell(setting: str, part: str, arm: str, draw: int, planes: int | None = None) -> Cell:
    """Make one cell.

    Parameters
    ----------
    setting, part, arm, draw
        What is measured; see the head of this module.
    planes
        Number of annotated planes; None for ``speed``.

    Raises
    ------
    KeyError
        If there is no such setting or arm.
    """
    config: dict[str, Any] = {"part": part}
    budget: Steps = {}
    match part:
        case "speed":
            config |= _SPEED[arm]
        case "interpolation":
            if arm not in INTERPOLATIONS:
                raise KeyError(arm)
        case _:
            strategy, settings = _arms(setting, part)[arm]
            config |= {"strategy": strategy, "settings": settings}
            config["validation"] = "auto" if part == "best" else "none"
            config["cut"] = 0.2 if strategy == "continuity_2022" else 0.5
            budget = BUDGETS[setting][strategy]
    label: dict[str, Any] = {"part": part}
    if planes is not None:
        protocol = PROTOCOLS[setting]
        label["planes"] = planes
        config |= {"planes": planes, "train": _listed(protocol.train), "test": _listed(protocol.test)}
    return Cell(
        benchmark="continuity",
        setting=setting,
        arm=arm,
        draw=draw,
        config=config,
        data=data_identity(DATA["em_train"], DATA["em_test"]),
        budget=dict(budget),
        recipe=RECIPE,
        label=label,
    )


def _arms(setting: str, part: str) -> dict[str, tuple[str, dict[str, Any]]]:
    if part == "strategies":
        return STRATEGIES[setting]
    return ABLATION if part == "ablation" else {"best": _BEST}


def _listed(region: Region | None) -> list[list[int]] | None:
    return None if region is None else [list(ends) for ends in region]


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell, config = result["cell"], result["cell"]["config"]
    return make_cell(cell["setting"], config["part"], cell["arm"], cell["draw"], config.get("planes"))


def every_cell(setting: str, draws: int = DRAWS) -> list[Cell]:
    """List the cells of ``crop`` or ``whole``, draw by draw, so that whatever is done when time is up is paired."""
    cells: list[Cell] = []
    protocol = PROTOCOLS[setting]
    for draw in range(draws):
        cells += [make_cell(setting, "ablation", arm, draw, PLANES) for arm in ABLATION]
        for planes in sorted(protocol.planes, key=lambda count: (abs(count - PLANES), count)):
            cells += [
                make_cell(setting, "strategies", arm, draw, planes)
                for arm in STRATEGIES[setting]
                if _is_compared(setting, arm, planes)
            ]
        if draw == 0:  # nothing in it is random
            cells += [
                make_cell(setting, "interpolation", arm, 0, planes)
                for planes in protocol.planes
                if planes < DEPTH
                for arm in INTERPOLATIONS
            ]
    return cells


def _is_compared(setting: str, arm: str, planes: int) -> bool:
    """Whether `arm` has a cell: all planes are the ceiling, where a student would have nothing to learn from."""
    if arm == "continuity_2022":
        return planes == PLANES
    if planes == DEPTH:
        return arm not in _TEACHING and not (setting == "crop" and arm == "sparse_3d")
    return True


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    if arguments.quick:
        return every_cell("crop", arguments.draws)
    speed = [make_cell("speed", "speed", arm, 0) for arm in _SPEED]
    return [*speed, make_cell("whole60", "best", "best", 0, PLANES), *every_cell("whole", arguments.draws)]


def _read(name: str, cell: Cell, context: Context) -> tuple[Any, Any]:
    """Read image and labels of ``train`` or ``test``, cut to what the cell's protocol uses."""
    image, labels = read_pair(f"em_{name}", context.data)
    region = cell.config.get(name)
    where = tuple(slice(*ends) for ends in region) if region else ()
    return image[where], labels[where]


# --- measurements ---


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    match cell.config["part"]:
        case "interpolation":
            return _interpolate(cell, context)
        case "speed":
            return {"operator": _time_operator, "chain": _time_chain}[cell.arm](cell, context)
        case _:
            return _train(cell, context)


def _train(cell: Cell, context: Context) -> dict[str, Any]:
    """Train, score the test stack and keep its probability; of two networks, score the first one's masks as well."""
    from fewslice.experiment import Experiment
    from fewslice.metrics.along_z import consistency

    minutes = cell.budget.get("minutes")
    experiment = Experiment(
        strategy=cell.config["strategy"],
        settings=cell.config["settings"],
        validation=cell.config["validation"],
        minutes=minutes,
        steps=None if minutes else {stage: int(steps) for stage, steps in cell.budget.items()},
        seed=cell.draw,
    )
    image, labels = _read("train", cell, context)
    planes = annotated_planes(cell.config["planes"], len(labels))

    def look(run: Path, probability: Any, truth: Any) -> dict[str, Any]:
        _keep(probability, cell, context)
        found = {"flicker": consistency(probability >= 255.0 * cell.config["cut"])["flicker"]}
        return {**found, **_masks_between(run, experiment, labels > 0, planes)}

    sample = em.make_sample(image, labels, ",".join(map(str, planes)))
    return em.measure(
        experiment,
        sample,
        lambda: _read("test", cell, context),
        context,
        model_id=cell.key,
        cut=cell.config["cut"],
        look=look,
    )


def _masks_between(run: Path, experiment: Any, truth: Any, planes: Sequence[int]) -> dict[str, Any]:
    """Give the Dice, between annotated planes, of the first network's masks before and after cleaning along z."""
    import numpy as np

    from fewslice import io
    from fewslice.experiment import strategy_config
    from fewslice.model import Model

    stage = run / "stages" / "segment"
    store = stage / "predicted" / "000.ome.zarr"
    if not store.exists() or len(planes) == len(truth):
        return {}
    # as the strategy does: nothing but the masks that it cleaned itself may be scored here
    threshold = getattr(strategy_config(experiment), "mask_threshold", None) or Model.load(stage / "model").threshold
    raw = np.asarray(io.open_volume(store).read())[0] >= 255.0 * threshold
    cleaned = np.asarray(io.open_labels(store / "labels" / "cleaned").read())[0] > 0
    return {
        "raw_between": _between(raw, truth, planes)["dice"],
        "cleaned_between": _between(cleaned, truth, planes)["dice"],
    }


def _between(mask: Any, truth: Any, planes: Sequence[int]) -> dict[str, float | None]:
    """Score a mask (z, y, x; bool) on the planes that are not annotated."""
    import numpy as np

    from fewslice.metrics.semantic import confusion, scores

    others = np.setdiff1d(np.arange(len(truth)), planes)
    return scores(confusion(mask[others], truth[others], classes=1))


def _interpolate(cell: Cell, context: Context) -> dict[str, Any]:
    """Fill the planes between annotated ones of the training stack without a network."""
    import numpy as np

    from fewslice import morphology

    _, labels = _read("train", cell, context)
    truth = labels > 0
    planes = annotated_planes(cell.config["planes"], len(truth))
    known = np.zeros(len(truth), dtype=bool)
    known[planes] = True
    seen = truth & known[:, None, None]
    clock = Clock()
    if cell.arm == "signed_distance":
        filled = morphology.interpolate_signed_distance(seen, known, em.VOXEL_SIZE_UM)
    else:
        filled = morphology.interpolate_contours(seen, known)
    seconds = {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
    found = _between(filled, truth, planes)
    return {"scores": {"between": found.pop("dice"), **{f"between_{k}": v for k, v in found.items()}}, **seconds}


# --- speed ---

_SPEED: dict[str, dict[str, Any]] = {
    "operator": {"annotated": "0:160:5", "blobs": {"sigma": 4.0, "share": 0.03}},
    "chain": {"strategy": "continuity", "settings": {}, "block_planes": _BLOCK_PLANES},
}
"""What is timed, by arm: the operator on the training labels with blobs flipped at random in every plane, and both
networks of the strategy, untrained, on blocks of whole planes."""


def _time_operator(cell: Cell, context: Context) -> dict[str, Any]:
    """Time the operator along z on noisy masks of the whole training stack; then repeat it to see its memory.

    Memory is what numpy allocates at most beyond the arguments, over the size of a mask.
    """
    import tracemalloc

    import numpy as np

    from fewslice import morphology

    _, labels = read_pair("em_train", context.data)
    truth = labels > 0
    masks = _flip_blobs(truth, cell.draw, **cell.config["blobs"])
    known = np.zeros(len(truth), dtype=bool)
    known[slice(*map(int, cell.config["annotated"].split(":")))] = True
    clock = Clock()
    began = time.perf_counter()
    cleaned = morphology.clean(masks, truth, known, voxel_size_um=em.VOXEL_SIZE_UM)
    seconds = time.perf_counter() - began
    timed = {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
    planes = np.flatnonzero(known).tolist()
    between = {
        "raw_between": _between(masks, truth, planes)["dice"],
        "cleaned_between": _between(cleaned, truth, planes)["dice"],
    }
    del cleaned
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        morphology.clean(masks, truth, known, voxel_size_um=em.VOXEL_SIZE_UM)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return {"scores": {"seconds": seconds, "memory_over_mask": peak / masks.nbytes, **between}, **timed}


def _flip_blobs(truth: Any, seed: int, *, sigma: float, share: float) -> Any:
    """Flip about `share` of each plane of a mask (z, y, x; bool), in blobs as wide as smoothing by `sigma` makes them.

    Blobs of one plane say nothing of the next, as a network's errors that see one plane at a time.
    """
    import numpy as np
    from scipy import ndimage

    masks = truth.copy()
    for z, plane in enumerate(masks):
        noise = np.random.default_rng([seed, z]).standard_normal(plane.shape, dtype=np.float32)
        field = ndimage.gaussian_filter(noise, sigma)
        plane ^= field > np.quantile(field, 1 - share)
    return masks


def _time_chain(cell: Cell, context: Context) -> dict[str, Any]:
    """Time block prediction of the test stack with both networks against their bare forward passes.

    Blocks hold whole planes, with as many planes around as the second network sees. The bare passes see each plane
    once, as tensors that are ready on the device, with the same views and precision; they are timed before and after,
    and the faster of the two counts. So what is lost is the planes around blocks, reading, turning views and writing.
    """
    from fewslice.geometry import cover
    from fewslice.prediction import predict_volume
    from fewslice.training.fit import Hardware
    from fewslice.volume import Volume

    kind, name = device_of(context.device)
    device = Hardware(device=context.device).torch_device()
    image, labels = read_pair("em_test", context.data)
    volume = Volume.from_array(image, voxel_size_um=em.VOXEL_SIZE_UM)
    context.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.work, prefix="chain-") as scratch:
        model = _untrained(cell, image, labels, Path(scratch) / "run").to(device)
        block = (int(cell.config["block_planes"]), *volume.shape[1:])
        before = _bare_seconds(model, volume.shape, device)
        clock = Clock()
        made = predict_volume(
            model, volume, Path(scratch) / "out.ome.zarr", model_id="0", device=device, block=block, pyramids=False
        )
        ours, timed = clock.wall, {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
        after = _bare_seconds(model, volume.shape, device)
    bare = [min(pair) for pair in zip(before, after, strict=True)]
    voxels = volume.shape[0] * volume.shape[1] * volume.shape[2]
    read = sum(item.read.size for item in cover(volume.shape, made.block, made.halo, model.divisor))
    scores = {
        "ratio": ours / sum(bare),
        "seconds": ours,
        "bare_first_seconds": bare[0],
        "bare_second_seconds": bare[1],
        "mvoxel_per_s": voxels / ours / 1e6,
        "read_over_written": read / voxels,
    }
    return {"scores": scores, "device_kind": kind, **({"device": name} if name else {}), **timed}


def _untrained(cell: Cell, image: Any, labels: Any, folder: Path) -> Model:
    """Chain both networks of the strategy, as they are before training."""
    from fewslice import registry
    from fewslice.experiment import Experiment, strategy_config
    from fewslice.model import Model, build_network
    from fewslice.training.run_folder import RunFolder
    from fewslice.training.segmentation import network_step
    from fewslice.training.task import Task

    sample = em.make_sample(image, labels, str(len(labels) // 2))
    assert sample.annotation is not None
    task = Task(
        samples=[sample],
        train_masks=[sample.annotation.annotated],
        validation_masks=[None],
        class_values=(1,),
        run=RunFolder(folder),
    )
    strategy = registry.load("strategies", cell.config["strategy"])
    experiment = Experiment(strategy=cell.config["strategy"], settings=cell.config["settings"])
    config = strategy.resolve(strategy_config(experiment), task)
    steps = [network_step(task, config.segment), network_step(task, config.continuity, config.neighbours)]
    return Model(
        steps,
        [build_network(step.network, step.in_channels, step.out_channels) for step in steps],
        normalisation=task.normalisation(config.segment.normalisation),
        class_values=task.class_values,
        voxel_size_um=task.voxel_size_um,
        patch=config.segment.patch,
    )


def _bare_seconds(model: Model, shape: tuple[int, ...], device: Any) -> list[float]:
    """Give the seconds of each network's forward passes over all planes and views, softmax included.

    A few tensors of random numbers are seen in turn: sixteen channels of all planes would not fit into memory.
    """
    import torch

    from fewslice.model import prefers_bfloat16, views_of

    y, x = (-(-extent // divisor) * divisor for extent, divisor in zip(shape[1:], model.divisor[1:], strict=True))
    group = max(1, 2**20 // (y * x))
    sizes = [min(group, shape[0] - start) for start in range(0, shape[0], group)]
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for step, network in zip(model.steps, model.networks, strict=True):
        ready = [
            torch.randn((group, step.in_channels, y, x), generator=generator)
            .to(device)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(min(4, len(sizes)))
        ]
        views = len(views_of(step.views, dims=2))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=prefers_bfloat16(device)):
            network(ready[0])
            _wait(device)
            began = time.perf_counter()
            for index, size in enumerate(sizes):
                for _ in range(views):
                    network(ready[index % len(ready)][:size]).float().softmax(1)[:, 1:]
            _wait(device)
            seconds.append(time.perf_counter() - began)
    return seconds


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- figure ---


def _kept(cell: Cell, work: Path) -> Path:
    return work / "continuity" / f"{cell.key}.npz"


def _keep(probability: Any, cell: Cell, context: Context) -> None:
    """Keep the probability (z, y, x; uint8) of the test stack in the work folder, never among the results."""
    import numpy as np

    path = _kept(cell, context.work)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, probability=probability)


def draw_cells(cells: Sequence[Cell], context: Context, path: Path, plane: int | None = None) -> list[str]:
    """Draw what the cells predict on one plane of the test stack, of those whose prediction was kept.

    Parameters
    ----------
    cells
        Of one setting.
    context
        Work folder and data.
    path
        The PNG file.
    plane
        z index; by default the middle.

    Returns
    -------
    list of str
        The names of the cells that were drawn; nothing is written if there are none.

    Raises
    ------
    SystemExit
        If the cells are of several settings, which are tested on different parts.
    """
    import numpy as np

    from benchmarks.figures import draw_agreement

    there = [cell for cell in cells if _kept(cell, context.work).exists()]
    if len({cell.setting for cell in there}) > 1:
        raise SystemExit("the cells are tested on different parts; choose one setting, e.g. --only 'crop draw=0'")
    if not there:
        return []
    image, labels = _read("test", there[0], context)
    z = len(image) // 2 if plane is None else plane
    if not 0 <= z < len(image):
        raise SystemExit(f"--plane {z} is not in the test stack, which has planes 0 to {len(image) - 1}")
    masks = {}
    for cell in there:
        with np.load(_kept(cell, context.work)) as stored:
            masks[cell.name] = stored["probability"][z] >= 255.0 * cell.config["cut"]
    draw_agreement(image[z], labels[z] > 0, masks, path)
    return list(masks)


def _draw(cells: Sequence[Cell], context: Context, arguments: argparse.Namespace) -> list[str]:
    return draw_cells(cells, context, arguments.figure, arguments.plane)


# --- command line ---


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=DRAWS, help="number of draws (seeds of training)")
    parser.add_argument("--plane", type=int, help="plane of the test stack for --figure (default: the middle)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="continuity",
        description="em_mitochondria: the steps of spatial continuity, strategies at few planes, and speed.",
        plan=plan,
        function=run_cell,
        options=_options,
        draw=_draw,
    )


if __name__ == "__main__":
    sys.exit(main())
