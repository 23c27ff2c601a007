"""A session: labels being edited, the planes that are done, undo and redo, and all of it in a journal.

An annotation session begins with nothing (or a copy of labels) for an image; an editing session corrects labels of
an OME-Zarr in place. Both are the same from then on:

1. A stroke on the labels is taken from :class:`~fewslice.napari.edits.EditedArray` by :meth:`Session.commit`, or made
   by a tool and handed to :meth:`Session.apply`. Either way it goes into the journal.
2. A plane counts as annotated once it is marked as done, and only then: an untouched plane is never background.
3. Opening the folder again replays the journal. Strokes say what value a voxel has, not by how much it changes, so
   replaying them over labels that were half saved gives the same as over those that were not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewslice import io
from fewslice.annotation import AXIS_NAMES
from fewslice.errors import DiskError, FewsliceError, InputError
from fewslice.geometry import Box, by
from fewslice.napari.edits import EditedArray, Stroke, merged, no_labels, runs_of, stroke_of_runs
from fewslice.napari.journal import NAME, Header, Journal, open_journal, read_journal
from fewslice.volume import Triple, Volume

__all__ = ["Saving", "Session", "Step", "open_annotation", "open_edits", "plane_specs"]

BASE = "base.ome.zarr"
LABELS = "labels.ome.zarr"

Plane = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """A stroke that was made, with its number and what made it (``hand``, ``fill``, ``split``, …)."""

    id: int
    by: str
    stroke: Stroke


@dataclass(frozen=True)
class Saving:
    """What one save has to write; made where strokes are made, carried out anywhere."""

    labels: EditedArray
    keys: frozenset[tuple[int, ...]]


class Session:
    """Labels that are edited, with their history.

    Attributes
    ----------
    folder
        Where the journal is.
    labels
        The labels (z, y, x).
    voxel_size_um
        z, y, x in µm, or None.
    target
        Label image of an OME-Zarr that the labels are saved into; None for an annotation, which is saved as a file in
        `folder`.
    done
        (axis, index) of the planes that are annotated completely.
    history, undone
        Strokes that can be undone and done again, the latest last.
    notes
        What was said on opening.
    on_change
        Called with every change of the labels, one that is undone turned round, before it is journalled.
    """

    def __init__(
        self, folder: Path, labels: EditedArray, journal: Journal, voxel_size_um: Triple | None, target: Path | None
    ) -> None:
        self.folder = folder
        self.labels = labels
        self.voxel_size_um = voxel_size_um
        self.target = target
        self.done: set[Plane] = set()
        self.history: list[Step] = []
        self.undone: list[Step] = []
        self.notes: list[str] = []
        self.on_change: Callable[[Stroke], None] = lambda stroke: None
        self._journal = journal
        self._last = 0
        self._going_on = False
        self._closed = False
        self._saving: Saving | None = None
        self._writing = threading.Lock()

    @property
    def unwritten(self) -> int:
        """Number of changes that the disk refused; they are written as soon as it takes them."""
        return len(self._journal.waiting)

    def write_unwritten(self) -> None:
        """Write the changes that the disk refused.

        Raises
        ------
        DiskError
            If it still does.
        """
        self._journal.write_waiting()

    # ------------------------------------------------------------------------------------------------- strokes

    def commit(self, by: str = "hand", *, ended: bool = True) -> Stroke | None:
        """Put what was painted since the last call into history and journal; return it, or None if nothing was.

        Parameters
        ----------
        by
            What painted it.
        ended
            False for a stroke that is still being drawn: what the next call finds is part of it, and one undo takes all
            of it back.

        Raises
        ------
        DiskError
            If the journal could not be written; the stroke stays on the labels and in the history, and waits.
        """
        stroke = self.labels.take_stroke()
        going_on, self._going_on = self._going_on, not ended and (self._going_on or stroke is not None)
        if stroke is not None and going_on:
            step = self._extend(stroke)
            self.on_change(stroke)
            self._journal.append(
                {"what": "stroke", "id": step.id, "by": step.by, "runs": runs_of(stroke), "continues": True}
            )
        elif stroke is not None:
            self._record(stroke, by)
        return stroke

    def apply(self, stroke: Stroke, by: str) -> None:
        """Carry out a stroke that a tool made."""
        self.commit()
        self.labels.put(stroke.indices, stroke.new)
        self._record(stroke, by)

    def undo(self) -> Stroke | None:
        """Take the last stroke back; return it, or None if there is none."""
        self.commit()
        if not self.history:
            return None
        step = self.history.pop()
        self.undone.append(step)
        self.labels.put(step.stroke.indices, step.stroke.old)
        self.on_change(Stroke(step.stroke.indices, step.stroke.new, step.stroke.old))
        self._journal.append({"what": "undo", "id": step.id})
        return step.stroke

    def redo(self) -> Stroke | None:
        """Do the stroke that was last undone again; return it, or None if there is none."""
        self.commit()
        if not self.undone:
            return None
        step = self.undone.pop()
        self.history.append(step)
        self.labels.put(step.stroke.indices, step.stroke.new)
        self.on_change(step.stroke)
        self._journal.append({"what": "redo", "id": step.id})
        return step.stroke

    def _extend(self, stroke: Stroke) -> Step:
        """Add to the last stroke."""
        last = self.history[-1]
        nothing = Stroke(stroke.indices[:0], stroke.old[:0], stroke.new[:0])
        self.history[-1] = Step(last.id, last.by, merged([last.stroke, stroke]) or nothing)
        return self.history[-1]

    def _record(self, stroke: Stroke, by: str) -> None:
        self._last += 1
        self.history.append(Step(self._last, by, stroke))
        self.undone.clear()
        self.on_change(stroke)
        self._journal.append({"what": "stroke", "id": self._last, "by": by, "runs": runs_of(stroke)})

    # -------------------------------------------------------------------------------------------------- planes

    def mark(self, axis: int, index: int, *, done: bool = True) -> None:
        """Say that a plane is annotated completely, so that what is not painted on it is background; or take it back.

        Parameters
        ----------
        axis
            0 z, 1 y, 2 x.
        index
            0-based position along it.

        Raises
        ------
        InputError
            If there is no such plane.
        """
        if not 0 <= axis < 3 or not 0 <= index < self.labels.shape[axis]:
            raise InputError(f"there is no plane {index} along axis {axis} in labels of shape {self.labels.shape}")
        self.commit()
        if done == ((axis, index) in self.done):
            return
        (self.done.add if done else self.done.discard)((axis, index))
        self._journal.append({"what": "mark", "axis": axis, "plane": index, "done": done})

    def is_done(self, axis: int, index: int) -> bool:
        """Whether a plane was marked."""
        return (axis, index) in self.done

    def made_by_hand(self, box: Box) -> npt.NDArray[np.bool_]:
        """Return the voxels of a box, bool (z, y, x), that a stroke other than a fill has set."""
        out = np.zeros(box.shape, dtype=np.bool_)
        for step in self.history:
            if step.by == "fill":
                continue
            places = np.unravel_index(step.stroke.indices, self.labels.shape)
            inside = np.ones(step.stroke.size, dtype=np.bool_)
            for place, low, high in zip(places, box.start, box.stop, strict=True):
                inside &= (place >= low) & (place < high)
            out[tuple(p[inside] - low for p, low in zip(places, box.start, strict=True))] = True
        return out

    # -------------------------------------------------------------------------------------------------- saving

    def begin_saving(self) -> Saving:
        """Note in the journal that labels are about to be saved, and return what is to be written.

        Raises
        ------
        InputError
            If they are being saved already, until :meth:`end_saving`.
        DiskError
            If the journal could not be written.
        """
        if self._saving is not None:
            raise InputError(f"the labels in {self.folder} are being saved already; wait until that has ended")
        self.commit()
        self._journal.append({"what": "saving"})
        keys, self.labels.unsaved = frozenset(self.labels.unsaved), set()
        self._saving = Saving(self.labels.snapshot(), keys)
        return self._saving

    def carry_out(self, saving: Saving) -> tuple[Path, str]:
        """Write; may run in a thread of its own.

        An annotation becomes ``labels.ome.zarr`` in the folder, whole. Corrected labels get their changed blocks
        written into the OME-Zarr they are of, and a new pyramid.

        Returns
        -------
        path, content
            What was written, and the hash of its content, for :meth:`end_saving`.

        Raises
        ------
        DiskError
            If the disk refuses the write. Nothing is lost: all of it is in the journal.
        InputError
            If the session was closed before this began.
        """
        with self._writing:
            if self._closed:
                raise InputError(f"{self.folder} was closed before its labels were saved; open it again and save")
            return self._write(saving)

    def _write(self, saving: Saving) -> tuple[Path, str]:
        if self.target is None:
            path = self.folder / LABELS
            io.save_labels(path, saving.labels.volume(), voxel_size_um=self.voxel_size_um, overwrite=True)
            return path, ""
        store = _store(self.target)
        for box in saving.labels.boxes(saving.keys):
            store.write(box, saving.labels.read(box).astype(store.array.dtype))
        io.write_pyramid(self.target.parent.parent, group=f"labels/{self.target.name}")
        return self.target, io.open_labels(self.target).content_hash()

    def end_saving(self, saving: Saving, content: str | None) -> None:
        """Note how saving ended: the `content` that was written, or None if it failed."""
        self._saving = None
        if self._closed:  # the journal is somebody else's by now; without this note it is replayed over what was saved
            return
        if content is None:
            self.labels.unsaved |= saving.keys
        else:
            self._journal.append({"what": "saved", "content": content})

    def save(self) -> Path:
        """Save and wait for it; return what was written."""
        saving = self.begin_saving()
        try:
            path, content = self.carry_out(saving)
        except BaseException:
            self.end_saving(saving, None)
            raise
        self.end_saving(saving, content)
        return path

    def close(self) -> None:
        """Have the journal stored and let others open the folder; waits for labels that are being written.

        Raises
        ------
        DiskError
            If the disk refuses changes: the session stays open, so that they can be written later.
        """
        if self._closed:
            return
        try:
            self.commit()
            self.write_unwritten()
        except DiskError as error:
            if self.unwritten:
                raise DiskError(
                    f"{self.folder} stays open, as {self.unwritten} changes in it are not on disk: {error}"
                ) from error
            self._end()
            raise
        self._end()

    def _end(self) -> None:
        with self._writing:
            self._closed = True
        self._journal.close()

    # ------------------------------------------------------------------------------------------------ restoring

    def replay(self, entries: Sequence[dict[str, Any]]) -> None:
        """Do again what a journal says; entries that make no sense are counted and left out."""
        steps: dict[int, Step] = {}
        strange = 0
        for entry in entries:
            try:
                self._replay_one(entry, steps)
            except (KeyError, TypeError, ValueError, OverflowError):
                strange += 1
        self._last = max(steps, default=0)
        if strange:
            self.notes.append(f"{strange} entries of the journal could not be used and were left out.")
        if self.history or self.done:
            self.notes.append(f"Restored {len(self.history)} strokes and {len(self.done)} planes that are done.")

    def _replay_one(self, entry: dict[str, Any], steps: dict[int, Step]) -> None:
        what = entry["what"]
        if what == "stroke":
            stroke = stroke_of_runs(entry["runs"], self.labels.size, self.labels.dtype)
            if entry.get("continues"):
                if not self.history or self.history[-1].id != int(entry["id"]):
                    raise ValueError("a stroke goes on that is not the last one")
                steps[self.history[-1].id] = self._extend(stroke)
                self.labels.put(stroke.indices, stroke.new)
                return
            step = Step(int(entry["id"]), str(entry["by"]), stroke)
            steps[step.id] = step
            self.labels.put(stroke.indices, stroke.new)
            self.history.append(step)
            self.undone.clear()
        elif what in ("undo", "redo"):
            step = steps[int(entry["id"])]
            source, target = (self.history, self.undone) if what == "undo" else (self.undone, self.history)
            source.remove(step)
            target.append(step)
            self.labels.put(step.stroke.indices, step.stroke.old if what == "undo" else step.stroke.new)
        elif what == "mark":
            plane = (int(entry["axis"]), int(entry["plane"]))
            if not 0 <= plane[1] < self.labels.shape[plane[0]]:
                raise ValueError("no such plane")
            (self.done.add if entry["done"] else self.done.discard)(plane)
        elif what not in ("saving", "saved"):
            raise ValueError(what)


def open_annotation(folder: str | Path, image: Volume, labels: Volume | None = None) -> Session:
    """Begin the annotation of an image, or go on with the one that a folder holds.

    Parameters
    ----------
    folder
        Where journal and labels are kept.
    image
        The image; only its shape, voxel size and content hash count.
    labels
        Labels to begin with, of the image's shape; a copy is kept in the folder. None: nothing is labelled, or what the
        folder holds is gone on with.

    Raises
    ------
    InputError
        If the folder may not be written to, is open elsewhere, holds the annotation of another image, or holds one
        already while `labels` are given.
    """
    place = Path(folder)
    begun = (place / NAME).exists()
    if labels is not None and labels.shape != image.shape:
        raise InputError(
            f"the labels have {by(labels.shape)} voxels and the image {by(image.shape)}; "
            "choose labels that were made on this image"
        )
    if labels is not None and begun:
        raise InputError(f"{place} holds an annotation already; go on with that one, or choose another folder")
    base = no_labels(image.shape)
    content = image.content_hash()
    if labels is not None:
        place.mkdir(parents=True, exist_ok=True)
        io.save_labels(place / BASE, labels, voxel_size_um=image.voxel_size_um, overwrite=True)
        base = _unsigned(io.open_labels(place / BASE))
    elif begun and (name := read_journal(place / NAME).header.base) is not None:
        base = _unsigned(io.open_labels(place / Path(name).name))
    header = Header(
        "annotation", content, image.source, image.shape, base.dtype.name, BASE if base.source else None
    )  # fmt: skip
    return _opened(place, header, EditedArray(base), image.voxel_size_um, None)


def open_edits(labels: str | Path, folder: str | Path | None = None) -> Session:
    """Begin to correct a label image of an OME-Zarr, or go on with it.

    Parameters
    ----------
    labels
        ``OUT.ome.zarr/labels/instances``.
    folder
        Where the journal is kept; beside the store by default.

    Raises
    ------
    InputError
        If there are no such labels, or as :func:`open_annotation`.
    """
    path = Path(labels)
    if path.parent.name != "labels" or not path.is_dir():
        raise InputError(f"{path} is no label image inside an OME-Zarr; expected OUT.ome.zarr/labels/NAME")
    store = path.parent.parent
    base = _unsigned(io.open_labels(path))
    place = Path(folder) if folder is not None else store.parent / f"{_stem(store)}.{path.name}.edits"
    unit = _store(path).unit
    header = Header("edits", base.content_hash(), str(path), base.shape, base.dtype.name)
    return _opened(place, header, EditedArray(base, unit), base.voxel_size_um, path)


def _opened(folder: Path, header: Header, labels: EditedArray, voxel: Triple | None, target: Path | None) -> Session:
    journal, recorded, notes = open_journal(folder, header)
    session = Session(folder, labels, journal, voxel, target)
    session.notes += notes
    if recorded is not None:
        session.replay(recorded.entries)
    return session


def plane_specs(planes: set[Plane]) -> tuple[str, ...]:
    """Write planes as ``fewslice train --planes`` takes them, one text per axis.

    Examples
    --------
    >>> plane_specs({(0, 14), (0, 4), (1, 3)})
    ('z=4,14', 'y=3')
    """
    out = []
    for axis, letter in enumerate(AXIS_NAMES):
        indices = sorted(index for a, index in planes if a == axis)
        if indices:
            out.append(f"{letter}=" + ",".join(str(i) for i in indices))
    return tuple(out)


def _store(path: Path) -> io.OutputStore:
    try:
        return io.open_output(path.parent.parent, labels=path.name)
    except FewsliceError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} cannot be opened for writing ({error}); check its permissions") from error


def _unsigned(labels: Volume) -> Volume:
    """Return labels as unsigned integers; signed ones are checked when they are read."""
    if labels.dtype.kind == "u":
        return labels
    return replace(labels, array=_Unsigned(labels.array))


class _Unsigned:
    """A lazy array of signed integers, read as unsigned ones; negative values are refused."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(f"u{np.dtype(array.dtype).itemsize}")

    def __getitem__(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read a part."""
        values = np.asarray(self._array[index])
        if values.size and values.min() < 0:
            raise InputError(f"the labels hold the negative value {values.min()}; give such voxels another value")
        return values.astype(self.dtype)


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".ome.zarr", ".zarr", ".ome.tif", ".ome.tiff"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
