"""The tab that trains: strategy, settings and budget; the command in a process of its own; progress, loss, preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QGroupBox,
    QLabel,
    QLineEdit,
    QProgressBar,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from fewslice import registry
from fewslice.errors import FewsliceError, InputError
from fewslice.experiment import read_experiment
from fewslice.napari import training
from fewslice.napari.controls import button, combo, curve, note, row
from fewslice.napari.jobs import Call, Command, fewslice_command
from fewslice.napari.layers import ImageSource, check_labels, image_of
from fewslice.napari.settings_form import Forms, Setting, command, parse_forms
from fewslice.napari.training import Request, State
from fewslice.napari.workbench import Message

if TYPE_CHECKING:
    from fewslice.napari.panel import Panel

__all__ = ["TrainTab"]

_KINDS = {"as the values say": None, "classes": "classes", "instances": "instances"}
_CURVE = (300, 110)
_NONE, _FROM_DATA = "null", "automatic"


@dataclass(frozen=True)
class _Running:
    """A training under way: its command, its folder, and what it was begun on, for previews."""

    command: Command
    place: Path
    layer: Any
    image: Any
    source: ImageSource


class TrainTab:
    """Controls of the tab.

    Attributes
    ----------
    widget
        The Qt widget.
    state
        How far the training is.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.widget = QWidget()
        self.state = State()
        self.running: _Running | None = None
        self._preparing = False
        self._forms: Forms | None = None
        self._fields: dict[str, tuple[Setting, QLineEdit | QComboBox]] = {}
        self.what = note()
        self.strategy = combo("How the model is trained.", registry.names("strategies"))
        self.strategy.setCurrentText("pseudo_labels")
        self.strategy.currentTextChanged.connect(lambda *_: self._show_settings())
        self.summary = note()
        self.kind = combo("What the numbers in the labels are.", list(_KINDS))
        self.budget = QDoubleSpinBox()
        self.budget.setRange(0.1, 1e6)
        self.budget.setDecimals(1)
        self.budget.setValue(30)
        self.budget.setToolTip("Minutes: of the whole training. Steps: of each of its stages.")
        self.unit = combo("Minutes of the whole training, or steps of each stage.", ["minutes", "steps"])
        self.unit.currentTextChanged.connect(lambda unit: self.budget.setDecimals(int(unit == "minutes")))
        self.device = combo("Where to compute.", ["auto", "cpu", "cuda", "mps"])
        self.preview = QCheckBox("Preview")
        self.preview.setToolTip("Predict what is on the canvas each time a stage has finished.")
        self.preview.setChecked(True)
        self._settings = QWidget()
        self._settings_form = QFormLayout(self._settings)
        self._settings_form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self._settings_form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._settings_form.setContentsMargins(4, 4, 4, 4)
        self._section = ""
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setWidget(self._settings)
        scroll.setMinimumHeight(90)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        form = QFormLayout()
        form.addRow("Strategy", self.strategy)
        form.addRow("Labels are", self.kind)
        form.addRow("Budget", row(self.budget, self.unit))
        form.addRow("Device", row(self.device, self.preview))
        settings = QGroupBox("Settings")
        inside = QVBoxLayout(settings)
        inside.setContentsMargins(2, 2, 2, 2)
        inside.addWidget(scroll)
        self.train_button = button("Train", "Save the annotation and train on the planes that are done.",
                                   panel.guarded(self.train))  # fmt: skip
        self.cancel_button = button("Cancel", "Stop; at most 15 seconds of work are lost, and it can be resumed.",
                                    panel.guarded(self.cancel))  # fmt: skip
        self.resume_button = button("Resume", "Go on with the training that was stopped last.",
                                    panel.guarded(self.resume))  # fmt: skip
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setToolTip("Share of the steps of all stages.")
        self.status = note()
        self.plot = QLabel()
        self.plot.setToolTip("Training loss over steps, all stages one after the other.")
        layout = QVBoxLayout(self.widget)
        layout.addWidget(self.what)
        layout.addWidget(self.summary)
        layout.addLayout(form)
        layout.addWidget(settings, 1)
        layout.addWidget(row(self.train_button, self.cancel_button, self.resume_button))
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addWidget(self.plot)
        self._ask_for_settings()

    # ------------------------------------------------------------------------------------------------- settings

    def _ask_for_settings(self) -> None:
        self._settings_form.addRow(note("The settings are being read; training with the defaults can begin at once."))

        def end(done: Command) -> None:
            if done.exit_code != 0:
                raise InputError(f"the settings of the strategies cannot be shown: {done.complaint()}")
            self._forms = parse_forms("\n".join(done.output))
            self._show_settings()

        self.panel.watch(Command(command()), end)

    def _show_settings(self) -> None:
        """Fill the form with the settings of the strategy."""
        if self._forms is not None:
            kind = self.strategy.currentText()
            self.summary.setText(self._forms.summaries[kind])
            self._fill({}, self._forms.strategies[kind])

    def _fill(self, given: Mapping[str, str], rows: Sequence[Setting]) -> None:
        """Fill the form with rows; those that are given show that, the others their defaults."""
        while self._settings_form.rowCount():
            self._settings_form.removeRow(0)
        self._fields, self._section = {}, ""
        for setting in sorted(rows, key=lambda s: "." in s.key):
            self._add_setting(setting, given.get(setting.key, setting.default))

    def _add_setting(self, setting: Setting, value: str) -> None:
        default = _FROM_DATA if setting.default == _NONE else setting.default
        if setting.choices:
            box = combo(setting.meaning, setting.choices)
            box.setMinimumContentsLength(5)
            box.setCurrentText(value)
            if setting.key.endswith("network.kind"):
                box.currentTextChanged.connect(
                    lambda chosen, key=setting.key: QTimer.singleShot(0, lambda: self._change_network(key, chosen))
                )
            field: QLineEdit | QComboBox = box
        else:
            field = QLineEdit("" if value == _NONE else value)
            field.setPlaceholderText(default)
        tip = "<qt>" + f"{setting.key}: {setting.meaning} Default: {default}".replace("<", "&lt;") + "</qt>"
        section, _, name = setting.key.rpartition(".")
        if section != self._section:
            self._settings_form.addRow(note(f"<b>{section}</b>"))
            self._section = section
        label = QLabel(name)
        for widget in (label, field):
            widget.setToolTip(tip)
        field.setMinimumWidth(150)
        self._settings_form.addRow(label, field)
        self._fields[setting.key] = (setting, field)

    def _change_network(self, key: str, kind: str) -> None:
        """Show the settings of another network in place of those of the one before."""
        assert self._forms is not None
        prefix = key.removesuffix("kind")
        rows: list[Setting] = []
        for setting in self._forms.strategies[self.strategy.currentText()]:
            if setting.key == key:
                rows.append(setting)
                rows += [replace(s, key=prefix + s.key) for s in self._forms.networks[kind]]
            elif not setting.key.startswith(prefix):
                rows.append(setting)
        given = self.changed_settings() | {key: kind}
        self._fill({k: v for k, v in given.items() if k == key or not k.startswith(prefix)}, rows)

    def changed_settings(self) -> dict[str, str]:
        """Return the settings that differ from their defaults."""
        out = {}
        for key, (setting, field) in self._fields.items():
            value = field.currentText() if isinstance(field, QComboBox) else field.text().strip() or setting.default
            if value != setting.default:
                out[key] = value
        return out

    # ------------------------------------------------------------------------------------------------- training

    def request(self, planes: frozenset[tuple[int, int]]) -> Request:
        """Return what is asked for."""
        in_minutes = self.unit.currentText() == "minutes"
        return Request(
            strategy=self.strategy.currentText(),
            planes=planes,
            settings=self.changed_settings(),
            label_kind=_KINDS[self.kind.currentText()],
            minutes=self.budget.value() if in_minutes else None,
            steps=None if in_minutes else max(1, round(self.budget.value())),
            device=self.device.currentText(),
        )

    def train(self) -> None:
        """Store the annotation and begin to train on it.

        Raises
        ------
        InputError
            If a training runs already, nothing is annotated, or the image is not there.
        """
        self._refuse_second()
        bench = self.panel.bench
        layer = bench.active()
        session = bench.session_of(layer)
        bench.commit(layer)
        image = bench.image_under(layer)
        check_labels(layer, image)
        source = image_of(image)
        request = self.request(frozenset(session.done))
        if not request.planes:
            raise InputError("no plane is done; paint one and mark it as done (Alt+D), so that it counts as annotated")
        labels = session.labels.volume(session.voxel_size_um)
        self._preparing = True
        self.panel.say(Message("Saving the annotation…"))
        self._buttons()

        def work() -> Path | Exception:
            try:
                return training.prepare(session.folder, source, labels, request)
            except Exception as error:  # raised again where it is shown
                return error

        def end(place: Path | Exception) -> None:
            self._preparing = False
            self._buttons()
            if isinstance(place, Exception):
                raise place
            self._start(place, layer, image, source)

        self.panel.watch(Call(work), end)

    def resume(self) -> None:
        """Go on with the training that was stopped last.

        Raises
        ------
        InputError
            If a training runs already, or none was stopped.
        """
        self._refuse_second()
        bench = self.panel.bench
        layer = bench.active()
        place = training.resumable(bench.session_of(layer).folder)
        if place is None:
            raise InputError("there is no training of this annotation that was begun and not finished; start a new one")
        image = bench.image_under(layer)
        self._start(place, layer, image, image_of(image))

    def cancel(self) -> None:
        """Ask the training to stop.

        Raises
        ------
        InputError
            If none runs.
        """
        if self.running is None:
            raise InputError("no training is running")
        self.running.command.cancel()
        self.panel.say(Message("Stopping…"))

    def _refuse_second(self) -> None:
        if self.running is not None or self._preparing:
            raise InputError("a training is running; wait for it, or cancel it first")

    def _start(self, place: Path, layer: Any, image: Any, source: ImageSource) -> None:
        arguments = training.stored_request(place)
        self.state = State()
        self.running = _Running(Command(fewslice_command(*arguments)), place, layer, image, source)
        self.panel.watch(self.running.command, self._ended, self._heard)
        self.panel.say(Message(f"Training into {place / 'RUN'}"))
        self.status.setText("Starting…")
        self.bar.setValue(0)
        self._buttons()
        self.draw()

    def _heard(self, lines: list[str]) -> None:
        """Take events of the training; preview when a stage has finished."""
        before = self.state.finished
        for line in lines:
            event = training.event_of(line)
            if event is not None:
                self.state = training.advanced(self.state, event)
        running = self.running
        if running is None:
            return
        planned = running.place / "RUN" / "experiment.yaml"
        if len(self.state.planned) == 1 and planned.exists():
            steps = read_experiment(planned).steps
            if isinstance(steps, dict) and self.state.stage in steps:
                self.state = replace(self.state, planned=steps)
        self._show()
        if self.preview.isChecked() and self.state.finished != before:
            self.panel.predict.preview(running.place / "RUN", self.state.stage, running.image)

    def _ended(self, done: Command) -> None:
        running, self.running = self.running, None
        self._buttons()
        assert running is not None
        run = running.place / "RUN"
        if done.exit_code == 0:
            self.bar.setValue(self.bar.maximum())
            self.status.setText(f"Trained. {self._score() or 'There was nothing held out to score it on.'}")
            self.panel.predict.run.setText(str(run))
            self.panel.say(Message(f"Trained {run}; predict with it in the tab Predict"))
            if self.preview.isChecked():
                self.panel.predict.preview(run, self.state.stage, running.image)
        elif done.cancelled:
            self.status.setText("Stopped; it can be resumed.")
            self.panel.say(Message("The training was stopped; Resume goes on with it"))
        else:
            self.status.setText("Ended with an error.")
            raise FewsliceError(f"the training ended: {done.complaint()}")

    # ---------------------------------------------------------------------------------------------------- looks

    def refresh(self) -> None:
        """Show what would be trained on."""
        bench = self.panel.bench
        try:
            layer = bench.active()
        except InputError as error:
            self.what.setText(str(error).capitalize())
            return
        count = len(bench.session_of(layer).done)
        self.what.setText(f"{layer.name}: {count} plane{'' if count == 1 else 's'} done")
        self._buttons()

    def draw(self) -> None:
        """Draw the loss."""
        colours = (self.panel.colour("background"), self.panel.colour("text"), self.panel.colour("text"))
        points = self.state.losses
        thinned = points[:: max(1, len(points) // 600)]
        self.plot.setPixmap(curve(thinned, _CURVE, colours, self.plot.devicePixelRatioF()))

    def _show(self) -> None:
        self.bar.setValue(int(1000 * training.progress(self.state)))
        parts = [f"Stage {self.state.stage}" if self.state.stage else "Starting…"]
        if self.state.step:
            parts.append(f"step {self.state.step} of {self.state.planned[self.state.stage]}")
        if self.state.losses:
            parts.append(f"loss {self.state.losses[-1][1]:.3f}")
        if self.state.seconds_left:
            left = self.state.seconds_left
            parts.append(f"{left:.0f} s left in it" if left < 90 else f"{left / 60:.0f} min left in it")
        self.status.setText(", ".join(parts) + ". " + self._score())
        if self.state.notes:
            self.status.setToolTip("\n".join(self.state.notes))
        self.draw()

    def _score(self) -> str:
        if self.state.score is None:
            return ""
        name, value = self.state.score
        return f"{name} {value:.3f} on what is held out."

    def _buttons(self) -> None:
        busy = self.running is not None or self._preparing
        self.train_button.setEnabled(not busy)
        self.resume_button.setEnabled(not busy)
        self.cancel_button.setEnabled(self.running is not None)
