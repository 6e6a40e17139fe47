"""What a method is: which widths, how the narrowed student starts, and the loss that it is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rmtkd_edge import plugins
from rmtkd_edge.config.recipe import Compress, Recipe
from rmtkd_edge.families.base import Batches, Family, Site, Spec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rmtkd_edge.families.model import Model
    from rmtkd_edge.tasks.base import Batch, Task


@dataclass(frozen=True)
class Widths:
    """A shape that a method chose without spectra, and how, in a sentence for the result's notes.

    Attributes:
        by_site: new widths under the teacher's names; a site that is left out stays as it is.
        layers: the teacher's layers that stay, from 0; None keeps all of them.
    """

    by_site: Mapping[str, int]
    note: str
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Cut:
    """What a student has less than its teacher: the new width of every narrowed site, and the fixed projections.

    Attributes:
        projections: P (k, d) by site; empty for a method that chooses its widths without spectra.
        layers: the teacher's layers that stay; None keeps all of them.
    """

    widths: Mapping[str, int]
    projections: Mapping[str, Tensor] = field(default_factory=dict)
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Seen:
    """What a model computes on a batch: its outputs, and the activations that the objective asked for, by tap."""

    outputs: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, a scalar.

    Attributes:
        loss: of what the student computes, the batch, and what the teacher computes (None without a teacher).
        teacher: whether the teacher is asked.
        taps: activations that are collected from student and teacher, under the family's names.
        helper: a module of the loss's own that is trained with the student, kept in its checkpoints, and never ships.
        stand_in: a module that is run in the student's place while the student's parameters, which it has, are trained.
        on_step: called before every step with the share of the steps that are done.
    """

    loss: Callable[[Seen, Batch, Seen | None], Tensor]
    teacher: bool = True
    taps: tuple[str, ...] = ()
    helper: nn.Module | None = None
    stand_in: nn.Module | None = None
    on_step: Callable[[float], None] | None = None


@dataclass(frozen=True)
class Pair:
    """A student before its training and the folded teacher that it learns from, with calibration batches for both.

    Attributes:
        rows: training rows, which a batch's `index` numbers; None where a row may come under another number next time.
        layers: the teacher's layers that the student has, None where it has all.
    """

    family: Family
    teacher: Model
    student: Model
    warm: Batches
    rows: int | None = None
    layers: tuple[int, ...] | None = None


class Method(Protocol):
    """How a smaller student comes from a teacher.

    Attributes:
        title: its name in sentences.
        iterative: cycles over groups of sites, each distilled from the model before it; else one cycle over all sites,
            distilled from the teacher, whose result stands whatever its metric.
        needs_labels: its loss reads labels whatever `distil.alpha` is.
    """

    name: str
    title: str
    iterative: bool
    needs_labels: bool

    def check(self, recipe: Recipe, family: Family) -> None:
        """Raise RecipeError for settings that the method cannot follow, or a family that it does not serve."""

    def settings(self, recipe: Recipe) -> Recipe:
        """Return the recipe with what the method fixes."""

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> Widths | None:
        """Return the shape of the student, widths rounded up to `multiple`; None where the spectra decide."""

    def initial_student(
        self, family: Family, teacher: Model, cut: Cut, warm: Batches, effect: Batches, recipe: Recipe
    ) -> Model:
        """Return the folded student that training starts from; `warm` and `effect` are calibration batches."""

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return the loss that the student of `pair` is trained on."""


def find_method(name: str) -> Method:
    """Return the method of a name; raise RecipeError with the known ones otherwise."""
    return plugins.find("methods", name)


def distillation(task: Task, alpha: float, temperature: float) -> Objective:
    """Return alpha times the task's loss + (1 - alpha) times the divergence from the teacher at a temperature.

    With the task's T^2 KL(p_old || p_new), T = 1 is the RMT-KD paper's loss; alpha 1 needs no teacher, alpha 0
    no labels.
    """

    def loss(student: Seen, batch: Batch, teacher: Seen | None) -> Tensor:
        if teacher is None:
            return task.loss(student.outputs, batch)
        divergence = task.divergence(teacher.outputs, student.outputs, temperature, batch)
        if alpha == 0:
            return divergence
        return alpha * task.loss(student.outputs, batch) + (1.0 - alpha) * divergence

    return Objective(loss, teacher=alpha < 1)


def align(rank: int, width: int, heads: int, multiple: int, minimum: int) -> int:
    """Return `rank` rounded up so that heads * rank is a multiple of `multiple`, within minimum..width."""
    unit = multiple // math.gcd(multiple, heads)
    return min(width, max(minimum, unit * math.ceil(max(rank, 1) / unit)))


def fixed_rank(options: Compress, site: Site) -> int | None:
    """Return the width that `compress.ranks` gives a site, by its name or kind; None where it gives none."""
    found = options.ranks.get(site.name, options.ranks.get(site.kind))
    return None if found is None else min(found, site.width)


def shape_of(family: Family, spec: Spec, found: Widths | Cut) -> Spec:
    """Return the shape of a teacher of `spec` at new widths, with the layers that stay."""
    narrow = spec.with_ranks(found.by_site if isinstance(found, Widths) else found.widths)
    return narrow if found.layers is None else family.shorter(narrow, found.layers)


def reduction(spec: Spec, widths: Mapping[str, int], parameters: int) -> float:
    """Return the share of `parameters` that is gone from a model of this shape at new widths by site."""
    return 1.0 - spec.with_ranks(widths).count_parameters() / parameters
