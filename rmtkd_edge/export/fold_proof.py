"""The proof that the folded model is the projected one: same logits in float64 and in float32, site by site if not."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError, Finding
from rmtkd_edge.families import ops
from rmtkd_edge.families.ops import Model, fold

FLOAT64_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 1e-4
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class FoldProof:
    """Largest difference of any logit, relative to the largest logit, between projected and folded model."""

    float64: float
    float32: float
    rows: int
    float64_tolerance: float = FLOAT64_TOLERANCE
    float32_tolerance: float = FLOAT32_TOLERANCE

    @property
    def holds(self) -> bool:
        """Return whether both differences are within their tolerance (NaN is not)."""
        return self.float64 <= self.float64_tolerance and self.float32 <= self.float32_tolerance


@dataclass(frozen=True)
class SiteDifference:
    """What a tap saw: largest difference at one place, relative to the largest value there."""

    tap: str
    site: str
    relative: float


@torch.no_grad()
def fold_with_proof(encoder: Model, batches: Iterable[Batch]) -> tuple[Model, FoldProof]:
    """Fold the projections of `encoder` and prove it on held-out batches of int64 (B, T) inputs.

    Returns the folded encoder (float32, eval) and the proof. Raises Finding whose table names, in the order of
    computation, every site and its difference, when a tolerance is exceeded; DataError without a batch.
    """
    return check_fold(encoder, fold(encoder.eval()).eval(), batches)


@torch.no_grad()
def check_fold(projected: Model, folded: Model, batches: Iterable[Batch]) -> tuple[Model, FoldProof]:
    """Return `folded` and the proof that it computes what `projected` does; see `fold_with_proof`.

    The float64 pair is folded in float64, so that it tests the algebra; the float32 pair tests what ships.
    """
    held = list(batches)
    if not held:
        raise DataError("there are no held-out rows to prove the fold on", "set export.verify_rows to 1 or more")
    exact = copy.deepcopy(projected).double()
    exact_folded = fold(exact)
    proof = FoldProof(
        float64=_largest(exact, exact_folded, held),
        float32=_largest(projected, folded, held),
        rows=sum(len(batch[projected.inputs[0]]) for batch in held),
    )
    if not proof.holds:
        wide = not proof.float64 <= FLOAT64_TOLERANCE
        pair: tuple[Any, Any] = (exact, exact_folded) if wide else (projected, folded)
        worst = max(held, key=lambda batch: _rank(_largest(*pair, [batch])))
        raise _finding(proof, compare_taps(*pair, worst), FLOAT64_TOLERANCE if wide else FLOAT32_TOLERANCE)
    return folded, proof


@torch.no_grad()
def prove_same(folded: Model, shipped: Model, batches: Iterable[Batch]) -> float:
    """Return the largest relative difference of two encoders' logits; raise Finding beyond the float32 tolerance."""
    difference = _largest(folded, shipped, list(batches))
    if not difference <= FLOAT32_TOLERANCE:
        raise Finding(
            f"moving the attention scale into the queries changed the logits by {difference:.1e}",
            "report this as a bug, with the run's recipe.toml",
        )
    return difference


def _rank(difference: float) -> float:
    return float("inf") if difference != difference else difference


def run_torch(encoder: Model, batch: Batch, taps: dict[str, Tensor] | None = None) -> Tensor:
    """Return the logits (B, C) of a batch; `taps` is filled with every site's activations."""
    kind = next(encoder.parameters()).dtype
    cast = {name: value.to(kind) if value.is_floating_point() else value for name, value in batch.items()}
    return ops.logits(encoder, cast, encoder.inputs, None if taps is None else taps.__setitem__)


def relative_difference(found: Tensor, reference: Tensor) -> float:
    """Return max |found - reference| / max |reference|; NaN where either is not finite."""
    scale = reference.abs().max().clamp_min(torch.finfo(reference.dtype).tiny)
    return float((found - reference).abs().max() / scale)


def site_of(tap: str) -> str:
    """Return the site whose producers make what a tap saw."""
    if tap.startswith("stream") or tap.endswith((".mid", ".sum")):
        return "stream"
    return tap[:-1] + "qk" if tap.endswith((".q", ".k")) else tap


@torch.no_grad()
def compare_taps(reference: Model, other: Model, batch: Batch) -> list[SiteDifference]:
    """Return the difference at every tap, in the order of computation, valid tokens only; the logits come last."""
    a: dict[str, Tensor] = {}
    b: dict[str, Tensor] = {}
    a["logits"], b["logits"] = run_torch(reference, batch, a), run_torch(other, batch, b)
    valid = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones(1, 1, dtype=torch.bool)
    same = [tap for tap in a if a[tap].shape == b[tap].shape]  # words are wide in front of the stream's projection
    return [SiteDifference(tap, site_of(tap), relative_difference(*_valid(b[tap], a[tap], valid))) for tap in same]


def difference_table(differences: Iterable[SiteDifference], tolerance: float) -> list[list[str]]:
    """Return the rows of a Finding: place, site, difference, and which one differs first."""
    rows, first = [["place", "site", "relative difference", ""]], True
    for item in differences:
        beyond = not item.relative <= tolerance
        rows.append(
            [item.tap, item.site, f"{item.relative:.2e}", ("FIRST" if first else "differs") if beyond else "ok"]
        )
        first = first and not beyond
    return rows


def first_site(differences: Iterable[SiteDifference], tolerance: float) -> str:
    """Return the first place beyond the tolerance and its site."""
    for item in differences:
        if not item.relative <= tolerance:
            return f"`{item.site}` (at {item.tap})"
    return "none that a tap sees: the head or the classifier"


def _largest(a: Model, b: Model, batches: list[Batch]) -> float:
    difference, scale = 0.0, 0.0
    for batch in batches:
        reference, found = run_torch(a, batch), run_torch(b, batch)
        step = float((reference - found).abs().max())
        difference = step if step != step else max(difference, step)
        if difference != difference:
            return difference
        scale = max(scale, float(reference.abs().max()))
    return difference / max(scale, torch.finfo(torch.float32).tiny)


def _valid(found: Tensor, reference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return (found[mask], reference[mask]) if found.ndim == 3 else (found, reference)


def _finding(proof: FoldProof, differences: list[SiteDifference], tolerance: float) -> Finding:
    return Finding(
        f"the folded model differs from the projected one: {proof.float64:.1e} in float64 (allowed "
        f"{FLOAT64_TOLERANCE:.0e}), {proof.float32:.1e} in float32 (allowed {FLOAT32_TOLERANCE:.0e}); "
        f"the first site that differs is {first_site(differences, tolerance)}",
        "the checkpoint of that site was altered or trained with another projection: compress again with --force",
        difference_table(differences, tolerance),
    )
