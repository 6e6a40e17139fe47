"""Compress your own transformers classifier from Python, without a recipe or a run directory.

    python examples/transformers_model.py --model textattack/bert-base-uncased-SST-2 --data reviews.csv --out out/bert
    python examples/transformers_model.py --tiny

The CSV file has the columns `text` and `label` (numbers from 0). With --tiny everything is made up and takes seconds.
"""

from __future__ import annotations

import argparse
import csv
import random
from typing import Any

import made_up
import torch

import rmtkd_edge as rk


def read(path: str) -> list[tuple[str, int]]:
    """Return the shuffled rows of a CSV file with the columns `text` and `label`."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [(row["text"], int(row["label"])) for row in csv.DictReader(file)]
    random.Random(0).shuffle(rows)
    return rows


def batches(rows: list[tuple[str, int]], tokenizer: Any, size: int = 32) -> list[dict[str, torch.Tensor]]:
    """Return batches: dicts of int64 tensors under the names that the model reads, and `labels`."""
    found = []
    for start in range(0, len(rows), size):
        texts, labels = zip(*rows[start : start + size], strict=True)
        # the mask of special tokens keeps [CLS] and [SEP] out of the spectra
        encoded = tokenizer(
            list(texts), padding=True, truncation=True, return_special_tokens_mask=True, return_tensors="pt"
        )
        found.append({**encoded, "labels": torch.tensor(labels)})
    return found


def train(model: Any, loader: list[dict[str, torch.Tensor]], epochs: int, rate: float) -> None:
    """Train a transformers classifier, the plain way."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(epochs):
        for batch in loader:
            model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.eval()


@torch.no_grad()
def accuracy(model: Any, loader: list[dict[str, torch.Tensor]]) -> float:
    """Return the accuracy of a model as rmtkd_edge has it: it takes its inputs in their order."""
    model.eval()
    right = total = 0
    for batch in loader:
        logits = model(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        right += int((logits.argmax(1) == batch["labels"]).sum())
        total += len(logits)
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or folder of a trained sequence classifier")
    parser.add_argument("--data", help="CSV file with the columns text and label")
    parser.add_argument("--out", default="out/transformers")
    parser.add_argument("--tiny", action="store_true", help="made-up data and a small model, in seconds")
    args = parser.parse_args()

    if args.tiny:
        rows, tokenizer = made_up.sentences(640), made_up.tokenizer()
        hf_model = made_up.classifier(tokenizer)
    else:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        rows, tokenizer = read(args.data), AutoTokenizer.from_pretrained(args.model)
        hf_model = AutoModelForSequenceClassification.from_pretrained(args.model)

    # three sets of rows: train fits, validation chooses, test is looked at once
    tenth = len(rows) // 10
    test, validation, rest = (batches(r, tokenizer) for r in (rows[:tenth], rows[tenth : 2 * tenth], rows[2 * tenth :]))
    if args.tiny:
        train(hf_model, rest, epochs=8, rate=1e-3)

    model = rk.from_transformers(hf_model)
    spectra = rk.analyse(model, rest)
    plan = rk.plan(spectra, reduction=0.6, align=8)
    print(plan)
    student = rk.compress(model, plan, rest)
    print(f"closed form: {accuracy(student, validation):.3f}, original: {accuracy(model, validation):.3f} (validation)")
    steps = 20 if args.tiny else 1000
    student = rk.distil(student, model, rest, evaluate=lambda m: accuracy(m, validation), steps=steps)
    print(f"after distillation: {accuracy(student, test):.3f}, original: {accuracy(model, test):.3f} (test)")

    folder = rk.export(student, args.out, tokenizer=tokenizer, precision=("fp32", "int8"))
    print(rk.profile(folder, on="local-cpu", quick=True, min_duration_s=0.5 if args.tiny else None))
    print(rk.load(folder).predict([text for text, _ in rows[:2]]).labels)


if __name__ == "__main__":
    main()
