"""From a CSV file of your own to a small ONNX text classifier: fine-tune a pretrained encoder, then compress it.

    python examples/own_text_data.py --data reviews.csv --model distilbert-base-uncased --out out/text
    python examples/own_text_data.py --tiny

The CSV file has the columns `text` and `label`; labels are any strings. The same from the command line, with a recipe:

    rmtkd-edge compress my.toml --data reviews.csv --out runs/mine      # my.toml: a copy of models/custom.toml
"""

from __future__ import annotations

import argparse
import csv
import random
from typing import Any

import made_up
import torch

import rmtkd_edge as rk

Rows = list[tuple[str, int]]


def read(path: str) -> tuple[Rows, list[str]]:
    """Return shuffled rows with numbers for labels, and the labels' names."""
    with open(path, encoding="utf-8", newline="") as file:
        found = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    names = sorted({label for _, label in found})
    random.Random(0).shuffle(found)
    return [(text, names.index(label)) for text, label in found], names


class Loader:
    """Batches of shuffled rows, in a new order every time that it is iterated."""

    def __init__(self, rows: Rows, tokenizer: Any, shuffle: bool = False, size: int = 32) -> None:
        self.rows, self.tokenizer, self.shuffle, self.size = rows, tokenizer, shuffle, size
        self.rng = random.Random(0)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Any:
        rows = self.rng.sample(self.rows, len(self.rows)) if self.shuffle else self.rows
        for start in range(0, len(rows), self.size):
            texts, labels = zip(*rows[start : start + self.size], strict=True)
            # the mask of special tokens keeps [CLS] and [SEP] out of the spectra
            encoded = self.tokenizer(
                list(texts), padding=True, truncation=True, return_special_tokens_mask=True, return_tensors="pt"
            )
            yield {**encoded, "labels": torch.tensor(labels)}


def fine_tune(model: Any, loader: Loader, epochs: int, rate: float) -> None:
    """Train the teacher, the plain way."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in loader:
            loss = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            total += loss.item()
        print(f"teacher, epoch {epoch + 1}: loss {total / len(loader):.3f}")
    model.eval()


@torch.no_grad()
def accuracy(model: Any, loader: Loader) -> float:
    """Return the accuracy."""
    model.eval()
    answers = [
        (model(b["input_ids"], b["attention_mask"], b.get("token_type_ids")).argmax(1) == b["labels"]) for b in loader
    ]
    return torch.cat(answers).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CSV file with the columns text and label")
    parser.add_argument("--model", default="distilbert-base-uncased", help="pretrained encoder, hub id or folder")
    parser.add_argument("--out", default="out/text")
    parser.add_argument("--tiny", action="store_true", help="made-up data and a small model, in seconds")
    args = parser.parse_args()

    if args.tiny:
        rows, names, tokenizer = made_up.sentences(640), ["negative", "positive"], made_up.tokenizer()
        hf_model = made_up.classifier(tokenizer)
    else:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        rows, names = read(args.data)
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        hf_model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=len(names), **labels)

    tenth = len(rows) // 10
    test = rows[:tenth]  # looked at once, at the end
    validation = Loader(rows[tenth : 2 * tenth], tokenizer)
    train = Loader(rows[2 * tenth :], tokenizer, shuffle=True)
    fine_tune(hf_model, train, epochs=8 if args.tiny else 3, rate=1e-3 if args.tiny else 5e-5)

    teacher = rk.from_transformers(hf_model)
    student = teacher
    for share in (0.4, 1 / 3):  # of the present model, so 60 % in all: two cycles are gentler than one
        plan = rk.plan(rk.analyse(student, train), reduction=share, align=8)
        narrow = rk.compress(student, plan, train)
        steps = 20 if args.tiny else 500
        student = rk.distil(narrow, student, train, evaluate=lambda m: accuracy(m, validation), steps=steps)
        print(f"{share:.0%} fewer parameters: {accuracy(student, validation):.3f} (validation)")

    folder = rk.export(student, args.out, tokenizer=tokenizer, precision=("fp32", "int8"))
    found = rk.load(folder).predict([text for text, _ in test]).labels
    right = sum(label == names[number] for label, (_, number) in zip(found, test, strict=True))
    print(f"exported fp32: {right} of {len(test)} test rows, in {folder}")


if __name__ == "__main__":
    main()
