"""What other tools get says what the model says: against ONNX Runtime, and by the model zoo's own test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fewslice import workflow
from fewslice.data.neighbours import Neighbours
from fewslice.data.normalisation import Normalisation
from fewslice.errors import InputError
from fewslice.export import bioimageio, onnx
from fewslice.export._network import example, layout_of
from fewslice.model import Model, NetworkStep, build_network
from fewslice.volume import Volume

FLAT = {"kind": "unet", "dims": 2, "features": 4, "depth": 2}
DEEP = {"kind": "unet", "dims": 3, "features": 4, "depth": 2}
CHANNELS = 2


def make_model(kind: str) -> Model:
    torch.manual_seed(0)
    first = NetworkStep(network=FLAT, in_channels=CHANNELS, out_channels=2, views=4)
    steps = [first]
    if kind == "planes along y":
        steps = [first.model_copy(update={"plane_axis": 1})]
    if kind == "volume, two classes":
        steps = [NetworkStep(network=DEEP, in_channels=CHANNELS, out_channels=3)]
    if kind.startswith("chain"):
        sees = Neighbours(planes=5, image_planes=3, threshold=0.5 if kind == "chain of masks" else None)
        second = {"network": FLAT, "in_channels": sees.channels(1, CHANNELS), "out_channels": 2, "gather": sees}
        steps = [first, NetworkStep(**second)]
    networks = [build_network(step.network, step.in_channels, step.out_channels) for step in steps]
    for network in networks:  # statistics that are not the identity
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                torch.nn.init.normal_(module.running_mean, std=0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return Model(
        steps,
        networks,
        normalisation=Normalisation("unit" if kind == "planes" else "robust", (40.0, 90.0), (150.0, 40.0)),
        class_values=(1, 2) if kind.startswith("volume") else (1,),
        voxel_size_um=(2.0, 1.0, 0.5),
        patch=(8, 32, 32),
        median=3 if kind == "chain" else 1,
        provenance={"strategy": "continuity", "training_data": ["stack"]},
    )


# the zoo's library leaves the files it hashes to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)

KINDS = ["planes", "planes along y", "volume, two classes", "chain", "chain of masks"]


def make_image(seed: int = 0, shape: tuple[int, int, int] = (24, 80, 96)) -> Volume:
    values = np.random.default_rng(seed).integers(0, 255, (CHANNELS, *shape), dtype=np.uint8)
    return Volume.from_array(values, voxel_size_um=(2.0, 1.0, 0.5))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for kind in KINDS:
        onnx.export(onnx.Config(), make_model(kind), folder / f"{kind}.onnx", make_image(), "RUN")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_runtime_gives_the_models_probabilities_at_any_extent(kind: str, exported: Path) -> None:
    model = make_model(kind)
    model.steps = tuple(step.model_copy(update={"views": 1}) for step in model.steps)  # views are left to other tools
    session = onnxruntime.InferenceSession(exported / f"{kind}.onnx", providers=["CPUExecutionProvider"])
    for shape in ((16, 64, 48), (4, 32, 64)):
        raw = make_image(1, shape).read()
        expected = model.probabilities(raw, bfloat16=False)
        x = raw.astype(np.float32)
        if layout_of(model).axes == "bcyx":
            axis = model.plane_axis
            found = np.moveaxis(session.run(None, {"image": np.moveaxis(x, 1 + axis, 0)})[0], 0, 1 + axis)
        else:
            found = session.run(None, {"image": x[None]})[0][0]
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_onnx_says_what_a_user_of_it_needs(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "chain.onnx", providers=["CPUExecutionProvider"])
    facts = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["axes"] == "bczyx" and facts["divisor"] == [1, 2, 2] and facts["outputs"] == ["foreground"]
    assert facts["voxel_size_um"] == [2.0, 1.0, 0.5] and facts["threshold"] == 0.5 and facts["class_values"] == [1]


@pytest.mark.parametrize(
    ("kind", "voxel"), [("planes along y", 1.0), ("chain", 1.0), ("volume, two classes", 0.005)]
)  # the last: 56 * 0.005 / 0.005 is not 56, which the specification asks for
def test_the_model_zoos_own_test_passes(kind: str, voxel: float, tmp_path: Path) -> None:
    from bioimageio.core import test_model as zoo_test

    config = bioimageio.Config(name="somata from 4 planes", authors=("A. Person",), licence="CC-BY-4.0")
    model = make_model(kind)
    model.voxel_size_um = (2 * voxel, voxel, voxel)
    bioimageio.export(config, model, tmp_path / "model.zip", make_image(shape=(24, 56, 96)), "RUN")
    summary = zoo_test(tmp_path / "model.zip", weight_format="onnx")
    assert summary.status == "passed", summary.format()
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_a_reference_output_that_does_not_belong_to_the_input_would_fail(tmp_path: Path) -> None:
    from bioimageio.core import test_model as zoo_test

    model, other = make_model("planes"), make_model("planes")
    other.normalisation = Normalisation("unit", (0.0, 0.0), (300.0, 300.0))
    bioimageio.export(bioimageio.Config(), model, tmp_path / "model.zip", make_image(), "RUN")
    onnx.export(onnx.Config(), other, tmp_path / "other.onnx", make_image(), "RUN")
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.zip") as before, zipfile.ZipFile(tmp_path / "mixed.zip", "w") as after:
        for name in before.namelist():
            content = (tmp_path / "other.onnx").read_bytes() if name.endswith(".onnx") else before.read(name)
            after.writestr(name, content)
    assert zoo_test(tmp_path / "mixed.zip", weight_format="onnx").status != "passed"


def test_an_image_of_any_extent_that_a_model_can_see_is_shown() -> None:
    """The largest part of at most 64 voxels that the network's levels allow."""
    assert example(make_model("volume, two classes"), make_image(shape=(50, 57, 60)), "RUN").shape[2:] == (50, 56, 60)


def test_contours_are_refused_in_one_sentence(tmp_path: Path) -> None:
    network = build_network({"kind": "contour_proposals", "features": 4, "depth": 2}, 1, 2)
    step = NetworkStep(network={"kind": "contour_proposals", "features": 4, "depth": 2}, in_channels=1, out_channels=2)
    model = Model([step], [network], normalisation=Normalisation("robust", (0.0,), (1.0,)), class_values=(1,))
    model.save(tmp_path / "model")
    with pytest.raises(InputError, match="proposes contours, which onnx cannot hold"):
        workflow.export(tmp_path / "model", "onnx", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_an_image_too_small_or_of_other_channels_is_refused() -> None:
    with pytest.raises(InputError, match=r"too small to show RUN along y; give an --image of at least 4 there"):
        example(make_model("chain"), make_image(shape=(8, 3, 64)), "RUN")
    with pytest.raises(InputError, match="has 1 channels"):
        example(make_model("chain"), Volume.from_array(np.zeros((1, 8, 64, 64), np.uint8)), "RUN")
