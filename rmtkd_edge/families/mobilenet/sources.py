"""From MobileNets of torchvision (V2, V3 large and small) to a `MobileNet`, from a state dict, or at random."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rmtkd_edge.errors import UserError
from rmtkd_edge.families import weights_files
from rmtkd_edge.families.convolution import ProjectedConv
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.mobilenet.checkpoint import CAUSES, KIND, load_checkpoint
from rmtkd_edge.families.mobilenet.layouts import NAMES, SMALL_SIDE, layout_of, with_stem
from rmtkd_edge.families.mobilenet.module import MobileNet
from rmtkd_edge.families.mobilenet.spec import MobileNetSpec
from rmtkd_edge.families.mobilenet.state_dict import filled, module_spec
from rmtkd_edge.families.sources import own_model, own_spec
from rmtkd_edge.families.torchvision_sources import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION,
    Normalisation,
    Wanted,
    fitting,
    own_normalisation,
    torchvision_state,
)
from rmtkd_edge.families.weights_files import check_net, check_torchvision


def build(source: str, wanted: Wanted, shape: Any) -> tuple[MobileNet, bool]:
    """Return the teacher and whether its classifier is trained already.

    Args:
        source: `scratch`, `torchvision:mobilenet_v2` (its ImageNet weights; a network is needed once), a safetensors
            file of a state dict in torchvision's names, or a folder that this package wrote.
        shape: a recipe's `model.shape`. Of torchvision's weights `stem` and `dropout` are asked, of a state dict
            `stem`, `eps` and `dropout`.

    Raises:
        UserError: the source cannot be loaded, knows other labels or sizes, or nothing says what it computes.
        RunDirError: a folder of this package was altered.
    """
    if source == "scratch":
        spec = with_stem(layout_of(shape.version, wanted.labels, shape.width), shape.stem)
        return initialise(MobileNet(_as_asked(spec, wanted, shape)), wanted.seed), False
    if source.startswith(TORCHVISION):
        name = source.removeprefix(TORCHVISION)
        state = torchvision_state(name, [*NAMES.values()])
        theirs = check_torchvision(lambda: _plain(name), state, name)
        from_module(theirs)  # compares outputs
        version = next(version for version, known in NAMES.items() if known == name)
        spec = with_stem(layout_of(version, wanted.labels), shape.stem)
        net = initialise(MobileNet(_as_asked(spec, wanted, shape)), wanted.seed)
        return filled(net, state, source, replace_classifier=True), False
    source = weights_files.downloaded(source)
    ours = own_model(Path(source))
    if ours is not None:
        return cast(MobileNet, fitting(source, ours, MobileNetSpec.family, wanted)), True
    supported = f"{', '.join(NAMES.values())} of torchvision"
    weights_files.refuse_other_architectures(source, MobileNetSpec.family, supported)
    return load_checkpoint(source, wanted, shape), True


def _plain(name: str) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None)


def _as_asked(spec: MobileNetSpec, wanted: Wanted, shape: Any) -> MobileNetSpec:
    eps = spec.eps if shape.eps is None else shape.eps
    return replace(spec, image_size=wanted.image_size, eps=eps, classifier_dropout=shape.dropout)


def normalisation_of(source: str) -> Normalisation | None:
    """Return the mean and standard deviation that a source was trained with, None where it says nothing."""
    if source.startswith(TORCHVISION):
        return IMAGENET_MEAN, IMAGENET_STD
    spec = own_spec(Path(source))
    return weights_files.normalisation_of(source) if spec is None else own_normalisation(spec, MobileNetSpec.family)


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
