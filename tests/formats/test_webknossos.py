"""webKnossos annotations: a file written by its own Python library (4.3.3), and variations of it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from fewslice import io
from fewslice.data.samples import open_samples
from fewslice.errors import InputError
from fewslice.geometry import Box
from fewslice.volume import Volume

WRITTEN = Path(__file__).parent / "data" / "webknossos_4_3_3.zip"
"""``Annotation.add_volume_layer("Volume", uint32)``, ``edit()``, magnification 1, ``save``: what `expected` gives."""


def expected() -> np.ndarray:
    values = np.zeros((5, 16, 20), np.uint32)
    values[1:4, 3:8, 2:9] = 7
    values[2:5, 9:15, 12:18] = 300
    return values


def varied(
    path: Path, nml: Callable[[str], str] = lambda t: t, inner: Callable[[str, bytes], bytes | None] = lambda n, b: b
) -> Path:
    """Write the file again with its NML, or the members of the layer's own ZIP file, changed."""
    with zipfile.ZipFile(WRITTEN) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".nml"):
                content = nml(content.decode()).encode()
            else:
                out = BytesIO()
                with zipfile.ZipFile(BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
                    for member in old.namelist():
                        changed = inner(member, old.read(member))
                        if changed is not None:
                            new.writestr(member, changed)
                content = out.getvalue()
            target.writestr(name, content)
    return path


def test_what_the_library_wrote_is_read() -> None:
    found = io.open_labels(WRITTEN)
    assert found.voxel_size_um == pytest.approx((2.0, 0.88, 0.88)) and found.dtype == np.uint32
    np.testing.assert_array_equal(found.read()[0], expected())
    np.testing.assert_array_equal(found.read(Box((1, 2, 3), (4, 15, 16)))[0], expected()[1:4, 2:15, 3:16])
    np.testing.assert_array_equal(io.open_labels(f"{WRITTEN}:Volume").read()[0], expected())
    told = io.describe(WRITTEN)
    assert told["format"] == "webknossos" and told["is_labels"] and told["details"]["data_set"] == "brain"


def test_it_serves_as_labels_and_is_converted(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 16, 20), np.uint8)
    io.save_volume(tmp_path / "brain.tif", Volume.from_array(image))
    (sample,) = open_samples([str(tmp_path / "brain.tif")], [str(WRITTEN)], label_kind="instances", planes=["2,3"])
    assert sample.annotation is not None and sample.annotation.planes() == [2, 3]
    assert np.unique(sample.annotation.labels).tolist() == [0, 7, 300]
    written = io.convert(f"{WRITTEN}:Volume", tmp_path / "labels.ome.zarr")
    np.testing.assert_array_equal(written.read()[0], expected())
    assert io.describe(tmp_path / "labels.ome.zarr")["is_labels"]


def test_the_bounding_box_is_the_image(tmp_path: Path) -> None:
    def moved(name: str, content: bytes) -> bytes:
        if not name.endswith("properties.json"):
            return content
        document = json.loads(content)
        box = document["dataLayers"][0]["boundingBox"]
        box["topLeft"], box["width"], box["height"], box["depth"] = [2, 3, 1], 16, 12, 4
        return json.dumps(document).encode()

    found = io.open_labels(varied(tmp_path / "a.zip", inner=moved)).read()[0]
    np.testing.assert_array_equal(found, expected()[1:5, 3:15, 2:18])


def test_without_properties_the_array_itself_is_found(tmp_path: Path) -> None:
    path = varied(tmp_path / "a.zip", inner=lambda n, b: None if n.endswith("properties.json") else b)
    found = io.open_labels(path).read()[0]
    assert found.shape == (32, 32, 32)
    np.testing.assert_array_equal(found[:5, :16, :20], expected())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('format="zarr3"', 'format="wkw"', "as wkw; expected Zarr 3"),
        ('format="zarr3" ', "", "as wkw; expected Zarr 3"),
        ('name="Volume"', 'name="Volume" fallbackLayer="base"', "only what was changed of the segmentation 'base'"),
        ("<volume", "<node", "damaged"),
        ("</things>", '<volume id="1" name="Other" format="zarr3" location="b.zip"/></things>', "Volume, Other; name"),
    ],
)
def test_what_cannot_be_labels_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = varied(tmp_path / "a.zip", nml=lambda text: text.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        io.open_labels(path)
    assert "\n" not in str(caught.value)


def test_a_skeleton_an_unknown_layer_and_damage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("s.nml", "<things><parameters/></things>")
    with pytest.raises(InputError, match="no volume layer, only a skeleton"):
        io.open_labels(tmp_path / "s.zip")
    with pytest.raises(InputError, match="no volume layer 'Cells'; it has Volume"):
        io.open_labels(f"{WRITTEN}:Cells")
    path = varied(tmp_path / "a.zip", inner=lambda n, b: b[:200] if "c.0" in n else b)
    with pytest.raises(InputError, match="damaged"):
        io.open_labels(path).read()
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(InputError, match="unknown format"):
        io.open_labels(tmp_path / "c.zip")
