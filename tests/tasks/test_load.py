"""Many rows: what is held for each is small, progress is said from the start, and large images lie on disk."""

from __future__ import annotations

import hashlib
import runpy
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tasks.tasks_sample import recipe_of

from rmtkd_edge.config.task import Task
from rmtkd_edge.run.reporter import current_reporter, reporting
from rmtkd_edge.tasks import image_classification, text_classification
from rmtkd_edge.tasks.reading import images, progress, sequences
from rmtkd_edge.tasks.reading.digests import rows_digest
from rmtkd_edge.tasks.reading.ragged import Ragged

TEXT = Task(name="toy", text=["text"], validation_fraction=0.1, test_fraction=0, max_length=16)
IMAGE = Task(name="toy", kind="image-classification", validation_fraction=0.25, test_fraction=0)
ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=8), max_size=12)


@given(ROWS, st.data())
def test_ragged_rows_are_the_rows(rows: list[list[int]], data: st.DataObject) -> None:
    found = Ragged.of(rows)
    assert list(found) == rows == found and len(found) == len(rows)
    assert Ragged.joined([Ragged.of(rows[:3]), Ragged.of(rows[3:])]) == rows and Ragged.of(found) is found
    numbers = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    assert found.take(np.array(numbers, np.int64)) == [rows[i] for i in numbers]
    assert found[1:] == rows[1:] and found != [*rows, [1]]


@given(ROWS)
def test_a_digest_is_that_of_whole_numbers_of_64_bits(rows: list[list[int]]) -> None:
    """The digest that runs of earlier versions hold."""
    flat = np.fromiter(chain.from_iterable(rows), np.int64)
    wanted = hashlib.sha256(repr(["a"]).encode())
    wanted.update(np.array([len(row) for row in rows], np.int64).tobytes())
    wanted.update(repr((flat.shape, flat.dtype.str)).encode() + flat.tobytes())
    assert rows_digest(["a"], rows) == wanted.hexdigest()


class Recorder:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, kind: str, **facts: Any) -> None:
        self.events.append((kind, facts))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    recorder = Recorder()
    monkeypatch.setattr(progress, "MANY", 100)
    with reporting(recorder):
        yield recorder.events


def texts(folder: Path, rows: int) -> Path:
    labels = [i % 2 for i in range(rows)]
    words = ["the film was a very lovely story of music"] * rows
    pyarrow.parquet.write_table(pa.table({"text": words, "label": labels}), folder / "train.parquet")
    return folder


def test_the_rows_are_told_before_they_are_tokenised(
    tmp_path: Path, tiny_tokenizer: Path, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "CHUNK", 50)
    text_classification.TASK.load(recipe_of(TEXT, str(tiny_tokenizer)), texts(tmp_path, 200))
    assert {kind for kind, _ in said} == {"reading"}
    assert said[0][1] == {"text": "train.parquet: 200 rows as train"}
    counts = [facts["done"] for _, facts in said if facts.get("text") == "rows of train tokenised"]
    assert counts == [50, 100, 150, 180] and said[-1][1]["total"] == 180


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_rows_of_text_files_are_counted_while_they_are_read(
    ending: str, tmp_path: Path, tiny_tokenizer: Path, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("delimited", "objects"):
        monkeypatch.setattr(f"rmtkd_edge.tasks.reading.{module}.CHUNK", 100)
    lines = {"csv": ["text,label", *["a film,0", "a plot,1"] * 125], "jsonl": ['{"text": "a", "label": 0}'] * 250}
    lines["jsonl"][0] = '{"text": "b", "label": 1}'
    lines["jsonl"][1] = '{"text": "b", "label": 1}'
    (tmp_path / f"train.{ending}").write_text("\n".join(lines[ending]), encoding="utf-8")
    text_classification.TASK.load(recipe_of(TEXT, str(tiny_tokenizer)), tmp_path)
    assert [facts["done"] for _, facts in said if facts.get("text") == f"rows of train.{ending} read"] == [100, 200]


def test_few_rows_and_whoever_listens_to_nothing_are_told_nothing(tmp_path: Path, tiny_tokenizer: Path) -> None:
    recorder = Recorder()
    with reporting(recorder):
        text_classification.TASK.load(recipe_of(TEXT, str(tiny_tokenizer)), texts(tmp_path, 200))
    assert recorder.events == [] and current_reporter() is not recorder


def test_a_row_of_tokens_takes_little_more_than_its_numbers(
    tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "CHUNK", 500)
    rows, data = 20_000, texts(tmp_path, 20_000)
    recipe = recipe_of(TEXT, str(tiny_tokenizer))
    tracemalloc.start()
    found = text_classification.TASK.load(recipe, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.train) == 18_000
    assert peak / rows < 200, "as lists of Python's numbers a row takes 500 bytes and more"


def test_images_that_fill_the_memory_lie_in_files(
    tmp_path: Path, said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "IN_MEMORY", 1000)
    monkeypatch.setattr(images, "TOLD", 50)
    for i in range(120):
        place = tmp_path / "train" / f"class-{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(place / f"{i:03d}.png")
    found = image_classification.TASK.load(recipe_of(IMAGE), tmp_path)
    assert all(isinstance(split.images, np.memmap) for split in found.splits.values())
    values = sorted(int(image[0, 0, 0]) for split in found.splits.values() for image in split.images)
    assert values == list(range(120))
    assert said[0][1]["text"] == "train/: 120 rows as train"
    assert [facts["done"] for _, facts in said[1:]] == [0, 50, 100]


@pytest.mark.slow
def test_tools_load_reads_what_it_made(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["load.py", "--images", "400"])
    runpy.run_path(str(Path(__file__).parents[2] / "tools" / "load.py"), run_name="__main__")
    line = capsys.readouterr().out.splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["images", "400"] and 100 < float(cells[4].replace(",", "")) < 4000
