"""The search: one change at a time, then the best of them together, measured again before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from rmtkd_edge.profile.measuring.plan_schema import GRAPH_LEVELS
from rmtkd_edge.profile.ratios import Rounds, ratio_of_medians
from rmtkd_edge.run.records.tuning import SessionRecord, TrialRecord

OWN = "profile"  # the trial of the profile's settings
TOGETHER = " + "


@dataclass(frozen=True)
class Measured:
    """Latencies in ms by round, and the verdict on them."""

    rounds_ms: Rounds
    verdict: str


Measure = Callable[[Mapping[str, SessionRecord]], Mapping[str, Measured]]  # trials by name take turns
Changes = Mapping[str, tuple[str, Any]]  # by name: the setting and its value


def changes_of(own: SessionRecord, cores: int | None, bound: bool) -> Changes:
    """Return what is tried, one change at a time.

    Args:
        cores: of the device; None where they are not known, or the threads are given: these are not tried then.
        bound: inputs and outputs are bound in any case, as on accelerators.
    """
    counts = () if cores is None else sorted({cores, *(2**i for i in range(cores.bit_length()))})
    found: dict[str, tuple[str, Any]] = {f"threads {n}": ("threads", n) for n in counts if n != own.threads}
    found["no spinning" if own.spinning else "spinning"] = ("spinning", not own.spinning)
    found |= {f"graph {level}": ("graph_level", level) for level in GRAPH_LEVELS if level != own.graph_level}
    found["no arena" if own.arena else "arena"] = ("arena", not own.arena)
    found["no memory pattern" if own.memory_pattern else "memory pattern"] = ("memory_pattern", not own.memory_pattern)
    if not bound:
        found["no IO binding" if own.io_binding else "IO binding"] = ("io_binding", not own.io_binding)
    return found


def search(
    own: SessionRecord, changes: Changes, measure: Measure, seed: int
) -> tuple[list[TrialRecord], TrialRecord | None]:
    """Return all trials, and the one to keep: None where nothing is clearly faster than the profile's own settings.

    What is clearly faster in the first measurement is measured a second time, the best alone and all together, since
    among many trials some look faster by chance.
    """
    sessions = {name: replace(own, **{setting: value}) for name, (setting, value) in changes.items()}
    trials = _trials(own, sessions, measure, False, seed)
    best: dict[str, TrialRecord] = {}  # by setting
    for trial in sorted((trial for trial in trials if trial.faster), key=_ratio):
        best.setdefault(changes[trial.name][0], trial)
    if not best:
        return trials, None
    first, *others = best.values()
    finalists = {first.name: first.session}
    if others:
        names = [trial.name for trial in best.values()]
        finalists[TOGETHER.join(names)] = replace(own, **dict(changes[name] for name in names))
    confirmed = _trials(own, finalists, measure, True, seed)
    kept = min((trial for trial in confirmed if trial.faster), key=_ratio, default=None)
    return [*trials, *confirmed], kept


def _trials(
    own: SessionRecord, sessions: Mapping[str, SessionRecord], measure: Measure, confirms: bool, seed: int
) -> list[TrialRecord]:
    every = {OWN: own, **sessions}
    measured = measure(every)
    return [_judged(name, session, measured, confirms, seed) for name, session in every.items()]


def _judged(
    name: str, session: SessionRecord, measured: Mapping[str, Measured], confirms: bool, seed: int
) -> TrialRecord:
    rounds = measured[name].rounds_ms
    ratio, ends = (None, None) if name == OWN else ratio_of_medians(rounds, measured[OWN].rounds_ms, seed)
    return TrialRecord(
        name=name,
        confirms=confirms,
        session=session,
        p50_ms=median(ms for taken in rounds for ms in taken),
        rounds_ms=tuple(map(tuple, rounds)),
        ratio=ratio,
        ci95=ends,
        verdict=measured[name].verdict,
    )


def _ratio(trial: TrialRecord) -> float:
    assert trial.ratio is not None, "only the profile's own settings have none"
    return trial.ratio
