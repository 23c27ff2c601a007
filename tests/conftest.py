"""Settings shared by all tests: where real data lie, how many threads, and that nothing skips in CI."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything loads OpenMP: two test processes with as many threads each as there are cores are far slower than one.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data",
        metavar="DIR",
        default=None,
        help="folder with the real data sets (default: $FEWSLICE_DATA, else ../shared/data beside the repository)",
    )


def data_folder(config: pytest.Config) -> Path:
    """Where real data are expected, whether they exist or not."""
    chosen = config.getoption("--data") or os.environ.get("FEWSLICE_DATA")
    return Path(chosen).expanduser().resolve() if chosen else ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """Folder with the real data sets; the test skips where it is absent and fails when CI is set."""
    folder = data_folder(request.config)
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; pass --data DIR or set FEWSLICE_DATA to run this test")
    return folder


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if in_ci() and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"would be skipped, but nothing may skip in CI: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if in_ci() and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"would be skipped, but nothing may skip in CI: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
