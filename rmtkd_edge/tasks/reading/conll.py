"""CoNLL-style files: a word and its label a line, a blank line between sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from rmtkd_edge.config.task import Task
from rmtkd_edge.errors import DataError
from rmtkd_edge.tasks.reading.places import with_places
from rmtkd_edge.tasks.reading.text_files import lines_of, open_text

ENDINGS = (".conll", ".bio", ".iob", ".iob2")
COMMENT = re.compile(r"# (.*=|newdoc\b|newpar\b)")
START = "-DOCSTART-"  # of a document, in the files of CoNLL-2003


def read_conll(task: Task, path: Path) -> pa.Table:
    """Return a table with a list of words and a list of labels a sentence: the first and the last column of its lines.

    Columns are parted by tabs, else by spaces. Lines that begin with `# ` are comments where
    they hold a `=` or say `newdoc` or `newpar`.

    Raises:
        DataError: a line without a label, or another number of columns than the one before it; words that are numbers.
    """
    words: list[list[str]] = [[]]
    labels: list[list[str]] = [[]]
    numbers: list[int] = [1]
    columns = 0
    with open_text(path, task.encoding) as handle:
        for number, line in enumerate(lines_of(handle, path), 1):
            text = line.removeprefix("\ufeff").rstrip("\r\n")
            parts = text.split("\t") if "\t" in text else text.split()
            if not text.strip() or parts[0] == START or COMMENT.match(text):
                if words[-1]:
                    words.append([])
                    labels.append([])
                    numbers.append(number + 1)
                continue
            if len(parts) < 2 or (columns and len(parts) != columns):
                raise DataError(
                    f"{path} line {number} has {len(parts)} columns{f', the ones before {columns}' if columns else ''}",
                    "a line has a word, a tab or a space, and its label; a blank line parts sentences",
                )
            if not words[-1]:
                numbers[-1] = number
            columns = len(parts)
            words[-1].append(parts[0].strip())
            labels[-1].append(parts[-1].strip())
    count = len(words) - (not words[-1])
    if count and all(sentence == [str(i + 1) for i in range(len(sentence))] for sentence in words[:count]):
        raise DataError(
            f"the first column of {path} numbers the words, as in CoNLL-U", "write the word first and its label last"
        )
    lists = pa.large_list(pa.large_string())
    parts_of = {task.text[0]: words, task.label: labels}
    table = pa.table({name: pa.array(values[:count], lists) for name, values in parts_of.items()})
    return with_places(table, path.name, numbers[:count], "line")
