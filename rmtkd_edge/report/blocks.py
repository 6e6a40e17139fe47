"""What a page is made of, before it is Markdown or HTML: sections of notes, tables, pictures and listings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rmtkd_edge.report.drawing import Picture
from rmtkd_edge.report.records import Missing, Quantity

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Cell:
    """One cell: the value, small lines below it, a footnote mark; `span` columns wide.

    tone: missing, good, bad, warn, or empty.
    """

    text: str
    sub: tuple[str, ...] = ()
    tone: str = ""
    mark: str = ""
    span: int = 1


@dataclass(frozen=True)
class Row:
    """A row, or with `group` a heading over the rows that follow."""

    cells: tuple[Cell, ...]
    group: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table; the first column names its rows, the `text_columns` hold text, the others numbers.

    With a `label` it is folded away under it until the reader opens it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    text_columns: frozenset[int] = frozenset()
    notes: tuple[tuple[str, str], ...] = ()
    label: str = ""
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class NoteBlock:
    """A paragraph, with an optional command to type; tone: empty, missing, warn."""

    text: str
    command: str = ""
    tone: str = ""
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class CodeBlock:
    """A listing, folded away where `folded`."""

    text: str
    title: str
    language: str = ""
    folded: bool = False
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class PictureBlock:
    """A figure; `prefix` keeps its ids and its file name apart from those of other runs."""

    picture: Picture
    prefix: str
    kind: str = field(default="picture", init=False)

    @property
    def file_name(self) -> str:
        """Name of the SVG file below figures/."""
        return f"{self.prefix}-{self.picture.name}.svg" if self.prefix else f"{self.picture.name}.svg"


Block = TableBlock | NoteBlock | CodeBlock | PictureBlock


@dataclass(frozen=True)
class Section:
    """A heading with its blocks and the sections below it."""

    anchor: str
    title: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One of the key figures at the top."""

    name: str
    value: str
    detail: str
    tone: str = ""


FOOTER = "Every figure on this page was read from the run directories; one that was not measured says why."


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    facts: tuple[str, ...]
    verdict: tuple[str, ...]
    tiles: tuple[Tile, ...]
    notes: tuple[NoteBlock, ...]
    sections: tuple[Section, ...]
    footer: str = FOOTER

    def pictures(self) -> list[PictureBlock]:
        """Return every figure in reading order."""
        return [block for section in self.sections for block in _pictures(section)]


def _pictures(section: Section) -> list[PictureBlock]:
    own = [block for block in section.blocks if isinstance(block, PictureBlock)]
    return own + [block for below in section.sections for block in _pictures(below)]


class Footnotes:
    """Letters for the reasons why cells of one table are empty, each reason once."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def cell(self, why: str) -> Cell:
        """Return a cell that says `not measured` and refers to the reason."""
        return Cell(NOT_MEASURED, tone="missing", mark=self.mark(f"{NOT_MEASURED}: {why}"))

    def figure(self, found: Quantity, write: Callable[[float], str]) -> Cell:
        """Return a cell with a figure, or one that refers to the reason why there is none."""
        return self.cell(found.why) if found.value is None else Cell(write(found.value))

    def mark(self, note: str) -> str:
        """Return the letter of a note."""
        return self._marks.setdefault(note, _letters(len(self._marks)))

    def notes(self) -> tuple[tuple[str, str], ...]:
        """Return (letter, note) in the order of their first use."""
        return tuple((mark, note) for note, mark in self._marks.items())


def _letters(index: int) -> str:
    return (_letters(index // 26 - 1) if index >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[index % 26]


def group(title: str) -> Row:
    """Return a heading row."""
    return Row((Cell(title),), group=True)


def text_row(*texts: str) -> Row:
    """Return a row of plain cells."""
    return Row(tuple(Cell(t) for t in texts))


def missing(what: Missing) -> NoteBlock:
    """Return the note in place of a stage that has not been run."""
    return NoteBlock(f"Not measured: {what.why}. To create it:", what.command, "missing")


def not_measured(quantity: Quantity) -> str:
    """Return the words for a figure that is not there."""
    return f"{NOT_MEASURED}: {quantity.why}"


def slug(text: str) -> str:
    """Return an anchor or file name stem from any text: lower case, letters, digits and dashes; never empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def prefixes(names: Sequence[str]) -> list[str]:
    """Return a distinct slug for each name."""
    found: list[str] = []
    for name in names:
        base, number = slug(name), 2
        candidate = base
        while candidate in found:
            candidate, number = f"{base}-{number}", number + 1
        found.append(candidate)
    return found
