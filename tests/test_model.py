"""A model on disk and in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.model import Model, NetworkStep, build_network, in_plane_views, model_hash, undo_view


def make(
    dims: int = 3, *, channels: int = 2, classes: int = 1, views: int = 1, plane_axis: int = 0, seed: int = 0
) -> Model:
    """Make an untrained model with batch statistics that are not trivial."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"kind": "unet", "dims": dims, "features": 4, "depth": 2}
    network = build_network(settings, channels, classes + 1)
    step = NetworkStep(
        network=settings,
        in_channels=channels,
        out_channels=classes + 1,
        views=views,
        plane_axis=plane_axis,  # type: ignore[arg-type]
    )
    return Model(
        [step],
        [network],
        normalisation=Normalisation("robust", (10.0,) * channels, (5.0,) * channels),
        class_values=tuple(range(1, classes + 1)),
        threshold=0.4,
        voxel_size_um=(2.0, 1.0, 1.0),
        patch=(8, 16, 16),
        provenance={"strategy": "test"},
    )


def image(channels: int = 2, shape: tuple[int, ...] = (9, 14, 18), seed: int = 0) -> NDArray[np.uint8]:
    """Draw an image."""
    return np.random.default_rng(seed).integers(0, 255, (channels, *shape), dtype=np.uint8)


def test_saving_and_loading_gives_the_same_model(tmp_path: Path) -> None:
    """Probabilities, settings and hash survive; saving twice gives the same bytes."""
    model = make()
    model.save(tmp_path / "a")
    loaded = Model.load(tmp_path / "a")
    np.testing.assert_array_equal(model.probabilities(image()), loaded.probabilities(image()))
    assert (loaded.threshold, loaded.voxel_size_um, loaded.halo) == (0.4, (2.0, 1.0, 1.0), model.halo)
    loaded.save(tmp_path / "b")
    assert model_hash(tmp_path / "a") == model_hash(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"colour": 1}, "colour"),
        ({"threshold": "high"}, "threshold"),
        ({"weights_sha256": "0" * 64}, "damaged"),
    ],
)
def test_models_that_cannot_be_trusted_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A newer version, unknown or wrong keys and damaged weights are named."""
    make().save(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        Model.load(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """Neither a folder without model nor one without weights ends in a traceback."""
    with pytest.raises(InputError, match=r"model\.json does not exist"):
        Model.load(tmp_path)
    make().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        Model.load(tmp_path)


@pytest.mark.parametrize("dims", [2, 3])
def test_probabilities_have_the_image_s_extent_whatever_the_divisor(dims: int) -> None:
    """Extents that are no multiples are padded at the far end and cropped; values lie in 0–1."""
    p = make(dims, classes=2).probabilities(image())
    assert p.shape == (2, 9, 14, 18) and p.dtype == np.float32
    assert p.min() >= 0 and p.sum(0).max() <= 1 + 1e-5


def test_another_number_of_channels_is_refused() -> None:
    """The message says both numbers."""
    with pytest.raises(InputError, match=r"has 3 channels.*trained on 2"):
        make().probabilities(image(3))


def test_a_2d_model_sees_each_plane_alone() -> None:
    """Planes predicted one by one equal the stack; along y too."""
    for axis in (0, 1):
        model = make(2, plane_axis=axis)
        whole = model.probabilities(image(shape=(8, 8, 16)), bfloat16=False)
        for index in range(8):
            part = np.take(image(shape=(8, 8, 16)), [index], axis=axis + 1)
            np.testing.assert_allclose(
                model.probabilities(part, bfloat16=False), np.take(whole, [index], axis=axis + 1), atol=1e-5
            )


@pytest.mark.parametrize("views", [1, 4, 8])
def test_views_are_undone_and_all_differ(views: int) -> None:
    """Undoing a view gives the array back, and an asymmetric array looks different in each."""
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    made = in_plane_views(x, views)
    assert len(made) == views
    assert all(torch.equal(undo_view(view, by), x) for view, by in made)
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert len({tuple(v.flatten().tolist()) for v, _ in in_plane_views(square, views)}) == views


def test_with_all_views_prediction_commutes_with_flips_and_rotation() -> None:
    """The mean over the 8 views of a rotated image is the rotated mean."""
    model = make(3, views=8)
    x = image(shape=(4, 16, 16))
    p = model.probabilities(x, bfloat16=False)
    turned = model.probabilities(np.rot90(x, axes=(2, 3)).copy(), bfloat16=False)
    np.testing.assert_allclose(turned, np.rot90(p, axes=(2, 3)), atol=1e-5)
    plain = make(3, views=1)
    other = plain.probabilities(np.rot90(x, axes=(2, 3)).copy(), bfloat16=False)
    assert np.abs(other - np.rot90(plain.probabilities(x, bfloat16=False), axes=(2, 3))).max() > 1e-3


def test_right_angle_views_are_left_out_where_pixels_are_not_square() -> None:
    """A 2D model of z-x planes, with z twice x, gives with 8 views what it gives with 4."""
    eight, four = make(2, views=8, plane_axis=1), make(2, views=4, plane_axis=1)
    x = image(shape=(16, 4, 16))
    np.testing.assert_array_equal(eight.probabilities(x, bfloat16=False), four.probabilities(x, bfloat16=False))


def test_loading_runs_no_code_from_the_file(tmp_path: Path) -> None:
    """A pickle in the place of the weights is refused, not opened."""
    make().save(tmp_path)
    torch.save({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="damaged"):
        Model.load(tmp_path)
