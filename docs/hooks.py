"""Pages of the site that are made from the program itself, so that they cannot fall behind it.

``commands.md`` is what every command's ``--help`` says, ``settings.md`` what ``train --strategy KIND --help`` says.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.structure.files import File, Files

_ROLE = re.compile(r":(?:func|class|mod|meth|data|attr|exc):(<code>)")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for name, make in (("commands.md", _commands), ("settings.md", _settings)):
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Leave out the names of roles that docstrings carry."""
    return _ROLE.sub(r"\1", html)


def _commands() -> str:
    import typer

    from fewslice.cli import app

    parts = ["# Commands\n", "What `fewslice COMMAND --help` prints.\n"]
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        with group.make_context("fewslice", [], resilient_parsing=True) as parent:
            context = type(parent)(command, info_name=name, parent=parent, terminal_width=100)
            text = command.get_help(context)
        parts.append(f"## fewslice {name}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(parts)


def _settings() -> str:
    from fewslice import registry
    from fewslice.settings_help import settings_text

    parts = ["# Settings of the strategies\n", "What `fewslice train --strategy KIND --help` prints.\n"]
    parts += [f"## {kind}\n\n```text\n{settings_text(kind)}\n```\n" for kind in registry.names("strategies")]
    return "\n".join(parts)
