"""From nothing to a first model in a real napari window, by mouse and keyboard: counts the actions and times them.

An action is one thing that a person decides to do: choose from a menu, press a button, paint the cells of a plane, drag
the slider. While the model trains, the slider is dragged on and on, and a timer measures how long the window takes to
answer. On a machine without a screen, run it under Xvfb (packages: see `.ci/run`)::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/scripts/first_model.py -o first_model

The last line printed is JSON. Pictures of the window are kept in the folder; ``--pictures`` chooses another one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QEventLoop, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication, QWidget
from scipy import ndimage

BEGAN = time.monotonic()
PLANES = (12, 28)
_TICK_MS = 10
_CROSS = ((-2, 0), (2, 0), (0, 0), (0, -2), (0, 2))
"""Where the brush is led over a cell, voxels from its centre along y, x."""


class Person:
    """Somebody at the window, with a watch.

    Attributes
    ----------
    actions
        What was done, with the seconds since the start.
    """

    def __init__(self, folder: Path, pictures: Path) -> None:
        self.folder, self.pictures = folder, pictures
        self.actions: list[tuple[float, str]] = []
        self.viewer: Any = None
        self.panel: Any = None

    def does(self, what: str, action: Callable[[], Any]) -> None:
        """Do one thing, and let the window follow."""
        action()
        self.wait(0.3)
        if self.panel is not None and self.panel._problem:
            raise SystemExit(f"after '{what}' the window says: {self.panel.message.text()}")
        self.actions.append((time.monotonic() - BEGAN, what))
        print(f"{len(self.actions):2d}. {self.actions[-1][0]:6.1f} s  {what}", flush=True)

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let the window's own event loop run for a while, or until something is true."""
        loop = QEventLoop()
        end = time.monotonic() + seconds
        timer = QTimer()
        timer.timeout.connect(lambda: loop.quit() if until() or time.monotonic() > end else None)
        timer.start(20)
        loop.exec()
        return until()

    def picture(self, name: str) -> None:
        """Take a picture of the whole window."""
        self.wait(0.5)
        self.viewer.screenshot(str(self.pictures / f"napari_{name}.png"), canvas_only=False, flash=False)

    # ------------------------------------------------------------------------------------------------- actions

    def starts(self) -> None:
        """Start napari with the panel in it: ``napari -w fewslice "Annotate and train"``."""
        import napari
        from napari.settings import get_settings

        sys.path.insert(0, str(Path(__file__).parent))
        from napari_loop import register

        register()
        get_settings().appearance.theme = "dark"
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1400, 900)
        _, widget = self.viewer.window.add_plugin_dock_widget("fewslice", "Annotate and train")
        self.panel = widget.panel
        self.wait(1)

    def chooses_sample(self) -> None:
        """Choose File > Open Sample > Simulated two-photon volume (fewslice)."""
        entry = _menu_entry(self.viewer.window._qt_window, "File", "Open Sample", "Simulated two-photon")
        entry.trigger()
        if not self.wait(60, lambda: len(self.viewer.layers) > 0):
            raise SystemExit("the sample was not opened")

    def presses(self, parent: QWidget, text: str) -> None:
        """Press the button that bears a text."""
        found = [b for b in parent.findChildren(QAbstractButton) if b.text().startswith(text) and b.isVisible()]
        if len(found) != 1:
            raise SystemExit(f"{len(found)} buttons read '{text}'")
        QTest.mouseClick(found[0], Qt.MouseButton.LeftButton)

    def opens_tab(self, title: str) -> None:
        """Press a tab."""
        bar = self.panel.tabs.tabBar()
        index = next(i for i in range(bar.count()) if bar.tabText(i) == title)
        QTest.mouseClick(bar, Qt.MouseButton.LeftButton, pos=bar.tabRect(index).center())

    def drags_slider(self, plane: int) -> None:
        """Drag the slider to a plane."""
        self.viewer.window._qt_viewer.dims.slider_widgets[0].slider.setValue(plane)

    def paints(self) -> None:
        """Paint the cells of the plane that is shown: a drag of the brush over each."""
        layer = self.panel.bench.active()
        plane = int(self.viewer.dims.current_step[0])
        truth = np.asarray(self.viewer.layers["phantom truth"].data)[plane] > 0
        cells, count = ndimage.label(truth)
        for centre in ndimage.center_of_mass(truth, cells, range(1, count + 1)):
            self._drags_brush(layer, plane, [(centre[0] + v, centre[1] + u) for v, u in _CROSS])

    def presses_key(self, key: Qt.Key, modifier: Qt.KeyboardModifier) -> None:
        """Press a key over the canvas."""
        canvas = self.viewer.window._qt_viewer.canvas.native
        canvas.setFocus()
        QTest.keyClick(canvas, key, modifier)

    def types_budget(self, minutes: str) -> None:
        """Type a budget over the one that is there."""
        field = self.panel.train.budget
        field.setFocus()
        field.selectAll()
        QTest.keyClicks(field, minutes)
        QTest.keyClick(field, Qt.Key.Key_Return)

    def _drags_brush(self, layer: Any, plane: int, places: list[tuple[float, float]]) -> None:
        canvas = self.viewer.window._qt_viewer.canvas
        points = []
        for place in places:
            _, y, x = layer.data_to_world((plane, *place))
            u, v = canvas.view.scene.transform.map([x, y])[:2]
            points.append(QPoint(round(float(u)), round(float(v))))
        QTest.mouseMove(canvas.native, points[0])
        QTest.mousePress(canvas.native, Qt.MouseButton.LeftButton, pos=points[0])
        for point in points[1:]:
            _move_pressed(canvas.native, point)
            self.wait(0.04)  # moves that follow each other faster than the screen are left out
        QTest.mouseRelease(canvas.native, Qt.MouseButton.LeftButton, pos=points[-1])
        QApplication.processEvents()

    # ------------------------------------------------------------------------------------------------ training

    def watches(self, seconds: float, until: Callable[[], bool] = lambda: False) -> list[tuple[float, float]]:
        """Drag the slider twice a second, and watch a timer of the window.

        Returns
        -------
        list of (float, float)
            Each time: how late it came, and for how much processor time of the window's own thread it had to wait,
            which does not depend on what else the machine does; both in seconds.
        """
        late: list[tuple[float, float]] = []
        last = [time.monotonic(), time.thread_time()]

        def beat() -> None:
            now, used = time.monotonic(), time.thread_time()
            late.append((max(0.0, now - last[0] - _TICK_MS / 1000), used - last[1]))
            last[:] = now, used

        timer = QTimer()
        timer.setTimerType(Qt.TimerType.PreciseTimer)
        timer.timeout.connect(beat)
        planes = int(self.viewer.dims.nsteps[0])
        wander = QTimer()
        wander.timeout.connect(lambda: self.drags_slider(len(late) % planes))
        timer.start(_TICK_MS)
        wander.start(500)
        self.wait(seconds, until)
        timer.stop()
        wander.stop()
        return late

    def waits_for_model(self) -> list[tuple[float, float]]:
        """Wait for the model; return what :meth:`watches` saw meanwhile."""
        tab = self.panel.train
        if not self.wait(600, lambda: bool(tab.state.losses) or (tab.running is None and not tab._preparing)):
            raise SystemExit("the training never began")
        late = self.watches(10)
        self.picture("train")
        late += self.watches(900, lambda: tab.running is None)
        if not tab.status.text().startswith("Trained"):
            raise SystemExit(f"no model: {tab.status.text()} {self.panel.message.text()}")
        return late


def _move_pressed(widget: QWidget, point: QPoint) -> None:
    """Move the mouse with its left button down, which QTest's moves leave up."""
    where = QPointF(point)
    button, left = Qt.MouseButton.NoButton, Qt.MouseButton.LeftButton
    event = QMouseEvent(
        QEvent.Type.MouseMove, where, widget.mapToGlobal(where), button, left, Qt.KeyboardModifier.NoModifier
    )
    QApplication.sendEvent(widget, event)


def _menu_entry(window: Any, *path: str) -> Any:
    """Find an entry by the menus that lead to it from the menu bar, and the beginning of its own text."""
    actions = window.menuBar().actions()
    for name in path:
        found = [a for a in actions if a.text().replace("&", "").lower().startswith(name.lower())]
        if not found:
            raise SystemExit(f"there is no {' > '.join(path)}; beside it: {[a.text() for a in actions]}")
        menu = found[0].menu()
        if menu is None:
            return found[0]
        menu.aboutToShow.emit()
        actions = menu.actions()
    return found[0]


def main() -> None:
    """Be that person."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("first_model"), help="folder for the annotation")
    parser.add_argument("--pictures", type=Path, help="folder for pictures; by default the same")
    parser.add_argument("--minutes", default="1", help="budget that is typed in")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    someone = Person(options.output, options.pictures or options.output)
    alt = Qt.KeyboardModifier.AltModifier
    application = QApplication.instance() or QApplication([])
    someone.does("start napari with the panel", someone.starts)
    panel = someone.panel
    someone.does("choose File > Open Sample > Simulated two-photon volume", someone.chooses_sample)
    panel.annotate.folder.setText(str(someone.folder / "annotation"))  # not beside what is there already
    someone.does("press Begin or continue", lambda: someone.presses(panel.widget, "Begin or continue"))
    for plane in PLANES:
        someone.does(f"drag the slider to plane {plane}", lambda plane=plane: someone.drags_slider(plane))
        someone.does("paint its cells", someone.paints)
        someone.does("press Alt+D: the plane is done", lambda: someone.presses_key(Qt.Key.Key_D, alt))
    layer = panel.bench.active()
    truth = np.asarray(someone.viewer.layers["phantom truth"].data) > 0
    painted = [int(np.count_nonzero(layer.data[p])) for p in PLANES]
    met = [float((np.asarray(layer.data[p]) > 0)[truth[p]].mean()) for p in PLANES]
    if min(painted) == 0 or not all(panel.bench.session_of(layer).is_done(0, p) for p in PLANES):
        raise SystemExit(f"painted {painted} voxels, done {panel.bench.session_of(layer).done}")
    someone.picture("annotate")
    idle = np.array(someone.watches(5))[:, 0]  # no action: what the window takes without a training
    someone.does("open the tab Train", lambda: someone.opens_tab("Train"))
    someone.does(f"type a budget of {options.minutes} minutes", lambda: someone.types_budget(options.minutes))
    someone.does("press Train", lambda: someone.presses(panel.train.widget, "Train"))
    began = time.monotonic() - BEGAN
    late, busy = np.array(someone.waits_for_model()).T
    seconds = time.monotonic() - BEGAN
    facts = {
        "actions": len(someone.actions),
        "training_after_s": round(began, 1),
        "seconds": round(seconds, 1),
        "answers_idle_99_ms": round(1e3 * float(np.quantile(idle, 0.99)), 1),
        "answers_median_ms": round(1e3 * float(np.median(late)), 1),
        "answers_99_ms": round(1e3 * float(np.quantile(late, 0.99)), 1),
        "answers_longest_ms": round(1e3 * float(late.max()), 1),
        "within_100_ms": round(float((late <= 0.1).mean()), 4),
        "busy_99_ms": round(1e3 * float(np.quantile(busy, 0.99)), 1),
        "busy_longest_ms": round(1e3 * float(busy.max()), 1),
        "cells_met": round(min(met), 3),
    }
    panel.close()
    someone.viewer.close()
    application.processEvents()
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
