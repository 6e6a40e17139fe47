"""What `model.shape` of a recipe says of an encoder that is trained from random weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rmtkd_edge.config.settings import MOST_WEIGHTS, Section

Width = Annotated[int, Field(ge=1, le=65_536)]


class EncoderShape(Section):
    """Shape of an encoder that is trained from random weights (`model.source = "scratch"`)."""

    model_type: Literal[
        "bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "albert", "deberta-v2"
    ] = "bert"
    layers: Annotated[int, Field(ge=1, le=256)] = 4
    width: Width = 256
    heads: Width = 4
    ffn: Width = 1024
    max_positions: Annotated[int, Field(ge=1, le=1_048_576)] = 512
    dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1

    @model_validator(mode="after")
    def _can_be_built(self) -> EncoderShape:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        weights = self.width * (self.layers * (4 * self.width + 2 * self.ffn) + self.max_positions)
        if weights > MOST_WEIGHTS:
            raise ValueError(f"layers, width and ffn make {weights:,} weights, {MOST_WEIGHTS:,} are the most")
        return self
