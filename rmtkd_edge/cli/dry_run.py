"""What `compress --dry-run` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rmtkd_edge.cli.output import say, show, show_json
from rmtkd_edge.cli.tables import figure, table_of
from rmtkd_edge.errors import UserError
from rmtkd_edge.run.records.data import describe
from rmtkd_edge.run.records.dry_run import CostForecast, DryRun, ShapeForecast, SiteForecast, TargetForecast

MINUTE, HOUR = 60.0, 3600.0
END = "nothing was written, and no training was kept"


def show_dry_run(found: DryRun, as_json: bool) -> None:
    """Show data, model, sites, targets and cost.

    Raises:
        UserError: after all that, where the compression could not do what the recipe asks for.
    """
    if as_json:
        show_json(found)
    else:
        _show(found)
    if found.faults:
        messages, hints = zip(*found.faults, strict=True)
        raise UserError("\n".join(messages), "; ".join(dict.fromkeys(hint for hint in hints if hint)))


def _show(found: DryRun) -> None:
    say(*describe(found.data), *(f"note: {note}" for note in found.data.notes), *_teacher_lines(found))
    header = ["sites to cut", "number", "width", "least", "parameters that go with one alone"]
    show(table_of(header, [_kind_row(kind, list(group)) for kind, group in _kinds(found.sites)]))
    for target in found.targets:
        say(f"target: {target.aim}" + (f" ({target.how})" if target.how else ""))
        if target.shapes:
            show(table_of(*_shapes(target)))
    if found.without_curves:
        say(f"no latency is predicted for {', '.join(found.without_curves)}: no curves were measured there (calibrate)")
    say(*_cost_lines(found.cost), *(f"note: {note}" for note in found.notes), END)


def _teacher_lines(found: DryRun) -> Iterator[str]:
    teacher = found.teacher
    yield f"model: {teacher.source}, {teacher.parameters:,} parameters"
    if (scores := teacher.scores) is not None:
        rows = f"{scores.rows:,} of {teacher.validation_rows:,} validation rows"
        yield f"its {scores.primary}: {scores.value:.4f} on {rows}"
    if teacher.training:
        yield f"it is trained first: {teacher.training}"


def _kinds(sites: Sequence[SiteForecast]) -> Iterator[tuple[str, Iterator[SiteForecast]]]:
    order = list(dict.fromkeys(site.kind for site in sites))
    return groupby(sorted(sites, key=lambda site: order.index(site.kind)), key=lambda site: site.kind)


def _kind_row(kind: str, sites: Sequence[SiteForecast]) -> list[str]:
    heads = max(site.heads for site in sites)
    widths = span([site.width for site in sites]) + (f" a head of {heads}" if heads > 1 else "")
    least, gone = span([site.least for site in sites]), span([site.parameters for site in sites])
    return [kind, str(len(sites)), widths, least, gone]


def span(values: Sequence[int]) -> str:
    """Return the least and the largest of some numbers, one where they are equal."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _shapes(target: TargetForecast) -> tuple[list[str], list[list[str]]]:
    """Return the header and a row for each device whose latency is predicted, and for each multiple without one."""
    rows = []
    for shape in target.shapes:
        rows += [_shape_row(shape, name) for name in shape.ms] or [_shape_row(shape, None)]
    sizes = ["fp32 MB", "int8 MB"]
    return ["widths", "parameters", "fewer", *sizes, "device", "p50 ms", "original's"], rows


def _shape_row(shape: ShapeForecast, device: str | None) -> list[str]:
    ms, before = (None, None) if device is None else (shape.ms[device], shape.teacher_ms[device])
    return [
        f"multiples of {shape.multiple}",
        f"{shape.parameters:,}",
        f"{shape.removed:.1%}",
        figure(shape.fp32_bytes, ".2f", 1e-6),
        figure(shape.int8_bytes, ".2f", 1e-6),
        device or "-",
        figure(ms, ".2f"),
        figure(before, ".2f"),
    ]


def _cost_lines(cost: CostForecast) -> Iterator[str]:
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost.seconds.items() if seconds)
    trained = "nothing is trained"
    if cost.steps:
        each = " to ".join(f"{seconds:.3g}" for seconds in sorted(set(cost.step_seconds)))
        trained = f"{cost.steps:,} steps each, of {each} s"
    cycles = "1 cycle" if cost.cycles == 1 else f"{cost.cycles} cycles"
    yield f"time: about {duration(cost.total)} for {cycles} ({trained}): {parts}"
    if cost.memory_bytes is not None:
        yield f"memory: about {cost.memory_bytes / 1e6:,.0f} MB at its peak"


def duration(seconds: float) -> str:
    """Return seconds in words, in the unit that suits."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"
