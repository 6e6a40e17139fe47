"""Whether a measurement can be believed: contended, throttled, hot, swapped, too few samples."""

from __future__ import annotations

from .basics import Json

CPU_WALL_LEAST, STEAL_PCT_MOST, SPARE_CORES, WAITED_PCT_MOST = 0.9, 2.0, 0.25, 10.0  # beyond these: `contended`
FEWEST_SAMPLES, FAULTS_MOST, NEAR_TRIP_C = 30, 0, 5.0  # calls; major page faults; degrees below a passive trip point
ON_CPU = ("CPUExecutionProvider", "WasmExecutionProvider")  # what keeps a processor busy while it runs


def quality(blocks: list[Json], plan: Json, cpus: int) -> Json:
    """Return how far the figures can be believed: `verdict`, and `reasons` that say why.

    Verdicts, worst first: throttled, swapped, hot, contended, few (too few samples), unknown (nothing says what the
    processor did), clean; `emulated` stands alone. cpu_wall_ratio: CPU seconds of what ran the model per second.
    others_cores: processors that others kept busy.
    """
    wall, cpu = sum(b["wall_ns"] for b in blocks) / 1e9, cpu_seconds(blocks)
    total, busy, steal, quota, events, waited, faults = (
        _grown(blocks, k)
        for k in ("ticks_total", "ticks_busy", "ticks_steal", "quota", "throttle", "waited_ns", "faults")
    )
    waited_pct = None if waited is None or not cpu else max(0.0, waited / 1e7 / cpu)
    steal_pct = None if not total or steal is None else 100.0 * steal / total
    others = None if not total or busy is None or cpu is None else max(0.0, busy * cpus / total - cpu / wall)
    capped, swap, below = (_states(blocks, key) for key in ("capped", "swap_bytes", "below_trip_c"))
    throttled = None if events is None and not capped else bool(events) or any(capped)
    held = bool((plan.get("limits") or {}).get("cpu_quota"))  # the profile itself takes processor time away
    contended = []
    if plan["provider"] in ON_CPU and cpu is not None and cpu / wall < CPU_WALL_LEAST and not held:
        contended.append(f"the process got {cpu / wall:.2f} CPU seconds a second")
    if waited_pct is not None and waited_pct > WAITED_PCT_MOST and not held:
        contended.append(f"its threads waited for a processor {waited_pct:.0f} % as long as they ran")
    if steal_pct is not None and steal_pct > STEAL_PCT_MOST:
        contended.append(f"{steal_pct:.1f} % of the time was stolen by the hypervisor")
    if quota and not held:
        contended.append(f"the cgroup's quota stopped it {quota} times")
    if others is not None and others + plan["threads"] > cpus + SPARE_CORES:
        contended.append(f"others kept {others:.1f} of {cpus} processors busy")
    swapped = [f"{max(swap) / 1e6:.0f} MB of the process lay in swap"] if any(swap) else []
    if faults is not None and faults > FAULTS_MOST:
        swapped.append(f"{faults} pages came from a disk while it was timed")
    near = min(below, default=NEAR_TRIP_C)
    samples = sum(len(b["ns"]) for b in blocks)
    reasons = {
        "throttled": ["heat or supply capped the clock"] if throttled else [],
        "swapped": swapped,
        "hot": [f"a sensor came within {near:.1f} degrees of where the clock is capped"] if near < NEAR_TRIP_C else [],
        "contended": contended,
        "few": [f"{samples} calls are few; {FEWEST_SAMPLES} are needed"] if samples < FEWEST_SAMPLES else [],
        "unknown": ["the processor time of what ran the model cannot be read"] if cpu is None else [],
    }
    if plan.get("emulated"):
        reasons = {"emulated": ["another processor is emulated: its times and its energy mean nothing"]}
    verdict = next((name for name, found in reasons.items() if found), "clean")
    ratio = None if cpu is None else cpu / wall
    out: Json = {"verdict": verdict, "cpu_wall_ratio": ratio, "steal_pct": steal_pct, "others_cores": others}
    out.update(throttled=throttled, quota_stops=quota, waited_pct=waited_pct, major_faults=faults)
    out.update(swap_bytes=max(swap, default=None), below_trip_c=min(below, default=None))
    out["reasons"] = [reason for found in reasons.values() for reason in found]
    out["unread"] = [key for key, value in out.items() if value is None]
    return out


def _states(blocks: list[Json], key: str) -> list:
    """Return what was read of a state at the ends of all blocks; unreadable ones are left out."""
    return [b["machine"][i][key] for b in blocks for i in (0, 1) if b["machine"][i].get(key) is not None]


def cpu_seconds(blocks: list[Json]) -> float | None:
    """Return the processor time of what ran the model, None where a block has none."""
    spent = [b["cpu_ns"] for b in blocks]
    return None if None in spent else sum(spent) / 1e9


def _grown(blocks: list[Json], key: str) -> int | None:
    ends = [(b["machine"][0].get(key), b["machine"][1].get(key)) for b in blocks]
    return None if any(v is None for pair in ends for v in pair) else sum(after - before for before, after in ends)
