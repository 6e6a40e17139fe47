"""What is traced of a folded ResNet: norms folded into the convolutions; and where its sites are in the graph."""

from __future__ import annotations

import onnx
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.convolution import FusedConv
from rmtkd_edge.families.resnet.module import Block, ResNet
from rmtkd_edge.families.resnet.spec import FACTOR, ResNetSpec


class FusedBlock(nn.Module):
    """A residual block of fused convolutions."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.convs = nn.ModuleList(FusedConv(layer) for layer in block.convs)
        self.downsample = None if block.downsample is None else FusedConv(block.downsample)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (B, C, H, W) to the next one."""
        inner = x
        for layer in list(self.convs)[:-1]:
            inner = F.relu(layer(inner))
        return F.relu(self.convs[-1](inner) + (x if self.downsample is None else self.downsample(x)))


class FusedNet(nn.Module):
    """What is traced: the same logits as the folded net's."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.stem, self.pool = FusedConv(net.stem), net.pool
        self.blocks = nn.Sequential(*(FusedBlock(block) for blocks in net.stages for block in blocks))
        self.weight, self.bias = net.classifier.weight, net.classifier.bias

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W)."""
        state = self.blocks(self.pool(F.relu(self.stem(pixel_values))))
        return F.linear(F.adaptive_avg_pool2d(state, 1).flatten(1), self.weight, self.bias)


def graph_values(model: onnx.ModelProto, spec: ResNetSpec) -> dict[str, str]:
    """Return the graph's value for each tap of the module, in the order of computation.

    They are found by the names of the weights. A tap at which a factor would come, if there were one, has no value of
    its own: there the norm is part of the convolution.
    """
    reader = {name: node for node in model.graph.node for name in node.input}
    values: dict[str, str] = {}
    for place, module in graph_names(spec).items():
        first, last = reader.get(f"{module}.first"), reader.get(f"{module}.weight")
        if first is not None:
            values[place + FACTOR] = first.output[0]
        if last is None:
            continue
        block, _, name = place.rpartition(".")
        if place == "stem":
            values["stem.sum"] = last.output[0]
        elif name in inner_names(spec):
            values[place] = last.output[0]
        elif name != "downsample":
            values[f"{block}.sum"] = reader[last.output[0]].output[0]
    classifier = reader.get("weight")
    if classifier is not None:
        values["pooled"] = classifier.input[0]
    values["logits"] = model.graph.output[0].name
    return values


def graph_names(spec: ResNetSpec) -> dict[str, str]:
    """Return the name of the module of `FusedNet` for each convolution's place."""
    blocks = [f"layer.{i}.block.{j}" for i, stage in enumerate(spec.stages, 1) for j in range(len(stage.blocks))]
    names = {}
    for place in spec.places():
        block, _, name = place.rpartition(".")
        within = name if name == "downsample" else f"convs.{int(name.removeprefix('conv')) - 1}" if block else ""
        names[place] = f"blocks.{blocks.index(block)}.{within}" if block else place
    return names


def inner_names(spec: ResNetSpec) -> tuple[str, ...]:
    """Return the names, in a block, of the convolutions that a ReLU follows directly."""
    return ("conv1",) if spec.block == "basic" else ("conv1", "conv2")
