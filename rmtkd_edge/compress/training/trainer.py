"""Train an encoder by cross-entropy or self-distillation, keep its best state, and continue after a kill.

Everything that the next step depends on (weights, optimiser moments, the loss scale of fp16, the best state so far) is
in one safetensors file a checkpoint; the order of the batches is a function of seed and epoch, dropout's masks one of
seed, step and process. So a run that is killed and started again takes the same steps as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rmtkd_edge.compress.training.distil import distillation_loss
from rmtkd_edge.compress.parallel import Batch, agreed, mixed_seed, own_rows, total
from rmtkd_edge.errors import TrainingError
from rmtkd_edge.families import ops
from rmtkd_edge.families.ops import Model


@dataclass(frozen=True)
class Schedule:
    """Optimisation of one training: AdamW, linear warm-up, linear decay to zero."""

    steps: int
    learning_rate: float
    weight_decay: float
    warmup: float
    max_grad_norm: float
    evaluate_every: int
    alpha: float = 1.0
    temperature: float = 1.0
    dropout: float = 0.0
    rate_key: str = "distil.learning_rate"


@dataclass(frozen=True)
class Trained:
    """What a training ended with; `accuracy` belongs to the best state, which the model then holds.

    `seconds` counts what killed processes have done of it too, up to their last checkpoint.
    """

    accuracy: float
    steps: int
    seconds: float = field(compare=False)
    history: list[tuple[int, float]]


class Checkpoints(Protocol):
    """Where a training keeps its state: `load` gives the newest or None, `save` replaces it."""

    def load(self) -> dict[str, Tensor] | None: ...
    def save(self, step: int, tensors: dict[str, Tensor]) -> None: ...


@torch.no_grad()
def accuracy(model: Model, batches: Iterable[Batch], accelerator: Any) -> float:
    """Return the share of right labels, in [0, 1]; every process looks at all rows, the first one's figure holds."""
    model.eval()
    hits = rows = 0
    for batch in batches:
        batch = {k: v.to(accelerator.device) for k, v in batch.items() if v is not None}
        logits = ops.logits(model, batch, model.inputs)
        hits += int((logits.argmax(-1) == batch["labels"]).sum())
        rows += len(logits)
    return agreed(hits / max(rows, 1), accelerator)


class OldLogits:
    """p_old's logits by row number: computed once a row, since the old model is frozen and has no dropout.

    With `fresh` they are computed every time, for rows that are augmented anew.
    """

    def __init__(self, old: Model | None, rows: int, classes: int, fresh: bool = False) -> None:
        self.old, self.fresh = None if old is None else old.eval(), fresh
        self.cache = torch.full((rows, classes), float("nan"))

    @torch.no_grad()
    def of(self, batch: Batch) -> Tensor | None:
        """Return the old model's logits (B, C) for a batch, or None where there is no old model."""
        if self.old is None:
            return None
        index = batch["index"].cpu()
        found = self.cache[index]
        if self.fresh or bool(found.isnan().any()):
            found = ops.logits(self.old, batch, self.old.inputs).float().cpu()
            self.cache[index] = found
        return found.to(batch["labels"].device)


def train(
    model: Model,
    old: OldLogits,
    epoch_batches: Callable[[int], Iterable[Batch]],
    validate: Callable[[Model], float],
    plan: Schedule,
    accelerator: Any,
    checkpoints: Checkpoints,
    seed: int,
    report: Callable[..., None],
) -> Trained:
    """Train `model` in place for `plan.steps` and leave it in its best state by `validate`.

    Raises TrainingError naming the step when the loss is not finite; the best state so far is in the checkpoint then.
    """
    start = time.monotonic()
    model.set_dropout(plan.dropout)
    optimizer = torch.optim.AdamW(_groups(model, plan.weight_decay), lr=plan.learning_rate, fused=True)
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    history: list[tuple[int, float]] = []
    done, before = 0, 0.0
    saved = checkpoints.load()
    if saved is not None:
        best, history, done, before = _restore(model, optimizer, saved, accelerator)
        report("note", text=f"continuing after step {done}")
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    # accelerate patches the model's forward to run in half precision; `_step` says so itself, all else is in float32
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    step, epoch = 0, 0
    while step < plan.steps:
        for batch in epoch_batches(epoch):
            if step >= plan.steps:
                break
            step += 1
            if step <= done:
                continue
            torch.manual_seed(mixed_seed(seed, step, accelerator.process_index))
            loss = _step(wrapped, model, optimizer, old, batch, plan, step, accelerator)
            if loss is not None:
                report("step", step=step, total=plan.steps, loss=loss)
            if step % plan.evaluate_every == 0 or step == plan.steps:
                score = validate(model)
                history.append((step, score))
                report("validation", step=step, accuracy=score)
                if score >= best[0]:
                    best = (score, {k: v.detach().clone() for k, v in model.state_dict().items()})
                if accelerator.is_main_process and step < plan.steps:
                    seconds = before + time.monotonic() - start
                    checkpoints.save(step, _snapshot(model, optimizer, best, history, step, seconds, accelerator))
        epoch += 1
    model.load_state_dict(best[1])
    accelerator.free_memory()  # it keeps every prepared model, and both of its moments
    return Trained(best[0], step, round(before + time.monotonic() - start, 2), history)


def _step(wrapped, model, optimizer, old, batch, plan, step, accelerator) -> float | None:
    """Take one optimiser step; return the loss every tenth step."""
    own = next(own_rows([batch], accelerator), None)
    if own is None:
        return None
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate * rate(step, plan.steps, plan.warmup)
    model.train()
    with accelerator.autocast():
        logits = ops.logits(wrapped, own, model.inputs)
    loss = distillation_loss(logits, old.of(own), own["labels"], plan.alpha, plan.temperature)
    if not math.isfinite(value := total(float(loss.detach()), accelerator)):
        raise TrainingError(
            f"the loss is {value} at step {step} of {plan.steps}",
            f"the checkpoint before it is kept; try a lower rate: --set {plan.rate_key}={plan.learning_rate / 3:.1g}",
        )
    optimizer.zero_grad()
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
    optimizer.step()
    return float(loss.detach()) if step % 10 == 0 or step == 1 else None


def rate(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the learning rate at a step (from 1): linear warm-up, then linear decay to zero."""
    rising = max(1.0, warmup * steps)
    return min(step / rising, max(0.0, (steps - step + 1) / max(1.0, steps - rising + 1)))


def _groups(model: Model, weight_decay: float) -> list[dict[str, Any]]:
    """No decay for biases and norms, as is usual for encoders."""
    named = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _snapshot(model, optimizer, best, history, step, seconds, accelerator) -> dict[str, Tensor]:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best[1].items()}
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        state = optimizer.state[p]
        if state:  # none yet where the loss scale of fp16 has skipped every step so far
            tensors[f"adam.{i}.first"], tensors[f"adam.{i}.second"] = state["exp_avg"], state["exp_avg_sq"]
            tensors[f"adam.{i}.step"] = state["step"]
    if accelerator.scaler is not None:
        tensors["loss_scale"] = torch.tensor(accelerator.scaler.get_scale(), dtype=torch.float64)
    tensors["step"] = torch.tensor(step)
    tensors["seconds"] = torch.tensor(seconds, dtype=torch.float64)
    tensors["best_accuracy"] = torch.tensor(best[0], dtype=torch.float64)
    tensors["history"] = torch.tensor(history, dtype=torch.float64).reshape(-1, 2)
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}


def _restore(model, optimizer, saved, accelerator):
    model.load_state_dict({k[6:]: v for k, v in saved.items() if k.startswith("model.")})
    step = int(saved["step"])
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        if f"adam.{i}.step" in saved:
            first, second = saved[f"adam.{i}.first"].to(p), saved[f"adam.{i}.second"].to(p)
            count = saved[f"adam.{i}.step"].to(p.device)  # the fused step keeps its counter beside the weights
            optimizer.state[p] = {"step": count, "exp_avg": first, "exp_avg_sq": second}
    if accelerator.scaler is not None and "loss_scale" in saved:
        accelerator.scaler.update(float(saved["loss_scale"]))
    best = (float(saved["best_accuracy"]), {k[5:]: v for k, v in saved.items() if k.startswith("best.")})
    history = [(int(a), b) for a, b in saved["history"].tolist()]
    return best, history, step, float(saved["seconds"])
