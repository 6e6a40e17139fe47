"""Small ResNets with random weights under which every part matters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import cast

import torch

from rmtkd_edge.families.convolution import BatchNorm
from rmtkd_edge.families.resnet import FAMILY
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.sources import initialise, resnet_spec
from rmtkd_edge.families.resnet.spec import Stem


def small_resnet(
    depth: int,
    stem: str = "cifar",
    labels: tuple[str, ...] = ("a", "b", "c"),
    dead: int = 0,
    ranks: Mapping[str, int] | None = None,
    groups: int = 1,
) -> ResNet:
    """Return a ResNet of width 8 for 16 pixels; `dead` channels of every inner width and stream are always 0."""
    spec = resnet_spec(depth, labels, width=8, stem=cast(Stem, stem), image_size=16, groups=groups)
    spec = spec.with_ranks(ranks or {})
    net = initialise(ResNet(spec), depth).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.4)
                if dead:
                    module.weight[-dead:], module.bias[-dead:] = 0.0, 0.0
    return net


def random_resnet(seed: int) -> ResNet:
    """Return a small ResNet of a random depth, stem, widths and factors."""
    rng = random.Random(seed)
    depth, stem = [(18, "cifar"), (50, "imagenet"), (18, "imagenet"), (50, "cifar")][seed % 4]
    sites = small_resnet(depth, stem).spec.sites()
    return small_resnet(depth, stem, ranks={s.name: rng.randint(2, s.width) for s in sites if rng.random() < 0.4})


CUT = {"layer.1.stream": 6, "layer.2.block.0.conv1": 9, "layer.2.stream": 11, "layer.4.block.1.conv1": 31}


def make_model(seed: int = 0) -> ResNet:
    """Return a net with fixed projections at some of its sites."""
    generator = torch.Generator().manual_seed(seed)
    wide = {site.name: site.width for site in small_resnet(18).spec.sites()}
    bases = {
        name: torch.linalg.qr(torch.randn(wide[name], rank, generator=generator, dtype=torch.float64))[0].T
        for name, rank in CUT.items()
    }
    return FAMILY.unfold(small_resnet(18, ranks=CUT), bases).eval()


def make_batches(model: ResNet, count: int = 2) -> list[dict[str, torch.Tensor]]:
    """Return labelled batches."""
    generator, batches = torch.Generator().manual_seed(0), []
    for number in range(count):
        pixels = torch.randn(8, 3, model.spec.image_size, model.spec.image_size, generator=generator)
        labels = torch.arange(8) % len(model.spec.labels)
        batches.append({"pixel_values": pixels, "labels": labels, "index": torch.arange(8) + 8 * number})
    return batches
