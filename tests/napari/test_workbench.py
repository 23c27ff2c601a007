from __future__ import annotations

import numpy as np
import pytest

from fewslice import io
from fewslice.errors import DiskError, InputError
from fewslice.geometry import Box
from fewslice.volume import Volume

components = pytest.importorskip("napari.components", reason="napari is not installed")

from fewslice.napari.edits import EditedArray  # noqa: E402
from fewslice.napari.layers import image_of  # noqa: E402
from fewslice.napari.proofreading import measure  # noqa: E402
from fewslice.napari.readers import read_layers  # noqa: E402
from fewslice.napari.session import open_annotation  # noqa: E402
from fewslice.napari.workbench import CUT, SEEDS, Workbench  # noqa: E402

SHAPE = (6, 20, 24)
VOXEL = (2.0, 0.5, 0.5)
PLACED = {"scale": VOXEL, "units": ("um", "um", "um")}


@pytest.fixture
def bench():
    made = Workbench(components.ViewerModel(), lambda message: said.append(message))
    said: list = []
    made.said = said
    yield made
    made.close()


@pytest.fixture
def image(bench):
    return bench.viewer.add_image(
        np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8), name="image", **PLACED
    )


def test_painting_in_every_way_is_journalled_and_undone(bench, image, tmp_path):
    layer = bench.annotate(image, tmp_path / "a")
    session = bench.session_of(layer)
    states = [np.asarray(layer.data).copy()]
    layer.brush_size = 3

    def drag():
        with layer.block_history():  # a stroke of several steps is one
            layer.paint((2, 5, 5), 3)
            layer.paint((2, 5, 6), 3)

    for action in (
        drag,
        lambda: layer.fill((2, 0, 0), 2),
        lambda: layer.paint_polygon([[3, 2, 2], [3, 2, 9], [3, 9, 9]], 4),
        lambda: layer.data_setitem((np.array([1, 1]), np.array([0, 1]), np.array([5, 6])), 9),
    ):
        action()
        bench.tick()
        states.append(np.asarray(layer.data).copy())
    assert [s.by for s in session.history] == ["hand"] * 4
    for state in states[-2::-1]:
        bench.undo(layer)
        assert np.array_equal(np.asarray(layer.data), state)
    for state in states[1:]:
        bench.redo(layer)
        assert np.array_equal(np.asarray(layer.data), state)
    layer.undo()  # napari's own undo is a change like any other
    bench.commit(layer)
    assert len(session.history) == 5 and np.array_equal(np.asarray(layer.data), states[3])


def test_a_brush_that_still_moves_is_one_stroke_and_a_script_is_journalled_soon(bench, image, tmp_path, monkeypatch):
    layer = bench.annotate(image, tmp_path / "a")
    session = bench.session_of(layer)
    now = [100.0]
    monkeypatch.setattr("fewslice.napari.edits.time.monotonic", lambda: now[0])
    layer._begin_stroke()
    for column in range(3, 12):
        layer.paint((2, 5, column), 3)
        now[0] += 0.5
        bench.tick()
        assert session.labels.waiting_seconds() <= 1.0, "a long stroke is on disk as it is drawn"
    layer._commit_stroke()
    assert len(session.history) == 1 and session.history[0].stroke.size == np.count_nonzero(layer.data)
    bench.tick()
    layer.data[4, 4, 4] = 9
    bench.tick()
    assert len(session.history) == 1
    now[0] += 1.1
    bench.tick()
    assert len(session.history) == 2
    painted = np.asarray(layer.data).copy()
    bench.close()
    again = open_annotation(tmp_path / "a", Volume.from_array(np.asarray(image.data)))
    assert np.array_equal(np.asarray(again.labels), painted) and len(again.history) == 2 and len(again.notes) == 1
    again.undo()
    again.undo()
    assert not np.asarray(again.labels).any() and again.undo() is None
    again.close()


def test_a_long_stroke_that_comes_back_to_where_it_was_is_still_one(bench, image, tmp_path):
    session = bench.session_of(layer := bench.annotate(image, tmp_path / "a"))
    for value in (3, 5, 0):
        layer.data[2, 5, 5] = value
        session.commit(ended=value == 0)
    assert len(session.history) == 1 and session.history[0].stroke.size == 0
    layer.data[2, 5, 6] = 4
    session.commit()
    assert [s.stroke.size for s in session.history] == [0, 1]
    bench.close()
    again = open_annotation(tmp_path / "a", Volume.from_array(np.asarray(image.data)))
    assert np.argwhere(np.asarray(again.labels)).tolist() == [[2, 5, 6]] and [s.id for s in again.history] == [1, 2]
    again.close()


def test_the_canvas_shows_what_was_painted_and_undone(bench, image, tmp_path):
    layer = bench.annotate(image, tmp_path / "a")
    bench.show_plane(layer, 0, 2)
    layer.paint((2, 5, 5), 3)
    assert layer._slice.image.raw[5, 5] == 3
    bench.tick()
    bench.undo(layer)
    assert layer._slice.image.raw[5, 5] == 0


def test_planes_that_are_done_are_in_metadata_and_text(bench, image, tmp_path):
    layer = bench.annotate(image, tmp_path / "a")
    bench.show_plane(layer, 0, 4)
    bench.toggle_done(layer)
    bench.show_plane(layer, 1, 7)
    bench.toggle_done(layer)
    assert layer.metadata["fewslice"]["done"] == [[0, 4], [1, 7]]
    assert "y = 7, done" in bench.plane_text(layer) and "z = 4; y = 7" in bench.plane_text(layer)
    bench.toggle_done(layer)
    assert layer.metadata["fewslice"]["done"] == [[0, 4]]


def test_what_was_painted_and_what_was_predicted_differ_and_stand_out(bench, image, tmp_path):
    """Label 1 of both is bright enough on black, 3 : 1 as for graphics on a page, and blue differs from yellow."""
    painted = bench.annotate(image, tmp_path / "a")
    shown = bench.add_prediction(np.ones((1, 20, 24), np.uint8), image_of(image), Box((0, 0, 0), (1, 20, 24)), "p")
    one, other = (np.asarray(layer.get_color(1))[:3] for layer in (painted, shown))
    for colour in (one, other):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        assert (linear @ [0.2126, 0.7152, 0.0722] + 0.05) / 0.05 > 3
    assert one[0] > one[2] + 0.5 and other[2] > other[0] + 0.3
    assert tuple(bench.viewer.dims.axis_labels) == ("z", "y", "x"), "the slider is named"
    assert bench.said[0].text.startswith("Paint the cells of a plane") and str(tmp_path / "a") in bench.said[0].text


def test_a_deleted_layer_loses_nothing(bench, image, tmp_path):
    layer = bench.annotate(image, tmp_path / "a")
    layer.paint((2, 5, 5), 3)
    layer.data[3, 3, 3] = 8  # by a script, not yet journalled
    before = np.asarray(layer.data).copy()
    bench.viewer.layers.remove(layer)
    assert "is kept in" in bench.said[-1].text and not bench.sessions
    again = bench.annotate(image, tmp_path / "a")
    assert np.array_equal(np.asarray(again.data), before)


def test_two_viewers_on_one_folder(bench, image, tmp_path):
    bench.annotate(image, tmp_path / "a")
    other = Workbench(components.ViewerModel(), lambda message: None)
    again = other.viewer.add_image(image.data, **PLACED)
    with pytest.raises(InputError, match="another window"):
        other.annotate(again, tmp_path / "a")


def test_labels_to_begin_with_must_fit(bench, image, tmp_path):
    wrong = bench.viewer.add_labels(np.zeros((6, 20, 23), np.uint16), **PLACED)
    with pytest.raises(InputError, match="6 x 20 x 23"):
        bench.annotate(image, tmp_path / "a", wrong)
    scaled = bench.viewer.add_labels(np.zeros(SHAPE, np.uint16))
    with pytest.raises(InputError, match="scale"):
        bench.annotate(image, tmp_path / "a", scaled)
    assert not (tmp_path / "a").exists()
    start = bench.viewer.add_labels(np.ones(SHAPE, np.uint8), **PLACED)
    layer = bench.annotate(image, tmp_path / "a", start)
    assert (np.asarray(layer.data) == 1).all() and bench.session_of(layer).done == set()


def test_what_goes_wrong_is_said_and_nothing_is_lost(bench, image, tmp_path, monkeypatch):
    layer = bench.annotate(image, tmp_path / "a")
    bench.guarded(bench.undo)(layer)
    assert bench.said[-1].problem and bench.said[-1].text == "there is nothing to undo"

    def full(path, entry):
        raise DiskError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("fewslice.napari.journal.append_line", full)
        layer.paint((2, 5, 5), 3)
        bench.tick()
    assert bench.said[-1].problem and "full" in bench.said[-1].text and layer.data[2, 5, 5] == 3


def test_the_image_under_a_layer_may_be_gone(bench, image, tmp_path):
    layer = bench.annotate(image, tmp_path / "a")
    assert bench.image_under(layer) is image
    bench.viewer.layers.remove(image)
    with pytest.raises(InputError, match="open it again"):
        bench.image_under(layer)


@pytest.fixture
def instances(bench, tmp_path):
    path = tmp_path / "OUT.ome.zarr"
    io.save_volume(path, Volume.from_array(np.zeros(SHAPE, np.uint8), VOXEL))
    store = io.create_labels(path, "instances", shape=SHAPE, dtype=np.uint32, voxel_size_um=VOXEL)
    values = np.zeros(SHAPE, np.uint32)
    values[1:5, 3:9, 2:20] = 1
    values[1:5, 12:18, 2:9] = 2
    values[1:5, 12:18, 9:16] = 3
    store.write(Box.of(SHAPE), values)
    io.write_pyramid(path, group="labels/instances")
    *_, (data, options, _) = read_layers(str(path))
    layer = bench.viewer.add_labels(data, **options)
    bench.proofread(layer)
    return layer


def counted(bench, layer):
    counting = bench.begin_counting(layer)
    bench.end_counting(layer, counting, counting.count())


def test_objects_are_never_counted_in_the_thread_of_the_window(bench, instances, monkeypatch):
    bench.chosen[instances] = {2, 3}
    with pytest.raises(InputError, match=r"count the objects of .* first"):
        bench.merge(instances)
    counting = bench.begin_counting(instances)
    with pytest.raises(InputError, match="are being counted"):
        bench.merge(instances)
    instances.data_setitem((np.array([0, 1]), np.array([0, 3]), np.array([5, 2])), 9)  # a new object takes from 1
    bench.tick()
    bench.commit(instances)
    bench.undo(instances)
    bench.redo(instances)
    instances.data[0, 1, 1] = 3  # not yet committed when the plane is marked
    bench.toggle_done(instances)
    later = bench.begin_counting(instances)
    bench.end_counting(instances, counting, counting.count())
    assert instances not in bench.objects, "a later count has begun"
    instances.data_setitem((np.array([0]), np.array([0]), np.array([6])), 9)
    bench.commit(instances)
    bench.end_counting(instances, later, later.count())
    expected = measure(EditedArray(Volume.from_array(np.asarray(instances.data))))
    monkeypatch.setattr("fewslice.napari.proofreading.measure", None)
    found = bench.table(instances)
    assert {n: (o.voxels, o.total) for n, o in found.items()} == {n: (o.voxels, o.total) for n, o in expected.items()}
    bench.merge(instances)
    assert set(bench.table(instances)) == {1, 2, 9}


def test_the_table_follows_what_a_full_disk_refuses_and_a_deleted_layer_loses_nothing(
    bench, instances, tmp_path, monkeypatch
):
    counted(bench, instances)

    def full(path, entry):
        raise DiskError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("fewslice.napari.journal.append_line", full)
        bench.chosen[instances] = {2}
        bench.guarded(bench.delete)(instances)
        assert set(bench.table(instances)) == {1, 3}
        instances.data[0, 1, 1] = 8
        bench.commit(instances)
        assert set(bench.table(instances)) == {1, 3, 8}
        bench.guarded(bench.undo)(instances)
        assert set(bench.table(instances)) == {1, 3} and instances._slice.image.raw[1, 1] == 0
        bench.viewer.layers.remove(instances)
        assert bench.said[-1].problem and "3 changes in it are not on disk" in bench.said[-1].text
        bench.tick()
        assert bench.said[-1].problem
    bench.tick()
    assert "are on disk again" in bench.said[-1].text
    *_, (data, options, _) = read_layers(str(tmp_path / "OUT.ome.zarr"))
    again = bench.viewer.add_labels(data, **options)
    bench.proofread(again)
    assert set(np.unique(np.asarray(again.data))) == {0, 1, 3}


def test_filling_is_left_to_a_thread_and_a_deleted_layer_is_no_trouble(bench, image, tmp_path):
    layer = bench.annotate(image, tmp_path / "a")
    for plane in (1, 4):
        layer.data[plane, 3:9, 3:9] = 2
        bench.show_plane(layer, 0, plane)
        bench.toggle_done(layer)
    bench.show_plane(layer, 0, 2)
    work = bench.filling(layer)
    filled = work()
    assert not layer.data[2].any()
    bench.fill(layer, filled)
    assert (layer.data[2, 3:9, 3:9] == 2).all() and bench.session_of(layer).history[-1].by == "fill"
    bench.viewer.layers.remove(layer)
    bench.fill(layer, filled)


def test_proofreading_on_the_canvas_survives_a_restart(bench, instances, tmp_path):
    counted(bench, instances)
    assert list(bench.table(instances)) == [1, 2, 3]
    bench.chosen[instances] = {2, 3}
    bench.merge(instances)
    bench.place(instances, SEEDS)
    bench.viewer.layers[SEEDS].add([(3, 6, 4), (3, 6, 18)])
    bench.split(instances)
    assert SEEDS not in bench.viewer.layers and set(bench.table(instances)) == {1, 2, 3}
    bench.undo(instances)
    bench.place(instances, CUT)
    bench.viewer.layers[CUT].add_paths(np.array([(3, 1, 10), (3, 11, 10)]))
    bench.show_plane(instances, 0, 3)
    bench.split(instances)
    assert bench.table(instances)[3].voxels + bench.table(instances)[1].voxels == 4 * 6 * 18
    name = bench.add(instances)
    instances.brush_size = 1
    instances.paint((0, 0, 0), name)
    bench.tick()
    assert name == 4 and bench.table(instances)[4].voxels == 1
    bench.chosen[instances] = {2}
    bench.delete(instances)
    expected = np.asarray(instances.data).copy()
    bench.session_of(instances).save()
    assert np.array_equal(io.open_labels(tmp_path / "OUT.ome.zarr/labels/instances").read()[0], expected)
    bench.viewer.layers.remove(instances)
    *_, (data, options, _) = read_layers(str(tmp_path / "OUT.ome.zarr"))
    again = bench.viewer.add_labels(data, **options)
    bench.proofread(again)
    for _ in range(3):
        bench.undo(again)
    assert set(np.unique(np.asarray(again.data))) == {0, 1, 2}
    counted(bench, again)
    with pytest.raises(InputError, match="seeds"):
        bench.split(again)


def test_clicking_a_row_goes_to_the_cell(bench, instances):
    counted(bench, instances)
    bench.go_to(instances, 3)
    assert bench.viewer.dims.point[0] == pytest.approx(2 * 2.0)
    assert tuple(bench.viewer.scene.camera.center[-2:]) == pytest.approx((7.0, 6.0)) and instances.selected_label == 3
    with pytest.raises(InputError, match="no object 88"):
        bench.go_to(instances, 88)


def test_labels_that_are_in_no_store_are_not_edited_in_place(bench):
    layer = bench.viewer.add_labels(np.zeros(SHAPE, np.uint16), name="loose")
    with pytest.raises(InputError, match="loose is not of labels inside an OME-Zarr"):
        bench.proofread(layer)


def test_without_a_session_the_tab_is_named(bench, image):
    with pytest.raises(InputError, match="tab Annotate"):
        bench.active()


def test_alt_click_on_the_canvas_chooses_and_no_other_click_does(bench, instances):
    from types import SimpleNamespace

    def click(position, *modifiers):
        event = SimpleNamespace(position=position, modifiers=modifiers)
        for callback in instances.mouse_drag_callbacks[-1:]:
            callback(instances, event)

    click((6.0, 3.0, 2.0), "Alt")  # µm: voxel (3, 6, 4), object 1
    click((6.0, 7.0, 5.0), "Alt")  # voxel (3, 14, 10), object 3
    assert bench.chosen[instances] == {1, 3}
    click((6.0, 3.0, 2.0))
    click((0.0, 0.0, 0.0), "Alt")  # background
    click((6.0, 900.0, 2.0), "Alt")  # outside
    assert bench.chosen[instances] == {1, 3}
    click((6.0, 3.0, 2.0), "Alt")
    assert bench.chosen[instances] == {3}
