"""What the teacher computes on the calibration tokens: the target of every half layer of a student."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rmtkd_edge.families.encoder.module import Encoder, EncoderLayer

Batch = Mapping[str, Tensor]


class TeacherStates:
    """The residual sums in front of every norm of a folded encoder, half layer by half layer.

    Args:
        keep: hold them (tokens x width x two a layer, in the dtype of the weights) once they are computed, for the
            next student; otherwise only the present half layer is held.
        precision: with `bf16` the layers run in mixed precision. Targets that are rounded at random leave the least
            squares of thousands of tokens where they are.
    """

    def __init__(
        self, teacher: Encoder, batches: Iterable[Batch], *, keep: bool = False, precision: str = "no"
    ) -> None:
        self.teacher = teacher.eval()
        self.batches: Sequence[Batch] = list(batches)
        self._keep, self._mixed = keep, precision == "bf16"
        self._first: list[Tensor] | None = None
        self._sums: list[list[Tensor]] = []

    @torch.no_grad()
    def first(self) -> list[Tensor]:
        """Return the first state of the stream: the valid tokens (n, d) of every batch."""
        if self._first is None:
            found = [state[mask] for state, mask in self._embedded()]
            if not self._keep:
                return found
            self._first = found
        return self._first

    def sums(self) -> Iterator[list[Tensor]]:
        """Yield the residual sums after attention and after the FFN of every layer in turn.

        Each is the valid tokens (n, d) of every batch, before the layer's norm.
        """
        if len(self._sums) == 2 * self.teacher.spec.depth:
            yield from self._sums
            return
        self._sums = []
        for found in self._computed():
            if self._keep:
                self._sums.append(found)
            yield found

    def _passes(self) -> torch.autocast:
        device = next(self.teacher.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self._mixed)

    def _embedded(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            state = self.teacher.embeddings(batch["input_ids"], batch.get("token_type_ids"))
            yield state, batch["attention_mask"].bool()

    @torch.no_grad()
    def _computed(self) -> Iterator[list[Tensor]]:
        states, masks = (list(part) for part in zip(*self._embedded(), strict=True))
        relative = [self.teacher.distances(batch["input_ids"]) for batch in self.batches]
        for layer in self.teacher.in_order:
            with self._passes():
                sums = [attended(layer, *each) for each in zip(states, masks, relative, strict=True)]
            yield [total[mask] for total, mask in zip(sums, masks, strict=True)]
            states = [layer.norm1(total) for total in sums]
            with self._passes():
                sums = [state + layer.down(layer.activation(layer.up(state))) for state in states]
            yield [total[mask] for total, mask in zip(sums, masks, strict=True)]
            states = [layer.norm2(total) for total in sums]


def attended(layer: EncoderLayer, state: Tensor, mask: Tensor, relative: Tensor | None) -> Tensor:
    """Return a state (B, T, d) plus what a layer's attention adds to it."""
    return state + layer.out(layer.attend(state, mask, relative))


def padded(rows: Tensor, mask: Tensor) -> Tensor:
    """Return the valid tokens (n, d) in their places of (B, T, d), zero where the mask (B, T) is false."""
    out = rows.new_zeros(*mask.shape, rows.shape[-1])
    out[mask] = rows
    return out
