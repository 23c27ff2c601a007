from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from fewslice import io, registry
from fewslice.errors import InputError
from fewslice.experiment import Experiment, read_experiment, settings_from_assignments, strategy_config
from fewslice.geometry import Box
from fewslice.napari import prediction, training
from fewslice.napari.jobs import Command, fewslice_command
from fewslice.napari.layers import ImageSource
from fewslice.napari.settings_form import command, forms, parse_forms
from fewslice.napari.training import Request, State, advanced, event_of, progress
from fewslice.volume import Volume

SHAPE = (10, 40, 48)
VOXEL = (2.0, 0.5, 0.5)
NAN = float("nan")
TINY = {
    "network.features": "4",
    "network.depth": "2",
    "patch": "[1,16,16]",
    "batch_size": "2",
    "schedule.validations": "1",
}


def volume():
    rng = np.random.default_rng(0)
    truth = (ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) > 0.05).astype(np.uint16)
    image = (60 + 90 * truth + rng.normal(0, 20, SHAPE)).clip(0, 255).astype(np.uint8)
    return image, truth


def source(path=None, axes=None):
    return ImageSource(Volume.from_array(volume()[0], VOXEL), path, axes, (1,) * 3, (0,) * 3, ("um",) * 3)


def request(**changes):
    options = {"strategy": "slices_2d", "planes": frozenset({(0, 2), (0, 7), (1, 5)}), "minutes": None, "steps": 4}
    return Request(**options | {"settings": TINY} | changes)


def test_the_settings_of_every_strategy_are_those_that_train_takes():
    shown = forms()
    assert set(shown.strategies) == set(registry.names("strategies"))
    for kind, rows in shown.strategies.items():
        assignments = [f"{row.key}={row.default}" for row in rows]
        given = Experiment(strategy=kind, settings=settings_from_assignments(assignments))
        assert strategy_config(given) == strategy_config(Experiment(strategy=kind)), kind
        assert all(row.meaning for row in rows if not row.key.endswith(".kind")), kind
        assert all(row.default in row.choices for row in rows if row.choices)
        assert shown.summaries[kind]
    rates = [r for rows in shown.strategies.values() for r in rows if r.key.endswith("learning_rate")]
    assert rates and all("> 0" in r.meaning for r in rates)
    kinds = {
        (k, r.default): set(r.choices) for k, rows in shown.strategies.items() for r in rows if "network.kind" in r.key
    }
    assert kinds["slices_2d", "unet"] == {"cnn_2d", "residual_unet", "unet"}, "no networks that segment nothing"
    assert all(set(registry.names("networks")) > choices for choices in kinds.values())


def test_the_window_reads_the_settings_from_a_process_of_its_own():
    done = subprocess.run(command(), capture_output=True, text=True, check=True)
    shown = parse_forms(done.stdout)
    assert shown.strategies.keys() == set(registry.names("strategies"))
    assert {s.key for s in shown.networks["unet"]} >= {"features", "depth"}


def test_arguments_are_those_of_the_experiment(tmp_path, monkeypatch):
    asked = request(label_kind="classes", minutes=12.5, steps=None, settings={"network.features": "8"}, seed=3)
    place = training.prepare(tmp_path, source(), Volume.from_array(volume()[1]), asked)
    seen = []
    monkeypatch.setattr(
        "fewslice.workflow.train", lambda experiment, output, **k: seen.append((experiment, output)) or output
    )
    monkeypatch.setattr("fewslice.cli.training.say_trained", lambda folder, **k: None)
    from fewslice import cli

    with pytest.raises(SystemExit) as end:
        cli.main(training.stored_request(place))
    assert end.value.code == 0
    ((experiment, output),) = seen
    assert experiment.planes == ("z=2,7", "y=5") and experiment.minutes == 12.5 and experiment.seed == 3
    assert experiment.label_kind == "classes" and experiment.voxel_size_um == VOXEL
    assert experiment.settings == {"network": {"features": 8}} and output == place / "RUN"
    assert experiment.images == (str(tmp_path / "image.ome.zarr"),)
    assert np.array_equal(io.open_labels(place / "labels.ome.zarr").read()[0], volume()[1])


def test_an_image_on_disk_is_used_where_it_is(tmp_path):
    path = tmp_path / "image.tif"
    io.save_volume(path, Volume.from_array(volume()[0], VOXEL))
    place = training.prepare(tmp_path / "a", source(path, "zyx"), Volume.from_array(volume()[1]), request())
    assert not (tmp_path / "a" / "image.ome.zarr").exists()
    arguments = training.stored_request(place)
    assert arguments[1] == str(path) and "--axes" in arguments


def test_each_training_has_its_own_labels(tmp_path):
    places = [training.prepare(tmp_path, source(), Volume.from_array(volume()[1]), request()) for _ in range(2)]
    assert [p.name for p in places] == ["001", "002"]
    assert training.resumable(tmp_path) == places[1]


def test_what_cannot_be_trained_is_refused(tmp_path):
    labels = Volume.from_array(volume()[1])
    with pytest.raises(InputError, match="no plane is marked"):
        training.prepare(tmp_path, source(), labels, request(planes=frozenset()))
    with pytest.raises(InputError, match="one of them"):
        training.prepare(tmp_path, source(), labels, request(minutes=3))
    with pytest.raises(InputError, match="no training"):
        training.stored_request(tmp_path)
    assert training.resumable(tmp_path) is None


def test_progress_follows_the_log():
    log = [
        {"event": "note", "note": "Plane 7 is held out."},
        {"event": "stage", "stage": "teacher", "state": "started", "step": 0, "steps": 100},
        {"event": "step", "stage": "teacher", "step": 50, "steps": 100, "loss": {"total": 0.5}, "seconds_left": 9.0},
        {"event": "validation", "stage": "teacher", "step": 100, "steps": 100, "dice": 0.8, "score": 0.8},
        {"event": "stage", "stage": "teacher", "state": "finished", "step": 100, "steps": 100},
        {"event": "stage", "stage": "student", "state": "started", "step": 0, "steps": 300},
        {"event": "step", "stage": "student", "step": 20, "steps": 300, "loss": {"total": NAN}, "seconds_left": 9.0},
        {"event": "step", "stage": "student", "step": 60, "steps": 300, "loss": {"total": 0.25}, "seconds_left": 80.0},
        {"event": "calibration", "dice": 0.9},
    ]  # fmt: skip
    state = State()
    shares = []
    for event in log:
        state = advanced(state, event_of(json.dumps(event)))
        shares.append(progress(state))
    assert shares[:3] == [0, 0, 0.5] and shares[-1] == pytest.approx(160 / 400)
    assert state.losses == ((50, 0.5), (160, 0.25)) and state.score == ("Dice", 0.8) and state.finished == ("teacher",)
    assert state.notes == ("Plane 7 is held out.",) and state.seconds_left == 80.0
    assert event_of("trained RUN; next: fewslice predict") is None and event_of("[1]") is None


@pytest.mark.parametrize(
    ("loss", "validation", "expected"),
    [
        ({"discriminator": 0.5, "refiner": 1.0}, {"kernel_distance": 0.25, "kept": 1.0}, ("kernel distance", 0.25)),
        ({"total": 0.5}, {"f1": 0.75, "precision": None, "recall": 0.6}, ("F1", 0.75)),
        ({"total": 0.5}, {}, None),
    ],
)
def test_stages_of_every_kind_can_be_followed(loss, validation, expected):
    stage = {"stage": "refine", "step": 10, "steps": 20}
    state = advanced(State(), {"event": "step", **stage, "loss": loss, "seconds_left": 1.0})
    state = advanced(state, {"event": "validation", **stage, "score": -0.5, **validation})
    assert state.losses == ((10, 0.5),) and state.score == expected


def ended(command, lines):
    limit = time.monotonic() + 200
    while command.exit_code is None:
        assert time.monotonic() < limit
        lines += command.poll()
        time.sleep(0.02)
    lines += command.poll()


def test_a_worker_that_dies_is_resumed_and_its_model_predicts_the_canvas(tmp_path):
    _, truth = volume()
    place = training.prepare(tmp_path, source(), Volume.from_array(truth), request(steps=40))
    command = Command([*fewslice_command(*training.stored_request(place)), "--checkpoint-seconds", "0"])
    lines: list[str] = []
    while not any(e and e["event"] == "step" for e in map(event_of, lines)):
        assert command.exit_code is None, command.complaint()
        lines += command.poll()
        time.sleep(0.01)
    command.kill()
    ended(command, lines)
    assert "SIGKILL" in command.complaint()
    assert training.resumable(tmp_path) == place
    again = Command(fewslice_command(*training.stored_request(place)))
    ended(again, lines := [])
    assert again.exit_code == 0, again.complaint()
    state = State()
    for event in filter(None, map(event_of, lines)):
        state = advanced(state, event)
    steps = read_experiment(place / "RUN" / "experiment.yaml").steps
    assert state.finished == ("segment",) and dict(state.planned) == steps and progress(state) == 1.0
    assert training.resumable(tmp_path) is None

    model = prediction.model_folder(place / "RUN")
    assert prediction.stage_model(place / "RUN", "segment") == model.folder
    shown = Box((4, 8, 10), (5, 30, 44))
    view = prediction.cut_out(source(), shown, model, tmp_path)
    command = Command(fewslice_command(*prediction.view_arguments(model, view)))
    ended(command, [])
    assert command.exit_code == 0, command.complaint()
    whole = tmp_path / "whole.ome.zarr"
    stored = training.store_image(tmp_path, source())
    command = Command(fewslice_command(*prediction.volume_arguments(place / "RUN", stored, source(), whole, "cpu")))
    ended(command, [])
    assert command.exit_code == 0, command.complaint()
    expected = io.open_labels(whole / "labels" / "segmentation").read(shown)[0]
    found = prediction.predicted_view(view)
    assert found.shape == shown.shape and (found == expected).mean() > 0.99


def contour_model(folder):
    import torch

    from fewslice.data.normalisation import Normalisation
    from fewslice.model import Model, NetworkStep, build_network

    torch.manual_seed(1)
    settings = {
        "kind": "contour_proposals",
        "features": 4,
        "depth": 2,
        "order": 2,
        "samples": 8,
        "radius": 5.0,
        "reach": 9,
    }
    step = NetworkStep(network=settings, in_channels=1, out_channels=2)
    normalisation = Normalisation("robust", (100.0,), (50.0,))
    model = Model([step], [build_network(settings, 1, 2)], normalisation=normalisation, class_values=(1,))
    threshold = float(np.quantile(model.proposals(volume()[0][None], 0.0)[1].score, 0.9))
    model = Model(model.steps, model.networks, normalisation=normalisation, class_values=(1,), threshold=threshold)
    model.save(folder)
    return model


def test_the_contours_of_what_is_on_the_canvas_are_drawn(tmp_path):
    from fewslice.morphology.proposals import paint, suppress

    model = contour_model(tmp_path / "model")
    opened = prediction.model_folder(tmp_path / "model")
    shown = Box((4, 8, 10), (5, 30, 44))
    view = prediction.cut_out(source(), shown, opened, tmp_path)
    for arguments in (prediction.view_arguments(opened, view), prediction.segment_arguments(view)):
        command = Command(fewslice_command(*arguments))
        ended(command, [])
        assert command.exit_code == 0, command.complaint()
        found = prediction.predicted_view(view)
        assert (found is None) == (arguments[0] == "predict"), "contours are drawn by the second command"
    _, proposed = model.proposals(volume()[0][None, 4:5], model.threshold)
    expected = paint(suppress(proposed).contour, SHAPE[1:])[None][Box((0, 8, 10), (1, 30, 44)).slices]
    assert found.shape == shown.shape and 0.02 < (expected > 0).mean() < 0.98
    assert ((found > 0) == (expected > 0)).mean() > 0.95


def test_a_cut_out_holds_the_context_on_the_models_grid(tmp_path):
    model = prediction.Opened(tmp_path, (0, 12, 12))
    view = prediction.cut_out(source(), Box((4, 20, 2), (5, 30, 40)), model, tmp_path)
    cut = io.open_volume(view.path)
    assert cut.shape == (1, 40, 48) and cut.voxel_size_um == VOXEL
    image = volume()[0]
    assert np.array_equal(cut.read(view.inside)[0], image[view.shown.slices])


@pytest.mark.parametrize("content", [None, "{", '{"halo": 3}'])
def test_what_holds_no_model_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(InputError):
        prediction.model_folder(tmp_path)


def test_the_next_planes_are_read_from_plan():
    printed = json.dumps(
        {"next_planes": [{"image": "a", "axis": "z", "plane": 12, "score": 0.4}, {"axis": 1, "plane": 3, "score": 0.2}],
         "curve": [], "advice": "Annotate plane 12."}, indent=2
    )  # fmt: skip
    planes, advice = prediction.next_planes(['{"note"', *printed.splitlines()][1:])
    assert [(p.axis, p.plane) for p in planes] == [(0, 12), (1, 3)] and advice == "Annotate plane 12."
    with pytest.raises(InputError, match="cannot be read"):
        prediction.next_planes(["nothing"])


def test_what_a_layer_belongs_to_is_found_only_where_it_is_a_prediction(tmp_path):
    image = tmp_path / "image.ome.zarr"
    io.save_volume(image, Volume.from_array(np.zeros((2, 8, 8), np.uint8)))
    assert prediction.store_of(image) is None and prediction.store_of(image / "labels" / "x") is None
    assert prediction.store_of(None) is None and prediction.store_of("s3://bucket/OUT.ome.zarr") is None
    out = tmp_path / "OUT.ome.zarr"
    io.create_output(out, shape=(2, 8, 8), channel_names=["foreground"], attributes={"model_hash": "c0ffee"})
    assert prediction.store_of(str(out)) == prediction.store_of(out / "labels" / "instances") == out


def test_names_of_predictions_are_not_taken_twice(tmp_path):
    first = prediction.free_output(Path("brain.ome.tif"), tmp_path)
    first.mkdir()
    assert first.name == "brain_predicted01.ome.zarr"
    assert prediction.free_output(Path("brain.ome.tif"), tmp_path).name == "brain_predicted02.ome.zarr"


CORE = (
    "edits", "filling", "jobs", "journal", "layers", "prediction", "proofreading", "readers", "sample_data", "session",
    "settings_form", "training", "workbench", "writers",
)  # fmt: skip


@pytest.mark.parametrize("modules", [("fewslice",), tuple(f"fewslice.napari.{name}" for name in CORE)])
def test_nothing_but_the_window_loads_qt_or_torch(modules):
    report = f"import {', '.join(modules)}\nimport sys\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("LOADED")[-1].split())
    assert set(modules) <= loaded
    assert not loaded & {"qtpy", "PySide6", "PyQt6", "PyQt5", "vispy", "napari", "torch"}


def test_every_module_of_the_plugin_is_either_core_or_a_window():
    import fewslice.napari

    names = {p.stem for p in Path(fewslice.napari.__file__).parent.glob("*.py")} - {"__init__"}
    windows = {n for n in names if n.endswith("_tab")} | {"panel", "controls"}
    assert names == set(CORE) | windows


def test_the_next_planes_are_those_of_plan_itself(tmp_path):
    image, truth = volume()
    io.save_volume(tmp_path / "image.tif", Volume.from_array(image, VOXEL))
    planes = frozenset((0, z) for z in (0, 2, 5, 7))
    place = training.prepare(tmp_path, source(tmp_path / "image.tif"), Volume.from_array(truth), request(planes=planes))
    for arguments in (training.stored_request(place), [*prediction.plan_arguments(place / "RUN"), "--steps", "3"]):
        done = Command(fewslice_command(*arguments))
        ended(done, [])
        assert done.exit_code == 0, done.complaint()
    found, advice = prediction.next_planes(list(done.output))
    assert len(found) == 4 and advice
    assert {p.axis for p in found} == {0} and not {(p.axis, p.plane) for p in found} & planes
    assert all(0 <= p.plane < SHAPE[0] for p in found)
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
