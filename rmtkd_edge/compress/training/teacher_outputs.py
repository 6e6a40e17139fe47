"""What the teacher shows of a batch: computed once a row, since it is frozen and has no dropout."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rmtkd_edge.families.base import Spec, call
from rmtkd_edge.methods.base import Seen
from rmtkd_edge.tasks.base import Batch

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model


def seen(model: Model, batch: Batch, taps: tuple[str, ...], spec: Spec) -> Seen:
    """Return a model's outputs for a batch and the activations at `taps`; `model` may wrap the one of `spec`."""
    if not taps:
        return Seen(call(model, batch, spec=spec))
    found: dict[str, Tensor] = {}

    def tap(name: str, x: Tensor) -> None:
        if name in taps:
            found[name] = x

    return Seen(call(model, batch, tap, spec=spec), found)


class TeacherOutputs:
    """A teacher's outputs by row number.

    They are computed every time, in the precision of the training, where rows are augmented (`fresh`) and where
    activations are asked for too; otherwise in float32, once unless they are of more than (B, C), or of every token,
    so that their shape depends on the batch.
    """

    def __init__(self, teacher: Model, rows: int, fresh: bool = False, taps: tuple[str, ...] = ()) -> None:
        self.teacher, self.taps = teacher.eval(), taps
        self.fresh = fresh or bool(taps)
        self.known = torch.zeros(rows, dtype=torch.bool)
        self.cache: Tensor | None = None

    @torch.no_grad()
    def of(self, batch: Batch) -> Seen:
        """Return what the teacher shows of a batch, outputs in float32, on the batch's device."""
        index = batch["index"].cpu()
        if not self.fresh and self.cache is not None and bool(self.known[index].all()):
            return Seen(self.cache[index].to(batch["index"].device))
        with nullcontext() if self.fresh else torch.autocast(batch["index"].device.type, enabled=False):
            found = seen(self.teacher, batch, self.taps, self.teacher.spec)
        outputs = found.outputs.float()
        if not self.fresh and outputs.ndim == 2 and outputs.shape[1] not in self._lengths(batch):
            if self.cache is None:
                self.cache = torch.zeros(len(self.known), outputs.shape[1])
            self.cache[index], self.known[index] = outputs.cpu(), True
        return Seen(outputs, found.taps)

    def _lengths(self, batch: Batch) -> set[int]:
        """Return the lengths of the batch's sequences."""
        inputs = (batch[item.name] for item in self.teacher.spec.inputs if item.name in batch)
        return {rows.shape[1] for rows in inputs if rows.ndim == 2}
