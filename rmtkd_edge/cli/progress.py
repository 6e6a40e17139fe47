"""How the events of a stage (run/reporter.py) look: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

PLAIN_STEP_S = 15.0  # seconds between two lines about steps where there is no terminal


class ConsoleReporter:
    """Shows events on a console (standard error, so that standard output holds results alone); a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}  # by device: several may be measured at a time
        self._said: dict[str, float] = {}

    def __enter__(self) -> ConsoleReporter:
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def event(self, kind: str, **facts: Any) -> None:
        """Show an event."""
        if kind == "step":
            self._count(f"loss {facts['loss']:.3f}", facts["step"], facts["total"])
            return
        if kind == "trial":
            self._count("closed forms compared", facts["done"], facts["total"])
            return
        if kind in ("runner", "reading") and "total" in facts:
            self._count(str(facts.get("text", "")), facts.get("done", 0), facts["total"], str(facts.get("device", "")))
            return
        if self._bar is not None and kind in ("stage", "cycle_start", "cycle_end", "stop"):
            for task in self._tasks.values():
                self._bar.remove_task(task)
            self._tasks = {}
        line = line_of(kind, facts)
        if line:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _count(self, text: str, done: int, total: int | None, device: str = "") -> None:
        if self._bar is not None:
            if device not in self._tasks:
                self._tasks[device] = self._bar.add_task(text, total=total)
            self._bar.update(self._tasks[device], completed=done, total=total, description=text)
        elif time.monotonic() - self._said.get(device, 0.0) > PLAIN_STEP_S or done == total:
            self._said[device] = time.monotonic()
            count = f"{done:,}" if total is None else f"{done}/{total}"
            self.console.print(f"  {count} {text}", markup=False, highlight=False, soft_wrap=True)


def line_of(kind: str, facts: dict[str, Any]) -> str:
    """Return the line for an event; empty where it is shown in another way."""
    writer = _LINES.get(kind)
    if writer is not None:
        return writer(facts)
    rest = ", ".join(f"{name} {value}" for name, value in facts.items())
    return f"{kind}: {rest}" if rest else kind


def _cycle_start(facts: dict[str, Any]) -> str:
    sites = facts.get("sites", [])
    shown = ", ".join(sites[:4]) + (f" and {len(sites) - 4} more" if len(sites) > 4 else "")
    return f"cycle {facts['index']}: {shown}"


def _site(facts: dict[str, Any]) -> str:
    edge = facts.get("lambda_plus")
    law = (
        "" if edge is None else f"  lambda+ {edge:.3g}, q {facts.get('q', float('nan')):.3g}, rank {facts.get('rank')}"
    )
    return f"  {facts['name']:<20} {facts['width_before']:>5} -> {facts['width_after'] or 'left out':<5}{law}"


def _cycle_end(facts: dict[str, Any]) -> str:
    verdict = "accepted" if facts.get("accepted") else f"rolled back: {facts.get('reason') or facts['metric']}"
    return (
        f"  {facts['parameters_before']:,} -> {facts['parameters_after']:,} parameters, {facts['metric']} "
        f"{facts['before']:.4f} -> {facts['after']:.4f}, {verdict}"
    )


def _variant(facts: dict[str, Any]) -> str:
    size = f"{facts['size_bytes'] / 1e6:.1f} MB, {facts['metric']} {facts['value']:.4f}"
    refused = f", refused: {facts['refused']}" if facts.get("refused") else ""
    return f"  {facts['folder']} {facts['precision']}: {size}{refused}"


_LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "stage": lambda f: f"== {f['name']}",
    "validation": lambda f: f"  step {f['step']}: {f['metric']} {f['value']:.4f}",
    "cycle_start": _cycle_start,
    "site": _site,
    "cycle_end": _cycle_end,
    "stop": lambda f: f"stopped by: {str(f['rule']).replace('_', ' ')}",
    "verified": lambda f: f"  {f['folder']}: {str(f['what']).replace('_', ' ')} agrees to {f['relative']:.1e}",
    "variant": _variant,
    "reading": lambda f: f"  {f['text']}",
    "data": lambda f: f"  {f['text']}",
    "note": lambda f: f"  note: {f['text']}",
    "runner": lambda f: f"  {f.get('text', '')}".rstrip(),
}
