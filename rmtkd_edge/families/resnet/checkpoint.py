"""A trained ResNet from a file of weights: weights tell widths, but not strides, pools, norms or dilation.

What they do not tell is stated in the recipe, said by timm's config.json, or proved by reference outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.spec import ResNetSpec, Stem
from rmtkd_edge.families.resnet.state_dict import filled, plain_names, spec_from_state

if TYPE_CHECKING:
    from rmtkd_edge.families.resnet import ResNetShape

WEIGHTS, CONFIG = "model.safetensors", "config.json"
REFERENCE = ".reference.safetensors"  # ends the name of a file with images and the original's outputs for them
TOLERANCE = 1e-4  # of the largest output
TIMM = ("resnet18", "resnet34", "resnet50", "resnet101")  # of timm's, those that are torchvision's
COMPUTES: dict[Stem, str] = {
    "imagenet": "a 7x7 stem of stride 2 and a max-pool of stride 2",
    "cifar": "a 3x3 stem of stride 1 and no max-pool",
}


def load_checkpoint(source: str, labels: Sequence[str], image_size: int, shape: ResNetShape) -> ResNet:
    """Return the net of a state dict in torchvision's names.

    Args:
        source: a safetensors file, or a folder with model.safetensors. FILE.reference.safetensors next to it, where it
            is there, holds `pixel_values` and the original's `logits` for them.
        shape: a recipe's; `stem` and `eps` count where they are set.

    Raises:
        UserError: it cannot be loaded, knows other labels, is no plain ResNet, or nothing says what it computes.
    """
    path = weights_file(source)
    state = plain_names(_load(path), source)
    spec = spec_from_state(state, labels, source, image_size)
    net = filled(ResNet(replace(spec, eps=shape.eps)), state, source, replace_classifier=False)
    reference = path.with_name(path.name.removesuffix(".safetensors") + REFERENCE)
    stated = "stem" in shape.model_fields_set
    if stated and shape.stem != spec.stem:
        raise UserError(
            f"model.shape.stem = {shape.stem} is {COMPUTES[shape.stem]}, but the first convolution of {source} is "
            f"{'x'.join(map(str, state['conv1.weight'].shape[2:]))}",
            f"--set model.shape.stem={spec.stem}, if the model has {COMPUTES[spec.stem]}",
        )
    if reference.is_file():
        _prove(net, reference)
    elif not stated and not _timm_says(path, spec):
        raise UserError(_unknown(source, spec, shape.eps), _way_out(spec, reference))
    return net


def normalisation_of(source: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation that timm's config.json next to the weights names, else None."""
    facts = _timm(weights_file(source)).get("pretrained_cfg")
    found = (facts.get("mean"), facts.get("std")) if isinstance(facts, dict) else (None, None)
    if not all(isinstance(part, list) and len(part) == 3 for part in found):
        return None
    mean, std = (tuple(float(value) for value in part) for part in found if part is not None)
    return mean, std


def is_weights_file(source: str) -> bool:
    """Return whether a source is a file of weights, or a folder with one."""
    path = weights_file(source)
    return path.suffix == ".safetensors" and path.is_file()


def weights_file(source: str) -> Path:
    """Return the file that holds the weights of a source."""
    return Path(source) / WEIGHTS if Path(source).is_dir() else Path(source)


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise UserError(
            f"`{path}` is no safetensors file (weights are never unpickled)",
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
        )
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as err:
        raise UserError(f"cannot load weights from `{path}`: {err}", "give a state dict as a safetensors file") from err


def _timm(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((path.parent / CONFIG).read_text(encoding="utf-8")) if path.name == WEIGHTS else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _timm_says(path: Path, spec: ResNetSpec) -> bool:
    """Return whether timm's config.json next to the weights names a net that is torchvision's."""
    config = _timm(path)
    return config.get("architecture") in TIMM and not config.get("model_args") and spec.stem == "imagenet"


@torch.no_grad()
def _prove(net: nn.Module, reference: Path) -> None:
    """Raise UserError where the outputs for the images of a reference file are not those in it."""
    known = _load(reference)
    pixels, wanted = known.get("pixel_values"), known.get("logits")
    if pixels is None or wanted is None or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise UserError(
            f"{reference} needs `pixel_values` (n, 3, H, W) and `logits` (n, labels), it has {', '.join(known)}",
            "save both with safetensors.torch.save_file, or remove it",
        )
    found = net.eval()(pixels.float())
    if found.shape != wanted.shape:
        raise UserError(
            f"{reference}: logits are {tuple(wanted.shape)}, the net gives {tuple(found.shape)}", "save them again"
        )
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(torch.finfo(found.dtype).tiny))
    if not difference <= TOLERANCE:
        raise UserError(
            f"the net of these weights computes something else than {reference.name} holds: {difference:.1e} of the "
            "largest output",
            "another stem, eps (model.shape.eps), other strides and dilation cannot be read from weights; only plain "
            "ResNets, as torchvision has them, are supported. The reference is computed on a CPU, in float32, after "
            "model.eval()",
        )


def _unknown(source: str, spec: ResNetSpec, eps: float) -> str:
    bottleneck = ", strides in the 3x3 convolutions (not in the 1x1 ones)" if spec.block == "bottleneck" else ""
    return (
        f"{source} holds weights alone, which do not tell what the model computes. It would be taken for a ResNet with "
        f"{COMPUTES[spec.stem]}, batch norms of eps {eps:g}{bottleneck} and no dilation"
    )


def _way_out(spec: ResNetSpec, reference: Path) -> str:
    return (
        f"if that is your model, --set model.shape.stem={spec.stem} (and model.shape.eps where it differs). To have it "
        "proved instead: x = torch.randn(2, 3, 64, 64); "
        "save_file({'pixel_values': x, 'logits': model.eval()(x).detach()}, "
        f"'{reference}')"
    )
