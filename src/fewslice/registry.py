"""Kind → component: found by file name or entry point, without importing what is not asked for.

A *room* is a subpackage that holds one component per file (``networks``, ``formats``, ``strategies``,
``synthesis.simulators``); the file's name is the *kind*. Other packages add kinds through the entry-point group
``fewslice.<room>``. Files whose name starts with an underscore are not kinds.
"""

from __future__ import annotations

import ast
import difflib
import pkgutil
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from fewslice.errors import InputError

__all__ = ["check", "constant", "load", "names"]


def names(room: str) -> list[str]:
    """List the kinds of a room without importing any of them.

    Parameters
    ----------
    room
        Name of the room below ``fewslice``, such as ``"networks"`` or ``"synthesis.simulators"``.

    Returns
    -------
    list of str
        Kinds in alphabetical order, our own and those of other packages.

    Raises
    ------
    InputError
        If there is no such room.

    Examples
    --------
    >>> from fewslice.registry import names
    >>> "unet" in names("networks")
    True
    """
    return sorted({*_own(room), *(point.name for point in _foreign(room))})


def load(room: str, kind: str) -> ModuleType:
    """Import the component of a kind.

    Parameters
    ----------
    room
        Name of the room below ``fewslice``.
    kind
        Name of the kind, as listed by :func:`names`.

    Returns
    -------
    module
        What the room's documentation says a component exposes, for example ``Config`` and ``build`` for a network.

    Raises
    ------
    InputError
        If there is no such room or kind, or if several packages provide the kind.
    """
    own = kind in _own(room)
    foreign = [point for point in _foreign(room) if point.name == kind]
    if own + len(foreign) > 1:
        providers = ["fewslice"] * own + [point.value for point in foreign]
        raise InputError(
            f"{room} kind {kind!r} is provided by {' and '.join(providers)}; uninstall all but one of them"
        )
    if own:
        return import_module(f"fewslice.{room}.{kind}")
    if foreign:
        component: ModuleType = foreign[0].load()
        return component
    raise _unknown(room, kind)


def constant(room: str, kind: str, name: str) -> Any:
    """Read a constant that a kind's module may define; our own modules are read, not imported.

    Parameters
    ----------
    room, kind
        As for :func:`load`.
    name
        Of the constant, assigned once to a literal at the module's top level.

    Returns
    -------
    object
        Its value, or None where the module does not define it.

    Examples
    --------
    >>> constant("strategies", "synthetic", "ANNOTATION")
    'optional'
    """
    if kind not in _own(room):
        return getattr(load(room, kind), name, None)
    path = Path(__file__).parent.joinpath(*room.split("."), f"{kind}.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    return None


def check(room: str, kind: str) -> None:
    """Refuse an unknown kind, importing nothing.

    Raises
    ------
    InputError
        If there is no such room or kind.
    """
    if kind not in names(room):
        raise _unknown(room, kind)


def _unknown(room: str, kind: str) -> InputError:
    known = names(room)
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown kind {kind!r} in {room}; {hint}the kinds are {', '.join(known) or 'none'}")


def _own(room: str) -> list[str]:
    folder = Path(__file__).parent.joinpath(*room.split("."))
    if not (folder / "__init__.py").is_file():
        raise InputError(f"there is no room {room!r} in fewslice; expected a subpackage such as 'networks'")
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")]


def _foreign(room: str) -> list[EntryPoint]:
    return list(entry_points(group=f"fewslice.{room}"))
