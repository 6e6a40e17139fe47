"""Attention as models compute it in torch: by the fused kernel, but for gradients in half precision on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

HALF = (torch.bfloat16, torch.float16)
MOST_PADDED = 3  # times as wide: beyond it gradients cost more with padding than without


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, *, scale: float) -> Tensor:
    """Return softmax(scale q k^T + mask) v, head by head, in the dtype of q.

    On a CPU torch's fused kernel (2.14) takes queries and values of one width only, and with gradients in half
    precision two to six times as long as in float32 (tools/bench_attention.py): there the narrower ones are padded with
    zeros, and with such gradients attention is computed in float32.

    Args:
        q: (B, heads, Q, r).
        k: (B, heads, T, r).
        v: (B, heads, T, p).
        allowed: bool, true where a key is looked at, or what is added to the scores; of a shape that broadcasts to
            (B, heads, Q, T).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
    if q.dtype in HALF and torch.is_grad_enabled():
        mask = allowed if allowed is None or allowed.dtype == torch.bool else allowed.float()
        with torch.autocast("cpu", enabled=False):
            return _at_one_width(q.float(), k.float(), v.float(), mask, scale).to(q.dtype)
    return _at_one_width(q, k, v, allowed, scale)


def _at_one_width(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    """Return attention, the narrower of queries and values padded with zeros to one width where that is quicker."""
    narrow, wide = sorted((q.shape[-1], v.shape[-1]))
    if narrow == wide or (torch.is_grad_enabled() and wide > MOST_PADDED * narrow):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)
    q, k, padded = (x if x.shape[-1] == wide else F.pad(x, (0, wide - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, padded, attn_mask=allowed, scale=scale)[..., : v.shape[-1]]
