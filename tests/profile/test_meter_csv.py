"""The log of an external meter: what it adds up, what it refuses and names, stale logs, lines that are half written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import fake_machines as fake
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.profile.meters import external_csv
from rmtkd_edge.profile.meters.base import Meter, MeterAbsent

NOW = 1_800_000_000.0


def opened(path: Path, clock: fake.Clock) -> Meter:
    return external_csv.open_meter({"csv": str(path), "clock": clock})


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def refused(options: dict[str, Any]) -> str:
    with pytest.raises(MeterAbsent) as caught:
        external_csv.open_meter({"clock": fake.Clock(NOW), **options})
    return caught.value.why


def test_constant_power_from_opening_on(tmp_path: Path) -> None:
    path, clock = fake.log(tmp_path / "m.csv", NOW, watts=5.0), fake.Clock(NOW)
    meter = opened(path, clock)
    assert meter.period_s == pytest.approx(0.1)
    assert meter.read().joules == 0.0
    append(path, "".join(f"{NOW + i / 10:.1f},5.0\n" for i in range(1, 101)))
    clock.now += 10
    reading = meter.read()
    assert reading.joules == pytest.approx(50.0)
    assert reading.provenance == "measured-sampled"
    assert "m.csv" in reading.scope


def test_a_counter_of_energy_is_preferred_and_may_skip_rows(tmp_path: Path) -> None:
    path, clock = tmp_path / "m.csv", fake.Clock(NOW)
    rows = [f"{NOW - 3 + i},{7.0},{100 + i}\n" for i in range(4)]
    path.write_text("".join(["timestamp,power_w,energy_j\n", *rows]))
    meter = opened(path, clock)
    append(path, f"{NOW + 20},7.0,163.5\n")
    clock.now += 20
    reading = meter.read()
    assert reading.joules == pytest.approx(60.5)
    assert reading.provenance == "measured-counter"
    append(path, f"{NOW + 21},7.0,1.0\n")
    clock.now += 1
    assert "line 7: the counter fell" in meter.read().why


@pytest.mark.parametrize(
    "text",
    ["2027-01-15T08:00:00Z", "2027-01-15 08:00:00.000+00:00", "2027-01-15T09:30:00.0+0130", "1800000000", "1.8e9"],
)
def test_times_in_their_forms(text: str) -> None:
    assert external_csv.parse_time(text) == NOW


def test_a_time_without_zone_is_local() -> None:
    from datetime import datetime

    text = datetime.fromtimestamp(NOW).isoformat()
    assert external_csv.parse_time(text) == NOW


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "2027-13-01T00:00:00Z", "08:00:00"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        external_csv.parse_time(text)


def test_a_line_that_is_cut_off_waits_for_its_end(tmp_path: Path) -> None:
    path, clock = fake.log(tmp_path / "m.csv", NOW), fake.Clock(NOW)
    meter = opened(path, clock)
    append(path, f"{NOW + 0.1},5")  # of 50.0
    clock.now += 0.1
    assert meter.read().joules == 0.0
    append(path, f"0.0\n{NOW + 0.2},50.0\n")
    clock.now += 0.1
    assert meter.read().joules == pytest.approx(0.1 * (5 + 50) / 2 + 0.1 * 50)


def test_stale_is_unavailable_and_a_gap_is_never_filled(tmp_path: Path) -> None:
    path, clock = fake.log(tmp_path / "m.csv", NOW), fake.Clock(NOW)
    meter = opened(path, clock)
    clock.now += 0.4
    assert meter.read().joules == 0.0
    clock.now += 0.2
    assert "stale" in meter.read().why
    append(path, f"{NOW + 0.45},5\n")  # the logger was only late
    assert meter.read().joules == pytest.approx(0.45 * 5)
    append(path, f"{NOW + 60},5\n")
    clock.now = NOW + 60
    for _ in range(2):
        assert "line 23: the log has a gap of 59.5 s" in meter.read().why


def test_a_clock_that_is_ahead_is_no_reading(tmp_path: Path) -> None:
    path = fake.log(tmp_path / "m.csv", NOW + 30)
    assert "in the future" in refused({"csv": str(path)})


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    assert "no log" in refused({})
    assert "absolute" in refused({"csv": "m.csv"})
    assert "No such file" in refused({"csv": str(path)})
    for content, why in (
        ("", "line 1 has no end"),
        ("time_s,power_w", "line 1 has no end"),
        ("time,watts\n", "line 1: no columns"),
        ("time_s,power_w\n", "0 rows"),
        (f"time_s,power_w\n{NOW - 1},5\n{NOW},5\n", "2 rows"),
        (f"time_s,power_w\n{NOW - 1},5\n\n{NOW},five\n", "line 4: could not convert"),
    ):
        path.write_text(content)
        assert why in refused({"csv": str(path)})
    assert "stale" in refused({"csv": str(fake.log(path, NOW - 3600))})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("5\n", "1 columns"),
        (f"{NOW + 0.1},5,5\n", "3 columns"),
        (f"{NOW + 0.1},-5\n", "no power"),
        (f"{NOW + 0.1},nan\n", "no power"),
        (f"{NOW},5\n", "not after the line before"),
        (f"{NOW + 0.1},\x00\n", "line 22"),
    ],
)
def test_a_bad_row_is_named_and_ends_the_energy(tmp_path: Path, row: str, why: str) -> None:
    path, clock = fake.log(tmp_path / "m.csv", NOW), fake.Clock(NOW)
    meter = opened(path, clock)
    append(path, row + f"{NOW + 0.2},5\n")
    clock.now += 0.2
    for _ in range(2):
        reading = meter.read()
        assert reading.joules is None
        assert why in reading.why
        assert "line 22" in reading.why


def test_a_log_that_began_anew_is_no_reading(tmp_path: Path) -> None:
    path, clock = fake.log(tmp_path / "m.csv", NOW), fake.Clock(NOW)
    meter = opened(path, clock)
    path.write_text("time_s,power_w\n")
    assert "shorter" in meter.read().why


@pytest.mark.parametrize("rows", [100, 3000, 30000])
def test_of_a_long_log_only_the_end_is_read_and_lines_keep_their_numbers(tmp_path: Path, rows: int) -> None:
    path, clock = fake.log(tmp_path / "m.csv", NOW, rows=rows), fake.Clock(NOW)
    meter = opened(path, clock)
    append(path, "nonsense\n")
    assert f"line {rows + 2}:" in meter.read().why


steps = st.lists(st.tuples(st.floats(0.02, 0.4), st.floats(0, 300)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(steps, st.lists(st.integers(1, 60), min_size=1, max_size=20), st.sampled_from(["\n", "\r\n"]))
def test_the_energy_is_the_area_however_the_file_grows(
    samples: list[tuple[float, float]], chunks: list[int], end: str
) -> None:
    clock, now, watts, true, text = fake.Clock(NOW), NOW, 5.0, 0.0, ""
    for seconds, power in samples:
        after = round(now + seconds, 3)
        true, now, watts = true + (after - now) * (watts + power) / 2, after, power
        text += f"{after:.3f},{power!r}{end}"
    with tempfile.TemporaryDirectory() as folder:
        path = fake.log(Path(folder) / "m.csv", NOW)
        meter = opened(path, clock)
        clock.now, joules, data, i = now, [], text.encode(), 0
        while data:
            size, i = chunks[i % len(chunks)], i + 1
            with path.open("ab") as stream:
                stream.write(data[:size])
            data = data[size:]
            joules.append(meter.read().joules)
        known = [value for value in joules if value is not None]  # None: the rest of the log is still to come
        assert known == sorted(known)
        assert joules[-1] == pytest.approx(true, rel=1e-6, abs=1e-6)


@given(st.text())
def test_any_row_is_parsed_or_named(text: str) -> None:
    columns = external_csv.parse_header("time_s,power_w\n")
    try:
        row = external_csv.parse_row(text, columns, 7)
    except ValueError as err:
        assert str(err).startswith("line 7: ")
    else:
        assert row.value >= 0
