"""From a folded ResNet to one ONNX file: norms folded into the convolutions, a dynamic batch axis, fixed image size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.families.encoder.graph import GraphOptions
from rmtkd_edge.families.encoder.to_onnx import quiet, save_program
from rmtkd_edge.families.resnet.module import Block, ConvNet, ConvNorm
from rmtkd_edge.families.resnet.spec import CHANNELS


class FusedConv(nn.Module):
    """A convolution (or its two factors) with the batch norm folded into weight and bias (exact in inference)."""

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        norm, factored = layer.norm, layer.expand is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.stride, self.padding = layer.conv.stride, layer.conv.padding
        self.first = nn.Parameter(layer.conv.folded().detach()) if factored else None
        self.weight = nn.Parameter((layer.last.folded() * scale[:, None, None, None]).detach())
        self.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, k, H', W')."""
        if self.first is None:
            return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)
        return F.conv2d(F.conv2d(x, self.first, stride=self.stride, padding=self.padding), self.weight, self.bias)


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

    def __init__(self, net: ConvNet) -> None:
        super().__init__()
        self.stem, self.pool = FusedConv(net.stem), net.pool
        self.blocks = nn.Sequential(*(FusedBlock(block) for blocks in net.stages for block in blocks))
        self.weight, self.bias = net.classifier.weight, net.classifier.bias

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (B, labels) for normalised images (B, 3, H, W)."""
        state = self.blocks(self.pool(F.relu(self.stem(pixel_values))))
        return F.linear(F.adaptive_avg_pool2d(state, 1).flatten(1), self.weight, self.bias)


def export_convnet(
    folded: ConvNet, path: Path, options: GraphOptions | None = None, metadata: Mapping[str, str] | None = None
) -> list[Path]:
    """Write a folded ResNet as ONNX and return the files.

    The input is `pixel_values` float32 (batch, 3, size, size), normalised; the output `logits` float32 (batch, labels).
    Raises RmtkdError where torch cannot export, RunDirError where the file cannot be written.
    """
    options = options or GraphOptions()
    size = folded.spec.image_size
    sample = torch.zeros(2, CHANNELS, size, size)
    try:
        with torch.no_grad(), quiet():
            program: Any = torch.onnx.export(
                FusedNet(folded.eval()).eval(),
                kwargs={"pixel_values": sample},
                dynamo=True,
                opset_version=options.opset,
                output_names=["logits"],
                dynamic_shapes={"pixel_values": {0: "batch"}},
                external_data=False,
                verbose=False,
                optimize=True,
            )
    except torch.onnx.errors.OnnxExporterError as err:
        raise RmtkdError(f"torch could not export the net: {err}", "report this with the run's recipe.toml") from err
    for key, value in (metadata or {}).items():
        program.model.metadata_props[key] = value
    return save_program(program, path, external=False)
