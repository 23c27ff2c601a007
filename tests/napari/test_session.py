from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tifffile

from fewslice import io
from fewslice.annotation import from_labels
from fewslice.errors import DiskError, InputError
from fewslice.geometry import Box
from fewslice.napari.journal import NAME, read_journal
from fewslice.napari.session import open_annotation, open_edits, plane_specs
from fewslice.volume import Volume

SHAPE = (6, 20, 24)
VOXEL = (2.0, 0.5, 0.5)


def image(seed=0):
    values = np.random.default_rng(seed).integers(0, 255, SHAPE).astype(np.uint8)
    return Volume.from_array(values, VOXEL)


def painted(session):
    """Three strokes, the second undone and done again, the third undone; two planes done, one of them taken back."""
    for number, plane in enumerate((1, 3, 4), 1):
        session.labels[plane, 2 * number : 10, 3:9] = number
        session.commit()
    session.undo()
    session.undo()
    session.redo()
    for plane in (1, 3):
        session.mark(0, plane)
    session.mark(0, 3, done=False)
    return np.asarray(session.labels).copy()


def test_an_annotation_is_there_again_after_the_window_was_closed(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    expected = painted(session)
    session.close()
    again = open_annotation(tmp_path / "a", image())
    assert np.array_equal(np.asarray(again.labels), expected)
    assert again.done == {(0, 1)} and [s.id for s in again.history] == [1, 2] and [s.id for s in again.undone] == [3]
    assert "Restored 2 strokes and 1 planes" in " ".join(again.notes)
    again.redo()
    assert (again.labels[4, 6:10, 3:9] == 3).all()
    while again.undo() is not None:
        pass
    assert not np.asarray(again.labels).any()
    again.close()


def test_a_killed_process_loses_nothing(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_session import image, painted
from fewslice.napari.session import open_annotation
session = open_annotation({str(tmp_path / "a")!r}, image())
painted(session)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    session = open_annotation(tmp_path / "a", image())
    assert np.asarray(session.labels)[3].max() == 2 and session.done == {(0, 1)}
    session.close()


def test_strokes_are_on_disk_within_two_seconds_and_painting_does_not_wait(tmp_path, monkeypatch):
    synced: list[tuple[float, int]] = []
    real = os.fsync

    def slow(handle):
        size = os.fstat(handle).st_size
        time.sleep(0.3)
        real(handle)
        synced.append((time.monotonic(), size))

    session = open_annotation(tmp_path / "a", image())
    monkeypatch.setattr("fewslice.napari.journal.os.fsync", slow)
    began = time.monotonic()
    session.labels[1, 2:5] = 4
    session.commit()
    assert time.monotonic() - began < 0.2
    size = (tmp_path / "a" / NAME).stat().st_size
    while not any(s >= size for _, s in synced):
        assert time.monotonic() - began < 2
        time.sleep(0.01)
    session.close()


@pytest.mark.parametrize("keep", [0.3, 0.97])
def test_a_last_line_that_was_cut_is_left_out_and_said(tmp_path, keep):
    session = open_annotation(tmp_path / "a", image())
    session.labels[1, 2:5] = 4
    session.commit()
    session.labels[2, 2:5] = 5
    session.close()
    path = tmp_path / "a" / NAME
    content = path.read_bytes()
    last = content.rstrip(b"\n").rindex(b"\n") + 1
    path.write_bytes(content[: last + int((len(content) - last) * keep)])
    again = open_annotation(tmp_path / "a", image())
    assert (again.labels[1, 2:5] == 4).all() and not again.labels[2].any()
    assert "cut short" in again.notes[0] and len(again.history) == 1
    again.labels[3, 2:5] = 6
    again.close()
    third = open_annotation(tmp_path / "a", image())
    assert len(third.history) == 2 and not any("cut" in n for n in third.notes)
    third.close()


def test_a_damaged_line_costs_what_it_held_and_the_damaged_journal_is_kept(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    for plane in (1, 2, 3):
        session.labels[plane, 2:5] = plane
        session.commit()
    session.undo()
    session.close()
    path = tmp_path / "a" / NAME
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"runs": [[', b'"runs": [[1', 1)  # still JSON, but another run
    damaged = b"\n".join(lines)
    path.write_bytes(damaged)
    again = open_annotation(tmp_path / "a", image())
    assert [int(again.labels[p, 2, 0]) for p in (1, 2, 3)] == [1, 0, 0]
    assert "Line 3" in again.notes[0] and (tmp_path / "a" / "journal.damaged1.jsonl").read_bytes() == damaged
    again.redo()
    assert again.labels[3, 2, 0] == 3
    again.close()


def test_a_journal_of_another_volume_is_refused_and_stays_as_it_is(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    painted(session)
    session.close()
    before = (tmp_path / "a" / NAME).read_bytes()
    with pytest.raises(InputError, match="another volume"):
        open_annotation(tmp_path / "a", image(seed=1))
    assert (tmp_path / "a" / NAME).read_bytes() == before
    open_annotation(tmp_path / "a", image()).close()


def test_two_windows_on_one_folder(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    with pytest.raises(InputError, match="open in another window"):
        open_annotation(tmp_path / "a", image())
    session.close()
    open_annotation(tmp_path / "a", image()).close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written to"):
        open_annotation(tmp_path / "file" / "a", image())


@pytest.mark.skipif(os.name == "nt", reason="folders of Windows have other rights")
def test_a_read_only_folder_is_said_and_stays_as_it_is():
    with TemporaryDirectory() as place:
        folder = Path(place) / "a"
        session = open_annotation(folder, image())
        painted(session)
        session.close()
        before = (folder / NAME).read_bytes()
        Path(place).chmod(0o755)
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        root = os.geteuid() == 0
        if root:  # who may write everywhere
            os.seteuid(65534)
        try:
            with pytest.raises(InputError, match="cannot be written to"):
                open_annotation(folder, image())
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
        assert (folder / NAME).read_bytes() == before


def test_a_full_disk_is_said_and_the_stroke_stays(tmp_path, monkeypatch):
    session = open_annotation(tmp_path / "a", image())
    size = (tmp_path / "a" / NAME).stat().st_size

    def full(path, entry):
        raise DiskError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("fewslice.napari.journal.append_line", full)
        session.labels[1, 2:5] = 4
        with pytest.raises(DiskError):
            session.commit()
    assert (session.labels[1, 2:5] == 4).all() and len(session.history) == 1
    assert (tmp_path / "a" / NAME).stat().st_size == size
    session.close()


def test_what_a_full_disk_refused_is_written_before_the_next_change(tmp_path, monkeypatch):
    session = open_annotation(tmp_path / "a", image())

    def full(path, entry):
        raise DiskError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("fewslice.napari.journal.append_line", full)
        session.labels[1, 2:5] = 4
        for change in (session.commit, lambda: session.mark(0, 1), session.undo):
            with pytest.raises(DiskError, match="full"):
                change()
        assert session.unwritten == 3
        with pytest.raises(DiskError, match=r"stays open, as 3 changes in it are not on disk: .*full"):
            session.close()
        with pytest.raises(InputError, match="another window"):
            open_annotation(tmp_path / "a", image())
    session.redo()
    session.labels[2, 2:5] = 5
    session.commit()
    expected = np.asarray(session.labels).copy()
    session.close()
    again = open_annotation(tmp_path / "a", image())
    assert np.array_equal(np.asarray(again.labels), expected) and (expected[1, 2:5] == 4).all()
    assert again.done == {(0, 1)} and [s.id for s in again.history] == [1, 2]
    again.close()


def test_an_annotation_that_was_saved_opens_again_on_its_image_only(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    expected = painted(session)
    session.save()
    session.close()
    with pytest.raises(InputError, match="another volume"):
        open_annotation(tmp_path / "a", image(seed=1))
    again = open_annotation(tmp_path / "a", image())
    assert np.array_equal(np.asarray(again.labels), expected) and again.done == {(0, 1)}
    again.close()


def test_labels_are_saved_once_at_a_time(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    painted(session)
    first = session.begin_saving()
    with pytest.raises(InputError, match="being saved already"):
        session.begin_saving()
    session.end_saving(first, session.carry_out(first)[1])
    second = session.begin_saving()
    session.end_saving(second, None)
    session.save()
    late = session.begin_saving()
    session.close()
    with pytest.raises(InputError, match="closed before"):
        session.carry_out(late)
    recorded = read_journal(tmp_path / "a" / NAME)
    session.end_saving(late, "")
    assert read_journal(tmp_path / "a" / NAME) == recorded, "a closed journal may be another window's by now"


def test_closing_waits_for_labels_that_are_being_written(tmp_path, monkeypatch):
    session = open_annotation(tmp_path / "a", image())
    painted(session)
    saving = session.begin_saving()
    begun, order = threading.Event(), []
    real = io.save_labels

    def slow(*arguments, **options):
        begun.set()
        time.sleep(0.3)
        real(*arguments, **options)
        order.append("written")

    monkeypatch.setattr("fewslice.napari.session.io.save_labels", slow)
    thread = threading.Thread(target=session.carry_out, args=(saving,))
    thread.start()
    assert begun.wait(10)
    session.close()
    order.append("closed")
    thread.join()
    assert order == ["written", "closed"]


def test_an_untouched_plane_is_not_background(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    session.labels[1, 4:9, 4:9] = 1
    session.labels[2, 4:9, 4:9] = 1
    session.mark(0, 1)
    path = session.save()
    labels = io.open_labels(path)
    assert labels.voxel_size_um == VOXEL
    annotation = from_labels(labels.read()[0], planes=plane_specs(session.done))
    assert annotation.planes() == [1] and annotation.annotated.sum() == 20 * 24
    assert annotation.labels.sum() == 25
    session.close()


def test_labels_to_begin_with_are_copied_and_found_again(tmp_path):
    start = np.zeros(SHAPE, np.int32)
    start[2, 3:9, 3:9] = 70_000
    session = open_annotation(tmp_path / "a", image(), Volume.from_array(start))
    session.labels[2, 3, 3] = 0
    session.close()
    again = open_annotation(tmp_path / "a", image())
    start[2, 3, 3] = 0
    assert np.array_equal(np.asarray(again.labels), start)
    again.close()
    with pytest.raises(InputError, match="already"):
        open_annotation(tmp_path / "a", image(), Volume.from_array(start))


def store(tmp_path, seed=3):
    path = tmp_path / "OUT.ome.zarr"
    io.save_volume(path, image())
    labels = io.create_labels(path, "instances", shape=SHAPE, dtype=np.uint32, chunks=(2, 8, 8), voxel_size_um=VOXEL)
    values = np.random.default_rng(seed).integers(0, 5, SHAPE).astype(np.uint32)
    labels.write(Box.of(SHAPE), values)
    io.write_pyramid(path, group="labels/instances")
    return path / "labels" / "instances", values


def test_edits_are_saved_into_the_store_and_undone_after_a_restart(tmp_path):
    path, values = store(tmp_path)
    session = open_edits(path)
    assert session.folder == tmp_path / "OUT.instances.edits"
    session.labels[3, 5:9, 5:9] = 11
    session.commit()
    session.save()
    expected = values.copy()
    expected[3, 5:9, 5:9] = 11
    assert np.array_equal(io.open_labels(path).read()[0], expected)
    session.close()
    again = open_edits(path)
    assert np.array_equal(np.asarray(again.labels), expected)
    again.undo()
    again.save()
    assert np.array_equal(io.open_labels(path).read()[0], values)
    again.close()


def test_only_blocks_that_changed_are_written(tmp_path):
    path, _ = store(tmp_path)
    chunks = {p: p.stat().st_mtime_ns for p in (path / "0").rglob("*") if p.is_file()}
    session = open_edits(path)
    session.labels[3, 5, 5] = 11
    session.save()
    changed = [p for p, time_ in chunks.items() if p.stat().st_mtime_ns != time_]
    assert [p.relative_to(path / "0").as_posix() for p in changed] == ["c/1/0/0"]
    session.close()


def test_a_crash_while_saving_is_no_other_volume(tmp_path):
    path, values = store(tmp_path)
    session = open_edits(path)
    session.labels[0] = 9
    session.labels[5] = 8
    saving = session.begin_saving()
    half = io.open_output(tmp_path / "OUT.ome.zarr", labels="instances")
    half.write(Box((0, 0, 0), (2, 20, 24)), saving.labels.read(Box((0, 0, 0), (2, 20, 24))))
    session.close()  # as a crash would leave it: some blocks are written, "saved" is not
    again = open_edits(path)
    values[0], values[5] = 9, 8
    assert np.array_equal(np.asarray(again.labels), values)
    again.save()
    assert np.array_equal(io.open_labels(path).read()[0], values)
    again.close()


def test_labels_changed_by_others_are_not_edited_over(tmp_path):
    path, _ = store(tmp_path)
    session = open_edits(path)
    session.labels[0] = 9
    session.save()
    session.close()
    io.open_output(tmp_path / "OUT.ome.zarr", labels="instances").write(Box.of(SHAPE), np.ones(SHAPE, np.uint32))
    with pytest.raises(InputError, match="another volume"):
        open_edits(path)


def test_a_failed_save_keeps_what_is_unsaved(tmp_path, monkeypatch):
    path, _ = store(tmp_path)
    session = open_edits(path)
    session.labels[0] = 9
    monkeypatch.setattr(
        "fewslice.napari.session.io.write_pyramid", lambda *a, **k: (_ for _ in ()).throw(DiskError("full"))
    )
    with pytest.raises(DiskError):
        session.save()
    assert session.labels.unsaved
    session.close()


def test_labels_that_are_no_ome_zarr_cannot_be_edited_in_place(tmp_path):
    tifffile.imwrite(tmp_path / "labels.tif", np.zeros(SHAPE, np.uint16))
    with pytest.raises(InputError, match="inside an OME-Zarr"):
        open_edits(tmp_path / "labels.tif")


def test_every_line_of_a_journal_is_one_json_object_with_its_checksum(tmp_path):
    session = open_annotation(tmp_path / "a", image())
    painted(session)
    session.close()
    lines = (tmp_path / "a" / NAME).read_text().splitlines()
    assert all(set(json.loads(line)) == {"crc", "entry"} for line in lines)
    recorded = read_journal(tmp_path / "a" / NAME)
    assert [e["what"] for e in recorded.entries] == [*(["stroke"] * 3), "undo", "undo", "redo", *(["mark"] * 3)]


@pytest.mark.parametrize("content", ["", "x\n", '{"crc": 1, "entry": {"what": "header"}}\n'])
def test_what_is_no_journal_is_refused(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with pytest.raises(InputError, match="no journal"):
        open_annotation(tmp_path, image())
