"""What we write, as ome-zarr, ome-zarr-models and napari-ome-zarr read it; what ome-zarr writes, as we read it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from fewslice.geometry import cover
from fewslice.io import create_labels, create_output, open_labels, open_volume, write_pyramid

SHAPE, SIZE = (6, 300, 40), (2.0, 0.88, 0.44)
COLOURS = {1: (255, 0, 0, 255), 2: (0, 0, 255, 128)}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # theirs


@pytest.fixture(params=["0.5", "0.4"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """An image of two channels with coloured and uncoloured labels, each with its pyramid."""
    path = tmp_path / "OUT.ome.zarr"
    rng = np.random.default_rng(0)
    image = create_output(
        path,
        shape=SHAPE,
        channel_names=["soma", "vessel"],
        voxel_size_um=SIZE,
        ome_version=request.param,
        chunks=(4, 64, 64),
        attributes={"run": "abc"},
    )
    values = rng.integers(0, 255, (2, *SHAPE)).astype(np.uint8)
    for block in cover(SHAPE, image.unit, (0, 0, 0)):
        image.write(block.write, values[(slice(None), *block.write.slices)])
    write_pyramid(path)
    for name, colours in (("instances", None), ("segmentation", COLOURS)):
        labels = create_labels(
            path,
            name,
            shape=SHAPE,
            dtype="uint32",
            voxel_size_um=SIZE,
            colours=colours,
            class_names={1: "soma", 2: "vessel"},
        )
        for block in cover(SHAPE, labels.unit, (0, 0, 0)):
            labels.write(block.write, (values[0][block.write.slices] % 3).astype(np.uint32))
        write_pyramid(path, f"labels/{name}")
    return path, request.param


def test_ome_zarr_reads_image_and_labels(store: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    path, _ = store
    with caplog.at_level(logging.WARNING):
        nodes = list(Reader(parse_url(path))())
    theirs = [r.getMessage() for r in caplog.records if r.name.startswith("ome_zarr")]
    assert [m for m in theirs if "version mismatch" not in m] == []  # it expects 0.5 until it has looked
    image, *rest = nodes
    assert [level.shape for level in image.data] == [(2, 6, 300, 40), (2, 6, 150, 20)]
    np.testing.assert_array_equal(np.asarray(image.data[0]), open_volume(path).read())
    assert image.metadata["channel_names"] == ["soma", "vessel"]
    assert image.metadata["contrast_limits"] == [[0, 255], [0, 255]]
    scale = image.metadata["coordinateTransformations"][0][0]["scale"]
    assert scale == [1, *SIZE]
    labels = {n.metadata["name"]: n for n in rest if n.data}
    assert set(labels) == {"instances", "segmentation"}
    for name, node in labels.items():
        np.testing.assert_array_equal(np.asarray(node.data[0]), open_labels(path / "labels" / name).read()[0])
        assert len(node.data) == len(image.data)
    assert labels["segmentation"].metadata["color"] == {1: [1, 0, 0, 1], 2: [0, 0, 1, 128 / 255]}
    assert labels["instances"].metadata["color"] == {}


def test_ome_zarr_models_accept_every_group(store: tuple[Path, str]) -> None:
    if store[1] == "0.5":
        from ome_zarr_models.v05 import Image, ImageLabel, Labels
    else:
        from ome_zarr_models.v04 import Image, ImageLabel, Labels  # type: ignore[assignment]

    path, _ = store
    image = Image.from_zarr(zarr.open_group(path, mode="r"))
    assert image.labels is not None
    Labels.from_zarr(zarr.open_group(path / "labels", mode="r"))
    for name in ("segmentation", "instances"):
        ImageLabel.from_zarr(zarr.open_group(path / "labels" / name, mode="r"))


def test_napari_shows_layers_at_the_right_scale(store: tuple[Path, str]) -> None:
    from napari_ome_zarr import napari_get_reader

    path, _ = store
    reader = napari_get_reader(str(path))
    assert reader is not None
    layers: list[tuple[Any, dict[str, Any], str]] = reader(str(path))
    image, *labels = layers
    assert image[2] == "image" and image[1]["channel_axis"] == 0
    assert image[1]["axis_labels"] == ("z", "y", "x") and image[1]["units"] == ("micrometer",) * 3
    assert image[1]["scale"] == pytest.approx(list(SIZE))
    assert [n.split(": ")[-1] for n in image[1]["name"]] == ["soma", "vessel"]
    assert sorted(m["name"].split("/")[-1] for _, m, _ in labels) == ["instances", "segmentation"]
    for data, metadata, kind in labels:
        assert kind == "labels" and metadata["scale"] == pytest.approx(list(SIZE))
        assert data[0].shape == SHAPE and np.issubdtype(data[0].dtype, np.integer)
        if metadata["name"].endswith("segmentation"):
            assert metadata["colormap"] == {1: [1, 0, 0, 1], 2: [0, 0, 1, 128 / 255]}
            assert metadata["properties"]["name"] == ["soma", "vessel"]
        else:
            assert "colormap" not in metadata


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_ome_zarr_writes_is_read(tmp_path: Path, version: str) -> None:
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image, write_labels

    values = np.random.default_rng(0).integers(0, 255, (2, 4, 32, 40)).astype(np.uint16)
    form = FormatV04() if version == "0.4" else FormatV05()
    root = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    where: dict[str, Any] = {
        "scale": {"c": 1, "z": 2000, "y": 880, "x": 440},
        "axes_units": dict.fromkeys("zyx", "nanometer"),
        "scale_factors": [2],
        "fmt": form,
    }
    write_image(values, root, axes="czyx", **where)
    write_labels(
        (values[0] % 3).astype(np.uint8),
        root,
        name="cells",
        axes="zyx",
        **{**where, "scale": {k: v for k, v in where["scale"].items() if k != "c"}},
    )
    volume = open_volume(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(volume.read(), values)
    assert volume.voxel_size_um == pytest.approx(SIZE)
    assert volume.label_names == ("cells",)
    labels = open_labels(tmp_path / "a.ome.zarr" / "labels" / "cells")
    np.testing.assert_array_equal(labels.read()[0], values[0] % 3)
    assert labels.voxel_size_um == pytest.approx(SIZE)
