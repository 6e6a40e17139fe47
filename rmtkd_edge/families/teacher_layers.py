"""What a teacher's layers give on the calibration images, where its students are fitted on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic

import torch
from torch import Tensor

from rmtkd_edge.families.base import M
from rmtkd_edge.families.map_sample import MapSample

LayerOutputs = Iterator[list[MapSample]]


class TeacherLayers(Generic[M]):
    """The outputs of a folded net, layer by layer and batch by batch.

    Attributes:
        images: (B, 3, H, W) of every batch.

    Args:
        compute: yields a net's outputs for images and a seed that picks the places: those of each layer's own, wide
            fit, of which the first are enough for a narrow one.
        keep: hold the outputs, once they are computed, for the next student.
    """

    def __init__(
        self,
        teacher: M,
        batches: Iterable[Mapping[str, Tensor]],
        compute: Callable[[M, Sequence[Tensor], int], LayerOutputs],
        *,
        seed: int,
        keep: bool = False,
    ) -> None:
        self.teacher = teacher.eval()
        self.images = [batch["pixel_values"].to(next(teacher.parameters())) for batch in batches]
        self._compute, self._seed, self._keep = compute, seed, keep
        self._kept: list[list[MapSample]] | None = None

    @torch.no_grad()
    def outputs(self) -> LayerOutputs:
        """Return what each layer gives in turn."""
        if not self._keep:
            return self._compute(self.teacher, self.images, self._seed)
        if self._kept is None:
            self._kept = list(self._compute(self.teacher, self.images, self._seed))
        return iter(self._kept)
