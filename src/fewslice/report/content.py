"""What a report says, read from run folders, predictions and evaluations; nothing here knows of HTML.

1. :func:`read_run` – one run folder: the request, the samples, the stages with their curves, versions.
2. :func:`collect` – the predictions that the runs list (or those that are asked for), grouped by image into cases, each
   prediction an arm with its last evaluation.
3. What ``segment``, ``measure`` and ``evaluate --instances`` left of each prediction goes with its arm
   (:mod:`fewslice.report.objects`).
4. :func:`open_case` – image, truth and segmentations of a case, opened when it is their turn to be drawn.

A file that is gone or cannot be read becomes a sentence in ``problems``, never the end of the report.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fewslice import io
from fewslice.annotation import Annotation, from_labels
from fewslice.errors import FewsliceError, InputError
from fewslice.evaluation import Segmentation, open_segmentation
from fewslice.geometry import Box
from fewslice.report.objects import Objects, read_objects
from fewslice.report.planes import across
from fewslice.training.run_folder import read_lines
from fewslice.volume import Volume

__all__ = [
    "Arm",
    "Case",
    "Content",
    "OpenCase",
    "Run",
    "SampleSummary",
    "StageSummary",
    "collect",
    "open_case",
    "read_run",
]

_MOST_TRUTH_VOXELS = 1 << 30
_MEASURES = (("kernel_distance", "distance to real", True), ("dice", "Dice", False), ("f1", "F1", False))
"""Key in the log, what the report calls it, whether lower is better; the first that a stage logs is shown."""


@dataclass(frozen=True)
class StageSummary:
    """How one stage of training went.

    Attributes
    ----------
    name
        The stage.
    steps
        Steps done.
    seconds
        Wall-clock seconds of the last uninterrupted part.
    loss
        Term → (step, value).
    validation
        (step, value of `measure`); empty where nothing was held out.
    measure
        What validation measures, such as ``Dice``.
    lower_is_better
        Of that measure.
    figures
        All that each validation found, by step.
    """

    name: str
    steps: int
    seconds: float
    loss: dict[str, list[tuple[int, float]]]
    validation: list[tuple[int, float]]
    measure: str = "Dice"
    lower_is_better: bool = False
    figures: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the validation with the best score, whose weights were taken."""
        sign = -1 if self.lower_is_better else 1

        def score(point: tuple[int, float]) -> float:
            found = self.figures.get(point[0], {}).get("score")
            return float(found) if isinstance(found, (int, float)) else sign * point[1]

        return max(self.validation, key=score, default=None)


@dataclass(frozen=True)
class SampleSummary:
    """One image that training saw.

    Attributes
    ----------
    name, image
        Its name and path.
    shape
        (z, y, x) in voxels, or None when unknown.
    channels
        Number of them.
    voxel_size_um
        (z, y, x) in µm, or None.
    trained, held_out
        z planes whose annotation trained, and those kept for validation.
    annotated_share
        Annotated voxels over all voxels, 0–1.
    note
        How its axes were read, if that was inferred.
    """

    name: str
    image: str
    shape: tuple[int, int, int] | None
    channels: int
    voxel_size_um: tuple[float, float, float] | None
    trained: tuple[int, ...]
    held_out: tuple[int, ...]
    annotated_share: float
    note: str | None = None


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes
    ----------
    path, name
        The folder and what the report calls it.
    strategy, strategy_says
        The kind, and the first sentence of its documentation.
    experiment
        The resolved configuration.
    provenance
        Versions, hardware, inputs.
    model
        ``model.json`` without its hashes' meaning; empty while training goes on.
    samples
        What it was trained on.
    split_note
        What was held out, in a sentence.
    stages
        In the order in which they began.
    results
        Lines of ``results.jsonl``.
    plan
        What ``fewslice plan`` found; empty where it was not asked.
    """

    path: Path
    name: str
    strategy: str
    strategy_says: str
    experiment: dict[str, Any]
    provenance: dict[str, Any]
    model: dict[str, Any]
    samples: tuple[SampleSummary, ...]
    split_note: str
    stages: tuple[StageSummary, ...]
    results: tuple[dict[str, Any], ...]
    plan: dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One prediction.

    Attributes
    ----------
    name
        What the report calls it.
    prediction
        ``OUT.ome.zarr``.
    run
        The run that made it, if the report was given that run.
    evaluation, instance_evaluation
        The last evaluation of voxels, and of objects: its options and ``scores``; None when there is none.
    objects
        What was segmented and measured; None when nothing was.
    """

    name: str
    prediction: Path
    run: Run | None
    evaluation: dict[str, Any] | None
    instance_evaluation: dict[str, Any] | None = None
    objects: Objects | None = None

    @property
    def scores(self) -> dict[str, Any] | None:
        """The numbers of the last evaluation."""
        return None if self.evaluation is None else self.evaluation.get("scores")


@dataclass(frozen=True)
class Case:
    """All predictions of one image.

    Attributes
    ----------
    image
        Path of the image.
    options
        How it was opened: axes and channels, as the predictions recorded them.
    arms
        In the order of the runs.
    """

    image: str
    options: dict[str, Any]
    arms: tuple[Arm, ...]

    @property
    def name(self) -> str:
        """File name of the image."""
        return Path(self.image).name


@dataclass(frozen=True)
class Content:
    """Everything a report is made from."""

    runs: tuple[Run, ...]
    cases: tuple[Case, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class OpenCase:
    """A case with its volumes at hand.

    Attributes
    ----------
    case
        What it is.
    image
        None when it is gone.
    truth
        None when there is none; its classes are numbered as ``class_values``.
    truth_is_training
        The truth is the annotation that trained, for want of an evaluation.
    segmentations
        One per arm; None where the prediction is gone.
    class_values
        Values of the classes 1..K in the label files.
    shape, voxel_size_um
        Of whatever could be opened; voxel size None when unknown.
    problems
        Sentences about what could not be opened.
    """

    case: Case
    image: Volume | None
    truth: Annotation | None
    truth_is_training: bool
    segmentations: tuple[Segmentation | None, ...]
    class_values: tuple[int, ...]
    shape: tuple[int, int, int] | None
    voxel_size_um: tuple[float, float, float] | None
    problems: tuple[str, ...]

    def classes(self, arm: int, box: Box) -> NDArray[np.uint8]:
        """Read a box of an arm's segmentation, numbered like the truth's classes.

        Returns
        -------
        ndarray
            (z, y, x) uint8.
        """
        segmentation = self.segmentations[arm]
        if segmentation is None:
            raise InputError(f"{self.case.arms[arm].prediction} could not be opened")
        labels = segmentation.labels.read(box)[0]
        own = segmentation.class_values
        if own is None or len(self.class_values) <= 1:
            foreground: NDArray[np.uint8] = (labels > 0).astype(np.uint8)
            return foreground
        lookup: NDArray[np.uint8] = np.zeros(256, np.uint8)
        for k, value in enumerate(own, start=1):
            lookup[k] = self.class_values.index(value) + 1 if value in self.class_values else 0
        classes: NDArray[np.uint8] = lookup[np.minimum(labels, 255)]
        return classes

    def plane(self, axis: int, at: int) -> Box:
        """Return the plane at a position along an axis (0, 1, 2 for z, y, x)."""
        assert self.shape is not None
        start, stop = [0, 0, 0], list(self.shape)
        start[axis], stop[axis] = at, at + 1
        return Box(tuple(start), tuple(stop))

    def truth_plane(self, axis: int, at: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        """Return classes of a plane and where they are known, both (row, column); None on a plane without truth."""
        if self.truth is None:
            return None
        part = self.plane(axis, at).slices
        if not self.truth.annotated[part].any():
            return None
        plane = replace(self.truth, labels=self.truth.labels[part], annotated=self.truth.annotated[part])
        return across(plane.classes, axis), across(plane.annotated, axis)


# --------------------------------------------------------------------------------------------------------------- runs


def read_run(folder: Path) -> Run:
    """Read a run folder, finished or not.

    Raises
    ------
    InputError
        If it is no run folder.
    """
    path = folder / "experiment.yaml"
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it holds no experiment.yaml; give a folder that train made")
    try:
        experiment = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML; train again, or restore the file") from error
    if not isinstance(experiment, dict):
        raise InputError(f"{path} holds no keys; train again, or restore the file")
    provenance = _json(folder / "provenance.json")
    strategy = str(experiment.get("strategy", "unknown"))
    return Run(
        path=folder,
        name=folder.resolve().name,
        strategy=strategy,
        strategy_says=_first_sentence(strategy),
        experiment=experiment,
        provenance=provenance,
        model=_json(folder / "model" / "model.json"),
        samples=_samples(experiment, provenance),
        split_note=str(provenance.get("validation", {}).get("note", "")),
        stages=_stages(list(read_lines(folder / "log.jsonl"))),
        results=tuple(read_lines(folder / "results.jsonl")),
        plan=_json(folder / "plan.json"),
    )


def _samples(experiment: dict[str, Any], provenance: dict[str, Any]) -> tuple[SampleSummary, ...]:
    out = []
    listed = provenance.get("samples") or [{"name": Path(p).stem, "image": p} for p in experiment.get("images", ())]
    along_z = not any("=" in str(spec) and "z=" not in str(spec) for spec in experiment.get("planes") or ())
    held = iter(provenance.get("validation", {}).get("planes", ()))
    for sample in listed:
        annotated = [int(z) for z in sample.get("annotated_planes", ())]
        own = {int(z) for z in next(held, ())} if annotated else set()
        shape, voxel = sample.get("shape"), sample.get("voxel_size_um")
        out.append(
            SampleSummary(
                name=str(sample.get("name", "")),
                image=str(sample.get("image", "")),
                shape=(int(shape[0]), int(shape[1]), int(shape[2])) if shape else None,
                channels=int(sample.get("channels", 1)),
                voxel_size_um=(float(voxel[0]), float(voxel[1]), float(voxel[2])) if voxel else None,
                trained=tuple(z for z in annotated if z not in own) if along_z else (),
                held_out=tuple(sorted(own)) if along_z else (),
                annotated_share=float(sample.get("annotated_share", 0.0)),
                note=sample.get("axes_note"),
            )
        )
    return tuple(out)


def _stages(events: Sequence[dict[str, Any]]) -> tuple[StageSummary, ...]:
    """Gather the log by stage; of a step that was repeated after a kill the last line counts."""
    names = list(dict.fromkeys(str(e["stage"]) for e in events if e.get("event") in ("stage", "step") and "stage" in e))
    out = []
    for name in names:
        own = [e for e in events if e.get("stage") == name]
        steps = {int(e["step"]): e for e in own if e.get("event") == "step"}
        figures = {int(e["step"]): e for e in own if e.get("event") == "validation"}
        key, measure, lower = next(
            (known for known in _MEASURES if any(known[0] in found for found in figures.values())),
            ("score", "score", False),
        )
        scores = {step: float(f[key]) for step, f in figures.items() if isinstance(f.get(key), (int, float))}
        loss: dict[str, list[tuple[int, float]]] = {}
        for step in sorted(steps):
            for term, value in steps[step].get("loss", {}).items():
                loss.setdefault(str(term), []).append((step, float(value)))
        last = steps[max(steps)] if steps else {}
        seconds = float(last.get("seconds", 0.0))
        curve = sorted(scores.items())
        out.append(StageSummary(name, max(steps, default=0), seconds, loss, curve, measure, lower, figures))
    return tuple(out)


def _first_sentence(strategy: str) -> str:
    """Read the first line of a strategy's documentation without importing it."""
    try:
        spec = find_spec(f"fewslice.strategies.{strategy}")
        source = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
        return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ").strip()
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


# -------------------------------------------------------------------------------------------------------------- cases


def collect(folders: Sequence[Path], predictions: Sequence[Path] = ()) -> Content:
    """Gather runs and their predictions.

    Parameters
    ----------
    folders
        Run folders.
    predictions
        ``OUT.ome.zarr`` to show; empty for all that the runs list in their results.

    Raises
    ------
    InputError
        If there is no run, one is no run folder, or an asked-for prediction is none.
    """
    if not folders:
        raise InputError("a report needs at least one run folder; give one that fewslice train made")
    runs = _named([read_run(folder) for folder in dict.fromkeys(folders)])
    by_folder = {run.path.resolve(): run for run in runs}
    arms: dict[Path, tuple[Run | None, str, dict[str, Any]]] = {}
    problems = []
    if predictions:
        for path in predictions:
            attributes = _attributes(path)
            if "image" not in attributes:
                raise InputError(f"{path} is not an output of fewslice predict; give OUT.ome.zarr")
            made_by = by_folder.get(Path(str(attributes.get("run", ""))).resolve()) if attributes.get("run") else None
            arms[path.resolve()] = (made_by, str(attributes["image"]), attributes)
    else:
        for run in runs:
            for line in run.results:
                if line.get("kind") == "prediction" and "output" in line:
                    path = _located(str(line["output"]), run)
                    attributes = _attributes(path)
                    if not path.exists():
                        problems.append(
                            f"The prediction {path} of {run.name} is gone; its scores stay, its planes do not."
                        )
                    arms[path] = (run, str(attributes.get("image", line.get("image", ""))), attributes)
    evaluations, of_instances = (
        {
            _located(str(line["prediction"]), run): line
            for run in runs
            for line in run.results
            if line.get("kind") == kind and "prediction" in line
        }
        for kind in ("evaluation", "instance_evaluation")
    )
    cases: dict[str, list[Arm]] = {}
    options: dict[str, dict[str, Any]] = {}
    several = _several_per_run([(run, image) for run, image, _ in arms.values()])
    for path, (owner, image, attributes) in arms.items():
        stem = path.name.removesuffix(".zarr").removesuffix(".ome")
        name = stem if owner is None else f"{owner.name}/{stem}" if (owner.name, image) in several else owner.name
        objects = read_objects(path)
        if objects is not None and objects.problem:
            problems.append(objects.problem)
        cases.setdefault(image, []).append(
            Arm(name, path, owner, evaluations.get(path), of_instances.get(path), objects)
        )
        options.setdefault(image, {k: attributes[k] for k in ("axes", "channels") if attributes.get(k)})
    return Content(
        tuple(runs), tuple(Case(image, options[image], tuple(own)) for image, own in cases.items()), tuple(problems)
    )


def _attributes(prediction: Path) -> dict[str, Any]:
    """Read what ``predict`` stored with an output; empty where there is nothing of ours."""
    try:
        return dict(io.open_volume(prediction).attributes)
    except FewsliceError:
        return {}


def _named(runs: list[Run]) -> list[Run]:
    """Call a run by its folder and strategy, and by its parent folder as well where names collide."""
    names = [run.name for run in runs]
    out = []
    for run in runs:
        name = run.name if names.count(run.name) == 1 else f"{run.path.resolve().parent.name}/{run.name}"
        if run.strategy not in name:
            name = f"{name} · {run.strategy}"
        out.append(replace(run, name=name))
    return out


def _several_per_run(pairs: Sequence[tuple[Run | None, str]]) -> set[tuple[str, str]]:
    keys = [(run.name, image) for run, image in pairs if run is not None]
    return {key for key in keys if keys.count(key) > 1}


def _located(text: str, run: Run) -> Path:
    """Find a recorded path: as it stands, from here, or beside the run that was moved."""
    path = Path(text)
    tries = [path] if path.is_absolute() else [path, run.path / path, run.path.parent / path]
    tries += [run.path / path.name, run.path.parent / path.name]
    return next((t for t in tries if t.exists()), path).resolve()


def open_case(case: Case) -> OpenCase:
    """Open image, truth and segmentations of a case; what fails is said in ``problems``."""
    problems: list[str] = []
    segmentations: list[Segmentation | None] = []
    for arm in case.arms:
        try:
            segmentations.append(_open_arm(arm.prediction))
        except FewsliceError as error:
            segmentations.append(None)
            problems.append(f"{arm.name} cannot be drawn: {error}.")
    found = next((s for s in segmentations if s is not None), None)
    for index, segmentation in enumerate(segmentations):
        if found is not None and segmentation is not None and segmentation.shape != found.shape:
            problems.append(f"{case.arms[index].name} has shape {segmentation.shape}, others {found.shape}; left out.")
            segmentations[index] = None
    image: Volume | None = None
    try:
        image = io.open_volume(case.image, expected_shape=None if found is None else found.shape, **case.options)
        if found is not None and image.shape != found.shape:
            problems.append(f"The image {case.image} has shape {image.shape}, its prediction {found.shape}; not shown.")
            image = None
    except FewsliceError as error:
        problems.append(f"The image cannot be shown: {error}.")
    shape = found.shape if found is not None else image.shape if image is not None else None
    voxel = found.labels.voxel_size_um if found is not None else None
    if voxel is None and image is not None:
        voxel = image.voxel_size_um
    known = next((s.class_values for s in segmentations if s is not None and s.class_values), None)
    truth, is_training = _open_truth(case, shape, known, problems)
    values = truth.class_values if truth is not None and truth.kind == "classes" else known or (1,)
    return OpenCase(case, image, truth, is_training, tuple(segmentations), values, shape, voxel, tuple(problems))


def _open_arm(prediction: Path) -> Segmentation:
    """Open the segmentation, or the objects where a model proposes contours and writes none."""
    labels = prediction / "labels"
    if (labels / "instances").is_dir() and not (labels / "segmentation").is_dir():
        return Segmentation(io.open_labels(labels / "instances"), source=str(prediction))
    return open_segmentation(prediction)


def _open_truth(
    case: Case, shape: tuple[int, int, int] | None, known: tuple[int, ...] | None, problems: list[str]
) -> tuple[Annotation | None, bool]:
    """Open the truth of the last evaluation, else the annotation that trained on the same image."""
    judged = [(arm.run, found) for arm in case.arms for found in (arm.instance_evaluation, arm.evaluation) if found]
    if judged:
        owner, evaluation = judged[-1]
        if evaluation.get("kind") == "instance_evaluation":
            evaluation = evaluation | {"label_kind": "instances"}
        path = str(evaluation.get("truth", ""))
        where = str(_located(path, owner)) if owner is not None else path
        return _annotation(where, evaluation, shape, known, problems), False
    for arm in case.arms:
        if arm.run is None:
            continue
        images, labels = arm.run.experiment.get("images", ()), arm.run.experiment.get("labels", ())
        if len(images) == len(labels):
            for image, label in zip(images, labels, strict=True):
                if _same(str(image), case.image):
                    return _annotation(str(label), arm.run.experiment, shape, known, problems), True
    return None, False


def _same(a: str, b: str) -> bool:
    return a == b or Path(a).resolve() == Path(b).resolve()


def _annotation(
    path: str,
    options: dict[str, Any],
    shape: tuple[int, int, int] | None,
    known: tuple[int, ...] | None,
    problems: list[str],
) -> Annotation | None:
    try:
        labels = io.open_labels(path, axes=options.get("axes"), shape=shape, kind=options.get("label_kind"))
        if shape is not None and labels.shape != shape:
            problems.append(f"The truth {path} has shape {labels.shape}, the prediction {shape}; not shown.")
            return None
        if int(np.prod(labels.shape, dtype=np.int64)) > _MOST_TRUTH_VOXELS:
            problems.append(f"The truth {path} is too large to be drawn; the scores above count all of it.")
            return None
        array = labels.read()[0]
        reading: dict[str, Any] = {
            "kind": options.get("label_kind"),
            "planes": tuple(options.get("planes") or ()),
            "background": options.get("background"),
            "unlabelled": options.get("unlabelled"),
            "allow_one_class": True,
            "name": path,
        }
        try:
            return from_labels(array, class_values=known, **reading)
        except InputError:
            return from_labels(array, **reading)
    except FewsliceError as error:
        problems.append(f"The truth cannot be shown: {error}.")
        return None
