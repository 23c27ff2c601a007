"""Kill the long verbs again and again, resume them, and compare what comes out, byte for byte, with an unbroken run.

Each of ``predict``, ``segment``, ``measure`` and ``mesh`` starts from what the verbs before it made, in three arms:

``process``
    The command itself is killed (SIGKILL), at random times, and started again.
``worker``
    One of two workers is killed; the command goes on by itself.
``command_with_workers``
    The command is killed while two workers compute for it.

A kill comes at a moment drawn from the number of blocks done and a random delay. After each, the store must open; after
all kills of an arm the command runs to its end, ``fewslice verify`` looks at what it made, and every file is compared.

A cell is one arm of one verb; a draw seeds the moments. Most of the time goes into starting commands, so the volume is
small and the network light. All cells of a call share one unbroken run.
"""

from __future__ import annotations

import argparse
import atexit
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cells as runner
from benchmarks.cells import Cell, Context
from benchmarks.volumes import command, light_model, sparse_volume
from fewslice import io
from fewslice.errors import FewsliceError

__all__ = ["ARMS", "RECIPE", "VERBS", "Round", "again", "main", "plan", "prepare", "run_arm", "run_cell", "table"]

RECIPE = "1"
"""Version of the measurement. Raise it whenever what is measured changes."""

ARMS = ("process", "worker", "command_with_workers")
VERBS = ("predict", "segment", "measure", "mesh")
_MADE = {"predict": "OUT.ome.zarr", "segment": "OUT.ome.zarr", "measure": "OUT.objects.csv", "mesh": "OUT.meshes"}
_TIERS: dict[str, dict[str, Any]] = {
    "full": {"kills": 17, "shape": [64, 256, 256], "block": [16, 64, 64]},
    "quick": {"kills": 2, "shape": [32, 64, 64], "block": [8, 32, 32]},
}
"""17 kills for each of twelve arms are 204."""
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
    unopened
        Kills after which the store could not be opened.
    """

    verb: str
    arm: str
    kills: int
    marks: tuple[int, ...]
    exit_codes: tuple[int, int]
    same: bool
    unopened: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost."""
        return self.same and self.exit_codes == (0, 0) and not self.unopened


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """List the cells that the command line asks for."""
    tier = "quick" if arguments.quick else "full"
    return [_cell(verb, arm, draw, tier) for draw in range(arguments.draws) for verb in VERBS for arm in ARMS]


def again(result: Mapping[str, Any]) -> Cell:
    """Make the cell of a stored result as it would be made today."""
    cell = result["cell"]
    return _cell(cell["setting"], cell["arm"], cell["draw"], cell["config"]["tier"])


def _cell(verb: str, arm: str, draw: int, tier: str) -> Cell:
    label = {"tier": tier} if tier != "full" else {}
    config = {"tier": tier, **_TIERS[tier]}
    return Cell("faults", verb, arm, draw, config, "synthetic", {}, RECIPE, label, group="one unbroken run")


def run_cell(cell: Cell, context: Context) -> dict[str, Any]:
    """Kill one verb in one arm as often as the cell says."""
    began = _cpu_seconds()
    shape, block = cell.config["shape"], cell.config["block"]
    work = _scratch(context.work)
    prepare(work, shape, block, [cell.setting])
    blocks = int(np.prod([-(-n // b) for n, b in zip(shape, block, strict=True)]))
    expected = blocks * (3 if cell.setting == "segment" else 1)
    if cell.setting == "mesh":
        expected = _marks(work / "after" / "mesh") - _marks(work / "before" / "mesh")
    found = run_arm(cell.setting, cell.arm, work, block, kills=cell.config["kills"], expected=expected, seed=cell.draw)
    return {
        "scores": {"kills": found.kills, "lost": int(not found.passed), "unopened": found.unopened},
        "round": {"marks": list(found.marks), "exit_codes": list(found.exit_codes), "same": found.same},
        "cpu_seconds": _cpu_seconds() - began,
    }


def _cpu_seconds() -> float:
    """Return the processor seconds of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@lru_cache(maxsize=1)
def _scratch(parent: Path) -> Path:
    """Make the folder that the cells of this process share; it goes with the process."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="faults-", dir=parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def prepare(work: Path, shape: Sequence[int], block: Sequence[int], verbs: Sequence[str] = VERBS) -> None:
    """Make model, volume and the unbroken run of the verbs, with what was there before each; what is there is kept."""
    unbroken = work / "unbroken"
    if not unbroken.exists():
        light_model(work / "model")
        sparse_volume(work / "image.ome.zarr", shape, every=2)
        unbroken.mkdir()
    last = max(VERBS.index(verb) for verb in verbs)
    for verb in VERBS[: last + 1]:
        if (work / "after" / verb).exists():
            continue
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
    rounds: list[Round] = []
    while (left := kills - sum(r.kills for r in rounds)) > 0 and len(rounds) < kills:  # a run may end before all kills
        rounds.append(_run_round(verb, arm, work, block, left, expected, rng))
    return Round(
        verb,
        arm,
        sum(r.kills for r in rounds),
        tuple(moment for r in rounds for moment in r.marks),
        (max(r.exit_codes[0] for r in rounds), max(r.exit_codes[1] for r in rounds)),
        all(r.same for r in rounds),
        sum(r.unopened for r in rounds),
    )


def _run_round(
    verb: str, arm: str, work: Path, block: Sequence[int], kills: int, expected: int, rng: np.random.Generator
) -> Round:
    """Kill one output's making up to `kills` times, let it end, and compare."""
    folder = work / f"{verb}-{arm}"
    shutil.copytree(work / "before" / verb, folder)
    before = _marks(folder)
    full = [*_command(verb, work, folder, block), *(["--workers", "2"] if arm != "process" else [])]
    moments: list[int] = []
    unopened = 0
    running = _start(full)
    try:
        for number in range(kills):
            low = _marks(folder) - before
            high = max(low + 1, expected * (number + 1) // (kills + 1))
            if not _wait(running, folder, before + int(rng.integers(low + 1, high + 1))):
                break
            time.sleep(float(rng.uniform(0, 0.05)))
            if _kill(arm, running, rng):
                if arm != "worker":
                    running.wait()
                moments.append(_marks(folder) - before)
                unopened += not _opens(folder / "OUT.ome.zarr")
            if arm != "worker":
                running = _start(full)
        code = running.wait(_LIMIT_SECONDS)
    finally:
        running.kill()
        running.wait()
    verify = command("verify", folder / _MADE[verb], "--quiet")
    checked = subprocess.run(verify, check=False, stdout=subprocess.DEVNULL).returncode
    same = _same(work / "after" / verb, folder)
    shutil.rmtree(folder)
    return Round(verb, arm, len(moments), tuple(moments), (code, checked), same, unopened)


def _opens(store: Path) -> bool:
    """Whether a store, if it is there, opens, with the levels and labels that it lists."""
    try:
        if store.exists():
            io.describe(store)
            io.open_volume(store)
    except (FewsliceError, OSError, ValueError, KeyError):
        return False
    return True


def _start(full: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(full, stdout=subprocess.DEVNULL)


def _marks(folder: Path) -> int:
    """Count the blocks that are marked as done, in passes that run and in those that have ended."""
    found = 0
    for place, names in _hidden(folder):
        found += sum(name.endswith(".done") for name in names)
        if "written.jsonl" in names:
            with suppress(OSError):
                found += Path(place, "written.jsonl").read_bytes().count(b"\n")
    return found


def _hidden(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the folders, with their files, in which records lie: hidden ones, and in these all but arrays.

    A look every few milliseconds must not cost much more than the commands that are looked at.
    """
    for place, folders, names in os.walk(folder):  # which may vanish meanwhile
        within = any(part.startswith(".") for part in Path(place).relative_to(folder).parts)
        top = place == str(folder)
        folders[:] = [name for name in folders if not name.endswith(".zarr") or top]
        if not top and not within:
            folders[:] = [name for name in folders if name.startswith(".")]
        yield place, names


def _wait(running: subprocess.Popen[bytes], folder: Path, marks: int) -> bool:
    """Wait until so many blocks are marked; return whether the command is still running then."""
    limit = time.monotonic() + _LIMIT_SECONDS
    while running.poll() is None and _marks(folder) < marks and time.monotonic() < limit:
        time.sleep(0.01)
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


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for people."""
    rows = [
        f"{'verb':<9}{'arm':<22}{'kills':>6}{'exit':>6}{'verify':>8}{'bytes':>8}{'opens':>7}  blocks done at each kill"
    ]
    for result in results:
        said, scores, cell = result["round"], result["scores"], result["cell"]
        same, opens = "same" if said["same"] else "DIFFER", "no" if scores["unopened"] else "always"
        rows.append(
            f"{cell['setting']:<9}{cell['arm']:<22}{scores['kills']:>6}{said['exit_codes'][0]:>6}"
            f"{said['exit_codes'][1]:>8}{same:>8}{opens:>7}  {', '.join(map(str, said['marks']))}"
        )
    return "\n".join(rows)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draws", type=int, default=1, help="repetitions with other moments; 204 kills each")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and print the table; exit code 1 when something was lost."""
    code = runner.main(
        argv,
        benchmark="faults",
        description=__doc__.split("\n")[0],
        plan=plan,
        function=run_cell,
        options=_options,
        flags=lambda arguments: f" --draws {arguments.draws}" if arguments.draws > 1 else "",
    )
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--results", type=Path, default=runner.RESULTS)
    found = runner.read_results("faults", results=parser.parse_known_args(argv)[0].results)
    if found:
        print(table(runner.current(runner.of_one_recipe(found), again)))
    return 1 if any(result["scores"]["lost"] for result in found) else code


if __name__ == "__main__":
    sys.exit(main())
