"""The tab that paints: begin an annotation, mark planes, fill between them, save."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QFormLayout, QGroupBox, QLineEdit, QVBoxLayout, QWidget

from fewslice.errors import InputError
from fewslice.napari.controls import button, chosen_layer, combo, note, offer_layers, path_row, row
from fewslice.napari.filling import Filled
from fewslice.napari.jobs import Call
from fewslice.napari.layers import KEY
from fewslice.napari.readers import read_layers
from fewslice.napari.workbench import Message

if TYPE_CHECKING:
    from fewslice.napari.panel import Panel

__all__ = ["AnnotateTab", "default_folder"]


def default_folder(layer: Any) -> Path:
    """Return where the annotation of a layer is kept unless somebody says otherwise: beside its file, or at home."""
    path = layer.metadata.get(KEY, {}).get("path") if isinstance(layer.metadata, dict) else None
    if path is not None:
        place = Path(path)
        return place.parent / f"{place.name.split('.')[0]}.annotation"
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in layer.name)
    return Path.home() / "fewslice" / f"{name}.annotation"


class AnnotateTab:
    """Controls of the tab.

    Attributes
    ----------
    widget
        The Qt widget.
    image, start, folder
        What an annotation begins with, and where it is kept.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self._filling: Call[Filled] | None = None
        bench = panel.bench
        self.widget = QWidget()
        self.image = combo("The image to annotate: z, y, x.")
        self.image.currentIndexChanged.connect(lambda *_: self._suggest())
        self.start = combo("Labels to begin with; a copy of them is edited.")
        tip = "Folder for journal, labels and runs. Every stroke is stored there at once."
        folder_row, self.folder = path_row(tip, folder=True, title="Folder of the annotation")
        self.axes = QLineEdit()
        self.axes.setToolTip("Order of the axes in the file, such as zcyx; only needed if the file does not say.")
        self.axes.setPlaceholderText("axes, if asked for")
        self.state = note()
        begin = QFormLayout()
        begin.addRow("Image", self.image)
        begin.addRow("File", row(button("Open…", "Open a file with fewslice.", self._open), self.axes))
        begin.addRow("Begin with", self.start)
        begin.addRow("Folder", folder_row)
        begin.addRow(
            button("Begin or continue", "Begin, or go on with what the folder holds.", panel.guarded(self.begin))
        )
        first = QGroupBox("Annotation")
        first.setLayout(begin)
        plane = QVBoxLayout()
        plane.addWidget(self.state)
        plane.addWidget(
            button(
                "Plane is done (Alt+D)",
                "What is not painted on a plane that is done is background. Planes that are not done are unknown, "
                "never background. Again: take it back.",
                panel.guarded(lambda: bench.toggle_done(bench.active())),
            )
        )
        plane.addWidget(
            button(
                "Fill between done planes (Alt+F)",
                "Interpolates between the done planes before and behind the shown one; nothing painted is changed.",
                panel.guarded(self.fill),
            )
        )
        plane.addWidget(
            row(
                button(
                    "Undo (Ctrl+Z)", "Take the last stroke back.", panel.guarded(lambda: bench.undo(bench.active()))
                ),
                button("Redo (Ctrl+Shift+Z)", "Do it again.", panel.guarded(lambda: bench.redo(bench.active()))),
            )
        )
        plane.addWidget(
            button("Save (Alt+S)", "Write the labels; strokes are on disk already.", panel.guarded(self.save))
        )
        second = QGroupBox("Planes")
        second.setLayout(plane)
        layout = QVBoxLayout(self.widget)
        layout.addWidget(first)
        layout.addWidget(second)
        layout.addStretch()

    def refresh_layers(self) -> None:
        """Offer the layers that are open."""
        layers = self.panel.viewer.layers
        offer_layers(self.image, layers, "Image")
        offer_layers(self.start, layers, "Labels", "nothing")
        self._suggest()

    def refresh(self) -> None:
        """Show the plane and what is done."""
        bench = self.panel.bench
        try:
            self.state.setText(bench.plane_text(bench.active()))
        except InputError as error:
            self.state.setText(str(error).capitalize())

    def begin(self) -> None:
        """Begin or continue an annotation, with the brush in hand.

        Raises
        ------
        InputError
            If no image is open, or as :meth:`~fewslice.napari.workbench.Workbench.annotate`.
        """
        layers = self.panel.viewer.layers
        image = chosen_layer(self.image, layers)
        if image is None:
            raise InputError("no image is open; open one, or File > Open Sample > fewslice")
        if not self.folder.text().strip():
            raise InputError("the annotation needs a folder; choose one")
        layer = self.panel.bench.annotate(image, Path(self.folder.text().strip()), chosen_layer(self.start, layers))
        layer.mode = "paint"  # the next thing to do
        self.start.setCurrentIndex(0)

    def fill(self) -> None:
        """Fill the planes between the done ones around the plane that is shown, in a thread."""
        bench = self.panel.bench
        layer = bench.active()
        if self._filling is not None and self._filling.running:
            raise InputError("planes are being filled already; wait until that has ended")
        self._filling = Call(bench.filling(layer))
        self.panel.say(Message("Filling…"))
        self.panel.watch(self._filling, lambda filled: bench.fill(layer, filled))

    def save(self) -> None:
        """Save the labels of the selected session, in a thread."""
        session = self.panel.bench.session_of(self.panel.bench.active())
        saving = session.begin_saving()
        self.panel.say(Message("Saving…"))

        def work() -> tuple[Path, str] | Exception:
            try:
                return session.carry_out(saving)
            except Exception as error:  # raised again where it is shown
                return error

        def end(result: tuple[Path, str] | Exception) -> None:
            if isinstance(result, Exception):
                session.end_saving(saving, None)
                raise result
            session.end_saving(saving, result[1])
            self.panel.say(Message(f"Saved {result[0]}"))

        self.panel.watch(Call(work), end)

    def _suggest(self) -> None:
        layer = chosen_layer(self.image, self.panel.viewer.layers)
        if layer is not None and layer is not getattr(self, "_suggested_for", None):
            self._suggested_for = layer
            self.folder.setText(str(default_folder(layer)))

    def _open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.widget, "Open an image (for OME-Zarr, its zarr.json or .zattrs)")
        if path:
            place = Path(path)
            inside = place.name in ("zarr.json", ".zattrs", ".zgroup")
            self.panel.bench.guarded(self.open_file)(str(place.parent if inside else place))

    def open_file(self, path: str) -> None:
        """Open a file with fewslice, its axes as given in the tab."""
        viewer = self.panel.viewer
        for data, options, kind in read_layers(path, self.axes.text().strip() or None):
            (viewer.add_labels if kind == "labels" else viewer.add_image)(data, **options)
