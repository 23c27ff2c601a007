"""The tab that corrects instances: a table of objects linked to the canvas; tools that split, merge, delete, add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QItemSelection, QItemSelectionModel, QModelIndex, Qt
from qtpy.QtWidgets import QAbstractItemView, QGroupBox, QHeaderView, QTableView, QVBoxLayout, QWidget

from fewslice.errors import InputError
from fewslice.napari.controls import button, chosen_layer, combo, note, offer_layers, row
from fewslice.napari.jobs import Call
from fewslice.napari.proofreading import Object, volume_um3
from fewslice.napari.workbench import CUT, SEEDS, Message

if TYPE_CHECKING:
    from fewslice.napari.panel import Panel

__all__ = ["ProofreadTab"]

_ALL = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows


class _Rows(QAbstractTableModel):  # type: ignore[misc]
    """The table of objects as Qt asks for it, row by row; nothing is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[int] = []
        self.objects: dict[int, Object] = {}
        self.voxel: tuple[float, float, float] | None = None
        self._column, self._down = 0, False

    def show(self, objects: dict[int, Object], voxel: tuple[float, float, float] | None) -> None:
        """Show another table, in the order chosen before."""
        self.beginResetModel()
        self.objects, self.voxel = objects, voxel
        self.names = sorted(objects, key=lambda n: self._value(n, self._column), reverse=self._down)
        self.endResetModel()

    def _value(self, name: int, column: int) -> float:
        found = self.objects[name]
        return float((name, found.voxels, *found.centre)[column])

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of objects."""
        return len(self.names)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of columns: label, size, z, y, x."""
        return 5

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return the text of a cell."""
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        name = self.names[index.row()]
        value = self._value(name, index.column())
        if index.column() == 0:
            return str(name)
        if index.column() == 1:
            cubic = volume_um3(int(value), self.voxel)
            return f"{int(value)}" if cubic is None else f"{cubic:.4g}"
        return f"{value:.1f}"

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:
        """Return a column's title, and what it means as its tooltip."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        size = "voxels" if self.voxel is None else "µm³"
        if role == Qt.ItemDataRole.DisplayRole:
            return ("label", size, "z", "y", "x")[section]
        if role == Qt.ItemDataRole.ToolTipRole:
            return ("Number in the labels", f"Volume in {size}", *["Mean position in voxels, from 0"] * 3)[section]
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column."""
        self._column, self._down = column, order == Qt.SortOrder.DescendingOrder
        self.show(self.objects, self.voxel)


class ProofreadTab:
    """Controls of the tab.

    Attributes
    ----------
    widget
        The Qt widget.
    labels
        The labels to correct.
    table, rows
        The table of objects, and its content.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        bench = panel.bench
        self.widget = QWidget()
        self.labels = combo("Labels inside an OME-Zarr, such as labels/instances, or labels that are being annotated.")
        self.labels.currentIndexChanged.connect(lambda *_: self.refresh())
        self.summary = note()
        self.rows = _Rows()
        self.table = QTableView()
        self.table.setModel(self.rows)
        self.table.setSortingEnabled(True)
        self.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.verticalHeader().setVisible(False)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.table.setToolTip("Click: go there. Ctrl+click: choose several. Alt+click on the canvas does so too.")
        self.table.setMinimumHeight(150)
        self.table.clicked.connect(panel.bench.guarded(self._clicked))
        self.table.selectionModel().selectionChanged.connect(lambda *_: self._selected())
        self._selecting = False
        layout = QVBoxLayout(self.widget)
        layout.addWidget(self.labels)
        layout.addWidget(
            row(
                button("Begin or continue", "Correct these labels; every change is stored at once.",
                       panel.guarded(self.begin)),
                button("Save (Alt+S)", "Write changed blocks into the file, and its pyramid.",
                       panel.guarded(panel.annotate.save)),
            )
        )  # fmt: skip
        layout.addWidget(self.summary)
        layout.addWidget(self.table)
        tools = QVBoxLayout()
        tools.addWidget(
            row(
                button("Merge (Alt+M)", "Make one object of those chosen in the table.",
                       panel.guarded(lambda: bench.merge(self.layer()))),
                button("Delete (Alt+X)", "Make the chosen objects background.",
                       panel.guarded(lambda: bench.delete(self.layer()))),
                button("Add", "Paint a new object, with a number that is free.", panel.guarded(self._add)),
            )
        )  # fmt: skip
        tools.addWidget(
            row(
                button("Place seeds", "Click on each part of an object that is to be split.",
                       panel.guarded(lambda: bench.place(self.layer(), SEEDS))),
                button("Draw a cut", "Draw a line right across an object; it is cut through all planes.",
                       panel.guarded(lambda: bench.place(self.layer(), CUT))),
                button("Split (Alt+K)", "Split the object under the seeds or the line.",
                       panel.guarded(lambda: bench.split(self.layer()))),
            )
        )  # fmt: skip
        tools.addWidget(
            row(
                button("Undo", "Take the last change back (Ctrl+Z).", panel.guarded(lambda: bench.undo(self.layer()))),
                button("Redo", "Do it again (Ctrl+Shift+Z).", panel.guarded(lambda: bench.redo(self.layer()))),
                button("Plane is done", "Use the shown plane as annotation for the next training (Alt+D).",
                       panel.guarded(lambda: bench.toggle_done(self.layer()))),
            )
        )  # fmt: skip
        box = QGroupBox("Chosen objects")
        box.setLayout(tools)
        layout.addWidget(box)

    def layer(self) -> Any:
        """Return the layer that is corrected.

        Raises
        ------
        InputError
            If there is none, or it is not being corrected.
        """
        layer = chosen_layer(self.labels, self.panel.viewer.layers)
        if layer is None:
            raise InputError("no labels are open; open a prediction with labels")
        self.panel.bench.session_of(layer)
        return layer

    def begin(self) -> None:
        """Begin or continue to correct the chosen labels, and count their objects in a thread.

        Raises
        ------
        InputError
            If there are no labels, or as :meth:`~fewslice.napari.workbench.Workbench.proofread`.
        """
        layer = chosen_layer(self.labels, self.panel.viewer.layers)
        if layer is None:
            raise InputError("no labels are open; open a prediction with labels")
        bench = self.panel.bench
        if layer not in bench.sessions:
            bench.proofread(layer)
        self.panel.say(Message("Counting objects…"))

        counting = bench.begin_counting(layer)

        def end(found: dict[int, Object]) -> None:
            bench.end_counting(layer, counting, found)
            if layer in bench.objects:
                self.panel.say(Message(f"{len(bench.objects[layer])} objects in {layer.name}"))
                self.refresh()

        self.panel.watch(Call(counting.count), end)

    def refresh_layers(self) -> None:
        """Offer the layers that are open."""
        offer_layers(self.labels, self.panel.viewer.layers, "Labels")

    def refresh(self) -> None:
        """Show the table and what is chosen in it."""
        bench = self.panel.bench
        layer = chosen_layer(self.labels, self.panel.viewer.layers)
        objects = bench.objects.get(layer, {})
        voxel = bench.sessions[layer].voxel_size_um if layer in bench.sessions else None
        chosen = bench.chosen.get(layer, set())
        begun = layer in bench.objects
        self.summary.setText(
            f"{len(objects)} objects, {len(chosen & set(objects))} chosen" if begun else "Begin, to count objects."
        )
        self._selecting = True
        if objects != self.rows.objects or voxel != self.rows.voxel:
            self.rows.show(objects, voxel)
        selection = QItemSelection()
        for place, name in enumerate(self.rows.names) if chosen else ():
            if name in chosen:
                selection.select(self.rows.index(place, 0), self.rows.index(place, 4))
        self.table.selectionModel().select(selection, _ALL)
        self._selecting = False

    def _add(self) -> None:
        name = self.panel.bench.add(self.layer())
        self.panel.say(Message(f"Paint the new object; it has the label {name}"))

    def _clicked(self, index: QModelIndex) -> None:
        self.panel.bench.go_to(self.layer(), self.rows.names[index.row()])

    def _selected(self) -> None:
        if self._selecting:
            return
        layer = chosen_layer(self.labels, self.panel.viewer.layers)
        if layer in self.panel.bench.sessions:
            chosen = {self.rows.names[i.row()] for i in self.table.selectionModel().selectedRows()}
            self.panel.bench.chosen[layer] = chosen
            self.summary.setText(f"{len(self.rows.names)} objects, {len(chosen)} chosen")
