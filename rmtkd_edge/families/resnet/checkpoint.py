"""A trained ResNet from a file of weights: weights tell widths, but not strides, pools, norms or dilation.

What they do not tell is stated in the recipe, said by timm's config.json, or proved by reference outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rmtkd_edge.errors import UserError
from rmtkd_edge.families import weights_files
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.spec import ResNetSpec, Stem
from rmtkd_edge.families.resnet.state_dict import filled, of_three_channels, plain_names, spec_from_state
from rmtkd_edge.families.torchvision_sources import refuse_other_shape
from rmtkd_edge.families.weights_files import (
    IMAGENET_CLASSES,
    TRIAL_SIDE,
    in_order,
    load_weights,
    prove,
    reference_of,
    timm_config,
    way_to_prove,
    weights_file,
)

if TYPE_CHECKING:
    from rmtkd_edge.families.resnet import ResNetShape

CAUSES = (
    "other strides, activations, dilation, another stem and eps of the norms than those of a plain ResNet, as "
    "torchvision has it, are not supported"
)
NAMES = (  # of torchvision's models, and of timm's, those that the family computes
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
COMPUTES: dict[Stem, str] = {
    "imagenet": "a 7x7 stem of stride 2 and a max-pool of stride 2",
    "cifar": "a 3x3 stem of stride 1 and no max-pool",
}


def load_checkpoint(source: str, labels: Sequence[str], image_size: int, shape: ResNetShape) -> tuple[ResNet, bool]:
    """Return the net of a state dict in torchvision's names, and whether it keeps its classifier.

    That of one of timm's models for ImageNet's classes is left out where the data have another number of labels.

    Args:
        source: a safetensors file, or a folder with model.safetensors. FILE.reference.safetensors next to it, where it
            is there, holds `pixel_values` and the original's `logits` for them.
        shape: a recipe's; `stem` and `eps` count where they are set.

    Raises:
        UserError: it cannot be loaded, knows other labels, is no plain ResNet, or nothing says what it computes.
    """
    path = weights_file(source)
    config = timm_config(path)
    state = of_three_channels(plain_names(load_weights(path), source))
    name, reference = config.get("architecture"), reference_of(path)
    known = name in NAMES and not config.get("model_args")
    if name is not None and not known and not reference.is_file():
        raise UserError(_other_of_timm(source, config), f"supported: {', '.join(NAMES)}. {way_to_prove(reference)}")
    if known and IMAGENET_CLASSES == len(state.get("fc.weight", ())) != len(labels):
        spec = replace(check_torchvision(str(name), state, None), labels=tuple(labels), image_size=image_size)
        return filled(ResNet(spec), state, source, replace_classifier=True), False
    spec = spec_from_state(state, labels, source, image_size)
    net = filled(ResNet(replace(spec, eps=shape.eps)), state, source, replace_classifier=False)
    refuse_other_shape(shape, source, {"stem": spec.stem})
    if reference.is_file():
        prove(net, reference, CAUSES)
    if known:
        check_torchvision(str(name), state, net)
    elif "stem" not in shape.model_fields_set and not reference.is_file():
        raise UserError(_unknown(source, spec, shape.eps), _way_out(spec, reference))
    in_order(net.classifier, config.get("label_names"), labels, source)
    return net, True


def _other_of_timm(source: str, config: Mapping[str, Any]) -> str:
    args = config.get("model_args")
    return (
        f"{source} is timm's {config['architecture']}{f' with {args}' if args else ''}, whose weights do not tell what "
        "the model computes, and torchvision has no such ResNet to compare with"
    )


def check_torchvision(name: str, state: Mapping[str, Tensor], net: ResNet | None) -> ResNetSpec:
    """Return the shape of a net that computes what torchvision's model of a name does with the same weights.

    Args:
        net: what is compared; the plain ResNet of the weights when left out.

    Raises:
        UserError: it computes something else.
    """
    from torchvision.models import get_model

    classes = len(state["fc.weight"])
    theirs = weights_files.check_torchvision(lambda: get_model(name, weights=None, num_classes=classes), state, name)
    if net is None:
        spec = spec_from_state(state, [str(i) for i in range(classes)], name, TRIAL_SIDE)
        net = filled(ResNet(spec), state, name, replace_classifier=False)
    check_net(net, theirs, name)
    return net.spec


def check_net(net: ResNet, theirs: Callable[[Tensor], Tensor], what: str) -> None:
    """Raise UserError where a net gives other outputs than what it was made from, on random images."""
    weights_files.check_net(net, theirs, what, "a plain ResNet", CAUSES)


def _unknown(source: str, spec: ResNetSpec, eps: float) -> str:
    bottleneck = ", strides in the 3x3 convolutions (not in the 1x1 ones)" if spec.block == "bottleneck" else ""
    return (
        f"{source} holds weights alone, which do not tell what the model computes. It would be taken for a ResNet with "
        f"{COMPUTES[spec.stem]}, batch norms of eps {eps:g}{bottleneck} and no dilation"
    )


def _way_out(spec: ResNetSpec, reference: Path) -> str:
    return (
        f"if that is your model, --set model.shape.stem={spec.stem} (and model.shape.eps where it differs). "
        + way_to_prove(reference)
    )
