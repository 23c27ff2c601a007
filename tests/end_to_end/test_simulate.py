"""Simulation through the installed command: what is written, known again, resumed and reused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import yaml

from fewslice import io

Fewslice = Callable[..., subprocess.CompletedProcess[str]]


def test_images_labels_and_settings(
    tmp_path: Path, done: Fewslice, fewslice: Fewslice, folder_hash: Callable[[Path], str]
) -> None:
    simulate = ["simulate", "stained_section", "--shape", "90,110", "--seed", "4", "--set", "stain=silver"]
    said = done(tmp_path, *simulate, "--count", "2", "-o", "SIM").stdout
    assert "the default of stained_section" in said
    settings = yaml.safe_load((tmp_path / "SIM/simulation.yaml").read_text(encoding="utf-8"))
    assert settings["kind"] == "stained_section" and settings["seed"] == 4
    assert settings["config"]["shape"] == [1, 90, 110] and settings["config"]["stain"] == "silver"
    for name in ("000", "001"):
        store = tmp_path / f"SIM/{name}.ome.zarr"
        image = io.open_volume(store)
        assert (image.channels, *image.shape) == (1, 1, 90, 110)
        instances = io.open_labels(store / "labels/instances").read()[0]
        classes = io.open_labels(store / "labels/classes").read()[0]
        assert np.array_equal(instances > 0, classes > 0) and instances.max() > 1
        assert set(np.unique(classes)) <= {0, 1, 2}
    before = folder_hash(tmp_path)
    done(tmp_path, *simulate, "--count", "2", "-o", "SIM")  # nothing to do
    assert folder_hash(tmp_path) == before
    shutil.rmtree(tmp_path / "SIM/001.ome.zarr")  # as a kill leaves it
    done(tmp_path, *simulate, "--count", "2", "-o", "SIM")
    assert folder_hash(tmp_path) == before
    refused = fewslice(tmp_path, *simulate, "--count", "1", "-o", "SIM")
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert folder_hash(tmp_path) == before
    done(tmp_path, *simulate, "--count", "1", "-o", "SIM", "--overwrite")
    assert sorted(path.name for path in (tmp_path / "SIM").iterdir()) == ["000.ome.zarr", "simulation.yaml"]
    # The settings in the file make the same image again.
    done(tmp_path, "simulate", "stained_section", "--config", "SIM/simulation.yaml", "--seed", "4", "-o", "B.ome.zarr")
    one, other = (io.open_volume(tmp_path / name).read() for name in ("SIM/000.ome.zarr", "B.ome.zarr"))
    assert np.array_equal(one, other)
    assert (tmp_path / "B.simulation.yaml").is_file()


def test_like_unlabelled_images(tmp_path: Path, done: Fewslice) -> None:
    nuclei = "nuclei={radius_um: 5.5, density_per_mm2: 3000, condensed: 0}"
    done(
        tmp_path, "simulate", "fluorescence_nuclei", "--shape", "120,130", "--count", "2", "--set", nuclei, "-o", "REAL"
    )
    for name in ("000", "001"):
        image = io.open_volume(tmp_path / f"REAL/{name}.ome.zarr").read()[0, 0]
        tifffile.imwrite(tmp_path / f"{name}.tif", image, photometric="minisblack")
    like = ["simulate", "fluorescence_nuclei", "--like", "*.tif", "--voxel-size-um", "1,0.65,0.65", "-o", "SIM"]
    made = json.loads(done(tmp_path, *like, "--json").stdout)
    assert made["voxel_size_from"] == "set" and made["voxel_size_um"] == [1.0, 0.65, 0.65]
    assert made["fit"]["images"] == 2
    assert io.open_volume(tmp_path / "SIM/000.ome.zarr").shape == (1, 120, 130)
    content = yaml.safe_load((tmp_path / "SIM/simulation.yaml").read_text(encoding="utf-8"))
    assert [Path(path).name for path in content["like"]] == ["000.tif", "001.tif"]
    assert 4.5 < content["config"]["nuclei"]["radius_um"] < 6.5
    stores = json.loads(
        done(
            tmp_path, "simulate", "fluorescence_nuclei", "--like", "REAL/000.ome.zarr", "-o", "B.ome.zarr", "--json"
        ).stdout
    )
    assert stores["voxel_size_from"] == "from REAL/000.ome.zarr"


def test_the_settings_of_a_kind_are_shown(tmp_path: Path, done: Fewslice) -> None:
    shown = done(tmp_path, "simulate", "two_photon_neurons", "--help").stdout
    assert "somata.radius_um = 7.1" in shown and "median radius" in shown
    assert "stained_section" in done(tmp_path, "simulate", "--help").stdout
