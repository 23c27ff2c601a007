"""Stored predictions to segment, and how partitions are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io
from fewslice.blocks.record import open_record
from fewslice.geometry import Box

Store = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks need not survive a power cut here, and hundreds of them take seconds on a slow disk."""
    monkeypatch.setattr("fewslice.files.os.fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Write a finished prediction: probabilities (k, z, y, x) or (z, y, x) uint8, by default one of foreground."""

    def write(
        values: np.ndarray, name: str = "OUT", *, kinds: Sequence[str] = ("probability",), voxel: Any = (1.0, 1.0, 1.0)
    ) -> Path:
        values = values if values.ndim == 4 else values[None]
        path = tmp_path / f"{name}.ome.zarr"
        names = [f"{kind}_{i}" for i, kind in enumerate(kinds)]
        facts = {"outputs": [{"name": n, "kind": k} for n, k in zip(names, kinds, strict=True)], "threshold": 0.5}
        out = io.create_output(
            path, shape=values.shape[1:], channel_names=names, voxel_size_um=voxel, dtype=np.uint8, attributes=facts
        )
        out.write(Box.of(values.shape[1:]), values)
        open_record(path / ".fewslice", "key", what=name).finish()
        return path

    return write
