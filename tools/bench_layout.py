"""What channels-last pictures save in a training step on a CPU: each layout in turns, with and without matching.

    python tools/bench_layout.py
    python tools/bench_layout.py --recipes resnet18-cifar10 resnet50-cifar10 --precision fp32 --out layout.json

The teacher is the recipe's model with random weights, the student has half of each of its widths. A step is the
teacher's pass, the student's, loss, gradients and AdamW. Median CPU milliseconds of one thread, and the ratio of
channels-first to channels-last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from shapes import random_model
from torch import Tensor
from turns import begin, compare

from rmtkd_edge.compress.training.teacher_outputs import seen
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.families.base import find_family, list_sites
from rmtkd_edge.methods.base import Pair, distillation
from rmtkd_edge.methods.matching import matching
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.reading.images import ImagePreprocessing

LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}
LABELS = tuple("0123456789")


def training_step(recipe_name: str, batch: int, matched: bool, precision: str) -> Callable[[str], None]:
    """Return what takes one training step, by the name of the layout."""
    recipe = load_recipe(recipe_name)
    family, task = find_family(recipe.model.family), find_task(recipe.task.kind)
    preprocessing = ImagePreprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), recipe.task.image_size or 32)
    teacher = family.load(recipe, LABELS, preprocessing)[0].eval()
    spec = teacher.spec
    student = random_model(spec.with_ranks({site.name: max(1, site.width // 2) for site in list_sites(spec)}))
    (name,) = (item.name for item in spec.inputs)
    pixels = torch.from_numpy(spec.example_inputs(batch, None, 0)[name])
    fed: dict[str, dict[str, Tensor]] = {
        layout: {
            name: pixels.contiguous(memory_format=order),
            "labels": torch.arange(batch) % len(LABELS),
            "index": torch.arange(batch),
        }
        for layout, order in LAYOUTS.items()
    }
    objective = distillation(task, recipe.distil.alpha, recipe.distil.temperature)
    if matched:
        objective = matching(objective, Pair(family, teacher, student, lambda: [fed["last"]]), 3.0)
    optimizer = torch.optim.AdamW(student.train().parameters(), lr=1e-5, fused=True)

    def run(layout: str) -> None:
        given = fed[layout]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                wanted = seen(teacher, given, objective.taps, teacher.spec)
            loss = objective.loss(seen(student, given, objective.taps, student.spec), given, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    """Print a row for every recipe and precision, with and without matching."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["resnet18-cifar10"])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    facts = begin(args)
    rows = []
    for recipe in args.recipes:
        for precision in args.precision:
            for matched in (False, True):
                found = compare(training_step(recipe, args.batch, matched, precision), "first", "last", args.rounds)
                rows.append({"recipe": recipe, "precision": precision, "matched": matched, **found})
                print(json.dumps(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
