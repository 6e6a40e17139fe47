"""What a stage says is shown as it is, on a terminal and elsewhere."""

import io
from dataclasses import replace

import pytest
from report.report_sample import profiled
from rich.console import Console

from rmtkd_edge.cli.progress import ConsoleReporter, line_of
from rmtkd_edge.cli.tables import comparison_lines, figure, profile_table, table_of
from rmtkd_edge.run.records.base import from_json
from rmtkd_edge.run.records.profile import ProfileRecord, WorkloadRecord

SITE = {"name": "layer.0.ffn", "width_before": 64, "width_after": 16, "lambda_plus": 1.5, "q": 0.1, "rank": 13}
CYCLE = {"index": 1, "parameters_before": 1000, "parameters_after": 400, "metric": "f1", "before": 0.9, "after": 0.8}
VARIANT = {"folder": "export", "precision": "int8", "size_bytes": 2_500_000, "metric": "f1", "value": 0.75}
EVENTS = [
    ("stage", {"name": "compress"}, "compress"),
    ("validation", {"step": 2, "metric": "f1", "value": 0.5}, "step 2: f1 0.5000"),
    ("variant", {**VARIANT, "refused": None}, "export int8: 2.5 MB, f1 0.7500"),
    ("variant", {**VARIANT, "refused": "it lost [too] much"}, "refused: it lost [too] much"),
    ("cycle_end", {**CYCLE, "accepted": True}, "1,000 -> 400 parameters, f1 0.9000 -> 0.8000, accepted"),
    ("cycle_start", {"index": 1, "sites": ["a", "b", "c", "d", "e", "f"]}, "and 2 more"),
    ("site", SITE, "64 -> 16"),
    ("site", {**SITE, "lambda_plus": None, "q": None}, "layer.0.ffn"),
    ("cycle_end", {**CYCLE, "accepted": False, "reason": "under [the] floor"}, "rolled back: under [the] floor"),
    ("stop", {"rule": "target_reduction"}, "target reduction"),
    ("note", {"text": "[bold]as it is[/]"}, "[bold]as it is[/]"),
    ("something new", {"answer": 42}, "answer 42"),
    ("runner", {"text": "idle"}, "idle"),
]


@pytest.mark.parametrize(("kind", "facts", "says"), EVENTS)
def test_every_event_is_a_line(kind, facts, says):
    assert says in line_of(kind, facts)


@pytest.mark.parametrize("terminal", [True, False])
def test_events_are_shown_once_and_steps_end_with_the_last(terminal: bool):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    with ConsoleReporter(console) as reporter:
        for step in range(1, 31):
            reporter.event("step", step=step, total=30, loss=0.25)
        for kind, facts, _ in EVENTS:
            reporter.event(kind, **facts)
        reporter.event("runner", text="round", done=3, total=3)
        reporter.event("trial", done=7, total=7)
    shown = console.file.getvalue()
    for _, _, says in EVENTS:
        assert says in shown
    assert shown.count("answer 42") == 1
    assert terminal or ("30/30" in shown and "7/7 closed forms" in shown)  # a bar is drawn when there is time to


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def test_a_table_shows_brackets_and_dashes():
    shown = text_of(table_of(["a", "b"], [["[red]x", figure(None, ".2f")], ["y", figure(1234.5, ".1f", 1e-3)]]))
    assert "[red]x" in shown and " - " in shown and "1.2" in shown


def test_a_profile_without_energy_shows_no_zero_and_a_speed_up_is_the_inverse_ratio():
    record = from_json(ProfileRecord, profiled("local-cpu", 1.0, metered=False), "profile.json")
    fp32 = record.results[0]
    metered = replace(fp32, energy=replace(fp32.energy, kind="modelled", j_per_inf_net=0.5))
    shown = text_of(profile_table(replace(record, results=(fp32, metered))))
    assert "500.0 (modelled, net)" in shown and " 0.0" not in shown and f"{fp32.latency.p50:.2f}" in shown
    pair = next(p for p in record.comparisons if p.metric == "latency_ms" and p.baseline.startswith("original"))
    pair = replace(pair, ratio=0.25, ci95=(0.2, 0.5), workload=WorkloadRecord(1, 64), why=None)
    assert comparison_lines(replace(record, comparisons=(pair,), notes=())) == [
        f"{pair.candidate} is 4.00 times as fast as {pair.baseline} (batch 1, 64 tokens, 95 % interval 2.00 to 5.00)"
    ]
