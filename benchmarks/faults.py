"""Kill prediction again and again, resume it, and compare what comes out, byte for byte, with an unbroken run.

``process``
    The command itself is killed (SIGKILL), at random times, and started again.
``worker``
    One of two workers is killed; the command goes on by itself.
``command_with_workers``
    The command is killed while two workers compute for it.

A kill comes at a moment drawn from the number of marks on disk and a random delay. After all kills of an arm the
command runs to its end, ``fewslice verify`` looks at the store, and every file is compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.volumes import command, light_model, sparse_volume

__all__ = ["ARMS", "Round", "main", "run_arm", "table"]

ARMS = ("process", "worker", "command_with_workers")
_LIMIT_SECONDS = 600.0


@dataclass(frozen=True)
class Round:
    """What became of one arm.

    Attributes
    ----------
    arm
        Which process is killed.
    kills
        Kills that met a running process.
    marks
        Blocks that were marked when each kill came.
    exit_codes
        Of the last run and of ``verify``.
    same
        Whether every file equals that of the unbroken run.
    """

    arm: str
    kills: int
    marks: tuple[int, ...]
    exit_codes: tuple[int, int]
    same: bool

    @property
    def passed(self) -> bool:
        """Whether nothing was lost."""
        return self.same and self.exit_codes == (0, 0)


def prepare(work: Path, shape: Sequence[int], block: Sequence[int]) -> list[str]:
    """Make model, volume and the unbroken run; return the command without its output."""
    light_model(work / "model")
    sparse_volume(work / "image.ome.zarr", shape, every=2)
    predict = command(
        "predict", work / "model", work / "image.ome.zarr", "--quiet", "--block", ",".join(map(str, block))
    )
    subprocess.run([*predict, "-o", str(work / "unbroken" / "OUT.ome.zarr")], check=True, stdout=subprocess.DEVNULL)
    return predict


def run_arm(arm: str, predict: Sequence[str], work: Path, *, blocks: int, kills: int, seed: int = 0) -> Round:
    """Kill one arm `kills` times, let it end, and compare.

    Parameters
    ----------
    arm
        One of :data:`ARMS`.
    predict, work
        See :func:`prepare`.
    blocks
        Number of blocks of the volume.
    kills
        How often to kill.
    seed
        Of the moments.
    """
    rng = np.random.default_rng(seed)
    out = work / arm / "OUT.ome.zarr"
    full = [*predict, *(["--workers", "2"] if arm != "process" else []), "-o", str(out)]
    moments: list[int] = []
    running = _start(full)
    try:
        for number in range(kills):
            wanted = int(rng.integers(_marks(out), max(_marks(out) + 1, blocks * (number + 1) // (kills + 1) + 1)))
            if not _wait(running, out, wanted):
                break
            time.sleep(float(rng.uniform(0, 0.05)))
            if _kill(arm, running, rng):
                moments.append(_marks(out))
            if arm != "worker":
                running.wait()
                running = _start(full)
        code = running.wait(_LIMIT_SECONDS)
    finally:
        running.kill()
        running.wait()
    checked = subprocess.run(command("verify", out, "--quiet"), check=False, stdout=subprocess.DEVNULL).returncode
    return Round(arm, len(moments), tuple(moments), (code, checked), _same(work / "unbroken", work / arm))


def _start(full: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(full, stdout=subprocess.DEVNULL)


def _marks(out: Path) -> int:
    return len(list((out / ".fewslice").glob("*.done")))


def _wait(running: subprocess.Popen[bytes], out: Path, marks: int) -> bool:
    """Wait until so many blocks are marked; return whether the command is still running then."""
    limit = time.monotonic() + _LIMIT_SECONDS
    while running.poll() is None and _marks(out) < marks and time.monotonic() < limit:
        time.sleep(0.002)
    return running.poll() is None


def _kill(arm: str, running: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    """Kill the command, or one of its workers; return whether there was one."""
    if arm != "worker":
        running.kill()
        return True
    workers = [p for p in psutil.Process(running.pid).children(recursive=True) if "spawn_main" in " ".join(_said(p))]
    if not workers:
        return False
    workers[int(rng.integers(len(workers)))].kill()
    return True


def _said(process: psutil.Process) -> list[str]:
    try:
        said: list[str] = process.cmdline()
        return said
    except psutil.Error:
        return []


def _same(one: Path, other: Path) -> bool:
    files = [{p.relative_to(f): p for p in f.rglob("*") if p.is_file()} for f in (one, other)]
    return files[0].keys() == files[1].keys() and all(
        path.read_bytes() == files[1][name].read_bytes() for name, path in files[0].items()
    )


def table(rounds: Sequence[Round]) -> str:
    """Return a table for people."""
    rows = [f"{'arm':<22}{'kills':>6}{'exit':>6}{'verify':>8}{'bytes':>8}  blocks marked at each kill"]
    for r in rounds:
        same = "same" if r.same else "DIFFER"
        marks = ", ".join(map(str, r.marks))
        rows.append(f"{r.arm:<22}{r.kills:>6}{r.exit_codes[0]:>6}{r.exit_codes[1]:>8}{same:>8}  {marks}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kills per arm")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 256, 256], metavar=("Z", "Y", "X"))
    parser.add_argument("--block", type=int, nargs=3, default=[32, 64, 64], metavar=("Z", "Y", "X"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    blocks = int(np.prod([-(-n // b) for n, b in zip(arguments.shape, arguments.block, strict=True)]))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        predict = prepare(work, arguments.shape, arguments.block)
        rounds = [
            run_arm(arm, predict, work, blocks=blocks, kills=arguments.kills, seed=arguments.seed)
            for arm in arguments.arms
        ]
    print(json.dumps([vars(r) for r in rounds], indent=2) if arguments.json else table(rounds))
    return 0 if all(r.passed for r in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
