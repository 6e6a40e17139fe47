"""What `model.shape` of a recipe says of a vision transformer: of one from random weights, and of a bare state dict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rmtkd_edge.config.settings import MOST_WEIGHTS, Section

Width = Annotated[int, Field(ge=1, le=65_536)]


class VitShape(Section):
    """Shape of a vision transformer that is trained from random weights, for images of `task.image_size`.

    Of a state dict `heads` is asked (and `eps`), which its weights do not tell.
    """

    model_type: Literal["vit", "deit"] = Field("vit", description="deit: with a distillation token")
    patch: Width = Field(4, description="Pixels a side of a patch, of which an image is a multiple")
    layers: Annotated[int, Field(ge=1, le=256)] = 6
    width: Width = 192
    heads: Width = 3
    ffn: Width = 768
    pool: Literal["class", "mean"] = Field(
        "class", description="What is classified: the class token, or the mean of the patches (without a class token)"
    )
    dropout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    eps: Annotated[float, Field(gt=0, lt=1)] = Field(1e-6, description="Of the layer norms")

    @model_validator(mode="after")
    def _can_be_built(self) -> VitShape:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.pool == "mean" and self.model_type == "deit":
            raise ValueError("a deit classifies its class token: pool must be class")
        weights = self.width * (self.layers * (4 * self.width + 2 * self.ffn) + 3 * self.patch**2)
        if weights > MOST_WEIGHTS:
            raise ValueError(f"layers, width and ffn make {weights:,} weights, {MOST_WEIGHTS:,} are the most")
        return self
