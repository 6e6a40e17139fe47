"""Several devices in one go: machines at the same time, profiles of one machine in turn, nothing lost to a failure."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from profile_run_sample import device_record, measurement

from rmtkd_edge.cli.tables import comparison_lines, profile_table
from rmtkd_edge.errors import Finding, RmtkdError, UserError
from rmtkd_edge.profile import several
from rmtkd_edge.profile.options import ProfileOptions
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.reporter import SilentReporter


class Watch:
    """Stands for profile_run: how many ran at a time, on which host."""

    def __init__(self, failing: dict[str, RmtkdError]) -> None:
        self.failing, self.most, self.now = failing, {}, {}  # type: ignore[var-annotated]
        self.together = 0
        self.lock = threading.Lock()

    def __call__(self, run: Any, options: ProfileOptions, reporter: Any) -> ProfileRecord:
        (profile,) = options.profiles()
        machine, name = profile.host, profile.name
        with self.lock:
            self.now[machine] = self.now.get(machine, 0) + 1
            self.most[machine] = max(self.most.get(machine, 0), self.now[machine])
            self.together = max(self.together, sum(self.now.values()))
        reporter.event("runner", text="at work")
        time.sleep(0.2)
        with self.lock:
            self.now[machine] -= 1
        if name in self.failing:
            raise self.failing[name]
        return device_record(profile=name)


@pytest.fixture
def profiles(tmp_path: Path) -> list[str]:
    """Return files of five profiles: two of this machine, two of one board, one of another."""
    files = []
    for number, host in enumerate([None, None, "pi", "pi", "jetson"]):
        lines = f'name = "d{number}"\ntitle = "D"\ntransport = "local"\ncomparable = false\nthreads = 1\n'
        lines += "" if host is None else f'host = "{host}"\n'
        file = tmp_path / f"d{number}.toml"
        file.write_text(lines + "[alignment]\ngemm = 1\nconv = 1\n")
        files.append(str(file))
    return files


def measured(monkeypatch: pytest.MonkeyPatch, profiles: list[str], failing: dict[str, RmtkdError] | None = None) -> Any:
    watch = Watch(failing or {})
    monkeypatch.setattr(several, "profile_run", watch)
    options = ProfileOptions(run=Path("run"), on=tuple(profiles))
    return watch, lambda: several.profile_several(None, options, SilentReporter())  # type: ignore[arg-type]


def test_machines_work_at_the_same_time_and_each_on_one_thing(
    monkeypatch: pytest.MonkeyPatch, profiles: list[str]
) -> None:
    watch, run = measured(monkeypatch, profiles)
    assert [record.profile for record in run()] == ["d0", "d1", "d2", "d3", "d4"]
    assert watch.most == {None: 1, "pi": 1, "jetson": 1}
    assert watch.together == 3


def test_a_device_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch, profiles: list[str]) -> None:
    failing: dict[str, RmtkdError] = {
        "d2": UserError("no answer", "try ssh pi"),
        "d4": Finding("differs"),
    }
    _, run = measured(monkeypatch, profiles, failing)
    with pytest.raises(UserError) as caught:
        run()
    assert "no answer" in caught.value.message
    assert "differs" in caught.value.message
    assert "measured and kept" in caught.value.message
    assert all(name in caught.value.message for name in ("d0", "d1", "d3"))
    assert "try ssh pi" in caught.value.hint


def test_findings_alone_are_a_finding(monkeypatch: pytest.MonkeyPatch, profiles: list[str]) -> None:
    _, run = measured(monkeypatch, profiles, {"d0": Finding("differs", "export again")})
    with pytest.raises(Finding, match="differs"):
        run()


def test_one_device_fails_with_its_own_error(monkeypatch: pytest.MonkeyPatch, profiles: list[str]) -> None:
    error = Finding("differs", "export again", [["a"], ["b"]])
    _, run = measured(monkeypatch, profiles[:1], {"d0": error})
    with pytest.raises(Finding) as caught:
        run()
    assert caught.value is error


def test_one_table_names_the_devices(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    pair = {"metric": "latency_ms", "candidate": "a", "baseline": "original fp32", "ratio": 0.5, "clear": False}
    pair |= {"workload": {"batch": 1}, "ci95": None, "n": 2, "rounds": 1}
    documents = [device_record(measurement(), profile=name, comparisons=[pair]) for name in ("pi", "jetson")]
    console = Console(width=160)
    console.print(profile_table(*documents))
    shown = capsys.readouterr().out
    assert "device" in shown
    assert "pi" in shown
    assert "jetson" in shown
    assert comparison_lines(documents[1], name=True)[0].startswith("jetson: a is 2.00 times")


def test_a_run_keeps_what_several_threads_write(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "x", 0)

    def write(number: int) -> None:
        run.write_json(f"profile/{number}.json", {"number": number})
        run.mark("profile", "running", **{f"device{number}": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    again = Run.open(tmp_path / "run")
    assert [again.read_json(f"profile/{n}.json")["number"] for n in range(40)] == list(range(40))
    assert {f"device{n}" for n in range(40)} <= set(again.stage("profile"))
