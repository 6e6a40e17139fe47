"""Small ResNets with random weights under which every part matters."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rmtkd_edge.families.resnet.sources import module as convnet
from rmtkd_edge.families.resnet.sources import sources as resnet
from rmtkd_edge.families.resnet.module import ConvNet


def small_resnet(
    depth: int, stem: str = "cifar", labels: tuple[str, ...] = ("a", "b", "c"), dead: int = 0,
    ranks: Mapping[str, int] | None = None,
) -> ConvNet:  # fmt: skip
    """Return a ResNet of width 8 for 16 pixels; `dead` channels of every inner width and stream are always 0."""
    torch.manual_seed(depth)
    spec = resnet.resnet_spec(depth, labels, width=8, stem=stem, image_size=16).with_ranks(ranks or {})
    net = resnet.initialise(ConvNet(spec)).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, convnet.BatchNorm):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.4)
                if dead:
                    module.weight[-dead:], module.bias[-dead:] = 0.0, 0.0
    return net
