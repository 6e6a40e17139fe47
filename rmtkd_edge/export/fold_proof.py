"""The proof that the folded model is the projected one: same outputs in float64 and in float32, site by site if not."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rmtkd_edge.errors import DataError, Finding
from rmtkd_edge.families.base import call, family_of
from rmtkd_edge.families.onnx_program import OUTPUT

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

FLOAT64_TOLERANCE = 1e-9
FLOAT32_TOLERANCE = 1e-4

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class FoldProof:
    """Largest difference of any output, relative to the largest output, between projected and folded model."""

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
def fold_with_proof(model: Model, batches: Iterable[Batch]) -> tuple[Model, FoldProof]:
    """Fold the projections of a model and prove it on held-out batches of its inputs.

    Returns:
        The folded model (float32, eval) and the proof.

    Raises:
        Finding: a tolerance is exceeded; its table names every site and its difference, in the order of computation.
        DataError: there is no batch.
    """
    return check_fold(model, family_of(model).fold(model.eval()).eval(), batches)


@torch.no_grad()
def check_fold(projected: Model, folded: Model, batches: Iterable[Batch]) -> tuple[Model, FoldProof]:
    """Return `folded` and the proof that it computes what `projected` does; see `fold_with_proof`.

    The float64 pair is folded in float64, so that it tests the algebra; the float32 pair tests what ships.
    """
    held = list(batches)
    if not held:
        raise DataError("there are no held-out rows to prove the fold on", "set export.verify_rows to 1 or more")
    exact = copy.deepcopy(projected).double()
    exact_folded = family_of(exact).fold(exact)
    proof = FoldProof(
        float64=_largest(exact, exact_folded, held),
        float32=_largest(projected, folded, held),
        rows=sum(rows_of(batch) for batch in held),
    )
    if not proof.holds:
        wide = not proof.float64 <= FLOAT64_TOLERANCE
        a, b = (exact, exact_folded) if wide else (projected, folded)
        worst = max(held, key=lambda batch: _largest(a, b, [batch]))
        raise _finding(proof, compare_taps(a, b, worst), FLOAT64_TOLERANCE if wide else FLOAT32_TOLERANCE)
    return folded, proof


@torch.no_grad()
def prove_same(folded: Model, shipped: Model, batches: Iterable[Batch]) -> float:
    """Return the largest relative difference of two models' outputs; raise Finding beyond the float32 tolerance."""
    difference = _largest(folded, shipped, list(batches))
    if not difference <= FLOAT32_TOLERANCE:
        raise Finding(
            f"the form that other loaders of config.json expect changed the outputs by {difference:.1e}",
            "report this as a bug, with the run's recipe.toml",
        )
    return difference


def run_torch(model: Model, batch: Batch, taps: dict[str, Tensor] | None = None) -> Tensor:
    """Return the outputs of a batch, cast to the model's dtype; `taps` is filled with every site's activations."""
    kind = next(model.parameters()).dtype
    cast = {name: value.to(kind) if value.is_floating_point() else value for name, value in batch.items()}
    return call(model, cast, None if taps is None else taps.__setitem__)


def rows_of(batch: Batch) -> int:
    """Return the number of rows of a batch."""
    return len(next(iter(batch.values())))


def relative_difference(found: Tensor, reference: Tensor) -> float:
    """Return max |found - reference| / max |reference|; infinite where either is not finite."""
    scale = reference.abs().max().clamp_min(torch.finfo(reference.dtype).tiny)
    return _finite(float((found - reference).abs().max() / scale))


@torch.no_grad()
def compare_taps(reference: Model, other: Model, batch: Batch) -> list[SiteDifference]:
    """Return the difference at every tap, in the order of computation, valid tokens only; the outputs come last."""
    a: dict[str, Tensor] = {}
    b: dict[str, Tensor] = {}
    a[OUTPUT], b[OUTPUT] = run_torch(reference, batch, a), run_torch(other, batch, b)
    return site_differences(reference, a, b, batch)


def site_differences(
    model: Model, reference: Mapping[str, Tensor], found: Mapping[str, Tensor], batch: Batch
) -> list[SiteDifference]:
    """Return the difference at every tap of a model that both saw in the same shape, padding left out."""
    family, differences = family_of(model), []
    for tap in (tap for tap in reference if tap in found):
        a, b = family.comparable(reference[tap], found[tap], batch)
        if a.shape == b.shape:  # a producer with its projection yet to come is wider
            site = tap if tap == OUTPUT else family.site_of(tap)
            differences.append(SiteDifference(tap, site, relative_difference(b, a)))
    return differences


def difference_table(differences: Sequence[SiteDifference], tolerance: float) -> list[list[str]]:
    """Return the rows of a Finding: place, site, difference, and which one differs first."""
    rows, first = [["place", "site", "relative difference", ""]], True
    for item in differences:
        beyond = not item.relative <= tolerance
        verdict = ("FIRST" if first else "differs") if beyond else "ok"
        rows.append([item.tap, item.site, f"{item.relative:.2e}", verdict])
        first = first and not beyond
    return rows


def first_site(differences: Sequence[SiteDifference], tolerance: float) -> str:
    """Return the first place beyond the tolerance and its site."""
    for item in differences:
        if not item.relative <= tolerance:
            return f"`{item.site}` (at {item.tap})"
    return "none that a tap sees: the last layers"


def _largest(a: Model, b: Model, batches: Sequence[Batch]) -> float:
    difference, scale = 0.0, 0.0
    for batch in batches:
        reference, found = run_torch(a, batch), run_torch(b, batch)
        difference = max(difference, _finite(float((reference - found).abs().max())))
        scale = max(scale, float(reference.abs().max()))
    return difference if math.isinf(difference) else difference / max(scale, torch.finfo(torch.float32).tiny)


def _finite(difference: float) -> float:
    return math.inf if math.isnan(difference) else difference


def _finding(proof: FoldProof, differences: Sequence[SiteDifference], tolerance: float) -> Finding:
    return Finding(
        f"the folded model differs from the projected one: {proof.float64:.1e} in float64 (allowed "
        f"{FLOAT64_TOLERANCE:.0e}), {proof.float32:.1e} in float32 (allowed {FLOAT32_TOLERANCE:.0e}); "
        f"the first site that differs is {first_site(differences, tolerance)}",
        "the checkpoint of that site was altered or trained with another projection: compress again with --force",
        difference_table(differences, tolerance),
    )
