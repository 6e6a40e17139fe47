"""Small vision transformers: ours, transformers' and torchvision's, with random weights everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer as OfTorchvision
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.families.vit.spec import VitSpec, even_layers

LABELS = ("a", "b", "c")
SIDE = 16
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
CLASSES = {"vit": (ViTConfig, ViTForImageClassification), "deit": (DeiTConfig, DeiTForImageClassification)}


def shaken(model: nn.Module) -> Any:
    """Return the model with noise on every parameter, so that zero biases and unit scales hide nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def of_transformers(kind: str = "vit", labels: tuple[str, ...] = LABELS, **settings: Any) -> Any:
    """Return a ViT or DeiT classifier of transformers for images of 16 pixels."""
    config, model = CLASSES[kind]
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return shaken(model(config(**{**SIZES, "image_size": SIDE, "patch_size": 4, **settings}, **names)))


def of_torchvision(classes: int = len(LABELS), **settings: Any) -> Any:
    """Return a vision transformer of torchvision for images of 16 pixels."""
    return shaken(OfTorchvision(SIDE, 4, 2, 3, 24, 40, num_classes=classes, **settings))


def ours(eps: float = 1e-12, **settings: Any) -> VisionTransformer:
    """Return one of ours for images of 16 pixels, in eval mode."""
    spec = VitSpec(24, even_layers(2, 3, 24, 40), LABELS, patch=4, image_size=SIDE, eps=eps, **settings)
    model = VisionTransformer(spec)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float(name.endswith("norm.weight") or (".norm" in name and name.endswith("weight"))))
    return shaken(model)


def images(batch: int = 8, seed: int = 1, side: int = SIDE) -> Tensor:
    """Return random images."""
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of any of them."""
    found = model.eval()(x)
    return getattr(found, "logits", found)


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether outputs agree to 1e-4 of the largest."""
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())
