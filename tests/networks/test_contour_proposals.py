"""The contour proposal network beyond the room's contract: what its maps mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fewslice.data.contours import fourier_points
from fewslice.networks.contour_proposals import Config, ProposalMaps, build, contours_at, refine


def blank(height: int = 32, width: int = 32, *, order: int = 2, buckets: int = 1, batch: int = 1) -> ProposalMaps:
    """Maps that say no everywhere."""
    coarse = (height // 2, width // 2)
    return ProposalMaps(
        torch.full((batch, 1, *coarse), -10.0),
        torch.zeros(batch, 2, *coarse),
        torch.zeros(batch, 4 * order, *coarse),
        torch.zeros(batch, 2 * buckets, height, width),
    )


def network(**settings: Any) -> Any:
    torch.manual_seed(0)
    return build(Config(**({"features": 4, "depth": 2, "order": 2, "samples": 8} | settings)), 1, 2).eval()


def test_heads_are_those_of_the_paper() -> None:
    """7 × 7 convolution, normalisation, ReLU, dropout 0.1, 1 × 1; score 1, location 2, Fourier 4 per order, field 2."""
    found = build(Config(), 3, 2)
    assert found.divisor == (1, 16, 16)  # five resolutions
    for head, features, channels in (("score", 32, 1), ("location", 32, 2), ("fourier", 32, 20), ("refinement", 16, 2)):
        wide, norm, relu, dropout, last = getattr(found, head)
        assert wide.kernel_size == (7, 7) and wide.out_channels == norm.num_features == features
        assert isinstance(relu, torch.nn.ReLU) and dropout.p == 0.1
        assert last.kernel_size == (1, 1) and last.out_channels == channels
    assert build(Config(refinement_buckets=3), 1, 4).score[-1].out_channels == 3


def test_untrained_it_proposes_circles_of_the_typical_radius() -> None:
    found = network(radius=6.0, refinement_iterations=0)
    for head in (found.location, found.fourier):
        torch.nn.init.zeros_(head[-1].weight)
    with torch.no_grad():
        maps = found(torch.randn(1, 1, 16, 16))
    points, centre, _ = contours_at(maps, torch.tensor([[0, 3, 5]]), 8)
    assert centre.tolist() == [[6.5, 10.5]]  # between the pixels 6, 7 and 10, 11
    torch.testing.assert_close((points - centre[:, None]).norm(dim=-1), torch.full((1, 8), 6.0))


def test_points_are_those_of_the_coefficients() -> None:
    """The same as NumPy's, with location and coefficients read at the position."""
    maps = blank(order=3, batch=2)
    generator = torch.Generator().manual_seed(0)
    maps.location.normal_(generator=generator)
    maps.fourier.normal_(generator=generator)
    anchors = torch.tensor([[0, 2, 7], [1, 15, 0]])
    points, centre, coefficients = contours_at(maps, anchors, 16)
    assert centre[1].tolist() == pytest.approx((torch.tensor([30.5, 0.5]) + maps.location[1, :, 15, 0]).tolist())
    assert coefficients[0, 1].tolist() == maps.fourier[0, 4:8, 2, 7].tolist()
    expected = fourier_points(centre.double().numpy(), coefficients.double().numpy(), 16)
    np.testing.assert_allclose(points.numpy(), expected, atol=1e-5)


def test_refinement_reads_under_the_rounded_point_and_adds_by_hand() -> None:
    """(4.4, 7.6) reads pixel (4, 8), moves by (0.5, −1) and then reads pixel (5, 7)."""
    field = torch.zeros(1, 2, 16, 16)
    field[0, :, 4, 8] = torch.tensor([0.5, -1.0])
    field[0, :, 5, 7] = torch.tensor([0.25, 0.0])
    start = torch.tensor([[[4.4, 7.6]]])
    moved = refine(start, torch.tensor([[0, 2, 3]]), field, 3, 10)
    expected = [[4.9, 6.6], [5.15, 6.6], [5.4, 6.6]]
    for points, place in zip(moved, expected, strict=True):
        torch.testing.assert_close(points[0, 0], torch.tensor(place))


def test_refinement_stops_at_the_border_and_out_of_reach() -> None:
    field = torch.ones(1, 2, 8, 8)
    field[0, :, 0, 7] = torch.tensor([2.0, -2.0])
    anchors = torch.tensor([[0, 0, 3]])
    # beyond the image: the pixel (0, 7) at its border is read; 5 rows below the position (0, 6): out of reach
    points = torch.tensor([[[-3.0, 9.0], [5.0, 6.0], [4.0, 6.0]]])
    (moved,) = refine(points, anchors, field, 1, 4)
    assert moved.tolist() == [[[-1.0, 7.0], [5.0, 6.0], [5.0, 7.0]]]
    (moved,) = refine(torch.tensor([[[2.0, 7.0]]]), anchors, field, 1, 4, extent=(1, 8))
    assert moved.tolist() == [[[4.0, 5.0]]]  # the image has one row


def test_buckets_divide_the_contour() -> None:
    field = torch.zeros(1, 4, 8, 8)
    field[0, 0], field[0, 2] = 1.0, 2.0
    (moved,) = refine(torch.full((1, 4, 2), 3.0), torch.tensor([[0, 1, 1]]), field, 1, 9)
    assert moved[0, :, 0].tolist() == [4.0, 4.0, 5.0, 5.0]


def test_gradients_reach_the_vectors_that_were_read_and_nothing_else() -> None:
    field = torch.zeros(1, 2, 8, 8, requires_grad=True)
    start = torch.tensor([[[2.0, 2.0]]], requires_grad=True)
    moved = refine(start, torch.tensor([[0, 1, 1]]), field, 2, 9)
    sum(points.sum() for points in moved).backward()  # type: ignore[union-attr]
    assert start.grad is None and field.grad is not None
    assert field.grad.nonzero().tolist() == [[0, 0, 2, 2], [0, 1, 2, 2]] and field.grad.sum() == 4


def test_the_field_is_squashed() -> None:
    found = network(refinement_reach_px=3.0)
    torch.nn.init.constant_(found.refinement[-1].bias, 100.0)
    with torch.no_grad():
        assert found(torch.randn(1, 1, 8, 8)).refinement.unique().tolist() == [3.0]


def test_what_is_proposed_by_hand() -> None:
    """Two positions reach the threshold, one of them beyond the image; scores go to every pixel of their position."""
    found = build(Config(features=4, depth=2, order=2, samples=8), 1, 3)
    maps = blank()._replace(score=torch.full((2, 2, 16, 16), -10.0), refinement=torch.zeros(2, 2, 32, 32))
    maps = maps._replace(location=torch.zeros(2, 2, 16, 16), fourier=torch.zeros(2, 8, 16, 16))
    maps.score[1, 1, 3, 4] = math.log(0.8 / 0.2)
    maps.score[0, 0, 15, 15] = 5.0
    anchor, score, category, contour = found.propose(maps, 0.7, (30, 32))
    assert anchor.tolist() == [[1, 6, 8]] and category.tolist() == [2] and score.tolist() == pytest.approx([0.8])
    torch.testing.assert_close(contour, torch.tensor([6.5, 8.5]).expand(1, 8, 2))
    assert len(found.propose(maps, 0.7).score) == 2 and len(found.propose(maps, 0.999).score) == 0
    scores = found.scores(maps)
    assert scores.shape == (2, 2, 32, 32)
    assert scores[1, 1, 6:8, 8:10].flatten().tolist() == pytest.approx([0.8] * 4) and (scores[1, 1] > 0.1).sum() == 4


def test_depth_follows_from_the_patch() -> None:
    assert Config().adapted(None, (1, 256, 256)).depth == 5
    assert Config().adapted(None, (1, 32, 256)).depth == 4
    assert Config().adapted(None, (1, 8, 8)).depth == 2
