"""A loop's store in a run directory: compress/cycles/NNN/."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from rmtkd_edge.families.store import load_model, save_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.base import Document
from rmtkd_edge.run.records.cycle import CycleRecord, PlanRecord
from rmtkd_edge.run.records.prices import PricesRecord
from rmtkd_edge.run.records.trials import TrialsRecord

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

D = TypeVar("D", bound=Document)


class RunStore:
    """Reads and writes the finished steps of cycles; a second run of the same command finds them here."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def get_record(self, number: int) -> CycleRecord | None:
        """Return the record of a finished cycle."""
        record = self._record(CycleRecord, layout.cycle_record(number))
        if record is not None:
            self._finish(number)  # a process may have been killed between the two
        return record

    def put_record(self, number: int, record: CycleRecord) -> None:
        """Write the record of a finished cycle; what only its resuming needed is removed."""
        self.run.write_record(layout.cycle_record(number), record)
        self._finish(number)

    def _finish(self, number: int) -> None:
        self.run.remove(f"{layout.cycle_folder(number)}/closed_form")
        for attempt in range(2):
            self.run.remove(layout.cycle_training(number, attempt))

    def get_plan(self, number: int) -> PlanRecord | None:
        """Return the ranks of a cycle whose analysis is done."""
        return self._record(PlanRecord, layout.cycle_plan(number))

    def put_plan(self, number: int, plan: PlanRecord, spectra: dict[str, Tensor]) -> None:
        """Write the ranks and the eigenvalues of a cycle; the plan comes last, after the closed form's model."""
        self.run.write_tensors(layout.cycle_spectra(number), spectra)
        self.run.write_record(layout.cycle_plan(number), plan)

    def get_trials(self, number: int) -> TrialsRecord | None:
        """Return the widths that a cycle's allocation has compared so far."""
        return self._record(TrialsRecord, layout.cycle_trials(number))

    def put_trials(self, number: int, trials: TrialsRecord) -> None:
        """Write the widths that a cycle's allocation has compared so far: a continued run does not try them again."""
        self.run.write_record(layout.cycle_trials(number), trials)

    def get_model(self, number: int, name: str) -> tuple[Model, dict[str, Tensor]] | None:
        """Return a folded model and its projections by site, or None where they have not been written."""
        rel = f"{layout.cycle_folder(number)}/{name}"
        projections = f"{rel}/{layout.PROJECTIONS}"
        if not (self.run.has(f"{rel}/{layout.SHAPE}") and self.run.has(projections)):
            return None
        return load_model(self.run, rel), self.run.read_tensors(projections)

    def put_model(self, number: int, name: str, folded: Model, projections: dict[str, Tensor]) -> None:
        """Write a folded model and its projections by site."""
        rel = f"{layout.cycle_folder(number)}/{name}"
        save_model(self.run, rel, folded)
        self.run.write_tensors(f"{rel}/{layout.PROJECTIONS}", projections)

    def get_prices(self) -> PricesRecord | None:
        """Return the prices of all sites, in the order in which they are cut."""
        return self._record(PricesRecord, layout.PRICES)

    def put_prices(self, prices: PricesRecord) -> None:
        """Write the prices of all sites: a continued run keeps their order."""
        self.run.write_record(layout.PRICES, prices)

    def checkpoints(self, number: int, attempt: int) -> RunCheckpoints:
        """Return where a cycle's fine-tuning keeps its state."""
        return RunCheckpoints(self.run, layout.cycle_training(number, attempt))

    def _record(self, cls: type[D], rel: str) -> D | None:
        return self.run.read_record(cls, rel) if self.run.has(rel) else None


class RunCheckpoints:
    """Numbered checkpoints of one training; the newest is complete before the previous one is removed."""

    def __init__(self, run: Run, rel: str) -> None:
        self.run, self.rel = run, rel

    def _names(self) -> list[str]:
        return sorted(name for name in self.run.manifest["files"] if name.startswith(f"{self.rel}/"))

    def load(self) -> dict[str, Tensor] | None:
        """Return the newest checkpoint, or None."""
        names = self._names()
        return self.run.read_tensors(names[-1]) if names else None

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write the checkpoint of a step and remove the older ones."""
        older = self._names()
        self.run.write_tensors(f"{self.rel}/{step:07d}.safetensors", tensors)
        for name in older:
            if not name.endswith(f"{step:07d}.safetensors"):
                self.run.remove(name)
