"""Small MobileNets with random weights under which every part matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model

from rmtkd_edge.families.convolution import BatchNorm
from rmtkd_edge.families.mobilenet import FAMILY
from rmtkd_edge.families.mobilenet.layouts import NAMES, layout_of, with_stem
from rmtkd_edge.families.mobilenet.module import MobileNet

LABELS = ("a", "b", "c")


def torchvision_net(version: str, width: float = 0.35, **options: Any) -> nn.Module:
    """Return torchvision's MobileNet whose norms have the moments of random images."""
    torch.manual_seed(0)
    net = get_model(NAMES[version], num_classes=len(LABELS), width_mult=width, **options)
    return calibrated(net, 64)


def small_mobilenet(
    version: str, ranks: Mapping[str, int] | None = None, dead: int = 0, stem: str = "cifar"
) -> MobileNet:
    """Return a MobileNet for 16 pixels; the last `dead` channels of every inner width are always 0."""
    torch.manual_seed(0)
    spec = replace(with_stem(layout_of(version, LABELS, 0.25), stem), image_size=16).with_ranks(ranks or {})
    net: MobileNet = calibrated(FAMILY.initialise(MobileNet(spec), 0), 16)
    with torch.no_grad():
        for block in net.blocks:
            if dead and block.expand is not None:
                for layer in (block.expand, block.depthwise):
                    layer.norm.weight[-dead:], layer.norm.bias[-dead:] = 0.0, 0.0
    return net


@torch.no_grad()
def calibrated(net: Any, side: int) -> Any:
    """Give every norm the moments of what random images bring it, other scales and shifts than a new one's."""

    def take(norm: Any, given: tuple[torch.Tensor]) -> None:
        norm.running_mean.copy_(given[0].mean((0, 2, 3)))
        norm.running_var.copy_(given[0].var((0, 2, 3)) + 0.1)

    norms = [module for module in net.modules() if isinstance(module, (nn.BatchNorm2d, BatchNorm))]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.2, 0.4)
    hooks = [norm.register_forward_pre_hook(take) for norm in norms]
    net.eval()(torch.randn(16, 3, side, side))
    for hook in hooks:
        hook.remove()
    return net
