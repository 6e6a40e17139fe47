"""Attention as models compute it in torch: the fused kernel, but for gradients in half precision on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HALF = (torch.bfloat16, torch.float16)


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, *, scale: float) -> Tensor:
    """Return softmax(scale q k^T + mask) v, head by head, in the dtype of q.

    With gradients in half precision torch's fused kernel for CPUs takes two to six times as long as in float32 (2.14,
    13 to 128 tokens; tools/bench_attention.py): where there are any, attention is computed in float32.

    Args:
        q: (B, heads, Q, r).
        k: (B, heads, T, r).
        v: (B, heads, T, p).
        allowed: bool, true where a key is looked at, or what is added to the scores; of a shape that broadcasts to
            (B, heads, Q, T).
    """
    if q.device.type == "cpu" and q.dtype in HALF and torch.is_grad_enabled():
        mask = allowed if allowed is None or allowed.dtype == torch.bool else allowed.float()
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, scale=scale)
        return out.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
