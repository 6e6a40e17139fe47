"""Measure a metric against size, and what each part of the method is worth, on real data.

    python tools/reproduce.py --data DIR --teachers DIR --only sst2 --seeds 0 1 2 --out runs/reproduce
    python tools/reproduce.py --table --out runs/reproduce

DIR/sst2, DIR/ag_news and DIR/cifar10 hold train.parquet and validation.parquet (SST-2, whose validation split is the
test split of its recipes) or test.parquet. TEACHERS holds the folders that tools/train_teacher.py wrote: sst2-4x256-s0,
ag-4x256-s0, sst2-minilm, ..., and cifar10-resnet18, which is compress/teacher of a run of the recipe resnet18-cifar10.
Every variant of a seed starts from the same teacher, aims at the same share of removed parameters, and takes the same
number of optimiser steps. Validation rows, held out of train, choose; what the table shows is of the test split. What
has finished is not run again; the table is made from whatever is there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shapes import this_processor

from rmtkd_edge.api.compress import open_or_create
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import load_recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import RESULT
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.reporter import SilentReporter

VARIANT = "variant.json"


@dataclass(frozen=True)
class Study:
    """A recipe with its data folder, its teacher's folder by seed, and the targets of the loop and of one shot.

    Attributes:
        changes: of the recipe, where it is used on another task than its own.
    """

    recipe: str
    data: str
    teacher: str
    target: float
    one_shot: float
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """What is set of the recipe, and what that shows.

    Attributes:
        like_loop: one cycle gets the final widths, and all optimiser steps, of the finished loop of the same seed.
    """

    changes: tuple[str, ...]
    what: str
    like_loop: bool = False


AG_NEWS = (
    'task.name="ag_news"',
    'task.text=["text"]',
    'task.labels=["World","Sports","Business","Sci/Tech"]',
    'task.test_split="test"',
)
QNLI = ('task.name="qnli"', 'task.text=["question","sentence"]', 'task.labels=["entailment","not_entailment"]')
STUDIES = {
    "sst2": Study("sst2-4x256", "sst2", "sst2-4x256-s{seed}", 0.90, 0.80),
    "ag_news": Study("agnews-4x256", "ag_news", "ag-4x256-s{seed}", 0.90, 0.80),
    "minilm": Study("minilm-sst2", "sst2", "sst2-minilm", 0.80, 0.60),
    "minilm-ag_news": Study("minilm-sst2", "ag_news", "ag-minilm", 0.80, 0.60, AG_NEWS),
    "minilm-qnli": Study("minilm-sst2", "qnli", "qnli-minilm", 0.80, 0.60, QNLI),
    "cifar10": Study("resnet18-cifar10", "cifar10", "cifar10-resnet18", 0.70, 0.48),
}
ONE_SHOT, LESS = "compress.one_shot=true", "stop.target_reduction={one_shot}"
OTHER = "analyse.weighting={other}"
EXPLAINED, EDGE = "analyse.rule=explained-variance", "compress.allocation=edge"
PLAIN = (EDGE, "distil.match=0")  # without what the recipe may have beyond the paper
LOOP = "rmt-kd"
VARIANTS = {
    LOOP: Variant((), "the whole loop"),
    "one-shot": Variant((ONE_SHOT, LESS), "closed form, no training"),
    "one-shot at the loop's target": Variant((ONE_SHOT,), "closed form, no training"),
    "one-shot, other weighting": Variant((ONE_SHOT, LESS, OTHER), "one shot, weighting by effect switched"),
    "other weighting": Variant((OTHER,), "the loop, weighting by effect switched"),
    "explained variance": Variant((EXPLAINED,), "PCA's rule in place of the edge, same budget"),
    "no warm start": Variant(("compress.warm_start=fold",), "P W and W P^T, then the same fine-tuning"),
    "rmt-kd, one shot's target": Variant((LESS,), "the whole loop, cutting less"),
    "select": Variant(("compress.channels=select",), "channels selected, in place of directions"),
    "project": Variant(("compress.channels=project",), "directions, in place of channels that are selected"),
    "edge alone": Variant(PLAIN, "one quantile for all sites, the teacher's outputs alone"),
    "explained variance alone": Variant((*PLAIN, EXPLAINED), "PCA's rule, and else as the edge alone"),
    "matching": Variant((EDGE,), "one quantile for all sites, inner states are matched"),
    "magnitude": Variant(("compress.method=magnitude", *PLAIN), "largest group norms, one factor for all sites"),
    "pca": Variant(("compress.method=pca", *PLAIN), "explained variance, unweighted, all sites at once"),
    "plain kd": Variant(
        ("compress.method=plain-kd", *PLAIN),
        "random weights at the loop's final ranks, all of its steps in one go",
        like_loop=True,
    ),
}
COMMON = ("compress.rounds=3", "stop.max_drop=1.0")  # no rollback: every variant shows its figure


def run_variant(study: str, variant: str, seed: int, args: argparse.Namespace) -> None:
    """Run one variant of one seed, or continue it."""
    of, asked = STUDIES[study], VARIANTS[variant]
    source = args.teachers / of.teacher.format(seed=seed)
    if not source.is_dir():
        print(f"{study} seed {seed}: no teacher {source}", flush=True)
        return
    other = "none" if load_recipe(of.recipe).analyse.weighting == "effect" else "effect"
    changes = [item.format(one_shot=of.one_shot, other=other) for item in asked.changes]
    if asked.like_loop:
        loop = folder_of(args.out, study, LOOP, seed)
        if not (loop / RESULT).is_file():
            print(f"{study} seed {seed}: {variant} needs the finished loop {loop}", flush=True)
            return
        changes += as_one_cycle(loop)
    fixed = [f'model.source="{source.resolve()}"', f"seed={seed}", "train.threshold=0.0"]
    target = f"stop.target_reduction={of.target}"
    recipe = load_recipe(of.recipe, [*fixed, target, *COMMON, *of.changes, *changes, *args.set])
    run = open_or_create(recipe, folder_of(args.out, study, variant, seed), False)
    if run.stage("compress").get("state") == "done":
        return
    result = compress_run(run, recipe, data=args.data / of.data, reporter=SilentReporter())
    run.write_json(VARIANT, {"study": study, "variant": variant})
    show(study, variant, result)


def folder_of(out: Path, study: str, variant: str, seed: int) -> Path:
    """Return the run directory of a variant."""
    return out / study / re.sub(r"[^a-z-]", "", variant.replace(" ", "-")) / f"seed-{seed}"


def as_one_cycle(loop: Path) -> list[str]:
    """Return the overrides that give one cycle the final ranks, and all optimiser steps, of a finished loop."""
    result = result_of(loop)
    ranks = ", ".join(f'"{name}" = {rank}' for name, rank in result.ranks.items())
    steps = sum(cycle.steps for cycle in result.cycles)
    return [f"compress.ranks={{{ranks}}}", "compress.rounds=1", f"distil.steps={steps}"]


def result_of(path: Path) -> CompressRecord:
    """Return the result of a finished run."""
    return Run.open(path).read_record(CompressRecord, RESULT)


@dataclass(frozen=True)
class Figures:
    """What a run scores on the split that is reported."""

    split: str
    rows: int
    metric: str
    teacher: float
    student: float

    @property
    def points(self) -> float:
        """Return student minus teacher, in points."""
        return 100 * (self.student - self.teacher)


def figures_of(result: CompressRecord) -> Figures:
    """Return the reported figures of a run: of test, or of validation where there is no test split."""
    teacher = result.teacher.test or result.teacher.validation
    student = result.student.test or result.student.validation
    return Figures(student.split, student.rows, student.primary, teacher.value, student.value)


def show(study: str, variant: str, result: CompressRecord) -> None:
    """Print one line."""
    f = figures_of(result)
    print(
        f"{study} | {variant} | seed {result.seed}: {result.reduction:.2%} fewer, {f.split} {f.metric} "
        f"{f.teacher:.4f} -> {f.student:.4f} ({f.points:+.2f} points), {result.seconds} s",
        flush=True,
    )


def table(out: Path) -> dict[str, Any]:
    """Return the figures of all finished runs, one row a study and variant."""
    found: dict[tuple[str, str], list[CompressRecord]] = {}
    for file in sorted(out.glob(f"*/*/seed-*/{VARIANT}")):
        facts = json.loads(file.read_text())
        found.setdefault((facts["study"], facts["variant"]), []).append(result_of(file.parent))
    pairs = [(study, variant) for study in STUDIES for variant in VARIANTS if (study, variant) in found]
    rows = [row_of(*pair, found[pair]) for pair in pairs]
    machine = f"{this_processor().model}, {os.cpu_count()} cores"
    return {"machine": machine, "torch": torch.__version__, "rows": rows}


def row_of(study: str, variant: str, results: Sequence[CompressRecord]) -> dict[str, Any]:
    """Return the figures of one variant over its seeds; `rows` are those of the split that is reported."""
    each = [figures_of(result) for result in results]
    return {
        "study": study,
        "variant": variant,
        "what": VARIANTS[variant].what,
        "seeds": [result.seed for result in results],
        "metric": each[0].metric,
        "split": each[0].split,
        "split_rows": each[0].rows,
        "validation_rows": results[0].task.validation_rows,
        "fewer_parameters_percent": round(100 * statistics.mean(result.reduction for result in results), 1),
        "teacher_percent": round(100 * statistics.mean(f.teacher for f in each), 2),
        "points_mean": round(statistics.mean(f.points for f in each), 2),
        "points": [round(f.points, 2) for f in each],
        "steps": [sum(cycle.steps for cycle in result.cycles) for result in results],
        "seconds": [result.seconds for result in results],
    }


def markdown(figures: Mapping[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| study | variant | parameters fewer | reported | teacher % | points against its teacher: mean (each seed) "
        "| steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        each = ", ".join(f"{p:+.2f}" for p in row["points"])
        cells = [
            row["study"],
            row["variant"],
            f"{row['fewer_parameters_percent']} %",
            f"{row['metric']}, {row['split_rows']} {row['split']} rows",
            row["teacher_percent"],
            f"{row['points_mean']:+.2f} ({each})",
            row["steps"][0],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", f"Machine: {figures['machine']}; torch {figures['torch']}."])


def main() -> None:
    """Run what is asked for and print the table."""
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
        if args.data is None or args.teachers is None:
            parser.error("give --data and --teachers, or --table")
        for variant in args.variants:
            for study in args.only:
                for seed in args.seeds:
                    run_variant(study, variant, seed, args)
    figures = table(args.out)
    (args.out / "accuracy.json").write_text(json.dumps(figures, indent=1))
    print(markdown(figures))


if __name__ == "__main__":
    main()
