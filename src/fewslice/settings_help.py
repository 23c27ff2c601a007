"""The settings of a kind as text, derived from its Config: nothing is spelled twice."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator

from pydantic import BaseModel

from fewslice import registry
from fewslice.networks import kinds

__all__ = ["meanings", "settings_text"]

_WIDTH = 110


def settings_text(kind: str, room: str = "strategies") -> str:
    """Return the settings of a strategy, or of a kind of another room: each with its default, and what it means.

    Raises
    ------
    InputError
        For an unknown kind.
    """
    module = registry.load(room, kind)
    lines = [(inspect.getdoc(module) or kind).strip(), "", "Settings, changed with --set key.path=value:", ""]
    lines += _rows(module.Config(), "")
    return "\n".join(lines)


def _rows(config: BaseModel, prefix: str) -> Iterator[str]:
    known = meanings(type(config))
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{prefix}{name}.")
        elif name == "network":
            yield from _network_rows(value, f"{prefix}{name}.")
        else:
            yield f"  {prefix}{name} = {_shown(value)}"
            yield from _explained(field.description or known.get(name, ""))


def _network_rows(settings: dict[str, object], prefix: str) -> Iterator[str]:
    kind = str(settings["kind"])
    yield f"  {prefix}kind = {kind}"
    yield from _explained(f"one of {', '.join(kinds('segmentation'))}; settings of {kind}:")
    config = registry.load("networks", kind).Config(**{k: v for k, v in settings.items() if k != "kind"})
    yield from _rows(config, prefix)


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_shown(part) for part in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explained(text: str) -> list[str]:
    return textwrap.wrap(text.replace("``", ""), _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Read the Attributes section of the docstrings of a model and its parents."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        lines = (inspect.getdoc(parent) or "").splitlines() if parent.__doc__ else []
        if "Attributes" not in lines:
            continue
        name = ""
        for line in lines[lines.index("Attributes") + 2 :]:
            if line and not line.startswith(" "):
                name = line.strip()
            elif line.strip() and name:
                for each in name.split(", "):
                    found[each] = (found.get(each, "") + " " + line.strip()).strip()
    return found
