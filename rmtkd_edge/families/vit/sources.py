"""The vision transformer that a recipe or a module names: a checkpoint, one of another library, or random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rmtkd_edge.errors import UserError
from rmtkd_edge.families import weights_files
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.normalisation import normalisation_of as normalisation_of
from rmtkd_edge.families.sources import config_labels, refuse_other_problems
from rmtkd_edge.families.torchvision_sources import Wanted
from rmtkd_edge.families.vit import of_torchvision, of_transformers
from rmtkd_edge.families.vit.checkpoint import CAUSES, INITIAL_STD
from rmtkd_edge.families.vit.config import CLASSES
from rmtkd_edge.families.vit.module import ProjectedPatches, ProjectedTable, VisionTransformer
from rmtkd_edge.families.vit.settings import VitShape
from rmtkd_edge.families.vit.spec import VitSpec, even_layers
from rmtkd_edge.run.layout import CONFIG


def scratch(wanted: Wanted, shape: VitShape) -> VisionTransformer:
    """Return a model of random weights: of a recipe's `model.shape`."""
    return initialise(VisionTransformer(scratch_spec(shape, wanted)), wanted.seed)


def pretrained(name: str, wanted: Wanted, shape: VitShape) -> VisionTransformer:
    """Return one of torchvision's with its ImageNet weights and a new classifier; `shape` is not looked at."""
    return of_torchvision.load_pretrained(name, wanted)


def checkpoint(source: str, wanted: Wanted, shape: VitShape) -> tuple[VisionTransformer, bool]:
    """Return the model of a folder of transformers, or of torchvision's state dict, and whether it classifies."""
    if (Path(source) / CONFIG).is_file():
        return of_transformers.load(source, wanted)
    return of_torchvision.load_state(weights_files.weights_file(source), wanted, shape), True


def scratch_spec(shape: VitShape, wanted: Wanted) -> VitSpec:
    """Return the shape of a model from random weights; raise UserError for images that patches do not fill."""
    if wanted.image_size % shape.patch:
        raise UserError(
            f"images of {wanted.image_size} pixels a side cannot be divided into patches of {shape.patch}",
            "set task.image_size to a multiple of model.shape.patch",
        )
    return VitSpec(
        width=shape.width,
        layers=even_layers(shape.layers, shape.heads, shape.width, shape.ffn),
        labels=wanted.labels,
        model_type=shape.model_type,
        patch=shape.patch,
        tokens={"vit": 1, "deit": 2}[shape.model_type] if shape.pool == "class" else 0,
        pool=shape.pool,
        image_size=wanted.image_size,
        eps=shape.eps,
        dropout=shape.dropout,
    )


@torch.no_grad()
def initialise(model: VisionTransformer, seed: int) -> VisionTransformer:
    """Set random weights, in place, as transformers does, but patches by their number of inputs; return the model."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, ProjectedPatches):
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, ProjectedTable | ProjectedLinear):
            nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        if isinstance(module, ProjectedPatches | ProjectedLinear):
            nn.init.zeros_(module.bias)
    return model


def from_module(module: nn.Module, labels: Sequence[str] | None = None) -> VisionTransformer | None:
    """Return a model that computes what a classifier of transformers or torchvision does, None for any other module.

    Weights are copied. Images are taken to be normalised as ImageNet's; labels that are not given are those of a
    config, or LABEL_0, LABEL_1, and so on.

    Raises:
        UserError: a vision transformer of other parts (two classifiers, a convolutional stem, a hidden layer).
    """
    from torchvision.models import VisionTransformer as OfTorchvision

    config: Any = getattr(module, "config", None)
    if getattr(config, "model_type", None) in CLASSES:
        wanted = CLASSES[config.model_type]
        if type(module).__name__ != wanted:
            raise UserError(f"a {type(module).__name__} is no {wanted}", CAUSES)
        refuse_other_problems(config.problem_type)
        found = of_transformers.converted(module, labels or config_labels(config), "the module")
    elif isinstance(module, OfTorchvision):
        found = of_torchvision.converted(module, labels, "the module")
    else:
        return None
    return found.train(module.training)
