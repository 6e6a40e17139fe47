"""What a MobileNet's layers give for images, at the places where narrow ones are fitted on it."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from rmtkd_edge.families.convolution import ConvNorm
from rmtkd_edge.families.convolution_fit import places, samples_of
from rmtkd_edge.families.map_sample import MapSample, of_images, sampled
from rmtkd_edge.families.mobilenet.module import Block, MobileNet
from rmtkd_edge.families.teacher_layers import LayerOutputs

DEPTHWISE_ROWS = 400  # places of all images together, for each of a depthwise kernel's taps


@torch.no_grad()
def layer_outputs(net: MobileNet, images: Sequence[Tensor], seed: int) -> LayerOutputs:
    """Yield the normalised outputs of a folded net, batch by batch.

    They are those of the stem, of every block's convolution that widens (where it has one), its depthwise one, its
    squeezed means (where it has gates) and its sum, then the last convolution, the hidden layer (where there is one)
    and the logits.
    """
    outputs = [net.stem(x) for x in images]
    yield samples_of(net.stem.conv, outputs, seed)
    states = [net.activation(z) for z in outputs]
    for block in net.blocks:
        states = yield from _of_block(block, states, seed)
    outputs = [net.last(x) for x in states]
    yield samples_of(net.last.conv, outputs, seed)
    means = [net.activation(z).mean((2, 3)) for z in outputs]
    if net.hidden is not None:
        hidden = [net.hidden(x) for x in means]
        yield [of_images(z) for z in hidden]
        means = [net.activation(z) for z in hidden]
    yield [of_images(net.classifier(x)) for x in means]


def _of_block(block: Block, states: list[Tensor], seed: int) -> Generator[list[MapSample], None, list[Tensor]]:
    inner = states
    if block.expand is not None:
        outputs = [block.expand(x) for x in inner]
        yield samples_of(block.expand.conv, outputs, seed)
        inner = [block.activation(z) for z in outputs]
    outputs = [block.depthwise(x) for x in inner]
    yield depthwise_samples(block.depthwise, outputs, seed)
    inner = [block.activation(z) for z in outputs]
    if block.gates is not None:
        squeezed = [block.gates.squeezed(x) for x in inner]
        yield [of_images(z) for z in squeezed]
        inner = [x * block.gates.opened(z) for x, z in zip(inner, squeezed, strict=True)]
    sums = [block.project(x) for x in inner]
    if block.skip:
        sums = [z + x for z, x in zip(sums, states, strict=True)]
    yield samples_of(block.project.conv, sums, seed)
    return sums


def depthwise_samples(layer: ConvNorm, outputs: Sequence[Tensor], seed: int) -> list[MapSample]:
    """Return samples of outputs, batch by batch, at the places where a depthwise convolution is fitted."""
    count = places(layer.conv.weight[0].numel(), DEPTHWISE_ROWS, len(outputs))
    return [sampled(maps, count, seed + number) for number, maps in enumerate(outputs)]
