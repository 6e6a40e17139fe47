"""A MobileNet with free widths: what torchvision's MobileNetV2 and V3 compute, layer by layer.

The fixed projection of a site comes directly after each layer that produces it, before the norm, so that folding is
exact algebra. A depthwise convolution acts channel by channel: it has the width of what it reads, as the gates have.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.convolution import ConvNorm, ProjectedConv
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.mobilenet.spec import STEM, MobileNetSpec, inner_tap, sum_tap
from rmtkd_edge.families.model import Model

ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "hardswish": F.hardswish}


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int, eps: float, raw: int | None = None, groups: int = 1
) -> ConvNorm:
    """Return a convolution and the batch norm after it."""
    return ConvNorm(ProjectedConv(inputs, outputs, kernel, stride, raw, groups), outputs, eps)


class Gates(nn.Module):
    """Squeeze and excitation: a factor in [0, 1] for every channel, from the means of all of them."""

    def __init__(self, width: int, squeeze: int, raw: int | None) -> None:
        super().__init__()
        self.reduce = ProjectedLinear(width, squeeze, raw)
        self.expand = ProjectedLinear(squeeze, width)

    def squeezed(self, x: Tensor) -> Tensor:
        """Map (B, k, H, W) to (B, squeeze), before the ReLU."""
        return self.reduce(x.mean((2, 3)))

    def opened(self, squeezed: Tensor) -> Tensor:
        """Return the gates (B, k, 1, 1)."""
        return F.hardsigmoid(self.expand(F.relu(squeezed)))[..., None, None]


class Block(nn.Module):
    """An inverted residual block."""

    def __init__(self, spec: MobileNetSpec, number: int) -> None:
        super().__init__()
        block = spec.blocks[number]
        self.name, self.skip, self.activation = f"block.{number}", block.skip, ACTIVATIONS[block.activation]
        self.begins, self.ends = (f"stream.{spec.stream_of(j)}" for j in (number - 1, number))
        before, after = spec.streams[spec.stream_of(number - 1)], spec.streams[spec.stream_of(number)]
        width, raw, eps = spec.width_of(number), spec.raw, spec.eps
        self.expand = (
            None if block.inner is None else conv_norm(before, width, 1, 1, eps, raw.get(f"{self.name}.inner"))
        )
        self.depthwise = conv_norm(width, width, block.kernel, block.stride, eps, groups=width)
        self.gates = None if block.squeeze is None else Gates(width, block.squeeze, raw.get(f"{self.name}.squeeze"))
        self.project = conv_norm(width, after, 1, 1, eps, raw.get(self.ends))
        self.inner = self.begins if self.expand is None else f"{self.name}.inner"  # the site that depthwise acts on
        self.read = inner_tap(spec, number)
        self.sum = sum_tap(spec, number)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """Map a stream (B, C, H, W) to the next one; `tap(name, tensor)` sees every site, and what projections read."""
        see: Tap = (lambda name, tensor: None) if tap is None else tap
        inner = x
        if self.expand is not None:
            inner = self.expand(x)
            see(f"{self.name}.expand", inner)
            inner = self.activation(inner)
        inner = self.activation(self.depthwise(inner))
        if self.gates is not None:
            squeezed = self.gates.squeezed(inner)
            see(f"{self.name}.squeeze", squeezed)
            inner = inner * self.gates.opened(squeezed)
        see(self.read, inner)
        total = self.project(inner) + x if self.skip else self.project(inner)
        see(self.sum, total)
        return total


class MobileNet(Model):
    """The classifier: stem, blocks, a 1 x 1 convolution, mean over the pixels, one linear layer or two."""

    spec: MobileNetSpec

    def __init__(self, spec: MobileNetSpec) -> None:
        super().__init__()
        self.spec, raw, eps = spec, spec.raw, spec.eps
        self.activation = ACTIVATIONS[spec.activation]
        self.stem = conv_norm(CHANNELS, spec.streams[0], 3, spec.stem_stride, eps, raw.get("stream.0"))
        self.blocks: list[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(spec, number) for number in range(len(spec.blocks))
        )
        self.last = conv_norm(spec.streams[-1], spec.last, 1, 1, eps, raw.get("last"))
        self.hidden = None if spec.hidden is None else ProjectedLinear(spec.last, spec.hidden, raw.get("hidden"))
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = ProjectedLinear(*spec.linears()[-1])

    @property
    def output_layer(self) -> ProjectedLinear:
        """The classifier."""
        return self.classifier

    def forward(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W), float."""
        see: Tap = (lambda name, tensor: None) if tap is None else tap
        state = self.stem(pixel_values)
        see(STEM, state)
        state = self.activation(state)
        for block in self.blocks:
            state = block(state, tap)
        state = self.last(state)
        see("last", state)
        pooled = self.activation(state).mean((2, 3))
        if self.hidden is not None:
            pooled = self.hidden(pooled)
            see("hidden", pooled)
            pooled = self.activation(pooled)
        see("features", pooled)
        return self.classifier(self.dropout(pooled))
