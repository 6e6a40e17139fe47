"""The one sentence and the key figures at the top, computed from the run and never saying more than it holds."""

from __future__ import annotations

import textwrap

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import NoteBlock, Tile, missing
from rmtkd_edge.report.records import Compression, Exported, Missing, Profile, RunFacts
from rmtkd_edge.report.summary import BASELINE, Model, accuracy_of, gain_of, headline_load, interval_of, models, size_of


def best(run: RunFacts) -> Model | None:
    """Return the variant that ships: int8 unless it was refused, not made or slower than fp32; None before export."""
    mine = {m.label: m for m in models(run)}
    for label in ("rmt-kd int8", "rmt-kd fp32"):
        variant = mine[label].variant
        slower = label.endswith("int8") and any(map(_int8_is_slower, run.profiles))
        if variant is not None and not variant.refused and not slower:
            return mine[label]
    return None


def _int8_is_slower(profile: Profile) -> bool:
    """Return whether the int8 file clearly takes longer than the fp32 one on a device."""
    pairs = [c for c in profile.comparisons if (c.candidate, c.baseline) == ("rmt-kd int8", "rmt-kd fp32")]
    return any(c.metric == "latency_ms" and c.low is not None and c.low > 1 for c in pairs)


def verdict(run: RunFacts) -> str:
    """Return what was gained and what it cost, in one sentence."""
    c = run.compression
    if isinstance(c, Missing):
        return f"There is nothing to judge yet: {c.why}."
    first = _reduction(c)
    chosen = best(run)
    if chosen is None:
        state = "" if c.finished else ", and compress has not finished"
        return f"{first}; {_accuracy_in_torch(c)}{state}; no ONNX file yet."
    parts = [p for p in (_disk(run, chosen), *(_speed(p, chosen) for p in run.profiles[:1])) if p]
    gains = f"the {chosen.label.split()[1]} file is {' and '.join(parts)} than {BASELINE}" if parts else ""
    return "; ".join(p for p in (first, gains, _accuracy(run, chosen)) if p) + "."


def _reduction(c: Compression) -> str:
    before, after = c.teacher_parameters.value, c.student_parameters.value
    if not before or after is None:
        return "RMT-KD has removed no parameters yet"
    sizes = f"{text.short_count(before)} to {text.short_count(after)}"
    return f"RMT-KD removed {text.percent(1 - after / before)} of the parameters ({sizes})"


def _accuracy_in_torch(c: Compression) -> str:
    before, after = c.teacher_accuracy.value, c.student_accuracy.value
    if before is None or after is None:
        return "accuracy not measured"
    change = text.points(after - before)
    return f"validation accuracy {text.percent(after)} against {text.percent(before)} of the teacher ({change})"


def _disk(run: RunFacts, chosen: Model) -> str:
    before, after = size_of(models(run)[0]).value, size_of(chosen).value
    return text.gain(before / after, "smaller", "larger") if before and after else ""


def _speed(profile: Profile, chosen: Model) -> str:
    load = headline_load(profile)
    gain = gain_of(profile, chosen.label, load) if load else None
    if gain is None:
        return ""
    interval = f"; {text.gain_interval(*gain[1])}" if gain[1] else ""
    pair = (profile.find(label, load) for label in (chosen.label, BASELINE) if load)
    doubt = "".join(f", {v}" for v in dict.fromkeys(r.quality.get("verdict") for r in pair if r and not r.clean) if v)
    return f"{text.gain(gain[0], 'faster', 'slower')} (p50, {load}, {profile.name}{doubt}{interval})"


def _accuracy(run: RunFacts, chosen: Model) -> str:
    before, after = accuracy_of(models(run)[0]).value, accuracy_of(chosen).value
    if after is None:
        return "its accuracy was not measured"
    if before is None:
        return f"its accuracy is {text.percent(after)}, that of {BASELINE} was not measured"
    words = f"accuracy is {text.percent(after)} against {text.percent(before)} ({text.points(after - before)}"
    interval, n = interval_of(chosen), chosen.variant.n.value if chosen.variant else None
    if interval is None or not n:
        return words + ")"
    half = (interval[1] - interval[0]) / 2
    sense = "within" if abs(after - before) <= half else "beyond"
    return f"{words}, {sense} the ±{half * 100:.1f}{text.NBSP}points that {text.count(n)} rows resolve)"


def tiles(run: RunFacts) -> tuple[Tile, ...]:
    """Return the key figures: parameters, accuracy, disk, latency, energy; each says so where it is not measured."""
    return (_parameter_tile(run), _accuracy_tile(run), _disk_tile(run), _latency_tile(run), _energy_tile(run))


def _absent(name: str, why: str) -> Tile:
    return Tile(name, "not measured", textwrap.shorten(why, 72, placeholder=" …"), "missing")


def _parameter_tile(run: RunFacts) -> Tile:
    c = run.compression
    if isinstance(c, Missing):
        return _absent("Parameters", c.why)
    before, after = c.teacher_parameters.value, c.student_parameters.value
    if not before or after is None:
        return _absent("Parameters", c.student_parameters.why or c.teacher_parameters.why)
    return Tile(
        "Parameters", text.percent(after / before - 1), f"{text.short_count(before)} to {text.short_count(after)}"
    )


def _accuracy_tile(run: RunFacts) -> Tile:
    chosen, original = best(run), models(run)[0]
    if chosen is None:
        c = run.compression
        if isinstance(c, Missing) or c.student_accuracy.value is None or c.teacher_accuracy.value is None:
            return _absent(
                "Accuracy", c.why if isinstance(c, Missing) else c.student_accuracy.why or c.teacher_accuracy.why
            )
        change = c.student_accuracy.value - c.teacher_accuracy.value
        return Tile(
            "Accuracy", text.percent(c.student_accuracy.value), f"{text.points(change)} against the teacher, in torch"
        )
    value, before = accuracy_of(chosen).value, accuracy_of(original).value
    if value is None:
        return _absent("Accuracy", accuracy_of(chosen).why)
    detail = text.points(value - before) + f" against {BASELINE}" if before is not None else chosen.label
    return Tile("Accuracy", text.percent(value), detail)


def _disk_tile(run: RunFacts) -> Tile:
    chosen, original = best(run), models(run)[0]
    if chosen is None:
        return _absent("Disk", run.exported.why if isinstance(run.exported, Missing) else "no variant may ship")
    before, after = size_of(original).value, size_of(chosen).value
    if after is None or not before:
        return _absent("Disk", size_of(chosen if after is None else original).why)
    return Tile(
        "Disk", text.gain(before / after, "smaller", "larger"), f"{text.megabytes(before)} to {text.megabytes(after)}"
    )


def _latency_tile(run: RunFacts) -> Tile:
    chosen = best(run)
    if not run.profiles or chosen is None:
        return _absent("Latency", run.no_profile.why if run.no_profile else "nothing was exported")
    profile = run.profiles[0]
    load = headline_load(profile)
    gain = gain_of(profile, chosen.label, load) if load else None
    if gain is None or load is None:
        return _absent("Latency", f"{chosen.label} and {BASELINE} were not both timed on {profile.name}")
    result = profile.find(chosen.label, load)
    doubt = "" if result is None or result.clean else f", {result.quality.get('verdict') or 'no verdict'}"
    return Tile(
        "Latency", text.gain(gain[0], "faster", "slower"), f"{load} on {profile.name}{doubt}", "warn" if doubt else ""
    )


def _energy_tile(run: RunFacts) -> Tile:
    chosen = best(run)
    if not run.profiles or chosen is None:
        return _absent("Energy", run.no_profile.why if run.no_profile else "nothing was exported")
    profile = run.profiles[0]
    load = headline_load(profile)
    after = profile.find(chosen.label, load) if load else None
    before = profile.find(BASELINE, load) if load else None
    if after is None or before is None or after.energy_gross_j.value is None or before.energy_gross_j.value is None:
        gaps = [r.energy_gross_j.why for r in (after, before) if r is not None and r.energy_gross_j.value is None]
        return _absent("Energy", gaps[0] if gaps else "not profiled under this load")
    if after.energy_gross_j.source != before.energy_gross_j.source or not after.energy_gross_j.value > 0:
        return _absent("Energy", "the two models were metered differently or the meter did not move")
    factor = before.energy_gross_j.value / after.energy_gross_j.value
    return Tile("Energy", text.gain(factor, "less", "more"), f"{load}, {after.energy_gross_j.source}")


def doubts(run: RunFacts) -> tuple[NoteBlock, ...]:
    """Return what the reader must know before believing the figures."""
    notes = []
    c = run.compression
    if isinstance(c, Missing):
        notes.append(missing(c))
    elif c.missing is not None:
        notes.append(NoteBlock(f"{c.missing.why}: this is as far as it got. To go on:", c.missing.command, "warn"))
    low = _floor_note(c) if isinstance(c, Compression) else ""
    notes += [NoteBlock(low, tone="warn")] if low else []
    if isinstance(run.exported, Exported):
        for v in run.exported.variants.values():
            if v.refused:
                notes.append(NoteBlock(f"The {v.precision} file was refused: {v.refused}", tone="warn"))
    for profile in (p for p in run.profiles if not p.agreement):  # an emulated device states no times
        bad = sorted({str(r.quality.get("verdict") or "without a verdict") for r in profile.results if not r.clean})
        if bad:
            n = sum(not r.clean for r in profile.results)
            notes.append(
                NoteBlock(
                    f"{n} of {len(profile.results)} results on {profile.name} are {' or '.join(bad)}: "
                    "read their times as indications.",
                    tone="warn",
                )
            )
    return tuple(notes)


def _floor_note(c: Compression) -> str:
    value, floor = c.student_accuracy.value, c.floor.value
    if value is None or floor is None or value >= floor:
        return ""
    return f"The student's accuracy, {text.percent(value)}, is under the recipe's floor of {text.percent(floor)}."
