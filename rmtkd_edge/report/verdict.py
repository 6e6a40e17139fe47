"""The one sentence and the key figures at the top, computed from the run and never saying more than it holds."""

from __future__ import annotations

import textwrap

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import NoteBlock, Tile, missing
from rmtkd_edge.report.records import Compression, Missing, Profile, RunFacts, reported
from rmtkd_edge.report.summary import (
    BASELINE,
    Model,
    gain_of,
    gross_energy,
    headline_workload,
    metric_of,
    models,
)
from rmtkd_edge.run import layout


def best(run: RunFacts) -> Model | None:
    """Return the file that ships: int8 unless it was refused, not made or slower than fp32; None before export."""
    mine = {m.label: m for m in models(run)}
    int8, fp32 = (mine[layout.label("candidate", precision, run.method)] for precision in ("int8", "fp32"))
    slower = any(_clearly_slower(profile, int8.label, fp32.label) for profile in run.profiles)
    for model in (fp32,) if slower else (int8, fp32):
        if model.variant is not None and not model.variant.refused:
            return model
    return None


def _clearly_slower(profile: Profile, label: str, than: str) -> bool:
    pairs = [
        c for c in profile.record.comparisons if (c.candidate, c.baseline, c.metric) == (label, than, "latency_ms")
    ]
    return any(c.ci95 is not None and c.ci95[0] > 1 for c in pairs)


def verdict(run: RunFacts) -> str:
    """Return what was gained and what it cost, in one sentence."""
    c = run.compression
    if isinstance(c, Missing):
        return f"There is nothing to judge yet: {c.why}."
    first = _reduction(c)
    chosen = best(run)
    if chosen is None:
        state = "" if c.missing is None else ", and compress has not finished"
        return f"{first}; {_score_in_torch(run, c)}{state}; no ONNX file yet."
    parts = [p for p in (_disk(run, chosen), *(_speed(p, chosen) for p in run.profiles[:1])) if p]
    gains = f"the {chosen.label.split()[-1]} file is {' and '.join(parts)} than {BASELINE}" if parts else ""
    return "; ".join(p for p in (first, gains, _score(run, chosen)) if p) + "."


def _reduction(c: Compression) -> str:
    name = text.title(text.method_name(c.method))
    if c.student is None:
        return f"{name} has removed no parameters yet"
    before, after = c.teacher.parameters, c.student.parameters
    sizes = f"{text.short_count(before)} to {text.short_count(after)}"
    return f"{name} removed {text.percent(1 - after / before)} of the parameters ({sizes})"


def _score_in_torch(run: RunFacts, c: Compression) -> str:
    if c.student is None:
        return f"{metric_of(run)} not measured"
    before, after = reported(c.teacher), reported(c.student)
    if before.split != after.split:  # of an unfinished run
        before, after = c.teacher.validation, c.student.validation
    name = f"{after.split} {metric_of(run)}"
    return f"{name} {text.score(after)} against {text.score(before)} of the teacher ({text.change(after, before)})"


def _disk(run: RunFacts, chosen: Model) -> str:
    before, after = models(run)[0].size_bytes.value, chosen.size_bytes.value
    return text.gain(before / after, "smaller", "larger") if before and after else ""


def _speed(profile: Profile, chosen: Model) -> str:
    workload = headline_workload(profile)
    gain = gain_of(profile, chosen.label, workload) if workload else None
    if workload is None or gain is None:
        return ""
    interval = f"; {text.gain_interval(*gain[1])}" if gain[1] else ""
    pair = (profile.find(label, workload) for label in (chosen.label, BASELINE))
    doubt = "".join(f", {v}" for v in dict.fromkeys(r.verdict for r in pair if r and not r.clean))
    return f"{text.gain(gain[0], 'faster', 'slower')} (p50, {workload}, {profile.name}{doubt}{interval})"


def _score(run: RunFacts, chosen: Model) -> str:
    before, after, name = models(run)[0].scores, chosen.scores, metric_of(run)
    if after is None:
        return f"its {name} was not measured"
    if before is None:
        return f"its {after.split} {name} is {text.score(after)}, that of {BASELINE} was not measured"
    change = text.change(after, before)
    said = f"{after.split} {name} is {text.score(after)} against {text.score(before)}"
    if after.interval is None:
        return f"{said} ({change})"
    half = (after.interval[1] - after.interval[0]) / 2
    sense = "within" if abs(after.value - before.value) <= half else "beyond"
    resolved = f"{text.half_interval(after, *after.interval)} that {text.count(after.rows)} rows resolve"
    return f"{said} ({change}, {sense} the {resolved})"


def tiles(run: RunFacts) -> tuple[Tile, ...]:
    """Return the key figures: parameters, quality, disk, latency, energy; each says so where it is not measured."""
    return (_parameter_tile(run), _score_tile(run), _disk_tile(run), _latency_tile(run), _energy_tile(run))


def _absent(name: str, why: str) -> Tile:
    return Tile(name, "not measured", textwrap.shorten(why, 72, placeholder=" …"), "missing")


def _parameter_tile(run: RunFacts) -> Tile:
    c = run.compression
    if isinstance(c, Missing) or c.student is None:
        return _absent("Parameters", c.why if isinstance(c, Missing) else "no cycle was accepted yet")
    before, after = c.teacher.parameters, c.student.parameters
    sizes = f"{text.short_count(before)} to {text.short_count(after)}"
    return Tile("Parameters", text.percent(after / before - 1), sizes)


def _score_tile(run: RunFacts) -> Tile:
    name, c, chosen, original = text.title(metric_of(run)), run.compression, best(run), models(run)[0]
    if chosen is not None and chosen.scores is not None:
        after, before, against = chosen.scores, original.scores, BASELINE
    elif isinstance(c, Compression) and c.student is not None:
        after, before, against = c.student.validation, c.teacher.validation, "the teacher, in torch"
    else:
        return _absent(name, c.why if isinstance(c, Missing) else "no cycle was accepted yet")
    detail = f"{text.change(after, before)} against {against}" if before else ""
    return Tile(f"{name}, {after.split}", text.score(after), detail)


def _disk_tile(run: RunFacts) -> Tile:
    chosen, original = best(run), models(run)[0]
    if chosen is None:
        return _absent("Disk", run.exported.why if isinstance(run.exported, Missing) else "no file may ship")
    before, after = original.size_bytes, chosen.size_bytes
    if after.value is None or not before.value:
        return _absent("Disk", after.why or before.why)
    sizes = f"{text.megabytes(before.value)} to {text.megabytes(after.value)}"
    return Tile("Disk", text.gain(before.value / after.value, "smaller", "larger"), sizes)


def _latency_tile(run: RunFacts) -> Tile:
    chosen = best(run)
    if not run.profiles or chosen is None:
        return _absent("Latency", run.no_profile.why if run.no_profile else "nothing was exported")
    profile = run.profiles[0]
    workload = headline_workload(profile)
    gain = gain_of(profile, chosen.label, workload) if workload else None
    if gain is None or workload is None:
        return _absent("Latency", f"{chosen.label} and {BASELINE} were not both timed on {profile.name}")
    result = profile.find(chosen.label, workload)
    doubt = "" if result is None or result.clean else f", {result.verdict}"
    detail = f"{workload} on {profile.name}{doubt}"
    return Tile("Latency", text.gain(gain[0], "faster", "slower"), detail, "warn" if doubt else "")


def _energy_tile(run: RunFacts) -> Tile:
    chosen = best(run)
    if not run.profiles or chosen is None:
        return _absent("Energy", run.no_profile.why if run.no_profile else "nothing was exported")
    profile = run.profiles[0]
    workload = headline_workload(profile)
    found = [profile.find(label, workload) for label in (chosen.label, BASELINE)] if workload else []
    pair = [gross_energy(result) for result in found if result is not None]
    gaps = [energy.why for energy in pair if energy.value is None]
    if gaps or len(pair) < 2:
        return _absent("Energy", gaps[0] if gaps else "not profiled under this workload")
    after, before = pair
    if after.source != before.source or not after.value or before.value is None:
        return _absent("Energy", "the two models were metered differently or the meter did not move")
    return Tile("Energy", text.gain(before.value / after.value, "less", "more"), f"{workload}, {after.source}")


def doubts(run: RunFacts) -> tuple[NoteBlock, ...]:
    """Return what the reader must know before believing the figures."""
    notes = []
    c = run.compression
    if isinstance(c, Missing):
        notes.append(missing(c))
    elif c.missing is not None:
        notes.append(NoteBlock(f"{c.missing.why}: this is as far as it got. To go on:", c.missing.command, "warn"))
    elif c.teacher.test is None:
        said = "This run has no test split: what is reported was measured on validation, which also chose the models."
        notes.append(NoteBlock(said, tone="warn"))
    low = _floor_note(run, c) if isinstance(c, Compression) else ""
    notes += [NoteBlock(low, tone="warn")] if low else []
    for model in models(run):
        if model.role == "candidate" and model.variant and model.variant.refused:
            which = model.label if model.student else model.label.split()[-1]
            notes.append(NoteBlock(f"The {which} file was refused: {model.variant.refused}", tone="warn"))
    for profile in run.timed:
        bad = [r.verdict for r in profile.results if not r.clean]
        if bad:
            which = (
                f"{len(bad)} of {len(profile.results)} results on {profile.name} are {' or '.join(sorted(set(bad)))}"
            )
            notes.append(NoteBlock(f"{which}: read their times as indications.", tone="warn"))
    return tuple(notes)


def _floor_note(run: RunFacts, c: Compression) -> str:
    if c.student is None or c.floor is None or c.student.validation.value >= c.floor:
        return ""
    value, floor = text.score(c.student.validation), text.metric(c.floor, c.student.validation)
    return f"The student's {metric_of(run)} on validation, {value}, is under the recipe's floor of {floor}."
