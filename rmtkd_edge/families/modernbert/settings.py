"""What `model.shape` of a recipe says of a ModernBERT that is trained from random weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rmtkd_edge.config.settings import MOST_WEIGHTS, Section

Width = Annotated[int, Field(ge=1, le=65_536)]


class ModernBertShape(Section):
    """Shape of a ModernBERT that is trained from random weights (`model.source = "scratch"`)."""

    layers: Annotated[int, Field(ge=1, le=256)] = 6
    width: Width = 256
    heads: Width = 4
    ffn: Width = 384
    max_positions: Annotated[int, Field(ge=1, le=1_048_576)] = 8192
    local_attention: Annotated[int, Field(ge=2, le=1_048_576)] = 128
    global_every: Annotated[int, Field(ge=1, le=256)] = 3
    pooling: Literal["cls", "mean"] = "mean"
    dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0

    @model_validator(mode="after")
    def _can_be_built(self) -> ModernBertShape:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width {self.width} is no even multiple of heads {self.heads}")
        weights = self.width * self.layers * (4 * self.width + 3 * self.ffn)
        if weights > MOST_WEIGHTS:
            raise ValueError(f"layers, width and ffn make {weights:,} weights, {MOST_WEIGHTS:,} are the most")
        return self
