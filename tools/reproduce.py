"""Measure accuracy against size, and what each part of the method is worth, on real data.

    python tools/reproduce.py --data DIR --teachers DIR --only sst2 --seeds 0 1 2 --out runs/reproduce
    python tools/reproduce.py --table --out runs/reproduce

DIR/sst2, DIR/ag_news and DIR/cifar10 hold train.parquet and validation.parquet (or test.parquet). TEACHERS holds the
folders that tools/train_teacher.py wrote: sst2-4x256-s0, ag-4x256-s0, sst2-minilm, ..., and cifar10-resnet18, which is
compress/teacher of a run of the recipe resnet18-cifar10. Every variant of a seed starts from the same teacher, aims at
the same share of removed parameters, and takes the same number of optimiser steps. What has finished is not run again;
the table is made from whatever is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
from pathlib import Path

import torch

from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.cli.progress import SilentReporter
from rmtkd_edge.config.recipe import load_recipe
from rmtkd_edge.run.directory import MANIFEST, Run

STUDIES = {  # name: (recipe, data folder, teacher folder by seed, target of the loop, target of one shot)
    "sst2": ("sst2-4x256", "sst2", "sst2-4x256-s{seed}", 0.90, 0.80),
    "ag_news": ("agnews-4x256", "ag_news", "ag-4x256-s{seed}", 0.90, 0.80),
    "minilm": ("minilm-sst2", "sst2", "sst2-minilm", 0.80, 0.60),
    "cifar10": ("resnet18-cifar10", "cifar10", "cifar10-resnet18", 0.70, 0.48),
}
VARIANTS = {  # name: (overrides, what it shows)
    "rmt-kd": ([], "the whole loop"),
    "one-shot": (["compress.one_shot=true", "stop.target_reduction={one_shot}"], "closed form, no training"),
    "one-shot at the loop's target": (["compress.one_shot=true"], "closed form, no training"),
    "one-shot, other weighting": (
        ["compress.one_shot=true", "stop.target_reduction={one_shot}", "analyse.weighting={other}"],
        "one shot, weighting by effect switched",
    ),
    "other weighting": (["analyse.weighting={other}"], "the loop, weighting by effect switched"),
    "explained variance": (["analyse.rule=explained-variance"], "PCA's rule in place of the edge, same budget"),
    "no warm start": (["compress.warm_start=fold"], "P W and W P^T, then the same fine-tuning"),
    "rmt-kd, one shot's target": (["stop.target_reduction={one_shot}"], "the whole loop, cutting less"),
    "select": (["compress.conv=select"], "channels chosen, in place of directions"),
    "project": (["compress.conv=project"], "directions, in place of channels that are chosen"),
    "plain kd": (
        ["compress.warm_start=random"],
        "random weights at the loop's final ranks, all of its steps in one go",
    ),
}
COMMON = ["compress.rounds=3", "stop.max_accuracy_drop=1.0"]  # no rollback: every variant shows its figure


def run_variant(study: str, variant: str, seed: int, args: argparse.Namespace) -> None:
    """Run one variant of one seed, or continue it."""
    recipe_name, folder, teacher, target, one_shot = STUDIES[study]
    source = args.teachers / teacher.format(seed=seed)
    if not source.is_dir():
        print(f"{study} seed {seed}: no teacher {source}", flush=True)
        return
    base = load_recipe(recipe_name)
    other = "none" if base.analyse.weighting == "effect" else "effect"
    changes = [item.format(one_shot=one_shot, other=other) for item in VARIANTS[variant][0]]
    fixed = [
        f'model.source="{source.resolve()}"',
        f"seed={seed}",
        "train.threshold=0.0",
        f"stop.target_reduction={target}",
    ]
    recipe = load_recipe(recipe_name, [*fixed, *COMMON, *changes, *args.set])
    if variant == "plain kd":
        changes = [*changes, *as_one_cycle(args.out / study / "rmt-kd" / f"seed-{seed}")]
        recipe = load_recipe(recipe_name, [*fixed, *COMMON, *changes, *args.set])
    path = args.out / study / re.sub(r"[^a-z-]", "", variant.replace(" ", "-")) / f"seed-{seed}"
    run = Run.open(path) if (path / MANIFEST).is_file() else Run.create(path, recipe.to_toml(), seed)
    if run.stage("compress").get("state") == "done":
        return
    result = compress_run(run, recipe, data=args.data / folder, reporter=SilentReporter())
    run.write_json("variant.json", {"study": study, "variant": variant})
    show(study, variant, seed, result)


def as_one_cycle(loop: Path) -> list[str]:
    """Return the overrides that give one cycle the final ranks, and all optimiser steps, of a finished loop."""
    result = json.loads((loop / "compress/result.json").read_text())
    ranks = ", ".join(f'"{name}" = {rank}' for name, rank in result["ranks"].items())
    steps = sum(cycle["steps"] for cycle in result["cycles"])
    return [f"compress.ranks={{{ranks}}}", "compress.rounds=1", f"distil.steps={steps}"]


def show(study: str, variant: str, seed: int, result: dict) -> None:
    """Print one line."""
    teacher, student = result["teacher"]["accuracy"], result["student"]["accuracy"]
    print(f"{study} | {variant} | seed {seed}: {result['reduction']:.2%} fewer, {teacher:.4f} -> {student:.4f} "
          f"({100 * (student - teacher):+.2f} points), {result['seconds']} s", flush=True)  # fmt: skip


def table(out: Path) -> dict:
    """Return the figures of all finished runs, one row a study and variant."""
    found: dict[tuple[str, str], list[dict]] = {}
    for file in sorted(out.glob("*/*/seed-*/variant.json")):
        facts = json.loads(file.read_text())
        result = json.loads((file.parent / "compress/result.json").read_text())
        found.setdefault((facts["study"], facts["variant"]), []).append(result)
    rows = []
    for study in STUDIES:
        for variant, (_, meaning) in VARIANTS.items():
            results = found.get((study, variant))
            if results:
                changes = [100 * (r["student"]["accuracy"] - r["teacher"]["accuracy"]) for r in results]
                rows.append({
                    "study": study, "variant": variant, "what": meaning, "seeds": [r["seed"] for r in results],
                    "validation_rows": results[0]["task"]["validation_rows"],
                    "fewer_parameters_percent": round(100 * statistics.mean(r["reduction"] for r in results), 1),
                    "teacher_percent": round(100 * statistics.mean(r["teacher"]["accuracy"] for r in results), 2),
                    "points_mean": round(statistics.mean(changes), 2), "points": [round(c, 2) for c in changes],
                    "steps": [sum(c["steps"] for c in r["cycles"]) for r in results],
                    "seconds": [r["seconds"] for r in results],
                })  # fmt: skip
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return {"machine": f"{cpu}, {os.cpu_count()} cores", "torch": torch.__version__, "rows": rows}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def markdown(figures: dict) -> str:
    """Return the table as Markdown."""
    lines = [
        "| study | variant | parameters fewer | teacher % | points against its teacher: mean (each seed) | steps |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        each = ", ".join(f"{p:+.2f}" for p in row["points"])
        lines.append(f"| {row['study']} | {row['variant']} | {row['fewer_parameters_percent']} % | "
            f"{row['teacher_percent']} | "
                     f"{row['points_mean']:+.2f} ({each}) | {row['steps'][0]} |")  # fmt: skip
    return "\n".join([*lines, "", f"Machine: {figures['machine']}; torch {figures['torch']}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teachers", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--only", nargs="*", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="further recipe overrides")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.table:
        for variant in args.variants:
            for study in args.only:
                for seed in args.seeds:
                    run_variant(study, variant, seed, args)
    figures = table(args.out)
    (args.out / "accuracy.json").write_text(json.dumps(figures, indent=1))
    print(markdown(figures))


if __name__ == "__main__":
    main()
