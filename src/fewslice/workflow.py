"""The verbs: train, predict, evaluate, report and the rest, for programs; the shell and the screen call these.

Every verb checks its input before anything is written, and raises :class:`fewslice.errors.FewsliceError` with one
sentence when something is wrong.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewslice import io, registry
from fewslice.errors import InputError, PartialError
from fewslice.experiment import Experiment, checked, read_experiment, strategy_config
from fewslice.files import append_line, disk_error, write_json

if TYPE_CHECKING:
    from fewslice.data.samples import Sample
    from fewslice.data.splits import Split
    from fewslice.model import Model
    from fewslice.training.fit import Hardware, Monitor
    from fewslice.volume import Volume

__all__ = ["convert", "evaluate", "export", "info", "predict", "report", "run", "train", "train_samples"]

Listener = Callable[[dict[str, Any]], None]

_DEFAULT_MINUTES = 30.0
_VOXEL_TOLERANCE = 0.1


def train(
    experiment: Experiment,
    output: str | Path,
    *,
    device: str = "auto",
    devices: int = 1,
    checkpoint_seconds: float = 60.0,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Path:
    """Train what an experiment describes into a run folder, resuming what an earlier call left.

    Parameters
    ----------
    experiment
        What to train on what.
    output
        The run folder.
    device, devices
        ``auto``, ``cpu``, ``cuda`` or ``mps``, and how many of them.
    checkpoint_seconds
        Time between checkpoints: what a kill costs at most.
    overwrite
        Replace a run of another experiment.
    listener
        Called with every event of the log.

    Returns
    -------
    Path
        The run folder; a finished run of the same experiment is returned at once.

    Raises
    ------
    InputError
        If the input cannot be used, or `output` holds something else.
    """
    from fewslice.data.samples import open_samples

    folder = Path(output)
    registry.check("strategies", experiment.strategy)
    samples = open_samples(
        experiment.images,
        experiment.labels,
        axes=experiment.axes,
        channels=experiment.channels,
        voxel_size_um=experiment.voxel_size_um,
        label_kind=experiment.label_kind,
        planes=experiment.planes,
        background=experiment.background,
        unlabelled=experiment.unlabelled,
    )
    inputs = {sample.image.source: sample.image.content_hash() for sample in samples}
    inputs |= {f"labels of {sample.name}": _annotation_hash(sample) for sample in samples if sample.annotation}
    request = hashlib.sha256(json.dumps([experiment.identity(), inputs], sort_keys=True).encode()).hexdigest()
    found = _claim(folder, request, experiment, inputs, overwrite=overwrite)
    tell = listener or _ignore
    if found == "finished":
        tell({"event": "finished", "note": f"{folder} is finished; nothing to do"})
        return folder
    _check_samples(samples, experiment.strategy)

    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import RunFolder

    strategy_config(experiment)
    loaders = 2 if available_cores() > 4 else 1
    hardware = Hardware(device=device, devices=devices, loaders=loaders, checkpoint_seconds=checkpoint_seconds)
    hardware.torch_device()
    run_folder = RunFolder(folder, listener if hardware.is_main else None, writable=hardware.is_main)
    if not hardware.is_main:  # a process that helps the first one, which has begun the run
        found, tell = "begun", _ignore
    for sample in samples:
        if sample.image.axes_note:
            tell({"event": "note", "note": sample.image.axes_note})
    prepared = _prepare(experiment, samples, run_folder, hardware, stored=found == "begun")
    if found != "begun":
        if found == "foreign":
            _remove_run(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        write_json(run_folder.provenance, _provenance(request, inputs, samples, prepared.split, hardware))
        prepared.experiment.write(run_folder.experiment)
    model = _train(prepared)
    prepared.task.once(lambda: model.save(run_folder.model))
    run_folder.record({"event": "finished", "note": f"the model is in {run_folder.model}"})
    return folder


def run(experiment_file: str | Path, output: str | Path | None = None, **options: Any) -> Path:
    """Train what an experiment file describes; see :func:`train`. By default beside the file, named after it."""
    path = Path(experiment_file)
    return train(read_experiment(path), output or path.with_suffix(""), **options)


def train_samples(
    experiment: Experiment,
    samples: Sequence[Sample],
    folder: Path,
    *,
    hardware: Hardware | None = None,
    monitor: Monitor | None = None,
    monitor_every: int = 0,
    listener: Listener | None = None,
) -> Model:
    """Train on samples that are in memory already, resuming what an earlier call of the same experiment left.

    Parameters
    ----------
    experiment
        Strategy, settings, steps, seed; its paths are not read.
    samples
        Images with or without annotation.
    folder
        The run folder.
    hardware
        Device, precision, threads.
    monitor, monitor_every
        See :func:`fewslice.training.fit.fit`.
    listener
        Called with every event of the log.

    Raises
    ------
    InputError
        If the samples cannot be used, or the folder holds another experiment.
    """
    from fewslice.training.fit import Hardware
    from fewslice.training.run_folder import RunFolder

    folder.mkdir(parents=True, exist_ok=True)
    run_folder = RunFolder(folder, listener)
    _check_samples(samples, experiment.strategy)
    known = read_experiment(run_folder.experiment) if run_folder.experiment.exists() else None
    if known is not None and experiment.steps is None:  # minutes were turned into steps once
        experiment = experiment.model_copy(update={"steps": known.steps, "minutes": None})
    prepared = _prepare(experiment, samples, run_folder, hardware or Hardware(), stored=False)
    if known is not None and known != prepared.experiment:
        raise InputError(f"{folder} holds another experiment; choose another folder, or remove this one")
    task = replace(prepared.task, monitor=monitor, monitor_every=monitor_every)
    prepared.experiment.write(run_folder.experiment)
    model = _train(replace(prepared, task=task))
    model.save(run_folder.model)
    return model


def predict(
    run_or_model: str | Path,
    images: Sequence[str],
    output: str | Path,
    *,
    axes: str | None = None,
    channels: Sequence[int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
    threshold: float | None = None,
    views: int | None = None,
    full_halo: bool = False,
    block: tuple[int, int, int] | None = None,
    resample: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    listener: Listener | None = None,
) -> list[Path]:
    """Apply a trained model to images, block by block.

    Parameters
    ----------
    run_or_model
        A run folder, or the folder of a model.
    images
        Paths or quoted globs; one volume each.
    output
        ``OUT.ome.zarr`` for one image, a folder for several.
    axes, channels, voxel_size_um
        As for training.
    threshold
        Foreground threshold, 0–1; by default the one chosen in training.
    views
        1, 4, 8 or 16 views (see :class:`fewslice.model.NetworkStep`); by default what training set.
    full_halo
        Read the whole receptive field around every block instead of the measured halo.
    block
        (z, y, x) voxels written per block.
    resample
        Accept an image whose voxel differs from the model's by more than 10 %, and predict at the model's voxel.
    device
        Where to compute.
    overwrite
        Replace outputs of another model or image.
    listener
        Called with progress events.

    Returns
    -------
    list of Path
        The outputs, in the order of the images.

    Raises
    ------
    InputError
        If the model or an image cannot be used, or an output belongs to another run.
    PartialError
        If some blocks could not be computed; the others are kept.
    """
    from fewslice.data.samples import expand

    run_folder, model_folder = _model_folder(run_or_model)
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} must be between 0 and 1")
    paths = [str(Path(path).absolute()) for path in expand(images)]
    outputs = _outputs(paths, Path(output))
    _check_outputs(paths, outputs)

    from fewslice.model import Model, model_hash
    from fewslice.prediction.blockwise import predict_volume
    from fewslice.training.fit import Hardware

    model = Model.load(model_folder)
    if views is not None:
        model.steps = tuple(step.model_copy(update={"views": views}) for step in model.steps)
    used_device = Hardware(device=device).torch_device()
    volumes = []
    for path in paths:
        volume = io.open_volume(
            path, axes=axes, channels=channels, voxel_size_um=voxel_size_um, expected_channels=model.in_channels
        )
        model.check_channels(volume.channels, volume.source)
        if volume.axes_note and listener is not None:
            listener({"event": "note", "note": volume.axes_note})
        if volume.voxel_size_um is None:
            volume = replace(volume, voxel_size_um=model.voxel_size_um)
        factor = _voxel_factor(volume.source, volume.voxel_size_um, model.voxel_size_um, resample=resample)
        volumes.append((volume, factor))
    failed = 0
    for (volume, factor), target in zip(volumes, outputs, strict=True):

        def tell(done: int, blocks: int, source: str = volume.source) -> None:
            if listener is not None:
                listener({"event": "block", "image": source, "done": done, "blocks": blocks})

        prediction = predict_volume(
            model,
            volume,
            target,
            model_id=model_hash(model_folder),
            device=used_device,
            threshold=threshold,
            halo=model.receptive_halo if full_halo else None,
            block=block,
            factor=factor,
            attributes={"run": str(run_folder.resolve()), "axes": axes, "channels": channels and list(channels)},
            overwrite=overwrite,
            progress=tell,
        )
        failed += len(prediction.outcome.failed)
        for item, reason in prediction.outcome.failed:
            if listener is not None:
                listener({"event": "block_failed", "image": volume.source, "block": list(item.index), "reason": reason})
        if prediction.already_finished and listener is not None:
            listener({"event": "note", "note": f"{target} is finished; nothing to do"})
        if run_folder != model_folder:
            _note_prediction(run_folder, target, volume.source)
    if failed:
        raise PartialError(
            f"{failed} blocks could not be predicted and stay 0; mend the image and run the same command again"
        )
    return outputs


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    axes: str | None = None,
    planes: Sequence[str] = (),
    background: int | None = None,
    unlabelled: int | str | None = None,
    label_kind: Literal["classes", "instances"] | None = None,
    tolerance_um: float | None = None,
) -> dict[str, Any]:
    """Measure a prediction against truth, on annotated voxels only; see :func:`fewslice.evaluation.evaluate`.

    The scores are also appended to the results of the run that made the prediction, if it is still there.
    """
    from fewslice.evaluation import evaluate as measure

    options = {"axes": axes, "planes": list(planes), "background": background, "unlabelled": unlabelled}
    scores = measure(
        prediction,
        truth,
        axes=axes,
        planes=planes,
        background=background,
        unlabelled=unlabelled,
        label_kind=label_kind,
        tolerance_um=tolerance_um,
    )
    made_by = io.describe(prediction).get("attributes", {}).get("run")
    if made_by and (Path(made_by) / "experiment.yaml").exists():
        entry = {
            "kind": "evaluation",
            "prediction": str(Path(prediction).resolve()),
            "truth": str(Path(truth).resolve()),
            **options,
            "label_kind": label_kind,
            "scores": scores,
        }
        append_line(Path(made_by) / "results.jsonl", entry)
    return scores


def report(
    runs: Sequence[str | Path], *, predictions: Sequence[str | Path] = (), output: str | Path | None = None
) -> Path:
    """Write one self-contained HTML page about one run, or several side by side."""
    from fewslice.report import write_report

    return write_report(
        [Path(r) for r in runs], Path(output) if output else None, predictions=[Path(p) for p in predictions]
    )


def info(path: str | Path, *, axes: str | None = None) -> dict[str, Any]:
    """Describe a volume, its voxel, chunks and labels, without reading it; `axes` if the file does not name them."""
    return io.describe(path, axes=axes)


def export(
    run_or_model: str | Path,
    kind: str,
    output: str | Path,
    *,
    image: str | None = None,
    axes: str | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trained model for other tools; see :mod:`fewslice.export`.

    Parameters
    ----------
    run_or_model
        A run folder, or the folder of a model.
    kind
        ``onnx`` or ``bioimageio``.
    output
        The file; the kind's suffix is added where it has none.
    image, axes
        An image to show the model, and the order of its axes; by default the first one it was trained on.
    settings
        Of the kind.
    overwrite
        Replace an existing file.

    Raises
    ------
    InputError
        If the model, the kind, its settings or the image cannot be used, or the file exists.
    """
    component = registry.load("export", kind)
    run_folder, model_folder = _model_folder(run_or_model)
    config = checked(component.Config, dict(settings or {}), where=f"the settings of {kind}")
    target = Path(output)
    if target.suffix != component.SUFFIX:
        target = target.with_name(target.name + component.SUFFIX)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists; choose another output or pass --overwrite")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target.absolute().parent} is not a folder; create it first")

    from fewslice.model import Model

    model = Model.load(model_folder)
    volume = _image_to_show(run_folder, image, axes, model.in_channels)
    component.export(config, model, target, volume, str(run_folder))
    return target


def _image_to_show(run_folder: Path, image: str | None, axes: str | None, channels: int) -> Volume:
    """Open an image that the model can be shown, by default the first one it was trained on."""
    if image is None:
        path = run_folder / "experiment.yaml"
        if not path.exists():
            raise InputError(f"{run_folder} is a model without its run, so there is no image to show it; give --image")
        experiment = read_experiment(path)
        image, axes = experiment.images[0], axes or experiment.axes
        try:
            return io.open_volume(image, axes=axes, channels=experiment.channels, expected_channels=channels)
        except InputError as error:
            raise InputError(
                f"the image that {run_folder} was trained on cannot be used: {error}; give --image"
            ) from None
    return io.open_volume(image, axes=axes, expected_channels=channels)


def _model_folder(run_or_model: str | Path) -> tuple[Path, Path]:
    """Return the run folder, or that of a model alone, and the folder of the model."""
    run_folder = Path(run_or_model)
    if not run_folder.exists():
        raise InputError(f"{run_folder} does not exist, so there is no trained model; check the path")
    model_folder = run_folder / "model" if (run_folder / "model").is_dir() else run_folder
    if not model_folder.is_dir() or not (model_folder / "model.json").exists():
        raise InputError(f"{run_folder} holds no trained model; train first, or wait until training has finished")
    return run_folder, model_folder


def convert(source: str | Path, target: str | Path, **options: Any) -> Path:
    """Convert a volume to another format; see :func:`fewslice.io.convert`."""
    io.convert(source, target, **options)
    return Path(target)


@dataclass(frozen=True)
class _Prepared:
    """A checked experiment, ready to train."""

    experiment: Experiment
    strategy: Any
    config: Any
    task: Any
    split: Split


def _prepare(
    experiment: Experiment, samples: Sequence[Sample], run_folder: Any, hardware: Hardware, *, stored: bool
) -> _Prepared:
    """Resolve the settings on the data, hold annotation out, and turn minutes into steps."""
    import numpy as np

    from fewslice.annotation import class_values_of
    from fewslice.data.splits import Split, hold_out
    from fewslice.training.budget import steps_for_minutes
    from fewslice.training.task import Task

    if stored:
        experiment = read_experiment(run_folder.experiment)
    annotations = [s.annotation for s in samples if s.annotation is not None]
    strategy = registry.load("strategies", experiment.strategy)
    everything = [a.annotated for a in annotations]
    nothing = [np.zeros(a.shape, dtype=bool) for a in annotations]
    class_values = class_values_of(annotations)

    def task_for(split: Split) -> Task:
        train_masks, held_masks = iter(split.train), iter(split.validation)
        return Task(
            samples=samples,
            train_masks=[next(train_masks) if s.annotation is not None else None for s in samples],
            validation_masks=[next(held_masks) if s.annotation is not None else None for s in samples],
            class_values=class_values,
            run=run_folder,
            seed=experiment.seed,
            hardware=hardware,
        )

    why = "validation was turned off" if annotations else "nothing is annotated"
    whole = Split(everything, nothing, "none", f"Nothing is held out: {why}.")
    config = strategy.resolve(strategy_config(experiment), task_for(whole))
    split = whole
    if experiment.validation == "auto" and annotations:
        split = hold_out(annotations, patch=_largest_patch(config), generator=np.random.default_rng(experiment.seed))
    if run_folder.listener is not None:
        run_folder.listener({"event": "note", "note": split.note})
    task = task_for(split)
    stages = strategy.stages(config, task)
    if isinstance(experiment.steps, dict):
        if set(experiment.steps) != set(stages):
            raise InputError(
                f"steps names {', '.join(experiment.steps)}, but the stages are {', '.join(stages)}; "
                "give steps for each of them and no other"
            )
        steps = {name: experiment.steps[name] for name in stages}
    elif experiment.steps is not None:
        steps = dict.fromkeys(stages, experiment.steps)
    else:
        # Measured by one process, before those that help it are started: they read the steps from the experiment.
        alone = replace(hardware, devices=1)
        between = strategy.between(config, task) if hasattr(strategy, "between") else 0.0
        steps = steps_for_minutes(stages, experiment.minutes or _DEFAULT_MINUTES, alone, between)
    update = {"settings": config.model_dump(mode="json"), "steps": steps, "minutes": None}
    return _Prepared(experiment.model_copy(update=update), strategy, config, replace(task, steps=steps), split)


def _train(prepared: _Prepared) -> Model:
    model: Model = prepared.strategy.train(prepared.config, prepared.task)
    return model


def _largest_patch(config: Any) -> tuple[int, int, int]:
    """Return the largest extent along each axis over all patches in the settings."""
    found: list[Sequence[int]] = []

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            if value.get("patch") is not None:
                found.append(value["patch"])
            for part in value.values():
                look(part)

    look(config.model_dump())
    z, y, x = (max(p[a] for p in found) for a in range(3))
    return (int(z), int(y), int(x))


def _check_samples(samples: Sequence[Sample], strategy: str) -> None:
    """Refuse samples from which nothing can be learned, before anything is written."""
    from fewslice.annotation import check_usable
    from fewslice.data.normalisation import check_finite

    annotations = [sample.annotation for sample in samples if sample.annotation is not None]
    if annotations or getattr(registry.load("strategies", strategy), "ANNOTATION", "needed") != "optional":
        check_usable(annotations)
    _check_voxels(samples)
    for sample in samples:
        check_finite(sample.image)


def _check_voxels(samples: Sequence[Sample]) -> None:
    first = samples[0].image
    for sample in samples[1:]:
        own = sample.image.voxel_size_um
        if (own is None) != (first.voxel_size_um is None):
            without = sample.image.source if own is None else first.source
            raise InputError(f"{without} has no voxel size but the other images do; give --voxel-size-um z,y,x")
        _voxel_factor(sample.image.source, own, first.voxel_size_um, resample=False, against=first.source)


def _voxel_factor(
    source: str,
    voxel: tuple[float, float, float] | None,
    expected: tuple[float, float, float] | None,
    *,
    resample: bool,
    against: str = "the model",
) -> tuple[float, float, float] | None:
    """Return image voxel over model voxel where they differ by more than 10 %, else None."""
    if voxel is None or expected is None:
        return None
    z, y, x = (own / other for own, other in zip(voxel, expected, strict=True))
    if all(abs(f - 1) <= _VOXEL_TOLERANCE for f in (z, y, x)):
        return None
    if not resample:
        raise InputError(
            f"{source} has voxels of {voxel} µm (z, y, x), {against} has {expected}; correct it with --voxel-size-um, "
            "or predict with --resample"
        )
    return (z, y, x)


def _note_prediction(run_folder: Path, output: Path, source: str) -> None:
    """Add a prediction to the results of its run, once, also where a kill came between the two."""
    from fewslice.training.run_folder import read_lines

    entry = {"kind": "prediction", "output": str(output.resolve()), "image": source}
    if entry not in read_lines(run_folder / "results.jsonl"):
        append_line(run_folder / "results.jsonl", entry)


def _outputs(paths: Sequence[str], output: Path) -> list[Path]:
    if len(paths) == 1 and output.suffix == ".zarr":
        return [output]
    if output.suffix == ".zarr":
        raise InputError(f"{len(paths)} images cannot go into one {output.name}; give a folder with -o")
    if output.name.lower().partition(":")[0].endswith((".tif", ".tiff", ".h5", ".hdf5")) and not output.is_dir():
        raise InputError(
            f"a prediction is an OME-Zarr, not {output.name}; give -o OUT.ome.zarr, then use fewslice convert"
        )
    from fewslice.data.samples import stem

    names = [stem(path) for path in paths]
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        raise InputError(f"several images are called {double[0]}; predict them one by one with -o OUT.ome.zarr")
    return [output / f"{name}.ome.zarr" for name in names]


def _check_outputs(paths: Sequence[str], outputs: Sequence[Path]) -> None:
    """Refuse to write over an image that is read, over a store that holds it, or into what is not a folder."""
    for target in outputs:
        above = next(folder for folder in target.absolute().parents if folder.exists())
        if not above.is_dir():
            raise InputError(f"{above} is a file, not a folder; give -o OUT.ome.zarr, or a folder for several images")
        place = target.resolve()
        for path in paths:
            if place in (Path(path).resolve(), *Path(path).resolve().parents):
                raise InputError(f"{target} holds the image {path} itself; choose another -o")


def _ignore(event: dict[str, Any]) -> None:
    pass


def _claim(folder: Path, request: str, experiment: Experiment, inputs: Mapping[str, str], *, overwrite: bool) -> str:
    """Say whether `folder` is new, begun or finished for this request, or foreign and to be replaced; else refuse."""
    provenance = folder / "provenance.json"
    if provenance.exists() and (folder / "experiment.yaml").exists():
        known = json.loads(provenance.read_text(encoding="utf-8"))
        resolved = known.get("inputs") == inputs and read_experiment(folder / "experiment.yaml") == experiment
        if (known.get("request") == request or resolved) and not overwrite:
            return "finished" if (folder / "model" / "model.json").exists() else "begun"
        if not overwrite:
            differs = _difference(read_experiment(folder / "experiment.yaml"), experiment, known.get("inputs"), inputs)
            raise InputError(
                f"{folder} holds a run of another experiment ({differs}); choose another -o or pass --overwrite"
            )
        return "foreign"
    if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
        raise InputError(f"{folder} exists and is not a run of fewslice; choose another -o")
    return "new"


def _difference(
    known: Experiment, asked: Experiment, known_inputs: Mapping[str, str] | None, inputs: Mapping[str, str]
) -> str:
    """Name the first thing in which a request differs from the one that a run was begun with."""
    before, now = known.model_dump(mode="json"), asked.model_dump(mode="json")
    for name in now:
        if name not in ("settings", "steps", "minutes") and before[name] != now[name]:
            return f"{name} was {json.dumps(before[name])}, now {json.dumps(now[name])}"
    changed = [name for name, content in inputs.items() if (known_inputs or {}).get(name) != content]
    if changed:
        return f"the content of {changed[0]} is another"

    def look(old: Any, new: Any, path: str) -> str | None:
        """Compare what was asked for; what was not has been filled in."""
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            return next((found for key in new if (found := look(old.get(key), new[key], f"{path}.{key}"))), None)
        return None if old == new else f"{path} was {json.dumps(old)}, now {json.dumps(new)}"

    return look(before["settings"], now["settings"], "settings") or "its budget or its settings"


def _is_foreign(path: Path) -> bool:
    """Whether a file cannot be what a kill left of a run that had just begun."""
    return path.name != "provenance.json" and not (path.name.startswith(".") and path.name.endswith(".part"))


def _remove_run(folder: Path) -> None:
    import shutil

    for name in ("experiment.yaml", "provenance.json", "log.jsonl", "results.jsonl", "report.html"):
        (folder / name).unlink(missing_ok=True)
    for name in ("stages", "model", "figures"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _annotation_hash(sample: Sample) -> str:
    annotation = sample.annotation
    assert annotation is not None
    digest = hashlib.sha256(annotation.labels.tobytes())
    digest.update(annotation.annotated.tobytes())
    return digest.hexdigest()


def _provenance(
    request: str, inputs: Mapping[str, str], samples: Sequence[Sample], split: Split, hardware: Hardware
) -> dict[str, Any]:
    import torch

    packages = ("fewslice", "torch", "numpy", "scipy", "zarr", "lightning-fabric", "pydantic")
    return {
        "request": request,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "inputs": dict(inputs),
        "samples": [
            {
                "name": s.name,
                "image": s.image.source,
                "shape": list(s.image.shape),
                "channels": s.image.channels,
                "voxel_size_um": s.image.voxel_size_um and list(s.image.voxel_size_um),
                "axes_note": s.image.axes_note,
                "annotated_planes": s.annotation.planes() if s.annotation is not None else [],
                "annotated_share": float(s.annotation.annotated.mean()) if s.annotation is not None else 0.0,
            }
            for s in samples
        ],
        "validation": {"how": split.how, "note": split.note, "planes": [list(p) for p in split.validation_planes]},
        "versions": {name: _installed(name) for name in packages} | {"python": platform.python_version()},
        "hardware": {
            "machine": platform.platform(),
            "cores": available_cores(),
            "device": str(hardware.torch_device()),
            "devices": hardware.devices,
            "threads": torch.get_num_threads(),
        },
    }


def _installed(name: str) -> str | None:
    try:
        return installed_version(name)
    except ModuleNotFoundError:
        return None


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
