"""Drive the whole loop in a real napari window, and take a picture of each step.

Open the sample, paint planes, mark them as done, train, predict, count objects, ask for the next plane, correct a cell,
save, and open it again.
On a machine without a screen, run it under Xvfb (packages: see `.ci/run`)::

    xvfb-run -a -s "-screen 0 1600x1100x24" python docs/scripts/napari_loop.py -o pictures --steps 60
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.settings import get_settings
from npe2 import PluginManager, PluginManifest
from qtpy.QtWidgets import QApplication

import fewslice.napari
from fewslice import io
from fewslice.geometry import cover
from fewslice.napari.jobs import has_verb
from fewslice.napari.readers import read_layers

PLANES = (8, 18, 28)
TINY = {"network.features": "8", "network.depth": "2", "schedule.validations": "2"}


class Loop:
    """A window, the panel in it, and what was measured."""

    def __init__(self, folder: Path, steps: int, theme: str) -> None:
        self.folder, self.steps = folder, steps
        self.facts: dict[str, Any] = {}
        self.late: list[float] = []
        register()
        get_settings().appearance.theme = theme
        self.viewer = napari.Viewer(show=True)
        self.viewer.theme = theme
        self.viewer.window.resize(1500, 1040)
        _, widget = self.viewer.window.add_plugin_dock_widget("fewslice", "Annotate and train")
        self.panel = widget.panel
        self.spin(1)

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let the window live for a while, or until something is true; note how long it ever took to answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until():
                return True
            began = time.monotonic()
            QApplication.processEvents()
            self.late.append(time.monotonic() - began)
            time.sleep(0.01)
        return until()

    def picture(self, name: str) -> None:
        """Take a picture of the whole window."""
        self.spin(0.4)
        self.viewer.screenshot(str(self.folder / f"{name}.png"), canvas_only=False, flash=False)

    def note(self, **facts: Any) -> None:
        """Note what was found, and show it."""
        self.facts |= facts
        print(json.dumps(facts), flush=True)

    def do(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Do what a button does; a message about a problem ends the script."""
        self.panel.message.setText("")
        result = self.panel.bench.guarded(action)(*arguments)
        self.check()
        return result

    def check(self) -> None:
        """End the script if a message is about a problem."""
        if self.panel._problem:
            raise SystemExit(f"the window says: {self.panel.message.text()}")

    def run(self) -> None:
        """Do the whole loop."""
        annotation = self.annotate()
        self.train(annotation)
        self.predict(annotation)
        self.next_plane()
        self.proofread()
        self.reopen(annotation)

    def annotate(self) -> Any:
        """Open the sample, and paint three planes from its truth, with the brush and by setting voxels."""
        viewer, panel = self.viewer, self.panel
        viewer.open_sample("fewslice", "two_photon")
        panel.annotate.image.setCurrentText("phantom somata")
        panel.annotate.folder.setText(str(self.folder / "annotation"))
        self.do(panel.annotate.begin)
        layer = panel.bench.active()
        self.picture("1_begun")
        truth = np.asarray(viewer.layers["phantom truth"].data)
        for plane in PLANES:
            panel.bench.show_plane(layer, 0, plane)
            layer.selected_label, layer.brush_size = 1, 3
            spot = np.argwhere(truth[plane])[0]
            layer.paint((plane, *spot), 1)
            rows, columns = np.nonzero(truth[plane])
            layer.data_setitem((np.full(rows.size, plane), rows, columns), 1)
            self.do(panel.bench.toggle_done, layer)
        self.do(panel.bench.show_plane, layer, 0, 13)
        self.do(panel.annotate.fill)
        if not self.spin(60, lambda: np.any(layer.data[13]) or panel._problem):
            raise SystemExit("the planes were never filled")
        self.check()
        self.picture("2_painted_and_filled")
        filled = int(np.count_nonzero(layer.data[13]))
        for _ in range(2):
            self.do(panel.bench.undo, layer)
            self.do(panel.bench.redo, layer)
        self.note(painted=[int(np.count_nonzero(layer.data[p])) for p in PLANES], filled=filled)
        return layer

    def train(self, layer: Any) -> None:
        """Train for a few steps; cancel once, resume; the window answers all the while."""
        tab = self.panel.train
        self.panel.tabs.setCurrentWidget(tab.widget)
        if not self.spin(120, lambda: tab._forms is not None):
            raise SystemExit("the settings were never shown")
        tab.strategy.setCurrentText("slices_2d")
        for key, value in TINY.items():
            tab._fields[key][1].setText(value)
        tab.unit.setCurrentText("steps")
        tab.budget.setValue(self.steps)
        self.viewer.layers.selection.active = layer
        self.panel.bench.show_plane(layer, 0, 13)
        self.do(tab.train)
        if not self.spin(240, lambda: tab.state.losses or (tab.running is None and not tab._preparing)):
            raise SystemExit("the training never began")
        self.check()
        self.picture("3_training")
        self.late.clear()
        self.do(tab.cancel)
        self.spin(60, lambda: tab.running is None)
        self.note(stopped=tab.status.text())
        self.do(tab.resume)
        self.spin(400, lambda: tab.running is None)
        late = sorted(self.late)
        self.note(
            trained=tab.status.text(),
            window_answers_ms={"99 %": round(1e3 * late[int(0.99 * len(late))]), "longest": round(1e3 * late[-1])},
        )
        self.check()
        self.spin(120, lambda: not self.panel.predict._viewing)
        self.check()
        self.picture("4_trained_with_preview")

    def predict(self, layer: Any) -> None:
        """Predict the whole volume."""
        tab = self.panel.predict
        self.panel.tabs.setCurrentWidget(tab.widget)
        tab.image.setCurrentText("phantom somata")
        tab.output.setText(str(self.folder))
        before = len(self.viewer.layers)
        self.do(tab.predict_volume)
        self.spin(300, lambda: len(self.viewer.layers) >= before + 2 or self.panel._problem)
        self.check()
        self.picture("5_predicted")
        self.note(layers=[found.name for found in self.viewer.layers])
        self.do(tab.count)
        self.spin(300, lambda: " count; " in self.panel.message.text() or self.panel._problem)
        self.check()
        self.picture("6_counted")
        self.note(counted=self.panel.message.text())

    def next_plane(self) -> None:
        """Go to the plane that the run suggests, if this fewslice can say which."""
        tab = self.panel.predict
        if not has_verb("plan"):
            self.panel.bench.guarded(tab.suggest)()
            self.note(next_plane=self.panel.message.text())
            self.panel._problem = False
            return
        self.do(tab.suggest)
        self.spin(600, lambda: tab._command is None)
        self.check()
        self.do(tab.next_plane)
        self.picture("7_next_plane")
        self.note(next_plane=self.panel.message.text())

    def proofread(self) -> None:
        """Replace the instances in the prediction by the truth, cut one in two, merge two others, and save."""
        viewer, panel = self.viewer, self.panel
        store = next(self.folder.glob("*_predicted*.ome.zarr"))
        truth = np.asarray(viewer.layers["phantom truth"].data).astype(np.uint32)
        voxel = io.open_volume(store).voxel_size_um
        viewer.layers.remove(viewer.layers["instances"])
        shutil.rmtree(store / "labels" / "instances")
        target = io.create_labels(store, "instances", shape=truth.shape, dtype=np.uint32, voxel_size_um=voxel)
        for block in cover(truth.shape, target.unit, (0, 0, 0)):
            target.write(block.write, truth[block.write.slices])
        io.write_pyramid(store, group="labels/instances")
        for data, options, _ in read_layers(str(store / "labels" / "instances")):
            viewer.add_labels(data, **options)
        tab = panel.proofread
        panel.tabs.setCurrentWidget(tab.widget)
        tab.labels.setCurrentText("instances")
        self.do(tab.begin)
        layer = viewer.layers["instances"]
        self.spin(60, lambda: layer in panel.bench.objects)
        count = len(panel.bench.objects[layer])
        largest = max(panel.bench.objects[layer], key=lambda n: panel.bench.objects[layer][n].voxels)
        self.do(panel.bench.go_to, layer, largest)
        box = panel.bench.objects[layer][largest].box
        z, _, x = (round(c) for c in panel.bench.objects[layer][largest].centre)
        self.do(panel.bench.place, layer, "fewslice cut")
        corners = [(z, box.start[1] - 1, x), (z, box.stop[1] + 1, x)]
        viewer.layers["fewslice cut"].add_paths(np.array(corners))
        self.picture("8_cut_drawn")
        self.do(panel.bench.split, layer)
        self.picture("9_proofread")
        after_split = len(panel.bench.objects[layer])
        panel.bench.chosen[layer] = set(list(panel.bench.objects[layer])[:2])
        self.do(panel.bench.merge, layer)
        self.do(panel.annotate.save)
        self.spin(60, lambda: "Saved" in panel.message.text() or panel._problem)
        self.check()
        stored = np.unique(io.open_labels(store / "labels" / "instances").read())
        self.note(objects=count, after_split=after_split, after_merge=len(stored) - 1)

    def reopen(self, layer: Any) -> None:
        """Close the annotation, open it again, and find everything as it was."""
        panel, viewer = self.panel, self.viewer
        before, done = np.asarray(layer.data), set(panel.bench.session_of(layer).done)
        viewer.layers.remove(layer)
        panel.annotate.image.setCurrentText("phantom somata")
        panel.annotate.folder.setText(str(self.folder / "annotation"))
        self.do(panel.annotate.begin)
        again = viewer.layers.selection.active
        session = panel.bench.session_of(again)
        same = np.array_equal(np.asarray(again.data), before) and session.done == done
        panel.tabs.setCurrentWidget(panel.annotate.widget)
        self.picture("10_opened_again")
        self.note(the_same_after_opening_again=bool(same), message=panel.message.text())


def register() -> None:
    """Let napari know the plugin where it is run from a source tree that is not installed."""
    manager = PluginManager.instance()
    manager.discover()
    if "fewslice" not in manager:
        manager.register(PluginManifest.from_file(Path(fewslice.napari.__file__).with_name("napari.yaml")))


def main() -> None:
    """Run the loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("napari_loop"), help="folder for everything")
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument("--theme", default="dark", choices=["dark", "light"])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    loop = Loop(options.output.resolve(), options.steps, options.theme)
    try:
        loop.run()
    finally:
        loop.panel.close()
        loop.viewer.close()
    (options.output / "facts.json").write_text(json.dumps(loop.facts, indent=2))


if __name__ == "__main__":
    main()
