"""MobileNets of torchvision: the shape of a module, and state dicts in its names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.mobilenet.module import MobileNet
from rmtkd_edge.families.mobilenet.spec import Activation, BlockSpec, MobileNetSpec
from rmtkd_edge.families.sources import other_size
from rmtkd_edge.families.weights_files import SHOWN, fitted

ACTIVATIONS: dict[str, Activation] = {"ReLU": "relu", "ReLU6": "relu6", "Hardswish": "hardswish"}
COUNTER = "num_batches_tracked"  # of a norm, which is not kept
PLACE = re.compile(r"features\.(\d+)\.(?:(?:conv|block)\.)?(.+)\.\w+$")


def module_spec(net: Any, labels: Sequence[str]) -> MobileNetSpec:
    """Return the shape of torchvision's MobileNetV2 or V3; raise UserError where it is built of other parts."""
    try:
        first, *middle, last = net.features
        blocks, streams = [], [first[0].out_channels]
        for part in middle:
            block, width = _block(part)
            blocks.append(block)
            streams += [] if block.skip else [width]
        linears = [layer for layer in net.classifier.modules() if isinstance(layer, nn.Linear)]
        hidden = linears[0].out_features if len(linears) == 2 else None
        if not 1 <= len(linears) <= 2 or linears[-1].out_features != len(labels):
            raise ValueError(f"its classifier has {len(linears)} linear layers, there are {len(labels)} labels")
        if len({norm.eps for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)}) != 1:
            raise ValueError("its norms have several eps")
        dropout = [layer.p for layer in net.classifier.modules() if isinstance(layer, nn.Dropout)]
        return MobileNetSpec(
            tuple(streams),
            tuple(blocks),
            last[0].out_channels,
            hidden,
            ACTIVATIONS[type(first[2]).__name__],
            tuple(labels),
            stem_stride=first[0].stride[0],
            eps=first[1].eps,
            classifier_dropout=dropout[0] if dropout else 0.0,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
        raise UserError(
            f"the module is built of other parts than torchvision's MobileNets: {err}",
            "torchvision.models.mobilenet_v2, mobilenet_v3_large or mobilenet_v3_small; its classifier may be replaced "
            "by one whose last layer is Linear",
        ) from err


def _block(part: Any) -> tuple[BlockSpec, int]:
    """Return the shape of an inverted residual block of torchvision, and the channels that it gives."""
    named = [(name, module) for name, module in part.named_modules() if not name.rpartition(".")[2].startswith("fc")]
    convs = [module for _, module in named if isinstance(module, nn.Conv2d)]
    depthwise, project = convs[-2:]
    if len(convs) not in (2, 3) or depthwise.groups != depthwise.out_channels or depthwise.dilation != (1, 1):
        raise ValueError("a block is no 1 x 1 convolution, depthwise one of dilation 1 and 1 x 1 convolution")
    gates = next((module for _, module in named if type(module).__name__ == "SqueezeExcitation"), None)
    inside = {id(module) for module in gates.modules()} if gates is not None else set()
    kinds = {type(m).__name__ for _, m in named if id(m) not in inside} & ACTIVATIONS.keys()
    (activation,) = kinds
    block = BlockSpec(
        None if len(convs) == 2 else depthwise.out_channels,
        depthwise.kernel_size[0],
        depthwise.stride[0],
        bool(part.use_res_connect),
        None if gates is None else gates.fc1.out_channels,
        ACTIVATIONS[activation],
    )
    return block, project.out_channels


def with_widths(layout: MobileNetSpec, state: Mapping[str, Tensor], where: str) -> MobileNetSpec:
    """Return a shape with the widths that a state dict in torchvision's names has.

    Raises UserError where it has other layers, or classifies another number of labels.
    """
    ours = renamed(state, where)
    try:
        streams = [len(ours["stem.conv.weight"])]
        blocks = []
        for j, block in enumerate(layout.blocks):
            name, before = f"blocks.{j}", streams[-1]
            width = len(ours[f"{name}.project.conv.weight"])
            inner = len(ours[f"{name}.expand.conv.weight"]) if f"{name}.expand.conv.weight" in ours else None
            squeeze = None if block.squeeze is None else len(ours[f"{name}.gates.reduce.weight"])
            skip = block.stride == 1 and before == width  # torchvision's own rule
            streams += [] if skip else [width]
            blocks.append(replace(block, inner=inner, squeeze=squeeze, skip=skip))
        hidden = None if layout.hidden is None or "hidden.weight" not in ours else len(ours["hidden.weight"])
        last, classes = len(ours["last.conv.weight"]), len(ours["classifier.weight"])
    except KeyError as err:
        raise UserError(f"{where} is no state dict of a MobileNet: {err} is missing", SAVE) from err
    if classes != len(layout.labels):
        raise other_size(where, classes, len(layout.labels))
    return replace(layout, streams=tuple(streams), blocks=tuple(blocks), last=last, hidden=hidden)


SAVE = "save model.state_dict() of torchvision"


def renamed(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return a state dict in torchvision's names under ours; raise UserError where it is none."""
    state = {re.sub(r"^classifier\.(weight|bias)$", r"classifier.0.\1", name): value for name, value in state.items()}
    modules: dict[int, list[str]] = {}
    for name in state:
        if found := PLACE.match(name):
            places = modules.setdefault(int(found[1]), [])
            if found[2] not in places:
                places.append(found[2])
    linears = sorted({int(found[1]) for name in state if (found := re.match(r"classifier\.(\d+)\.", name))})
    if len(modules) < 3 or len(linears) not in (1, 2):
        raise UserError(
            f"{where} is no state dict of a MobileNet in torchvision's names: it has {', '.join([*state][:SHOWN])}",
            SAVE,
        )
    last = max(modules)
    names = {number: _layers(places, state, number) for number, places in modules.items() if 0 < number < last}
    names[0], names[last] = {"0": "stem.conv", "1": "stem.norm"}, {"0": "last.conv", "1": "last.norm"}
    head = dict(zip(linears, ("classifier",) if len(linears) == 1 else ("hidden", "classifier"), strict=True))
    made = {}
    for name, tensor in state.items():
        part = name.rpartition(".")[2]
        if part == COUNTER:
            continue
        if found := PLACE.match(name):
            module = names[int(found[1])].get(found[2])
        else:
            number = re.match(r"classifier\.(\d+)\.", name)
            module = None if number is None else head[int(number[1])]
        if module is None:
            raise UserError(f"{where}: {name} is no tensor of a MobileNet of torchvision", SAVE)
        linear = ".gates." in module and tensor.ndim == 4
        made[f"{module}.{part}"] = tensor[..., 0, 0] if linear else tensor
    return made


def _layers(places: Sequence[str], state: Mapping[str, Tensor], number: int) -> dict[str, str]:
    """Return our names of the modules of a block: gates by theirs, convolutions and norms by their order."""

    def order(place: str) -> list[int]:
        return [int(part) for part in place.split(".") if part.isdigit()]

    gates = {place: place for place in places if re.search(r"fc[12]$", place)}
    rest = sorted((place for place in places if place not in gates), key=order)
    norms = {place for place in rest if any(f"{part}.{place}.running_var" in state for part in _parts(number))}
    convs = [place for place in rest if place not in norms]
    parts = ("expand", "depthwise", "project")[-len(convs) :]
    block = f"blocks.{number - 1}"
    found = {place: f"{block}.{part}.conv" for place, part in zip(convs, parts, strict=False)}
    found |= {place: f"{block}.{part}.norm" for place, part in zip(sorted(norms, key=order), parts, strict=False)}
    return found | {place: f"{block}.gates.{'reduce' if place.endswith('1') else 'expand'}" for place in gates}


def _parts(number: int) -> tuple[str, str]:
    """Return what the names of a block's modules begin with, in V2 and in V3."""
    return f"features.{number}.conv", f"features.{number}.block"


def filled(net: MobileNet, state: Mapping[str, Tensor], where: str, replace_classifier: bool) -> MobileNet:
    """Return the net with the weights of a state dict; its own last layer stays where it may differ."""

    def kept(name: str) -> bool:
        return replace_classifier and name.startswith("classifier.")

    net.load_state_dict(fitted(net.state_dict(), renamed(state, where), where, "MobileNet", kept))
    return net
