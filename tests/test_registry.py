from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from fewslice import registry
from fewslice.errors import InputError


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A room 'things' with the kinds 'round' and 'square' (a folder), in a package folder of its own."""
    folder = tmp_path / "things"
    (folder / "square").mkdir(parents=True)
    for name in ("__init__.py", "round.py", "_shared.py", "square/__init__.py", "notes.txt"):
        (folder / name).write_text("raise RuntimeError('imported')\n")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    return "things"


def provide(monkeypatch, *points):
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [EntryPoint(name, value, group) for name, value in points]
    )


def test_names_are_file_names_and_nothing_is_imported(room):
    assert registry.names(room) == ["round", "square"]


def test_a_kind_of_another_package_is_listed_and_loaded(room, monkeypatch):
    provide(monkeypatch, ("oval", "json.decoder"))
    assert registry.names(room) == ["oval", "round", "square"]
    assert registry.load(room, "oval").__name__ == "json.decoder"


def test_an_unknown_kind_names_the_nearest_one_and_all(room):
    with pytest.raises(InputError, match=r"unknown kind 'rond' in things; did you mean 'round'\?.*round, square"):
        registry.load(room, "rond")


def test_an_unknown_kind_without_a_near_one_has_no_suggestion(room):
    with pytest.raises(InputError) as caught:
        registry.load(room, "xyz")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("kind", ["_shared", "__init__", "square.inner", "notes", "..round"])
def test_what_is_no_kind_is_not_imported(room, kind):
    with pytest.raises(InputError, match="unknown kind"):
        registry.load(room, kind)


def test_a_kind_that_two_packages_provide_is_refused(room, monkeypatch):
    provide(monkeypatch, ("round", "json.decoder"))
    with pytest.raises(InputError, match=r"provided by fewslice and json\.decoder"):
        registry.load(room, "round")
    assert registry.names(room) == ["round", "square"]


def test_an_unknown_room_is_refused(room):
    with pytest.raises(InputError, match="no room 'castles'"):
        registry.names("castles")


def test_listing_the_real_networks_loads_no_torch():
    code = (
        "import sys; from fewslice.registry import names; print(*names('networks')); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"cnn_2d", "unet"} <= set(done.stdout.split())


def test_a_kind_is_checked_without_import() -> None:
    registry.check("networks", "unet")
    with pytest.raises(InputError, match="did you mean 'unet'"):
        registry.check("networks", "unett")
