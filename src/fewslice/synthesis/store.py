"""Simulated images on disk: OME-Zarr with ``labels/instances`` and ``labels/classes``, and one description beside them.

1. :func:`claim` says what of a request is there already, and refuses what is not its own.
2. :func:`write_simulation` writes one image beside its place and renames it, so that what exists is complete.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fewslice import io
from fewslice.errors import InputError
from fewslice.files import disk_error, is_unfinished, making_folder, write_atomic
from fewslice.geometry import Box
from fewslice.synthesis.simulation import Simulation
from fewslice.volume import Volume

__all__ = ["claim", "description_path", "outputs", "read_description", "write_simulation"]

_NUMBERED = re.compile(r"\d{3,}\.ome\.zarr")


def outputs(output: Path, count: int) -> list[Path]:
    """Paths of `count` images: `output` itself if it is named like OUT.ome.zarr, else numbered ones in that folder.

    Raises
    ------
    InputError
        If several images are to go into one store, or `output` is named like another kind of file.
    """
    if output.suffix.lower() == ".zarr":
        if count > 1:
            raise InputError(f"{count} images cannot go into one {output.name}; give a folder with -o")
        return [output]
    if output.suffix.lower() in (".tif", ".tiff", ".h5", ".hdf5", ".png"):
        raise InputError(f"a simulated image is an OME-Zarr, not {output.name}; give -o OUT.ome.zarr, or a folder")
    return [output / f"{index:03d}.ome.zarr" for index in range(count)]


def description_path(output: Path) -> Path:
    """Where the settings are written: ``OUT.simulation.yaml`` beside a store, ``simulation.yaml`` in a folder."""
    if output.suffix.lower() == ".zarr":
        return output.with_name(re.sub(r"(\.ome)?\.zarr$", "", output.name, flags=re.IGNORECASE) + ".simulation.yaml")
    return output / "simulation.yaml"


def read_description(path: Path) -> dict[str, Any]:
    """Read what :func:`claim` wrote: ``kind`` and ``config`` at least.

    Raises
    ------
    InputError
        If the file is missing or is no such description.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; give the simulation.yaml of a simulation"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a YAML file; give the simulation.yaml of a simulation") from error
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or "kind" not in content:
        raise InputError(f"{path} must hold the keys kind and config; give the simulation.yaml of a simulation")
    return content


def claim(output: Path, description: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write the description of a simulation, or recognise it as the one that is there.

    Parameters
    ----------
    output
        A store or folder.
    description
        JSON values; two simulations with the same are the same.
    overwrite
        Remove another simulation that is there.

    Raises
    ------
    InputError
        If `output` holds something else, or another simulation without `overwrite`.
    DiskError
        If the disk refuses the write.
    """
    note = description_path(output)
    text = yaml.safe_dump(dict(description), sort_keys=False, allow_unicode=True)
    single = output.suffix.lower() == ".zarr"
    known = note.is_file()
    if known and note.read_text(encoding="utf-8") == text:
        return
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or (output.exists() and not output.is_dir()):
        raise InputError(f"{output if output.exists() else above} is a file, not a folder; choose another -o")
    if single:
        strangers = output.exists() and not known
        present = output.exists() or known
    else:
        inside = list(output.iterdir()) if output.exists() else []
        strangers = any(not _is_ours(path) for path in inside) or (bool(inside) and not known)
        present = known
    if strangers:
        raise InputError(f"{output} exists and is not a simulation of fewslice; choose another -o")
    if present and not overwrite:
        raise InputError(f"{output} holds another simulation; choose another -o or pass --overwrite")
    try:
        for store in [output] if single else inside:
            if store.is_dir():
                shutil.rmtree(store)
        note.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, output) from error
    write_atomic(note, text)


def _is_ours(path: Path) -> bool:
    """Whether a file belongs to a folder of simulations, or is what a kill left of one."""
    return path.name == "simulation.yaml" or _NUMBERED.fullmatch(path.name) is not None or is_unfinished(path)


def write_simulation(path: Path, simulation: Simulation, attributes: Mapping[str, Any]) -> None:
    """Write an image with ``labels/instances`` and ``labels/classes``.

    Parameters
    ----------
    path
        ``OUT.ome.zarr``; must not exist.
    simulation
        What is written.
    attributes
        Stored under ``fewslice``; JSON values only.

    Raises
    ------
    DiskError
        If the disk refuses the write; nothing is left then.
    """
    labels = {
        "instances": (_smallest(simulation.instances), {}),
        "classes": (simulation.semantic, dict(enumerate(simulation.class_names, 1))),
    }
    with making_folder(path) as place:
        io.save_volume(place, Volume.from_array(simulation.image, simulation.voxel_size_um, simulation.channel_names))
        for name, (values, names) in labels.items():
            store = io.create_labels(
                place, name, shape=simulation.shape, dtype=values.dtype, voxel_size_um=simulation.voxel_size_um,
                class_names=names or None, attributes=attributes,
            )  # fmt: skip
            store.write(Box.of(simulation.shape), values)
            io.write_pyramid(place, f"labels/{name}")


def _smallest(instances: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, Any]:
    """Use 16 bits where the ids fit."""
    return instances.astype(np.uint16) if instances.max(initial=0) < 2**16 else instances
