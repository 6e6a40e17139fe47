"""Where a MobileNet is analysed.

Channels of a block are kept by what its last convolution reads, after depthwise convolution and gates; directions are
those of what its first one writes. A stream is seen after every block, where no function follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rmtkd_edge.families.base import Site
from rmtkd_edge.families.mobilenet.module import ACTIVATIONS, MobileNet
from rmtkd_edge.families.mobilenet.spec import STEM
from rmtkd_edge.families.pixels import Pixels


@dataclass(frozen=True)
class Places(Pixels):
    """The sites of a net."""

    net: MobileNet

    def taps(self, site: Site) -> list[str]:
        """Return the places of a site."""
        if site.kind == "inner":
            return [site.name if self.options.select else f"{site.name.removesuffix('.inner')}.expand"]
        if site.kind != "stream":
            return [site.name]
        blocks = [block.sum for block in self.net.blocks if block.ends == site.name]
        return [STEM, *blocks] if site.name == "stream.0" else blocks

    def read(self, site: Site, tap: str, activation: Tensor) -> Tensor:
        """Return what the next layer reads: after the function of the stem, an expansion, gates or the last layers."""
        spec = self.net.spec
        name, _, part = tap.rpartition(".")
        if part in ("sum", "inner"):
            return activation
        if part == "squeeze":
            return ACTIVATIONS["relu"](activation)
        own = spec.blocks[int(name.removeprefix("block."))].activation if part == "expand" else spec.activation
        return ACTIVATIONS[own](activation)
