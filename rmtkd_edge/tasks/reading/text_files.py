"""Text files as people have them: compressed or not, in UTF-8, with a byte order mark, or as the recipe says."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from rmtkd_edge.errors import DataError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
MARKS = (  # UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LIKELY = "cp1252"  # what Windows writes in western Europe, latin-1 but for a few signs
OTHERS = (  # what begins so is no text, whatever its ending
    (b"PK\x03\x04", "a zip archive, as Excel files are", "save the sheet as CSV (UTF-8), or unpack the archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel file of an older kind", "save the sheet as CSV (UTF-8)"),
    (b"\x1f\x8b", "compressed by gzip", "let its name end with .gz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "let its name end with .zst"),
    (b"BZh91AY&SY", "compressed by bzip2", "let its name end with .bz2"),
    (b"PAR1\x15", "a Parquet file", "let its name end with .parquet"),
    (b"ARROW1\0\0", "an Arrow file", "write it as Parquet"),
)
LONGEST_LINE = 2**28  # characters
SHOWN_BYTES = 20  # around one that is no UTF-8
FIRST = 4096  # bytes that are looked into before a file is read


def kind_of(path: Path) -> str:
    """Return the ending that names the format, in lower case and without that of a compression."""
    return Path(_plain(path)).suffix.lower()


def stem_of(path: Path) -> str:
    """Return a file's name without its endings for format and compression."""
    return Path(_plain(path)).stem


def _plain(path: Path) -> str:
    return path.stem if path.suffix.lower() in COMPRESSIONS else path.name


@contextmanager
def open_text(path: Path, encoding: str | None) -> Iterator[io.TextIOBase]:
    """Open a text file, decompressed where its ending says so.

    Args:
        encoding: of the file; a byte order mark says it, and else it is UTF-8, when left out.

    Raises:
        DataError: bytes that the encoding does not know, with the line of the first.
    """
    with _bytes(path) as stream:
        first = stream.peek(FIRST)[:FIRST]
        marked = next((name for mark, name in MARKS if first.startswith(mark)), "utf-8-sig")
        for start, what, way_out in OTHERS:
            if first.startswith(start):
                raise DataError(f"{path} is {what}", way_out)
        if encoding is None and marked == "utf-8-sig" and b"\0" in first:
            raise DataError(
                f"{path} holds NUL bytes, as UTF-16 without a byte order mark does",
                "--set task.encoding=utf-16-le, or save it as UTF-8",
            )
        with io.TextIOWrapper(stream, encoding or marked, newline="") as text:
            try:
                yield text
            except UnicodeDecodeError as err:
                raise _undecodable(path, encoding or marked) from err


def lines_of(handle: io.TextIOBase, path: Path) -> Iterator[str]:
    """Yield the lines of a text file; raise DataError for one that is too long to be a row."""
    while line := handle.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path} has a line of more than {LONGEST_LINE:,} characters", "is it a table?")
        yield line


def _bytes(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix.lower())))


def _undecodable(path: Path, encoding: str) -> DataError:
    """Return the error for a file with bytes that its encoding does not know."""
    name = encoding.removesuffix("-sig").upper()
    hint = f"--set task.encoding={LIKELY} (Windows, western Europe), or what it was saved in; or save it as UTF-8"
    if not encoding.startswith("utf-8"):
        return DataError(f"{path} is not {name}", hint)
    with _bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as err:
                around = line[max(0, err.start - SHOWN_BYTES) : err.start + SHOWN_BYTES].strip()
                told = f"line {number} has the byte 0x{line[err.start]:02X}"
                return DataError(
                    f"{path} is not {name}: {told} (as {LIKELY}: {around.decode(LIKELY, 'replace')!r})", hint
                )
    return DataError(f"{path} is not {name}", hint)
