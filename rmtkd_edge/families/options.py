"""What a family is told when it analyses, narrows or quantises a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Analyse, Compress, Recipe
from rmtkd_edge.config.settings import Scales

if TYPE_CHECKING:
    from torch import Tensor

Probe = Callable[["Tensor", Mapping[str, "Tensor"]], "Tensor"]


@dataclass(frozen=True)
class AnalyseOptions:
    """How spectra are taken.

    Attributes:
        select: channels of selectable sites are selected, not projected.
        probe: (outputs, batch) -> scalar, whose gradient at a site is the site's effect on the output.
    """

    analyse: Analyse
    select: bool
    seed: int
    probe: Probe


@dataclass(frozen=True)
class NarrowOptions:
    """How a narrowed model starts: the recipe's section and the seed.

    Attributes:
        precision: `train.precision`; with `bf16` a family may run the teacher in it, whose states are only fitted to.
    """

    compress: Compress
    seed: int
    precision: str = "no"

    @staticmethod
    def of(recipe: Recipe) -> NarrowOptions:
        """Return the options of a recipe."""
        return NarrowOptions(recipe.compress, recipe.seed, recipe.train.precision)


@dataclass(frozen=True)
class QuantiseOptions:
    """What int8 depends on.

    Attributes:
        reduce_range: keep weights to 7 bits, for processors whose 16-bit sums saturate.
        scales: of the activations, one of the family's `int8_scales`; None for its first.
    """

    reduce_range: bool
    threads: int
    scales: Scales | None = None
