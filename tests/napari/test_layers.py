from __future__ import annotations

import numpy as np
import pytest
import tifffile

from fewslice import io
from fewslice.errors import InputError
from fewslice.geometry import Box

components = pytest.importorskip("napari.components", reason="napari is not installed")

from fewslice.napari.layers import check_labels, displayed_plane, image_of, labels_of, shown_box, voxel_of  # noqa: E402
from fewslice.napari.prediction import free_output, volume_arguments  # noqa: E402
from fewslice.napari.readers import get_reader, read_layers  # noqa: E402
from fewslice.napari.sample_data import two_photon_sample  # noqa: E402
from fewslice.napari.workbench import Workbench  # noqa: E402
from fewslice.napari.writers import write_labels  # noqa: E402
from fewslice.volume import Volume  # noqa: E402

SHAPE = (6, 20, 24)
VOXEL = (2.0, 0.5, 0.25)
UM = ("um", "um", "um")


@pytest.fixture
def viewer():
    return components.ViewerModel()


def values(shape=SHAPE, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def added(viewer, layers):
    return [
        (viewer.add_labels if kind == "labels" else viewer.add_image)(data, **options) for data, options, kind in layers
    ]


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"rgb": True}, (20, 24, 3), "RGB.*Split RGB"),
        ({}, (2, 6, 20, 24), "4 axes.*2 x 6 x 20 x 24"),
        ({"rotate": 10}, SHAPE, "turned or sheared"),
    ],
)
def test_layers_that_cannot_be_used_are_named(viewer, options, shape, message):
    layer = viewer.add_image(values(shape), name="strange", **options)
    with pytest.raises(InputError, match=f"strange.*{message}"):
        image_of(layer)


def test_labels_are_no_image_and_the_other_way_round(viewer):
    with pytest.raises(InputError, match="Image layer"):
        image_of(viewer.add_labels(values()))
    with pytest.raises(InputError, match="Labels layer"):
        labels_of(viewer.add_image(values()))


def test_voxel_sizes_are_micrometres_whatever_the_units(viewer):
    nm = viewer.add_image(values(), scale=(2000, 500, 250), units=("nm", "nm", "nm"))
    assert voxel_of(nm) == pytest.approx(VOXEL)
    pixels = viewer.add_image(values(), scale=(2, 1, 1))
    assert voxel_of(pixels) is None and image_of(pixels).volume.voxel_size_um is None


def test_labels_must_fit_the_image(viewer):
    image = viewer.add_image(values(), scale=VOXEL, units=UM, name="image")
    check_labels(viewer.add_labels(values(), scale=VOXEL, units=UM), image)
    with pytest.raises(InputError, match="6 x 20 x 23 voxels and image 6 x 20 x 24"):
        check_labels(viewer.add_labels(values((6, 20, 23)), scale=VOXEL, units=UM, name="other"), image)
    with pytest.raises(InputError, match="has scale 1, 1, 1"):
        check_labels(viewer.add_labels(values(), name="other"), image)
    with pytest.raises(InputError, match="has position"):
        check_labels(viewer.add_labels(values(), scale=VOXEL, translate=(1, 0, 0), name="other"), image)


def test_the_shown_plane_along_any_axis(viewer):
    layer = viewer.add_image(values(), scale=VOXEL, units=UM, translate=(10, 0, 0))
    viewer.dims.set_point(0, 10 + 2.0 * 4)
    assert displayed_plane(layer, viewer.dims) == (0, 4)
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_point(2, 0.25 * 7)
    assert displayed_plane(layer, viewer.dims) == (2, 7)
    viewer.dims.ndisplay = 3
    with pytest.raises(InputError, match="3D"):
        displayed_plane(layer, viewer.dims)


def test_a_slider_outside_the_layer_and_another_layers_axes(viewer):
    layer = viewer.add_image(values(), name="small")
    viewer.add_image(values((40, 20, 24)))
    viewer.dims.set_point(0, 30)
    with pytest.raises(InputError, match="plane 30 along z, outside small, which has 6"):
        displayed_plane(layer, viewer.dims)
    viewer.add_image(values((2, 6, 20, 24)))
    with pytest.raises(InputError, match="4 axes"):
        displayed_plane(layer, viewer.dims)


def test_what_is_on_the_canvas(viewer):
    layer = viewer.add_image(values())
    viewer.dims.set_point(0, 3)
    layer.corner_pixels = np.array([[3, 2, 5], [3, 11, 30]])
    assert shown_box(layer, viewer.dims) == Box((3, 2, 5), (4, 12, 24))


def test_an_ome_zarr_with_labels_opens_lazily_with_scale_and_units(viewer, tmp_path):
    path = tmp_path / "image.ome.zarr"
    pixels = values((2, 40, 560, 570))
    io.save_volume(path, Volume.from_array(pixels, VOXEL, ("soma", "vessel"), origin_um=(4, 0, 1)))
    store = io.create_labels(path, "instances", shape=(40, 560, 570), dtype=np.uint32, voxel_size_um=VOXEL)
    store.write(Box((0, 0, 0), (32, 128, 128)), np.full((32, 128, 128), 5, np.uint32))
    reader = get_reader(str(path))
    assert reader is not None
    layers = reader(str(path))
    assert [kind for _, _, kind in layers] == ["image", "image", "labels"]
    data = layers[1][0]
    assert isinstance(data, list) and data[0].shape == (40, 560, 570) and not isinstance(data[0], np.ndarray)
    soma, vessel, labels = added(viewer, layers)
    assert soma.name == "image soma" and vessel.multiscale and tuple(soma.scale) == VOXEL
    assert all(str(u) == "micrometer" for u in soma.units) and tuple(soma.translate) == (4, 0, 1)
    assert np.array_equal(np.asarray(vessel.data[0][3:5]), pixels[1, 3:5])
    assert labels.data[0, 0, 0] == 5 and tuple(labels.scale) == VOXEL and labels.name == "image instances"
    source = image_of(vessel)
    assert source.path == path and source.volume.channels == 2 and source.volume.shape == (40, 560, 570)


@pytest.mark.parametrize("name", ["image.tif", "image.h5:data", "image.ome.zarr"])
def test_other_formats_open_too(viewer, tmp_path, name):
    path = str(tmp_path / name)
    io.save_volume(path, Volume.from_array(values(), VOXEL))
    (layer,) = added(viewer, get_reader(path)(path))
    data = layer.data[0] if layer.multiscale else layer.data
    assert np.array_equal(np.asarray(data), values()) and np.allclose(layer.scale, VOXEL)
    assert np.array_equal(data[::2, 3, 1:9:3], values()[::2, 3, 1:9:3])


def test_labels_files_open_as_labels(viewer, tmp_path):
    io.save_labels(tmp_path / "labels.ome.zarr", values(dtype=np.uint16), voxel_size_um=VOXEL)
    ((_, _, kind),) = read_layers(str(tmp_path / "labels.ome.zarr"))
    assert kind == "labels"


def test_what_fewslice_cannot_open_is_left_to_others_or_said(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert get_reader(str(tmp_path / "notes.txt")) is None
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match=r"broken\.tif"):
        read_layers(str(tmp_path / "broken.tif"))
    tifffile.imwrite(tmp_path / "axes.tif", values((3, 4, 20, 24)), photometric="minisblack")
    with pytest.raises(InputError, match="--axes"):
        read_layers(str(tmp_path / "axes.tif"))
    assert len(read_layers(str(tmp_path / "axes.tif"), axes="zcyx")) == 4


def test_an_address_stays_one(viewer, tmp_path):
    path = tmp_path / "image.ome.zarr"
    pixels = values((2, 40, 560, 570))
    io.save_volume(path, Volume.from_array(pixels, VOXEL))
    io.create_labels(path, "instances", shape=(40, 560, 570), dtype=np.uint32, voxel_size_um=VOXEL)
    address = path.as_uri()
    image, _, labels = added(viewer, layers := read_layers(address))
    assert [len(data) for data, _, kind in layers if kind == "image"] == [len(read_layers(str(path))[0][0])] * 2
    assert np.array_equal(np.asarray(image.data[0][3:5]), pixels[0, 3:5])
    assert image.metadata["fewslice"]["path"] == address
    assert labels.metadata["fewslice"]["path"] == f"{address}/labels/instances"
    assert image_of(image).path == address and image_of(image).volume.shape == (40, 560, 570)
    arguments = volume_arguments(tmp_path / "RUN", address, image_of(image), tmp_path / "OUT.ome.zarr", "cpu")
    assert arguments[2] == address and free_output(address, tmp_path).name == "image_predicted01.ome.zarr"
    with pytest.raises(InputError, match="on a disk"):
        Workbench(viewer, lambda message: None).proofread(labels)


def test_an_image_that_changed_on_disk_is_said(viewer, tmp_path):
    io.save_volume(tmp_path / "image.tif", Volume.from_array(values(), VOXEL))
    (layer,) = added(viewer, read_layers(str(tmp_path / "image.tif")))
    io.save_volume(tmp_path / "image.tif", Volume.from_array(values((5, 20, 24)), VOXEL), overwrite=True)
    with pytest.raises(InputError, match="has changed since"):
        image_of(layer)


@pytest.mark.parametrize("name", ["labels.ome.zarr", "labels.tif"])
def test_labels_are_written_with_their_voxel_size(viewer, tmp_path, name):
    layer = viewer.add_labels(values(dtype=np.uint16), scale=VOXEL, units=UM)
    data, attributes, _ = layer.as_layer_data_tuple()
    path = str(tmp_path / name)
    assert write_labels(path, data, attributes) == [path]
    stored = io.open_labels(path)
    assert np.array_equal(stored.read()[0], layer.data) and np.allclose(stored.voxel_size_um, VOXEL)
    with pytest.raises(InputError, match="exists"):
        write_labels(path, data, attributes)


def test_the_sample_is_a_volume_with_its_truth(viewer):
    soma, vessels, truth = added(viewer, two_photon_sample())
    check_labels(truth, soma)
    check_labels(truth, vessels)
    inside = np.asarray(truth.data) > 0
    assert soma.data[inside].mean() > 1.5 * soma.data[~inside].mean()
