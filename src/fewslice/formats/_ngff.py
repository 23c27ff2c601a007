"""The metadata of OME-Zarr 0.4 and 0.5 as plain dictionaries, and the files they lie in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewslice.errors import InputError
from fewslice.files import write_atomic

__all__ = [
    "VERSIONS",
    "group_version",
    "image_label",
    "is_zarr",
    "multiscales",
    "omero",
    "read_attributes",
    "read_document",
    "write_group",
]

VERSIONS = ("0.5", "0.4")
"""Versions that can be written; 0.1 to 0.3 are read as well."""

_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")
_COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
_NAMED_COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}

Attributes = dict[str, Any]


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((folder / name).is_file() for name in _DOCUMENTS)


def read_document(path: Path) -> Attributes:
    """Read a JSON file of a store.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged or truncated ({error}); copy the store again from its source") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: expected a JSON object; copy the store again from its source")
    return value


def read_attributes(folder: Path) -> Attributes:
    """Return the attributes of a Zarr group or array, of either Zarr format."""
    if (folder / "zarr.json").is_file():
        return dict(read_document(folder / "zarr.json").get("attributes") or {})
    return read_document(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}


def group_version(folder: Path) -> str:
    """Return the OME-Zarr version that new parts of a store must have: "0.5" for Zarr format 3, else "0.4"."""
    return "0.5" if (folder / "zarr.json").is_file() else "0.4"


def write_group(folder: Path, version: str, ome: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> None:
    """Write a group's metadata atomically; its folder is made if need be.

    Parameters
    ----------
    folder
        The group.
    version
        "0.5" (attributes under ``ome`` in ``zarr.json``) or "0.4" (``.zgroup`` and ``.zattrs``).
    ome
        OME-Zarr keys: multiscales, omero, labels, image-label.
    others
        Further attributes, ``fewslice`` among them.

    Raises
    ------
    DiskError
        If the disk refuses the write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rest = dict(others or {})
    if version == "0.5":
        attributes = {**rest, **({"ome": {"version": version, **ome}} if ome else {})}
        write_atomic(folder / "zarr.json", _text({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
    else:
        write_atomic(folder / ".zgroup", _text({"zarr_format": 2}))
        write_atomic(folder / ".zattrs", _text({**rest, **ome}))


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def multiscales(
    version: str,
    name: str,
    axes: str,
    voxel_size_um: Sequence[float] | None,
    origin_um: Sequence[float],
    factors: Sequence[Sequence[int]],
    method: str | None,
) -> list[Attributes]:
    """Describe a pyramid.

    Parameters
    ----------
    version
        "0.5" or "0.4".
    name
        Shown by viewers.
    axes
        ``czyx`` or ``zyx``.
    voxel_size_um, origin_um
        Of the first level, z, y, x. Without a voxel size the scale is 1 and has no unit.
    factors
        Per level, how many voxels of the first level one of its voxels spans along z, y, x; ``(1, 1, 1)`` first.
    method
        How levels are reduced, ``mean`` or ``mode``; None if there is one level only.
    """
    size = (1.0, 1.0, 1.0) if voxel_size_um is None else tuple(voxel_size_um)
    lead = [1.0] * (len(axes) - 3)
    datasets = []
    for level, factor in enumerate(factors):
        scale = [s * f for s, f in zip(size, factor, strict=True)]
        # The centre of a reduced voxel lies between the centres of the voxels it stands for.
        shift = [o + s * (f - 1) / 2 for o, s, f in zip(origin_um, size, factor, strict=True)]
        transforms: list[Attributes] = [{"type": "scale", "scale": lead + scale}]
        if any(shift):
            transforms.append({"type": "translation", "translation": [0.0] * len(lead) + shift})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    value: Attributes = {
        "name": name,
        "axes": [_axis(a, voxel_size_um is not None) for a in axes],
        "datasets": datasets,
    }
    if version != "0.5":
        value = {"version": version, **value}
    if method is not None and len(factors) > 1:
        value |= {"type": method, "metadata": {"description": _METHODS[method], "method": "fewslice.io.write_pyramid"}}
    return [value]


_METHODS = {
    "mean": "Each level is the mean of the voxels of the level before.",
    "mode": "Each level holds the commonest label of the voxels of the level before, the largest among equals.",
}


def _axis(name: str, known: bool) -> Attributes:
    if name == "c":
        return {"name": "c", "type": "channel"}
    return {"name": name, "type": "space", **({"unit": "micrometer"} if known else {})}


def omero(
    names: Sequence[str], dtype: np.dtype[Any], limits: Sequence[tuple[float, float]] | None = None
) -> Attributes:
    """Describe how channels are shown: name, colour, and window of intensities.

    Parameters
    ----------
    names
        Of the channels.
    dtype
        Of the values.
    limits
        Lowest and highest value to show per channel; the type's range, or 0 to 1 for floating point, when None.
    """
    low, high = (0.0, 1.0) if dtype.kind == "f" else (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
    channels = []
    for position, name in enumerate(names):
        start, end = limits[position] if limits is not None else (low, high)
        colour = _NAMED_COLOURS.get(name.lower(), _COLOURS[(position + (len(names) > 1)) % len(_COLOURS)])
        window = {"min": min(low, start), "max": max(high, end), "start": start, "end": end}
        channels.append({"label": name, "color": colour, "active": True, "window": window})
    return {"channels": channels}


def image_label(
    version: str, colours: Mapping[int, Sequence[int]] | None, names: Mapping[int, str] | None, inside_image: bool
) -> Attributes:
    """Describe a label image; keys without content are left out, since readers stumble over nulls.

    Parameters
    ----------
    version
        "0.5" or "0.4".
    colours
        Red, green, blue, alpha (0 to 255) per label value.
    names
        What each label value stands for.
    inside_image
        Whether the labels lie in ``labels/<name>`` of their image.
    """
    value: Attributes = {} if version == "0.5" else {"version": version}
    if colours:
        value["colors"] = [
            {"label-value": int(v), "rgba": [int(c) for c in colours[v]]} for v in sorted(colours)
        ]  # fmt: skip
    if names:
        value["properties"] = [{"label-value": int(v), "name": names[v]} for v in sorted(names)]
    if inside_image:
        value["source"] = {"image": "../../"}
    return value
