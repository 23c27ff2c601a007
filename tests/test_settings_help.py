"""What ``train --strategy KIND --help`` prints can be typed after ``--set``."""

from __future__ import annotations

import pytest

from fewslice import registry
from fewslice.errors import InputError
from fewslice.experiment import Experiment, settings_from_assignments, strategy_config
from fewslice.settings_help import settings_text


@pytest.mark.parametrize("kind", registry.names("strategies"))
def test_every_printed_setting_is_the_default_and_is_accepted(kind: str) -> None:
    """All lines together, given as settings, make the default configuration; none is missing."""
    lines = settings_text(kind).split("--set key.path=value:")[1].splitlines()
    assignments = [line.strip().replace(" = ", "=", 1) for line in lines if line.startswith("  ") and line[2] != " "]
    config = strategy_config(Experiment(strategy=kind, settings=settings_from_assignments(assignments)))
    assert config == registry.load("strategies", kind).Config()
    named = {a.partition("=")[0] for a in assignments}
    assert any(n.endswith("network.features") for n in named) and any(n.endswith("learning_rate") for n in named)
    assert not any("Undefined" in a for a in assignments)


def test_an_unknown_strategy_is_refused() -> None:
    """With the nearest kind."""
    with pytest.raises(InputError, match="slices_2d"):
        settings_text("slice_2d")
