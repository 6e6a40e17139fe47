"""What a ResNet's layers give for images, at the places where narrow ones are fitted on it."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.convolution_fit import samples_of
from rmtkd_edge.families.map_sample import MapSample, of_images
from rmtkd_edge.families.resnet.module import Block, ResNet
from rmtkd_edge.families.teacher_layers import LayerOutputs


@torch.no_grad()
def layer_outputs(net: ResNet, images: Sequence[Tensor], seed: int) -> LayerOutputs:
    """Yield the normalised outputs of a folded net, batch by batch.

    They are those of the stem, of every block's convolutions but for the last, its shortcut's convolution where it has
    one, its sum, and at the end the logits.
    """
    outputs = [net.stem(x) for x in images]
    yield samples_of(net.stem.conv, outputs, seed)
    states = [net.pool(F.relu(z)) for z in outputs]
    del outputs
    for stage in net.stages:
        for block in stage:
            states = yield from _of_block(block, states, seed)
    yield [of_images(net.classifier(x.mean((2, 3)))) for x in states]


def _of_block(block: Block, states: list[Tensor], seed: int) -> Generator[list[MapSample], None, list[Tensor]]:
    inner = states
    for layer in block.convs[:-1]:
        outputs = [layer(x) for x in inner]
        yield samples_of(layer.conv, outputs, seed)
        inner = [F.relu(z) for z in outputs]
    shortcuts = states
    if block.downsample is not None:
        shortcuts = [block.downsample(x) for x in states]
        yield samples_of(block.downsample.conv, shortcuts, seed)
    sums = [block.convs[-1](x) + s for x, s in zip(inner, shortcuts, strict=True)]
    yield samples_of(block.convs[-1].conv, sums, seed)
    return [F.relu(total) for total in sums]
