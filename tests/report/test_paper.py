"""`report --paper`: what is compared with what, what is said of what is not, and the files that are written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from report.paper_sample import TEACHER_RIGHT, paper_run, right_but, spec
from report.report_sample import build_run
from report.test_report_page import Page

from rmtkd_edge.cli.app import main
from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.report.blocks import Cell
from rmtkd_edge.report.paper.entries import read_entries
from rmtkd_edge.report.paper.find import Skipped, find_runs
from rmtkd_edge.report.paper.gather import gather
from rmtkd_edge.report.paper.record import GroupRecord, PaperRecord, RowRecord
from rmtkd_edge.report.paper.stage import report_paper
from rmtkd_edge.report.paper.tables import steps_cell
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.base import from_json

GOOD, WORSE, BETTER = right_but(range(40)), right_but(range(40), range(100, 160)), right_but(range(4))


def record(*runs: Path, reference: Path | None = None) -> PaperRecord:
    return gather(runs, reference).record


def page(*runs: Path, out: Path) -> str:
    return report_paper(runs, out).markdown.read_text(encoding="utf-8")


def row(found: GroupRecord, method: str) -> RowRecord:
    (only,) = [one for one in found.table if one.method == method and not one.differs]
    return only


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """RMT-KD twice, a method that is behind it, one that is ahead, one that is equal."""
    paper_run(tmp_path / "grid/rmt-kd/0", seed=0, right=GOOD)
    paper_run(tmp_path / "grid/rmt-kd/1", seed=1, right=right_but(range(38)))
    paper_run(tmp_path / "grid/pkd/0", "pkd", right=WORSE)
    paper_run(tmp_path / "grid/at/0", "plain-kd", right=BETTER)
    paper_run(tmp_path / "grid/pca/0", "pca", right=GOOD)
    return tmp_path / "grid"


def test_every_method_is_compared_with_rmt_kd_on_the_same_rows(grid: Path, tmp_path: Path) -> None:
    (found,) = record(grid).groups
    ours = row(found, "rmt-kd")
    assert ours.seeds == (0, 1) and ours.paired is None and found.rows == 400 and found.asked == 0.8
    changes = [GOOD.mean() - TEACHER_RIGHT.mean(), right_but(range(38)).mean() - TEACHER_RIGHT.mean()]
    assert ours.change == pytest.approx(fmean(changes)) and ours.change_sd == pytest.approx(stdev(changes))
    behind, ahead, equal = (row(found, name) for name in ("pkd", "plain-kd", "pca"))
    assert all(one.change_sd is None and one.paired is not None for one in (behind, ahead, equal))
    assert behind.paired.high < 0 < ahead.paired.low and ahead.paired.mcnemar_p < 0.001
    assert equal.paired.low <= 0 <= equal.paired.high and not equal.paired.clear and equal.paired.reference_seeds == 2
    assert ahead.paired.difference == pytest.approx(BETTER.mean() - fmean([GOOD.mean(), right_but(range(38)).mean()]))


def test_who_is_behind_is_said_as_plainly_as_who_is_ahead(grid: Path, tmp_path: Path) -> None:
    shown = page(grid, out=tmp_path / "out").partition("## Table I of the paper")[0]
    lines = {line.split("|")[1].strip().split("<br>")[0]: line for line in shown.splitlines() if line.startswith("| ")}
    assert "RMT-KD is ahead" in lines["PKD-Skip"] and "RMT-KD is behind" in lines["plain KD"]
    assert "no clear difference" in lines["PCA"]


def test_steps_that_a_budget_of_time_set_are_no_setting(grid: Path, tmp_path: Path) -> None:
    for seed, steps in ((1, 300), (2, 400)):
        paper_run(grid / f"pca/{seed}", "pca", seed=seed, keys={"distil.steps": steps})
    apart, together = (gather([grid], equal_time=told).record.groups[0] for told in (False, True))
    assert [one.seeds for one in apart.table if one.method == "pca"] == [(0,), (1,), (2,)]
    ours = row(together, "pca")
    assert ours.seeds == (0, 1, 2) and len(ours.steps_by_seed) == 3 and ours.steps == fmean(ours.steps_by_seed)
    assert row(together, "rmt-kd") == row(apart, "rmt-kd")


def test_the_table_shows_the_least_and_the_most_steps_where_they_differ() -> None:
    assert steps_cell([300, 300]) == Cell("300")
    assert steps_cell([1145, 1474, 1225]) == Cell("1,281", ("1,145 to 1,474",))


def test_body_reduction_leaves_out_word_table_and_classifier(grid: Path, tmp_path: Path) -> None:
    (found,) = record(grid).groups
    small, large = spec(8), spec(32)
    assert row(found, "rmt-kd").body_reduction == pytest.approx(
        1 - small.count_body_parameters() / large.count_body_parameters()
    )


@pytest.mark.parametrize(
    "other",
    [{"teacher": b"other weights"}, {"rows": "b" * 64}, {"target": 0.5}, {"rows": None}],
    ids=["teacher", "rows", "target", "rows unknown"],
)
def test_what_is_not_comparable_is_not_compared(other: dict[str, Any], tmp_path: Path) -> None:
    paper_run(tmp_path / "a", right=GOOD)
    paper_run(tmp_path / "b", "pkd", right=WORSE, **other)
    found = record(tmp_path / "a", tmp_path / "b")
    assert sorted(one.method for group in found.groups for one in group.table) == ["pkd", "rmt-kd"]
    assert len(found.groups) == 2 and all(len(group.table) == 1 for group in found.groups)
    (alone,) = [one for group in found.groups for one in group.table if one.method == "pkd"]
    assert alone.paired is None and "no run of rmt-kd" in alone.why_not_paired


def test_two_runs_whose_rows_are_not_recorded_are_not_compared_either(tmp_path: Path) -> None:
    for name, method in (("a", "rmt-kd"), ("b", "pkd")):
        paper_run(tmp_path / name, method, rows=None)
    assert len(record(tmp_path).groups) == 2
    written = report_paper([tmp_path], tmp_path / "out")
    assert [path.name for path in written.figures if "quality" in path.name] == [
        "sst2-quality.svg",
        "sst2-2-quality.svg",
    ]
    shown = written.markdown.read_text(encoding="utf-8")
    assert "2 sets of reported rows" in shown and "are not compared" in shown and "no run of rmt-kd has" in shown


@pytest.mark.parametrize("fault", ["older", "damaged", "other targets"])
def test_without_outputs_there_is_no_pairing_and_the_rest_stays(fault: str, tmp_path: Path) -> None:
    paper_run(tmp_path / "a", right=GOOD)
    other = paper_run(tmp_path / "b", "pkd", right=WORSE, keep=fault != "older")
    if fault == "damaged":
        (other / layout.OUTPUTS).write_bytes(b"x")
    if fault == "other targets":
        run = Run.open(other)
        tensors = run.read_tensors(layout.OUTPUTS)
        run.write_tensors(layout.OUTPUTS, {**tensors, "targets/00000": 1 - tensors["targets/00000"]})
    (found,) = record(tmp_path / "a", other).groups
    theirs = row(found, "pkd")
    assert theirs.paired is None and theirs.value == pytest.approx(WORSE.mean())
    said = {"older": "keeps no outputs", "damaged": "changed or cut off", "other targets": "keeps other targets"}
    assert said[fault] in theirs.why_not_paired


def test_one_changed_key_is_an_ablation_and_two_are_a_row(tmp_path: Path) -> None:
    paper_run(tmp_path / "a", right=GOOD)
    paper_run(tmp_path / "b", right=WORSE, keys={"distil.match": 3.0})
    paper_run(tmp_path / "c", right=WORSE, keys={"distil.match": 3.0, "compress.allocation": "kl"})
    (found,) = record(*(tmp_path / name for name in "bca"), reference=tmp_path / "a").groups
    (changed,) = found.ablations
    assert changed.differs == {"distil.match": ("3.0", "0.0")} and changed.paired is not None
    assert changed.paired.difference == pytest.approx(WORSE.mean() - GOOD.mean())
    assert [one.differs.keys() for one in found.table] == [set(), {"distil.match", "compress.allocation"}]


def test_the_reference_does_not_depend_on_the_results(tmp_path: Path) -> None:
    for number, right in enumerate((GOOD, WORSE)):
        folder = tmp_path / str(number)
        for seed in (0, 1):
            paper_run(folder / f"a{seed}", seed=seed, right=right)
        paper_run(folder / "b", right=BETTER, keys={"distil.match": 3.0})
        paper_run(folder / "c", right=BETTER, keys={"analyse.rule": "explained-variance"})
        (found,) = record(folder).groups
        assert row(found, "rmt-kd").seeds == (0, 1) and len(found.ablations) == 2


def test_a_reference_that_is_none_is_refused(grid: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no finished run of rmt-kd"):
        report_paper([grid], tmp_path / "out", grid / "pkd/0")


def test_the_same_run_again_is_not_another_seed(grid: Path, tmp_path: Path) -> None:
    shutil.copytree(grid / "pkd/0", tmp_path / "copy")
    (found,) = record(grid, tmp_path / "copy", grid / "pkd").groups
    assert row(found, "pkd").seeds == (0,) and found.repeated == (str(tmp_path / "copy"),)


def test_settings_that_name_the_same_thing_are_the_same(tmp_path: Path) -> None:
    keys = {
        "compress.warm_start": "least-squares",
        "model.source": "elsewhere",
        "task.hub": "a/b",
        "task.split_seed": 5,
    }
    paper_run(tmp_path / "a", seed=0)
    paper_run(tmp_path / "b", seed=1, keys=keys)
    (found,) = record(tmp_path).groups
    assert row(found, "rmt-kd").seeds == (0, 1)


@pytest.mark.parametrize("falls", [False, True])
def test_the_quantile_is_drawn_where_it_was_the_recipes(falls: bool, tmp_path: Path) -> None:
    gone = {0.1: 0.2, 0.3: 0.45, 0.5: 0.4 if falls else 0.5}
    for quantile, reduction in gone.items():
        keys = {"analyse.quantile": quantile}
        paper_run(tmp_path / f"q/{quantile}", keys=keys, target=1.0, reduction=reduction, cut_at=quantile)
    paper_run(tmp_path / "q/0.9", keys={"analyse.quantile": 0.9}, target=1.0, cut_at=0.45)  # lowered by a retry
    paper_run(tmp_path / "q/bema", keys={"analyse.rule": "bema"}, target=1.0, reduction=0.3, cut_at=0.5)
    found = record(tmp_path / "q")
    free, curve = found.curves
    assert [(point.quantile, point.reduction) for point in free.points] == [(None, 0.3)]
    assert {point.quantile: point.reduction for point in curve.points} == gone
    assert curve.falls == ((0.5,) if falls else ())
    shown = page(tmp_path / "q", out=tmp_path / "out")
    assert ("not monotone" in shown) == falls and "Rule bema: no quantile" in shown
    assert "q/0.9" in shown.partition("Left out")[2].splitlines()[0]
    assert (tmp_path / "out/figures/sst2-quantile.svg").is_file()
    shown_twice = {run for one in found.groups[0].table for run in one.runs if one.differs}
    assert not shown_twice  # rule and quantile differ: in the figure, and no row


def test_figures_without_data_say_which_command_makes_it(grid: Path, tmp_path: Path) -> None:
    written = report_paper([grid], tmp_path / "out")
    shown = written.markdown.read_text(encoding="utf-8")
    assert shown.count("To make the data:") == 4  # power, files, quantile, attribution
    for command in ("rmtkd-edge profile RUN --on PROFILE", "--set analyse.quantile=0.3", "--set distil.match=0"):
        assert command in shown
    assert {path.name for path in written.figures} == {"sst2-spectra-round-1.svg", "sst2-quality.svg"}


def test_exported_and_profiled_runs_show_files_power_and_energy(tmp_path: Path) -> None:
    whole = build_run(tmp_path / "whole", scale=32)
    run = Run.open(paper_run(tmp_path / "a"))
    for rel in [name for name in whole.manifest["files"] if name.startswith(("export/", "baseline/", "profile/"))]:
        run.write_bytes(rel, whole.read_bytes(rel))
    found = record(tmp_path / "a")
    metered = [one for one in found.files if one.device == "laptop"]
    assert {one.precision for one in found.files} == {"fp32", "int8"} and all(one.watts for one in metered)
    for one in metered:
        assert one.joules is not None and (one.change is None) == (one.precision == "fp32")
    assert not any(one.watts for one in found.files if one.device != "laptop")
    names = {path.name.rpartition("-")[2] for path in report_paper([tmp_path / "a"], tmp_path / "out").figures}
    assert {"power.svg", "resources.svg", "quality.svg"} <= names


def test_text_from_runs_is_escaped_and_nothing_reaches_outside(tmp_path: Path) -> None:
    odd = "<script>alert(1)</script> & | *x*"
    paper_run(tmp_path / "a & <b>", right=GOOD, task=odd)
    paper_run(tmp_path / "c", "pkd", right=WORSE, task=odd)
    written = report_paper([tmp_path], tmp_path / "out")
    source = written.html.read_text(encoding="utf-8")
    parsed = Page(source)
    assert odd in parsed.text and "<script" not in source and len(parsed.ids) == len(set(parsed.ids))
    assert not [
        a for _, attrs in parsed.tags for k, a in attrs.items() if k in ("src", "href") and not a.startswith("#")
    ]
    markdown = written.markdown.read_text(encoding="utf-8")
    assert "<script" not in markdown and "& | *x*" not in markdown and "\\| \\*x\\*" in markdown


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(grid: Path, tmp_path: Path) -> None:
    (grid / "unfinished").mkdir()
    Run.create(grid / "unfinished", "", 0)
    (grid / "pca/0" / layout.RESULT).write_text("{}", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    found = record(grid, tmp_path / "empty")
    why = {Path(one.run).name: one.why for one in found.skipped}
    assert "changed or cut off" in why["0"] and "has not finished" in why["unfinished"] and "no run" in why["empty"]
    assert {one.method for one in found.groups[0].table} == {"rmt-kd", "pkd", "plain-kd"}


def test_runs_are_found_once_and_not_inside_runs(grid: Path) -> None:
    (grid / "pkd/0/inner").mkdir()
    (grid / "pkd/0/inner/run.json").write_text("{}", encoding="utf-8")
    found, skipped = find_runs([grid / "pkd/0", grid])
    assert len(found) == 5 and not skipped and found[0] == grid / "pkd/0"
    assert isinstance(read_entries(grid / "pkd/0/inner"), Skipped)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return int(left.value.code or 0), shown.out, shown.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--paper", "EMPTY"], "there is no finished run"),
        (["--paper", "EMPTY/nothing"], "is no folder"),
        (["--paper", "EMPTY", "--against", "EMPTY"], "--against"),
        (["EMPTY", "--reference", "EMPTY"], "--reference goes with --paper"),
        (["EMPTY", "--equal-time"], "--equal-time goes with --paper"),
    ],
)
def test_nothing_to_compare_is_the_users_error(
    arguments: Sequence[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    where = [argument.replace("EMPTY", str(tmp_path / "empty")) for argument in arguments]
    code, _, err = said(capsys, "report", *where)
    assert code == 2 and says in err and "try: " in err


def test_the_command_writes_where_it_is_told(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "report", "--paper", grid, "--out", tmp_path / "out", "--json")
    told = json.loads(out)
    assert code == 0 and Path(told["html"]).is_file() and told["skipped"] == []
    kept = from_json(PaperRecord, json.loads(Path(told["json"]).read_text(encoding="utf-8")), "paper.json")
    assert kept == record(grid)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/paper.md").write_text("my own", encoding="utf-8")
    with pytest.raises(RunDirError, match="is none of our reports"):
        report_paper([grid], tmp_path / "mine")
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    report_paper([grid], tmp_path / "out")  # ours is replaced, by the same bytes
    assert [path.read_bytes() for path in files] == before and len(files) == 5
