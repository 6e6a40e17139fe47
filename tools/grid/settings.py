"""What is set of a study's recipe for each method, each variant of rmt-kd, and each quantile."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from grid.studies import RMT_KD, Study
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.families.base import find_family

TEACHER_SEED = 0  # its validation rows are everybody's: it was trained on those of other seeds
# One cycle for every method; no rollback and no second training, so that all show their figure after the same steps.
COMMON = (
    "train.threshold=0.0",
    "compress.rounds=1",
    "compress.sites_per_cycle=1000",
    "stop.max_drop=1.0",
    f"task.split_seed={TEACHER_SEED}",
)
ONE_SHOT = "compress.one_shot=true"
EXPLAINED, EDGE = "analyse.rule=explained-variance", "compress.allocation=edge"
PLAIN = (EDGE, "distil.match=0.0")
SPECTRAL = (RMT_KD, "pca")  # methods that cut the recipe's sites in closed form; the others know the usual sites
WITH_LAYERS = ("distilbert", "pkd", "pkd-last", "theseus")  # students that start from whole layers of the teacher
SOFT_AND_HARD = ("distil.alpha=0.5", "distil.temperature=2.0")  # Hinton et al.; DistilBERT's script
PATIENT = ("distil.alpha=0.5", "distil.temperature=10.0")  # the middle of what the authors of PKD try
LOSSES = {"plain-kd": SOFT_AND_HARD, "distilbert": SOFT_AND_HARD, "pkd": PATIENT, "pkd-last": PATIENT}
RULES = ("window", "paper")  # edge rules that have a quantile
QUANTILES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Variant:
    """What is set of rmt-kd's settings, and what that shows.

    Attributes:
        less: whether it aims at the study's gentler target.
        on_the_way: targets before the study's own, each met by a cycle of its own; the steps are shared out.
        like_rmt_kd: whether it gets the widths of the finished rmt-kd.
    """

    changes: tuple[str, ...]
    what: str
    less: bool = False
    on_the_way: tuple[float, ...] = ()
    like_rmt_kd: bool = False


ON_THE_WAY = (0.5, 0.65)
VARIANTS = {
    "edge-alone": Variant(PLAIN, "one quantile for all sites, the teacher's outputs alone"),
    "search-alone": Variant(("distil.match=0.0",), "a quantile for each kind of site, the teacher's outputs alone"),
    "matching-alone": Variant((EDGE,), "one quantile for all sites, inner states are matched"),
    "explained-variance": Variant((EXPLAINED,), "PCA's rule alone, in place of the better of it and the edge"),
    "explained-variance-alone": Variant((*PLAIN, EXPLAINED), "PCA's rule, and else as the edge alone"),
    "states-first": Variant(("distil.states_first=0.5",), "inner states alone in the first half of the steps"),
    "no-warm-start": Variant(("compress.warm_start=fold",), "P W and W P^T, then the same fine-tuning"),
    "other-weighting": Variant(("analyse.weighting={other}",), "weighting by effect switched"),
    "project": Variant(("compress.channels=project",), "directions, in place of channels that are selected"),
    "eigenvectors": Variant(("compress.basis=eigen",), "eigenvectors as they come, not turned towards the axes"),
    "unaligned": Variant(("compress.align=false",), "ranks as they come, not rounded up for the hardware"),
    "three-cycles": Variant((), "in three cycles, each taught by the model before it", on_the_way=ON_THE_WAY),
    "three-cycles-original-teacher": Variant(
        ('distil.teacher="original"',), "in three cycles, all taught by the original", on_the_way=ON_THE_WAY
    ),
    "one-shot": Variant((ONE_SHOT,), "closed form, no training, cutting less", less=True),
    "one-shot-other-weighting": Variant(
        (ONE_SHOT, "analyse.weighting={other}"), "the same, weighting by effect switched", less=True
    ),
    "one-shot-at-the-target": Variant((ONE_SHOT,), "closed form, no training"),
    "trained-at-the-one-shots-target": Variant((), "all of rmt-kd, cutting less", less=True),
    "plain-kd-at-rmt-kds-widths": Variant(
        ("compress.method=plain-kd", *PLAIN), "random weights at the widths of rmt-kd", like_rmt_kd=True
    ),
}


def of_method(study: Study, method: str) -> list[str]:
    """Return what a method is given: rmt-kd the search and matching, the others what their authors use."""
    if method == RMT_KD:
        return list(study.rmt_kd)
    recipe = load_recipe(study.recipe)
    found = [f'compress.method="{method}"', *PLAIN, *LOSSES.get(method, ())]
    if method not in SPECTRAL:
        found.append(f"compress.sites={json.dumps(find_family(recipe.model.family).default_sites)}")
    if method in WITH_LAYERS:  # weights at their full width are tuned at the rate that the teacher was tuned at
        found.append(f"distil.learning_rate={recipe.train.learning_rate}")
    return found


def of_variant(study: Study, variant: str) -> list[str]:
    """Return what a variant of rmt-kd is given."""
    other = "none" if load_recipe(study.recipe).analyse.weighting == "effect" else "effect"
    return [*study.rmt_kd, *(item.format(other=other) for item in VARIANTS[variant].changes)]


def of_quantile(rule: str, quantile: float) -> list[str]:
    """Return the closed form at one quantile for all sites."""
    return [ONE_SHOT, *PLAIN, f"analyse.rule={rule}", f"analyse.quantile={quantile}"]


def of_teacher() -> list[str]:
    """Return the cheapest compression that trains a teacher."""
    return [ONE_SHOT, *PLAIN, "stop.target_reduction=0.1"]


def of_steps(steps: int, usual: int, validations: int) -> list[str]:
    """Return the length of a training, and the distance of its validations, of which `usual` steps have so many."""
    return [f"distil.steps={steps}", f"distil.evaluate_every={math.ceil(usual / validations)}"]


def widths(ranks: dict[str, int]) -> list[str]:
    """Return fixed widths by site."""
    return [f"compress.ranks={{{', '.join(f'{json.dumps(name)} = {rank}' for name, rank in ranks.items())}}}"]


def model_of(study: Study, source: str, changes: Sequence[str]) -> list[str]:
    """Return a teacher's folder in place of the recipe's model, with the recipe's tokenizer."""
    recipe = load_recipe(study.recipe, list(changes))
    tokenizer = recipe.model.tokenizer or recipe.model.source
    found = [f"model.source={json.dumps(source)}"]
    return [*found, f"model.tokenizer={json.dumps(tokenizer)}"] if recipe.task.text else found
