"""How much each position in the sequence counts in the least squares: by its effect on the output, depth by depth.

The class token carries the classification, the more so the deeper, and patches in the middle of an image mostly more
than those at its edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from rmtkd_edge.families.base import call
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.spectral.moments import reduced


def position_weights(model: VisionTransformer, batches: Iterable[Mapping[str, Tensor]], blend: float) -> Tensor:
    """Return blend + (1 - blend) |gradient|^2 / its mean (depths, positions), averaged over images.

    The gradient is that of the spread of the outputs, at every state of the stream.
    """
    depths, spec = len(model.layers) + 1, model.spec
    if blend >= 1.0:
        return torch.ones(depths, spec.positions)
    model.eval()
    squares = torch.zeros(depths, spec.positions, dtype=torch.float64)
    for batch in batches:
        taps: dict[str, Tensor] = {}
        with torch.enable_grad():
            outputs = call(model, batch, taps.__setitem__)
            spread = (outputs * torch.linspace(-1, 1, outputs.shape[-1], device=outputs.device)).sum()
            grads = torch.autograd.grad(spread, [taps[f"stream.{i}"] for i in range(depths)])
        squares += torch.stack([grad.square().sum(-1).double().sum(0) for grad in grads]).cpu()
    _, (squares,) = reduced(0.0, [squares])
    relative = squares / squares.mean(1, keepdim=True).clamp_min(1e-300)
    return (blend + (1 - blend) * relative).float()
