"""Shapes with random weights, for the tools that measure time: BERT-like encoders and ResNets at any widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rmtkd_edge.api.models import from_module
from rmtkd_edge.families.base import Spec, family_of
from rmtkd_edge.machine import detect_machine


def encoder_spec(**changes: Any) -> Spec:
    """Return the shape of BERT-base with two labels, or with other values of transformers' BertConfig."""
    from transformers import BertConfig, BertForSequenceClassification

    return from_module(BertForSequenceClassification(BertConfig(**changes)), ("negative", "positive")).spec


def resnet_spec(depth: int, side: int = 32, labels: int = 10) -> Spec:
    """Return the shape of torchvision's ResNet of a depth with a CIFAR stem (3 x 3, no pool), `side` pixels a side."""
    from torchvision import models

    net = models.get_model(f"resnet{depth}", num_classes=labels)
    net.conv1 = torch.nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)
    net.maxpool = torch.nn.Identity()
    spec = from_module(net).spec
    return family_of(spec).spec_from_dict({**spec.to_dict(), "image_size": side})


def cut(spec: Spec, widths: Mapping[str, int | float], less: int = 0) -> Spec:
    """Return the spec with new widths, by kind of site, that are present.

    Args:
        widths: an int is the width itself (of a head for sites with heads), a float a share of the present one.
        less: channels fewer than that where a width is cut.
    """
    ranks = {}
    for site in spec.sites():
        wanted = widths.get(site.kind)
        if wanted is not None and not site.latent:
            width = wanted if isinstance(wanted, int) else int(wanted * site.width)
            ranks[site.name] = width - less if width < site.width else width
    return spec.with_ranks(ranks)


def random_model(spec: Spec) -> Any:
    """Return a model of a shape with random weights, the same ones every time."""
    family = family_of(spec)
    return family.initialise(family.build(spec), 0).eval()


@dataclass(frozen=True)
class Processor:
    """This machine's processor, as results name it."""

    model: str
    sets: tuple[str, ...]


def this_processor() -> Processor:
    """Return the processor's name and its vector instruction sets."""
    machine = detect_machine()
    return Processor(machine.processor_model or "unknown", machine.instruction_sets)


def tensors(feed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return arrays as tensors."""
    return {name: torch.from_numpy(value) for name, value in feed.items()}


def size_of(path: Path) -> int:
    """Return the bytes of a model's file and of its file of weights, where it has one."""
    files = (path, path.with_name(f"{path.name}.data"), path.with_suffix(".bin"))
    return sum(file.stat().st_size for file in files if file.is_file())
