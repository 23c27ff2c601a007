"""Experiments: written and read again unchanged, laid over defaults, and wrong keys named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewslice.errors import InputError
from fewslice.experiment import (
    VERSION,
    Experiment,
    checked,
    read_experiment,
    settings_from_assignments,
    strategy_config,
)

FULL: dict[str, Any] = {
    "strategy": "pseudo_labels",
    "settings": {"alpha": [0.1, 0.5], "teacher": {"network": {"kind": "cnn_2d"}}},
    "images": ("a.tif", "größe_*.tif"),
    "labels": ("la.tif",),
    "axes": "zcyx",
    "channels": (0, 2),
    "voxel_size_um": (2.0, 0.1 + 0.2, 0.88),
    "label_kind": "classes",
    "planes": ("0:160:5", "y=3,9"),
    "background": 255,
    "unlabelled": "highest",
    "validation": "none",
    "seed": 7,
    "steps": {"teacher": 5, "student": 6},
}


def _config(strategy: str, *assignments: str) -> Any:
    return strategy_config(Experiment(strategy=strategy, settings=settings_from_assignments(assignments)))


def test_an_experiment_survives_its_file(tmp_path: Path) -> None:
    """Every field, floats to the last digit included; so does its identity."""
    for content in (FULL, {"strategy": "slices_2d", "minutes": 1.5}):
        experiment = Experiment(**content)
        experiment.write(tmp_path / "experiment.yaml")
        again = read_experiment(tmp_path / "experiment.yaml")
        assert again == experiment and again.identity() == experiment.identity()


def test_the_identity_is_that_of_the_request() -> None:
    """The order in which settings were given is no difference; every value is one."""
    first = Experiment(strategy="slices_2d", settings={"views": 1, "foreground": 0.4})
    assert first.identity() == Experiment(strategy="slices_2d", settings={"foreground": 0.4, "views": 1}).identity()
    changed: list[dict[str, Any]] = [{"seed": 8}, {"background": None}, {"settings": {}}, {"steps": 3}, {"planes": ()}]
    identities = {Experiment(**(FULL | change)).identity() for change in ({}, *changed)}
    assert len(identities) == 1 + len(changed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategy: slices_2d\nstps: 3", "unknown key stps; did you mean steps"),
        (f"strategy: slices_2d\nversion: {VERSION + 1}\nnew: 1", "update fewslice"),
        ("images: [a.tif]", "strategy: field required"),
        ("strategy: slices_2d\nsteps: 0", "steps: steps must be at least 1"),
        ("strategy: slices_2d\nsteps: 5\nminutes: 1", "steps and minutes exclude each other"),
        ("strategy: slices_2d\nminutes: .inf", "minutes"),
        ("strategy: slices_2d\n1: 2", "keys should be strings"),
        ("- a\n- b", "must hold keys such as strategy and images, found list"),
        ("", "must hold keys such as strategy and images, found NoneType"),
        ("a: [1", "is not a YAML file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    """The file and the key are named."""
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="(?i)" + message) as caught:
        read_experiment(path)
    assert "experiment.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    """One sentence each."""
    with pytest.raises(InputError, match="cannot be read"):
        read_experiment(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="is not a YAML file"):
        read_experiment(tmp_path / "binary.yaml")


def test_assignments_become_nested_settings() -> None:
    """Values are read as YAML; the last of two plain values counts."""
    found = settings_from_assignments(["a.b.c=1", "a.b.d=[1, 2.5]", "a.e=none", "f=true", "f=false", "g=", "h=x=y"])
    assert found == {"a": {"b": {"c": 1, "d": [1, 2.5]}, "e": "none"}, "f": False, "g": None, "h": "x=y"}


@pytest.mark.parametrize("texts", [["a"], ["=1"], ["a..b=1"], ["a.=1"], ["a=[1"], ["a=2", "a.b=1"], ["a.b=1", "a=2"]])
def test_assignments_without_a_meaning_are_refused(texts: list[str]) -> None:
    """No value is dropped silently."""
    with pytest.raises(InputError, match="--set"):
        settings_from_assignments(texts)


def test_settings_are_laid_over_the_defaults() -> None:
    """What is not named keeps its default, level by level; another kind takes nothing over from the default kind."""
    default = _config("pseudo_labels")
    changed = _config("pseudo_labels", "teacher.network.features=24", "student.schedule.warmup=0.2", "alpha=[0.1, 1]")
    assert changed.teacher.network == default.teacher.network | {"features": 24}
    assert changed.student.schedule == default.student.schedule.model_copy(update={"warmup": 0.2})
    assert changed.student.network == default.student.network and changed.alphas == (0.1, 1.0)
    other = _config("pseudo_labels", "teacher.network.kind=cnn_2d")
    assert other.teacher.network["kind"] == "cnn_2d" and "features" not in other.teacher.network
    assert _config("slices_2d", "learning_rate=1e-3").learning_rate == 1e-3


@pytest.mark.parametrize(
    ("strategy", "assignment", "message"),
    [
        ("slices_3d", "views=1", "unknown kind 'slices_3d' in strategies; did you mean 'slices_2d'"),
        ("slices_2d", "viws=1", "unknown key viws; did you mean views"),
        ("pseudo_labels", "teacher.schedule.warmpu=1", r"unknown key teacher\.schedule\.warmpu; did you mean warmup"),
        ("slices_2d", "network.featurs=8", r"unknown key network\.featurs; did you mean features"),
        ("pseudo_labels", "teacher.network.featurs=8", r"unknown key teacher\.network\.featurs; did you mean features"),
        ("slices_2d", "network.kind=unett", "network: unknown kind 'unett' in networks; did you mean 'unet'"),
        ("slices_2d", "network.features=none", r"network\.features: .*\(got 'none'\)"),
        ("slices_2d", "network=unet", r"network: .*\(got 'unet'\)"),
        ("slices_2d", "patch=[0, 8, 8]", "patch: patch .* must be positive"),
        ("slices_2d", "foreground=1.5", "foreground: .*less than or equal to 1"),
        ("slices_2d", "schedule.decay=linear", r"schedule\.decay"),
        ("pseudo_labels", "alpha=[0.5, 0.5]", "alpha: give one weight, or several different ones"),
        ("pseudo_labels", "alpha=-1", "alpha: give one weight"),
    ],
)
def test_a_wrong_setting_is_named(strategy: str, assignment: str, message: str) -> None:
    """With its path, what was given, and the nearest key that exists."""
    with pytest.raises(InputError, match=message) as caught:
        _config(strategy, assignment)
    assert "\n" not in str(caught.value)


def test_values_of_any_model_are_checked_by_name() -> None:
    """An experiment made from the command line is refused the same way."""
    with pytest.raises(InputError, match="the experiment: seed: "):
        checked(Experiment, {"strategy": "slices_2d", "seed": -1}, where="the experiment")
