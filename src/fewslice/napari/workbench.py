"""What is open in one viewer: sessions on layers, objects, messages. Knows napari's layers, but no window.

Every action checks what it is given and raises :class:`~fewslice.errors.FewsliceError` with one sentence, which
:meth:`Workbench.guarded` turns into a message; nothing that was painted is lost by a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io
from fewslice.annotation import AXIS_NAMES
from fewslice.errors import DiskError, FewsliceError, InputError
from fewslice.geometry import Box
from fewslice.napari import proofreading
from fewslice.napari.edits import EditedArray, Stroke
from fewslice.napari.filling import Filled, gap_of, stroke_of
from fewslice.napari.layers import (
    KEY,
    PAINTED,
    PREDICTED,
    ImageSource,
    check_labels,
    displayed_plane,
    image_of,
    label_colours,
    labels_of,
    unique_name,
)
from fewslice.napari.proofreading import Object
from fewslice.napari.session import Session, open_annotation, open_edits

__all__ = ["Counting", "Message", "Workbench"]

SEEDS = "fewslice seeds"
CUT = "fewslice cut"
_IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class Message:
    """A sentence for the window, and whether it is about something that went wrong."""

    text: str
    problem: bool = False


def _named(labels: list[int]) -> str:
    """Name objects in a sentence, the first few of many."""
    listed = ", ".join(str(n) for n in labels[:6])
    more = f" and {len(labels) - 6} more" if len(labels) > 6 else ""
    return f"object{'s' if len(labels) > 1 else ''} {listed}{more}"


@dataclass(frozen=True)
class Counting:
    """Objects of a layer that are being counted, and what was changed since that began.

    Attributes
    ----------
    labels
        The labels as they were.
    changes
        Strokes made since.
    """

    labels: EditedArray
    changes: list[Stroke] = field(default_factory=list)

    def count(self) -> dict[int, Object]:
        """Count; may run in a thread."""
        return proofreading.measure(self.labels)


@dataclass
class Workbench:
    """The sessions of a viewer.

    Attributes
    ----------
    viewer
        A ``napari.components.ViewerModel``, or a viewer with a window.
    say
        Called with every message.
    changed
        Called after labels, planes or layers have changed.
    sessions
        By layer.
    objects
        By layer: the table of its objects, once it was counted.
    chosen
        By layer: labels of the objects that are chosen.
    """

    viewer: Any
    say: Callable[[Message], None]
    changed: Callable[[], None] = lambda: None
    sessions: dict[Any, Session] = field(default_factory=dict)
    objects: dict[Any, dict[int, Object]] = field(default_factory=dict)
    chosen: dict[Any, set[int]] = field(default_factory=dict)
    _painted: set[Any] = field(default_factory=set)
    _counting: dict[Any, Counting] = field(default_factory=dict)
    _unclosed: list[Session] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Close the session of a layer that is deleted."""
        self.viewer.layers.events.removed.connect(lambda event: self._on_removed(event.value))

    def guarded(self, action: Callable[..., Any]) -> Callable[..., Any]:
        """Return an action that says what went wrong instead of raising it."""

        def run(*arguments: Any, **options: Any) -> Any:
            try:
                return action(*arguments, **options)
            except FewsliceError as error:
                self.say(Message(str(error), problem=True))
                return None

        return run

    # ------------------------------------------------------------------------------------------------ sessions

    def annotate(self, image: Any, folder: Path, start: Any = None) -> Any:
        """Begin or continue the annotation of an Image layer; return its Labels layer.

        Parameters
        ----------
        image
            The layer.
        folder
            Where the annotation is kept.
        start
            A Labels layer whose labels it begins with; None for nothing, or for what the folder holds.

        Raises
        ------
        InputError
            If the layers cannot be used, or as :func:`~fewslice.napari.session.open_annotation`.
        """
        source = image_of(image)
        if start is not None:
            self._free(start)
            check_labels(start, image)
        session = open_annotation(folder, source.volume, None if start is None else labels_of(start))
        layer = self.viewer.add_labels(
            session.labels, name=unique_name(f"{image.name} annotation", list(self.viewer.layers)),
            scale=source.scale, translate=source.translate, units=source.units, axis_labels=AXIS_NAMES,
            colormap=label_colours(PAINTED),
        )  # fmt: skip
        self._bind(layer, session)
        if not session.notes:
            self.say(
                Message(
                    "Paint the cells of a plane, then mark it as done (Alt+D). Every stroke is on disk at once, in "
                    f"{session.folder}"
                )
            )
        return layer

    def proofread(self, labels: Any) -> None:
        """Begin or continue to correct the labels of an OME-Zarr, on their own layer.

        Raises
        ------
        InputError
            If the layer is not of labels inside an OME-Zarr, or as :func:`~fewslice.napari.session.open_edits`.
        """
        self._free(labels)
        place = labels.metadata.get(KEY, {}).get("path") if type(labels).__name__ == "Labels" else None
        if place is None or io.is_address(place) or Path(place).parent.name != "labels":
            raise InputError(
                f"{labels.name} is not of labels inside an OME-Zarr on a disk, so it cannot be corrected in place; "
                "begin an annotation with it (tab Annotate), which is corrected with the same tools"
            )
        session = open_edits(place)
        labels.data = session.labels
        labels.editable = True
        self._bind(labels, session)

    def session_of(self, layer: Any) -> Session:
        """Return the session of a layer.

        Raises
        ------
        InputError
            If there is none.
        """
        if layer not in self.sessions:
            name = "no layer" if layer is None else layer.name
            raise InputError(f"{name} is not being annotated or proofread; begin in the tab Annotate or Proofread")
        return self.sessions[layer]

    def active(self) -> Any:
        """Return the selected layer if it has a session, else the only layer with one.

        Raises
        ------
        InputError
            If neither is there.
        """
        layer = self.viewer.layers.selection.active
        if layer in self.sessions:
            return layer
        if len(self.sessions) == 1:
            return next(iter(self.sessions))
        if not self.sessions:
            raise InputError("nothing is being annotated or proofread; begin in the tab Annotate or Proofread")
        raise InputError("several layers are being edited; select one of them in the layer list")

    def close(self) -> None:
        """Close all sessions; what the disk refused is said, and those sessions stay open."""
        for layer in list(self.sessions):
            self._close(self._forget(layer))

    def _bind(self, layer: Any, session: Session) -> None:
        """Have every stroke on a layer go to its session."""
        self.sessions[layer] = session
        session.on_change = partial(self._follow, layer)
        layer.events.paint.connect(lambda event: self._on_paint(layer))
        layer.bind_key("Control-Z", self.guarded(lambda _: self.undo(layer)), overwrite=True)
        layer.bind_key("Control-Shift-Z", self.guarded(lambda _: self.redo(layer)), overwrite=True)
        layer.mouse_drag_callbacks.append(partial(self._choose_under_cursor))
        for note in session.notes:
            self.say(Message(note, problem=not note.startswith("Restored")))
        self._show(layer)
        self.viewer.layers.selection.active = layer

    def _free(self, layer: Any) -> None:
        if layer in self.sessions:
            raise InputError(f"{layer.name} is being edited already")

    def _on_removed(self, layer: Any) -> None:
        if layer in self.sessions:
            session = self._forget(layer)
            if self._close(session):
                self.say(Message(f"{layer.name} was deleted from the window; all of it is kept in {session.folder}"))
            self.changed()

    def _forget(self, layer: Any) -> Session:
        self.objects.pop(layer, None)
        self.chosen.pop(layer, None)
        self._counting.pop(layer, None)
        return self.sessions.pop(layer)

    def _close(self, session: Session) -> bool:
        """Close a session; one whose changes the disk refuses is kept, and :meth:`tick` tries again."""
        try:
            session.close()
        except DiskError as error:
            self.say(Message(str(error), problem=True))
            if session.unwritten:
                self._unclosed.append(session)
            return False
        return True

    # ----------------------------------------------------------------------------------------------- annotating

    def commit(self, layer: Any, *, ended: bool = True) -> None:
        """Journal what was painted on a layer since the last call, of a stroke that has not `ended` the part so far."""
        session = self.sessions.get(layer)
        if session is None:
            return
        if self.guarded(session.commit)(ended=ended) is not None:
            self.changed()

    def tick(self) -> None:
        """Journal strokes that have ended, and what was written otherwise and a while ago; called ten times a second.

        Of a brush that is still being drawn the part so far is journalled once a second; it stays one stroke to undo.
        What the disk has refused is tried again.
        """
        self._write_unwritten()
        painted, self._painted = self._painted, set()
        for layer, session in list(self.sessions.items()):
            if layer in painted or session.labels.idle_seconds() > _IDLE_SECONDS:
                self.commit(layer)
            elif session.labels.waiting_seconds() > _IDLE_SECONDS:
                self.commit(layer, ended=False)

    def _write_unwritten(self) -> None:
        for session in [*self.sessions.values(), *self._unclosed]:
            if session.unwritten:
                with suppress(DiskError):  # which was said when it came up
                    session.write_unwritten()
                    self.say(Message(f"All changes in {session.folder} are on disk again"))
        for session in [s for s in self._unclosed if not s.unwritten]:
            self._unclosed.remove(session)
            self._close(session)

    def _on_paint(self, layer: Any) -> None:
        """Journal a stroke at its end.

        napari tells of a stroke of the brush once it is on the labels, of a fill before; the next tick takes that.
        """
        self.commit(layer)
        self._painted.add(layer)

    def undo(self, layer: Any) -> None:
        """Take the last stroke on a layer back."""
        session = self.session_of(layer)
        self.commit(layer)
        with self._shown(layer):
            if session.undo() is None:
                raise InputError("there is nothing to undo")

    def redo(self, layer: Any) -> None:
        """Do the stroke on a layer that was undone last again."""
        session = self.session_of(layer)
        self.commit(layer)
        with self._shown(layer):
            if session.redo() is None:
                raise InputError("there is nothing to do again")

    def toggle_done(self, layer: Any) -> None:
        """Mark the plane that is shown as done, or take the mark back."""
        session = self.session_of(layer)
        axis, index = displayed_plane(layer, self.viewer.dims)
        with self._shown(layer):
            session.mark(axis, index, done=not session.is_done(axis, index))

    def filling(self, layer: Any) -> Callable[[], Filled]:
        """Return the function that fills the planes between the done ones around the shown one, to call in a thread.

        Raises
        ------
        InputError
            As :func:`~fewslice.napari.filling.gap_of`.
        """
        return gap_of(self.session_of(layer), *displayed_plane(layer, self.viewer.dims)).interpolated

    def fill(self, layer: Any, filled: Filled) -> None:
        """Put on a layer what :meth:`filling` has made, where it is still free; nothing if the layer was deleted."""
        if layer not in self.sessions:
            return
        self.commit(layer)
        stroke = stroke_of(self.session_of(layer), filled)
        self._apply(layer, stroke, "fill")
        self.say(Message(f"{stroke.size} voxels were filled in; correct them, then mark the planes that are right"))

    def plane_text(self, layer: Any) -> str:
        """Describe the plane that is shown and those that are done."""
        session = self.session_of(layer)
        done = {letter: sorted(i for a, i in session.done if a == axis) for axis, letter in enumerate("zyx")}
        listed = "; ".join(f"{letter} = {', '.join(map(str, found))}" for letter, found in done.items() if found)
        try:
            axis, index = displayed_plane(layer, self.viewer.dims)
        except InputError as error:
            return f"{error}\nDone: {listed or 'none'}"
        here = "done" if session.is_done(axis, index) else "not done"
        return f"Shown: {'zyx'[axis]} = {index}, {here}\nDone: {listed or 'none'}"

    # --------------------------------------------------------------------------------------------- proofreading

    def begin_counting(self, layer: Any) -> Counting:
        """Return what counts the objects of a layer, in a thread; hand it to :meth:`end_counting` then."""
        self.commit(layer)
        self._counting[layer] = Counting(self.session_of(layer).labels.snapshot())
        return self._counting[layer]

    def end_counting(self, layer: Any, counting: Counting, found: dict[int, Object]) -> None:
        """Keep the objects that were counted, with what was changed meanwhile; not if a later count has begun."""
        if self._counting.get(layer) is not counting:
            return
        del self._counting[layer]
        for stroke in counting.changes:
            found = proofreading.updated(found, stroke, layer.data.shape)
        self.objects[layer] = found

    def table(self, layer: Any) -> dict[int, Object]:
        """Return the table of objects of a layer.

        Raises
        ------
        InputError
            If they are not counted yet.
        """
        self.session_of(layer)
        self.commit(layer)
        if layer in self._counting and layer not in self.objects:
            raise InputError(f"the objects of {layer.name} are being counted; wait until that has ended")
        if layer not in self.objects:
            raise InputError(f"count the objects of {layer.name} first: Begin or continue in the tab Proofread")
        return self.objects[layer]

    def merge(self, layer: Any) -> None:
        """Make one object of those that are chosen."""
        names = sorted(self.chosen.get(layer, ()))
        stroke = proofreading.merge(self.session_of(layer).labels, self.table(layer), names)
        self._apply(layer, stroke, "merge")
        self.say(Message(f"Merged {_named(names)} into {names[0]}"))
        self.chosen[layer] = {names[0]}
        self.changed()

    def delete(self, layer: Any) -> None:
        """Make the objects that are chosen background."""
        names = sorted(self.chosen.get(layer, ()))
        self._apply(layer, proofreading.delete(self.session_of(layer).labels, self.table(layer), names), "delete")
        self.say(Message(f"Deleted {_named(names)}"))
        self.chosen[layer] = set()
        self.changed()

    def add(self, layer: Any) -> int:
        """Choose the number of a new object for painting, and return it."""
        session = self.session_of(layer)
        layer.selected_label = proofreading.new_label(session.labels, self.table(layer))
        layer.mode = "paint"
        self.viewer.layers.selection.active = layer
        return int(layer.selected_label)

    def place(self, layer: Any, what: str) -> None:
        """Add a layer to place seeds (`SEEDS`) or to draw a line (`CUT`) for splitting an object of a layer."""
        self.session_of(layer)
        if what not in self.viewer.layers:
            options: dict[str, Any] = {"name": what, "ndim": 3, "scale": layer.scale, "translate": layer.translate}
            options["units"] = layer.units
            if what == SEEDS:
                self.viewer.add_points(size=4, face_color="yellow", **options)
            else:
                self.viewer.add_shapes(edge_color="yellow", edge_width=1, **options)
        tool = self.viewer.layers[what]
        self.viewer.layers.selection.active = tool
        tool.mode = "add" if what == SEEDS else "add_path"
        how = "Click on each part of the object" if what == SEEDS else "Draw a line right across the object"
        self.say(Message(f"{how}, then split it (Alt+K)"))

    def split(self, layer: Any) -> None:
        """Split the object under the seeds, or under the line, whichever were drawn; then remove them.

        Raises
        ------
        InputError
            If neither or both were drawn, or as :mod:`fewslice.napari.proofreading`.
        """
        session, objects = self.session_of(layer), self.table(layer)
        tools = {name: self.viewer.layers[name] for name in (SEEDS, CUT) if name in self.viewer.layers}
        drawn = {name: tool for name, tool in tools.items() if len(tool.data)}
        if len(drawn) != 1:
            raise InputError("place seeds on an object, or draw a line across it, one of the two; then split")
        if SEEDS in drawn:
            points = self._voxels(layer, drawn[SEEDS], drawn[SEEDS].data)
            stroke = proofreading.split_by_seeds(session.labels, objects, points, session.voxel_size_um)
        else:
            axis, _ = displayed_plane(layer, self.viewer.dims)
            corners = self._voxels(layer, drawn[CUT], drawn[CUT].data[-1])
            stroke = proofreading.split_by_line(session.labels, objects, corners, axis)
        self._apply(layer, stroke, "split")
        parts = sorted({int(n) for n in np.unique(stroke.new)} - set(objects))
        self.say(Message(f"Split; new: {_named(parts)}"))
        for tool in tools.values():
            self.viewer.layers.remove(tool)
        self.viewer.layers.selection.active = layer

    def go_to(self, layer: Any, name: int) -> None:
        """Show an object: its plane, its place in the middle of the canvas.

        Raises
        ------
        InputError
            If there is no such object.
        """
        found = self.table(layer).get(name)
        if found is None:
            raise InputError(f"there is no object {name} any more")
        self.show_point(layer, found.centre)
        layer.selected_label = name

    def show_point(self, layer: Any, position: tuple[float, float, float]) -> None:
        """Move sliders and camera to a position z, y, x in voxels of a layer."""
        dims = self.viewer.dims
        world = layer.data_to_world(tuple(round(v) for v in position))
        dims.set_point(range(dims.ndim - 3, dims.ndim), world)
        displayed = [d - (dims.ndim - 3) for d in dims.displayed]
        camera = self.viewer.scene.camera
        centre = list(camera.center)
        centre[-len(displayed) :] = [world[d] for d in displayed]
        camera.center = tuple(centre)

    def show_plane(self, layer: Any, axis: int, index: int) -> None:
        """Show a plane of a layer, turning the axes so that it is one."""
        dims = self.viewer.dims
        dims.ndisplay = 2
        first = dims.ndim - 3
        others = [first + a for a in range(3) if a != axis]
        dims.order = (*range(first), first + axis, *others)
        place = [0.0, 0.0, 0.0]
        place[axis] = float(index)
        dims.set_point(first + axis, layer.data_to_world(tuple(place))[axis])

    def _choose_under_cursor(self, layer: Any, event: Any) -> None:
        """Alt + click chooses the object under the cursor, or no longer."""
        if "Alt" not in event.modifiers or layer not in self.sessions:
            return
        place = np.floor(np.asarray(layer.world_to_data(event.position)) + 0.5).astype(int)
        if all(0 <= p < n for p, n in zip(place, layer.data.shape, strict=True)):
            name = int(layer.data[tuple(int(p) for p in place)])
            if name:
                self.chosen[layer] = self.chosen.get(layer, set()) ^ {name}
                self.changed()

    def _voxels(self, layer: Any, tool: Any, points: npt.NDArray[Any]) -> list[tuple[float, ...]]:
        return [tuple(layer.world_to_data(tool.data_to_world(p))) for p in points]

    # --------------------------------------------------------------------------------------------------- results

    def add_prediction(self, values: npt.NDArray[Any], source: ImageSource, box: Box, name: str) -> Any:
        """Add the segmentation of a part of an image as a Labels layer at its place, or replace that of this name."""
        start = tuple(t + s * b for t, s, b in zip(source.translate, source.scale, box.start, strict=True))
        if name in self.viewer.layers:
            self.viewer.layers.remove(self.viewer.layers[name])
        return self.viewer.add_labels(
            values, name=name, scale=source.scale, translate=start, units=source.units, axis_labels=AXIS_NAMES,
            opacity=0.5, colormap=label_colours(PREDICTED),
        )  # fmt: skip

    def image_under(self, layer: Any) -> Any:
        """Return the Image layer that a layer with a session was made on: the first that fits.

        Raises
        ------
        InputError
            If there is none, for example because it was deleted.
        """
        trouble = ""
        for other in self.viewer.layers:
            if type(other).__name__ != "Image" or other.rgb:
                continue
            try:
                check_labels(layer, other)
                image_of(other)
                return other
            except InputError as error:
                trouble = f" ({error})"
        raise InputError(f"the image under {layer.name} is not open; open it again{trouble}")

    def _apply(self, layer: Any, stroke: Stroke, by: str) -> None:
        session = self.session_of(layer)
        self.commit(layer)
        with self._shown(layer):
            session.apply(stroke, by)

    def _follow(self, layer: Any, stroke: Stroke) -> None:
        """Keep the table of objects up to date; a count under way gets the stroke when it has ended."""
        if layer in self._counting:
            self._counting[layer].changes.append(stroke)
        if layer in self.objects:
            self.objects[layer] = proofreading.updated(self.objects[layer], stroke, layer.data.shape)

    @contextmanager
    def _shown(self, layer: Any) -> Iterator[None]:
        """Show a layer as it is after a change, also if the disk refused that."""
        try:
            yield
        finally:
            self._show(layer)

    def _show(self, layer: Any) -> None:
        """Draw a layer anew, and keep what is known of it in its metadata."""
        session = self.sessions[layer]
        done = sorted(session.done)
        about = {**layer.metadata.get(KEY, {}), "folder": str(session.folder), "done": [list(p) for p in done]}
        layer.metadata = {**layer.metadata, KEY: about}
        layer.refresh()
        self.changed()
