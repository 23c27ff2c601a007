"""What every strategy promises, put to each of them on two bright balls; and what pseudo-labels promise beyond."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io, registry, workflow
from fewslice.annotation import from_labels
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.experiment import Experiment, strategy_config
from fewslice.model import Model
from fewslice.strategies import pseudo_labels
from fewslice.training.fit import Hardware
from fewslice.training.run_folder import RunFolder, read_lines
from fewslice.training.task import Task
from fewslice.volume import Volume

SHAPE = (12, 48, 48)
VOXEL = (2.0, 1.0, 1.0)
CPU = Hardware(device="cpu", bfloat16=False)
FLAT: dict[str, Any] = {
    "network": {"features": 4, "depth": 2},
    "patch": [1, 32, 32],
    "batch_size": 4,
    "learning_rate": 1e-2,
    "views": 1,
    "schedule": {"validations": 2},
}
DEEP = FLAT | {"patch": [8, 32, 32], "batch_size": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "slices_2d": FLAT,
    "sparse_3d": DEEP,
    "pseudo_labels": {"teacher": FLAT, "student": DEEP},
    "consensus": {"teacher": FLAT, "student": DEEP},
    "continuity": {"segment": FLAT, "continuity": FLAT, "neighbours": {"planes": 5}},
    "continuity_2022": {
        "segment": FLAT | {"learning_rate": 3e-3},
        "continuity": FLAT | {"learning_rate": 3e-3},
        "neighbours": {"planes": 5},
    },
}
ELSEWHERE = ("contours", "synthetic")  # test_contours.py, test_synthetic.py: they find objects, and do without labels
KINDS = [kind for kind in registry.names("strategies") if kind not in ELSEWHERE]
PARTS = {
    kind: [name for name in settings if isinstance(settings[name], dict) and "views" in settings[name]]
    for kind, settings in SETTINGS.items()
}
"""Names under which a strategy keeps the settings of its networks; none where it has one network only."""


def _labels(shape: tuple[int, int, int] = SHAPE) -> Any:
    """Class 1 near one corner, class 2 near the other."""
    found = np.zeros(shape, np.uint8)
    for value, place in ((1, 0.3), (2, 0.7)):
        squared = [
            ((axis - f * extent) / radius) ** 2
            for axis, f, extent, radius in zip(
                np.indices(shape), (0.5, place, place), shape, (0.35 * shape[0], 8, 8), strict=True
            )
        ]
        found[sum(squared) < 1] = value
    return found


def _image(labels: Any, seed: int = 0, *, dark: bool = False) -> Volume:
    noise = np.random.default_rng(seed).normal(100, 10, labels.shape)
    contrast = np.array([0, 80, -80 if dark else 120])[labels]
    return Volume.from_array((noise + contrast).astype(np.float32), VOXEL)


def _sample(planes: str = "1:11:2", *, classes: int = 1, seed: int = 0) -> Sample:
    labels = _labels()
    image = _image(labels, seed, dark=classes == 2)
    return Sample("balls", image, from_labels(np.minimum(labels, classes), planes=[planes]))


def _unlabelled(shape: tuple[int, int, int] = (9, 40, 64), seed: int = 5) -> Sample:
    return Sample("unlabelled", _image(_labels(shape), seed))


def _experiment(kind: str, *, steps: Any = 60, settings: dict[str, Any] | None = None, **options: Any) -> Experiment:
    return Experiment(strategy=kind, settings=SETTINGS[kind] | (settings or {}), steps=steps, **options)


def _every_network(kind: str, change: dict[str, Any], *, flat_only: bool = False) -> dict[str, Any]:
    """Change the settings of each network of a strategy, or of its 2D networks."""
    if not PARTS[kind]:
        return {} if flat_only and SETTINGS[kind] is DEEP else change
    chosen = [part for part in PARTS[kind] if not (flat_only and SETTINGS[kind][part] is DEEP)]
    return {part: SETTINGS[kind][part] | change for part in chosen}


def _train(experiment: Experiment, samples: list[Sample], folder: Path, **options: Any) -> Model:
    return workflow.train_samples(experiment, samples, folder, hardware=CPU, **options)


def _task(samples: list[Sample], folder: Path, *, held: tuple[int, ...] = ()) -> Task:
    """Hold out planes by hand."""
    train: list[Any] = []
    validation: list[Any] = []
    for sample in samples:
        if sample.annotation is None:
            train.append(None)
            validation.append(None)
            continue
        away = np.zeros(sample.image.shape, bool)
        away[list(held)] = True
        train.append(sample.annotation.annotated & ~away)
        validation.append(sample.annotation.annotated & away)
    return Task(samples, train, validation, (1,), RunFolder(folder), hardware=CPU)


def _middle(model: Model, labels: Any, image: Volume) -> tuple[float, float]:
    """Median foreground probability inside and outside."""
    p = model.probabilities(image.read(), bfloat16=False).sum(0)
    return float(np.median(p[labels > 0])), float(np.median(p[labels == 0]))


# -------------------------------------------------------------------------------------------------- every strategy


def test_every_strategy_has_settings_here() -> None:
    """A strategy that is added is put through the contract."""
    assert set(SETTINGS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_strategy_is_what_its_room_says(kind: str, tmp_path: Path) -> None:
    """Defaults resolve to numbers; stages have a share and a name; resolving again changes nothing."""
    module = registry.load("strategies", kind)
    assert module.__doc__
    task = _task([_sample()], tmp_path, held=(9,))
    config = module.resolve(module.Config(), task)
    assert module.resolve(config, task) == config
    assert module.Config(**config.model_dump(mode="json")) == config
    stages = module.stages(config, task)
    assert stages and 0 < sum(share for share, _ in stages.values()) <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", ["z", "y"])
def test_it_learns_to_tell_the_balls_from_the_rest(kind: str, axis: str, tmp_path: Path) -> None:
    """Sixty steps on some planes, along z or y: on a volume it has not seen, both balls stand out everywhere."""
    planes, flat = {"z": ("1:11:2", [1, 32, 32]), "y": ("y=2:46:4", [12, 1, 32])}[axis]
    settings = _every_network(kind, {"patch": flat}, flat_only=True)
    model = _train(_experiment(kind, settings=settings), [_sample(planes)], tmp_path)
    labels = _labels()
    for value in (1, 2):
        inside, outside = _middle(model, np.where(labels == value, labels, 0), _image(labels, seed=9))
        assert inside > 0.6 and outside < 0.4
    loaded = Model.load(tmp_path / "model")
    image = _image(labels, seed=9).read()
    np.testing.assert_array_equal(loaded.probabilities(image), model.probabilities(image))
    assert loaded.provenance["strategy"] == kind and loaded.voxel_size_um == VOXEL


@pytest.mark.parametrize("kind", KINDS)
def test_stages_are_named_as_they_are_trained_and_resume_for_free(kind: str, tmp_path: Path) -> None:
    """Finished stages are taken from their folders: a second call logs no step, and ends in the same bytes."""
    module = registry.load("strategies", kind)
    experiment = _experiment(kind, steps=3)
    _train(experiment, [_sample()], tmp_path)
    task = _task([_sample()], tmp_path)
    names = list(module.stages(module.resolve(strategy_config(experiment), task), task))
    assert sorted(names) == sorted(p.name for p in (tmp_path / "stages").iterdir())
    assert [e["stage"] for e in read_lines(tmp_path / "log.jsonl") if e.get("state") == "finished"] == names
    model = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    log = (tmp_path / "log.jsonl").read_text().count('"event": "step"')
    _train(experiment, [_sample()], tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == model
    assert (tmp_path / "log.jsonl").read_text().count('"event": "step"') == log > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_between_steps_changes_nothing(kind: str, tmp_path: Path) -> None:
    """Interrupted in each of its stages after a checkpoint, it ends in the model of an unbroken run."""
    died: list[str] = []

    def stop(stage: Any, step: int) -> None:
        if step == 4 and stage.name not in died:
            died.append(stage.name)
            raise KeyboardInterrupt

    experiment = _experiment(kind, steps=6)
    hardware = replace(CPU, checkpoint_seconds=0.0)

    def train(folder: Path, **options: Any) -> None:
        workflow.train_samples(experiment, [_sample()], folder, hardware=hardware, **options)

    train(tmp_path / "a")
    stages = sorted(p.name for p in (tmp_path / "a/stages").iterdir())
    for _ in stages:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", monitor=stop, monitor_every=1)
        assert list((tmp_path / "b/stages").rglob("checkpoint.pt"))
    train(tmp_path / "b", monitor=stop, monitor_every=1)
    assert sorted(died) == stages
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "a/model" / name).read_bytes() == (tmp_path / "b/model" / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_two_classes_make_two_outputs(kind: str, tmp_path: Path) -> None:
    """The bright and the dark ball are each most probable in the channel named after the value in the file."""
    steps: Any = 120 if kind == "sparse_3d" else 60
    steps = {"teacher": 60, "student": 120} if "student" in SETTINGS[kind] else steps
    model = _train(_experiment(kind, steps=steps), [_sample(classes=2)], tmp_path)
    assert [o.name for o in model.outputs] == ["class_1", "class_2"]
    labels = _labels()
    p = model.probabilities(_image(labels, seed=9, dark=True).read(), bfloat16=False)
    assert p.shape == (2, *SHAPE)
    for value in (1, 2):
        assert (p.argmax(0)[labels == value] == value - 1).mean() > 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_annotated_changes_no_weight(kind: str, tmp_path: Path) -> None:
    """Other values between the annotated planes of the label file: the same model, byte by byte."""
    for name in "ab":
        labels = np.minimum(_labels(), 1)
        if name == "b":
            labels[::2] = 1 - labels[::2]
        sample = Sample("balls", _image(_labels()), from_labels(labels, planes=["1:11:2"]))
        _train(_experiment(kind, steps=3), [sample], tmp_path / name)
    first, second = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_planes_change_no_weight(kind: str, tmp_path: Path) -> None:
    """Truth on held-out planes and inside the gap is inverted: last weights stay, so training never saw it."""
    planes = "0,1,2,3,4,5,6,7,8,9,10,11"
    settings = _every_network(kind, {"schedule": {"validations": 2, "keep": "last"}})
    if kind in ("continuity", "consensus"):  # else the threshold of the masks is chosen there, as it should be
        settings["mask_threshold"] = 0.5
    experiment = _experiment(kind, steps=3, settings=settings)
    sample = _sample(planes)
    assert sample.annotation is not None
    module = registry.load("strategies", kind)
    models = []
    for name in "ab":
        labels = sample.annotation.labels.copy()
        if name == "b":
            labels[7:] = 1 - labels[7:]
        used = replace(sample, annotation=replace(sample.annotation, labels=labels))
        task = _task([used], tmp_path / name, held=(9, 10, 11))
        gap = np.zeros(SHAPE, bool)
        gap[7:9] = True
        task = replace(task, train_masks=[mask & ~gap for mask in task.train_masks if mask is not None])
        config = module.resolve(strategy_config(experiment), task)
        models.append(module.train(config, replace(task, steps=dict.fromkeys(module.stages(config, task), 3))))
    for one, other in zip(models[0].networks, models[1].networks, strict=True):
        weights = [network.state_dict() for network in (one, other)]
        assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("slices_2d", {"network": {"dims": 3}}, "slices_2d trains a 2D network"),
        ("sparse_3d", {"network": {"dims": 2}}, "sparse_3d trains a 3D network"),
        ("pseudo_labels", {"teacher": {"network": {"dims": 3}}}, "needs a 2D teacher and a 3D student"),
        ("continuity", {"continuity": {"network": {"dims": 3}}}, "continuity trains two 2D networks"),
        ("continuity", {"medians": [2]}, "odd numbers of planes"),
        ("continuity", {"continuity": {"normalisation": "robust"}}, "continuity.normalisation=robust"),
        ("sparse_3d", {"patch": [16, 32, 32]}, r"patch \(16, 32, 32\) .* exceeds .* \(12, 48, 48\)"),
        ("sparse_3d", {"patch": [8, 31, 32]}, r"is not a multiple of the network's divisor"),
        ("slices_2d", {"patch": [1, 64, 64]}, r"patch \(1, 64, 64\) .* exceeds"),
        ("slices_2d", {"patch": [8, 32, 32]}, "8 thick along z"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    kind: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Before anything is trained."""
    with pytest.raises(InputError, match=message):
        _train(_experiment(kind, settings=settings), [_sample()], tmp_path)
    assert not (tmp_path / "stages").exists()


def test_one_plane_is_too_flat_for_3d(tmp_path: Path) -> None:
    """2D data is a volume of one plane: slices learn it, the 3D network names the way out."""
    labels = np.minimum(_labels()[6:7], 1)
    sample = Sample("plane", _image(labels), from_labels(labels))
    with pytest.raises(InputError, match="slices_2d"):
        _train(_experiment("sparse_3d", steps=2), [sample], tmp_path / "a")
    assert _train(_experiment("slices_2d", steps=2), [sample], tmp_path / "b").dims == 2


# -------------------------------------------------------------------------------------------------- pseudo-labels


def _seen(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Record the volumes that students learn from."""
    seen: list[list[Any]] = []
    real: Callable[..., Any] = Task.taught_volumes

    def taught_volumes(*arguments: Any) -> Any:
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(Task, "taught_volumes", taught_volumes)
    return seen


def test_unlabelled_volumes_get_pseudo_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second volume of another size and without labels is taught by the teacher, everywhere, at weight α."""
    seen = _seen(monkeypatch)
    settings = {"alpha": 0.25}
    _train(_experiment("pseudo_labels", settings=settings), [_unlabelled(), _sample()], tmp_path)
    ((unlabelled, labelled),) = seen
    assert unlabelled.annotated is None and unlabelled.pseudo_weight == labelled.pseudo_weight == 0.25
    inferred = unlabelled.pseudo_labels.read()[0]
    assert inferred.shape == (9, 40, 64)
    truth = _labels((9, 40, 64)) > 0
    assert np.median(inferred[truth]) > 150 and np.median(inferred[~truth]) < 100
    assert sorted(p.name for p in (tmp_path / "stages/teacher/predicted").iterdir()) == [
        "000.ome.zarr",
        "001.ome.zarr",
    ]
    stored = io.open_volume(tmp_path / "stages/teacher/predicted/001.ome.zarr").read()
    np.testing.assert_array_equal(stored, labelled.pseudo_labels.read())


def test_interpolation_alone_needs_no_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole budget is the student's; a second, unlabelled volume brings the teacher back."""
    seen = _seen(monkeypatch)
    experiment = _experiment("pseudo_labels", settings={"sources": ["signed_distance"]}, validation="none")
    config: Any = strategy_config(experiment)
    shares = {
        len(samples): {name: share for name, (share, _) in stages.items()}
        for samples in ([_sample()], [_sample(), _unlabelled()])
        for task in [_task(samples, tmp_path / "asked")]
        for stages in [pseudo_labels.stages(pseudo_labels.resolve(config, task), task)]
    }
    assert shares == {1: {"student": 1}, 2: {"teacher": 0.35, "student": 0.65}}
    _train(experiment, [_sample()], tmp_path / "run")
    ((volume,),) = seen
    inferred = volume.pseudo_labels.read()[0]
    assert set(np.unique(inferred)) == {0, 255} and (inferred[1:11:2] > 0).any()
    np.testing.assert_array_equal(inferred[1:11:2], np.where(_labels()[1:11:2] > 0, 255, 0))
    assert sorted(p.name for p in (tmp_path / "run/stages").iterdir()) == ["student"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_student_that_begins_as_its_teacher(axis: int, tmp_path: Path) -> None:
    """After tiny steps it still says what its teacher says, whichever way planes lie; levels are the teacher's."""
    network = {"network": {"features": 4, "depth": 2, "norm": "none"}}  # running means would move
    order = np.argsort((axis, *(a for a in range(3) if a != axis)))

    def turned(values: Any) -> Any:
        return tuple(values[a] for a in order)

    settings = {
        "start": "teacher",
        "teacher": FLAT | network | {"patch": list(turned((1, 32, 32)))},
        "student": DEEP | network | {"patch": list(turned((8, 32, 32))), "learning_rate": 1e-9},
    }
    labels = np.minimum(_labels(), 1).transpose(order)
    image = Volume.from_array(_image(np.minimum(_labels(), 1)).read()[0].transpose(order), turned(VOXEL))
    sample = Sample("balls", image, from_labels(labels, planes=[f"{'zyx'[axis]}=1:11:2"]))
    model = _train(_experiment("pseudo_labels", settings=settings, validation="none"), [sample], tmp_path)
    teacher = io.open_volume(tmp_path / "stages/teacher/predicted/000.ome.zarr").read()[0]
    student = np.rint(255 * model.probabilities(image.read())[0])
    assert np.abs(student - teacher).max() <= 3 and teacher.max() > 150
    found = model.steps[0].network
    assert found["dims"] == 3 and found["pooling"] == [list(turned((1, 2, 2)))]
    assert found["kernels"] == [list(turned((1, 3, 3))), [3, 3, 3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": DEEP | {"network": {"features": 8, "depth": 2}}}, "cannot begin as this 2D one"),
        ({"student": DEEP | {"normalisation": "unit"}}, "needs one normalisation"),
        ({"teacher": FLAT | {"network": {"kind": "cnn_2d"}}}, "both unet"),
        ({"sources": ["signed_distance"]}, "add it to sources"),
    ],
)
def test_a_student_that_cannot_begin_as_its_teacher(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        _train(_experiment("pseudo_labels", settings={"start": "teacher"} | changes), [_sample("0:12")], tmp_path)
    assert not (tmp_path / "stages").exists()


def test_held_out_voxels_are_hidden_from_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the held-out planes; their pseudo-labels count no more than their truth."""
    seen = _seen(monkeypatch)
    task = _task([_sample("0:12")], tmp_path, held=(9, 10))
    config: Any = strategy_config(_experiment("pseudo_labels"))
    config = pseudo_labels.resolve(config, task)
    pseudo_labels.train(config, replace(task, steps={"teacher": 2, "student": 2}))
    ((volume,),) = seen
    assert volume.hidden is not None and np.flatnonzero(volume.hidden.all((1, 2))).tolist() == [9, 10]
    assert not (volume.annotated & volume.hidden).any()


def test_alpha_follows_from_how_much_is_annotated(tmp_path: Path) -> None:
    """By hand: 5 of 12 planes, an unlabelled volume beside them; 60 % of the weight is theirs. A number is kept."""
    task = _task([_sample("1:11:2")], tmp_path)
    config = pseudo_labels.resolve(pseudo_labels.Config(), task)
    assert config.alpha == 1.0  # 1.5 · 5 / 7 is more
    task = _task([_sample("5"), _unlabelled()], tmp_path)
    known, others = 48 * 48, 11 * 48 * 48 + 9 * 40 * 64
    alpha = pseudo_labels.resolve(pseudo_labels.Config(), task).alpha
    assert alpha == float(f"{1.5 * known / others:.3g}")
    assert alpha * others / (alpha * others + known) == pytest.approx(0.6, abs=0.002)
    assert pseudo_labels.resolve(pseudo_labels.Config(alpha=0.2), task).alpha == 0.2


def test_alpha_is_chosen_on_held_out_annotation(tmp_path: Path) -> None:
    """One student per value; the model is that of the best score, which the log names."""
    settings = {"alpha": [0.0, 0.5, 2.0]}
    samples = [_sample("0:12")]
    model = _train(_experiment("pseudo_labels", steps=8, settings=settings), samples, tmp_path)
    scores = {
        event["stage"]: event["score"] for event in read_lines(tmp_path / "log.jsonl") if event["event"] == "validation"
    }
    students = ["student_alpha_0", "student_alpha_0.5", "student_alpha_2"]
    assert sorted(p.name for p in (tmp_path / "stages").iterdir()) == [*students, "teacher"] and set(students) < set(
        scores
    )
    import torch

    results = {name: torch.load(tmp_path / "stages" / name / "result.pt", weights_only=True) for name in students}
    best = max(students, key=lambda name: float(results[name]["validation"]["score"]))
    (event,) = (e for e in read_lines(tmp_path / "log.jsonl") if e["event"] == "alpha")
    assert f"student_alpha_{event['chosen']:g}" == best and event["tried"] == [0.0, 0.5, 2.0]
    weights = results[best]["weights"]["network"]
    assert all(torch.equal(value, weights[key]) for key, value in model.networks[0].state_dict().items())
    assert model.threshold == results[best]["validation"]["threshold"]


def test_alpha_is_not_chosen_without_held_out_annotation(tmp_path: Path) -> None:
    """Training data cannot choose: it is refused before anything is trained."""
    with pytest.raises(InputError, match="held-out annotation"):
        _train(_experiment("pseudo_labels", settings={"alpha": [0, 1]}, validation="none"), [_sample()], tmp_path)
    assert not (tmp_path / "stages").exists()


def test_without_pseudo_weight_the_student_is_the_sparse_network(tmp_path: Path) -> None:
    """α = 0 draws the patches of `sparse_3d`, and learns its weights, whatever the teacher says."""
    settings = {"alpha": 0.0}
    student = _train(_experiment("pseudo_labels", steps=4, settings=settings), [_sample()], tmp_path / "a")
    beside = _train(
        _experiment("pseudo_labels", steps=4, settings=settings | {"targets": "hard"}), [_sample()], tmp_path / "b"
    )
    sparse = _train(_experiment("sparse_3d", steps=4), [_sample()], tmp_path / "c")
    first, *others = (m.networks[0].state_dict() for m in (student, beside, sparse))
    assert all((first[key] == other[key]).all() for other in others for key in first)


# ----------------------------------------------------------------------------------------- continuity and consensus


@pytest.mark.parametrize("kind", ["continuity", "consensus"])
@pytest.mark.parametrize("planes", ["5", "4,5", "3,9", "y=14,34", "0:12"])
def test_any_annotated_planes_will_do(kind: str, planes: str, tmp_path: Path) -> None:
    """One, adjacent ones, the ends alone, planes along y, every plane; more neighbours than the volume is deep."""
    flat = [8, 1, 32] if planes.startswith("y") else [1, 32, 32]
    settings = _every_network(kind, {"patch": flat}, flat_only=True)
    settings |= {"neighbours": {"planes": 31, "image_planes": 3}} if kind == "continuity" else {}
    said: list[str] = []
    model = _train(
        _experiment(kind, steps=3, settings=settings),
        [_sample(planes), _unlabelled()],
        tmp_path,
        listener=lambda event: said.append(str(event.get("note", ""))),
    )
    p = model.probabilities(_sample().image.read(), bfloat16=False)
    assert p.shape == (1, *SHAPE) and np.isfinite(p).all()
    assert any("along y" in note for note in said) == planes.startswith("y")
    stage = "segment" if kind == "continuity" else "teacher"
    cleaned = io.open_labels(tmp_path / "stages" / stage / "predicted/000.ome.zarr/labels/cleaned").read()[0]
    assert cleaned.shape == SHAPE and cleaned.max() <= 1


def test_without_voxel_size_the_run_says_that_sizes_are_in_pixels(tmp_path: Path) -> None:
    """And what they are."""
    sample = _sample()
    sample = replace(sample, image=replace(sample.image, voxel_size_um=None))
    said: list[str] = []
    _train(
        _experiment("continuity", steps=2),
        [sample],
        tmp_path,
        listener=lambda event: said.append(str(event.get("note", ""))),
    )
    assert any("voxel size is unknown" in note and "300 pixels" in note for note in said)


def test_the_second_network_learns_cleaned_masks_and_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its targets are the truth on annotated planes and the stored cleaned masks elsewhere; images are neighbours."""
    seen = _seen(monkeypatch)
    settings = {"neighbours": {"planes": 5, "image_planes": 1}, "cleaned_weight": 0.5}
    _train(_experiment("continuity", steps=3, settings=settings, validation="none"), [_sample()], tmp_path)
    (volume,) = seen[-1]
    store = tmp_path / "stages/segment/predicted/000.ome.zarr"
    cleaned = io.open_labels(store / "labels/cleaned").read()
    np.testing.assert_array_equal(volume.pseudo_labels.read(), np.where(cleaned > 0, 255, 0))
    assert volume.pseudo_weight == 0.5
    p = io.open_volume(store).read()[0].astype(np.float32) / 255
    stacked = volume.image.read()
    assert stacked.shape == (6, *SHAPE)
    np.testing.assert_allclose(stacked[2], p, atol=1e-6)
    np.testing.assert_allclose(stacked[0, 2:], p[:-2], atol=1e-6)
    np.testing.assert_allclose(stacked[0, :2], p[[0, 0]], atol=1e-6)
    np.testing.assert_allclose(stacked[4, :-2], p[2:], atol=1e-6)


def test_consensus_weighs_by_certainty_and_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the student is given: the mean of teacher and cleaned mask, certain, fading from annotated planes."""
    seen: list[Any] = []
    real: Callable[..., Any] = pseudo_labels.weighted

    def weighted(*arguments: Any) -> Any:
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(pseudo_labels, "weighted", weighted)
    settings = {"fade_planes": 2.0, "alpha": 0.3}
    _train(_experiment("consensus", steps=3, settings=settings, validation="none"), [_sample("3")], tmp_path)
    (volume,) = seen[-1]
    store = tmp_path / "stages/teacher/predicted/000.ome.zarr"
    teacher = io.open_volume(store).read()[0].astype(float)
    cleaned = np.where(io.open_labels(store / "labels/cleaned").read()[0] > 0, 255, 0)
    np.testing.assert_array_equal(volume.pseudo_labels.read()[0], np.rint((teacher + cleaned) / 2))
    assert volume.certain and volume.pseudo_weight == 0.3
    np.testing.assert_allclose(volume.fade.ravel(), np.exp(-np.abs(np.arange(12) - 3) / 2), rtol=1e-5)
