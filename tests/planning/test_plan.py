"""The verb on a tiny volume: what it says, what it keeps, kill and resume, moved and other images, along y, advice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io, workflow
from fewslice.annotation import from_labels
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.experiment import Experiment, read_experiment
from fewslice.geometry import Box
from fewslice.planning import plan as planning
from fewslice.planning.ladder import Ladder, Plane
from fewslice.planning.learning_curve import Forecast
from fewslice.planning.measurement import Measured, cheap_settings, judge, restricted
from fewslice.planning.plan import Budget, advice, extrapolated
from fewslice.training.run_folder import RunFolder
from fewslice.volume import Volume

SHAPE = (20, 32, 32)
TINY: dict[str, Any] = {
    "network": {"features": 2, "depth": 2},
    "patch": [1, 16, 16],
    "batch_size": 2,
    "views": 1,
    "learning_rate": 2e-2,
    "schedule": {"validations": 1},
}
DEEP = TINY | {"network": {"features": 2, "depth": 2, "dims": 3}, "patch": [8, 16, 16]}


def arrays(seed: int = 0) -> tuple[Any, Any]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 6:20, 8:24] = 1
    labels[10:, 22:30, 4:12] = 1
    image = np.random.default_rng(seed).normal(50 + 100 * labels, 10).astype(np.float32)
    return image, labels


class Trained:
    """A folder with an image, its labels and a run."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.image, self.labels, self.run = folder / "brain.tif", folder / "labels.tif", folder / "RUN"
        image, labels = arrays()
        io.save_volume(self.image, Volume.from_array(image, (2.0, 1.0, 1.0)))
        io.save_volume(self.labels, Volume.from_array(labels, (2.0, 1.0, 1.0)))
        content = {"strategy": "slices_2d", "settings": TINY, "planes": ("2,6,11,17",), "steps": 20}
        content |= {"images": (str(self.image),), "labels": (str(self.labels),), **options}
        workflow.train(Experiment(**content), self.run, device="cpu")

    def plan(self, **options: Any) -> dict[str, Any]:
        return workflow.plan(self.run, device="cpu", **({"steps": 6} | options))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(trained_once: Trained, tmp_path: Path) -> Trained:
    """A copy of the run, beside the same image; what a test does to it, no other sees."""
    own = object.__new__(Trained)
    own.image, own.labels, own.run = trained_once.image, trained_once.labels, tmp_path / "RUN"
    shutil.copytree(trained_once.run, own.run)
    return own


def overwritten(store: Path, plane: int, value: int) -> None:
    """Replace a stored prediction by one that is 0 but on one plane."""
    stored = np.zeros((1, *SHAPE), np.uint8)
    stored[:, plane] = value
    io.open_output(store).write(Box.of(SHAPE), stored)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_plan_says_what_it_measured_and_what_it_expects(trained: Trained) -> None:
    found = trained.plan(planes=3)
    assert found == json.loads((trained.run / "plan.json").read_text())
    rows = found["curve"]
    assert [(r["planes"], r["measured"]) for r in rows] == [
        *((n, True) for n in (1, 2, 3)),
        *((n, False) for n in (4, 7, 8, 16)),
    ]
    assert all(0 <= r["low"] <= r["dice"] <= r["high"] <= 1 for r in rows)
    expected = [r["dice"] for r in rows if not r["measured"]]
    assert expected == sorted(expected)
    assert found["gain"]["planes"] == 3 and 0 <= found["gain"]["low"] <= found["gain"]["high"]
    assert found["annotated"] == 4 and found["steps"] == 6 and found["axis"] == "z"
    chosen = [p["plane"] for p in found["next_planes"]]
    assert len(chosen) == 3 and not set(chosen) & {2, 6, 11, 17}
    assert all(abs(a - b) > 1 for a in chosen for b in [2, 6, 11, 17, *chosen] if a != b)
    assert all(0 <= p["score"] <= 1 for p in [*found["next_planes"], *found["regions"]])
    for region in found["regions"]:
        assert region["plane"] in chosen and region["axis"] == "z"
        assert 0 <= region["y"][0] < region["y"][1] <= 32 and 0 <= region["x"][0] < region["x"][1] <= 32
    now = next(r for r in rows if not r["measured"])
    unsure = now["high"] - now["low"] > 0.3
    assert ("cannot be said: trainings of 6 steps" if unsure else "3 more planes should bring") in found["advice"]


def test_the_next_plane_is_where_the_model_is_uncertain(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored prediction is made uncertain on one plane; it is read, not made anew."""
    (out,) = workflow.predict(trained.run, [str(trained.image)], trained.run.parent / "OUT.ome.zarr", device="cpu")
    overwritten(out, 14, 127)
    monkeypatch.setattr(planning, "predict_volume", lambda *a, **k: pytest.fail("predicted although it is stored"))
    found = trained.plan(planes=1)
    assert [p["plane"] for p in found["next_planes"]] == [14]
    shutil.rmtree(out)
    monkeypatch.undo()
    trained.plan(planes=1)  # the store is gone, so it predicts
    assert list((trained.run / "plan" / "predicted").iterdir())


def test_a_killed_plan_goes_on_and_ends_as_the_unbroken_one(trained: Trained, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    unbroken = tmp_path / "UNBROKEN"
    shutil.copytree(trained.run, unbroken)
    workflow.plan(unbroken, steps=6, device="cpu")

    def kill_in(training: int) -> Callable[[dict[str, Any]], None]:
        def listen(event: dict[str, Any]) -> None:
            if event.get("stage") == f"training {training} of 12" and event["event"] == "step":
                raise KilledError

        return listen

    for training in (1, 12):
        with pytest.raises(KilledError):
            trained.plan(listener=kill_in(training), checkpoint_seconds=0.0)
        assert not (trained.run / "plan.json").exists()
    seen: list[str] = []
    trained.plan(listener=lambda event: seen.append(str(event.get("stage"))))
    assert {s for s in seen if s.startswith("training")} == {"training 12 of 12"}, "finished trainings are not repeated"
    models = "plan/trainings"
    kept = {n: c for n, c in files(trained.run).items() if n.startswith(models) and n.endswith(("s.json", "rs"))}
    assert kept == {n: files(unbroken)[n] for n in kept} and kept
    assert (trained.run / "plan.json").read_bytes() == (unbroken / "plan.json").read_bytes()


def test_minutes_become_steps_once(trained: Trained) -> None:
    """A second call with the same minutes trains nothing, and other minutes leave the first trainings alone."""
    first = trained.plan(steps=None, minutes=0.001)
    before = files(trained.run / "plan")
    seen: list[dict[str, Any]] = []
    assert trained.plan(steps=None, minutes=0.001, listener=seen.append) == first
    assert not [e for e in seen if "stage" in e] and files(trained.run / "plan") == before
    experiments = [read_experiment(p) for p in (trained.run / "plan").rglob("experiment.yaml")]
    assert len(experiments) == 12 and {e.steps["segment"] for e in experiments} == {first["steps"]}
    assert len({e.seed for e in experiments}) == 12
    trained.plan(steps=7)
    assert before.items() <= files(trained.run / "plan").items()


def test_with_few_planes_no_number_is_invented(tmp_path: Path) -> None:
    found = Trained(tmp_path, planes=("2,10,17",)).plan(planes=2)
    assert found["curve"] == [] and found["gain"] is None and found["steps"] is None
    assert found["advice"].startswith("What more planes would bring cannot be said: only 3 planes are annotated")
    assert len(found["next_planes"]) == 2
    assert not (tmp_path / "RUN" / "plan" / "trainings").exists()


@pytest.mark.parametrize(("axis", "planes"), [(1, (9, 13, 17, 22)), (2, (9, 15, 21))])
def test_planes_along_y_and_x(tmp_path: Path, axis: int, planes: tuple[int, ...]) -> None:
    name = "zyx"[axis]
    flat = [16, 16, 16]
    flat[axis] = 1
    listed = f"{name}={','.join(map(str, planes))}"
    found = Trained(tmp_path, planes=(listed,), settings=TINY | {"patch": flat}).plan(planes=2)
    assert found["axis"] == name and [r["planes"] for r in found["curve"]][:3] == ([1, 2, 3] if axis == 1 else [])
    for plane in found["next_planes"]:
        assert plane["axis"] == name and plane["plane"] not in planes and plane["plane"] < SHAPE[axis]
    assert all(name not in region and "z" in region for region in found["regions"])


def test_the_teacher_is_asked_as_well(tmp_path: Path) -> None:
    """Its stored prediction is read; where both agree and are certain but on one plane, that plane is chosen."""
    trained = Trained(tmp_path, strategy="pseudo_labels", settings={"teacher": TINY, "student": DEEP}, steps=2)
    (store,) = (trained.run / "stages" / "teacher" / "predicted").glob("*.ome.zarr")
    (out,) = workflow.predict(trained.run, [str(trained.image)], tmp_path / "OUT.ome.zarr", device="cpu")
    overwritten(out, 14, 0)
    overwritten(store, 14, 255)
    found = trained.plan(planes=1, steps=2)
    assert [p["plane"] for p in found["next_planes"]] == [14]
    assert not (trained.run / "plan" / "predicted").exists()
    experiment = read_experiment(next((trained.run / "plan").rglob("experiment.yaml")))
    assert experiment.strategy == "slices_2d" and experiment.settings["learning_rate"] == 2e-2


def test_a_moved_image_is_named_and_another_image_has_nothing_annotated(tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    found = trained.plan()
    moved = tmp_path / "elsewhere.tif"
    trained.image.rename(moved)
    with pytest.raises(
        InputError, match=r"brain\.tif, on which .* is no longer there; give its new place with --image"
    ):
        trained.plan()
    again = trained.plan(image=str(moved))
    for entry in [*again["next_planes"], *again["regions"]]:
        entry["image"] = "brain"
    assert again == found
    moved.rename(trained.image)
    other = tmp_path / "other.tif"
    io.save_volume(other, Volume.from_array(arrays(1)[0], (2.0, 1.0, 1.0)))
    found = trained.plan(image=str(other), planes=6)
    assert {p["image"] for p in found["next_planes"]} == {"other"}
    assert found["gain"]["planes"] == 6


def test_changed_labels_are_refused(tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    labels = arrays()[1]
    labels[6, 0, 0] = 1
    io.save_volume(trained.labels, Volume.from_array(labels, (2.0, 1.0, 1.0)), overwrite=True)
    with pytest.raises(InputError, match=r"labels\.tif is not what .* was trained on"):
        trained.plan()
    assert not (trained.run / "plan").exists()


def test_what_cannot_be_planned_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        workflow.plan(tmp_path)
    for name, options in (("planes", {"planes": 0}), ("steps", {"steps": 0}), ("minutes", {"minutes": float("nan")})):
        with pytest.raises(InputError, match=name):
            workflow.plan(trained.run, **options)
    with pytest.raises(InputError, match="exclude each other"):
        workflow.plan(trained.run, steps=1, minutes=1.0)
    experiment = read_experiment(trained.run / "experiment.yaml")
    for update, named in (({"labels": ()}, "without annotation"), ({"images": ()}, "not trained on image files")):
        experiment.model_copy(update=update).write(trained.run / "experiment.yaml")
        with pytest.raises(InputError, match=named):
            trained.plan()
    experiment.write(trained.run / "experiment.yaml")
    (trained.run / "model" / "model.json").unlink()
    with pytest.raises(InputError, match="not finished"):
        trained.plan()


# ------------------------------------------------------------------------------------------------------------ parts


def sample(planes: str = "2,6,11,17") -> Sample:
    image, labels = arrays()
    return Sample("s", Volume.from_array(image, (2.0, 1.0, 1.0)), from_labels(labels, planes=[planes]))


def test_a_training_sees_its_own_planes_alone() -> None:
    (own,) = restricted([sample()], [Plane(0, 6), Plane(0, 17), Plane(1, 2)], 0)
    assert own.annotation is not None and own.annotation.planes() == [6, 17]
    assert np.flatnonzero(own.annotation.labels.any(axis=(1, 2))).tolist() == [6, 17]
    (nothing,) = restricted([sample()], [], 0)
    assert nothing.annotation is None


def test_judging_counts_every_voxel_of_the_held_out_planes_and_no_other(tmp_path: Path) -> None:
    """Against the model's own probabilities on those planes."""
    run = RunFolder(tmp_path)
    experiment = Experiment(strategy="slices_2d", settings=TINY, steps=5, validation="none")
    model = workflow.train_samples(experiment, [sample()], tmp_path)
    counts = judge(model, [sample()], [Plane(0, 2), Plane(0, 17)], 0, run)
    image, labels = arrays()
    p = model.probabilities(image[None][:, [2, 17]])[0]
    truth = labels[[2, 17]] > 0
    for index, threshold in ((0, 0.05), (9, 0.5), (18, 0.95)):
        found = p >= threshold
        expected = [[(~found & ~truth).sum(), (found & ~truth).sum()], [(~found & truth).sum(), (found & truth).sum()]]
        np.testing.assert_allclose(counts[index], expected, atol=2)


@pytest.mark.parametrize(("strategy", "settings"), [("sparse_3d", DEEP), ("slices_2d", TINY | {"patch": [1, 32, 32]})])
def test_settings_are_those_of_a_small_2d_network(strategy: str, settings: dict[str, Any], tmp_path: Path) -> None:
    experiment = Experiment(strategy=strategy, settings=settings)
    found = cheap_settings(experiment, [sample()], RunFolder(tmp_path))
    assert found["network"]["dims"] == 2 and found["views"] == 1 and found["patch"] == [1, 32, 32]
    assert found["batch_size"] <= 4
    assert found["network"]["features"] == (16 if strategy == "sparse_3d" else 2)


def budget(mean: float, low: float, high: float) -> Budget:
    return Budget(Ladder(()), ({},), Forecast(0.8, 0.7, 0.9), Forecast(mean, low, high), 4, 100)


def test_advice_goes_on_stops_or_does_not_know() -> None:
    planes = [{"image": "a", "axis": "z", "plane": 7}, {"image": "a", "axis": "z", "plane": 12}]
    said = advice(budget(0.021, 0.011, 0.031), planes)
    assert said.startswith("4 more planes should bring +0.021 ± 0.010 Dice to the 0.80 of a short training. Go on")
    assert "z = 7, 12" in said
    said = advice(budget(0.003, 0.001, 0.006), planes)
    assert "hardly worth" in said and "these trainings had 100 steps" in said
    assert "may or may not" in advice(budget(0.006, 0.001, 0.02), planes)
    assert advice(budget(0.02, 0.01, 0.03), []).startswith("Every plane is annotated")
    assert "a 7, b 12" in advice(budget(0.02, 0.01, 0.03), [planes[0], planes[1] | {"image": "b"}])
    noisy = replace(budget(0.008, 0.001, 0.019), now=Forecast(0.52, 0.13, 0.89))
    said = advice(noisy, planes)
    assert "cannot be said: trainings of 100 steps differ too much (Dice 0.13 to 0.89)" in said and "--minutes" in said
    assert "z = 7, 12" in said and "+0.008" not in said, "that number is the prior's"
    unknown = replace(budget(0, 0, 0), now=None, gain=None, ladder=Ladder((), reason="only 2 planes are annotated"))
    assert "cannot be said: only 2 planes" in advice(unknown, planes)


def test_rows_end_where_planes_do() -> None:
    ladder = Ladder(tuple(Plane(0, i) for i in range(0, 20, 4)))
    measured = Measured((1, 2, 4), np.array([[0.5, 0.6, 0.7]] * 2), 9)
    found = extrapolated(ladder, measured, 2, 2, np.random.default_rng(0))
    assert [r["planes"] for r in found.curve] == [1, 2, 4, 5, 7]
    none_left = extrapolated(ladder, measured, 0, 0, np.random.default_rng(0))
    assert none_left.gain is None and [r["planes"] for r in none_left.curve] == [1, 2, 4, 5]
