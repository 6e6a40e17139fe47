"""How near compressed models stay to their teacher, on rows enough to tell them apart: 872 labels of SST-2 are not.

    python tools/agreement.py RUN... --data DIR [--rows 6000] [--json]

For every run directory: the mean divergence of its outputs from its teacher's (KL in nats), the share of rows with the
same prediction, and the recipe's metric, on training rows drawn at random (the same for all runs), on the validation
rows, and on the test rows, which are the ones to report. Training rows have been seen by the teacher, and by
whatever was fine-tuned after it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmtkd_edge.families.base import call, family_of
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import PREPROCESSING, RESULT, ROLES, read_recipe
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.tasks.base import Dataset, Split, Task, find_task
from rmtkd_edge.tasks.scoring import score


@dataclass(frozen=True)
class Pair:
    """A compressed model and its teacher, both folded, and what they are compared on."""

    model: Any
    teacher: Any
    task: Task[Any]
    dataset: Dataset[Any]
    metric: str | None

    @torch.no_grad()
    def compare(self, name: str, split: Split) -> dict[str, float]:
        """Return divergence from the teacher, agreement with it, and the metric, the last two in per cent."""
        apart = same = 0.0
        outputs, targets = [], []
        for batch in self.task.batches(self.dataset, split, self.task.evaluation_batch, None):
            found, wanted = (call(model, batch).double() for model in (self.model, self.teacher))
            apart += len(found) * float(self.task.divergence(wanted, found, batch=batch))
            same += len(found) * self.task.agreement(found.numpy(), wanted.numpy(), batch)
            outputs.append(found.numpy())
            targets.append(self.task.targets(batch))
        scores = score(self.task, self.metric, name, outputs, targets)
        return {
            "rows": len(split),
            "kl_nats": round(apart / len(split), 4),
            "agreement_percent": round(100 * same / len(split), 2),
            f"{scores.primary}_percent": round(100 * scores.value, 2),
        }


def figures(path: Path, data: Path | None, rows: int) -> dict[str, Any]:
    """Return the figures of one run directory."""
    run = Run.open(path)
    run.read_only = True
    recipe, result = read_recipe(run), run.read_record(CompressRecord, RESULT)
    task = find_task(recipe.task.kind)
    known = run.stage("compress").get("data")
    dataset = task.load(recipe, data or (Path(known) if known else None), kept=run.path_of(PREPROCESSING))
    drawn = np.sort(np.random.default_rng(99).permutation(len(dataset.train))[:rows])
    splits = {"train": dataset.train.take(drawn), "validation": dataset.validation, "test": dataset.test}
    model, teacher = (load_model(run, ROLES[role].checkpoint) for role in ("candidate", "baseline"))
    pair = Pair(family_of(model).fold(model).eval(), teacher, task, dataset, recipe.task.metric)
    found = {name: pair.compare(name, split) for name, split in splits.items() if split is not None}
    return {"run": str(path), "reduction": result.reduction, **found}


def main() -> None:
    """Compare the models of every run with their teachers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="the task's folder; the one that the run was given when left out")
    parser.add_argument("--rows", type=int, default=6000, help="training rows")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = [figures(path, args.data, args.rows) for path in args.runs]
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for item in found:
        print(f"{item['run']}: {item['reduction']:.1%} fewer parameters")
        for name in [name for name in ("train", "validation", "test") if name in item]:
            print(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in item[name].items()))


if __name__ == "__main__":
    main()
