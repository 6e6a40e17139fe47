"""The MobileNets that torchvision has, with other widths and strides: what a recipe's `model.shape` describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rmtkd_edge.families.mobilenet.spec import MobileNetSpec
from rmtkd_edge.families.mobilenet.state_dict import module_spec

NAMES = {"v2": "mobilenet_v2", "v3-large": "mobilenet_v3_large", "v3-small": "mobilenet_v3_small"}
SIDES = {"imagenet": 224, "cifar": 32}


def layout_of(version: str, labels: Sequence[str], width: float = 1.0, stem: str = "imagenet") -> MobileNetSpec:
    """Return the shape of a MobileNet of torchvision.

    Args:
        version: `v2`, `v3-large` or `v3-small`.
        width: by which all widths are multiplied.
        stem: `imagenet`, or `cifar`: stem and first strided block have stride 1, as images of 32 pixels need.
    """
    from torchvision.models import get_model

    with torch.device("meta"):
        net = get_model(NAMES[version], weights=None, num_classes=len(labels), width_mult=width)
    spec = replace(module_spec(net, labels), image_size=SIDES[stem])
    if stem == "imagenet":
        return spec
    first = next(j for j, block in enumerate(spec.blocks) if block.stride > 1)
    blocks = tuple(replace(block, stride=1) if j == first else block for j, block in enumerate(spec.blocks))
    return replace(spec, stem_stride=1, blocks=blocks)
