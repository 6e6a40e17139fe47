"""The state of a training as one file: weights, optimiser moments, fp16's loss scale, and the best state so far."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from rmtkd_edge.run.records.scores import Scores

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rmtkd_edge.families.model import Model

FACTS = "facts"  # the tensor that holds JSON as bytes


class Checkpoints(Protocol):
    """Where a training keeps its state: `load` gives the newest or None, `save` replaces it."""

    def load(self) -> dict[str, Tensor] | None: ...
    def save(self, step: int, tensors: dict[str, Tensor]) -> None: ...


class NoCheckpoints:
    """Keeps nothing: a training that was killed starts again."""

    def load(self) -> None:
        """Return None."""

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Drop the state."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        best, weights: scores and state of the best model so far, None and empty before the first validation.
        history: (step, primary metric) of every validation.
        seconds: spent up to the last checkpoint, in processes that were killed too.
    """

    step: int = 0
    best: Scores | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0

    def take(self, step: int, scores: Scores, model: Model) -> None:
        """Note a validation; a model at least as good as the best one takes its place."""
        self.history.append((step, scores.value))
        if self.best is None or scores.value >= self.best.value:
            self.best = scores
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}


def snapshot(
    trained: nn.ModuleDict, optimizer: torch.optim.Optimizer, progress: Progress, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Return all that the next step depends on, on the CPU; `trained` holds the model and the objective's helper."""
    tensors = dict(trained.state_dict())
    tensors |= {f"best.{name}": value for name, value in progress.weights.items()}
    for i, p in enumerate(_parameters(optimizer)):
        state = optimizer.state[p]
        if state:  # none yet where the loss scale of fp16 has skipped every step so far
            tensors[f"adam.{i}.first"], tensors[f"adam.{i}.second"] = state["exp_avg"], state["exp_avg_sq"]
            tensors[f"adam.{i}.step"] = state["step"]
    if accelerator.scaler is not None:
        tensors["loss_scale"] = torch.tensor(accelerator.scaler.get_scale(), dtype=torch.float64)
    facts = {
        "step": progress.step,
        "seconds": progress.seconds,
        "history": progress.history,
        "best": None if progress.best is None else asdict(progress.best),
    }
    tensors[FACTS] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def restore(
    trained: nn.ModuleDict, optimizer: torch.optim.Optimizer, saved: dict[str, Tensor], accelerator: Accelerator
) -> Progress:
    """Set models and optimiser to what `snapshot` kept, and return how far the training is."""
    trained.load_state_dict({name: value for name, value in saved.items() if name.split(".")[0] in trained})
    for i, p in enumerate(_parameters(optimizer)):
        if f"adam.{i}.step" in saved:
            optimizer.state[p] = {
                "step": saved[f"adam.{i}.step"].to(p.device),  # the fused step keeps its counter next to the weights
                "exp_avg": saved[f"adam.{i}.first"].to(p),
                "exp_avg_sq": saved[f"adam.{i}.second"].to(p),
            }
    if accelerator.scaler is not None and "loss_scale" in saved:
        accelerator.scaler.update(float(saved["loss_scale"]))
    facts = json.loads(bytes(saved[FACTS].tolist()))
    best = None if facts["best"] is None else Scores(**facts["best"])
    history = [(step, value) for step, value in facts["history"]]
    return Progress(facts["step"], best, _under("best.", saved), history, facts["seconds"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
