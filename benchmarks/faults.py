"""Kill the long verbs again and again, resume them, and compare what comes out, byte for byte, with an unbroken run.

Each of ``predict``, ``segment``, ``measure`` and ``mesh`` starts from what the verbs before it made, in three arms:

``process``
    The command itself is killed (SIGKILL), at random times, and started again.
``worker``
    One of two workers is killed; the command goes on by itself.
``command_with_workers``
    The command is killed while two workers compute for it.

A kill comes at a moment drawn from the number of blocks done and a random delay. After all kills of an arm the command
runs to its end, ``fewslice verify`` looks at what it made, and every file is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.volumes import command, light_model, sparse_volume

__all__ = ["ARMS", "VERBS", "Round", "main", "prepare", "run_arm", "table"]

ARMS = ("process", "worker", "command_with_workers")
VERBS = ("predict", "segment", "measure", "mesh")
_MADE = {"predict": "OUT.ome.zarr", "segment": "OUT.ome.zarr", "measure": "OUT.objects.csv", "mesh": "OUT.meshes"}
_LIMIT_SECONDS = 600.0


@dataclass(frozen=True)
class Round:
    """What became of one arm.

    Attributes
    ----------
    verb, arm
        What runs, and which of its processes is killed.
    kills
        Kills that met a running process.
    marks
        Blocks that were done when each kill came, those of all passes that can still be seen.
    exit_codes
        Of the last run and of ``verify``.
    same
        Whether every file equals that of the unbroken run.
    """

    verb: str
    arm: str
    kills: int
    marks: tuple[int, ...]
    exit_codes: tuple[int, int]
    same: bool

    @property
    def passed(self) -> bool:
        """Whether nothing was lost."""
        return self.same and self.exit_codes == (0, 0)


def prepare(work: Path, shape: Sequence[int], block: Sequence[int], verbs: Sequence[str] = VERBS) -> None:
    """Make model, volume and the unbroken run of the verbs, with what was there before each."""
    light_model(work / "model")
    sparse_volume(work / "image.ome.zarr", shape, every=2)
    unbroken = work / "unbroken"
    unbroken.mkdir()
    last = max(VERBS.index(verb) for verb in verbs)
    for verb in VERBS[: last + 1]:
        shutil.copytree(unbroken, work / "before" / verb)
        subprocess.run(_command(verb, work, unbroken, block), check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(unbroken, work / "after" / verb)


def _command(verb: str, work: Path, folder: Path, block: Sequence[int]) -> list[str]:
    """Return the command of a verb in a folder of its own."""
    out, cut = folder / "OUT.ome.zarr", ["--quiet", "--block", ",".join(map(str, block))]
    if verb == "predict":
        return command("predict", work / "model", work / "image.ome.zarr", "-o", out, *cut)
    if verb == "segment":
        return command("segment", out, *cut, "--segmenter", "watershed", "--set", "min_size_um3=500")
    if verb == "measure":
        return command("measure", out, *cut)
    return command("mesh", out, "--quiet", "--format", "ply")


def run_arm(
    verb: str, arm: str, work: Path, block: Sequence[int], *, kills: int, expected: int, seed: int = 0
) -> Round:
    """Kill one arm of a verb `kills` times, let it end, and compare.

    Parameters
    ----------
    verb, arm
        Of :data:`VERBS` and :data:`ARMS`.
    work, block
        See :func:`prepare`.
    kills
        How often to kill.
    expected
        About how many blocks are done in a pass, by which the kills are spread.
    seed
        Of the moments.
    """
    rng = np.random.default_rng([seed, VERBS.index(verb), ARMS.index(arm)])
    folder = work / f"{verb}-{arm}"
    shutil.copytree(work / "before" / verb, folder)
    before = _marks(folder)
    full = [*_command(verb, work, folder, block), *(["--workers", "2"] if arm != "process" else [])]
    moments: list[int] = []
    running = _start(full)
    try:
        for number in range(kills):
            low = _marks(folder) - before
            wanted = before + int(rng.integers(low, max(low + 1, expected * (number + 1) // (kills + 1) + 1)))
            if not _wait(running, folder, wanted):
                break
            time.sleep(float(rng.uniform(0, 0.05)))
            if _kill(arm, running, rng):
                moments.append(_marks(folder) - before)
            if arm != "worker":
                running.wait()
                running = _start(full)
        code = running.wait(_LIMIT_SECONDS)
    finally:
        running.kill()
        running.wait()
    verify = command("verify", folder / _MADE[verb], "--quiet")
    checked = subprocess.run(verify, check=False, stdout=subprocess.DEVNULL).returncode
    return Round(verb, arm, len(moments), tuple(moments), (code, checked), _same(work / "after" / verb, folder))


def _start(full: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(full, stdout=subprocess.DEVNULL)


def _marks(folder: Path) -> int:
    """Count the blocks that are marked as done, in passes that run and in those that have ended."""
    found = 0
    for place, _, names in os.walk(folder):  # folders may vanish meanwhile
        found += sum(name.endswith(".done") for name in names)
        if "written.jsonl" in names:
            with suppress(OSError):
                found += Path(place, "written.jsonl").read_bytes().count(b"\n")
    return found


def _wait(running: subprocess.Popen[bytes], folder: Path, marks: int) -> bool:
    """Wait until so many blocks are marked; return whether the command is still running then."""
    limit = time.monotonic() + _LIMIT_SECONDS
    while running.poll() is None and _marks(folder) < marks and time.monotonic() < limit:
        time.sleep(0.002)
    return running.poll() is None


def _kill(arm: str, running: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    """Kill the command, or one of its workers; return whether there was one."""
    if arm != "worker":
        running.kill()
        return True
    try:
        children = psutil.Process(running.pid).children(recursive=True)
    except psutil.Error:
        return False
    workers = [p for p in children if "spawn_main" in " ".join(_said(p))]
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
    """Whether two folders hold the same files, but for the names of their own folders in them."""
    names = [{p.relative_to(f): p for p in f.rglob("*") if p.is_file()} for f in (one, other)]
    return names[0].keys() == names[1].keys() and all(
        _content(path, one) == _content(names[1][name], other) for name, path in names[0].items()
    )


def _content(path: Path, folder: Path) -> bytes:
    content = path.read_bytes()
    for place in (folder, folder.parent / "unbroken", folder.parent.parent / "unbroken"):
        content = content.replace(str(place).encode() + b"/", b"FOLDER/")
    return content


def table(rounds: Sequence[Round]) -> str:
    """Return a table for people."""
    rows = [f"{'verb':<9}{'arm':<22}{'kills':>6}{'exit':>6}{'verify':>8}{'bytes':>8}  blocks done at each kill"]
    for r in rounds:
        same = "same" if r.same else "DIFFER"
        marks = ", ".join(map(str, r.marks))
        rows.append(f"{r.verb:<9}{r.arm:<22}{r.kills:>6}{r.exit_codes[0]:>6}{r.exit_codes[1]:>8}{same:>8}  {marks}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kills per verb and arm")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 256, 256], metavar=("Z", "Y", "X"))
    parser.add_argument("--block", type=int, nargs=3, default=[32, 64, 64], metavar=("Z", "Y", "X"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    blocks = int(np.prod([-(-n // b) for n, b in zip(arguments.shape, arguments.block, strict=True)]))
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        prepare(work, arguments.shape, arguments.block, arguments.verbs)
        for verb in arguments.verbs:
            expected = blocks * (3 if verb == "segment" else 1)
            if verb == "mesh":
                expected = _marks(work / "after" / verb) - _marks(work / "before" / verb)
            for arm in arguments.arms:
                found = run_arm(
                    verb, arm, work, arguments.block, kills=arguments.kills, expected=expected, seed=arguments.seed
                )
                rounds.append(found)
                if not arguments.json:
                    print(table([found]).splitlines()[1], flush=True)
    print(json.dumps([vars(r) for r in rounds], indent=2) if arguments.json else table(rounds))
    return 0 if all(r.passed for r in rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
