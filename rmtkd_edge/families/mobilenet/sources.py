"""From MobileNets of torchvision (V2, V3 large and small) to a `MobileNet`, from a state dict, or at random."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.convolution import ProjectedConv
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.mobilenet.checkpoint import CAUSES, KIND, load_checkpoint
from rmtkd_edge.families.mobilenet.layouts import NAMES, SMALL_SIDE, layout_of, with_stem
from rmtkd_edge.families.mobilenet.module import MobileNet
from rmtkd_edge.families.mobilenet.spec import MobileNetSpec
from rmtkd_edge.families.mobilenet.state_dict import filled, module_spec
from rmtkd_edge.families.torchvision_sources import Wanted, torchvision_state
from rmtkd_edge.families.weights_files import check_net, check_torchvision, refuse_other_architectures
from rmtkd_edge.families.weights_files import normalisation_of as normalisation_of


def scratch(wanted: Wanted, shape: Any) -> MobileNet:
    """Return a net of random weights: of the version, widths and stem of a recipe's `model.shape`."""
    return _initial(layout_of(shape.version, wanted.labels, shape.width), wanted, shape)


def pretrained(name: str, wanted: Wanted, shape: Any) -> MobileNet:
    """Return one of torchvision's with its ImageNet weights and a new last layer, at the stem of `shape`."""
    state = torchvision_state(name, [*NAMES.values()])
    theirs = check_torchvision(lambda: _plain(name), state, name)
    from_module(theirs)  # compares outputs
    version = next(version for version, known in NAMES.items() if known == name)
    return filled(_initial(layout_of(version, wanted.labels), wanted, shape), state, name, replace_classifier=True)


def checkpoint(source: str, wanted: Wanted, shape: Any) -> tuple[MobileNet, bool]:
    """Return the net of a safetensors file of a state dict in torchvision's names, whose classifier is trained.

    Args:
        shape: a recipe's `model.shape`, of which `stem`, `eps` and `dropout` are asked.
    """
    supported = f"{', '.join(NAMES.values())} of torchvision"
    refuse_other_architectures(source, MobileNetSpec.family, supported)
    return load_checkpoint(source, wanted, shape), True


def _plain(name: str) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None)


def _initial(layout: MobileNetSpec, wanted: Wanted, shape: Any) -> MobileNet:
    """Return a net of random weights at the stem, eps and dropout of `shape`."""
    spec = with_stem(layout, shape.stem)
    eps = spec.eps if shape.eps is None else shape.eps
    spec = replace(spec, image_size=wanted.image_size, eps=eps, classifier_dropout=shape.dropout)
    return initialise(MobileNet(spec), wanted.seed)


def initialise(net: MobileNet, seed: int) -> MobileNet:
    """Set random weights as torchvision does (convolutions: He et al. 2015, fan out) and return the net."""
    torch.manual_seed(seed)
    for name, module in net.named_modules():
        if isinstance(module, ProjectedConv) or (isinstance(module, ProjectedLinear) and ".gates." in name):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, ProjectedLinear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, ProjectedLinear):
            nn.init.zeros_(module.bias)
    return net


def from_module(module: nn.Module, labels: Sequence[str] | None = None) -> MobileNet | None:
    """Return a net that computes what a MobileNetV2 or V3 of torchvision does, None for any other module.

    Weights are copied. It takes images of 224 pixels, or of 32 where the stem has stride 1, normalised as ImageNet's;
    labels that are not given are LABEL_0, LABEL_1, and so on.

    Raises:
        UserError: a MobileNet that is built of other parts (dilation, other norms or classifiers).
    """
    from torchvision.models import MobileNetV2, MobileNetV3

    if not isinstance(module, (MobileNetV2, MobileNetV3)):
        return None
    theirs = copy.deepcopy(module).cpu().float().eval()
    linears = [layer for layer in theirs.classifier.modules() if isinstance(layer, nn.Linear)]
    if not linears:
        raise UserError("the module has no linear classifier", "net.classifier[-1] = torch.nn.Linear(...)")
    spec = module_spec(theirs, labels or [f"LABEL_{i}" for i in range(linears[-1].out_features)])
    spec = replace(spec, image_size=spec.image_size if spec.stem_stride == 2 else SMALL_SIDE)
    ours = filled(MobileNet(spec), theirs.state_dict(), "the module", replace_classifier=False).eval()
    check_net(ours, theirs, "the module", KIND, CAUSES)
    return ours.train(module.training)
