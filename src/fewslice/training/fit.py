"""The only training loop.

1. A finished stage is loaded and returned.
2. A started one continues from its checkpoint; batches and random numbers are functions of the step, so the weights
   come out the same as without the interruption.
3. Every step: learning rates, batch (prepared ahead in a thread), the stage's own step, averaging.
4. Now and then: log, validate, checkpoint.
5. At the end the chosen weights are written, and only then is the stage marked as finished.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewslice.errors import FewsliceError, InputError
from fewslice.files import write_atomic, write_json
from fewslice.training.allocator import keep_memory
from fewslice.training.run_folder import RunFolder
from fewslice.training.stage import Schedule, Stage, StepBatch, Validation

__all__ = ["Cost", "Fitted", "Hardware", "Monitor", "fit", "measure_cost"]

Weights = dict[str, dict[str, torch.Tensor]]
Monitor = Callable[[Stage, int], None]

_LOG_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Attributes
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    devices
        Number of devices (processes) that share a stage.
    bfloat16
        Compute in bfloat16; None where the device is fast at it.
    loaders
        Threads that prepare batches.
    checkpoint_seconds
        Time between checkpoints.
    """

    device: str = "auto"
    devices: int = 1
    bfloat16: bool | None = None
    loaders: int = 1
    checkpoint_seconds: float = 60.0

    @property
    def is_main(self) -> bool:
        """Whether this process writes: the first of those that share the training."""
        return int(os.environ.get("LOCAL_RANK", "0")) == 0

    def torch_device(self) -> torch.device:
        """Return the device on which networks live.

        Raises
        ------
        InputError
            If the device is unknown or this machine has none.
        """
        here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if self.device == "auto":
            return torch.device(next(name for name in ("cuda", "mps", "cpu") if here[name]))
        if not here.get(self.device, False):
            present = " or ".join(["auto", *(name for name, found in here.items() if found)])
            raise InputError(f"device {self.device!r} is not there; choose {present}")
        return torch.device(self.device)


@dataclass(frozen=True)
class Fitted:
    """The outcome of a stage.

    Attributes
    ----------
    weights
        By module: the weights that were chosen (averaged, best on validation or last).
    steps
        Steps taken.
    validation
        The figures of the chosen weights, or None without validation.
    """

    weights: Weights
    steps: int
    validation: Mapping[str, Any] | None


@dataclass
class _Progress:
    """What a checkpoint holds beside the modules and optimisers."""

    step: int = 0
    averaged: Weights = field(default_factory=dict)
    best: Weights = field(default_factory=dict)
    best_score: float = -math.inf
    best_figures: dict[str, Any] | None = None
    last_figures: dict[str, Any] | None = None
    since_best: int = 0


def fit(
    stage: Stage,
    run: RunFolder,
    *,
    steps: int,
    seed: int,
    hardware: Hardware | None = None,
    monitor: Monitor | None = None,
    monitor_every: int = 0,
) -> Fitted:
    """Train a stage, or return its stored result.

    Parameters
    ----------
    stage
        What to train. Its modules are changed in place and hold the chosen weights afterwards.
    run
        Where state and log are kept.
    steps
        Number of steps: the whole budget.
    seed
        Seeds everything random in the steps (dropout, the stage's own draws).
    hardware
        Device, precision, threads.
    monitor, monitor_every
        Called every so many steps with the averaged weights in place; changes nothing of the training.

    Returns
    -------
    Fitted
        The chosen weights.

    Raises
    ------
    FewsliceError
        If the loss is no longer finite.
    """
    hardware = hardware or Hardware()
    folder = run.stage(stage.name)
    result = folder / "result.pt"
    if result.exists():
        return _finished(stage, result)
    keep_memory()
    fabric = _fabric(hardware)
    originals = dict(stage.modules)
    _set_up(stage, fabric)
    progress = _resume(stage, originals, folder, run)
    if not progress.averaged and stage.schedule.averaging:
        progress.averaged = _copy(originals)
    run.record({"event": "stage", "stage": stage.name, "state": "started", "step": progress.step, "steps": steps})
    peak = {name: [g["lr"] for g in o.param_groups] for name, o in stage.optimisers.items()}
    peak = stage.extra.setdefault("peak_learning_rates", peak)
    validate_at = {round(steps * (i + 1) / stage.schedule.validations) for i in range(stage.schedule.validations)}
    last_checkpoint = last_log = time.monotonic()
    began, began_step = time.monotonic(), progress.step
    loaded = _ahead(stage.batches, progress.step, steps, fabric, hardware.loaders)
    for step, batch in loaded:
        for module in stage.modules.values():
            module.train()
        _set_learning_rates(stage, peak, step, steps)
        mixed = _mix(seed, stage.name, step)
        torch.manual_seed(mixed)
        losses = stage.step(stage, batch, torch.Generator().manual_seed(mixed), fabric.backward)
        _average(progress.averaged, originals, stage.schedule, step)
        progress.step = step + 1
        now = time.monotonic()
        if now - last_log >= _LOG_EVERY_SECONDS or progress.step in (began_step + 1, steps):
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            if not all(math.isfinite(v) for v in values.values()):
                raise _diverged(stage, progress.step, f"loss {values}")
            pace = (now - began) / (progress.step - began_step)
            run.record(
                {
                    "event": "step",
                    "stage": stage.name,
                    "step": progress.step,
                    "steps": steps,
                    "loss": {name: round(value, 6) for name, value in values.items()},
                    "lr": next(iter(stage.optimisers.values())).param_groups[0]["lr"],
                    "seconds": round(now - began, 2),
                    "seconds_left": round(pace * (steps - progress.step), 1),
                }
            )
            last_log = now
        if progress.step in validate_at and _validate(stage, originals, progress, run, steps):
            break
        if monitor is not None and monitor_every and (progress.step % monitor_every == 0 or progress.step == steps):
            with _averaged_weights(originals, progress.averaged):
                monitor(stage, progress.step)
        if time.monotonic() - last_checkpoint >= hardware.checkpoint_seconds:
            _save_checkpoint(stage, originals, progress, folder, fabric)
            last_checkpoint = time.monotonic()
    loaded.close()
    stage.modules.update(originals)
    if progress.best and stage.schedule.keep == "best":
        fitted = Fitted(progress.best, progress.step, progress.best_figures)
    else:
        fitted = Fitted(progress.averaged or _copy(originals), progress.step, progress.last_figures)
    if fabric.is_global_zero:
        write_json(folder / "result.json", {"steps": fitted.steps, "validation": fitted.validation})
        _write_tensors(result, {"weights": fitted.weights, "steps": fitted.steps, "validation": fitted.validation})
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    fabric.barrier()
    _load(originals, fitted.weights)
    run.record({"event": "stage", "stage": stage.name, "state": "finished", "step": progress.step, "steps": steps})
    return fitted


@dataclass(frozen=True)
class Cost:
    """What a stage costs, in wall seconds.

    Attributes
    ----------
    step
        One step, waiting for its batch included.
    validation
        One validation; 0 where nothing is held out.
    """

    step: float
    validation: float


def measure_cost(stage: Stage, hardware: Hardware, *, count: int = 6) -> Cost:
    """Measure how long a step and a validation of a stage take.

    Parameters
    ----------
    stage
        A throwaway one: its weights change and its optimisers' state is filled.
    hardware
        Device, precision, threads.
    count
        Steps measured, after two that are not.
    """
    keep_memory()
    fabric = _fabric(hardware)
    originals = dict(stage.modules)
    _set_up(stage, fabric)
    for module in stage.modules.values():
        module.train()
    ends = []
    for _, batch in _ahead(stage.batches, 0, count + 2, fabric, hardware.loaders):
        losses = stage.step(stage, batch, torch.Generator().manual_seed(0), fabric.backward)
        float(next(iter(losses.values())).detach())
        ends.append(time.perf_counter())
    for module in stage.modules.values():
        module.eval()
    began = time.perf_counter()
    stage.validate(stage)
    validation = time.perf_counter() - began
    stage.modules.update(originals)
    return Cost((ends[-1] - ends[1]) / count, validation)


def _fabric(hardware: Hardware) -> Any:
    import logging

    from lightning_fabric import Fabric

    from fewslice.model import prefers_bfloat16

    device = hardware.torch_device()
    use_bfloat16 = prefers_bfloat16(device) if hardware.bfloat16 is None else hardware.bfloat16
    strategy = "auto" if hardware.devices == 1 else "ddp"
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        devices=hardware.devices,
        strategy=strategy,
        precision="bf16-mixed" if use_bfloat16 else "32-true",
    )
    fabric.launch()
    return fabric


def _set_up(stage: Stage, fabric: Any) -> None:
    for name, module in stage.modules.items():
        layout = torch.channels_last if getattr(module, "dims", 2) == 2 else torch.channels_last_3d
        module.to(device=fabric.device, memory_format=layout)  # type: ignore[call-overload]
        stage.modules[name] = fabric.setup_module(module)
    for name, optimiser in stage.optimisers.items():
        stage.optimisers[name] = fabric.setup_optimizers(optimiser)


def _ahead(
    batches: Callable[[int], StepBatch], first: int, steps: int, fabric: Any, loaders: int
) -> Generator[tuple[int, StepBatch], None, None]:
    """Yield (step, batch) for the remaining steps, the next ones being prepared meanwhile."""
    world, rank = fabric.world_size, fabric.global_rank
    ahead = 2 * loaders

    def prepare(step: int) -> StepBatch:
        return batches(step * world + rank)

    threads = torch.get_num_threads()  # asked here, before a loader's own number becomes that of every new thread
    try:
        with ThreadPoolExecutor(loaders, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: list[Future[StepBatch]] = [
                pool.submit(prepare, s) for s in range(first, min(first + ahead, steps))
            ]
            try:
                for step in range(first, steps):
                    batch = waiting.pop(0).result()
                    if step + ahead < steps:
                        waiting.append(pool.submit(prepare, step + ahead))
                    yield step, batch.to(fabric.device)
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        torch.set_num_threads(threads)


def _set_learning_rates(stage: Stage, peak: dict[str, list[float]], step: int, steps: int) -> None:
    factor = learning_rate_factor(stage.schedule, step, steps)
    for name, optimiser in stage.optimisers.items():
        for group, rate in zip(optimiser.param_groups, peak[name], strict=True):
            group["lr"] = rate * factor


def learning_rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the learning rate of `step` (0-based) as a share of its peak."""
    warmup = int(schedule.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    if schedule.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule.decay == "poly":
        return float((1 - done) ** 0.9)
    return 1.0


def _mix(seed: int, name: str, step: int) -> int:
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _average(averaged: Weights, modules: Mapping[str, nn.Module], schedule: Schedule, step: int) -> None:
    if not averaged:
        return
    decay = min(schedule.averaging, (1 + step) / (10 + step))
    for name, module in modules.items():
        mean = averaged[name]
        floats = []
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                floats.append((mean[key], value.detach()))
            else:
                mean[key].copy_(value)
        torch._foreach_lerp_([m for m, _ in floats], [v for _, v in floats], 1 - decay)


@contextmanager
def _averaged_weights(modules: Mapping[str, nn.Module], averaged: Weights) -> Iterator[None]:
    """Put the averaged weights in place for the duration."""
    if not averaged:
        yield
        return
    current = _copy(modules)
    _load(modules, averaged)
    try:
        yield
    finally:
        _load(modules, current)


def _validate(stage: Stage, modules: Mapping[str, nn.Module], progress: _Progress, run: RunFolder, steps: int) -> bool:
    """Validate the averaged weights, remember the best, and say whether to stop."""
    with _averaged_weights(modules, progress.averaged):
        for module in modules.values():
            module.eval()
        found: Validation | None = stage.validate(stage)
        if found is None:
            return False
        numbers = {"score": found.score} | {k: v for k, v in found.figures.items() if isinstance(v, float)}
        if not all(map(math.isfinite, numbers.values())):
            raise _diverged(stage, progress.step, f"validation {numbers}")
        run.record(
            {
                "event": "validation",
                "stage": stage.name,
                "step": progress.step,
                "steps": steps,
                "score": found.score,
                **found.figures,
            }
        )
        progress.since_best += 1
        progress.last_figures = {"step": progress.step, "score": found.score, **found.figures}
        if found.score > progress.best_score:
            progress.best_score, progress.since_best = found.score, 0
            progress.best_figures = progress.last_figures
            progress.best = _copy(modules)
    patience = stage.schedule.patience
    return patience is not None and progress.since_best >= patience


def _diverged(stage: Stage, step: int, what: str) -> FewsliceError:
    return FewsliceError(
        f"stage {stage.name} diverged at step {step}: {what}; lower its learning_rate with --set and train again"
    )


def _copy(modules: Mapping[str, nn.Module]) -> Weights:
    return {
        name: {key: value.detach().clone() for key, value in module.state_dict().items()}
        for name, module in modules.items()
    }


def _load(modules: Mapping[str, nn.Module], weights: Weights) -> None:
    for name, module in modules.items():
        module.load_state_dict(weights[name])


def _take_initial(stage: Stage, modules: Mapping[str, nn.Module], run: RunFolder) -> None:
    for name, weights in stage.initial.items():
        own = modules[name].state_dict()
        taken = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
        modules[name].load_state_dict({**own, **taken})
        changed = sorted(set(own) - set(taken))
        run.record({"event": "initial", "stage": stage.name, "module": name, "taken": len(taken), "changed": changed})


def _write_tensors(path: Path, content: dict[str, Any]) -> None:
    buffer = BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def _save_checkpoint(
    stage: Stage, modules: Mapping[str, nn.Module], progress: _Progress, folder: Path, fabric: Any
) -> None:
    if fabric.is_global_zero:
        content = {
            "modules": _copy(modules),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in stage.optimisers.items()},
            "extra": stage.extra,
            "progress": vars(progress),
        }
        _write_tensors(folder / "checkpoint.pt", content)
    fabric.barrier()


def _resume(stage: Stage, modules: Mapping[str, nn.Module], folder: Path, run: RunFolder) -> _Progress:
    path = folder / "checkpoint.pt"
    if not path.exists():
        run.forget_after(stage.name, -1)
        _take_initial(stage, modules, run)
        return _Progress()
    device = next(next(iter(modules.values())).parameters()).device
    content = torch.load(path, map_location=device, weights_only=True)
    _load(modules, content["modules"])
    for name, state in content["optimisers"].items():
        stage.optimisers[name].load_state_dict(state)
    stage.extra.clear()
    stage.extra.update(content["extra"])
    progress = _Progress(**content["progress"])
    run.forget_after(stage.name, progress.step)
    return progress


def _finished(stage: Stage, result: Path) -> Fitted:
    content = torch.load(result, map_location="cpu", weights_only=True)
    _load(stage.modules, content["weights"])
    return Fitted(content["weights"], content["steps"], content["validation"])
