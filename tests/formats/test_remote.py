"""OME-Zarr images at addresses, read from an S3 server on this machine's loopback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewslice import io
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.volume import Volume

VALUES = np.random.default_rng(0).integers(0, 255, (2, 6, 40, 30), dtype=np.uint8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server whose bucket holds an image with labels; the client is configured by a file, as a user would."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    folder = tmp_path_factory.mktemp("local")
    store = folder / "brain.ome.zarr"
    io.save_volume(store, Volume.from_array(VALUES, (2.0, 0.5, 0.5), ["a", "b"]))
    io.create_labels(store, "cells", shape=(6, 40, 30), dtype=np.uint8).write(
        Box((0, 0, 0), (6, 40, 30)), (VALUES[0] > 99).astype(np.uint8)
    )
    io.save_volume(folder / "old.ome.zarr", Volume.from_array(VALUES), ome_version="0.4")
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket="lab")
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket="lab", Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    yield address
    running.stop()


@pytest.fixture
def configured(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    import fsspec
    import s3fs

    options = {"endpoint_url": server, "key": "a", "secret": "b", "client_kwargs": {"region_name": "us-east-1"}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    s3fs.S3FileSystem.clear_instance_cache()
    yield options
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("name", ["brain", "old"])
def test_an_image_at_an_address_is_read_like_one_on_disk(configured: dict[str, Any], name: str) -> None:
    """Values, names, voxel size; also only a part of it."""
    volume = io.open_volume(f"s3://lab/{name}.ome.zarr", channels=[1], voxel_size_um=(2.0, 0.5, 0.5))
    np.testing.assert_array_equal(volume.read(), VALUES[1:])
    box = Box((1, 3, 4), (4, 20, 30))
    np.testing.assert_array_equal(volume.read(box)[0], VALUES[1][box.slices])
    assert volume.content_hash() == Volume.from_array(VALUES[1:]).content_hash()


def test_what_belongs_to_it_is_found(configured: dict[str, Any]) -> None:
    volume = io.open_volume("s3://lab/brain.ome.zarr")
    assert volume.channel_names == ("a", "b") and volume.voxel_size_um == (2.0, 0.5, 0.5)
    assert volume.label_names == ("cells",)
    np.testing.assert_array_equal(io.open_labels("s3://lab/brain.ome.zarr/labels/cells").read()[0], VALUES[0] > 99)
    facts = io.describe("s3://lab/brain.ome.zarr")
    assert facts["format"] == "ome_zarr" and facts["labels"][0]["shape"] == [6, 40, 30]


def test_an_image_at_an_address_is_converted_and_nothing_is_written_there(
    configured: dict[str, Any], tmp_path: Path
) -> None:
    io.convert("s3://lab/brain.ome.zarr", tmp_path / "brain.tif")
    np.testing.assert_array_equal(io.open_volume(tmp_path / "brain.tif").read(), VALUES)
    with pytest.raises(InputError, match="is an address; results are written to a local or shared disk"):
        io.convert(tmp_path / "brain.tif", "s3://lab/copy.ome.zarr")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://lab/absent.ome.zarr", "neither zarr.json nor .zgroup"),
        ("s3://lab/brain.tif", "only OME-Zarr can be read"),
        ("nonsense://lab/brain.ome.zarr", "cannot be opened"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(configured: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        io.open_volume(path)
    assert "\n" not in str(refusal.value) and path in str(refusal.value)


def test_without_credentials_it_is_one_sentence(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fsspec
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server})
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="no credentials"):
        io.open_volume("s3://lab/brain.ome.zarr")
    s3fs.S3FileSystem.clear_instance_cache()
