"""What the benchmarks of size and of faults predict: a light network, and volumes of bright blobs that take no disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["blobs_on_noise", "command", "light_model", "sparse_volume"]

_CHUNK = (64, 128, 128)
VOXEL_SIZE_UM = (1.0, 1.0, 1.0)


def command(*arguments: str | Path) -> list[str]:
    """Return the shell's command for this Python."""
    return [sys.executable, "-c", "from fewslice.cli import main; main()", *map(str, arguments)]


def light_model(folder: Path, *, features: int = 4, depth: int = 2, channels: int = 1, steps: int = 40) -> None:
    """Save a 3D U-Net that has learned for some seconds to tell blobs from noise, the same in all channels.

    Without `steps` it is untrained, and knows of no intensity below which there is nothing.
    """
    import numpy as np
    import torch

    from fewslice.data.normalisation import Normalisation
    from fewslice.model import Model, NetworkStep, build_network

    torch.manual_seed(0)
    settings = {"kind": "unet", "dims": 3, "features": features, "depth": depth}
    normalisation = Normalisation("robust", (60.0,) * channels, (40.0,) * channels)
    network = build_network(settings, channels, 2)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        image, blobs = blobs_on_noise(rng, (16, 48, 48))
        every = np.broadcast_to(image, (channels, *image.shape)).astype(np.float32)
        seen = torch.from_numpy(normalisation.apply(every))[None]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(seen), torch.from_numpy(blobs.astype(np.int64))[None]).backward()
        optimiser.step()
    Model(
        [NetworkStep(network=settings, in_channels=channels, out_channels=2)],
        [network.eval()],
        normalisation=normalisation,
        class_values=(1,),
        voxel_size_um=VOXEL_SIZE_UM,
        halo=(4, 8, 8),
        signal=(90.0,) * channels if steps else None,
    ).save(folder)


def sparse_volume(
    path: Path, shape: Sequence[int], *, every: int = 16, channels: int = 1, dtype: str = "uint8"
) -> None:
    """Write an OME-Zarr image of noisy blobs in one of `every` chunks; the others are not stored and read as 0."""
    import numpy as np

    from fewslice import io
    from fewslice.geometry import BlockGrid

    names = [f"blobs {k}" for k in range(channels)]
    store = io.create_output(
        path, shape=shape, channel_names=names, voxel_size_um=VOXEL_SIZE_UM, chunks=_CHUNK, dtype=dtype
    )
    rng = np.random.default_rng(0)
    grid = BlockGrid(store.shape, store.unit, (0, 0, 0), (1, 1, 1))
    some = [blobs_on_noise(rng, _CHUNK)[0].astype(dtype) for _ in range(min(4, -(-len(grid) // every)))]
    for number, block in enumerate(grid):
        if number % every == 0:
            image = some[number // every % len(some)][tuple(slice(0, n) for n in block.write.shape)]
            store.write(block.write, np.broadcast_to(image, (channels, *image.shape)))


def blobs_on_noise(rng: Any, shape: tuple[int, int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw an image (z, y, x; uint8) of blobs some ten voxels across on noise, and their mask."""
    import numpy as np
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    blobs = smooth > np.quantile(smooth, 0.95)
    return (rng.integers(0, 80, shape) + 120 * blobs).astype(np.uint8), blobs
