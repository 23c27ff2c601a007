from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from fewslice import io
from fewslice.errors import InputError
from fewslice.synthesis.simulators import fluorescence_nuclei as simulator
from fewslice.synthesis.store import claim, description_path, outputs, read_description, write_simulation


def test_names() -> None:
    assert outputs(Path("a/OUT.ome.zarr"), 1) == [Path("a/OUT.ome.zarr")]
    assert outputs(Path("SIM"), 2) == [Path("SIM/000.ome.zarr"), Path("SIM/001.ome.zarr")]
    assert description_path(Path("a/OUT.ome.zarr")) == Path("a/OUT.simulation.yaml")
    assert description_path(Path("SIM")) == Path("SIM/simulation.yaml")
    for bad, count in (("OUT.ome.zarr", 2), ("OUT.tif", 1)):
        with pytest.raises(InputError):
            outputs(Path(bad), count)


def test_what_is_written_is_what_was_simulated(tmp_path: Path) -> None:
    simulation = simulator.simulate(simulator.Config(shape=(6, 60, 50)), np.random.default_rng(0))
    path = tmp_path / "new" / "OUT.ome.zarr"
    write_simulation(path, simulation, {"seed": [0, 0]})
    image = io.open_volume(path)
    assert np.array_equal(image.read(), simulation.image)
    assert image.voxel_size_um == simulation.voxel_size_um
    assert image.channel_names == ("nuclei",)
    assert np.array_equal(io.open_labels(path / "labels" / "instances").read()[0], simulation.instances)
    assert np.array_equal(io.open_labels(path / "labels" / "classes").read()[0], simulation.semantic)
    assert [entry.name for entry in path.parent.iterdir()] == ["OUT.ome.zarr"]


def test_a_simulation_is_known_again_and_another_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "SIM"
    claim(folder, {"kind": "a", "config": {"x": 1}}, overwrite=False)
    (folder / "000.ome.zarr").mkdir()
    claim(folder, {"kind": "a", "config": {"x": 1}}, overwrite=False)
    assert (folder / "000.ome.zarr").exists()
    assert read_description(folder / "simulation.yaml") == {"kind": "a", "config": {"x": 1}}
    with pytest.raises(InputError, match="another simulation"):
        claim(folder, {"kind": "a", "config": {"x": 2}}, overwrite=False)
    assert (folder / "000.ome.zarr").exists()
    claim(folder, {"kind": "a", "config": {"x": 2}}, overwrite=True)
    assert not (folder / "000.ome.zarr").exists()
    (folder / "letter.txt").touch()
    with pytest.raises(InputError, match="not a simulation"):
        claim(folder, {"kind": "a", "config": {"x": 3}}, overwrite=True)
    assert yaml.safe_load((folder / "simulation.yaml").read_text())["config"] == {"x": 2}


def test_a_single_store_is_claimed_with_its_description(tmp_path: Path) -> None:
    store = tmp_path / "OUT.ome.zarr"
    claim(store, {"kind": "a", "config": {}}, overwrite=False)
    store.mkdir()
    claim(store, {"kind": "a", "config": {}}, overwrite=False)
    with pytest.raises(InputError, match="--overwrite"):
        claim(store, {"kind": "b", "config": {}}, overwrite=False)
    (tmp_path / "OUT.simulation.yaml").unlink()
    with pytest.raises(InputError, match="not a simulation"):
        claim(store, {"kind": "a", "config": {}}, overwrite=True)


def test_descriptions_are_data(tmp_path: Path) -> None:
    path = tmp_path / "simulation.yaml"
    for text, named in (("a: [", "YAML"), ("- 1", "kind"), ("kind: a", "config"), ("config: 3\nkind: a", "config")):
        path.write_text(text)
        with pytest.raises(InputError, match=named):
            read_description(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_description(tmp_path / "gone.yaml")
