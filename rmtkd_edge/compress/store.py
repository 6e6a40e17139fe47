"""The loop's store in a run directory: compress/cycles/NNN/."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rmtkd_edge.families.ops import Model, unfold
from rmtkd_edge.families.store import load_model, save_model
from rmtkd_edge.run.directory import Run


class RunStore:
    """Reads and writes the finished steps of cycles; a second run of the same command finds them here."""

    def __init__(self, run: Run, root: str = "compress/cycles") -> None:
        self.run, self.root = run, root

    def folder(self, number: int) -> str:
        """Return the folder of a cycle, relative to the run."""
        return f"{self.root}/{number:03d}"

    def get_record(self, number: int) -> dict[str, Any] | None:
        """Return the record of a finished cycle."""
        return self._json(f"{self.folder(number)}/cycle.json")

    def put_record(self, number: int, record: dict[str, Any]) -> None:
        """Write the record of a finished cycle; what only its resuming needed is removed."""
        self.run.write_json(f"{self.folder(number)}/cycle.json", record)
        for name in ("closed_form", "training-0", "training-1"):
            self.run.remove(f"{self.folder(number)}/{name}")

    def get_plan(self, number: int) -> dict[str, Any] | None:
        """Return the ranks of a cycle whose analysis is done."""
        return self._json(f"{self.folder(number)}/plan.json")

    def put_plan(self, number: int, plan: dict[str, Any], spectra: dict[str, Tensor]) -> None:
        """Write the ranks and the eigenvalues of a cycle; it is written last, after the closed form's model."""
        self.run.write_tensors(f"{self.folder(number)}/spectra.safetensors", spectra)
        self.run.write_json(f"{self.folder(number)}/plan.json", plan)

    def get_model(self, number: int, name: str) -> tuple[Model, dict[str, Tensor]] | None:
        """Return a folded encoder and its projections by site, or None where they have not been written."""
        rel = f"{self.folder(number)}/{name}"
        if not (self.run.has(f"{rel}/model.json") and self.run.has(f"{rel}/projections.safetensors")):
            return None
        return load_model(self.run, rel), self.run.read_tensors(f"{rel}/projections.safetensors")

    def put_model(self, number: int, name: str, folded: Model, projections: dict[str, Tensor]) -> None:
        """Write a folded encoder and its projections by site."""
        rel = f"{self.folder(number)}/{name}"
        save_model(self.run, rel, folded)
        self.run.write_tensors(f"{rel}/projections.safetensors", projections)

    def put_best(self, rel: str, folded: Model, projections: dict[str, Tensor], **facts: Any) -> None:
        """Write a model with its fixed projection layers standing behind its producers."""
        save_model(self.run, rel, unfold(folded.cpu(), projections), **facts)

    def get_order(self) -> list[dict[str, Any]] | None:
        """Return the prices of all sites, in the order in which they are cut."""
        found = self._json("compress/prices.json")
        return None if found is None else found["sites"]

    def put_order(self, prices: list[dict[str, Any]]) -> None:
        """Write the prices of all sites: a run that goes on keeps their order."""
        self.run.write_json("compress/prices.json", {"sites": prices})

    def checkpoints(self, number: int, attempt: int) -> RunCheckpoints:
        """Return where a cycle's fine-tuning keeps its state."""
        return RunCheckpoints(self.run, f"{self.folder(number)}/training-{attempt}")

    def _json(self, rel: str) -> dict[str, Any] | None:
        return self.run.read_json(rel) if self.run.has(rel) else None


class RunCheckpoints:
    """Numbered checkpoints of one training; the newest is whole before the one before it goes."""

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
