"""The optimisation of one training: AdamW, linear warm-up, linear decay to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rmtkd_edge.config.recipe import Distil, Train


@dataclass(frozen=True)
class Schedule:
    """How long a model is trained, and how.

    Attributes:
        evaluate_every: steps between validations, of which the best state is kept.
        rate_key: the recipe's key of the learning rate, for messages.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    warmup: float
    max_grad_norm: float
    evaluate_every: int
    dropout: float = 0.0
    rate_key: str = "distil.learning_rate"

    @staticmethod
    def of_teacher(options: Train, steps_per_epoch: int, dropout: float) -> Schedule:
        """Return the training of a teacher, which is validated after every epoch."""
        return Schedule(
            steps=options.epochs * steps_per_epoch,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            warmup=options.warmup,
            max_grad_norm=options.max_grad_norm,
            evaluate_every=steps_per_epoch,
            dropout=dropout,
            rate_key="train.learning_rate",
        )

    @staticmethod
    def of_cycle(options: Distil, steps_per_epoch: int) -> Schedule:
        """Return the fine-tuning of a cycle."""
        return Schedule(
            steps=options.steps or options.epochs * steps_per_epoch,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            warmup=options.warmup,
            max_grad_norm=options.max_grad_norm,
            evaluate_every=options.evaluate_every,
            dropout=options.dropout,
        )


def rate(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the learning rate at a step (from 1): linear warm-up, then linear decay to zero."""
    rising = max(1.0, warmup * steps)
    return min(step / rising, max(0.0, (steps - step + 1) / max(1.0, steps - rising + 1)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained parameters in two groups: biases and norms have no weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices: list[Tensor] = [p for p in trained if p.ndim > 1]
    vectors: list[Tensor] = [p for p in trained if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
