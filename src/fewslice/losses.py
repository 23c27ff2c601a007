"""Losses weighted by voxel, zero where nothing is known.

All take logits (b, classes, …) of any floating type, a target and a weight (b, …), compute in float32 and return a
scalar.

Target
    Hard: integer classes (b, …). Soft: probabilities (b, classes, …) that sum to 1 over classes. A one-hot soft target
    gives the same loss as the hard one.
Weight
    At least 0, and 0 means unknown: whatever logits and target hold there, NaN and invalid classes included, changes
    neither the loss nor any gradient. Where every weight is 0 the loss is 0.

The paper's weight map (1 on annotated voxels, α on pseudo-labelled ones) is such a weight; see `cross_entropy`.

Contours are judged by four more, which take what was predicted at the positive positions alone, so that nothing unknown
reaches them; without any position they are 0: `score_cross_entropy`, `fourier_l1`, `mean_l1`, `generalised_box_iou`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewslice.errors import InputError

__all__ = [
    "balanced_class_weights",
    "cross_entropy",
    "dice_cross_entropy",
    "fourier_l1",
    "generalised_box_iou",
    "mean_l1",
    "score_cross_entropy",
    "soft_dice",
]


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    class_weights: Tensor | None = None,
    terms: Tensor | None = None,
) -> Tensor:
    """Weighted cross-entropy, Σ w ℓ / Σ w over all voxels.

    With `terms` each term is normalised by its own voxels instead: Σ over terms t of (Σ w ℓ) / n, sums over the voxels
    of t and n the number of them with w > 0. With w = 1 on annotated voxels and α on the others this is
    mean ℓ over annotated + α · mean ℓ over pseudo-labelled voxels, whatever their numbers.

    Parameters
    ----------
    logits
        (b, classes, …).
    target
        (b, …) integer classes or (b, classes, …) probabilities.
    weight
        (b, …) ≥ 0.
    class_weights
        (classes,): multiplies w by the weight of the voxel's class (soft targets: expected weight), in numerator and
        denominator (for `terms`: n counts these weights).
    terms
        (b, …) integers or bool: the term that a voxel belongs to.

    Returns
    -------
    Tensor
        Scalar, float32.

    Raises
    ------
    InputError
        If shapes do not fit each other, or a target with positive weight is no class.
    """
    logits, target, weight = _known(logits, target, weight)
    log_p = logits.log_softmax(1)
    if target.ndim == log_p.ndim:
        if class_weights is None:
            loss, size = -(target * log_p).sum(1), torch.ones_like(weight)
        else:
            scaled = target * class_weights.to(target).view(-1, *[1] * (target.ndim - 2))
            loss, size = -(scaled * log_p).sum(1), scaled.sum(1)
    else:
        loss = -log_p.gather(1, target[:, None])[:, 0]
        size = torch.ones_like(weight)
        if class_weights is not None:
            size = class_weights.to(weight)[target]
            loss = loss * size
    if terms is None:
        return (weight * loss).sum() / _nonzero((weight * size).sum())
    total = torch.zeros((), device=loss.device)
    for term in torch.unique(terms):
        inside = terms == term
        count = (size * (inside & (weight > 0))).sum()
        total = total + (weight * loss * inside).sum() / _nonzero(count)
    return total


def soft_dice(logits: Tensor, target: Tensor, weight: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − (2 Σ w p g + s) / (Σ w p + Σ w g + s), sums over the batch, averaged over foreground classes.

    Over the whole batch, since a patch without foreground would give noise alone.

    Parameters
    ----------
    logits
        (b, classes, …); class 0 is background.
    target
        (b, …) integer classes or (b, classes, …) probabilities.
    weight
        (b, …) ≥ 0.
    smooth
        s, in voxels.

    Returns
    -------
    Tensor
        Scalar in 0-1, float32; 0 where every weight is 0.

    Raises
    ------
    InputError
        If shapes do not fit each other, or a target with positive weight is no class.
    """
    logits, target, weight = _known(logits, target, weight)
    p = logits.softmax(1)[:, 1:]
    if target.ndim == logits.ndim:
        g = target[:, 1:]
    else:
        g = torch.stack([target == k for k in range(1, logits.shape[1])], 1).to(p.dtype)
    w = weight[:, None]
    voxels = [0, *range(2, p.ndim)]
    both = (w * p * g).sum(voxels)
    either = (w * p).sum(voxels) + (w * g).sum(voxels)
    return 1.0 - ((2.0 * both + smooth) / (either + smooth)).mean()


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    class_weights: Tensor | None = None,
    terms: Tensor | None = None,
) -> Tensor:
    """`cross_entropy` + `soft_dice`, with their parameters."""
    return cross_entropy(logits, target, weight, class_weights, terms) + soft_dice(logits, target, weight)


def score_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of scores: its mean over positive plus its mean over negative positions.

    Parameters
    ----------
    logits
        (b, classes, …), one per foreground class.
    target
        (b, …) integers: the class 1, 2, …, 0 for none, below 0 for unknown. With several classes the cross-entropies of
        a position are summed: its class should score high, the others low.

    Returns
    -------
    Tensor
        Scalar ≥ 0, float32. Means over nothing are 0.
    """
    known = target >= 0
    logits = torch.where(known[:, None], logits.float(), 0.0)
    classes = torch.arange(1, logits.shape[1] + 1, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    wanted = (target[:, None] == classes).to(logits.dtype)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1)
    return _mean_where(loss, target > 0) + _mean_where(loss, target == 0)


def fourier_l1(predicted: Tensor, target: Tensor, first: float = 5.0, last: float = 1.0) -> Tensor:
    """Mean absolute difference of Fourier coefficients, weighted from `first` to `last` over the orders, linearly.

    Parameters
    ----------
    predicted, target
        (m, order, 4), in pixels.
    first, last
        Weight of the first and of the last order.
    """
    weights = torch.linspace(first, last, predicted.shape[1], device=predicted.device)[:, None]
    return (weights * (predicted.float() - target)).abs().sum() / max(predicted.numel(), 1)


def mean_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of places, (m, …, 2) in pixels; 0 where there is none."""
    return (predicted.float() - target).abs().sum() / max(predicted.numel(), 1)


def generalised_box_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 − GIoU over pairs of boxes, GIoU = IoU − (hull − union) / hull (Rezatofighi 2019).

    Parameters
    ----------
    predicted, target
        (m, 4): low y, low x, high y, high x, with high ≥ low.

    Returns
    -------
    Tensor
        Scalar in 0–2, float32; 0 without boxes.
    """
    predicted, target = predicted.float(), target.float()
    common = _box_area(torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:]))
    union = _box_area(predicted[:, :2], predicted[:, 2:]) + _box_area(target[:, :2], target[:, 2:]) - common
    hull = _box_area(torch.minimum(predicted[:, :2], target[:, :2]), torch.maximum(predicted[:, 2:], target[:, 2:]))
    giou = common / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
    return (1.0 - giou).sum() / max(len(predicted), 1)


def balanced_class_weights(counts: Sequence[int], power: float = 0.5) -> Tensor:
    """Weights that favour rare classes, from the number of annotated voxels of each class.

    Parameters
    ----------
    counts
        Voxels of class 0, 1, …
    power
        0: all equal, 1: every class contributes the same in total.

    Returns
    -------
    Tensor
        (classes,) float32, proportional to ``counts ** -power`` and 1 in the mean over voxels. A class without
        voxels has the weight of one with a single voxel.

    Raises
    ------
    InputError
        If no class has a voxel.
    """
    numbers = torch.tensor(counts, dtype=torch.float64)
    if not (numbers > 0).any():
        raise InputError(f"class weights need annotated voxels, got counts {list(counts)}; annotate at least one plane")
    weights = numbers.clamp(min=1.0) ** -power
    return (weights * numbers.sum() / (weights * numbers).sum()).float()


def _known(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check shapes, go to float32 and put harmless values where the weight is 0."""
    voxels = (logits.shape[0], *logits.shape[2:])
    soft = target.is_floating_point()
    expected = tuple(logits.shape) if soft else voxels
    if tuple(weight.shape) != voxels or tuple(target.shape) != expected:
        raise InputError(
            f"logits {tuple(logits.shape)} need weight {voxels} and {'soft' if soft else 'hard'} target {expected}, "
            f"got {tuple(weight.shape)} and {tuple(target.shape)}; give integer classes or probabilities per class"
        )
    known = weight > 0
    weight = torch.where(known, weight.float(), 0.0)
    logits = torch.where(known[:, None], logits.float(), 0.0)
    if soft:
        return logits, torch.where(known[:, None], target.float(), 0.0), weight
    target = torch.where(known, target.long(), 0)
    low, high = (int(v) for v in torch.aminmax(target))
    if low < 0 or high >= logits.shape[1]:
        raise InputError(
            f"targets with positive weight are {low} to {high}, but the network has {logits.shape[1]} classes, 0 to "
            f"{logits.shape[1] - 1}; give such voxels weight 0 or build the network with more classes"
        )
    return logits, target, weight


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).sum() / _nonzero(where.sum())


def _box_area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0.0).prod(dim=-1)


def _nonzero(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1.0)
