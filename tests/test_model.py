"""A model on disk and in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from fewslice.data.neighbours import NeighbourPlanes, Neighbours
from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.model import Model, NetworkStep, build_network, make_view, model_hash, undo_view, views_of
from fewslice.volume import Volume


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


@pytest.mark.parametrize(("views", "dims", "distinct"), [(1, 2, 1), (4, 2, 4), (8, 2, 8), (8, 3, 8), (16, 3, 16)])
def test_views_are_undone_and_all_differ(views: int, dims: int, distinct: int) -> None:
    """Undoing a view gives the array back, and an asymmetric array looks different in each."""
    shape = (2, 3, 3) if dims == 3 else (3, 3)
    x = torch.arange(float(np.prod(shape))).reshape(1, 1, *shape)
    made = [(make_view(x, view), view) for view in views_of(views, dims=dims)]
    assert all(torch.equal(undo_view(shown, view), x) for shown, view in made)
    assert len({tuple(shown.flatten().tolist()) for shown, _ in made}) == distinct == len(made)


def test_views_leave_out_what_the_data_does_not_allow() -> None:
    """Planes have no z to flip; oblong pixels are not turned."""
    assert len(views_of(16, dims=2)) == 8
    assert len(views_of(16, dims=3, square=False)) == 8
    assert len(views_of(8, dims=3, square=False)) == 4
    assert not any(turn for turn, *_ in views_of(16, dims=3, square=False))


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


def chain(neighbours: Neighbours, *, axis: int = 0, median: int = 1, channels: int = 2) -> Model:
    """Make a model of two 2D networks of which the second sees the first one's planes."""
    torch.manual_seed(1)
    settings: dict[str, Any] = {"kind": "unet", "dims": 2, "features": 4, "depth": 2}
    wide = neighbours.channels(1, channels)
    steps = [
        NetworkStep(network=settings, in_channels=channels, out_channels=2, plane_axis=axis),
        NetworkStep(network=settings, in_channels=wide, out_channels=2, plane_axis=axis, gather=neighbours),
    ]
    return Model(
        steps,
        [build_network(settings, channels, 2), build_network(settings, wide, 2)],
        normalisation=Normalisation("robust", (100.0,) * channels, (50.0,) * channels),
        class_values=(1,),
        median=median,
        patch=(1, 16, 16),
    )


@pytest.mark.parametrize("neighbours", [Neighbours(planes=5, image_planes=3), Neighbours(planes=3, image_planes=0)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_chain_predicts_what_its_networks_say_one_after_the_other(neighbours: Neighbours, axis: int) -> None:
    """The second network is handed the planes that training would read from the stored probabilities of the first."""
    model = chain(neighbours, axis=axis)
    x = image(shape=(8, 8, 16))
    first = Model(model.steps[:1], model.networks[:1], normalisation=model.normalisation, class_values=(1,))
    p = first.probabilities(x, bfloat16=False)
    exact = Volume.from_array(p * 255.0)  # not rounded to bytes, so that the comparison is sharp
    seen = NeighbourPlanes(exact, Volume.from_array(x), model.normalisation, neighbours, axis)[:, :, :, :]
    alone = NetworkStep(network=model.steps[1].network, in_channels=len(seen), out_channels=2, plane_axis=axis)
    unchanged = Normalisation("none", (0.0,) * len(seen), (1.0,) * len(seen))
    second = Model([alone], model.networks[1:], normalisation=unchanged, class_values=(1,))
    expected = second.probabilities(seen, bfloat16=False)
    np.testing.assert_allclose(model.probabilities(x, bfloat16=False), expected, atol=1e-5)


def test_a_chain_has_one_halo_and_cut_blocks_agree_inside_it() -> None:
    """The halo adds up, planes included; a block with that halo around it gives the values of the whole."""
    model = chain(Neighbours(planes=5, image_planes=1), median=3)
    plain = chain(Neighbours(planes=1, image_planes=1))
    assert plain.halo == (0, plain.halo[1], plain.halo[2])
    assert model.halo == (3, *plain.halo[1:])
    x = image(shape=(14, 16, 16))
    whole = model.probabilities(x, bfloat16=False)
    part = model.probabilities(x[:, 4:12], bfloat16=False)
    np.testing.assert_allclose(part[:, 3:-3], whole[:, 7:9], atol=1e-5)
    assert np.abs(part[:, 2] - whole[:, 6]).max() > 1e-6


def test_a_threshold_between_two_networks_makes_masks() -> None:
    """The second network cannot tell probabilities on the same side of the threshold apart."""
    model = chain(Neighbours(planes=3, image_planes=0, threshold=0.5))
    with torch.no_grad():
        for p in model.networks[0].parameters():
            p.mul_(0.0)
        model.networks[0].head.bias.copy_(torch.tensor([0.0, 1.0]))  # type: ignore[union-attr, operator]
        high = model.probabilities(image(), bfloat16=False)
        model.networks[0].head.bias.copy_(torch.tensor([0.0, 3.0]))  # type: ignore[union-attr, operator]
        higher = model.probabilities(image(), bfloat16=False)
        model.networks[0].head.bias.copy_(torch.tensor([0.0, -1.0]))  # type: ignore[union-attr, operator]
        low = model.probabilities(image(), bfloat16=False)
    np.testing.assert_array_equal(high, higher)
    assert np.abs(high - low).max() > 1e-4


def test_the_median_is_taken_over_planes_with_the_ends_repeated() -> None:
    """Against SciPy's median filter, along z and along y."""
    for axis in (0, 1):
        x = image(shape=(8, 8, 16))
        plain, filtered = make(2, plane_axis=axis), make(2, plane_axis=axis)
        filtered.median = 3
        size = [1, 1, 1, 1]
        size[1 + axis] = 3
        expected = median_filter(plain.probabilities(x, bfloat16=False), size=size, mode="nearest")
        np.testing.assert_array_equal(filtered.probabilities(x, bfloat16=False), expected)


@pytest.mark.parametrize("count", [0, 2, -1])
def test_a_median_over_an_even_number_of_planes_is_refused(count: int) -> None:
    """The message says what is expected."""
    with pytest.raises(InputError, match="odd number"):
        chain(Neighbours(), median=count)


def test_a_chain_survives_saving(tmp_path: Path) -> None:
    """Neighbours and median are stored."""
    model = chain(Neighbours(planes=5, image_planes=1, threshold=0.25), median=3)
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert loaded.steps == model.steps and loaded.median == 3 and loaded.halo == model.halo
    np.testing.assert_array_equal(loaded.probabilities(image()), model.probabilities(image()))


def test_a_model_of_the_first_format_is_still_read(tmp_path: Path) -> None:
    """Version 1 knew neither neighbours nor median."""
    model = make()
    model.save(tmp_path)
    path = tmp_path / "model.json"
    content = json.loads(path.read_text())
    del content["median"]
    for step in content["steps"]:
        del step["gather"]
    path.write_text(json.dumps({**content, "format_version": 1}))
    np.testing.assert_array_equal(Model.load(tmp_path).probabilities(image()), model.probabilities(image()))
