"""Convolutions and batch norms that families of images are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmtkd_edge.families.base import M, ranks_from
from rmtkd_edge.spectral.moments import reduced

MOMENTUM = 0.1  # torch's default


class ProjectedConv(nn.Module):
    """A convolution without bias and, where its output site was cut, a fixed projection P (k x d) after it."""

    projection: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, raw: int | None = None, groups: int = 1
    ) -> None:
        super().__init__()
        wide = outputs if raw is None else raw
        self.stride, self.padding, self.groups = stride, kernel // 2, groups
        self.weight = nn.Parameter(torch.empty(wide, inputs // groups, kernel, kernel))
        self.register_buffer("projection", None if raw is None else torch.empty(outputs, wide))

    def folded(self) -> Tensor:
        """Return the weight (k, in / groups, h, w) of the one narrow convolution that this one equals."""
        if self.projection is None:
            return self.weight
        # contiguous, as einsum's result is not: torch 2.14's CPU convolutions corrupt the heap in backward otherwise
        return (self.projection @ self.weight.flatten(1)).reshape(-1, *self.weight.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, k, H', W'); P W is formed first, which costs less than projecting every pixel."""
        return F.conv2d(x, self.folded(), stride=self.stride, padding=self.padding, groups=self.groups)


class BatchNorm(nn.Module):
    """Batch norm without torch's integer counter of batches, so that a state holds one dtype."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by the batch's moments in training (kept with momentum 0.1), else by the kept ones."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, MOMENTUM, self.eps
        )


class ConvNorm(nn.Module):
    """A convolution and the batch norm after it; `expand`, where there is one, is a 1 x 1 convolution between them."""

    def __init__(self, conv: ProjectedConv, width: int, eps: float, expand: ProjectedConv | None = None) -> None:
        super().__init__()
        self.conv, self.expand, self.norm = conv, expand, BatchNorm(width, eps)

    @property
    def last(self) -> ProjectedConv:
        """Return the convolution before the norm."""
        return self.conv if self.expand is None else self.expand

    def linear(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, k, H', W') without the norm."""
        return self.conv(x) if self.expand is None else self.expand(self.conv(x))

    def whole(self) -> Tensor:
        """Return the weight (k, in / groups, h, w) of the one convolution that `linear` equals."""
        weight = self.conv.folded()
        return weight if self.expand is None else torch.einsum("ok,kihw->oihw", self.expand.folded()[..., 0, 0], weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, k, H', W'), normalised."""
        return self.norm(self.linear(x))


class FusedConv(nn.Module):
    """A convolution, or two, with the batch norm folded into weight and bias (exact in inference)."""

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        weight, bias = norm_folded(layer.last.folded(), layer.norm)
        self.stride, self.padding, self.groups = layer.conv.stride, layer.conv.padding, layer.conv.groups
        self.first = None if layer.expand is None else nn.Parameter(layer.conv.folded().detach())
        self.weight, self.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, k, H', W')."""
        if self.first is None:
            return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding, groups=self.groups)
        return F.conv2d(F.conv2d(x, self.first, stride=self.stride, padding=self.padding), self.weight, self.bias)


def norm_folded(weight: Tensor, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals one of `weight` (k, ...) and the norm after it."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def projected_weight(weight: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
    """Return P W P'^T of a weight W (d, in, h, w) and the projections after and before it; None leaves a side alone."""
    if before is not None:
        weight = torch.einsum("dihw,ki->dkhw", weight, before.to(weight))
    return weight if after is None else torch.einsum("kd,dihw->kihw", after.to(weight), weight)


def narrow_like(net: M, projections: Mapping[str, Tensor]) -> M:
    """Return an untrained folded net of the ranks that projections leave, on the device of `net`."""
    spec = net.spec.with_projections({}).with_ranks(ranks_from(net.spec, projections))
    kind: Callable[[Any], M] = type(net)
    return kind(spec).to(next(net.parameters()))


@torch.no_grad()
def project_norm(norm: BatchNorm, own: BatchNorm, p: Tensor | None) -> None:
    """Set `own` to the norm after a projection P (k x d): to what the diagonal of P . P^T leaves of it."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, name)
        if p is not None:
            value = (p.to(value) ** 2) @ value if name in ("weight", "running_var") else p.to(value) @ value
        getattr(own, name).copy_(value)


@torch.no_grad()
def set_norm(norm: BatchNorm, bias: Tensor, outputs: Iterable[Tensor]) -> None:
    """Give a norm the moments of its inputs, and the scale and shift that leave them as they are but for `bias`.

    Args:
        outputs: of the convolution before it, (B, k, H, W) each.
        bias: (k,), added to them.
    """
    sums = torch.zeros(2, len(bias), dtype=torch.float64)
    count = 0.0
    for out in outputs:
        wide = out.double()
        sums += torch.stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))]).cpu()
        count += wide.numel() / wide.shape[1]
    count, (sums,) = reduced(count, [sums])
    mean = sums[0] / count
    variance = (sums[1] / count - mean**2).clamp_min(0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean + bias.cpu())
