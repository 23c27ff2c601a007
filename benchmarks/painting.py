"""Kill a window again and again while somebody paints in it, open the annotation again, and see what was lost.

1. :func:`paint` is the painter: the plugin's panel without a screen, and a hand that draws strokes of a tenth of a
   second to several seconds, now and then saving. Before each dab it writes down the time, the voxel and the value,
   which no other dab has.
2. :func:`run_kills` starts it in a process of its own, kills that (SIGKILL) at a random moment, opens the folder as the
   plugin does, and looks for the dab after which the labels were as they now are. Dabs after it are lost; if there is
   no such dab, an earlier one is.
3. The next round goes on in the same folder, over what the last one left.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice.volume import Volume

__all__ = ["SHAPE", "Kill", "Restored", "image", "paint", "restored", "run_kills", "summary"]

SHAPE = (12, 96, 96)
_DAB_MS = 20
_LONGEST_STROKE = 250
_SAVE_EVERY = 150
_START_SECONDS = 300.0

Dab = tuple[float, int, int, int, int]
"""Seconds since the epoch, z, y, x, value."""


@dataclass(frozen=True)
class Restored:
    """What a folder holds after a kill.

    Attributes
    ----------
    kept
        Dabs of this round that are there; None if the labels are as they were after none of them.
    lost_seconds
        Time from the first dab that is lost to the kill; 0 if none is.
    """

    kept: int | None
    lost_seconds: float


@dataclass(frozen=True)
class Kill:
    """One round: dabs painted, what was restored of them, and what the annotation said on opening."""

    dabs: int
    restored: Restored
    notes: tuple[str, ...]


def image() -> Volume:
    """Return the volume that is annotated."""
    values = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    return Volume.from_array(values, (2.0, 0.5, 0.5))


def restored(before: npt.NDArray[Any], dabs: Sequence[Dab], after: npt.NDArray[Any], killed_at: float) -> Restored:
    """Find the dab after which labels were as they are now.

    Parameters
    ----------
    before, after
        Labels (z, y, x) at the beginning of the round, and as they were restored.
    dabs
        In the order in which they were painted, each value used once; the last may not have reached the labels.
    killed_at
        Seconds since the epoch.

    Examples
    --------
    >>> labels = np.zeros((1, 1, 3), int)
    >>> dabs = [(10.0, 0, 0, 0, 1), (11.0, 0, 0, 1, 2), (12.0, 0, 0, 2, 3)]
    >>> restored(labels, dabs, np.array([[[1, 2, 0]]]), 12.5)
    Restored(kept=2, lost_seconds=0.5)
    >>> restored(labels, dabs, np.array([[[1, 0, 3]]]), 12.5).kept is None
    True
    """
    labels = before.copy()
    different = int(np.count_nonzero(labels != after))
    found = 0 if not different else None
    for number, (_, z, y, x, value) in enumerate(dabs, 1):
        different += int(value != after[z, y, x]) - int(labels[z, y, x] != after[z, y, x])
        labels[z, y, x] = value
        if not different:
            found = number
    if found is None:
        return Restored(None, killed_at - dabs[0][0] if dabs else 0.0)
    return Restored(found, killed_at - dabs[found][0] if found < len(dabs) else 0.0)


def run_kills(folder: Path, kills: int, *, seed: int = 0, longest_seconds: float = 6.0) -> list[Kill]:
    """Kill the painter `kills` times; return what became of each round.

    Parameters
    ----------
    folder
        For annotation and notes; made where it does not exist.
    kills
        How often.
    seed
        Of the moments, and of what is painted.
    longest_seconds
        The painter is killed at most so long after its first dab of the round.
    """
    from fewslice.napari.session import open_annotation

    processes = multiprocessing.get_context("forkserver")  # imports once, has no window itself
    processes.set_forkserver_preload(["benchmarks.painting", "fewslice.napari.panel", "napari.components"])
    rng = np.random.default_rng(seed)
    before = np.zeros(SHAPE, np.uint32)
    first_value, rounds = 1, []
    for number in range(kills):
        notes = folder / f"dabs{number:03d}.txt"
        painter = processes.Process(target=paint, args=(folder / "annotation", notes, seed + number, first_value))
        painter.start()
        try:
            _wait_for_paint(painter, notes)
            time.sleep(float(rng.uniform(0.02, longest_seconds)))
        finally:
            killed_at = time.time()
            painter.kill()
            painter.join()
        if painter.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"the painter ended by itself (exit code {painter.exitcode}) before it was killed")
        dabs = _read(notes)
        session = open_annotation(folder / "annotation", image())
        after = np.asarray(session.labels).astype(np.uint32)
        said = tuple(session.notes)
        session.close()
        rounds.append(Kill(len(dabs), restored(before, dabs, after, killed_at), said))
        before, first_value = after, max([d[4] for d in dabs], default=first_value) + 1
    return rounds


def _wait_for_paint(painter: Any, notes: Path) -> None:
    limit = time.monotonic() + _START_SECONDS
    while painter.is_alive() and not (notes.exists() and notes.stat().st_size):
        if time.monotonic() > limit:
            raise RuntimeError("the painter painted nothing in time")
        time.sleep(0.01)


def _read(notes: Path) -> list[Dab]:
    whole = notes.read_text().rpartition("\n")[0]
    fields = [line.split() for line in whole.splitlines()]
    return [(float(t), int(z), int(y), int(x), int(v)) for t, z, y, x, v in fields]


def paint(folder: Path, notes: Path, seed: int, first: int) -> None:
    """Paint in a panel without a screen, until killed.

    Parameters
    ----------
    folder
        Of the annotation.
    notes
        Where each dab is written down.
    seed
        Of what is painted.
    first
        Value of the first dab.
    """
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from napari.components import ViewerModel
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    from fewslice.napari.panel import Panel

    application = QApplication([])
    viewer = ViewerModel()
    volume = image()
    layer = viewer.add_image(volume.read()[0], name="image", scale=(2.0, 0.5, 0.5), units=("um",) * 3)
    panel = Panel(viewer)
    annotation = panel.bench.annotate(layer, folder)
    annotation.brush_size = 1
    hand = _Hand(panel, annotation, notes, seed, first)
    timer = QTimer()
    timer.timeout.connect(hand.dab)
    timer.start(_DAB_MS)
    application.exec()


class _Hand:
    """What paints: a walk over a plane, lifted now and then."""

    def __init__(self, panel: Any, layer: Any, notes: Path, seed: int, first: int) -> None:
        self.panel, self.layer = panel, layer
        self.rng = np.random.default_rng(seed)
        self.stream = notes.open("ab", buffering=0)
        self.value, self.left = first, 0
        self.stroke = ExitStack()
        self.place = np.zeros(3, int)

    def dab(self) -> None:
        """Paint one voxel; lift the brush at the end of a stroke, and begin the next."""
        if not self.left:
            self.stroke.close()
            self.left = int(self.rng.integers(1, _LONGEST_STROKE))
            self.place = self.rng.integers(0, SHAPE)
            self.stroke.enter_context(self.layer.block_history())
        z, y, x = (int(n) for n in self.place)
        self.stream.write(f"{time.time():.6f} {z} {y} {x} {self.value}\n".encode())
        self.layer.paint((z, y, x), self.value)
        self.place[1:] = np.clip(self.place[1:] + self.rng.integers(-1, 2, 2), 0, np.array(SHAPE[1:]) - 1)
        self.left, self.value = self.left - 1, self.value + 1
        if self.value % _SAVE_EVERY == 0:
            self.panel.guarded(self.panel.annotate.save)()


def summary(rounds: Sequence[Kill]) -> dict[str, Any]:
    """Return the figures of some rounds."""
    lost = [r.restored.lost_seconds for r in rounds]
    return {
        "kills": len(rounds),
        "dabs": sum(r.dabs for r in rounds),
        "longest_lost_s": max(lost),
        "earlier_lost": sum(r.restored.kept is None for r in rounds),
        "cut_lines": sum(any("cut short" in note for note in r.notes) for r in rounds),
    }
