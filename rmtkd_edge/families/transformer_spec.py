"""What the specs of several families of transformers have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LayerSpec:
    """One transformer layer: `qk` and `value` are widths of a head, `scale` multiplies the attention scores."""

    heads: int
    qk: int
    value: int
    ffn: int
    scale: float


def pad_rows(inputs: dict[str, np.ndarray], pad_id: int) -> dict[str, np.ndarray]:
    """Return inputs whose rows are shorter from one to the next, the last one with half of the tokens; in place."""
    batch, sequence = inputs["input_ids"].shape
    for row in range(batch):
        end = sequence - row * sequence // (2 * max(1, batch - 1))
        inputs["input_ids"][row, end:], inputs["attention_mask"][row, end:] = pad_id, 0
    return inputs
