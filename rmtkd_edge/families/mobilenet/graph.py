"""What is traced of a folded MobileNet: norms folded into the convolutions; and where its sites are in the graph."""

from __future__ import annotations

import onnx
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.convolution import FusedConv
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.mobilenet.module import ACTIVATIONS, Block, Gates, MobileNet
from rmtkd_edge.families.mobilenet.spec import STEM, MobileNetSpec, inner_tap, sum_tap


class PixelLinear(nn.Module):
    """A linear layer as a 1 x 1 convolution, so that the gates stay in one layout."""

    def __init__(self, layer: ProjectedLinear) -> None:
        super().__init__()
        weight, bias = layer.folded()
        self.weight, self.bias = nn.Parameter(weight[..., None, None].detach()), nn.Parameter(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, 1, 1) to (B, k, 1, 1)."""
        return F.conv2d(x, self.weight, self.bias)


class FusedGates(nn.Module):
    """The gates of a block."""

    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self.reduce, self.expand = PixelLinear(gates.reduce), PixelLinear(gates.expand)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, k, H, W) times its gates."""
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class FusedBlock(nn.Module):
    """An inverted residual block of fused convolutions."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.skip, self.activation = block.skip, block.activation
        self.expand = None if block.expand is None else FusedConv(block.expand)
        self.depthwise, self.project = FusedConv(block.depthwise), FusedConv(block.project)
        self.gates = None if block.gates is None else FusedGates(block.gates)

    def forward(self, x: Tensor) -> Tensor:
        """Map a stream (B, C, H, W) to the next one."""
        inner = x if self.expand is None else self.activation(self.expand(x))
        inner = self.activation(self.depthwise(inner))
        inner = inner if self.gates is None else self.gates(inner)
        return self.project(inner) + x if self.skip else self.project(inner)


class FusedNet(nn.Module):
    """What is traced: the same logits as the folded net's."""

    def __init__(self, net: MobileNet) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[net.spec.activation]
        self.stem, self.last = FusedConv(net.stem), FusedConv(net.last)
        self.blocks = nn.Sequential(*(FusedBlock(block) for block in net.blocks))
        self.hidden, self.classifier = net.hidden, net.classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W)."""
        state = self.blocks(self.activation(self.stem(pixel_values)))
        state = F.adaptive_avg_pool2d(self.activation(self.last(state)), 1).flatten(1)
        if self.hidden is not None:
            state = self.activation(self.hidden(state))
        return self.classifier(state)


def graph_values(model: onnx.ModelProto, spec: MobileNetSpec) -> dict[str, str]:
    """Return the graph's value for each tap of the module, in the order of computation, by the names of the weights."""
    reader = {name: node for node in model.graph.node for name in node.input}
    values: dict[str, str] = {}

    def written(tap: str, module: str) -> None:
        if node := reader.get(f"{module}.weight"):
            values[tap] = node.output[0]

    written(STEM, "stem")
    for j, block in enumerate(spec.blocks):
        name, module = f"block.{j}", f"blocks.{j}"
        written(f"{name}.expand", f"{module}.expand")
        written(f"{name}.squeeze", f"{module}.gates.reduce")
        last = reader.get(f"{module}.project.weight")
        if last is not None:
            values[inner_tap(spec, j)] = last.input[0]
            values[sum_tap(spec, j)] = reader[last.output[0]].output[0] if block.skip else last.output[0]
    written("last", "last")
    if spec.hidden is not None:
        written("hidden", "hidden")
    if node := reader.get("classifier.weight"):
        values["features"] = node.input[0]
    values["logits"] = model.graph.output[0].name
    return values
