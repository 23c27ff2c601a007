"""A stage: named networks, named optimisers, where batches come from and what one step does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

__all__ = ["Schedule", "Stage", "StepBatch", "Validation"]


class StepBatch(Protocol):
    """What one step learns from: whatever the stage's own step takes, as long as it can be moved to a device."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on `device`."""
        ...


class Schedule(BaseModel):
    """How long and how a stage learns.

    Attributes
    ----------
    warmup
        Share of the steps over which the learning rate rises from 0.
    decay
        ``cosine`` to zero, ``poly`` (power 0.9, as nnU-Net), or ``none``.
    averaging
        Decay of the exponential moving average of the weights per step; 0 turns it off.
    keep
        ``last`` weights, or ``best`` on validation where there is a validation.
    validations
        How often the stage validates in all.
    patience
        Stop after this many validations without improvement; None never stops early.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    warmup: float = Field(0.05, ge=0, lt=1)
    decay: str = Field("cosine", pattern="^(cosine|poly|none)$")
    averaging: float = Field(0.99, ge=0, lt=1)
    keep: str = Field("best", pattern="^(best|last)$")
    validations: int = Field(10, ge=1)
    patience: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Validation:
    """What validating a stage found.

    Attributes
    ----------
    score
        The number by which weights are compared; larger is better.
    figures
        Named numbers for the log, such as Dice by threshold.
    """

    score: float
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Stage:
    """One training stage, run by :func:`fewslice.training.fit.fit`.

    Attributes
    ----------
    name
        Folder name under ``RUN/stages``.
    modules
        Networks by name. `fit` moves them to the device and, on several devices, wraps them.
    optimisers
        By name; their learning rates are the peak of the schedule.
    batches
        Step → batch, a pure function, so that a resumed run sees the same batches.
    step
        (stage, batch, generator, backward) → losses by name. It calls ``backward(loss)`` and steps the optimisers it
        uses, in whatever order the method asks for.
    validate
        stage → score of the current weights, or None where nothing was held out.
    schedule
        See :class:`Schedule`.
    extra
        Further state to be kept in checkpoints: anything of numbers, strings, tensors, lists and dicts.
    initial
        Weights to start from, by module: those whose name and shape match are taken over, the others are logged.
    """

    name: str
    modules: MutableMapping[str, nn.Module]
    optimisers: MutableMapping[str, torch.optim.Optimizer]
    batches: Callable[[int], StepBatch]
    step: Callable[[Stage, Any, torch.Generator, Callable[[torch.Tensor], None]], dict[str, torch.Tensor]]
    validate: Callable[[Stage], Validation | None] = lambda stage: None
    schedule: Schedule = field(default_factory=Schedule)
    extra: dict[str, Any] = field(default_factory=dict)
    initial: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
