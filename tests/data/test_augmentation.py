"""Augmentation: image, target and weight move together, every draw comes from the generator, nothing unknown leaks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from skimage.transform import PiecewiseAffineTransform
from torch import Tensor

from fewslice.data import augmentation
from fewslice.data.augmentation import Config, augment
from fewslice.errors import InputError

STRONG = Config(affine=1.0, elastic=1.0, gain=1.0, contrast=1.0, offset=1.0, gamma=1.0, blur=1.0, noise=1.0)
GEOMETRY = Config.none(flip=0.5, right_angle=1.0, affine=1.0, elastic=1.0)
PIECEWISE = Config.none(piecewise_affine=1.0)
BENT = GEOMETRY.model_copy(update={"piecewise_affine": 1.0, "rotation_choices_deg": (22.5, 30.0, 45.0)})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patches(shape: tuple[int, ...] = (2, 2, 4, 24, 24), classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(7)
    batch, _, *space = shape
    image = torch.rand(shape, generator=generator)
    target = torch.randint(0, classes, (batch, *space), generator=generator)
    weight = (torch.rand((batch, *space), generator=generator) > 0.3).float()
    return image, target, weight


def one_hot(target: Tensor, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()


def blob(height: int = 48, width: int = 48, y: float = 18.0, x: float = 30.0, sigma: float = 3.0) -> Tensor:
    """Return a (1, 1, 1, height, width) Gaussian."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    return torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))[None, None, None]


def second_moments(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre (y, x) and covariance of an intensity distribution."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(s)) for s in plane.shape], indexing="ij"), -1)
    mass = plane / plane.sum()
    centre = (grid * mass[..., None]).sum((0, 1))
    off = grid - centre
    return centre, torch.einsum("yxi,yxj,yx->ij", off, off, mass)


def test_none_changes_nothing_and_copies() -> None:
    given = patches()
    got = augment(*given, seeded(), Config.none())
    for a, b in zip(got, given, strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_none_switches_off_every_probability() -> None:
    """Named one by one, whatever the defaults are."""
    fields = {name for name, field in Config.model_fields.items() if "probability" in str(field.description)}
    assert fields == set(augmentation._PROBABILITIES)
    assert all(getattr(Config.none(), name) == 0 for name in fields)
    assert Config().piecewise_affine == 0
    assert Config().rotation_choices_deg == ()


@pytest.mark.parametrize("soft", [False, True])
def test_inputs_are_left_alone_and_shapes_and_types_kept(soft: bool) -> None:
    image, target, weight = patches()
    given = (image, one_hot(target) if soft else target, weight)
    before = [t.clone() for t in given]
    got = augment(*given, seeded(), STRONG)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in given]
    assert all(t.isfinite().all() for t in got)


@pytest.mark.parametrize("config", [STRONG, PIECEWISE, BENT], ids=["strong", "piecewise", "all_warps"])
def test_every_draw_comes_from_the_generator(config: Config) -> None:
    image, target, _ = patches()
    given = (image, target, torch.rand(target.shape, generator=seeded()))
    state = torch.get_rng_state()
    one = augment(*given, seeded(5), config)
    torch.manual_seed(99)
    same = augment(*given, seeded(5), config)
    other = augment(*given, seeded(6), config)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    torch.manual_seed(3)
    untouched = torch.get_rng_state()
    augment(*given, seeded(5), config)
    assert torch.equal(torch.get_rng_state(), untouched)
    torch.set_rng_state(state)


def test_samples_of_a_batch_differ() -> None:
    image, target, weight = patches((2, 1, 2, 24, 24))
    image[1], target[1], weight[1] = image[0], target[0], weight[0]
    got, _, _ = augment(image, target, weight, seeded(), Config.none(affine=1.0))
    assert not torch.equal(got[0], got[1])


def test_flips_and_turns_are_exact_and_reach_all_sixteen_poses() -> None:
    """Each result is one of the 16 poses (8 in the plane, z flipped or not) of the whole triple; all of them occur."""
    image = torch.arange(2 * 2 * 3 * 4 * 4, dtype=torch.float32).view(2, 2, 3, 4, 4)
    target, weight = image[:, 0].long(), image[:, 1] + 1.0
    config = Config.none(flip=0.5, right_angle=1.0)
    poses = [
        lambda t, z=z, turns=turns, mirrored=mirrored: torch.rot90(
            t.flip([axis for axis, on in ((-3, z), (-1, mirrored)) if on]), turns, (-2, -1)
        )
        for z in (False, True)
        for mirrored in (False, True)
        for turns in range(4)
    ]
    seen = set()
    for seed in range(60):
        got, classes, weights = augment(image, target, weight, seeded(seed), config)
        for index in range(2):
            found = [n for n, pose in enumerate(poses) if torch.equal(got[index], pose(image[index]))]
            assert len(found) == 1
            assert torch.equal(classes[index], poses[found[0]](target[index]))
            assert torch.equal(weights[index], poses[found[0]](weight[index]))
            seen.add(found[0])
    assert seen == set(range(16))


@pytest.mark.parametrize(
    ("shape", "voxel"), [((1, 1, 2, 4, 6), None), ((1, 1, 2, 5, 5), (1.0, 0.5, 1.0))], ids=["oblong", "oblong_pixels"]
)
def test_no_quarter_turn_unless_patch_and_pixels_are_square(shape: Any, voxel: Any) -> None:
    image = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    target, weight = image[:, 0].long(), torch.ones(image[:, 0].shape)
    half_turned = 0
    for seed in range(20):
        got, _, _ = augment(image, target, weight, seeded(seed), Config.none(right_angle=1.0), voxel_size_um=voxel)
        assert torch.equal(got, image) or torch.equal(got, image.flip((-2, -1)))
        half_turned += not torch.equal(got, image)
    assert 0 < half_turned < 20


@pytest.mark.parametrize("config", [GEOMETRY, PIECEWISE, BENT], ids=["smooth", "piecewise", "all"])
@pytest.mark.parametrize("seed", range(4))
def test_image_target_and_weight_are_warped_alike(seed: int, config: Config) -> None:
    """A scene of two flat halves and a stripe of unknown: all three still agree, away from the edges between them."""
    labels = torch.zeros(1, 2, 40, 40, dtype=torch.long)
    labels[..., 14:] = 1
    known = torch.ones(1, 2, 40, 40)
    known[:, :, :8] = 0.0
    image = torch.stack((labels.float(), known), 1)
    got, target, weight = augment(image, labels, known, seeded(seed), config)
    inside = weight > 0  # outside the patch the image is mirrored, the rest unknown
    certain = inside & ((got[:, 0] - 0.5).abs() > 0.499)
    assert certain.float().mean() > 0.3
    assert torch.equal(target[certain], got[:, 0][certain].round().long())
    # Where the nearest pixel is known, at least half of each axis' interpolation is.
    assert got[:, 1][inside].min() >= 0.25
    soft = augment(image, one_hot(labels, 2), known, seeded(seed), config)
    assert torch.equal(soft[0], got)
    assert torch.equal(soft[2], weight)
    clear = certain & (weight > 0) & (got[:, 1] > 0.999)
    torch.testing.assert_close(soft[1][:, 1][clear], got[:, 0][clear], rtol=0, atol=1e-3)


def test_labels_stay_valid_classes_and_weights_keep_their_values() -> None:
    image, target, weight = patches()
    weight = weight * torch.where(torch.arange(24) < 12, 0.25, 1.0)
    for seed in range(5):
        _, labels, weights = augment(image, target, weight, seeded(seed), STRONG)
        assert set(labels.unique().tolist()) <= {0, 1, 2}
        assert set(weights.unique().tolist()) <= {0.0, 0.25, 1.0}
        _, soft, weights = augment(image, one_hot(target), weight, seeded(seed), STRONG)
        assert soft.min() >= 0
        assert soft.max() <= 1 + 1e-5
        torch.testing.assert_close(soft.sum(1)[weights > 0], torch.ones(int((weights > 0).sum())), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [GEOMETRY, PIECEWISE, BENT], ids=["smooth", "piecewise", "all"])
@pytest.mark.parametrize("soft", [False, True])
def test_targets_where_nothing_is_known_go_nowhere(soft: bool, config: Config) -> None:
    image, target, weight = patches()
    wanted = one_hot(target) if soft else target
    unknown = weight == 0
    spoiled = torch.where(unknown[:, None], float("nan"), wanted) if soft else torch.where(unknown, 2**20, target)
    for seed in range(4):
        _, clean, weights = augment(image, wanted, weight, seeded(seed), config)
        _, dirty, same = augment(image, spoiled, weight, seeded(seed), config)
        assert torch.equal(weights, same)
        seen = weights > 0
        if soft:
            assert torch.equal(clean.movedim(1, -1)[seen], dirty.movedim(1, -1)[seen])
        else:
            assert torch.equal(clean[seen], dirty[seen])


def test_outside_the_patch_nothing_is_known() -> None:
    """Turned by 45 degrees, the corners come from outside: weight 0 there, 1 within."""
    image, target, weight = torch.rand(1, 1, 2, 41, 41), torch.zeros(1, 2, 41, 41).long(), torch.ones(1, 2, 41, 41)
    config = Config.none(affine=1.0, rotation_deg=45, scale=1.0, shear=0.0)
    for seed in range(200):
        generator = seeded(seed)
        got, _, weights = augment(image, target, weight, generator, config)
        assert got.min() >= 0
        assert got.max() <= 1
        assert weights[0, :, 20, 20].all()
        if not weights[0, 0, 0, 0]:
            break
    corners = weights[0, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners.any()
    rows = torch.arange(41) - 20
    assert weights[0][:, rows[:, None] ** 2 + rows[None] ** 2 <= 19**2].all()


def test_shrinking_leaves_a_margin_of_the_right_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrunk to half, 40 pixels cover 20: a margin of 10 is unknown."""
    monkeypatch.setattr(augmentation, "_uniform", lambda low, high, generator: low)
    config = Config.none(affine=1.0, rotation_deg=0, scale=2.0, shear=0.0)
    image, target, weight = torch.rand(1, 1, 1, 40, 40), torch.zeros(1, 1, 40, 40).long(), torch.ones(1, 1, 40, 40)
    _, _, weights = augment(image, target, weight, seeded(), config)
    expected = torch.zeros(40, 40)
    expected[10:30, 10:30] = 1.0
    assert torch.equal(weights[0, 0], expected)


@pytest.mark.parametrize("pixel", [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0)])
def test_rotation_is_one_of_physical_space(monkeypatch: pytest.MonkeyPatch, pixel: tuple[float, float]) -> None:
    """Whatever the pixels, a blob that is round in µm stays round in µm and keeps its distance from the centre."""
    monkeypatch.setattr(augmentation, "_uniform", lambda low, high, generator: high)
    config = Config.none(affine=1.0, rotation_deg=30, scale=1.0, shear=0.0)
    size = torch.tensor(pixel)
    height, width = (round(64 / p) for p in pixel)
    rows, columns = torch.arange(height)[:, None] * pixel[0], torch.arange(width)[None] * pixel[1]
    image = torch.exp(-((rows - 24) ** 2 + (columns - 40) ** 2) / (2 * 4.0**2))[None, None, None]
    target, weight = torch.zeros(image[:, 0].shape).long(), torch.ones(image[:, 0].shape)
    got, _, _ = augment(image, target, weight, seeded(), config, voxel_size_um=(2.0, *pixel))
    middle = (torch.tensor([height, width]) - 1) / 2
    before, _ = second_moments(image[0, 0, 0])
    after, covariance = second_moments(got[0, 0, 0])
    start, end = (before - middle) * size, (after - middle) * size
    assert end.norm().item() == pytest.approx(start.norm().item(), rel=0.02)
    angle = torch.atan2(end[0], end[1]) - torch.atan2(start[0], start[1])
    assert abs(math.degrees(angle)) == pytest.approx(30, abs=1)
    physical = covariance * size[:, None] * size[None, :]
    assert physical[0, 0].item() == pytest.approx(physical[1, 1].item(), rel=0.05)
    assert abs(physical[0, 1].item()) < 0.05 * physical[0, 0].item()


@pytest.mark.parametrize("config", [GEOMETRY, PIECEWISE, BENT], ids=["smooth", "piecewise", "all"])
def test_planes_are_never_mixed(config: Config) -> None:
    """A volume whose planes are constant keeps every plane's value, in order, under any warp of the plane."""
    image = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(1, 1, 6, 32, 32).clone()
    target, weight = image[:, 0].long(), torch.ones(1, 6, 32, 32)
    unturned = config.model_copy(update={"flip": 0.0, "right_angle": 0.0})
    got, labels, weights = augment(image, target, weight, seeded(), unturned)
    torch.testing.assert_close(got, image, rtol=0, atol=1e-5)
    assert torch.equal(labels[weights > 0], target[weights > 0])
    assert (weights[:, :1] == weights).all()  # one warp for all planes


def test_affine_sizes_stay_in_their_ranges() -> None:
    config = Config.none(affine=1.0, rotation_deg=20, scale=1.5, shear=0.0)
    zooms, angles = [], []
    for seed in range(200):
        matrix = augmentation._draw_affine(seeded(seed), config, (1.0, 1.0, 1.0))
        zooms.append(1 / math.sqrt(float(torch.linalg.det(matrix))))
        angles.append(math.degrees(math.atan2(float(matrix[1, 0]), float(matrix[0, 0]))))
    assert 1 / 1.5 <= min(zooms) < 0.72
    assert 1.4 < max(zooms) <= 1.5
    assert -20 <= min(angles) < -17
    assert 17 < max(angles) <= 20


def test_elastic_displacement_is_smooth_and_of_the_drawn_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_uniform", lambda low, high, generator: high)
    config = Config.none(elastic=1.0, elastic_spacing=16, elastic_displacement=4.0)
    fields = [augmentation._draw_displacement(seeded(seed), config, (70, 130)) for seed in range(30)]
    assert all(field.shape == (70, 130, 2) for field in fields)
    every = torch.stack(fields)
    assert 2.0 < every.std() < 4.5
    assert abs(float(every.mean())) < 0.3
    # Neighbouring pixels move alike: no step exceeds what a few sigma per spacing allow.
    assert every.diff(dim=1).abs().max() < 4.0
    assert every.diff(dim=2).abs().mean() < 4.0 / 16 * 2


def test_rotation_is_one_of_the_choices_and_nothing_else() -> None:
    config = Config.none(affine=1.0, rotation_choices_deg=(22.5, 30.0, 45.0), scale=1.0, shear=0.0)
    counts: dict[float, int] = {}
    for seed in range(600):
        matrix = augmentation._draw_affine(seeded(seed), config, (1.0, 1.0, 1.0))
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(2), rtol=0, atol=1e-6)
        angle = math.degrees(math.atan2(float(matrix[1, 0]), float(matrix[0, 0])))
        counts[round(angle, 3)] = counts.get(round(angle, 3), 0) + 1
    assert set(counts) == {-45.0, -30.0, -22.5, 22.5, 30.0, 45.0}
    assert min(counts.values()) > 60  # 100 expected, more than four standard deviations


def test_piecewise_affine_displaces_the_nodes_by_their_jitter() -> None:
    """13 × 22 pixels between 4 × 4 nodes, which lie on every fourth row and every seventh column."""
    jitter = torch.randn(4, 4, 2, generator=seeded()) / 3
    field = augmentation._piecewise_affine(jitter, (13, 22))
    torch.testing.assert_close(field[::4, ::7], jitter * torch.tensor([4.0, 7.0]), rtol=0, atol=1e-6)


def test_piecewise_affine_is_affine_in_each_triangle_and_continuous() -> None:
    """Cells of 8 × 8 pixels, cut where row equals column: second differences vanish that span no edge."""
    jitter = torch.randn(4, 4, 2, generator=seeded()) / 3
    field = augmentation._piecewise_affine(jitter, (25, 25))
    for row in range(0, 24, 8):
        for column in range(0, 24, 8):
            cell = field[row : row + 9, column : column + 9]
            for lower in (True, False):
                v, u = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
                inside = v >= u if lower else v <= u
                for values, where in (
                    (cell.diff(n=2, dim=0), inside[2:] & inside[:-2]),
                    (cell.diff(n=2, dim=1), inside[:, 2:] & inside[:, :-2]),
                    (cell.diff(dim=0).diff(dim=1), inside[1:, :-1] & inside[:-1, 1:]),
                ):
                    assert where.sum() >= 20
                    assert values[where].abs().max() < 1e-5
            bend = cell.diff(dim=0).diff(dim=1).diagonal()
            assert bend.abs().max() > 1e-3  # across the diagonal it does change direction
    # Cells of a hundredth of a node's distance: no step is larger than the steepest triangle makes it.
    fine = augmentation._piecewise_affine(jitter, (301, 301)) / 100
    for axis in (0, 1):
        assert fine.diff(dim=axis).abs().max() <= jitter.diff(dim=axis).abs().max() / 100 + 1e-5


@pytest.mark.parametrize("shape", [(40, 40), (23, 64), (7, 5)])
@pytest.mark.parametrize("nodes", [2, 4, 6])
def test_piecewise_affine_is_that_of_scikit_image(nodes: int, shape: tuple[int, int]) -> None:
    """On sheared copies of the nodes Delaunay's triangulation is unique, and cuts cells along the same diagonal."""
    jitter = torch.randn(nodes, nodes, 2, generator=seeded(nodes)).double() / 4
    shear = np.array([[1.0, -0.3], [-0.3, 1.0]])
    cell = np.array([(extent - 1) / (nodes - 1) for extent in shape])
    regular = np.stack(np.meshgrid(np.arange(nodes), np.arange(nodes), indexing="ij"), -1).reshape(-1, 2)
    moved = (regular + jitter.numpy().reshape(-1, 2)) * cell
    oracle = PiecewiseAffineTransform.from_estimate(regular @ shear.T, moved)
    pixels = np.stack(np.meshgrid(*(np.arange(extent) for extent in shape), indexing="ij"), -1).reshape(-1, 2)
    # A hair towards the middle, so that rounding does not put pixels of the border outside.
    middle = (np.array(shape) - 1) / 2
    expected = oracle((middle + (pixels - middle) * (1 - 1e-9)) / cell @ shear.T)
    field = augmentation._piecewise_affine(jitter.float(), shape)
    np.testing.assert_allclose(pixels + field.numpy().reshape(-1, 2), expected, rtol=0, atol=2e-5)


def test_patches_are_read_where_the_moved_nodes_say() -> None:
    """An image of its own coordinates is, at each node, the coordinates that the node has moved to, on every plane."""
    rows, columns = torch.meshgrid(torch.arange(25.0), torch.arange(37.0), indexing="ij")
    image = torch.stack((rows, columns))[None, :, None].expand(1, 2, 3, 25, 37).contiguous()
    target, weight = torch.zeros(1, 3, 25, 37).long(), torch.ones(1, 3, 25, 37)
    for seed in range(5):
        generator = seeded(seed)
        torch.rand(7, generator=generator)  # three flips, right angle, affine, elastic, piecewise affine
        jitter = augmentation._draw_jitter(generator, PIECEWISE)
        got, _, weights = augment(image, target, weight, seeded(seed), PIECEWISE)
        nodes = torch.stack((rows, columns), -1)[::8, ::12]
        expected = nodes + jitter * torch.tensor([8.0, 12.0])
        assert jitter.abs().max() > 0.02
        for z in range(3):
            torch.testing.assert_close(got[0, :, z, ::8, ::12].movedim(0, -1), expected, rtol=0, atol=1e-4)
        assert weights.all()  # alone it reaches nothing outside the patch


def test_piecewise_affine_comes_after_the_affine() -> None:
    """As when the turned image is bent: A·(p + piecewise(p)) + elastic(p), about the centre of the patch."""
    jitter = torch.randn(4, 4, 2, generator=seeded()) / 4
    shift = torch.randn(13, 22, 2, generator=seeded(1))
    affine = torch.tensor([[0.0, -2.0], [1.0, 0.5]])
    grid = augmentation._sampling_grid(affine, shift, jitter, (13, 22))[0].flip(-1) * torch.tensor([6.5, 11.0])
    nodes = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1)
    bent = (nodes + jitter - 1.5) * torch.tensor([4.0, 7.0])
    expected = torch.stack((-2.0 * bent[..., 1], bent[..., 0] + 0.5 * bent[..., 1]), -1) + shift[::4, ::7]
    torch.testing.assert_close(grid[::4, ::7], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_jitter_of_zero_changes_nothing(soft: bool) -> None:
    image, target, weight = patches((2, 2, 3, 24, 31))
    given = (image, one_hot(target) if soft else target, weight)
    config = Config.none(piecewise_affine=1.0, piecewise_affine_jitter=(0.0, 0.0))
    got = augment(*given, seeded(), config)
    torch.testing.assert_close(got[0], image, rtol=0, atol=1e-4)
    assert torch.equal(got[2], weight)
    known = weight > 0
    if soft:
        torch.testing.assert_close(got[1].movedim(1, -1)[known], given[1].movedim(1, -1)[known], rtol=0, atol=1e-4)
    else:
        assert torch.equal(got[1], target)


def test_jitter_has_the_drawn_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.01 of the patch's extent, a fourteenth of a cell: far from every limit."""
    monkeypatch.setattr(augmentation, "_uniform", lambda low, high, generator: high)
    config = Config.none(piecewise_affine=1.0, piecewise_affine_grid=8, piecewise_affine_jitter=(0.0, 0.01))
    drawn = torch.stack([augmentation._draw_jitter(seeded(seed), config) for seed in range(200)]) / 7
    inner = drawn[:, 1:-1, 1:-1]
    assert inner.std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(inner.mean().item()) < 0.0005
    # Nodes of the border slide along it and step inwards, never outwards.
    assert drawn[:, 0, :, 0].min() == drawn[:, :, 0, 1].min() == 0
    assert drawn[:, -1, :, 0].max() == drawn[:, :, -1, 1].max() == 0
    assert drawn[:, 0, :, 0].max() > 0.02
    assert drawn[:, 0, 1:-1, 1].std().item() == pytest.approx(0.01, rel=0.06)


def determinants(jitter: Tensor) -> Tensor:
    """Return the Jacobian of every triangle, from its three moved nodes."""
    nodes = len(jitter)
    place = torch.stack(torch.meshgrid(torch.arange(nodes), torch.arange(nodes), indexing="ij"), -1) + jitter
    near, far, down, right = place[:-1, :-1], place[1:, 1:], place[1:, :-1], place[:-1, 1:]
    return torch.stack(
        [torch.linalg.det(torch.stack(edges, -1)) for edges in ((down - near, far - down), (far - right, right - near))]
    )


def test_no_triangle_turns_over(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.none(piecewise_affine=1.0, piecewise_affine_jitter=(1 / 9, 1 / 9))
    limited = torch.stack([determinants(augmentation._draw_jitter(seeded(s), config)) for s in range(500)])
    assert limited.min() > 0
    # The worst there is: the corner of a triangle and its opposite edge step towards each other.
    least = torch.zeros(2, 2, 2)
    least[1, 0] = torch.tensor([-1.0, 1.0])
    least[0, 0] = least[1, 1] = torch.tensor([1.0, -1.0])
    assert 0 < determinants(least * augmentation._REACH / math.sqrt(2)).min() < 0.1
    monkeypatch.setattr(augmentation, "_REACH", 10.0)
    unlimited = torch.stack([determinants(augmentation._draw_jitter(seeded(s), config)) for s in range(500)])
    assert unlimited.min() < 0  # without the limit they would


def test_what_is_switched_off_draws_nothing() -> None:
    """Runs from before a setting existed stay reproducible: the draws, and what comes of them, are spelled out here."""
    image, target, weight = patches((2, 1, 2, 24, 30))
    generator, config = seeded(3), Config.none(affine=1.0, elastic=1.0)
    got = augment(image, target, weight, generator, config)
    draws = seeded(3)

    def draw() -> float:
        return float(torch.rand((), generator=draws))

    for _ in range(2):
        for _ in range(4):  # flips along z, y, x; right angle
            draw()
    expected = image.clone()
    y, x = (torch.arange(extent, dtype=torch.float32) - (extent - 1) / 2 for extent in (24, 30))
    for index in range(2):
        draw()  # affine
        angle = math.radians(-30.0 + 60.0 * draw())
        zoom = math.exp(-math.log(1.25) + 2 * math.log(1.25) * draw())
        shear = -0.1 + 0.2 * draw()
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        affine = turn @ torch.tensor([[1.0, shear], [0.0, 1.0]]) / zoom
        draw()  # elastic
        elastic = augmentation._draw_displacement(draws, config, (24, 30))
        offset = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1) @ affine.T + elastic
        grid = (offset / torch.tensor([12.0, 15.0])).flip(-1)[None]
        expected[index] = torch.nn.functional.grid_sample(
            image[index], grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
    for _ in range(2):
        for _ in range(4):  # gain, contrast, offset, gamma
            draw()
    for _ in range(4):  # blur; noise
        draw()
    assert torch.equal(generator.get_state(), draws.get_state())
    assert torch.equal(got[0], expected)
    # Switched on, it does draw.
    augment(image, target, weight, bent := seeded(3), Config.none(affine=1.0, elastic=1.0, piecewise_affine=1e-9))
    assert not torch.equal(bent.get_state(), draws.get_state())


def test_gain_offset_contrast_and_gamma_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_uniform", lambda low, high, generator: high)
    values = torch.tensor([0.0, 1.0, 2.0, 5.0]).view(1, 1, 1, 2, 2)
    target, weight = torch.zeros(1, 1, 2, 2).long(), torch.ones(1, 1, 2, 2)

    def varied(**settings: Any) -> list[float]:
        got, _, _ = augment(values, target, weight, seeded(), Config.none(**settings))
        return got.flatten().tolist()

    assert varied(gain=1.0, gain_range=(1.0, 1.5)) == pytest.approx([0, 1.5, 3, 7.5])
    assert varied(contrast=1.0, contrast_range=(1.0, 2.0)) == pytest.approx([-2, 0, 2, 8])
    deviation = math.sqrt((4 + 1 + 0 + 9) / 4)
    assert varied(offset=1.0, offset_range=(0.0, 2.0)) == pytest.approx([2 * deviation + v for v in (0, 1, 2, 5)])
    assert varied(gamma=1.0, gamma_range=(1.0, 2.0)) == pytest.approx([0, 0.2, 0.8, 5.0])


def test_intensity_varies_per_channel_and_leaves_the_rest() -> None:
    image, target, weight = patches()
    config = Config.none(gain=1.0, contrast=1.0, offset=1.0, gamma=1.0)
    got, labels, weights = augment(image, target, weight, seeded(), config)
    assert torch.equal(labels, target)
    assert torch.equal(weights, weight)
    ratio = got.std((2, 3, 4)) / image.std((2, 3, 4))
    assert len(set(ratio.flatten().tolist())) == 4


def test_intensity_does_not_depend_on_the_normalisation() -> None:
    """Offset, contrast, gamma, blur and noise of a·x + b are those of x, times a, plus b."""
    image, target, weight = patches()
    config = Config.none(contrast=1.0, offset=1.0, gamma=1.0, blur=1.0, noise=1.0)
    one, _, _ = augment(image, target, weight, seeded(), config)
    two, _, _ = augment(50.0 * image + 7.0, target, weight, seeded(), config)
    torch.testing.assert_close(two, 50.0 * one + 7.0, rtol=1e-4, atol=1e-3)


def test_noise_has_the_drawn_size_per_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_uniform", lambda low, high, generator: high)
    image = torch.randn(1, 2, 4, 64, 64, generator=seeded()) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1, 1)
    config = Config.none(noise=1.0, noise_range=(0.0, 0.2))
    got, _, _ = augment(image, torch.zeros(1, 4, 64, 64).long(), torch.ones(1, 4, 64, 64), seeded(1), config)
    noise = (got - image).std((2, 3, 4))[0].tolist()
    assert noise == pytest.approx([0.2, 2.0], rel=0.05)


def test_blur_is_as_wide_in_um_along_z_as_in_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_uniform", lambda low, high, generator: high)
    image = torch.zeros(1, 1, 21, 31, 31)
    image[0, 0, 10, 15, 15] = 1.0
    target, weight = torch.zeros(1, 21, 31, 31).long(), torch.ones(1, 21, 31, 31)
    config = Config.none(blur=1.0, blur_sigma=(1.0, 2.0))
    got, _, _ = augment(image, target, weight, seeded(), config, voxel_size_um=(1.0, 0.5, 0.5))
    assert got.sum().item() == pytest.approx(1.0, abs=1e-5)
    for axis, sigma in ((0, 1.0), (1, 2.0), (2, 2.0)):
        profile = got[0, 0].sum([a for a in range(3) if a != axis])
        offsets = torch.arange(len(profile)) - len(profile) // 2
        assert math.sqrt((profile * offsets**2).sum().item()) == pytest.approx(sigma, rel=0.03)
    flat = augmentation._blur_axis(torch.full((1, 3, 9, 9), 2.5), 2, 1.3)
    torch.testing.assert_close(flat, torch.full((1, 3, 9, 9), 2.5))


def test_planes_alone_and_single_pixels() -> None:
    bent = STRONG.model_copy(update={"piecewise_affine": 1.0})
    for shape in ((3, 1, 1, 20, 30), (1, 1, 1, 1, 1), (1, 2, 3, 1, 5)):
        for config in (STRONG, bent):
            image, target, weight = patches(shape)
            got = augment(image, target, weight, seeded(), config)
            assert [t.shape for t in got] == [image.shape, target.shape, weight.shape]
            assert all(t.isfinite().all() for t in got)


def test_probability_is_how_often() -> None:
    image, target, weight = patches((1, 1, 1, 4, 4))
    config = Config.none(gain=0.25, gain_range=(2.0, 2.0))
    changed = sum(not torch.equal(augment(image, target, weight, seeded(s), config)[0], image) for s in range(400))
    assert 70 <= changed <= 130  # 100 expected, three and a half standard deviations either way


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"no_such": 1}, "no_such"),
        ({"gain_range": (2.0, 1.0)}, "must not exceed"),
        ({"noise_range": (-1.0, 1.0)}, "negative"),
        ({"gamma_range": (0.0, 1.0)}, "positive"),
        ({"piecewise_affine": -0.1}, "greater than or equal to 0"),
        ({"piecewise_affine_grid": 1}, "greater than or equal to 2"),
        ({"piecewise_affine_jitter": (0.05, 0.01)}, "must not exceed"),
        ({"piecewise_affine_jitter": (-0.01, 0.01)}, "negative"),
        ({"piecewise_affine_jitter": (0.01, 0.12)}, "must not exceed 0.1111, a third of a cell"),
        ({"piecewise_affine_grid": 9}, "must not exceed 0.0417"),
        ({"rotation_choices_deg": (22.5, -30.0)}, "0 to 180"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**settings)


def test_shapes_that_do_not_fit_are_refused() -> None:
    image, target, weight = patches()
    for bad in ((image[:, :, 0], target, weight), (image, target[:1], weight), (image, target, weight[..., 1:])):
        with pytest.raises(InputError, match="do not fit"):
            augment(*bad, seeded(), Config())
    with pytest.raises(InputError, match="do not fit"):
        augment(image, target.float(), weight, seeded(), Config())
