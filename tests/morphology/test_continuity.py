"""The operator along z: every step by hand, and all of it against a literal reading of the publication."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import numpy as np
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fewslice import morphology
from fewslice.errors import InputError
from fewslice.morphology import Config, PixelSizes, continuity, interpolation

Draw = Callable[[str], np.ndarray]
Blobs = Callable[..., np.ndarray]

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
SMALL = Config(min_area_um2=4 * 0.005**2, propagated_min_area_um2=6 * 0.005**2, erosion_um_per_um=1)
"""At unknown voxel size: 4 and 6 pixels, one pixel of erosion per plane."""

many = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)


def on(*planes: int, depth: int) -> np.ndarray:
    known = np.zeros(depth, dtype=bool)
    known[list(planes)] = True
    return known


def column(text: str) -> np.ndarray:
    """One voxel per plane."""
    return np.array(list(text)).reshape(-1, 1, 1) == "#"


def text(masks: np.ndarray) -> str:
    return "".join("#" if value else "." for value in masks[:, 0, 0])


# --- the publication, word by word ------------------------------------------------------------------------------------


def drop_in_plane(plane: np.ndarray, least: int) -> np.ndarray:
    labels, count = ndimage.label(plane, np.ones((3, 3)))
    kept = [n for n in range(1, count + 1) if (labels == n).sum() >= least]
    return np.isin(labels, kept)


def published(masks: np.ndarray, truth: np.ndarray, known: np.ndarray, sizes: PixelSizes) -> np.ndarray:
    """Sequential, in place, with two sweeps of propagation."""
    y = masks.copy()
    y[known] = truth[known]
    depth, guess = len(y), np.flatnonzero(~known)

    def drop() -> None:
        for i in guess:
            y[i] = drop_in_plane(y[i], sizes.min_area)

    drop()
    for order in [range(depth - 1, -1, -1), range(depth)] * 2:
        carried = np.zeros_like(y[0])
        for i in order:
            if known[i]:
                carried = y[i].copy()
                continue
            carried = ndimage.binary_erosion(carried, CROSS, iterations=int(sizes.erosion[0]), border_value=1)
            carried = drop_in_plane(carried, sizes.propagated_min_area)
            y[i] |= carried

    numbers = np.flatnonzero(known)
    for fill in (False, True):
        for i in guess:
            before, after = numbers[numbers < i], numbers[numbers > i]
            if len(before) and len(after):
                front, back = y[before[-1]], y[after[0]]
                y[i] = y[i] | (front & back) if fill else y[i] & (front | back)
        drop()
    for distance in (1, 2):
        for fill in (False, True):
            for i in guess:
                if distance <= i < depth - distance:
                    one, other = y[i - distance], y[i + distance]
                    y[i] = y[i] | (one & other) if fill else y[i] & (one | other)
            drop()
    return y


@many
@given(seeds, st.lists(st.booleans(), min_size=1, max_size=9), st.floats(0.1, 0.9))
def test_whole_operator_is_the_published_one(blobs: Blobs, seed: int, planes: list[bool], share: float) -> None:
    generator, known = np.random.default_rng(seed), np.array(planes)
    shape = (known.size, 14, 17)
    masks, truth = blobs(generator, shape, share), blobs(generator, shape, share)
    expected = published(masks, truth, known, morphology.in_pixels(SMALL, None))
    assert (morphology.clean(masks, truth, known, SMALL) == expected).all()


def test_published_sizes_are_the_default(blobs: Blobs) -> None:
    generator, known = np.random.default_rng(3), on(1, 6, depth=8)
    masks, truth = (np.kron(blobs(generator, (8, 9, 9)), np.ones((1, 9, 9), bool)) for _ in range(2))
    expected = published(masks, truth, known, PixelSizes(300, 450, (3.0, 3.0)))
    assert (expected != np.where(known[:, None, None], truth, masks)).any()
    assert (morphology.clean(masks, truth, known) == expected).all()
    assert (morphology.clean(masks, truth, known, voxel_size_um=(0.005, 0.005, 0.005)) == expected).all()


@many
@given(seeds, st.lists(st.booleans(), min_size=1, max_size=7))
def test_only_annotated_truth_and_predicted_masks_count(blobs: Blobs, seed: int, planes: list[bool]) -> None:
    generator, known = np.random.default_rng(seed), np.array(planes)
    masks, truth, other = (blobs(generator, (known.size, 9, 11)) for _ in range(3))
    result = morphology.clean(masks, truth, known, SMALL)
    assert (result[known] == truth[known]).all()
    spread = known[:, None, None]
    again = morphology.clean(np.where(spread, other, masks), np.where(spread, truth, other), known, SMALL)
    assert (again == result).all()


# --- step 0 -----------------------------------------------------------------------------------------------------------


def test_small_components_of_predicted_planes_go(draw: Draw) -> None:
    masks = draw("""
        ##...#  ##...#  ##...#
        ......  ......  #.....
        ..#...  ..#...  ..#..#
        .#...#  .#...#  .#...#
        #....#  #....#  #....#
    """)
    expected = draw("""
        ##...#  ......  ##....
        ......  ......  #.....
        ..#...  ..#...  ..#..#
        .#...#  .#....  .#...#
        #....#  #.....  #....#
    """)
    assert (morphology.drop_small(masks, on(0, depth=3), 3) == expected).all()  # a diagonal connects, z does not


@pytest.mark.parametrize("least", [0, 1])
def test_components_of_one_pixel_stay_if_one_is_enough(least: int, draw: Draw) -> None:
    masks = draw("#.#  ..#")
    assert (morphology.drop_small(masks, on(depth=2), least) == masks).all()


@many
@given(seeds, st.integers(0, 30))
def test_dropping_twice_drops_no_more(blobs: Blobs, seed: int, least: int) -> None:
    masks, known = blobs(np.random.default_rng(seed), (3, 9, 9), 0.3), on(1, depth=3)
    once = morphology.drop_small(masks, known, least)
    assert (once <= masks).all()
    assert (morphology.drop_small(once, known, least) == once).all()


# --- step 1 -----------------------------------------------------------------------------------------------------------

SQUARE = """
    .......  .......  .......
    .......  .#####.  .......
    .......  .#####.  .......
    .......  .#####.  .......
    .......  .#####.  .......
    .......  .#####.  .......
    .......  .......  .......
"""


def test_truth_shrinks_both_ways(draw: Draw) -> None:
    masks = draw(SQUARE)[[0, 0, 0, 1, 0, 0]]
    expected = draw("""
        .......  .......  .......  .......  .......  .......
        .......  .......  .......  .#####.  .......  .......
        .......  .......  ..###..  .#####.  ..###..  .......
        .......  ...#...  ..###..  .#####.  ..###..  ...#...
        .......  .......  ..###..  .#####.  ..###..  .......
        .......  .......  .......  .#####.  .......  .......
        .......  .......  .......  .......  .......  .......
    """)
    assert (morphology.propagate(masks, on(3, depth=6), (1, 1), 1) == expected).all()


def test_a_diamond_shrinks_along_the_cross(draw: Draw) -> None:
    masks = draw("""
        ..#..  .....  .....
        .###.  .....  .....
        #####  .....  .....
        .###.  .....  .....
        ..#..  .....  .....
    """)
    expected = draw("""
        ..#..  .....  .....
        .###.  ..#..  .....
        #####  .###.  ..#..
        .###.  ..#..  .....
        ..#..  .....  .....
    """)
    # the rim does not erode: the tips touch it and shrink from their sides only
    assert (morphology.propagate(masks, on(0, depth=3), (1, 1), 1) == expected).all()


def test_rim_does_not_erode(draw: Draw) -> None:
    masks = draw("""
        ###..  .....  .....
        ###..  .....  .....
        ###..  .....  .....
    """)
    expected = draw("""
        ###..  ##...  #....
        ###..  ##...  #....
        ###..  ##...  #....
    """)
    assert (morphology.propagate(masks, on(0, depth=3), (1, 1), 1) == expected).all()
    full = np.zeros((9, 3, 3), dtype=bool)
    full[4] = True
    assert morphology.propagate(full, on(4, depth=9), (3, 3), 9).all()
    assert not morphology.propagate(full, on(4, depth=9), (3, 3), 10)[~on(4, depth=9)].any()


def test_what_became_small_goes_no_further(draw: Draw) -> None:
    square = draw(SQUARE)
    reach = [
        morphology.propagate(square[[1, 0, 0, 0]], on(0, depth=4), (1, 1), least).sum(axis=(1, 2)).tolist()
        for least in (1, 2, 9, 10)
    ]
    assert reach == [[25, 9, 1, 0], [25, 9, 0, 0], [25, 9, 0, 0], [25, 0, 0, 0]]


def test_propagation_ends_at_the_next_annotated_plane(draw: Draw) -> None:
    square = draw(SQUARE)
    masks = square[[1, 0, 0, 0]]
    assert morphology.propagate(masks, on(0, 2, depth=4), (1, 1), 1).sum(axis=(1, 2)).tolist() == [25, 9, 0, 0]
    assert (morphology.propagate(masks, on(0, 1, depth=4), (1, 1), 1) == masks).all()  # adjacent


def test_erosion_differs_along_y_and_x_and_may_be_no_whole_number(draw: Draw) -> None:
    square = draw(SQUARE)
    expected = draw("""
        .......  .......  .......  .......  .......
        .#####.  .......  .......  .......  .......
        .#####.  .#####.  ..###..  .......  .......
        .#####.  .#####.  .#####.  ..###..  .......
        .#####.  .#####.  ..###..  .......  .......
        .#####.  .......  .......  .......  .......
        .......  .......  .......  .......  .......
    """)
    # |Δy| / 1 + |Δx| / 0.5 must exceed the number of planes: the sides stand still in the first plane
    result = morphology.propagate(square[[1, 0, 0, 0, 0]], on(0, depth=5), (1, 0.5), 1)
    assert (result[:2] == np.stack([expected[0], expected[1]])).all()
    far = np.array([[min((1 + min(i, 4 - i)) / 1, (1 + min(j, 4 - j)) / 0.5) for j in range(5)] for i in range(5)])
    for planes in range(1, 5):
        assert (result[planes, 1:6, 1:6] == (far > planes)).all()


def test_rounding_does_not_let_a_pixel_survive(draw: Draw) -> None:
    masks = draw(".###########  ............")
    expected = draw(".###########  ..........##")  # 9 · (1 / 9) is 1.0000000000000002 when added up
    assert (morphology.propagate(masks, on(0, depth=2), (9, 9), 1) == expected).all()


def test_no_erosion_carries_the_truth_to_the_ends(draw: Draw) -> None:
    masks = draw(SQUARE)[[0, 1, 0, 0]]
    result = morphology.propagate(masks, on(1, depth=4), (0, 0), 25)
    assert (result == masks[1]).all()


@many
@given(seeds, st.lists(st.booleans(), min_size=1, max_size=8))
def test_propagating_twice_adds_nothing(blobs: Blobs, seed: int, planes: list[bool]) -> None:
    known = np.array(planes)
    masks = blobs(np.random.default_rng(seed), (known.size, 12, 12), 0.6)
    once = morphology.propagate(masks, known, (1, 1), 5)
    assert (once >= masks).all()
    assert (once[known] == masks[known]).all()
    assert (morphology.propagate(once, known, (1, 1), 5) == once).all()


@many
@given(seeds, st.sampled_from([(1.0, 1.0), (0.7, 1.3), (3.0, 2.0)]))
def test_planes_twice_as_thick_erode_twice_as_much(blobs: Blobs, seed: int, erosion: tuple[float, float]) -> None:
    thin = np.zeros((7, 20, 20), dtype=bool)
    thin[0] = blobs(np.random.default_rng(seed), (1, 20, 20), 0.8)[0]
    double = (2 * erosion[0], 2 * erosion[1])
    known = on(0, depth=7)
    thick = morphology.propagate(thin[::2], known[::2], double, 3)
    assert (thick == morphology.propagate(thin, known, erosion, 3)[::2]).all()


# --- step 2 -----------------------------------------------------------------------------------------------------------


def test_bracketed_planes(draw: Draw) -> None:
    masks = draw("""
        ####  ##..  ####  #.#.  .##.  ####
        ####  ....  ....  ....  ....  ....
    """)
    known = on(1, 4, depth=6)
    kept = draw("""
        ####  ##..  ###.  #.#.  .##.  ####
        ####  ....  ....  ....  ....  ....
    """)
    filled = draw("""
        ####  ##..  ####  ###.  .##.  ####
        ####  ....  ....  ....  ....  ....
    """)
    assert (morphology.keep_bracketed(masks, known) == kept).all()
    assert (morphology.fill_bracketed(masks, known) == filled).all()


@pytest.mark.parametrize("planes", [(), (2,), (2, 3), (0, 1), (0, 1, 2, 3, 4, 5)])
def test_nothing_is_bracketed_by_one_plane_or_between_neighbours(planes: tuple[int, ...], blobs: Blobs) -> None:
    masks, known = blobs(np.random.default_rng(0), (6, 5, 5)), on(*planes, depth=6)
    assert (morphology.keep_bracketed(masks, known) == masks).all()
    assert (morphology.fill_bracketed(masks, known) == masks).all()


@pytest.mark.parametrize(
    ("before", "kept", "filled"),
    [
        ("..#..", ".....", "..#.."),
        (".#.#.", ".....", ".###."),
        (".##..", ".##..", ".##.."),
        ("#.#.#", "#.#.#", "#####"),
        ("#...#", "#...#", "#...#"),
        ("##", "##", "##"),
    ],
)
def test_neighbours(before: str, kept: str, filled: str) -> None:
    known = on(depth=len(before))
    if before == "#.#.#":
        kept = "#...#"  # the middle has no support, the ends are not asked
    assert text(morphology.keep_supported(column(before), known)) == kept
    assert text(morphology.fill_supported(column(before), known)) == filled


@pytest.mark.parametrize(
    ("before", "kept", "filled"),
    [
        ("..##..", "......", "..##.."),
        ("#.#.#.", "#.#.#.", "#.#.#."),
        (".#...#", ".#...#", ".#.#.#"),
        ("#.##.#", "#.##.#", "#.##.#"),
    ],
)
def test_neighbours_of_neighbours(before: str, kept: str, filled: str) -> None:
    known = on(depth=len(before))
    assert text(morphology.keep_supported(column(before), known, 2)) == kept
    assert text(morphology.fill_supported(column(before), known, 2)) == filled


def test_annotated_planes_support_and_do_not_change() -> None:
    known = on(2, depth=5)
    assert text(morphology.keep_supported(column("..##."), known)) == "..##."
    assert text(morphology.keep_supported(column("..#.."), known)) == "..#.."
    assert text(morphology.fill_supported(column(".#.#."), known)) == ".#.#."


@pytest.mark.parametrize("step", continuity.PASSES)
@many
@given(seed=seeds, planes=st.lists(st.booleans(), min_size=1, max_size=8))
def test_no_pass_changes_annotated_planes_or_its_argument(
    step: Callable[[np.ndarray, np.ndarray], np.ndarray], blobs: Blobs, seed: int, planes: list[bool]
) -> None:
    known = np.array(planes)
    masks = blobs(np.random.default_rng(seed), (known.size, 4, 4))
    before = masks.copy()
    result = step(masks, known)
    assert (result[known] == before[known]).all()
    assert (masks == before).all()
    assert not np.shares_memory(result, masks)


# --- volumes at the limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [(), (0,), (2,), (1, 2), (0, 4), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_volumes_stay_so(value: bool, planes: tuple[int, ...]) -> None:
    masks = np.full((5, 30, 30), value)
    assert (morphology.clean(masks, masks, on(*planes, depth=5)) == value).all()


def test_every_plane_annotated_gives_the_truth(blobs: Blobs) -> None:
    generator = np.random.default_rng(1)
    masks, truth = blobs(generator, (4, 9, 9)), blobs(generator, (4, 9, 9))
    assert (morphology.clean(masks, truth, np.ones(4, dtype=bool)) == truth).all()


def test_an_object_behind_the_last_annotated_plane_is_kept() -> None:
    masks, truth = np.zeros((2, 6, 30, 30), dtype=bool)
    masks[3:, 5:25, 5:25] = True
    result = morphology.clean(masks, truth, on(0, 1, depth=6))
    assert result.sum(axis=(1, 2)).tolist() == [0, 0, 0, 400, 400, 400]


def test_one_plane_alone() -> None:
    masks = np.zeros((1, 30, 30), dtype=bool)
    masks[0, 2:22, 2:22] = masks[0, 28, 28] = True
    result = morphology.clean(masks, np.zeros_like(masks), on(depth=1))
    assert result.sum() == 400
    assert not morphology.clean(masks, np.zeros_like(masks), on(0, depth=1)).any()


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_published_pixels() -> None:
    assert morphology.in_pixels(Config(), None) == PixelSizes()
    assert morphology.in_pixels(Config(), (0.005, 0.005, 0.005)) == PixelSizes(300, 450, (3.0, 3.0))


def test_pixels_of_other_voxels() -> None:
    config = Config(min_area_um2=10, propagated_min_area_um2=0, erosion_um_per_um=0.5)
    sizes = morphology.in_pixels(config, (2, 0.5, 0.25))
    assert sizes == PixelSizes(80, 0, (2.0, 4.0))
    assert morphology.in_pixels(Config(min_area_um2=1), (1, 0.7, 0.7)).min_area == 3  # 2.04 pixels are not covered by 2
    assert morphology.in_pixels(Config(min_area_um2=0.0001), (1, 0.001, 0.001)).min_area == 100  # 100.00000000000001


@pytest.mark.parametrize("field", ["min_area_um2", "propagated_min_area_um2", "erosion_um_per_um"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_impossible_sizes_are_refused(field: str, value: float) -> None:
    with pytest.raises(pydantic.ValidationError, match=field):
        Config.model_validate({field: value})


def test_settings_are_closed_and_described() -> None:
    with pytest.raises(pydantic.ValidationError, match="min_area_px"):
        Config.model_validate({"min_area_px": 300})
    assert all("µm" in (field.description or "") for field in Config.model_fields.values())


# --- what is refused --------------------------------------------------------------------------------------------------

STEPS: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = [
    *continuity.PASSES,
    lambda masks, known: morphology.drop_small(masks, known, 3),
    morphology.propagate,
    lambda masks, known: morphology.clean(masks, np.zeros_like(masks), known),
]


@pytest.mark.parametrize("step", STEPS)
def test_masks_that_do_not_fit_are_refused(step: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    masks, known = np.zeros((3, 4, 5), dtype=bool), np.zeros(3, dtype=bool)
    with pytest.raises(InputError, match=r"masks must be bool.*uint8"):
        step(masks.astype(np.uint8), known)
    with pytest.raises(InputError, match=r"masks must be bool.*\(4, 5\)"):
        step(masks[0], known)
    with pytest.raises(InputError, match=r"known must be one bool per plane, bool \(3,\)"):
        step(masks, known[:2])
    with pytest.raises(InputError, match=r"known must be one bool per plane.*int64"):
        step(masks, np.array([0, 1, 2]))


def test_truth_and_voxels_that_do_not_fit_are_refused() -> None:
    masks, known = np.zeros((3, 4, 5), dtype=bool), np.zeros(3, dtype=bool)
    with pytest.raises(InputError, match=r"truth must be bool \(3, 4, 5\).*\(3, 4, 6\)"):
        morphology.clean(masks, np.zeros((3, 4, 6), dtype=bool), known)
    with pytest.raises(InputError, match=r"truth must be bool.*uint8"):
        morphology.clean(masks, masks.astype(np.uint8), known)
    with pytest.raises(InputError, match="voxel size"):
        morphology.clean(masks, masks, known, voxel_size_um=(1, 0, 1))


def test_settings_of_steps_that_cannot_be_are_refused() -> None:
    masks, known = np.zeros((3, 4, 5), dtype=bool), np.zeros(3, dtype=bool)
    with pytest.raises(InputError, match="erosion must be two numbers"):
        morphology.propagate(masks, known, (3, -1))
    for step in (morphology.keep_supported, morphology.fill_supported):
        with pytest.raises(InputError, match="at least 1 plane, got 0"):
            step(masks, known, 0)


@pytest.mark.parametrize("module", [continuity, interpolation])
def test_examples_in_docstrings(module: object) -> None:
    failed, attempted = doctest.testmod(module)  # type: ignore[arg-type]
    assert (failed, attempted > 0) == (0, True)
