"""Train: what an experiment describes becomes a run folder."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewslice import registry
from fewslice.errors import InputError
from fewslice.experiment import Experiment, open_inputs, read_experiment, strategy_config
from fewslice.files import disk_error, is_unfinished, write_json
from fewslice.workflow.common import Listener, available_cores, ignore_event, voxel_factor

if TYPE_CHECKING:
    from fewslice.data.samples import Sample
    from fewslice.data.splits import Split
    from fewslice.model import Model
    from fewslice.training.fit import Hardware, Monitor

__all__ = ["run", "train", "train_samples"]

_DEFAULT_MINUTES = 30.0


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
    folder = Path(output)
    registry.check("strategies", experiment.strategy)
    samples = open_inputs(experiment)
    inputs = _hashes(samples)
    request = hashlib.sha256(json.dumps([experiment.identity(), inputs], sort_keys=True).encode()).hexdigest()
    found = _claim(folder, request, experiment, inputs, overwrite=overwrite)
    tell = listener or ignore_event
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
        found, tell = "begun", ignore_event
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
    if hasattr(strategy, "measured"):
        config = strategy.measured(config, task)
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
    task = replace(task, steps=steps)
    if hasattr(strategy, "check"):
        strategy.check(config, task)
    update = {"settings": config.model_dump(mode="json"), "steps": steps, "minutes": None}
    return _Prepared(experiment.model_copy(update=update), strategy, config, task, split)


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
    if annotations or registry.constant("strategies", strategy, "ANNOTATION") != "optional":
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
        voxel_factor(sample.image.source, own, first.voxel_size_um, resample=False, against=first.source)


def _hashes(samples: Sequence[Sample]) -> dict[str, str]:
    """Return a hash of every image, by its path, and of every annotation."""
    inputs = {sample.image.source: sample.image.content_hash() for sample in samples}
    return inputs | {f"labels of {s.name}": s.annotation.content_hash() for s in samples if s.annotation}


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
    return path.name != "provenance.json" and not is_unfinished(path)


def _remove_run(folder: Path) -> None:
    import shutil

    for name in ("experiment.yaml", "provenance.json", "log.jsonl", "results.jsonl", "plan.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    for name in ("stages", "model", "figures", "plan"):
        shutil.rmtree(folder / name, ignore_errors=True)


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
