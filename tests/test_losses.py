"""Losses: values by hand, and unknown voxels that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import pytest
import torch
from torch import Tensor

from fewslice.errors import InputError
from fewslice.losses import (
    balanced_class_weights,
    cross_entropy,
    dice_cross_entropy,
    fourier_l1,
    generalised_box_iou,
    mean_l1,
    score_cross_entropy,
    soft_dice,
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
LOSSES: list[Loss] = [cross_entropy, soft_dice, dice_cross_entropy]


def two_voxels() -> Tensor:
    """Logits of one image of two voxels: p(1) = 0.8 and 0.25."""
    return torch.tensor([[[0.0, 0.0], [log(4.0), -log(3.0)]]])


def random_case(classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, classes, 3, 4, 5), generator=generator)
    target = torch.randint(0, classes, (2, 3, 4, 5), generator=generator)
    weight = torch.rand((2, 3, 4, 5), generator=generator) * (torch.rand((2, 3, 4, 5), generator=generator) > 0.4)
    return logits, target, weight


def one_hot(target: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float()


def test_cross_entropy_by_hand() -> None:
    target, weight = torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.5]])
    expected = (-log(0.8) - 0.5 * log(0.75)) / 1.5
    assert cross_entropy(two_voxels(), target, weight).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_with_class_weights_by_hand() -> None:
    target, weight = torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.5]])
    expected = (-3.0 * log(0.8) - 0.5 * 2.0 * log(0.75)) / (3.0 + 1.0)
    value = cross_entropy(two_voxels(), target, weight, class_weights=torch.tensor([2.0, 3.0]))
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_soft_targets_by_hand() -> None:
    target = torch.tensor([[[0.3, 1.0], [0.7, 0.0]]])
    expected = (-0.3 * log(0.2) - 0.7 * log(0.8) - log(0.75)) / 2.0
    assert cross_entropy(two_voxels(), target, torch.ones(1, 2)).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_agrees_with_torch() -> None:
    logits, target, _ = random_case()
    class_weights = torch.tensor([0.5, 1.0, 4.0])
    expected = torch.nn.functional.cross_entropy(logits, target, class_weights)
    torch.testing.assert_close(cross_entropy(logits, target, torch.ones(2, 3, 4, 5), class_weights), expected)


def test_one_weight_map_and_means_per_term_differ_by_the_voxel_ratio() -> None:
    logits = torch.tensor([[[0.0] * 4, [1.0, 2.0, -1.0, 0.5]]])
    target = torch.tensor([[1, 0, 0, 1]])
    annotated = torch.tensor([[True, False, False, False]])
    alpha = 0.1
    weight = torch.where(annotated, 1.0, alpha)
    losses = [log(1 + exp(-1.0)), log(1 + exp(2.0)), log(1 + exp(-1.0)), log(1 + exp(-0.5))]
    joint = (losses[0] + alpha * sum(losses[1:])) / (1 + 3 * alpha)
    separate = losses[0] + alpha * sum(losses[1:]) / 3
    assert cross_entropy(logits, target, weight).item() == pytest.approx(joint, rel=1e-6)
    assert cross_entropy(logits, target, weight, terms=annotated).item() == pytest.approx(separate, rel=1e-6)


def test_terms_do_not_count_unknown_voxels() -> None:
    target, weight = torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.0]])
    terms = torch.zeros(1, 2, dtype=torch.long)
    assert cross_entropy(two_voxels(), target, weight, terms=terms).item() == pytest.approx(-log(0.8), rel=1e-6)


def test_soft_dice_by_hand() -> None:
    target, weight = torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.5]])
    expected = 1 - (2 * 0.8 + 1) / (0.8 + 0.5 * 0.25 + 1 + 1)
    assert soft_dice(two_voxels(), target, weight).item() == pytest.approx(expected, rel=1e-6)


def test_soft_dice_is_over_the_batch_and_the_mean_of_foreground_classes() -> None:
    # Two images of one voxel; probabilities (0.5, 0.25, 0.25) and (0.2, 0.6, 0.2).
    logits = torch.tensor([[[0.5], [0.25], [0.25]], [[0.2], [0.6], [0.2]]]).log()
    target = torch.tensor([[2], [1]])
    first = (2 * 0.6 + 1) / (0.25 + 0.6 + 1 + 1)
    second = (2 * 0.25 + 1) / (0.25 + 0.2 + 1 + 1)
    value = soft_dice(logits, target, torch.ones(2, 1)).item()
    assert value == pytest.approx(1 - (first + second) / 2, rel=1e-6)


def test_dice_cross_entropy_is_the_sum() -> None:
    logits, target, weight = random_case()
    total = cross_entropy(logits, target, weight) + soft_dice(logits, target, weight)
    torch.testing.assert_close(dice_cross_entropy(logits, target, weight), total)


@pytest.mark.parametrize("loss", LOSSES)
def test_soft_equals_hard_for_one_hot(loss: Loss) -> None:
    logits, target, weight = random_case()
    torch.testing.assert_close(loss(logits, one_hot(target, 3), weight), loss(logits, target, weight))


def test_soft_equals_hard_with_class_weights_and_terms() -> None:
    logits, target, weight = random_case()
    class_weights, terms = torch.tensor([0.2, 1.0, 3.0]), weight > 0.5
    hard = cross_entropy(logits, target, weight, class_weights, terms)
    torch.testing.assert_close(cross_entropy(logits, one_hot(target, 3), weight, class_weights, terms), hard)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("soft", [False, True])
def test_unknown_voxels_change_nothing(loss: Loss, soft: bool) -> None:
    logits, target, weight = random_case()
    wanted = one_hot(target, 3) if soft else target
    clean = logits.clone().requires_grad_()
    expected = loss(clean, wanted, weight)
    expected.backward()
    unknown = weight == 0
    assert clean.grad is not None
    assert not clean.grad.movedim(1, -1)[unknown].any()
    assert (clean.grad.movedim(1, -1)[~unknown] != 0).all()

    for bad in (float("nan"), float("inf"), 7.0):
        dirty = torch.where(unknown[:, None], bad, logits).requires_grad_()
        spoiled = torch.where(unknown[:, None], bad, wanted) if soft else torch.where(unknown, 255, target)
        value = loss(dirty, spoiled, weight)
        value.backward()
        assert torch.equal(value, expected)
        assert dirty.grad is not None
        assert torch.equal(dirty.grad, clean.grad)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_known_gives_zero_and_no_gradient(loss: Loss) -> None:
    logits = torch.full((1, 2, 3), float("nan"), requires_grad=True)
    value = loss(logits, torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_right(loss: Loss) -> None:
    logits, target, weight = random_case()
    x = logits.clone().requires_grad_()
    loss(x, target, weight).backward()
    assert x.grad is not None
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()
    step = 0.05
    ahead, behind = (loss(logits + sign * step * direction, target, weight).item() for sign in (1, -1))
    assert (x.grad * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=0.02, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_logits_are_computed_in_float32(loss: Loss) -> None:
    logits, target, weight = random_case()
    value = loss(logits.bfloat16(), target, weight)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.bfloat16().float(), target, weight))


def test_balanced_class_weights() -> None:
    counts = [900, 100]
    flat, root, full = (balanced_class_weights(counts, power) for power in (0.0, 0.5, 1.0))
    torch.testing.assert_close(flat, torch.tensor([1.0, 1.0]))
    assert (root[1] / root[0]).item() == pytest.approx(3.0)
    assert (full[1] / full[0]).item() == pytest.approx(9.0)
    for weights in (flat, root, full):
        assert (weights * torch.tensor(counts)).sum().item() == pytest.approx(1000.0)
    with pytest.raises(InputError, match="annotated voxels"):
        balanced_class_weights([0, 0])


def test_shapes_and_classes_that_do_not_fit_are_refused() -> None:
    logits = torch.zeros(1, 2, 4)
    with pytest.raises(InputError, match=r"weight \(1, 4\)"):
        cross_entropy(logits, torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 5))
    with pytest.raises(InputError, match=r"soft target \(1, 2, 4\)"):
        cross_entropy(logits, torch.zeros(1, 4), torch.ones(1, 4))
    with pytest.raises(InputError, match="2 classes"):
        cross_entropy(logits, torch.full((1, 4), 2), torch.ones(1, 4))


# ------------------------------------------------------------------------------------------------------------- contours


def test_scores_average_positives_and_negatives_separately_by_hand() -> None:
    """Four positions of p = 0.8, 0.25, 0.5 and NaN: one positive, two negative, one unknown."""
    logits = torch.tensor([[[log(4.0), -log(3.0), 0.0, float("nan")]]], requires_grad=True)
    loss = score_cross_entropy(logits, torch.tensor([[1, 0, 0, -1]]))
    assert loss.item() == pytest.approx(-log(0.8) + (-log(0.75) - log(0.5)) / 2, rel=1e-6)
    loss.backward()
    assert logits.grad is not None and logits.grad[0, 0, 3] == 0 and logits.grad.isfinite().all()


def test_scores_of_several_classes_by_hand() -> None:
    """A position of class 2: its score should be high, that of class 1 low."""
    logits = torch.tensor([[[log(4.0)], [-log(3.0)]]])
    loss = score_cross_entropy(logits, torch.tensor([[2]]))
    assert loss.item() == pytest.approx(-log(0.2) - log(0.25), rel=1e-6)


def test_fourier_coefficients_weigh_from_five_to_one_by_hand() -> None:
    """Three orders: weights 5, 3, 1. Twelve coefficients, differences of 1, 2 and 4."""
    target = torch.zeros(1, 3, 4)
    predicted = target.clone()
    predicted[0, 0, 1], predicted[0, 1, 2], predicted[0, 2, 3] = 1.0, -2.0, 4.0
    assert fourier_l1(predicted, target).item() == pytest.approx((5 * 1 + 3 * 2 + 1 * 4) / 12)
    assert fourier_l1(torch.ones(2, 1, 4), torch.zeros(2, 1, 4)).item() == pytest.approx(5.0)


def test_mean_l1_by_hand() -> None:
    assert mean_l1(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [1.0, 0.0]])).item() == 1.0


@pytest.mark.parametrize(
    ("other", "giou"),
    [
        ((0.0, 0.0, 2.0, 2.0), 1.0),
        ((0.0, 1.0, 2.0, 3.0), 1 / 3),  # IoU 2/6, hull equals the union
        ((1.0, 1.0, 3.0, 3.0), 1 / 7 - 2 / 9),  # the hull of 9 holds a union of 7
        ((0.0, 4.0, 2.0, 6.0), -4 / 12),  # apart: a union of 8 in a hull of 12
    ],
)
def test_generalised_box_iou_by_hand(other: tuple[float, ...], giou: float) -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert generalised_box_iou(boxes, torch.tensor([other])).item() == pytest.approx(1 - giou, abs=1e-6)
    both = generalised_box_iou(boxes.repeat(2, 1), torch.cat((torch.tensor([other]), boxes)))
    assert both.item() == pytest.approx((1 - giou) / 2, abs=1e-6)


def test_losses_of_contours_are_zero_where_nothing_is_known() -> None:
    """And gradients are finite, so that a batch without any object can be learned from."""
    maps = torch.randn(2, 1, 4, 4, requires_grad=True)
    nothing = maps.flatten()[:0]
    found = [
        score_cross_entropy(maps, torch.full((2, 4, 4), -1)),
        fourier_l1(nothing.view(0, 5, 4), torch.zeros(0, 5, 4)),
        mean_l1(nothing.view(0, 8, 2), torch.zeros(0, 8, 2)),
        generalised_box_iou(nothing.view(0, 4), torch.zeros(0, 4)),
    ]
    assert [loss.item() for loss in found] == [0.0] * 4
    torch.stack(found).sum().backward()
    assert maps.grad is not None and not maps.grad.any()
