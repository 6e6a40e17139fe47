"""How long work is shown: the core reports events, and this turns them into lines or a live display."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Reporter(Protocol):
    """What a stage reports to; `kind` says what happened, `facts` are plain values."""

    def event(self, kind: str, /, **facts: Any) -> None: ...


class Silent:
    """Reports nothing (`--json`, tests)."""

    def event(self, kind: str, /, **facts: Any) -> None:
        """Ignore an event."""


class ConsoleReporter:
    """One line an event; optimiser steps as a bar on a terminal, as a line every hundred steps elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.sites: list[dict[str, Any]] = []

    def event(self, kind: str, /, **facts: Any) -> None:
        """Show an event; kinds that are not known are shown as they are."""
        if kind == "step":
            self._step(**facts)
            return
        self.close()
        if kind == "site":
            self.sites.append(facts)
            return
        if self.sites:
            self.console.print(site_table(self.sites))
            self.sites = []
        line = LINES.get(kind, lambda **f: f"{kind}: " + ", ".join(f"{k} {v}" for k, v in f.items()))(**facts)
        if line:
            self.console.print(line, highlight=False)

    def _step(self, step: int, total: int, loss: float, **_: Any) -> None:
        if not self.console.is_terminal:
            if step % 100 == 0 or step == total:
                self.console.print(f"  step {step}/{total}, loss {loss:.4f}", highlight=False)
            return
        if self.bar is None:
            columns = (TextColumn("  training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.bar.add_task("training", total=total, loss=loss)
        self.bar.update(self.bar.task_ids[0], completed=step, loss=loss)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _cycle_start(index: int, round: int, sites: list[str], quantile: float, retry: bool, **_: Any) -> str:
    names = ", ".join(sites) if len(sites) <= 6 else f"{len(sites)} sites ({sites[0]} ... {sites[-1]})"
    return f"\n[bold]cycle {index}[/] (round {round}{', retry' if retry else ''}): {names}; quantile {quantile:g}"


def _cycle_end(**f: Any) -> str:
    verdict = "[green]accepted[/]" if f["accepted"] else "[yellow]rolled back[/]"
    return (
        f"  {verdict}: {f['parameters_before']:,} -> {f['parameters_after']:,} parameters, accuracy {f['accuracy_before']:.4f}"
        f" -> closed form {f['accuracy_closed_form']:.4f} -> {f['accuracy_after']:.4f} ({f['chosen'].replace('_', ' ')}"
        f"{', ' + f['reason'] if f['reason'] else ''})"
    )


LINES: dict[str, Any] = {
    "stage": lambda name, **_: f"[bold]{name}[/]",
    "note": lambda text, **_: f"  {text}",
    "validation": lambda step, accuracy, **_: f"  step {step}: validation accuracy {accuracy:.4f}",
    "cycle_start": _cycle_start,
    "cycle_end": _cycle_end,
    "stop": lambda rule, **_: f"\nstopped by: {rule.replace('_', ' ')}",
}


def site_table(sites: list[dict[str, Any]]) -> Table:
    """Return the table of a cycle's sites: d -> k, the edge, q."""
    table = Table(box=None, padding=(0, 2))
    for name, side in (("site", "left"), ("d", "right"), ("k", "right"), ("heads", "right"), ("lambda+", "right"), ("q", "right"), ("n", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for site in sites:
        table.add_row(
            site["name"], str(site["width_before"]), str(site["width_after"]), str(site.get("heads", 1)),
            f"{site['lambda_plus']:.4g}" if site.get("lambda_plus") is not None else "-", f"{site['q']:.4f}", str(site["n"]),
        )  # fmt: skip
    return table
