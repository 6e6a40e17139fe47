"""A residual convolutional classifier with free widths: what torchvision's ResNets compute, layer by layer.

The fixed projection of a site comes directly after each convolution that produces it, before the norm, so that folding
is exact algebra. All producers of one residual stream share one projection.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.base import Tap
from rmtkd_edge.families.convolution import ConvNorm, ProjectedConv
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.resnet.spec import FACTOR, BlockSpec, ResNetSpec


class Layer(ConvNorm):
    """A convolution and the batch norm after it; a factored one is a thin convolution and a 1 x 1 one after it."""

    def __init__(
        self, spec: ResNetSpec, place: str, site: str, inputs: int, outputs: int, kernel: int, stride: int
    ) -> None:
        rank, raw, groups = spec.factors.get(place), spec.raw.get(site), spec.groups_of(place)
        if rank is None:
            super().__init__(ProjectedConv(inputs, outputs, kernel, stride, raw, groups), outputs, spec.eps)
        else:
            thin = ProjectedConv(inputs, rank, kernel, stride, spec.raw.get(f"{place}{FACTOR}"))
            super().__init__(thin, outputs, spec.eps, ProjectedConv(rank, outputs, 1, 1, raw))
        self.place = place

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """Map (B, in, H, W) to (B, k, H', W'), normalised; `tap` sees the factor, or where one would stand."""
        if tap is None:
            return super().forward(x)
        out = self.conv(x)
        tap(f"{self.place}{FACTOR}", out)
        return self.norm(out if self.expand is None else self.expand(out))


class Block(nn.Module):
    """A basic block (3x3, 3x3) or a bottleneck (1x1, 3x3 with the stride, 1x1), added to its shortcut."""

    def __init__(self, spec: ResNetSpec, block: BlockSpec, before: int, after: int, stage: str, name: str) -> None:
        super().__init__()
        self.name = name
        kernels = (3, 3) if spec.block == "basic" else (1, 3, 1)
        strides = (block.stride, 1) if spec.block == "basic" else (1, block.stride, 1)
        widths = [before, *block.inner, after]
        sites = [*(f"{name}.conv{k}" for k in range(1, len(kernels))), stage]
        self.convs: list[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(spec, f"{name}.conv{k + 1}", sites[k], widths[k], widths[k + 1], kernels[k], strides[k])
            for k in range(len(kernels))
        )
        self.downsample = (
            Layer(spec, f"{name}.downsample", stage, before, after, 1, block.stride) if block.downsample else None
        )

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """Map a stream (B, C, H, W) to the next one; `tap(name, tensor)` sees what comes before every ReLU."""
        inner = x
        for k, layer in enumerate(self.convs[:-1], 1):
            inner = layer(inner, tap)
            if tap is not None:
                tap(f"{self.name}.conv{k}", inner)
            inner = F.relu(inner)
        shortcut = x if self.downsample is None else self.downsample(x, tap)
        total = self.convs[-1](inner, tap) + shortcut
        if tap is not None:
            tap(f"{self.name}.sum", total)
        return F.relu(total)


class ResNet(Model):
    """The classifier: stem, stages of residual blocks, mean over the pixels, a linear classifier."""

    spec: ResNetSpec

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        self.spec = spec
        first = "layer.1.stream" if spec.stem_is_shared else "stem"
        kernel, stride = (3, 1) if spec.stem == "cifar" else (7, 2)
        self.stem = Layer(spec, "stem", first, CHANNELS, spec.stem_width, kernel, stride)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if spec.stem == "imagenet" else nn.Identity()
        stages, before = [], spec.stem_width
        for i, stage in enumerate(spec.stages, 1):
            blocks = []
            for j, block in enumerate(stage.blocks):
                names = (f"layer.{i}.stream", f"layer.{i}.block.{j}")
                blocks.append(Block(spec, block, before, stage.width, *names))
                before = stage.width
            stages.append(nn.ModuleList(blocks))
        self.stages: list[list[Block]] = nn.ModuleList(stages)  # type: ignore[assignment]
        self.classifier = ProjectedLinear(before, len(spec.labels))

    @property
    def output_layer(self) -> ProjectedLinear:
        """The classifier."""
        return self.classifier

    def forward(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W), float."""
        state = self.stem(pixel_values, tap)
        if tap is not None:
            tap("stem.sum", state)
        state = self.pool(F.relu(state))
        for i, blocks in enumerate(self.stages, 1):
            for block in blocks:
                state = block(state, tap)
            if tap is not None:
                tap(f"layer.{i}.output", state)
        pooled = F.adaptive_avg_pool2d(state, 1).flatten(1)
        if tap is not None:
            tap("pooled", pooled)
        return self.classifier(pooled)
