"""Several devices share a stage: two processes on a CPU stand for two GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fewslice import io
from fewslice.volume import Volume


def test_two_processes_train_one_model(tmp_path: Path, fewslice: Callable[..., Any]) -> None:
    """The first one alone logs and writes; both see every stage; prediction between the stages happens once."""
    values = np.random.default_rng(0).integers(0, 80, (8, 48, 48), dtype=np.uint8)
    labels = np.zeros((8, 48, 48), np.uint8)
    labels[:, 10:30, 12:34] = 1
    io.save_volume(tmp_path / "image.tif", Volume.from_array(values + 100 * labels, (1.0, 1.0, 1.0)))
    io.save_volume(tmp_path / "labels.tif", Volume.from_array(labels, (1.0, 1.0, 1.0)))
    settings = [f"{network}.network.{name}" for network in ("teacher", "student") for name in ("features=4", "depth=2")]
    command = ["train", "image.tif", "--labels", "labels.tif", "--planes", "2,5", "--strategy", "pseudo_labels"]
    command += ["--steps", "3", "--validation", "none", "--device", "cpu", "--devices", "2", "-o", "RUN"]
    done = fewslice(tmp_path, *command, *(part for setting in settings for part in ("--set", setting)))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "RUN/log.jsonl").read_text().splitlines()]
    finished = [e["stage"] for e in events if e["event"] == "stage" and e["state"] == "finished"]
    assert finished == ["teacher", "student"]
    assert (tmp_path / "RUN/model/model.safetensors").exists()
    assert done.stdout.count("trained RUN") == 1
