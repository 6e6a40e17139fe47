"""What checkpoints of transformers and torchvision are held to: the same outputs, the data's labels and image size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.sources import check_same
from rmtkd_edge.families.torchvision_sources import Wanted
from rmtkd_edge.families.vit.module import VisionTransformer

INITIAL_STD = 0.02
CAUSES = (
    "register tokens, a convolutional stem, several classifiers or a hidden one, other activations and eps of the "
    "norms than the model's own settings say are not supported"
)
KNOWN = (
    "a vit or deit folder of transformers (hf download ID --local-dir DIR), torchvision:vit_b_16, a safetensors "
    "state dict of torchvision's VisionTransformer, a run's compress/teacher, an exported folder, or scratch"
)


def labelled(model: VisionTransformer, labels: Sequence[str]) -> VisionTransformer:
    """Return the model with these labels."""
    model.spec = replace(model.spec, labels=tuple(labels))
    return model


def new_classifier(model: VisionTransformer, wanted: Wanted) -> VisionTransformer:
    """Set random weights of the classifier, in place, and return the model."""
    torch.manual_seed(wanted.seed)
    nn.init.trunc_normal_(model.classifier.weight, std=INITIAL_STD)
    nn.init.zeros_(model.classifier.bias)
    return model


def check(model: VisionTransformer, theirs: Callable[[Tensor], Tensor], where: str) -> None:
    """Raise UserError where a model gives other outputs than what it was made from, on random images."""
    side = model.spec.image_size
    x = torch.randn(2, CHANNELS, side, side, generator=torch.Generator().manual_seed(0))
    check_same(lambda: model.eval()(x), lambda: theirs(x), where, "a plain vision transformer", CAUSES)
    model.train()
