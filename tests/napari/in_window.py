"""Run by test_window.py in a process of its own, on a screen: the whole loop, then what can go wrong in a window.

Prints nothing that counts; writes ``checks.json``, name of the check → "ok" or what failed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

ROOT = Path(__file__).resolve().parents[2]


def load_loop():
    spec = importlib.util.spec_from_file_location("napari_loop", ROOT / "docs" / "scripts" / "napari_loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def the_whole_loop(loop):
    loop.run()
    facts = loop.facts
    assert all(n > 100 for n in facts["painted"]) and facts["filled"] > 0
    assert facts["stopped"] == "Stopped; it can be resumed." and facts["trained"].startswith("Trained.")
    assert "predicted view (segment)" in facts["layers"] and "image_predicted01 segmentation" in facts["layers"]
    assert " count; " in facts["counted"] and facts["counted"].endswith("correct them in the tab Proofread")
    assert facts["after_split"] == facts["objects"] + 1 and facts["after_merge"] == facts["objects"]
    assert facts["the_same_after_opening_again"] and facts["message"].startswith("Restored")
    assert (loop.folder / "9_proofread.png").stat().st_size > 20_000


def it_answers_while_it_trains(loop):
    """It does not freeze; how fast it answers is for a quiet machine to say."""
    assert loop.facts["window_answers_ms"]["99 %"] < 1000, loop.facts["window_answers_ms"]


def keys_work_on_the_canvas(loop):
    bench = loop.panel.bench
    layer = annotation(loop)
    bench.show_plane(layer, 0, 30)
    canvas = loop.viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    QTest.keyClick(canvas, Qt.Key.Key_D, Qt.KeyboardModifier.AltModifier)
    assert loop.spin(20, lambda: bench.session_of(layer).is_done(0, 30)), loop.panel.message.text()
    QTest.keyClick(canvas, Qt.Key.Key_D, Qt.KeyboardModifier.AltModifier)
    assert loop.spin(20, lambda: not bench.session_of(layer).is_done(0, 30))
    layer.data_setitem((np.array([30]), np.array([3]), np.array([3])), 1)
    loop.spin(2)
    QTest.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert loop.spin(20, lambda: layer.data[30, 3, 3] == 0)


def a_row_goes_to_its_cell(loop):
    tab, bench = loop.panel.proofread, loop.panel.bench
    tab.labels.setCurrentText("instances")
    layer = loop.viewer.layers["instances"]
    assert loop.spin(20, lambda: tab.rows.rowCount() == len(bench.objects.get(layer, ())) > 10)
    tab.table.sortByColumn(1, Qt.SortOrder.DescendingOrder)
    name = tab.rows.names[0]
    assert bench.objects[layer][name].voxels == max(o.voxels for o in bench.objects[layer].values())
    tab.table.selectRow(0)
    tab.table.clicked.emit(tab.rows.index(0, 0))
    assert bench.chosen[layer] == {name} and layer.selected_label == name
    plane = round(bench.objects[layer][name].centre[0])
    assert abs(loop.viewer.dims.point[0] - layer.data_to_world((plane, 0, 0))[0]) < 1e-6


def both_themes_are_legible(loop):
    for theme in ("light", "dark"):
        loop.viewer.theme = theme
        loop.panel.tabs.setCurrentWidget(loop.panel.train.widget)
        loop.picture(f"theme_{theme}")
        style = loop.panel.message.styleSheet()
        assert loop.panel.colour("text") in style
        image = loop.panel.train.plot.pixmap().toImage()
        assert image.pixelColor(1, 1).name() == loop.panel.colour("background")


def no_reference_is_lost(loop):
    """A Qt binding that loses references to None in its calls ends the process sooner or later."""
    before = sys.getrefcount(None)
    for _ in range(2000):
        loop.panel.message.repaint()
    assert sys.getrefcount(None) > before - 1000


def a_volume_that_cannot_be_used_is_said(loop):
    layer = loop.viewer.add_image(np.zeros((2, 3, 8, 8), np.uint8), name="four")
    tab = loop.panel.annotate
    tab.image.setCurrentText("four")
    tab.folder.setText(str(loop.folder / "four"))
    loop.panel.guarded(tab.begin)()
    assert loop.panel._problem and "4 axes" in loop.panel.message.text()
    loop.viewer.layers.remove(layer)
    assert "four" not in [tab.image.itemText(i) for i in range(tab.image.count())]


def colours_cannot_be_used_and_are_said(loop):
    layer = loop.viewer.add_image(np.zeros((40, 160, 160, 3), np.uint8), rgb=True, name="rgb")
    tab = loop.panel.annotate
    tab.image.setCurrentText("rgb")
    tab.folder.setText(str(loop.folder / "rgb"))
    loop.panel.guarded(tab.begin)()
    assert loop.panel._problem and "Split RGB" in loop.panel.message.text()
    assert not (loop.folder / "rgb").exists()
    loop.viewer.layers.remove(layer)


def nothing_is_counted_before_it_is_predicted_or_while_it_is_corrected(loop):
    tab = loop.panel.predict
    loop.viewer.layers.selection.active = loop.viewer.layers["instances"]
    loop.panel.guarded(tab.count)()
    assert loop.panel._problem and "being corrected" in loop.panel.message.text()
    assert tab._command is None
    known, tab._counted = tab._counted, None
    loop.viewer.layers.selection.active = loop.viewer.layers["phantom somata"]
    loop.panel.guarded(tab.count)()
    assert loop.panel._problem and "press Whole volume first" in loop.panel.message.text()
    tab._counted = known


def a_setting_that_follows_from_the_data_is_left_empty(loop):
    tab = loop.panel.train
    tab.strategy.setCurrentText("slices_2d")
    field = tab._fields["patch"][1]
    assert field.text() == "" and field.placeholderText() == "automatic" and "patch" not in tab.changed_settings()
    field.setText("[1,32,32]")
    assert tab.changed_settings()["patch"] == "[1,32,32]"
    field.setText(" ")
    assert "patch" not in tab.changed_settings()


def a_folder_that_is_open_elsewhere_is_said(loop):
    tab = loop.panel.annotate
    tab.image.setCurrentText("phantom somata")
    tab.folder.setText(str(loop.folder / "annotation"))
    loop.panel.guarded(tab.begin)()
    assert loop.panel._problem and "another window" in loop.panel.message.text()


def annotation(loop):
    return next(layer for layer in loop.panel.bench.sessions if layer.name.startswith("phantom somata annotation"))


def begin_training(loop):
    tab = loop.panel.train
    loop.viewer.layers.selection.active = annotation(loop)
    tab.unit.setCurrentText("steps")
    tab.budget.setValue(5000)
    loop.do(tab.train)
    assert loop.spin(60, lambda: tab.running is not None), loop.panel.message.text()
    return tab


def a_view_that_cannot_begin_blocks_no_later_one(loop):
    from fewslice.errors import InputError
    from fewslice.napari import predict_tab

    tab, real = loop.panel.predict, predict_tab.fewslice_command
    tab.image.setCurrentText("phantom somata")
    loop.panel.bench.show_plane(loop.viewer.layers["phantom somata"], 0, 20)

    def missing(*arguments):
        raise InputError("the command fewslice is not installed")

    predict_tab.fewslice_command = missing
    try:
        loop.do(tab.predict_view)
        assert loop.spin(60, lambda: loop.panel._problem) and "not installed" in loop.panel.message.text()
    finally:
        predict_tab.fewslice_command = real
    loop.panel._problem = False
    if "predicted view" in loop.viewer.layers:
        loop.viewer.layers.remove("predicted view")
    loop.do(tab.predict_view)
    assert loop.spin(120, lambda: "predicted view" in loop.viewer.layers), loop.panel.message.text()


def a_worker_that_dies_is_said(loop):
    tab = begin_training(loop)
    os.kill(tab.running.command.pid, 9)
    assert loop.spin(60, lambda: tab.running is None)
    assert loop.panel._problem and "SIGKILL" in loop.panel.message.text(), loop.panel.message.text()
    assert tab.train_button.isEnabled() and tab.resume_button.isEnabled()
    loop.panel._problem = False


def a_layer_deleted_while_training_loses_nothing(loop):
    tab = begin_training(loop)
    layer = annotation(loop)
    layer.data_setitem((np.array([31]), np.array([3]), np.array([4])), 7)
    loop.viewer.layers.remove(layer)
    assert "is kept in" in loop.panel.message.text()
    loop.viewer.layers.remove(loop.viewer.layers["phantom somata"])
    loop.spin(2)
    assert tab.running is not None and tab.running.command.exit_code is None, "the training does not need the layers"
    loop.panel.predict.preview(tab.running.place / "RUN", "segment", tab.running.image)
    assert "was deleted" in loop.panel.message.text()
    loop.do(tab.cancel)
    assert loop.spin(60, lambda: tab.running is None)
    image = loop.viewer.open_sample("fewslice", "two_photon")[0]
    loop.panel.annotate.image.setCurrentText(image.name)
    loop.panel.annotate.folder.setText(str(loop.folder / "annotation"))
    loop.do(loop.panel.annotate.begin)
    assert annotation(loop).data[31, 3, 4] == 7


def closing_stops_what_runs_and_frees_the_folder(loop):
    tab = begin_training(loop)
    command = tab.running.command
    folder = annotation(loop).metadata["fewslice"]["folder"]
    loop.panel.close()
    end = time.monotonic() + 20
    while command.exit_code is None and time.monotonic() < end:
        command.poll()
        time.sleep(0.05)
    assert command.exit_code is not None
    from filelock import FileLock

    with FileLock(Path(folder) / "journal.jsonl.lock", timeout=0):
        pass


CHECKS = (
    the_whole_loop, it_answers_while_it_trains, keys_work_on_the_canvas, a_row_goes_to_its_cell,
    both_themes_are_legible, no_reference_is_lost,
    a_volume_that_cannot_be_used_is_said, colours_cannot_be_used_and_are_said,
    nothing_is_counted_before_it_is_predicted_or_while_it_is_corrected,
    a_setting_that_follows_from_the_data_is_left_empty, a_folder_that_is_open_elsewhere_is_said,
    a_view_that_cannot_begin_blocks_no_later_one, a_worker_that_dies_is_said,
    a_layer_deleted_while_training_loses_nothing, closing_stops_what_runs_and_frees_the_folder,
)  # fmt: skip


def main(folder):
    results = {}
    loop = load_loop().Loop(folder, steps=150, theme="dark")
    for check in CHECKS:
        try:
            check(loop)
            results[check.__name__] = "ok"
        except (Exception, SystemExit):
            results[check.__name__] = traceback.format_exc()
        print(check.__name__, results[check.__name__], flush=True)
        loop.panel._problem = False
    (folder / "checks.json").write_text(json.dumps(results))
    loop.panel.close()
    loop.viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
