"""What attention in float32 saves where a CPU trains in bf16: torch's fused kernel against ours, interleaved.

    python tools/bench_attention.py
    python tools/bench_attention.py --lengths 13 32 --rounds 20 --out attention.json

At each length one attention, forward and backward (MiniLM's: 12 heads of 32), and a training step (forward, backward,
AdamW) of an encoder of MiniLM-L6's shape on random tokens. Median CPU milliseconds of one thread, and the ratio of the
fused kernel to ours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from shapes import encoder_spec, random_model
from torch import Tensor
from torch.nn import functional as F
from turns import begin, compare

from rmtkd_edge.families.attention import attend
from rmtkd_edge.families.base import call
from rmtkd_edge.families.encoder import module

WIDTH, HEADS = 384, 12


def fused(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, *, scale: float) -> Tensor:
    """Return attention as torch's fused kernel computes it in the precision of q."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)


WAYS = {"fused": fused, "ours": attend}


def one_attention(batch: int, length: int) -> Callable[[str], None]:
    """Return what runs one attention and its gradients, by the name of the way."""
    shape = (batch, HEADS, length, WIDTH // HEADS)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    mask = torch.ones(batch, 1, 1, length, dtype=torch.bool)
    mask[::2, ..., length * 3 // 4 :] = False

    def run(way: str) -> None:
        WAYS[way](q, k, v, mask, scale=(WIDTH // HEADS) ** -0.5).float().sum().backward()

    return run


def training_step(batch: int, length: int) -> Callable[[str], None]:
    """Return what takes one training step of an encoder, by the name of the way."""
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 6, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH}
    model = random_model(encoder_spec(**shape)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids, mask = torch.randint(1000, 30_000, (batch, length)), torch.ones(batch, length, dtype=torch.long)
    labels = torch.randint(2, (batch,))

    def run(way: str) -> None:
        with mock.patch.object(module, "attend", WAYS[way]), torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(call(model, {"input_ids": ids, "attention_mask": mask}).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    """Print a row for every length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[8, 13, 32, 64, 128, 256])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    facts = begin(args)
    rows = []
    for length in args.lengths:
        for what, make in (("attention", one_attention), ("training step", training_step)):
            rows.append(
                {"what": what, "length": length, **compare(make(args.batch, length), "fused", "ours", args.rounds)}
            )
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
