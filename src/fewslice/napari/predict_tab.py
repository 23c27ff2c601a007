"""The tab that predicts: what is on the canvas, the whole volume, a file; and that names the next plane to annotate."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QFormLayout, QGroupBox, QProgressBar, QVBoxLayout, QWidget

from fewslice import io
from fewslice.errors import FewsliceError, InputError
from fewslice.napari import prediction, training
from fewslice.napari.controls import button, chosen_layer, combo, note, offer_layers, path_row, row
from fewslice.napari.jobs import Call, Command, fewslice_command, has_verb
from fewslice.napari.layers import KEY, PREDICTED, ImageSource, image_of, label_colours, shown_box
from fewslice.napari.prediction import NextPlane, View
from fewslice.napari.readers import read_layers
from fewslice.napari.workbench import Message

if TYPE_CHECKING:
    from fewslice.napari.panel import Panel

__all__ = ["VIEW", "PredictTab"]

VIEW = "predicted view"


class PredictTab:
    """Controls of the tab.

    Attributes
    ----------
    widget
        The Qt widget.
    run, image
        The model, and the image it is applied to.
    planes
        Planes to annotate next that were not visited yet.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.widget = QWidget()
        self.planes: list[NextPlane] = []
        self._command: Command | None = None
        self._viewing = False
        self._counted: tuple[Path, Path | str | None] | None = None
        self._scratch = TemporaryDirectory(prefix="fewslice", ignore_cleanup_errors=True)
        run_row, self.run = path_row("A run folder whose training has finished.", folder=True, title="Run folder")
        self.image = combo("The image that is predicted.")
        output_row, self.output = path_row(
            "Folder for predictions of whole volumes, OUT.ome.zarr; beside the image where none is given, or beside "
            "the run for an image at an address.",
            folder=True, title="Folder for predictions",
        )  # fmt: skip
        form = QFormLayout()
        form.addRow("Run", run_row)
        form.addRow("Image", self.image)
        form.addRow("Output", output_row)
        predict = QGroupBox("Predict")
        inside = QVBoxLayout(predict)
        inside.addLayout(form)
        inside.addWidget(
            row(
                button("Shown (Alt+P)", "Predict the part of the plane that is on the canvas.",
                       panel.guarded(self.predict_view)),
                button("Whole volume", "Predict all of the image, block by block; resumable.",
                       panel.guarded(self.predict_volume)),
                button("File…", "Predict an image that is not open.", panel.guarded(self._predict_file)),
            )
        )  # fmt: skip
        self.bar = QProgressBar()
        self.bar.setToolTip("Blocks that are done.")
        self.bar.setValue(0)
        self.cancel_button = button("Cancel", "Stop; blocks that are done stay, and the same goes on with them.",
                                    panel.guarded(self.cancel))  # fmt: skip
        self.cancel_button.setEnabled(False)
        inside.addWidget(
            button("Find and count objects",
                   "In the whole volume that was predicted last, or that is selected: parts it into objects and writes "
                   "a table of them, OUT.objects.csv.", panel.guarded(self.count))
        )  # fmt: skip
        inside.addWidget(row(self.bar, self.cancel_button))
        ahead = QGroupBox("Next plane to annotate")
        below = QVBoxLayout(ahead)
        self.advice = note("Asks the run which planes would help most.")
        below.addWidget(self.advice)
        below.addWidget(
            row(
                button("Suggest", "Runs fewslice plan, which trains several times for a short while.",
                       panel.guarded(self.suggest)),
                button("Go there (Alt+N)", "Show the next of the suggested planes.", panel.guarded(self.next_plane)),
            )
        )  # fmt: skip
        layout = QVBoxLayout(self.widget)
        layout.addWidget(predict)
        layout.addWidget(ahead)
        layout.addStretch()

    def refresh_layers(self) -> None:
        """Offer the layers that are open."""
        offer_layers(self.image, self.panel.viewer.layers, "Image")

    # -------------------------------------------------------------------------------------------------- a plane

    def predict_view(self) -> None:
        """Predict what is on the canvas with the chosen run."""
        self._view(prediction.model_folder(self._run()), self._image(), VIEW)

    def preview(self, run: Path, stage: str, image: Any) -> None:
        """Predict what is on the canvas with what a training has made so far, if it has made a model yet."""
        if image not in self.panel.viewer.layers:
            self.panel.say(Message(f"{image.name} was deleted, so there is no preview; the training goes on"))
            return
        folder = prediction.stage_model(run, stage)
        if folder is not None and not self._viewing:
            self._view(prediction.model_folder(folder), image, f"{VIEW} ({stage})")

    def _view(self, model: prediction.Opened, image: Any, name: str) -> None:
        if self._viewing:
            raise InputError("a view is being predicted; wait for it")
        source = image_of(image)
        shown = shown_box(image, self.panel.viewer.dims)
        scratch = Path(self._scratch.name)
        self._viewing = True

        def prepare() -> View | Exception:
            try:
                return prediction.cut_out(source, shown, model, scratch)
            except Exception as error:  # raised again where it is shown
                return error

        def prepared(view: View | Exception) -> None:
            self._viewing = False  # until the command has started
            if isinstance(view, Exception):
                raise view
            self._begin_view(prediction.view_arguments(model, view), view, source, name)

        self.panel.watch(Call(prepare), prepared)
        self.panel.say(Message("Predicting what is on the canvas…"))

    def _begin_view(self, arguments: list[str], view: View, source: ImageSource, name: str) -> None:
        command = Command(fewslice_command(*arguments))
        self._viewing = True
        self.panel.watch(command, lambda done: self._viewed(done, view, source, name))

    def _viewed(self, done: Command, view: View, source: ImageSource, name: str) -> None:
        self._viewing = False
        if done.exit_code != 0:
            raise FewsliceError(f"the prediction ended: {done.complaint()}")
        values = prediction.predicted_view(view)
        if values is None:
            self._begin_view(prediction.segment_arguments(view), view, source, name)
            return
        active = self.panel.viewer.layers.selection.active
        self.panel.bench.add_prediction(values, source, view.shown, name)
        if active in self.panel.viewer.layers:
            self.panel.viewer.layers.selection.active = active
        self.panel.say(Message(f"Layer {name} shows the prediction"))

    # ------------------------------------------------------------------------------------------------- a volume

    def predict_volume(self) -> None:
        """Predict the whole of the chosen image."""
        source = image_of(self._image())
        run = self._run()
        prediction.model_folder(run)
        if source.path is None:
            folder = Path(self.output.text().strip() or run.parent)
            self.panel.watch(
                Call(lambda: training.store_image(folder, source)), lambda path: self._predict(run, path, source)
            )
            return
        self._predict(run, source.path, source)

    def predict_file(self, path: str) -> None:
        """Predict an image that is not open."""
        run = self._run()
        prediction.model_folder(run)
        self._predict(run, Path(path), None)

    def close(self) -> None:
        """Remove cut-outs."""
        self._scratch.cleanup()

    def cancel(self) -> None:
        """Ask the prediction, or the search for the next plane, to stop.

        Raises
        ------
        InputError
            If neither runs.
        """
        if self._command is None:
            raise InputError("no prediction is running")
        self._command.cancel()

    def _predict(self, run: Path, image: Path | str, source: ImageSource | None) -> None:
        beside = run.parent if io.is_address(image) else Path(image).parent
        folder = Path(self.output.text().strip() or beside)
        output = prediction.free_output(image, folder)
        arguments = prediction.volume_arguments(run, image, source, output, self.panel.train.device.currentText())
        self._begin(arguments, lambda done: self._predicted(done, output))
        self._counted = output, image if source is None or source.axes is None else None  # measure reads known axes
        self.panel.say(Message(f"Predicting into {output}"))

    def _begin(self, arguments: list[str], end: Any) -> None:
        if self._command is not None:
            raise InputError("a prediction is running; wait for it, or cancel it first")
        self._command = command = Command(fewslice_command(*arguments))
        self.cancel_button.setEnabled(True)
        self.bar.setRange(0, 0)

        def ended(done: Command) -> None:
            self._command = None
            self.cancel_button.setEnabled(False)
            self.bar.setRange(0, 1)
            self.bar.setValue(int(done.exit_code == 0))
            end(done)

        self.panel.watch(command, ended, self._heard)

    def _heard(self, lines: list[str]) -> None:
        for line in lines:
            event = training.event_of(line)
            if event is not None and event["event"] == "block":
                self.bar.setRange(0, int(event["blocks"]))
                self.bar.setValue(int(event["done"]))

    def _predicted(self, done: Command, output: Path) -> None:
        if done.cancelled:
            self.panel.say(Message(f"Stopped; fewslice predict goes on with {output}"))
            return
        if done.exit_code not in (0, 3):
            raise FewsliceError(f"the prediction ended: {done.complaint()}")
        viewer = self.panel.viewer
        for layer in viewer.layers:  # it would hide what it is about to be compared with
            if layer.name.startswith(VIEW):
                layer.visible = False
        for data, options, kind in read_layers(str(output)):
            if kind == "labels":
                viewer.add_labels(data, **options | {"colormap": label_colours(PREDICTED), "opacity": 0.5})
            else:
                viewer.add_image(
                    data, **options | {"visible": False, "blending": "additive", "contrast_limits": (0, 255)}
                )
        if done.exit_code == 3:
            raise FewsliceError(f"{output} is there but for some blocks: {done.complaint()}")
        self.panel.say(Message(f"Predicted {output}; next: Find and count objects"))

    def count(self) -> None:
        """Find the objects of the prediction that is selected, else of the last one, measure and show them.

        Raises
        ------
        InputError
            If there is no prediction of a whole volume, or its objects are being corrected.
        """
        layer = self.panel.viewer.layers.selection.active
        metadata = getattr(layer, "metadata", {})
        selected = prediction.store_of(metadata.get(KEY, {}).get("path"))
        last, image = self._counted or (None, None)
        store = selected or last
        if store is None or not store.exists():
            raise InputError(
                "no whole volume was predicted yet; press Whole volume first, or select a prediction's layer"
            )
        labels = store / "labels" / "instances"
        edited = [la for la in self.panel.bench.sessions if la.metadata.get(KEY, {}).get("path") == str(labels)]
        if edited:
            raise InputError(
                f"the objects of {store} are being corrected; save them, then fewslice measure counts them"
            )
        segment, measure = prediction.count_arguments(store, image if store == last else None)

        def measured(done: Command) -> None:
            if self._went(done, f"objects of {store} were found, but the measurement"):
                self.panel.say(Message(prediction.counts_text(store)))

        def segmented(done: Command) -> None:
            if self._went(done, "the search for objects"):
                self._show_objects(labels)
                self._begin(measure, measured)

        self._begin(segment, segmented)
        self.panel.say(Message(f"Looking for objects in {store}"))

    def _went(self, done: Command, what: str) -> bool:
        """Whether a command came to its end; if it was stopped, say so."""
        if done.cancelled:
            self.panel.say(Message("Stopped; the same button goes on with what is done"))
            return False
        if done.exit_code != 0:
            raise FewsliceError(f"{what} ended: {done.complaint()}")
        return True

    def _show_objects(self, labels: Path) -> None:
        """Open the objects in place of the segmentation, which they part."""
        viewer = self.panel.viewer
        for layer in list(viewer.layers):
            place = layer.metadata.get(KEY, {}).get("path")
            if place == str(labels):
                viewer.layers.remove(layer)
            elif place == str(labels.with_name("segmentation")):
                layer.visible = False
        for data, options, _ in read_layers(str(labels)):
            viewer.add_labels(data, **options)

    def _predict_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.widget, "Image to predict")
        if path:
            place = Path(path)
            self.predict_file(str(place.parent if place.name in ("zarr.json", ".zattrs") else place))

    # ----------------------------------------------------------------------------------------------- next plane

    def suggest(self) -> None:
        """Ask ``fewslice plan`` which planes to annotate next.

        Raises
        ------
        InputError
            If this fewslice cannot say, or there is no run.
        """
        if not has_verb("plan"):
            raise InputError(
                "this version of fewslice has no command plan, so it cannot say which plane to annotate next"
            )
        run = self._run()
        prediction.model_folder(run)

        def end(done: Command) -> None:
            if done.cancelled:
                self.panel.say(Message("Stopped; Suggest goes on with what is done"))
                return
            if done.exit_code != 0:
                raise FewsliceError(f"fewslice plan ended: {done.complaint()}")
            self.planes, advice = prediction.next_planes(list(done.output))
            listed = ", ".join(f"{'zyx'[p.axis]} = {p.plane}" for p in self.planes)
            self.advice.setText(f"Next: {listed or 'none'}. {advice}")
            self.panel.say(Message("Suggested planes to annotate; Alt+N goes there"))

        self._begin(prediction.plan_arguments(run), end)
        self.panel.say(Message("Looking for planes that would help most; this trains several times for a short while"))

    def next_plane(self) -> None:
        """Show the next suggested plane.

        Raises
        ------
        InputError
            If none is left.
        """
        if not self.planes:
            raise InputError("no planes are suggested; press Suggest in the tab Predict first")
        plane = self.planes.pop(0)
        self.panel.bench.show_plane(self._image(), plane.axis, plane.plane)
        self.panel.say(Message(f"Plane {'zyx'[plane.axis]} = {plane.plane}"))

    # --------------------------------------------------------------------------------------------------- choices

    def _run(self) -> Path:
        text = self.run.text().strip()
        if not text:
            raise InputError("no run is chosen; train first, or choose a run folder")
        return Path(text)

    def _image(self) -> Any:
        layer = chosen_layer(self.image, self.panel.viewer.layers)
        if layer is None:
            raise InputError("no image is open; open the one that is to be predicted")
        return layer
