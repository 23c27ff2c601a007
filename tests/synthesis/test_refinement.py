"""The schedule by hand; that a broken training ends as an unbroken one; what training reaches; what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from scipy import ndimage

from fewslice.data.normalisation import fit_normalisation
from fewslice.errors import InputError
from fewslice.synthesis import refinement
from fewslice.synthesis.refinement import (
    RefinementConfig,
    cell_diameter,
    fit_refiner,
    refinement_stage,
    resolved,
    update_of,
)
from fewslice.synthesis.refiner import Refiner, refine, to_grey
from fewslice.synthesis.simulation import Simulation
from fewslice.synthesis.simulators import two_photon_neurons
from fewslice.training.fit import Hardware, fit
from fewslice.training.run_folder import RunFolder, read_lines
from fewslice.training.stage import Schedule
from fewslice.volume import Volume

CPU = Hardware(device="cpu", bfloat16=False, checkpoint_seconds=0.0)
SMALL: dict[str, Any] = {
    "generator": {"features": 4, "hidden": 4, "depth": 2},
    "discriminator": {"features": 4, "receptive_field": (1, 12, 12)},
    "patch": (1, 32, 32),
    "batch_size": 4,
    "pretrain_refiner": 2,
    "pretrain_discriminator": 2,
    "history": 6,
    "refiner_steps": 2,
    "simulations": 3,
    "validation_patches": 8,
}


@cache
def _neurons(seed: int) -> Simulation:
    """Simulate one plane of two-photon neurons, two channels."""
    config = two_photon_neurons.Config(shape=(1, 64, 64))
    return two_photon_neurons.simulate(config, np.random.default_rng(seed))


@cache
def _real() -> Volume:
    """Another appearance of the same: darker, blurred, with bright grain."""
    image = np.stack([_neurons(100 + k).image[:, 0] for k in range(4)], axis=1).astype(np.float64)
    grain = np.random.default_rng(0).standard_normal(image.shape) > 2
    image = 30 + 0.4 * ndimage.gaussian_filter(image, (0, 0, 1, 1)) + 40 * grain
    return Volume.from_array(image.clip(0, 255).astype(np.uint8), (2.0, 0.88, 0.88))


def _config(**changes: Any) -> RefinementConfig:
    return RefinementConfig(**SMALL | changes)


def _trained(folder: Path, source: Any, targets: list[Volume], config: RefinementConfig, **options: Any) -> Refiner:
    settings = resolved(config, source, targets)
    return fit_refiner("refinement", settings, source, targets, RunFolder(folder), hardware=CPU, **options)


def test_schedule() -> None:
    """The refiner alone, the discriminator alone, then two to one."""
    config = _config(pretrain_refiner=3, pretrain_discriminator=2)
    found = [update_of(step, config) for step in range(11)]
    assert found == ["regularise"] * 3 + ["discriminate"] * 2 + ["refine", "refine", "discriminate"] * 2
    alternating = _config(pretrain_refiner=0, pretrain_discriminator=0, refiner_steps=1)
    assert [update_of(step, alternating) for step in range(4)] == ["refine", "discriminate"] * 2


def test_cell_diameter_is_that_of_the_largest_plane() -> None:
    """Two discs of radius 5 and 9 in one plane, the first smaller in another: 14 on the median of two."""
    y, x = np.mgrid[:40, :40]
    instances = np.zeros((2, 40, 40), np.uint32)
    instances[0][(y - 10) ** 2 + (x - 10) ** 2 < 25] = 1
    instances[0][(y - 28) ** 2 + (x - 28) ** 2 < 81] = 2
    instances[1][(y - 10) ** 2 + (x - 10) ** 2 < 4] = 1
    simulation = replace(_neurons(0), instances=instances)
    assert cell_diameter([simulation]) == pytest.approx(14, abs=0.5)
    with pytest.raises(InputError, match="hold no object"):
        cell_diameter([replace(simulation, instances=np.zeros((1, 8, 8), np.uint32))])


def test_settings_follow_from_the_images() -> None:
    """The receptive field is 1.25 cell diameters, the patch fits both images and the generator's divisor."""
    config = resolved(RefinementConfig(), _neurons, [_real()])
    diameter = cell_diameter([_neurons(int(np.random.default_rng([0, 5, k]).integers(2**31))) for k in range(4)])
    assert config.discriminator.receptive_field == (1, *(max(7, round(1.25 * diameter)),) * 2)
    assert config.patch == (1, 64, 64)
    assert config.generator.pooling == ((1, 2, 2), (1, 2, 2))


def test_a_broken_training_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Killed twice while taking turns, with a history in the checkpoint, and resumed: the same weights and history."""
    config = resolved(_config(schedule=Schedule(validations=1, warmup=0)), _neurons, [_real()])

    def trained(folder: Path, stop_at: int = 99) -> tuple[dict[str, Any], dict[str, Any]]:
        stage, _ = refinement_stage("refinement", config, _neurons, [_real()], RunFolder(folder), seed=1)

        def batches(step: int) -> Any:
            if step >= stop_at:
                raise KeyboardInterrupt
            return whole_batches(step)

        whole_batches, stage.batches = stage.batches, batches
        return dict(fit(stage, RunFolder(folder), steps=14, seed=1, hardware=CPU).weights), stage.extra

    whole, extra = trained(tmp_path / "whole")
    for stop_at in (8, 12):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "broken", stop_at)
        content = torch.load(tmp_path / "broken/stages/refinement/checkpoint.pt", weights_only=True)
        assert 4 < content["extra"]["step"] <= stop_at and len(content["extra"]["history"]) > 0
    broken, resumed = trained(tmp_path / "broken")
    for name, weights in whole.items():
        assert all(torch.equal(weights[key], broken[name][key]) for key in weights), name
    assert extra["step"] == resumed["step"] == 14
    assert len(extra["history"]) == 6 and torch.equal(extra["history"], resumed["history"])


def test_each_step_moves_its_own_network_only(tmp_path: Path) -> None:
    """Self-regularisation leaves the discriminator alone, and so on through the schedule."""
    config = resolved(_config(pretrain_refiner=1, pretrain_discriminator=1), _neurons, [_real()])
    stage, _ = refinement_stage("refinement", config, _neurons, [_real()], RunFolder(tmp_path))
    for step, moved in enumerate(["generator", "discriminator", "generator", "generator", "discriminator"]):
        before = {n: [p.detach().clone() for p in m.parameters()] for n, m in stage.modules.items()}
        stage.step(stage, stage.batches(step), torch.Generator().manual_seed(step), lambda loss: loss.backward())
        changed = {
            n: any(not torch.equal(a, b) for a, b in zip(before[n], m.parameters(), strict=True))
            for n, m in stage.modules.items()
        }
        assert changed == {n: n == moved for n in changed}, step


def _discs(seed: int, texture: float) -> Simulation:
    """Bright discs of radius 5 on dark ground, with a checkerboard of 2 × 2 pixels inside if there is texture."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    instances = np.zeros((1, 64, 64), np.uint32)
    for index, (middle_y, middle_x) in enumerate(draw.uniform(0, 64, (9, 2))):
        instances[0][(y - middle_y) ** 2 + (x - middle_x) ** 2 < 25] = index + 1
    light = np.where(instances > 0, 140.0, 60.0) + draw.normal(0, 4, instances.shape)
    light += texture * (instances > 0) * np.where((y // 2 + x // 2) % 2 == 0, 1, -1)
    image = light.clip(0, 255).astype(np.uint8)[None]
    return Simulation(image, (instances > 0).astype(np.uint8), instances, (1.0, 1.0, 1.0), ("light",), ("disc",))


def test_it_moves_towards_the_real_images_and_keeps_the_objects(tmp_path: Path) -> None:
    """The distance falls to less than half, pairs are drawn, and the refiner comes back from its run."""
    real = Volume.from_array(np.concatenate([_discs(1000 + k, 25.0).image for k in range(8)], axis=1))
    config = RefinementConfig(
        generator={"features": 8, "hidden": 8, "depth": 2},
        discriminator={"features": 8, "receptive_field": (1, 12, 12)},
        patch=(1, 32, 32),
        regularisation={"weight": 0.1},
        learning_rate=2e-3,
        discriminator_learning_rate=4e-3,
        pretrain_refiner=5,
        pretrain_discriminator=15,
        simulations=8,
        validation_patches=24,
        schedule=Schedule(validations=3, warmup=0, averaging=0.9, decay="none"),
    )

    def trained() -> Refiner:
        return _trained(tmp_path, lambda seed: _discs(seed, 0.0), [real], config, steps=120)

    refiner, again = trained(), trained()
    found = [e for e in read_lines(tmp_path / "log.jsonl") if e["event"] == "validation"]
    assert [e["step"] for e in found] == [40, 80, 120]
    assert min(e["kernel_distance"] for e in found) < 0.5 * found[0]["kernel_distance"]
    stored = json.loads((tmp_path / "stages/refinement/result.json").read_text())["validation"]
    assert stored["kept"] >= config.least_kept and stored["objects"] > 20
    assert refiner.provenance["validation"]["step"] == stored["step"]
    assert len(list((tmp_path / "stages/refinement").glob("pairs_*.png"))) == len(found)
    drawn = imagecodecs.png_decode((tmp_path / "stages/refinement/pairs_000120.png").read_bytes())
    assert drawn.shape == (6 * 34, 4 * 34, 3), "simulated, refined, real, nearest real"
    _, refined, unpaired, closest = (drawn[:32, 34 * k : 34 * k + 32, 0].astype(int) for k in range(4))
    windows = np.lib.stride_tricks.sliding_window_view(real.read()[0].astype(np.int16), (32, 32), axis=(1, 2))

    def off(patch: np.ndarray[Any, Any]) -> float:
        """How far a patch is from the window of the real image that it resembles most, mirrored or not."""
        mirrored = (patch, patch[::-1], patch[:, ::-1], patch[::-1, ::-1])
        return min(float(np.abs(windows - m).mean(axis=(-2, -1)).min()) for m in mirrored)

    assert off(unpaired) <= 1 and off(closest) <= 1 < off(refined), "the last two columns are real"
    assert not np.array_equal(closest, unpaired)
    one, same = (refine(r, _discs(7, 0.0), 0) for r in (refiner, again))
    assert np.array_equal(one.image, same.image) and not np.array_equal(one.image, _discs(7, 0.0).image)
    assert np.array_equal(one.instances, _discs(7, 0.0).instances)


def test_weights_that_lost_the_annotation_are_not_taken(tmp_path: Path) -> None:
    """With a detector that finds nothing after refinement all score −1000, patience ends it, and that is an error."""
    calls = []

    def detect(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls.append(image)
        first = len(calls) % 16 in range(1, 9)  # the 8 patches before refinement, then the 8 after
        return np.asarray(ndimage.label(image[0] > image[0].mean())[0]) if first else np.zeros(image.shape[1:], int)

    config = _config(schedule=Schedule(validations=8, warmup=0, patience=2))
    with pytest.raises(
        InputError, match=r"keep a share of 0.000 .* least_kept=0.8.*raise refinement.regularisation.weight"
    ):
        _trained(tmp_path, _neurons, [_real()], config, steps=16, detect=detect)
    found = [e for e in read_lines(tmp_path / "log.jsonl") if e["event"] == "validation"]
    assert [e["score"] for e in found] == [-1000.0] * len(found)
    assert [e["step"] for e in found] == [6, 8, 10]  # none while each learns alone
    assert found[0]["recall_after"] == 0.0


def test_volumes_in_3d(tmp_path: Path) -> None:
    """A 3D generator learns from volumes of both kinds and refines one."""
    simulation = two_photon_neurons.simulate(two_photon_neurons.Config(shape=(12, 48, 48)), np.random.default_rng(3))
    real = Volume.from_array(255 - simulation.image, simulation.voxel_size_um)
    config = _config(
        generator={"features": 4, "hidden": 4, "depth": 2, "dims": 3},
        discriminator={"features": 4, "receptive_field": (4, 12, 12)},
        patch=(8, 24, 24),
        batch_size=2,
    )
    refiner = _trained(tmp_path, simulation, [real], config, steps=8)
    found = refine(refiner, simulation, 0)
    assert found.image.shape == simulation.image.shape and refiner.config.dims == 3


def _refiner_for(image: Any, folder: Path) -> Refiner:
    target = Volume.from_array(image, (2.0, 0.88, 0.88))
    config = resolved(_config(), _neurons, [target])
    return refinement_stage("refinement", config, _neurons, [target], RunFolder(folder))[1]


def test_16_bit_targets_are_stretched(tmp_path: Path) -> None:
    """The 0.1st and the 99.9th percentile of all planes, 1 % of whose values are 65 535, become 0 and 255."""
    image = _real().read().astype(np.uint16) * 40 + 1000
    image[:, :, :1] = 65535
    refiner = _refiner_for(image, tmp_path)
    own = fit_normalisation([Volume.from_array(image)], "robust")
    for channel in range(2):
        for value, grey in zip(np.percentile(image[channel], (0.1, 99.9)), (0.0, 255.0), strict=True):
            normalised = (float(value) - own.offset[channel]) / own.scale[channel]
            found = normalised * refiner.grey.scale[channel] + refiner.grey.offset[channel]
            assert found == pytest.approx(grey, abs=0.01)


def test_one_hot_pixel_costs_no_grey_levels(tmp_path: Path) -> None:
    """The plane that it does not lie on keeps all of its levels, and they lie where they lay."""
    image = _real().read().astype(np.uint16) * 4
    own = fit_normalisation([Volume.from_array(image)], "robust").apply(image[:, 1:2])
    clean = to_grey(own, _refiner_for(image, tmp_path).grey)
    image[:, 2, 7, 7] = 65535
    hot = to_grey(own, _refiner_for(image, tmp_path).grey)
    assert len(np.unique(clean)) > 60
    assert np.abs(hot.astype(int) - clean.astype(int)).max() <= 3


def test_simulations_are_remembered_but_not_all_of_them() -> None:
    made: list[int] = []

    def source(seed: int) -> Simulation:
        made.append(seed)
        return _neurons(0)

    numbered = refinement._numbered(source, 0)
    for number in (*range(64), *range(64)):
        numbered(number)
    assert len(made) == 64
    for number in range(1000):
        numbered(number)
    numbered(0)
    assert len(made) == 1001


@pytest.mark.parametrize(
    ("targets", "changes", "message"),
    [
        ([], {}, "got none"),
        ([Volume.from_array(np.eye(64, dtype=np.uint8))], {}, "1 channels, but the simulation has 2"),
        (
            [Volume.from_array(np.eye(64, dtype=np.uint8)[None, None].repeat(2, 0)[:, :, :20])],
            {},
            "smaller than the patch",
        ),
        ([Volume.from_array(np.eye(64, dtype=np.uint8)[None, None].repeat(2, 0)[:, :, :40])], {}, "hold 2 patches"),
        ([Volume.from_array(np.full((2, 1, 64, 64), 9, np.uint8))], {}, "one value"),
        ([Volume.from_array(np.eye(64, dtype=np.uint8)[None, None].repeat(2, 0), (1, 0.4, 0.4))], {}, "voxels of"),
        (None, {"patch": (1, 30, 30), "generator": {"depth": 3}}, "no multiple"),
        (None, {"patch": (1, 128, 128)}, "smaller than the patch"),
        (None, {"discriminator": {"receptive_field": (1, 40, 12)}}, "exceeds the patch"),
    ],
)
def test_bad_input(targets: list[Volume] | None, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolved(_config(**changes), _neurons, [_real()] if targets is None else targets)


def test_bad_requests(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match="end with the 4 steps of its pretraining"):
        fit_refiner("refinement", _config(), _neurons, [_real()], run, steps=4, hardware=CPU)
    with pytest.raises(InputError, match="on one device"):
        two = replace(CPU, devices=2)
        fit_refiner("refinement", _config(), _neurons, [_real()], run, steps=9, hardware=two)
    with pytest.raises(InputError, match="pass them through resolved"):
        refinement_stage("refinement", RefinementConfig(), _neurons, [_real()], run)
    blank = replace(_neurons(0), image=np.zeros_like(_neurons(0).image))
    with pytest.raises(InputError, match="one value only"):
        resolved(_config(), blank, [_real()])
    with pytest.raises(ValueError, match="positive"):
        RefinementConfig(patch=(0, 32, 32))
    assert not (tmp_path / "stages").exists()
