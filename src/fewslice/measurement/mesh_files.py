"""Meshes as files: GLB, PLY, STL and OBJ, and neuroglancer's multi-resolution format.

All coordinates are x, y, z in µm (in nm for neuroglancer), with the volume's origin. glTF takes lengths for metres; a
viewer that says so shows 1 µm as 1 m.

Neuroglancer's format (``neuroglancer_multilod_draco``) has a manifest ``<id>.index`` and a file ``<id>`` of
Draco-encoded fragments per object. Each level of detail here is one fragment: the finest node of its octree spans the
object, so level k lies in the first octant of its node and needs no cutting. An object is thus loaded whole at the
level that suits the view.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewslice.files import write_atomic
from fewslice.measurement.mesh import Mesh, load_extra

__all__ = ["FORMATS", "LEVELS", "check_installed", "file_of", "write_info", "write_mesh"]

FORMATS = ("glb", "ply", "stl", "obj", "neuroglancer")
LEVELS = (1.0, 4.0, 16.0)
"""Error of each level of detail of neuroglancer's format, over the finest."""

_BITS = 16
_NM_PER_UM = 1000.0


def check_installed(kind: str) -> None:
    """Load what writing a format needs.

    Raises
    ------
    InputError
        If it is not installed.
    """
    load_extra("trimesh", "trimesh")
    load_extra("fast_simplification", "fast-simplification")
    if kind == "neuroglancer":
        load_extra("DracoPy", "DracoPy")


def file_of(folder: Path, name: str, kind: str) -> Path:
    """Return the file whose presence says that a mesh is complete."""
    return folder / (f"{name}.index" if kind == "neuroglancer" else f"{name}.{kind}")


def write_mesh(
    folder: Path, name: str, kind: str, levels: Sequence[Mesh], errors_um: Sequence[float]
) -> tuple[Path, ...]:
    """Write one object and return its files.

    Parameters
    ----------
    folder
        Where to.
    name
        The object's id.
    kind
        One of :data:`FORMATS`.
    levels
        The surface at decreasing detail; only neuroglancer's format takes more than the first.
    errors_um
        Error of each level.
    """
    whole = file_of(folder, name, kind)
    if kind == "neuroglancer":
        _write_multilod(folder, name, levels, errors_um)
        return folder / name, whole
    write_atomic(whole, _encoded(levels[0], kind))
    return (whole,)


def _encoded(mesh: Mesh, kind: str) -> bytes:
    trimesh = load_extra("trimesh", "trimesh")
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    options = {"ply": {"vertex_normal": True}, "glb": {"include_normals": True}, "obj": {"include_normals": True}}
    content = solid.export(file_type=kind, **options.get(kind, {}))
    return content.encode() if isinstance(content, str) else bytes(content)


def write_info(folder: Path) -> None:
    """Write the metadata of a folder of meshes in neuroglancer's format: positions in nm."""
    identity = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    info = {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": _BITS,
        "transform": identity,
        "lod_scale_multiplier": 1,
    }
    write_atomic(folder / "info", json.dumps(info))


def _write_multilod(folder: Path, name: str, levels: Sequence[Mesh], errors_um: Sequence[float]) -> None:
    draco = load_extra("DracoPy", "DracoPy")
    corners = np.concatenate([level.vertices for level in levels]) * _NM_PER_UM
    origin = np.floor(corners.min(axis=0)).astype(np.float32)
    extent = np.maximum(np.ceil(corners.max(axis=0) - origin), 1).astype(np.float32)
    fragments = []
    for k, level in enumerate(levels):
        steps = (level.vertices * _NM_PER_UM - origin) / (extent * 2.0**k) * (2**_BITS - 1)
        quantised = np.clip(np.rint(steps), 0, 2**_BITS - 1).astype(np.uint32)
        fragments.append(draco.encode(quantised, level.faces.astype(np.uint32)))
    count = len(levels)
    manifest = extent.astype("<f4").tobytes() + origin.astype("<f4").tobytes() + struct.pack("<I", count)
    manifest += np.asarray([error * _NM_PER_UM for error in errors_um], "<f4").tobytes()
    manifest += np.zeros((count, 3), "<f4").tobytes() + np.ones(count, "<u4").tobytes()
    for fragment in fragments:
        manifest += np.zeros(3, "<u4").tobytes() + struct.pack("<I", len(fragment))
    write_atomic(folder / name, b"".join(fragments))
    write_atomic(file_of(folder, name, "neuroglancer"), manifest)  # last: it says that the object is complete
