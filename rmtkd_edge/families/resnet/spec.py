"""The shape of a residual convolutional classifier as data: every channel width that a compression may change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

from rmtkd_edge.families.base import Site
from rmtkd_edge.families.convolution_cost import Convolution
from rmtkd_edge.families.images import CHANNELS, ImageSpec
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, IMAGENET_STD

FACTOR = ".factor"  # ends the name of a factor's site; the convolution's place comes before it

Kind = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "cifar"]


@dataclass(frozen=True)
class BlockSpec:
    """One residual block: the widths between its convolutions (one of a basic block, two of a bottleneck)."""

    inner: tuple[int, ...]
    stride: int = 1
    downsample: bool = False


@dataclass(frozen=True)
class StageSpec:
    """Blocks that share one residual stream of `width` channels."""

    width: int
    blocks: tuple[BlockSpec, ...]


@dataclass(frozen=True)
class ResNetSpec(ImageSpec):
    """A ResNet whose streams and blocks may all have different widths.

    Attributes:
        image_size: height and width, in pixels, of the images that it was made for.
        mean: of each channel, of pixels as shares of 255, that inputs are normalised with; `std` as well.
        raw: for a site whose producers still carry a fixed projection, the width before that projection.
        groups: that the 3 x 3 convolutions of bottlenecks are divided into.
        factors: by its place, the rank of a convolution that is two: one to that many channels, a 1 x 1 one after it.
    """

    family: ClassVar[str] = "resnet"
    block: Kind
    stem: Stem
    stem_width: int
    stages: tuple[StageSpec, ...]
    labels: tuple[str, ...]
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    eps: float = 1e-5
    groups: int = 1
    raw: Mapping[str, int] = field(default_factory=dict)
    factors: Mapping[str, int] = field(default_factory=dict)

    @property
    def stem_is_shared(self) -> bool:
        """Return whether the first block adds to the stem's own output, so that both have one width."""
        return not self.stages[0].blocks[0].downsample

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep: a stream before the inner widths of its blocks.

        After them come the factors of all convolutions, present or latent. What a grouped convolution reads and writes
        is left out: its channels belong to groups of one size.
        """
        found = [] if self.stem_is_shared else [channels("stem", "stream", self.stem_width)]
        for i, stage in enumerate(self.stages, 1):
            found.append(channels(f"layer.{i}.stream", "stream", stage.width, i))
            for j, block in enumerate(stage.blocks):
                for k, width in enumerate(block.inner if self.groups == 1 else (), 1):
                    found.append(channels(f"layer.{i}.block.{j}.conv{k}", "inner", width, i))
        for place, width in self.places().items():
            if self.groups_of(place) > 1:
                continue
            rank = self.factors.get(place)
            latent = rank is None
            found.append(Site(place + FACTOR, "factor", rank or width, latent=latent, weighted=False, basis="eigen"))
        return found

    def groups_of(self, place: str) -> int:
        """Return the groups of the convolution at a place."""
        return self.groups if self.block == "bottleneck" and place.endswith(".conv2") else 1

    def places(self) -> dict[str, int]:
        """Return the output channels of every convolution by its place: `stem`, `layer.1.block.0.conv1`, ..."""
        found = {"stem": self.stem_width}
        for i, stage in enumerate(self.stages, 1):
            for j, block in enumerate(stage.blocks):
                name = f"layer.{i}.block.{j}"
                found |= {f"{name}.conv{k}": width for k, width in enumerate((*block.inner, stage.width), 1)}
                if block.downsample:
                    found[f"{name}.downsample"] = stage.width
        return found

    def producers(self, site: str) -> list[str]:
        """Return the places of the convolutions whose output lives in a stream or an inner width."""
        places = self.places()
        if site in places:
            return [site]
        i = int(site.split(".")[1])
        last = len(self.stages[i - 1].blocks[0].inner) + 1
        found = [p for p in places if re.fullmatch(rf"layer\.{i}\.block\.\d+\.(conv{last}|downsample)", p)]
        return ["stem", *found] if i == 1 and self.stem_is_shared else found

    def with_ranks(self, ranks: Mapping[str, int]) -> ResNetSpec:
        """Return the spec with every named site set to its rank."""
        stages = []
        for i, stage in enumerate(self.stages, 1):
            blocks = tuple(
                replace(
                    block,
                    inner=tuple(
                        ranks.get(f"layer.{i}.block.{j}.conv{k}", width) for k, width in enumerate(block.inner, 1)
                    ),
                )
                for j, block in enumerate(stage.blocks)
            )
            stages.append(StageSpec(ranks.get(f"layer.{i}.stream", stage.width), blocks))
        stem = stages[0].width if self.stem_is_shared else ranks.get("stem", self.stem_width)
        cut = replace(self, stages=tuple(stages), stem_width=stem)
        wanted = {place: ranks.get(f"{place}{FACTOR}", self.factors.get(place)) for place in self.places()}
        outputs = cut.places()
        return replace(cut, factors={p: k for p, k in wanted.items() if k is not None and k < outputs[p]})

    def convolutions(self) -> Iterator[Convolution]:
        """Yield every convolution of the folded model, factors as two, from input to output."""
        side, before = self.image_size, self.stem_width
        kernel, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        side = -(-side // stride)
        yield from self._pair("stem", CHANNELS, self.stem_width, kernel, side)
        side = side if self.stem == "cifar" else -(-side // 2)
        kernels, strided = ((3, 3), 0) if self.block == "basic" else ((1, 3, 1), 1)
        for i, stage in enumerate(self.stages, 1):
            for j, block in enumerate(stage.blocks):
                name, widths = f"layer.{i}.block.{j}", [before, *block.inner, stage.width]
                after = -(-side // block.stride)
                for k, kernel in enumerate(kernels):
                    here = after if k >= strided else side
                    yield from self._pair(f"{name}.conv{k + 1}", widths[k], widths[k + 1], kernel, here)
                if block.downsample:
                    yield from self._pair(f"{name}.downsample", before, stage.width, 1, after)
                side, before = after, stage.width

    def _pair(self, place: str, inputs: int, outputs: int, kernel: int, side: int) -> Iterator[Convolution]:
        rank = self.factors.get(place)
        yield Convolution(inputs // self.groups_of(place), rank or outputs, kernel, side)
        if rank is not None:
            yield Convolution(rank, outputs, 1, side)

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model (weights, norms' scales and shifts, biases)."""
        weights = sum(c.weights for c in self.convolutions())
        norms = sum(2 * width for width in self.places().values())
        return weights + norms + self._classifier()

    def count_body_parameters(self) -> int:
        """Return the parameters without those of the classifier."""
        return self.count_parameters() - self._classifier()

    def _classifier(self) -> int:
        return (self.stages[-1].width + 1) * len(self.labels)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote."""
        stages = tuple(
            StageSpec(stage["width"], tuple(BlockSpec(**{**b, "inner": tuple(b["inner"])}) for b in stage["blocks"]))
            for stage in data["stages"]
        )
        return super().from_dict({**data, "stages": stages, "factors": dict(data["factors"])})


def channels(name: str, kind: str, width: int, layer: int | None = None) -> Site:
    """Return the site of channels that a ReLU follows; its edge is that of plain eigenvalues, taken after the ReLU."""
    return Site(name, kind, width, layer=layer, selectable=True, weighted=False)
