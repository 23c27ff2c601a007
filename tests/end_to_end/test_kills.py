"""``kill -9`` at any stage of training and prediction, then the same command again: the bytes of an unbroken run.

Everything that a kill can interrupt is interrupted in one run after another of the same command, each at a moment that
is read off the files, never off a clock.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fewslice = Callable[..., subprocess.CompletedProcess[str]]
KillWhen = Callable[..., None]

STEPS = 60


@pytest.fixture(scope="module")
def kill_when(command: str, environment: dict[str, str]) -> KillWhen:
    """Start the command, kill it as soon as something is true, and check that it did not end by itself."""

    def run(folder: Path, *arguments: str | Path, when: Callable[[], bool]) -> None:
        process = subprocess.Popen(
            [command, *map(str, arguments)],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        limit = time.monotonic() + 120
        try:
            while not when():
                assert process.poll() is None, f"the command ended before it could be killed: {process.stderr.read()}"
                assert time.monotonic() < limit, "what the kill waits for never came"
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    return run


@pytest.fixture(scope="module")
def train(tiny: dict[str, list[str]]) -> list[str]:
    """A training command that checkpoints after every step and validates six times per stage."""
    tiny_settings = [s.replace("validations=2", "validations=6") for s in tiny["pseudo_labels"]]
    what = ["train", "image.tif", "--labels", "labels.tif", "--axes", "zyx", "--background", "0"]
    return [*what, *tiny_settings, "--voxel-size-um", "2,1,1", "--steps", str(STEPS), "--checkpoint-seconds", "0"]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, write_volume: Callable[..., None], done: Fewslice, train: list[str]
) -> Path:
    """A volume and the unbroken run on it."""
    folder = tmp_path_factory.mktemp("place")
    write_volume(folder, shape=(12, 48, 48))
    write_volume(folder / "wide", shape=(4, 288, 288), seed=1)
    done(folder, *train, "-o", "UNBROKEN")
    return folder


def events(run: Path) -> list[dict[str, Any]]:
    """Events of a log that may be in the middle of being written."""
    if not (run / "log.jsonl").exists():
        return []
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def validated(run: Path, stage: str) -> list[dict[str, Any]]:
    return [e for e in events(run) if e["event"] == "validation" and e["stage"] == stage]


def test_training_killed_in_every_stage(
    place: Path, train: list[str], kill_when: KillWhen, fewslice: Fewslice, done: Fewslice,
    folder_hash: Callable[[Path], str],
) -> None:  # fmt: skip
    run, command = place / "KILLED", [*train, "-o", "KILLED"]
    teacher, student = run / "stages" / "teacher", run / "stages" / "student"

    kill_when(place, *command, when=(run / "provenance.json").exists)
    assert not (run / "model").exists()

    kill_when(place, *command, when=lambda: len(validated(run, "teacher")) >= 2)
    assert (teacher / "checkpoint.pt").exists() and not (teacher / "result.pt").exists()

    before = folder_hash(run)
    other = fewslice(place, *command, "--seed", "1")
    assert other.returncode == 2 and folder_hash(run) == before, "a begun run was taken for another experiment's"

    kill_when(place, *command, when=lambda: len(validated(run, "teacher")) >= 5)
    assert not (teacher / "result.pt").exists()

    kill_when(place, *command, when=(teacher / "result.pt").exists)
    assert not (teacher / "model" / "model.json").exists()

    kill_when(place, *command, when=(teacher / "predicted").exists)
    assert not student.exists()

    kill_when(place, *command, when=lambda: len(validated(run, "student")) >= 3)
    assert (student / "checkpoint.pt").exists() and not (student / "result.pt").exists()

    kill_when(place, *command, when=(student / "result.pt").exists)
    assert not (run / "model" / "model.json").exists()

    done(place, *command)
    unbroken = place / "UNBROKEN"
    for name in ("model/model.safetensors", "model/model.json", "experiment.yaml"):
        assert (run / name).read_bytes() == (unbroken / name).read_bytes(), f"{name} differs"
    for name in ("stages/teacher/predicted", "stages/teacher/model", "model"):
        assert folder_hash(run / name) == folder_hash(unbroken / name), f"{name} differs"
    for stage in ("teacher", "student"):
        assert validated(run, stage) == validated(unbroken, stage)
        assert len(validated(run, stage)) == 6
        resumed = [e["step"] for e in events(run) if e["event"] == "stage" and e["stage"] == stage]
        assert any(0 < step < STEPS for step in resumed), f"{stage} began anew instead of going on: {resumed}"


def test_continuity_killed_in_either_stage_and_between(
    place: Path, tiny: dict[str, list[str]], kill_when: KillWhen, done: Fewslice, folder_hash: Callable[[Path], str]
) -> None:
    settings = [s.replace("validations=2", "validations=6") for s in tiny["continuity"]]
    what = ["train", "image.tif", "--labels", "labels.tif", "--axes", "zyx", "--background", "0", "--planes", "0:12:2"]
    command = [*what, *settings, "--voxel-size-um", "2,1,1", "--steps", str(STEPS), "--checkpoint-seconds", "0", "-o"]
    run, unbroken = place / "KILLED_CONTINUITY", place / "UNBROKEN_CONTINUITY"
    segment, continuity = run / "stages" / "segment", run / "stages" / "continuity"
    done(place, *command, unbroken)

    def validations(stage: str) -> int:
        return len(validated(run, stage))

    kill_when(place, *command, run, when=lambda: validations("segment") >= 3)
    assert (segment / "checkpoint.pt").exists() and not (segment / "result.pt").exists()
    kill_when(place, *command, run, when=(segment / "predicted").exists)
    assert not continuity.exists()
    kill_when(place, *command, run, when=lambda: validations("continuity") >= 3)
    assert (continuity / "checkpoint.pt").exists() and not (continuity / "result.pt").exists()
    done(place, *command, run)
    for name in ("model", "stages/segment/model", "stages/segment/predicted"):
        assert folder_hash(run / name) == folder_hash(unbroken / name), f"{name} differs"
    assert (run / "experiment.yaml").read_bytes() == (unbroken / "experiment.yaml").read_bytes()


def test_prediction_killed(
    place: Path, kill_when: KillWhen, fewslice: Fewslice, done: Fewslice, folder_hash: Callable[[Path], str]
) -> None:
    predict = ["predict", "UNBROKEN", "wide/image.tif", "--axes", "zyx", "--block", "4,32,32", "-o"]  # 81 blocks
    out = place / "killed" / "OUT.ome.zarr"

    def marks() -> int:
        return len(list((out / ".fewslice").glob("*.done")))

    kill_when(place, *predict, out, when=out.parent.exists)
    kill_when(place, *predict, out, when=lambda: marks() >= 3)
    assert 3 <= marks() < 81
    first = {path.name: path.stat().st_mtime_ns for path in (out / ".fewslice").glob("*.done")}

    before = folder_hash(out)
    other = fewslice(place, *predict, out, "--threshold", "0.9")
    assert other.returncode == 2 and folder_hash(out) == before, "a begun output was taken for another one"

    kill_when(place, *predict, out, when=lambda: marks() >= 25)
    assert 25 <= marks() < 81
    second = {path.name: path.stat().st_mtime_ns for path in (out / ".fewslice").glob("*.done")}
    assert first.items() <= second.items(), "finished blocks were computed again"

    kill_when(place, *predict, out, when=(out / "1").exists)
    assert not json.loads((out / ".fewslice" / "job.json").read_text(encoding="utf-8"))["finished"]

    done(place, *predict, out)
    done(place, *predict, "unbroken/OUT.ome.zarr")
    assert folder_hash(place / "killed") == folder_hash(place / "unbroken")
    written = [json.loads(line) for line in (place / "UNBROKEN/results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [Path(w["output"]) for w in written] == [out, place / "unbroken" / "OUT.ome.zarr"]


def test_finished_is_said_and_changes_nothing(
    place: Path, train: list[str], done: Fewslice, folder_hash: Callable[[Path], str]
) -> None:
    predict = ["predict", "UNBROKEN", "image.tif", "--block", "12,48,48", "-o", "once/OUT.ome.zarr"]
    done(place, *predict)
    before = folder_hash(place)
    for command in ([*train, "-o", "UNBROKEN"], predict):
        again = done(place, *command)
        assert "is finished; nothing to do" in again.stdout
        assert folder_hash(place) == before


def test_run_again_from_its_own_file(place: Path, done: Fewslice) -> None:
    done(place, "run", "UNBROKEN/experiment.yaml", "-o", "AGAIN", "--quiet")
    for name in ("model.safetensors", "model.json"):
        assert (place / "AGAIN/model" / name).read_bytes() == (place / "UNBROKEN/model" / name).read_bytes()
