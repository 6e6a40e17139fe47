"""Sections on trust and repeat: verification of the export, fusion audit, how to reproduce."""

from __future__ import annotations

import shlex

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import (
    Block,
    Cell,
    CodeBlock,
    NoteBlock,
    Row,
    Section,
    TableBlock,
    group,
    missing,
    text_row,
)
from rmtkd_edge.report.records import Missing, RunFacts
from rmtkd_edge.report.summary import metric_of, models
from rmtkd_edge.run.records.export import ExportRecord, OpCounts, VerificationRecord
from rmtkd_edge.run.records.scores import Scores

CHECKS = {
    "fold_float64": "folded torch against projected torch, float64",
    "fold_float32": "folded torch against projected torch, float32",
    "onnx_float32": "ONNX against folded torch, float32",
}


def verification_section(run: RunFacts, prefix: str) -> Section:
    """Return the proof that the exported file computes what was trained."""
    if isinstance(run.exported, Missing):
        return Section(f"{prefix}verification", "Verification", (missing(run.exported),))
    proof = verification_table(run.exported.verification)
    notes = (NoteBlock(f"{note}.", tone="warn") for note in run.exported.notes)
    return Section(f"{prefix}verification", "Verification", (proof, *notes, file_table(run)))


def verification_table(check: VerificationRecord) -> TableBlock:
    """Return each check with its relative difference, its tolerance and whether it holds."""
    rows = []
    for key, name in CHECKS.items():
        found, limit = getattr(check, key), check.tolerances.get(key)
        state = Cell("no verdict", tone="warn")
        if limit is not None:
            state = Cell("holds", tone="good") if found <= limit else Cell("fails", tone="bad")
        allowed = "not recorded" if limit is None else text.scientific(limit)
        rows.append(Row((Cell(name), Cell(text.scientific(found)), Cell(allowed), state)))
    caption = f"Largest relative difference of the outputs on {text.count(check.rows)} held-out rows."
    return TableBlock(caption, ("Check", "Difference", "Tolerance", "Verdict"), tuple(rows), frozenset({3}))


def file_table(run: RunFacts) -> TableBlock:
    """Return the ONNX files with size, scores and hash."""
    rows, metric = [], metric_of(run)
    for model in models(run):
        v = model.variant
        if v is None:
            continue
        state = Cell("ships", tone="good") if model.role == "candidate" else Cell("reference")
        cells = (
            Cell(model.label),
            Cell(v.file),
            Cell(text.count(v.size_bytes)),
            _scored(v.validation) if v.validation else Cell("no labelled rows", tone="missing"),
            _scored(v.test) if v.test else Cell("no test split", tone="missing"),
            Cell("not finite" if v.relative_difference is None else text.scientific(v.relative_difference)),
            Cell(text.percent(v.agreement)),
            Cell("refused", (v.refused,), "bad") if v.refused else state,
            Cell(v.sha256),
        )
        rows.append(Row(cells))
    caption = (
        f"The ONNX files with their {metric} on validation, which chose, and on test; largest relative difference and "
        "share of rows with the same prediction are against torch."
    )
    columns = ("Model", "File", "Bytes", "Validation", "Test", "Difference", "Same prediction", "State", "sha256")
    return TableBlock(caption, columns, tuple(rows), frozenset({1, 7, 8}))


def _scored(scores: Scores) -> Cell:
    return Cell(text.score(scores, 2), (f"{text.count(scores.rows)} rows",))


def fusion_section(run: RunFacts, prefix: str) -> Section:
    """Return expected against found op counts of the exported graph."""
    title = "Fusion audit"
    if isinstance(run.exported, Missing):
        return Section(f"{prefix}fusion", title, (missing(run.exported),))
    return Section(f"{prefix}fusion", title, (fusion_table(run.exported),))


def fusion_table(exported: ExportRecord) -> TableBlock:
    """Return expected against found counts, graph by graph; operators that nothing was expected of are listed too."""
    graphs = {"As exported": exported.fusion.emitted}
    graphs |= {f"{name} as onnxruntime runs it": counts for name, counts in exported.fusion.optimised.items()}
    rows = []
    for graph, counts in graphs.items():
        rows += [group(graph), *_op_rows(counts)]
    columns = ("Operator", "Expected", "Found", "Verdict")
    return TableBlock("Operators in the exported graphs.", columns, tuple(rows), frozenset({3}))


def _op_rows(counts: OpCounts) -> list[Row]:
    rows = []
    for op in dict.fromkeys([*counts.expected, *counts.found]):
        wanted, seen = counts.expected.get(op), counts.found.get(op, 0)
        state = Cell("as expected", tone="good") if wanted == seen else Cell("differs", tone="bad")
        if wanted is None:
            state = Cell("not required")
        rows.append(Row((Cell(op), Cell("–" if wanted is None else text.count(wanted)), Cell(text.count(seen)), state)))
    return rows


def reproduce_section(run: RunFacts, prefix: str) -> Section:
    """Return commands, seed, versions and the recipe."""
    blocks: list[Block] = [CodeBlock(commands(run), "Commands", "sh"), origin_table(run)]
    if run.recipe_text:
        blocks.append(CodeBlock(run.recipe_text, "The resolved recipe", "toml", folded=True))
    else:
        blocks.append(NoteBlock("The run holds no recipe.toml.", tone="missing"))
    return Section(f"{prefix}reproduce", "How to reproduce", tuple(blocks))


def commands(run: RunFacts) -> str:
    """Return the commands that make this run again from its own recipe, into a new folder."""
    name = shlex.quote(run.name)
    again = shlex.quote(f"{run.name}-again")
    lines = [f"rmtkd-edge compress {shlex.quote(run.name + '/recipe.toml')} --out {again}"]
    if isinstance(run.exported, ExportRecord):
        lines.append(f"rmtkd-edge export {again}")
    for p in run.profiles:
        python = " --python DIR/python" if p.record.emulated else ""  # the one that tools/arm64_python.py set up
        lines.append(f"rmtkd-edge profile {again} --on {shlex.quote(p.name)}{python}")
    lines.append(f"rmtkd-edge report {name} {again}")
    return "\n".join(lines)


def origin_table(run: RunFacts) -> TableBlock:
    """Return where the run comes from: versions, seed, hashes, times of its stages."""
    rows = [
        text_row("Seed", str(run.seed)),
        text_row("rmtkd-edge", run.version or "not recorded"),
        text_row("Created", run.created or "not recorded"),
        text_row("Recipe sha256", run.recipe_sha256 or "not recorded"),
    ]
    for stage, facts in run.stages.items():
        rows.append(text_row(f"Stage {stage}", f"{facts.get('state', '')} {facts.get('finished') or ''}".strip()))
    if isinstance(run.exported, ExportRecord):
        rows.append(text_row("Model", run.exported.model_id or "not recorded"))
        if "name" in run.exported.graph:  # files of version 0.2 have no name of their graph
            rows.append(text_row("Graph", f"{run.exported.graph['name']}, opset {run.exported.graph['opset']}"))
        rows += [text_row(name, version) for name, version in sorted(run.exported.versions.items())]
    return TableBlock("Origin.", ("What", "Value"), tuple(rows), frozenset({1}))
