"""What a refiner and its discriminator are trained on (Shrivastava et al. 2017).

1. :func:`self_regularisation` holds the refined image to the simulated one, :func:`adversarial` draws it to real ones.
2. :func:`mix_history` keeps earlier refined images in the discriminator's mind.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

__all__ = ["Adversarial", "Regularisation", "adversarial", "mix_history", "self_regularisation"]

Adversarial = Literal["least_squares", "non_saturating"]


class Regularisation(BaseModel):
    """What of the simulated image has to stay: ψ, compared by mean absolute differences.

    Attributes
    ----------
    weight
        λ: of all of it, against the adversarial loss.
    identity, low_pass, gradient
        Weights of the intensity itself, of its mean over squares, and of its differences between neighbours.
    low_pass_diameters
        Side of those squares, in cell diameters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(0.3, ge=0)
    identity: float = Field(0.0, ge=0)
    low_pass: float = Field(1.0, ge=0)
    gradient: float = Field(1.0, ge=0)
    low_pass_diameters: float = Field(0.25, gt=0, le=2)


def self_regularisation(
    refined: torch.Tensor, simulated: torch.Tensor, config: Regularisation, diameter: float
) -> torch.Tensor:
    """Return λ Σ_k w_k mean |ψ_k(refined) − ψ_k(simulated)|, k being identity, low-pass and gradient.

    Parameters
    ----------
    refined, simulated
        (b, c, [z,] y, x) of the same extent.
    config
        Weights.
    diameter
        Of cells in the plane, in voxels.

    Returns
    -------
    Tensor
        Scalar float32, 0 for equal images.
    """
    difference = refined.float() - simulated.float()
    total = config.identity * difference.abs().mean()
    if config.low_pass:
        side = max(1, min(round(config.low_pass_diameters * diameter), *difference.shape[-2:]))
        square, step = (side, side), (max(1, side // 2),) * 2
        if difference.ndim == 5:
            pooled = F.avg_pool3d(difference, (1, *square), (1, *step))
        else:
            pooled = F.avg_pool2d(difference, square, step)
        total = total + config.low_pass * pooled.abs().mean()
    if config.gradient:
        axes = range(2, difference.ndim)
        steps = [difference.diff(dim=axis).abs().mean() for axis in axes if difference.shape[axis] > 1]
        total = total + config.gradient * sum(steps) / len(steps)
    return config.weight * total


def adversarial(scores: torch.Tensor, real: bool, kind: Adversarial) -> torch.Tensor:
    """Return the mean loss of scores that should say `real`.

    ``least_squares``: ½ (score − 1)² for real, ½ score² else. ``non_saturating``: the cross-entropy of the score as a
    logit. The refiner minimises it with ``real=True`` for its own images, which is the non-saturating form.
    """
    wanted = torch.full_like(scores, float(real), dtype=torch.float32)
    if kind == "least_squares":
        return 0.5 * (scores.float() - wanted).square().mean()
    return F.binary_cross_entropy_with_logits(scores.float(), wanted)


def mix_history(
    history: torch.Tensor, refined: torch.Tensor, capacity: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix new refined images with earlier ones and remember some of the new (Shrivastava 2017, section 2.3).

    Half of the batch, rounded down, comes from the history as far as that holds so many; the rest are the first new
    ones. Then as many new images as that half are remembered: added while there is room, else in place of random
    earlier ones.

    Parameters
    ----------
    history
        (n, …) earlier images, n ≤ capacity.
    refined
        (b, …) new images.
    capacity
        Images to remember; 0 for none.
    generator
        Source of the draws, on the CPU.

    Returns
    -------
    tuple
        The batch (b, …) and the new history.
    """
    half = min(len(refined) // 2, capacity)
    taken = min(half, len(history))
    chosen = torch.randperm(len(history), generator=generator)[:taken]
    batch = torch.cat((refined[: len(refined) - taken], history[chosen.to(history.device)]))
    new = refined[:half]
    room = min(capacity - len(history), half)
    grown = torch.cat((history, new[:room]))
    if room < half:
        replaced = torch.randperm(len(history), generator=generator)[: half - room]
        grown[replaced.to(grown.device)] = new[room:]
    return batch, grown
