"""fewslice: segment whole microscopy volumes from a few labelled slices.

The public interface is the verbs. They are loaded on first use, so that ``import fewslice`` stays cheap.

Examples
--------
>>> import fewslice
>>> {'train', 'predict', 'segment', 'evaluate'} <= set(fewslice.__all__)
True
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewslice.demo import demo
    from fewslice.workflow import (
        convert,
        evaluate,
        export,
        info,
        measure,
        mesh,
        plan,
        predict,
        report,
        run,
        segment,
        simulate,
        train,
        verify,
    )

__all__ = [
    "__version__",
    "convert",
    "demo",
    "evaluate",
    "export",
    "info",
    "measure",
    "mesh",
    "plan",
    "predict",
    "report",
    "run",
    "segment",
    "simulate",
    "train",
    "verify",
]

__version__ = "0.1.0"

_VERBS = frozenset(__all__) - {"__version__"}


class _Package(ModuleType):
    """The package as an object: a verb keeps its name also when a room of the same name is imported.

    Importing the room ``fewslice.report`` or ``fewslice.demo`` makes the import system assign the module to the name
    where the verb belongs. ``from fewslice.report import ...`` does not look at the attribute and works as ever.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _VERBS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    """Load a verb on first use."""
    if name not in _VERBS:
        raise AttributeError(f"module 'fewslice' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module("fewslice.demo" if name == "demo" else "fewslice.workflow"), name)


def __dir__() -> list[str]:
    """List the verbs also before they are loaded."""
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
