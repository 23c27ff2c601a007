"""Progress of long commands: a bar on a terminal, one JSON object per event otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fewslice.training.events import loss_of, score_of

__all__ = ["listening"]

Listener = Callable[[dict[str, Any]], None]


@contextmanager
def listening(*, quiet: bool = False) -> Iterator[Listener]:
    """Yield a function that shows events of the log for the duration.

    Parameters
    ----------
    quiet
        Show nothing.
    """
    if quiet:
        yield lambda event: None
    elif sys.stdout.isatty():
        with _bar() as listener:
            yield listener
    else:
        yield _print_line


def _print_line(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


@contextmanager
def _bar() -> Iterator[Listener]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        tasks: dict[str, Any] = {}
        notes: dict[str, dict[str, str]] = {}

        def show(event: dict[str, Any]) -> None:
            kind = event.get("event")
            if kind in ("note", "finished"):
                progress.console.print(event["note"], highlight=False, markup=False)
            elif kind == "block_failed":
                progress.console.print(f"block {event['block']} failed: {event['reason']}", style="red", markup=False)
            elif kind in ("stage", "step", "validation"):
                name = event["stage"]
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=event["steps"], note="")
                note = notes.setdefault(name, {})
                loss, score = loss_of(event), score_of(event)
                if loss is not None:
                    note["loss"] = f"loss {loss:.3f}"
                if score is not None:
                    note["score"] = f"{score[0]} {score[1]:.3f}"
                progress.update(tasks[name], completed=event["step"], note="  ".join(note.values()))
            elif kind == "cost":
                progress.console.print(_cost(event), highlight=False, markup=False)
            elif kind == "block":
                name = event.get("pass", "predict")
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=event["blocks"], note="")
                progress.update(
                    tasks[name], completed=event["done"], total=event["blocks"], note=f"{event['blocks']} blocks"
                )

        yield show


def _cost(event: dict[str, Any]) -> str:
    seconds, memory = event["seconds"], event["memory_bytes"] / 2**30
    expected, started = event["expected_seconds"], event["expected_memory_bytes"] / 2**30
    return (
        f"{event['blocks']} blocks took {seconds:.0f} s (expected {expected:.0f} s), at most {memory:.2f} GiB "
        f"of memory ({started:.2f} GiB at the start)"
    )
