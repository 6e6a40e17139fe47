"""The MobileNets that torchvision has, with other widths and strides: what a recipe's `model.shape` describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rmtkd_edge.families.mobilenet.spec import MobileNetSpec
from rmtkd_edge.families.mobilenet.state_dict import module_spec

NAMES = {"v2": "mobilenet_v2", "v3-large": "mobilenet_v3_large", "v3-small": "mobilenet_v3_small"}
SMALL_SIDE = 32  # pixels, of images that a stem of stride 1 is for


def layout_of(version: str, labels: Sequence[str], width: float = 1.0) -> MobileNetSpec:
    """Return the shape of a MobileNet of torchvision (`v2`, `v3-large`, `v3-small`), all widths times `width`."""
    from torchvision.models import get_model

    with torch.device("meta"):
        net = get_model(NAMES[version], weights=None, num_classes=len(labels), width_mult=width)
    return module_spec(net, labels)


def with_stem(spec: MobileNetSpec, stem: str) -> MobileNetSpec:
    """Return a shape as it is (`imagenet`), or with stem and first strided block of stride 1, for small images."""
    if stem == "imagenet":
        return spec
    first = next(j for j, block in enumerate(spec.blocks) if block.stride > 1)
    blocks = tuple(replace(block, stride=1) if j == first else block for j, block in enumerate(spec.blocks))
    return replace(spec, stem_stride=1, blocks=blocks, image_size=SMALL_SIDE)
