"""What analysing all sites of a ResNet costs beside one epoch of training on the same images.

    python tools/bench_conv_analysis.py --data DIR/cifar10 --images 5000 --threads 1

Random weights of the recipe's shape (time does not depend on them). The analysis is run whole: spectra of every site
on all of the images, weighted by effect. Of the epoch a few steps are timed and multiplied. The closed form that
follows (the warm start at --reduction) is timed beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from bench_shapes import cpu_facts
from torch.nn import functional as F

from rmtkd_edge.compress import cycle as steps
from rmtkd_edge.compress.image_inputs import image_inputs
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.stage import DEFAULT_ALIGNMENT
from rmtkd_edge.families.encoder.spec import count_parameters, list_sites
from rmtkd_edge.config.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="resnet50-cifar10")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=4, help="training steps that are timed, after one to warm up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reduction", type=float, default=0.477)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wanted = [f"task.train_limit={args.images}", "task.validation_limit=128", "analyse.calibration=1.0"]
    wanted += ["compress.one_shot=true", f"stop.target_reduction={args.reduction}"]
    recipe = load_recipe(args.recipe, wanted)
    inputs, accelerator = image_inputs(recipe, args.data), make_accelerator("no")
    net, _ = inputs.build()
    step_s = time_steps(net, inputs.data.teacher_epoch(0), args.steps)
    epoch_s = step_s * inputs.data.teacher_steps_per_epoch
    state, clock = steps.State(net.eval(), {}, 0.0), steps.Clock()
    spectra = steps.spectra_of(
        state, list_sites(net.spec, list(recipe.compress.sites)), inputs.data, recipe, accelerator
    )
    analyse_s = clock.lap()
    total = count_parameters(net.spec)
    _, chosen = steps.pick_ranks(state, spectra, recipe, recipe.analyse.quantile, DEFAULT_ALIGNMENT, total)
    student, _ = steps.closed_form(state, chosen, inputs.data, recipe, accelerator)
    figures = {
        "recipe": args.recipe, "images": args.images, "sites": len(spectra), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "machine": cpu_facts(), "analyse_s": analyse_s, "warm_start_s": clock.lap(),
        "warm_start_images": recipe.compress.warm_start_images, "train_step_s": round(step_s, 3),
        "train_epoch_s": round(epoch_s, 1), "analysis_in_epochs": round(analyse_s / epoch_s, 3),
        "parameters": total, "student_parameters": count_parameters(student.spec),
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1))


def time_steps(net, batches, count: int) -> float:
    """Return the mean seconds of an optimiser step on augmented images."""
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=1e-5, fused=True)
    seconds = []
    for number, batch in enumerate(batches):
        if number > count:
            break
        start = time.perf_counter()
        loss = F.cross_entropy(net(batch["pixel_values"]), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return statistics.mean(seconds[1:])


if __name__ == "__main__":
    main()
