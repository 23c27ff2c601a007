"""An experiment: everything that decides what training makes, as one file that a person can read and run again."""

from __future__ import annotations

import hashlib
import json
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fewslice import registry
from fewslice.errors import InputError
from fewslice.files import write_atomic

if TYPE_CHECKING:
    from fewslice.data.samples import Sample

__all__ = [
    "VERSION",
    "Experiment",
    "checked",
    "merged",
    "open_inputs",
    "read_experiment",
    "settings_from_assignments",
    "strategy_config",
]

VERSION = 1

M = TypeVar("M", bound=BaseModel)


class Experiment(BaseModel):
    """What to train on what.

    Attributes
    ----------
    version
        Of this file's layout.
    strategy
        Its kind.
    settings
        Settings of that strategy; what is not named has its default.
    images, labels
        Paths or quoted globs; labels pair with images by file stem or by order.
    axes
        Order of the axes in the image files, such as ``zcyx``; None when the files or the shapes tell.
    channels
        Channels to use, 0-based; None for all.
    voxel_size_um
        (z, y, x) in µm; None for what the files say.
    label_kind
        ``classes`` or ``instances``; None when the values tell.
    planes
        Annotated planes, such as ``0:160:5`` or ``y=3,9``; empty for all.
    background, unlabelled
        Values in the label files with that meaning.
    validation
        ``auto``: hold some annotation out where there is enough; ``none``: train on all of it.
    seed
        Of everything drawn.
    steps
        Steps by stage, or one number for each stage; None when minutes are given.
    minutes
        Budget of the whole strategy, turned into steps before training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    strategy: str
    settings: dict[str, Any] = Field(default_factory=dict)
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    axes: str | None = None
    channels: tuple[int, ...] | None = None
    voxel_size_um: tuple[float, float, float] | None = None
    label_kind: Literal["classes", "instances"] | None = None
    planes: tuple[str, ...] = ()
    background: int | None = None
    unlabelled: int | str | None = None
    validation: Literal["auto", "none"] = "auto"
    seed: int = Field(0, ge=0)
    steps: dict[str, int] | int | None = None
    minutes: float | None = Field(None, gt=0, allow_inf_nan=False)

    @field_validator("version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value > VERSION:
            raise ValueError(f"this file has version {value}, this fewslice reads up to {VERSION}; update fewslice")
        return value

    @field_validator("steps")
    @classmethod
    def _positive_steps(cls, value: dict[str, int] | int | None) -> dict[str, int] | int | None:
        counts = value.values() if isinstance(value, dict) else [] if value is None else [value]
        if any(count < 1 for count in counts):
            raise ValueError("steps must be at least 1")
        return value

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.steps is not None and self.minutes is not None:
            raise ValueError("steps and minutes exclude each other; give one of them")
        return self

    def identity(self) -> str:
        """Return a hash of the experiment, the same for the same request in whatever order it was written."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the experiment as YAML."""
        write_atomic(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises
    ------
    InputError
        If the file is missing, is not YAML, or has unknown or wrong keys; the first one is named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give an experiment file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file; write one as `fewslice train` leaves it in its run") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold keys such as strategy and images, found {type(content).__name__}")
    return checked(Experiment, content, where=str(path))


def open_inputs(experiment: Experiment) -> list[Sample]:
    """Open the images and labels that an experiment names; see :func:`fewslice.data.samples.open_samples`."""
    from fewslice.data.samples import open_samples

    return open_samples(
        experiment.images,
        experiment.labels,
        axes=experiment.axes,
        channels=experiment.channels,
        voxel_size_um=experiment.voxel_size_um,
        label_kind=experiment.label_kind or registry.constant("strategies", experiment.strategy, "LABEL_KIND"),
        planes=experiment.planes,
        background=experiment.background,
        unlabelled=experiment.unlabelled,
    )


def checked(model: type[M], content: dict[str, Any], *, where: str) -> M:
    """Validate `content` against a pydantic model; the first problem becomes one sentence that names the key."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_problem(error, model, content)}") from error


def _first_problem(error: ValidationError, model: type[BaseModel], content: dict[str, Any]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_beside(model, first["loc"], content)
        near = get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(sorted(known))}"
        return f"unknown key {key}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{key}: {message} (got {first['input']!r})" if key else message


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...], content: dict[str, Any]) -> list[str]:
    """List the keys known where `location` ends; under ``network`` they are those of the network's kind."""
    current: Any = model
    value: Any = content
    for part in location[:-1]:
        field = getattr(current, "model_fields", {}).get(str(part))
        current = field.annotation if field is not None else None
        value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, dict) and "kind" in value and not hasattr(current, "model_fields"):
            current = registry.load(f"{part}s", str(value["kind"])).Config
    return list(getattr(current, "model_fields", {}))


def strategy_config(experiment: Experiment) -> BaseModel:
    """Return the checked settings of the experiment's strategy.

    Raises
    ------
    InputError
        For an unknown strategy, an unknown key or a value out of range.
    """
    module = registry.load("strategies", experiment.strategy)
    settings = merged(module.Config().model_dump(mode="json"), experiment.settings)
    config: BaseModel = checked(module.Config, settings, where=f"settings of {experiment.strategy}")
    return config


def merged(defaults: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Lay `changes` over `defaults`, level by level; a component of another kind keeps nothing of the default's."""
    if "kind" in changes and changes["kind"] != defaults.get("kind"):
        return dict(changes)
    out = dict(defaults)
    for key, value in changes.items():
        known = defaults.get(key)
        out[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return out


def settings_from_assignments(assignments: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Turn ``key.path=value`` texts into nested settings; values are read as YAML.

    Examples
    --------
    >>> settings_from_assignments(["teacher.network.kind=cnn_2d", "alpha=[0.1, 0.5]"])
    {'teacher': {'network': {'kind': 'cnn_2d'}}, 'alpha': [0.1, 0.5]}
    """
    out: dict[str, Any] = {}
    for text in assignments:
        path, sign, value = text.partition("=")
        if not sign or not path.strip():
            raise InputError(f"--set {text!r} must read key.path=value, for example --set network.features=24")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {text!r}: {value!r} is not a value; write numbers, words or [lists]") from error
        node = out
        *parents, last = (part.strip() for part in path.split("."))
        if not all((*parents, last)):
            raise InputError(f"--set {text!r} has an empty key; write key.path=value")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise InputError(f"--set {text!r}: {part} was given a plain value before; set one or the other")
        if isinstance(node.get(last), dict):
            raise InputError(f"--set {text!r}: {last} was given settings of its own before; set one or the other")
        node[last] = parsed
    return out
