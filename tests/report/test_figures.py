from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewslice.errors import InputError
from fewslice.report.figures import (
    Curve,
    confusion_panel,
    curves,
    embedded,
    isosurface_panel,
    overlay_panel,
    training_curves,
)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as stored:
        return np.asarray(stored.convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: str, tolerance: int = 40) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).sum(axis=2) < tolerance).sum())


def test_curves_draw_every_arm_and_interval(tmp_path: Path) -> None:
    series = [
        Curve("slices_2d", [1, 2, 4], [0.5, 0.6, 0.7], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8]),
        Curve("student", [4, 2, 1], [0.9, 0.8, None]),
    ]
    written = curves(series, tmp_path / "deep" / "curves", x_log2=True, reference={"second annotator": 0.83})
    assert [p.name for p in written] == ["curves.png", "curves.pdf"]
    picture = pixels(written[0])
    assert picture.shape[1] == 1050, "3.5 inches at 300 dpi"
    assert near(picture, "#0072b2") > 300
    assert near(picture, "#e69f00") > 300


def test_same_input_gives_same_bytes(tmp_path: Path) -> None:
    series = [Curve("a", [1, 2], [0.1, 0.2])]
    for suffix in (".png", ".pdf", ".svg"):
        first, second = (curves(series, tmp_path / f"{name}{suffix}")[0].read_bytes() for name in "ab")
        assert first == second


def test_overlay_colours_what_is_found_missed_and_false(tmp_path: Path) -> None:
    image = np.zeros((40, 60))
    truth, found = np.zeros((2, 40, 60), dtype=bool)
    truth[5:25, 5:25] = True
    found[5:25, 15:45] = True
    known = np.ones((40, 60), dtype=bool)
    known[:, 40:] = False
    (path,) = overlay_panel(image, truth, {"arm": found}, tmp_path / "o.png", annotated=known, pixel_size_um=(2.0, 1.0))
    picture = pixels(path)
    # 45 % of the colour over black
    counts = [near(picture, colour) for colour in ("#004c36", "#672714", "#153961")]
    assert min(counts) > 1_000
    one_cell = counts[0] / (20 * 10)
    assert counts[2] < 20 * 16 * one_cell, "where truth is unknown nothing is called a false alarm"


def test_isosurface_panel_draws_each_volume_in_its_colour(tmp_path: Path) -> None:
    volume = np.zeros((10, 20, 20), dtype=bool)
    volume[3:7, 5:15, 5:15] = True
    (path,) = isosurface_panel(
        [volume, volume, ~volume & False], (2.0, 1.0, 1.0), ["truth", "arm", "none"], tmp_path / "i.png"
    )
    picture = pixels(path)
    third = picture.shape[1] // 3
    grey, blue, empty = (picture[:, k * third : (k + 1) * third] for k in range(3))
    assert ((blue[..., 2] - blue[..., 0]) > 60).mean() > 0.03
    assert ((grey.max(axis=2) - grey.min(axis=2) < 25) & (grey.max(axis=2) < 200)).mean() > 0.03
    assert (empty.max(axis=2) < 120).mean() < 0.02


def test_other_panels_are_written(tmp_path: Path) -> None:
    stages = {"teacher": {"loss": [(1, 0.9), (2, 0.5)], "validation": [(2, 0.7)]}, "student": {"loss": [(1, 0.4)]}}
    assert len(training_curves(stages, tmp_path / "t")) == 2
    assert len(confusion_panel({"a": [[5, 1], [0, 3]]}, ["background", "cell"], tmp_path / "c.pdf")) == 1
    (path,) = confusion_panel({"a": [[5, 1], [0, 3]]}, ["background", "cell"], tmp_path / "c.png")
    assert embedded(path, 200).startswith("data:image/webp;base64,")


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no curve"):
        curves([], tmp_path / "x")
    with pytest.raises(InputError, match="lengths"):
        curves([Curve("a", [1, 2], [0.1])], tmp_path / "x")
    with pytest.raises(InputError, match="shape"):
        overlay_panel(np.zeros((4, 4)), None, {"a": np.zeros((3, 4), bool)}, tmp_path / "x")
    with pytest.raises(InputError, match="titles"):
        isosurface_panel([], (1, 1, 1), [], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
