"""Two runs on one output: the second is refused while the first goes on, which ends as if alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.volumes import light_model
from fewslice import io, workflow
from fewslice.blocks.lock import lock_of
from fewslice.errors import InputError
from fewslice.volume import Volume

VOXEL = (1.0, 1.0, 1.0)
BLOCK = (4, 16, 16)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks need not survive a power cut here."""
    monkeypatch.setattr("fewslice.files.os.fsync", lambda descriptor: None)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, and an image of four cells with the objects that were found in it."""
    light_model(tmp_path / "model")
    grid = np.indices((8, 32, 32))
    image = np.full((8, 32, 32), 30, np.uint8)
    for y, x in ((8, 8), (8, 24), (24, 8), (24, 24)):
        image[((grid[0] - 4) ** 2 + (grid[1] - y) ** 2 + (grid[2] - x) ** 2) < 16] = 200
    io.save_volume(tmp_path / "image.ome.zarr", Volume.from_array(image, VOXEL))
    found = workflow.segment(
        tmp_path / "image.ome.zarr", segmenter="threshold_watershed", output=tmp_path / "OUT.ome.zarr"
    )
    assert found["objects"] == 4
    return tmp_path


def _mask(place: Path, **options: Any) -> Any:
    image = place / "image.ome.zarr"
    return workflow.segment(image, segmenter="threshold_watershed", output=place / "NEW.ome.zarr", **options)


def _predict(place: Path, **options: Any) -> Any:
    image, output = str(place / "image.ome.zarr"), place / "OUT.ome.zarr"
    return workflow.predict(place / "model", [image], output, block=BLOCK, **options)


def _segment(place: Path, **options: Any) -> Any:
    return workflow.segment(place / "OUT.ome.zarr", segmenter="connected_components", block=BLOCK, **options)


def _measure(place: Path, **options: Any) -> Any:
    return workflow.measure(place / "OUT.ome.zarr", block=BLOCK, **options)


def _mesh(place: Path, **options: Any) -> Any:
    return workflow.mesh(place / "OUT.ome.zarr", kind="ply", **options)


Verb = Callable[..., Any]


def _while(verb: Verb, place: Path, others: list[Callable[[], Any]], **options: Any) -> int:
    """Run a verb, try others after each of its blocks, all of which must be refused; return how many were."""
    refused = 0

    def try_others(event: dict[str, Any]) -> None:
        nonlocal refused
        if event["event"] == "block" and event.get("pass") != "survey":
            for other in others:
                with pytest.raises(
                    InputError, match=r"is being written by process \d+ on .*; wait until that has finished"
                ):
                    other()
                refused += 1

    verb(place, listener=try_others, **options)
    return refused


@pytest.mark.parametrize(
    ("verb", "output", "overwrite"),
    [
        (_mask, "NEW.ome.zarr", False),
        (_segment, "OUT.ome.zarr", True),
        (_measure, "OUT.objects.csv", False),
        (_mesh, "OUT.meshes", False),
    ],
)
def test_the_second_run_is_refused(place: Path, verb: Verb, output: str, overwrite: bool) -> None:
    others = [lambda: verb(place, overwrite=True), lambda: workflow.verify(place / output, repair=True)]
    if not overwrite:
        others.append(lambda: verb(place))
    if verb is _measure:  # whichever file of the table is named
        workflow.measure(place / "OUT.ome.zarr")
        overwrite = True
        others = [*others[:2], lambda: workflow.verify(place / "OUT.objects.json", repair=True)]
    assert _while(verb, place, others, overwrite=overwrite) >= 4
    assert not list(place.glob("*.lock")) + list(place.glob(".*.lock"))
    before = sorted(p.name for p in place.iterdir())
    verb(place)  # finished: nothing to do, nothing refused
    assert sorted(p.name for p in place.iterdir()) == before
    assert workflow.verify(place / output).exit_code == 0


def test_predict_and_segment_of_one_store_exclude_each_other(place: Path) -> None:
    assert _while(_segment, place, [lambda: _predict(place, overwrite=True)], overwrite=True) >= 8
    refused = 0

    def segment(event: dict[str, Any]) -> None:
        nonlocal refused
        if event["event"] == "block":
            with pytest.raises(InputError, match=r"is an unfinished prediction|is being written"):
                _segment(place)
            refused += 1

    _predict(place, overwrite=True, listener=segment)
    assert refused >= 8 and not (place / "OUT.ome.zarr" / "labels" / "instances").exists()


def test_readers_of_a_store_need_no_lock_of_it(place: Path) -> None:
    """Objects are measured and meshed at the same time, and while another output of the same labels is written."""

    def measure_elsewhere(event: dict[str, Any]) -> None:
        if event["event"] == "block":
            workflow.measure(place / "OUT.ome.zarr", output=place / f"{event['done']}.objects.csv")

    _mesh(place, listener=measure_elsewhere)
    tables = [path.read_bytes() for path in place.glob("?.objects.csv")]
    assert len(tables) == 4 and len(set(tables)) == 1


def test_a_lock_is_the_same_by_any_path(place: Path) -> None:
    (place / "link").symlink_to(place / "OUT.ome.zarr")
    assert (
        lock_of(place / "link") == lock_of(place / "model" / ".." / "OUT.ome.zarr") == lock_of(place / "OUT.ome.zarr")
    )
