"""The settings of a kind as text, derived from its Config: nothing is spelled twice."""

from __future__ import annotations

import inspect

from pydantic import BaseModel

from fewslice import registry

__all__ = ["settings_text"]


def settings_text(kind: str) -> str:
    """Return the settings of a strategy, one per line with type and default, and what they mean.

    Raises
    ------
    InputError
        For an unknown strategy.
    """
    module = registry.load("strategies", kind)
    lines = [(inspect.getdoc(module) or kind).strip(), "", "Settings, changed with --set key.path=value:", ""]
    lines += _rows(module.Config, "")
    return "\n".join(lines)


def _rows(model: type[BaseModel], prefix: str) -> list[str]:
    meaning = _meanings(model)
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        nested = type(default) if isinstance(default, BaseModel) else None
        if nested is not None:
            rows += _rows(nested, f"{prefix}{name}.")
            continue
        shown = default.model_dump() if isinstance(default, BaseModel) else default
        rows.append(f"  {prefix}{name} = {shown}")
        if name in meaning:
            rows.append(f"      {meaning[name]}")
    return rows


def _meanings(model: type[BaseModel]) -> dict[str, str]:
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
