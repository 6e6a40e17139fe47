"""The self-distillation loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def distillation_loss(new: Tensor, old: Tensor | None, labels: Tensor, alpha: float, temperature: float) -> Tensor:
    """Return alpha CE(new, labels) + (1 - alpha) T^2 KL(p_old || p_new), the mean over the batch.

    new, old: logits (B, C); labels (B,) int64. The probabilities are softmax(logits / T); T^2 keeps the gradient's size
    (Hinton et al. 2015), and T = 1 is the RMT-KD paper's loss. `old` None (or alpha 1) is plain cross-entropy.
    """
    loss = F.cross_entropy(new.float(), labels)
    if old is None or alpha >= 1.0:
        return loss
    p_new = F.log_softmax(new.float() / temperature, dim=-1)
    p_old = F.log_softmax(old.float() / temperature, dim=-1)
    divergence = F.kl_div(p_new, p_old, log_target=True, reduction="batchmean")
    return alpha * loss + (1.0 - alpha) * temperature**2 * divergence
