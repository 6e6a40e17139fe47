"""The shape of a MobileNet as data: every channel width that a compression may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from rmtkd_edge.families.base import Site
from rmtkd_edge.families.convolution_cost import Convolution
from rmtkd_edge.families.images import CHANNELS, ImageSpec
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, IMAGENET_STD

STEM = "stream.0.stem"  # a tap; the names of all that see a stream begin with its site's
Activation = Literal["relu", "relu6", "hardswish"]


@dataclass(frozen=True)
class BlockSpec:
    """One inverted residual block: 1 x 1 to `inner` channels, depthwise, squeeze and excitation, 1 x 1 to the stream.

    Attributes:
        inner: None where the depthwise convolution reads the stream itself.
        skip: what the block reads is added to what it gives, so that both have one width.
        squeeze: channels that the gates of the inner ones are computed from; None without gates.
    """

    inner: int | None
    kernel: int = 3
    stride: int = 1
    skip: bool = False
    squeeze: int | None = None
    activation: Activation = "relu6"


@dataclass(frozen=True)
class MobileNetSpec(ImageSpec):
    """A MobileNetV2 or V3 whose streams and blocks may all have different widths.

    Attributes:
        streams: the stem's channels, then those that each block without a skip begins.
        last: channels of the 1 x 1 convolution after the blocks.
        hidden: channels between the classifier's two layers; None for one layer.
        activation: after the stem, the last convolution and the classifier's first layer.
        image_size: height and width, in pixels, of the images that it was made for.
        mean: of each channel, of pixels as shares of 255, that inputs are normalised with; `std` as well.
        classifier_dropout: the probability that a teacher is trained with.
        raw: for a site whose producers still carry a fixed projection, the width before that projection.
    """

    family: ClassVar[str] = "mobilenet"
    streams: tuple[int, ...]
    blocks: tuple[BlockSpec, ...]
    last: int
    hidden: int | None
    activation: Activation
    labels: tuple[str, ...]
    stem_stride: int = 2
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    eps: float = 1e-5
    classifier_dropout: float = 0.2
    raw: Mapping[str, int] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        """Return the one type of MobileNets that both transformers and transformers.js know, V3's as well."""
        return "mobilenet_v2"

    @property
    def dropout(self) -> float:
        """Return the probability that a teacher is trained with."""
        return self.classifier_dropout

    @property
    def stem(self) -> Literal["cifar", "imagenet"]:
        """Return what `model.shape.stem` calls the first convolution."""
        return "imagenet" if self.stem_stride == 2 else "cifar"

    def stream_of(self, block: int) -> int:
        """Return the number of the stream that a block adds to or begins; of -1, the stem, 0."""
        return sum(not b.skip for b in self.blocks[: block + 1])

    def width_of(self, block: int) -> int:
        """Return the channels that the depthwise convolution of a block acts on."""
        return self.blocks[block].inner or self.streams[self.stream_of(block - 1)]

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep.

        The inner channels of a block that does not expand are those of the stream before it.
        """
        found = [self._stream(0, 0)]
        for j, block in enumerate(self.blocks):
            if block.inner is not None:
                found.append(_channels(f"block.{j}.inner", "inner", block.inner, j))
            if block.squeeze is not None:
                found.append(_channels(f"block.{j}.squeeze", "squeeze", block.squeeze, j))
            if not block.skip:
                found.append(self._stream(self.stream_of(j), j))
        found.append(_channels("last", "last", self.last, len(self.blocks)))
        if self.hidden is not None:
            found.append(_channels("hidden", "hidden", self.hidden, len(self.blocks)))
        return found

    def _stream(self, number: int, layer: int) -> Site:
        """Return a stream's site: no function follows but after the stem, so that it is turned as the spectrum says."""
        stem = number == 0
        width = self.streams[number]
        return Site(
            f"stream.{number}",
            "stream",
            width,
            layer=layer,
            selectable=stem,
            weighted=False,
            basis="axes" if stem else "eigen",
        )

    def with_ranks(self, ranks: Mapping[str, int]) -> MobileNetSpec:
        """Return the spec with every named site set to its rank."""
        blocks = tuple(
            replace(
                block,
                inner=block.inner and ranks.get(f"block.{j}.inner", block.inner),
                squeeze=block.squeeze and ranks.get(f"block.{j}.squeeze", block.squeeze),
            )
            for j, block in enumerate(self.blocks)
        )
        streams = tuple(ranks.get(f"stream.{i}", width) for i, width in enumerate(self.streams))
        hidden = self.hidden and ranks.get("hidden", self.hidden)
        return replace(self, blocks=blocks, streams=streams, last=ranks.get("last", self.last), hidden=hidden)

    def convolutions(self) -> Iterator[Convolution]:
        """Yield every convolution of the folded model from input to output, the gates' 1 x 1 ones among them."""
        side = -(-self.image_size // self.stem_stride)
        yield Convolution(CHANNELS, self.streams[0], 3, side)
        for j, block in enumerate(self.blocks):
            before, width = self.streams[self.stream_of(j - 1)], self.width_of(j)
            if block.inner is not None:
                yield Convolution(before, width, 1, side)
            side = -(-side // block.stride)
            yield Convolution(1, width, block.kernel, side)
            if block.squeeze is not None:
                yield Convolution(width, block.squeeze, 1, 1)
                yield Convolution(block.squeeze, width, 1, 1)
            yield Convolution(width, self.streams[self.stream_of(j)], 1, side)
        yield Convolution(self.streams[-1], self.last, 1, side)

    def linears(self) -> list[tuple[int, int]]:
        """Return inputs and outputs of the classifier's layers."""
        if self.hidden is None:
            return [(self.last, len(self.labels))]
        return [(self.last, self.hidden), (self.hidden, len(self.labels))]

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model (weights, norms' scales and shifts, biases)."""
        weights = sum(c.weights for c in self.convolutions())
        norms_and_biases = sum(c.outputs for c in self.convolutions()) + self._normed()
        return weights + norms_and_biases + sum((inputs + 1) * outputs for inputs, outputs in self.linears())

    def _normed(self) -> int:
        """Return the channels of all norms: a norm has two parameters a channel, a gate's convolution one bias."""
        gates = sum(b.squeeze + self.width_of(j) for j, b in enumerate(self.blocks) if b.squeeze is not None)
        return sum(c.outputs for c in self.convolutions()) - gates

    def count_body_parameters(self) -> int:
        """Return the parameters without those of the layer that gives the labels."""
        inputs, outputs = self.linears()[-1]
        return self.count_parameters() - (inputs + 1) * outputs

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote."""
        blocks = tuple(BlockSpec(**block) for block in data["blocks"])
        return super().from_dict({**data, "blocks": blocks, "streams": tuple(data["streams"])})


def _channels(name: str, kind: str, width: int, layer: int) -> Site:
    """Return the site of channels that an elementwise function follows."""
    return Site(name, kind, width, layer=layer, selectable=True, weighted=False)


def inner_tap(spec: MobileNetSpec, block: int) -> str:
    """Return the tap of what a block's last convolution reads."""
    name = f"block.{block}.inner"
    return f"stream.{spec.stream_of(block - 1)}.{name}" if spec.blocks[block].inner is None else name


def sum_tap(spec: MobileNetSpec, block: int) -> str:
    """Return the tap of what a block gives."""
    return f"stream.{spec.stream_of(block)}.block.{block}.sum"
