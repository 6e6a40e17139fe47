"""Size against quality: what is on the front, what dominates the rest, which runs may be held against each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from report.report_sample import build_run, compress_result, exported, scores
from report.test_report_page import Page, read

from rmtkd_edge.report.pareto import Point, dominates, dominating, front
from rmtkd_edge.report.stage import report_runs
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.compress import CompressRecord, FamilyMember

ROWS = {"validation": "v", "test": "t"}
GRID = [Point(0, f"{c}/{q}", "candidate", "fp32", c, scores(q)) for c, q in product((1.0, 2.0, 3.0), (0.7, 0.8))]


def test_the_front_is_what_nothing_dominates():
    kept = front(GRID)
    assert [point.name for point in kept] == ["1.0/0.8"]
    for point in GRID:
        better = dominating(point, GRID)
        assert (better is None) == (point in kept) and (better is None or dominates(better, point))
    assert not any(dominates(point, point) for point in GRID)
    rising = [replace(GRID[0], name=str(i), cost=float(i), scores=scores(0.5 + i / 10)) for i in range(4)]
    assert front(rising[::-1]) == rising


def test_equal_files_do_not_dominate_each_other():
    twins = [GRID[0], replace(GRID[0], name="twin")]
    assert len(front(twins)) == 2


def family_run(path: Path, rows: dict[str, str] = ROWS, size: int = 5_000_000) -> Run:
    """A run with one student on the way, half as small as the run's own, whose files are `size` bytes and good."""
    run = build_run(path)
    run.mark("compress", "done", rows=rows)
    whole = run.read_record(CompressRecord, layout.RESULT)
    larger = FamilyMember("0.5", whole.student, 0.5, 0.0, whole.ranks)
    run.write_record(layout.RESULT, replace(whole, targets=(0.5, 0.8), larger=(larger,)))
    run.write_json(f"{layout.student('0.5').checkpoint}/{layout.SHAPE}", {})
    facts, test = exported(False, {}), scores(0.82, "test")
    better = {
        name: replace(v, size_bytes=size * (4 if name == "fp32" else 1), sha256=f"{path.name}{name}", test=test)
        for name, v in facts.variants.items()
    }
    run.write_record(layout.student("0.5").record, replace(facts, variants=better))
    return run


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return family_run(tmp_path_factory.mktemp("sizes") / "fam")


def section(html: str) -> str:
    start, end = '<section aria-labelledby="sizes">', "</section>"
    return start + html.partition(start)[2].partition(end)[0] + end


def test_every_student_is_in_the_table_with_its_place(family, tmp_path):
    html, _ = read(report_runs([family], tmp_path / "page"))
    text = " ".join(Page(section(html)).text.split())
    for name in ("original fp32", "original int8", "rmt-kd 0.5 fp32", "rmt-kd 0.5 int8", "rmt-kd fp32", "rmt-kd int8"):
        assert name in text
    assert "dominated by rmt-kd 0.5 int8" in text and "on the front" in text
    assert "Latency on laptop" in text and "5.00\u00a0MB" in section(html)
    assert (tmp_path / "page" / "figures" / "front.svg").is_file()
    assert "Student 0.5" in Page(html).text


def test_another_run_on_the_same_rows_is_drawn_and_its_copies_are_not(family, tmp_path):
    other = family_run(tmp_path / "small", size=1_000_000)
    html, _ = read(report_runs([family], tmp_path / "page", against=[other]))
    text = " ".join(Page(section(html)).text.split())
    assert "small: rmt-kd 0.5 int8" in text and "dominated by small: rmt-kd 0.5 int8" in text
    assert "small: original fp32" not in text  # the same file


@pytest.mark.parametrize(
    ("rows", "stages", "why"),
    [
        ({**ROWS, "test": "x"}, "", "its test rows are others"),
        ({}, "", "its test rows are not recorded"),
        (ROWS, "compress", "export has not been run"),
    ],
)
def test_a_run_that_cannot_be_compared_is_named_with_the_reason(family, tmp_path, rows, stages, why):
    other = build_run(tmp_path / "b", stages=stages or "compress export")
    other.mark("compress", "done", rows=rows)
    html, _ = read(report_runs([family], tmp_path / "page", against=[other]))
    assert f"b is not drawn: {why}" in " ".join(Page(section(html)).text.split())
    assert "b: rmt-kd" not in html


def test_another_task_is_not_drawn(family, tmp_path):
    other = build_run(tmp_path / "b", stages="compress export")
    whole = compress_result([])
    other.write_record(layout.RESULT, replace(whole, task=replace(whole.task, name="qnli")))
    other.mark("compress", "done", rows=ROWS)
    html, _ = read(report_runs([family], tmp_path / "page", against=[other]))
    assert "b is not drawn: its task is qnli by accuracy, not sst2 by accuracy" in Page(section(html)).text
