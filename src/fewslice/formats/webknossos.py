r"""webKnossos: the volume layer of a downloaded annotation, ``annotation.zip`` or ``annotation.zip:LAYER``. Read only.

An annotation is a ZIP file with an NML (XML) that lists the volume layers, and one ZIP file per layer in it. That holds
``datasource-properties.json`` and an array for each magnification, in Zarr 3 where the download was asked for as Zarr.
The array begins at the data set's position 0; the layer's bounding box, which is the image, is cut out of it. The
layout is that of webKnossos's documentation of import and export, and of what its Python library writes.
"""

from __future__ import annotations

import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from fewslice.errors import InputError
from fewslice.formats import Stored
from fewslice.formats._units import micrometres

__all__ = ["DESCRIPTION", "claims", "location", "read", "within"]

DESCRIPTION = "webKnossos annotation (annotation.zip:LAYER)"

_PATH = re.compile(r"^(?P<file>.*?\.zip)(?::(?P<layer>.*))?$", re.IGNORECASE | re.DOTALL)
_PROPERTIES = "datasource-properties.json"
_FINEST = ((1, 1, 1), 1, [1, 1, 1])


def _parts(path: str) -> tuple[str, str | None]:
    match = _PATH.match(path)
    return (path, None) if match is None else (match["file"], match["layer"] or None)


def claims(path: str) -> bool:
    """Whether it is a ZIP file with an NML in it."""
    file = Path(_parts(path)[0])
    if not _PATH.match(path) or not file.is_file() or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.lower().endswith(".nml") for name in archive.namelist())


def location(path: str) -> Path:
    """Return the file, without the layer's name."""
    return Path(_parts(path)[0])


def within(path: str) -> str:
    """Return what follows the file's name, ``:LAYER``, or nothing."""
    layer = _parts(path)[1]
    return f":{layer}" if layer else ""


def read(path: str) -> Stored:
    """Open a volume layer; its compressed chunks are read into memory, the values as they are asked for.

    Raises
    ------
    InputError
        If the file is damaged, has no volume layer or several and none is named, holds the older WKW instead of Zarr 3,
        or holds only what was changed of another segmentation.
    """
    file, layer = _parts(path)
    try:
        with zipfile.ZipFile(file) as archive:
            name = next((n for n in archive.namelist() if n.lower().endswith(".nml")), None)
            if name is None:
                raise InputError(f"{file} has no NML file in it; expected an annotation downloaded from webKnossos")
            document = ElementTree.fromstring(archive.read(name))
            volume = _volume(file, document, layer)
            inner = zipfile.ZipFile(BytesIO(archive.read(volume.get("location", ""))))
        with inner:
            return _stored(f"{file}:{volume.get('name') or volume.get('id')}", document, inner)
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, json.JSONDecodeError, EOFError) as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise InputError(f"{file} is damaged ({reason}); download the annotation again") from error


def _volume(file: str, document: ElementTree.Element, layer: str | None) -> ElementTree.Element:
    """Find the element that describes the layer, and refuse what cannot be read as labels."""
    volumes = document.findall("volume")
    names = [v.get("name") or v.get("id") or "" for v in volumes]
    if not volumes:
        raise InputError(f"{file} has no volume layer, only a skeleton perhaps; expected painted segments")
    if layer is None and len(volumes) > 1:
        raise InputError(f"{file} has the volume layers {', '.join(names)}; name one, as in {file}:{names[0]}")
    if layer is not None and layer not in names:
        raise InputError(f"{file} has no volume layer '{layer}'; it has {', '.join(names)}")
    volume = volumes[0] if layer is None else volumes[names.index(layer)]
    if volume.get("format", "wkw").lower() != "zarr3":
        raise InputError(
            f"{file} holds its volume layer as {volume.get('format', 'wkw')}; expected Zarr 3; "
            "download it again from webKnossos and choose Zarr"
        )
    if base := volume.get("fallbackLayer"):
        raise InputError(
            f"{file} holds only what was changed of the segmentation '{base}'; expected whole labels; "
            "merge the annotation with that layer in webKnossos, then download it"
        )
    return volume


def _stored(source: str, document: ElementTree.Element, archive: zipfile.ZipFile) -> Stored:
    """Open the finest array of a layer's own ZIP file."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    names = archive.namelist()
    layer = json.loads(archive.read(_PROPERTIES))["dataLayers"][0] if _PROPERTIES in names else {}
    folder = _finest(source, names, layer)
    buffer = default_buffer_prototype().buffer
    content = {
        name.removeprefix(folder): buffer.from_bytes(archive.read(name)) for name in names if name.startswith(folder)
    }
    array = zarr.open_array(MemoryStore(content), mode="r", zarr_format=3)
    if array.ndim not in (3, 4) or array.dtype.kind not in "ui":
        raise InputError(f"{source} holds {array.dtype} with {array.ndim} axes; expected integers along x, y, z")
    axes = "".join(_axes(array, layer))
    box = layer.get("boundingBox", {})
    start = dict(zip("xyz", box.get("topLeft", (0, 0, 0)), strict=True))
    extent = {a: int(box.get(k, 0)) for a, k in zip("xyz", ("width", "height", "depth"), strict=True)}
    image = tuple(
        slice(int(start[a]), int(start[a]) + extent[a]) if extent.get(a) else slice(0, int(n))
        for a, n in zip(axes, array.shape, strict=True)
    )
    return Stored(
        LayerArray(array, image, source),
        axes,
        _voxel_size(document),
        is_labels=True,
        details={"data_set": _experiment(document), "bounding_box": box},
    )


def _finest(source: str, names: list[str], layer: dict[str, Any]) -> str:
    """Return the folder, with its slash, of the array at full resolution."""
    for mag in layer.get("mags", ()):
        if mag.get("mag") in _FINEST and mag.get("path"):
            return str(mag["path"]).removeprefix("./").rstrip("/") + "/"
    for name in names:
        if re.search(r"(^|/)(1|1-1-1)/zarr\.json$", name):
            return name.removesuffix("zarr.json")
    raise InputError(f"{source} has no array at full resolution; expected magnification 1; paint at it in webKnossos")


def _axes(array: Any, layer: dict[str, Any]) -> tuple[str, ...]:
    """Return the axes from the array's own names, else webKnossos's order."""
    named = tuple(str(n).lower() for n in getattr(array.metadata, "dimension_names", None) or ())
    usual = tuple("cxyz"[-array.ndim :])
    return named if sorted(named) == sorted(usual) else usual


def _experiment(document: ElementTree.Element) -> str | None:
    found = document.find("parameters/experiment")
    return None if found is None else found.get("name")


def _voxel_size(document: ElementTree.Element) -> dict[str, float]:
    """Return the size in µm; a scale without a unit is in nanometres, as webKnossos wrote it before it had units."""
    scale = document.find("parameters/scale")
    if scale is None:
        return {}
    sizes = {axis: micrometres(scale.get(axis), scale.get("unit", "nanometer")) for axis in "zyx"}
    return {axis: size for axis, size in sizes.items() if size and size > 0}


class LayerArray:
    """The part of an array that lies in the layer's bounding box, decoded as it is indexed."""

    def __init__(self, array: Any, image: tuple[slice, ...], source: str) -> None:
        self._array, self._source = array, source
        self._start = tuple(s.start for s in image)
        self.shape: tuple[int, ...] = tuple(s.stop - s.start for s in image)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")
        if any(s.stop > n for s, n in zip(image, array.shape, strict=True)):
            raise InputError(
                f"{source} has a bounding box up to {tuple(s.stop for s in image)} and an array of {array.shape} "
                "(c, x, y, z); expected the box inside the array; download the annotation again"
            )

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part."""
        from fewslice.volume import normalise_index

        slices, dropped = normalise_index(index, self.shape)
        moved = tuple(slice(s.start + o, s.stop + o) for s, o in zip(slices, self._start, strict=True))
        try:
            values = np.asarray(self._array[moved], dtype=self.dtype)
        except Exception as error:  # codecs raise errors of their own kinds
            reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
            raise InputError(
                f"{self._source} has a chunk that is damaged ({reason}); download the annotation again"
            ) from error
        return values.reshape([n for axis, n in enumerate(values.shape) if axis not in dropped])
