"""The closed form of layers that are run several times (ALBERT): one fit for all passes.

What a pass of the student reads depends on what is fitted. The teacher's projected states, which every norm is fitted
to, stand for it, and each pass is shown on some of the batches, so that all of them are as many tokens as one layer
otherwise sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rmtkd_edge.families.encoder.half_layers import Cut, Walk, fit_attention, fit_feed_forward
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.teacher_states import TeacherStates, padded


@dataclass
class Shown:
    """What a layer is fitted on: walks at its input, and the teacher's residual sums after both of its halves."""

    walks: list[Walk] = field(default_factory=list)
    attended: list[Tensor] = field(default_factory=list)
    fed: list[Tensor] = field(default_factory=list)


def repeated_layers(states: TeacherStates, student: Encoder, cut: Cut, walks: Sequence[Walk], untouched: bool) -> bool:
    """Fit every layer on all its passes, move the walks to the end, and return whether nothing has changed."""
    shown = [Shown() for _ in student.layers]
    inputs, sums = [walk.teacher for walk in walks], states.sums()
    for depth, wide in enumerate(states.teacher.in_order):
        attended, fed = next(sums), next(sums)
        run, i = divmod(depth, len(shown))
        for b in batches_of(run, student.spec.repeats, len(walks)):
            walk = walks[b]
            own = walk.student if depth == 0 else inputs[b] @ cut.stream.T
            weights = None if walk.weights is None else walk.weights[depth:]
            shown[i].walks.append(Walk(walk.mask, inputs[b], own, weights, walk.relative))
            shown[i].attended.append(attended[b])
            shown[i].fed.append(fed[b])
        inputs = [wide.norm2(total) for total in fed]
    untouched = untouched and not any(site.startswith("layer.") for site in cut.projections)
    if not untouched:
        for wide, narrow, seen in zip(states.teacher.layers, student.layers, shown, strict=True):
            fit_attention(wide, narrow, cut, seen.walks, seen.attended, 0)
            fit_feed_forward(wide, narrow, cut, seen.walks, seen.fed, 0)
    for walk, last in zip(walks, inputs, strict=True):
        state = padded(walk.student, walk.mask)
        for layer in student.in_order:
            state = layer(state, walk.mask, relative=walk.relative)
        walk.teacher, walk.student = last, state[walk.mask]
    return untouched


def batches_of(run: int, repeats: int, count: int) -> list[int]:
    """Return on which of the batches a pass is shown: every `repeats`-th one, and one at least."""
    return [*range(run, count, repeats)] or [run % count]
