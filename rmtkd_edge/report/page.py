"""Facts in, pages out: one Document, written as Markdown with linked figures or as one HTML file that stands alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.report.blocks import Block, Document, NoteBlock, PictureBlock, Section, prefixes
from rmtkd_edge.report.data import data_section
from rmtkd_edge.report.devices import devices_section
from rmtkd_edge.report.method import compression_section, spectra_section
from rmtkd_edge.report.operators import operators_section
from rmtkd_edge.report.palette import properties, stylesheet
from rmtkd_edge.report.proof import fusion_section, reproduce_section, verification_section
from rmtkd_edge.report.records import Compression, RunFacts
from rmtkd_edge.report.runs import runs_section
from rmtkd_edge.report.sizes import sizes_section
from rmtkd_edge.report.summary import summary_table
from rmtkd_edge.report.svg import FONT
from rmtkd_edge.report.trust import trust_section
from rmtkd_edge.report.verdict import doubts, tiles, verdict


def build(runs: Sequence[RunFacts], against: Sequence[RunFacts] = ()) -> Document:
    """Return the report of one run, or of several next to each other and then one by one; figures are drawn here.

    Args:
        against: other runs, whose files each run's are held against by size and quality.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    if len(runs) == 1:
        run = runs[0]
        return Document(title(run), facts(run), (verdict(run),), tiles(run), doubts(run), sections(run, against, ""))
    marks = prefixes([run.name for run in runs])
    ones = []
    for run, mark in zip(runs, marks, strict=True):
        lead: tuple[Block, ...] = (NoteBlock(verdict(run)), *doubts(run))
        ones.append(Section(f"{mark}-run", run_title(run), lead, sections(run, against, f"{mark}-")))
    heading = f"{len(runs)} runs compared"
    said = tuple(f"{run.name}: {verdict(run)}" for run in runs)
    return Document(heading, tuple(run.name for run in runs), said, (), (), (runs_section(runs), *ones))


def title(run: RunFacts) -> str:
    """Return the recipe's title, else the run's name."""
    return run.title or run.name


def run_title(run: RunFacts) -> str:
    """Return how a run is named among others: by folder, with the recipe's title after it."""
    return f"{run.name}: {run.title}" if run.title else run.name


def facts(run: RunFacts) -> tuple[str, ...]:
    """Return the small print under the title."""
    c = run.compression
    task = f"task {c.task}" if isinstance(c, Compression) and c.task else ""
    created = f"created {run.created[:10]}" if run.created else ""
    version = f"rmtkd-edge {run.version}" if run.version else ""
    return tuple(p for p in (f"run {run.name}", task, f"seed {run.seed}", created, version) if p)


def sections(run: RunFacts, against: Sequence[RunFacts], prefix: str) -> tuple[Section, ...]:
    """Return the sections of one run; `prefix` keeps anchors and ids of several runs apart."""
    sizes = sizes_section(run, against, prefix)
    operators = operators_section(run, prefix)
    return (
        Section(f"{prefix}summary", "Summary", (summary_table(run),)),
        *([sizes] if sizes else []),
        devices_section(run, prefix),
        *([operators] if operators else []),
        compression_section(run, prefix),
        spectra_section(run, prefix),
        data_section(run, prefix),
        verification_section(run, prefix),
        fusion_section(run, prefix),
        trust_section(run, prefix),
        reproduce_section(run, prefix),
    )


def html(document: Document) -> str:
    """Return the report as one HTML file without any outside reference or script."""
    environment = _environment(autoescape=True)
    environment.globals.update(
        palette=Markup(stylesheet()), light=Markup(properties(False)), font=Markup(FONT), svg=_inline_svg
    )
    return environment.get_template("report.html.j2").render(document=document)


def markdown(document: Document) -> str:
    """Return the report as Markdown; figures are links to figures/*.svg."""
    environment = _environment(autoescape=True, finalize=_markdown_value)
    environment.globals.update(fence=_fence)
    rendered = environment.get_template("report.md.j2").render(document=document)
    return re.sub(r"\n{3,}", "\n\n", rendered).strip() + "\n"


def _environment(**options: Any) -> jinja2.Environment:
    loader = jinja2.PackageLoader("rmtkd_edge.report", "templates")
    return jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )


def _inline_svg(block: PictureBlock) -> Markup:
    # Safe as it is: drawn by us, and every text in it was escaped by matplotlib or by svg.py.
    return Markup(block.picture.inline(f"f-{block.prefix}" if block.prefix else "f"))


def _markdown_value(value: Any) -> Any:
    """Return a value as Markdown shows it literally: HTML and Markdown signs escaped, line ends made blanks."""
    if isinstance(value, Markup) or value is None:
        return "" if value is None else value
    line = " ".join(str(value).split("\n")).replace("\r", " ")
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", line)
    return Markup(escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _fence(content: str, language: str) -> Markup:
    """Return a fenced listing; the fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markup(f"{ticks}{language}\n{content.rstrip()}\n{ticks}")


def refuse_strangers(page: Path, mark: str, files: Iterable[str]) -> None:
    """Raise RunDirError where a file next to a page would be replaced, and the page is none of ours.

    Args:
        mark: what every page of ours holds.
        files: what is to be written, relative to the page's folder.
    """
    if page.is_file() and mark in page.read_text(encoding="utf-8", errors="replace"):
        return
    for file in (page.parent / rel for rel in files):
        if file.exists():
            raise RunDirError(f"{file} is none of our reports, and is not replaced", "choose another --out")
