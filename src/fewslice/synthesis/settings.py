"""What settings of simulators are made of: groups of fields, and numbers with their ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Extent", "NotNegative", "Part", "Positive", "Share"]

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Extent = Annotated[int, Field(ge=1, le=100_000)]
"""Voxels along one axis."""


class Part(BaseModel):
    """A group of settings: frozen, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
