"""A trained ResNet from a file of weights: weights tell widths, but not strides, pools, norms or dilation.

What they do not tell is stated in the recipe, said by timm's config.json, or proved by reference outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.spec import ResNetSpec, Stem
from rmtkd_edge.families.resnet.state_dict import filled, plain_names, spec_from_state
from rmtkd_edge.families.sources import check_outputs, check_same, label_order, reorder
from rmtkd_edge.run.records.base import read_json_file

if TYPE_CHECKING:
    from rmtkd_edge.families.resnet import ResNetShape

WEIGHTS, CONFIG = "model.safetensors", "config.json"
REFERENCE = ".reference.safetensors"  # ends the name of a file with images and the original's outputs for them
TRIAL_SIDE = 64  # pixels of the images on which a net is compared with its source
CAUSES = (
    "other strides, activations, groups, dilation, another stem and eps of the norms than those of a plain ResNet, as "
    "torchvision has it, are not supported"
)
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
    config = _timm(path)
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
    known = config.get("architecture") in TIMM and not config.get("model_args")
    if reference.is_file():
        _prove(net, reference)
    if known:
        check_torchvision(str(config["architecture"]), state, net)
    elif not stated and not reference.is_file():
        raise UserError(_unknown(source, spec, shape.eps), _way_out(spec, reference))
    return _in_order(net, config.get("label_names"), labels, source)


def _in_order(net: ResNet, theirs: Any, labels: Sequence[str], source: str) -> ResNet:
    """Bring the classifier's rows into the order of the data's labels, where timm's config.json names the source's."""
    if isinstance(theirs, list) and all(isinstance(name, str) for name in theirs):
        reorder(net.classifier, label_order(theirs, labels, source))
    return net


def check_torchvision(name: str, state: Mapping[str, Tensor], net: ResNet | None) -> None:
    """Raise UserError where a net computes something else than torchvision's model of a name with the same weights.

    Args:
        net: what is compared; the plain ResNet of the weights when left out.
    """
    from torchvision.models import get_model

    classes = len(state["fc.weight"])
    with torch.random.fork_rng(devices=[]):
        theirs = get_model(name, weights=None, num_classes=classes)
    try:
        theirs.load_state_dict(dict(state))
    except RuntimeError as err:
        raise UserError(f"the weights are none of a {name}: {err}", "config.json names another architecture") from err
    if net is None:
        spec = spec_from_state(state, [str(i) for i in range(classes)], name, TRIAL_SIDE)
        net = filled(ResNet(spec), state, name, replace_classifier=False)
    check_net(net, theirs.eval(), name)


def check_net(net: ResNet, theirs: Callable[[Tensor], Tensor], what: str) -> None:
    """Raise UserError where a net gives other outputs than what it was made from, on random images."""
    x = torch.randn(2, 3, TRIAL_SIDE, TRIAL_SIDE, generator=torch.Generator().manual_seed(0))
    training = net.training
    check_same(lambda: net.eval()(x), lambda: theirs(x), what, "a plain ResNet", CAUSES)
    net.train(training)


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
    """Return config.json next to the weights of a folder, empty where there is none that can be read."""
    if path.name != WEIGHTS:
        return {}
    try:
        found = read_json_file(path.parent / CONFIG)
    except RunDirError:
        return {}
    return found if isinstance(found, dict) else {}


@torch.no_grad()
def _prove(net: ResNet, reference: Path) -> None:
    """Raise UserError where the outputs for the images of a reference file are not those in it."""
    known = _load(reference)
    pixels, wanted = known.get("pixel_values"), known.get("logits")
    if pixels is None or wanted is None or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise UserError(
            f"{reference} needs `pixel_values` (n, 3, H, W) and `logits` (n, labels), it has {', '.join(known)}",
            "save both with safetensors.torch.save_file, or remove it",
        )
    check_outputs(
        net.eval()(pixels.float()),
        wanted,
        f"the net of these weights computes something else than {reference.name} holds",
        f"{CAUSES}; model.shape.eps can be set. The reference is computed on a CPU, in float32, after model.eval()",
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
