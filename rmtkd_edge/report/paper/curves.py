"""Runs that differ in the edge rule and its quantile alone: what goes, and what is left of the quality (Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from rmtkd_edge.config.recipe import WITHOUT_QUANTILE
from rmtkd_edge.report.paper.entries import Entry
from rmtkd_edge.report.paper.groups import group_key
from rmtkd_edge.report.paper.record import CurvePoint, CurveRecord

AXES = ("analyse.rule", "analyse.quantile")
LEAST = 2  # quantiles of one rule that make a curve


@dataclass(frozen=True)
class Ablation:
    """One task and teacher with a curve for every rule; `left_out` are runs whose quantile was not the recipe's."""

    first: Entry
    curves: tuple[CurveRecord, ...]
    drawn: tuple[str, ...]
    left_out: tuple[str, ...]


def ablations_of(entries: Sequence[Entry]) -> list[Ablation]:
    """Return what the quantile does, for runs that share everything but rule, quantile and seed."""
    found: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        rest = tuple(sorted((key, value) for key, value in entry.settings.items() if key not in AXES))
        found.setdefault((*group_key(entry), entry.method, rest), []).append(entry)
    drawn = (_ablation(runs) for runs in found.values())
    return [ablation for ablation in drawn if any(len(curve.points) >= LEAST for curve in ablation.curves)]


def _ablation(entries: Sequence[Entry]) -> Ablation:
    used = [entry for entry in entries if _as_asked(entry)]
    curves = (_curve([entry for entry in used if entry.rule == rule]) for rule in sorted({e.rule for e in used}))
    drawn = tuple(entry.run for entry in used)
    return Ablation(entries[0], tuple(curves), drawn, tuple(e.run for e in entries if e.run not in drawn))


def has_quantile(entry: Entry) -> bool:
    """Return whether the rule starts from a quantile."""
    return entry.rule not in WITHOUT_QUANTILE


def _as_asked(entry: Entry) -> bool:
    """Return whether every cycle was cut at the recipe's quantile: no target lowered it, none was rolled back."""
    cycles, free = entry.cycles, not has_quantile(entry)
    at = all(cycle.accepted and (free or cycle.quantile == entry.quantile) for cycle in cycles)
    return at and any(cycle.analysed for cycle in cycles)


def _curve(entries: Sequence[Entry]) -> CurveRecord:
    found: dict[float | None, dict[int, Entry]] = {}
    for entry in entries:
        found.setdefault(entry.quantile if has_quantile(entry) else None, {}).setdefault(entry.seed, entry)
    points = []
    for quantile, seeds in sorted(found.items(), key=lambda item: item[0] or 0.0):
        reduction = fmean(entry.member.reduction for entry in seeds.values())
        points.append(CurvePoint(quantile, reduction, fmean(e.student.value for e in seeds.values()), len(seeds)))
    falls = [after.quantile for before, after in pairwise(points) if after.reduction < before.reduction]
    known = tuple(quantile for quantile in falls if quantile is not None)
    return CurveRecord(entries[0].record.task.name, entries[0].rule, tuple(points), known)


def fall_sentence(curve: CurveRecord) -> str:
    """Return whether less goes at a higher quantile somewhere, in words."""
    if curve.points[0].quantile is None:
        return f"Rule {curve.rule}: no quantile."
    if len(curve.points) < LEAST:
        return f"Rule {curve.rule}: one quantile alone."
    if not curve.falls:
        return f"Rule {curve.rule}: monotone here, at every higher quantile as much goes or more."
    at = ", ".join(f"{quantile:g}" for quantile in curve.falls)
    return f"Rule {curve.rule}: not monotone, less goes at {at} than at the quantile before."
