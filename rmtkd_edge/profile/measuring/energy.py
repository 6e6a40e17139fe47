"""Joules: the first meter that opens, idle power, and what an inference takes."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path
from typing import Any

from .basics import HOME, Json, RunnerError, sibling

# an energy figure needs a window this long, and each block this many meter periods
WINDOW_S, WINDOW_PERIODS = 10.0, 100
FEWEST_ROUNDS = 5  # of interleaving, however slow the meter


def open_meter(plan: Json, folder: Path = HOME) -> tuple[Any, Json]:
    """Return the first meter of the plan that opens (or None) and its facts; `skipped` says why others did not.

    folder: the bundle, which may bring meters of third parties. With `meter_required` a meter that is absent is a
    RunnerError that names two ways out.
    """
    skipped: list[str] = []
    options = {**plan.get("meter_options", {}), "provider": plan["provider"]}
    for name in plan["meters"]:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
            raise RunnerError("plan", f"{name!r} is no name of a meter")
        module = find_meter(name, folder)
        if module is None:
            why, ways = f"no meters/{name}.py next to the runner", ["take a meter that is there", "--meter auto"]
        else:
            base = sibling("meters.base")
            try:
                return _opened(module.open_meter(options), skipped)
            except base.MeterAbsent as err:
                why, ways = err.why, list(err.ways_out)
        if plan.get("meter_required"):
            raise RunnerError("meter", f"the meter {name} cannot be read: {why}. Either {ways[0]}; or {ways[1]}")
        skipped.append(f"{name}: {why}")
    return None, {"name": "none", "kind": "unavailable", "scope": "nothing", "needs_window": False, "skipped": skipped}


def find_meter(name: str, folder: Path) -> Any:
    """Return the module of a meter: of this package or bundle, or one that only `folder` has; None without it."""
    places = [place for place in (HOME, folder) if (place / "meters" / f"{name}.py").is_file()]
    if not places:
        return None
    if places[0] != HOME:
        sibling("meters").__path__.append(str(folder / "meters"))
    return sibling(f"meters.{name}")


def _opened(meter: Any, skipped: list[str]) -> tuple[Any, Json]:
    facts = {"name": meter.name, "kind": meter.provenance, "scope": meter.scope, "period_s": meter.period_s}
    facts.update(needs_window=meter.needs_window, idle_watts=meter.idle_watts, gross_why=meter.gross_why)
    return meter, {**facts, "skipped": skipped}


def read_meter(meter: Any) -> Json:
    """Return {name: [joules or None, why]}: the meter first, then its cross-checks."""
    return {} if meter is None else {r.meter: [r.joules, r.why] for r in [meter.read(), *meter.also()]}


def spent(before: list | None, after: list) -> list:
    """Return [joules between two readings of a meter or None, why]."""
    if before is None or before[0] is None or after[0] is None:
        return [None, after[1] or (before or [None, "the meter gave no reading"])[1]]
    return [after[0] - before[0], ""]


def idle_watts(meter: Any, facts: Json, seconds: float) -> float | None:
    """Return the power of doing nothing for `seconds`, None where the meter has none or needs none."""
    if meter is None or not facts["needs_window"] or seconds <= 0:
        return None
    before, begin = meter.read(), time.perf_counter()
    time.sleep(seconds)
    after, end = meter.read(), time.perf_counter()
    return None if before.joules is None or after.joules is None else (after.joules - before.joules) / (end - begin)


def suited_to(plan: Json, facts: Json) -> Json:
    """Return the plan with blocks as long as the meter's period needs them: fewer rounds first, then more seconds.

    The idle power is watched as long as one block, or there would be no net figure.
    """
    if not facts["needs_window"] or not facts["period_s"]:
        return plan
    block = WINDOW_PERIODS * facts["period_s"]
    rounds = min(plan["rounds"], max(FEWEST_ROUNDS, int(plan["min_duration_s"] // block)))
    idle = plan.get("idle_s", 0.0)  # 0: not asked for
    seconds = max(plan["min_duration_s"], rounds * block, WINDOW_S)
    return {**plan, "rounds": rounds, "min_duration_s": seconds, "idle_s": max(idle, block) if idle > 0 else idle}


def energy(blocks: list[Json], facts: Json, idle: list[float | None], idle_s: float, batch: int = 1) -> Json:
    """Return joules per inference (one row of a batch), gross and net, or None and why.

    gross: all that the meter counted; net: minus the idle power x the window. Sums run over the blocks of one model.
    """
    n, window = sum(len(b["ns"]) for b in blocks) * batch, sum(b["wall_ns"] for b in blocks) / 1e9
    out: Json = {"j_per_inf_gross": None, "j_per_inf_net": None, "idle_w": None, "window_s": window}
    out.update(meter=facts["name"], kind=facts["kind"], scope=facts["scope"], skipped=facts["skipped"] or None)
    why = _withheld(blocks, facts, window)
    if why:
        return {**out, "kind": "unavailable", "why": why}
    parts = {name: [b["joules"].get(name, [None])[0] for b in blocks] for name in blocks[0]["joules"]}
    joules = sum(parts[facts["name"]])
    sums = {name: None if None in values else sum(values) for name, values in parts.items()}
    others = {name: None if value is None else value / n for name, value in sums.items() if name != facts["name"]}
    out["other_meters"] = others or None
    if facts["gross_why"]:
        return {**out, "j_per_inf_net": joules / n, "j_per_inf_gross_why": facts["gross_why"]}
    out["j_per_inf_gross"] = joules / n
    known = [w for w in idle if w is not None]
    out["idle_w"] = (
        facts["idle_watts"] if facts["idle_watts"] is not None else statistics.fmean(known) if known else None
    )
    if out["idle_w"] is None or (facts["needs_window"] and idle_s < WINDOW_PERIODS * facts["period_s"]):
        return {**out, "j_per_inf_net_why": f"the idle window of {idle_s:g} s is too short for {facts['name']}"}
    net = (joules - out["idle_w"] * window) / n
    if net <= 0:
        return {**out, "j_per_inf_net_why": "idle took as much as the run: nothing is left to attribute"}
    return {**out, "j_per_inf_net": net}


def _withheld(blocks: list[Json], facts: Json, window: float) -> str:
    if facts["kind"] == "unavailable":
        return "; ".join(facts["skipped"]) or "no energy meter can be read on this machine"
    readings = [b["joules"].get(facts["name"], [None, "the meter changed"]) for b in blocks]
    broken = [why for joules, why in readings if joules is None]
    if broken:
        return broken[0]
    if facts["needs_window"]:
        least = max(WINDOW_S, WINDOW_PERIODS * facts["period_s"] * len(blocks))
        if window < least:
            return f"withheld: {facts['name']} needs a window of {least:.0f} s, it was {window:.1f} s; measure longer"
        if sum(joules for joules, _ in readings) <= 0:
            return f"{facts['name']} did not move during {window:.1f} s"
    return ""
