from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fewslice.synthesis.simulators import stained_section as simulator
from fewslice.synthesis.simulators.stained_section import Config, ideal, simulate

PIXEL = 0.5
QUIET: dict[str, Any] = {"voxel_size_um": (PIXEL,) * 3}


def simulated(seed: int = 0, **settings: Any):
    return simulate(ideal(Config(**(QUIET | settings))), np.random.default_rng(seed))


def whole(simulation) -> list[int]:
    """Indices of footprints that do not touch the border."""
    return [
        index
        for index, own in enumerate(simulation.footprints)
        if all(part.start > 0 and part.stop < n for part, n in zip(own.slices[1:], simulation.shape[1:], strict=True))
    ]


def test_density_asked_is_density_got_for_each_class() -> None:
    shape, area = (1, 1000, 1000), (1000 * PIXEL) ** 2 * 1e-6
    layout = {"clumping": 0.0, "least_visible": 0.0}
    neurons, glia = {"density_per_mm2": 1200.0}, {"density_per_mm2": 2000.0, "beside": 0.0}
    found = np.zeros(2)
    for seed in range(3):
        part = simulated(seed, shape=shape, neurons=neurons, glia=glia, layout=layout)
        kinds = np.zeros(part.count + 1, int)
        kinds[part.instances] = part.semantic
        for kind, own in zip(
            kinds[1:], part.footprints, strict=True
        ):  # a cell at one border is half inside, on average
            ends = [own.start[axis] in (0, 1000 - own.mask.shape[axis]) for axis in (1, 2)]
            found[kind - 1] += 0.5 ** sum(ends)
    expected = np.array([1200, 2000]) * area * 3
    assert found[0] == pytest.approx(expected[0], abs=4 * np.sqrt(expected[0]))
    assert found[1] == pytest.approx(expected[1], abs=4 * np.sqrt(expected[1]))


def test_size_asked_is_size_got() -> None:
    neurons = {"density_per_mm2": 900.0, "radius_um": 6.0, "radius_spread": 0.0, "pyramidal": 0.7}
    part = simulated(shape=(1, 800, 800), neurons=neurons, glia={"density_per_mm2": 0.0})
    areas = [part.footprints[index].mask.sum() * PIXEL**2 for index in whole(part)]
    assert len(areas) > 50
    assert np.allclose(areas, np.pi * 6.0**2, rtol=0.04)
    spread = simulated(shape=(1, 800, 800), neurons=neurons | {"radius_spread": 0.3}, glia={"density_per_mm2": 0.0})
    logs = [np.log(spread.footprints[index].mask.sum()) / 2 for index in whole(spread)]
    assert np.std(logs) == pytest.approx(0.28, abs=0.05)


def test_half_the_pixel_is_the_same_section() -> None:
    """Not only in distribution: the same seed lays out the same cells."""
    coarse = simulated(3, shape=(1, 200, 240), voxel_size_um=(0.5, 0.5, 0.5))
    fine = simulated(3, shape=(1, 400, 480), voxel_size_um=(0.25, 0.25, 0.25))
    assert abs(coarse.count - fine.count) <= 0.04 * coarse.count
    assert ((fine.semantic[:, ::2, ::2] > 0) == (coarse.semantic > 0)).mean() > 0.998


def test_a_cell_on_top_is_seen_whole_and_weakens_what_is_below() -> None:
    layout = {"clumping": 0.0, "overlapping": 1.0, "overlap": 0.5}
    neurons = {"density_per_mm2": 6000.0}
    opaque, clear = (
        simulated(1, shape=(1, 300, 300), layout=layout, neurons=neurons, staining={"see_through": value})
        for value in (0.0, 1.0)
    )
    assert np.array_equal(opaque.instances, clear.instances)
    covers = np.zeros(opaque.shape, int)
    for own in opaque.footprints:
        covers[own.slices] += own.mask
    both = covers >= 2
    assert both.sum() > 500
    # Where nothing lies below, both pictures are one (a few cells below are visible outside of the picture only); where
    # something does, its dye is added or it is not.
    assert (opaque.image == clear.image).all(axis=0)[covers == 1].mean() > 0.99
    assert (opaque.image[0][both] >= clear.image[0][both]).all()
    assert opaque.image[0][both].mean() > clear.image[0][both].mean() + 5
    # The order is true: with opaque cells the picture is that of the topmost one, whatever lies below, so that its dye
    # in an overlap is that of its own uncovered part; and clear ones are darker by the one below.
    level = {}
    for index in range(1, opaque.count + 1):
        alone = opaque.image[0][(opaque.instances == index) & (covers == 1)]
        level[index] = np.median(alone) if alone.size else np.nan
    agree, other = [], []
    for index, own in enumerate(opaque.footprints[:-1], 1):
        for above in range(index + 1, opaque.count):
            mask = both & (opaque.instances == above)
            here = mask[own.slices] & own.mask
            if here.sum() > 20 and abs(level[index] - level[above]) > 15:
                seen = np.median(opaque.image[0][own.slices][here])
                agree.append(abs(seen - level[above]))
                other.append(abs(seen - level[index]))
    assert len(agree) > 5
    assert np.median(agree) < 6 < np.median(other)


def test_hidden_cells_are_neither_drawn_nor_annotated() -> None:
    crowded = {"density_per_mm2": 9000.0}
    for least in (0.0, 0.5, 0.9):
        layout = {"clumping": 0.0, "overlapping": 1.0, "overlap": 0.3, "least_visible": least}
        part = simulated(2, shape=(1, 300, 300), neurons=crowded, layout=layout)
        shown = np.bincount(part.instances.ravel(), minlength=part.count + 1)[1:]
        share = np.array([shown[index] / part.footprints[index].mask.sum() for index in whole(part)])
        assert share.min() >= least
        if least == 0:
            assert share.min() < 0.4
        # What is not in a footprint is background in the picture.
        inside = np.zeros(part.shape, bool)
        for own in part.footprints:
            inside[own.slices] |= own.mask
        assert np.array_equal(inside, part.semantic > 0)


def test_spacing_keeps_cells_apart_and_overlap_lets_them_meet() -> None:
    def overlapping(**layout: Any) -> float:
        part = simulated(4, shape=(1, 400, 400), layout={"clumping": 0.0} | layout)
        covers = np.zeros(part.shape, int)
        for own in part.footprints:
            covers[own.slices] += own.mask
        return float((covers > 1).sum() / (covers > 0).sum())

    apart = overlapping(spacing=1.5, overlapping=0.0)
    touching = overlapping(spacing=1.0, overlapping=0.0)
    meeting = overlapping(spacing=1.0, overlapping=1.0, overlap=0.5)
    assert apart < 0.01 < touching < meeting


def test_layers_change_density_and_size_along_their_axis() -> None:
    layers = {"axis_degrees": 90.0, "density_per_mm": 3.0, "radius_per_mm": 1.0}
    layout = {"clumping": 0.0, "layers": layers}
    top, bottom, small, large = 0, 0, [], []
    for seed in range(3):
        part = simulated(seed, shape=(1, 1000, 600), layout=layout, glia={"density_per_mm2": 0.0})
        for own in part.footprints:
            if own.start[1] < 500:
                top += 1
                small.append(own.mask.sum())
            else:
                bottom += 1
                large.append(own.mask.sum())
    assert bottom / top == pytest.approx(np.exp(3.0 * 0.25), rel=0.25)  # middles of the halves lie 0.25 mm apart
    assert np.sqrt(np.median(large) / np.median(small)) == pytest.approx(np.exp(1.0 * 0.25), rel=0.1)


def test_pyramids_point_along_their_axis() -> None:
    neurons = {"density_per_mm2": 900.0, "pyramidal": 1.0, "elongation": 2.0, "along_spread_degrees": 5.0}
    heights, widths = [], []
    part = simulated(shape=(1, 600, 600), neurons=neurons, glia={"density_per_mm2": 0.0})
    for index in whole(part):
        _, height, width = part.footprints[index].mask.shape
        heights.append(height)
        widths.append(width)
    assert np.median(np.array(heights) / np.array(widths)) > 1.5


def test_silver_is_one_channel_and_dark_on_bright() -> None:
    part = simulate(Config(stain="silver", shape=(1, 200, 200)), np.random.default_rng(0))
    assert part.image.shape == (1, 1, 200, 200)
    assert part.channel_names == ("grey",)
    inside = part.semantic > 0
    assert part.image[0][inside].mean() < part.image[0][~inside].mean() - 20
    assert Config(stain="silver").staining.background == (186.0,)
    assert Config(stain="silver", staining={"rim": 1.0}).staining.full == (66.0,)


def test_colours_are_those_asked_for_at_amounts_0_half_and_1() -> None:
    for amount, wanted in ((0.0, 207.0), (0.5, 150.0), (1.0, 110.0)):
        assert simulator._colour(207.0, 150.0, 110.0, amount) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"shape": (3, 64, 64)}, "one plane"),
        ({"stain": "golgi"}, "stain"),
        ({"stain": "silver", "staining": {"background": (200.0, 200.0, 200.0)}}, "background"),
        ({"staining": {"full": (250.0, 250.0, 250.0)}}, "darker"),
        ({"staining": {"faintest": 0.001}}, "faintest"),
        ({"neurons": {"density": 1.0}}, "neurons.density"),
        ({"layout": {"overlap": 2.0}}, "overlap"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Config.model_validate(settings)


def test_no_cells_is_a_section_too() -> None:
    part = simulated(shape=(1, 9, 7), neurons={"density_per_mm2": 0.0}, glia={"density_per_mm2": 0.0})
    assert part.count == 0
    assert part.footprints == ()
    assert not part.semantic.any()


def test_torch_is_not_needed() -> None:
    code = "import sys, fewslice.synthesis.simulators.stained_section; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_are_like_real_sections(data_dir: Path) -> None:
    """Density and size of the defaults against the labels of four real tiles, which is where they come from."""
    tifffile = pytest.importorskip("tifffile")
    tiles = [tifffile.imread(data_dir / "nissl_cells" / "labels" / f"{index}.tif") for index in range(4)]
    area = sum(tile.size for tile in tiles) * 0.346**2 * 1e-6
    real = [np.bincount(tile.ravel())[1:] for tile in tiles]
    real = np.concatenate([part[part > 0] for part in real])
    parts = [simulate(Config(), np.random.default_rng(seed)) for seed in range(4)]
    made = np.concatenate([np.bincount(part.instances.ravel())[1:] for part in parts])
    assert len(made) / area == pytest.approx(len(real) / area, rel=0.2)
    assert np.median(made) == pytest.approx(np.median(real), rel=0.25)
