"""The settings of every strategy and network as rows of a form, derived from their Configs: nothing is spelled twice.

Strategies load torch, which takes seconds and memory, so that a window asks a process of its own for the rows:
``python -m fewslice.napari.settings_form`` prints them as JSON and :func:`parse_forms` reads them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from fewslice import networks, registry
from fewslice.settings_help import meanings

__all__ = ["Forms", "Setting", "command", "forms", "parse_forms"]

_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """One row.

    Attributes
    ----------
    key
        Dotted path, as ``--set`` takes it.
    default
        Its value as YAML.
    meaning
        What it is, with its unit and limits.
    choices
        The only values it can have; empty if there are others.
    """

    key: str
    default: str
    meaning: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forms:
    """The rows of every strategy, and of every network, whose keys follow a strategy's ``network.``; and summaries."""

    strategies: Mapping[str, tuple[Setting, ...]]
    networks: Mapping[str, tuple[Setting, ...]]
    summaries: Mapping[str, str]


def forms() -> Forms:
    """Return the rows of every kind; imports all strategies and networks, and torch with them."""
    strategies = {kind: registry.load("strategies", kind) for kind in registry.names("strategies")}
    networks = {kind: registry.load("networks", kind) for kind in registry.names("networks")}
    return Forms(
        {kind: tuple(_rows(module.Config(), "")) for kind, module in strategies.items()},
        {kind: tuple(_rows(module.Config(), "")) for kind, module in networks.items()},
        {kind: (module.__doc__ or kind).strip().splitlines()[0] for kind, module in strategies.items()},
    )


def _rows(config: BaseModel, prefix: str) -> Iterator[Setting]:
    known = meanings(type(config))
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        meaning = (field.description or known.get(name, "")).replace("``", "")
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{prefix}{name}.")
        elif name == "network":
            key, purpose = f"{prefix}{name}.kind", networks.purpose(str(value["kind"]))
            yield Setting(key, str(value["kind"]), meaning, tuple(networks.kinds(purpose)))
            module = registry.load("networks", str(value["kind"]))
            given = {k: v for k, v in value.items() if k != "kind"}
            yield from _rows(module.Config(**given), f"{prefix}{name}.")
        else:
            yield Setting(f"{prefix}{name}", _yaml(value), " ".join((meaning, _limits(field))).strip(), _choices(field))


def _choices(field: Any) -> tuple[str, ...]:
    if field.annotation is bool:
        return ("true", "false")
    if get_origin(field.annotation) is Literal:
        return tuple(_yaml(choice) for choice in get_args(field.annotation))
    return ()


def _limits(field: Any) -> str:
    found = [
        f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in _SIGNS.items() if hasattr(m, name)
    ]
    return f"({', '.join(found)})" if found else ""


def _yaml(value: Any) -> str:
    """Write a value as one line that YAML reads back."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return value if isinstance(value, str) else json.dumps(value)


def command() -> list[str]:
    """Return the command that prints all forms."""
    return [sys.executable, "-m", "fewslice.napari.settings_form"]


def parse_forms(text: str) -> Forms:
    """Read what :func:`command` printed."""
    content = json.loads(text)

    def rows(of: dict[str, Any]) -> dict[str, tuple[Setting, ...]]:
        return {
            kind: tuple(Setting(r["key"], r["default"], r["meaning"], tuple(r["choices"])) for r in found)
            for kind, found in of.items()
        }

    return Forms(rows(content["strategies"]), rows(content["networks"]), content["summaries"])


if __name__ == "__main__":
    print(json.dumps(asdict(forms())))
