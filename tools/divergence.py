"""How far compressed models are from their teacher, by allocation and by what the distillation matches.

    python tools/divergence.py --run runs/a --data DIR/sst2 --target 0.8 --allocation edge kl --match 0 3 10 --steps 250
    python tools/divergence.py --run runs/a --data DIR/sst2 --target 0.8 --rule window explained-variance bema parallel
    python tools/divergence.py --run runs/a --data DIR/sst2 --target 0.8 --allocation edge kl --trials 8 15 30

The teacher and the recipe are those of a run of `compress`. For every edge rule and allocation the teacher is cut to
the target in closed form (the rules bema and parallel give one rank, whatever the target); with --steps each of these
students is then distilled for so many steps, once for every weight of `distil.match`. A row is printed for each: the
divergence from the teacher (the task's own; of classification in nats), agreement and metric on validation rows, which
choose nothing here. A divergence tells students apart that an accuracy of as many rows does not. With several numbers
of --trials a search goes on from the one before, and so do its seconds, which leave out the analysis that all share. A
search starts from one quantile of the rule or of explained variance: `started_from` says which. The output layer is
as least squares have it; with --set compress.fit_output_layer=true it is fitted to the divergence, as in a one shot.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_analysis import NONE, context_of
from shapes import this_processor
from torch import Tensor

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.ranks.allocation import Trials, allocated
from rmtkd_edge.compress.ranks.budget import budgets_of
from rmtkd_edge.compress.ranks.cut import chooser, narrowed, projected, spectra_of
from rmtkd_edge.compress.ranks.edge import pick_ranks, widths_of
from rmtkd_edge.compress.training.schedule import Schedule
from rmtkd_edge.compress.training.teacher_outputs import TeacherOutputs
from rmtkd_edge.compress.training.trainer import Training, train
from rmtkd_edge.config.recipe import WITHOUT_QUANTILE, Compress
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.families.base import call
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.store import load_folder
from rmtkd_edge.methods.base import Pair
from rmtkd_edge.spectral.rules import RULES
from rmtkd_edge.tasks.base import Task
from rmtkd_edge.tasks.scoring import score

RESAMPLES = 2000


@dataclass(frozen=True)
class Judge:
    """The teacher's outputs on the rows that students are compared on."""

    context: Context
    batches: Sequence[dict[str, Tensor]]
    outputs: Sequence[Tensor]
    first: list[np.ndarray]  # the first student's divergence row by row, once there is one

    @torch.no_grad()
    def row(self, student: Model, teacher_parameters: int) -> dict[str, Any]:
        """Return how far a student is from the teacher, and its metric."""
        task, student = self.context.task, student.eval()
        found = [call(student, batch).double() for batch in self.batches]
        rows = sum(map(len, found))
        pairs = list(zip(self.outputs, found, self.batches, strict=True))
        moved = np.array([x for old, new, batch in pairs for x in by_row(task, old, new, batch)])
        self.first.extend([] if self.first else [moved])
        scores = score(
            task,
            self.context.recipe.task.metric,
            "validation",
            [new.numpy() for new in found],
            [task.targets(batch) for batch in self.batches],
        )
        return {
            "reduction": round(1 - student.spec.count_parameters() / teacher_parameters, 4),
            "divergence": float(moved.mean()),
            "of_first": ratio(moved, self.first[0]),
            "agreement": sum(task.agreement(a.numpy(), b.numpy(), c) * len(b) for a, b, c in pairs) / rows,
            scores.primary: scores.value,
            "rows": rows,
        }


def by_row(task: Task[Any], old: Tensor, new: Tensor, batch: dict[str, Tensor]) -> Iterator[float]:
    """Yield the divergence of every row of a batch."""
    for i in range(len(new)):
        part = slice(i, i + 1)
        yield float(task.divergence(old[part], new[part], batch={name: x[part] for name, x in batch.items()}))


def ratio(now: np.ndarray, first: np.ndarray) -> list[float]:
    """Return the ratio of two means over the same rows, and its 95 % interval by a bootstrap over these rows."""
    drawn = np.random.default_rng(0).integers(len(now), size=(RESAMPLES, len(now)))
    low, high = np.quantile(now[drawn].mean(1) / first[drawn].mean(1), [0.025, 0.975])
    return [round(float(x), 3) for x in (now.mean() / first.mean(), low, high)]


class ClosedForms:
    """Cuts the teacher to the recipe's target by one rule, with one analysis and without trying a shape twice."""

    def __init__(self, context: Context, teacher: Model) -> None:
        recipe, spec = context.recipe, teacher.spec
        self.context, self.teacher = context, teacher
        spectra = spectra_of(context, teacher, context.family.sites_to_cut(spec, recipe.compress))
        choose, budgets = chooser(context, spec, spectra), budgets_of(context, spec)
        self.one = pick_ranks(choose, spec, recipe, recipe.analyse.quantile, budgets, context.from_teacher)[1]
        self.trials = Trials(context, teacher, spectra)

    def cut(self, trials: int) -> tuple[Model, dict[str, int]]:
        """Return the student at one quantile, or at the best of so many trials of the search, and its widths."""
        chosen = allocated(self.trials, self.one, trials) if trials else self.one
        self.started_from = chosen[0].fits[0].rule
        return narrowed(self.context, self.teacher, projected(chosen, self.context))[0], widths_of(chosen)

    def lowest(self) -> list[float]:
        """Return the lowest divergence after every trial so far, on the rows of train that the search looks at."""
        found = [math.inf if trial.divergence is None else trial.divergence for trial in self.trials.known]
        return [round(low, 5) for low in itertools.accumulate(found, min)]


def distilled(context: Context, teacher: Model, student: Model, match: float, steps: int) -> Model:
    """Return a copy of a student after that many steps with the teacher."""
    recipe = context.recipe
    options = recipe.distil.model_copy(update={"match": match, "steps": steps, "evaluate_every": steps})
    recipe, model, data = recipe.model_copy(update={"distil": options}), copy.deepcopy(student), context.data
    objective = context.method.objective(context.task, recipe, Pair(context.family, teacher, model, data.warm))
    training = Training(
        schedule=Schedule.of_cycle(options, data.steps(options.batch_size)),
        objective=objective,
        epoch=lambda epoch: data.epoch(options.batch_size, recipe.seed + 1000, epoch),
        validate=lambda found: NONE,
        seed=recipe.seed + 1000,
        teacher=TeacherOutputs(teacher, data.rows, fresh=data.augmented, taps=objective.taps),
    )
    train(model.train(), training, context.accelerator)
    return model


def main() -> None:
    """Print the machine, then a row for every closed form and every distilled student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run of compress: its teacher and recipe")
    parser.add_argument("--data", type=Path, help="folder or file with the rows, as compress takes it")
    parser.add_argument("--target", type=float, required=True, help="share of the parameters to remove")
    parser.add_argument("--rule", nargs="+", choices=list(RULES), help="edge rules; the recipe's when left out")
    parser.add_argument("--allocation", nargs="+", default=["edge"], choices=["edge", "kl"])
    parser.add_argument(
        "--trials", nargs="+", type=int, default=[Compress().trials], help="closed forms that kl compares at most"
    )
    parser.add_argument("--match", nargs="+", type=float, default=[], help="weights of distil.match")
    parser.add_argument("--steps", type=int, help="of distillation; none when left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a recipe's key, as for compress")
    args = parser.parse_args()
    print(json.dumps({"machine": this_processor(), "torch": torch.__version__, **vars(args)}, default=str), flush=True)
    fixed = ["compress.one_shot=true", "compress.fit_output_layer=false"]
    changes = [f"stop.target_reduction={args.target}", *fixed, f"seed={args.seed}", *args.set]
    base = load_recipe(str(args.run / "recipe.toml"), changes)
    ready, teacher = prepare(base, args.data), load_folder(args.run / "compress/teacher")
    parameters = teacher.spec.count_parameters()
    rules = args.rule or [base.analyse.rule]
    first: list[np.ndarray] = []
    variants = [n for one in args.allocation for n in ([0] if one == "edge" else sorted(args.trials))]
    for rule in rules:
        recipe = base.model_copy(update={"analyse": base.analyse.model_copy(update={"rule": rule})})
        context = context_of(ready, recipe, parameters, ready.multiple)
        batches = list(context.data.validation())
        with torch.no_grad():
            judge = Judge(context, batches, [call(teacher, batch).double() for batch in batches], first)
        start = time.monotonic()
        forms = ClosedForms(context, teacher)
        analysed = round(time.monotonic() - start, 1)
        for trials in variants:
            if trials and rule in WITHOUT_QUANTILE:
                continue
            start = time.monotonic()
            student, widths = forms.cut(trials)
            told = {"rule": rule, "allocation": "kl" if trials else "edge", "trials": trials, "analysis_s": analysed}
            told["started_from"] = forms.started_from
            facts = {**told, "seconds": round(time.monotonic() - start, 1), "lowest": forms.lowest() if trials else []}
            print(json.dumps({**facts, **judge.row(student, parameters), "widths": widths}), flush=True)
            for match in args.match if args.steps else ():
                start = time.monotonic()
                trained = distilled(context, teacher, student, match, args.steps)
                facts = {**told, "match": match, "steps": args.steps, "seconds": round(time.monotonic() - start, 1)}
                print(json.dumps({**facts, **judge.row(trained, parameters)}), flush=True)


if __name__ == "__main__":
    main()
