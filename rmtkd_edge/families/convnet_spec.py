"""The shape of a residual convolutional classifier as data: every channel width that a compression may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rmtkd_edge.families.spec import Site

CHANNELS = 3

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
class ConvNetSpec:
    """A ResNet whose streams and blocks may all have different widths.

    `raw` names, for a site whose producers still carry a fixed projection, the width in front of that projection.
    `image_size` is the height and width, in pixels, of the images that it was made for (others work).
    """

    block: Kind
    stem: Stem
    stem_width: int
    stages: tuple[StageSpec, ...]
    labels: tuple[str, ...]
    image_size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    eps: float = 1e-5
    model_type: str = "resnet"
    raw: Mapping[str, int] = field(default_factory=dict)

    @property
    def stem_is_shared(self) -> bool:
        """Return whether the first block adds to the stem's own output, so that both have one width."""
        return not self.stages[0].blocks[0].downsample

    def sites(self) -> list[Site]:
        """Return every width that can be cut, shallow to deep: a stream before the inner widths of its blocks."""
        found = [] if self.stem_is_shared else [Site("stem", "stream", self.stem_width)]
        for i, stage in enumerate(self.stages, 1):
            found.append(Site(f"layer.{i}.stream", "stream", stage.width, layer=i))
            for j, block in enumerate(stage.blocks):
                for k, width in enumerate(block.inner, 1):
                    found.append(Site(f"layer.{i}.block.{j}.conv{k}", "inner", width, layer=i))
        return found

    def with_ranks(self, ranks: Mapping[str, int]) -> ConvNetSpec:
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
        return replace(self, stages=tuple(stages), stem_width=stem)

    def count_parameters(self) -> int:
        """Return the number of trained parameters of the folded model (weights, norms' scales and shifts, biases)."""
        kernel = 9 if self.stem == "cifar" else 49
        total = kernel * CHANNELS * self.stem_width + 2 * self.stem_width
        before = self.stem_width
        for stage in self.stages:
            for block in stage.blocks:
                total += _block_parameters(self.block, before, stage.width, block)
                before = stage.width
        return total + (before + 1) * len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ConvNetSpec:
        """Return the spec that `to_dict` wrote."""
        stages = tuple(
            StageSpec(stage["width"], tuple(BlockSpec(**{**b, "inner": tuple(b["inner"])}) for b in stage["blocks"]))
            for stage in data["stages"]
        )
        tuples = {name: tuple(data[name]) for name in ("labels", "mean", "std")}
        return ConvNetSpec(**{**data, **tuples, "stages": stages, "raw": dict(data["raw"])})


def _block_parameters(kind: str, before: int, after: int, block: BlockSpec) -> int:
    """Return the parameters of a block; a basic one has kernels 3, 3, a bottleneck 1, 3, 1, each with its norm."""
    widths = [before, *block.inner, after]
    kernels = [9, 9] if kind == "basic" else [1, 9, 1]
    total = sum(k * a * b + 2 * b for k, a, b in zip(kernels, widths[:-1], widths[1:], strict=True))
    return total + (before * after + 2 * after if block.downsample else 0)
