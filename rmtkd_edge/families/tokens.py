"""Kinds of tokens, and how much each counts in the least squares: by its effect on the output, depth by depth.

The first token carries the classification, the more so the deeper; the gradient tells how much. Averaged over the
tokens of a kind (first, other special ones, text) it is known from a few hundred sentences, and needs no backward pass
over the thousands that the fit itself looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rmtkd_edge.families.base import call, family_of
from rmtkd_edge.families.model import Model
from rmtkd_edge.spectral.moments import reduced

Batch = Mapping[str, Tensor]
TEXT, SPECIAL, FIRST = range(3)


@dataclass(frozen=True)
class TokenWeights:
    """Weights (depths, kinds) with mean 1 over the tokens that they were taken from."""

    table: Tensor

    def of(self, batch: Batch) -> list[Tensor]:
        """Return the weights (B, T) of a batch's tokens, for every depth of the stream."""
        kinds = token_kinds(batch)
        return [row.to(kinds.device)[kinds] for row in self.table]


def special_tokens(batch: Batch) -> Tensor:
    """Return where a batch (B, T) has special tokens, bool; a batch that does not say has none."""
    found = batch.get("special_tokens_mask")
    return torch.zeros_like(batch["input_ids"], dtype=torch.bool) if found is None else found.bool()


def token_kinds(batch: Batch) -> Tensor:
    """Return the kind of every token (B, T): text, special, or the first of its sequence."""
    kinds = torch.where(special_tokens(batch), SPECIAL, TEXT)
    kinds[:, 0] = FIRST
    return kinds


def token_weights(
    teacher: Model, batches: Iterable[Batch], blend: float, square: Callable[[Tensor], Tensor] | None = None
) -> TokenWeights | None:
    """Return blend + (1 - blend) |gradient|^2 / its mean, averaged over the tokens of each kind; None for blend 1.

    The gradient is that of the spread of the outputs; before a pooler only the first token has one.

    Args:
        square: the squared size of each token of a state (n, d), where the gradient counts in units of it.
    """
    if blend >= 1.0:
        return None
    teacher.eval()
    names = family_of(teacher).stream_taps(teacher.spec)
    squares, counts = torch.zeros(len(names), 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        taps: dict[str, Tensor] = {}
        with torch.enable_grad():
            outputs = call(teacher, batch, taps.__setitem__)
            if outputs.ndim == 3:  # of tokens: padding has no effect
                outputs = outputs * batch["attention_mask"][..., None]
            spread = (outputs * torch.linspace(-1, 1, outputs.shape[-1], device=outputs.device)).sum()
            grads = torch.autograd.grad(spread, [taps[name] for name in names])
        mask = batch["attention_mask"].bool()
        kinds = token_kinds(batch)[mask].cpu()
        counts += torch.bincount(kinds, minlength=3)
        for depth, (name, grad) in enumerate(zip(names, grads, strict=True)):
            effects = grad[mask].pow(2).sum(-1) * (1.0 if square is None else square(taps[name].detach()[mask]))
            squares[depth].index_add_(0, kinds, effects.double().cpu())
    _, (squares, counts) = reduced(0.0, [squares, counts])
    mean = squares.sum(1, keepdim=True) / counts.sum()
    relative = squares / counts.clamp_min(1) / mean.clamp_min(1e-300)
    return TokenWeights((blend + (1 - blend) * relative).float())
