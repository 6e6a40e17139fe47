"""What the widths of other null models are worth, at equal parameters.

    python tools/nulls.py --run runs/a --data DIR/sst2 --target 0.8

The teacher and the recipe are those of a run of `compress`. A null model says how many directions of a site stand above
noise, whatever the target: each site's rank is multiplied by the one factor that meets the target, and the teacher is
cut to these widths in closed form. The first row has the edge rule `window` at one quantile, the last the same share of
every width, without a spectrum. Divergences are on validation rows, which choose nothing here; `of_first` is the ratio
to the first row with its 95 % interval by a bootstrap over rows. `ranks` are those of the null before scaling.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench_analysis import context_of
from divergence import ClosedForms, Judge
from null_models import gamma_bema_rank, screenot_rank, shared_rank
from shapes import this_processor

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.ranks.cut import narrowed, projected, spectra_of
from rmtkd_edge.compress.ranks.edge import SiteRank, widths_of
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.families.base import call
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.spectrum import SiteSpectrum
from rmtkd_edge.families.store import load_folder
from rmtkd_edge.methods.base import align, reduction
from rmtkd_edge.methods.students import largest_factor
from rmtkd_edge.spectral import eigh_descending
from rmtkd_edge.tasks.base import Batch

SPLITS = 2  # pairs of halves
Ranks = Mapping[str, float]


@dataclass(frozen=True)
class Analysed:
    """A teacher, its spectra, and what halves of the calibration rows need."""

    context: Context
    teacher: Model
    spectra: Sequence[SiteSpectrum]

    def by_spectrum(self, rank: Callable[[np.ndarray, int], int]) -> Ranks:
        """Return, by site, the mean over heads of what a rule makes of a spectrum and its number of samples."""
        return {s.site.name: float(np.mean([rank(v, s.n) for v in s.eigenvalues])) for s in self.spectra}

    def by_rule(self, rule: str) -> Ranks:
        """Return the ranks of one of the package's rules that have no quantile."""
        options = self.context.recipe.analyse.model_copy(update={"rule": rule})
        return {s.site.name: float(np.mean([fit.rank for fit in s.fit(options, 0.5)])) for s in self.spectra}

    def by_halves(self) -> Ranks:
        """Return how many directions the halves of the calibration rows have in common."""
        found: dict[str, list[int]] = {}
        for split in range(SPLITS):
            halves = [self.half(split, which) for which in (0, 1)]
            for first, second in zip(*halves, strict=True):
                pairs = zip(leading(first), leading(second), strict=True)
                found.setdefault(first.site.name, []).extend(shared_rank(a, b) for a, b in pairs)
        return {name: float(np.mean(ranks)) for name, ranks in found.items()}

    def half(self, split: int, which: int) -> list[SiteSpectrum]:
        """Return the spectra of one half of the calibration rows."""
        context = self.context
        plain = context.recipe.analyse.model_copy(update={"rule": "window"})
        data = replace(context.data, analysis=lambda: (some_of(b, split, which) for b in context.data.analysis()))
        recipe = context.recipe.model_copy(update={"analyse": plain})
        return spectra_of(replace(context, data=data, recipe=recipe), self.teacher, [s.site.name for s in self.spectra])

    def scaled(self, ranks: Ranks, target: float) -> list[SiteRank]:
        """Return widths in the proportions of these ranks that remove the target, rounded up to the multiple."""
        most = max(s.site.width / max(ranks[s.site.name], 1e-9) for s in self.spectra)
        share = largest_factor(lambda share: self.removed(self.times(ranks, share * most)) >= target)
        if share is None:
            raise SystemExit(f"the least widths remove less than {target:.1%}: give a smaller --target")
        return self.times(ranks, share * most)

    def times(self, ranks: Ranks, factor: float) -> list[SiteRank]:
        """Return widths of so many times these ranks, as the family settles them."""
        context, widths = self.context, {}
        for s in self.spectra:
            rank, least = max(math.ceil(factor * ranks[s.site.name]), 1), context.recipe.compress.minimum_rank
            widths[s.site.name] = align(min(rank, s.site.width), s.site.width, s.site.heads, context.step, least)
        settle = context.family.settle(self.teacher.spec, context.recipe.compress, context.predict_ms, context.multiple)
        settled = settle(widths)
        return [SiteRank(s, [], settled[s.site.name], settled[s.site.name], 0.0) for s in self.spectra]

    def removed(self, chosen: Sequence[SiteRank]) -> float:
        """Return the share of the parameters that is gone."""
        return reduction(self.teacher.spec, widths_of(chosen), self.context.teacher_parameters)


def some_of(batch: Batch, split: int, which: int) -> Batch:
    """Return the rows of a batch that are in one of two halves, by their numbers."""
    numbers = batch["index"].cpu().numpy()
    mine = np.array([np.random.default_rng([split, int(i)]).integers(2) == which for i in numbers])
    mine[which % len(mine)] |= not mine.any()
    chosen = torch.from_numpy(np.flatnonzero(mine))
    return {name: x[chosen.to(x.device)] for name, x in batch.items()}


def leading(spectrum: SiteSpectrum) -> list[np.ndarray]:
    """Return the directions (d, d) of every head, the leading ones first; of selected channels too."""
    if spectrum.activated is not None:
        return [eigh_descending(spectrum.activated)[1].numpy()]
    return [rows.numpy() for rows in spectrum.directions]


def main() -> None:
    """Print the machine, then a row for every null."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run of compress: its teacher and recipe")
    parser.add_argument("--data", type=Path, help="folder or file with the rows, as compress takes it")
    parser.add_argument("--target", type=float, required=True, help="share of the parameters to remove")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a recipe's key, as for compress")
    args = parser.parse_args()
    print(json.dumps({"machine": this_processor(), "torch": torch.__version__, **vars(args)}, default=str), flush=True)
    fixed = ["compress.one_shot=true", "compress.fit_output_layer=false"]
    changes = [f"stop.target_reduction={args.target}", *fixed, f"seed={args.seed}", *args.set]
    changes += ["compress.allocation=edge", "analyse.rule=window"]
    recipe = load_recipe(str(args.run / "recipe.toml"), changes)
    ready, teacher = prepare(recipe, args.data), load_folder(args.run / "compress/teacher")
    parameters = teacher.spec.count_parameters()
    context = context_of(ready, recipe, parameters, ready.multiple)
    batches = list(context.data.validation())
    with torch.no_grad():
        judge = Judge(context, batches, [call(teacher, batch).double() for batch in batches], [])
    student, widths = ClosedForms(context, teacher).cut(0)
    print(json.dumps({"null": "window", **judge.row(student, parameters), "widths": widths}), flush=True)
    with_null = recipe.model_copy(update={"analyse": recipe.analyse.model_copy(update={"rule": "parallel"})})
    context = replace(context, recipe=with_null)  # its spectra hold those of sign-flipped rows too
    names = context.family.sites_to_cut(teacher.spec, recipe.compress)
    analysed = Analysed(context, teacher, spectra_of(context, teacher, names))
    nulls: dict[str, Callable[[], Ranks]] = {
        "bema": lambda: analysed.by_rule("bema"),
        "parallel": lambda: analysed.by_rule("parallel"),
        "screenot": lambda: analysed.by_spectrum(screenot_rank),
        "gamma-bema": lambda: analysed.by_spectrum(lambda values, n: gamma_bema_rank(values, n, args.seed)),
        "halves": analysed.by_halves,
        "one share": lambda: {s.site.name: float(s.site.width) for s in analysed.spectra},
    }
    for name, null in nulls.items():
        start = time.monotonic()
        ranks = null()
        chosen = analysed.scaled(ranks, args.target)
        student, _ = narrowed(context, teacher, projected(chosen, context))
        facts = {"null": name, "seconds": round(time.monotonic() - start, 1), **judge.row(student, parameters)}
        print(json.dumps({**facts, "ranks": ranks, "widths": widths_of(chosen)}), flush=True)


if __name__ == "__main__":
    main()
