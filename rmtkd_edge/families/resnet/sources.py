"""From ResNets of torchvision (18, 34, 50, 101) and transformers to a `ResNet`, from a state dict, or at random."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rmtkd_edge.errors import UserError
from rmtkd_edge.families import weights_files
from rmtkd_edge.families.convolution import ProjectedConv
from rmtkd_edge.families.normalisation import normalisation_of as of_preprocessor
from rmtkd_edge.families.resnet import from_transformers
from rmtkd_edge.families.resnet.checkpoint import NAMES, check_net, check_torchvision, load_checkpoint
from rmtkd_edge.families.resnet.from_transformers import config_of, is_transformers_resnet
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.spec import BlockSpec, Kind, ResNetSpec, StageSpec, Stem
from rmtkd_edge.families.resnet.state_dict import filled, of_three_channels, spec_from_state
from rmtkd_edge.families.sources import config_labels, refuse_other_problems, reorder
from rmtkd_edge.families.torchvision_sources import Normalisation, Wanted, torchvision_state

DEPTHS: dict[int, tuple[Kind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
}
USUAL_GROUP = 64  # channels of the one group of a plain bottleneck whose stage begins 64 wide
EXPANSION = {"basic": 1, "bottleneck": 4}
STEMS: dict[tuple[int, int, str], Stem] = {(7, 2, "MaxPool2d"): "imagenet", (3, 1, "Identity"): "cifar"}
SIDES: dict[Stem, int] = {"imagenet": 224, "cifar": 32}


def resnet_spec(
    depth: int,
    labels: Sequence[str],
    *,
    width: int = 64,
    stem: Stem = "imagenet",
    image_size: int = 224,
    groups: int = 1,
    width_per_group: int = USUAL_GROUP,
) -> ResNetSpec:
    """Return the shape of a ResNet (He et al. 2016, as torchvision has it) whose first stage is `width` channels wide.

    Args:
        stem: `imagenet` (7x7 with stride 2, max-pool) or `cifar` (3x3, no pool).
        groups, width_per_group: of the 3x3 convolutions of bottlenecks, as torchvision names them: 32 and 4 of a
            ResNeXt-50 32x4d, 1 and 128 of a wide ResNet.

    Raises:
        UserError: another depth, groups of basic blocks, or no channel for a group.
    """
    if depth not in DEPTHS:
        raise UserError(f"there is no ResNet-{depth} here", f"known depths: {', '.join(map(str, DEPTHS))}")
    block, counts = DEPTHS[depth]
    if (block == "basic" and (groups, width_per_group) != (1, USUAL_GROUP)) or width * width_per_group < USUAL_GROUP:
        raise UserError(
            f"a ResNet-{depth} of width {width} has no {groups} groups of {width_per_group}", "model.shape.depth=50"
        )
    stages, before = [], width
    for i, count in enumerate(counts):
        inner = int(width * 2**i * width_per_group / USUAL_GROUP) * groups
        after = width * 2**i * EXPANSION[block]
        stride = 1 if i == 0 else 2
        widths = (inner,) if block == "basic" else (inner, inner)
        first = BlockSpec(widths, stride, stride != 1 or before != after)
        stages.append(StageSpec(after, (first, *(BlockSpec(widths) for _ in range(count - 1)))))
        before = after
    return ResNetSpec(block, stem, width, tuple(stages), tuple(labels), image_size, groups=groups)


def scratch(wanted: Wanted, shape: Any) -> ResNet:
    """Return a net of random weights: of the depth, widths, stem and groups of a recipe's `model.shape`."""
    spec = resnet_spec(
        shape.depth,
        wanted.labels,
        width=shape.width,
        stem=shape.stem,
        image_size=wanted.image_size,
        groups=shape.groups,
        width_per_group=shape.width_per_group,
    )
    return initialise(ResNet(replace(spec, eps=shape.eps)), wanted.seed)


def pretrained(name: str, wanted: Wanted, shape: Any) -> ResNet:
    """Return one of torchvision's with its ImageNet weights; a stem of another kind starts from random weights."""
    state = torchvision_state(name, NAMES)
    theirs = check_torchvision(name, state, None)
    spec = replace(theirs, labels=wanted.labels, stem=shape.stem, image_size=wanted.image_size)
    return filled(initialise(ResNet(spec), wanted.seed), state, name, replace_classifier=True)


def checkpoint(source: str, wanted: Wanted, shape: Any) -> tuple[ResNet, bool]:
    """Return the net of another library and whether its classifier is trained already.

    Args:
        source: a safetensors file of a state dict in torchvision's names, or a folder of transformers'
            ResNetForImageClassification or of timm.
        shape: a recipe's `model.shape`; of a state dict `stem` and `eps` are asked.
    """
    if is_transformers_resnet(config_of(source)):
        return _of_transformers(source, wanted)
    weights_files.refuse_other_architectures(source, ResNetSpec.family, f"resnet of transformers, {', '.join(NAMES)}")
    net, trained = load_checkpoint(source, wanted.labels, wanted.image_size, shape)
    return (net if trained else initialise_classifier(net, wanted.seed)), trained


def normalisation_of(source: str) -> Normalisation | None:
    """Return the mean and standard deviation that a file or folder names, None where it says nothing."""
    return (of_preprocessor if is_transformers_resnet(config_of(source)) else weights_files.normalisation_of)(source)


def initialise(net: ResNet, seed: int) -> ResNet:
    """Set random weights as torchvision does (He et al. 2015, fan out) and return the net."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, ProjectedConv):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return initialise_classifier(net)


def initialise_classifier(net: ResNet, seed: int | None = None) -> ResNet:
    """Set the classifier's random weights as torchvision does, under a seed where one is given, and return the net."""
    if seed is not None:
        torch.manual_seed(seed)
    bound = 1 / math.sqrt(net.classifier.weight.shape[1])
    nn.init.uniform_(net.classifier.weight, -bound, bound)
    nn.init.uniform_(net.classifier.bias, -bound, bound)
    return net


def _of_transformers(source: str, wanted: Wanted) -> tuple[ResNet, bool]:
    theirs, order = from_transformers.load_classifier(source, wanted.labels)
    net = _converted(theirs.float().eval(), wanted.labels, source, wanted.image_size)
    if order is None:
        return initialise_classifier(net, wanted.seed), False
    reorder(net.classifier, order)
    return net, True


def _converted(theirs: nn.Module, labels: Sequence[str], where: str, image_size: int) -> ResNet:
    """Return a net that computes what transformers' ResNet does; raise UserError where it would not."""
    state = from_transformers.torchvision_state(theirs)
    net = filled(ResNet(spec_from_state(state, labels, where, image_size)), state, where, replace_classifier=False)
    check_net(net, lambda x: theirs.eval()(x).logits, where)
    return net


def from_module(module: nn.Module, labels: Sequence[str] | None = None) -> ResNet | None:
    """Return a net that computes what a ResNet of torchvision or transformers does, None for any other module.

    Weights are copied. A stem of one channel becomes one of three that reads their mean, so that gray images of three
    equal channels give the same outputs. The net takes images of 224 pixels, or of 32 where the module has the small
    stem (3 x 3 and no pool), normalised as ImageNet's; labels that are not given are those of a config, or LABEL_0,
    LABEL_1, and so on.

    Raises:
        UserError: a ResNet that is built of other parts (dilation, another stem or classifier).
    """
    from torchvision.models import ResNet as TorchvisionResNet

    config: Any = getattr(module, "config", None)
    if getattr(config, "model_type", None) == "resnet":
        refuse_other_problems(config.problem_type)
        names = labels or config_labels(config)
        theirs = copy.deepcopy(module).cpu().float().eval()
        return _converted(theirs, names, "the module", SIDES["imagenet"]).train(module.training)
    if not isinstance(module, TorchvisionResNet):
        return None
    theirs = copy.deepcopy(module).cpu().float().eval()
    key = (theirs.conv1.kernel_size[0], theirs.conv1.stride[0], type(theirs.maxpool).__name__)
    if key not in STEMS or not isinstance(theirs.fc, nn.Linear):
        raise UserError(
            "the module's stem or classifier is none of a plain ResNet",
            "conv1 7 x 7, stride 2, with its pool, or 3 x 3, stride 1, with maxpool = Identity(); fc = Linear(...)",
        )
    state, stem, gray = of_three_channels(theirs.state_dict()), STEMS[key], theirs.conv1.in_channels == 1
    names = labels or [f"LABEL_{i}" for i in range(theirs.fc.out_features)]
    spec = replace(
        spec_from_state(state, names, "the module", SIDES[stem]), eps=float(getattr(theirs.bn1, "eps", 1e-5))
    )
    ours = filled(ResNet(spec), state, "the module", replace_classifier=False).eval()
    check_net(ours, (lambda x: theirs(x.mean(1, keepdim=True))) if gray else theirs, "the module")
    return ours.train(module.training)
