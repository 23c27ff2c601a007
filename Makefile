# Needs Python 3.11 or newer and make, nothing else. Choose another interpreter with `make install PYTHON=python3.12`.

ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif

PY := $(BIN)/python
STAMP := .venv/installed.stamp
PIP := $(PY) -m pip --disable-pip-version-check
# Arguments for pytest, for example: make test PYTEST_ARGS="-x tests/test_registry.py"
PYTEST_ARGS ?= -n 2

.PHONY: install demo test lint docs format clean

install: $(STAMP)

# The constraints come in twice: torch alone first, so that nothing else can pull in another build of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('fewslice needs Python 3.11 or newer, this is ' + sys.version.split()[0] + '; pass PYTHON=... to make')"
	$(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e ".[test]"
	$(PY) -c "import pathlib; pathlib.Path('$(STAMP)').touch()"

demo: install
	$(BIN)/fewslice demo -o demo

test: lint
	$(PY) -m pytest $(PYTEST_ARGS)

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(BIN)/lint-imports

docs: install
	$(PY) -m mkdocs build --strict --quiet

format: install
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	$(PYTHON) -c "import shutil; [shutil.rmtree(p, ignore_errors=True) for p in ('.venv', 'demo', 'site', 'build', 'dist', '.mypy_cache', '.ruff_cache', '.pytest_cache', '.hypothesis', '.import_linter_cache')]"
