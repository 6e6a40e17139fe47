"""One cycle: analyse -> project and warm start -> fine-tune -> accept or roll back, each step kept once it is done."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from rmtkd_edge.families.resnet.sources import modes
from rmtkd_edge.compress.training import trainer
from rmtkd_edge.compress import surgery
from rmtkd_edge.families.encoder.analyse import SiteSpectrum
from rmtkd_edge.compress.ranks.projection import projection
from rmtkd_edge.compress.data import Data
from rmtkd_edge.compress.ranks.edge import SiteRank, choose_ranks, land_on_target, reduction
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.ops import Model, fold, projections_of, unfold
from rmtkd_edge.families.encoder.spec import Site, count_parameters, ranks_of
from rmtkd_edge.config.recipe import WITHOUT_QUANTILE, Recipe

Choose = Callable[..., list[SiteRank]]


@dataclass(frozen=True)
class Job:
    """A group of sites to cut in one cycle."""

    round: int
    sites: tuple[str, ...]
    quantile: float
    retry: bool = False


@dataclass(frozen=True)
class State:
    """The model between cycles: folded weights, and the fixed projections that stand behind its producers."""

    folded: Model
    projections: dict[str, Tensor]
    accuracy: float


def compose(new: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the projections of both rounds as one: P2 P1 has orthonormal rows again."""
    return {**old, **{name: p @ old[name].to(p) if name in old else p for name, p in new.items()}}


def spectra_of(state: State, sites: list[Site], data: Data, recipe: Recipe, accelerator: Any) -> list[SiteSpectrum]:
    """Return the spectra of the sites of the present model."""
    return surgery.spectra(state.folded.to(accelerator.device), sites, data, recipe, accelerator)


def chooser(state: State, spectra: list[SiteSpectrum], recipe: Recipe, multiple: int) -> Choose:
    """Return what gives the ranks of the sites at a quantile, which `offsets` (log-odds) move for kinds of sites."""
    settle = modes.settler(state.folded.spec, recipe, multiple)

    def choose(at: float, offsets: Mapping[str, float] = MappingProxyType({})) -> list[SiteRank]:
        return settle(choose_ranks(spectra, recipe.analyse, recipe.compress, at, multiple, offsets))

    return choose


def pick_ranks(
    state: State, spectra: list[SiteSpectrum], recipe: Recipe, quantile: float, multiple: int, teacher_parameters: int
) -> tuple[float, list[SiteRank]]:
    """Return the quantile used and the ranks: one shot solves for the target, a cycle is only kept from passing it."""
    target, options = recipe.stop.target_reduction, recipe.compress
    highest = 1.0 if options.one_shot and target is not None else quantile
    spec, choose = state.folded.spec, chooser(state, spectra, recipe, multiple)
    if target is None or all(s.site.name in options.ranks or s.site.kind in options.ranks for s in spectra):
        return quantile, choose(quantile)
    used, chosen = land_on_target(choose, lambda c: reduction(spec, c, teacher_parameters), target, highest)
    if options.one_shot and recipe.analyse.rule not in WITHOUT_QUANTILE:
        most = reduction(spec, chosen, teacher_parameters)
        if most < target:
            raise UserError(
                f"cutting {len(chosen)} sites to the least that the rule {recipe.analyse.rule} allows removes "
                f"{most:.1%} of the parameters, stop.target_reduction is {target:.1%}",
                f"--set stop.target_reduction={max(most - 0.005, 0):.2f}, or more of compress.sites",
            )
    return used, chosen


def closed_form(
    state: State, chosen: list[SiteRank], data: Data, recipe: Recipe, accelerator: Any
) -> tuple[Model, dict[str, Tensor]]:
    """Return the narrowed folded model and its new projections by site, without any training."""
    cut = [c for c in chosen if c.width_after < c.spectrum.site.width]
    new = {c.spectrum.site.name: projection(c.spectrum, c.width_after, recipe.compress) for c in cut}
    student = surgery.narrowed(state.folded.to(accelerator.device), new, data, recipe, accelerator)
    there = ranks_of(student.spec)
    new = {name: p for name, p in new.items() if name in there}  # a factor no narrower than its site is none
    return student.to(accelerator.device), new


def fine_tune(
    student: Model, state: State, new: dict[str, Tensor], data: Data, recipe: Recipe, accelerator: Any,
    checkpoints: trainer.Checkpoints, number: int, report: Callable[..., None],
) -> tuple[Model, trainer.Trained]:  # fmt: skip
    """Return the student after self-distillation from the model as it stood before this cycle, and how it went."""
    plan = schedule(recipe, data)
    model = unfold(student, new) if recipe.distil.through_projection else student
    model = copy.deepcopy(student) if model is student else model
    model = model.to(accelerator.device).train()
    old = trainer.OldLogits(
        state.folded.to(accelerator.device) if plan.alpha < 1 else None,
        data.train_rows,
        len(student.spec.labels),
        fresh=data.augmented,
    )
    seed = recipe.seed + 1000 * number
    trained = trainer.train(
        model, old, lambda epoch: data.train_epoch(epoch, seed),
        lambda m: trainer.accuracy(m, data.validation(), accelerator), plan, accelerator, checkpoints, seed, report,
    )  # fmt: skip
    return (fold(model) if projections_of(model) else model), trained


def schedule(recipe: Recipe, data: Data) -> trainer.Schedule:
    """Return the optimisation of a cycle's fine-tuning."""
    options = recipe.distil
    return trainer.Schedule(
        steps=options.steps or options.epochs * data.steps_per_epoch,
        learning_rate=options.learning_rate, weight_decay=options.weight_decay, warmup=options.warmup,
        max_grad_norm=options.max_grad_norm, evaluate_every=options.evaluate_every, alpha=options.alpha,
        temperature=options.temperature, dropout=options.dropout,
    )  # fmt: skip


def shrinks(chosen: list[SiteRank], saturation: float) -> bool:
    """Return whether any site would become narrower by more than the share `saturation`."""
    return any(1 - c.width_after / c.spectrum.site.width > saturation for c in chosen)


class Clock:
    """Seconds since the last reading."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap and start a new one."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return round(seconds, 2)


def with_new(state: State, folded: Model, new: dict[str, Tensor], accuracy: float) -> State:
    """Return the state after an accepted cycle."""
    return replace(state, folded=folded, projections=compose(new, state.projections), accuracy=accuracy)


def parameters(state: State) -> int:
    """Return the folded model's number of parameters."""
    return count_parameters(state.folded.spec)
