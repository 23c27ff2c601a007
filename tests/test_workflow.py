"""The verbs: runs are claimed, resumed and never mixed; predictions go where they were asked to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io, workflow
from fewslice.annotation import Annotation, from_labels
from fewslice.data.samples import Sample
from fewslice.demo import demo
from fewslice.errors import DiskError, InputError, PartialError
from fewslice.experiment import Experiment, read_experiment
from fewslice.model import Model
from fewslice.training.fit import Hardware
from fewslice.volume import Volume

SHAPE = (8, 32, 32)
TINY: dict[str, Any] = {
    "network": {"features": 2, "depth": 2},
    "patch": [1, 16, 16],
    "batch_size": 2,
    "views": 1,
    "schedule": {"validations": 1},
}
CPU = Hardware(device="cpu", bfloat16=False)


def _arrays(seed: int = 0) -> tuple[Any, Any]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:7, 8:20, 10:24] = 1
    image = np.random.default_rng(seed).normal(50 + 100 * labels, 10).astype(np.float32)
    return image, labels


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    """An image and its labels on disk."""
    image, labels = _arrays()
    io.save_volume(tmp_path / "brain.1.ome.zarr", Volume.from_array(image, (2.0, 1.0, 1.0)))
    io.save_volume(tmp_path / "labels.tif", Volume.from_array(labels, (2.0, 1.0, 1.0)))
    return str(tmp_path / "brain.1.ome.zarr"), str(tmp_path / "labels.tif")


def _experiment(paths: tuple[str, str] = ("", ""), **options: Any) -> Experiment:
    content = {"strategy": "slices_2d", "settings": TINY, "images": paths[:1], "labels": paths[1:], "steps": 3}
    return Experiment(**(content | options))


def _train(experiment: Experiment, folder: Path, **options: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    workflow.train(experiment, folder, device="cpu", listener=events.append, **options)
    return events


def _files(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def _sample(annotation: Annotation | None = None, seed: int = 0) -> Sample:
    image, labels = _arrays(seed)
    return Sample("s", Volume.from_array(image, (2.0, 1.0, 1.0)), annotation or from_labels(labels))


def test_a_finished_run_is_said_to_be_finished_and_left_alone(tmp_path: Path, paths: tuple[str, str]) -> None:
    """The same request, and the experiment that it was resolved to, both find it; no byte changes."""
    run = tmp_path / "RUN"
    assert any(e["event"] == "step" for e in _train(_experiment(paths), run))
    before = _files(run)
    for again in (_experiment(paths), read_experiment(run / "experiment.yaml")):
        (event,) = _train(again, run)
        assert "is finished" in event["note"]
    assert _files(run) == before


def test_the_resolved_experiment_gives_the_run_again(tmp_path: Path, paths: tuple[str, str]) -> None:
    """The same model, byte by byte, from ``experiment.yaml`` alone."""
    _train(_experiment(paths), tmp_path / "A")
    workflow.run(tmp_path / "A" / "experiment.yaml", tmp_path / "B", device="cpu")
    assert _files(tmp_path / "A" / "model") == _files(tmp_path / "B" / "model")
    resolved = read_experiment(tmp_path / "B" / "experiment.yaml")
    assert resolved == read_experiment(tmp_path / "A" / "experiment.yaml")
    assert resolved.settings["batch_size"] == 2 and resolved.steps == {"segment": 3} and resolved.minutes is None


def test_a_begun_run_is_resumed_with_the_steps_that_were_written(tmp_path: Path, paths: tuple[str, str]) -> None:
    """Minutes are not measured again: after a kill the same command ends in the same model."""
    run, request = tmp_path / "RUN", _experiment(paths, steps=None, minutes=0.001)
    _train(request, run)
    steps = read_experiment(run / "experiment.yaml").steps
    assert isinstance(steps, dict)
    before = _files(run / "model")
    for path in [*(run / "model").iterdir(), *(p for p in (run / "stages" / "segment").iterdir() if p.is_file())]:
        path.unlink()
    written = read_experiment(run / "experiment.yaml").model_copy(update={"steps": {"segment": steps["segment"] + 1}})
    written.write(run / "experiment.yaml")
    _train(request, run)
    assert _files(run / "model").keys() == before.keys() and _files(run / "model") != before
    assert json.loads((run / "stages/segment/result.json").read_text())["steps"] == steps["segment"] + 1


def test_another_request_is_refused_unless_it_may_overwrite(tmp_path: Path, paths: tuple[str, str]) -> None:
    """Refused, the run keeps its bytes; also when the request that may overwrite turns out to be wrong."""
    run = tmp_path / "RUN"
    _train(_experiment(paths), run)
    before = _files(run)
    other = _experiment(paths, seed=1)
    with pytest.raises(InputError, match=r"run of another experiment \(seed was 0, now 1\)"):
        _train(other, run)
    slower = _experiment(paths, settings=TINY | {"learning_rate": 0.1})
    with pytest.raises(InputError, match=r"another experiment \(settings\.learning_rate was 0\.\d+, now 0\.1\)"):
        _train(slower, run)
    with pytest.raises(InputError, match="patch"):
        _train(_experiment(paths, settings=TINY | {"patch": [1, 64, 64]}), run, overwrite=True)
    assert _files(run) == before
    _train(other, run, overwrite=True)
    assert read_experiment(run / "experiment.yaml").seed == 1 and _files(run)["model/model.json"] != before.get(
        "model/model.json"
    )


def test_changed_labels_are_another_request(tmp_path: Path, paths: tuple[str, str]) -> None:
    """The same paths and settings, but a voxel was painted over."""
    run = tmp_path / "RUN"
    _train(_experiment(paths), run)
    labels = _arrays()[1]
    labels[0, 0, 0] = 1
    io.save_volume(paths[1], Volume.from_array(labels, (2.0, 1.0, 1.0)), overwrite=True)
    with pytest.raises(InputError, match=r"run of another experiment \(the content of labels of .* is another\)"):
        _train(_experiment(paths), run)


def test_a_folder_with_other_things_is_never_written_into(tmp_path: Path, paths: tuple[str, str]) -> None:
    """Not even with overwrite."""
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not a run of fewslice"):
            _train(_experiment(paths), folder, overwrite=overwrite)
    assert [p.name for p in folder.iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize("steps", [{"segment": 3, "segmnt": 3}, {"teacher": 3}])
def test_steps_of_unknown_or_missing_stages_are_refused(tmp_path: Path, steps: dict[str, int]) -> None:
    """The stages are named."""
    with pytest.raises(InputError, match="the stages are segment"):
        workflow.train_samples(_experiment(steps=steps), [_sample()], tmp_path, hardware=CPU)


def test_samples_in_memory_never_take_another_experiment_s_stages(tmp_path: Path) -> None:
    """The same folder with another learning rate is refused; the same experiment gives the same model at once."""
    first = workflow.train_samples(_experiment(), [_sample()], tmp_path, hardware=CPU)
    with pytest.raises(InputError, match="another experiment"):
        changed = _experiment(settings=TINY | {"learning_rate": 0.1})
        workflow.train_samples(changed, [_sample()], tmp_path, hardware=CPU)
    again = workflow.train_samples(_experiment(), [_sample()], tmp_path, hardware=CPU)
    image = _sample().image.read()
    np.testing.assert_array_equal(first.probabilities(image), again.probabilities(image))


def test_classes_of_instances_become_outputs(tmp_path: Path) -> None:
    """Objects of two classes, given by id, make a model of two classes."""
    labels = _arrays()[1].astype(np.uint32)
    labels[:, 22:30, 2:8] = 7
    annotation = from_labels(labels, kind="instances", class_by_id={7: 2})
    model = workflow.train_samples(_experiment(), [_sample(annotation)], tmp_path, hardware=CPU)
    assert [output.name for output in model.outputs] == ["class_1", "class_2", "boundary"]


def test_samples_whose_classes_mean_different_values_are_refused(tmp_path: Path) -> None:
    """Class 1 is the value 1 in one sample and 9 in the other."""
    other = _sample(from_labels(_arrays()[1] * 9))
    with pytest.raises(InputError, match="same label value for each class"):
        workflow.train_samples(_experiment(), [_sample(), other], tmp_path, hardware=CPU)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder, trained for a step."""
    workflow.train_samples(_experiment(steps=1), [_sample()], tmp_path / "RUN", hardware=CPU)
    return tmp_path / "RUN"


def _predict(run: Path, images: list[str], output: Path, **options: Any) -> list[Path]:
    return workflow.predict(run, images, output, device="cpu", **options)


def test_several_images_go_into_a_folder_under_their_own_names(tmp_path: Path, model: Path) -> None:
    """A dot inside a name stays; a quoted glob is a list; one .ome.zarr for several is refused."""
    for index in (1, 2):
        image = Volume.from_array(_arrays(index)[0], (2.0, 1.0, 1.0))
        io.save_volume(tmp_path / "in" / f"brain.{index}.tif", image)
    glob = str(tmp_path / "in" / "*.tif")
    with pytest.raises(InputError, match=r"2 images cannot go into one OUT\.ome\.zarr"):
        _predict(model, [glob], tmp_path / "OUT.ome.zarr")
    found = _predict(model, [glob], tmp_path / "out")
    assert [p.name for p in found] == ["brain.1.ome.zarr", "brain.2.ome.zarr"]
    assert (io.open_volume(found[0]).read() != io.open_volume(found[1]).read()).any()
    lines = [json.loads(line) for line in (model / "results.jsonl").read_text().splitlines()]
    assert [Path(line["output"]).name for line in lines] == [p.name for p in found]


def test_images_of_one_name_are_refused_together(tmp_path: Path, model: Path) -> None:
    """Their outputs would be one file."""
    for folder in "ab":
        io.save_volume(tmp_path / folder / "brain.tif", Volume.from_array(_arrays()[0]))
    with pytest.raises(InputError, match="several images are called brain"):
        _predict(model, [str(tmp_path / "a/brain.tif"), str(tmp_path / "b/brain.tif")], tmp_path / "out")


def test_an_output_that_would_harm_something_is_refused(tmp_path: Path, model: Path, paths: tuple[str, str]) -> None:
    """Neither the image itself, nor a file in the place of the folder, even with overwrite."""
    (tmp_path / "notes.txt").write_text("keep")
    before = _files(tmp_path)
    for output in (Path(paths[0]), tmp_path / "notes.txt", tmp_path / "notes.txt" / "OUT.ome.zarr"):
        with pytest.raises(InputError, match=r"another output|-o"):
            _predict(model, [paths[0]], output, overwrite=True)
    assert _files(tmp_path) == before


def test_another_voxel_is_refused_or_resampled(tmp_path: Path, model: Path, paths: tuple[str, str]) -> None:
    """Up to 10 % is the same voxel; beyond that --resample is needed, and what was predicted before does not count."""
    with pytest.raises(InputError, match=r"voxels of \(2\.0, 1\.0, 1\.2\).*--resample"):
        _predict(model, [paths[0]], tmp_path / "a.ome.zarr", voxel_size_um=(2.0, 1.0, 1.2))
    assert not (tmp_path / "a.ome.zarr").exists()
    (out,) = _predict(model, [paths[0]], tmp_path / "a.ome.zarr", voxel_size_um=(2.0, 1.0, 1.09))
    with pytest.raises(InputError, match="another image, model or settings"):
        _predict(model, [paths[0]], tmp_path / "a.ome.zarr", voxel_size_um=(2.0, 0.5, 0.5), resample=True)
    (fine,) = _predict(model, [paths[0]], tmp_path / "b.ome.zarr", voxel_size_um=(2.0, 0.5, 0.5), resample=True)
    assert io.open_volume(out).voxel_size_um == (2.0, 1.0, 1.09)
    assert io.open_volume(fine).voxel_size_um == (2.0, 0.5, 0.5) and io.open_volume(fine).shape == SHAPE


def test_an_image_without_voxel_size_gets_the_model_s(tmp_path: Path, model: Path) -> None:
    """As the contract on voxel sizes says."""
    io.save_volume(tmp_path / "plain.tif", Volume.from_array(_arrays()[0]))
    (out,) = _predict(model, [str(tmp_path / "plain.tif")], tmp_path / "OUT.ome.zarr")
    assert io.open_volume(out).voxel_size_um == (2.0, 1.0, 1.0) == Model.load(model / "model").voxel_size_um


def test_failed_blocks_end_in_partly_done(tmp_path: Path, model: Path) -> None:
    """The rest is kept, and the failed block is told."""
    image = _arrays()[0]
    image[0, 0, 0] = np.nan
    io.save_volume(tmp_path / "bad.tif", Volume.from_array(image, (2.0, 1.0, 1.0)))
    events: list[dict[str, Any]] = []
    with pytest.raises(PartialError, match="1 blocks could not be predicted"):
        _predict(
            model, [str(tmp_path / "bad.tif")], tmp_path / "OUT.ome.zarr", block=(8, 16, 32), listener=events.append
        )
    assert [e["block"] for e in events if e["event"] == "block_failed"] == [[0, 0, 0]]
    assert io.open_volume(tmp_path / "OUT.ome.zarr").read()[:, :, 16:].any()


def test_results_that_cannot_be_listed_undo_nothing(
    tmp_path: Path, model: Path, paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on a full or read-only disk: the verb is done, and a note says what is missing."""

    def refuse(path: Path, value: Any) -> None:
        raise DiskError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr("fewslice.workflow.prediction.append_line", refuse)
    monkeypatch.setattr("fewslice.workflow.judgement.append_line", refuse)
    events: list[dict[str, Any]] = []
    (out,) = _predict(model, [paths[0]], tmp_path / "OUT.ome.zarr", listener=events.append)
    scores = workflow.evaluate(out, paths[1], listener=events.append)
    notes = [e["note"] for e in events if e["event"] == "note" and "is full" in e["note"]]
    assert len(notes) == 2 and scores["complete"] is True


def test_scores_of_an_unfinished_prediction_say_so(tmp_path: Path, model: Path, paths: tuple[str, str]) -> None:
    from fewslice.cli.text import score_table

    (out,) = _predict(model, [paths[0]], tmp_path / "OUT.ome.zarr")
    assert "not finished" not in score_table(workflow.evaluate(out, paths[1]))
    job = out / ".fewslice" / "job.json"
    job.write_text(json.dumps(json.loads(job.read_text()) | {"finished": False}))
    assert "not finished" in score_table(workflow.evaluate(out, paths[1]))


def test_the_demo_passes_over_what_a_kill_left_but_not_over_other_files(tmp_path: Path) -> None:
    (tmp_path / ".part4711.train.ome.zarr").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds mine\.txt; choose an empty folder"):
        demo(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
