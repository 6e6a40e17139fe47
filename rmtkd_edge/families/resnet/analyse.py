"""Where a ResNet is analysed: at its sites, after the ReLU.

The edge belongs to what the next convolution reads, after the ReLU; the effect is the logits' gradient before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.base import Site
from rmtkd_edge.families.pixels import Pixels
from rmtkd_edge.families.resnet.module import ResNet


@dataclass(frozen=True)
class Places(Pixels):
    """The sites of a net: of a stream every sum before a ReLU, of any other its own tap."""

    net: ResNet

    def taps(self, site: Site) -> list[str]:
        """Return the places of a site."""
        if site.kind in ("inner", "factor"):
            return [site.name]
        if site.name == "stem":
            return ["stem.sum"]
        assert site.layer is not None, "a stream belongs to a stage"
        names = [f"{block.name}.sum" for block in self.net.stages[site.layer - 1]]
        return ["stem.sum", *names] if site.layer == 1 and self.net.spec.stem_is_shared else names

    def read(self, site: Site, tap: str, activation: Tensor) -> Tensor:
        """Return an activation after the ReLU, where one follows."""
        return F.relu(activation) if site.selectable else activation
