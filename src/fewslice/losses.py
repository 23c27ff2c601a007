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
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewslice.errors import InputError

__all__ = ["balanced_class_weights", "cross_entropy", "dice_cross_entropy", "soft_dice"]


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


def _nonzero(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1.0)
