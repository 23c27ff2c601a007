"""What every command of the shell has: an example of its own, and one JSON object where it is asked for one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from fewslice import io
from fewslice.cli import app, main
from fewslice.volume import Volume

GROUP: Any = typer.main.get_command(app)


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_every_command_shows_an_example_with_options_that_it_has(verb: str) -> None:
    command = GROUP.commands[verb]
    with GROUP.make_context("fewslice", [], resilient_parsing=True) as parent:
        text = command.get_help(type(parent)(command, info_name=verb, parent=parent, terminal_width=200))
    example = re.search(r"Example: fewslice (\S+)(.*)", text)
    assert example is not None and example[1] == verb
    known = {name for parameter in command.params for name in parameter.opts}
    assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", example[2])) <= known
    assert "--json" in known or verb == "demo"


def test_the_list_of_commands_cuts_no_description_off() -> None:
    with GROUP.make_context("fewslice", [], resilient_parsing=True) as context:
        listed = " ".join(GROUP.get_help(context).split()).partition(" Commands: ")[2]
    assert "..." not in listed and "as ONNX or as a bioimage.io package" in listed
    for verb, command in GROUP.commands.items():
        assert f"{verb} {command.short_help}" in listed and command.short_help.endswith(".")


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    io.save_volume(tmp_path / "a.tif", Volume.from_array(np.zeros((2, 8, 8), np.uint8), (1, 1, 1)))
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(tmp_path / "a.tif"), str(tmp_path / "b.ome.zarr"), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(tmp_path / "b.ome.zarr")}
    assert (tmp_path / "b.ome.zarr").is_dir()


@pytest.mark.skipif(os.name == "nt", reason="completion of PowerShell works in another way")
def test_the_shell_completes_commands() -> None:
    found = shutil.which("fewslice", path=str(Path(sys.executable).parent))
    assert found is not None, "fewslice is not installed beside this Python; run make install"
    asked = {"_FEWSLICE_COMPLETE": "complete_bash", "COMP_WORDS": "fewslice me", "COMP_CWORD": "1"}
    done = subprocess.run([found], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["measure", "mesh"], done.stderr
