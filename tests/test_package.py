from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fewslice

HEAVY = ("torch", "dask", "zarr", "lightning_fabric", "napari", "PyQt5", "PyQt6", "PySide2", "PySide6", "qtpy")


def loaded_by(code: str) -> set[str]:
    """Names of all modules that a fresh interpreter has loaded after `code`."""
    report = f"{code}\nimport sys\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split("LOADED")[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import fewslice",
        "import fewslice; dir(fewslice); fewslice.__version__",
        "import fewslice.annotation, fewslice.metrics, fewslice.synthesis, fewslice.cli",
        "from fewslice.registry import names; names('strategies'); names('formats'); names('synthesis.simulators')",
    ],
)
def test_importing_loads_nothing_heavy(code):
    assert not loaded_by(code) & set(HEAVY)


@pytest.mark.parametrize("module", ["fewslice.io", "fewslice.report"])
def test_modules_that_read_files_load_no_torch(module):
    assert not loaded_by(f"import {module}") & {"torch", "lightning_fabric", "dask"}


def test_the_check_for_heavy_modules_can_fail():
    assert "torch" in loaded_by("import fewslice.losses")


def test_help_loads_nothing_heavy():
    code = (
        "from fewslice.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not loaded_by(code) & {*HEAVY, "scipy", "skimage", "matplotlib", "plotly"}


def test_every_public_name_exists_and_verbs_are_callable():
    assert fewslice.__all__ == sorted(fewslice.__all__)
    for name in fewslice.__all__:
        value = getattr(fewslice, name)
        assert isinstance(value, str) if name == "__version__" else callable(value), name
    assert set(fewslice.__all__) <= set(dir(fewslice))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(fewslice, "segmentate")


def test_a_verb_keeps_its_name_when_the_room_of_that_name_is_imported():
    code = (
        "import fewslice, fewslice.report, fewslice.demo; assert callable(fewslice.report) and callable(fewslice.demo)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    from fewslice.report import __name__ as room

    assert room == "fewslice.report"


def test_every_module_declares_what_is_public_and_it_exists():
    """Read, not imported: every name in a module's ``__all__`` is defined in it."""
    package = Path(fewslice.__file__).parent
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        listed: list[str] = []
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        defined = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                defined |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
                if "__all__" in {t.id for t in targets if isinstance(t, ast.Name)} and node.value is not None:
                    listed = ast.literal_eval(node.value)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
        if path == package / "__init__.py":
            continue  # its names are loaded lazily; the test above gets every one of them
        assert set(listed) <= defined, (
            f"{path.relative_to(package)} lists {set(listed) - defined} but does not define it"
        )
