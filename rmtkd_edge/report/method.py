"""Sections on the method: cycles, sites, spectra."""

from __future__ import annotations

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import Block, Cell, Footnotes, NoteBlock, PictureBlock, Row, Section, TableBlock, missing
from rmtkd_edge.report.records import Compression, Cycle, Exported, Missing, Quantity, RunFacts, Site
from rmtkd_edge.report.spectra import drawable, spectra_pictures
from rmtkd_edge.report.stats import accuracy_interval
from rmtkd_edge.report.trade import trade_picture

CHOSEN = {"closed_form": "closed form", "fine_tuned": "fine-tuned"}
RULES = {
    "window": "the variance is the best fit of the law among the eigenvalues near the quantile",
    "paper": "the variance starts at the quantile and is refined freely, as the paper prints it",
    "bema": "the variance is regressed on the middle of the spectrum, the edge carries a Tracy–Widom margin",
    "parallel": "the edge comes from sign-flipped copies of the data",
    "explained-variance": "directions are kept up to a share of the variance, without the law",
}


def compression_section(run: RunFacts, prefix: str) -> Section:
    """Return accuracy against parameters, one row a cycle, and why the loop ended."""
    c = run.compression
    if isinstance(c, Missing):
        return Section(f"{prefix}cycles", "Compression cycles", (missing(c),))
    exported = run.exported if isinstance(run.exported, Exported) else None
    drawn = trade_picture([(run.name, c, exported)])
    blocks: list[Block] = [NoteBlock(_course(c))]
    if drawn:
        blocks.append(PictureBlock(drawn, prefix.rstrip("-")))
    blocks.append(cycle_table(c))
    return Section(f"{prefix}cycles", "Compression cycles", tuple(blocks))


def _course(c: Compression) -> str:
    kept = sum(k.accepted for k in c.cycles)
    how = "one shot, nothing was trained" if c.one_shot else f"{text.plural(len(c.cycles), 'cycle')}, {kept} accepted"
    end = f"The loop ended by the rule {c.stop.replace('_', ' ')}." if c.stop else "The loop has not ended."
    took = f" It took {text.seconds(c.seconds.value)}." if c.seconds.value is not None else ""
    rows = c.train_rows.value, c.validation_rows.value
    data = "".join(
        f", {text.count(n)} {name} rows" for n, name in zip(rows, ("training", "validation"), strict=True) if n
    )
    teacher = {True: " The teacher was trained by this run.", False: " The teacher was loaded as it stood."}
    trained = teacher[c.teacher_trained] if c.teacher_trained is not None else ""
    return f"Task {c.task or 'unnamed'}{data}; {how}. {end}{took}{trained}"


def cycle_table(c: Compression) -> TableBlock:
    """Return one row a cycle, the teacher first and the stop rule last."""
    foot = Footnotes()
    columns = (
        "Cycle",
        "Sites, width before → after",
        "Parameters",
        "Before",
        "Closed form",
        "After",
        "Decision",
        "Time",
    )
    rows = [_teacher_row(c, foot)] + [_cycle_row(k, c, foot) for k in c.cycles]
    if c.student_parameters.value is not None:
        rows.append(_student_row(c, foot))
    caption = f"{c.metric.capitalize()} before the cycle, in closed form and after it, on validation, in torch"
    if c.floor.value is not None:
        caption += f"; floor {text.percent(c.floor.value)} ({c.floor.source})"
    return TableBlock(caption + ".", columns, tuple(rows), frozenset({1, 6}), foot.notes())


def _accuracy(quantity: Quantity, c: Compression, foot: Footnotes, tone: str = "") -> Cell:
    if quantity.value is None:
        return foot.cell(quantity.why)
    rows = c.validation_rows.value
    sub = (text.share_interval(*accuracy_interval(quantity.value, int(rows))),) if rows and tone else ()
    return Cell(text.percent(quantity.value), sub, "" if tone == "plain" else tone)


def _teacher_row(c: Compression, foot: Footnotes) -> Row:
    size = c.teacher_parameters
    parameters = foot.cell(size.why) if size.value is None else Cell(text.count(size.value))
    blank = Cell("")
    accuracy = _accuracy(c.teacher_accuracy, c, foot, "plain")
    return Row((Cell("Teacher"), blank, parameters, blank, blank, accuracy, blank, blank))


def _student_row(c: Compression, foot: Footnotes) -> Row:
    size, teacher = c.student_parameters.value or 0.0, c.teacher_parameters.value
    sub = (text.percent(size / teacher - 1),) if teacher else ()
    stop = f"stop: {c.stop.replace('_', ' ')}" if c.stop else "not finished"
    took = Cell(text.seconds(c.seconds.value)) if c.seconds.value is not None else Cell("")
    accuracy = _accuracy(c.student_accuracy, c, foot, "plain")
    blank = Cell("")
    return Row((Cell("Student"), blank, Cell(text.count(size), sub), blank, blank, accuracy, Cell(stop), took))


def _cycle_row(k: Cycle, c: Compression, foot: Footnotes) -> Row:
    teacher = c.teacher_parameters.value
    sites = tuple(f"{s.name} {_heads(s)}{s.width_before} → {s.width_after}" for s in k.sites)
    share = (text.percent(k.parameters_after / teacher - 1),) if teacher else ()
    steps = CHOSEN.get(k.chosen, k.chosen) + (f", {text.plural(int(k.steps.value), 'step')}" if k.steps.value else "")
    decision = tuple(part for part in (steps if k.chosen else "", k.reason) if part)
    parts = tuple(f"{name.replace('_', ' ')} {text.seconds(v)}" for name, v in k.seconds.items())
    return Row(
        (
            Cell(str(k.index), (f"round {k.round}",)),
            Cell(sites[0] if sites else "no site", sites[1:]),
            Cell(text.count(k.parameters_after), share),
            _accuracy(k.accuracy_before, c, foot),
            _accuracy(k.accuracy_closed_form, c, foot),
            _accuracy(k.accuracy_after, c, foot, "plain"),
            Cell("accepted" if k.accepted else "rolled back", decision, "good" if k.accepted else "bad"),
            Cell(text.seconds(sum(k.seconds.values())), parts if len(parts) > 1 else ()) if parts else Cell(""),
        )
    )


def _heads(s: Site) -> str:
    return f"{s.heads} × " if s.heads > 1 else ""


def spectra_section(run: RunFacts, prefix: str) -> Section:
    """Return the spectra with their fitted laws, what q and n were, and one row a site."""
    c = run.compression
    if isinstance(c, Missing):
        return Section(f"{prefix}spectra", "Spectra", (missing(c),))
    sites = [s for k in c.cycles for s in k.sites]
    blocks: list[Block] = [NoteBlock(honest_note(sites))]
    lacking = sorted({s.name for s in sites if not drawable(s)})
    if lacking:
        blocks.append(
            NoteBlock(
                f"No spectrum to draw for {', '.join(lacking)}: no eigenvalues or no positive edge were recorded.",
                tone="missing",
            )
        )
    blocks += [PictureBlock(p, prefix.rstrip("-")) for p in spectra_pictures(c.cycles)]
    blocks.append(site_table(c.cycles, run.exported))
    return Section(f"{prefix}spectra", "Spectra and ranks", tuple(blocks))


def honest_note(sites: list[Site]) -> str:
    """Return what the edge does and does not mean, with the q and n that were used."""
    ratios = sorted(s.q.value for s in sites if s.q.value is not None)
    samples = sorted(s.n.value for s in sites if s.n.value is not None)
    rules = sorted({s.rule for s in sites if s.rule})
    parts = []
    if ratios and samples:
        widths = _range([text.number(q, 3) for q in (ratios[0], ratios[-1])])
        columns = _range([text.count(n) for n in (samples[0], samples[-1])])
        parts.append(f"q = d / n was {widths}, from n = {columns} sampled columns per site.")
    if ratios and ratios[0] < 0.01:
        parts.append("Where q is below 0.01 the law shrinks to a point and λ₊ to σ²: there the quantile alone decides.")
    parts += [f"Rule {rule}: {RULES[rule]}." if rule in RULES else f"Rule {rule}." for rule in rules]
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


def site_table(cycles: tuple[Cycle, ...], exported: Exported | Missing) -> TableBlock:
    """Return one row for each site of each cycle with the fit and the ranks."""
    foot = Footnotes()
    ranks = exported.ranks if isinstance(exported, Exported) else {}
    columns = (
        "Site",
        "Cycle",
        "d",
        "Above edge",
        "Aligned",
        "After",
        "Ships",
        "λ₊",
        "λ₋",
        "σ²",
        "q",
        "n",
        "n_eff",
        "Quantile",
        "Rule",
    )
    rows = [_site_row(k, s, ranks, foot) for k in cycles for s in k.sites]
    caption = (
        "Width d, directions above the edge, rank rounded up to the device's multiple, and the fit (of the first head)."
    )
    return TableBlock(caption, columns, tuple(rows), frozenset({14}), foot.notes())


def _site_row(k: Cycle, s: Site, ranks: dict[str, int], foot: Footnotes) -> Row:
    def cell(quantity: Quantity, whole: bool = False) -> Cell:
        if quantity.value is None:
            return foot.cell(quantity.why)
        return Cell(text.count(quantity.value) if whole else text.number(quantity.value))

    rank = str(s.rank) if s.rank is not None else "not recorded"
    aligned = str(s.aligned_rank) if s.aligned_rank is not None else "not recorded"
    before = f"{_heads(s)}{s.width_before}" + ("" if s.width_before == s.raw_width else f" of {s.raw_width}")
    rule = s.rule if s.weighting in ("", "none") else f"{s.rule}, {s.weighting}"
    mark = foot.mark(s.note) if s.note else ""
    fits = (s.lambda_plus, s.lambda_minus, s.sigma2, s.q)
    return Row(
        (
            Cell(s.name, mark=mark),
            Cell(str(k.index), () if k.accepted else ("rolled back",), "" if k.accepted else "bad"),
            Cell(before),
            Cell(rank),
            Cell(aligned),
            Cell(str(s.width_after)),
            Cell(str(ranks[s.name]) if s.name in ranks else "–"),
            *(cell(q) for q in fits),
            cell(s.n, whole=True),
            cell(s.n_eff, whole=True),
            cell(s.quantile),
            Cell(rule),
        )
    )
