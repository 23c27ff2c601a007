"""Sample data: the simulated two-photon volume of ``fewslice demo``, with its exact labels to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewslice.napari.layers import layer_options
from fewslice.napari.readers import contrast
from fewslice.synthesis.simulators import two_photon_neurons
from fewslice.volume import Volume

__all__ = ["two_photon_sample"]


def two_photon_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Simulate 40 planes of 160 x 160 pixels with somata: the image, and its instances, hidden."""
    config = two_photon_neurons.Config(shape=(40, 160, 160))
    made = two_photon_neurons.simulate(config, np.random.default_rng(0))
    options = layer_options(Volume.from_array(made.image, made.voxel_size_um))
    somata = np.where(made.semantic == 1, made.instances, 0).astype(np.uint16)
    images = [
        (
            planes,
            options
            | {
                "name": f"phantom {name}",
                "contrast_limits": contrast(planes),
                "colormap": colour,
                "blending": "additive",
                "visible": name == "somata",
            },
            "image",
        )
        for planes, name, colour in zip(made.image, made.channel_names, ("gray", "magenta"), strict=True)
    ]
    return [*images, (somata, options | {"name": "phantom truth", "visible": False}, "labels")]
