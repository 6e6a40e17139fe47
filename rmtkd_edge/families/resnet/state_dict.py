"""State dicts in torchvision's names: the shape that their tensors have, and a net with their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.spec import BlockSpec, Kind, ResNetSpec, StageSpec, Stem
from rmtkd_edge.families.sources import other_size
from rmtkd_edge.families.weights_files import SHOWN, fitted, unwrapped


def plain_names(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return a state dict in torchvision's names, without what wrappers and a classifier's dropout add to them.

    Raises UserError for a classifier of several layers, and for tensors of something else next to a wrapped net's.
    """
    found = unwrapped(state, "conv1.weight", where, "ResNet")
    layers = sorted({name.rpartition(".")[0] for name in found if re.match(r"fc\.\d+\.", name)})
    if len(layers) > 1:
        raise UserError(
            f"{where} has a classifier of several layers ({', '.join(layers)}), a ResNet's has one",
            "train one with model.fc = torch.nn.Linear(...), or torch.nn.Sequential(torch.nn.Dropout(), that)",
        )
    return {name.replace(f"{layers[0]}.", "fc.") if layers else name: tensor for name, tensor in found.items()}


def of_three_channels(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict whose stem reads three channels: of gray images, which have one value three times, the same.

    A stem of one channel reads their mean.
    """
    stem = state.get("conv1.weight")
    if stem is None or stem.ndim != 4 or stem.shape[1] != 1:
        return dict(state)
    return {**state, "conv1.weight": stem.expand(-1, CHANNELS, -1, -1) / CHANNELS}


def our_name(name: str) -> str | None:
    """Return our name of one of torchvision's tensors, None for a counter that is not kept."""
    if name.endswith("num_batches_tracked"):
        return None
    name = re.sub(r"^conv1\.", "stem.conv.", name)
    name = re.sub(r"^bn1\.", "stem.norm.", name)
    name = re.sub(r"^fc\.", "classifier.", name)
    name = re.sub(r"^layer(\d+)", lambda m: f"stages.{int(m[1]) - 1}", name)
    name = re.sub(r"\.conv(\d)\.", lambda m: f".convs.{int(m[1]) - 1}.conv.", name)
    name = re.sub(r"\.bn(\d)\.", lambda m: f".convs.{int(m[1]) - 1}.norm.", name)
    return name.replace(".downsample.0.", ".downsample.conv.").replace(".downsample.1.", ".downsample.norm.")


def spec_from_state(state: Mapping[str, Tensor], labels: Sequence[str], where: str, image_size: int) -> ResNetSpec:
    """Return the shape that the tensors of a torchvision-like state dict have, whatever its widths.

    Raises UserError where they are no ResNet's, or classify another number of labels.
    """
    try:
        stem = state["conv1.weight"]
        kind: Kind = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
        last = 3 if kind == "bottleneck" else 2
        stages = []
        for i in range(1, 1 + max(int(m[1]) for m in map(re.compile(r"layer(\d+)\.").match, state) if m)):
            numbers = {int(m[1]) for m in map(re.compile(rf"layer{i}\.(\d+)\.").match, state) if m}
            blocks = []
            for j in sorted(numbers):
                name = f"layer{i}.{j}"
                inner = tuple(len(state[f"{name}.conv{k}.weight"]) for k in range(1, last))
                strided = i > 1 and j == 0
                blocks.append(BlockSpec(inner, 2 if strided else 1, f"{name}.downsample.0.weight" in state))
            stages.append(StageSpec(len(state[f"layer{i}.0.conv{last}.weight"]), tuple(blocks)))
        classes = len(state["fc.weight"])
        middle = state["layer1.0.conv2.weight"]
        groups = max(1, len(state["layer1.0.conv1.weight"]) // middle.shape[1]) if kind == "bottleneck" else 1
    except (KeyError, ValueError, ZeroDivisionError) as err:
        raise UserError(
            f"{where} is no state dict of a ResNet in torchvision's names: {err}; it has {', '.join([*state][:SHOWN])}",
            "save model.state_dict() of torchvision",
        ) from err
    if classes != len(labels):
        raise other_size(where, classes, len(labels))
    size: Stem = "imagenet" if stem.shape[-1] == 7 else "cifar"
    return ResNetSpec(kind, size, len(stem), tuple(stages), tuple(labels), image_size, groups=groups)


def filled(net: ResNet, state: Mapping[str, Tensor], where: str, replace_classifier: bool) -> ResNet:
    """Return the net with the weights of a state dict; its own stem or classifier stays where they may differ."""
    found = {ours: tensor for name, tensor in state.items() if (ours := our_name(name)) is not None}

    def kept(name: str) -> bool:
        return replace_classifier and (name.startswith("classifier.") or name == "stem.conv.weight")

    net.load_state_dict(fitted(net.state_dict(), found, where, "ResNet", kept))
    return net
