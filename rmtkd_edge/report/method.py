"""Sections on the method: cycles, sites, spectra."""

from __future__ import annotations

from collections.abc import Sequence

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, Cell, Footnotes, NoteBlock, PictureBlock, Row, Section, TableBlock, missing
from rmtkd_edge.report.records import Compression, Missing, RunFacts
from rmtkd_edge.report.spectra import drawable, spectra_pictures
from rmtkd_edge.report.summary import metric_of, score_cell
from rmtkd_edge.report.trade import Path, trade_picture
from rmtkd_edge.run.records.cycle import CycleRecord, SiteRecord, WidthRecord
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.scores import Scores

CHOSEN = {"closed_form": "closed form", "fine_tuned": "fine-tuned"}
RULES = {
    "window": "the variance is the best fit of the law among the eigenvalues near the quantile",
    "paper": "the variance starts at the quantile and is refined freely, as the paper prints it",
    "bema": "the variance is regressed on the middle of the spectrum, the edge carries a Tracy–Widom margin",
    "parallel": "the edge comes from sign-flipped copies of the data",
    "explained-variance": "directions are kept up to a share of the variance, without the law",
}


def compression_section(run: RunFacts, prefix: str) -> Section:
    """Return the metric against parameters, one row a cycle, and why the loop ended."""
    c = run.compression
    if isinstance(c, Missing):
        return Section(f"{prefix}cycles", "Compression cycles", (missing(c),))
    exported = run.exported if isinstance(run.exported, ExportRecord) else None
    drawn = trade_picture([Path(run.name, c, exported)], metric_of(run))
    blocks: list[Block] = [NoteBlock(_course(c))]
    if drawn:
        blocks.append(PictureBlock(drawn, prefix.rstrip("-")))
    blocks.append(cycle_table(c, metric_of(run)))
    return Section(f"{prefix}cycles", "Compression cycles", tuple(blocks))


def _course(c: Compression) -> str:
    trained = "The teacher was trained by this run." if c.teacher.trained else "The teacher was loaded as it was."
    cycles = f"{text.plural(len(c.cycles), 'cycle')}, {sum(k.accepted for k in c.cycles)} accepted"
    if c.record is None:
        return f"{text.title(cycles)}. The loop has not ended. {trained}"
    task = c.record.task
    splits = (("training", task.train_rows), ("validation", task.validation_rows), ("test", task.test_rows))
    data = ", ".join(f"{text.count(rows)} {name} rows" for name, rows in splits if rows is not None)
    how = "one shot, nothing was trained" if c.record.one_shot else cycles if c.cycles else "one training"
    ended = f"It ended by the rule {c.stop} and took {text.seconds(c.record.seconds)}."
    notes = "".join(f" {text.title(note.rstrip('.'))}." for note in c.record.notes)
    return f"Task {task.name}, {data}; method {text.method_name(c.method)}: {how}. {ended} {trained}{notes}"


def cycle_table(c: Compression, metric: str) -> TableBlock:
    """Return one row a cycle, the teacher first and the stop rule last."""
    rows = [_model_row("Teacher", c.teacher.parameters, "", c.teacher.validation, c.teacher.test, "", "")]
    rows += [_cycle_row(k, c) for k in c.cycles]
    for member in c.record.larger if c.record else ():
        larger, less = member.student, text.percent(-member.reduction)
        row = (f"Student {member.name}", larger.parameters, less, larger.validation, larger.test, "on the way", "")
        rows.append(_model_row(*row))
    if c.student is not None:
        less = text.percent(c.student.parameters / c.teacher.parameters - 1)
        stop = f"stop: {c.stop}" if c.record else "not finished"
        took = text.seconds(c.record.seconds) if c.record else ""
        scores = c.student.validation, c.student.test
        rows.append(_model_row("Student", c.student.parameters, less, *scores, stop, took))
    caption = f"{text.title(metric)} before the cycle, in closed form and after it, on validation, in torch"
    if c.floor is not None:
        below = c.teacher.validation.value - c.floor
        caption += f"; floor {text.metric(c.floor, c.teacher.validation)} (teacher minus {below:g})"
    scored = ("Before", "Closed form", "After")
    columns = ("Cycle", "Sites, width before → after", "Parameters", *scored, "Decision", "Time")
    return TableBlock(caption + ".", columns, tuple(rows), frozenset({1, 6}))


def _model_row(
    name: str, parameters: int, less: str, validation: Scores, test: Scores | None, stop: str, took: str
) -> Row:
    found = score_cell(validation, None)
    tested = (f"test {text.score(test)}",) if test else ()
    size = Cell(text.count(parameters), (less,) if less else ())
    blank = Cell("")
    after = Cell(found.text, (*found.sub, *tested))
    return Row((Cell(name), blank, size, blank, blank, after, Cell(stop), Cell(took)))


def _cycle_row(k: CycleRecord, c: Compression) -> Row:
    sites = [f"{s.name} {_heads(s)}{s.width_before} → {s.width_after or 'left out'}" for s in k.sites]
    steps = CHOSEN[k.chosen] + (f", {text.plural(k.steps, 'step')}" if k.steps else "")
    parts = tuple(f"{name.replace('_', ' ')} {text.seconds(v)}" for name, v in k.seconds.items())
    decision = (steps, k.reason) if k.reason else (steps,)
    accepted = Cell("accepted", decision, "good") if k.accepted else Cell("rolled back", decision, "bad")
    cells = (
        Cell(str(k.index), (f"round {k.round}", *([] if k.target is None else [f"target {text.percent(k.target)}"]))),
        Cell(sites[0] if sites else "no site", tuple(sites[1:])),
        Cell(text.count(k.parameters_after), (text.percent(k.parameters_after / c.teacher.parameters - 1),)),
        Cell(text.score(k.before)),
        Cell(text.score(k.closed_form)),
        score_cell(k.after, None),
        accepted,
        Cell(text.seconds(sum(k.seconds.values())), parts if len(parts) > 1 else ()),
    )
    return Row(cells)


def _heads(s: SiteRecord | WidthRecord) -> str:
    return f"{s.heads} × " if s.heads > 1 else ""


def spectra_section(run: RunFacts, prefix: str) -> Section:
    """Return the spectra with their fitted laws, what q and n were, and one row a site."""
    c = run.compression
    if isinstance(c, Missing):
        return Section(f"{prefix}spectra", "Spectra", (missing(c),))
    pairs = [(k, s) for k in c.cycles for s in k.analysed]
    if not pairs:
        nothing = NoteBlock(f"{text.title(text.method_name(c.method))} analyses no spectra.")
        return Section(f"{prefix}spectra", "Spectra and ranks", (nothing,))
    blocks: list[Block] = [NoteBlock(caveats([s for _, s in pairs]))]
    lacking = sorted({s.name for k, s in pairs if not drawable(k, s, c.spectra)})
    if lacking:
        said = f"No spectrum to draw for {', '.join(lacking)}: no eigenvalues or no positive edge were recorded."
        blocks.append(NoteBlock(said, tone="missing"))
    blocks += [PictureBlock(p, prefix.rstrip("-")) for p in spectra_pictures(c.cycles, c.spectra)]
    blocks.append(site_table(c.cycles, run.exported.ranks if isinstance(run.exported, ExportRecord) else {}))
    return Section(f"{prefix}spectra", "Spectra and ranks", tuple(blocks))


def caveats(sites: Sequence[SiteRecord]) -> str:
    """Return what the edge does and does not mean, with the q and n that were used."""
    ratios, samples = sorted(s.q for s in sites), sorted(s.n for s in sites)
    widths = _range([text.number(q, 3) for q in (ratios[0], ratios[-1])])
    columns = _range([text.count(n) for n in (samples[0], samples[-1])])
    parts = [f"q = d / n was {widths}, from n = {columns} sampled columns per site."]
    if ratios[0] < 0.01:
        parts.append("Where q is below 0.01 the law shrinks to a point and λ₊ to σ²: there the quantile alone decides.")
    for rule in sorted({s.rule for s in sites}):
        parts.append(f"Rule {rule}: {RULES[rule]}." if rule in RULES else f"Rule {rule}.")
    if any(s.weighting not in ("", "none") for s in sites):
        parts.append(
            "Spectra are weighted by the effect of a direction on the output, so eigenvalues are not plain variances."
        )
    parts.append(
        "Activations are deterministic: with unlimited samples every direction would be significant. A fixed q "
        "is a resolution chosen on purpose, not a significance test."
    )
    return " ".join(parts)


def _range(ends: list[str]) -> str:
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def site_table(cycles: Sequence[CycleRecord], ranks: dict[str, int]) -> TableBlock:
    """Return one row for each site of each cycle with the fit and the ranks; `ranks` are those that ship."""
    foot = Footnotes()
    widths, fit = ("d", "Above edge", "Aligned", "After", "Ships"), ("λ₊", "λ₋", "σ²", "q", "n", "n_eff")
    columns = ("Site", "Cycle", *widths, *fit, "Quantile", "Rule")
    rows = tuple(_site_row(k, s, ranks, foot) for k in cycles for s in k.analysed)
    caption = (
        "Width d, directions above the edge, rank rounded up to the device's multiple, and the fit (of the first head)."
    )
    return TableBlock(caption, columns, rows, frozenset({14}), foot.notes())


def _site_row(k: CycleRecord, s: SiteRecord, ranks: dict[str, int], foot: Footnotes) -> Row:
    plain = s.weighting in ("", "none")
    figures = [str(s.rank), str(s.aligned_rank), str(s.width_after), str(ranks.get(s.name, "–"))]
    figures += [text.number(value) for value in (s.lambda_plus, s.lambda_minus, s.sigma2, s.q)]
    figures += [text.count(s.n), text.count(s.n_eff)]
    cells = (
        Cell(s.name, mark=foot.mark(s.note) if s.note else ""),
        Cell(str(k.index)) if k.accepted else Cell(str(k.index), ("rolled back",), "bad"),
        Cell(f"{_heads(s)}{s.width_before}"),
        *map(Cell, figures),
        foot.cell("this rule has no quantile") if s.quantile is None else Cell(text.number(s.quantile)),
        Cell(s.rule if plain else f"{s.rule}, {s.weighting}"),
    )
    return Row(cells)
