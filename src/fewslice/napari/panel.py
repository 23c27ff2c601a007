"""The window: a panel with a tab for each step, a line for messages, and a timer that asks what goes on elsewhere.

Nothing here waits: commands run in processes of their own, slow functions in threads, and :meth:`Panel.tick`, ten
times a second, takes what they have to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QLabel, QTabWidget, QVBoxLayout, QWidget

from fewslice.napari.annotate_tab import AnnotateTab
from fewslice.napari.jobs import Call, Command
from fewslice.napari.predict_tab import PredictTab
from fewslice.napari.proofread_tab import ProofreadTab
from fewslice.napari.train_tab import TrainTab
from fewslice.napari.workbench import Message, Workbench

__all__ = ["SHORTCUTS", "Panel", "make_panel"]

TICK_MS = 100

SHORTCUTS = {
    "Alt-D": "mark the shown plane as done, or take it back",
    "Alt-F": "fill the planes between the done ones around it",
    "Alt-S": "save the labels",
    "Alt-P": "predict what is on the canvas",
    "Alt-N": "go to the plane to annotate next",
    "Alt-M": "merge the chosen objects",
    "Alt-X": "delete the chosen objects",
    "Alt-K": "split the object under the seeds or the line",
}


@dataclass
class Watched:
    """A command or a call that is under way, and what is done with what it says."""

    work: Command | Call[Any]
    on_lines: Callable[[list[str]], None]
    on_end: Callable[[Any], None]


class Panel:
    """Everything that the plugin shows in one viewer.

    Attributes
    ----------
    widget
        The Qt widget.
    bench
        The sessions of the viewer.
    annotate, train, predict, proofread
        The tabs.
    message
        The line for messages.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.bench = Workbench(viewer, self.say)
        self._watched: list[Watched] = []
        self._problem = False
        self._closed = False
        self.widget = QWidget()
        self.widget.panel = self  # lives as long as the widget
        self.message = QLabel("Open an image, or File > Open Sample > fewslice, then begin an annotation.")
        self.message.setWordWrap(True)
        self.message.setObjectName("fewslice message")
        self.message.setMinimumHeight(3 * self.message.fontMetrics().lineSpacing() + 10)  # no jump between messages
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)  # for a search, or a mail
        self.annotate = AnnotateTab(self)
        self.train = TrainTab(self)
        self.predict = PredictTab(self)
        self.proofread = ProofreadTab(self)
        self.tabs = QTabWidget()
        for title, tab in (
            ("Annotate", self.annotate), ("Train", self.train), ("Predict", self.predict), ("Proofread", self.proofread)
        ):  # fmt: skip
            self.tabs.addTab(tab.widget, title)
        layout = QVBoxLayout(self.widget)
        layout.addWidget(self.message)
        layout.addWidget(self.tabs)
        self.widget.setMinimumWidth(340)
        self._bind_keys()
        self.bench.changed = self.refresh
        for event in (
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.layers.selection.events.active,
        ):
            event.connect(self._on_layers)
        viewer.dims.events.point.connect(self._on_dims)
        viewer.dims.events.order.connect(self._on_dims)
        viewer.events.theme.connect(self._on_theme)
        self.timer = QTimer(self.widget)
        self.timer.timeout.connect(self.tick)
        self.timer.start(TICK_MS)
        self.widget.destroyed.connect(lambda *_: self.close())
        self._on_theme()
        self.refresh_layers()

    # ------------------------------------------------------------------------------------------------- messages

    def say(self, message: Message) -> None:
        """Show a message; what went wrong is marked. Once the window is closed, there is only standard output."""
        if self._closed:
            print(message.text)
            return
        self._problem = message.problem
        self.message.setText(message.text)
        self._on_theme()

    def guarded(self, action: Callable[..., Any]) -> Callable[..., Any]:
        """Return an action for a button: what goes wrong is shown."""
        run = self.bench.guarded(action)
        return lambda *_: run()

    # ------------------------------------------------------------------------------------------------- elsewhere

    def watch(
        self,
        work: Command | Call[Any],
        on_end: Callable[[Any], None],
        on_lines: Callable[[list[str]], None] = lambda lines: None,
    ) -> None:
        """Follow a command or a call.

        Parameters
        ----------
        work
            What is under way.
        on_end
            Called once: with the command, or with what the call returned; not if the call failed, which is said.
        on_lines
            Called with lines that the command printed.
        """
        self._watched.append(Watched(work, on_lines, on_end))

    def tick(self) -> None:
        """Take what processes and threads have to say; journal what was painted."""
        if self._closed:
            return
        for watched in list(self._watched):
            self._look(watched)
        self.bench.tick()

    def _look(self, watched: Watched) -> None:
        work = watched.work
        if isinstance(work, Command):
            ended = work.exit_code is not None
            lines = work.poll()
            if lines:
                self.bench.guarded(watched.on_lines)(lines)
            if not ended:
                return
            self._watched.remove(watched)
            self.bench.guarded(watched.on_end)(work)
            return
        if work.running:
            return
        self._watched.remove(watched)
        self.bench.guarded(lambda: watched.on_end(work.result()))()

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return bool(self._watched)

    def close(self) -> None:
        """Stop what runs, close sessions; everything is on disk."""
        if self._closed:
            return
        self._closed = True
        for watched in self._watched:
            if isinstance(watched.work, Command):
                watched.work.cancel()
        self.predict.close()
        self.bench.guarded(self.bench.close)()

    # --------------------------------------------------------------------------------------------------- looks

    def refresh(self) -> None:
        """Show the state of the sessions."""
        self.annotate.refresh()
        self.proofread.refresh()
        self.train.refresh()

    def refresh_layers(self) -> None:
        """Offer the layers that are open."""
        for tab in (self.annotate, self.predict, self.proofread):
            tab.refresh_layers()
        self.refresh()

    def colour(self, name: str) -> str:
        """Return a colour of napari's theme, ``#rrggbb``."""
        from napari.utils.theme import get_theme

        return str(getattr(get_theme(self.viewer.theme), name).as_hex(format="long"))

    def _on_layers(self, event: Any = None) -> None:
        if not self._closed:
            self.refresh_layers()

    def _on_dims(self, event: Any = None) -> None:
        if not self._closed:
            self.annotate.refresh()

    def _on_theme(self, event: Any = None) -> None:
        if self._closed:
            return
        mark = self.colour("error" if self._problem else "current")
        self.message.setStyleSheet(
            f"QLabel {{ color: {self.colour('text')}; border-left: 4px solid {mark}; padding: 4px 6px; }}"
        )
        self.train.draw()

    def _bind_keys(self) -> None:
        bench = self.bench
        actions: dict[str, Callable[[], Any]] = {
            "Alt-D": lambda: bench.toggle_done(bench.active()),
            "Alt-F": self.annotate.fill,
            "Alt-S": self.annotate.save,
            "Alt-P": self.predict.predict_view,
            "Alt-N": self.predict.next_plane,
            "Alt-M": lambda: bench.merge(bench.active()),
            "Alt-X": lambda: bench.delete(bench.active()),
            "Alt-K": lambda: bench.split(self.proofread.layer()),
        }
        for key, action in actions.items():
            self.viewer.bind_key(key, self.guarded(action), overwrite=True)


def make_panel() -> QWidget:
    """Return the panel of the current viewer (npe2's contract for a widget)."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        raise RuntimeError("there is no napari viewer to work in")
    return Panel(viewer).widget
