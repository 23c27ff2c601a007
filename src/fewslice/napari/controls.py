"""Small builders of Qt controls, so that the tabs read as lists of what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QWidget,
)

__all__ = ["button", "chosen_layer", "combo", "curve", "note", "offer_layers", "path_row", "row"]


def button(text: str, tip: str, action: Callable[..., Any]) -> QPushButton:
    """Return a button with a tooltip."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.clicked.connect(action)
    return made


def combo(tip: str, choices: Sequence[str] = ()) -> QComboBox:
    """Return a drop-down list that does not widen the panel for long names."""
    made = QComboBox()
    made.setToolTip(tip)
    made.addItems(list(choices))
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(12)
    return made


def note(text: str = "") -> QLabel:
    """Return a line of text that wraps."""
    made = QLabel(text)
    made.setWordWrap(True)
    return made


def row(*widgets: QWidget) -> QWidget:
    """Return widgets side by side."""
    made = QWidget()
    layout = QHBoxLayout(made)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return made


def path_row(tip: str, *, folder: bool, title: str) -> tuple[QWidget, QLineEdit]:
    """Return a line for a path with a button that lets one be chosen, and the line itself."""
    field = QLineEdit()
    field.textChanged.connect(lambda text: field.setToolTip(f"{text}\n{tip}" if text else tip))  # long ones are cut
    field.setToolTip(tip)

    def browse() -> None:
        if folder:
            found = QFileDialog.getExistingDirectory(field, title, field.text())
        else:
            found = QFileDialog.getOpenFileName(field, title, field.text())[0]
        if found:
            field.setText(found)

    browse_button = button("…", title, browse)
    browse_button.setMaximumWidth(36)
    return row(field, browse_button), field


def offer_layers(box: QComboBox, layers: Sequence[Any], kind: str, first: str | None = None) -> None:
    """Fill a drop-down list with the layers of a kind, keeping what is chosen as long as it is there."""
    before = box.currentData()
    box.blockSignals(True)
    box.clear()
    if first is not None:
        box.addItem(first, None)
    for layer in layers:
        if type(layer).__name__ == kind:
            box.addItem(layer.name, layer)
    position = next((i for i in range(box.count()) if box.itemData(i) is before), -1)
    box.setCurrentIndex(position if position >= 0 else 0 if first is not None or box.count() == 1 else box.count() - 1)
    box.blockSignals(False)


def chosen_layer(box: QComboBox, layers: Sequence[Any]) -> Any:
    """Return the layer that is chosen, or None where there is none or it was deleted."""
    layer = box.currentData()
    return layer if layer is not None and layer in layers else None


def curve(
    points: Sequence[tuple[float, float]], size: tuple[int, int], colours: tuple[str, str, str], ratio: float
) -> QPixmap:
    """Draw a curve with its extremes written beside it.

    Parameters
    ----------
    points
        (steps, loss).
    size
        Width and height in points of the screen.
    colours
        Of background, text and curve.
    ratio
        Pixels of the screen per point.
    """
    width, height = size
    picture = QPixmap(int(width * ratio), int(height * ratio))
    picture.setDevicePixelRatio(ratio)
    background, text, line = (QColor(c) for c in colours)
    picture.fill(background)
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    left, right, top, bottom = 46, width - 10, 10, height - 20
    painter.setPen(QPen(text, 1))
    painter.drawLine(left, bottom, right, bottom)
    painter.drawLine(left, top, left, bottom)
    flags = int(Qt.AlignmentFlag.AlignRight)
    if points:
        last = max(x for x, _ in points) or 1
        low, high = min(y for _, y in points), max(y for _, y in points)
        span = (high - low) or 1.0
        painter.drawText(0, top - 4, left - 4, 14, flags, f"{high:.3g}")
        painter.drawText(0, bottom - 10, left - 4, 14, flags, f"{low:.3g}")
        painter.drawText(left, bottom + 3, right - left, 16, flags, f"{int(last)} steps")
        painter.drawText(left, bottom + 3, right - left, 16, int(Qt.AlignmentFlag.AlignLeft), "loss")
        spots = [
            QPointF(left + (right - left) * x / last, bottom - (bottom - top) * (y - low) / span) for x, y in points
        ]
        painter.setPen(QPen(line, 1.6))
        painter.drawPolyline(QPolygonF(spots)) if len(spots) > 1 else painter.drawEllipse(spots[0], 2, 2)
    else:
        painter.drawText(left, top, right - left, bottom - top, int(Qt.AlignmentFlag.AlignCenter), "no loss yet")
    painter.end()
    return picture
