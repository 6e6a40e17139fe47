"""How near compressed models stay to their teacher, on rows enough to tell them apart: 872 labels of SST-2 are not.

    python tools/agreement.py RUN... --data DIR [--rows 6000] [--json]

For every run directory of a text task: the mean KL divergence of its answers from its teacher's (nats), the share of
rows with the same label, and the accuracy, on training rows drawn at random (the same for all runs) and on the
validation rows. Training rows have been seen by the teacher, and by whatever was fine-tuned after it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.families.ops import fold, projections_of
from rmtkd_edge.families.store import load_model
from rmtkd_edge.config.recipe import parse_recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks import text_classification as text


@dataclass(frozen=True)
class Answers:
    """Log-probabilities (rows, labels), float64, and labels (rows,)."""

    log: Tensor
    labels: Tensor

    def beside(self, teacher: Answers) -> dict[str, float]:
        """Return divergence from the teacher, agreement with it, and accuracy, the last two in per cent."""
        found, wanted = self.log.argmax(1), teacher.log.argmax(1)
        return {
            "kl_nats": round(float((teacher.log.exp() * (teacher.log - self.log)).sum(1).mean()), 4),
            "agreement_percent": round(100 * float((found == wanted).double().mean()), 2),
            "accuracy_percent": round(100 * float((found == self.labels).double().mean()), 2),
        }


@torch.no_grad()
def answers(model: Any, split: text.Split, pad: int) -> Answers:
    """Return a model's answers to the rows of a split, in the order of the rows."""
    model.eval()
    logs = torch.zeros(len(split), len(model.spec.labels), dtype=torch.float64)
    for batch in text.batches(split, 64, pad, None):
        logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        logs[batch["index"]] = torch.log_softmax(logits.double(), 1)
    return Answers(logs, torch.as_tensor(split.labels))


def figures(path: Path, data: Path, rows: int) -> dict[str, Any]:
    """Return the figures of one run directory."""
    import tomllib

    run = Run.open(path)
    run.read_only = True
    recipe = parse_recipe(tomllib.loads((path / "recipe.toml").read_text()), str(path))
    tokenizer = text.load_tokenizer(str(path / "compress/tokenizer"))
    task = text.load_text_task(recipe.task, tokenizer, data, recipe.seed)
    drawn = np.sort(np.random.default_rng(99).permutation(len(task.train))[:rows])
    splits = {"train": task.train.take(drawn), "validation": task.validation}
    model, teacher = load_model(run, "compress/best"), load_model(run, "compress/teacher")
    model = fold(model) if projections_of(model) else model
    pad = tokenizer.pad_token_id
    found = {name: answers(model, split, pad).beside(answers(teacher, split, pad)) for name, split in splits.items()}
    return {"run": str(path), "reduction": run.read_json("compress/result.json")["reduction"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the task's folder")
    parser.add_argument("--rows", type=int, default=6000, help="training rows")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = [figures(path, args.data, args.rows) for path in args.runs]
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print("run | fewer | train: KL, agreement, accuracy | validation: KL, agreement, accuracy")
    for item in found:
        parts = [", ".join(str(value) for value in item[name].values()) for name in ("train", "validation")]
        print(f"{item['run']} | {item['reduction']:.1%} | {parts[0]} | {parts[1]}")


if __name__ == "__main__":
    main()
