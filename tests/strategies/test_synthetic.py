"""The strategy that learns from simulated images: without and with annotation, contours and segmentation, killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewslice import io, workflow
from fewslice.annotation import Annotation
from fewslice.data.samples import Sample
from fewslice.errors import InputError
from fewslice.experiment import Experiment, read_experiment, strategy_config
from fewslice.model import Model
from fewslice.prediction import predict_volume
from fewslice.segmenters.contours import proposals_of
from fewslice.strategies import synthetic
from fewslice.synthesis.simulators import fluorescence_nuclei
from fewslice.training.fit import Hardware
from fewslice.training.run_folder import RunFolder, read_lines
from fewslice.training.task import Task
from fewslice.volume import Volume

CPU = Hardware(device="cpu", bfloat16=False)
REFINEMENT = {
    "generator": {"features": 4, "depth": 1, "hidden": 4},
    "discriminator": {"features": 4},
    "patch": [1, 32, 32],
    "pretrain_refiner": 1,
    "pretrain_discriminator": 1,
    "simulations": 2,
    "history": 8,
    "validation_patches": 8,
    "least_kept": 0.5,
    "schedule": {"validations": 1},
}
PLANE: dict[str, Any] = {
    "simulator": "fluorescence_nuclei",
    "images": 3,
    "refinement": REFINEMENT,
    "contours": {
        "network": {"features": 4, "depth": 3, "order": 3, "samples": 16},
        "patch": [1, 48, 48],
        "batch_size": 4,
        "learning_rate": 1e-2,
        "schedule": {"validations": 2},
    },
}
VOLUME: dict[str, Any] = {
    "simulator": "fluorescence_nuclei",
    "images": 2,
    "fit": False,
    "refine": False,
    "segmentation": {
        "network": {"features": 4, "depth": 2},
        "patch": [8, 32, 32],
        "batch_size": 2,
        "learning_rate": 1e-2,
        "views": 1,
        "schedule": {"validations": 2},
    },
}


def _nuclei(
    seed: int, shape: tuple[int, int, int] = (1, 96, 96), *, annotated: bool = False, kind: Any = None
) -> Sample:
    config = fluorescence_nuclei.Config(shape=shape)
    made = fluorescence_nuclei.simulate(config, np.random.default_rng(seed))
    annotation = None
    if annotated:
        known = np.ones(shape, bool)
        values = made.instances if kind == "instances" else (made.semantic > 0).astype(np.uint8)
        annotation = Annotation(values, known, kind=kind) if kind else Annotation(values, known, class_values=(1,))
    return Sample(f"nuclei {seed}", Volume.from_array(made.image, made.voxel_size_um), annotation)


def _train(settings: dict[str, Any], samples: list[Sample], folder: Path, steps: Any, **options: Any) -> Model:
    experiment = Experiment(strategy="synthetic", settings=settings, steps=steps, **options)
    return workflow.train_samples(experiment, samples, folder, hardware=CPU)


def test_contours_without_any_annotation(tmp_path: Path) -> None:
    samples = [_nuclei(seed) for seed in range(3)]
    model = _train(PLANE, samples, tmp_path / "run", {"refine": 4, "pretrain": 60})
    assert model.contours and model.provenance["threshold_from"] == "held-out simulation"
    notes = [e["note"] for e in read_lines(tmp_path / "run" / "log.jsonl") if e["event"] == "note"]
    assert any("Nothing was annotated" in note for note in notes)
    assert len(list((tmp_path / "run" / "stages" / "refine" / "images").glob("*.ome.zarr"))) == 3
    resolved = read_experiment(tmp_path / "run" / "experiment.yaml").settings
    assert resolved["fit"] is False and resolved["detector"] == "contours", "a fit is made once and then kept"
    model.save(tmp_path / "model")
    model.threshold = 0.5
    predict_volume(model, _nuclei(9).image, tmp_path / "OUT.ome.zarr", model_id="m", threshold=0.5)
    assert len(proposals_of(tmp_path / "OUT.ome.zarr").score) > 0


def test_fine_tuning_starts_from_what_was_pretrained(tmp_path: Path) -> None:
    settings = PLANE | {"refine": False, "fit": False, "fine_tune_learning_rate": 1e-9}
    samples = [_nuclei(0), _nuclei(1, annotated=True, kind="instances")]
    tuned = _train(settings, samples, tmp_path / "run", {"pretrain": 4, "fine_tune": 1}, validation="none")
    stored = torch.load(tmp_path / "run" / "stages" / "pretrain" / "result.pt", weights_only=True)
    for name, value in tuned.networks[0].named_parameters():
        torch.testing.assert_close(value, stored["weights"]["network"][name], atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="pretrain, fine_tune"):
        _train(settings, samples, tmp_path / "other", {"pretrain": 4})


def test_volumes_are_segmented_in_3d_and_resume(tmp_path: Path) -> None:
    samples = [_nuclei(0, (12, 48, 48)), _nuclei(1, (12, 48, 48), annotated=True)]
    steps = {"pretrain": 6, "fine_tune": 6}
    whole = _train(VOLUME, samples, tmp_path / "whole", steps)
    assert not whole.contours and whole.dims == 3
    again = _train(VOLUME, samples, tmp_path / "whole", steps)
    (tmp_path / "whole" / "stages" / "fine_tune" / "result.pt").unlink()
    labels = tmp_path / "whole" / "stages" / "simulate" / "images" / "001_labels.tif"
    labels.unlink()  # as if the run had been killed while it simulated
    third = _train(VOLUME, samples, tmp_path / "whole", steps)
    for other in (again, third):
        for name, value in whole.networks[0].state_dict().items():
            assert (other.networks[0].state_dict()[name] == value).all(), name
    assert io.open_labels(labels).shape == (12, 48, 48)


def test_refined_images_that_lost_the_annotation_are_not_learned(tmp_path: Path) -> None:
    """A refiner without self-regularisation and with a huge learning rate: training ends there, and says so."""
    wild = {"learning_rate": 0.3, "regularisation": {"weight": 0}, "schedule": {"validations": 3, "averaging": 0}}
    settings = PLANE | {"fit": False, "images": 2, "refinement": REFINEMENT | wild | {"least_kept": 0.8}}
    with pytest.raises(InputError, match=r"least_kept=0.8.*regularisation.weight or set refine=false"):
        _train(settings, [_nuclei(1), _nuclei(2)], tmp_path, {"refine": 40, "pretrain": 2})
    found = [e for e in read_lines(tmp_path / "log.jsonl") if e["event"] == "validation"]
    assert found and all(e["score"] == -1000 and e["kept"] < 0.8 for e in found)
    assert not (tmp_path / "stages" / "pretrain").exists() and not (tmp_path / "model").exists()


def _settings(settings: dict[str, Any]) -> synthetic.Config:
    return strategy_config(Experiment(strategy="synthetic", settings=settings))


def _task(samples: list[Sample], folder: Path, **changes: Any) -> Task:
    masks = [s.annotation.annotated if s.annotation is not None else None for s in samples]
    return Task(samples, masks, [None] * len(samples), (1,), RunFolder(folder), **{"hardware": CPU} | changes)


def test_minutes_count_validations_simulating_and_refining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every simulation takes 20 ms; the probe of the refiner measures a real validation, and writes nothing."""
    task = _task([_nuclei(0), _nuclei(1)], tmp_path)
    config = synthetic.resolve(_settings(PLANE | {"fit": False, "images": 50}), task)
    make = synthetic._simulate

    def slow(*arguments: Any) -> Any:
        time.sleep(0.02)
        return make(config, task, 0)

    monkeypatch.setattr(synthetic, "_simulate", slow)
    monkeypatch.setattr(synthetic, "refine", lambda *_, **__: time.sleep(0.02))
    plain = synthetic.between(config.model_copy(update={"refine": False}), task)
    assert plain >= 50 * 0.02
    assert synthetic.between(config, task) >= 50 * 0.02 + (2 + 8) * 0.02 + 50 * 0.02
    stage = synthetic.stages(config, task)["refine"][1]()
    found = stage.validate(stage)
    assert found is not None and "kernel_distance" in found.figures
    assert list(tmp_path.iterdir()) == []


def test_simulations_for_the_refiner_are_small() -> None:
    """Volumes are cut to 2¹⁹ voxels, planes and small volumes stay; patches that are asked for fit twice."""
    assert synthetic.refinement_shape((64, 512, 512), None) == (16, 181, 181)
    assert synthetic.refinement_shape((1, 512, 512), (1, 128, 128)) == (1, 512, 512)
    assert synthetic.refinement_shape((12, 48, 48), (1, 32, 32)) == (12, 48, 48)
    assert synthetic.refinement_shape((64, 512, 512), (24, 128, 128)) == (48, 256, 256)


def test_annotation_and_hardware_are_checked_before_anything_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("simulated")

    monkeypatch.setattr(synthetic, "simulator_config", never)
    plane = _settings(PLANE)
    with pytest.raises(InputError, match="--label-kind instances"):
        synthetic.resolve(plane, _task([_nuclei(0), _nuclei(1, annotated=True)], tmp_path))
    small = _nuclei(1, (1, 40, 96), annotated=True, kind="instances")
    with pytest.raises(InputError, match=r"patch \(1, 48, 48\).*\(1, 40, 96\).*contours.patch"):
        synthetic.resolve(plane, _task([_nuclei(0), small], tmp_path))
    with pytest.raises(InputError, match="on one device, but 2"):
        synthetic.resolve(plane, _task([_nuclei(0)], tmp_path, hardware=Hardware(device="cpu", devices=2)))


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="end with the 2 steps of its pretraining"):
        _train(PLANE | {"fit": False}, [_nuclei(0), _nuclei(1)], tmp_path / "a", {"refine": 2, "pretrain": 2})
    assert list((tmp_path / "a").iterdir()) == [], "nothing is written before the steps are checked"
    with pytest.raises(InputError, match="channels"):
        _train(VOLUME | {"simulator": "two_photon_neurons"}, [_nuclei(0, (12, 48, 48))], tmp_path / "b", 2)
    with pytest.raises(InputError, match=r"unknown key|colour"):
        _train(VOLUME | {"simulation": {"colour": 1}}, [_nuclei(0, (12, 48, 48))], tmp_path / "c", 2)
