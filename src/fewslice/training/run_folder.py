"""The run folder: what training leaves on disk, readable by a person.

::

    RUN/experiment.yaml   the resolved configuration
    RUN/provenance.json   versions, hardware, inputs with their hashes
    RUN/log.jsonl         one line per event
    RUN/results.jsonl     where this model was applied and evaluated
    RUN/stages/<name>/    state of each stage
    RUN/model/            what prediction needs
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewslice.files import append_line, write_atomic

__all__ = ["RunFolder", "read_lines"]


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and the way its log is written.

    Attributes
    ----------
    path
        The folder.
    listener
        Called with every event after it was logged; draws the progress.
    writable
        False in the processes that help the first one train: they log nothing.
    """

    path: Path
    listener: Callable[[dict[str, Any]], None] | None = None
    writable: bool = True

    @property
    def experiment(self) -> Path:
        """The resolved configuration."""
        return self.path / "experiment.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, hardware and inputs."""
        return self.path / "provenance.json"

    @property
    def log(self) -> Path:
        """Events, one JSON object per line."""
        return self.path / "log.jsonl"

    @property
    def results(self) -> Path:
        """Predictions and evaluations made with this model, one JSON object per line."""
        return self.path / "results.jsonl"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model"

    def stage(self, name: str) -> Path:
        """Return the folder of a stage, made if needed."""
        folder = self.path / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def record(self, event: dict[str, Any]) -> None:
        """Append an event to the log and tell the listener."""
        if not self.writable:
            return
        append_line(self.log, event)
        if self.listener is not None:
            self.listener(event)

    def forget_after(self, stage: str, step: int) -> None:
        """Drop log lines of `stage` beyond `step`: a killed run repeats those steps."""
        if not self.writable or not self.log.exists():
            return
        kept = [e for e in read_lines(self.log) if e.get("stage") != stage or e.get("step", 0) <= step]
        write_atomic(self.log, "".join(json.dumps(e, sort_keys=True) + "\n" for e in kept))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file of lines; a last line that a kill cut short is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value
