"""The loop: what it computes, and that interruption changes nothing."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fewslice.data.patches import Batch
from fewslice.errors import FewsliceError
from fewslice.training.fit import Hardware, fit, learning_rate_factor, measure_cost
from fewslice.training.run_folder import RunFolder, read_lines
from fewslice.training.stage import Schedule, Stage, Validation

CPU = Hardware(device="cpu", bfloat16=False, checkpoint_seconds=0.0)


def _stage(
    *,
    stop_at: int | None = None,
    schedule: Schedule | None = None,
    scores: list[float] | None = None,
    bad: bool = False,
) -> Stage:
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimiser = torch.optim.AdamW(network.parameters(), 0.05)

    def batches(step: int) -> Batch:
        if stop_at is not None and step >= stop_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 3, generator=generator)
        return Batch(x, x.sum(1, keepdim=True) * (float("nan") if bad else 1.0), torch.ones(16))

    def step(
        stage: Stage, batch: Batch, generator: torch.Generator, backward: Callable[[torch.Tensor], None]
    ) -> dict[str, torch.Tensor]:
        noise = 0.01 * torch.randn(batch.target.shape, generator=generator)
        loss = (stage.modules["network"](batch.image) - batch.target + noise).square().mean()
        stage.optimisers["network"].zero_grad()
        backward(loss)
        stage.optimisers["network"].step()
        stage.extra["seen"] = stage.extra.get("seen", 0) + 1
        return {"total": loss}

    left = iter(scores or [])
    return Stage(
        "only",
        {"network": network},
        {"network": optimiser},
        batches,
        step,
        validate=lambda stage: Validation(s, {"dice": s}) if (s := next(left, None)) is not None else None,
        schedule=schedule or Schedule(validations=5),
    )


def _weights(folder: Path, **options: int) -> dict[str, torch.Tensor]:
    return fit(_stage(), RunFolder(folder), steps=30, seed=3, hardware=CPU, **options).weights["network"]


def test_a_broken_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Two interruptions, resumed from checkpoints, change not one bit; dropout and the stage's own draws included."""
    unbroken = _weights(tmp_path / "a")
    for stop_at in (9, 21):
        with pytest.raises(KeyboardInterrupt):
            fit(_stage(stop_at=stop_at), RunFolder(tmp_path / "b"), steps=30, seed=3, hardware=CPU)
        assert (tmp_path / "b/stages/only/checkpoint.pt").exists()
    stage = _stage()
    resumed = fit(stage, RunFolder(tmp_path / "b"), steps=30, seed=3, hardware=CPU).weights["network"]
    assert stage.extra["seen"] == 30
    assert all(torch.equal(unbroken[k], resumed[k]) for k in unbroken)
    steps = [e["step"] for e in read_lines(tmp_path / "b/log.jsonl") if e["event"] == "step"]
    assert steps == sorted(set(steps))


def test_another_seed_ends_elsewhere(tmp_path: Path) -> None:
    """The equality above is not that of constants."""
    first = fit(_stage(), RunFolder(tmp_path / "a"), steps=30, seed=3, hardware=CPU).weights["network"]
    second = fit(_stage(), RunFolder(tmp_path / "b"), steps=30, seed=4, hardware=CPU).weights["network"]
    assert not torch.equal(first["0.weight"], second["0.weight"])


def test_a_finished_stage_is_returned_without_training(tmp_path: Path) -> None:
    """Its stored weights are loaded; batches are not even asked for."""
    first = _weights(tmp_path)
    stage = _stage(stop_at=0)
    again = fit(stage, RunFolder(tmp_path), steps=30, seed=3, hardware=CPU)
    assert all(torch.equal(first[k], again.weights["network"][k]) for k in first)
    assert torch.equal(stage.modules["network"].state_dict()["0.weight"], first["0.weight"])


def test_the_best_validation_is_kept(tmp_path: Path) -> None:
    """With scores that peak in the middle, the weights of the peak are returned, not the last ones."""
    run = RunFolder(tmp_path / "a")
    fitted = fit(_stage(scores=[0.1, 0.9, 0.3, 0.2, 0.1]), run, steps=30, seed=3, hardware=CPU)
    assert fitted.validation is not None and fitted.validation["step"] == 12
    last = fit(_stage(scores=[0.1, 0.2, 0.3, 0.4, 0.5]), RunFolder(tmp_path / "b"), steps=30, seed=3, hardware=CPU)
    assert not torch.equal(fitted.weights["network"]["0.weight"], last.weights["network"]["0.weight"])
    assert json.loads((tmp_path / "a/stages/only/result.json").read_text())["validation"]["dice"] == 0.9


def test_patience_stops_early(tmp_path: Path) -> None:
    """Two validations without improvement end the stage."""
    stage = _stage(scores=[0.5, 0.4, 0.3, 0.9, 0.9], schedule=Schedule(validations=5, patience=2))
    assert fit(stage, RunFolder(tmp_path), steps=30, seed=3, hardware=CPU).steps == 18


def test_averaged_weights_are_the_moving_average(tmp_path: Path) -> None:
    """One module, one parameter, computed by hand beside the loop."""
    parameter = nn.Linear(1, 1, bias=False)
    nn.init.constant_(parameter.weight, 1.0)

    def step(stage, batch, generator, backward):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            parameter.weight.add_(1.0)
        return {"total": torch.zeros(())}

    stage = Stage(
        "mean",
        {"network": parameter},
        {"network": torch.optim.SGD(parameter.parameters(), 1.0)},
        lambda s: Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1)),
        step,
        schedule=Schedule(averaging=0.5),
    )
    found = fit(stage, RunFolder(tmp_path), steps=3, seed=0, hardware=CPU).weights["network"]["weight"].item()
    mean = 1.0
    for i, value in enumerate((2.0, 3.0, 4.0)):
        decay = min(0.5, (1 + i) / (10 + i))
        mean = decay * mean + (1 - decay) * value
    assert found == pytest.approx(mean, abs=1e-6)


def test_a_validation_that_is_not_finite_ends_in_one_sentence(tmp_path: Path) -> None:
    """Losses are looked at now and then only; weights that diverged in between show here first."""
    parameter = torch.nn.Linear(1, 1)
    stage = Stage(
        "only",
        {"network": parameter},
        {"network": torch.optim.SGD(parameter.parameters(), 1.0)},
        lambda s: Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1)),
        lambda *_: {"total": torch.zeros(())},
        validate=lambda _: Validation(0.5, {"dice": float("nan"), "objects": 3}),
    )
    with pytest.raises(FewsliceError, match=r"stage only diverged at step 1: validation .*nan.*learning_rate"):
        fit(stage, RunFolder(tmp_path), steps=1, seed=0, hardware=CPU)


def test_a_loss_that_is_not_finite_ends_in_one_sentence(tmp_path: Path) -> None:
    """The stage, the step and what to change are named."""
    with pytest.raises(FewsliceError, match=r"stage only diverged at step 1.*learning_rate"):
        fit(_stage(bad=True), RunFolder(tmp_path), steps=5, seed=0, hardware=CPU)


def test_matching_initial_weights_are_taken_over(tmp_path: Path) -> None:
    """Weights of another shape are listed as changed."""
    stage = _stage()
    stage.initial = {"network": {"0.weight": torch.full((8, 3), 0.25), "3.weight": torch.zeros(2, 8)}}
    before = stage.modules["network"].state_dict()["3.weight"].clone()
    stage.optimisers["network"].param_groups[0]["lr"] = 0.0
    stage.optimisers["network"].param_groups[0]["weight_decay"] = 0.0
    weights = fit(stage, RunFolder(tmp_path), steps=1, seed=0, hardware=CPU).weights["network"]
    assert torch.equal(weights["0.weight"], torch.full((8, 3), 0.25)) and torch.equal(weights["3.weight"], before)
    event = next(e for e in read_lines(tmp_path / "log.jsonl") if e["event"] == "initial")
    assert event["taken"] == 1 and "3.weight" in event["changed"] and "0.weight" not in event["changed"]


def test_learning_rate_schedules() -> None:
    """Warm-up is linear to 1; cosine halves midway and ends near 0; poly follows nnU-Net."""
    cosine = Schedule(warmup=0.1, decay="cosine")
    assert [round(learning_rate_factor(cosine, s, 100), 3) for s in (0, 9, 10, 55)] == [0.1, 1.0, 1.0, 0.5]
    assert learning_rate_factor(cosine, 99, 100) < 0.001
    assert learning_rate_factor(Schedule(warmup=0, decay="poly"), 50, 100) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(Schedule(warmup=0, decay="none"), 99, 100) == 1.0


def test_the_probe_measures_a_step() -> None:
    """Waiting for batches counts, and so does the time of a validation."""

    def slow(step: int) -> Batch:
        time.sleep(0.05)
        return fast.batches(step)

    def validate(stage: Stage) -> Validation:
        time.sleep(0.1)
        return Validation(0.0)

    fast = _stage()
    stage = dataclasses.replace(_stage(), batches=slow, validate=validate)
    cost = measure_cost(stage, CPU, count=3)
    assert cost.step > 0.045 and 0.1 <= cost.validation < 1.0


def test_monitoring_changes_nothing(tmp_path: Path) -> None:
    """The hook sees averaged weights; the result is the same with it."""
    plain = _weights(tmp_path / "a")
    seen: list[int] = []
    watched = _weights(tmp_path / "b", monitor=lambda stage, step: seen.append(step), monitor_every=10)  # type: ignore[arg-type]
    assert seen == [10, 20, 30]
    assert all(torch.equal(plain[k], watched[k]) for k in plain)


def test_figures_are_those_of_the_weights_that_were_kept(tmp_path: Path) -> None:
    """With keep=last the threshold is that of the last weights, not of better ones that were not kept."""
    schedule = Schedule(validations=5, keep="last")
    fitted = fit(
        _stage(scores=[0.1, 0.9, 0.3, 0.2, 0.4], schedule=schedule), RunFolder(tmp_path), steps=30, seed=3, hardware=CPU
    )
    assert fitted.validation is not None and fitted.validation["step"] == 30 and fitted.validation["dice"] == 0.4
    plain = _weights(tmp_path / "plain")
    assert all(torch.equal(fitted.weights["network"][k], plain[k]) for k in plain)


def test_threads_that_prepare_batches_leave_the_number_of_threads_alone(tmp_path: Path) -> None:
    """What is started after training, and training in another thread, may use all of them."""
    found: list[int] = []

    def elsewhere() -> None:
        fit(_stage(), RunFolder(tmp_path), steps=2, seed=0, hardware=CPU)
        found.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for work in (elsewhere, lambda: found.append(torch.get_num_threads())):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert found == [3, 3]
