"""What the models of every family are: torch modules that know their shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from rmtkd_edge.families.base import Spec
    from rmtkd_edge.families.layers import ProjectedLinear


class Model(nn.Module):
    """A torch module of a family, called with its spec's inputs in their order, and `tap=` to see activations."""

    spec: Spec

    @property
    def output_layer(self) -> ProjectedLinear | None:
        """The linear layer whose outputs are the model's, None where there is none or something follows it."""
        return None

    def set_dropout(self, p: float) -> None:
        """Set the probability of every dropout layer."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = p
