"""A meter outside the machine: the CSV file that its logger writes while the measurement runs.

The first line names the columns: `time_s` or `timestamp` (Unix seconds, or ISO 8601; local time where it has no zone)
and `power_w`, or `energy_j` as a counter, which comes first where both are there. Rows must be flushed one by one, and
the clocks of logger and machine must agree: the log ends a row or so before now, and every window of a measurement
begins and ends that much early. The period is the median distance of rows, at least 0.1 s, and a log that is more than
five of them late (or early) is stale and gives no figure. The file is named by `csv` under [power] of the profile.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from .base import Meter, MeterAbsent, Reading

LEAST_PERIOD_S, PATIENCE = 0.1, 5
TAIL_BYTES, FEWEST_ROWS = 1 << 16, 3
TIMES, POWER, ENERGY = ("time_s", "timestamp"), "power_w", "energy_j"
ISO = re.compile(r"^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+)?(?:(Z)|([+-])(\d\d):?(\d\d))?$")
WAYS_OUT = (
    'name the log by csv = "/absolute/path.csv" under [power] of the profile, and start its logger before measuring',
    "take another source: --meter auto takes what can be read here",
)


class Row(NamedTuple):
    """One line of the log: seconds, and watts or joules."""

    line: int
    seconds: float
    value: float


class Columns(NamedTuple):
    """Where a row has its time and its value; `counts` says that the value is energy."""

    time: int
    value: int
    width: int
    counts: bool


def parse_header(text: str) -> Columns:
    """Return the columns that the first line names; raises ValueError."""
    names = [name.strip().lower() for name in _fields(text.lstrip("\ufeff"))]
    times = [name for name in TIMES if name in names]
    values = [name for name in (ENERGY, POWER) if name in names]
    if not times or not values:
        raise ValueError(f"line 1: no columns time_s (or timestamp) and power_w (or energy_j) in {text.strip()[:80]!r}")
    return Columns(names.index(times[0]), names.index(values[0]), len(names), values[0] == ENERGY)


def parse_row(text: str, columns: Columns, line: int) -> Row:
    """Return the row of one line; raises ValueError that names the line."""
    try:
        fields = _fields(text)
        if len(fields) != columns.width:
            raise ValueError(f"{len(fields)} columns, the first line names {columns.width}")
        value = float(fields[columns.value])
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{value} is no power or energy")
        return Row(line, parse_time(fields[columns.time].strip()), value)
    except (ValueError, csv.Error) as err:
        raise ValueError(f"line {line}: {err}") from err


def parse_time(text: str) -> float:
    """Return Unix seconds of a number or of an ISO 8601 time; raises ValueError."""
    found = ISO.match(text)
    if not found:
        seconds = float(text)
        if not math.isfinite(seconds):
            raise ValueError(f"{text} is no time")
        return seconds
    moment = datetime.strptime(f"{found[1]} {found[2]}", "%Y-%m-%d %H:%M:%S")
    if found[4] or found[5]:
        away = timedelta(hours=int(found[6] or 0), minutes=int(found[7] or 0))
        moment = moment.replace(tzinfo=timezone(-away if found[5] == "-" else away))
    return moment.timestamp() + float(found[3] or 0)


def _fields(text: str) -> list[str]:
    return next(csv.reader([text]), [])


class Log:
    """A growing file, read on from its last 64 KiB; a last line without its end waits until it has one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            header = stream.readline()
            if not header.endswith(b"\n"):
                raise ValueError("line 1 has no end yet")
            self.columns = parse_header(header.decode("utf-8"))
            self._offset, self._line = stream.tell(), 1
            start = stream.seek(0, 2) - TAIL_BYTES
            if start > self._offset:
                stream.seek(self._offset)
                self._line += _count_lines(stream, start - self._offset)
                self._line += bool(stream.readline())  # begun before the tail
                self._offset = stream.tell()
        self._latest = -math.inf

    def new_rows(self) -> list[Row]:
        """Return the rows that are new since the last call; raises OSError, or ValueError that names the line."""
        with self.path.open("rb") as stream:
            if stream.seek(0, 2) < self._offset:
                raise ValueError(f"{self.path.name} became shorter: was the logger started again?")
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        rows = []
        for text in whole.split(b"\n")[:-1]:
            self._line += 1
            if not text.strip():
                continue
            row = parse_row(text.decode("utf-8", "replace").rstrip("\r"), self.columns, self._line)
            if row.seconds <= self._latest:
                raise ValueError(f"line {row.line}: its time is not after the line before")
            self._latest = row.seconds
            rows.append(row)
        return rows


def _count_lines(stream: Any, size: int) -> int:
    lines = 0
    while size > 0:
        data = stream.read(min(size, 1 << 20))
        lines, size = lines + data.count(b"\n"), size - max(1, len(data))
    return lines


class ExternalCsv(Meter):
    """Energy from the newest row at opening to the newest row now."""

    def __init__(self, log: Log, rows: list[Row], clock: Callable[[], float]) -> None:
        self._log, self._row, self._clock = log, rows[-1], clock
        apart = statistics.median(rows[i].seconds - rows[i - 1].seconds for i in range(1, len(rows)))
        self.period_s = max(LEAST_PERIOD_S, apart)
        self._joules, self._why = 0.0, ""
        self.provenance = "measured-counter" if log.columns.counts else "measured-sampled"
        self.name = f"external_csv:{ENERGY if log.columns.counts else POWER}"
        self.scope = f"what the external meter feeds ({log.path.name})"

    def stale(self) -> str:
        """Return why the newest row is not current, empty where it is."""
        late = self._clock() - self._row.seconds
        if abs(late) <= PATIENCE * self.period_s:
            return ""
        if late < 0:
            return f"the newest row (line {self._row.line}) is {-late:.1f} s in the future: synchronise the clocks"
        return f"stale: the newest row (line {self._row.line}) is {late:.1f} s old, rows come every {self.period_s:g} s"

    def read(self) -> Reading:
        """Return the energy up to the newest row; a stale log gives none now, a faulty one none any more."""
        try:
            for row in [] if self._why else self._log.new_rows():
                self._add(row)
        except (OSError, ValueError) as err:
            self._why = str(err)
        why = self._why or self.stale()
        if why:
            return Reading(None, "unavailable", self.name, self.scope, why)
        return Reading(self._joules, self.provenance, self.name, self.scope)

    def _add(self, row: Row) -> None:
        apart = row.seconds - self._row.seconds
        if self._log.columns.counts:
            if row.value < self._row.value:
                raise ValueError(f"line {row.line}: the counter fell from {self._row.value:g} to {row.value:g} J")
            self._joules += row.value - self._row.value
        elif apart > PATIENCE * self.period_s:  # the power in between is unknown
            raise ValueError(f"line {row.line}: the log has a gap of {apart:.1f} s before it")
        else:
            self._joules += apart * (row.value + self._row.value) / 2.0
        self._row = row


def open_meter(options: Mapping[str, Any]) -> Meter:
    """Return the meter; raise MeterAbsent where no log is named, or the log cannot be read or is not being written."""
    name = options.get("csv")
    if not name:
        raise MeterAbsent("no log of an external meter is named", WAYS_OUT)
    path = Path(str(name))
    if not path.is_absolute():
        raise MeterAbsent(f"{name} is not an absolute path, and the runner works in a folder of its own", WAYS_OUT)
    try:
        log = Log(path)
        rows = log.new_rows()
    except (OSError, ValueError) as err:
        raise MeterAbsent(f"{path}: {err}", WAYS_OUT) from err
    if len(rows) < FEWEST_ROWS:
        raise MeterAbsent(f"{path} has {len(rows)} rows, {FEWEST_ROWS} are needed: let the logger run on", WAYS_OUT)
    meter = ExternalCsv(log, rows, options.get("clock") or time.time)
    if meter.stale():
        raise MeterAbsent(f"{path}: {meter.stale()}", WAYS_OUT)
    return meter
