"""A trained MobileNet from a file of weights, whose strides are stated in the recipe or proved by reference outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.mobilenet.layouts import NAMES, layout_of, with_stem
from rmtkd_edge.families.mobilenet.module import MobileNet
from rmtkd_edge.families.mobilenet.spec import MobileNetSpec
from rmtkd_edge.families.mobilenet.state_dict import filled, with_widths
from rmtkd_edge.families.torchvision_sources import TORCHVISION, Wanted
from rmtkd_edge.families.weights_files import (
    load_weights,
    prove,
    reference_of,
    timm_config,
    unwrapped,
    way_to_prove,
    weights_file,
)

if TYPE_CHECKING:
    from rmtkd_edge.families.mobilenet import MobileNetShape

KIND = "a MobileNet of torchvision"
CAUSES = (
    "other strides, activations, padding, dilation and eps of the norms than those of torchvision's MobileNetV2 and V3 "
    "are not supported"
)
STRIDES = {
    "imagenet": "stem and first strided block of stride 2, as torchvision has them",
    "cifar": "stem and first strided block of stride 1",
}


def load_checkpoint(source: str, wanted: Wanted, shape: MobileNetShape) -> MobileNet:
    """Return the net of a state dict in torchvision's names.

    Args:
        source: a safetensors file, or a folder with model.safetensors. FILE.reference.safetensors next to it, where it
            is there, holds `pixel_values` and the original's `logits` for them.
        shape: a recipe's; `stem` has to be set where there is no reference, and `eps` counts where it is set.

    Raises:
        UserError: it cannot be loaded, knows other labels, is no MobileNet, or nothing says what it computes.
    """
    path = weights_file(source)
    if name := timm_config(path).get("architecture"):
        raise UserError(
            f"{source} is timm's {name}, whose names and padding are not torchvision's",
            f"supported: {', '.join(NAMES.values())} of torchvision, as {TORCHVISION}NAME or a state dict",
        )
    state = unwrapped(load_weights(path), "features.0.0.weight", source, "MobileNet")
    layout = layout_of(_version(state), wanted.labels)
    plain = with_widths(layout, state, source)
    reference, stated = reference_of(path), "stem" in shape.model_fields_set
    stems = [shape.stem] if stated or not reference.is_file() else [*STRIDES]
    possible = [with_stem(plain, stem) for stem in stems]
    # made with stride 1 the first strided block adds its input where it can; given that stride later it does not
    made = [with_widths(with_stem(layout, stem), state, source) for stem in stems]
    possible += [spec for spec in made if spec not in possible]
    for number, known in enumerate(possible, 1):
        spec = replace(known, image_size=wanted.image_size, classifier_dropout=shape.dropout)
        spec = spec if shape.eps is None else replace(spec, eps=shape.eps)
        net = filled(MobileNet(spec), state, source, replace_classifier=False)
        try:
            if reference.is_file():
                prove(net, reference, CAUSES)
            break
        except UserError:
            if number == len(possible):
                raise
    if not reference.is_file() and not stated:
        raise UserError(
            f"{source} holds weights alone, which do not tell what the model computes. It would be taken for {KIND} "
            f"with {STRIDES[shape.stem]}, batch norms of eps {spec.eps:g} and no dilation",
            f"--set model.shape.stem=imagenet for {STRIDES['imagenet']}, cifar for {STRIDES['cifar']} (and "
            f"model.shape.eps where it differs). {way_to_prove(reference)}",
        )
    if not reference.is_file() and (unknown := _not_told(plain, layout, shape.stem)):
        raise UserError(f"{source} holds weights alone, which do not tell {unknown}", way_to_prove(reference))
    return net


def _version(state: Mapping[str, Tensor]) -> str:
    """Return which MobileNet the names of a state dict are of."""
    if not any(name.startswith("features.1.block.") for name in state):
        return "v2"
    blocks = {name.split(".")[1] for name in state if name.startswith("features.")}
    return "v3-large" if len(blocks) > 14 else "v3-small"  # 17 and 13 with stem and last convolution


def _not_told(spec: MobileNetSpec, layout: MobileNetSpec, stem: str) -> str:
    """Return what torchvision's own models leave open once they were changed, empty for nothing."""
    if spec.hidden not in (None, layout.hidden) and spec.last == layout.last:
        return "the function between the classifier's layers, which are not torchvision's"
    first = next(j for j, block in enumerate(spec.blocks) if block.stride > 1)
    widths = [spec.streams[spec.stream_of(j)] for j in (first - 1, first)]
    if stem == "cifar" and widths[0] == widths[1]:
        return f"whether the block {first}, with stride 1, adds its input"
    return ""
