"""What methods of one cycle share: the settings that they cannot follow, and the shapes that they give a student."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rmtkd_edge import plugins
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Batches, Family, Site, Spec, call, list_sites
from rmtkd_edge.methods.base import Cut, Objective, Pair, Widths, align, fixed_rank, shape_of

if TYPE_CHECKING:
    from torch import Size, Tensor, nn

    from rmtkd_edge.families.model import Model
    from rmtkd_edge.tasks.base import Task

BISECTIONS = 20
Fault = tuple[str, str]  # what is wrong, and the setting that helps


class OneCycle:
    """A method of one cycle over the whole model, trained on the teacher's outputs unless it says otherwise.

    Attributes:
        needs: what the family must offer (see `Family.offers`), empty for nothing.
        start: what training starts from, where that is no closed form; one is refused what needs closed forms then.
        one_process: whether one process alone can train it.
        needs_labels: the loss reads labels whatever `distil.alpha` is.
        labels_only: the loss has no divergence of the outputs, so that `distil.alpha` and `.temperature` have no part.
    """

    name: str
    title: str
    iterative = False
    needs = ""
    start = ""
    one_process = False
    needs_labels = True
    labels_only = False

    def check(self, recipe: Recipe, family: Family) -> None:
        """Raise RecipeError with all that the method cannot follow."""
        found = self.faults(recipe, family)
        if found:
            raise RecipeError("\n".join(what for what, _ in found), " ".join(dict.fromkeys(hint for _, hint in found)))

    def faults(self, recipe: Recipe, family: Family) -> list[Fault]:
        """Return what the method cannot follow, and what helps."""
        found = []
        if self.needs and self.needs not in family.offers:
            names = [name for name in plugins.names("families") if self.needs in plugins.find("families", name).offers]
            what = f"{self.name} needs {self.needs}, which the family {family.name} has not; it serves"
            found.append((f"{what} {', '.join(names)}", "--method plain-kd"))
        if self.one_process and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            found.append((f"{self.name} is trained in one process", "compress without `accelerate launch`"))
        if self.start and recipe.compress.one_shot:
            what = f"compress.one_shot trains nothing, and {self.name} starts from {self.start}"
            found.append((what, "--set compress.one_shot=false"))
        if recipe.compress.allocation != "edge":
            what = f"compress.allocation = {recipe.compress.allocation} moves the edge of spectra, {self.name} has none"
            found.append((what, "--set compress.allocation=edge"))
        if self.start and recipe.distil.match:
            what = f"distil.match decodes a projection of the teacher's states, {self.name} starts from {self.start}"
            found.append((what, "--set distil.match=0"))
        return found

    def settings(self, recipe: Recipe) -> Recipe:
        """Return the recipe as it is."""
        return recipe

    def note(self, text: str) -> str:
        """Return what the result says of the student's shape, and of settings that have no part."""
        unread = "; distil.alpha and distil.temperature have no part in its loss" if self.labels_only else ""
        return f"{self.name}: {text}{unread}"

    def objective(self, task: Task, recipe: Recipe, pair: Pair) -> Objective:
        """Return alpha times the task's loss + (1 - alpha) times the divergence from the teacher.

        Where `distil.match` says so, inner states are matched too.
        """
        from rmtkd_edge.methods.matching import recipe_objective

        return recipe_objective(task, recipe, pair)


class Scaled(OneCycle):
    """A method whose student is the teacher with every width scaled by one factor."""

    def faults(self, recipe: Recipe, family: Family) -> list[Fault]:
        """Return what the method cannot follow; there must be a target, or widths."""
        found = super().faults(recipe, family)
        if recipe.stop.target is None and not recipe.compress.ranks:
            what = f"{self.name} chooses its widths by stop.target_reduction or compress.ranks, the recipe has neither"
            found.append((what, "--set stop.target_reduction=0.8"))
        return found

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> Widths:
        """Return the recipe's `compress.ranks`, else every site scaled by the one factor that meets the target."""
        names = family.sites_to_cut(spec, recipe.compress)
        sites = [site for site in list_sites(spec) if site.name in names]
        if recipe.compress.ranks:
            fixed = {site.name: rank for site in sites if (rank := fixed_rank(recipe.compress, site)) is not None}
            return Widths(fixed, self.note("widths from compress.ranks"))
        return self.meeting_target(spec, family, sites, recipe, multiple)

    def meeting_target(
        self,
        spec: Spec,
        family: Family,
        sites: Sequence[Site],
        recipe: Recipe,
        multiple: int,
        layers: tuple[int, ...] | None = None,
    ) -> Widths:
        """Return the largest widths, all sites scaled by one factor, that meet the target with the layers that stay.

        Raises:
            RecipeError: the narrowest sites miss it.
        """
        target, least, before = recipe.stop.target or 0.0, recipe.compress.minimum_rank, spec.count_parameters()

        def at(factor: float) -> Widths:
            which = "" if layers is None else f"{len(layers)} of {layers_of(spec)} layers, "
            note = f"{which}every width scaled by {factor:.3f} to meet stop.target_reduction = {target:g}"
            return Widths(scaled_widths(sites, factor, multiple, least), self.note(note), layers)

        def removed(factor: float) -> float:
            return 1 - shape_of(family, spec, at(factor)).count_parameters() / before

        factor = largest_factor(lambda factor: removed(factor) >= target)
        if factor is None:
            raise RecipeError(
                f"the narrowest {len(sites)} sites remove {removed(0.0):.1%} of the parameters, stop.target_reduction "
                f"is {target:.1%}",
                f"--set stop.target_reduction={max(removed(0.0) - 0.005, 0):.2f}, or more of compress.sites",
            )
        return at(factor)


class Narrower(Scaled):
    """A method whose student has the teacher's layers at scaled widths, with random weights."""

    start = "random weights"

    def initial_student(
        self, family: Family, teacher: Model, cut: Cut, warm: Batches, effect: Batches, recipe: Recipe
    ) -> Model:
        """Return a model of the smaller shape with random weights."""
        return family.initialise(family.build(shape_of(family, teacher.spec, cut)), recipe.seed)


class Shorter(OneCycle):
    """A method whose student has some of the teacher's layers, at their full width and with their weights."""

    needs = "layers"
    start = "some of the teacher's layers"

    def faults(self, recipe: Recipe, family: Family) -> list[Fault]:
        """Return what the method cannot follow, widths among it."""
        found = super().faults(recipe, family)
        if recipe.compress.ranks:
            what = f"compress.ranks names widths, and {self.name} leaves out whole layers"
            found.append((what, "--set 'compress.ranks={}'"))
        return found

    def depths(self, layers: int) -> Sequence[int]:
        """Return how many of a teacher's layers a student may have."""
        return range(1, layers)

    def kept(self, layers: int, depth: int) -> tuple[int, ...]:
        """Return which layers a student of `depth` has: its first ones."""
        return tuple(range(depth))

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> Widths:
        """Return the layers that stay: as many as come nearest to the target, or half of them where there is none."""
        layers, before, target = layers_of(spec), spec.count_parameters(), recipe.stop.target
        if not self.depths(layers):
            raise RecipeError(
                f"{self.name} leaves layers out, and the teacher has {counted(layers)}", "--method plain-kd"
            )

        def removed(depth: int) -> float:
            return 1 - family.shorter(spec, self.kept(layers, depth)).count_parameters() / before

        distance = {d: abs(layers / 2 - d) if target is None else abs(removed(d) - target) for d in self.depths(layers)}
        depth = min(distance, key=lambda d: (distance[d], -d))
        kept = self.kept(layers, depth)
        aim = "half of them" if target is None else f"the depth nearest to stop.target_reduction = {target:g}"
        numbers = ", ".join(map(str, kept))
        note = f"layers {numbers} of 0 to {layers - 1} stay, {removed(depth):.1%} of the parameters go ({aim})"
        return Widths({}, self.note(note), kept)

    def initial_student(
        self, family: Family, teacher: Model, cut: Cut, warm: Batches, effect: Batches, recipe: Recipe
    ) -> Model:
        """Return the teacher with the layers that stay."""
        assert cut.layers is not None, "the method names the layers that stay"
        return family.shortened(teacher, cut.layers)


def layers_of(spec: Spec) -> int:
    """Return the number of layers of a model whose layers can be left out."""
    return len({site.layer for site in list_sites(spec) if site.layer is not None})


def counted(layers: int) -> str:
    """Return how many layers there are, for messages: one layer may be run several times."""
    return f"{layers} layer{'s' * (layers != 1)} (shared ones count once)"


def divisors(layers: int) -> list[int]:
    """Return the depths below that of a teacher of which each student's layer stands for equally many."""
    return [depth for depth in range(1, layers) if layers % depth == 0]


def shapes_at(pair: Pair, taps: Sequence[str]) -> list[tuple[Size, Size]]:
    """Return the sizes of a calibration batch's activations at taps, of student and teacher."""
    import torch

    batch, found = next(iter(pair.warm())), []
    for model in (pair.student, pair.teacher):
        seen: dict[str, Tensor] = {}
        with torch.no_grad():
            call(model.eval(), batch, seen.__setitem__)
        found.append([seen[tap].shape for tap in taps])
    return list(zip(*found, strict=True))


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Return a module whose random weights depend on the seed alone."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def scaled_widths(sites: Sequence[Site], factor: float, multiple: int, minimum: int) -> dict[str, int]:
    """Return the width of every site times `factor`, rounded up to `multiple` and at least `minimum`."""
    return {s.name: align(math.ceil(factor * s.width), s.width, s.heads, multiple, minimum) for s in sites}


def largest_factor(small_enough: Callable[[float], bool]) -> float | None:
    """Return the largest factor in [0, 1], to about 1e-6, of a condition that holds below some factor, or None."""
    if not small_enough(0.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if small_enough(middle) else (low, middle)
    return low
