"""What our attention on a CPU saves over calling torch's as it is, interleaved.

    python tools/bench_attention.py
    python tools/bench_attention.py --lengths 13 32 --rounds 20 --out attention.json

At each length: one attention in bf16 with its gradients (MiniLM's: 12 heads of 32), which ours computes in float32; a
training step in bf16 (forward, backward, AdamW) of an encoder of MiniLM-L6's shape on random tokens; one attention in
float32 of a compressed encoder, with queries of 16 channels a head and values of 24, which ours pads, with
gradients and without. Median CPU milliseconds of one thread, and the ratio of torch's to ours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
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
ONE_WIDTH, TWO_WIDTHS = (32, 32), (16, 24)  # of queries and of values, a head


def plain(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, *, scale: float) -> Tensor:
    """Return attention as torch computes it in the precision of q."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)


WAYS = {"torch": plain, "ours": attend}


def attention_of(
    widths: tuple[int, int], dtype: torch.dtype, gradients: bool, batch: int, length: int
) -> Callable[[str], None]:
    """Return what runs one attention with queries and values of these channels a head, by the name of the way."""
    shapes = [(batch, HEADS, length, width) for width in (widths[0], *widths)]
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=gradients) for shape in shapes)
    mask = torch.ones(batch, 1, 1, length, dtype=torch.bool)
    mask[::2, ..., length * 3 // 4 :] = False

    def run(way: str) -> None:
        with torch.set_grad_enabled(gradients):
            out = WAYS[way](q, k, v, mask, scale=widths[0] ** -0.5)
        if gradients:
            out.float().sum().backward()

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


MEASURED: dict[str, Callable[[int, int], Callable[[str], None]]] = {
    "attention, bf16": partial(attention_of, ONE_WIDTH, torch.bfloat16, True),
    "training step, bf16": training_step,
    "attention of two widths, float32": partial(attention_of, TWO_WIDTHS, torch.float32, True),
    "the same without gradients": partial(attention_of, TWO_WIDTHS, torch.float32, False),
}


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
        for what, make in MEASURED.items():
            rows.append(
                {"what": what, "length": length, **compare(make(args.batch, length), "torch", "ours", args.rounds)}
            )
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({**facts, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
