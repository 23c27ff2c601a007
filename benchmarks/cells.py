"""The cached-cell runner on which every benchmark stands.

A *cell* is one measurement: one arm, in one setting, for one draw (the seed that says what is annotated and how
training starts). Its result is one small JSON file, and the file's name is a hash of everything the result depends on.

1. :class:`Cell` names a measurement; :attr:`Cell.key` hashes its configuration, data, budget and recipe version.
2. :func:`run_cells` runs the cells that have no result yet, in a fixed order, in this process or in several, until
   the time is up. A cell that fails is recorded beside the results and does not stop the others.
3. :func:`read_results` reads what is there; :func:`of_one_recipe` refuses to mix recipe versions; :func:`stale` lists
   the files that no planned cell asks for any more.
4. :func:`main` is the command line that all benchmarks share.

Only the standard library and numpy are imported here; whatever a cell needs, its own function imports.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "Cell",
    "CellFunction",
    "Clock",
    "Context",
    "MixedRecipesError",
    "Summary",
    "current",
    "data_identity",
    "main",
    "of_both_tiers",
    "of_one_recipe",
    "read_failures",
    "read_results",
    "run_cells",
    "selected",
    "stale",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_SCHEMA = 1
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class MixedRecipesError(ValueError):
    """Results of several recipe versions were about to enter one table."""


@dataclass(frozen=True)
class Cell:
    """One measurement and everything its result depends on.

    Parameters
    ----------
    benchmark
        The benchmark, and the name of its folder of results.
    setting
        The data and protocol, e.g. ``phantom``.
    arm
        What is compared, e.g. ``sparse_3d``.
    draw
        The seed of the draw: which planes are annotated and how training starts. Arms of one draw are paired.
    config
        What else the result depends on, as plain JSON values.
    data
        Identity of the data: a hash, see :func:`data_identity`.
    budget
        Steps per stage, or minutes.
    recipe
        Version of the recipe; raised by hand whenever the code changes what a result means.
    label
        Names of the axes that tell this cell from its neighbours, e.g. ``{"planes": 2}``; each is also in `config`.
    group
        Cells of one group run one after the other in one process, so that they can share what an earlier one made.
    """

    benchmark: str
    setting: str
    arm: str
    draw: int
    config: Mapping[str, Any]
    data: str
    budget: Mapping[str, float]
    recipe: str
    label: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the key is made of, as plain JSON values."""
        return {
            "benchmark": self.benchmark,
            "setting": self.setting,
            "arm": self.arm,
            "draw": self.draw,
            "config": dict(self.config),
            "data": self.data,
            "budget": dict(self.budget),
            "recipe": self.recipe,
        }

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that change when anything in :attr:`identity` changes."""
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What a person types after ``--only``: ``setting/arm/planes=2/draw=0``."""
        axes = [f"{key}={value}" for key, value in self.label.items()]
        return "/".join([self.setting, self.arm, *axes, f"draw={self.draw}"])

    def matches(self, pattern: str) -> bool:
        """Say whether every blank-separated term of `pattern` matches the name or one whole part of it."""
        parts = [*self.name.split("/"), self.key]
        return all(
            fnmatch.fnmatchcase(self.name, term) or any(fnmatch.fnmatchcase(part, term) for part in parts)
            for term in pattern.split()
        )


@dataclass(frozen=True)
class Context:
    """Where and with what a cell runs. Nothing in it may change what a score means.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    threads
        Threads of the process that runs the cell.
    work
        Scratch folder that outlives a cell, for stages that several cells share.
    data
        Folder of the real data sets.
    """

    device: str
    threads: int
    work: Path
    data: Path


CellFunction = Callable[[Cell, Context], Mapping[str, Any]]


class Clock:
    """Processor and wall seconds of this process, without what happens inside :meth:`paused`.

    Processor seconds are those of all threads of the process.
    """

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def cpu(self) -> float:
        """Processor seconds since the clock was made, pauses left out."""
        return time.process_time() - self._cpu

    @property
    def wall(self) -> float:
        """Wall seconds since the clock was made, pauses left out."""
        return time.perf_counter() - self._wall

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the body out of both figures."""
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self._cpu += time.process_time() - cpu
            self._wall += time.perf_counter() - wall


@dataclass
class Summary:
    """What a call of :func:`run_cells` did: names of cells, in the order in which they ended."""

    done: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    postponed: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 when every cell has a result, else 3: partly done, the same command resumes."""
        return 3 if self.failed or self.postponed else 0


def data_identity(*parts: Any) -> str:
    """Hash arrays and plain values into twelve hexadecimal digits.

    Parameters
    ----------
    parts
        numpy arrays (shape, type and bytes count) or JSON values.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape}{part.dtype.str}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, allow_nan=False).encode())
    return digest.hexdigest()[:12]


# --- results on disk ---


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON beside `path` and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(value), indent=1, sort_keys=True, allow_nan=False) + "\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as stream:
        stream.write(text)
    try:
        Path(stream.name).chmod(0o644)
        Path(stream.name).replace(path)
    except OSError:
        Path(stream.name).unlink(missing_ok=True)
        raise


def _plain(value: Any) -> Any:
    """Make `value` JSON: numpy numbers become numbers of six digits, what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}") if np.isfinite(value) else None
    return value


def read_results(benchmark: str, *, results: Path = RESULTS) -> list[dict[str, Any]]:
    """Read every result of `benchmark`, sorted by the name of its cell; failures are not among them."""
    return _read(results / benchmark, failed=False)


def read_failures(benchmark: str, *, results: Path = RESULTS) -> list[dict[str, Any]]:
    """Read what failed and has not been done since, sorted by the name of its cell."""
    return _read(results / benchmark, failed=True)


def _read(folder: Path, *, failed: bool) -> list[dict[str, Any]]:
    paths = [path for path in sorted(folder.glob("*.json")) if path.name.endswith(".failed.json") == failed]
    loaded = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(loaded, key=lambda result: (result["name"], result["key"]))


def of_one_recipe(loaded: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Give `loaded` back if all its results have one recipe version.

    Raises
    ------
    MixedRecipesError
        If there are several versions: a table would compare what is not comparable.
    """
    versions = sorted({str(result["cell"]["recipe"]) for result in loaded})
    if len(versions) > 1:
        raise MixedRecipesError(
            f"results of recipe versions {', '.join(versions)} cannot stand in one table; choose one version, or "
            "delete the old results that --stale lists"
        )
    return loaded


def current(loaded: Iterable[Mapping[str, Any]], again: Callable[[Mapping[str, Any]], Cell]) -> list[dict[str, Any]]:
    """Keep the results that would get the same key today: same settings, budget, data and recipe version.

    Parameters
    ----------
    loaded
        Results as stored.
    again
        Makes the cell of a result anew; may raise KeyError for an arm or setting that is gone.
    """
    kept = []
    for result in loaded:
        try:
            same = again(result).key == result["key"]
        except KeyError:
            same = False
        if same:
            kept.append(dict(result))
    return kept


def stale(cells: Sequence[Cell], *, results: Path = RESULTS) -> list[tuple[Path, str]]:
    """List result files that no cell of `cells` asks for, each with the reason.

    Parameters
    ----------
    cells
        All planned cells of the benchmarks whose folders are looked at.
    results
        Folder of all results.
    """
    found = []
    for benchmark in sorted({cell.benchmark for cell in cells}):
        planned = {cell.key: cell for cell in cells if cell.benchmark == benchmark}
        by_name = {cell.name: cell for cell in planned.values()}
        for path in sorted((results / benchmark).glob("*.json")):
            loaded = json.loads(path.read_text(encoding="utf-8"))
            if loaded["key"] not in planned:
                found.append((path, _why_stale(loaded, by_name.get(loaded["name"]))))
    return found


def _why_stale(loaded: Mapping[str, Any], cell: Cell | None) -> str:
    if cell is None:
        return f"{loaded['name']}: no such cell is planned"
    old, new = loaded["cell"], json.loads(json.dumps(cell.identity))
    changed = [part for part in ("recipe", "data", "budget", "config") if old.get(part) != new[part]]
    recipe = f" (recipe {old.get('recipe')}, now {new['recipe']})" if "recipe" in changed else ""
    return f"{loaded['name']}: changed {', '.join(changed)}{recipe}"


# --- running ---


def selected(cells: Iterable[Cell], only: Sequence[str]) -> list[Cell]:
    """Keep the cells that match any of the patterns in `only`; all of them when there is none."""
    return [cell for cell in cells if not only or any(cell.matches(pattern) for pattern in only)]


def run_cells(
    cells: Sequence[Cell],
    function: CellFunction,
    context: Context,
    *,
    results: Path = RESULTS,
    command: str = "",
    jobs: int = 1,
    max_minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> Summary:
    """Run those of `cells` that have no result yet.

    Parameters
    ----------
    cells
        What is wanted. Order is kept; cells of one group run in one process, one after the other.
    function
        Called with a cell and `context`; what it returns is stored. With several jobs it must be importable by name.
    context
        Device, threads, folders.
    results
        Folder of all results; a cell's file is ``results/<benchmark>/<key>.json``.
    command
        The command without its filter, stored with each result followed by ``--only <name>``.
    jobs
        Processes that run cells at the same time, each with ``context.threads`` threads.
    max_minutes
        No cell starts after this time, nor one whose like took longer than what is left of it.
    say
        Takes one line for each event.

    Returns
    -------
    Summary
        Names of the cells that were done, were there, failed, or were left for the next call.
    """
    summary = Summary()
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if _path(results, cell).exists():
            summary.present.append(cell.name)
        else:
            groups.setdefault(cell.group or cell.key, []).append(cell)
    session = _Session(results, command, summary, say, sum(map(len, groups.values())), max_minutes)
    session.learn(cells, context)
    if jobs == 1:
        _limit_threads(context.threads)
        for cell in (cell for group in groups.values() for cell in group):
            if session.starts(cell):
                session.record(cell, _attempt(function, cell, context))
    else:
        _run_in_processes(list(groups.values()), function, context, session, jobs)
    return summary


@dataclass
class _Session:
    """The bookkeeping of one call of :func:`run_cells`."""

    results: Path
    command: str
    summary: Summary
    say: Callable[[str], None]
    total: int
    max_minutes: float | None
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def learn(self, cells: Sequence[Cell], context: Context) -> None:
        """Take the durations of earlier results on the same kind of device as estimates."""
        if self.max_minutes is None:
            return
        on_cpu = context.device == "cpu"
        for benchmark in {cell.benchmark for cell in cells}:
            for result in read_results(benchmark, results=self.results):
                if (result.get("device_kind") == "cpu") == on_cpu:
                    self.seconds.setdefault(_alike(result["cell"]), []).append(float(result["elapsed_seconds"]))

    def starts(self, cell: Cell) -> bool:
        """Say whether there is time for `cell`; if not, note it as postponed."""
        if self.max_minutes is not None:
            left = 60 * self.max_minutes - (time.perf_counter() - self.started)
            expected = float(np.median(self.seconds.get(_alike(cell.identity), [0.0])))
            if left <= expected:
                self.summary.postponed.append(cell.name)
                return False
        return True

    def record(self, cell: Cell, outcome: Mapping[str, Any]) -> None:
        """Store what a cell gave, or its failure, and say so."""
        path = _path(self.results, cell)
        failure = path.with_suffix(".failed.json")
        fixed = {
            "schema": _SCHEMA,
            "key": cell.key,
            "name": cell.name,
            "label": dict(cell.label),
            "cell": cell.identity,
            "command": f"{self.command} --only {cell.name!r}".replace("'", '"').strip(),
        }
        count = len(self.summary.done) + len(self.summary.failed) + 1
        if "error" in outcome:
            self.summary.failed.append(cell.name)
            _write(failure, {**outcome, **fixed})
            self.say(f"[{count}/{self.total}] {cell.name}: FAILED {outcome['error']}")
            return
        self.summary.done.append(cell.name)
        _write(path, {**outcome, **fixed})
        failure.unlink(missing_ok=True)
        self.seconds.setdefault(_alike(cell.identity), []).append(float(outcome["elapsed_seconds"]))
        self.say(f"[{count}/{self.total}] {cell.name}: {_short(outcome)} {outcome['elapsed_seconds']:.0f} s")


def _alike(identity: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give what cells of a like duration have in common."""
    return str(identity["setting"]), str(identity["arm"]), json.dumps(identity["budget"], sort_keys=True)


def _short(outcome: Mapping[str, Any]) -> str:
    scores = outcome.get("scores", {})
    return ", ".join(f"{key} {value:.4g}" for key, value in scores.items() if isinstance(value, float))[:120] + ";"


def _path(results: Path, cell: Cell) -> Path:
    return results / cell.benchmark / f"{cell.key}.json"


def _attempt(function: CellFunction, cell: Cell, context: Context) -> dict[str, Any]:
    """Run one cell; a failure becomes a record with ``error`` in it."""
    clock = Clock()
    try:
        measured = dict(function(cell, context))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".replace(str(ROOT), "."), "where": _where(error)}
    return {
        "cpu_seconds": clock.cpu,
        "wall_seconds": clock.wall,
        "device": _processor(),
        "device_kind": "cpu",
        "threads": context.threads,
        "versions": _versions(),
        **measured,
        "elapsed_seconds": clock.wall,
    }


def _where(error: Exception) -> list[str]:
    """Give the last frames of the traceback as ``file:line function``, without anything about the machine."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def _versions() -> dict[str, str]:
    """Versions of what computes, and a hash of this package's source."""
    versions = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in ("fewslice", "torch", "numpy", "scipy", "scikit-image"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    versions["source"] = digest.hexdigest()[:12]
    return versions


def _processor() -> str:
    """Give the processor's model name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _limit_threads(threads: int) -> None:
    """Hold this process to `threads` threads, whether or not torch is loaded already."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _serve(pipe: Connection, function: CellFunction, context: Context) -> None:
    """Run the cells that come through `pipe` until None comes."""
    _limit_threads(context.threads)
    while (cell := pipe.recv()) is not None:
        pipe.send(_attempt(function, cell, context))


def _run_in_processes(
    groups: list[list[Cell]], function: CellFunction, context: Context, session: _Session, jobs: int
) -> None:
    """Give each free process the next cell of its group, or the next group; replace a process that dies."""
    spawn = multiprocessing.get_context("spawn")
    before = {variable: os.environ.get(variable) for variable in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(context.threads)))
    waiting = list(groups)
    busy: dict[Connection, tuple[Any, list[Cell]]] = {}

    def feed(pipe: Connection, process: Any, rest: list[Cell]) -> None:
        """Send the next cell for which there is time, or send the process home."""
        while rest or waiting:
            rest = rest or waiting.pop(0)
            if session.starts(rest[0]):
                pipe.send(rest[0])
                busy[pipe] = (process, rest)
                return
            rest = rest[1:]
        pipe.send(None)
        process.join()
        pipe.close()

    def hire(rest: list[Cell]) -> None:
        here, there = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(there, function, context), daemon=True)
        process.start()
        there.close()
        feed(here, process, rest)

    try:
        for _ in range(min(jobs, len(groups))):
            hire([])
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                process, rest = busy.pop(pipe)
                try:
                    outcome = pipe.recv()
                except EOFError:
                    process.join()
                    outcome = {"error": f"the process ended with exit code {process.exitcode}", "where": []}
                    pipe.close()
                    session.record(rest[0], outcome)
                    if rest[1:] or waiting:
                        hire(rest[1:])
                    continue
                session.record(rest[0], outcome)
                feed(pipe, process, rest[1:])
    finally:
        for process, _ in busy.values():
            process.terminate()
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


# --- command line ---


def _parser(benchmark: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", description=description)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="FILTER",
        help="terms that all match a part of the cell's name, e.g. 'phantom planes=1 student_*'",
    )
    parser.add_argument("--max-minutes", type=float, default=None, help="start no cell that would end after this time")
    parser.add_argument("--quick", action="store_true", help="small budgets: some minutes a cell on two cores")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at the same time, as separate processes")
    parser.add_argument("--threads", type=int, default=None, help="threads of each process (default: cores / jobs)")
    parser.add_argument("--list", action="store_true", help="list the cells and which have a result; run nothing")
    parser.add_argument("--stale", action="store_true", help="list results that no planned cell asks for; run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of all results")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="scratch folder for runs")
    parser.add_argument(
        "--data", type=Path, default=None, help="folder of the real data (default: FEWSLICE_DATA, else ../shared/data)"
    )
    return parser


def of_both_tiers(plan: Callable[[argparse.Namespace], Sequence[Cell]], arguments: argparse.Namespace) -> list[Cell]:
    """Give the cells of `plan` with ``--quick`` and without."""
    tiers = (argparse.Namespace(**{**vars(arguments), "quick": quick}) for quick in (False, True))
    return [cell for tier in tiers for cell in plan(tier)]


def main(
    argv: Sequence[str] | None,
    *,
    benchmark: str,
    description: str,
    plan: Callable[[argparse.Namespace], Sequence[Cell]],
    function: CellFunction,
    options: Callable[[argparse.ArgumentParser], None] | None = None,
    every: Callable[[argparse.Namespace], Sequence[Cell]] | None = None,
    draw: Callable[[Sequence[Cell], Context, argparse.Namespace], Sequence[str]] | None = None,
    flags: Callable[[argparse.Namespace], str] = lambda arguments: "",
) -> int:
    """Run the command line of one benchmark.

    Parameters
    ----------
    argv
        Arguments, or None for those of the process.
    benchmark, description
        Name and one sentence, shown by ``--help``.
    plan
        Gives all cells for the parsed arguments, in the order in which they are to run.
    function
        Measures one cell.
    options
        Adds the benchmark's own options.
    every
        Gives all cells that are planned under any options, for ``--stale``; those of `plan` with ``--quick`` and
        without where it is None.
    draw
        Draws the chosen cells into ``arguments.figure`` and gives the names of those of which there was something to
        draw; the option ``--figure`` comes with it.
    flags
        Gives the benchmark's own options again, for the command that is stored with each result.

    Returns
    -------
    int
        Exit code: 0 done, 2 bad usage, 3 partly done.
    """
    parser = _parser(benchmark, description)
    if options is not None:
        options(parser)
    if draw is not None:
        parser.add_argument("--figure", type=Path, metavar="OUT.png", help="measure nothing; draw what the cells found")
    arguments = parser.parse_args(argv)
    arguments.data = arguments.data or Path(os.environ.get("FEWSLICE_DATA") or ROOT.parent / "shared" / "data")
    if arguments.jobs < 1 or (arguments.threads is not None and arguments.threads < 1):
        parser.error("--jobs and --threads are at least 1")
    if arguments.stale:
        planned = of_both_tiers(plan, arguments) if every is None else every(arguments)
        for path, why in stale(planned, results=arguments.results):
            print(f"{path.name}  {why}")
        return 0
    cells = selected(plan(arguments), arguments.only)
    if not cells:
        parser.error(f"no cell matches {arguments.only}; --list without --only shows them all")
    if arguments.list:
        for cell in cells:
            path = _path(arguments.results, cell)
            failed = path.with_suffix(".failed.json").exists()
            print(f"{'done  ' if path.exists() else 'failed' if failed else '      '}  {cell.key}  {cell.name}")
        return 0
    threads = arguments.threads or max(1, (os.cpu_count() or 1) // arguments.jobs)
    context = Context(arguments.device, threads, arguments.work, arguments.data)
    if draw is not None and arguments.figure is not None:
        drawn = draw(cells, context, arguments)
        print("\n".join(drawn) if drawn else "nothing of these cells is in the work folder; measure them first")
        return 0 if drawn else 3
    summary = run_cells(
        cells,
        function,
        context,
        results=arguments.results,
        command=f"python -m benchmarks.{benchmark}" + (" --quick" if arguments.quick else "") + flags(arguments),
        jobs=arguments.jobs,
        max_minutes=arguments.max_minutes,
    )
    print(
        f"{len(summary.done)} done, {len(summary.present)} were there, {len(summary.failed)} failed, "
        f"{len(summary.postponed)} left for the next call"
    )
    return summary.exit_code
