"""The loop that starts cells, in order, as soon as what they need is done, until nothing is left or time is up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from grid.cells import Cell, Where, needs
from grid.engines import Engine, Task
from grid.order import order_of
from grid.state import BEGUN, FAILURE, FINISHED, OPEN, RUNNING, State, state_of
from grid.worker import IN_USE, INTERRUPTED

TOOL = Path(__file__).resolve().parents[1] / "reproduce.py"


@dataclass
class Session:
    """What one command has to do, and what became of it.

    Attributes:
        end: seconds since the epoch at which everything has stopped.
        ending: seconds before that at which cells are interrupted; after a half of them, they are killed.
        retry: whether cells that failed before run again.
        states: last known state of every cell.
        barred: cells that this command does not start again, with the reason.
    """

    cells: Sequence[Cell]
    where: Where
    engine: Engine
    jobs: int = 1
    threads: int = 1
    end: float | None = None
    ending: float = 30.0
    retry: bool = False
    poll_s: float = 1.0
    say: Callable[[str], None] = print
    states: dict[Cell, State] = field(default_factory=dict)
    barred: dict[Cell, str] = field(default_factory=dict)
    running: dict[Cell, Task] = field(default_factory=dict)

    def run(self) -> int:
        """Run the cells; return 0 where all are done or only time is missing, 1 where one failed."""
        self.look()
        try:
            while True:
                self.reap()
                self.start()
                if not self.running and not self.is_waited_for():
                    break
                time.sleep(self.poll_s)
        finally:
            for task in self.running.values():
                task.stop()
        return 1 if self.failures() else 0

    def look(self) -> None:
        """Read the states of all cells that are not known to be done."""
        for cell in self.cells:
            if self.states.get(cell, State(OPEN)).name != FINISHED:
                self.states[cell] = state_of(cell, self.where)

    def reap(self) -> None:
        """Take note of processes that have ended, and kill what is still there when time is up."""
        for cell, task in list(self.running.items()):
            if self.left() < self.ending / 2 and not task.done():
                task.stop()
            if task.done():
                del self.running[cell]
                self.states[cell] = state_of(cell, self.where)
                self.judge(cell, task.result())

    def judge(self, cell: Cell, code: int) -> None:
        """Say what became of a cell, and bar it where it would only fail again."""
        state = self.states[cell]
        if state.name == FINISHED:
            self.say(f"done    {cell.id}")
        elif code == IN_USE:
            return
        elif code == INTERRUPTED or self.left() < self.ending:
            self.say(f"stopped {cell.id}: the same command goes on with it")
        elif state.name == FAILURE:
            self.barred[cell] = state.reason
            self.say(f"FAILED  {cell.id}: {state.reason}")
        else:
            self.barred[cell] = f"its process ended with code {code}; the next command goes on with it"
            self.say(f"KILLED  {cell.id}: {self.barred[cell]}")

    def start(self) -> None:
        """Start what is ready, as far as there is room and time."""
        if len(self.running) >= self.jobs or self.left() < 2 * self.ending:
            return
        self.look()
        for cell in self.cells:
            if len(self.running) >= self.jobs:
                return
            if self.is_ready(cell):
                self.say(f"start   {cell.id}")
                until = None if self.end is None else self.end - self.ending
                order = replace(order_of(cell, self.where), until=until, threads=self.threads)
                self.running[cell] = self.engine.submit([sys.executable, str(TOOL), "--order", order.to_json()])

    def is_ready(self, cell: Cell) -> bool:
        """Return whether a cell can be started now."""
        if cell in self.running or cell in self.barred:
            return False
        name = self.states[cell].name
        startable = name in (OPEN, BEGUN) or (name == FAILURE and self.retry)
        return startable and all(self.states[first].name == FINISHED for first in needs(cell, self.where))

    def is_waited_for(self) -> bool:
        """Return whether a process of another command runs what these cells wait for, and there is time to wait."""
        if self.left() < 2 * self.ending:
            return False
        return any(state.name == RUNNING for state in self.states.values()) or any(map(self.is_ready, self.cells))

    def left(self) -> float:
        """Return the seconds that are left."""
        return float("inf") if self.end is None else self.end - time.time()

    def failures(self) -> dict[Cell, str]:
        """Return the cells that failed, with the reason."""
        found = {cell: state.reason for cell, state in self.states.items() if state.name == FAILURE}
        return {**found, **self.barred}
