"""Attention of the torch models: one answer in every precision, with gradients and without."""

from __future__ import annotations

import pytest
import torch

from rmtkd_edge.families.attention import attend

MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])[:, None, None, :]
MASKS = {"none": None, "bool": MASK, "added": torch.zeros(2, 1, 5, 5).masked_fill(~MASK, -1e4)}


def parts(dtype: torch.dtype, widths: tuple[int, int] = (4, 6)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 5, width) for width in (widths[0], *widths)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    scores = 0.5 * q @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("widths", [(4, 4), (4, 6), (6, 4), (2, 8)])  # of queries and keys, of values
def test_attention_and_its_gradients(mask, dtype, bound, autocast, widths):
    ours = parts(dtype, widths)
    exact = [x.detach().double().requires_grad_() for x in ours]
    allowed = MASKS[mask]
    if allowed is not None and allowed.dtype != torch.bool:
        allowed = allowed.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast and dtype == torch.bfloat16):
        out = attend(*ours, allowed, scale=0.5)
    wanted = plain(*exact, None if MASKS[mask] is None else MASKS[mask])
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), wanted, rtol=bound, atol=bound)
    out.float().square().sum().backward()
    wanted.square().sum().backward()
    for found, right in zip(ours, exact, strict=True):
        torch.testing.assert_close(found.grad.double(), right.grad, rtol=3 * bound, atol=3 * bound)
    with torch.no_grad():
        torch.testing.assert_close(attend(*ours, allowed, scale=0.5).double(), wanted, rtol=bound, atol=bound)


@pytest.mark.parametrize("gradients", [False, True])
def test_values_of_another_width_than_queries_take_the_fused_kernel(gradients):
    with torch.set_grad_enabled(gradients), torch.profiler.profile() as seen:
        attend(*parts(torch.float32, (4, 6)), MASK, scale=0.5)
    assert any("flash" in event.key for event in seen.key_averages())
