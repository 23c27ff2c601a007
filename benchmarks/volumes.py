"""What the benchmarks of size and of faults predict: a light network, and volumes that take no disk.

The network is not trained: neither time nor bytes depend on what it has learned.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command", "light_model", "sparse_volume"]

_CHUNK = (64, 128, 128)
VOXEL_SIZE_UM = (1.0, 1.0, 1.0)


def command(*arguments: str | Path) -> list[str]:
    """Return the shell's command for this Python."""
    return [sys.executable, "-c", "from fewslice.cli import main; main()", *map(str, arguments)]


def light_model(folder: Path, *, features: int = 4, depth: int = 2) -> None:
    """Save an untrained 3D U-Net."""
    import torch

    from fewslice.data.normalisation import Normalisation
    from fewslice.model import Model, NetworkStep, build_network

    torch.manual_seed(0)
    settings = {"kind": "unet", "dims": 3, "features": features, "depth": depth}
    Model(
        [NetworkStep(network=settings, in_channels=1, out_channels=2)],
        [build_network(settings, 1, 2)],
        normalisation=Normalisation("robust", (100.0,), (40.0,)),
        class_values=(1,),
        voxel_size_um=VOXEL_SIZE_UM,
        halo=(4, 8, 8),
    ).save(folder)


def sparse_volume(path: Path, shape: Sequence[int], *, every: int = 16) -> None:
    """Write an OME-Zarr image of noise in one of `every` chunks; the others are not stored and read as 0."""
    import numpy as np

    from fewslice import io
    from fewslice.geometry import BlockGrid

    store = io.create_output(path, shape=shape, channel_names=["noise"], voxel_size_um=VOXEL_SIZE_UM, chunks=_CHUNK)
    rng = np.random.default_rng(0)
    for number, block in enumerate(BlockGrid(store.shape, store.unit, (0, 0, 0), (1, 1, 1))):
        if number % every == 0:
            store.write(block.write, rng.integers(0, 255, (1, *block.write.shape), dtype=np.uint8))
