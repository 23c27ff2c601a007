"""Learning from simulated and refined images: with no label at all, with a few, and against what needs none of it.

Settings:

``nissl_123``, ``nissl_0``
    Nissl-stained cells: labels and the images that are refined towards come from one slide, the test is the other
    (tiles 1, 2 and 3 → tile 0, and back). Both directions are pooled in the page.
``nuclei``
    Fluorescence nuclei: the first 80 images by name train, the last 40 test.
``neurons``
    A two-photon volume: phantoms for x < 288, the test is x ≥ 320; segmentation, a label is an annotated plane.
``new_stain``
    Nissl tiles 1, 2 and 3 → tile 0 without labels, for a network that knows refined fluorescence nuclei, against one
    that starts from nothing.
``speed``
    Simulators; contours on a large plane: time, memory, and whether blocks give what the whole plane gives. Run it on
    a quiet machine: ``python -m benchmarks.synthesis --only speed --device cpu --threads 2``.

Arms:

``threshold_watershed``
    No model: Otsu's threshold and a watershed of the distance.
``cellpose_*``
    What Cellpose is stored to have predicted, on Nissl tiles.
``simulated``, ``refined``
    Pretrained on simulated images as they are, or refined; no label.
``refined_labelled``
    ``refined``, fine-tuned on some labelled images.
``labelled``, ``all_labelled``
    The same network on some labelled images, or on all, for as many steps as pretraining and fine-tuning have together.
``refiner``
    How near refined images come to real ones, whether their annotation survives, and what that costs.

One refiner serves all arms of a setting: it is kept, with the images that it has refined, in the work folder under a
hash of what made it, as simulated images and pretrained networks are. A draw is a seed of the detector and of which
images are labelled. Test images are shown to nothing but the finished detector.

With ``--figure OUT.png`` the contours of the chosen cells, whose models are kept in the work folder, are drawn over the
first test image; nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks import objects, synthesis_speed
from benchmarks.arms import device_of, keep_stage
from benchmarks.arms import score as score_volume
from benchmarks.cells import Cell, Clock, Context, data_identity
from benchmarks.objects import SETS
from benchmarks.problems import DATA, choose_planes
from benchmarks.problems import load as load_problem

if TYPE_CHECKING:
    from fewslice.data.samples import Sample
    from fewslice.experiment import Experiment
    from fewslice.model import Model

__all__ = ["ARMS", "BUDGETS", "DRAWS", "RECIPE", "again", "every_cell", "main", "make_cell", "plan", "run_cell"]

RECIPE = "1"
"""Version of the recipes. Raise it whenever a setting, a budget or code that moves scores changes."""

DRAWS = 3

BUDGETS: dict[str, dict[str, dict[str, int]]] = {
    "quick": {
        "nissl_123": {"refine": 700, "pretrain": 600, "fine_tune": 250},
        "nissl_0": {"refine": 700, "pretrain": 600, "fine_tune": 250},
        "nuclei": {"refine": 700, "pretrain": 600, "fine_tune": 250},
        "neurons": {"refine": 700, "pretrain": 400, "fine_tune": 200},
        "new_stain": {"first": 600, "then": 150},
    },
    "full": {
        "nissl_123": {"refine": 6000, "pretrain": 3000, "fine_tune": 1000},
        "nissl_0": {"refine": 6000, "pretrain": 3000, "fine_tune": 1000},
        "nuclei": {"refine": 6000, "pretrain": 3000, "fine_tune": 1000},
        "neurons": {"refine": 4000, "pretrain": 2000, "fine_tune": 1000},
        "new_stain": {"first": 3000, "then": 600},
    },
}
"""Steps by tier, setting and stage."""

IMAGES = {"quick": 16, "full": 48}
"""Simulated images."""
_VOLUMES = {"quick": 6, "full": 16}

_FRESH = 4
"""Images that are simulated and refined beyond those, which no detector learns from: on them annotation is examined."""

PLANES = (1, 4)
"""Annotated planes of the volume that are compared."""
_VOXEL_UM = (2.0, 0.88, 0.88)

ARMS = {
    "threshold_watershed": "threshold + watershed",
    "cellpose_cyto2": "Cellpose, cyto2",
    "cellpose_v2": "Cellpose, v2",
    "simulated": "simulated images",
    "refined": "refined images",
    "refined_labelled": "refined images, then labels",
    "labelled": "labels only",
    "all_labelled": "all labels only",
}
"""Titles, in the order of the tables."""
_TRAINED = ("simulated", "refined", "refined_labelled", "labelled", "all_labelled")
_FIXED = ("threshold_watershed", "cellpose_cyto2", "cellpose_v2")
_STARTS = ("from_nothing", "from_fluorescence")


def detector(setting: str, tier: str) -> dict[str, Any]:
    """Give the settings of the network that every trained arm of a setting has."""
    if setting == "neurons":
        features = 8 if tier == "quick" else 16
        return {
            "network": {"kind": "unet", "dims": 3, "features": features},
            "patch": [16, 96, 96],
            "batch_size": 2,
            "loss": "dice_cross_entropy",
            "learning_rate": 0.004,
            "views": 1,
        }
    return {
        "network": {"kind": "contour_proposals", "features": 8 if tier == "quick" else 16},
        "patch": [1, 128, 128],
        "batch_size": 4 if tier == "quick" else 8,
        "schedule": {"validations": 5 if tier == "quick" else 10},
    }


def refinement(tier: str) -> dict[str, Any]:
    """Give the settings of the refiner."""
    return {"schedule": {"warmup": 0.0, "validations": 7 if tier == "quick" else 20, "patience": 6}}


def simulation(setting: str) -> dict[str, Any]:
    """Give what is set of the simulator, the rest being fitted to the training images."""
    del setting
    return {}


# --- cells ---


def make_cell(setting: str, arm: str, draw: int, labels: int | None = None, tier: str = "quick") -> Cell:
    """Make one cell.

    Parameters
    ----------
    setting, arm, draw
        What is measured; see the head of this module.
    labels
        Labelled images, or annotated planes, of ``labelled`` and ``refined_labelled``.
    tier
        ``quick`` or ``full``.

    Raises
    ------
    KeyError
        If there is no such setting or arm, or it has no such number of labels.
    """
    config: dict[str, Any] = {"tier": tier}
    budget: dict[str, float] = {}
    label: dict[str, Any] = {"tier": tier} if tier != "full" else {}
    if setting == "speed":
        return Cell("synthesis", setting, arm, draw, synthesis_speed.ARMS[arm], "synthetic", {}, RECIPE)
    if setting == "new_stain":
        if arm not in _STARTS:
            raise KeyError(arm)
        config |= {"detector": detector("nissl_123", tier), "images": IMAGES[tier]}
        budget = {f"refine_{name}": BUDGETS[tier][name]["refine"] for name in ("nissl_123", "nuclei")}
        budget |= BUDGETS[tier][setting]
        data = data_identity(SETS["nissl_123"].identity, SETS["nuclei"].identity)
        return Cell("synthesis", setting, arm, draw, config, data, budget, RECIPE, label)
    counts = PLANES if setting == "neurons" else SETS[setting].labelled
    if arm not in (*_FIXED, *_TRAINED, "refiner") or (arm in ("labelled", "refined_labelled")) != (labels in counts):
        raise KeyError(f"{arm} of {setting} with {labels} labels")
    if arm in _FIXED:
        config = {}
        label = {}
    else:
        steps = BUDGETS[tier][setting]
        config |= {"detector": detector(setting, tier), "simulation": simulation(setting)}
        config["images"] = (_VOLUMES if setting == "neurons" else IMAGES)[tier]
        if arm in ("refined", "refined_labelled", "refiner"):
            budget["refine"] = steps["refine"]
            config["refinement"] = refinement(tier)
        if arm in ("labelled", "all_labelled"):
            budget["alone"] = steps["pretrain"] + steps["fine_tune"]
        else:
            budget["pretrain"] = steps["pretrain"]
        if arm == "refined_labelled":
            budget["fine_tune"] = steps["fine_tune"]
        if labels is not None:
            config["labels"] = labels
            label = {"labels": labels, **label}
    data = data_identity(DATA["stack2"]) if setting == "neurons" else SETS[setting].identity
    return Cell("synthesis", setting, arm, draw, config, data, budget, RECIPE, label, group=f"{setting}-{tier}")


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell, config = result["cell"], result["cell"]["config"]
    return make_cell(cell["setting"], cell["arm"], cell["draw"], config.get("labels"), config.get("tier", "quick"))


def every_cell(tier: str, draws: int = DRAWS) -> list[Cell]:
    """List the cells of a tier: what needs no training, then draw by draw, so that what is done is paired."""
    cells = [make_cell(setting, "threshold_watershed", 0) for setting in (*SETS, "neurons")]
    cells += [make_cell(f"nissl_{k}", arm, 0) for k in ("123", "0") for arm in ("cellpose_cyto2", "cellpose_v2")]
    for draw in range(draws):
        for setting in (*SETS, "neurons"):
            counts = PLANES if setting == "neurons" else SETS[setting].labelled
            most = None if setting == "neurons" else counts[-1]
            cells += [make_cell(setting, arm, draw, None, tier) for arm in ("simulated", "refined")]
            if draw == 0:
                cells.append(make_cell(setting, "refiner", draw, None, tier))
            cells += [make_cell(setting, "refined_labelled", draw, count, tier) for count in counts]
            few = [count for count in counts if count != most or most == 1]
            cells += [make_cell(setting, "labelled", draw, count, tier) for count in few]
            if most != 1:
                cells.append(make_cell(setting, "all_labelled", draw, None, tier))
        cells += [make_cell("new_stain", arm, draw, None, tier) for arm in _STARTS]
    return cells


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    speed = [make_cell("speed", arm, 0) for arm in synthesis_speed.ARMS]
    return [*every_cell("quick" if arguments.quick else "full", arguments.draws), *speed]


# --- measurements ---


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Measure one cell."""
    context.work.mkdir(parents=True, exist_ok=True)
    if cell.setting == "speed":
        return synthesis_speed.measure(cell, context)
    if cell.arm in _FIXED:
        return _without_training(cell, context)
    kind, name = device_of(context.device)
    device = {"device_kind": kind, **({"device": name} if name else {})}
    if cell.arm == "refiner":
        return {**_examine_refiner(cell, context), **device}
    return {**(_new_stain(cell, context) if cell.setting == "new_stain" else _train(cell, context)), **device}


def _samples(setting: str, data: Path, draw: int, labels: int | None, *, alone: bool = False) -> list[Sample]:
    """Make the training samples of which `labels` are annotated; with `alone` no others."""
    import numpy as np

    from fewslice.annotation import Annotation
    from fewslice.data.samples import Sample
    from fewslice.volume import Volume

    if setting == "neurons":
        image, truth = load_problem("stack2_field", draw, data).train[0]
        known = np.zeros(truth.shape, dtype=bool)
        known[choose_planes("stack2_field", draw, 0, len(truth), labels or 0)] = True
        annotation = Annotation((truth & known).astype(np.uint8), known) if labels else None
        return [Sample("train", Volume.from_array(image, voxel_size_um=_VOXEL_UM), annotation)]
    train, _ = objects.read_set(setting, data)
    shown = objects.labelled(setting, draw, list(train), labels or 0)
    samples = []
    for stem, (image, ids) in train.items():
        annotation = None
        if stem in shown:
            annotation = Annotation(ids.astype(np.uint32), np.ones(ids.shape, dtype=bool), kind="instances")
        if annotation is not None or not alone:
            volume = Volume.from_array(image, voxel_size_um=SETS[setting].voxel_size_um)
            samples.append(Sample(stem, volume, annotation))
    return samples


def _train(cell: Cell, context: Context) -> dict[str, Any]:
    """Train one arm and score it."""
    labels, learns = cell.config.get("labels"), cell.arm not in ("simulated", "refined")
    if cell.arm == "all_labelled":
        labels = _depth(context) if cell.setting == "neurons" else SETS[cell.setting].labelled[-1]
    spent: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=context.work, prefix="run-") as scratch:
        run = Path(scratch)
        alone = "alone" in cell.budget
        samples = _samples(cell.setting, context.data, cell.draw, labels, alone=alone)
        if alone:
            strategy = "sparse_3d" if cell.setting == "neurons" else "contours"
            stage = "segment" if cell.setting == "neurons" else "propose"
            steps = {stage: int(cell.budget["alone"])}
            settings = dict(cell.config["detector"])
        else:
            strategy, steps = "synthetic", {stage: int(count) for stage, count in cell.budget.items()}
            settings, spent = _pretrained(cell, context, run, learns)
        clock = Clock()
        model = _run(_experiment(strategy, settings, steps, cell.draw), samples, run, context)
        spent["detector"] = {"cpu": clock.cpu, "wall": clock.wall}
        if not alone and not learns:
            keep_stage(run / "stages" / "pretrain", _pretraining(cell, context), spent["detector"])
        model.save(_model(cell, context))
    scores, found = _score(cell, model, context)
    total = {side: sum(part[side] for part in spent.values()) for side in ("cpu", "wall")}
    result = {"scores": scores, "seconds": spent, "cpu_seconds": total["cpu"], "wall_seconds": total["wall"]}
    return {**result, **({"found": found} if found else {}), "threshold": float(model.threshold)}


def _depth(context: Context) -> int:
    return len(load_problem("stack2_field", 0, context.data).train[0][1])


def _experiment(strategy: str, settings: Mapping[str, Any], steps: Mapping[str, int], seed: int) -> Experiment:
    from fewslice.experiment import Experiment

    return Experiment(strategy=strategy, settings=dict(settings), steps=dict(steps), seed=seed)


def _run(experiment: Experiment, samples: Sequence[Sample], run: Path, context: Context) -> Model:
    from fewslice import workflow
    from fewslice.training.fit import Hardware

    return workflow.train_samples(experiment, list(samples), run, hardware=Hardware(device=context.device))


# --- what arms share ---


def _pretrained(
    cell: Cell, context: Context, run: Path, learns: bool
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Put shared images, and for fine-tuning the pretrained network, into a run; give its settings and their cost."""
    shared = _shared_images(cell, context)
    seconds = {"images": json.loads((shared / "seconds.json").read_text(encoding="utf-8"))["images"]}
    shutil.copytree(shared / "run" / "stages", run / "stages", ignore=shutil.ignore_patterns("pretrain"))
    settings = json.loads((shared / "settings.json").read_text(encoding="utf-8")) | {"images": cell.config["images"]}
    if learns:
        kept = _pretraining(cell, context)
        if not (kept / "seconds.json").exists():
            budget = {stage: count for stage, count in cell.budget.items() if stage != "fine_tune"}
            config = {key: value for key, value in cell.config.items() if key != "labels"}
            _train(replace(cell, arm="refined", config=config, budget=budget), context)
        shutil.copytree(kept / "stage", run / "stages" / "pretrain")
        seconds["pretrain"] = json.loads((kept / "seconds.json").read_text(encoding="utf-8"))
    return settings, seconds


def _shared_images(cell: Cell, context: Context) -> Path:
    """Give the folder of simulated, or refined, images of a setting, with its ``settings.json`` and ``seconds.json``.

    They are made by a run of the strategy, with seed 0, whose pretraining is one step; a run that was killed goes on.
    """
    refined = "refine" in cell.budget
    name = "segmentation" if cell.setting == "neurons" else "contours"
    made_by = [cell.setting, cell.data, cell.recipe, cell.config["simulation"], cell.config["detector"]]
    made_by += [cell.config["images"], cell.config.get("refinement"), cell.budget.get("refine")]
    made_by += [*device_of(context.device), context.threads]
    shared = context.work / "synthesis" / "images" / data_identity(made_by)
    if (shared / "seconds.json").exists():
        return shared
    from fewslice.experiment import read_experiment

    whole = not (shared / "run").exists()  # else what was spent before a kill is not known
    clock = Clock()
    settings = {
        "simulator": "two_photon_neurons" if cell.setting == "neurons" else SETS[cell.setting].simulator,
        "simulation": dict(cell.config["simulation"]),
        "images": cell.config["images"] + _FRESH,
        "refine": refined,
        "refinement": cell.config.get("refinement", {}),
        name: dict(cell.config["detector"]),
    }
    steps = {"refine": int(cell.budget["refine"])} if refined else {}
    samples = _samples(cell.setting, context.data, 0, None)
    experiment = _experiment("synthetic", settings, {**steps, "pretrain": 1}, 0)
    _run(experiment, samples, shared / "run", context)
    resolved = read_experiment(shared / "run" / "experiment.yaml").settings
    (shared / "settings.json").write_text(json.dumps(resolved), encoding="utf-8")
    spent = {"cpu": clock.cpu, "wall": clock.wall}
    (shared / "seconds.json").write_text(json.dumps({"images": spent, "whole": whole}), encoding="utf-8")
    return shared


def _pretraining(cell: Cell, context: Context) -> Path:
    """Name the folder of a pretrained network by everything that made it."""
    images = _shared_images(cell, context).name
    return context.work / "synthesis" / "pretrained" / data_identity([images, cell.draw, cell.budget["pretrain"]])


def _model(cell: Cell, context: Context) -> Path:
    """Name the folder of the model of a cell."""
    return context.work / "synthesis" / "models" / cell.key


# --- scores ---


def _score(cell: Cell, model: Model, context: Context) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Score a model on the test images; found objects are None for volumes."""
    kind, _ = device_of(context.device)
    if cell.setting == "neurons":
        from fewslice.prediction import predict_whole

        test = load_problem("stack2_field", cell.draw, context.data).test
        return score_volume(predict_whole(model, test.image, device=kind)[0], test, _VOXEL_UM), None
    _, test_images = objects.read_set("nissl_123" if cell.setting == "new_stain" else cell.setting, context.data)
    predicted = [detected(model, image, kind) for image, _ in test_images.values()]
    return objects.score([ids for _, ids in test_images.values()], predicted)


def detected(model: Model, image: Any, device: str = "cpu") -> Any:
    """Find the objects of a plane (c, 1, y, x) with a model of contours, in one piece: ids (1, y, x; uint32)."""
    from fewslice.morphology.proposals import paint, suppress

    _, proposals = model.to(device).proposals(image)
    return paint(suppress(proposals).contour, image.shape[2:])[None]


def _without_training(cell: Cell, context: Context) -> dict[str, Any]:
    """Score the baseline, or what Cellpose is stored to have predicted."""
    clock = Clock()
    if cell.setting == "neurons":
        test = load_problem("stack2_field", cell.draw, context.data).test
        found = _watershed(test.image, "bright", _VOXEL_UM) > 0
        scores = score_volume(found.astype(float), test, _VOXEL_UM)
        return {"scores": scores, "cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
    chosen = SETS[cell.setting]
    _, test_images = objects.read_set(cell.setting, context.data)
    if cell.arm == "threshold_watershed":
        predicted = [_watershed(image, chosen.objects, chosen.voxel_size_um) for image, _ in test_images.values()]
    else:
        predicted = objects.read_predictions(cell.setting, f"pred_{cell.arm}", context.data)
    scores, found = objects.score([ids for _, ids in test_images.values()], predicted)
    return {"scores": scores, "found": found, "cpu_seconds": clock.cpu, "wall_seconds": clock.wall}


def _watershed(image: Any, what: str, voxel_size_um: tuple[float, float, float] | None) -> Any:
    """Segment an image (c, z, y, x) as ``fewslice segment IMAGE --segmenter threshold_watershed`` does."""
    import numpy as np

    from fewslice import io, workflow
    from fewslice.volume import Volume

    with tempfile.TemporaryDirectory() as scratch:
        source, output = Path(scratch) / "image.ome.zarr", Path(scratch) / "out.ome.zarr"
        io.save_volume(source, Volume.from_array(image, voxel_size_um=voxel_size_um))
        workflow.segment(source, segmenter="threshold_watershed", settings={"objects": what}, output=output)
        return np.asarray(io.open_labels(output / "labels" / "instances").read())[0]


# --- the refiner ---


def _examine_refiner(cell: Cell, context: Context) -> dict[str, Any]:
    """Say how near refined images come, whether their annotation survives, and what that costs.

    ``pixel_*`` are of the linear pixel classifier by which the refiner's weights are chosen. Where objects are scored,
    two contour networks, one that has learned simulated images and one that has learned refined ones, look for the
    annotation in new images of both kinds.
    """
    refined = _shared_images(cell, context)
    budget = {stage: count for stage, count in cell.budget.items() if stage != "refine"}
    config = {key: value for key, value in cell.config.items() if key != "refinement"}
    simulated = replace(cell, arm="simulated", budget=budget, config=config)
    stage = json.loads((refined / "run" / "stages" / "refine" / "result.json").read_text(encoding="utf-8"))
    figures = dict(stage["validation"])
    scores = {
        name: figures.pop(name)
        for name in ("kernel_distance", "spectrum_distance", "histogram_distance", "separability", "kept")
    }
    scores |= {f"chance_{name}": figures.pop(f"{name}_chance") for name in ("kernel_distance",)}
    for rate in ("precision", "recall"):
        scores[f"pixel_{rate}_simulated"] = figures.pop(f"{rate}_before")
        scores[f"pixel_{rate}_refined"] = figures.pop(f"{rate}_after")
    spent = json.loads((refined / "seconds.json").read_text(encoding="utf-8"))
    seconds = spent["images"]
    scores["steps"] = stage["steps"]
    if spent["whole"]:
        scores |= {"minutes": seconds["wall"] / 60, "cpu_minutes": seconds["cpu"] / 60}
    if cell.setting != "neurons":
        for name, own in (("simulated", simulated), ("refined", replace(cell, arm="refined"))):
            scores |= _survival(cell, own, simulated, context, "" if name == "simulated" else "own_")
    return {"scores": scores, "cpu_seconds": seconds["cpu"], "wall_seconds": seconds["wall"], "figures": figures}


def _survival(cell: Cell, learned: Cell, simulated: Cell, context: Context, prefix: str) -> dict[str, float]:
    """Give precision and recall of one detector on new simulated and refined images, and how far both fall."""
    from fewslice.model import Model

    if not _model(learned, context).exists():
        _train(learned, context)
    model = Model.load(_model(learned, context))
    kind, _ = device_of(context.device)
    rates: dict[str, float] = {}
    for name, source in (("simulated", simulated), ("refined", cell)):
        fresh = _fresh(source, context)
        predicted = [detected(model, image, kind) for image, _ in fresh]
        _, found = objects.score([ids for _, ids in fresh], predicted)
        right = found["objects"].count("1")
        rates[f"{prefix}precision_{name}"] = right / max(right + found["false"], 1)
        rates[f"{prefix}recall_{name}"] = right / len(found["objects"])
    for rate in ("precision", "recall"):
        rates[f"{prefix}{rate}_fall"] = rates[f"{prefix}{rate}_simulated"] - rates[f"{prefix}{rate}_refined"]
    return rates


def _fresh(cell: Cell, context: Context) -> list[tuple[Any, Any]]:
    """Read the images, and their ids, that no detector has learned from."""
    count = int(cell.config["images"])
    return _stored(cell, context)[count:]


def _stored(cell: Cell, context: Context) -> list[tuple[Any, Any]]:
    """Read all simulated, or refined, images (c, 1, y, x) of a cell and their ids (1, y, x)."""
    import numpy as np

    from fewslice import io

    stage = "refine" if "refine" in cell.budget else "simulate"
    folder = _shared_images(cell, context) / "run" / "stages" / stage / "images"
    paths = sorted(folder.glob("*.ome.zarr"))
    return [
        (
            np.asarray(io.open_volume(path).read()),
            np.asarray(io.open_labels(folder / f"{path.name.removesuffix('.ome.zarr')}_labels.tif").read())[0],
        )
        for path in paths
    ]


# --- a new stain ---


def _new_stain(cell: Cell, context: Context) -> dict[str, Any]:
    """Train on refined Nissl images, from nothing or from a network that has learned refined nuclei, and score it.

    Nuclei are shown as Nissl is: dark on bright, the same in three channels.
    """
    tier = str(cell.config["tier"])
    nissl, nuclei = (make_cell(name, "refined", 0, None, tier) for name in ("nissl_123", "nuclei"))
    count = int(cell.config["images"])
    spent: dict[str, dict[str, float]] = {}
    weights = None
    with tempfile.TemporaryDirectory(dir=context.work, prefix="run-") as scratch:
        if cell.arm == "from_fluorescence":
            shown = [((255 - image).repeat(3, axis=0), ids) for image, ids in _stored(nuclei, context)[:count]]
            clock = Clock()
            _, weights = _learn(cell, shown, int(cell.budget["first"]), Path(scratch) / "first", context, None)
            spent["first"] = {"cpu": clock.cpu, "wall": clock.wall}
        shown = _stored(nissl, context)[:count]
        clock = Clock()
        model, _ = _learn(cell, shown, int(cell.budget["then"]), Path(scratch) / "then", context, weights)
        spent["then"] = {"cpu": clock.cpu, "wall": clock.wall}
    model.save(_model(cell, context))
    scores, found = _score(cell, model, context)
    total = {side: sum(part[side] for part in spent.values()) for side in ("cpu", "wall")}
    result = {"scores": scores, "found": found, "seconds": spent}
    return {**result, "cpu_seconds": total["cpu"], "wall_seconds": total["wall"]}


def _learn(
    cell: Cell,
    shown: Sequence[tuple[Any, Any]],
    steps: int,
    run: Path,
    context: Context,
    initial: Mapping[str, Any] | None,
) -> tuple[Model, Mapping[str, Any]]:
    """Train a contour network on annotated images, the last of which is held out; give the model and its weights."""
    import numpy as np

    from fewslice.annotation import Annotation
    from fewslice.data.samples import Sample
    from fewslice.synthesis.samples import simulated_task
    from fewslice.training.contours import ContourConfig, contour_stage, finished_contour_model, resolved_contours
    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import RunFolder
    from fewslice.training.task import Task
    from fewslice.volume import Volume

    samples = [
        Sample(
            f"image {index}",
            Volume.from_array(image, voxel_size_um=SETS["nissl_123"].voxel_size_um),
            Annotation(ids.astype(np.uint32), np.ones(ids.shape, dtype=bool), kind="instances"),
        )
        for index, (image, ids) in enumerate(shown)
    ]
    run.mkdir(parents=True)
    task = Task(
        samples=samples,
        train_masks=[None] * len(samples),
        validation_masks=[None] * len(samples),
        class_values=(1,),
        run=RunFolder(run),
        seed=cell.draw,
        steps={"pretrain": steps},
        hardware=Hardware(device=context.device),
    )
    task = simulated_task(task, samples)
    config = resolved_contours(ContourConfig(**cell.config["detector"]), task)
    fitted = task.fit(contour_stage(task, "pretrain", config, task.instance_volumes(), initial=initial))
    return finished_contour_model(task, config, fitted, strategy="contours"), fitted.weights["network"]


# --- figure ---


def draw_cells(cells: Sequence[Cell], context: Context, path: Path) -> list[str]:
    """Draw true objects and what cells find over the first test image, of those whose model was kept.

    Parameters
    ----------
    cells
        Of one setting whose objects are scored.
    context
        Work folder and data.
    path
        The PNG file. It shows the image: it is for local use where the image may not be passed on.

    Returns
    -------
    list of str
        The names of the cells that were drawn; nothing is written if there are none.

    Raises
    ------
    SystemExit
        If the cells are of several settings.
    """
    from benchmarks.figures import draw_outlines
    from fewslice.model import Model

    there = [cell for cell in cells if cell.arm in _FIXED or _model(cell, context).exists()]
    if len({cell.setting for cell in there}) > 1:
        raise SystemExit("the cells are of several settings; choose one, e.g. --only 'nissl_123 draw=0'")
    if not there:
        return []
    name = "nissl_123" if there[0].setting == "new_stain" else there[0].setting
    _, test_images = objects.read_set(name, context.data)
    image, truth = next(iter(test_images.values()))
    found = {}
    for cell in there:
        if cell.arm == "threshold_watershed":
            found[cell.name] = _watershed(image, SETS[name].objects, SETS[name].voxel_size_um)[0]
        elif cell.arm in _FIXED:
            found[cell.name] = objects.read_predictions(name, f"pred_{cell.arm}", context.data)[0][0]
        else:
            found[cell.name] = detected(Model.load(_model(cell, context)), image)[0]
    draw_outlines(image[:, 0], truth[0], found, path)
    return list(found)


def _draw(cells: Sequence[Cell], context: Context, arguments: argparse.Namespace) -> list[str]:
    chosen = [cell for cell in cells if cell.setting in (*SETS, "new_stain") and cell.arm != "refiner"]
    return draw_cells(chosen, context, arguments.figure)


# --- command line ---


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=DRAWS, help="number of draws (seeds of the detector)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return runner.main(
        argv,
        benchmark="synthesis",
        description="Cells found without labels and with few: simulated images, refined ones, labels alone.",
        plan=plan,
        function=run_cell,
        options=_options,
        draw=_draw,
    )


if __name__ == "__main__":
    sys.exit(main())
