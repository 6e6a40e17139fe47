"""Sections on trust and repeat: verification of the export, fusion audit, how to reproduce."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from rmtkd_edge.report import text
from rmtkd_edge.report.blocks import (
    Block,
    Cell,
    CodeBlock,
    Footnotes,
    NoteBlock,
    Row,
    Section,
    TableBlock,
    group,
    missing,
    words,
)
from rmtkd_edge.report.records import Exported, Missing, Quantity, RunFacts
from rmtkd_edge.report.summary import models

CHECKS = {
    "fold_float64": "folded torch against projected torch, float64",
    "fold_float32": "folded torch against projected torch, float32",
    "onnx_float32": "ONNX against folded torch, float32",
}


def verification_section(run: RunFacts, prefix: str) -> Section:
    """Return the proof that the exported file computes what was trained."""
    if isinstance(run.exported, Missing):
        return Section(f"{prefix}verification", "Verification", (missing(run.exported),))
    return Section(f"{prefix}verification", "Verification", (verification_table(run.exported), file_table(run)))


def verification_table(exported: Exported) -> TableBlock:
    """Return each check with its relative difference, its tolerance and whether it holds."""
    foot = Footnotes()
    rows = []
    for key, found in exported.verification.items():
        limit = exported.tolerances.get(key)
        value = foot.cell(found.why) if found.value is None else Cell(text.scientific(found.value))
        holds = found.value is not None and limit is not None and found.value <= limit
        state = Cell("holds" if holds else "fails", tone="good" if holds else "bad")
        if found.value is None or limit is None:
            state = Cell("no verdict", tone="warn")
        rows.append(
            Row(
                (
                    Cell(CHECKS.get(key, key)),
                    value,
                    Cell("not recorded" if limit is None else text.scientific(limit)),
                    state,
                )
            )
        )
    n = exported.verification_rows.value
    caption = "Largest relative difference of the outputs" + (f" on {text.count(n)} held-out rows." if n else ".")
    return TableBlock(
        caption, ("Check", "Difference", "Tolerance", "Verdict"), tuple(rows), frozenset({3}), foot.notes()
    )


def file_table(run: RunFacts) -> TableBlock:
    """Return the ONNX files with size, accuracy and hash."""
    foot = Footnotes()
    rows = []
    for model in models(run):
        v = model.variant
        if v is None:
            continue
        state = Cell("refused", (v.refused,), "bad") if v.refused else Cell(*_state(model.role))
        cells = (
            _cell(v.size_bytes, text.count, foot),
            _cell(v.accuracy, lambda share: text.percent(share, 2), foot),
            _cell(v.n, text.count, foot),
            _cell(v.difference, text.scientific, foot),
            _cell(v.agreement, text.percent, foot),
        )
        rows.append(Row((Cell(model.label), Cell(v.file), *cells, state, Cell(v.sha256 or "not recorded"))))
    caption = "The ONNX files; difference (relative, largest) and share of rows with the same class are against torch."
    columns = ("Model", "File", "Bytes", "Accuracy", "Rows", "Difference", "Same class", "State", "sha256")
    return TableBlock(caption, columns, tuple(rows), frozenset({1, 7, 8}), foot.notes())


def _cell(found: Quantity, write: Callable[[float], str], foot: Footnotes) -> Cell:
    return foot.cell(found.why) if found.value is None else Cell(write(found.value))


def _state(role: str) -> tuple[str, tuple[str, ...], str]:
    return ("ships", (), "good") if role == "candidate" else ("reference", (), "")


def fusion_section(run: RunFacts, prefix: str) -> Section:
    """Return expected against found op counts of the exported graph."""
    title = "Fusion audit"
    if isinstance(run.exported, Missing):
        return Section(f"{prefix}fusion", title, (missing(run.exported),))
    if not run.exported.fusion:
        nothing = NoteBlock("Not measured: the export recorded no op counts.", tone="missing")
        return Section(f"{prefix}fusion", title, (nothing,))
    return Section(f"{prefix}fusion", title, (fusion_table(run.exported),))


def fusion_table(exported: Exported) -> TableBlock:
    """Return expected against found counts, graph by graph; operators that nothing was expected of are listed too."""
    rows = []
    for graph, expected, found in exported.fusion:
        rows.append(group(graph))
        for op in dict.fromkeys([*expected, *found]):
            wanted, seen = expected.get(op), found.get(op, 0)
            state = Cell("as expected" if wanted == seen else "differs", tone="good" if wanted == seen else "bad")
            if wanted is None:
                state = Cell("not required")
            rows.append(
                Row((Cell(op), Cell("–" if wanted is None else text.count(wanted)), Cell(text.count(seen)), state))
            )
    columns = ("Operator", "Expected", "Found", "Verdict")
    return TableBlock("Operators in the exported graphs.", columns, tuple(rows), frozenset({3}))


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
    if isinstance(run.exported, Exported):
        lines.append(f"rmtkd-edge export {again}")
    for p in run.profiles:
        python = " --python DIR/python" if p.agreement else ""  # the one that tools/arm64_python.py set up
        lines.append(f"rmtkd-edge profile {again} --on {shlex.quote(p.name)}{python}")
    lines.append(f"rmtkd-edge report {name} {again}")
    return "\n".join(lines)


def origin_table(run: RunFacts) -> TableBlock:
    """Return where the run comes from: versions, seed, hashes, times of its stages."""
    rows = [
        words("Seed", str(run.seed)),
        words("rmtkd-edge", run.version or "not recorded"),
        words("Created", run.created or "not recorded"),
        words("Recipe sha256", run.recipe_sha256 or "not recorded"),
    ]
    for stage, facts in run.stages.items():
        rows.append(
            words(
                f"Stage {stage}",
                " ".join(p for p in (str(facts.get("state", "")), str(facts.get("finished") or "")) if p),
            )
        )
    if isinstance(run.exported, Exported):
        rows.append(words("Model", run.exported.model_id or "not recorded"))
        rows += [words(name, version) for name, version in sorted(run.exported.versions.items())]
    return TableBlock("Origin.", ("What", "Value"), tuple(rows), frozenset({1}))
