"""The options for large volumes, through the shell's own entry: estimates, SLURM scripts, verification."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.volumes import light_model, sparse_volume
from fewslice.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder with a model and an image; return exit code, output and complaints."""
    light_model(tmp_path / "model", steps=0)
    sparse_volume(tmp_path / "image.ome.zarr", (16, 64, 64), every=1)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


PREDICT = ("predict", "model", "image.ome.zarr", "-o", "OUT.ome.zarr", "--block", "16,32,32")


def test_a_dry_run_estimates_and_shows_the_job_script(run: Run, tmp_path: Path) -> None:
    (tmp_path / "slurm.yaml").write_text("queue: long\nmemory: 3GB\n")
    code, said, _ = run(*PREDICT, "--dry-run", "--json", "--slurm", "slurm.yaml")
    found = json.loads(said)
    assert code == 0 and found["estimates"][0]["blocks"] == 4 and found["estimates"][0]["memory_bytes"] > 2**24
    assert "#SBATCH -p long" in found["job_script"]
    assert not (tmp_path / "OUT.ome.zarr").exists()
    code, said, _ = run(*PREDICT, "--dry-run")
    assert code == 0 and "4 blocks of 16 × 32 × 32 voxels" in said and "disk" in said


def test_verify_says_what_is_missing_and_repair_lets_it_be_made_again(run: Run, tmp_path: Path) -> None:
    code, said, _ = run(*PREDICT, "--json")
    assert code == 0 and json.loads(said) == {"outputs": ["OUT.ome.zarr"]}
    assert run("verify", "OUT.ome.zarr", "--json")[0] == 0
    (tmp_path / "OUT.ome.zarr/0/c/0/0/1/0").unlink()
    code, said, _ = run("verify", "OUT.ome.zarr")
    assert code == 1 and "missing: chunk c/0/0/1/0 of 0, block [0, 1, 0]" in said
    assert run("verify", "OUT.ome.zarr", "--repair")[0] == 1
    assert run("verify", "OUT.ome.zarr")[0] == 3
    code, said, _ = run(*PREDICT)
    blocks = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert code == 0 and [e["done"] for e in blocks if e["event"] == "block"] == [4]
    assert json.loads(run("verify", "OUT.ome.zarr", "--json")[1])["exit_code"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheduler", "tcp://127.0.0.1:1", "--workers", "2"), "leave --workers and --slurm out"),
        (("--slurm", "absent.yaml"), "absent.yaml cannot be read"),
        (("--slurm", "wrong.yaml"), "partition"),
        (("--shard", "16,64"), "--shard 16,64 must be three positive numbers"),
        (("--skip-empty",), "predict without --skip-empty"),
        (("-o", "s3://bucket/OUT.ome.zarr"), "is an address"),
    ],
)
def test_what_does_not_fit_is_one_sentence(run: Run, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "wrong.yaml").write_text("partition: long\n")
    code, _, complaint = run(*PREDICT, *options)
    assert code == 2 and message in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "OUT.ome.zarr").exists()
